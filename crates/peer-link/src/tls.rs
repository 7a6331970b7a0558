//! TLS: certificates, keys and authorities from PEM files, for the side that listens and for the side that dials. Owns what is
//! spoken: TLS 1.2 and 1.3 with the ciphers that rustls holds safe. Must not touch: who may do what with a connection.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::WantsClientCert;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, ConfigBuilder, RootCertStore, ServerConfig, StreamOwned};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use webpki::EndEntityCert;

use crate::transport::Transport;

/// Why a certificate, a key or an authority cannot be used. Nothing is changed; trying again helps once the file is corrected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else than it should.
    #[error("{} holds no {wanted} in PEM form: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// What is in the way.
        reason: String,
    },
    /// The key is not the certificate's, or neither can be used.
    #[error("the certificate {} cannot be used with the key {}: {reason}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is in the way.
        reason: String,
    },
    /// No certificate of an authority could be loaded.
    #[error("this system has no certificates of authorities: {reason}")]
    NoAuthorities {
        /// What the system said.
        reason: String,
    },
}

/// A certificate with its key.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The file with the certificate, and those that lead to its authority.
    pub certificate: &'a Path,
    /// The file with its private key.
    pub key: &'a Path,
}

/// How this side is known to others that it accepts.
#[derive(Clone)]
pub struct TlsServer {
    acceptor: TlsAcceptor,
    names: Vec<String>,
    certificate: CertificateDer<'static>,
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").field("names", &self.names).finish_non_exhaustive()
    }
}

impl TlsServer {
    /// Shows this certificate. With `client_ca` whoever connects has to show one that an authority in that file has signed.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn load(identity: Identity<'_>, client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| identity.refused(&error))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(path)?), provider()).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| content(path, AUTHORITY, &error))?)
            }
        };
        let (chain, key) = identity.read()?;
        let certificate =
            chain.first().cloned().ok_or_else(|| content(identity.certificate, "certificate", &"it is empty"))?;
        let names = names_of(&certificate);
        let mut config = builder.with_single_cert(chain, key).map_err(|error| identity.refused(&error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: Arc::new(config).into(), names, certificate })
    }

    /// The DNS names that the certificate is for.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether the other side has shown this very certificate: it has its key.
    pub fn is_shown_on(&self, transport: &Transport) -> bool {
        transport.certificate() == Some(&self.certificate)
    }

    /// The handshake with who has connected.
    ///
    /// # Errors
    /// The handshake failed: the other side does not speak TLS, or does not show what it has to.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Transport> {
        let stream = self.acceptor.accept(stream).await?;
        Ok(Transport::Tls(Box::new(TlsStream::Server(stream))))
    }
}

/// Whom this side believes, and how it is known to others that it dials.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").finish_non_exhaustive()
    }
}

impl TlsClient {
    /// Believes the authorities in a file, or the system's, and shows a certificate to who asks for one.
    ///
    /// # Errors
    /// A file cannot be used, or the system has no authorities.
    pub fn load(ca: Option<&Path>, identity: Option<Identity<'_>>) -> Result<Self, TlsError> {
        let roots = match ca {
            Some(path) => authorities(path)?,
            None => system_authorities()?,
        };
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder: ConfigBuilder<ClientConfig, WantsClientCert> = builder
            .map_err(|error| TlsError::NoAuthorities { reason: error.to_string() })?
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.read()?;
                builder.with_client_auth_cert(chain, key).map_err(|error| identity.refused(&error))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    /// Believes the system's authorities, which are read once.
    ///
    /// # Errors
    /// The system has none.
    pub(crate) fn of_system() -> Result<Self, TlsError> {
        static CLIENT: OnceLock<TlsClient> = OnceLock::new();
        if let Some(client) = CLIENT.get() {
            return Ok(client.clone());
        }
        let client = Self::load(None, None)?;
        Ok(CLIENT.get_or_init(|| client).clone())
    }

    /// The handshake with `host`, a DNS name or an address.
    ///
    /// # Errors
    /// The handshake failed.
    pub(crate) async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<Transport> {
        let name = server_name(host)?;
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await?;
        Ok(Transport::Tls(Box::new(TlsStream::Client(stream))))
    }

    /// The same for a program that waits; the handshake is made with the first byte that passes.
    ///
    /// # Errors
    /// The name is none.
    pub fn over(&self, host: &str, stream: std::net::TcpStream) -> io::Result<impl Read + Write + use<>> {
        let name = server_name(host)?;
        let connection = ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        Ok(StreamOwned::new(connection, stream))
    }
}

impl Transport {
    /// The DNS names in the certificate that the other side has shown; none where it showed none.
    pub fn names(&self) -> Option<Vec<String>> {
        self.certificate().map(names_of)
    }

    fn certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates().and_then(<[_]>::first),
        }
    }
}

const AUTHORITY: &str = "certificate of an authority";

/// rustls names no provider of its own here: a program that embeds this one may have installed another.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(io::Error::other)
}

fn content(path: &Path, wanted: &'static str, error: &impl fmt::Display) -> TlsError {
    TlsError::Content { path: path.to_owned(), wanted, reason: error.to_string() }
}

fn pem_error(path: &Path, wanted: &'static str, error: PemError) -> TlsError {
    match error {
        PemError::Io(source) => TlsError::Unreadable { path: path.to_owned(), source },
        PemError::NoItemsFound => content(path, wanted, &"there is none in it"),
        error => content(path, wanted, &error),
    }
}

fn certificates(path: &Path, wanted: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found.map_err(|error| pem_error(path, wanted, error))? {
        none if none.is_empty() => Err(content(path, wanted, &"there is none in it")),
        found => Ok(found),
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, AUTHORITY)? {
        roots.add(certificate).map_err(|error| content(path, AUTHORITY, &error))?;
    }
    Ok(roots)
}

fn system_authorities() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let reason = if reasons.is_empty() { "none was found".to_owned() } else { reasons.join("; ") };
        return Err(TlsError::NoAuthorities { reason });
    }
    Ok(roots)
}

/// A certificate that cannot be read has no names.
fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let parsed = EndEntityCert::try_from(certificate).ok();
    parsed.map(|parsed| parsed.valid_dns_names().map(str::to_owned).collect()).unwrap_or_default()
}

impl Identity<'_> {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = certificates(self.certificate, "certificate")?;
        let key = PrivateKeyDer::from_pem_file(self.key).map_err(|error| pem_error(self.key, "private key", error))?;
        Ok((chain, key))
    }

    fn refused(&self, error: &rustls::Error) -> TlsError {
        let reason = match error {
            rustls::Error::InconsistentKeys(_) => "the key is that of another certificate".to_owned(),
            error => error.to_string(),
        };
        TlsError::Pair { certificate: self.certificate.to_owned(), key: self.key.to_owned(), reason }
    }
}
