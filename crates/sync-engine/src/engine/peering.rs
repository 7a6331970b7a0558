//! The life of links: dialing peers again and again, taking in those that dial us, and reporting what became of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peer_link::{Backoff, Link, Pending, dial};
use replication::message::SUBPROTOCOL;
use tokio::sync::OwnedSemaphorePermit;

use crate::change_event::ApplyCallback;
use crate::engine::session_driver::{SessionDriver, SessionEnd};
use crate::engine::shared::Shared;
use crate::event::{Event, EventName};
use crate::status::PeerStatus;

/// The first and the longest pause between tries to reach a peer.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// A session that lasted this long was a success: the next try comes quickly again. Long enough that a peer which takes the
/// link and drops it again is not asked without a pause.
const LASTING: Duration = Duration::from_secs(1);

/// Keeps a session with the peer at `url` until the engine stops.
pub(crate) async fn keep_dialing(shared: Arc<Shared>, url: String, callback: Option<Arc<ApplyCallback>>, seed: u64) {
    let status = Arc::new(Mutex::new(PeerStatus { url: url.clone(), ..PeerStatus::default() }));
    shared.dialed.lock().unwrap_or_else(PoisonError::into_inner).insert(url.clone(), Arc::clone(&status));
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY, seed);
    while !shared.stop.is_cancelled() {
        set(&status, |status| status.state = "connecting".to_owned());
        let begun = Instant::now();
        let reason = match reach(&shared, &url, callback.clone(), &status).await {
            Ok(SessionEnd::Stopped) => return,
            Ok(SessionEnd::Duplicate { node: Some(node) }) if shared.registry.has(&node) => {
                set(&status, |status| {
                    // The other link's session tells how things stand with this node.
                    (status.node, status.last_error) = (Some(node.clone()), None);
                    status.state = "connected".to_owned();
                });
                tokio::select! {
                    () = shared.registry.gone(&node) => {}
                    () = shared.stop.cancelled() => return,
                }
                backoff.reset();
                continue;
            }
            Ok(SessionEnd::SelfConnection) => {
                shared.events.emit(
                    Event::new(EventName::SyncError)
                        .field("kind", "self_connection")
                        .field("url", url.as_str())
                        .field("reason", "this peer URL leads back to this node")
                        .field("remedy", "remove it from peers"),
                );
                set(&status, |status| {
                    status.state = "self".to_owned();
                    status.last_error = Some("this peer URL leads back to this node".to_owned());
                });
                return;
            }
            Ok(SessionEnd::Duplicate { .. }) => {
                format!(
                    "the peer has another link to a node named {:?}; if that is another node, rename one",
                    shared.node
                )
            }
            Ok(SessionEnd::Lost { reason } | SessionEnd::Refused { reason }) => reason,
            Err(reason) => reason,
        };
        if begun.elapsed() >= LASTING {
            backoff.reset();
        }
        let pause = backoff.next_delay();
        set(&status, |status| {
            status.state = "waiting".to_owned();
            status.last_error = Some(reason.clone());
        });
        tell_retry(&shared, &url, &reason, pause);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// One line for each new reason, and one a minute while it lasts.
fn tell_retry(shared: &Shared, url: &str, reason: &str, pause: Duration) {
    if !shared.told.is_news(format!("{url} {reason}")) {
        return;
    }
    shared.events.emit(
        Event::new(EventName::SyncRetry)
            .field("url", url)
            .field("reason", reason)
            .field("in", format!("{:.1}s", pause.as_secs_f64())),
    );
}

async fn reach(
    shared: &Arc<Shared>,
    url: &str,
    callback: Option<Arc<ApplyCallback>>,
    status: &Arc<Mutex<PeerStatus>>,
) -> Result<SessionEnd, String> {
    let link = tokio::select! {
        link = dial(url, SUBPROTOCOL, &shared.link_options, &shared.tracker, shared.links.child_token()) => link,
        () = shared.stop.cancelled() => return Ok(SessionEnd::Stopped),
    };
    let link = link.map_err(|error| error.to_string())?;
    Ok(converse(shared, link, callback, status, None).await.1)
}

/// Takes in a peer that dialed us.
pub(crate) async fn accept_peer(shared: Arc<Shared>, pending: Pending, address: SocketAddr) {
    // Many that say nothing must not take every place: one more is dropped.
    let Ok(place) = Arc::clone(&shared.strangers).try_acquire_owned() else { return };
    // A handshake that fails is the other side's to report.
    let Ok(link) = pending.establish(&shared.tracker, shared.links.child_token()).await else { return };
    let status = Arc::new(Mutex::new(PeerStatus { url: address.to_string(), ..PeerStatus::default() }));
    let callback = shared.callback.clone();
    let (node, end) = converse(&shared, link, callback, &status, Some(place)).await;
    if let (None, SessionEnd::Lost { reason }) = (node, end)
        && shared.told.is_news(format!("stranger {reason}"))
    {
        shared.events.emit(
            Event::new(EventName::SyncError)
                .field("kind", "protocol")
                .field("address", address.to_string())
                .field("reason", format!("somebody connected and did not say who it is: {reason}"))
                .field("remedy", "check what connects to this port"),
        );
    }
}

async fn converse(
    shared: &Arc<Shared>,
    link: Link,
    callback: Option<Arc<ApplyCallback>>,
    status: &Arc<Mutex<PeerStatus>>,
    place: Option<OwnedSemaphorePermit>,
) -> (Option<String>, SessionEnd) {
    let driver = SessionDriver::new(Arc::clone(shared), link, callback, Arc::clone(status), place);
    let (node, end) = driver.run().await;
    if let Some(node) = &node {
        let reason = match &end {
            SessionEnd::Duplicate { .. } | SessionEnd::SelfConnection => None,
            SessionEnd::Stopped => Some("this node stops".to_owned()),
            SessionEnd::Lost { reason } | SessionEnd::Refused { reason } => Some(reason.clone()),
        };
        if let Some(reason) = reason {
            shared.events.emit(Event::new(EventName::PeerLost).field("node", node.as_str()).field("reason", reason));
        }
    }
    (node, end)
}

fn set(status: &Mutex<PeerStatus>, change: impl FnOnce(&mut PeerStatus)) {
    change(&mut status.lock().unwrap_or_else(PoisonError::into_inner));
}
