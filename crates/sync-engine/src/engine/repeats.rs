//! What was said lately: a peer that is down for a week, or refused every few seconds, must not fill the log.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the same thing is not said again.
const QUIET: Duration = Duration::from_secs(60);

/// Things that are remembered; beyond that the memory starts over.
const REMEMBERED: usize = 1000;

/// What was said, and when.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    said: Mutex<BTreeMap<String, Instant>>,
}

impl Repeats {
    /// Whether `what` is news: it was not said within the last minute.
    pub(crate) fn is_news(&self, what: String) -> bool {
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
