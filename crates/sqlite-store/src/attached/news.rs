//! What was captured last, kept at hand for peers that lack just that: they are sent it without another look at the file.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use replication::Batch;

use super::Attachment;
use crate::database::FreshBatch;

/// Captures in a row whose changes nobody took, after which they are not kept until somebody reads again.
const UNTAKEN: u32 = 8;

/// The last of them, and whether to keep the next.
#[derive(Debug, Default)]
pub(super) struct News {
    last: Option<Arc<FreshBatch>>,
    /// How many more are kept although nobody takes them.
    credit: u32,
}

impl Attachment {
    /// A peer has read: it may want what comes next.
    pub(super) fn expect_readers(&mut self) {
        self.news.credit = UNTAKEN;
    }

    /// Whether what is captured next is to be kept, and may be shown as it is.
    pub(super) fn wants_news(&mut self) -> bool {
        if self.news.last.take().is_some_and(|last| last.taken.load(Ordering::Relaxed)) {
            self.news.credit = UNTAKEN;
        }
        self.news.credit = self.news.credit.saturating_sub(1);
        let whole = !self.replica.received.values().any(|received| received.merged)
            && self.replica.have.covers_all(&self.replica.owed);
        self.news.credit > 0 && whole && self.migrated.is_done() && self.migrating().is_none() && !self.is_publishing()
    }

    /// Keeps what was captured.
    pub(super) fn note_news(&mut self, batch: Option<Batch>) {
        if let Some(batch) = &batch {
            let shown = batch.to.get(self.replica.own);
            self.memory.iter_mut().for_each(|memory| memory.show(shown));
        }
        self.news.last = batch.map(|batch| Arc::new(FreshBatch { batch, taken: Default::default() }));
    }

    /// What was captured last, if it is at hand.
    pub(super) fn news(&self) -> Option<Arc<FreshBatch>> {
        self.news.last.clone()
    }

    /// Lets go of it: whoever wanted it has it.
    pub(crate) fn forget_news(&mut self) {
        self.news.last = None;
    }
}
