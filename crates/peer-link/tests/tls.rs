//! TLS over real sockets: who is believed, and what is said where somebody is not.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

use std::path::{Path, PathBuf};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use peer_link::{Credentials, DialError, Identity, LinkOptions, TlsClient, TlsError, TlsServer, dial};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SUBPROTOCOL: &str = "test.v1";

/// An authority, and the folder that its files are in.
struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn make() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The certificate and the key of `name`, valid until a year.
    fn sign(&self, name: &str, until: i32) -> [PathBuf; 2] {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = ["pem", "key"].map(|ending| self.folder.path().join(format!("{name}-{until}.{ending}")));
        std::fs::write(&files[0], certificate.pem()).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        files
    }
}

fn identity([certificate, key]: &[PathBuf; 2]) -> Identity<'_> {
    Identity { certificate, key }
}

/// Serves whoever gets through the handshake; the answer holds the names in its certificate.
async fn serve(server: TlsServer) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(transport) = server.accept(stream).await else { continue };
            assert!(transport.names().is_none_or(|names| names == ["client"]), "{:?}", transport.names());
            let service = service_fn(|mut request: Request<Incoming>| async move {
                let answer = peer_link::upgrade(&mut request, Some(SUBPROTOCOL), &LinkOptions::default());
                let (response, pending) = answer.map_err(|error| error.to_string())?;
                tokio::spawn(async move {
                    let link = pending.establish(&TaskTracker::new(), CancellationToken::new()).await;
                    link.unwrap().split().1.lost().await;
                });
                Ok::<_, String>(Response::map(response, |()| String::new()))
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(transport), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    port
}

async fn reach(port: u16, tls: TlsClient) -> Result<(), DialError> {
    let credentials = Credentials { token: None, tls: Some(tls) };
    let url = format!("wss://localhost:{port}");
    let options = LinkOptions::default();
    dial(&url, SUBPROTOCOL, &credentials, &options, &TaskTracker::new(), CancellationToken::new()).await.map(drop)
}

#[tokio::test]
async fn who_shows_what_is_asked_for_gets_in_and_others_are_told() {
    let (ours, other) = (Authority::make(), Authority::make());
    let client = ours.sign("client", 4000);
    let believing = TlsClient::load(Some(&ours.ca()), Some(identity(&client))).unwrap();
    let mutual = TlsServer::load(identity(&ours.sign("localhost", 4000)), Some(&ours.ca())).unwrap();
    assert_eq!(mutual.names(), ["localhost"]);
    let port = serve(mutual).await;
    reach(port, believing.clone()).await.unwrap();
    let cases = [
        (TlsClient::load(Some(&ours.ca()), None).unwrap(), "it wants a certificate of this node"),
        (
            TlsClient::load(Some(&ours.ca()), Some(identity(&other.sign("client", 4000)))).unwrap(),
            "it does not believe the certificate of this node",
        ),
        (
            TlsClient::load(Some(&ours.ca()), Some(identity(&ours.sign("client", 2001)))).unwrap(),
            "renew the certificate of this node",
        ),
        (TlsClient::load(Some(&other.ca()), Some(identity(&client))).unwrap(), "in [tls] ca"),
    ];
    for (client, expected) in cases {
        let error = reach(port, client).await.unwrap_err();
        assert!(matches!(error, DialError::Tls { .. }) && error.to_string().contains(expected), "{expected}: {error}");
    }
    for (name, until, expected) in
        [("elsewhere", 4000, "by a name in its certificate"), ("localhost", 2001, "renew it there")]
    {
        let port = serve(TlsServer::load(identity(&ours.sign(name, until)), None).unwrap()).await;
        let error = reach(port, believing.clone()).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let ours = Authority::make();
    let [certificate, key] = ours.sign("localhost", 4000);
    let [_, other] = ours.sign("other", 4000);
    let load = |certificate: &Path, key: &Path, ca: Option<&Path>| {
        TlsServer::load(Identity { certificate, key }, ca).unwrap_err()
    };
    assert!(
        matches!(load(&certificate, &other, None), TlsError::Pair { reason, .. } if reason.contains("another certificate"))
    );
    assert!(matches!(load(Path::new("/absent"), &key, None), TlsError::Unreadable { .. }));
    assert!(matches!(load(&key, &key, None), TlsError::Content { wanted: "certificate", .. }));
    assert!(matches!(load(&certificate, &certificate, None), TlsError::Content { wanted: "private key", .. }));
    assert!(matches!(load(&certificate, &key, Some(&key)), TlsError::Content { path, .. } if path == key));
}
