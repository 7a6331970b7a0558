//! `GET /v1/changes`: server-sent events, or a WebSocket with the same.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use peer_link::{LinkOptions, Pending};
use replication::Dot;
use sqlite_store::Phase;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::Scope;
use super::follower::{Follower, Refused, Since};
use super::outlet::{Events, Outlet};
use crate::engine::gate::Caller;
use crate::engine::http::{Lasting, refusal};
use crate::engine::shared::Shared;
use crate::query_string;

/// The pause between signs of life.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What to do where a client cannot go on.
const ANEW: &str =
    "begin anew: since=begin shows everything as it stands now, and without since it begins with what comes";

pub(in crate::engine) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/changes", get(changes))
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    scope: Scope,
    table: Option<String>,
    since: Since,
}

impl Wanted {
    /// A client that comes back tells in `Last-Event-ID` what it saw last; its URL still says where it began.
    fn of(query: &str, headers: &HeaderMap) -> Result<Self, String> {
        let mut wanted = Self { scope: Scope(None), table: None, since: Since::Now };
        for (name, value) in query_string::pairs(query)? {
            match name.as_str() {
                "database" => wanted.scope = Scope(Some(value)),
                "table" => wanted.table = Some(value),
                "since" => wanted.since = since(&value)?,
                _ => return Err(format!("{name:?} is not known here; use database, table or since")),
            }
        }
        if let Some(id) = headers.get("last-event-id").filter(|id| !id.is_empty()) {
            wanted.since = since(id.to_str().map_err(|_| "Last-Event-ID is not text".to_owned())?)?;
        }
        Ok(wanted)
    }

    /// Why there is nothing of the kind here, if so.
    fn missing(&self, shared: &Shared) -> Option<String> {
        let members = shared.databases.members();
        let followed = || members.iter().filter(|member| self.scope.has(member.source.name()));
        if let Some(database) = self.scope.0.as_ref().filter(|_| followed().next().is_none()) {
            let names: Vec<&str> = members.iter().map(|member| member.source.name()).collect();
            return Some(format!("there is no database {database:?} here, but {}", names.join(", ")));
        }
        if shared.databases.is_subscriber() {
            return Some("this engine keeps no files whose changes could be followed".to_owned());
        }
        let table = self.table.as_ref()?;
        let has = |member: &crate::engine::databases::Member| {
            let state = member.source.state().borrow().clone();
            state.phase != Phase::Attached || state.names.iter().any(|known| known.name.eq_ignore_ascii_case(table))
        };
        (!followed().any(has)).then(|| format!("no table {table:?} is synced here; status lists those that are"))
    }
}

fn since(text: &str) -> Result<Since, String> {
    let dot = || {
        let (origin, sequence) = text.split_once(':')?;
        Some(Since::Dot(Dot { origin: origin.parse().ok()?, sequence: sequence.parse().ok()? }))
    };
    match text {
        "begin" => Ok(Since::Begin),
        _ => dot().ok_or_else(|| {
            format!("{text:?} is no change's id; write one as events have it, ORIGIN:SEQUENCE, or begin for everything as it stands")
        }),
    }
}

async fn changes(
    State(shared): State<Arc<Shared>>,
    Extension(lasting): Extension<Lasting>,
    Extension(caller): Extension<Caller>,
    mut request: Request,
) -> Response {
    let wanted = match Wanted::of(request.uri().query().unwrap_or_default(), request.headers()) {
        Ok(wanted) => wanted,
        Err(reason) => return refusal(StatusCode::BAD_REQUEST, &reason),
    };
    if let Some(reason) = wanted.missing(&shared) {
        return refusal(StatusCode::NOT_FOUND, &reason);
    }
    let Some(place) = shared.changes.place() else {
        let reason = "as many clients follow changes as may at a time; close one, or try again later";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, reason);
    };
    // What it was let in by counts no longer than the rules of then.
    let over = caller.member.over;
    let Wanted { scope, table, since } = wanted;
    let begun = tokio::select! {
        begun = Follower::begin(Arc::clone(&shared), scope, table, since) => begun,
        () = shared.stop.cancelled() => return refusal(StatusCode::SERVICE_UNAVAILABLE, "this node is stopping"),
    };
    let follower = match begun {
        Ok(follower) => follower,
        Err(Refused::Gone(reason)) => return refusal(StatusCode::GONE, &format!("{reason}; {ANEW}")),
        Err(Refused::NotNow(reason)) => return refusal(StatusCode::SERVICE_UNAVAILABLE, &reason),
        Err(Refused::Store(error)) => {
            Follower::tell(&shared, &error);
            return refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}; {}", error.remedy()));
        }
    };
    if peer_link::is_upgrade(request.headers()) {
        return socket(&shared, &mut request, follower, (place, over));
    }
    lasting.begin();
    let (body, mut portions) = mpsc::channel::<Bytes>(1);
    let outlet = Outlet::Events(Events { body, give_up: lasting.given_up() });
    shared.tracker.spawn(follow(Arc::clone(&shared), follower, outlet, (place, over)));
    let portions = futures::stream::poll_fn(move |context| portions.poll_recv(context));
    let stream = futures::StreamExt::map(portions, Ok::<_, std::convert::Infallible>);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONNECTION, "close"),
        // Reverse proxies hold back what they gather, unless they are told.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(stream)).into_response()
}

