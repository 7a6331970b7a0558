//! Sets of dots, as runs of sequences.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::origin::{Dot, MAX_SEQUENCE, Origin};
use crate::version_vector::VersionVector;

/// For each origin, runs of sequences: what a version vector with holes would hold. Runs neither overlap nor touch.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct DotSet(BTreeMap<Origin, BTreeMap<u64, u64>>);

impl DotSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the sequences from `first` to `last`; nothing if there are none.
    pub fn insert(&mut self, origin: Origin, first: u64, last: u64) {
        if first > last {
            return;
        }
        let runs = self.0.entry(origin).or_default();
        let (mut first, mut last) = (first, last);
        let beyond = last.saturating_add(1);
        // Only the last run that begins before may reach into this one from below.
        let below = runs.range(..first).next_back().filter(|(_, end)| end.saturating_add(1) >= first);
        let within = runs.range(first..=beyond);
        let joined: Vec<(u64, u64)> = below.into_iter().chain(within).map(|(start, end)| (*start, *end)).collect();
        for (start, end) in joined {
            runs.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        runs.insert(first, last);
    }

    /// Adds all of another set.
    pub fn join(&mut self, other: &Self) {
        other.runs().for_each(|(origin, first, last)| self.insert(origin, first, last));
    }

    /// All of both.
    #[must_use]
    pub fn joined(&self, other: &Self) -> Self {
        let mut joined = self.clone();
        joined.join(other);
        joined
    }

    /// The runs that a vector does not cover to their ends, as a whole.
    #[must_use]
    pub fn beyond(&self, vector: &VersionVector) -> Self {
        let mut beyond = Self::new();
        for (origin, first, last) in self.runs().filter(|(origin, _, last)| vector.get(*origin) < *last) {
            beyond.insert(origin, first, last);
        }
        beyond
    }

    /// Whether the set holds a dot.
    pub fn contains(&self, dot: Dot) -> bool {
        let below = self.0.get(&dot.origin).and_then(|runs| runs.range(..=dot.sequence).next_back());
        below.is_some_and(|(_, last)| *last >= dot.sequence)
    }

    /// What of the sequences after `after` and up to `until` is not in the set: pairs of the same kind, in order.
    pub fn gaps(&self, origin: Origin, after: u64, until: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = after;
        for (first, last) in self.0.get(&origin).into_iter().flatten() {
            if *first > until {
                break;
            }
            if *first > at.saturating_add(1) {
                gaps.push((at, first - 1));
            }
            at = at.max(*last);
        }
        if at < until {
            gaps.push((at, until));
        }
        gaps
    }

    /// All runs: origin, first and last sequence.
    pub fn runs(&self) -> impl Iterator<Item = (Origin, u64, u64)> + '_ {
        self.0.iter().flat_map(|(origin, runs)| runs.iter().map(|(first, last)| (*origin, *first, *last)))
    }

    /// The number of runs, which is what the set takes memory for.
    pub fn run_count(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number that is equal for equal sets, and 0 for the empty one: FNV-1a over the runs.
    pub fn fingerprint(&self) -> u64 {
        if self.is_empty() {
            return 0;
        }
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut feed = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        for (origin, first, last) in self.runs() {
            feed(origin.as_bytes());
            feed(&first.to_be_bytes());
            feed(&last.to_be_bytes());
        }
        hash.max(1)
    }
}

impl fmt::Debug for DotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs()).finish()
    }
}

impl Serialize for DotSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(origin, runs)| (origin, runs.iter().collect::<Vec<_>>())))
    }
}

impl<'de> Deserialize<'de> for DotSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = BTreeMap::<Origin, Vec<(u64, u64)>>::deserialize(deserializer)?;
        let mut set = Self::new();
        for (origin, runs) in read {
            for (first, last) in runs {
                if first == 0 || first > last || last > MAX_SEQUENCE {
                    return Err(D::Error::custom("a run of sequences does not run from 1 or more to what is not less"));
                }
                set.insert(origin, first, last);
            }
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::DotSet;
    use crate::origin::{Dot, Origin};

    const ORIGIN: Origin = Origin::from_bytes([7; 16]);

    proptest! {
        #[test]
        fn it_holds_what_was_put_in_as_runs_that_do_not_touch(runs in prop::collection::vec((1_u64..60, 0_u64..12), 0..12), after in 0_u64..60, until in 0_u64..80) {
            let (mut set, mut model) = (DotSet::new(), BTreeSet::new());
            for (first, more) in runs {
                set.insert(ORIGIN, first, first + more);
                model.extend(first..=first + more);
            }
            for sequence in 0..90 {
                prop_assert_eq!(set.contains(Dot { origin: ORIGIN, sequence }), model.contains(&sequence));
            }
            let ends: Vec<_> = set.runs().map(|(_, first, last)| (first, last)).collect();
            prop_assert!(ends.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            let gaps: Vec<u64> = set.gaps(ORIGIN, after, until).into_iter().flat_map(|(after, until)| after + 1..=until).collect();
            let expected: Vec<u64> = (after + 1..=until).filter(|sequence| !model.contains(sequence)).collect();
            prop_assert_eq!(gaps, expected);
            let text = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(&serde_json::from_str::<DotSet>(&text).unwrap(), &set);
            prop_assert_eq!(set.fingerprint() == 0, model.is_empty());
        }
    }

    #[test]
    fn a_run_that_is_none_is_refused() {
        for runs in ["[[0,4]]", "[[5,4]]", "[[1,9223372036854775808]]"] {
            let text = format!("{{\"{ORIGIN}\": {runs}}}");
            assert!(serde_json::from_str::<DotSet>(&text).is_err(), "{text}");
        }
    }
}
