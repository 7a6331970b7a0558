//! The write-ahead log is folded into the file: by whoever writes last, or by the daemon.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::Attachment;
use crate::connection;
use crate::fail_point::fail_point;
use crate::pulse;

/// Pages in the write-ahead log from which on the daemon folds it. SQLite has the application do it from 1,000 on, and again after each
/// of its transactions until all is folded, which takes as long as many transactions each time.
const FOLDED_AHEAD: i64 = 400;

/// How long the lock is tried for, to fold what came in while the most of it was folded.
const TRIED_FOR: Duration = Duration::from_millis(2);

/// How long the most of it may take where the rest is to be folded under the lock: that waits for the disk as often.
const FAST: Duration = Duration::from_millis(10);

/// How long a log is left alone after it was folded and not begun anew: somebody reads an old state.
const IN_VAIN: Duration = Duration::from_millis(200);

/// How many times as long as it took to fold it where the disk is slow.
const SLOWLY: u32 = 10;

/// What came of folding a log last.
#[derive(Debug, Default)]
pub(super) struct Folding {
    /// Until when it is left alone whatever is found, and if it is not begun anew.
    slow_until: Option<Instant>,
    vain_until: Option<Instant>,
    /// Up to which page it is folded at least, unless it is begun anew.
    upto: i64,
}

impl Attachment {
    /// Folds the write-ahead log into the file and empties it, if nobody is in the way. While this connection stays open no
    /// other one does; a program that puts another file in the place of this one, with nobody else using it, would have
    /// the frames of the old file read into the new one.
    pub(crate) fn fold(&self) -> bool {
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

    /// Folds the write-ahead log before an application has to, as far as that keeps nobody waiting for long, where so many rows as were
    /// captured last were written in small transactions. Large ones make a log so fast that the daemon, which is behind them anyhow, would
    /// do nothing else.
    pub(crate) fn fold_ahead(&mut self, captured: usize) {
        let Self { conn, folding, options, .. } = self;
        // What cannot be folded now is folded by the next one who tries.
        let _ = pulse::on_disk(&options.path, || folding.fold_ahead(conn, captured));
    }
}

impl Folding {
    /// Folds a log that is long enough: most of it while applications write, and what they wrote meanwhile under their lock. The next
    /// transaction begins the log anew, if nobody reads an old state of it then.
    fn fold_ahead(&mut self, conn: &Connection, captured: usize) -> rusqlite::Result<()> {
        let log = Log::folded_by(conn, "NOOP")?;
        // Each transaction writes one page at least, and one into our own log. Where nothing was captured they can have any size.
        let are_small = captured > 0 && usize::try_from(log.pages).is_ok_and(|pages| captured <= pages);
        if log.pages < FOLDED_AHEAD || !are_small {
            return Ok(());
        }
        let begun = Instant::now();
        let waits = |until: Option<Instant>| until.is_some_and(|until| begun < until);
        if waits(self.slow_until) || (log.folded >= self.upto && waits(self.vain_until)) {
            return Ok(());
        }
        conn.busy_timeout(Duration::ZERO)?;
        let folded = fold_in_two(conn);
        conn.busy_timeout(connection::BUSY_TIMEOUT)?;
        let (now, took) = (Instant::now(), begun.elapsed());
        self.slow_until = (took > FAST + TRIED_FOR).then(|| now + SLOWLY * took);
        self.vain_until = Some(now + IN_VAIN);
        // Not less than before: what is folded further later is of the same log.
        self.upto = folded?.folded.max(log.folded);
        Ok(())
    }
}

fn fold_in_two(conn: &Connection) -> rusqlite::Result<Log> {
    let begun = Instant::now();
    let most = Log::folded_by(conn, "PASSIVE")?;
    if most.is_busy || most.folded < most.pages || begun.elapsed() > FAST {
        return Ok(most);
    }
    let begun = Instant::now();
    loop {
        let all = Log::folded_by(conn, "FULL")?;
        if !all.is_busy || begun.elapsed() > TRIED_FOR {
            return Ok(all);
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
        Folding::default().fold_ahead(&daemon, 100).unwrap();
        write(&application, 1);
        assert_eq!(pages_of(&daemon), pages + 1);
        write(&application, FOLDED_AHEAD);
        let pages = pages_of(&daemon);
        Folding::default().fold_ahead(&daemon, 100_000).unwrap();
        Folding::default().fold_ahead(&daemon, 0).unwrap();
        write(&application, 1);
        assert_eq!(pages_of(&daemon), pages + 1, "many rows in so few pages: large transactions");
        Folding::default().fold_ahead(&daemon, 100).unwrap();
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
        folding.fold_ahead(&daemon, 100).unwrap();
        application.execute_batch("COMMIT").unwrap();
        write(&application, 1);
        let folded = Log::folded_by(&daemon, "NOOP").unwrap().folded;
        reader.execute_batch("COMMIT").unwrap();
        // However long this takes here.
        let set = folding.vain_until.replace(Instant::now() + Duration::from_secs(3_600));
        assert!(set.is_some());
        folding.slow_until = None;
        folding.fold_ahead(&daemon, 100).unwrap();
        assert_eq!(Log::folded_by(&daemon, "NOOP").unwrap().folded, folded, "it was just in vain");
        folding.vain_until = None;
        folding.fold_ahead(&daemon, 100).unwrap();
        write(&application, FOLDED_AHEAD);
        assert!(
            pages_of(&daemon) < FOLDED_AHEAD + FOLDED_AHEAD / 2,
            "it was begun anew, and has few pages beside the rows'"
        );
        folding.slow_until = None;
        folding.vain_until = Some(Instant::now() + Duration::from_secs(3_600));
        folding.fold_ahead(&daemon, 100).unwrap();
        write(&application, 1);
        assert_eq!(pages_of(&daemon), 1, "and is folded at once");
    }

    #[test]
    fn a_file_without_a_log_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (daemon, application) = opened(folder.path(), "DELETE");
        write(&application, 10);
        assert!(pages_of(&daemon) < 0);
        Folding::default().fold_ahead(&daemon, 100).unwrap();
    }
}
