//! Pauses between tries: capped exponential with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter").

use std::time::Duration;

/// Pauses that grow, each drawn evenly from nothing to a limit that doubles up to a cap; so that peers that lost each
/// other at the same moment do not come back at the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    tries: u32,
    random: u64,
}

impl Backoff {
    /// Pauses whose limit starts at `first` and ends at `cap`; equal seeds give equal pauses.
    pub const fn new(first: Duration, cap: Duration, seed: u64) -> Self {
        Self { first, cap, tries: 0, random: seed }
    }

    /// The pause before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let limit = self.first.saturating_mul(1 << self.tries.min(20)).min(self.cap);
        self.tries = self.tries.saturating_add(1);
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.draw() % nanos.saturating_add(1).max(1))
    }

    /// Starts over: the last try was a success.
    pub const fn reset(&mut self) {
        self.tries = 0;
    }

    /// splitmix64 (Steele, Lea, Flood 2014).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::Backoff;
    use std::time::Duration;

    #[test]
    fn pauses_grow_to_the_cap_and_start_over() {
        let (first, cap) = (Duration::from_millis(200), Duration::from_secs(30));
        let mut backoff = Backoff::new(first, cap, 7);
        let pauses: Vec<Duration> = (0..64).map(|_| backoff.next_delay()).collect();
        assert!(pauses[0] <= first);
        assert!(pauses.iter().all(|pause| *pause <= cap));
        assert!(pauses.iter().any(|pause| *pause > cap / 2));
        backoff.reset();
        assert!(backoff.next_delay() <= first);
        let mut same = Backoff::new(first, cap, 7);
        assert!(pauses.iter().all(|pause| *pause == same.next_delay()));
    }
}
