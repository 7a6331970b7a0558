//! The daemon's turns with the write lock of one database.
//!
//! A daemon with much to do takes the lock again as soon as it has let go of it, and programs that try now and then, which is
//! all that SQLite's busy timeout does, might never find it free. So it leaves the lock free for a moment after each turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::{begin, is_write_ahead};
use crate::error::StoreError;
use crate::pulse;

/// How long the lock may be held, net of the time that it was left free, until others have to be let in.
const TURN: Duration = Duration::from_millis(1_500);

/// How long a stop of the daemon may go unseen meanwhile.
const LONGEST_NAP: Duration = Duration::from_millis(10);

/// How long others are let in. SQLite tries every 100 ms at the latest: whoever waits finds the lock free.
const LEFT_FREE: Duration = Duration::from_millis(110);

/// The daemon's turns with the write lock of one database, on connections of which one is open at any time: while it has much to do,
/// others that wait for the lock get it after [`TURN`] and the transaction that goes on then, at the latest.
///
/// A daemon that leaves the lock free for half of the time or more never waits here: whoever tries often finds it free often.
#[derive(Debug)]
pub(crate) struct Turns {
    /// How much longer the lock was held than it was free.
    used: Duration,
    begun: Option<Instant>,
    ended: Instant,
    /// The file was seen to have a write-ahead log.
    write_ahead: bool,
}

impl Default for Turns {
    fn default() -> Self {
        Self { used: Duration::ZERO, begun: None, ended: Instant::now(), write_ahead: false }
    }
}

impl Turns {
    /// Begins a write transaction when it is this daemon's turn; otherwise as [`begin`].
    ///
    /// # Errors
    /// As [`begin`].
    pub(crate) fn begin<T>(
        &mut self,
        conn: &Connection,
        closing: &Arc<AtomicBool>,
        first: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        while self.pause_at(Instant::now()) > Duration::ZERO && !closing.load(Ordering::Relaxed) {
            pulse::beat();
            std::thread::sleep(self.pause_at(Instant::now()).min(LONGEST_NAP));
        }
        let begun = begin((conn, self.is_write_ahead(conn)), closing, first)?;
        self.begin_at(Instant::now());
        Ok(begun)
    }

    /// Whether the connection's file has a write-ahead log: whoever reads is in nobody's way then. SQLite is asked until it says so: while
    /// a connection to such a file is open, nobody gets the lock that it takes to give up the log.
    pub(crate) fn is_write_ahead(&mut self, conn: &Connection) -> bool {
        self.write_ahead = self.write_ahead || is_write_ahead(conn);
        self.write_ahead
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

#[cfg(test)]
mod tests {
    use super::*;

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
