//! Who gets past the listen port: every request shows what it has to show before anything looks at it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::access::{Access, Denied, Grant, Shown};
use crate::engine::http::refusal;
use crate::engine::membership::Member;
use crate::engine::repeats::STRANGERS;
use crate::engine::shared::Shared;
use crate::event::{Event, EventName};

/// What a connection has shown, and under which rules it was taken.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) shown: Arc<Shown>,
    pub(super) member: Member,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// What tells nothing of the databases.
    Open,
    /// The link of a peer, which is judged by its own rules.
    Peer,
    See,
    Change,
}

/// Lets a request through, with what it may do, or says why not.
pub(super) async fn admit(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let access = shared.access();
    let purpose = purpose(&request);
    let shown = request.extensions().get::<Caller>().map(|caller| Arc::clone(&caller.shown));
    let granted = access.admit(bearer(request.headers()), shown.as_deref().unwrap_or(&Shown::Nothing));
    // A page of another site has no token, and is told nothing without one.
    if !access.wants_token()
        && let Some(what) = foreign(request.headers(), &access)
    {
        let text = format!("the {what} header of this request is foreign to this node\n");
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let grant = match granted {
        Ok(grant) => grant,
        Err(_) if purpose == Purpose::Open => return next.run(request).await,
        Err(denied) => return turn_away(&shared, &request, denied),
    };
    let lacks = match purpose {
        Purpose::Open | Purpose::Peer => None,
        Purpose::See if grant.sees() => None,
        Purpose::Change if grant.changes() => None,
        Purpose::See => Some("this token or certificate is for the link of a peer that may not know all databases"),
        Purpose::Change => Some("this token or certificate may read, and change nothing"),
    };
    if let Some(lacks) = lacks {
        return refusal(StatusCode::FORBIDDEN, lacks);
    }
    request.extensions_mut().insert(grant);
    next.run(request).await
}

fn purpose(request: &Request) -> Purpose {
    let path = request.uri().path();
    let upgrade = peer_link::is_upgrade(request.headers());
    match path {
        "/v1/sync" => Purpose::Peer,
        "/" if upgrade => Purpose::Peer,
        "/" | "/healthz" => Purpose::Open,
        // A question that is too long for a path.
        _ if path.ends_with("/verify") => Purpose::See,
        _ if matches!(*request.method(), Method::GET | Method::HEAD) => Purpose::See,
        _ => Purpose::Change,
    }
}

/// The token that a request shows.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether something is to be told of an address: once a minute, and no more than the log takes of strangers. Who has many addresses has a
/// network of IPv6.
pub(super) fn is_news(shared: &Shared, what: &str, address: IpAddr) -> bool {
    let network = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{:x}", address.to_bits() >> 64),
    };
    shared.told.is_news(&format!("{what} {network}")) && shared.allowance.take(STRANGERS, 1).0 > 0
}

fn turn_away(shared: &Shared, request: &Request, denied: Denied) -> Response {
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let is_news = address.is_some_and(|address| is_news(shared, "turned away", address));
    if let Some(address) = address.filter(|_| is_news) {
        shared.events.emit(
            Event::new(EventName::SyncError)
                .field("kind", "auth")
                .field("address", address.to_string())
                .field("path", replication::message::shortened(request.uri().path(), 200))
                .field("reason", denied.to_string())
                .field("remedy", "see what connects to this port, and give it the token if it is meant to"),
        );
    }
    let mut response = refusal(StatusCode::UNAUTHORIZED, &denied.to_string());
    if matches!(denied, Denied::NoToken | Denied::WrongToken) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A web page that a person on this machine looks at must not drive the daemon: its requests carry a foreign Origin,
/// or, after DNS rebinding, a foreign Host.
fn foreign(headers: &HeaderMap, access: &Access) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
    let host = text(header::HOST)?;
    let origin = text(header::ORIGIN);
    // Pages always send an Origin with a WebSocket. A peer sends none, and may know this node by any name.
    let is_peer = origin.is_none() && peer_link::is_upgrade(headers);
    if !is_ours(host, access) && !is_peer {
        return Some("Host");
    }
    let origin = origin?;
    let authority = origin.split_once("://").map_or(origin, |(_, authority)| authority);
    (authority != host).then_some("Origin")
}

/// Whether an authority names this machine: by address, as localhost, or as its certificate does.
fn is_ours(authority: &str, access: &Access) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok()
        || access.certificate_names().iter().any(|name| bears(name, host))
}

/// Whether a name in a certificate, which may begin with a wildcard for one label, is that of a host.
fn bears(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
        None => name.eq_ignore_ascii_case(host),
    }
}

/// What the request of a peer may do.
pub(super) fn grant_of(request: &mut Request) -> Option<Grant> {
    request.extensions_mut().remove()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, header};

    use super::bearer;
    use crate::access::Access;

    fn foreign(headers: &HeaderMap) -> Option<&'static str> {
        super::foreign(headers, &Access::open())
    }

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

    #[test]
    fn a_token_is_what_follows_bearer() {
        for (value, token) in
            [("Bearer abc", Some("abc")), ("bearer  abc ", Some("abc")), ("Basic abc", None), ("abc", None)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            assert_eq!(bearer(&headers), token, "{value}");
        }
    }
}
