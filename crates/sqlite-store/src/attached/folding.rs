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
    pub(crate) fn fold_ahead(&self, captured: usize) {
        // What cannot be folded now is folded by the next one who tries.
        let _ = pulse::on_disk(&self.options.path, || fold_ahead(&self.conn, captured));
    }
}

/// Folds a log that is long enough: most of it while applications write, and what they wrote meanwhile under their lock. The next
/// transaction begins the log anew.
fn fold_ahead(conn: &Connection, captured: usize) -> rusqlite::Result<()> {
    let pages = log_pages(conn)?;
    // Each transaction writes one page at least, and one into our own log.
    if pages < FOLDED_AHEAD || usize::try_from(pages).is_ok_and(|pages| captured > pages) {
        return Ok(());
    }
    let is_folded = |sql: &str| -> rusqlite::Result<bool> {
        conn.prepare_cached(sql)?.query_row([], |row| Ok(row.get::<_, i64>(0)? == 0))
    };
    conn.busy_timeout(Duration::ZERO)?;
    let folded = is_folded("PRAGMA main.wal_checkpoint(PASSIVE)").and_then(|_| {
        let begun = Instant::now();
        while !is_folded("PRAGMA main.wal_checkpoint(FULL)")? && begun.elapsed() < TRIED_FOR {
            std::thread::yield_now();
        }
        Ok(())
    });
    conn.busy_timeout(connection::BUSY_TIMEOUT)?;
    folded
}

/// Pages in the write-ahead log; negative where there is none.
fn log_pages(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("PRAGMA main.wal_checkpoint(NOOP)")?.query_row([], |row| row.get(1))
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
        let pages = log_pages(&daemon).unwrap();
        fold_ahead(&daemon, 100).unwrap();
        write(&application, 1);
        assert_eq!(log_pages(&daemon).unwrap(), pages + 1);
        write(&application, FOLDED_AHEAD);
        let pages = log_pages(&daemon).unwrap();
        fold_ahead(&daemon, 100_000).unwrap();
        write(&application, 1);
        assert_eq!(log_pages(&daemon).unwrap(), pages + 1, "many rows in so few pages: large transactions");
        fold_ahead(&daemon, 100).unwrap();
        write(&application, 1);
        assert_eq!(log_pages(&daemon).unwrap(), 1);
    }

    #[test]
    fn nobody_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (daemon, application) = opened(folder.path(), "WAL");
        let reader = connection::open(&folder.path().join("shop.db")).unwrap();
        write(&application, FOLDED_AHEAD);
        reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        application.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (0)").unwrap();
        fold_ahead(&daemon, 100).unwrap();
        application.execute_batch("COMMIT").unwrap();
        fold_ahead(&daemon, 100).unwrap();
        reader.execute_batch("COMMIT").unwrap();
        fold_ahead(&daemon, 100).unwrap();
        write(&application, 1);
        assert_eq!(log_pages(&daemon).unwrap(), 1);
    }

    #[test]
    fn a_file_without_a_log_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (daemon, application) = opened(folder.path(), "DELETE");
        write(&application, 10);
        assert!(log_pages(&daemon).unwrap() < 0);
        fold_ahead(&daemon, 100).unwrap();
    }
}
