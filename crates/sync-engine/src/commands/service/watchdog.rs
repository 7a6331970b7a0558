//! Tells which parts of an engine stand still. Owns how long each may show no sign of life; must not ask for signs, nor for the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sync_engine::SignOfLife;

/// A part without a sign of life, or with one again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Silent {
    /// The part.
    pub(super) part: String,
    /// For how long it has shown nothing.
    pub(super) since: Duration,
    /// It had shown nothing for too long, and does again.
    pub(super) back: bool,
}

/// What came of a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// The parts that have been silent for too long.
    pub(super) silent: Vec<Silent>,
    /// Those of which that is new, and those that are back.
    pub(super) news: Vec<Silent>,
}

/// What was seen of each part.
#[derive(Debug)]
pub(super) struct Watchdog {
    patience: Duration,
    seen: HashMap<(String, u64), Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    beats: u64,
    at: Instant,
    told: bool,
}

impl Watchdog {
    /// A watchdog that lets a part be silent for so long.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, seen: HashMap::new() }
    }

    /// Takes note of what the parts show.
    pub(super) fn look(&mut self, now: Instant, signs: &[SignOfLife]) -> Looked {
        let mut looked = Looked::default();
        let mut seen = HashMap::new();
        for sign in signs {
            let key = (sign.part.clone(), sign.life);
            let fresh = Seen { beats: sign.beats, at: now, told: false };
            let mut known = self.seen.get(&key).copied().unwrap_or(fresh);
            let part = |since, back| Silent { part: sign.part.clone(), since, back };
            if known.beats != sign.beats {
                if known.told {
                    looked.news.push(part(now - known.at, true));
                }
                known = fresh;
            }
            let since = now - known.at;
            if since > self.patience.max(sign.may_be_silent) {
                if !std::mem::replace(&mut known.told, true) {
                    looked.news.push(part(since, false));
                }
                looked.silent.push(part(since, false));
            }
            seen.insert(key, known);
        }
        self.seen = seen;
        looked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(life: u64, beats: u64, may_be_silent: u64) -> SignOfLife {
        SignOfLife { part: "database shop".to_owned(), life, beats, may_be_silent: Duration::from_secs(may_be_silent) }
    }

    /// Seconds of silence, and whether it is over.
    type Parts = Vec<(u64, bool)>;

    fn parts(silent: &[Silent]) -> Parts {
        silent.iter().map(|silent| (silent.since.as_secs(), silent.back)).collect()
    }

    /// What is silent, and what is new of it, at each second with the sign that is shown then.
    fn looks(signs: &[(u64, SignOfLife)]) -> Vec<(Parts, Parts)> {
        let (begun, mut watchdog) = (Instant::now(), Watchdog::new(Duration::from_secs(10)));
        let looks = signs.iter().map(|(at, sign)| {
            let looked = watchdog.look(begun + Duration::from_secs(*at), std::slice::from_ref(sign));
            (parts(&looked.silent), parts(&looked.news))
        });
        looks.collect()
    }

    #[test]
    fn a_part_that_shows_nothing_for_too_long_is_told_once_until_it_is_back() {
        let none = || (vec![], vec![]);
        let shown = looks(&[
            (0, sign(1, 5, 0)),
            (10, sign(1, 5, 0)),
            (11, sign(1, 5, 0)),
            (15, sign(1, 5, 0)),
            (16, sign(1, 6, 0)),
            (26, sign(1, 6, 0)),
        ]);
        let silent = |since, news: &[(u64, bool)]| (vec![(since, false)], news.to_vec());
        assert_eq!(
            shown,
            [none(), none(), silent(11, &[(11, false)]), silent(15, &[]), (vec![], vec![(16, true)]), none()]
        );
    }

    #[test]
    fn a_step_on_the_disk_may_take_longer_and_another_life_begins_anew() {
        let shown = looks(&[(0, sign(1, 5, 60)), (50, sign(1, 5, 60)), (55, sign(1, 5, 0)), (56, sign(2, 5, 0))]);
        assert_eq!(parts_of(&shown), [0, 0, 1, 0]);
    }

    fn parts_of(shown: &[(Parts, Parts)]) -> Vec<usize> {
        shown.iter().map(|(silent, _)| silent.len()).collect()
    }
}
