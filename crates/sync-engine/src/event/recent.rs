//! The latest events, for who looks when they have happened. Owns which are kept and their numbers; must not touch what becomes of them
//! elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use replication::message::shortened;
use serde::Serialize;
use tracing::Level;

use crate::event::{Event, FieldValue};

/// How many are kept.
const KEPT: usize = 200;

/// Characters that are kept of a field.
const LONGEST: usize = 1_000;

/// An event and its number: those of later events are larger, after a restart too.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// The latest events, without those of single rows.
#[derive(Debug)]
pub(crate) struct Recent {
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    last: u64,
    events: VecDeque<Numbered>,
}

impl Default for Recent {
    fn default() -> Self {
        // A daemon that is started anew goes on above the numbers of the one before: so many events in a millisecond there are not.
        let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let last = u64::try_from(begun).unwrap_or(0).saturating_mul(1_000);
        Self { kept: Mutex::new(Kept { last, events: VecDeque::new() }) }
    }
}

impl Recent {
    /// Keeps an event, unless it is of a single row.
    pub(crate) fn note(&self, event: &Event) {
        if event.name.level() >= Level::DEBUG {
            return;
        }
        let mut event = event.clone();
        for (_, value) in &mut event.fields {
            if let FieldValue::Text(text) = value {
                *text = shortened(text, LONGEST);
            }
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.events.len() >= KEPT {
            kept.make_room();
        }
        kept.last += 1;
        let number = kept.last;
        kept.events.push_back(Numbered { number, event });
    }

    /// What is kept and later than a number, the oldest first. After a number that was not given yet, which another daemon gave, there is
    /// everything.
    pub(crate) fn after(&self, number: u64) -> Vec<Numbered> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = if number > kept.last { 0 } else { number };
        kept.events.iter().filter(|event| event.number > seen).cloned().collect()
    }
}

impl Kept {
    /// Forgets the oldest of the kind that there are most of: a storm of conflicts must not hide the one error.
    fn make_room(&mut self) {
        let mut counts = BTreeMap::<&str, usize>::new();
        for kept in &self.events {
            *counts.entry(kept.event.name.as_str()).or_default() += 1;
        }
        let crowd = counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name);
        let oldest = self.events.iter().position(|kept| Some(kept.event.name.as_str()) == crowd);
        oldest.map(|place| self.events.remove(place));
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, LONGEST, Recent};
    use crate::event::{Event, EventName};

    #[test]
    fn a_storm_hides_no_error_and_takes_no_more_room() {
        let recent = Recent::default();
        recent.note(&Event::new(EventName::SyncError).field("reason", "x".repeat(5 * LONGEST)));
        for number in 0..3 * KEPT {
            recent.note(&Event::new(EventName::ConflictSkip).field("n", number));
            recent.note(&Event::new(EventName::Insert));
        }
        let kept = recent.after(0);
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].event.name, EventName::SyncError);
        assert!(kept[0].event.to_string().len() < 2 * LONGEST);
        assert!(kept.iter().all(|kept| kept.event.name != EventName::Insert));
        let last = kept[KEPT - 1].number;
        assert_eq!(kept[KEPT - 1].event.get("n"), Some(&(3 * KEPT - 1).into()));
        assert_eq!(recent.after(last), []);
        assert_eq!(recent.after(last - 1).len(), 1);
        assert_eq!(recent.after(last + 1).len(), KEPT);
    }

    #[test]
    fn an_event_is_told_with_its_number() {
        let recent = Recent::default();
        recent.note(&Event::new(EventName::PeerLost).field("node", "oslo"));
        let told = serde_json::to_value(recent.after(0)).unwrap();
        assert!(told[0]["number"].as_u64() > Some(0), "{told}");
        assert_eq!((&told[0]["event"], &told[0]["node"]), (&"peer_lost".into(), &"oslo".into()));
    }
}
