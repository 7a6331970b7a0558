//! States of a row that wait and the state of it that is here: which of them speaks for what, and what is told to peers.

use std::collections::BTreeSet;

use replication::{Dot, Entry, RowClock, RowImage, TableShape, Value, VersionVector};
use rusqlite::Connection;

use super::{Parked, of_key, place, remove, under_key};
use crate::error::StoreError;
use crate::replica::{Replica, ReplicaTable};
use crate::row_clock::read_row;

/// What a newer state of a row speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// Single columns of it, which are to wait. The rest of it is still to be merged.
    Columns,
    /// The row.
    Row,
    /// The row without the columns that its node leaves out on purpose.
    PartOfRow,
}

/// Forgets rows that a newer state of the row has taken into account. A state without the columns that wait has not, nor one of
/// a node that leaves out some of the columns of a row that waits as a whole. Returns the changes that waited as whole rows:
/// the vector covers them, and they are in no table.
pub(crate) fn supersede(
    conn: &Connection,
    replica: &mut Replica,
    (shape, row): (&TableShape, &RowImage),
    context: &VersionVector,
    speaks: Speaks,
) -> Result<Vec<Dot>, StoreError> {
    if replica.waiting.rows == 0 {
        return Ok(Vec::new());
    }
    let has = |column: &String| shape.columns.iter().any(|known| known.eq_ignore_ascii_case(column));
    let is_spoken_for = |parked: &Parked| match (parked.missing.is_empty(), speaks) {
        (true, Speaks::Columns) => false,
        (true, Speaks::PartOfRow) => parked.shape.columns.iter().all(has),
        (true, Speaks::Row) => true,
        (false, _) => parked.missing.iter().all(has) || row.clock.rest.is_some_and(|rest| !parked.outlives(&rest)),
    };
    let older: Vec<Parked> = of_key(conn, &shape.name, place(shape, row)?)?
        .into_iter()
        .filter(|parked| row.clock.is_deleted() || is_spoken_for(parked))
        .filter(|parked| parked.row.clock.entries().all(|entry| context.covers(entry.dot)))
        .collect();
    older.iter().try_for_each(|parked| remove(conn, replica, parked))?;
    let whole = older.iter().filter(|parked| parked.missing.is_empty());
    Ok(whole.flat_map(|parked| parked.row.clock.entries()).map(|entry| entry.dot).collect())
}

/// Forgets what waits for columns of a row that an application deleted, or inserted anew: it belongs to the row that went.
/// Not where the rest of that row waits as well, for then it did not know of it.
pub(crate) fn forget_columns(
    conn: &Connection,
    replica: &mut Replica,
    shape: &TableShape,
    key: &[Value],
) -> Result<(), StoreError> {
    let waiting = under_key(conn, shape, key)?;
    if waiting.iter().any(|parked| parked.missing.is_empty()) {
        return Ok(());
    }
    let known: Vec<Parked> = waiting
        .into_iter()
        .filter(|parked| parked.row.clock.entries().all(|entry| replica.have.covers(entry.dot)))
        .collect();
    known.iter().try_for_each(|parked| remove(conn, replica, parked))
}

/// Whether a value of a column waits for the row of this key.
pub(crate) fn has_cell(
    conn: &Connection,
    replica: &Replica,
    shape: &TableShape,
    (key, column): (&[Value], u16),
) -> Result<bool, StoreError> {
    if replica.waiting.rows == 0 {
        return Ok(false);
    }
    let column = &shape.columns[usize::from(column)];
    let is_cell = |parked: &Parked| parked.missing.iter().any(|missing| missing.eq_ignore_ascii_case(column));
    Ok(under_key(conn, shape, key)?.iter().any(is_cell))
}

/// Whether the row here is one that came without a cell, which waits, and nobody wrote the cell here: it holds its default.
/// `clock` is the row's.
pub(crate) fn lacks_cell(
    conn: &Connection,
    table: &ReplicaTable,
    (key, clock): (&[Value], &RowClock),
    column: u16,
) -> Result<bool, StoreError> {
    let place = usize::from(column);
    if clock.columns.iter().any(|(known, entry)| *known == column && !entry.is_never()) {
        return Ok(false);
    }
    let is_cell = |parked: &Parked| {
        let named = |missing: &String| missing.eq_ignore_ascii_case(&table.wire.columns[place]);
        parked.row.clock.row.dot == clock.row.dot && parked.missing.iter().any(named)
    };
    if !under_key(conn, &table.wire, key)?.iter().any(is_cell) {
        return Ok(false);
    }
    Ok(read_row(conn, table, key)?.is_some_and(|values| values[place] == table.defaults[place]))
}

/// What of a row waits beside the state of it that is here.
#[derive(Default)]
pub(crate) struct Beside {
    /// What waits.
    pub(crate) waiting: Vec<Parked>,
    /// What the state here has taken into account, where that is not all that this database knows.
    pub(crate) context: Option<VersionVector>,
}

/// What this database's state of a row has taken into account, if another state of it waits here: not that one. Where single
/// columns wait and the table here has others in their stead, these may be the same by other names; and where the row here was
/// deleted, or inserted anew, that was done without knowing them.
pub(crate) fn beside(
    conn: &Connection,
    replica: &Replica,
    shape: &TableShape,
    row: &RowImage,
) -> Result<Beside, StoreError> {
    if replica.waiting.rows == 0 {
        return Ok(Beside::default());
    }
    let mut waiting = of_key(conn, &shape.name, place(shape, row)?)?;
    // The table may be one that waits for its old name.
    let tables: BTreeSet<&String> = replica.waiting.told.iter().map(|(table, _)| table).collect();
    for table in tables.into_iter().filter(|table| replica.table_by_wire_name(table).is_none()) {
        let alike = of_key(conn, table, place(shape, row)?)?;
        waiting.extend(alike.into_iter().filter(|parked| parked.shape.columns == shape.columns));
    }
    let mut context = None;
    let renamed = |parked: &Parked| {
        let known = |name: &String| parked.shape.columns.iter().any(|other| other.eq_ignore_ascii_case(name));
        !shape.columns.iter().all(known)
    };
    let gone = if row.clock.is_deleted() { Some(row.clock.row) } else { row.clock.rest };
    for parked in &waiting {
        let whole = parked.missing.is_empty() || renamed(parked);
        let unknown: Vec<&Entry> = match gone {
            _ if whole => parked.row.clock.entries().filter(|entry| !parked.own.covers(entry.dot)).collect(),
            Some(gone) if !parked.tells_of(&gone) => parked.entries_of_missing().collect(),
            _ => continue,
        };
        let context = context.get_or_insert_with(|| replica.have.clone());
        unknown.into_iter().for_each(|entry| context.lower(entry.dot.origin, entry.dot.sequence.saturating_sub(1)));
    }
    Ok(Beside { waiting, context })
}