/// A place among those who follow changes, and when it is given up.
type Place = (OwnedSemaphorePermit, CancellationToken);

fn socket(shared: &Arc<Shared>, request: &mut Request, follower: Follower, place: Place) -> Response {
    // A client has nothing to say.
    let options = LinkOptions { max_message: 64 << 10, incoming_bytes: 64 << 10, ..shared.link_options.clone() };
    match peer_link::upgrade(request, None, &options) {
        Ok((response, pending)) => {
            shared.tracker.spawn(follow_link(Arc::clone(shared), pending, follower, place));
            response.map(|()| Body::empty())
        }
        Err(error) => {
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
            refusal(status, &error.to_string())
        }
    }
}

async fn follow_link(shared: Arc<Shared>, pending: Pending, follower: Follower, place: Place) {
    // A handshake that fails is the other side's to report.
    let Ok(link) = pending.establish(&shared.tracker, shared.links.child_token()).await else { return };
    let (sender, receiver) = link.split();
    sender.admit();
    follow(shared, follower, Outlet::Socket(sender, receiver), place).await;
}

/// Shows a client what it follows, until it is gone, it cannot go on, the engine stops, or others may do other things.
async fn follow(shared: Arc<Shared>, mut follower: Follower, mut outlet: Outlet, (_place, stop): Place) {
    let mut at = follower.at().await;
    let _shown = Arc::clone(&shared.changes.shown);
    // So that a client that is cut off before its first event goes on from here.
    if !outlet.alive(at).await {
        return;
    }
    loop {
        let shown = {
            let mut next = std::pin::pin!(follower.next());
            loop {
                tokio::select! {
                    shown = &mut next => break shown,
                    () = tokio::time::sleep(HEARTBEAT) => if !outlet.alive(at).await {
                        return;
                    },
                    () = outlet.closed() => return,
                    () = stop.cancelled() => return,
                }
            }
        };
        let shown = match shown {
            Ok(shown) => shown,
            Err(Refused::Gone(reason)) => return outlet.gone(&format!("{reason}; {ANEW}")).await,
            Err(Refused::NotNow(_)) => return,
            Err(Refused::Store(error)) => {
                // It comes back, and goes on where it was.
                return Follower::tell(&shared, &error);
            }
        };
        at = shown.at.or(at);
        tokio::select! {
            sent = outlet.changes(&shown.events) => if !sent {
                return;
            },
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use replication::{Dot, Origin};

    use super::{Scope, Since, Wanted};

    #[test]
    fn what_is_asked_for() {
        let mut headers = HeaderMap::new();
        let of = |query: &str, headers: &HeaderMap| Wanted::of(query, headers);
        let dot = Dot { origin: Origin::from_bytes([7; 16]), sequence: 42 };
        let wanted = of(&format!("database=shop&table=a%20b&since={dot}"), &headers).unwrap();
        let scope = Scope(Some("shop".to_owned()));
        assert_eq!(wanted, Wanted { scope, table: Some("a b".to_owned()), since: Since::Dot(dot) });
        assert_eq!(of("", &headers).unwrap().since, Since::Now);
        for wrong in ["since=", "since=x", "since=7:1", "bogus=1", "since=%", &format!("since={}:-1", dot.origin)] {
            assert!(of(wrong, &headers).is_err(), "{wrong}");
        }
        headers.insert("last-event-id", dot.to_string().parse().unwrap());
        assert_eq!(of("since=begin", &headers).unwrap().since, Since::Dot(dot));
        headers.insert("last-event-id", "begin".parse().unwrap());
        assert_eq!(of("", &headers).unwrap().since, Since::Begin);
    }
}
