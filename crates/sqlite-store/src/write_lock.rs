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
//!
//! A daemon with much to do takes the lock again as soon as it has let go of it, and programs that try now and then, which is
//! all that SQLite's busy timeout does, might never find it free. So the lock is taken in [`Turns`].

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::connection::BUSY_TIMEOUT;
use crate::error::{StoreError, code_of};
use crate::pulse;

/// How long nothing is held while others read. They keep a writer from committing anyhow.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two tries, for so long.
type Pauses = [(Duration, Duration); 4];

/// With a write-ahead log. A program that writes transaction after transaction leaves the lock free for some microseconds each time, and
/// SQLite has no queue for it: who looks every few milliseconds finds it free once in seconds. So it is tried without a pause for as
/// long as most transactions take. Later it is tried less often, since a program that holds the lock for minutes is not to cost that
/// much.
const PAUSES_WITH_LOG: Pauses = [
    (Duration::from_millis(1), Duration::from_micros(200)),
    (Duration::from_millis(20), Duration::ZERO),
    (Duration::from_millis(300), Duration::from_micros(50)),
    (PATIENCE, Duration::from_micros(200)),
];

/// With a rollback journal, where each try keeps a writer from committing for some microseconds.
const PAUSES_WITH_JOURNAL: Pauses = [
    (Duration::from_millis(2), Duration::from_micros(300)),
    (SOON, Duration::from_millis(1)),
    (Duration::from_millis(200), Duration::from_millis(5)),
    (PATIENCE, Duration::from_micros(100)),
];

/// When, with a rollback journal, it is asked who is in the way. Against those who read, [`LONG_PAUSE`] is short enough: each try fails
/// those among them who want to write.
const SOON: Duration = Duration::from_millis(20);

/// The pause after [`PATIENCE`], and where others are to be let in.
const LONG_PAUSE: Duration = Duration::from_millis(10);

/// How long the lock is waited for where the daemon is to stop.
const HURRY: Duration = Duration::from_millis(500);

/// Begins a write transaction on a connection; once the daemon is `closing`, it does not wait for long.
///
/// # Errors
/// SQLite's own; busy if the lock could not be had within [`BUSY_TIMEOUT`].
fn begin(conn: &Connection, closing: &Arc<AtomicBool>) -> Result<(), StoreError> {
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
    let held = conn.busy_timeout(Duration::ZERO).is_ok() && is_reserved(conn);
    // Setting it fails for no reason but a closed connection.
    let _ = conn.busy_timeout(BUSY_TIMEOUT);
    held
}

/// The same, on a connection that does not wait: with a rollback journal it is not readers who are in the way.
fn is_reserved(conn: &Connection) -> bool {
    conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_err_and(|error| is_busy(&error))
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
        pulse::beat();
        std::thread::sleep(LONG_PAUSE);
    }
    goes_on
}

fn patiently<T>(
    conn: &Connection,
    closing: Option<&Arc<AtomicBool>>,
    mut attempt: impl FnMut() -> rusqlite::Result<T>,
) -> Result<T, StoreError> {
    let wait = Wait { begun: Instant::now(), closing: closing.cloned() };
    let mut log = None;
    // SQLite's own waiting would hold what it has got so far.
    conn.busy_timeout(Duration::ZERO)?;
    let result = loop {
        pulse::beat();
        if wait.begun.elapsed() >= PATIENCE {
            WAIT.set(Some(wait));
            conn.busy_handler(Some(wait_on))?;
            break attempt();
        }
        match attempt() {
            Err(error) if is_busy(&error) && !wait.is_over() => {
                let log = *log.get_or_insert_with(|| has_log(conn));
                let pause = pause_after(wait.begun.elapsed(), log, || is_reserved(conn));
                if pause.is_zero() {
                    std::thread::yield_now();
                } else {
                    std::thread::sleep(pause);
                }
            }
            other => break other,
        }
    };
    // In place of the handler.
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(result?)
}

/// The pause before the next try, after so much waiting, where another program holds the write lock or somebody reads.
fn pause_after(waited: Duration, has_log: bool, is_reserved: impl FnOnce() -> bool) -> Duration {
    if !has_log && waited >= SOON && !is_reserved() {
        return LONG_PAUSE;
    }
    let pauses = if has_log { PAUSES_WITH_LOG } else { PAUSES_WITH_JOURNAL };
    pauses.into_iter().find(|(until, _)| waited < *until).map_or(LONG_PAUSE, |(_, pause)| pause)
}

/// Whether the file has a write-ahead log, as far as this connection has seen.
fn has_log(conn: &Connection) -> bool {
    let journal = conn.query_row("PRAGMA main.journal_mode", [], |row| row.get::<_, String>(0));
    journal.is_ok_and(|journal| journal.eq_ignore_ascii_case("wal"))
}

/// How long the lock may be held, net of the time that it was left free, until others have to be let in.
const TURN: Duration = Duration::from_millis(1_500);

/// How long others are let in. SQLite tries every 100 ms at the latest: whoever waits finds the lock free.
const LEFT_FREE: Duration = Duration::from_millis(110);

