//! When the thread looks at the file, and what it does then.

use std::time::{Duration, Instant};

use super::Worker;
use crate::attached::{Attachment, Looked};
use crate::error::StoreError;

/// The pause before it is looked whether a lock that was held for long is free.
pub(super) const LOCK_CHECK: Duration = Duration::from_millis(500);

/// Pauses before looks after an event. The first event of a commit comes before the rest of it is written: a look at once may find
/// nothing. And fsync on a slow disk may hold a commit back for a long time; what takes longer than all of them is found by the poll.
pub(super) const RECHECKS: [Duration; 9] = [
    Duration::from_micros(40),
    Duration::from_micros(100),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
];

/// The longest of these pauses, by its place, while more events come: a long commit is under way.
pub(super) const WHILE_WRITTEN: usize = 2;

/// How long nothing must have happened before the write-ahead log is folded into the file.
const FOLD_AFTER: Duration = Duration::from_secs(1);

/// How long the state folder may not know how far a file has come.
const REMEMBER_AFTER: Duration = Duration::from_millis(500);

impl Worker {
    /// How long to wait for a command. Not at all where it is to close.
    pub(super) fn pause(&self) -> Duration {
        if self.is_closing() {
            return Duration::ZERO;
        }
        if let Some(left) = self.rest.left() {
            return left;
        }
        let poll = self.options.poll_interval.saturating_sub(self.last_poll.elapsed());
        if let Some(at) = self.retry_at {
            return at.saturating_duration_since(Instant::now()).min(poll);
        }
        let alone = self.left_alone_until.saturating_duration_since(Instant::now());
        if let Some(attachment) = self.attachment.as_ref().filter(|attachment| attachment.has_work()) {
            return if attachment.is_behind() { alone } else { Duration::ZERO };
        }
        let quiet = self.attachment.as_ref().and_then(Attachment::migrating).unwrap_or(poll);
        let reader = self.attachment.as_ref().and_then(Attachment::publishing_waits).unwrap_or(poll);
        RECHECKS.get(self.recheck).map_or(poll, |pause| alone.max(*pause)).min(poll).min(quiet).min(reader)
    }

    /// Looks again, or polls.
    pub(super) fn on_timer(&mut self) {
        let written = self.wake.take();
        self.recheck = (self.recheck + 1).min(if written { WHILE_WRITTEN } else { RECHECKS.len() });
        if self.last_poll.elapsed() >= self.options.poll_interval || self.attachment.is_none() {
            self.poll();
        } else {
            self.look_by(Attachment::glance);
        }
    }

    /// The slow look, which also does what is done now and then.
    pub(super) fn poll(&mut self) {
        self.last_poll = Instant::now();
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        // What is written steadily is looked at soon, without an event.
        self.watching &= !self.wake.is_unheard();
        if !self.watching && !self.pace.is_steady() {
            self.watching = self.file_watch.watch(&self.options.path, &self.wake).is_ok();
        }
        if self.attachment.is_none() {
            self.open();
        }
        let before = self.before_rest();
        self.look();
        if self.changed.is_some_and(|at| at.elapsed() >= FOLD_AFTER) {
            let forgotten = self.attachment.as_mut().is_some_and(Attachment::forget_fresh);
            if self.attachment.as_mut().is_some_and(Attachment::fold) && forgotten {
                self.changed = None;
            }
        }
        self.rest(before);
    }

    /// Captures what applications committed, if anything, and goes on with what there is to do.
    pub(super) fn look(&mut self) {
        self.look_by(Attachment::look);
    }

    /// Looks right after the first event of a commit: until this thread has woken, a small one is mostly all there, and a pause takes
    /// much longer than it is meant to. Where there is a rollback journal it is paused all the same: whoever reads then is in the
    /// writer's way.
    pub(super) fn look_at_once(&mut self) {
        let may = |attachment: &mut Attachment| !attachment.has_work() && attachment.is_write_ahead();
        let alone = self.pace.is_steady() || Instant::now() < self.left_alone_until;
        if !alone && self.retry_at.is_none() && self.attachment.as_mut().is_some_and(may) {
            self.look_by(Attachment::glance);
        }
    }

    fn look_by(&mut self, look: impl FnOnce(&mut Attachment) -> Result<Looked, StoreError>) {
        self.rest.end();
        self.check_identity();
        if self.attachment.is_none() {
            return;
        }
        let looked = self.follow_orders().and_then(|()| self.with_attachment(look));
        match looked {
            Ok(looked) if looked.quiet && self.retry_at.is_none() && !self.told_waiting => {
                self.note_pace(looked.log_rows);
                return;
            }
            Ok(looked) => {
                // A capture that goes on is not yet all there is.
                if !self.attachment.as_ref().is_some_and(Attachment::is_behind) {
                    self.note_pace(looked.log_rows);
                }
                if let Some(held) = looked.captured_in {
                    self.leave_alone(held);
                }
                if looked.found || looked.wrote {
                    self.sleep.put_off();
                }
                if looked.found {
                    self.recheck = 0;
                    self.changed = Some(Instant::now());
                }
                if looked.wrote {
                    self.changed.get_or_insert_with(Instant::now);
                }
                looked.events.into_iter().for_each(|event| self.tell(event));
                if self.told_waiting && self.attachment.as_ref().is_some_and(Attachment::is_locked) {
                    // It could be read; what is to be written still waits.
                    self.retry_at = Some(Instant::now() + LOCK_CHECK);
                } else {
                    self.recover();
                }
            }
            Err(error) => {
                self.forget_pace();
                self.fail(&error);
            }
        }
        // Whoever were told now would have to read what it is about to be given.
        if !self.attachment.as_ref().is_some_and(Attachment::is_gathering) {
            self.announce();
        }
        self.remember();
    }

