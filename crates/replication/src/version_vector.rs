//! What a replica knows: for each origin, the highest sequence up to which everything is known.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::origin::{Dot, Origin};

/// A map from origin to the highest sequence up to which every change of that origin is known.
///
/// As a description of a replica: each dot that the vector covers is among the replica's clock entries or superseded by
/// an entry that it holds. An origin that is absent counts as 0.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionVector(BTreeMap<Origin, u64>);

impl VersionVector {
    /// The vector that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The highest known sequence of `origin`, 0 if none.
    pub fn get(&self, origin: Origin) -> u64 {
        self.0.get(&origin).copied().unwrap_or(0)
    }

    /// Lowers an origin's sequence to `sequence`, if it is higher.
    pub fn lower(&mut self, origin: Origin, sequence: u64) {
        if self.get(origin) > sequence {
            if sequence == 0 {
                self.0.remove(&origin);
            } else {
                self.0.insert(origin, sequence);
            }
        }
    }

    /// Whether the change named `dot` is known.
    pub fn covers(&self, dot: Dot) -> bool {
        self.get(dot.origin) >= dot.sequence
    }

    /// Whether everything that `other` knows is known here.
    pub fn covers_all(&self, other: &Self) -> bool {
        other.0.iter().all(|(origin, sequence)| self.get(*origin) >= *sequence)
    }

    /// Raises `origin` to `sequence`; never lowers it.
    pub fn raise(&mut self, origin: Origin, sequence: u64) {
        if sequence > 0 {
            let known = self.0.entry(origin).or_insert(0);
            *known = (*known).max(sequence);
        }
    }

    /// Raises every origin to what `other` knows.
    pub fn join(&mut self, other: &Self) {
        for (origin, sequence) in &other.0 {
            self.raise(*origin, *sequence);
        }
    }

    /// Both vectors' knowledge in a new one.
    #[must_use]
    pub fn joined(mut self, other: &Self) -> Self {
        self.join(other);
        self
    }

    /// What both know.
    #[must_use]
    pub fn met(&self, other: &Self) -> Self {
        self.iter().map(|(origin, sequence)| (origin, sequence.min(other.get(origin)))).collect()
    }

    /// How many sequences of `other` are not covered here: an upper bound on the changes that are missing, since
    /// sequences may have gaps and superseded changes are never sent.
    pub fn behind(&self, other: &Self) -> u64 {
        other.0.iter().map(|(origin, sequence)| sequence.saturating_sub(self.get(*origin))).fold(0, u64::saturating_add)
    }

    /// Origins and their sequences, ordered by origin.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, u64)> + '_ {
        self.0.iter().map(|(origin, sequence)| (*origin, *sequence))
    }

    /// The number of origins.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        size_of::<(Origin, u64)>() * self.0.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Origin, u64)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (Origin, u64)>>(iter: I) -> Self {
        let mut vector = Self::new();
        for (origin, sequence) in iter {
            vector.raise(origin, sequence);
        }
        vector
    }
}

impl fmt::Debug for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
