//! Apply: a batch of a peer becomes rows, clocks, conflict records and version vector, in one write transaction.

mod changing;
pub(crate) mod columns;
mod parts;
mod placing;
mod reissuing;
mod staged;
mod storing;
mod sweeping;
mod together;
mod work;

use replication::{Admission, Batch, RowImage, TableRows, VersionVector, admit, lacks_dropped, misses_dropped};
use rusqlite::Connection;

pub(crate) use placing::told_of;
pub(crate) use reissuing::reissue_rows;
pub(crate) use staged::merge_staged;
pub(crate) use sweeping::sweep_rows;
pub(crate) use work::{Work, unknown_entry};

use crate::conflict_record::ConflictNote;
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::observer::RowObserver;
use crate::parked::ParkedNote;
use crate::replica::{Replica, latest_stamp};
use crate::staging::{self, Turn};
use crate::table_sql::AT_ONCE;

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
    /// What became of them.
    pub written: RowCounts,
    /// Rows that were staged, to be merged when the rest of their catch-up is here.
    pub staged: usize,
    /// Conflicts that were decided and recorded.
    pub conflicts: Vec<ConflictNote>,
    /// Why rows wait that could not be taken in, where that was not told before.
    pub parked: Vec<ParkedNote>,
    /// Whether the catch-up that was to be merged was given up, and is to be asked for again.
    pub started_over: bool,
}

impl Applied {
    /// Adds what another transaction of the same batch did.
    pub(crate) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.written.add(other.written);
        self.staged += other.staged;
        self.conflicts.extend(other.conflicts);
        self.parked.extend(other.parked);
        self.started_over |= other.started_over;
    }
}

/// Rows that changes of peers wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Rows that appeared.
    pub inserted: u64,
    /// Rows of which columns changed.
    pub updated: u64,
    /// Rows that went.
    pub deleted: u64,
}

impl RowCounts {
    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
    }

    /// Counts one row by what it was and what it is.
    pub(crate) const fn count(&mut self, was_there: bool, is_there: bool) {
        match (was_there, is_there) {
            (false, true) => self.inserted += 1,
            (true, true) => self.updated += 1,
            (true, false) => self.deleted += 1,
            (false, false) => {}
        }
    }
}

/// Why a batch cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What kind of reason.
    pub kind: HeldKind,
    /// The table, if it is one's, by its name on the wire: peers are told of it too.
    pub table: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

/// Kinds of reasons to hold a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldKind {
    /// A stamp is further ahead of this machine's clock than is allowed.
    ClockSkew,
    /// A row violates a constraint of the table here.
    Constraint,
    /// It claims what cannot be, or what is not believed so often.
    Claim,
}

/// What an apply is governed by.
pub(crate) struct ApplyRules<'a> {
    /// Milliseconds since 1970.
    pub(crate) now: i64,
    /// How far ahead of `now` a stamp may be, in milliseconds.
    pub(crate) max_skew: i64,
    /// How many rows are merged in one transaction at most.
    pub(crate) max_rows: usize,
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
    /// What is wrong, if a constraint of the table refused a row.
    pub(crate) fn constraint(&self) -> Option<String> {
        let Self::Outcome(outcome) = self else { return None };
        match &**outcome {
            ApplyOutcome::Held(Held { kind: HeldKind::Constraint, reason, .. }) => Some(reason.clone()),
            _ => None,
        }
    }

    /// Whether a constraint of the table refused a row.
    pub(crate) fn is_constraint(&self) -> bool {
        self.constraint().is_some()
    }

    pub(crate) fn held(kind: HeldKind, table: Option<&str>, reason: String, remedy: &str) -> Self {
        let held = Held { kind, table: table.map(str::to_owned), reason, remedy: remedy.to_owned() };
        Self::Outcome(Box::new(ApplyOutcome::Held(held)))
    }
}

/// Applies a batch inside the caller's write transaction, in which the change log has been captured. Unless the result
/// is [`ApplyOutcome::Applied`], the caller rolls back and loads the replica again. Afterwards [`Replica::merging`] tells
/// whether a catch-up is complete and is to be merged with [`merge_staged`].
pub(crate) fn apply(
    conn: &Connection,
    replica: &mut Replica,
    batch: Batch,
    rules: &ApplyRules<'_>,
) -> Result<ApplyOutcome, StoreError> {
    let nothing = VersionVector::new();
    let position = replica.received.get(&batch.source).map_or(&nothing, |received| &received.position);
    match admit(&replica.have, position, &batch) {
        Admission::Known => return Ok(ApplyOutcome::Known),
        Admission::Gap => return Ok(ApplyOutcome::Gap),
        Admission::Apply => {}
    }
    let received = replica.received.get(&batch.source);
    if received.map_or(0, |received| received.held.beyond(&batch.from).fingerprint()) != batch.held {
        // What was left out of it is not what is here.
        return Ok(ApplyOutcome::Gap);
    }
    if lacks_deletions(replica, &batch) {
        return Ok(ApplyOutcome::Gap);
    }
    outcome(apply_admitted(conn, replica, batch, rules))
}

/// Whether tombstones that one side lacks are gone at the other: rows that they deleted are to be swept away first.
fn lacks_deletions(replica: &Replica, batch: &Batch) -> bool {
    let (ours, theirs) = ((&replica.have, &replica.dropped.upto), (&batch.context, &batch.dropped));
    lacks_dropped(ours, theirs) || lacks_dropped(theirs, ours)
}

