//! The write lock, taken so that it does not make other programs' transactions fail.
//!
//! A transaction that has read and then wants to write is refused at once, whatever its busy timeout, while somebody else
//! holds the write lock: with a rollback journal the two would wait for each other. Frameworks that begin with a plain BEGIN
//! read first as a rule. So readers are kept out for as long as the daemon writes, and wait for it as their busy timeout
//! says; and while somebody reads, the daemon looks again and again, and holds nothing meanwhile. Its patience is limited:
//! programs that read all the time must not keep it from writing.
//!
//! With a write-ahead log readers cannot be kept out, and a transaction that read before the daemon's commit and writes after
//! it is refused all the same.
//!
//! A daemon with much to do takes the lock in [`Turns`].

mod others;
mod turns;

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use others::Others;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
pub(crate) use turns::Turns;

use crate::connection::BUSY_TIMEOUT;
use crate::error::{StoreError, code_of};
use crate::pulse;

/// How long nothing is held while others read. They keep a writer from committing anyhow.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two tries with a write-ahead log, for so long. A program that writes transaction after transaction leaves the lock
/// free for some microseconds each time, and SQLite has no queue for it: who looks every few milliseconds finds it free once in seconds.
/// So it is tried without a pause for as long as most transactions take.
const PAUSES_WITH_LOG: [(Duration, Duration); 3] = [
    (Duration::from_millis(1), Duration::from_micros(200)),
    (Duration::from_millis(20), Duration::ZERO),
    (Duration::from_millis(300), Duration::from_micros(50)),
];

/// Later it is tried without a pause for the first part of each round only, since a program that holds the lock for minutes is not to
/// cost that much.
const ROUND: Duration = Duration::from_millis(100);
const TRIED_HARD: Duration = Duration::from_millis(10);

/// With a rollback journal: the first pauses between two looks at who is in the way, for so long, and the later ones.
const LOOKS: (Duration, [Duration; 2]) =
    (Duration::from_millis(20), [Duration::from_micros(200), Duration::from_millis(1)]);

/// How long, with a rollback journal, whoever writes is only looked at: each try keeps it from committing for some microseconds. Who
/// looks does not find the moment between two transactions of a program that never pauses; who tries often does.
const SPARED: Duration = Duration::from_millis(200);

/// The pause between tries then.
const EAGER_PAUSE: Duration = Duration::from_micros(100);

/// The first and the longest pause between two tries, with a rollback journal, where it cannot be seen who is in the way: each try fails
/// those among them who have read and want to write.
const BLIND_PAUSES: [Duration; 2] = [Duration::from_micros(300), Duration::from_millis(10)];

/// The pause of who has waited for long, when nobody is the worse for a try.
const LAST_PAUSE: Duration = Duration::from_micros(200);

/// How long the lock is waited for where the daemon is to stop.
const HURRY: Duration = Duration::from_millis(500);

/// Begins a write transaction on a connection, whose file has a log if `write_ahead` says so, with what it writes `first`; once the
/// daemon is `closing`, it does not wait for long.
///
/// # Errors
/// SQLite's own, and no transaction has begun; busy if the lock could not be had within [`BUSY_TIMEOUT`].
fn begin<T>(
    (conn, write_ahead): (&Connection, bool),
    closing: &Arc<AtomicBool>,
    mut first: impl FnMut(&Connection) -> rusqlite::Result<T>,
) -> Result<T, StoreError> {
    let way = if write_ahead { Way::Log } else { Way::without_log(conn) };
    patiently((conn, way), Some(closing), |with_log| {
        // With a write-ahead log the first write takes the lock as IMMEDIATE would, and leaves attached files alone, which that would
        // lock too.
        conn.prepare_cached(if with_log { "BEGIN" } else { "BEGIN EXCLUSIVE" })?.execute([])?;
        let begun = first(conn);
        if begun.is_err() && !conn.is_autocommit() {
            conn.execute_batch("ROLLBACK")?;
        }
        begun
    })
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
    patiently((conn, Way::of(conn)), closing, |_| Transaction::new_unchecked(conn, TransactionBehavior::Exclusive))
}

