//! What peers send: batches are merged, or staged until a catch-up is complete and then merged step by step.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use replication::{Batch, Contradiction, Origin, contradiction};
use rusqlite::Connection;

use super::outrun::Outrun;
use super::{Attachment, PROGRESS};
use crate::apply::{Applied, ApplyOutcome, ApplyRules, Held, HeldKind, apply, is_outdated, merge_staged};
use crate::database::DatabaseEvent;
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::observer::RowObserver;
use crate::replica::{Replica, wall_millis};
use crate::staging;
use crate::staging::exchanges::{self, Check};

/// The pause between two transactions of one merge: an application that waits for the lock looks again only after pauses,
/// and must find it free at times.
const LET_IN: Duration = Duration::from_millis(5);

/// What to do about a peer that says what cannot be.
const UNBELIEVABLE: &str =
    "see what that peer is: another program, or a sync-engine whose state is damaged; keep it out until it is mended";

impl Attachment {
    /// Applies a batch; with the last of a catch-up, merges everything that is staged.
    pub(crate) fn apply(
        &mut self,
        batch: Batch,
        observer: Option<&Arc<dyn RowObserver>>,
    ) -> Result<ApplyOutcome, StoreError> {
        self.check_not_migrating(&batch.tables)?;
        let clocks = (wall_millis(), self.max_skew());
        let name = |origin| self.replica.node_name(origin);
        if let Some(Contradiction { table, reason }) = contradiction(&self.replica.have, &batch, clocks, name) {
            let remedy = UNBELIEVABLE.to_owned();
            return Ok(ApplyOutcome::Held(Held { kind: HeldKind::Claim, table, reason, remedy }));
        }
        // Where a row cannot be merged, its source may have mended it: what comes is staged in its place.
        let source = batch.source;
        let (mut total, stuck) = match self.merge_staged(observer)? {
            ApplyOutcome::Applied(total) => (total, None),
            ApplyOutcome::Held(_) => (Applied::default(), self.replica.merging()),
            other => return Ok(other),
        };
        match self.leave_origin(&batch)? {
            Outrun::No => {}
            // It was read for what this database seemed to know.
            Outrun::Left => return Ok(ApplyOutcome::Gap),
            Outrun::TooOften(held) => return Ok(ApplyOutcome::Held(held)),
        }
        if is_outdated(&self.replica, &batch) {
            self.in_write(|conn, replica| staging::begin_anew(conn, replica, source).map(|()| ((), true)))?;
            return Ok(ApplyOutcome::Gap);
        }
        let outcome = self.transact(observer, |conn, replica, rules| apply(conn, replica, batch, rules))?;
        let ApplyOutcome::Applied(applied) = outcome else { return Ok(outcome) };
        fail_point(if applied.staged == 0 { "apply-committed" } else { "stage-committed" });
        self.tell_progress(applied.staged);
        total.add(applied);
        let parked = std::mem::take(&mut total.parked);
        self.tell_parked(parked);
        if stuck.is_some_and(|stuck| stuck != source) {
            // What another source's row waits for is not this one's to hear of.
            return Ok(ApplyOutcome::Applied(total));
        }
        match self.merge_staged(observer)? {
            ApplyOutcome::Applied(merged) => {
                total.add(merged);
                let parked = std::mem::take(&mut total.parked);
                self.tell_parked(parked);
                self.retry_undecided();
                Ok(ApplyOutcome::Applied(total))
            }
            other => Ok(other),
        }
    }

    /// Goes on with a merge that was interrupted in its middle. Until it is done the tables hold more than the vector says,
    /// and cannot be read for others.
    pub(super) fn finish_interrupted(&mut self) -> Result<(), StoreError> {
        let mut cut_off = self.replica.received.values().filter(|received| received.merged).peekable();
        let owed = !self.replica.have.covers_all(&self.replica.owed);
        if owed || cut_off.peek().is_some_and(|received| !received.complete) {
            let reason = "a migration came between; the rest is asked for again".to_owned();
            return Err(StoreError::Unmerged { reason });
        }
        if cut_off.peek().is_none() {
            return Ok(());
        }
        let observer = self.options.observer.clone();
        match self.merge_staged(observer.as_ref())? {
            ApplyOutcome::Applied(_) | ApplyOutcome::Known => Ok(()),
            ApplyOutcome::Held(held) => Err(StoreError::Unmerged { reason: held.reason }),
            ApplyOutcome::Failed { reason } => Err(StoreError::Unmerged { reason }),
            ApplyOutcome::Gap => Err(StoreError::Unmerged { reason: "something is missing".to_owned() }),
        }
    }

