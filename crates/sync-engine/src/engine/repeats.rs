//! What was said lately: a peer that is down for a week, or refused every few seconds, must not fill the log.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the same thing is not said again.
const QUIET: Duration = Duration::from_secs(60);

/// Things that are remembered; beyond that the memory starts over.
const REMEMBERED: usize = 1000;

/// What was said, and when.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// By a number of the text: peers may say long things.
    said: Mutex<BTreeMap<u64, Instant>>,
}

impl Repeats {
    /// Whether `what` is news: it was not said within the last minute.
    pub(crate) fn is_news(&self, what: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        let what = hasher.finish();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| at.elapsed() < QUIET);
        if said.contains_key(&what) {
            return false;
        }
        if said.len() >= REMEMBERED {
            said.clear();
        }
        said.insert(what, Instant::now());
        true
    }
}

/// Whom lines are about that are about nobody who was let in: no node has this name.
pub(crate) const STRANGERS: &str = "";

/// Lines about one peer in [`QUIET`], and about all.
const LINES_OF_ONE: usize = 200;
const LINES_OF_ALL: usize = 2_000;

/// How much of what peers say is told: a peer that always says something new must not fill the log either.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    spent: Mutex<Spent>,
}

#[derive(Debug, Default)]
struct Spent {
    since: Option<Instant>,
    in_all: usize,
    by_node: HashMap<String, usize>,
}

impl Allowance {
    /// How many of so many lines about a peer are to be told, and whether it is to be said that the rest is left out.
    pub(crate) fn take(&self, node: &str, lines: usize) -> (usize, bool) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.since.is_none_or(|since| since.elapsed() >= QUIET) {
            *spent = Spent { since: Some(Instant::now()), ..Spent::default() };
        }
        let of_one = spent.by_node.get(node).copied().unwrap_or(0);
        let left = LINES_OF_ONE.saturating_sub(of_one).min(LINES_OF_ALL.saturating_sub(spent.in_all));
        let granted = lines.min(left);
        if granted > 0 {
            spent.in_all += granted;
            spent.by_node.insert(node.to_owned(), of_one + granted);
        }
        (granted, left > 0 && granted < lines)
    }
}

#[cfg(test)]
mod tests {
    use super::{Allowance, LINES_OF_ALL, LINES_OF_ONE};

    #[test]
    fn who_says_much_is_cut_short_once_and_others_are_heard() {
        let allowance = Allowance::default();
        assert_eq!(allowance.take("a", LINES_OF_ONE - 1), (LINES_OF_ONE - 1, false));
        assert_eq!(allowance.take("a", 3), (1, true));
        assert_eq!(allowance.take("a", 1), (0, false));
        assert_eq!(allowance.take("b", 1), (1, false));
        let of_all: usize = (0..100).map(|name| allowance.take(&name.to_string(), LINES_OF_ONE).0).sum();
        assert_eq!(of_all, LINES_OF_ALL - LINES_OF_ONE - 1);
    }
}
