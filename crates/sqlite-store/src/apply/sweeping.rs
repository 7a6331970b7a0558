//! Rows that were deleted elsewhere so long ago that their tombstones are gone.

use replication::{
    ConflictKind, ConflictPolicy as _, Decided, Decision, Dot, Entry, EntryFlags, LastWriteWins, Origin, RowClock,
    RowImage, Timestamp, Value, VersionVector,
};
use rusqlite::Connection;

use super::work::{RowPlan, Work};
use super::{ApplyOutcome, ApplyRules, Stop, of_own_accord};
use crate::bind::bind_from;
use crate::error::StoreError;
use crate::replica::Replica;
use crate::row_clock::read_clock;

/// Deletes rows that `source`, which knows `theirs`, does not have, if it knows of them. Inside the caller's write transaction,
/// like [`apply`](super::apply).
pub(crate) fn sweep_rows(
    conn: &Connection,
    replica: &mut Replica,
    rules: &ApplyRules<'_>,
    (index, keys): (usize, &[Vec<Value>]),
    (source, theirs): (Origin, &VersionVector),
) -> Result<ApplyOutcome, StoreError> {
    of_own_accord(conn, replica, rules, |work| keys.iter().try_for_each(|key| work.sweep(index, key, (source, theirs))))
}

impl Work<'_> {
    fn sweep(&mut self, index: usize, key: &[Value], (source, theirs): (Origin, &VersionVector)) -> Result<(), Stop> {
        let local = self.local(index, key)?.filter(|local| !local.clock.is_deleted());
        let Some(local) = local else { return Ok(()) };
        if !theirs.covers(local.clock.row.dot) {
            // Whoever still has a tombstone of the key would let it win: as a change of now the row stands everywhere.
            let plan = RowPlan { again: true, ..self.reissue(Some(local.values.clone()), &local.clock) };
            return self.store(index, key, Some(&local), plan);
        }
        if !local.clock.entries().all(|entry| theirs.covers(entry.dot)) {
            return self.delete_anew(index, key, &local, source);
        }
        let entry = Entry { flags: EntryFlags::DELETED, authored: None, ..local.clock.row };
        let plan = RowPlan { clock: RowClock::whole(entry), values: None, again: true };
        self.store(index, key, Some(&local), plan)?;
        let stored = read_clock(self.conn, self.replica, &self.replica.tables[index], key)?;
        if stored.is_none_or(|stored| stored.row != entry) {
            // The observer wants it otherwise.
            return Ok(());
        }
        let mut statement = self.conn.prepare_cached(&self.replica.tables[index].sql.clock_drop)?;
        bind_from(&mut statement, 1, key)?;
        statement.raw_execute()?;
        Ok(())
    }

    /// Deletes a row that was written to after it was deleted, as a change of this node, and records what was in it.
    fn delete_anew(&mut self, index: usize, key: &[Value], local: &RowImage, source: Origin) -> Result<(), Stop> {
        let dot = Dot { origin: source, sequence: 0 };
        let clock = RowClock::whole(Entry::new(Timestamp::BASELINE, dot, EntryFlags::DELETED));
        let deletion = RowImage { values: key.to_vec(), clock };
        let (kind, policy) = (ConflictKind::DeleteOriginDiffers, LastWriteWins.name().to_owned());
        let decided = Decided { kind, decision: Decision::RemoteApplied, columns: Vec::new(), policy };
        self.record(index, key, Some(local), &deletion, &decided)?;
        let plan = RowPlan { again: true, ..self.reissue(None, &local.clock) };
        self.store(index, key, Some(local), plan)
    }
}
