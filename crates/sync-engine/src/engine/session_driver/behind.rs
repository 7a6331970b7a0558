//! For how long a peer has lacked something: the age of the oldest change that it has not acknowledged, also of one that is never
//! quite done because there is always more.

use std::collections::VecDeque;
use std::time::Instant;

use replication::VersionVector;

/// What the peer lacked at some moments, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Behind {
    marks: VecDeque<(VersionVector, Instant)>,
}

/// Moments that are remembered: as the first is reached, the second tells how old the rest is, to within the time that the first took.
const MARKS: usize = 2;

impl Behind {
    /// Takes note of what the peer and this node know; since when the peer has lacked something.
    pub(super) fn note(&mut self, peer: &VersionVector, own: &VersionVector, now: Instant) -> Option<Instant> {
        while self.marks.front().is_some_and(|(mark, _)| peer.covers_all(mark)) {
            self.marks.pop_front();
        }
        let is_new = || self.marks.back().is_none_or(|(mark, _)| !mark.covers_all(own));
        if self.marks.len() < MARKS && !peer.covers_all(own) && is_new() {
            self.marks.push_back((own.clone(), now));
        }
        self.marks.front().map(|(_, since)| *since)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use replication::{Origin, VersionVector};

    use super::Behind;

    #[test]
    fn a_peer_that_follows_closely_is_not_far_behind_however_long_it_goes_on() {
        let begin = Instant::now();
        let vector = |sequence| VersionVector::from_iter([(Origin::from_bytes([1; 16]), sequence)]);
        let second = |second| begin + Duration::from_secs(second);
        let mut behind = Behind::default();
        assert_eq!(behind.note(&vector(5), &vector(5), second(0)), None);
        for now in 1..100 {
            let since = behind.note(&vector(5 + now - 1), &vector(5 + now), second(now)).unwrap();
            assert!(since >= second(now.saturating_sub(2)), "{now}");
        }
        // It stands still.
        for now in 100..200 {
            behind.note(&vector(103), &vector(now + 5), second(now));
        }
        assert!(behind.note(&vector(103), &vector(300), second(200)).unwrap() <= second(100));
        assert_eq!(behind.note(&vector(300), &vector(300), second(201)), None);
    }
}
