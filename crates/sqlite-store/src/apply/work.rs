//! Merging rows one by one: what becomes of each is decided, shown to the observer, recorded and written.

use std::panic::{AssertUnwindSafe, catch_unwind};

use replication::{
    ConflictKind, ConflictPolicy as _, Decided, Decision, Dot, Entry, EntryFlags, LastWriteWins, MergeContext, Outcome,
    RowClock, RowImage, Timestamp, Value, VersionVector, merge,
};
use rusqlite::Connection;

use super::{Applied, ApplyOutcome, ApplyRules, HeldKind, Stop};
use crate::capture::give_row_entry;
use crate::conflict_record::record_conflict;
use crate::error::StoreError;
use crate::observer::{IncomingRow, RowOperation, RowVerdict};
use crate::replica::Replica;
use crate::row_clock::{put_clock, read_clock, read_row};
use crate::row_write::{RowWrite, write_row};
use crate::staging::Stage;
use crate::unique;

/// One batch at work.
pub(crate) struct Work<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) replica: &'a mut Replica,
    pub(crate) rules: &'a ApplyRules<'a>,
    /// The version vector before the batch.
    own: &'a VersionVector,
    /// Where rows that are merged later are; none where the batch is whole.
    pub(crate) stage: Option<&'a Stage>,
    pub(crate) applied: Applied,
    /// Rows that a unique index refused.
    pub(crate) deferred: Vec<RowWrite>,
}

/// What a row is to become.
struct RowPlan {
    clock: RowClock,
    values: Option<Vec<Value>>,
    /// Whether another decision was written before and is given up.
    again: bool,
}

impl<'a> Work<'a> {
    pub(crate) fn new(
        conn: &'a Connection,
        replica: &'a mut Replica,
        rules: &'a ApplyRules<'a>,
        own: &'a VersionVector,
        stage: Option<&'a Stage>,
    ) -> Self {
        Self { conn, replica, rules, own, stage, applied: Applied::default(), deferred: Vec::new() }
    }

    /// Settles the rows that unique indexes refused; tells what was done.
    pub(super) fn finish(mut self) -> Result<Applied, Stop> {
        unique::settle(&mut self)?;
        Ok(self.applied)
    }

    /// Merges one row, which follows the table's own shape and has taken `context` into account; writes what becomes of it.
    pub(crate) fn row(&mut self, index: usize, remote: RowImage, context: &VersionVector) -> Result<(), Stop> {
        let key: Vec<Value> = remote.key(&self.replica.tables[index].shape).into_iter().cloned().collect();
        let local = self.local(index, &key)?;
        let table = &self.replica.tables[index];
        let cx = MergeContext {
            shape: &table.shape,
            own: self.own,
            context,
            granularity: table.rules.granularity,
            policy: table.rules.policy.as_ref(),
            columns: &table.columns,
            nodes: self.replica.names(),
        };
        let merged = merge(local.as_ref(), &remote, &cx).map_err(|undecided| {
            let remedy = "correct the values, or the policy";
            Stop::held(HeldKind::Constraint, Some(&table.shape.name), undecided.to_string(), remedy)
        })?;
        if let Some(decided) = &merged.conflict {
            self.record(index, &key, local.as_ref(), &remote, decided)?;
        }
        // What two sides make together may be what the table's constraints forbid, though neither is.
        let mixed = matches!(merged.outcome, Outcome::Store(_) | Outcome::Issue { .. }).then(|| remote.clone());
        let decision = match merged.outcome {
            Outcome::Keep => return Ok(()),
            Outcome::TakeRemote => Self::decision_of(remote),
            Outcome::Store(image) => Self::decision_of(image),
            Outcome::Issue { image, fresh } => {
                let (timestamp, dot) = self.next_change();
                Self::decision_of(image.issued(&fresh, timestamp, dot))
            }
        };
        match (self.store(index, &key, local.as_ref(), decision), mixed, local) {
            (Err(stop), Some(remote), Some(local)) if stop.is_constraint() => {
                self.take_newer(index, &key, &local, &remote, merged.conflict.is_some())
            }
            (stored, ..) => stored,
        }
    }

    /// Writes what was decided, with the observer's consent.
    fn store(&mut self, index: usize, key: &[Value], local: Option<&RowImage>, decision: RowPlan) -> Result<(), Stop> {
        let old = local.filter(|image| !image.clock.is_deleted()).map(|image| image.values.clone());
        let decision = self.consult(index, key, old.as_deref(), decision)?;
        // A row that was written twice has the column entries of the first time.
        let had_columns = local.is_some_and(|image| !image.clock.columns.is_empty()) || decision.again;
        put_clock(self.conn, self.replica, index, key, &decision.clock, had_columns)?;
        if old != decision.values {
            let write = RowWrite { table: index, key: key.to_vec(), old, new: decision.values, clock: decision.clock };
            if !write_row(self.conn, &self.replica.tables[index], &write)? {
                self.deferred.push(write);
            }
            self.applied.rows += 1;
        }
        Ok(())
    }

