//! A database at rest: nothing is due, and everything that was written to it has been looked at. Its thread sleeps long then, and is
//! woken by file events, by commands, or by the [`Patrol`](crate::patrol::Patrol), which looks at its files in the thread's place.

use std::time::{Duration, Instant, SystemTime};

use super::{RECHECKS, Worker};
use crate::attached::Attachment;
use crate::database::Phase;
use crate::patrol::{Files, Post, Seen};

/// How long a thread sleeps at most: what is done now and then comes so much later, and so does anything that the files' times do not
/// tell.
const SLEEP: Duration = Duration::from_secs(30);

/// What is known of a database's rest.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// What its files were like when no write was under way, and nothing remained to be looked at.
    seen: Option<Seen>,
    /// Until when the thread sleeps.
    until: Option<Instant>,
}

impl Rest {
    /// The thread goes on looking at the file itself.
    pub(super) const fn end(&mut self) {
        self.until = None;
    }

    /// The thread sleeps for so long.
    pub(super) fn lie(&mut self, long: Duration) {
        self.until = Some(Instant::now() + long);
    }

    /// How long the thread still sleeps, if it does.
    pub(super) fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }
}

impl Worker {
    /// What the files are like before a look, if that look may be the last one before a rest. A write that was made before and becomes
    /// visible only after the look would not show in them: its lock is held until it is visible.
    pub(super) fn before_rest(&self) -> Option<Seen> {
        let attachment = self.attachment.as_ref().filter(|attachment| self.may_rest(attachment))?;
        let files = Files::of(&self.options.path);
        let seen = files.seen();
        // Where they are what they were, nobody has begun to write.
        let quiet = || seen.is_old(SystemTime::now()) && files.are_local() && !attachment.is_locked();
        (self.rest.seen == Some(seen) || quiet()).then_some(seen)
    }

    /// Rests, if the look has found nothing to do.
    pub(super) fn rest(&mut self, before: Option<Seen>) {
        let Some(seen) = before else { return };
        let remembered = self.remembered.is_some_and(|at| at >= self.last_poll);
        if !remembered || !self.attachment.as_ref().is_some_and(|attachment| self.may_rest(attachment)) {
            return;
        }
        let soon = self.sleeps_in();
        if soon.is_zero() {
            return self.go_to_sleep(seen);
        }
        let (files, every) = (Files::of(&self.options.path), self.options.poll_interval);
        if !self.file_watch.rest(Post { files, seen, every, wake: self.wake.clone() }) {
            return;
        }
        // What was done since the file was opened is what is done once. Later statements are kept, also at rest: without them the first
        // change after it would take twice as long to reach peers.
        if !std::mem::replace(&mut self.lean, true) {
            self.attachment.iter().for_each(Attachment::forget_statements);
        }
        self.rest.seen = Some(seen);
        self.rest.lie(SLEEP.min(self.options.upkeep_interval).min(soon).max(every));
    }

    fn may_rest(&self, attachment: &Attachment) -> bool {
        let asked = self.wants_publishing
            || !self.names.own.is_empty()
            || !self.names.heard.is_empty()
            || !self.schemas.is_empty();
        self.watching
            && self.phase == Phase::Attached
            && self.retry_at.is_none()
            && self.changed.is_none()
            && self.recheck >= RECHECKS.len()
            && !self.told_waiting
            && !self.unwritable
            && !asked
            && attachment.rests()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::{Duration, Instant, SystemTime};

    use rusqlite::Connection;
    use tokio::sync::mpsc;

    use super::super::tests::{DEADLINE, await_changes, options};
    use crate::database::{Database, DatabaseEvent, DatabaseOptions};
    use crate::patrol::Files;
    use crate::watch::FileWatch;

    /// A database that is reached by a link from another folder: the watch is on that one, so that no event comes of a write.
    struct Deaf {
        _folder: tempfile::TempDir,
        file: PathBuf,
        watch: Arc<FileWatch>,
        database: Database,
        _events: mpsc::Receiver<(Arc<str>, DatabaseEvent)>,
    }

    impl Deaf {
        fn start(journal_mode: &str, close_after: Duration) -> (Self, Connection) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("shop.db");
            let conn = Connection::open(&file).unwrap();
            conn.query_row(&format!("PRAGMA journal_mode = {journal_mode}"), [], |_| Ok(())).unwrap();
            conn.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)").unwrap();
            let linked = folder.path().join("links");
            std::fs::create_dir(&linked).unwrap();
            let link = linked.join("shop.db");
            std::os::unix::fs::symlink(&file, &link).unwrap();
            let watch = Arc::new(FileWatch::new().unwrap());
            let (sender, _events) = mpsc::channel(256);
            let options = DatabaseOptions { close_after, ..options(&link) };
            let database = Database::start(options, Arc::clone(&watch), sender).unwrap();
            (Self { _folder: folder, file, watch, database, _events }, conn)
        }

        fn await_rest(&self) {
            await_that("the database rests", || self.watch.at_rest() == 1);
        }

        async fn await_changes(&self, count: u64) {
            await_changes(&self.database, count).await;
        }
    }

    fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < DEADLINE, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn insert(conn: &Connection, id: u32) {
        conn.execute("INSERT INTO item VALUES (?1, 'x')", [id]).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_without_a_file_event_is_found_in_a_database_at_rest() {
        for journal_mode in ["WAL", "DELETE"] {
            let (deaf, conn) = Deaf::start(journal_mode, DEADLINE);
            deaf.await_rest();
            insert(&conn, 1);
            deaf.await_changes(1).await;
            // Whoever was woken goes on looking, and rests again.
            insert(&conn, 2);
            deaf.await_changes(2).await;
            deaf.await_rest();
            insert(&conn, 3);
            deaf.await_changes(3).await;
            deaf.database.close().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_without_a_file_event_is_found_in_a_file_that_is_closed() {
        let (deaf, conn) = Deaf::start("DELETE", Duration::ZERO);
        drop(conn);
        let is_open = || {
            let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            open.filter_map(|open| std::fs::read_link(open.path()).ok()).any(|file| file == deaf.file)
        };
        deaf.await_changes(0).await;
        for count in 1..=2 {
            await_that("the file is closed", || !is_open());
            insert(&Connection::open(&deaf.file).unwrap(), count);
            deaf.await_changes(count.into()).await;
        }
        deaf.database.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_database_does_not_rest_while_a_write_is_under_way_that_may_become_visible_without_another() {
        let (deaf, conn) = Deaf::start("WAL", DEADLINE);
        deaf.await_rest();
        conn.execute_batch("PRAGMA cache_size = 1; BEGIN IMMEDIATE").unwrap();
        // More than the cache holds: it is in the log before it is committed.
        (1..=2_000).for_each(|id| insert(&conn, id));
        let files = Files::of(&deaf.file);
        await_that("the files' times are old", || files.seen().is_old(SystemTime::now()));
        let pulse = deaf.database.pulse().clone();
        let beats = pulse.beats();
        await_that("it has polled, and would rest", || pulse.beats() > beats + 10);
        assert_eq!(deaf.watch.at_rest(), 0);
        conn.execute_batch("COMMIT").unwrap();
        deaf.await_changes(2_000).await;
        deaf.await_rest();
        deaf.database.close().await;
    }
}
