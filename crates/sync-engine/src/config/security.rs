//! `[auth]` and `[tls]`: who is let in, and how this node is known. Owns what belongs together; the files are read by
//! [`Access`](crate::access::Access).

use std::net::SocketAddr;
use std::path::PathBuf;

use sqlite_store::nearest::nearest;

use super::check::Check;
use super::error::ErrorKind;
use super::raw::{RawAuth, RawPeer, RawTls};
use super::values;
use crate::access::{Access, Role};

/// `[auth]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthSettings {
    /// The file with the secret that opens everything: for peers, and for the HTTP interface.
    pub token_file: Option<PathBuf>,
    /// The file with the secret that this node shows to peers, where that is another one.
    pub peer_token_file: Option<PathBuf>,
    /// What those may do whose certificate bears the name of none of the peers; none: they are refused.
    pub others: Option<Role>,
    /// Peers of which more is said.
    pub peers: Vec<PeerSettings>,
}

/// `[[auth.peer]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerSettings {
    /// The node's name.
    pub name: String,
    /// The file with the secret that it shows.
    pub token_file: Option<PathBuf>,
    /// The DNS name in the certificate that it shows.
    pub certificate: Option<String>,
    /// What it may do.
    pub role: Role,
    /// The databases that it may know of; empty: all.
    pub databases: Vec<String>,
}

/// `[tls]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsSettings {
    /// The file with this node's certificate, and those that lead to its authority.
    pub certificate: Option<PathBuf>,
    /// The file with its private key.
    pub key: Option<PathBuf>,
    /// The file with the authorities of whom a client has to show a certificate; none: it need not show one.
    pub client_ca: Option<PathBuf>,
    /// The file with the authorities that peers' certificates are checked against; none: those of `client_ca`, else the system's.
    pub ca: Option<PathBuf>,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self { token_file: None, peer_token_file: None, others: Some(Role::Write), peers: Vec::new() }
    }
}

const ROLES: [(&str, Role); 2] = [("read", Role::Read), ("write", Role::Write)];

const OTHERS: [(&str, Option<Role>); 3] = [("read", Some(Role::Read)), ("write", Some(Role::Write)), ("refuse", None)];

/// A file that a key names.
fn file(key: &str, text: Option<String>, check: &mut Check) -> Option<PathBuf> {
    let text = text?;
    if text.is_empty() {
        check.bad_value(key, "it is empty", "write the path of a file, or remove the key");
        return None;
    }
    Some(PathBuf::from(text))
}