/// The daemon's turns with the write lock of one database: while it has much to do, others that wait for the lock get it after
/// [`TURN`] and the transaction that goes on then, at the latest.
///
/// A daemon that leaves the lock free for half of the time or more never waits here: whoever tries often finds it free often.
#[derive(Debug)]
pub(crate) struct Turns {
    /// How much longer the lock was held than it was free.
    used: Duration,
    begun: Option<Instant>,
    ended: Instant,
}

impl Default for Turns {
    fn default() -> Self {
        Self { used: Duration::ZERO, begun: None, ended: Instant::now() }
    }
}

impl Turns {
    /// Begins a write transaction when it is this daemon's turn; otherwise as [`begin`].
    ///
    /// # Errors
    /// As [`begin`].
    pub(crate) fn begin(&mut self, conn: &Connection, closing: &Arc<AtomicBool>) -> Result<(), StoreError> {
        while self.pause_at(Instant::now()) > Duration::ZERO && !closing.load(Ordering::Relaxed) {
            pulse::beat();
            std::thread::sleep(self.pause_at(Instant::now()).min(LONG_PAUSE));
        }
        begin(conn, closing)?;
        self.begin_at(Instant::now());
        Ok(())
    }

    /// The transaction, if one had begun, has ended.
    pub(crate) fn end(&mut self) {
        self.end_at(Instant::now());
    }

    /// How long the lock is still to be left free.
    fn pause_at(&self, now: Instant) -> Duration {
        if self.used < TURN { Duration::ZERO } else { (self.ended + LEFT_FREE).saturating_duration_since(now) }
    }

    fn begin_at(&mut self, now: Instant) {
        let free = now.saturating_duration_since(self.ended);
        self.used = if free >= LEFT_FREE { Duration::ZERO } else { self.used.saturating_sub(free) };
        self.begun = Some(now);
    }

    fn end_at(&mut self, now: Instant) {
        if let Some(begun) = self.begun.take() {
            self.used += now.saturating_duration_since(begun);
            self.ended = now;
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(code_of(error), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A writer holds the lock for milliseconds at a time, and lets go of it for no longer than it takes to begin anew.
    fn gets_the_lock_from_whoever_never_pauses(journal: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("busy.db");
        let writer = Connection::open(&path).unwrap();
        // What is asked here is what others see, not what a power cut leaves.
        let schema = format!("PRAGMA journal_mode = {journal}; PRAGMA synchronous = OFF; CREATE TABLE t (n)");
        writer.execute_batch(&schema).unwrap();
        writer.busy_timeout(BUSY_TIMEOUT).unwrap();
        let (done, committed) = (&AtomicBool::new(false), &AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    writer.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
                    std::thread::sleep(Duration::from_millis(5));
                    writer.execute_batch("COMMIT").unwrap();
                    committed.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut conn = Connection::open(&path).unwrap();
            let got: Result<Vec<()>, _> = (0..5)
                .map(|_| {
                    // It waits after ours, and longer each time, until it goes on.
                    let before = committed.load(Ordering::Relaxed);
                    while committed.load(Ordering::Relaxed) < before + 3 {
                        std::thread::yield_now();
                    }
                    transaction(&mut conn, None).map(drop)
                })
                .collect();
            done.store(true, Ordering::Relaxed);
            got.unwrap();
        });
    }

    #[test]
    fn who_writes_without_a_pause_does_not_keep_others_from_a_write_ahead_log() {
        gets_the_lock_from_whoever_never_pauses("WAL");
    }

    #[test]
    fn who_writes_without_a_pause_does_not_keep_others_from_a_file_with_a_rollback_journal() {
        gets_the_lock_from_whoever_never_pauses("DELETE");
    }

    /// How long the lock is left free before each of `count` transactions that hold it for `held` with `free` between them.
    fn pauses(held: u64, free: u64, count: usize) -> Vec<u128> {
        let mut turns = Turns::default();
        let mut now = turns.ended;
        let pauses = (0..count).map(|_| {
            now += Duration::from_millis(free);
            let pause = turns.pause_at(now);
            now += pause;
            turns.begin_at(now);
            now += Duration::from_millis(held);
            turns.end_at(now);
            pause.as_millis()
        });
        pauses.collect()
    }

    #[test]
    fn the_lock_is_left_free_after_each_turn_where_there_is_much_to_do() {
        // The sixth begins after five of 300 ms.
        assert_eq!(pauses(300, 0, 11), [0, 0, 0, 0, 0, 110, 0, 0, 0, 0, 110]);
        assert_eq!(pauses(2_000, 0, 3), [0, 110, 110]);
        assert_eq!(pauses(270, 90, 30).iter().filter(|pause| **pause == 20).count(), 3, "what was free counts");
    }

    #[test]
    fn nobody_waits_where_the_lock_is_free_half_of_the_time() {
        assert!(pauses(10, 10, 10_000).iter().all(|pause| *pause == 0));
        assert!(pauses(600, 110, 100).iter().all(|pause| *pause == 0), "it was free long enough each time");
    }
}