    /// Merges what is staged of a complete catch-up, in one transaction or, where that would be long, in several.
    fn merge_staged(&mut self, observer: Option<&Arc<dyn RowObserver>>) -> Result<ApplyOutcome, StoreError> {
        let mut total = Applied::default();
        while let Some(source) = self.replica.merging() {
            if self.closing.load(Ordering::Relaxed) {
                return Err(StoreError::Closed);
            }
            if self.lacks_compared(source)? {
                return Ok(ApplyOutcome::Gap);
            }
            let outcome = self.transact(observer, |conn, replica, rules| merge_staged(conn, replica, source, rules))?;
            let ApplyOutcome::Applied(applied) = outcome else { return Ok(outcome) };
            fail_point("merge-committed");
            if applied.started_over {
                return Ok(ApplyOutcome::Gap);
            }
            total.add(applied);
            if self.replica.merging().is_some() {
                std::thread::sleep(LET_IN);
            }
        }
        Ok(ApplyOutcome::Applied(total))
    }

    /// Looks whether the rows that a catch-up came without are still what they were, before any of it is merged. True if some are
    /// not: they are asked for, with all the rest.
    fn lacks_compared(&mut self, source: Origin) -> Result<bool, StoreError> {
        let received = self.replica.received.get(&source);
        if received.is_none_or(|received| received.merged || received.held.is_empty()) {
            return Ok(false);
        }
        let mut check = Check::default();
        while !check.finished {
            check =
                self.write(|conn, replica| exchanges::check(conn, replica, source, check).map(|check| (check, true)))?;
        }
        if check.gone > 0 {
            self.in_write(|conn, replica| staging::start_over(conn, replica, source).map(|()| ((), true)))?;
        }
        Ok(check.gone > 0)
    }

    /// How far ahead of the clock a stamp may be, in milliseconds.
    pub(super) fn max_skew(&self) -> i64 {
        i64::try_from(self.options.max_clock_skew.as_millis()).unwrap_or(i64::MAX)
    }

    /// A line now and then while a long catch-up comes in.
    fn tell_progress(&mut self, staged: usize) {
        self.staged = if staged == 0 { 0 } else { self.staged + staged as u64 };
        if staged > 0 && self.last_progress.elapsed() >= PROGRESS {
            self.last_progress = Instant::now();
            self.events.push(DatabaseEvent::CatchingUp { rows: self.staged });
        }
    }

    /// One transaction of incoming rows, kept if they were applied; the observer is told which.
    pub(super) fn transact(
        &mut self,
        observer: Option<&Arc<dyn RowObserver>>,
        work: impl FnOnce(&Connection, &mut Replica, &ApplyRules<'_>) -> Result<ApplyOutcome, StoreError>,
    ) -> Result<ApplyOutcome, StoreError> {
        let observer = observer.map(AsRef::as_ref);
        let max_skew = self.max_skew();
        let rules = ApplyRules { now: wall_millis(), max_skew, max_rows: self.options.max_rows, observer };
        let schema = self.replica.schema_version;
        let outcome = self.write(|conn, replica| {
            if replica.schema_version != schema {
                // What came with the change is to be looked at first.
                return Err(StoreError::Migrating);
            }
            let outcome = work(conn, replica, &rules)?;
            let keep = matches!(outcome, ApplyOutcome::Applied(_));
            Ok((outcome, keep))
        });
        let applied = match &outcome {
            Ok(ApplyOutcome::Applied(applied)) => Some(applied),
            _ => None,
        };
        if let Some(applied) = applied.filter(|applied| applied.rows > 0) {
            self.foreign_keys.note_written();
            self.written.add(applied.written);
        }
        self.note_conflicts(applied.map_or(&[], |applied| applied.conflicts.as_slice()));
        if let Some(observer) = observer {
            observer.ended(applied.is_some());
        }
        outcome
    }
}
