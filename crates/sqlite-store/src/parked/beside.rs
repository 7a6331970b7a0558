//! States of a row that wait and the state of it that is here: which of them speaks for what, and what is told to peers.

use std::borrow::Cow;
use std::collections::BTreeSet;

use replication::{Counter, Dot, Entry, EntryFlags, RowClock, RowImage, TableShape, Value, VersionVector};
use rusqlite::Connection;

use super::{Parked, Parking, of_key, place, put, remove, under_key};
use crate::error::StoreError;
use crate::replica::{Replica, ReplicaTable};
use crate::row_clock::read_row;

/// What a newer state of a row speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks<'a> {
    /// These columns of it, which are to wait. The rest of it is still to be merged.
    Columns(&'a [String]),
    /// The row.
    Row,
    /// The row without the columns that its node does not have, or leaves out.
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
    speaks: Speaks<'_>,
) -> Result<Vec<Dot>, StoreError> {
    if replica.waiting.rows == 0 {
        return Ok(Vec::new());
    }
    let columns = match speaks {
        Speaks::Columns(columns) => columns,
        Speaks::Row | Speaks::PartOfRow => &shape.columns,
    };
    let has = |column: &String| columns.iter().any(|known| known.eq_ignore_ascii_case(column));
    let is_spoken_for = |parked: &Parked| match (parked.missing.is_empty(), speaks) {
        (true, Speaks::Columns(_)) => false,
        (true, Speaks::PartOfRow) => parked.told().all(has),
        (true, Speaks::Row) => true,
        (false, _) => parked.missing.iter().all(has) || row.clock.rest.is_some_and(|rest| !parked.outlives(&rest)),
    };
    let older: Vec<Parked> = of_key(conn, &shape.name, place(shape, row)?)?
        .into_iter()
        .filter(|parked| (row.clock.is_deleted() && !parked.is_counted()) || is_spoken_for(parked))
        .filter(|parked| parked.row.clock.entries().all(|entry| context.covers(entry.dot)))
        .collect();
    for parked in &older {
        remove(conn, replica, parked)?;
        if row.clock.is_deleted() && !is_spoken_for(parked) {
            keep_counted(conn, replica, parked, (row.clock.row, context))?;
        }
    }
    let whole = older.iter().filter(|parked| parked.missing.is_empty());
    Ok(whole.flat_map(|parked| parked.row.clock.entries()).map(|entry| entry.dot).collect())
}

/// Keeps what was counted of columns that went with a deletion, or with a row in the place of theirs, which do not tell of it: a row
/// that outlives them has that still, and what is set when the columns are here has known it.
fn keep_counted(
    conn: &Connection,
    replica: &mut Replica,
    parked: &Parked,
    (deletion, context): (Entry, &VersionVector),
) -> Result<(), StoreError> {
    let places: Vec<u16> = parked.places_of_missing().collect();
    let counted = parked.row.clock.counters.iter().filter(|(column, _)| places.contains(column));
    let mut counters: Vec<_> = counted.cloned().collect();
    if counters.is_empty() {
        return Ok(());
    }
    let deletion = Entry { flags: deletion.flags.with(EntryFlags::DELETED), ..deletion };
    counters.iter_mut().for_each(|(_, counter)| counter.bury(deletion));
    let missing: Vec<String> =
        counters.iter().map(|(column, _)| parked.shape.columns[usize::from(*column)].clone()).collect();
    let values = parked.row.owned_key(&parked.shape);
    let row = RowImage { values, clock: RowClock { counters, ..RowClock::whole(deletion) } };
    let Parked { shape, own, kind, reason, at, .. } = parked;
    let (kind, reason) = (*kind, reason.clone());
    let parking = Parking { shape, row: &row, context, own, missing: &missing, limited: false, kind, reason };
    put(conn, replica, &parking, *at)
}

/// Forgets what waits for columns of a row that an application deleted, or inserted anew: it belongs to the row that went.
/// Not where the rest of that row waits as well, for then it did not know of it. Returns what was counted in it by the columns'
/// names on the wire: the deletion, or the new row, has known that.
pub(crate) fn forget_columns(
    conn: &Connection,
    replica: &mut Replica,
    shape: &TableShape,
    (key, written): (&[Value], Entry),
) -> Result<Vec<(String, Counter)>, StoreError> {
    let waiting = under_key(conn, shape, key)?;
    let mut counted = Vec::new();
    if waiting.iter().any(|parked| parked.missing.is_empty()) {
        return Ok(counted);
    }
    let known: Vec<Parked> = waiting
        .into_iter()
        .filter(|parked| parked.row.clock.entries().all(|entry| replica.have.covers(entry.dot)))
        .collect();
    if known.is_empty() {
        return Ok(counted);
    }
    let have = replica.have.clone();
    for parked in &known {
        let name = |column: u16| parked.shape.columns[usize::from(column)].clone();
        let missing: Vec<u16> = parked.places_of_missing().collect();
        let counters = parked.row.clock.counters.iter().filter(|(column, _)| missing.contains(column));
        counted.extend(counters.map(|(column, counter)| (name(*column), counter.clone())));
        if !parked.is_counted() {
            remove(conn, replica, parked)?;
            keep_counted(conn, replica, parked, (written, &have))?;
        }
    }
    Ok(counted)
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
    let named = |missing: &String| missing.eq_ignore_ascii_case(column);
    let is_cell = |parked: &Parked| !parked.is_counted() && parked.missing.iter().any(named);
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

/// Puts columns into an image and its shape of which another image tells that is sent as well, where it does not have them.
pub(crate) fn keep_silent_of<'a>(
    columns: impl IntoIterator<Item = &'a String>,
    shape: &mut TableShape,
    image: &mut RowImage,
) {
    if image.clock.is_deleted() {
        return;
    }
    for name in columns {
        let Ok(place) = u16::try_from(shape.columns.len()) else { break };
        if shape.columns.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            continue;
        }
        let flags = EntryFlags::ABSENT.with(EntryFlags::SILENT);
        shape.columns.push(name.clone());
        image.clock.columns.push((place, Entry { flags, authored: None, ..image.clock.row }));
        image.values.push(Value::Null);
    }
}

