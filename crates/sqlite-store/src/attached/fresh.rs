//! What was captured last, kept at hand for peers that lack just that: they are sent it without another look at the file.

use std::sync::Arc;

use replication::Batch;

use super::Attachment;
use crate::database::FreshBatch;

/// Captures in a row whose changes nobody took, after which they are not kept until somebody reads again.
const UNTAKEN: u32 = 8;

/// The last of them, and whether to keep the next.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    last: Option<Arc<FreshBatch>>,
    /// How many more are kept although nobody takes them.
    credit: u32,
}

impl Attachment {
    /// A peer has read: it may want what comes next.
    pub(super) fn expect_readers(&mut self) {
        self.fresh.credit = UNTAKEN;
    }

    /// Whether what is captured next is to be kept. What was captured before it is let go of.
    pub(super) fn wants_fresh(&mut self) -> bool {
        if self.fresh.last.take().is_some_and(|last| last.is_taken()) {
            self.fresh.credit = UNTAKEN;
        }
        self.fresh.credit = self.fresh.credit.saturating_sub(1);
        self.fresh.credit > 0 && !self.is_publishing()
    }

    /// Whether the tables are what the vector says, as they are when they are [read](Self::read) for peers.
    fn may_be_shown(&self) -> bool {
        !self.replica.received.values().any(|received| received.merged)
            && self.replica.have.covers_all(&self.replica.owed)
            && self.migrated.is_done()
            && self.migrating().is_none()
    }

    /// Keeps what was captured, once that is committed: the transaction itself may have found a schema that has changed.
    pub(super) fn keep_fresh(&mut self, batch: Option<Batch>) {
        let batch = batch.filter(|_| self.may_be_shown());
        if let Some(batch) = &batch {
            let shown = batch.to.get(self.replica.own);
            self.memory.iter_mut().for_each(|memory| memory.show(shown));
        }
        self.fresh.last = batch.map(|batch| Arc::new(FreshBatch::new(batch)));
    }

    /// What was captured last, if it is at hand.
    pub(super) fn fresh(&self) -> Option<Arc<FreshBatch>> {
        self.fresh.last.clone()
    }

    /// Lets go of it: whoever wanted it has it.
    pub(crate) fn forget_fresh(&mut self) {
        self.fresh.last = None;
    }
}
