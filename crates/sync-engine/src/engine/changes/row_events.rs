//! From rows as they are read to change events. Owns what an event tells of a row; must not know who is shown it.

use std::collections::HashMap;

use replication::{Batch, Dot, EntryFlags, Origin, RowClock, RowImage, TableShape};
use sqlite_store::{DatabaseState, IncomingRow, RowOperation};

use super::course::Piece;
use crate::change_event::ChangeEvent;

/// What a change did to a row that stands as its clock says. `appears` tells whether the row was not there before.
pub(in crate::engine) fn operation(clock: &RowClock, appears: bool) -> RowOperation {
    match (clock.is_deleted(), appears) {
        (true, _) => RowOperation::Delete,
        (false, true) => RowOperation::Insert,
        (false, false) => RowOperation::Update,
    }
}

/// Where in the order of what is shown a change stands.
struct Places<'a> {
    pieces: &'a [Piece],
    by_origin: HashMap<Origin, Vec<usize>>,
}

impl<'a> Places<'a> {
    fn new(pieces: &'a [Piece]) -> Self {
        let mut by_origin: HashMap<Origin, Vec<usize>> = HashMap::new();
        for (place, piece) in pieces.iter().enumerate() {
            by_origin.entry(piece.origin).or_default().push(place);
        }
        Self { pieces, by_origin }
    }

    fn of(&self, dot: Dot) -> Option<(usize, u64)> {
        let places = self.by_origin.get(&dot.origin)?;
        // They rise.
        let place = *places.get(places.partition_point(|place| self.pieces[*place].until < dot.sequence))?;
        (self.pieces[place].after < dot.sequence).then_some((place, dot.sequence))
    }
}

/// The events of the rows of a batch whose changes are among `pieces`, in the order of these. A row goes with the last of its changes
/// that is among them: cut off before it, the row is read again.
pub(super) fn events(
    node: &str,
    database: &str,
    state: &DatabaseState,
    batch: &Batch,
    pieces: &[Piece],
) -> Vec<ChangeEvent> {
    let places = Places::new(pieces);
    let mut found = Vec::new();
    for table in &batch.tables {
        let shape = named_here(&table.shape, state);
        for row in &table.rows {
            let entries = row.clock.entries().chain(&row.clock.rest);
            let last = entries.filter_map(|entry| Some((places.of(entry.dot)?, entry))).max_by_key(|(place, _)| *place);
            let Some((place, entry)) = last else { continue };
            let owner = match state.nodes.get(&entry.dot.origin) {
                _ if state.origin == Some(entry.dot.origin) => node.to_owned(),
                Some(owner) => owner.clone(),
                None => entry.dot.origin.to_string(),
            };
            let key: Vec<replication::Value> = row.key(&shape).into_iter().cloned().collect();
            let inserted =
                || row.clock.row.flags.contains(EntryFlags::INSERTED) && places.of(row.clock.row.dot).is_some();
            let operation = operation(&row.clock, pieces[place.0].replayed || inserted());
            let incoming = IncomingRow {
                shape: &shape,
                operation,
                key: &key,
                old: None,
                new: (operation != RowOperation::Delete).then_some(row.values.as_slice()),
                dot: entry.dot,
                timestamp: entry.timestamp,
                node: &owner,
            };
            let mut event = ChangeEvent::incoming(database, &incoming);
            event.local = owner == node;
            if operation == RowOperation::Update {
                event.changed = changed(&shape, row, &places);
            }
            found.push((place, event));
        }
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, event)| event).collect()
}

/// The columns that changes among those that are shown have written.
fn changed(shape: &TableShape, row: &RowImage, places: &Places<'_>) -> Vec<String> {
    let columns = (0_u16..).zip(&shape.columns);
    let written = |column: u16| row.clock.entries_of(column).any(|entry| places.of(entry.dot).is_some());
    columns.filter(|(column, _)| written(*column)).map(|(_, name)| name.clone()).collect()
}

/// A table's shape with the names that it has in the file.
fn named_here(wire: &TableShape, state: &DatabaseState) -> TableShape {
    let named = state.names.iter().find(|it| it.remote_name.as_ref().unwrap_or(&it.name) == &wire.name);
    let Some(named) = named else { return wire.clone() };
    let here = |column: &String| {
        let known = named.columns.iter().find(|(_, remote_name)| remote_name == column);
        known.map_or(column, |(name, _)| name).clone()
    };
    TableShape { name: named.name.clone(), columns: wire.columns.iter().map(here).collect(), key: wire.key.clone() }
}
