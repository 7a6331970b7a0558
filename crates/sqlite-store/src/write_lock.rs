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

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::connection::BUSY_TIMEOUT;
use crate::error::{StoreError, code_of};

/// How long nothing is held while others read. They keep a writer from committing anyhow.
const PATIENCE: Duration = Duration::from_secs(2);

/// The first and the longest pause between two tries.
const PAUSES: [Duration; 2] = [Duration::from_micros(300), Duration::from_millis(10)];

/// How long what is got so far is held before it is looked whether to wait on.
const HOLD: Duration = Duration::from_millis(250);

/// How long the lock is waited for where the daemon is to stop.
const HURRY: Duration = Duration::from_millis(500);

/// Begins a write transaction on a connection; once the daemon is `closing`, it does not wait for long.
///
/// # Errors
/// SQLite's own; busy if the lock could not be had within [`BUSY_TIMEOUT`].
pub(crate) fn begin(conn: &Connection, closing: &AtomicBool) -> Result<(), StoreError> {
    // With a write-ahead log the same as IMMEDIATE.
    patiently(conn, || closing.load(Ordering::Relaxed), || conn.execute_batch("BEGIN EXCLUSIVE"))
}

/// A write transaction, rolled back where it is dropped.
///
/// # Errors
/// As [`begin`].
pub(crate) fn transaction(conn: &mut Connection) -> Result<Transaction<'_>, StoreError> {
    let conn = &*conn;
    patiently(conn, || false, || Transaction::new_unchecked(conn, TransactionBehavior::Exclusive))
}

/// Whether another program holds the write lock now.
pub(crate) fn is_held(conn: &Connection) -> bool {
    let tried = conn.busy_timeout(Duration::ZERO).and_then(|()| conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK"));
    // Setting it fails for no reason but a closed connection.
    let _ = conn.busy_timeout(BUSY_TIMEOUT);
    tried.is_err_and(|error| is_busy(&error))
}

fn patiently<T>(
    conn: &Connection,
    hurries: impl Fn() -> bool,
    mut attempt: impl FnMut() -> rusqlite::Result<T>,
) -> Result<T, StoreError> {
    let begun = Instant::now();
    let [mut pause, longest] = PAUSES;
    let result = loop {
        // SQLite's own waiting holds what it has got so far.
        let holds = begun.elapsed() >= PATIENCE;
        conn.busy_timeout(if holds { HOLD } else { Duration::ZERO })?;
        let result = attempt();
        let limit = if hurries() { HURRY } else { BUSY_TIMEOUT };
        if !result.as_ref().is_err_and(is_busy) || begun.elapsed() >= limit {
            break result;
        }
        if !holds {
            std::thread::sleep(pause);
            pause = (pause * 2).min(longest);
        }
    };
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(result?)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(code_of(error), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
