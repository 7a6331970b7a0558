//! How a session ends, from this side or the other.

use std::sync::PoisonError;
use std::time::Duration;

use replication::message::ByeReason;
use replication::session::{CloseReason, Input};

use super::SessionDriver;

/// How long a peer may take to take this side's goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// How a session ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// There is another link to this node; this one is not needed while that stands.
    Duplicate { node: Option<String> },
    /// Both ends of the link are this engine.
    SelfConnection,
    /// The engine stops.
    Stopped,
    /// The link is gone.
    Lost { reason: String },
    /// The peer was refused, or refused us.
    Refused { reason: String },
}

impl SessionDriver {
    /// Says goodbye, and gives the peer a moment to take it.
    pub(super) fn leave(&mut self, input: Input, reason: CloseReason) {
        self.leaving = Some((tokio::time::Instant::now() + GOODBYE, reason));
        self.handle(input);
    }

    pub(super) async fn lost(mut self) -> (Option<String>, SessionEnd) {
        self.update_status();
        let reason = self.receiver.lost().await.to_string();
        (self.seated_node(), SessionEnd::Lost { reason })
    }

    fn seated_node(&self) -> Option<String> {
        self.seat.as_ref().and_then(|_| self.session.remote_node()).map(str::to_owned)
    }

    pub(super) fn ended(mut self, reason: CloseReason) -> (Option<String>, SessionEnd) {
        self.update_status();
        let node = self.session.remote_node().map(str::to_owned);
        let end = match reason {
            CloseReason::Stopped => SessionEnd::Stopped,
            CloseReason::Replaced | CloseReason::Bye(ByeReason::Duplicate) => SessionEnd::Duplicate { node },
            CloseReason::SelfConnection => SessionEnd::SelfConnection,
            CloseReason::Bye(ByeReason::Refused) => {
                let told = self.status.lock().unwrap_or_else(PoisonError::into_inner).last_error.clone();
                SessionEnd::Refused { reason: told.unwrap_or_else(|| "the peer refused this node".to_owned()) }
            }
            CloseReason::Bye(_) => SessionEnd::Lost { reason: "the peer said goodbye".to_owned() },
            CloseReason::Refused(problem) => SessionEnd::Refused { reason: problem.text },
            CloseReason::Silent => SessionEnd::Lost { reason: "nothing was heard from the peer".to_owned() },
        };
        (self.seated_node(), end)
    }
}

/// Waits until the time for the goodbye is over.
pub(super) async fn overdue(leaving: Option<(tokio::time::Instant, CloseReason)>) -> CloseReason {
    match leaving {
        Some((deadline, reason)) => {
            tokio::time::sleep_until(deadline).await;
            reason
        }
        None => std::future::pending().await,
    }
}
