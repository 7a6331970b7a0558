//! Rows of peers that wait: when they are tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Attachment;
use crate::apply::{ApplyOutcome, Stop};
use crate::database::DatabaseEvent;
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::observer::RowObserver;
use crate::parked::{ParkedNote, Progress, forget_gone, merge_next, pass_over};

/// The pause between passes over rows that a change here may have made mergeable.
const PAUSE: Duration = Duration::from_secs(1);

impl Attachment {
    /// All rows are to be tried again: the schema, the rules, or what is known of new columns has changed.
    pub(super) fn retry_all(&mut self) {
        let migrated = &self.migrated;
        let (unwritten, misnamed, included) = (migrated.unwritten(), migrated.misnamed(), migrated.included_columns());
        self.retry = Some(Progress::over_all(unwritten, misnamed, included));
    }

    /// Rows that no schema stands in the way of are to be tried again, now and then, when rows of their tables have changed.
    pub(super) fn retry_undecided(&mut self) {
        if self.retry.is_some() || self.retried.elapsed() < PAUSE {
            return;
        }
        if std::mem::take(&mut self.cut_off) {
            self.retry_all();
            return;
        }
        let numbers = std::mem::take(&mut self.replica.touched);
        let touched = numbers.into_iter().filter_map(|number| self.replica.table_by_number(number));
        let touched: Vec<String> = touched.map(|index| self.replica.tables[index].wire.name.clone()).collect();
        if !touched.is_empty() && self.replica.waiting.undecided > 0 {
            self.retry = Some(Progress::over_undecided(touched));
        }
    }

    /// Merges what waits and can be merged. Before anything is read for peers or made of a migration: both speak for what
    /// is in the tables then.
    pub(super) fn merge_waiting(&mut self) -> Result<(), StoreError> {
        if self.retry.is_none() {
            return Ok(());
        }
        let mut told = BTreeMap::new();
        let merged = self.merge_all(&mut told);
        let told = told.into_iter().map(|(table, rows)| DatabaseEvent::Unparked { table, rows });
        self.events.extend(told);
        merged
    }

    /// Counts the rows that wait no more by table.
    fn merge_all(&mut self, told: &mut BTreeMap<String, u64>) -> Result<(), StoreError> {
        // How many there were when the pass began.
        let mut before = self.replica.waiting.to_merge();
        while let Some(progress) = self.retry.clone() {
            if self.replica.waiting.to_merge() == 0 {
                self.retry = None;
                break;
            }
            let observer: Option<Arc<dyn RowObserver>> = self.options.observer.clone();
            let mut merged = None;
            let outcome = self.transact(observer.as_ref(), |conn, replica, rules| {
                match merge_next(conn, replica, &progress, rules) {
                    Ok(mut step) => {
                        fail_point("waiting-before-commit");
                        let applied = std::mem::take(&mut step.applied);
                        merged = Some(step);
                        Ok(ApplyOutcome::Applied(applied))
                    }
                    Err(Stop::Outcome(outcome)) => Ok(*outcome),
                    Err(Stop::Store(error)) => Err(error),
                }
            });
            let outcome = match outcome {
                // It goes on at the next look.
                Err(StoreError::Migrating) => return Ok(()),
                other => other?,
            };
            if let ApplyOutcome::Held(held) = outcome {
                self.pass_over(progress, &held.reason)?;
                continue;
            }
            let ApplyOutcome::Applied(applied) = outcome else {
                // The apply callback wants it tried again.
                (self.retry, self.cut_off, self.retried) = (None, true, Instant::now());
                break;
            };
            let Some(merged) = merged else { break };
            fail_point("waiting-committed");
            self.tell_parked(applied.parked);
            merged.rows.into_iter().for_each(|(table, rows)| *told.entry(table).or_default() += rows);
            self.retry = merged.next;
            self.retried = Instant::now();
            if self.retry.is_none() && progress.is_over_all() && self.replica.waiting.to_merge() < before {
                // What waited for a row that has come now can be merged as well.
                before = self.replica.waiting.to_merge();
                self.retry_all();
            }
        }
        Ok(())
    }

    /// Goes on past a row that is refused in the end, when all is written: it waits for another state of its table.
    fn pass_over(&mut self, progress: Progress, reason: &str) -> Result<(), StoreError> {
        let mut parked = None;
        let hash = self.replica.schema_hash;
        let next = self.in_write(|conn, replica| {
            let (next, note) = pass_over(conn, replica, progress, reason)?;
            parked = note;
            Ok((next, true))
        })?;
        self.tell_parked(parked.into_iter().collect());
        // Under a schema that moved once more all is looked at afresh.
        if self.replica.schema_hash == hash {
            (self.retry, self.retried) = (next, Instant::now());
        }
        Ok(())
    }

    /// Forgets some of what has no place on any node any more.
    pub(super) fn forget_gone(&mut self) -> Result<(), StoreError> {
        let Some(mut forgotten) = self.forgetting.clone() else { return Ok(()) };
        let waits = self.replica.waiting.rows > 0;
        let done = !waits
            || self.in_write(|conn, replica| forget_gone(conn, replica, &mut forgotten).map(|done| (done, true)))?;
        self.forgetting = (!done).then(|| forgotten.clone());
        if done {
            let told = forgotten.into_iter().map(|(table, rows)| DatabaseEvent::Forgotten { table, rows });
            self.events.extend(told);
        }
        Ok(())
    }

    /// Tells why rows wait.
    pub(super) fn tell_parked(&mut self, notes: Vec<ParkedNote>) {
        self.events.extend(notes.into_iter().map(DatabaseEvent::Parked));
    }
}
