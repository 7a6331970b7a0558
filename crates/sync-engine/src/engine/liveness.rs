//! Signs of life of an engine's parts, for a watchdog. Owns what tasks show of themselves and the list of all parts; must not know
//! what is made of it, nor how long a part may be silent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::engine::SyncEngine;

/// What a part of an engine shows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignOfLife {
    /// The part, for people: `database inventory`, `listener 127.0.0.1:7420`.
    pub part: String,
    /// Tells a part from another of the same name that was there before.
    pub life: u64,
    /// A number that is another one each time when the part has shown that it is alive.
    pub beats: u64,
    /// How long it may go without, for what it is at just now; zero where that is nothing of the kind.
    pub may_be_silent: Duration,
}

impl SyncEngine {
    /// What each part of the engine shows of itself: the thread of each database and the loop of each listener. Each is asked for its
    /// next sign, too: a part that shows the same number the next time is at something long, or stands still.
    ///
    /// A database's thread also gives signs in the middle of long work, and while it waits for an application's lock.
    pub fn signs_of_life(&self) -> Vec<SignOfLife> {
        let databases = self.shared.databases.running().into_iter().map(|(life, database)| {
            let pulse = database.pulse();
            SignOfLife {
                part: format!("database {}", database.name()),
                life,
                beats: pulse.beats(),
                may_be_silent: pulse.may_be_silent(),
            }
        });
        databases.chain(self.shared.hearts.ask()).collect()
    }
}

/// The tasks of an engine that show that they are alive.
#[derive(Debug, Default)]
pub(crate) struct Hearts(Mutex<Beating>);

#[derive(Debug, Default)]
struct Beating {
    /// How many there were so far.
    count: u64,
    tasks: BTreeMap<u64, Beats>,
}

#[derive(Debug, Clone)]
struct Beats {
    part: String,
    shown: Arc<AtomicU64>,
    asked: Arc<Notify>,
}

/// A task's place among those that show that they are alive; given back when dropped, unless the task panics: it counts as one
/// that stands still then.
#[derive(Debug)]
pub(crate) struct Heart<'h> {
    hearts: &'h Hearts,
    number: u64,
    beats: Beats,
}

impl Hearts {
    /// Takes a task in.
    pub(crate) fn join(&self, part: String) -> Heart<'_> {
        let mut beating = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        beating.count += 1;
        let number = beating.count;
        let beats = Beats { part, shown: Arc::default(), asked: Arc::default() };
        beating.tasks.insert(number, beats.clone());
        Heart { hearts: self, number, beats }
    }

    /// What each has shown; each is asked for its next sign.
    fn ask(&self) -> Vec<SignOfLife> {
        let beating = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let signs = beating.tasks.iter().map(|(number, beats)| {
            beats.asked.notify_one();
            SignOfLife {
                part: beats.part.clone(),
                life: *number,
                beats: beats.shown.load(Ordering::Relaxed),
                may_be_silent: Duration::ZERO,
            }
        });
        signs.collect()
    }
}

impl Heart<'_> {
    /// Waits until a sign of life is asked for, and gives it. A loop has this among what it waits for.
    pub(crate) async fn beat(&self) {
        self.beats.asked.notified().await;
        self.beats.shown.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Heart<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.hearts.0.lock().unwrap_or_else(PoisonError::into_inner).tasks.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Hearts;

    #[tokio::test]
    async fn a_task_shows_life_when_it_is_asked_and_one_that_panics_stays() {
        let hearts = Hearts::default();
        let heart = hearts.join("listener".to_owned());
        let beats = || hearts.ask().iter().map(|sign| sign.beats).collect::<Vec<_>>();
        assert_eq!(beats(), [0]);
        assert_eq!(beats(), [0], "it does not come round");
        heart.beat().await;
        assert_eq!(beats(), [1]);
        drop(heart);
        assert!(beats().is_empty());
        let panics = || {
            let _heart = hearts.join("listener".to_owned());
            panic!("on purpose");
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert_eq!(beats(), [0]);
    }
}
