//! Tokens and roles: who is let in, and what it may do.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use system_tests::{
    Cluster, Node, Result, Running, Scene, Topology, ask_showing, check, check_equal, fail, get_as, logged, query_text,
    run_to_end, scenario, shell, sync_engine,
};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER)";

/// A file with a token that this test alone has.
fn token(scene: &Scene, name: &str) -> Result<PathBuf> {
    let path = scene.path(format!("{name}.token"));
    std::fs::write(&path, format!("{}\n", secret(name)))?;
    Ok(path)
}

fn secret(name: &str) -> String {
    format!("{name}-0123456789abcdef-{}", std::process::id())
}

fn connected(node: &Node) -> Result {
    let status = node.status()?;
    let peers = status["peers"].as_array().cloned().unwrap_or_default();
    if peers.iter().any(|peer| peer["state"] == "connected") { Ok(()) } else { fail!("not connected: {status}") }
}

/// Two nodes, the second of which dials the first, with these lines at the top of their configuration.
fn pair(scene: &Scene, settings: [Vec<String>; 2]) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "shop", 2, Topology::Star)?;
    cluster.create(SCHEMA)?;
    for (node, settings) in cluster.nodes.iter_mut().zip(settings) {
        settings.iter().for_each(|line| node.setting(line));
        node.guarded();
    }
    Ok(cluster)
}

fn token_file(path: &std::path::Path) -> String {
    format!("auth.token_file = {path:?}")
}

#[test]
fn a_token_is_asked_for_and_shown_and_never_told() {
    scenario(|scene| {
        let line = token_file(&token(scene, "common")?);
        let mut cluster = pair(scene, [vec![line.clone()], vec![line]])?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1)")?;
        cluster.start()?;
        check_equal!(cluster.settled()?.count("stock"), 1);
        let node = &cluster.nodes[0];
        for path in ["/v1/status", "/v1/conflicts", "/v1/sync"] {
            let without = node.get(path)?;
            check_equal!(without.status, 401, "{path}: {}", without.body);
            check!(without.head.to_lowercase().contains("www-authenticate: bearer"), "{}", without.head);
            check_equal!(ask_showing(node.port(), "GET", path, "wrong")?.status, 401, "{path}");
        }
        check_equal!(node.post("/v1/conflicts/shop:1/dismiss")?.status, 401);
        for open in ["/", "/healthz"] {
            check_equal!(node.get(open)?.status, 200, "{open}");
        }
        let status = ask_showing(node.port(), "GET", "/v1/status", &secret("common"))?;
        check_equal!(status.status, 200);
        // Whoever calls the node by another name is asked for the token no less, and no more.
        check_equal!(get_as(node.port(), "/v1/status", "berlin:7420")?.status, 401);
        let named = format!("berlin:7420\r\nAuthorization: Bearer {}", secret("common"));
        check_equal!(get_as(node.port(), "/v1/status", &named)?.status, 200);
        logged(scene, node, &["sync_error", "kind=auth", "address=127.0.0.1"])?;
        let refused = run_to_end(
            Command::new(sync_engine()?).arg("status").args(["--url", &format!("http://127.0.0.1:{}", node.port())]),
        )?;
        check_equal!(refused.code, Some(1));
        check!(refused.stderr.contains("--token-file"), "{}", refused.stderr);
        let mut show = node.command()?;
        show.args(["config", "show", "--config"]).arg(node.config_file());
        let shown = run_to_end(&mut show)?.success()?;
        for text in [&shown, &node.log(), &status.body] {
            check!(!text.contains(&secret("common")), "{text}");
        }
        cluster.stop()
    });
}

#[test]
fn a_peer_with_another_token_stays_out_until_it_is_corrected() {
    scenario(|scene| {
        let (right, wrong) = (token(scene, "right")?, token(scene, "wrong")?);
        let mut cluster = pair(scene, [vec![token_file(&right)], vec![token_file(&wrong)]])?;
        cluster.start()?;
        logged(scene, &cluster.nodes[1], &["sync_error", "kind=auth", "401"])?;
        logged(scene, &cluster.nodes[0], &["sync_error", "kind=auth", "/"])?;
        check!(connected(&cluster.nodes[0]).is_err(), "it was let in");
        // The file is another one under its name.
        std::fs::copy(&right, &wrong)?;
        let told = cluster.nodes[1].read_again()?;
        check!(told.contains("outcome=applied") && told.contains("changed=auth"), "{told}");
        shell(cluster.file(1), "INSERT INTO stock VALUES ('B', 2)")?;
        check_equal!(cluster.settled()?.count("stock"), 1);
        // One that cannot be used is refused, and the old one kept.
        std::fs::write(&wrong, "short\n")?;
        let told = cluster.nodes[1].read_again()?;
        check!(told.contains("outcome=refused"), "{told}");
        connected(&cluster.nodes[0])?;
        cluster.stop()
    });
}

