//! A seeded generator, so that a failing seed replays exactly.

/// splitmix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound`, exclusive.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn range(&mut self, bound: i64) -> i64 {
        i64::try_from(self.below(bound.unsigned_abs())).unwrap()
    }

    pub(crate) fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    /// True once in `odds` times.
    pub(crate) fn chance(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }
}

/// Runs a test for its seeds, for `TIMES` as many, or for the one in `SEED` alone.
pub(crate) fn for_seeds(count: u64, test: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect("it is a number"));
    match number("SEED") {
        Some(seed) => test(seed),
        None => (1..=count * number("TIMES").unwrap_or(1)).for_each(test),
    }
}
