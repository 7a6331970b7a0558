//! Single columns that are sent for themselves: whoever sent them could not take them in. What it holds of their row itself comes
//! before them, and says nothing of them.

use replication::{
    ConflictKind, ConflictPolicy as _, Counter, Decided, Decision, Entry, EntryFlags, Granularity, LastWriteWins,
    RowImage, Value, VersionVector,
};

use super::columns::{Fit, converted};
use super::placing::told_of;
use super::storing::put_back;
use super::work::RowPlan;
use super::{Stop, Work};
use crate::error::StoreError;
use crate::parked::{self, ParkedKind};
use crate::row_clock::{put_clock, read_clock};

impl Work<'_> {
    /// Merges single columns of a row into the row that is here. All others are marked as silent.
    pub(crate) fn part(&mut self, index: usize, mut part: RowImage, context: &VersionVector) -> Result<(), Stop> {
        if part.clock.is_deleted() {
            let Some(local) = self.local(index, &part.values)? else { return Ok(()) };
            return self.join_counted((index, &part.values), local, &part.clock.counters, context);
        }
        let table = &self.replica.tables[index];
        let unsaid = |column: u16| {
            let flags = part.clock.effective(column).flags;
            flags.contains(EntryFlags::SILENT)
                || flags.contains(EntryFlags::ABSENT)
                || table.shape.key.contains(&column)
        };
        let told: Vec<u16> = (0..).take(table.shape.columns.len()).filter(|column| !unsaid(*column)).collect();
        let key: Vec<Value> = part.owned_key(&table.shape);
        // From here on it is what it was, the state of a row.
        let marked = part.clock.columns.iter_mut().filter(|(_, entry)| !entry.flags.contains(EntryFlags::ABSENT));
        marked.for_each(|(_, entry)| entry.flags = entry.flags.without(EntryFlags::SILENT));
        let row = part.clock.row;
        part.clock.columns.retain(|(_, entry)| *entry != row);
        if told.is_empty() {
            return Ok(());
        }
        if let Some(column) = converted(&table.table.columns, &part, told.iter().map(|column| usize::from(*column))) {
            let reason = format!("column {:?} of {} has another type here", column.name, table.named());
            let missing: Vec<String> =
                told.iter().map(|column| table.wire.columns[usize::from(*column)].clone()).collect();
            return Ok(self.park_part(index, &part, (context, self.own), &missing, (ParkedKind::Schema, reason))?);
        }
        match self.local(index, &key)? {
            None => self.join_waiting((index, &key), &part, &told),
            Some(local) if local.clock.is_deleted() => {
                let deletion = local.clock.row.order();
                let newer = entries_of(&part, &told).any(|entry| entry.order() > deletion);
                if newer && !self.knows(&part, &told) {
                    // The row that it is a state of lives on.
                    return self.row_known(index, part, (context, self.own), Self::local);
                }
                self.record_part((index, &key), &local, &part, &told, context)?;
                // What was counted is kept for a row that comes after it.
                let counted = part.clock.counters.iter().filter(|(column, _)| told.contains(column));
                self.join_counted((index, &key), local, counted, context)
            }
            Some(local) => {
                let granularity = self.replica.tables[index].rules.granularity;
                let apart = if granularity == Granularity::Row { EntryFlags::APART } else { EntryFlags::empty() };
                let local = self.complete((index, &key), local, &part, &told)?;
                let mut remote = local.clone();
                told.iter().for_each(|column| remote.take_cell(*column, &part, apart));
                self.merge_images(index, &key, Some(local), (remote, None), (context, self.own))
            }
        }
    }

    /// Takes note of what was counted in a row that was deleted: whether it counts in the one that is here, or in one that comes after
    /// that, is decided by what set their counters.
    pub(crate) fn join_counted<'c>(
        &mut self,
        (index, key): (usize, &[Value]),
        local: RowImage,
        counted: impl IntoIterator<Item = &'c (u16, Counter)>,
        context: &VersionVector,
    ) -> Result<(), Stop> {
        let mut remote = local.clone();
        for (column, counter) in counted {
            let mut counter = counter.clone();
            counter.bury(Entry::never(self.replica.own));
            remote.clock.counters.retain(|(known, _)| known != column);
            remote.clock.counters.push((*column, counter));
        }
        remote.clock.counters.sort_unstable_by_key(|(column, _)| *column);
        self.merge_images(index, key, Some(local), (remote, None), (context, self.own))
    }

    /// Whether the vector covers what a part tells.
    fn knows(&self, part: &RowImage, told: &[u16]) -> bool {
        entries_of(part, told).all(|entry| self.own.covers(entry.dot))
    }

    /// Puts a part into rows that wait, perhaps for just that.
    fn join_waiting(&mut self, (index, key): (usize, &[Value]), part: &RowImage, told: &[u16]) -> Result<(), Stop> {
        let wire = self.replica.tables[index].wire.clone();
        for waiting in parked::take_whole(self.conn, self.replica, &wire, key)? {
            let (order, missing) = match Fit::of(&waiting.shape, &wire) {
                Fit::Whole(order) => (order, Vec::new()),
                Fit::Partly(order, missing) => (order, told_of((&waiting.shape, &[]), &waiting.row, &missing)),
                Fit::OtherKey => continue,
            };
            if !missing.is_empty() && !waiting.row.clock.is_deleted() {
                let vectors = (&waiting.context, &waiting.own);
                self.park_columns((index, &waiting.shape), &waiting.row, vectors, &missing, false)?;
            }
            let mut row = order.arrange(waiting.row);
            if !row.clock.is_deleted() {
                let absent: Vec<u16> = row.clock.absent().collect();
                let cells = told.iter().filter(|column| absent.contains(column));
                cells.for_each(|column| row.take_cell(*column, part, EntryFlags::empty()));
            }
            self.row_known(index, row, (&waiting.context, &waiting.own), Self::local)?;
        }
        Ok(())
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
        if self.knows(part, told) || context.covers(deletion.clock.row.dot) {
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
            // What was counted in the row that was deleted counts on.
            if let Some(ours) = local.clock.counter(*column) {
                image.join_tallies(*column, ours);
            }
        }
        image.clock.columns.retain(|(column, _)| !silent.contains(column));
        let row = image.clock.row;
        let counters = image.clock.counters.iter_mut().filter(|(column, _)| silent.contains(column));
        counters.for_each(|(_, counter)| counter.confirm(row));
        let plan = RowPlan { clock: image.clock.clone(), values: Some(image.values.clone()), again: true };
        match self.store(index, key, Some(&local), plan) {
            // The row has to do without them.
            Err(stop) if stop.is_constraint() => {
                put_back(self.conn, self.replica, index, key, Some(&local))?;
                Ok(local)
            }
            stored => stored.map(|()| image),
        }
    }

    /// Takes note of a row that is issued without some cells, because they are to come.
    pub(super) fn note_silent(&mut self, index: usize, key: &[Value], image: &RowImage) {
        if image.clock.columns.iter().any(|(column, _)| is_silent(image, *column)) {
            self.silent.insert((index, key.to_vec()));
            self.came_back.push((index, key.to_vec()));
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

/// The entries of some columns, with those of what was counted in them.
fn entries_of<'a>(row: &'a RowImage, columns: &'a [u16]) -> impl Iterator<Item = &'a Entry> {
    columns.iter().flat_map(|column| row.clock.entries_of(*column))
}

/// Whether nothing was said of a cell, which is still to come.
fn is_silent(image: &RowImage, column: u16) -> bool {
    let entry = image.clock.effective(column);
    entry.is_never() && entry.flags.contains(EntryFlags::SILENT)
}
