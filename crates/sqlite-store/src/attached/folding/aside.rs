//! The thread that folds the log of one file, beside the thread of its database.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::{Fold, Folding, Log};
use crate::connection;
use crate::state::FileIdentity;

/// The thread, if there is one: it begins with the first log that is to be folded, and ends when nothing has happened for a second.
#[derive(Debug, Default)]
pub(super) struct Aside(Option<Running>);

#[derive(Debug)]
struct Running {
    orders: SyncSender<Fold>,
    thread: JoinHandle<()>,
}

impl Aside {
    /// Has the log of a file folded, soon. What cannot be folded is folded by the next one who tries.
    pub(super) fn fold(&mut self, path: &Path, file: FileIdentity, fold: Fold) {
        if self.0.is_none() {
            self.0 = start(path.to_owned(), file);
        }
        let sent = self.0.as_ref().map(|running| running.orders.try_send(fold));
        if let Some(Err(TrySendError::Disconnected(_))) = sent {
            self.end();
        }
    }

    pub(super) const fn is_begun(&self) -> bool {
        self.0.is_some()
    }

    /// Ends it, when what it folds is folded.
    pub(super) fn end(&mut self) {
        if let Some(Running { orders, thread }) = self.0.take() {
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
    let name = "fold".to_owned();
    let thread = std::thread::Builder::new().name(name).spawn(move || serve(&path, file, &received)).ok()?;
    Some(Running { orders, thread })
}

fn serve(path: &Path, file: FileIdentity, orders: &Receiver<Fold>) {
    let Some(conn) = open(path, file) else { return };
    let mut folding = Folding::default();
    while let Ok(fold) = orders.recv() {
        // What fails, fails for the database's thread as well, which tells of it.
        let _ = match fold {
            Fold::Ahead => folding.fold_ahead(&conn),
            Fold::Behind | Fold::AtOnce => Log::folded_by(&conn, "PASSIVE").map(drop),
        };
    }
}

/// A connection to this very file.
fn open(path: &Path, file: FileIdentity) -> Option<Connection> {
    let conn = connection::open(path).ok()?;
    // Where it is the last one, the file is none of ours any more.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).ok()?;
    (FileIdentity::of(path).ok()? == file).then_some(conn)
}
