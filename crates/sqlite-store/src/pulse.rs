//! Signs of life of a database's thread. Owns the count that the thread raises each time round, and inside whatever may take long;
//! knows nothing of who looks at it, nor of time.
//!
//! A thread that waits for an application's lock raises it with every try, and one that runs a statement every so many steps of
//! SQLite's machine. Where SQLite is silent, which is while it writes to the disk, the thread says beforehand how long that may take.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;

/// Steps of SQLite's machine between two beats: some tenths of a millisecond.
const STEPS: i32 = 10_000;

/// What a disk is trusted to take at least while a write-ahead log is folded into its file, in bytes a second: a worn memory card.
const SLOW_DISK: u64 = 2 << 20;

/// What the disk may take besides, as with a single `fsync`.
const DISK: Duration = Duration::from_secs(60);

/// The signs of life of one thread. Clones are handles of the same.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<Signs>);

#[derive(Debug, Default)]
struct Signs {
    beats: AtomicU64,
    silent_seconds: AtomicU64,
}

impl Pulse {
    /// A number that is another one each time when the thread has shown that it is alive.
    pub fn beats(&self) -> u64 {
        self.0.beats.load(Ordering::Relaxed)
    }

    /// Shows life in place of a thread.
    pub(crate) fn beat(&self) {
        self.0.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// How long the step that the thread is at may go without a sign of life, and all be well; zero where it is at none such.
    pub fn may_be_silent(&self) -> Duration {
        Duration::from_secs(self.0.silent_seconds.load(Ordering::Relaxed))
    }
}

thread_local! {
    /// The pulse of this thread, if it is a database's.
    static OWN: RefCell<Option<Pulse>> = const { RefCell::new(None) };
}

/// From now on this thread's beats are those of `pulse`.
pub(crate) fn begin(pulse: Pulse) {
    OWN.set(Some(pulse));
}

/// The pulse of this thread, for another that it waits for.
pub(crate) fn own() -> Option<Pulse> {
    OWN.with_borrow(Clone::clone)
}

/// Shows that this thread is alive. On threads that are no database's it does nothing.
pub(crate) fn beat() {
    OWN.with_borrow(|own| {
        if let Some(pulse) = own {
            pulse.beat();
        }
    });
}

/// Has a connection show that this thread is alive while statements run.
///
/// # Errors
/// None on an open connection.
pub(crate) fn watch(conn: &Connection) -> rusqlite::Result<()> {
    conn.progress_handler(
        STEPS,
        Some(|| {
            beat();
            false
        }),
    )
}

/// Runs a step in which SQLite may read or write all of a database's write-ahead log, or play its rollback journal back, without a word.
pub(crate) fn on_disk<T>(database: &Path, step: impl FnOnce() -> T) -> T {
    let Some(Pulse(signs)) = own() else { return step() };
    let size_of = |suffix| {
        let mut log = OsString::from(database);
        log.push(suffix);
        std::fs::metadata(log).map_or(0, |log| log.len())
    };
    let size = size_of("-wal") + size_of("-journal");
    let before = signs.silent_seconds.swap(DISK.as_secs() + size / SLOW_DISK, Ordering::Relaxed);
    let result = step();
    signs.silent_seconds.store(before, Ordering::Relaxed);
    beat();
    result
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{Pulse, beat, begin, on_disk, watch};

    #[test]
    fn a_long_statement_and_a_step_on_the_disk_show_life() {
        let pulse = Pulse::default();
        beat();
        assert_eq!(pulse.beats(), 0, "this thread is no database's yet");
        begin(pulse.clone());
        beat();
        assert_eq!(pulse.beats(), 1);
        let conn = Connection::open_in_memory().unwrap();
        watch(&conn).unwrap();
        let sql =
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT count(*) FROM n";
        conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let beats = pulse.beats();
        assert!(beats > 10, "{beats}");

        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("shop.db");
        std::fs::File::create(folder.path().join("shop.db-wal")).unwrap().set_len(40 << 20).unwrap();
        on_disk(&database, || assert_eq!(pulse.may_be_silent().as_secs(), 60 + 20));
        assert!(pulse.may_be_silent().is_zero());
        assert_eq!(pulse.beats(), beats + 1);
    }
}
