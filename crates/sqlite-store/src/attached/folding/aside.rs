//! The thread that folds the log of one file, beside the thread of its database.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::{Fold, Folding, Log};
use crate::connection;
use crate::state::FileIdentity;

/// How long the thread waits for another log to fold.
const LINGERS: Duration = Duration::from_secs(1);

/// The thread, if there is one: it begins with the first log that is to be folded, and ends when none was for a while.
#[derive(Debug, Default)]
pub(super) struct Aside(Option<Running>);

#[derive(Debug)]
struct Running {
    orders: SyncSender<Fold>,
    /// Nothing more is to be folded.
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Aside {
    /// Has the log of a file folded, soon; false if there is nobody to do it. What cannot be folded is folded by the next one who tries.
    pub(super) fn fold(&mut self, path: &Path, file: FileIdentity, fold: Fold) -> bool {
        // It may have ended, or ends just now; then it begins again.
        for _ in 0..2 {
            let Some(running) = self.0.take().or_else(|| start(path.to_owned(), file)) else { return false };
            let sent = running.orders.try_send(fold);
            self.0 = Some(running);
            if !matches!(sent, Err(TrySendError::Disconnected(_))) {
                return true;
            }
            self.end();
        }
        false
    }

    pub(super) const fn is_begun(&self) -> bool {
        self.0.is_some()
    }

    /// Ends it, when what it folds just now is folded.
    pub(super) fn end(&mut self) {
        if let Some(Running { orders, ended, thread }) = self.0.take() {
            ended.store(true, Ordering::Relaxed);
            drop(orders);
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.end();
    }
}

fn start(path: PathBuf, file: FileIdentity) -> Option<Running> {
    // One order that waits: what is written while a log is folded may be as much again.
    let (orders, received) = sync_channel(1);
    let ended = Arc::new(AtomicBool::new(false));
    let is_ended = Arc::clone(&ended);
    let serve = move || serve((&path, file), &received, &is_ended);
    let thread = std::thread::Builder::new().name("fold".to_owned()).spawn(serve).ok()?;
    Some(Running { orders, ended, thread })
}

fn serve((path, file): (&Path, FileIdentity), orders: &Receiver<Fold>, ended: &AtomicBool) {
    let is_there = || FileIdentity::of(path).is_ok_and(|now| now == file);
    let Some(conn) = is_there().then(|| open(path)).flatten() else { return };
    let mut folding = Folding::default();
    while let Ok(fold) = orders.recv_timeout(LINGERS) {
        // What is of another file now is not to be folded into this one: it may have the same log by name.
        if ended.load(Ordering::Relaxed) || !is_there() {
            return;
        }
        // What fails is tried again by the next order.
        let _ = match fold {
            Fold::Ahead => folding.fold_ahead(&conn),
            Fold::Behind | Fold::AtOnce => Log::folded_by(&conn, "PASSIVE").map(drop),
        };
    }
}

/// A connection that, where it is the last one, leaves the log to the next who opens the file.
fn open(path: &Path) -> Option<Connection> {
    let conn = connection::open(path).ok()?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).ok()?;
    Some(conn)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tempfile::TempDir;

    use super::super::{FOLDED_AHEAD, FOLDED_BEHIND};
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    fn await_that(mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < DEADLINE);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A file with a log of some pages, which nobody folds but whoever is asked to.
    struct File {
        folder: TempDir,
        path: PathBuf,
        identity: FileIdentity,
        conn: Connection,
        aside: Aside,
    }

    impl File {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("shop.db");
            let conn = Connection::open(&path).unwrap();
            conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
            conn.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(())).unwrap();
            conn.execute_batch("PRAGMA synchronous = OFF; CREATE TABLE t (n)").unwrap();
            let identity = FileIdentity::of(&path).unwrap();
            let file = Self { folder, path, identity, conn, aside: Aside::default() };
            file.write();
            file
        }

        fn write(&self) {
            for n in 0..FOLDED_AHEAD {
                self.conn.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
            }
            assert!(self.log().pages < FOLDED_BEHIND && self.log().folded < self.log().pages);
        }

        fn log(&self) -> Log {
            Log::folded_by(&self.conn, "NOOP").unwrap()
        }

        fn fold(&mut self, fold: Fold) -> bool {
            self.aside.fold(&self.path, self.identity, fold)
        }

        /// Asks until the log is folded: who ends just now may not have heard it.
        fn until_folded(&mut self, fold: Fold) {
            await_that(|| {
                self.fold(fold);
                self.log().folded == self.log().pages
            });
        }

        fn until_ended(&self) {
            await_that(|| self.aside.0.as_ref().is_none_or(|running| running.thread.is_finished()));
        }
    }

    #[test]
    fn a_log_is_folded_aside_and_again_after_that_has_ended() {
        let mut file = File::new();
        file.until_folded(Fold::Ahead);
        file.write();
        file.until_folded(Fold::Behind);
        assert!(file.aside.is_begun());
        file.aside.end();
        assert!(!file.aside.is_begun());
        file.write();
        file.until_folded(Fold::Ahead);
        file.until_ended();
        file.write();
        file.until_folded(Fold::Ahead);
    }

    #[test]
    fn the_log_of_a_file_that_is_replaced_is_left_alone() {
        let mut file = File::new();
        file.until_folded(Fold::Behind);
        file.write();
        let folded = file.log().folded;
        std::fs::rename(&file.path, file.folder.path().join("old.db")).unwrap();
        // While it is at work, and when it begins.
        for _ in 0..2 {
            file.fold(Fold::Behind);
            file.until_ended();
            assert_eq!(file.log().folded, folded);
        }
        assert!(!file.path.exists() && file.folder.path().join("shop.db-wal").exists());
    }
}
