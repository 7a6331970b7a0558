//! Errors in messages that were whole: they come further into a decoder than bytes without any order.

use bolero::ValueGenerator;

/// Bytes for so many choices, or for half of them, or anything between. By itself bolero gives few of them, mostly.
pub(crate) fn script(most: usize) -> impl ValueGenerator<Output = Vec<u8>> {
    bolero::produce_with::<Vec<u8>>().len(most / 2..=most)
}

/// Bytes that mean something to a decoder: ends of ranges, and markers of lengths that follow.
const TELLING: [&[u8]; 12] = [
    &[0],
    &[1],
    &[0x7f],
    &[0x80],
    &[0xff],
    &[0xc0],
    &[0xc6, 0xff, 0xff, 0xff, 0xff],
    &[0xdb, 0x7f, 0xff, 0xff, 0xff],
    &[0xce, 0x00, 0x10, 0x00, 0x00],
    &[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xcf, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],
];

/// Choices, taken from the front; where there are no more of them, zeros.
pub(crate) struct Script<'a>(pub(crate) &'a [u8]);

impl Script<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let number = usize::from(u16::from_be_bytes([self.byte(), self.byte()]));
        if bound == 0 { 0 } else { number % bound }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn choose<'s, T>(&mut self, from: &'s [T]) -> &'s T {
        &from[self.below(from.len())]
    }

    /// One of these with up to three errors.
    pub(crate) fn altered(&mut self, from: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.choose(from).clone();
        for _ in 0..self.byte() % 4 {
            self.alter(&mut bytes, from);
        }
        bytes
    }

    fn alter(&mut self, bytes: &mut Vec<u8>, from: &[Vec<u8>]) {
        let kind = self.byte() % 6;
        let at = self.below(bytes.len() + 1);
        let end = (at + usize::from(self.byte() % 24)).min(bytes.len());
        match kind {
            0 if at < bytes.len() => bytes[at] ^= 1 << (self.byte() % 8),
            1 => drop(bytes.splice(at..end, self.choose(&TELLING).iter().copied())),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            4 => bytes.truncate(at),
            _ => {
                let other = self.choose(from);
                let start = self.below(other.len() + 1);
                let piece = other[start..(start + 24).min(other.len())].to_vec();
                drop(bytes.splice(at..end, piece));
            }
        }
    }
}
