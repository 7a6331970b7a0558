//! The listen port: peers' WebSockets, and everything that is asked over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use peer_link::Transport;
use replication::message::SUBPROTOCOL;
use sqlite_store::hang_point;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::access::Shown;
use crate::engine::gate::Caller;
use crate::engine::peering::accept_peer;
use crate::engine::places::{Place, Places};
use crate::engine::shared::Shared;
use crate::engine::{changes, conflict_routes, event_routes, gate, health, nodes, page, verify_routes};
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

/// What a response that goes on says of its connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Lasting {
    begun: CancellationToken,
    given_up: CancellationToken,
}

impl Lasting {
    /// From now on the connection lasts as long as both sides want.
    pub(super) fn begin(&self) {
        self.begun.cancel();
    }

    /// What ends the connection at once.
    pub(super) fn given_up(&self) -> CancellationToken {
        self.given_up.clone()
    }
}

/// Serves until the engine stops, or listens elsewhere.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener, end: CancellationToken) {
    let router = Router::new()
        .route("/", get(root))
        .route("/v1/sync", get(sync))
        .route("/v1/status", get(status))
        .merge(changes::routes())
        .merge(health::routes())
        .merge(conflict_routes::routes())
        .merge(event_routes::routes())
        .merge(nodes::routes())
        .merge(verify_routes::routes())
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), gate::admit))
        .layer(axum::middleware::map_response(page::cautious))
        .with_state(Arc::clone(&shared));
    let places = Places::new(CONNECTIONS);
    let place = listener.local_addr().map_or_else(|_| "listener".to_owned(), |local| format!("listener {local}"));
    let heart = shared.hearts.join(place);
    loop {
        hang_point("accept");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = heart.beat() => continue,
            () = end.cancelled() => return,
        };
        let trouble = match accepted {
            Ok((stream, address)) => {
                let (place, full) = places.take();
                let connection = connection(Arc::clone(&shared), router.clone(), (stream, address), place, end.clone());
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
async fn connection(
    shared: Arc<Shared>,
    router: Router,
    (stream, address): (TcpStream, SocketAddr),
    place: Place,
    stop: CancellationToken,
) {
    // A row is a small packet: waiting for more to go with it costs 40 ms. Where the system refuses, it is only slower.
    drop(stream.set_nodelay(true));
    // What it is let in by counts as long as these rules do.
    let member = shared.membership.present();
    let over = member.over.clone();
    let encrypted = tokio::select! {
        encrypted = tokio::time::timeout(HEAD, encrypt(&shared, stream)) => encrypted,
        () = place.wanted.cancelled() => return,
        () = over.cancelled() => return,
        () = stop.cancelled() => return,
    };
    let (transport, shown) = match encrypted {
        Ok(Ok(encrypted)) => encrypted,
        Ok(Err(error)) => return tell_no_tls(&shared, address, &error.to_string()),
        Err(_) => return,
    };
    drop(shared);
    let caller = Caller { shown: Arc::new(shown), member };
    let lasting = Lasting::default();
    let Lasting { begun, given_up } = lasting.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        request.extensions_mut().insert(caller.clone());
        request.extensions_mut().insert(lasting.clone());
        router.clone().oneshot(request)
    });
    let mut served = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(transport), service)
            .with_upgrades()
    );
    let limit = async move {
        tokio::select! {
            () = tokio::time::sleep(CONNECTION) => {}
            () = place.wanted.cancelled() => {}
            () = begun.cancelled() => {
                drop(place);
                given_up.cancelled().await;
            }
        }
    };
    // Errors of a connection are its own.
    tokio::select! {
        _ = served.as_mut() => return,
        () = limit => return,
        () = over.cancelled() => served.as_mut().graceful_shutdown(),
        () = stop.cancelled() => served.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(LAST_ANSWERS, served).await;
}

async fn encrypt(shared: &Shared, stream: TcpStream) -> std::io::Result<(Transport, Shown)> {
    let access = shared.access();
    let Some(server) = access.server() else { return Ok((Transport::Plain(stream), Shown::Nothing)) };
    let transport = server.accept(stream).await?;
    let shown = match transport.names() {
        _ if server.is_shown_on(&transport) => Shown::Own,
        Some(names) => Shown::Certificate(names),
        None => Shown::Nothing,
    };
    Ok((transport, shown))
}

fn tell_no_tls(shared: &Shared, address: SocketAddr, reason: &str) {
    if gate::is_news(shared, "no TLS", address.ip()) {
        shared.events.emit(
            Event::new(EventName::SyncError)
                .field("kind", "auth")
                .field("address", address.ip().to_string())
                .field("reason", format!("no TLS with who connected: {reason}"))
                .field("remedy", "see its log, if it is a peer: it has to dial wss://, believe the authority of this node's certificate, and show one of client_ca where that is named"),
        );
    }
}

/// Says in JSON why something is not done.
pub(super) fn refusal(status: StatusCode, text: &str) -> Response {
    (status, Json(serde_json::json!({ "error": text }))).into_response()
}

async fn root(state: State<Arc<Shared>>, address: ConnectInfo<SocketAddr>, request: Request) -> Response {
    if peer_link::is_upgrade(request.headers()) {
        return sync(state, address, request).await;
    }
    page::answer(state.access().wants_token())
}

async fn sync(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    mut request: Request,
) -> Response {
    if shared.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "this node is stopping\n").into_response();
    }
    let caller = request.extensions().get::<Caller>().map(|caller| caller.member.clone());
    let (Some(grant), Some(member)) = (gate::grant_of(&mut request), caller) else {
        return refusal(StatusCode::UNAUTHORIZED, "this node does not know who asks");
    };
    match peer_link::upgrade(&mut request, Some(SUBPROTOCOL), &shared.link_options) {
        Ok((response, pending)) => {
            let task = accept_peer(Arc::clone(&shared), pending, address, (grant, member));
            shared.tracker.spawn(task);
            response.map(|()| Body::empty())
        }
        Err(error) => {
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
            (status, format!("{error}\n")).into_response()
        }
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.status()).into_response()
}
