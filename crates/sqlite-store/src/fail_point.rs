//! Fail points: named places at which tests have a process end as SIGKILL would end it, or a thread of it stand still.
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

/// `NAME=PATH`: threads that come to the hang point of that name stand still there for as long as there is a file of that path.
#[cfg(feature = "fail-points")]
const HANG_VARIABLE: &str = "SYNC_ENGINE_HANG_POINT";

/// A place at which tests may have the thread stand still. What the environment says is read once.
#[cfg(feature = "fail-points")]
pub fn hang_point(name: &str) {
    use std::sync::LazyLock;

    static CHOSEN: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(HANG_VARIABLE).ok());
    let Some((chosen, file)) = CHOSEN.as_ref().and_then(|text| text.split_once('=')) else { return };
    while chosen == name && std::path::Path::new(file).exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A place at which tests may have the thread stand still; here it does nothing.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn hang_point(_name: &str) {}

/// A place at which tests may have the process end; here it does nothing.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn fail_point(_name: &str) {}