    /// Takes the newer of two rows as a whole, as a new change that all nodes receive: their columns do not go together.
    fn take_newer(
        &mut self,
        index: usize,
        key: &[Value],
        local: &RowImage,
        remote: &RowImage,
        recorded: bool,
    ) -> Result<(), Stop> {
        let ours = local.clock.newest().order() > remote.clock.newest().order();
        if !recorded {
            let differing = local.values.iter().zip(&remote.values).zip(0..);
            let columns = differing.filter(|((ours, theirs), _)| ours != theirs).map(|(_, column)| column).collect();
            let decision = if ours { Decision::LocalKept } else { Decision::RemoteApplied };
            let policy = LastWriteWins.name().to_owned();
            let decided = Decided { kind: ConflictKind::UpdateOriginDiffers, decision, columns, policy };
            self.record(index, key, Some(local), remote, &decided)?;
        }
        let winner = if ours { local } else { remote };
        let decision = RowPlan { again: true, ..self.reissue(Some(winner.values.clone()), &winner.clock) };
        self.store(index, key, Some(local), decision)
    }

    fn decision_of(image: RowImage) -> RowPlan {
        let values = (!image.clock.is_deleted()).then_some(image.values);
        RowPlan { clock: image.clock, values, again: false }
    }

    /// The stamp and dot of a new change of this node.
    fn next_change(&mut self) -> (Timestamp, Dot) {
        (self.replica.clock.stamp(self.rules.now, self.rules.now), self.replica.next_dot())
    }

    /// A row with these values, or its deletion, as a new change in place of a row with this clock. What its counters hold by
    /// it is what they are set to.
    fn reissue(&mut self, values: Option<Vec<Value>>, clock: &RowClock) -> RowPlan {
        let deleted = if values.is_none() { EntryFlags::DELETED } else { EntryFlags::empty() };
        let (timestamp, dot) = self.next_change();
        let entry = Entry::new(timestamp, dot, EntryFlags::RESOLUTION.with(deleted));
        let mut counters = clock.counters.clone();
        for (column, counter) in &mut counters {
            match &values {
                Some(values) => counter.set_to(entry, values[usize::from(*column)].clone()),
                None => counter.bury(entry),
            }
        }
        RowPlan { clock: RowClock { counters, ..RowClock::whole(entry) }, values, again: false }
    }

    /// This node's state of the row. A baseline row is given its row entry first.
    fn local(&mut self, index: usize, key: &[Value]) -> Result<Option<RowImage>, StoreError> {
        let clock = read_clock(self.conn, self.replica, &self.replica.tables[index], key)?;
        if let Some(clock) = clock.as_ref().filter(|clock| clock.is_deleted()) {
            return Ok(Some(RowImage { values: key.to_vec(), clock: clock.clone() }));
        }
        let Some(values) = read_row(self.conn, &self.replica.tables[index], key)? else { return Ok(None) };
        let clock = match clock {
            Some(clock) => clock,
            None => RowClock::whole(give_row_entry(self.conn, self.replica, index, key)?),
        };
        Ok(Some(RowImage { values, clock }))
    }

    /// Shows the row to the observer and follows its verdict.
    fn consult(
        &mut self,
        index: usize,
        key: &[Value],
        old: Option<&[Value]>,
        decision: RowPlan,
    ) -> Result<RowPlan, Stop> {
        let new = decision.values.as_deref();
        let operation = match (old, new) {
            (None, Some(_)) => RowOperation::Insert,
            (Some(_), None) => RowOperation::Delete,
            (Some(before), Some(after)) if before != after => RowOperation::Update,
            _ => return Ok(decision),
        };
        let Some(observer) = self.rules.observer else { return Ok(decision) };
        let newest = decision.clock.newest();
        let node = self.replica.node_name(newest.dot.origin);
        let shape = &self.replica.tables[index].shape;
        let row =
            IncomingRow { shape, operation, key, old, new, dot: newest.dot, timestamp: newest.timestamp, node: &node };
        let verdict = catch_unwind(AssertUnwindSafe(|| observer.observe(&row)))
            .unwrap_or_else(|_| RowVerdict::Fail("the apply callback panicked".to_owned()));
        let values = match verdict {
            RowVerdict::Apply => return Ok(decision),
            RowVerdict::Skip => old.map(<[Value]>::to_vec),
            RowVerdict::Replace(values) if values.len() == shape.columns.len() => Some(values),
            RowVerdict::Replace(values) => {
                let reason = format!(
                    "the apply callback replaced a row of table {:?} with {} values where it has {} columns",
                    shape.name,
                    values.len(),
                    shape.columns.len()
                );
                return Err(Stop::Outcome(Box::new(ApplyOutcome::Failed { reason })));
            }
            RowVerdict::Fail(reason) => return Err(Stop::Outcome(Box::new(ApplyOutcome::Failed { reason }))),
        };
        Ok(self.reissue(values, &decision.clock))
    }

    fn record(
        &mut self,
        index: usize,
        key: &[Value],
        local: Option<&RowImage>,
        remote: &RowImage,
        decided: &Decided,
    ) -> Result<(), StoreError> {
        let note = record_conflict(self.conn, self.replica, index, key, local, Some(remote), decided, self.rules.now)?;
        self.applied.conflicts.push(note);
        Ok(())
    }
}
