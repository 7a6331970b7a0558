//! The life of links: dialing peers again and again, taking in those that dial us, and reporting what became of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peer_link::{Backoff, DialError, Link, Pending, dial};
use replication::message::SUBPROTOCOL;
use tokio_util::sync::CancellationToken;

use crate::access::{Grant, Shown};
use crate::change_event::ApplyCallback;
use crate::engine::gate;
use crate::engine::membership::Member;
use crate::engine::session_driver::{Arrival, SessionDriver, SessionEnd};
use crate::engine::shared::Shared;
use crate::event::{Event, EventName};
use crate::status::PeerStatus;

/// The first and the longest pause between tries to reach a peer.
pub(crate) const FIRST_RETRY: Duration = Duration::from_millis(200);
pub(crate) const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// A session that lasted this long was a success: the next try comes quickly again. Long enough that a peer which takes the
/// link and drops it again is not asked without a pause.
pub(super) const LASTING: Duration = Duration::from_secs(1);

/// A peer to dial.
pub(crate) struct Dialing {
    pub(crate) url: String,
    pub(crate) callback: Option<Arc<ApplyCallback>>,
    pub(crate) status: Arc<Mutex<PeerStatus>>,
    /// Ends it; the engine's end does so too.
    pub(crate) end: CancellationToken,
    pub(crate) seed: u64,
}

/// Keeps a session with a peer until the engine stops or the peer is not to be dialed any more.
pub(crate) async fn keep_dialing(shared: Arc<Shared>, dialing: Dialing) {
    let Dialing { url, status, end, .. } = &dialing;
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY, dialing.seed);
    while !end.is_cancelled() {
        set(status, |status| status.state = "connecting".to_owned());
        let begun = Instant::now();
        let over = shared.membership.present().over;
        let reason = match reach(&shared, &dialing).await {
            // The cluster is another one now: there is no reason to wait.
            Ok(SessionEnd::Stopped) => {
                backoff.reset();
                continue;
            }
            Ok(SessionEnd::Duplicate { node: Some(node) }) if shared.registry.has(&node) => {
                set(status, |status| {
                    // The other link's session tells how things stand with this node.
                    (status.node, status.last_error) = (Some(node.clone()), None);
                    status.state = "connected".to_owned();
                });
                tokio::select! {
                    () = shared.registry.gone(&node) => {}
                    () = end.cancelled() => return,
                }
                backoff.reset();
                continue;
            }
            Ok(SessionEnd::SelfConnection) => return tell_self_connection(&shared, &dialing),
            Ok(SessionEnd::Duplicate { .. }) => {
                format!(
                    "the peer has another link to a node named {:?}; if that is another node, rename one",
                    shared.node
                )
            }
            Ok(SessionEnd::Lost { reason } | SessionEnd::Refused { reason }) => reason,
            Err(error) => {
                tell_not_let_in(&shared, url, &error);
                error.to_string()
            }
        };
        if begun.elapsed() >= LASTING {
            backoff.reset();
        }
        let pause = backoff.next_delay();
        set(status, |status| {
            status.state = "waiting".to_owned();
            status.last_error = Some(reason.clone());
        });
        tell_retry(&shared, url, &reason, pause);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = end.cancelled() => return,
            // Who refused this node may take it as a member of another cluster.
            () = over.cancelled() => backoff.reset(),
        }
    }
}

fn tell_self_connection(shared: &Shared, dialing: &Dialing) {
    let reason = "this peer URL leads back to this node";
    shared.events.emit(
        Event::new(EventName::SyncError)
            .field("kind", "self_connection")
            .field("url", dialing.url.as_str())
            .field("reason", reason)
            .field("remedy", "remove it from peers"),
    );
    set(&dialing.status, |status| {
        status.state = "self".to_owned();
        status.last_error = Some(reason.to_owned());
    });
}

/// A peer that does not let this node in, or that it does not believe, is not merely away.
fn tell_not_let_in(shared: &Shared, url: &str, error: &DialError) {
    if !matches!(error, DialError::Unauthorized { .. } | DialError::Tls { .. } | DialError::Authorities { .. })
        || !shared.told.is_news(&format!("not let in {url}"))
    {
        return;
    }
    shared.events.emit(
        Event::new(EventName::SyncError)
            .field("kind", "auth")
            .field("url", url)
            .field("reason", error.to_string())
            .field("remedy", "correct [auth] or [tls] on either node; it is tried again meanwhile"),
    );
}

