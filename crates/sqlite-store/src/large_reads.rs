//! Large batches are read by a few databases at a time: each is held in memory as a whole, and with hundreds of databases that may
//! be asked all at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Large batches that are read at the same time in this process.
const AT_ONCE: usize = 4;

static READING: Places = Places { taken: Mutex::new(0), freed: Condvar::new() };

struct Places {
    taken: Mutex<usize>,
    freed: Condvar,
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, usize> {
        // A number is whole whoever panicked.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those that read a large batch, until it is dropped.
#[derive(Debug)]
pub(crate) struct LargeRead(());

impl LargeRead {
    /// Waits for a place. Whoever has one only reads, so that it is free again soon.
    pub(crate) fn begin() -> Self {
        let taken = READING.taken();
        let full = |taken: &mut usize| *taken >= AT_ONCE;
        let mut taken = READING.freed.wait_while(taken, full).unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        Self(())
    }
}

impl Drop for LargeRead {
    fn drop(&mut self) {
        *READING.taken() -= 1;
        READING.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_than_a_few_read_at_once_and_all_have_their_turn() {
        let (now, most, all) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let _place = LargeRead::begin();
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        all.fetch_add(1, Ordering::SeqCst);
                        now.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(all.into_inner(), 3_200);
        assert!((1..=AT_ONCE).contains(&most.into_inner()));
    }
}
