//! Apply: a batch of a peer becomes rows, clocks, conflict records and version vector, in one write transaction.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use replication::{
    Admission, Batch, Decided, Entry, EntryFlags, MergeContext, Outcome, RowClock, RowImage, TableRows, Value,
    VersionVector, admit, merge,
};
use rusqlite::Connection;

use crate::capture::give_row_entry;
use crate::conflict_record::{ConflictNote, record_conflict};
use crate::error::StoreError;
use crate::observer::{IncomingRow, RowObserver, RowOperation, RowVerdict};
use crate::replica::Replica;
use crate::row_clock::{put_clock, read_clock, read_row};
use crate::row_write::{RowWrite, settle_unique, write_row};

/// What became of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum ApplyOutcome {
    /// It is durable.
    Applied(Applied),
    /// Everything in it was known; nothing was done.
    Known,
    /// It rests on something that is missing here; nothing was done.
    Gap,
    /// It cannot be taken as things are; nothing was done. Trying again helps once the reason is gone.
    Held(Held),
    /// The observer rolled it back; nothing was done. It is to be tried again.
    Failed {
        /// What the observer said.
        reason: String,
    },
}

/// What an applied batch did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    /// Rows whose content changed.
    pub rows: usize,
    /// Conflicts that were decided and recorded.
    pub conflicts: Vec<ConflictNote>,
}

/// Why a batch cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What kind of reason.
    pub kind: HeldKind,
    /// The table, if it is one's.
    pub table: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

/// Kinds of reasons to hold a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldKind {
    /// A table or its columns are not the same on both sides.
    SchemaMismatch,
    /// A stamp is further ahead of this machine's clock than is allowed.
    ClockSkew,
    /// A row violates a constraint of the table here.
    Constraint,
}

/// What an apply is governed by.
pub(crate) struct ApplyRules<'a> {
    /// Milliseconds since 1970.
    pub(crate) now: i64,
    /// How far ahead of `now` a stamp may be, in milliseconds.
    pub(crate) max_skew: i64,
    pub(crate) observer: Option<&'a dyn RowObserver>,
}

/// A stop within a batch: everything done so far is to be rolled back.
pub(crate) enum Stop {
    Store(StoreError),
    Outcome(Box<ApplyOutcome>),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Stop {
    pub(crate) fn held(kind: HeldKind, table: Option<&str>, reason: String, remedy: &str) -> Self {
        let held = Held { kind, table: table.map(str::to_owned), reason, remedy: remedy.to_owned() };
        Self::Outcome(Box::new(ApplyOutcome::Held(held)))
    }
}

/// Applies a batch inside the caller's write transaction, in which the change log has been captured. Unless the result
/// is [`ApplyOutcome::Applied`], the caller rolls back and loads the replica again.
pub(crate) fn apply(
    conn: &Connection,
    replica: &mut Replica,
    batch: Batch,
    rules: &ApplyRules<'_>,
) -> Result<ApplyOutcome, StoreError> {
    let nothing = VersionVector::new();
    match admit(&replica.have, replica.received.get(&batch.source).unwrap_or(&nothing), &batch) {
        Admission::Known => return Ok(ApplyOutcome::Known),
        Admission::Gap => return Ok(ApplyOutcome::Gap),
        Admission::Apply => {}
    }
    match apply_admitted(conn, replica, batch, rules) {
        Ok(applied) => Ok(ApplyOutcome::Applied(applied)),
        Err(Stop::Outcome(outcome)) => Ok(*outcome),
        Err(Stop::Store(error)) => Err(error),
    }
}

fn apply_admitted(
    conn: &Connection,
    replica: &mut Replica,
    batch: Batch,
    rules: &ApplyRules<'_>,
) -> Result<Applied, Stop> {
    let complete = batch.is_complete();
    let Batch { source, to, context, tables, .. } = batch;
    for rows in &tables {
        observe_stamps(replica, rows, rules)?;
    }
    let own = replica.have.clone();
    let mut work =
        Work { conn, replica, rules, own: &own, context: &context, applied: Applied::default(), deferred: Vec::new() };
    for rows in tables {
        work.table(rows)?;
    }
    let Work { mut applied, deferred, .. } = work;
    settle_unique(conn, replica, deferred, rules.now, &mut applied.conflicts)?;
    if complete {
        replica.have.join(&context);
        if replica.received.remove(&source).is_some() {
            conn.prepare_cached("DELETE FROM main._sync_received WHERE source = ?1")?.execute([source.as_bytes()])?;
        }
    } else {
        let position = replica.received.entry(source).or_default();
        position.join(&to);
        let text =
            serde_json::to_string(position).map_err(|error| StoreError::Encoding { reason: error.to_string() })?;
        conn.prepare_cached(
            "INSERT INTO main._sync_received (source, position) VALUES (?1, ?2) \
             ON CONFLICT DO UPDATE SET position = excluded.position",
        )?
        .execute(rusqlite::params![source.as_bytes(), text])?;
    }
    replica.save(conn, &own)?;
    Ok(applied)
}

/// Raises the clock by every stamp of a table's rows; refuses stamps from too far in the future.
fn observe_stamps(replica: &mut Replica, rows: &TableRows, rules: &ApplyRules<'_>) -> Result<(), Stop> {
    let limit = rules.now.saturating_add(rules.max_skew);
    for entry in rows.rows.iter().flat_map(|row| row.clock.entries()) {
        if entry.timestamp.millis() > limit {
            let ahead = entry.timestamp.millis() - rules.now;
            let reason = format!(
                "a change of node {} is stamped {} s ahead of this machine's clock",
                replica.node_name(entry.dot.origin),
                ahead / 1000
            );
            let remedy = "set the clocks of both machines (NTP), or raise max_clock_skew";
            return Err(Stop::held(HeldKind::ClockSkew, Some(&rows.shape.name), reason, remedy));
        }
        replica.clock.observe(entry.timestamp);
    }
    Ok(())
}

/// One batch at work.
struct Work<'a> {
    conn: &'a Connection,
    replica: &'a mut Replica,
    rules: &'a ApplyRules<'a>,
    /// The version vector before the batch.
    own: &'a VersionVector,
    context: &'a VersionVector,
    applied: Applied,
    /// Rows that a unique index refused.
    deferred: Vec<RowWrite>,
}