/// One line for each new reason, and one a minute while it lasts.
pub(crate) fn tell_retry(shared: &Shared, url: &str, reason: &str, pause: Duration) {
    if !shared.told.is_news(&format!("{url} {reason}")) {
        return;
    }
    shared.events.emit(
        Event::new(EventName::SyncRetry)
            .field("url", url)
            .field("reason", reason)
            .field("in", format!("{:.1}s", pause.as_secs_f64())),
    );
}

async fn reach(shared: &Arc<Shared>, dialing: &Dialing) -> Result<SessionEnd, DialError> {
    let Dialing { url, callback, status, end, .. } = dialing;
    // What is said of a peer counts as long as this membership does.
    let Member { cluster, over } = shared.membership.present();
    let access = shared.access();
    let link = tokio::select! {
        link = dial(url, SUBPROTOCOL, access.credentials(), &shared.link_options, &shared.tracker, shared.links.child_token()) => link,
        () = end.cancelled() => return Ok(SessionEnd::Stopped),
        () = over.cancelled() => return Ok(SessionEnd::Stopped),
    };
    let (link, names) = link?;
    let encrypted = url.starts_with("wss");
    let shown = names.map_or(Shown::Nothing, Shown::Certificate);
    // Without encryption only its name tells who it is.
    let grant = if encrypted { access.by_certificate(&shown) } else { Ok(Grant::all()) };
    let grant = match grant {
        Ok(grant) => grant,
        Err(denied) => return Ok(SessionEnd::Refused { reason: denied.to_string() }),
    };
    let leave = over.child_token();
    let member = Member { cluster, over: leave.clone() };
    let mut talk = std::pin::pin!(converse(shared, link, callback.clone(), status, Arrival::Dialed { grant }, member));
    tokio::select! {
        (_, how) = &mut talk => return Ok(how),
        () = end.cancelled() => leave.cancel(),
    }
    Ok(talk.await.1)
}

/// Takes in a peer that dialed us.
pub(crate) async fn accept_peer(
    shared: Arc<Shared>,
    pending: Pending,
    address: SocketAddr,
    (grant, member): (Grant, Member),
) {
    // Many that say nothing must not keep others out: the oldest of them is dropped.
    let (place, _) = shared.strangers.take();
    // A handshake that fails is the other side's to report.
    let Ok(link) = pending.establish(&shared.tracker, shared.links.child_token()).await else { return };
    let status = Arc::new(Mutex::new(PeerStatus { url: address.to_string(), ..PeerStatus::default() }));
    let callback = shared.callback.clone();
    let (node, end) = converse(&shared, link, callback, &status, Arrival::Accepted { place, grant }, member).await;
    if let (None, SessionEnd::Lost { reason }) = (node, end)
        && gate::is_news(&shared, "stranger", address.ip())
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

pub(crate) async fn converse(
    shared: &Arc<Shared>,
    link: Link,
    callback: Option<Arc<ApplyCallback>>,
    status: &Arc<Mutex<PeerStatus>>,
    arrival: Arrival,
    member: Member,
) -> (Option<String>, SessionEnd) {
    let driver = SessionDriver::new(Arc::clone(shared), link, callback, Arc::clone(status), arrival, member);
    let (node, end) = driver.run().await;
    if let Some(node) = &node {
        let reason = match &end {
            SessionEnd::Duplicate { .. } | SessionEnd::SelfConnection => None,
            SessionEnd::Stopped if shared.stop.is_cancelled() => Some("this node stops".to_owned()),
            SessionEnd::Stopped => Some("the configuration of this node has changed".to_owned()),
            SessionEnd::Lost { reason } | SessionEnd::Refused { reason } => Some(reason.clone()),
        };
        if let Some(reason) = reason.filter(|_| shared.allowance.take(node, 1).0 > 0) {
            shared.events.emit(Event::new(EventName::PeerLost).field("node", node.as_str()).field("reason", reason));
        }
    }
    (node, end)
}

pub(crate) fn set(status: &Mutex<PeerStatus>, change: impl FnOnce(&mut PeerStatus)) {
    change(&mut status.lock().unwrap_or_else(PoisonError::into_inner));
}
