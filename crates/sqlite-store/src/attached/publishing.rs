//! Giving baseline rows their dots, step by step, while a peer reads them.

use std::time::{Duration, Instant};

use super::fresh::Found;
use super::{Attachment, PROGRESS};
use crate::baseline::Publishing;
use crate::capture::Gathered;
use crate::database::DatabaseEvent;
use crate::error::StoreError;
use crate::fail_point::fail_point;

/// Baseline rows in one transaction.
const PUBLISH_ROWS: usize = 5_000;

/// Rows that are published ahead of a peer that takes them: with one more step they fit a batch of the usual size, and what comes as a
/// whole need not be staged.
const AHEAD: u64 = 5_000;

/// How long publishing waits for such a peer. One that does not come is not waited for.
const READER_WAIT: Duration = Duration::from_secs(1);

impl Attachment {
    /// Whether to publish now.
    pub(super) fn may_publish(&self) -> bool {
        self.is_publishing() && self.publishing_waits().is_none()
    }

    /// How long publishing still waits for a peer that takes what is published, if it does.
    pub(crate) fn publishing_waits(&self) -> Option<Duration> {
        if !self.is_publishing() || self.ahead() <= AHEAD {
            return None;
        }
        let until = self.comings().map(|(at, _)| at).max()? + READER_WAIT;
        until.checked_duration_since(Instant::now())
    }

    /// When peers have come last for what is published, and up to where that led them.
    fn comings(&self) -> impl Iterator<Item = (Instant, u64)> {
        [self.last_read, self.fresh().last_taken()].into_iter().flatten()
    }

    /// How much more is known than peers have come for since it is published.
    fn ahead(&self) -> u64 {
        let issued = self.replica.have.get(self.replica.own);
        // What is beyond was issued under an origin that was left.
        let upto = self.comings().map(|(_, upto)| upto).filter(|upto| *upto <= issued).max().unwrap_or_default();
        self.issued_since(upto.max(self.published_from))
    }

    fn issued_since(&self, sequence: u64) -> u64 {
        self.replica.have.get(self.replica.own).saturating_sub(sequence)
    }

    /// What peers are sent as a whole, in one transaction: a peer that knows nothing of this file comes for no less before it is all
    /// published.
    fn whole(&self) -> u64 {
        self.options.max_rows as u64
    }

    pub(super) fn is_publishing(&self) -> bool {
        self.publishing.is_some() && self.replica.tables.iter().any(|table| !table.table.baseline_published)
    }

    pub(super) fn publish_step(&mut self, events: &mut Vec<DatabaseEvent>) -> Result<(), StoreError> {
        let (mut publishing, schema) = (self.publishing.take().unwrap_or_default(), self.replica.schema_version);
        // Whoever is far behind had better read the file.
        let wanted = self.wants_fresh() && self.ahead() <= self.whole().saturating_add(AHEAD);
        let step = self.write(|conn, replica| {
            if replica.schema_version != schema {
                // What came with the change is looked at first, and the table may have been rebuilt, with other rows.
                return Ok((None, true));
            }
            let mut gathered = wanted.then(|| Gathered::new(replica));
            let step = publishing.step(conn, replica, PUBLISH_ROWS, gathered.as_mut())?;
            let fresh = Found::of(gathered.filter(|_| step.gathered).and_then(|gathered| gathered.batch(replica)));
            Ok((Some((step, fresh)), true))
        });
        // After any other step it starts over from the first row without an entry.
        self.publishing = Some(if matches!(step, Ok(Some(_))) { publishing } else { Publishing::default() });
        let Some((step, fresh)) = step? else { return Ok(()) };
        fail_point("publish-committed");
        // What was published before is still at hand for who is on the way to it.
        if matches!(fresh, Found::All(_)) {
            self.keep_fresh(fresh);
        }
        if !self.is_publishing() && self.issued_since(self.published_from) <= self.whole() {
            // It is read as one.
            self.keep_fresh(Found::Nothing);
        }
        // A line now and then: a large table is published in many steps.
        let due = step.finished || self.last_progress.elapsed() >= PROGRESS;
        if let Some(table) = step.table.filter(|_| step.rows > 0 && due) {
            self.last_progress = Instant::now();
            events.push(DatabaseEvent::Publishing { table, rows: step.rows, finished: step.finished });
        }
        Ok(())
    }

    /// From now on baseline rows get dots, also those of tables that come later.
    pub(crate) fn start_publishing(&mut self) -> Result<(), StoreError> {
        if self.publishing.is_none() {
            self.in_write(|conn, _| {
                let sql = "INSERT INTO main._sync_meta (key, value) VALUES ('publish', 1) ON CONFLICT DO NOTHING";
                conn.execute(sql, [])?;
                Ok(((), true))
            })?;
            self.publishing = Some(Publishing::default());
            // Whoever wants it published is about to come for it.
            self.expect_readers();
            self.published_from = self.replica.have.get(self.replica.own);
        }
        Ok(())
    }
}
