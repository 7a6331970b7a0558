//! Single columns that are sent for themselves: whoever sent them does not have them, and sends its own state of their row before
//! them, which says nothing of them.

use replication::{
    ConflictKind, ConflictPolicy as _, Decided, Decision, EntryFlags, Granularity, LastWriteWins, RowImage, Value,
    VersionVector,
};

use super::columns::converted;
use super::work::RowPlan;
use super::{Stop, Work};
use crate::error::StoreError;
use crate::parked::ParkedKind;
use crate::row_clock::{put_clock, read_clock};
use crate::schema::Column;

impl Work<'_> {
    /// Merges single columns of a row into the row that is here. All others are absent.
    pub(crate) fn part(&mut self, index: usize, part: &RowImage, context: &VersionVector) -> Result<(), Stop> {
        let table = &self.replica.tables[index];
        let absent: Vec<u16> = part.clock.absent().collect();
        let told = (0..).take(table.shape.columns.len()).filter(|column| !absent.contains(column));
        let told: Vec<u16> = told.filter(|column| !table.shape.key.contains(column)).collect();
        if told.is_empty() || part.clock.is_deleted() {
            return Ok(());
        }
        let key: Vec<Value> = part.key(&table.shape).into_iter().cloned().collect();
        let apart = if table.rules.granularity == Granularity::Row { EntryFlags::APART } else { EntryFlags::empty() };
        let of_type = |column: &Column| {
            (ParkedKind::Schema, format!("column {:?} of {} has another type here", column.name, table.named()))
        };
        let waits = converted(&table.table.columns, part).map(of_type);
        let local = self.local(index, &key)?;
        let table = &self.replica.tables[index];
        // The row that it is a part of may wait.
        let no_row = || (ParkedKind::Constraint, format!("a row of {} waits, and this column of it", table.named()));
        match (waits.or_else(|| local.is_none().then(no_row)), local) {
            (Some((kind, reason)), _) => {
                let columns = &table.wire.columns;
                let missing: Vec<String> = told.iter().map(|column| columns[usize::from(*column)].clone()).collect();
                let (shape, vectors) = (table.wire.clone(), (context, self.own));
                Ok(self.park_part(&shape, part, vectors, &missing, (kind, reason))?)
            }
            (None, Some(local)) if !local.clock.is_deleted() => {
                let local = self.complete((index, &key), local, part, &told)?;
                let mut remote = local.clone();
                told.iter().for_each(|column| remote.take_cell(*column, part, apart));
                self.merge_images(index, &key, Some(local), (remote, None), (context, self.own))
            }
            (None, Some(deletion)) => Ok(self.record_part((index, &key), &deletion, part, &told, context)?),
            (None, None) => Ok(()),
        }
    }

    /// Records columns of a row that a deletion here took, which did not know of them: the row that came before them was without
    /// them.
    fn record_part(
        &mut self,
        (index, key): (usize, &[Value]),
        deletion: &RowImage,
        part: &RowImage,
        told: &[u16],
        context: &VersionVector,
    ) -> Result<(), StoreError> {
        let known = told.iter().all(|column| self.own.covers(part.clock.effective(*column).dot));
        if known || context.covers(deletion.clock.row.dot) {
            return Ok(());
        }
        let (kind, policy) = (ConflictKind::UpdateDeleted, LastWriteWins.name().to_owned());
        let decided = Decided { kind, decision: Decision::LocalKept, columns: told.to_vec(), policy };
        self.record(index, key, Some(deletion), part, &decided)
    }

    /// Puts cells into a row that came back without them: they are a part of the change that it is, for nobody has been told of that
    /// yet. What they were before the deletion is known, and would be older than it.
    fn complete(
        &mut self,
        (index, key): (usize, &[Value]),
        local: RowImage,
        part: &RowImage,
        told: &[u16],
    ) -> Result<RowImage, Stop> {
        let silent: Vec<u16> = told.iter().copied().filter(|column| is_silent(&local, *column)).collect();
        if silent.is_empty() || !self.silent.contains(&(index, key.to_vec())) {
            return Ok(local);
        }
        let mut image = local.clone();
        for column in &silent {
            image.take_cell(*column, part, EntryFlags::empty());
        }
        image.clock.columns.retain(|(column, _)| !silent.contains(column));
        let row = image.clock.row;
        let counters = image.clock.counters.iter_mut().filter(|(column, _)| silent.contains(column));
        counters.for_each(|(_, counter)| counter.confirm(row));
        let plan = RowPlan { clock: image.clock.clone(), values: Some(image.values.clone()), again: true };
        self.store(index, key, Some(&local), plan)?;
        Ok(image)
    }

    /// Takes note of a row that is issued without some cells, because they are to come.
    pub(super) fn note_silent(&mut self, index: usize, key: &[Value], image: &RowImage) {
        if image.clock.columns.iter().any(|(column, _)| is_silent(image, *column)) {
            self.silent.insert((index, key.to_vec()));
        }
    }

    /// Cells that did not come, because this database has known and deleted them, are what the row that came back says of them.
    pub(super) fn settle_silent(&mut self) -> Result<(), StoreError> {
        for (index, key) in std::mem::take(&mut self.silent) {
            let clock = read_clock(self.conn, self.replica, &self.replica.tables[index], &key)?;
            let Some(mut clock) = clock.filter(|clock| !clock.is_deleted()) else { continue };
            clock.columns.retain(|(_, entry)| !(entry.is_never() && entry.flags.contains(EntryFlags::SILENT)));
            put_clock(self.conn, self.replica, index, &key, &clock, true)?;
        }
        Ok(())
    }
}

/// Whether nothing was said of a cell, which is still to come.
fn is_silent(image: &RowImage, column: u16) -> bool {
    let entry = image.clock.effective(column);
    entry.is_never() && entry.flags.contains(EntryFlags::SILENT)
}