/// A row as a sender without the absent columns would have it; with those of which it says nothing, if these are to be `kept`.
pub(crate) fn without_absent<'a>(
    shape: &'a TableShape,
    row: &'a RowImage,
    kept: Kept,
) -> (Cow<'a, TableShape>, Cow<'a, RowImage>) {
    let is_absent = |column: u16| {
        let flags = row.clock.columns.iter().find(|(other, _)| *other == column).map(|(_, entry)| entry.flags);
        let flags = flags.filter(|flags| flags.contains(EntryFlags::ABSENT) && !shape.key.contains(&column));
        flags.is_some_and(|flags| kept == Kept::Told || !flags.contains(EntryFlags::SILENT))
    };
    let kept: Vec<u16> = (0..).take(shape.columns.len()).filter(|column| !is_absent(*column)).collect();
    if kept.len() == shape.columns.len() || row.clock.is_deleted() {
        return (Cow::Borrowed(shape), Cow::Borrowed(row));
    }
    let place = |column: u16| kept.iter().position(|kept| *kept == column).and_then(|place| u16::try_from(place).ok());
    let moved = |column: u16| place(column).unwrap_or_default();
    let mut clock = row.clock.clone();
    clock.columns.retain(|(column, _)| !is_absent(*column));
    clock.columns.iter_mut().for_each(|(column, _)| *column = moved(*column));
    clock.counters.retain(|(column, _)| !is_absent(*column));
    clock.counters.iter_mut().for_each(|(column, _)| *column = moved(*column));
    let shape = TableShape {
        name: shape.name.clone(),
        columns: kept.iter().map(|column| shape.columns[usize::from(*column)].clone()).collect(),
        key: shape.key.iter().map(|column| moved(*column)).collect(),
    };
    let values = kept.iter().map(|column| row.values[usize::from(*column)].clone()).collect();
    (Cow::Owned(shape), Cow::Owned(RowImage { values, clock }))
}

/// Which cells of an image are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Those that it tells of.
    Told,
    /// Those too of which another image tells.
    AndSilent,
}

/// What of a row waits beside the state of it that is here.
#[derive(Default)]
pub(crate) struct Beside {
    /// What waits.
    pub(crate) waiting: Vec<Parked>,
    /// What the state here has taken into account, where that is not all that this database knows.
    pub(crate) context: Option<VersionVector>,
    /// The columns of which what waits tells, with the deletion in mind that the row here came after.
    pub(crate) told: BTreeSet<String>,
}

/// What this database's state of a row has taken into account, if another state of it waits here: not that one. Where single
/// columns wait and the table here has others in their stead, these may be the same by other names; and where the row here was
/// deleted, or inserted anew, that was done without knowing values that are older.
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
    let (mut context, mut told) = (None, BTreeSet::new());
    let renamed = |parked: &Parked| {
        let known = |name: &String| parked.shape.columns.iter().any(|other| other.eq_ignore_ascii_case(name));
        !shape.columns.iter().all(known)
    };
    let gone = if row.clock.is_deleted() { Some(row.clock.row) } else { row.clock.rest };
    for parked in waiting.iter().filter(|parked| !parked.is_counted()) {
        // Each column for itself: one may be older than the deletion, and another one newer.
        let outdated = |column: u16, gone: &Entry| {
            row.clock.is_deleted() || !(parked.tells_of(gone) || parked.setting(column).order() >= gone.order())
        };
        let (outdated, current): (Vec<u16>, Vec<u16>) =
            parked.places_of_missing().partition(|column| gone.as_ref().is_some_and(|gone| outdated(*column, gone)));
        told.extend(current.iter().map(|column| parked.shape.columns[usize::from(*column)].clone()));
        let unknown: Vec<&Entry> = match !parked.missing.is_empty() && !renamed(parked) {
            false => parked.row.clock.entries().filter(|entry| !parked.own.covers(entry.dot)).collect(),
            true if outdated.is_empty() => continue,
            true => outdated.iter().flat_map(|column| parked.row.clock.entries_of(*column)).collect(),
        };
        let context = context.get_or_insert_with(|| replica.have.clone());
        unknown
            .into_iter()
            .filter(|entry| !entry.is_never())
            .for_each(|entry| context.lower(entry.dot.origin, entry.dot.sequence.saturating_sub(1)));
    }
    Ok(Beside { waiting, context, told })
}
