//! The write-ahead log is folded into the file: by whoever writes last, or by the daemon.
//!
//! Folding waits for the disk, for twenty milliseconds now and then. So it is done by a thread [aside], on a connection of its own,
//! while the database's thread captures and applies: who folds is in nobody's way, except with the last few pages of a log that is to be
//! begun anew: while these are folded nobody writes.

mod aside;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aside::Aside;
use rusqlite::Connection;

use super::Attachment;
use crate::connection;
use crate::fail_point::fail_point;
use crate::pulse;

/// Pages in the write-ahead log from which on the daemon folds it where transactions are small. SQLite has the application do it from 1,000
/// on, and again after each of its transactions until all is folded, which takes as long as many transactions each time.
const FOLDED_AHEAD: i64 = 400;

/// The same where applications write large transactions: who folds such a log aside is always behind, so that it is never begun anew.
const FOLDED_BETWEEN: i64 = 1_000;

/// Pages that are not folded yet from which on the daemon does it aside where its own transactions are large.
const FOLDED_BEHIND: i64 = 3_000;

/// Pages in the log from which on all that is left of it is folded before the next large transaction, which begins it anew if nobody reads
/// an old state of it. 32 MiB with pages of 4 KiB.
const FOLDED_AT_ONCE: i64 = 8_000;

/// Rows written for each page, their clocks and all else included, up to which transactions are small. Large ones write tens of them.
const SMALL: u64 = 4;

/// How long the lock is tried for, to fold what came in while the most of it was folded.
const TRIED_FOR: Duration = Duration::from_millis(2);

/// How many times it is folded while others write, each time what was written meanwhile, until that is done under their lock.
const ROUNDS: u32 = 2;

/// How long each of them may take where the rest is to be folded under the lock: that waits for the disk as often.
const FAST: Duration = Duration::from_millis(10);

/// How long a log is left alone after it was folded and not begun anew: somebody reads an old state.
const IN_VAIN: Duration = Duration::from_millis(200);

/// How many times as long as it took to fold it where the disk is slow.
const SLOWLY: u32 = 10;

/// When a database's log is folded, and who does it.
#[derive(Debug, Default)]
pub(super) struct Folder {
    aside: Aside,
    asked: Asked,
}

/// What was written by the end of the transaction before.
#[derive(Debug, Default, Clone, Copy)]
struct Asked {
    /// Rows, by the daemon's connection.
    rows: u64,
    /// The sequence of the database's own changes.
    issued: u64,
    /// Pages of the log.
    pages: i64,
}

/// What was written since.
#[derive(Debug, Clone, Copy)]
struct Written {
    rows: u64,
    /// Some of the rows were captured.
    captured: bool,
    pages: i64,
}

/// How a log is to be folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fold {
    /// Aside, and all of it, so that it is begun anew before applications have to fold it.
    Ahead,
    /// Aside, while the next transaction is made.
    Behind,
    /// Before the next transaction.
    AtOnce,
}

