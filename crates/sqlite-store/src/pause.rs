//! Short pauses that are as short as they are meant to be.

/// How much later than asked this thread may be woken, in nanoseconds.
#[cfg(target_os = "linux")]
const SLACK: u64 = 1_000;

/// From now on the pauses of this thread end when they are to. Linux adds 50 µs to each otherwise, which is as long as those between an
/// event and the looks that follow it.
pub(crate) fn keep_short() {
    #[cfg(target_os = "linux")]
    {
        // Where it is refused, commits are found some microseconds later.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(SLACK));
    }
}
