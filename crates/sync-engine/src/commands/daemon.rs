//! Asking the running daemon: where it is, and one HTTP request to it at a time.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use peer_link::{Identity, TlsClient};
use secrecy::{ExposeSecret as _, SecretString};
use sync_engine::Access;
use sync_engine::config::{self, Overrides, Settings};

use crate::cli::Where;
use crate::commands::{Misuse, environment};

/// How long the daemon may take to take the connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long it may take to answer: what is asked may wait for an application's lock.
const ANSWER: Duration = Duration::from_secs(60);

/// The daemon: where it is, and what it is shown.
#[derive(Debug)]
pub(super) struct Daemon {
    authority: String,
    /// For HTTPS: whom to believe, and the name that the certificate is to bear.
    tls: Option<(TlsClient, String)>,
    token: Option<SecretString>,
}

/// What passes both ways.
pub(super) trait Connection: Read + Write {}

impl<T: Read + Write> Connection for T {}

/// The first byte of what a TLS server says to who does not speak TLS (RFC 8446, section 5.1: alert).
const TLS_ALERT: u8 = 21;

/// What it answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status code.
    pub(super) status: u16,
    /// The content.
    pub(super) body: String,
}

impl Answer {
    /// The content, if the daemon did what it was asked; else the reason that it gives.
    pub(super) fn expect_done(self) -> anyhow::Result<String> {
        if self.status == 200 {
            return Ok(self.body);
        }
        let told: Option<serde_json::Value> = serde_json::from_str(&self.body).ok();
        if self.status == 401 {
            bail!(
                "the daemon does not let this command in: {}; name the file with its token with --token-file, or its configuration \
                 with --config",
                told.as_ref().and_then(|told| told["error"].as_str()).unwrap_or("HTTP status 401")
            );
        }
        match told.as_ref().and_then(|told| told["error"].as_str()) {
            Some(reason) => bail!("{reason}"),
            None => bail!("the daemon answered with HTTP status {}: {}", self.status, self.body.trim_end()),
        }
    }
}

/// Nobody answers, or not as the daemon does.
#[derive(Debug)]
pub(super) struct Unreachable {
    scheme: &'static str,
    authority: String,
    reason: String,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, authority, reason } = self;
        write!(f, "no daemon answers at {scheme}://{authority} ({reason}); start one with: sync-engine run DB")
    }
}

impl std::error::Error for Unreachable {}

impl Unreachable {
    pub(super) fn new(daemon: &Daemon, reason: String) -> Self {
        let scheme = if daemon.tls.is_some() { "https" } else { "http" };
        Self { scheme, authority: daemon.authority.clone(), reason }
    }
}

impl Daemon {
    /// The daemon that the command line or the configuration names.
    pub(super) fn find(place: &Where) -> anyhow::Result<Self> {
        let overrides = Overrides { token_file: place.token_file.clone(), ..Overrides::default() };
        let (settings, access) = config::load_with_access(place.config.as_deref(), &overrides, &environment())?;
        let token = access.own_token().cloned();
        let tls = || client(place, &settings, &access);
        if let Some(url) = &place.url {
            let Some((encrypted, rest)) = strip_scheme(url, ["http://", "https://"]) else {
                let text = "is not of the form http://HOST:PORT or https://HOST:PORT, as http://127.0.0.1:7420";
                return Err(Misuse(format!("{url:?} {text}")).into());
            };
            let authority = rest.trim_end_matches('/').to_owned();
            let name = host_of(&authority).to_owned();
            return Ok(Self { tls: if encrypted { Some((tls()?, name)) } else { None }, authority, token });
        }
        let address = reachable(settings.listen);
        let names = access.certificate_names().iter().find(|name| !name.starts_with('*'));
        let name = names.cloned().unwrap_or_else(|| address.ip().to_string());
        let tls = if settings.tls.certificate.is_some() { Some((tls()?, name)) } else { None };
        Ok(Self { authority: address.to_string(), tls, token })
    }

