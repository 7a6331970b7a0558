//! TLS between nodes, with the certificates that the command makes: who is believed, and who is not.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use system_tests::{
    Cluster, Node, Result, Scene, Topology, check, check_equal, fail, logged, query_text, run_to_end, scenario, shell,
    sync_engine,
};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER)";

/// Talks TLS to a port with what else it is given, and prints what comes back or why nothing does.
const CLIENT: &str = "import socket, ssl, sys
port, ca, certificate, key = int(sys.argv[1]), *sys.argv[2:5]
context = ssl.create_default_context(cafile=ca)
if certificate: context.load_cert_chain(certificate, key)
try:
    with socket.create_connection(('127.0.0.1', port), 20) as plain:
        with context.wrap_socket(plain, server_hostname='127.0.0.1') as stream:
            stream.sendall(b'GET /healthz HTTP/1.0\\r\\nHost: 127.0.0.1\\r\\n\\r\\n')
            print(stream.getpeercert(True).hex(), stream.recv(1000).decode())
except OSError as error:
    print('refused:', error)";

/// The files of an authority.
struct Authority(PathBuf);

impl Authority {
    fn make(scene: &Scene, name: &str) -> Result<Self> {
        let folder = scene.path(name);
        run_to_end(Command::new(sync_engine()?).args(["tls", "ca", "--dir"]).arg(&folder))?.success()?;
        Ok(Self(folder))
    }

    fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// The certificate and the key of a node.
    fn node(&self, name: &str) -> Result<[PathBuf; 2]> {
        let hosts = ["--host", "127.0.0.1", "--host", "localhost"];
        run_to_end(Command::new(sync_engine()?).args(["tls", "node", name, "--dir"]).arg(&self.0).args(hosts))?
            .success()?;
        Ok([self.0.join(format!("{name}.pem")), self.0.join(format!("{name}.key"))])
    }
}

fn settings(node: &mut Node, [certificate, key]: &[PathBuf; 2]) {
    node.encrypted();
    node.setting(&format!("tls.certificate = {certificate:?}"));
    node.setting(&format!("tls.key = {key:?}"));
}

/// Nodes that show certificates of one authority, and take none of another; all dial the first.
fn mutual(scene: &Scene, authority: &Authority, count: usize) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "shop", count, Topology::Apart)?;
    cluster.create(SCHEMA)?;
    for node in &mut cluster.nodes {
        let name = node.name().to_owned();
        settings(node, &authority.node(&name)?);
        node.setting(&format!("tls.client_ca = {:?}", authority.ca()));
    }
    let hub = cluster.nodes[0].url();
    cluster.nodes[1..].iter_mut().for_each(|node| node.peer_url(&hub));
    Ok(cluster)
}

fn ask(node: &Node, ca: &Path, shown: Option<&[PathBuf; 2]>) -> Result<String> {
    let mut python = Command::new("python3");
    python.args(["-c", CLIENT, &node.port().to_string()]).arg(ca);
    match shown {
        Some(files) => python.args(files),
        None => python.args(["", ""]),
    };
    run_to_end(&mut python)?.success()
}

#[test]
fn nodes_with_certificates_of_one_authority_sync_and_nobody_else_gets_in() {
    scenario(|scene| {
        let (ours, other) = (Authority::make(scene, "ours")?, Authority::make(scene, "other")?);
        let mut cluster = mutual(scene, &ours, 3)?;
        for (node, file) in cluster.files().into_iter().enumerate() {
            shell(file, &format!("INSERT INTO stock VALUES ('from {node}', {node})"))?;
        }
        cluster.start()?;
        check_equal!(cluster.settled()?.count("stock"), 3);
        let hub = &cluster.nodes[0];
        let stranger = other.node("stranger")?;
        for (ca, shown) in [(ours.ca(), None), (ours.ca(), Some(&stranger)), (other.ca(), None)] {
            let answer = ask(hub, &ca, shown)?;
            check!(answer.starts_with("refused:"), "{answer}");
        }
        logged(scene, hub, &["sync_error", "kind=auth", "no TLS with who connected"])?;
        let named = ask(hub, &ours.ca(), Some(&ours.node("tool")?))?;
        check!(named.contains("HTTP/1.0 200") || named.contains("HTTP/1.1 200"), "{named}");
        cluster.stop()
    });
}

