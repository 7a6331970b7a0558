//! Places for connections that have not shown yet what they are for. Where all are taken, who has waited longest makes room: those who
//! come to say something say it at once, and those who only take up places take up those of each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// A number of places.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// How many were taken so far.
    count: u64,
    /// Those that are taken now, by their turn.
    places: BTreeMap<u64, CancellationToken>,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    turn: u64,
    /// Cancelled when another needs the place.
    pub(crate) wanted: CancellationToken,
}

impl Places {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// Takes a place; tells whether another had to make room.
    pub(crate) fn take(self: &Arc<Self>) -> (Place, bool) {
        let wanted = CancellationToken::new();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let full = taken.places.len() >= self.most;
        if full && let Some((_, oldest)) = taken.places.pop_first() {
            oldest.cancel();
        }
        taken.count += 1;
        let turn = taken.count;
        taken.places.insert(turn, wanted.clone());
        (Place { places: Arc::clone(self), turn, wanted }, full)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().unwrap_or_else(PoisonError::into_inner).places.remove(&self.turn);
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn who_has_waited_longest_makes_room() {
        let places = Places::new(2);
        let [(first, _), (second, _)] = [places.take(), places.take()];
        drop(first);
        let (third, full) = places.take();
        assert!(!full && !second.wanted.is_cancelled());
        let (_fourth, full) = places.take();
        assert!(full && second.wanted.is_cancelled() && !third.wanted.is_cancelled());
        drop(second);
        let (_fifth, full) = places.take();
        assert!(full && third.wanted.is_cancelled());
    }
}
