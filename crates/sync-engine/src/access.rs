//! Who may do what: tokens and certificates, and the role and databases that go with them. Owns the secrets and the decision.
//! Must not touch: sockets, requests, sessions.

mod loading;

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peer_link::{Credentials, TlsError, TlsServer};
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::{AuthSettings, PeerSettings, TlsSettings};

/// What a peer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It is sent changes, and none of its own are taken.
    Read,
    /// Its changes are taken.
    Write,
}

impl Role {
    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Why a file with a secret or a certificate cannot be used. Nothing is changed; trying again helps once the file is corrected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The token's file cannot be read.
    #[error("cannot read the token from {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What the file holds is no token.
    #[error("{} holds no usable token: {reason}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A token or a certificate belongs to two.
    #[error("{what} is that of {first} and of {second}: nobody could tell them apart")]
    Shared {
        /// What they share.
        what: &'static str,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A certificate, a key or an authority cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl AccessError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Unreadable { path, .. } => format!(
                "make one with: (umask 077; openssl rand -hex 32 > {0}), or have the user of this process read {0}",
                path.display()
            ),
            Self::Token { path, .. } => {
                format!("make another with: (umask 077; openssl rand -hex 32 > {})", path.display())
            }
            Self::Shared { .. } => "give each one of its own".to_owned(),
            Self::Tls(TlsError::Unreadable { path, source }) if source.kind() == ErrorKind::PermissionDenied => {
                format!(
                    "have the user of this process read {0}; for the package's: chown root:sync-engine {0}; chmod 0640 {0}",
                    path.display()
                )
            }
            Self::Tls(TlsError::NoAuthorities { .. }) => {
                "name the authority's certificate in [tls] ca, or install the package ca-certificates".to_owned()
            }
            Self::Tls(_) => {
                "correct the path or the file; sync-engine tls ca and sync-engine tls node make certificates".to_owned()
            }
        }
    }
}

/// What somebody who was let in may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The node that it has to be; none: any.
    pub(crate) node: Option<String>,
    /// The names that it may bear, where it is known by no more than a certificate with these; empty: any.
    names: Vec<String>,
    pub(crate) role: Role,
    /// The databases that it may know of; none: all.
    databases: Option<BTreeSet<String>>,
}

impl Grant {
    /// Everything.
    pub(crate) const fn all() -> Self {
        Self { node: None, names: Vec::new(), role: Role::Write, databases: None }
    }

    fn of(peer: &PeerSettings) -> Self {
        let databases = (!peer.databases.is_empty()).then(|| peer.databases.iter().cloned().collect());
        Self { node: Some(peer.name.clone()), names: Vec::new(), role: peer.role, databases }
    }

    /// Whether a database may be known of.
    pub(crate) fn admits(&self, database: &str) -> bool {
        self.databases.as_ref().is_none_or(|databases| databases.contains(database))
    }

    /// Whether HTTP may tell what there is: it tells of all databases.
    pub(crate) const fn sees(&self) -> bool {
        self.databases.is_none()
    }

    /// Whether HTTP may change something.
    pub(crate) const fn changes(&self) -> bool {
        self.sees() && matches!(self.role, Role::Write)
    }

    /// Whether a node may come with it under this name. Who may only read has no other's name: it would take that one's place.
    pub(crate) fn fits(&self, node: &str) -> bool {
        match &self.node {
            Some(expected) => expected == node,
            None => self.names.is_empty() || self.names.iter().any(|name| name.eq_ignore_ascii_case(node)),
        }
    }

    /// What both allow.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let databases = match (&self.databases, &other.databases) {
            (Some(ours), Some(theirs)) => Some(ours.intersection(theirs).cloned().collect()),
            (ours, theirs) => ours.clone().or_else(|| theirs.clone()),
        };
        let node = self.node.clone().or_else(|| other.node.clone());
        let names = if self.names.is_empty() { other.names.clone() } else { self.names.clone() };
        Self { node, names, role: self.role.min(other.role), databases }
    }
}

/// What somebody has shown beside a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// No certificate.
    Nothing,
    /// A certificate with these DNS names.
    Certificate(Vec<String>),
    /// The certificate of this node: its own tools do.
    Own,
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    NoToken,
    WrongToken,
    NoCertificate,
    /// A certificate that no peer has, and others are refused.
    Certificate,
    /// The token of one peer came with the certificate of another.
    TwoPeers,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoToken => "this node wants a token: send it as Authorization: Bearer TOKEN",
            Self::WrongToken => "the token is none that this node knows",
            Self::NoCertificate => "this node wants a certificate of [tls] client_ca",
            Self::Certificate => "the certificate bears the name of no [[auth.peer]], and [auth] others is \"refuse\"",
            Self::TwoPeers => "the token is that of one peer and the certificate that of another",
        })
    }
}

/// A secret as it is compared: digests of one length, compared in constant time.
#[derive(Clone, PartialEq, Eq)]
struct Digest(blake3::Hash);

impl Digest {
    fn of(secret: &str) -> Self {
        Self(blake3::hash(secret.as_bytes()))
    }
}