#[test]
fn who_is_not_believed_says_why_and_gets_in_once_it_is() {
    scenario(|scene| {
        let (ours, other) = (Authority::make(scene, "ours")?, Authority::make(scene, "other")?);
        let mut cluster = mutual(scene, &ours, 2)?;
        // It believes the hub, and shows what the hub does not believe.
        let wrong = other.node("b")?;
        let node = &mut cluster.nodes[1];
        let lines = [("certificate", 0), ("key", 1)].map(|(key, place)| {
            (
                format!("tls.{key} = {:?}", ours.0.join(["b.pem", "b.key"][place])),
                format!("tls.{key} = {:?}", wrong[place]),
            )
        });
        for (right, wrong) in &lines {
            node.without_setting(right);
            node.setting(wrong);
        }
        node.without_setting(&format!("tls.client_ca = {:?}", ours.ca()));
        node.setting(&format!("tls.ca = {:?}", ours.ca()));
        // Its own command believes the authority that signed it no less.
        cluster.nodes[0].start()?;
        cluster.nodes[1].launch()?;
        logged(scene, &cluster.nodes[1], &["sync_error", "kind=auth", "client_ca"])?;
        let node = &mut cluster.nodes[1];
        for (right, wrong) in &lines {
            node.without_setting(wrong);
            node.setting(right);
        }
        let told = node.reload()?;
        check!(told.contains("outcome=applied") && told.contains("tls.certificate"), "{told}");
        shell(cluster.file(1), "INSERT INTO stock VALUES ('B', 1)")?;
        check_equal!(cluster.settled()?.count("stock"), 1);
        cluster.stop()
    });
}

#[test]
fn plain_and_encrypted_do_not_mix_and_say_so() {
    scenario(|scene| {
        let ours = Authority::make(scene, "ours")?;
        let mut cluster = mutual(scene, &ours, 2)?;
        let mut plain = Node::new(scene, "plain")?;
        let file = plain.database("shop");
        shell(&file, SCHEMA)?;
        plain.peer_url(&cluster.nodes[0].url().replace("wss://", "ws://"));
        cluster.nodes[1].peer_url(&plain.url().replace("ws://", "wss://"));
        cluster.start()?;
        plain.start()?;
        logged(scene, &cluster.nodes[0], &["sync_error", "kind=auth", "wss://"])?;
        logged(scene, &plain, &["sync_retry", "wss://"])?;
        logged(scene, &cluster.nodes[1], &["kind=auth", "dial it with ws://"])?;
        plain.stop()?;
        cluster.stop()
    });
}

#[test]
fn a_certificate_says_who_somebody_is_and_what_it_may_do() {
    scenario(|scene| {
        let ours = Authority::make(scene, "ours")?;
        let mut cluster = mutual(scene, &ours, 3)?;
        cluster.nodes[0].setting("auth.others = \"refuse\"");
        // Its own tools come with its own certificate.
        cluster.nodes[0].setting("auth.peer = [{ name = \"b\", role = \"read\" }]");
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1)")?;
        shell(cluster.file(1), "INSERT INTO stock VALUES ('B', 2)")?;
        shell(cluster.file(2), "INSERT INTO stock VALUES ('C', 3)")?;
        cluster.start()?;
        scene.eventually("the reader has what the hub has", || {
            let found = query_text(cluster.file(1), "SELECT count(*) FROM stock")?;
            if found == "2" { Ok(()) } else { fail!("{found}") }
        })?;
        logged(scene, &cluster.nodes[2], &["sync_error", "kind=auth", "401"])?;
        check_equal!(query_text(cluster.file(0), "SELECT group_concat(sku) FROM stock")?, "A");
        check_equal!(query_text(cluster.file(2), "SELECT group_concat(sku) FROM stock")?, "C");
        check_equal!(cluster.nodes[0].status()?["peers"][0]["role"], json!("read"));
        cluster.stop()
    });
}

#[test]
fn who_may_only_read_comes_under_no_name_but_its_certificates() {
    scenario(|scene| {
        let ours = Authority::make(scene, "ours")?;
        let mut cluster = mutual(scene, &ours, 2)?;
        cluster.nodes[0].setting("auth.others = \"read\"");
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1)")?;
        shell(cluster.file(1), "INSERT INTO stock VALUES ('B', 2)")?;
        cluster.nodes[1].rename("oslo");
        cluster.start()?;
        logged(scene, &cluster.nodes[0], &["sync_error", "kind=auth", "oslo", "does not bear its name"])?;
        cluster.nodes[1].stop()?;
        cluster.nodes[1].rename("b");
        cluster.nodes[1].start()?;
        scene.eventually("the reader has what the hub has", || {
            let found = query_text(cluster.file(1), "SELECT count(*) FROM stock")?;
            if found == "2" { Ok(()) } else { fail!("{found}") }
        })?;
        check_equal!(query_text(cluster.file(0), "SELECT group_concat(sku) FROM stock")?, "A");
        cluster.stop()
    });
}

