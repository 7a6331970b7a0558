//! Dialing a peer.

use std::io;
use std::sync::Arc;

use http::{HeaderValue, Uri, header};
use rustls::{AlertDescription, CertificateError};
use secrecy::{ExposeSecret as _, SecretString};
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
use crate::tls::TlsClient;
use crate::transport::Transport;

/// What this node shows to a peer that it dials, and whom it believes.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The secret that the peer knows.
    pub token: Option<SecretString>,
    /// For `wss://`; none: the system's authorities are believed, and no certificate is shown.
    pub tls: Option<TlsClient>,
}

/// A peer's address.
struct Target {
    uri: Uri,
    host: String,
    port: u16,
    encrypted: bool,
}

impl Target {
    fn of(url: &str) -> Result<Self, DialError> {
        let wrong = |reason: &str| DialError::Url { url: without_secret(url), reason: reason.to_owned() };
        let uri: Uri = url.trim().parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
        let encrypted = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            Some(other) => return Err(wrong(&format!("the scheme {other} is neither ws nor wss"))),
            None => return Err(wrong("it has no scheme")),
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(wrong(
                "it holds a secret, which others could read: put it into a file and name that in [auth] token_file",
            ));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let given = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map(|(_, port)| port);
        let port = match given {
            None if encrypted => 443,
            None => 80,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong("its port is no port"))?,
        };
        Ok(Self { uri, host, port, encrypted })
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// A URL as it can be shown: without the secret that it may hold.
pub fn without_secret(url: &str) -> String {
    let begin = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[begin..].find(['/', '?', '#']).map_or(url.len(), |end| begin + end);
    match url[begin..end].rfind('@') {
        Some(at) => format!("{}…{}", &url[..begin], &url[begin + at..]),
        None => url.to_owned(),
    }
}

/// Whether a URL can be dialed at all.
///
/// # Errors
/// It is no URL of a peer.
pub fn check_url(url: &str) -> Result<(), DialError> {
    Target::of(url).map(drop)
}

/// Connects to the peer at `url` once; the link, and the DNS names in the certificate that the peer has shown, if it did.
///
/// # Errors
/// The peer cannot be reached, does not let this node in, or does not speak `subprotocol`. Nothing is left behind.
pub async fn dial(
    url: &str,
    subprotocol: &str,
    credentials: &Credentials,
    options: &LinkOptions,
    tracker: &TaskTracker,
    cancel: CancellationToken,
) -> Result<(Link, Option<Vec<String>>), DialError> {
    let target = Target::of(url)?;
    let after = options.handshake_timeout;
    match timeout(after, connect(&target, (subprotocol, credentials), options, tracker, cancel)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout { authority: target.authority(), after }),
    }
}

async fn connect(
    target: &Target,
    (subprotocol, credentials): (&str, &Credentials),
    options: &LinkOptions,
    tracker: &TaskTracker,
    cancel: CancellationToken,
) -> Result<(Link, Option<Vec<String>>), DialError> {
    let authority = target.authority();
    let failed = |reason: String| DialError::Handshake { authority: target.authority(), reason };
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(|source| DialError::Connect { authority: authority.clone(), source })?;
    stream.set_nodelay(true).map_err(|source| DialError::Connect { authority: authority.clone(), source })?;
    let stream = if target.encrypted { encrypt(target, credentials, stream).await? } else { Transport::Plain(stream) };
    let names = stream.names();
    let mut request = target.uri.clone().into_client_request().map_err(|error| failed(error.to_string()))?;
    let offered = HeaderValue::from_str(subprotocol).map_err(|error| failed(error.to_string()))?;
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, offered);
    if let Some(token) = &credentials.token {
        let shown = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()));
        let mut shown = shown.map_err(|_| failed("the token holds a character that no header can".to_owned()))?;
        shown.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, shown);
    }
    let traffic = Arc::new(Traffic::new(options));
    let stream = Metered::new(stream, Arc::clone(&traffic));
    let answer = client_async_with_config(request, stream, Some(options.web_socket())).await;
    let socket = match answer {
        Ok((socket, _)) => socket,
        Err(Error::Http(response)) => {
            let status = response.status().as_u16();
            return Err(match status {
                401 | 403 => DialError::Unauthorized { authority, status },
                _ => DialError::Status { authority, status },
            });
        }
        Err(Error::Protocol(error)) if error.to_string().contains("SubProtocol") => {
            return Err(DialError::Subprotocol { authority, subprotocol: subprotocol.to_owned() });
        }
        // The peer's answer to our certificate comes after our part of the handshake.
        Err(Error::Io(error)) if target.encrypted => {
            return Err(DialError::Tls { authority, reason: tls_reason(&error) });
        }
        Err(error) if target.encrypted => return Err(failed(error.to_string())),
        Err(error) => return Err(failed(format!("{error}; if it listens with TLS, dial it with wss://"))),
    };
    Ok((start(socket, traffic, Direction::Dialed, options, tracker, cancel), names))
}

async fn encrypt(target: &Target, credentials: &Credentials, stream: TcpStream) -> Result<Transport, DialError> {
    let authority = target.authority();
    let client = match &credentials.tls {
        Some(client) => client.clone(),
        None => {
            TlsClient::of_system().map_err(|source| DialError::Authorities { authority: authority.clone(), source })?
        }
    };
    let connected = client.connect(&target.host, stream).await;
    connected.map_err(|error| DialError::Tls { authority, reason: tls_reason(&error) })
}

/// What a failed handshake comes from, and what to do.
pub fn tls_reason(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(inner) = inner else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "it ended the connection; if it does not listen with TLS, dial it with ws://".to_owned()
            }
            _ => error.to_string(),
        };
    };
    let remedy = match inner {
        // Another authority of the same name has signed it.
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "; name the certificate of the authority that signed it in [tls] ca"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "; dial it by a name in its certificate",
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "; renew it there, or set the clock right",
        rustls::Error::InvalidMessage(_) => "; if it does not listen with TLS, dial it with ws://",
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure) => {
            "; it wants a certificate of this node: name one in [tls] certificate and key"
        }
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::DecryptError,
        ) => {
            "; it does not believe the certificate of this node: have it signed by the authority in its [tls] client_ca"
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => "; renew the certificate of this node",
        _ => "",
    };
    let what = match inner {
        // Without the moment, which would make it another reason each time.
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired".to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "its certificate is not valid yet".to_owned(),
        inner => inner.to_string(),
    };
    format!("{what}{remedy}")
}
