//! How a peer's rows fit a table here.

use std::collections::HashMap;

use replication::{RowImage, TableShape};

use crate::apply::{HeldKind, Stop};

/// How the sender's columns map to this database's.
pub(super) enum ColumnOrder {
    Same,
    /// For each local column, the sender's index; for each local key column, its place in the sender's key.
    Permuted {
        columns: Vec<usize>,
        key: Vec<usize>,
    },
}

impl ColumnOrder {
    pub(super) fn between(remote: &TableShape, local: &TableShape) -> Result<Self, Stop> {
        if remote.columns == local.columns && remote.key == local.key {
            return Ok(Self::Same);
        }
        let mismatch = |what: String| {
            let remedy = "run the same migration on every node; sync of this database goes on by itself afterwards";
            Stop::held(HeldKind::SchemaMismatch, Some(&local.name), what, remedy)
        };
        let places: HashMap<&str, usize> =
            remote.columns.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
        if let Some(extra) = remote.columns.iter().find(|name| !local.columns.contains(name)) {
            return Err(mismatch(format!("table {:?} has no column {extra:?} here", local.name)));
        }
        let mut columns = Vec::with_capacity(local.columns.len());
        for name in &local.columns {
            let place = places.get(name.as_str());
            columns.push(
                *place.ok_or_else(|| mismatch(format!("the peer's table {:?} has no column {name:?}", local.name)))?,
            );
        }
        let mut key = Vec::with_capacity(local.key.len());
        for index in &local.key {
            let wanted = columns[usize::from(*index)];
            let place = remote.key.iter().position(|theirs| usize::from(*theirs) == wanted);
            key.push(place.ok_or_else(|| mismatch(format!("table {:?} has another key on the peer", local.name)))?);
        }
        if remote.key.len() != local.key.len() {
            return Err(mismatch(format!("table {:?} has another key on the peer", local.name)));
        }
        Ok(Self::Permuted { columns, key })
    }

    pub(super) fn arrange(&self, mut row: RowImage) -> RowImage {
        let Self::Permuted { columns, key } = self else { return row };
        let order = if row.clock.is_deleted() { key } else { columns };
        let values = order.iter().map(|place| row.values[*place].clone()).collect();
        let local = |column: u16| {
            let place = columns.iter().position(|place| *place == usize::from(column)).unwrap_or(0);
            u16::try_from(place).unwrap_or(u16::MAX)
        };
        row.clock.columns.iter_mut().for_each(|(column, _)| *column = local(*column));
        row.clock.columns.sort_unstable_by_key(|(column, _)| *column);
        row.clock.counters.iter_mut().for_each(|(column, _)| *column = local(*column));
        row.clock.counters.sort_unstable_by_key(|(column, _)| *column);
        RowImage { values, clock: row.clock }
    }
}
