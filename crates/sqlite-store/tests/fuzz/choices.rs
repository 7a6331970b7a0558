//! The bytes of an input as choices.

use bolero::ValueGenerator;

/// Bytes for so many choices, or for half of them, or anything between. By itself bolero gives few of them, mostly.
pub(crate) fn bytes(most: usize) -> impl ValueGenerator<Output = Vec<u8>> {
    bolero::produce_with::<Vec<u8>>().len(most / 2..=most)
}

/// Choices, taken from the front; where there are no more of them, zeros.
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl Choices<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    /// True once in so many times.
    pub(crate) fn one_in(&mut self, times: u8) -> bool {
        self.byte() % times == 1
    }

    pub(crate) fn choose<'s, T: ?Sized>(&mut self, from: &[&'s T]) -> &'s T {
        from[self.below(from.len())]
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// One to `most` of these, perhaps one twice, joined by commas.
    pub(crate) fn list(&mut self, most: usize, mut item: impl FnMut(&mut Self) -> String) -> String {
        let count = 1 + self.below(most);
        (0..count).map(|_| item(self)).collect::<Vec<_>>().join(", ")
    }
}

/// Bytes of a seed (splitmix64), the same ones on every machine.
fn seeded(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..64).flat_map(|_| next().to_le_bytes()).collect()
}

/// Runs the inputs of so many seeds, and tells which one fails. `SEED=…` runs one seed, `SEEDS=…` so many.
pub(crate) fn each_seed(count: u64, run: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("SEEDS").unwrap_or(count),
    };
    for seed in seeds {
        let failed = std::panic::catch_unwind(|| run(&seeded(seed))).is_err();
        assert!(!failed, "SEED={seed} fails");
    }
}
