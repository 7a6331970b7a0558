//! The write lock, taken so that it does not make other programs' transactions fail.
//!
//! A transaction that has read and then wants to write is refused at once, whatever its busy timeout, while somebody else
//! holds the write lock: with a rollback journal the two would wait for each other. Frameworks that begin with a plain BEGIN
//! read first as a rule. So readers are kept out for as long as the daemon writes, and wait for it as their busy timeout
//! says; and while somebody reads, the daemon tries again and again, and holds nothing meanwhile. Its patience is limited:
//! programs that read all the time must not keep it from writing.
//!
//! With a write-ahead log readers cannot be kept out, and a transaction that read before the daemon's commit and writes after
//! it is refused all the same.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::connection::BUSY_TIMEOUT;
use crate::error::{StoreError, code_of};

/// How long nothing is held while others read. They keep a writer from committing anyhow.
const PATIENCE: Duration = Duration::from_secs(2);

/// The first and the longest pause between two tries.
const PAUSES: [Duration; 2] = [Duration::from_micros(300), Duration::from_millis(10)];

/// How long the lock is waited for where the daemon is to stop.
const HURRY: Duration = Duration::from_millis(500);

/// Begins a write transaction on a connection; once the daemon is `closing`, it does not wait for long.
///
/// # Errors
/// SQLite's own; busy if the lock could not be had within [`BUSY_TIMEOUT`].
pub(crate) fn begin(conn: &Connection, closing: &Arc<AtomicBool>) -> Result<(), StoreError> {
    // With a write-ahead log the same as IMMEDIATE.
    patiently(conn, Some(closing), || conn.execute_batch("BEGIN EXCLUSIVE"))
}

/// A write transaction, rolled back where it is dropped; of a daemon, if `closing` tells when that is to stop.
///
/// # Errors
/// As [`begin`].
pub(crate) fn transaction<'c>(
    conn: &'c mut Connection,
    closing: Option<&Arc<AtomicBool>>,
) -> Result<Transaction<'c>, StoreError> {
    let conn = &*conn;
    patiently(conn, closing, || Transaction::new_unchecked(conn, TransactionBehavior::Exclusive))
}

/// Whether another program holds the write lock now.
pub(crate) fn is_held(conn: &Connection) -> bool {
    let tried = conn.busy_timeout(Duration::ZERO).and_then(|()| conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK"));
    // Setting it fails for no reason but a closed connection.
    let _ = conn.busy_timeout(BUSY_TIMEOUT);
    tried.is_err_and(|error| is_busy(&error))
}

/// How long the lock is waited for.
struct Wait {
    begun: Instant,
    closing: Option<Arc<AtomicBool>>,
}

impl Wait {
    fn is_over(&self) -> bool {
        let hurries = self.closing.as_ref().is_some_and(|closing| closing.load(Ordering::Relaxed));
        self.begun.elapsed() >= if hurries { HURRY } else { BUSY_TIMEOUT }
    }
}

thread_local! {
    /// What SQLite waits for on this thread: its busy handlers are told nothing.
    static WAIT: RefCell<Option<Wait>> = const { RefCell::new(None) };
}

/// SQLite's own waiting, during which it holds what it has got so far.
fn wait_on(_tries: i32) -> bool {
    let goes_on = WAIT.with_borrow(|wait| wait.as_ref().is_some_and(|wait| !wait.is_over()));
    if goes_on {
        std::thread::sleep(PAUSES[1]);
    }
    goes_on
}

fn patiently<T>(
    conn: &Connection,
    closing: Option<&Arc<AtomicBool>>,
    mut attempt: impl FnMut() -> rusqlite::Result<T>,
) -> Result<T, StoreError> {
    let wait = Wait { begun: Instant::now(), closing: closing.cloned() };
    let [mut pause, longest] = PAUSES;
    // SQLite's own waiting would hold what it has got so far.
    conn.busy_timeout(Duration::ZERO)?;
    let result = loop {
        if wait.begun.elapsed() >= PATIENCE {
            WAIT.set(Some(wait));
            conn.busy_handler(Some(wait_on))?;
            break attempt();
        }
        match attempt() {
            Err(error) if is_busy(&error) && !wait.is_over() => std::thread::sleep(pause),
            other => break other,
        }
        pause = (pause * 2).min(longest);
    };
    // In place of the handler.
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(result?)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(code_of(error), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