/// What a row is to become.
struct Decision {
    clock: RowClock,
    values: Option<Vec<Value>>,
}

impl Work<'_> {
    fn table(&mut self, rows: TableRows) -> Result<(), Stop> {
        let index = self.replica.table_by_name(&rows.shape.name).ok_or_else(|| {
            let reason = format!("table {:?} is not synced here", rows.shape.name);
            let remedy = "create the table with a primary key here as well, or drop it on the other nodes";
            Stop::held(HeldKind::SchemaMismatch, Some(&rows.shape.name), reason, remedy)
        })?;
        let order = ColumnOrder::between(&rows.shape, &self.replica.tables[index].shape)?;
        for row in rows.rows {
            self.row(index, order.arrange(row))?;
        }
        Ok(())
    }

    fn row(&mut self, index: usize, remote: RowImage) -> Result<(), Stop> {
        let key: Vec<Value> = remote.key(&self.replica.tables[index].shape).into_iter().cloned().collect();
        let local = self.local(index, &key)?;
        let table = &self.replica.tables[index];
        let cx = MergeContext {
            shape: &table.shape,
            own: self.own,
            context: self.context,
            granularity: table.rules.granularity,
            policy: table.rules.policy.as_ref(),
        };
        let merged = merge(local.as_ref(), &remote, &cx);
        if let Some(decided) = &merged.conflict {
            self.record(index, &key, local.as_ref(), &remote, decided)?;
        }
        let decision = match merged.outcome {
            Outcome::Keep => return Ok(()),
            Outcome::TakeRemote => Self::decision_of(remote),
            Outcome::Store(image) => Self::decision_of(image),
            Outcome::Reissue { values, flags } => self.reissue(values, flags),
        };
        let old = local.as_ref().filter(|image| !image.clock.is_deleted()).map(|image| image.values.clone());
        let decision = self.consult(index, &key, old.as_deref(), decision)?;
        let had_columns = local.as_ref().is_some_and(|image| !image.clock.columns.is_empty());
        put_clock(self.conn, self.replica, index, &key, &decision.clock, had_columns)?;
        if old != decision.values {
            self.applied.rows += 1;
            let write = RowWrite { table: index, key, old, new: decision.values, clock: decision.clock };
            if !write_row(self.conn, &self.replica.tables[index], &write)? {
                self.deferred.push(write);
            }
        }
        Ok(())
    }

    fn decision_of(image: RowImage) -> Decision {
        let values = (!image.clock.is_deleted()).then_some(image.values);
        Decision { clock: image.clock, values }
    }

    fn reissue(&mut self, values: Option<Vec<Value>>, flags: EntryFlags) -> Decision {
        let timestamp = self.replica.clock.stamp(self.rules.now, self.rules.now);
        let entry = Entry { timestamp, dot: self.replica.next_dot(), flags };
        Decision { clock: RowClock::whole(entry), values }
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
        decision: Decision,
    ) -> Result<Decision, Stop> {
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
        let deleted = if values.is_none() { EntryFlags::DELETED } else { EntryFlags::empty() };
        Ok(self.reissue(values, EntryFlags::RESOLUTION.with(deleted)))
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

/// How the sender's columns map to this database's.
enum ColumnOrder {
    Same,
    /// For each local column, the sender's index; for each local key column, its place in the sender's key.
    Permuted {
        columns: Vec<usize>,
        key: Vec<usize>,
    },
}

impl ColumnOrder {
    fn between(remote: &replication::TableShape, local: &replication::TableShape) -> Result<Self, Stop> {
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

    fn arrange(&self, mut row: RowImage) -> RowImage {
        let Self::Permuted { columns, key } = self else { return row };
        let order = if row.clock.is_deleted() { key } else { columns };
        let values = order.iter().map(|place| row.values[*place].clone()).collect();
        for (column, _) in &mut row.clock.columns {
            let local = columns.iter().position(|place| *place == usize::from(*column)).unwrap_or(0);
            *column = u16::try_from(local).unwrap_or(u16::MAX);
        }
        row.clock.columns.sort_unstable_by_key(|(column, _)| *column);
        RowImage { values, clock: row.clock }
    }
}
