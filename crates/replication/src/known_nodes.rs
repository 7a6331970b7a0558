//! What each node of a database is known to know, from what it said itself and from what others heard: how far a deletion has
//! come everywhere, so that its tombstone is of no use any more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::origin::Origin;
use crate::version_vector::VersionVector;

/// Nodes of which others are told at most. Beyond that tombstones go by their age alone.
const MAX_NODES: usize = 256;

/// One node, as of when it was last heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownNode {
    /// The origin under which its file issued changes.
    pub origin: Origin,
    /// What it knew.
    pub have: VersionVector,
    /// When it was last heard, by the clock of who heard it: milliseconds since 1970.
    pub seen: i64,
    /// When somebody said that it will not come back; 0: never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub forgotten: i64,
}

// serde hands over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(millis: &i64) -> bool {
    *millis == 0
}

impl KnownNode {
    /// Whether its return is reckoned with.
    pub const fn is_expected(&self) -> bool {
        self.seen > self.forgotten
    }
}

/// The nodes of a database, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KnownNodes(BTreeMap<String, KnownNode>);

impl KnownNodes {
    /// Nodes by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &KnownNode)> {
        self.0.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One node.
    pub fn get(&self, name: &str) -> Option<&KnownNode> {
        self.0.get(name)
    }

    /// Takes note of a node. What was heard later counts: a node that was restored from a backup knows less than before.
    pub fn learn(&mut self, name: &str, heard: KnownNode) {
        let full = self.0.len() >= MAX_NODES;
        let Some(known) = self.0.get_mut(name) else {
            if !full {
                self.0.insert(name.to_owned(), heard);
            }
            return;
        };
        let forgotten = known.forgotten.max(heard.forgotten);
        if heard.seen > known.seen {
            *known = heard;
        } else if heard.seen == known.seen && heard.origin == known.origin {
            known.have.join(&heard.have);
        }
        known.forgotten = forgotten;
    }

    /// As many nodes as there is room for, in bytes, as text.
    #[must_use]
    pub fn within(&self, room: &mut usize) -> Self {
        let fitting = self.0.iter().map_while(|(name, node)| {
            *room = room.checked_sub(160 + 6 * name.len() + 64 * node.have.len())?;
            Some((name.clone(), node.clone()))
        });
        Self(fitting.collect())
    }

    /// Whether it says more than `known`, other than that nodes were heard less than `lately` milliseconds later.
    pub fn is_news_to(&self, known: &Self, lately: i64) -> bool {
        self.0.iter().any(|(name, node)| {
            known.get(name).is_none_or(|known| {
                let same = known.origin == node.origin && known.have == node.have && known.forgotten >= node.forgotten;
                let earlier = node.seen < known.seen;
                !(earlier || (same && node.seen.saturating_sub(known.seen) < lately))
            })
        })
    }

    /// Takes note of what others know.
    pub fn learn_all(&mut self, others: &Self) {
        others.0.iter().for_each(|(name, node)| self.learn(name, node.clone()));
    }

    /// No node was heard later than `latest`: whoever says so has a wrong clock.
    pub fn seen_until(&mut self, latest: i64) {
        self.0.values_mut().for_each(|node| node.seen = node.seen.min(latest));
    }

    /// Does not reckon with a node's return any more, unless it is heard after `now`. False if it is not known.
    pub fn forget(&mut self, name: &str, now: i64) -> bool {
        let Some(node) = self.0.get_mut(name) else { return false };
        node.forgotten = node.forgotten.max(now).max(node.seen);
        true
    }

    /// The nodes beside `own` whose return is reckoned with, and which were heard at `since` or later.
    pub fn expected(&self, own: &str, since: i64) -> impl Iterator<Item = (&str, &KnownNode)> {
        self.iter().filter(move |(name, node)| *name != own && node.is_expected() && node.seen >= since)
    }