/// Whether they went since a catch-up began of which this is a part: what is here of that is not to be merged.
pub(crate) fn is_outdated(replica: &Replica, batch: &Batch) -> bool {
    let Some(received) = replica.received.get(&batch.source) else { return false };
    let Some((context, dropped)) = &received.began else { return false };
    let ours = (&replica.have, &replica.dropped.upto);
    misses_dropped((&replica.have, dropped), &batch.dropped) || lacks_dropped((context, dropped), ours)
}

fn apply_admitted(
    conn: &Connection,
    replica: &mut Replica,
    batch: Batch,
    rules: &ApplyRules<'_>,
) -> Result<Applied, Stop> {
    for rows in &batch.tables {
        observe_stamps(replica, rows, rules)?;
    }
    let held = replica.received.get(&batch.source).is_some_and(|received| !received.held.is_empty());
    if batch.is_complete() && replica.have.covers_all(&batch.from) && !held {
        apply_whole(conn, replica, batch, rules)
    } else {
        staged::stage(conn, replica, batch, rules)
    }
}

/// Merges a complete batch.
fn apply_whole(
    conn: &Connection,
    replica: &mut Replica,
    batch: Batch,
    rules: &ApplyRules<'_>,
) -> Result<Applied, Stop> {
    let own = replica.have.clone();
    let Batch { context, dropped, tables, .. } = batch;
    let mut work = Work::new(conn, replica, rules, &own, None);
    for table in in_order(tables) {
        let turn = turn(&table);
        let TableRows { shape, rows, context: passed_on, limited, parts } = table;
        let context = passed_on.as_ref().unwrap_or(&context);
        let place = work.place(&shape);
        let mut rows = rows.into_iter();
        while rows.len() > 0 {
            // A row that is passed on may come more than once.
            let next = if turn == Turn::Own { AT_ONCE } else { 1 };
            let mut fitting = Vec::new();
            for row in rows.by_ref().take(next) {
                fitting.extend(work.fitting(&place, (&shape, &parts), row, context, limited)?);
            }
            merge_rows(&mut work, fitting, context, !parts.is_empty())?;
        }
    }
    let applied = work.finish()?;
    replica.have.join(&context);
    inherit(conn, replica, &dropped, rules)?;
    staging::clear_known(conn, replica)?;
    replica.save(conn, &own)?;
    fail_point("apply-before-commit");
    Ok(applied)
}

/// Merges rows of one table, or parts of them.
fn merge_rows(
    work: &mut Work<'_>,
    rows: Vec<(usize, RowImage)>,
    context: &VersionVector,
    parts: bool,
) -> Result<(), Stop> {
    fail_point("apply-between-rows");
    let mut rows = rows;
    if let (Some((index, _)), false) = (rows.first(), parts) {
        let (index, images): (usize, Vec<&RowImage>) = (*index, rows.iter().map(|(_, row)| row).collect());
        if work.insert_together(index, &images, context)? {
            return Ok(());
        }
        rows = work.merge_together(index, rows, context)?;
    }
    for (index, row) in rows {
        if parts {
            work.part(index, row, context)?;
        } else {
            work.row(index, row, context)?;
        }
    }
    Ok(())
}

/// Who knows what another knows lacks the tombstones that are gone there as well.
fn inherit(
    conn: &Connection,
    replica: &mut Replica,
    dropped: &VersionVector,
    rules: &ApplyRules<'_>,
) -> Result<(), StoreError> {
    if replica.dropped.upto.covers_all(dropped) {
        return Ok(());
    }
    replica.dropped.inherit(dropped, latest_stamp(rules.now, rules.max_skew));
    replica.dropped.save(conn)
}

/// Rows that are passed on as they came go first: the sender's own state of them may have taken a part of them in. Single columns
/// of rows go last: into these rows.
fn in_order(mut tables: Vec<TableRows>) -> Vec<TableRows> {
    tables.sort_by_key(turn);
    tables
}

fn turn(table: &TableRows) -> Turn {
    match &table.context {
        _ if !table.parts.is_empty() => Turn::Parts,
        Some(_) => Turn::PassedOn,
        None => Turn::Own,
    }
}

/// Does something with rows of this database's own accord, inside the caller's write transaction.
fn of_own_accord(
    conn: &Connection,
    replica: &mut Replica,
    rules: &ApplyRules<'_>,
    work_on: impl FnOnce(&mut Work<'_>) -> Result<(), Stop>,
) -> Result<ApplyOutcome, StoreError> {
    let own = replica.have.clone();
    let mut work = Work::new(conn, replica, rules, &own, None);
    let applied = work_on(&mut work).and_then(|()| work.finish());
    outcome(applied.and_then(|applied| {
        replica.save(conn, &own)?;
        Ok(applied)
    }))
}

fn outcome(result: Result<Applied, Stop>) -> Result<ApplyOutcome, StoreError> {
    match result {
        Ok(applied) => Ok(ApplyOutcome::Applied(applied)),
        Err(Stop::Outcome(outcome)) => Ok(*outcome),
        Err(Stop::Store(error)) => Err(error),
    }
}

/// Raises the clock by every stamp of a table's rows; refuses stamps from too far in the future.
fn observe_stamps(replica: &mut Replica, rows: &TableRows, rules: &ApplyRules<'_>) -> Result<(), Stop> {
    let limit = rules.now.saturating_add(rules.max_skew);
    for entry in rows.rows.iter().flat_map(|row| row.clock.entries().chain(&row.clock.rest)) {
        // A resolution stands for a change that was before it.
        let latest = entry.authored().0.max(entry.timestamp).millis();
        if latest > limit {
            let ahead = latest - rules.now;
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
