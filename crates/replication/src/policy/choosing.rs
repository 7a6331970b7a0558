//! Policies that choose one side. They compare [`Entry::authored`](crate::Entry::authored), which a resolution carries on,
//! so that what was chosen once is chosen again: a total order on every node.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{Conflict, ConflictPolicy, Resolution, Scope, Side};
use crate::hybrid_clock::Timestamp;
use crate::origin::Origin;

/// The default: the larger (timestamp, origin) wins.
#[derive(Debug, Clone, Copy, Default)]
pub struct LastWriteWins;

impl ConflictPolicy for LastWriteWins {
    fn name(&self) -> &str {
        "last-write-wins"
    }

    fn resolve(&self, _: &Conflict<'_>) -> Resolution {
        Resolution::Newest
    }

    fn settles(&self) -> bool {
        true
    }
}

/// The row with the larger value in one of its columns wins, such as `updated_at`; where both are alike, where one has
/// none, or where one side deleted, the later write. Texts compare by bytes, as ISO 8601 wants.
#[derive(Debug, Clone)]
pub struct TimestampColumn {
    column: String,
}

impl TimestampColumn {
    /// Compares this column.
    pub fn new(column: impl Into<String>) -> Self {
        Self { column: column.into() }
    }

    fn order(&self, conflict: &Conflict<'_>) -> Option<Ordering> {
        let same = |name: &String| name.eq_ignore_ascii_case(&self.column);
        let place = conflict.shape.columns.iter().position(same)?;
        let (ours, theirs) = (conflict.local.values?.get(place)?, conflict.remote.values?.get(place)?);
        let order = super::merging::compared(ours, theirs);
        (order != Ordering::Equal && !ours.is_null() && !theirs.is_null()).then_some(order)
    }
}

impl ConflictPolicy for TimestampColumn {
    fn name(&self) -> &str {
        "last-write-wins"
    }

    fn describe(&self, named: &dyn Fn(&str) -> String) -> String {
        format!("last-write-wins by {}", named(&self.column))
    }

    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution {
        match self.order(conflict) {
            Some(Ordering::Greater) => Resolution::KeepLocal,
            Some(Ordering::Less) => Resolution::TakeRemote,
            Some(Ordering::Equal) | None => Resolution::Newest,
        }
    }

    fn settles(&self) -> bool {
        true
    }
}

/// The smaller (timestamp, origin) wins: what was written first stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct FirstWriteWins;

impl ConflictPolicy for FirstWriteWins {
    fn name(&self) -> &str {
        "first-write-wins"
    }

    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution {
        chosen(conflict, |side| std::cmp::Reverse(conflict.entry(side).authored()))
    }

    fn scope(&self) -> Scope {
        Scope::Column
    }

    fn settles(&self) -> bool {
        true
    }
}

/// The node that stands first in a list wins; nodes that are not listed come after all that are, among them the later write
/// wins. All nodes must have the same list.
#[derive(Debug, Clone)]
pub struct OriginPriority {
    ranks: HashMap<String, usize>,
}

impl OriginPriority {
    /// The nodes, the strongest first.
    pub fn new(nodes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut ranks = HashMap::new();
        for (rank, node) in nodes.into_iter().enumerate() {
            ranks.entry(node.into()).or_insert(rank);
        }
        Self { ranks }
    }

    /// The larger, the stronger.
    fn strength(&self, conflict: &Conflict<'_>, side: &Side<'_>) -> (std::cmp::Reverse<usize>, Timestamp, Origin) {
        let (timestamp, origin) = conflict.entry(side).authored();
        let rank = conflict.nodes.get(&origin).and_then(|node| self.ranks.get(node));
        (std::cmp::Reverse(rank.copied().unwrap_or(usize::MAX)), timestamp, origin)
    }
}

impl ConflictPolicy for OriginPriority {
    fn name(&self) -> &str {
        "origin-priority"
    }

    fn describe(&self, _named: &dyn Fn(&str) -> String) -> String {
        let mut nodes: Vec<_> = self.ranks.iter().map(|(node, rank)| (*rank, node.as_str())).collect();
        nodes.sort_unstable();
        let nodes: Vec<_> = nodes.into_iter().map(|(_, node)| node).collect();
        format!("origin-priority of {}", nodes.join(", "))
    }

    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution {
        chosen(conflict, |side| self.strength(conflict, side))
    }

    fn scope(&self) -> Scope {
        Scope::Column
    }

    fn settles(&self) -> bool {
        true
    }
}

/// The side with the larger key. Two resolutions may stand for one change: then there is nothing to choose.
fn chosen<K: Ord>(conflict: &Conflict<'_>, key: impl Fn(&Side<'_>) -> K) -> Resolution {
    match key(&conflict.local).cmp(&key(&conflict.remote)) {
        Ordering::Greater => Resolution::KeepLocal,
        Ordering::Less => Resolution::TakeRemote,
        Ordering::Equal => Resolution::Newest,
    }
}

#[cfg(test)]
mod tests {
    use super::super::merging::compared;
    use crate::value::Value;
    use std::cmp::Ordering;

    #[test]
    fn times_compare_as_numbers_and_as_iso_texts() {
        assert_eq!(compared(&Value::Integer(5), &Value::Real(4.5)), Ordering::Greater);
        assert_eq!(compared(&"2026-01-02".into(), &"2026-01-10".into()), Ordering::Less);
    }
}