/// Whether another program holds the write lock now.
pub(crate) fn is_held(conn: &Connection) -> bool {
    is_refused(conn, "BEGIN IMMEDIATE; ROLLBACK")
}

/// Whether a write transaction would have to wait for another program: with a rollback journal, for one that reads too.
pub(crate) fn is_in_use(conn: &Connection) -> bool {
    is_refused(conn, "BEGIN EXCLUSIVE; ROLLBACK")
}

fn is_refused(conn: &Connection, transaction: &str) -> bool {
    let tried = conn.busy_timeout(Duration::ZERO).and_then(|()| conn.execute_batch(transaction));
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
        pulse::beat();
        std::thread::sleep(LAST_PAUSE);
    }
    goes_on
}

/// Tries until it goes or it has been waited for long enough; `attempt` is told whether there is a write-ahead log.
fn patiently<T>(
    (conn, mut way): (&Connection, Way),
    closing: Option<&Arc<AtomicBool>>,
    mut attempt: impl FnMut(bool) -> rusqlite::Result<T>,
) -> Result<T, StoreError> {
    let wait = Wait { begun: Instant::now(), closing: closing.cloned() };
    // SQLite's own waiting would hold what it has got so far, and would not hear of a stop.
    conn.busy_timeout(Duration::ZERO)?;
    let with_log = matches!(way, Way::Log);
    let result = loop {
        pulse::beat();
        let (waited, is_over) = (wait.begun.elapsed(), wait.is_over());
        if way.holds_on(waited) {
            WAIT.set(Some(wait));
            conn.busy_handler(Some(wait_on))?;
            break attempt(with_log);
        }
        let pause = match way.pause_before(waited) {
            Some(pause) if !is_over => pause,
            _ => match attempt(with_log) {
                Err(error) if is_busy(&error) && !is_over => way.pause_after(waited),
                other => break other,
            },
        };
        if pause.is_zero() {
            std::thread::yield_now();
        } else {
            std::thread::sleep(pause);
        }
    };
    // In place of the handler.
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(result?)
}

/// How the lock of a file is waited for.
enum Way {
    /// With a write-ahead log.
    Log,
    /// With a rollback journal, where those in the way are looked at first.
    Journal { inode: u64, seen: Others, blind: Duration },
}

impl Way {
    /// That of the file of a connection, as far as this has seen. What keeps it from being asked is met by the first try as well.
    fn of(conn: &Connection) -> Self {
        if is_write_ahead(conn) { Self::Log } else { Self::without_log(conn) }
    }

    fn without_log(conn: &Connection) -> Self {
        // What has no file has no locks.
        let inode = conn.path().and_then(|path| std::fs::metadata(path).ok()).map_or(0, |file| file.ino());
        Self::Journal { inode, seen: Others::Unseen, blind: BLIND_PAUSES[0] }
    }

    /// Whether what could be had is held from now on: with a rollback journal, that keeps new readers out.
    fn holds_on(&self, waited: Duration) -> bool {
        matches!(self, Self::Journal { .. }) && waited >= PATIENCE
    }

    /// The pause before the next look, after so much waiting; none if the lock is to be tried for now.
    fn pause_before(&mut self, waited: Duration) -> Option<Duration> {
        let Self::Journal { inode, seen, .. } = self else { return None };
        *seen = Others::of(*inode);
        let waits = match seen {
            Others::Unseen => false,
            Others::Read => true,
            Others::Write => waited < SPARED,
        };
        let (soon, [first, later]) = LOOKS;
        waits.then_some(if waited < soon { first } else { later })
    }

    /// The pause after the lock was tried for in vain.
    fn pause_after(&mut self, waited: Duration) -> Duration {
        match self {
            Self::Log => {
                let early = PAUSES_WITH_LOG.into_iter().find(|(until, _)| waited < *until);
                let tries_hard = waited.as_millis() % ROUND.as_millis() < TRIED_HARD.as_millis();
                early.map_or(if tries_hard { Duration::ZERO } else { LAST_PAUSE }, |(_, pause)| pause)
            }
            Self::Journal { seen: Others::Unseen, blind, .. } => {
                let pause = *blind;
                *blind = (pause * 2).min(BLIND_PAUSES[1]);
                pause
            }
            Self::Journal { .. } => EAGER_PAUSE,
        }
    }
}