#[test]
fn beyond_loopback_nobody_listens_without_a_token() {
    scenario(|scene| {
        let file = scene.path("shop.db");
        shell(&file, SCHEMA)?;
        let run = |arguments: &[&str]| -> Result<Command> {
            let mut command = Command::new(sync_engine()?);
            command.arg("run").arg(&file).args(["--node", "lone"]).args(arguments).current_dir(scene.path(""));
            Ok(command)
        };
        let refused = run_to_end(&mut run(&["--listen", "0.0.0.0:0"])?)?;
        check_equal!(refused.code, Some(78));
        check!(
            refused.stderr.contains("beyond loopback") && refused.stderr.contains("token_file"),
            "{}",
            refused.stderr
        );
        let absent = run_to_end(&mut run(&["--listen", "0.0.0.0:0", "--token-file", "absent"])?)?;
        check_equal!(absent.code, Some(78));
        check!(absent.stderr.contains("openssl rand"), "{}", absent.stderr);
        let token = token(scene, "lone")?;
        let port = Node::new(scene, "port")?.port();
        let listen = format!("127.0.0.1:{port}");
        let mut running =
            Running::start(run(&["--listen", &listen, "--token-file"])?.arg(&token), &scene.path("daemon"))?;
        scene.eventually("it answers who shows the token", || {
            if let Some(status) = running.ended()? {
                fail!("it ended: {status}: {}", running.complaints());
            }
            let url = format!("http://{listen}");
            let mut status = Command::new(sync_engine()?);
            run_to_end(status.args(["status", "--url", &url, "--token-file"]).arg(&token))?.success()
        })?;
        check_equal!(running.end_with(system_tests::Signal::Terminate)?.code, Some(0));
        Ok(())
    });
}

#[test]
fn a_node_that_asks_for_nothing_any_more_is_reached_from_this_machine_alone() {
    scenario(|scene| {
        let token = token(scene, "open")?;
        let mut node = Node::new(scene, "a")?;
        let file = node.database("shop");
        shell(&file, SCHEMA)?;
        let listen = format!("0.0.0.0:{}", node.port());
        node.write_config()?;
        let text = std::fs::read_to_string(node.config_file())?;
        let wide = text.replace(&format!("127.0.0.1:{}", node.port()), &listen);
        check!(wide != text, "{text}");
        // The node writes its file itself when it is started.
        let config = scene.path("wide.toml");
        std::fs::write(&config, format!("{wide}\n[auth]\ntoken_file = {token:?}\n"))?;
        let mut command = Command::new(sync_engine()?);
        command.current_dir(scene.path("")).args(["run", "--config"]).arg(&config);
        let mut running = Running::start(&mut command, &scene.path("wide"))?;
        let status = |port| ask_showing(port, "GET", "/v1/status", &secret("open"));
        scene.eventually("it answers", || match running.ended()? {
            Some(_) => fail!("{}", running.complaints()),
            None => status(node.port())?.json().map(drop),
        })?;
        std::fs::write(&config, &text)?;
        running.signal(system_tests::Signal::HangUp)?;
        scene.eventually("it has read its configuration", || {
            let log = node.log();
            if log.contains("config_reload") { Ok(()) } else { fail!("{log}") }
        })?;
        check!(node.log().contains("outcome=applied"), "{}", node.log());
        check_equal!(node.get("/v1/status")?.status, 200);
        let open = std::net::TcpStream::connect(("127.0.0.2", node.port()));
        check!(open.is_err(), "it listens beyond 127.0.0.1");
        check_equal!(running.end_with(system_tests::Signal::Terminate)?.code, Some(0));
        Ok(())
    });
}

/// A hub that asks for a token of its own, and says of one peer what it may do.
fn hub(scene: &Scene, peer: &str) -> Result<Cluster> {
    let (hub, reader) = (token(scene, "hub")?, token(scene, "reader")?);
    let entry = format!("auth.peer = [{{ name = \"b\", token_file = {reader:?}, {peer} }}]");
    pair(scene, [vec![token_file(&hub), entry], vec![token_file(&reader)]])
}

