//! Dialing a peer.

use std::sync::Arc;

use http::{HeaderValue, Uri, header};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::DialError;
use crate::link::{Direction, Link, LinkOptions, Traffic, start};
use crate::metered::Metered;

/// A peer's address.
struct Target {
    uri: Uri,
    host: String,
    port: u16,
}

impl Target {
    fn of(url: &str) -> Result<Self, DialError> {
        let wrong = |reason: &str| DialError::Url { url: url.to_owned(), reason: reason.to_owned() };
        let uri: Uri = url.trim().parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss") => return Err(DialError::Tls { url: url.to_owned() }),
            Some(other) => return Err(wrong(&format!("the scheme {other} is not ws"))),
            None => return Err(wrong("it has no scheme")),
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(wrong("it holds credentials, which this version does not use"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let given = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map(|(_, port)| port);
        let port = match given {
            None => 80,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong("its port is no port"))?,
        };
        Ok(Self { uri, host, port })
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Whether a URL can be dialed at all.
///
/// # Errors
/// It is no URL of a peer, or of a kind that this version does not dial.
pub fn check_url(url: &str) -> Result<(), DialError> {
    Target::of(url).map(drop)
}

/// Connects to the peer at `url` once.
///
/// # Errors
/// The peer cannot be reached, or does not speak `subprotocol`. Nothing is left behind.
pub async fn dial(
    url: &str,
    subprotocol: &str,
    options: &LinkOptions,
    tracker: &TaskTracker,
    cancel: CancellationToken,
) -> Result<Link, DialError> {
    let target = Target::of(url)?;
    let after = options.handshake_timeout;
    match timeout(after, connect(&target, subprotocol, options, tracker, cancel)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout { authority: target.authority(), after }),
    }
}

async fn connect(
    target: &Target,
    subprotocol: &str,
    options: &LinkOptions,
    tracker: &TaskTracker,
    cancel: CancellationToken,
) -> Result<Link, DialError> {
    let authority = target.authority();
    let failed = |reason: String| DialError::Handshake { authority: target.authority(), reason };
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(|source| DialError::Connect { authority: authority.clone(), source })?;
    stream.set_nodelay(true).map_err(|source| DialError::Connect { authority: authority.clone(), source })?;
    let mut request = target.uri.clone().into_client_request().map_err(|error| failed(error.to_string()))?;
    let offered = HeaderValue::from_str(subprotocol).map_err(|error| failed(error.to_string()))?;
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, offered);
    let traffic = Arc::new(Traffic::new(options));
    let stream = Metered::new(stream, Arc::clone(&traffic));
    let answer = client_async_with_config(request, stream, Some(options.web_socket())).await;
    let socket = match answer {
        Ok((socket, _)) => socket,
        Err(Error::Http(response)) => {
            return Err(DialError::Status { authority, status: response.status().as_u16() });
        }
        Err(Error::Protocol(error)) if error.to_string().contains("SubProtocol") => {
            return Err(DialError::Subprotocol { authority, subprotocol: subprotocol.to_owned() });
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    Ok(start(socket, traffic, Direction::Dialed, options, tracker, cancel))
}