/// Whether the file of a connection has a write-ahead log, as far as this has seen.
fn is_write_ahead(conn: &Connection) -> bool {
    let mode = conn
        .prepare_cached("PRAGMA main.journal_mode")
        .and_then(|mut journal| journal.query_row([], |row| Ok(row.get_ref(0)?.as_str()?.eq_ignore_ascii_case("wal"))));
    mode.unwrap_or(false)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(code_of(error), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// What a program takes between two transactions at least, to make the next one. With no gap at all, who has written last is ahead of
    /// others, who have to read the file's first page anew, and these win once in seconds.
    const GAP: Duration = Duration::from_micros(100);

    /// A writer holds the lock for milliseconds at a time, and lets go of it for no longer than [`GAP`].
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
                    let ended = Instant::now();
                    while ended.elapsed() < GAP {
                        std::hint::spin_loop();
                    }
                }
            });
            let mut conn = Connection::open(&path).unwrap();
            let closing = Arc::default();
            let got: Result<Vec<()>, _> = (0..6)
                .map(|n| {
                    // It waits after ours, and longer each time, until it goes on.
                    let before = committed.load(Ordering::Relaxed);
                    while committed.load(Ordering::Relaxed) < before + 3 {
                        std::thread::yield_now();
                    }
                    if n % 2 == 0 {
                        return transaction(&mut conn, None).map(drop);
                    }
                    let first = |conn: &Connection| conn.execute("INSERT INTO t VALUES (2)", []);
                    Turns::default().begin(&conn, &closing, first)?;
                    Ok(conn.execute_batch("ROLLBACK")?)
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

    #[test]
    fn nothing_has_begun_where_the_lock_was_not_to_be_had() {
        for journal in ["WAL", "DELETE"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("held.db");
            let other = Connection::open(&path).unwrap();
            let held = format!("PRAGMA journal_mode = {journal}; CREATE TABLE t (n); BEGIN EXCLUSIVE");
            other.execute_batch(&held).unwrap();
            let (conn, closing) = (Connection::open(&path).unwrap(), Arc::new(AtomicBool::new(true)));
            let first = |conn: &Connection| conn.execute("INSERT INTO t VALUES (1)", []);
            let begun = Turns::default().begin(&conn, &closing, first);
            assert!(begun.is_err_and(|error| error.is_busy()) && conn.is_autocommit(), "{journal}");
            other.execute_batch("COMMIT").unwrap();
            Turns::default().begin(&conn, &closing, first).unwrap();
            assert!(!conn.is_autocommit() && is_held(&other), "{journal}");
            conn.execute_batch("COMMIT").unwrap();
        }
    }

    /// Each try could come between what a program has read and what it then writes.
    #[cfg(target_os = "linux")]
    #[test]
    fn with_a_rollback_journal_the_lock_is_not_tried_for_while_somebody_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("read.db");
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE t (n); BEGIN; SELECT * FROM t").unwrap();
        let conn = Connection::open(&path).unwrap();
        let is_tried = |conn: &Connection, waited| Way::of(conn).pause_before(waited).is_none();
        let later = SPARED * 2;
        assert!(!is_tried(&conn, Duration::ZERO) && !is_tried(&conn, later));
        other.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert!(!is_tried(&conn, Duration::ZERO) && is_tried(&conn, later), "it has what it writes with");
        other.execute_batch("COMMIT").unwrap();
        assert!(is_tried(&conn, Duration::ZERO));
        other.execute_batch("PRAGMA journal_mode = WAL; BEGIN; SELECT * FROM t").unwrap();
        // The connection sees that when it reads next.
        conn.query_row("SELECT n FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
        assert!(is_tried(&conn, Duration::ZERO), "readers of a write-ahead log are in nobody's way");
    }
}
