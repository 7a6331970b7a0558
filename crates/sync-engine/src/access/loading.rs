//! From the files that the configuration names to tokens and certificates, with all that is wrong with them.

use std::path::Path;
use std::sync::Arc;

use peer_link::{Identity, TlsClient, TlsError, TlsServer};
use secrecy::{ExposeSecret as _, SecretString};

use super::{Access, AccessError, Digest, Grant};
use crate::config::{AuthSettings, TlsSettings};

/// Characters of a token at least: fewer can be guessed.
const SHORTEST: usize = 16;

/// Characters of a token at most: more do not fit a header.
const LONGEST: usize = 4096;

/// Files on their way into an [`Access`].
struct Loading {
    access: Access,
    wrong: Vec<(String, AccessError)>,
    auth: blake3::Hasher,
}

/// Reads what the configuration names.
pub(super) fn load(auth: &AuthSettings, tls: &TlsSettings) -> Result<Access, Vec<(String, AccessError)>> {
    let mut loading = Loading { access: Access::open(), wrong: Vec::new(), auth: blake3::Hasher::new() };
    loading.tokens(auth);
    loading.certificates(auth, tls);
    let Loading { mut access, wrong, auth } = loading;
    access.marks = [auth.finalize(), mark_of(tls)];
    if wrong.is_empty() { Ok(access) } else { Err(wrong) }
}

impl Loading {
    fn token(&mut self, key: String, path: &Path) -> Option<SecretString> {
        match read_token(path) {
            Ok(token) => {
                self.auth.update(key.as_bytes()).update(Digest::of(token.expose_secret()).0.as_bytes());
                Some(token)
            }
            Err(error) => {
                self.wrong.push((key, error));
                None
            }
        }
    }

    fn tokens(&mut self, auth: &AuthSettings) {
        self.auth.update(format!("{auth:?}").as_bytes());
        self.access.others = auth.others;
        let mut known: Vec<(String, Digest)> = Vec::new();
        if let Some(path) = &auth.token_file
            && let Some(token) = self.token("auth.token_file".to_owned(), path)
        {
            known.push(("[auth] token_file".to_owned(), Digest::of(token.expose_secret())));
            self.access.tokens.push((Digest::of(token.expose_secret()), Arc::new(Grant::all())));
            self.access.own = Some(token);
        }
        let shown = auth.peer_token_file.as_ref().and_then(|path| self.token("auth.peer_token_file".to_owned(), path));
        self.access.credentials.token = shown.or_else(|| self.access.own.clone());
        for (index, peer) in auth.peers.iter().enumerate() {
            let grant = Arc::new(Grant::of(peer));
            self.access.peers.push(Arc::clone(&grant));
            let key = format!("auth.peer[{index}].token_file");
            let Some(path) = &peer.token_file else { continue };
            let Some(token) = self.token(key.clone(), path) else { continue };
            let digest = Digest::of(token.expose_secret());
            if let Some((first, _)) = known.iter().find(|(_, other)| *other == digest) {
                let second = format!("peer {:?}", peer.name);
                self.wrong.push((key, AccessError::Shared { what: "the token", first: first.clone(), second }));
                continue;
            }
            known.push((format!("peer {:?}", peer.name), digest.clone()));
            self.access.tokens.push((digest, grant));
        }
    }

    fn certificates(&mut self, auth: &AuthSettings, tls: &TlsSettings) {
        self.access.mutual = tls.client_ca.is_some();
        for (index, peer) in auth.peers.iter().enumerate().filter(|_| tls.client_ca.is_some()) {
            let name = match (&peer.certificate, &peer.token_file) {
                (Some(name), _) => name,
                (None, None) => &peer.name,
                (None, Some(_)) => continue,
            };
            if let Some((_, first)) =
                self.access.certificates.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))
            {
                let (first, second) = (first.node.clone().unwrap_or_default(), format!("{:?}", peer.name));
                let shared =
                    AccessError::Shared { what: "the certificate's name", first: format!("{first:?}"), second };
                self.wrong.push((format!("auth.peer[{index}].certificate"), shared));
                continue;
            }
            self.access.certificates.push((name.clone(), Arc::clone(&self.access.peers[index])));
        }
        let identity = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
            _ => None,
        };
        if let Some(identity) = identity {
            match TlsServer::load(identity, tls.client_ca.as_deref()) {
                Ok(server) => self.access.server = Some(server),
                Err(error) => self.wrong.push((key_of(&error, tls), error.into())),
            }
        }
        // Without a word about TLS the system's authorities are loaded when a peer is dialed that wants it.
        let ca = tls.ca.as_deref().or(tls.client_ca.as_deref());
        if (ca.is_some() || identity.is_some()) && self.wrong.iter().all(|(key, _)| !key.starts_with("tls.")) {
            match TlsClient::load(ca, identity) {
                Ok(client) => self.access.credentials.tls = Some(client),
                Err(error) => self.wrong.push((key_of(&error, tls), error.into())),
            }
        }
    }
}

/// The key of the file that an error is about.
fn key_of(error: &TlsError, tls: &TlsSettings) -> String {
    let path = match error {
        TlsError::Unreadable { path, .. } | TlsError::Content { path, .. } => Some(path),
        TlsError::Pair { key, .. } => Some(key),
        _ => None,
    };
    let files = [("key", &tls.key), ("certificate", &tls.certificate), ("client_ca", &tls.client_ca), ("ca", &tls.ca)];
    // One file may hold a certificate and its key.
    let about_key = matches!(error, TlsError::Content { wanted: "private key", .. } | TlsError::Pair { .. });
    let files = files.into_iter().filter(|(key, _)| *key != "key").chain(files.into_iter().take(1));
    let found =
        files.filter(|(key, _)| !about_key || *key == "key").find(|(_, file)| path.is_some() && file.as_ref() == path);
    found.map_or_else(|| "tls".to_owned(), |(key, _)| format!("tls.{key}"))
}

/// What the files of `[tls]` hold: they are renewed under their names.
fn mark_of(tls: &TlsSettings) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{tls:?}").as_bytes());
    for path in [&tls.certificate, &tls.key, &tls.client_ca, &tls.ca].into_iter().flatten() {
        // One that cannot be read was told of.
        hasher.update(&std::fs::read(path).unwrap_or_default());
    }
    hasher.finalize()
}

/// The token in a file, without the blanks and line ends around it.
fn read_token(path: &Path) -> Result<SecretString, AccessError> {
    let content = std::fs::read(path).map_err(|source| AccessError::Unreadable { path: path.to_owned(), source })?;
    let content = SecretString::from(String::from_utf8_lossy(&content).into_owned());
    let token = content.expose_secret().trim();
    check_token(path, token)?;
    Ok(SecretString::from(token.to_owned()))
}

pub(super) fn check_token(path: &Path, token: &str) -> Result<(), AccessError> {
    let reason = if token.is_empty() {
        "it is empty".to_owned()
    } else if token.chars().any(|c| !c.is_ascii_graphic()) {
        "it holds a blank, a line end or a character beyond ASCII".to_owned()
    } else if token.len() < SHORTEST {
        format!("it has {} characters, and fewer than {SHORTEST} can be guessed", token.len())
    } else if token.len() > LONGEST {
        format!("it has {} characters, and {LONGEST} at most fit a header", token.len())
    } else {
        return Ok(());
    };
    Err(AccessError::Token { path: path.to_owned(), reason })
}