    /// Takes note of how many entries of the log were found. While applications write steadily, their file is not listened to: the clock
    /// says when to look.
    fn note_pace(&mut self, rows: usize) {
        let was_steady = self.pace.is_steady();
        self.pace.note(rows, Instant::now());
        match (was_steady, self.pace.is_steady()) {
            (false, true) if self.watching => self.watching = !self.file_watch.leave(&self.options.path, &self.wake),
            (true, false) => self.listen_again(),
            _ => {}
        }
    }

    /// Looks at the file as one that is not written steadily, and listens to it.
    pub(super) fn forget_pace(&mut self) {
        if std::mem::take(&mut self.pace).is_steady() {
            self.listen_again();
        }
    }

    /// What is written before the file is listened to is found by a look, and by another one once it is.
    fn listen_again(&mut self) {
        self.watching = self.watching || self.file_watch.listen(&self.options.path, &self.wake);
        self.recheck = 0;
    }

    /// Leaves applications alone after a transaction for which the lock was held for so long.
    fn leave_alone(&mut self, held: Duration) {
        let goes_on = self.attachment.as_ref().is_some_and(Attachment::is_gathering);
        self.left_alone_until = Instant::now() + self.pace.pause_after(held, goes_on);
    }

    /// Takes note of how far the file has come, now and then. What fails is tried again at the next look: the state folder is
    /// not what sync depends on.
    fn remember(&mut self) {
        if self.remembered.is_none_or(|at| at.elapsed() >= REMEMBER_AFTER) {
            self.remembered = Some(Instant::now());
            let _ = self.with_attachment(Attachment::remember);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rusqlite::Connection;
    use tokio::sync::mpsc;

    use super::super::tests::{DEADLINE, await_changes, options};
    use super::*;
    use crate::database::{Database, DatabaseOptions};
    use crate::watch::FileWatch;

    /// Nothing but events and the clock of whoever writes steadily wakes the thread: the poll is a day away.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_writes_steadily_is_not_listened_to_and_is_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let conn = Connection::open(&path).unwrap();
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        conn.execute_batch("PRAGMA synchronous = OFF; CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)").unwrap();
        let watch = Arc::new(FileWatch::new().unwrap());
        let (sender, _events) = mpsc::channel(256);
        let options = DatabaseOptions { poll_interval: Duration::from_secs(86_400), ..options(&path) };
        let database = Database::start(options, Arc::clone(&watch), sender).unwrap();
        let insert = |id: u64| conn.execute("INSERT INTO item VALUES (?1, 'x')", [id.cast_signed()]).unwrap();
        // It is attached.
        await_changes(&database, 0).await;
        let mut last = 1;
        insert(last);
        await_changes(&database, last).await;
        assert_eq!(watch.listening(), 1);
        for _ in 0..3 {
            let begun = Instant::now();
            while watch.listening() > 0 {
                assert!(begun.elapsed() < DEADLINE, "{last} rows, and it still listens");
                last += 1;
                insert(last);
            }
            await_changes(&database, last).await;
            while watch.listening() == 0 {
                assert!(begun.elapsed() < DEADLINE, "it listens no more");
                std::thread::sleep(Duration::from_millis(1));
            }
            last += 1;
            insert(last);
            await_changes(&database, last).await;
        }
        database.close().await;
    }

    /// The application folds nothing, and no poll finds the file quiet: the daemon alone has its log begun anew.
    async fn is_begun_anew_where_each_transaction_writes(rows: u64, at_most: u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let conn = Connection::open(&path).unwrap();
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        conn.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(())).unwrap();
        conn.execute_batch("PRAGMA synchronous = OFF; CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)").unwrap();
        let watch = Arc::new(FileWatch::new().unwrap());
        let (sender, _events) = mpsc::channel(256);
        let options = DatabaseOptions { poll_interval: Duration::from_secs(86_400), ..options(&path) };
        let database = Database::start(options, watch, sender).unwrap();
        await_changes(&database, 0).await;
        let pages = || conn.query_row("PRAGMA main.wal_checkpoint(NOOP)", [], |row| row.get::<_, i64>(1)).unwrap();
        let (mut last, mut before, mut anew, mut transactions) = (0, 0, 0, 0);
        while anew < 3 {
            assert!(transactions < at_most, "{anew} times, and {before} pages");
            conn.execute_batch("BEGIN").unwrap();
            for id in last + 1..=last + rows {
                conn.execute("INSERT INTO item VALUES (?1, 'some name')", [id.cast_signed()]).unwrap();
            }
            conn.execute_batch("COMMIT").unwrap();
            (last, transactions) = (last + rows, transactions + 1);
            await_changes(&database, last).await;
            let now = pages();
            anew += u32::from(now < before);
            before = now;
        }
        database.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_of_small_transactions_is_begun_anew() {
        is_begun_anew_where_each_transaction_writes(1, 3_000).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_of_large_transactions_is_begun_anew() {
        is_begun_anew_where_each_transaction_writes(2_000, 300).await;
    }
}