impl Attachment {
    /// Folds the write-ahead log into the file and empties it, if nobody is in the way. While this connection stays open no
    /// other one does; a program that puts another file in the place of this one, with nobody else using it, would have
    /// the frames of the old file read into the new one.
    pub(crate) fn fold(&mut self) -> bool {
        self.end_folding();
        fail_point("fold-begun");
        let fold = || self.conn.query_row("PRAGMA main.wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        let folded = self.conn.busy_timeout(Duration::ZERO).and_then(|()| pulse::on_disk(&self.options.path, fold));
        fail_point("folded");
        // What was in the cache is not needed soon, and with many databases it is much. It cannot fail.
        let _ = self.conn.execute_batch("PRAGMA shrink_memory");
        // Setting it cannot fail on an open connection.
        let _ = self.conn.busy_timeout(connection::BUSY_TIMEOUT);
        matches!(folded, Ok(0))
    }

    /// After a transaction of the daemon: folds the log where it has become long, or has it folded aside. Who stops folds it anyhow.
    pub(super) fn fold_ahead(&mut self) {
        let Self { conn, folder, options, file, replica, closing, .. } = self;
        if closing.load(Ordering::Relaxed) {
            return;
        }
        // What cannot be asked, or folded, now is after the next transaction.
        let Ok(log) = Log::folded_by(conn, "NOOP") else { return };
        let now = Asked { rows: conn.total_changes(), issued: replica.have.get(replica.own), pages: log.pages };
        let due = log.is_due(std::mem::replace(&mut folder.asked, now).until(now));
        let at_once = due == Some(Fold::AtOnce);
        let aside = due.filter(|_| !at_once).is_none_or(|due| folder.aside.fold(&options.path, *file, due));
        if at_once || (!aside && log.is_long()) {
            pulse::on_disk(&options.path, || {
                // It would be in the way.
                folder.aside.end();
                drop(Log::folded_by(conn, "PASSIVE"));
            });
        }
    }

    /// Ends the folding aside: whoever closes a file after that closes the daemon's last connection that writes to it.
    pub(crate) fn end_folding(&mut self) {
        let Self { folder, options, .. } = self;
        if folder.aside.is_begun() {
            pulse::on_disk(&options.path, || folder.aside.end());
        }
    }
}

impl Asked {
    /// What was written until now.
    fn until(self, now: Self) -> Written {
        // With fewer pages it was begun anew.
        let before = if now.pages < self.pages { 0 } else { self.pages };
        Written {
            rows: now.rows.saturating_sub(self.rows),
            captured: now.issued != self.issued,
            pages: now.pages - before,
        }
    }
}

/// What came of folding a log last.
#[derive(Debug, Default)]
struct Folding {
    /// Until when it is left alone whatever is found, and if it is not begun anew.
    slow_until: Option<Instant>,
    vain_until: Option<Instant>,
    /// Up to which page it is folded at least, unless it is begun anew.
    upto: i64,
}

impl Folding {
    /// Folds a log of small transactions that is long enough, and all of it: the next transaction begins it anew, if nobody reads an old
    /// state of it then.
    fn fold_ahead(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let log = Log::folded_by(conn, "NOOP")?;
        if log.pages < FOLDED_AHEAD {
            return Ok(());
        }
        let begun = Instant::now();
        let waits = |until: Option<Instant>| until.is_some_and(|until| begun < until);
        // From so many pages on applications fold it in each of their transactions.
        let is_slow = log.pages < FOLDED_BETWEEN && waits(self.slow_until);
        if is_slow || (log.folded >= self.upto && waits(self.vain_until)) {
            return Ok(());
        }
        conn.busy_timeout(Duration::ZERO)?;
        let folded = fold_all(conn);
        conn.busy_timeout(connection::BUSY_TIMEOUT)?;
        let (now, took) = (Instant::now(), begun.elapsed());
        self.slow_until = (took > FAST * ROUNDS + TRIED_FOR).then(|| now + SLOWLY * took);
        let folded = folded?;
        self.vain_until = (!folded.is_busy).then(|| now + IN_VAIN);
        // Not less than before: what is folded further later is of the same log.
        self.upto = folded.folded.max(log.folded);
        Ok(())
    }
}

/// Folds a log, what was written meanwhile too: at last under the lock, where that is fast. It is busy where it is worth another try soon:
/// somebody else folded it at the same time, or the disk was too slow for the rest to be folded under the lock.
fn fold_all(conn: &Connection) -> rusqlite::Result<Log> {
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let most = Log::folded_by(conn, "PASSIVE")?;
        if most.is_busy || most.folded < most.pages {
            return Ok(most);
        }
        let all = Log::folded_by(conn, "NOOP")?;
        if all.folded == all.pages {
            return Ok(all);
        }
        if begun.elapsed() > FAST {
            return Ok(Log { is_busy: true, ..all });
        }
    }
    let begun = Instant::now();
    loop {
        let all = Log::folded_by(conn, "FULL")?;
        if !all.is_busy || begun.elapsed() > TRIED_FOR {
            // Each try keeps others from writing for a moment, and whoever reads an old state now may do so for long.
            return Ok(Log { is_busy: false, ..all });
        }
        std::thread::yield_now();
    }
}

/// A write-ahead log.
struct Log {
    /// Whether somebody was in the way of folding it.
    is_busy: bool,
    /// Its pages, and how many of them are folded; negative where there is no log, or this is not known.
    pages: i64,
    folded: i64,
}

impl Log {
    /// Whether it is to be folded where that was written of late, and how.
    fn is_due(&self, written: Written) -> Option<Fold> {
        let is_small = u64::try_from(written.pages).is_ok_and(|pages| written.rows <= SMALL * pages);
        let left = self.pages - self.folded;
        if is_small {
            (self.pages >= FOLDED_AHEAD).then_some(Fold::Ahead)
        } else if left > 0 && self.is_long() {
            Some(Fold::AtOnce)
        } else if written.captured {
            (left > 0 && self.pages >= FOLDED_BETWEEN).then_some(Fold::AtOnce)
        } else {
            (left >= FOLDED_BEHIND).then_some(Fold::Behind)
        }
    }

    /// Whether it is folded by whoever can.
    const fn is_long(&self) -> bool {
        self.pages >= FOLDED_AT_ONCE
    }

