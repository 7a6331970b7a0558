//! Which cluster the engine belongs to, and the sessions that were opened as a member of it.

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// The engine's place in a cluster.
#[derive(Debug)]
pub(crate) struct Membership {
    stop: CancellationToken,
    present: Mutex<Member>,
}

/// What a session is opened with.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) cluster: String,
    /// Cancelled when the engine stops, or belongs to another cluster.
    pub(crate) over: CancellationToken,
}

impl Membership {
    /// A member of `cluster` until `stop`.
    pub(crate) fn new(cluster: String, stop: &CancellationToken) -> Self {
        Self { stop: stop.clone(), present: Mutex::new(Member { cluster, over: stop.child_token() }) }
    }

    /// What a session that begins now says, and when it is over.
    pub(crate) fn present(&self) -> Member {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends all sessions, for new ones.
    pub(crate) fn renew(&self) {
        let cluster = self.present().cluster;
        self.change(&cluster);
    }

    /// Goes over to another cluster: sessions of the old one end.
    pub(crate) fn change(&self, cluster: &str) {
        let next = Member { cluster: cluster.to_owned(), over: self.stop.child_token() };
        let last = std::mem::replace(&mut *self.present.lock().unwrap_or_else(PoisonError::into_inner), next);
        last.over.cancel();
    }
}
