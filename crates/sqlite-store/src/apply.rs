//! Apply: a batch of a peer becomes rows, clocks, conflict records and version vector, in one write transaction.

pub(crate) mod columns;
mod parts;
mod placing;
mod storing;
mod sweeping;
mod work;

use replication::{Admission, Batch, Origin, TableRows, VersionVector, admit, lacks_dropped, misses_dropped};
use rusqlite::Connection;

pub(crate) use placing::told_of;
pub(crate) use sweeping::sweep_rows;
pub(crate) use work::{Work, unknown_entry};

use crate::conflict_record::ConflictNote;
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::observer::RowObserver;
use crate::parked::ParkedNote;
use crate::replica::{Replica, latest_stamp};
use crate::staging::exchanges::{self, Exchanged};
use crate::staging::{self, Stage, Staged, Turn};

/// Rows merged in one transaction where there are more than fit one.
const STEP_ROWS: usize = 5_000;

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
        self.staged += other.staged;
        self.conflicts.extend(other.conflicts);
        self.parked.extend(other.parked);
        self.started_over |= other.started_over;
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
        stage(conn, replica, batch, rules)
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
    for TableRows { shape, rows, context: passed_on, limited, parts } in in_order(tables) {
        let context = passed_on.as_ref().unwrap_or(&context);
        let place = work.place(&shape);
        for row in rows {
            fail_point("apply-between-rows");
            match work.fitting(&place, (&shape, &parts), row, context, limited)? {
                Some((index, row)) if parts.is_empty() => work.row(index, row, context)?,
                Some((index, row)) => work.part(index, row, context)?,
                None => {}
            }
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

/// Stages a batch of a catch-up that takes several.
fn stage(conn: &Connection, replica: &mut Replica, batch: Batch, rules: &ApplyRules<'_>) -> Result<Applied, Stop> {
    let own = replica.have.clone();
    let complete = batch.is_complete();
    let Batch { source, to, context, dropped, tables, .. } = batch;
    staging::make_room(conn, replica, source)?;
    let mut stage = Stage::open(conn, source)?;
    staging::note_began(conn, replica, source, || (context.clone(), dropped.clone()))?;
    staging::note_dropped(conn, replica, source, dropped)?;
    if !context.covers_all(&stage.context()) {
        // An old message: the catch-up went on since, and its rows are in a newer state.
        return Err(Stop::Outcome(Box::new(ApplyOutcome::Gap)));
    }
    let (with_own_context, rest): (Vec<TableRows>, Vec<TableRows>) =
        tables.into_iter().partition(|table| table.context.is_some());
    let mut work = Work::new(conn, replica, rules, &own, None);
    let mut staged = 0;
    for table in with_own_context {
        let number = stage.begin(conn, table.context.as_ref().unwrap_or(&context))?;
        staged += put_rows(&stage, &mut work, number, table, &context)?;
    }
    // The batch that begins last tells what is known in the end.
    let number = stage.begin(conn, &context)?;
    for table in rest {
        staged += put_rows(&stage, &mut work, number, table, &context)?;
    }
    let applied = Applied { staged, ..work.finish()? };
    stage.advance(conn, replica, &to, complete)?;
    replica.save(conn, &own)?;
    fail_point("stage-before-commit");
    Ok(applied)
}

/// Stages the rows of a table that have a place here; tells how many.
fn put_rows(
    stage: &Stage,
    work: &mut Work<'_>,
    batch: i64,
    table: TableRows,
    context: &VersionVector,
) -> Result<usize, Stop> {
    let turn = turn(&table);
    let TableRows { shape, rows, context: passed_on, limited, parts } = table;
    let context = passed_on.as_ref().unwrap_or(context);
    let place = work.place(&shape);
    let mut staged = 0;
    for row in rows {
        if let Some((index, row)) = work.fitting(&place, (&shape, &parts), row, context, limited)? {
            fail_point("stage-between-rows");
            staged += 1;
            stage.put(work.conn, (batch, turn), &work.replica.tables[index], &row)?;
        }
    }
    Ok(staged)
}

/// Merges the next of the rows that are staged of a catch-up which is complete, and with the last of them raises the
/// vector. Inside the caller's write transaction, like [`apply`].
pub(crate) fn merge_staged(
    conn: &Connection,
    replica: &mut Replica,
    source: Origin,
    rules: &ApplyRules<'_>,
) -> Result<ApplyOutcome, StoreError> {
    outcome(merge_next(conn, replica, source, rules))
}

fn merge_next(
    conn: &Connection,
    replica: &mut Replica,
    source: Origin,
    rules: &ApplyRules<'_>,
) -> Result<Applied, Stop> {
    let stage = Stage::open(conn, source)?;
    let own = replica.have.clone();
    // What fits one transaction is seen as one by readers; more would keep applications waiting for too long.
    let held = exchanges::count(conn, source)?;
    let whole = held < rules.max_rows && stage.holds_at_most(conn, rules.max_rows - held)?;
    let mut left = if whole { rules.max_rows } else { rules.max_rows.min(STEP_ROWS) };
    // What comes knows the rows by the dots that they are going to have, and may be in their ranges: all of these go first.
    match exchanges::step(conn, replica, source, left)? {
        Exchanged::Rows(rows) => left -= rows.min(left),
        Exchanged::Gone => {
            staging::start_over(conn, replica, source)?;
            replica.save(conn, &own)?;
            return Ok(Applied { started_over: true, ..Applied::default() });
        }
    }
    if !exchanges::is_empty(conn, source)? {
        left = 0;
    }
    let mut work = Work::new(conn, replica, rules, &own, Some(&stage));
    while left > 0 {
        let page = stage.take_page(conn, work.replica, left)?;
        if page.is_empty() {
            break;
        }
        left -= page.len().min(left);
        for Staged { table, row, context, turn } in page {
            fail_point("merge-between-rows");
            match turn {
                Turn::PassedOn | Turn::Own => {
                    work.row(table, row, &context)?;
                    // A row that came back without some cells gets them before anybody is told of it.
                    for (table, key) in std::mem::take(&mut work.came_back) {
                        for part in stage.take_parts(conn, work.replica, table, &key)? {
                            work.part(table, part.row, &part.context)?;
                        }
                    }
                }
                Turn::Parts => work.part(table, row, &context)?,
            }
        }
    }
    let applied = work.finish()?;
    if exchanges::is_empty(conn, source)? && stage.is_empty(conn)? {
        replica.have.join(&stage.context());
        let received = replica.received.remove(&source).unwrap_or_default();
        inherit(conn, replica, &received.dropped, rules)?;
        staging::clear(conn, &source)?;
        staging::clear_known(conn, replica)?;
        fail_point("merge-last-before-commit");
    } else {
        stage.note_merged(conn, replica)?;
        fail_point("merge-before-commit");
    }
    replica.save(conn, &own)?;
    Ok(applied)
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
