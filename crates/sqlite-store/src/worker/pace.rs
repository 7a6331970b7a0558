//! How soon it is looked again at a file that is written.
//!
//! A look after each commit is what makes a change arrive soon. Where commits follow one another without a pause, each look costs the
//! application: it reads its pages anew after what was captured, finds the file locked, and makes an event with each page that it
//! writes, which takes a seventh of the time of a small transaction. So a file that is found written look after look is looked at
//! by the clock alone, some milliseconds apart, until little is found. (The events go only with the last database of a folder that
//! listens to them.)

use std::time::{Duration, Instant};

/// How long applications are left alone after a capture for which the lock was held for three times less, so long that few of their
/// commits find the file locked and their caches outdated where much is written.
const LEFT_ALONE: Duration = Duration::from_millis(1);

/// How long they are at most, after a capture for which it was held for twice as long. What is written meanwhile at full speed is to be
/// captured at once, and sent as one batch.
const LEFT_ALONE_AT_MOST: Duration = Duration::from_millis(20);

/// How long they are at least where they write steadily.
const STEADY_PAUSE: Duration = Duration::from_millis(5);

/// How many looks in a row find entries of the log, and at least how many, before applications are said to write steadily. Whoever
/// waits for the peer between two commits is not: a look between these finds nothing.
const STEADY_AFTER: u32 = 4;
const STEADY_ROWS: usize = 8;

/// How many entries have to be found in [`STEADY_PAUSE`], for that to go on: as many in a second as above.
const STILL_STEADY_ROWS: usize = 24;

/// How many times in a row they may not: a program that found the lock held sleeps for as long now and then.
const MISSES: u32 = 2;

/// What looks have found of late.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Looks in a row that found much.
    found: u32,
    /// Times in a row since then that little was found.
    missed: u32,
    /// Until when it was judged what they find, and what was found since.
    judged: Option<Instant>,
    rows: usize,
    /// How long the lock was held by a capture that goes on.
    held: Duration,
}

impl Pace {
    /// Whether applications write all the time.
    pub(super) const fn is_steady(&self) -> bool {
        self.found >= STEADY_AFTER
    }

    /// Takes note that so many entries of the log were found by now.
    pub(super) fn note(&mut self, rows: usize, now: Instant) {
        self.rows += rows;
        let early = self.judged.is_some_and(|judged| now.saturating_duration_since(judged) < STEADY_PAUSE);
        if self.is_steady() && early {
            // There are looks for other reasons.
            return;
        }
        let enough = if self.is_steady() { STILL_STEADY_ROWS } else { STEADY_ROWS };
        let few = self.rows < enough;
        self.missed = if few { self.missed + 1 } else { 0 };
        let ends = few && (!self.is_steady() || self.missed > MISSES);
        self.found = if ends { 0 } else { self.found.saturating_add(1) };
        (self.judged, self.rows) = (Some(now), 0);
    }

    /// How long applications are left alone after a transaction for which the lock was held for so long. Between those of a capture
    /// that goes on it is not for long: they would write about as much meanwhile as was captured, and it would have no end.
    pub(super) fn pause_after(&mut self, held: Duration, goes_on: bool) -> Duration {
        self.held += held;
        if goes_on {
            return LEFT_ALONE;
        }
        let held = std::mem::take(&mut self.held);
        let least = if self.is_steady() { STEADY_PAUSE } else { (3 * held).min(LEFT_ALONE) };
        least.max(held / 2).min(LEFT_ALONE_AT_MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After looks that found so many entries, each the pause later.
    fn after(looks: &[usize]) -> Pace {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for rows in looks {
            now += STEADY_PAUSE;
            pace.note(*rows, now);
        }
        pace
    }

    #[test]
    fn who_writes_without_a_pause_is_found_out_and_who_awaits_an_answer_is_not() {
        assert!(after(&[40, 40, 40, 40]).is_steady());
        assert!(!after(&[40, 40, 40]).is_steady());
        assert!(!after(&[500, 0, 500, 0, 500, 0, 500, 0, 500]).is_steady(), "a look between two commits finds nothing");
        assert!(!after(&[1; 100]).is_steady(), "one commit after each look: whoever makes them may be waiting for it");
    }

    #[test]
    fn who_stops_is_soon_looked_at_as_before() {
        assert!(!after(&[40, 40, 40, 40, 40, 0, 0, 0]).is_steady());
        assert!(!after(&[40, 40, 40, 40, 40, 5, 5, 5]).is_steady(), "few in so long a time");
        assert!(after(&[40, 40, 40, 40, 0, 0, 40, 0, 0]).is_steady(), "it slept");
        assert!(!after(&[40, 40, 40, 40, 0, 0, 0, 40, 40, 40]).is_steady());
    }

    #[test]
    fn a_look_that_comes_early_tells_nothing_by_itself() {
        let mut pace = after(&[40; 4]);
        let judged = pace.judged.unwrap();
        (1..5).for_each(|early| pace.note(0, judged + STEADY_PAUSE * early / 5));
        assert!(pace.is_steady());
        pace.note(30, judged + STEADY_PAUSE * 4 / 5);
        pace.note(0, judged + STEADY_PAUSE);
        assert_eq!((pace.is_steady(), pace.missed), (true, 0), "what was found since counts");
        (2..5).for_each(|later| pace.note(0, judged + STEADY_PAUSE * later));
        assert!(!pace.is_steady());
    }

    #[test]
    fn applications_are_left_alone_for_longer_where_they_write_steadily_and_never_for_long() {
        let held = Duration::from_micros(200);
        assert_eq!(Pace::default().pause_after(held, false), 3 * held);
        assert_eq!(after(&[40; 4]).pause_after(held, false), STEADY_PAUSE);
        assert_eq!(after(&[40; 4]).pause_after(held, true), LEFT_ALONE);
        assert_eq!(after(&[40; 4]).pause_after(Duration::from_secs(1), false), LEFT_ALONE_AT_MOST);
    }

    #[test]
    fn what_a_capture_took_in_parts_counts_as_one() {
        let mut pace = Pace::default();
        let part = Duration::from_millis(4);
        assert_eq!(pace.pause_after(part, true), LEFT_ALONE);
        assert_eq!(pace.pause_after(part, true), LEFT_ALONE);
        assert_eq!(pace.pause_after(part, false), 3 * part / 2);
        assert_eq!(pace.pause_after(part, false), part / 2, "the next one begins anew");
    }
}