    /// The log after it was folded in this way.
    fn folded_by(conn: &Connection, way: &str) -> rusqlite::Result<Self> {
        let mut statement = conn.prepare_cached(&format!("PRAGMA main.wal_checkpoint({way})"))?;
        statement.query_row([], |row| {
            Ok(Self { is_busy: row.get::<_, i64>(0)? != 0, pages: row.get(1)?, folded: row.get(2)? })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The daemon's connection to a file, and that of an application that folds nothing.
    fn opened(folder: &Path, journal: &str) -> (Connection, Connection) {
        let path = folder.join("shop.db");
        let application = Connection::open(&path).unwrap();
        application.query_row(&format!("PRAGMA journal_mode = {journal}"), [], |_| Ok(())).unwrap();
        application.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(())).unwrap();
        application.execute_batch("PRAGMA synchronous = OFF; CREATE TABLE t (n)").unwrap();
        (connection::open(&path).unwrap(), application)
    }

    fn pages_of(conn: &Connection) -> i64 {
        Log::folded_by(conn, "NOOP").unwrap().pages
    }

    fn write(application: &Connection, transactions: i64) {
        for n in 0..transactions {
            application.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
        }
    }

    #[test]
    fn a_long_log_is_begun_anew_by_the_next_transaction_and_a_short_one_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (daemon, application) = opened(folder.path(), "WAL");
        write(&application, FOLDED_AHEAD / 2);
        let pages = pages_of(&daemon);
        Folding::default().fold_ahead(&daemon).unwrap();
        write(&application, 1);
        assert_eq!(pages_of(&daemon), pages + 1);
        write(&application, FOLDED_AHEAD);
        Folding::default().fold_ahead(&daemon).unwrap();
        write(&application, 1);
        assert_eq!(pages_of(&daemon), 1);
    }

    #[test]
    fn nobody_is_waited_for_and_what_a_reader_keeps_is_not_folded_again_and_again() {
        let folder = tempfile::tempdir().unwrap();
        let (daemon, application) = opened(folder.path(), "WAL");
        let reader = connection::open(&folder.path().join("shop.db")).unwrap();
        write(&application, FOLDED_AHEAD);
        reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        application.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (0)").unwrap();
        let mut folding = Folding::default();
        folding.fold_ahead(&daemon).unwrap();
        application.execute_batch("COMMIT").unwrap();
        write(&application, 1);
        let folded = Log::folded_by(&daemon, "NOOP").unwrap().folded;
        reader.execute_batch("COMMIT").unwrap();
        // However long this takes here.
        let set = folding.vain_until.replace(Instant::now() + Duration::from_secs(3_600));
        assert!(set.is_some());
        folding.slow_until = None;
        folding.fold_ahead(&daemon).unwrap();
        assert_eq!(Log::folded_by(&daemon, "NOOP").unwrap().folded, folded, "it was just in vain");
        folding.vain_until = None;
        folding.fold_ahead(&daemon).unwrap();
        write(&application, FOLDED_AHEAD);
        assert!(
            pages_of(&daemon) < FOLDED_AHEAD + FOLDED_AHEAD / 2,
            "it was begun anew, and has few pages beside the rows'"
        );
        folding.slow_until = None;
        folding.vain_until = Some(Instant::now() + Duration::from_secs(3_600));
        folding.fold_ahead(&daemon).unwrap();
        write(&application, 1);
        assert_eq!(pages_of(&daemon), 1, "and is folded at once");
    }

    #[test]
    fn a_log_is_folded_as_it_is_written() {
        let log = |pages, folded| Log { is_busy: false, pages, folded };
        let few = Written { rows: 100, captured: true, pages: 100 };
        assert_eq!(log(FOLDED_AHEAD, 0).is_due(few), Some(Fold::Ahead));
        assert_eq!(
            log(FOLDED_AHEAD, FOLDED_AHEAD).is_due(few),
            Some(Fold::Ahead),
            "somebody wrote while it was folded"
        );
        assert_eq!(log(FOLDED_AHEAD - 1, 0).is_due(few), None);
        let many = Written { rows: 50_000, captured: false, pages: 1_000 };
        assert_eq!(log(FOLDED_BEHIND, 0).is_due(many), Some(Fold::Behind));
        assert_eq!(log(2 * FOLDED_BEHIND, FOLDED_BEHIND + 1).is_due(many), None);
        assert_eq!(log(FOLDED_AT_ONCE, FOLDED_BEHIND).is_due(many), Some(Fold::AtOnce));
        assert_eq!(log(FOLDED_AT_ONCE, FOLDED_AT_ONCE).is_due(many), None);
        assert_eq!(log(FOLDED_AT_ONCE, FOLDED_BEHIND).is_due(few), Some(Fold::Ahead), "only so it is begun anew");
        let captured = Written { captured: true, ..many };
        assert_eq!(log(FOLDED_BETWEEN, 0).is_due(captured), Some(Fold::AtOnce));
        assert_eq!(log(FOLDED_BETWEEN - 1, 0).is_due(captured), None);
        let none = Written { pages: 0, ..few };
        assert_eq!((log(-1, -1).is_due(none), log(-1, -1).is_due(many)), (None, None), "there is none");
    }

    #[test]
    fn what_was_written_is_told_by_what_was_asked_before() {
        let before = Asked { rows: 10, issued: 7, pages: 500 };
        let written = before.until(Asked { rows: 30, issued: 7, pages: 600 });
        assert_eq!((written.rows, written.captured, written.pages), (20, false, 100));
        let written = before.until(Asked { rows: 30, issued: 8, pages: 40 });
        assert_eq!((written.captured, written.pages), (true, 40), "the log was begun anew");
    }

    #[test]
    fn a_file_without_a_log_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (daemon, application) = opened(folder.path(), "DELETE");
        write(&application, 10);
        assert!(pages_of(&daemon) < 0);
        Folding::default().fold_ahead(&daemon).unwrap();
    }
}