fn choice<T: Copy>(key: &str, text: Option<String>, words: &[(&'static str, T)], check: &mut Check) -> Option<T> {
    match values::choice(&text?, words) {
        Ok(value) => Some(value),
        Err((what, remedy)) => {
            check.bad_value(key, what, remedy);
            None
        }
    }
}

pub(super) fn auth(raw: RawAuth, check: &mut Check) -> AuthSettings {
    let default = AuthSettings::default();
    let mut peers: Vec<PeerSettings> = Vec::with_capacity(raw.peer.len());
    for (index, raw) in raw.peer.into_iter().enumerate() {
        let key = format!("auth.peer[{index}]");
        let Some(peer) = peer(&key, raw, check) else { continue };
        if peers.iter().any(|other| other.name == peer.name) {
            let what = format!("peer {:?} stands there twice", peer.name);
            check.complain(&format!("{key}.name"), ErrorKind::Duplicate, what, "remove one");
            continue;
        }
        peers.push(peer);
    }
    AuthSettings {
        token_file: file("auth.token_file", raw.token_file, check),
        peer_token_file: file("auth.peer_token_file", raw.peer_token_file, check),
        others: choice("auth.others", raw.others, &OTHERS, check).unwrap_or(default.others),
        peers,
    }
}

fn peer(key: &str, raw: RawPeer, check: &mut Check) -> Option<PeerSettings> {
    let token_file = file(&format!("{key}.token_file"), raw.token_file, check);
    let role = choice(&format!("{key}.role"), raw.role, &ROLES, check).unwrap_or(Role::Write);
    let Some(name) = raw.name else {
        check.complain(
            &format!("{key}.name"),
            ErrorKind::Missing,
            "the peer has no name",
            "name the node, as name = \"oslo\"",
        );
        return None;
    };
    match values::name(&name) {
        Ok(name) => {
            Some(PeerSettings { name, token_file, certificate: raw.certificate, role, databases: raw.databases })
        }
        Err((what, remedy)) => {
            check.bad_value(&format!("{key}.name"), what, remedy);
            None
        }
    }
}

pub(super) fn tls(raw: RawTls, check: &mut Check) -> TlsSettings {
    let tls = TlsSettings {
        certificate: file("tls.certificate", raw.certificate, check),
        key: file("tls.key", raw.key, check),
        client_ca: file("tls.client_ca", raw.client_ca, check),
        ca: file("tls.ca", raw.ca, check),
    };
    let mut alone = |given: bool, wanted: bool, key: &str, other: &str| {
        if given && !wanted && !check.is_refused(&format!("tls.{other}")) {
            let what = format!("it is of no use without {other}");
            check.complain(&format!("tls.{key}"), ErrorKind::Missing, what, format!("name {other} too"));
        }
    };
    let (certificate, key) = (tls.certificate.is_some(), tls.key.is_some());
    alone(certificate, key, "certificate", "key");
    alone(key, certificate, "key", "certificate");
    alone(tls.client_ca.is_some(), certificate || key, "client_ca", "certificate");
    tls
}

/// What the parts of a configuration ask of each other.
pub(super) fn together(
    listen: SocketAddr,
    (auth, tls): (&AuthSettings, &TlsSettings),
    databases: Option<&[&str]>,
    check: &mut Check,
) {
    let by_token = auth.peers.iter().position(|peer| peer.token_file.is_some());
    if let Some(index) = by_token.filter(|_| auth.token_file.is_none() && !check.is_refused("auth.token_file")) {
        let what =
            "a token is asked for everywhere then, and this node's own tools have none without [auth] token_file";
        let key = format!("auth.peer[{index}].token_file");
        check.complain(&key, ErrorKind::Missing, what, "name a file with another token in [auth] token_file");
    }
    let closed = auth.token_file.is_some() || tls.client_ca.is_some();
    let wrong = ["auth.token_file", "tls.client_ca"].into_iter().any(|key| check.is_refused(key));
    if !closed && !wrong && !listen.ip().is_loopback() {
        let what = format!(
            "listening on {listen}, beyond loopback, is refused: without a token or client certificates anybody on the network \
             could read and write the databases"
        );
        let remedy = format!(
            "name a token in [auth] token_file, or an authority in [tls] client_ca; or listen on 127.0.0.1:{}",
            listen.port()
        );
        check.bad_value("listen", what, remedy);
    }
    if tls.client_ca.is_none() && !check.is_refused("tls.client_ca") {
        let mut keys = vec!["auth.others".to_owned()];
        keys.extend((0..auth.peers.len()).map(|index| format!("auth.peer[{index}].certificate")));
        for key in keys.into_iter().filter(|key| check.is_given(key) && !check.is_refused(key)).collect::<Vec<_>>() {
            let what = "nobody shows a certificate without [tls] client_ca, so that it says nothing";
            check.complain(&key, ErrorKind::Missing, what, "name client_ca too, or remove the key");
        }
    }
    let Some(databases) = databases else { return };
    for (index, peer) in auth.peers.iter().enumerate() {
        for (place, name) in peer.databases.iter().enumerate().filter(|(_, name)| !databases.contains(&name.as_str())) {
            let remedy = match nearest(databases.iter().copied(), name) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("the databases are {}", databases.join(", ")),
            };
            let key = format!("auth.peer[{index}].databases[{place}]");
            check.bad_value(&key, format!("there is no database {name:?}"), remedy);
        }
    }
}

/// Reads the files.
pub(super) fn open(auth: &AuthSettings, tls: &TlsSettings, check: &mut Check) -> Access {
    Access::load(auth, tls).unwrap_or_else(|wrong| {
        for (key, error) in wrong {
            check.complain(&key, ErrorKind::Unreadable, error.to_string(), error.remedy());
        }
        Access::open()
    })
}