#[test]
fn a_certificate_that_is_renewed_is_shown_after_a_reload() {
    scenario(|scene| {
        let ours = Authority::make(scene, "ours")?;
        let mut cluster = mutual(scene, &ours, 2)?;
        cluster.start()?;
        cluster.settled()?;
        let tool = ours.node("tool")?;
        let before = ask(&cluster.nodes[0], &ours.ca(), Some(&tool))?;
        let renewed = Authority(scene.path("renewed"));
        std::fs::create_dir(&renewed.0)?;
        for file in ["ca.pem", "ca.key"] {
            std::fs::copy(ours.0.join(file), renewed.0.join(file))?;
        }
        let [certificate, key] = renewed.node("a")?;
        std::fs::copy(certificate, ours.0.join("a.pem"))?;
        std::fs::copy(key, ours.0.join("a.key"))?;
        let told = cluster.nodes[0].read_again()?;
        check!(told.contains("outcome=applied") && told.contains("changed=tls"), "{told}");
        let after = ask(&cluster.nodes[0], &ours.ca(), Some(&tool))?;
        check!(before.split(' ').next() != after.split(' ').next(), "the certificate is the old one");
        shell(cluster.file(1), "INSERT INTO stock VALUES ('B', 1)")?;
        check_equal!(cluster.settled()?.count("stock"), 1);
        cluster.stop()
    });
}

#[test]
fn encryption_with_a_token_needs_no_certificate_of_clients() {
    scenario(|scene| {
        let ours = Authority::make(scene, "ours")?;
        let token = scene.path("token");
        std::fs::write(&token, "0123456789abcdef-of-this-test\n")?;
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Apart)?;
        cluster.create(SCHEMA)?;
        settings(&mut cluster.nodes[0], &ours.node("a")?);
        let hub = cluster.nodes[0].url();
        cluster.nodes[1].peer_url(&hub);
        cluster.nodes[1].guarded();
        for node in &mut cluster.nodes {
            node.setting(&format!("auth.token_file = {token:?}"));
            node.setting(&format!("tls.ca = {:?}", ours.ca()));
        }
        shell(cluster.file(1), "INSERT INTO stock VALUES ('B', 1)")?;
        cluster.start()?;
        check_equal!(cluster.settled()?.count("stock"), 1);
        let url = format!("https://localhost:{}", cluster.nodes[0].port());
        let status = |more: &[&str]| -> Result<_> {
            let mut command = Command::new(sync_engine()?);
            command.current_dir(scene.path("")).args(["status", "--url", &url, "--json"]).args(more);
            run_to_end(&mut command)
        };
        let (ca, token) = (ours.ca().display().to_string(), token.display().to_string());
        check_equal!(status(&["--ca", &ca, "--token-file", &token])?.code, Some(0));
        let unbelieved = status(&["--token-file", &token])?;
        check!(unbelieved.code == Some(1) && unbelieved.stderr.contains("--ca"), "{}", unbelieved.stderr);
        let plain = run_to_end(Command::new(sync_engine()?).args(["status", "--url", &url.replace("https", "http")]))?;
        check!(plain.code == Some(1) && plain.stderr.contains("https"), "{}", plain.stderr);
        cluster.stop()
    });
}

#[test]
fn files_of_an_authority_are_not_overwritten_and_wrong_names_are_told() {
    scenario(|scene| {
        let ours = Authority::make(scene, "ours")?;
        ours.node("a")?;
        let tls = |arguments: &[&str]| run_to_end(Command::new(sync_engine()?).arg("tls").args(arguments));
        let folder = ours.0.display().to_string();
        for (arguments, expected) in [
            (&["ca", "--dir", &folder][..], "not overwritten"),
            (&["node", "a", "--dir", &folder], "not overwritten"),
            (&["node", "a b", "--dir", &folder], "cannot be in a certificate"),
            (&["node", "../x", "--dir", &folder], "cannot be in a certificate"),
            (&["node", "c", "--dir", &folder, "--host", "x..y"], "cannot be in a certificate"),
            (&["node", "c", "--dir", "nowhere"], "sync-engine tls ca --dir nowhere"),
        ] {
            let finished = tls(arguments)?;
            check!(
                finished.code != Some(0) && finished.stderr.contains(expected),
                "{arguments:?}: {}",
                finished.stderr
            );
        }
        for key in ["ca.key", "a.key"] {
            use std::os::unix::fs::PermissionsExt as _;
            check_equal!(std::fs::metadata(ours.0.join(key))?.permissions().mode() & 0o777, 0o600);
        }
        Ok(())
    });
}
