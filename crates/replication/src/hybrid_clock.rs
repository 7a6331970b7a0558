//! The hybrid logical clock: stamps that follow wall time and never contradict causality.
//!
//! Kulkarni, Demirbas, Madappa, Avva, Leone: "Logical Physical Clocks" (2014), with the physical part cut to
//! milliseconds so that a stamp is one 64-bit integer that SQL can sort.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bits of a stamp that count events within one millisecond.
const COUNTER_BITS: u32 = 16;

/// 48 bits of milliseconds since 1970 (UTC) and 16 bits of counter in one integer that is never negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The stamp of rows that no change since attach has touched.
    pub const BASELINE: Self = Self(0);

    /// The largest wall time that a stamp can hold, in milliseconds since 1970.
    pub const MAX_MILLIS: i64 = (1 << 47) - 1;

    /// The stamp that an integer from a database or a peer stands for; a negative one is no stamp.
    pub const fn from_raw(raw: i64) -> Option<Self> {
        if raw < 0 { None } else { Some(Self(raw)) }
    }

    /// The first stamp of a millisecond since 1970; times outside of what a stamp can hold are clamped.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(0, Self::MAX_MILLIS) << COUNTER_BITS)
    }

    /// The stamp as an integer, ordered as stamps are.
    pub const fn raw(self) -> i64 {
        self.0
    }

    /// The wall time part, in milliseconds since 1970.
    pub const fn millis(self) -> i64 {
        self.0 >> COUNTER_BITS
    }

    /// The next larger stamp.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.millis(), self.0 & ((1 << COUNTER_BITS) - 1))
    }
}

/// The clock of one database. It holds the last stamp that was given or seen; `now` is always an argument.
///
/// Invariant: a stamp that it gives is larger than every stamp it gave or observed before, so a change always carries a
/// larger stamp than every change its writer knew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HybridClock {
    last: Timestamp,
}

impl HybridClock {
    /// A clock that continues after `last`.
    pub const fn new(last: Timestamp) -> Self {
        Self { last }
    }

    /// The last stamp given or observed.
    pub const fn last(&self) -> Timestamp {
        self.last
    }

    /// A stamp for an event that happened at `event_millis`, told at `now_millis` (milliseconds since 1970). An event
    /// that claims to be later than now counts as now, so that a wrong clock in the past cannot bind the future.
    pub fn stamp(&mut self, event_millis: i64, now_millis: i64) -> Timestamp {
        let physical = Timestamp::from_millis(event_millis.min(now_millis));
        self.last = self.last.next().max(physical);
        self.last
    }

    /// Takes note of a stamp that another clock gave.
    pub fn observe(&mut self, stamp: Timestamp) {
        self.last = self.last.max(stamp);
    }
}

#[cfg(test)]
mod tests {
    use super::{HybridClock, Timestamp};

    #[test]
    fn stamps_rise_whatever_the_wall_clock_does() {
        let mut clock = HybridClock::default();
        let first = clock.stamp(1_000, 1_000);
        let back = clock.stamp(10, 10);
        assert!(back > first);
        clock.observe(Timestamp::from_millis(5_000));
        assert!(clock.stamp(2_000, 2_000) > Timestamp::from_millis(5_000));
    }

    #[test]
    fn an_event_from_the_future_counts_as_now() {
        let mut clock = HybridClock::default();
        assert_eq!(clock.stamp(90_000, 1_000).millis(), 1_000);
    }
}
