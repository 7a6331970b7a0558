//! Where rows of peers belong, and what of them has no place here.

use replication::{Entry, EntryFlags, RowClock, RowImage, TableShape, VersionVector};

use super::Work;
use super::columns::{ColumnOrder, Fit};
use crate::error::StoreError;
use crate::parked::{self, ParkedKind, Parking, Speaks};

/// Where rows of a peer's table belong.
pub(super) enum Place {
    /// The table, how its columns are ordered, and the peer's columns that it does not have.
    Table(usize, ColumnOrder, Vec<String>),
    /// No table of that name is synced here.
    Nowhere,
    /// The table, which has another key.
    OtherKey(usize),
}

impl Work<'_> {
    /// Where rows of a shape belong.
    pub(super) fn place(&self, shape: &TableShape) -> Place {
        let Some(index) = self.replica.table_by_wire_name(&shape.name) else { return Place::Nowhere };
        match Fit::of(shape, &self.replica.tables[index].wire) {
            Fit::Whole(order) => Place::Table(index, order, Vec::new()),
            Fit::Partly(order, missing) => Place::Table(index, order, missing),
            Fit::OtherKey => Place::OtherKey(index),
        }
    }

    /// A row in the order of the table that it belongs to; what of it has no place here is parked.
    pub(super) fn fitting(
        &mut self,
        place: &Place,
        (shape, parts): (&TableShape, &[String]),
        row: RowImage,
        context: &VersionVector,
        limited: bool,
    ) -> Result<Option<(usize, RowImage)>, StoreError> {
        let own = self.own;
        let row = sound(shape, row);
        let (kind, reason) = match place {
            Place::Table(index, order, missing) => {
                let missing = told_of((shape, parts), &row, missing);
                if row.clock.is_deleted() {
                    self.park_counted((*index, shape), &row, (context, own), &missing)?;
                } else if !missing.is_empty() {
                    self.park_columns((*index, shape), &row, (context, own), &missing, limited)?;
                }
                let mut row = order.arrange(row);
                if !parts.is_empty() {
                    mark_others(parts, &self.replica.tables[*index].wire, &mut row);
                }
                return Ok(Some((*index, row)));
            }
            Place::Nowhere => match self.replica.wire_selection.exclusion(&shape.name) {
                Some(exclusion) => (ParkedKind::Excluded, exclusion.to_string()),
                None => (ParkedKind::Schema, self.nowhere(&shape.name)),
            },
            Place::OtherKey(index) => {
                let table = self.replica.tables[*index].named();
                (ParkedKind::Schema, format!("{table} has another key on the peer"))
            }
        };
        // What is known already waits already, or is in the table.
        if !row.clock.entries().all(|entry| own.covers(entry.dot)) {
            self.park(Parking { shape, row: &row, context, own, missing: parts, limited, kind, reason })?;
        }
        Ok(None)
    }

    /// Parks what was counted, in columns that are not here, in a row that was deleted: a row that outlives it still has that.
    fn park_counted(
        &mut self,
        (index, shape): (usize, &TableShape),
        deletion: &RowImage,
        vectors: (&VersionVector, &VersionVector),
        missing: &[String],
    ) -> Result<(), StoreError> {
        let name = |column: u16| &shape.columns[usize::from(column)];
        let counted = deletion.clock.counters.iter().filter(|(column, _)| is_among(missing, name(*column)));
        let counters: Vec<_> = counted.cloned().collect();
        if counters.is_empty() {
            return Ok(());
        }
        let missing: Vec<String> = counters.iter().map(|(column, _)| name(*column).clone()).collect();
        let clock = RowClock { counters, ..deletion.clock.clone() };
        let row = RowImage { values: deletion.values.clone(), clock };
        self.park_columns((index, shape), &row, vectors, &missing, false)
    }

    /// Parks what a row holds in columns that are not here.
    pub(crate) fn park_columns(
        &mut self,
        (index, shape): (usize, &TableShape),
        row: &RowImage,
        (context, own): (&VersionVector, &VersionVector),
        missing: &[String],
        limited: bool,
    ) -> Result<(), StoreError> {
        // What is known already is not news because it has a column more.
        if row.clock.entries().all(|entry| own.covers(entry.dot)) {
            return Ok(());
        }
        let places = self.replica.places();
        let wait: Vec<String> =
            missing.iter().filter(|column| places.has_column(&shape.name, column)).cloned().collect();
        if wait.is_empty() {
            // They were dropped everywhere while this was on its way.
            let speaks = Speaks::Columns(missing);
            return parked::supersede(self.conn, self.replica, (shape, row), context, speaks).map(|_| ());
        }
        let missing = wait;
        let table = self.replica.tables[index].named();
        let (kind, reason) = parked::reason_of_columns(&self.replica.wire_selection, (&shape.name, &table), &missing);
        self.park(Parking { shape, row, context, own, missing: &missing, limited, kind, reason })
    }

    /// Parks columns that have their place and cannot be written there.
    pub(super) fn park_part(
        &mut self,
        index: usize,
        row: &RowImage,
        (context, own): (&VersionVector, &VersionVector),
        missing: &[String],
        (kind, reason): (ParkedKind, String),
    ) -> Result<(), StoreError> {
        let shape = &self.replica.tables[index].wire.clone();
        self.park(Parking { shape, row, context, own, missing, limited: false, kind, reason })
    }

    /// Why rows of a table have no place.
    fn nowhere(&self, name: &str) -> String {
        match self.replica.table_by_name(name).map(|index| &self.replica.tables[index].wire.name) {
            None => format!("table {name:?} is not synced here"),
            Some(other) => {
                format!("table {name:?} of peers is none of those here: the one of that name is {other:?} to peers")
            }
        }
    }

    fn park(&mut self, parking: Parking<'_>) -> Result<(), StoreError> {
        let note = parked::park(self.conn, self.replica, parking, self.rules.now)?;
        self.applied.parked.extend(note);
        Ok(())
    }

    /// Parks a row that has its place and cannot be written there.
    pub(super) fn park_row(
        &mut self,
        index: usize,
        row: &RowImage,
        (context, own): (&VersionVector, &VersionVector),
        kind: ParkedKind,
        reason: String,
    ) -> Result<(), StoreError> {
        let shape = self.replica.tables[index].wire.clone();
        self.park(Parking { shape: &shape, row, context, own, missing: &[], limited: false, kind, reason })
    }
}

