//! Two engines of one process, linked without a network. Owns the life of that link; must not know what passes over it.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use peer_link::{Backoff, End, Link, in_process};
use tokio_util::sync::CancellationToken;

use crate::access::Grant;
use crate::engine::peering::{FIRST_RETRY, LASTING, LONGEST_RETRY, converse, set, tell_retry};
use crate::engine::session_driver::{Arrival, SessionEnd};
use crate::engine::shared::{Dialed, Shared};
use crate::status::PeerStatus;

/// Keeps a session between two engines until one of them stops.
pub(super) fn link(near: &Arc<Shared>, far: &Arc<Shared>) {
    let url = format!("process:{}", far.node);
    let status = Arc::new(Mutex::new(PeerStatus { url: url.clone(), ..PeerStatus::default() }));
    let end = near.stop.child_token();
    near.note_dialed(Dialed { url: url.clone(), status: Arc::clone(&status), end: end.clone() });
    let kept = keep_linked(Arc::clone(near), Arc::clone(far), url, Arc::clone(&status), end);
    near.tracker.spawn(async move {
        kept.await;
        set(&status, |status| {
            status.state = "stopped".to_owned();
            status.databases.clear();
        });
    });
}

async fn keep_linked(
    near: Arc<Shared>,
    far: Arc<Shared>,
    url: String,
    status: Arc<Mutex<PeerStatus>>,
    end: CancellationToken,
) {
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY, fastrand::u64(..));
    while !end.is_cancelled() && !far.stop.is_cancelled() {
        let begun = Instant::now();
        let reason = match talk(&near, &far, &status).await {
            SessionEnd::Stopped => continue,
            SessionEnd::Duplicate { node } => {
                let node = node.unwrap_or_default();
                near.registry.gone(&node).await;
                continue;
            }
            SessionEnd::SelfConnection => return,
            SessionEnd::Lost { reason } | SessionEnd::Refused { reason } => reason,
        };
        if far.stop.is_cancelled() {
            return;
        }
        if begun.elapsed() >= LASTING {
            backoff.reset();
        }
        let pause = backoff.next_delay();
        set(&status, |status| {
            status.state = "waiting".to_owned();
            status.last_error = Some(reason.clone());
        });
        tell_retry(&near, &url, &reason, pause);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = end.cancelled() => return,
            () = far.stop.cancelled() => return,
        }
    }
}

/// One session on both sides; how it ended on the near one.
async fn talk(near: &Arc<Shared>, far: &Arc<Shared>, status: &Arc<Mutex<PeerStatus>>) -> SessionEnd {
    let (here, there) = in_process(end_of(near), end_of(far)).await;
    let other = {
        let (near, far) = (near.node.clone(), Arc::clone(far));
        let status = PeerStatus { url: format!("process:{near}"), ..PeerStatus::default() };
        async move { side(&far, there, &Arc::new(Mutex::new(status))).await }
    };
    let other = far.tracker.spawn(other);
    let how = side(near, here, status).await;
    // The link is gone: it ends as well. A panic in it has ended the session here, and is told where it happened.
    let _ = other.await;
    how
}

fn end_of(shared: &Shared) -> End<'_> {
    End { options: &shared.link_options, tracker: &shared.tracker, cancel: shared.links.child_token() }
}

async fn side(shared: &Arc<Shared>, link: Link, status: &Arc<Mutex<PeerStatus>>) -> SessionEnd {
    let (callback, member) = (shared.callback.clone(), shared.membership.present());
    converse(shared, link, callback, status, Arrival::Dialed { grant: Grant::all() }, member).await.1
}
