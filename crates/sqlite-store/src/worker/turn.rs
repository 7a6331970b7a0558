//! Files are opened a few at a time, in the whole process: what opening one takes and lets go of is memory for the next, where a
//! hundred at once would each take it for good.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Files that are opened at once.
const AT_ONCE: usize = 2;

/// How long a turn is waited for: whoever has it may be waiting for an application's lock.
const PATIENCE: Duration = Duration::from_millis(500);

static OPENING: Mutex<usize> = Mutex::new(0);
static OVER: Condvar = Condvar::new();

/// A turn at opening a file, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(());

impl Turn {
    /// Waits for a turn, but not for long.
    pub(super) fn take() -> Self {
        let opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = OVER.wait_timeout_while(opening, PATIENCE, |opening| *opening >= AT_ONCE);
        let (mut opening, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *opening += 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        *opening = opening.saturating_sub(1);
        OVER.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::{AT_ONCE, Turn};

    #[test]
    fn whoever_is_held_up_while_opening_does_not_keep_others_from_it() {
        let held: Vec<Turn> = (0..AT_ONCE).map(|_| Turn::take()).collect();
        let (sender, opened) = mpsc::channel();
        let other = std::thread::spawn(move || sender.send(Turn::take()).unwrap());
        let turn = opened.recv().unwrap();
        drop((held, turn));
        other.join().unwrap();
    }
}