    /// What all of these know, if there are any and this node, which has `have`, knows all that they know: no change that could
    /// meet a deletion within it is on its way any more.
    pub fn known_to_all(&self, own: &str, have: &VersionVector, since: i64) -> Option<VersionVector> {
        let mut common: Option<VersionVector> = None;
        for (_, node) in self.expected(own, since) {
            if !have.covers_all(&node.have) {
                return None;
            }
            common = Some(match common {
                None => node.have.clone(),
                Some(common) => common.met(&node.have),
            });
        }
        common
    }
}

#[cfg(test)]
mod tests {
    use super::{KnownNode, KnownNodes};
    use crate::origin::Origin;
    use crate::version_vector::VersionVector;

    fn origin(number: u8) -> Origin {
        Origin::from_bytes([number; 16])
    }

    fn node(have: &[(u8, u64)], seen: i64) -> KnownNode {
        let have = have.iter().map(|(number, sequence)| (origin(*number), *sequence)).collect();
        KnownNode { origin: origin(1), have, seen, forgotten: 0 }
    }

    fn vector(pairs: &[(u8, u64)]) -> VersionVector {
        pairs.iter().map(|(number, sequence)| (origin(*number), *sequence)).collect()
    }

    #[test]
    fn a_deletion_is_known_to_all_when_every_expected_node_knows_it_and_nothing_of_theirs_is_unknown() {
        let mut nodes = KnownNodes::default();
        let have = vector(&[(1, 9), (2, 9)]);
        assert_eq!(nodes.known_to_all("a", &have, 0), None, "nobody is known");
        nodes.learn("b", node(&[(1, 5), (2, 7)], 10));
        nodes.learn("c", node(&[(1, 8)], 20));
        assert_eq!(nodes.known_to_all("a", &have, 0), Some(vector(&[(1, 5)])));
        assert_eq!(nodes.known_to_all("a", &have, 15), Some(vector(&[(1, 8)])), "b was not heard for long");
        nodes.learn("c", node(&[(1, 8), (3, 1)], 30));
        assert_eq!(nodes.known_to_all("a", &have, 0), None, "c has something that is not known here");
    }

    #[test]
    fn that_a_node_was_heard_again_is_no_news() {
        let mut known = KnownNodes::default();
        known.learn("b", node(&[(1, 5)], 1_000));
        let heard = |have: &[(u8, u64)], seen| {
            let mut heard = KnownNodes::default();
            heard.learn("b", node(have, seen));
            heard
        };
        assert!(!heard(&[(1, 5)], 1_500).is_news_to(&known, 1_000));
        assert!(heard(&[(1, 5)], 2_000).is_news_to(&known, 1_000));
        assert!(heard(&[(1, 6)], 1_500).is_news_to(&known, 1_000));
        assert!(!heard(&[(1, 6)], 900).is_news_to(&known, 1_000));
        assert!(heard(&[], 1).is_news_to(&KnownNodes::default(), 1_000));
        assert_eq!(known.within(&mut 100).iter().count(), 0);
        assert_eq!(known.within(&mut 1_000), known);
    }

    #[test]
    fn a_node_that_is_forgotten_is_expected_again_when_it_is_heard_later() {
        let mut nodes = KnownNodes::default();
        nodes.learn("b", node(&[(1, 5)], 10));
        assert!(nodes.forget("b", 15) && !nodes.forget("z", 15));
        assert_eq!(nodes.expected("a", 0).count(), 0);
        let mut others = KnownNodes::default();
        others.learn("b", node(&[(1, 6)], 12));
        nodes.learn_all(&others);
        assert_eq!(nodes.expected("a", 0).count(), 0, "others heard it before");
        others.learn_all(&nodes);
        assert_eq!(others.expected("a", 0).count(), 0, "others are told");
        nodes.learn("b", node(&[(1, 1)], 16));
        assert_eq!(nodes.get("b").unwrap().have, vector(&[(1, 1)]), "what is heard later counts, though it is less");
        assert_eq!(nodes.expected("a", 0).count(), 1);
    }
}
