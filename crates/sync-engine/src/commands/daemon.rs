//! Asking the running daemon: where it is, and one HTTP request to it at a time.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use sync_engine::config::{self, Overrides};

use crate::cli::Where;
use crate::commands::environment;

/// How long the daemon may take to take the connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long it may take to answer: what is asked may wait for an application's lock.
const ANSWER: Duration = Duration::from_secs(60);

/// The daemon, by its address.
#[derive(Debug)]
pub(super) struct Daemon {
    authority: String,
}

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
        match told.as_ref().and_then(|told| told["error"].as_str()) {
            Some(reason) => bail!("{reason}"),
            None => bail!("the daemon answered with HTTP status {}: {}", self.status, self.body.trim_end()),
        }
    }
}

/// Nobody answers, or not as the daemon does.
#[derive(Debug)]
pub(super) struct Unreachable {
    authority: String,
    reason: String,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authority, reason } = self;
        write!(f, "no daemon answers at http://{authority} ({reason}); start one with: sync-engine run DB")
    }
}

impl std::error::Error for Unreachable {}

impl Daemon {
    /// The daemon that the command line or the configuration names.
    pub(super) fn find(place: &Where) -> anyhow::Result<Self> {
        if let Some(url) = &place.url {
            let Some(rest) = url.strip_prefix("http://") else { bail!("{url:?} is not of the form http://HOST:PORT") };
            return Ok(Self { authority: rest.trim_end_matches('/').to_owned() });
        }
        let settings = config::load(place.config.as_deref(), &Overrides::default(), &environment())?;
        Ok(Self { authority: settings.listen.to_string() })
    }

    /// The daemon of a peer, by its URL as a peer's or as a web page's.
    pub(super) fn of_peer(url: &str) -> anyhow::Result<Self> {
        let rest = ["ws://", "http://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let Some(rest) = rest.map(|rest| rest.trim_end_matches('/')).filter(|rest| !rest.is_empty()) else {
            bail!("{url:?} is not of the form ws://HOST:PORT or http://HOST:PORT")
        };
        let authority = rest.split('/').next().unwrap_or(rest);
        if authority.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            bail!("{url:?} names no port; a daemon listens on 7420 unless its configuration says otherwise");
        }
        Ok(Self { authority: authority.to_owned() })
    }

    /// The daemon that listens there.
    pub(super) fn at(address: SocketAddr) -> Self {
        Self { authority: address.to_string() }
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
        let unreachable =
            |error: anyhow::Error| Unreachable { authority: self.authority.clone(), reason: format!("{error:#}") };
        exchange(&self.authority, method, path, json).map_err(unreachable)
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

fn exchange(authority: &str, method: &str, path: &str, json: &str) -> anyhow::Result<Answer> {
    let (mut stream, address) = connect(authority)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let kind = if json.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{kind}Content-Length: {}\r\nConnection: close\r\n\r\n{json}",
        json.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer).context("the answer is not text")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("the answer is not HTTP")?;
    Ok(Answer { status, body: body.to_owned() })
}
