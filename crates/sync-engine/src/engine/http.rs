//! The listen port: peers' WebSockets, `/healthz` and `/v1/status`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use replication::message::SUBPROTOCOL;
use tokio::net::TcpListener;

use crate::engine::peering::accept_peer;
use crate::engine::shared::Shared;

/// Serves until the engine stops.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let stop = shared.stop.clone();
    let router = Router::new()
        .route("/", get(root))
        .route("/v1/sync", get(sync))
        .route("/healthz", get(healthz))
        .route("/v1/status", get(status))
        .layer(axum::middleware::from_fn(refuse_foreign))
        .with_state(shared);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    // A row is a small packet: waiting for more to go with it costs 40 ms. Where the system refuses, it is only slower.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    // Serving ends only with the engine; errors of single connections are theirs.
    let _ = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await;
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
    if !is_local(host) {
        return Some("Host");
    }
    let origin = text(header::ORIGIN)?;
    let authority = origin.split_once("://").map_or(origin, |(_, authority)| authority);
    (authority != host).then_some("Origin")
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
    let text = format!("sync-engine {} on node {}\n/healthz  /v1/status\n", env!("CARGO_PKG_VERSION"), state.node);
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
        .filter(|database| database.state == "failed")
        .map(|database| format!("{}: {}", database.name, database.errors.join("; ")))
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
    }
}
