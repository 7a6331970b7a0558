//! Fail points: named places at which tests have a process end as SIGKILL would end it.
//!
//! They are in builds of tests alone, by the feature `fail-points`: elsewhere nothing of them is left. A place is named where being killed
//! there could matter most: between two things that have to be durable together, or one before the other.

/// `NAME:N`: the process ends when it comes to the place of that name for the N-th time.
#[cfg(feature = "fail-points")]
const VARIABLE: &str = "SYNC_ENGINE_FAIL_POINT";

/// A place at which tests may have the process end. What the environment says is read once.
#[cfg(feature = "fail-points")]
pub fn fail_point(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static CHOSEN: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (name, times) = text.split_once(':')?;
        Some((name.to_owned(), AtomicU64::new(times.parse().ok()?)))
    });
    if let Some((chosen, left)) = &*CHOSEN
        && chosen == name
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        // No destructor runs and no thread goes on.
        std::process::abort();
    }
}

/// A place at which tests may have the process end; here it does nothing.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn fail_point(_name: &str) {}
