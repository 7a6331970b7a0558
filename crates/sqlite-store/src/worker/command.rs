//! What a database's thread is asked to do.

use std::sync::Arc;

use replication::reconcile::{Answer, Compared, Question};
use replication::{Batch, DotSet, KnownNodes, NodeSchemas, Origin, Value, VersionVector};
use tokio::sync::oneshot;

use crate::batch_read::BatchLimits;
use crate::conflicts::{ConflictAction, Refusal, StoredConflict};
use crate::database::{ApplyReply, NodeNames};
use crate::error::StoreError;
use crate::observer::RowObserver;
use crate::verification::{VerifyAnswer, VerifyQuestion};

/// What a database's thread is asked.
pub(crate) enum Command {
    Look,
    Read {
        from: VersionVector,
        omit: Arc<DotSet>,
        limits: BatchLimits,
        reply: oneshot::Sender<Result<Batch, StoreError>>,
    },
    Fingerprint {
        question: Question,
        reply: oneshot::Sender<Result<Answer, StoreError>>,
    },
    Compare {
        source: Origin,
        answer: Answer,
        reply: oneshot::Sender<Result<Compared, StoreError>>,
    },
    Apply {
        batch: Box<Batch>,
        observer: Option<Arc<dyn RowObserver>>,
        reply: oneshot::Sender<Result<ApplyReply, StoreError>>,
    },
    /// Acts on the conflict record of this number.
    Act {
        number: i64,
        action: ConflictAction,
        reply: oneshot::Sender<Result<Result<StoredConflict, Refusal>, StoreError>>,
    },
    Sweep {
        source: Origin,
        answer: Answer,
        reply: oneshot::Sender<Result<Compared, StoreError>>,
    },
    Swept(VersionVector),
    LearnNodes(KnownNodes),
    /// A peer whose clock shows this many milliseconds since 1970 has refused stamps.
    Restamp(i64),
    ForgetNode {
        node: String,
        reply: oneshot::Sender<Result<bool, StoreError>>,
    },
    /// Tells somebody who compares it with another database what there is.
    Verify {
        question: VerifyQuestion,
        reply: oneshot::Sender<Result<VerifyAnswer, StoreError>>,
    },
    /// Issues rows anew.
    Reissue {
        table: String,
        keys: Vec<Vec<Value>>,
        reply: oneshot::Sender<Result<bool, StoreError>>,
    },
    Publish,
    LearnNames(NodeNames),
    LearnSchemas(NodeSchemas),
    Close,
}

impl Command {
    /// Whether it is something to do in any case. What nodes tell of each other is, where it is new.
    pub(super) const fn is_work(&self) -> bool {
        !matches!(self, Self::Look | Self::Close | Self::LearnNodes(_) | Self::LearnNames(_) | Self::LearnSchemas(_))
    }
}