/// Those of some columns of a shape of which a row of it tells.
pub(crate) fn told_of((shape, parts): (&TableShape, &[String]), row: &RowImage, columns: &[String]) -> Vec<String> {
    let silent: Vec<&String> = row.clock.absent().map(|column| &shape.columns[usize::from(column)]).collect();
    let is_told = |column: &&String| !silent.contains(column) && (parts.is_empty() || is_among(parts, column));
    columns.iter().filter(is_told).cloned().collect()
}

fn is_among(names: &[String], name: &str) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Marks the cells of all other columns: the row is not sent for them.
fn mark_others(parts: &[String], shape: &TableShape, row: &mut RowImage) {
    if row.clock.is_deleted() {
        return;
    }
    for (column, _) in (0..).zip(&shape.columns).filter(|(_, name)| !is_among(parts, name)) {
        let entry = *row.clock.effective(column);
        row.clock.set_entry(column, Entry { flags: entry.flags.with(EntryFlags::SILENT), ..entry });
    }
}

/// An image as it may have come: a key is always told, what is silent is absent, and what is absent was not counted in.
fn sound(shape: &TableShape, mut row: RowImage) -> RowImage {
    if row.clock.is_deleted() || row.clock.columns.is_empty() {
        return row;
    }
    let unmarked = |column: u16, flags: EntryFlags| match flags.contains(EntryFlags::ABSENT) {
        true if shape.key.contains(&column) => flags.without(EntryFlags::ABSENT.with(EntryFlags::SILENT)),
        true => flags,
        false => flags.without(EntryFlags::SILENT),
    };
    row.clock.columns.iter_mut().for_each(|(column, entry)| entry.flags = unmarked(*column, entry.flags));
    let absent: Vec<u16> = row.clock.absent().collect();
    row.clock.counters.retain(|(column, _)| !absent.contains(column));
    row
}
