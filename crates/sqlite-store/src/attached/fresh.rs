//! What is captured is kept at hand while peers come for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use replication::Batch;

use super::Attachment;
use crate::capture::{Gathered, Usual};
use crate::error::StoreError;
use crate::fresh::FreshChanges;
use crate::generation;

/// How long after a peer has last come for something more is kept for it: it may be at work on what it was sent.
const EXPECTED: Duration = Duration::from_secs(5);

/// How many captures are kept for nobody after that. Where little is written somebody may have come for each of them.
const UNTAKEN: u32 = 8;

/// What was captured last, and until when somebody is expected to come for it.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    changes: Arc<FreshChanges>,
    expected: Option<Instant>,
    /// How many more are kept although nobody comes.
    credit: u32,
    /// What was found by a capture that goes on.
    part: Option<Gathered>,
    /// What a row takes to capture.
    pub(super) usual: Usual,
}

/// What a transaction that captured found.
pub(super) enum Found {
    /// All there is.
    All(Batch),
    /// Some of it: the capture goes on.
    Part(Gathered),
    /// It is not at hand.
    Nothing,
}

impl Found {
    pub(super) fn of(batch: Option<Batch>) -> Self {
        batch.map_or(Self::Nothing, Self::All)
    }
}

impl Fresh {
    /// What is at hand is looked for there.
    pub(super) fn go_on_in(&mut self, changes: Arc<FreshChanges>) {
        self.changes = changes;
    }

    /// What was found by a capture that is to go on.
    pub(super) const fn go_on(&mut self) -> Option<Gathered> {
        self.part.take()
    }
}

impl Attachment {
    /// A peer has read: it may want what comes next.
    pub(super) fn expect_readers(&mut self) {
        self.fresh.expected = Some(Instant::now() + EXPECTED);
        self.fresh.credit = UNTAKEN;
    }

    /// Whether somebody is expected to come for what is captured.
    fn expects_readers(&mut self) -> bool {
        if self.fresh.changes.was_taken() {
            self.expect_readers();
        }
        self.fresh.expected.is_some_and(|until| Instant::now() < until)
    }

    /// Whether what is captured next is to be kept.
    pub(super) fn wants_fresh(&mut self) -> bool {
        let expected = self.expects_readers();
        if !expected {
            self.fresh.credit = self.fresh.credit.saturating_sub(1);
        }
        // What begins in the middle of a capture leads on from no state that a peer can have.
        (expected || self.fresh.credit > 0) && !self.more
    }

    /// Whether the tables are what the vector says, as they are when they are [read](Self::read) for peers.
    fn may_be_shown(&self) -> bool {
        !self.replica.received.values().any(|received| received.merged)
            && self.replica.have.covers_all(&self.replica.owed)
            && self.migrated.is_done()
            && self.migrating().is_none()
    }

    /// Keeps what was captured, once that is committed: the transaction itself may have found a schema that has changed.
    pub(super) fn keep_fresh(&mut self, found: Found) {
        let batch = match found {
            Found::Part(gathered) => {
                self.fresh.part = Some(gathered);
                return;
            }
            // Applications have written nothing that anybody is to be told.
            Found::All(batch) if batch.from == batch.to => return,
            Found::All(batch) => Some(batch).filter(|_| self.may_be_shown()),
            Found::Nothing => None,
        };
        if let Some(batch) = &batch {
            let shown = batch.to.get(self.replica.own);
            self.memory.iter_mut().for_each(|memory| memory.show(shown));
        }
        self.fresh.changes.push(batch);
    }

    /// A capture that was to go on has found nothing more; unless another daemon on the same file has.
    pub(super) fn finish_gathering(&mut self) -> Result<(), StoreError> {
        if let Some(gathered) = self.fresh.go_on() {
            let whole = gathered.goes_on(&self.replica) && generation::read(&self.conn)? == self.generation;
            self.keep_fresh(if whole { Found::of(gathered.batch(&self.replica)) } else { Found::Nothing });
        }
        Ok(())
    }

    /// Whether a capture goes on, the whole of which will be at hand soon: what is known now is the state of no transaction.
    pub(crate) fn is_gathering(&self) -> bool {
        self.more && self.fresh.part.as_ref().is_some_and(|gathered| gathered.goes_on(&self.replica))
    }

    /// What was captured last, as far as it is at hand.
    pub(super) fn fresh(&self) -> Arc<FreshChanges> {
        Arc::clone(&self.fresh.changes)
    }

    /// Whether some of it is at hand.
    pub(crate) fn has_fresh(&self) -> bool {
        !self.fresh.changes.is_empty()
    }

    /// Lets go of it, unless somebody is still about to come for it; true if it is gone.
    pub(crate) fn forget_fresh(&mut self) -> bool {
        let forgotten = !self.fresh.changes.is_wanted() || !self.expects_readers();
        if forgotten {
            self.fresh.changes.clear();
        }
        forgotten
    }
}