/// Who may do what on this node, what it shows to peers, and whom it believes. Debug output holds no secret.
#[derive(Clone)]
pub struct Access {
    tokens: Vec<(Digest, Arc<Grant>)>,
    certificates: Vec<(String, Arc<Grant>)>,
    /// What those may do whose certificate bears none of these names; none: nothing.
    others: Option<Role>,
    peers: Vec<Arc<Grant>>,
    /// Whether who connects has to show a certificate.
    mutual: bool,
    server: Option<TlsServer>,
    credentials: Credentials,
    own: Option<SecretString>,
    marks: [blake3::Hash; 2],
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("tokens", &self.tokens.len())
            .field("certificates", &self.certificates)
            .field("mutual", &self.mutual)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Default for Access {
    fn default() -> Self {
        Self::open()
    }
}

impl Access {
    /// Everybody who reaches this node may do everything: for loopback.
    pub fn open() -> Self {
        Self {
            tokens: Vec::new(),
            certificates: Vec::new(),
            others: Some(Role::Write),
            peers: Vec::new(),
            mutual: false,
            server: None,
            credentials: Credentials::default(),
            own: None,
            marks: [blake3::hash(b""); 2],
        }
    }

    /// One secret that peers share: who shows it may do everything, and it is shown to peers.
    ///
    /// # Errors
    /// It is too short or too long, or holds a character that no HTTP header can.
    pub fn with_token(secret: SecretString) -> Result<Self, AccessError> {
        loading::check_token(Path::new("the token"), secret.expose_secret())?;
        let tokens = vec![(Digest::of(secret.expose_secret()), Arc::new(Grant::all()))];
        let credentials = Credentials { token: Some(secret.clone()), tls: None };
        Ok(Self { tokens, credentials, own: Some(secret), ..Self::open() })
    }

    /// Reads what the configuration names.
    ///
    /// # Errors
    /// All files that cannot be used, each with the key that names it.
    pub fn load(auth: &AuthSettings, tls: &TlsSettings) -> Result<Self, Vec<(String, AccessError)>> {
        loading::load(auth, tls)
    }

    /// Whether nobody is let in who shows nothing.
    pub fn is_closed(&self) -> bool {
        self.mutual || !self.tokens.is_empty()
    }

    /// The keys of the configuration whose content is another one than in `other`: a file may have been written anew.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let keys = ["auth", "tls"].into_iter().zip(self.marks.iter().zip(&other.marks));
        keys.filter(|(_, (ours, theirs))| ours != theirs).map(|(key, _)| key).collect()
    }

    /// How this node is known to who connects, where it encrypts.
    pub(crate) const fn server(&self) -> Option<&TlsServer> {
        self.server.as_ref()
    }

    /// What this node shows to peers, and whom it believes.
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The secret of this node's own HTTP interface.
    pub const fn own_token(&self) -> Option<&SecretString> {
        self.own.as_ref()
    }

    /// The DNS names that this node's certificate is for.
    pub fn certificate_names(&self) -> &[String] {
        self.server.as_ref().map_or(&[], TlsServer::names)
    }

    /// What somebody may do who shows this token, and this beside it.
    pub(crate) fn admit(&self, token: Option<&str>, shown: &Shown) -> Result<Grant, Denied> {
        let by_token = self.by_token(token)?;
        let by_certificate = self.by_certificate(shown)?;
        let Some(by_token) = by_token else { return Ok(by_certificate) };
        match (&by_token.node, &by_certificate.node) {
            (Some(one), Some(other)) if one != other => Err(Denied::TwoPeers),
            _ => Ok(by_token.and(&by_certificate)),
        }
    }

    /// What somebody may do who shows this: by dialing, or by being dialed.
    pub(crate) fn by_certificate(&self, shown: &Shown) -> Result<Grant, Denied> {
        if !self.mutual {
            return Ok(Grant::all());
        }
        let names = match shown {
            Shown::Nothing => return Err(Denied::NoCertificate),
            Shown::Own => return Ok(Grant::all()),
            Shown::Certificate(names) => names,
        };
        let bears = |name: &str| names.iter().any(|shown| shown.eq_ignore_ascii_case(name));
        match (self.certificates.iter().find(|(name, _)| bears(name)), self.others) {
            (Some((_, grant)), _) => Ok(grant.as_ref().clone()),
            (None, Some(Role::Write)) => Ok(Grant::all()),
            (None, Some(Role::Read)) => Ok(Grant { role: Role::Read, names: names.clone(), ..Grant::all() }),
            (None, None) => Err(Denied::Certificate),
        }
    }

    fn by_token(&self, token: Option<&str>) -> Result<Option<Arc<Grant>>, Denied> {
        if self.tokens.is_empty() {
            return Ok(None);
        }
        let shown = Digest::of(token.ok_or(Denied::NoToken)?);
        // All are looked at, so that the time does not tell which it was.
        let found =
            self.tokens.iter().fold(None, |found, (known, grant)| if *known == shown { Some(grant) } else { found });
        found.map(|grant| Some(Arc::clone(grant))).ok_or(Denied::WrongToken)
    }

    /// Whether a token is asked for.
    pub(crate) fn wants_token(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// What is said of a node, whatever it has shown.
    pub(crate) fn of_node(&self, node: &str) -> Grant {
        let named = self.peers.iter().find(|grant| grant.node.as_deref() == Some(node));
        named.map_or_else(Grant::all, |grant| grant.as_ref().clone())
    }

    /// Whether a node has to come with what is its own.
    pub(crate) fn is_reserved(&self, node: &str) -> bool {
        self.is_certified(node) || self.tokens.iter().any(|(_, grant)| grant.node.as_deref() == Some(node))
    }

    /// Whether a node has to show a certificate that is its own.
    pub(crate) fn is_certified(&self, node: &str) -> bool {
        self.certificates.iter().any(|(_, grant)| grant.node.as_deref() == Some(node))
    }

    /// Whether it matters which node somebody is.
    pub(crate) fn tells_peers_apart(&self) -> bool {
        !self.peers.is_empty()
    }
}
