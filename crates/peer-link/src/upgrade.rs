//! Taking in a peer: from an HTTP request that asks for WebSocket to a link (RFC 6455, section 4.2).

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::UpgradeError;
use crate::link::{Direction, Link, LinkOptions, over};

/// A connection that becomes a link once the answer has gone out.
#[derive(Debug)]
pub struct Pending {
    upgrade: OnUpgrade,
    options: LinkOptions,
}

/// Whether a request asks for WebSocket.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, &header::UPGRADE, "websocket")
}

/// Answers a request for a WebSocket that speaks `subprotocol`, or none in particular: the response is to be sent, then
/// [`Pending::establish`] gives the link.
///
/// # Errors
/// The request asks for something else; [`UpgradeError::status`] is the answer's status.
pub fn upgrade<B>(
    request: &mut Request<B>,
    subprotocol: Option<&str>,
    options: &LinkOptions,
) -> Result<(Response<()>, Pending), UpgradeError> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(UpgradeError::NotWebSocket("the method is not GET"));
    }
    if !has_token(headers, &header::CONNECTION, "upgrade") || !is_upgrade(headers) {
        return Err(UpgradeError::NotWebSocket("the request does not ask for an upgrade"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(UpgradeError::NotWebSocket("the WebSocket version is not 13"));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or(UpgradeError::NotWebSocket("the request has no Sec-WebSocket-Key"))?;
    let accept = derive_accept_key(key.as_bytes());
    if let Some(subprotocol) = subprotocol.filter(|it| !has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, it)) {
        return Err(UpgradeError::Subprotocol(subprotocol.to_owned()));
    }
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let text = |text: &str| HeaderValue::from_str(text).map_err(|_| UpgradeError::Subprotocol(text.to_owned()));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, text(&accept)?);
    if let Some(subprotocol) = subprotocol {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, text(subprotocol)?);
    }
    Ok((response, Pending { upgrade: hyper::upgrade::on(request), options: options.clone() }))
}

impl Pending {
    /// Waits for the connection and makes a link of it.
    ///
    /// # Errors
    /// The connection was lost, or did not come in time. Nothing is left behind.
    pub async fn establish(self, tracker: &TaskTracker, cancel: CancellationToken) -> Result<Link, UpgradeError> {
        let upgraded = timeout(self.options.handshake_timeout, self.upgrade)
            .await
            .map_err(|_| UpgradeError::Takeover("it did not come in time".to_owned()))?
            .map_err(|error| UpgradeError::Takeover(error.to_string()))?;
        Ok(over(TokioIo::new(upgraded), Direction::Accepted, &self.options, tracker, cancel).await)
    }
}

/// Whether a header that is a list holds a token, in any case of its letters.
fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}