#[test]
fn a_reader_is_sent_everything_and_nothing_of_it_is_taken() {
    scenario(|scene| {
        let mut cluster = hub(scene, "role = \"read\"")?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1), ('both', 1)")?;
        shell(cluster.file(1), "INSERT INTO stock VALUES ('mine', 7), ('both', 1)")?;
        cluster.start()?;
        let skus = |index: usize| {
            query_text(cluster.file(index), "SELECT group_concat(sku) FROM (SELECT sku FROM stock ORDER BY sku)")
        };
        scene.eventually("the reader has the hub's rows", || {
            let found = skus(1)?;
            if found == "A,both,mine" { Ok(()) } else { fail!("{found}") }
        })?;
        shell(cluster.file(1), "INSERT INTO stock VALUES ('more', 8); UPDATE stock SET qty = 99 WHERE sku = 'A'")?;
        for round in 0..3 {
            shell(cluster.file(0), &format!("INSERT INTO stock VALUES ('live{round}', {round})"))?;
            scene.eventually("what is written at the hub arrives", || {
                let found = skus(1)?;
                if found.contains(&format!("live{round}")) { Ok(()) } else { fail!("{found}") }
            })?;
        }
        check_equal!(skus(0)?, "A,both,live0,live1,live2");
        check_equal!(query_text(cluster.file(0), "SELECT qty FROM stock WHERE sku = 'A'")?, "1");
        let (hub, reader) = (cluster.nodes[0].status()?, cluster.nodes[1].status()?);
        check_equal!((&hub["peers"][0]["role"], &hub["peers"][0]["read_only_there"]), (&json!("read"), &json!(false)));
        check_equal!(
            (&reader["peers"][0]["role"], &reader["peers"][0]["read_only_there"]),
            (&json!("write"), &json!(true))
        );
        let port = cluster.nodes[0].port();
        check_equal!(ask_showing(port, "GET", "/v1/status", &secret("reader"))?.status, 200);
        let change = ask_showing(port, "POST", "/v1/conflicts/shop:1/dismiss", &secret("reader"))?;
        check_equal!(change.status, 403, "{}", change.body);
        cluster.stop()
    });
}

#[test]
fn a_peer_knows_only_of_the_databases_that_it_may() {
    scenario(|scene| {
        let mut cluster = hub(scene, "databases = [\"shop\"]")?;
        for node in &mut cluster.nodes {
            let file = node.database("secret");
            shell(&file, SCHEMA)?;
            shell(&file, &format!("INSERT INTO stock VALUES ('of {}', 1)", node.name()))?;
        }
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1)")?;
        shell(cluster.file(1), "INSERT INTO stock VALUES ('B', 2)")?;
        cluster.start()?;
        let rows = scene.eventually("what both may know of is equal", || {
            let rows = [0, 1].map(|index| query_text(cluster.file(index), "SELECT count(*) FROM stock"));
            match rows {
                [Ok(one), Ok(other)] if one == "2" && other == "2" => Ok(one),
                rows => fail!("{rows:?}"),
            }
        })?;
        check_equal!(rows, "2");
        for node in &cluster.nodes {
            check_equal!(query_text(&node.path("secret.db"), "SELECT count(*) FROM stock")?, "1");
            let shared = node.status()?["peers"][0]["databases"].clone();
            check_equal!(shared.as_array().map(Vec::len), Some(1), "{shared}");
        }
        let told = ask_showing(cluster.nodes[0].port(), "GET", "/v1/status", &secret("reader"))?;
        check_equal!(told.status, 403, "{}", told.body);
        cluster.stop()
    });
}

#[test]
fn the_token_of_one_node_is_of_no_use_to_another() {
    scenario(|scene| {
        let mut cluster = hub(scene, "role = \"write\"")?;
        cluster.nodes[1].rename("impostor");
        cluster.start()?;
        logged(scene, &cluster.nodes[0], &["sync_error", "kind=auth", "impostor"])?;
        logged(scene, &cluster.nodes[1], &["kind=auth", "impostor"])?;
        check!(connected(&cluster.nodes[1]).is_err(), "it was let in");
        // Nothing that it said was taken down.
        check_equal!(query_text(cluster.file(0), "SELECT count(*) FROM _sync_origin WHERE node = 'impostor'")?, "0");
        cluster.nodes[1].stop()?;
        cluster.nodes[1].rename("b");
        cluster.nodes[1].start()?;
        shell(cluster.file(1), "INSERT INTO stock VALUES ('B', 2)")?;
        check_equal!(cluster.settled()?.count("stock"), 1);
        cluster.stop()
    });
}

#[test]
fn what_is_said_of_a_node_counts_whoever_dials() {
    scenario(|scene| {
        let token = token_file(&token(scene, "common")?);
        // They dial each other, and the second takes nothing of the first.
        let entry = "auth.peer = [{ name = \"a\", role = \"read\" }]".to_owned();
        let mut cluster = pair(scene, [vec![token.clone()], vec![token, entry]])?;
        let second = cluster.nodes[1].url();
        cluster.nodes[0].peer_url(&second);
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1)")?;
        shell(cluster.file(1), "INSERT INTO stock VALUES ('B', 2)")?;
        cluster.start()?;
        scene.eventually("the reader has both", || {
            let found = query_text(cluster.file(0), "SELECT count(*) FROM stock")?;
            if found == "2" { Ok(()) } else { fail!("{found}") }
        })?;
        check_equal!(query_text(cluster.file(1), "SELECT count(*) FROM stock")?, "1");
        check_equal!(cluster.nodes[1].status()?["peers"][0]["role"], json!("read"));
        cluster.stop()
    });
}