    /// The daemon of a peer, by its URL as a peer's or as a web page's, with what this node shows to peers.
    pub(super) fn of_peer(url: &str, place: &Where) -> anyhow::Result<Self> {
        let plain = strip_scheme(url, ["ws://", "wss://"]).or_else(|| strip_scheme(url, ["http://", "https://"]));
        let Some((encrypted, rest)) =
            plain.map(|(encrypted, rest)| (encrypted, rest.trim_end_matches('/'))).filter(|(_, rest)| !rest.is_empty())
        else {
            let text = "is not of the form ws://HOST:PORT, wss://HOST:PORT, http://HOST:PORT or https://HOST:PORT";
            return Err(Misuse(format!("{url:?} {text}")).into());
        };
        let authority = rest.split('/').next().unwrap_or(rest);
        if authority.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            let text =
                format!("{url:?} names no port; a daemon listens on 7420 unless its configuration says otherwise");
            return Err(Misuse(text).into());
        }
        let overrides = Overrides { token_file: place.token_file.clone(), ..Overrides::default() };
        let (settings, access) = config::load_with_access(place.config.as_deref(), &overrides, &environment())?;
        let name = host_of(authority).to_owned();
        let tls = if encrypted { Some((client(place, &settings, &access)?, name)) } else { None };
        Ok(Self { authority: authority.to_owned(), tls, token: access.credentials().token.clone() })
    }

    /// Where it is.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Gets a path.
    pub(super) fn get(&self, path: &str) -> Result<Answer, Unreachable> {
        self.request("GET", path, "")
    }

    /// Posts nothing to a path.
    pub(super) fn post(&self, path: &str) -> Result<Answer, Unreachable> {
        self.request("POST", path, "")
    }

    /// Posts JSON to a path.
    pub(super) fn post_json(&self, path: &str, json: &str) -> Result<Answer, Unreachable> {
        self.request("POST", path, json)
    }

    fn request(&self, method: &str, path: &str, json: &str) -> Result<Answer, Unreachable> {
        let unreachable = |error: anyhow::Error| Unreachable::new(self, format!("{error:#}"));
        self.exchange(method, path, json).map_err(|error| unreachable(self.explained(error)))
    }

    /// A handshake that failed fails with the first byte that passes.
    pub(super) fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(cause) = error.downcast_ref::<std::io::Error>() else { return error };
        if self.tls.is_some() {
            return anyhow::anyhow!(
                "no TLS with it: {}; --ca names the certificate of an authority to believe",
                peer_link::tls_reason(cause)
            );
        }
        // Who speaks TLS ends a connection that does not, perhaps before it has taken the question.
        match cause.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => {
                anyhow::anyhow!("{error}; if it listens with TLS, name it with https://")
            }
            _ => error,
        }
    }

    /// A connection, and the host that a request over it names.
    /// Nothing may come for so long before it is given up.
    pub(super) fn connect(&self, silence: Duration) -> anyhow::Result<(Box<dyn Connection>, String)> {
        let (stream, address) = connect(&self.authority)?;
        stream.set_read_timeout(Some(silence))?;
        match &self.tls {
            None => Ok((Box::new(stream), address.to_string())),
            Some((client, name)) => Ok((Box::new(client.over(name, stream)?), name.clone())),
        }
    }

    /// The line of a request's head that shows the token, if there is one.
    pub(super) fn authorization(&self) -> String {
        let token = self.token.as_ref();
        token.map(|token| format!("Authorization: Bearer {}\r\n", token.expose_secret())).unwrap_or_default()
    }

    fn exchange(&self, method: &str, path: &str, json: &str) -> anyhow::Result<Answer> {
        let (mut stream, host) = self.connect(ANSWER)?;
        let kind = if json.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{}{kind}Content-Length: {}\r\nConnection: close\r\n\r\n{json}",
            self.authorization(),
            json.len()
        )?;
        stream.flush()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        if self.tls.is_none() && answer.first() == Some(&TLS_ALERT) {
            bail!("it speaks TLS: name it with https://");
        }
        let answer = String::from_utf8(answer).context("the answer is not text")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("the answer is not HTTP")?;
        Ok(Answer { status, body: body.to_owned() })
    }
}

/// What follows a scheme, and whether it is the second one, which encrypts.
fn strip_scheme<'u>(url: &'u str, [plain, encrypted]: [&str; 2]) -> Option<(bool, &'u str)> {
    let rest = url.strip_prefix(plain).map(|rest| (false, rest));
    rest.or_else(|| url.strip_prefix(encrypted).map(|rest| (true, rest)))
}

/// The host of an authority, without the brackets of an address.
fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(authority, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// A daemon that listens on all addresses is reached at this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Whom to believe: the authority of the command line, else that of the configuration, else the system's.
fn client(place: &Where, settings: &Settings, access: &Access) -> anyhow::Result<TlsClient> {
    let identity = match (&settings.tls.certificate, &settings.tls.key) {
        (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
        _ => None,
    };
    match (&place.ca, &access.credentials().tls) {
        (Some(ca), _) => Ok(TlsClient::load(Some(ca), identity)?),
        (None, Some(client)) => Ok(client.clone()),
        (None, None) => TlsClient::load(None, None)
            .context("name the certificate of the authority that signed the daemon's with --ca"),
    }
}

/// A connection to the first address of a name that takes one.
fn connect(authority: &str) -> anyhow::Result<(TcpStream, SocketAddr)> {
    let mut last = anyhow::anyhow!("the name has no address");
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            // A daemon answers to its addresses: it cannot know its names.
            Ok(stream) => return Ok((stream, address)),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}
