//! The listen port: peers' WebSockets, `/healthz`, `/v1/status` and `/v1/conflicts`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use replication::message::SUBPROTOCOL;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::engine::peering::accept_peer;
use crate::engine::places::{Place, Places};
use crate::engine::shared::Shared;
use crate::engine::{conflict_routes, nodes, verify_routes};
use crate::event::{Event, EventName};

/// Connections that may be open and not be peers' links.
const CONNECTIONS: usize = 256;

/// How long a request's head may take, and how long a connection may be without one.
const HEAD: Duration = Duration::from_secs(10);

/// How long a connection may last that does not become a peer's link: a client that does not read its answers gives it up.
const CONNECTION: Duration = Duration::from_secs(60);

/// How long answers may still take once the engine stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The pause after a connection that could not be taken: the system is out of something.
const OUT_OF_SOMETHING: Duration = Duration::from_millis(100);

/// Serves until the engine stops, or listens elsewhere.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener, end: CancellationToken) {
    let router = Router::new()
        .route("/", get(root))
        .route("/v1/sync", get(sync))
        .route("/healthz", get(healthz))
        .route("/v1/status", get(status))
        .merge(conflict_routes::routes())
        .merge(nodes::routes())
        .merge(verify_routes::routes())
        .layer(axum::middleware::from_fn(refuse_foreign))
        .with_state(Arc::clone(&shared));
    let places = Places::new(CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => return,
        };
        let trouble = match accepted {
            Ok((stream, address)) => {
                let (place, full) = places.take();
                let connection = connection(router.clone(), stream, address, place, end.clone());
                shared.tracker.spawn(connection);
                if !full {
                    continue;
                }
                format!("more than {CONNECTIONS} are open that are not peers, the oldest is dropped")
            }
            Err(error) => {
                tokio::time::sleep(OUT_OF_SOMETHING).await;
                format!("the system gives no connection: {error}")
            }
        };
        if shared.told.is_news(&trouble) {
            shared.events.emit(
                Event::new(EventName::SyncError)
                    .field("kind", "overload")
                    .field("reason", format!("connections are turned away: {trouble}"))
                    .field("remedy", "see what connects to this port; raise the limit of open files if it is meant to"),
            );
        }
    }
}

/// One connection, until its last answer is out, it has become a peer's link, or its place is needed.
async fn connection(router: Router, stream: TcpStream, address: SocketAddr, place: Place, stop: CancellationToken) {
    // A row is a small packet: waiting for more to go with it costs 40 ms. Where the system refuses, it is only slower.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        router.clone().oneshot(request)
    });
    let mut served = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    // Errors of a connection are its own.
    tokio::select! {
        _ = served.as_mut() => return,
        () = tokio::time::sleep(CONNECTION) => return,
        () = place.wanted.cancelled() => return,
        () = stop.cancelled() => served.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(LAST_ANSWERS, served).await;
}

/// A web page that a person on this machine looks at must not drive the daemon: its requests carry a foreign Origin,
/// or, after DNS rebinding, a foreign Host.
async fn refuse_foreign(request: Request, next: axum::middleware::Next) -> Response {
    match foreign(request.headers()) {
        Some(what) => (StatusCode::FORBIDDEN, format!("the {what} header of this request is foreign to this node\n"))
            .into_response(),
        None => next.run(request).await,
    }
}

fn foreign(headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value: &axum::http::HeaderValue| value.to_str().unwrap_or("?"));
    let host = text(header::HOST)?;
    let origin = text(header::ORIGIN);
    // Pages always send an Origin with a WebSocket. A peer sends none, and may know this node by any name.
    let is_peer = origin.is_none() && peer_link::is_upgrade(headers);
    if !is_local(host) && !is_peer {
        return Some("Host");
    }
    let origin = origin?;
    let authority = origin.split_once("://").map_or(origin, |(_, authority)| authority);
    (authority != host).then_some("Origin")
}

/// Says in JSON why something is not done.
pub(super) fn refusal(status: StatusCode, text: &str) -> Response {
    (status, Json(serde_json::json!({ "error": text }))).into_response()
}

/// Whether an authority names this machine by address, or as localhost.
fn is_local(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok()
}

async fn root(state: State<Arc<Shared>>, address: ConnectInfo<SocketAddr>, request: Request) -> Response {
    if peer_link::is_upgrade(request.headers()) {
        return sync(state, address, request).await;
    }
    let text = format!(
        "sync-engine {} on node {}\n/healthz  /v1/status  /v1/conflicts\n",
        env!("CARGO_PKG_VERSION"),
        state.node
    );
    text.into_response()
}

async fn sync(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    mut request: Request,
) -> Response {
    if shared.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "this node is stopping\n").into_response();
    }
    match peer_link::upgrade(&mut request, SUBPROTOCOL, &shared.link_options) {
        Ok((response, pending)) => {
            let task = accept_peer(Arc::clone(&shared), pending, address);
            shared.tracker.spawn(task);
            response.map(|()| Body::empty())
        }
        Err(error) => {
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
            (status, format!("{error}\n")).into_response()
        }
    }
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let status = shared.status();
    let bad: Vec<String> = status
        .databases
        .iter()
        .filter(|database| matches!(database.state.as_str(), "failed" | "opening"))
        .map(|database| format!("{}: {} {}", database.name, database.state, database.errors.join("; ")))
        .collect();
    if bad.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, bad.join("\n") + "\n").into_response()
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.status()).into_response()
}

#[cfg(test)]
mod tests {
    use super::foreign;
    use axum::http::{HeaderMap, header};

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        assert_eq!(foreign(&headers("127.0.0.1:7420", None)), None);
        assert_eq!(foreign(&headers("[::1]:7420", None)), None);
        assert_eq!(foreign(&headers("localhost:7420", Some("http://localhost:7420"))), None);
        assert_eq!(foreign(&headers("localhost:7420", Some("https://evil.example"))), Some("Origin"));
        assert_eq!(foreign(&headers("evil.example:7420", None)), Some("Host"));
        let upgrade = |origin| {
            let mut headers = headers("oslo.example:7420", origin);
            headers.insert(header::UPGRADE, "websocket".parse().unwrap());
            headers
        };
        assert_eq!(foreign(&upgrade(None)), None);
        assert_eq!(foreign(&upgrade(Some("http://oslo.example:7420"))), Some("Host"));
    }
}
