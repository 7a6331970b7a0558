//! What people script against: HTTP answers, exit codes, configuration.

use system_tests::{Cluster, Node, Topology, check, check_equal, query_text, run_to_end, scenario, shell};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);";

#[test]
fn status_tells_databases_and_peers() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one')")?;
        cluster.settled()?;
        let node = &cluster.nodes[0];
        check_equal!(node.get("/healthz")?.status, 200);
        let status = node.status()?;
        check_equal!(status["node"], "a");
        check!(status["version"].is_string(), "{status}");
        check!(status["uptime_seconds"].is_u64(), "{status}");
        let database = node.database_status("notes")?;
        check_equal!(database["path"], node.file().to_string_lossy().as_ref());
        check_equal!(database["state"], "attached");
        let Some(origin) = database["origin"].as_str() else { system_tests::fail!("no origin in {database}") };
        check_equal!(database["have"][origin], database["sequence"]);
        check_equal!(database["tables"], serde_json::json!(["note"]));
        check_equal!(database["unsynced"], serde_json::json!([]));
        for counter in ["backlog", "conflicts", "parked"] {
            check_equal!(database[counter], 0, "{counter}");
        }
        check_equal!(database["errors"], serde_json::json!([]));
        scene.eventually("the peer has acknowledged", || {
            let status = node.status()?;
            let peer = &status["peers"][0];
            check_equal!(peer["node"], "b");
            check_equal!(peer["state"], "connected");
            check_equal!(peer["url"], cluster.nodes[1].url());
            check_equal!(peer["databases"][0]["name"], "notes");
            check_equal!(peer["databases"][0]["behind"], 0);
            check!(peer["bytes_in"].as_u64() > Some(0) && peer["bytes_out"].as_u64() > Some(0), "{status}");
            Ok(())
        })
    });
}

#[test]
fn the_log_names_what_happens() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        cluster.start()?;
        cluster.settled()?;
        cluster.nodes[1].stop()?;
        scene.eventually("the loss of the peer is logged", || {
            let log = cluster.nodes[0].log();
            for event in ["sync_start", "peer_connected", "peer_lost"] {
                check!(log.lines().any(|line| line.contains(event)), "no {event} in {log}");
            }
            Ok(())
        })
    });
}

#[test]
fn a_conflict_is_recorded_with_both_rows_and_told() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one')")?;
        cluster.settled()?;
        cluster.nodes[1].stop()?;
        shell(cluster.file(0), "UPDATE note SET body = 'from a' WHERE id = 1")?;
        shell(cluster.file(1), "UPDATE note SET body = 'from b' WHERE id = 1")?;
        cluster.start()?;
        cluster.settled()?;
        let mut records = Vec::new();
        for node in &cluster.nodes {
            let found = query_text(
                node.file(),
                "SELECT coalesce(max(json_set(record, '$.kind', kind, '$.table', tbl)), '') FROM _sync_conflict",
            )?;
            if found.is_empty() {
                continue;
            }
            records.push(serde_json::from_str::<serde_json::Value>(&found)?);
            let log = node.log();
            check!(
                log.lines().any(|line| line.contains(" conflict_") && line.contains("table=note")),
                "not told: {log}"
            );
        }
        let Some(record) = records.first() else { system_tests::fail!("no conflict is recorded") };
        check_equal!(record["table"], "note");
        check_equal!(record["kind"], "update_origin_differs");
        let kept = query_text(cluster.file(0), "SELECT body FROM note")?;
        check_equal!(record["winner"]["row"]["body"], kept.as_str());
        let lost = if kept == "from a" { "from b" } else { "from a" };
        check_equal!(record["loser"]["row"]["body"], lost);
        Ok(())
    });
}

#[test]
fn peers_come_from_the_environment() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 1, Topology::Mesh)?;
        let mut other = Node::new(scene, "b")?;
        other.database("notes");
        other.environment("SYNC_ENGINE_WS_URL", &cluster.nodes[0].url());
        cluster.nodes.push(other);
        cluster.create(SCHEMA)?;
        cluster.start()?;
        shell(cluster.file(1), "INSERT INTO note VALUES (1, 'one')")?;
        cluster.settled()?;
        check_equal!(query_text(cluster.file(0), "SELECT body FROM note")?, "one");
        Ok(())
    });
}

#[test]
fn the_environment_overrides_a_setting() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        shell(&node.database("notes"), SCHEMA)?;
        node.environment("SYNC_ENGINE__NODE", "renamed");
        node.start()?;
        check_equal!(node.status()?["node"], "renamed");
        node.stop()
    });
}

#[test]
fn all_errors_of_a_configuration_are_named_at_once() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        node.database("notes");
        node.setting("pol_interval = \"1s\"");
        node.setting("shutdown_grace = \"soon\"");
        node.database_setting("granularity = \"cell\"");
        node.launch()?;
        let finished = node.finish()?;
        check_equal!(finished.code, Some(78), "{}", finished.stderr);
        for named in ["pol_interval", "poll_interval", "shutdown_grace", "granularity"] {
            check!(finished.stderr.contains(named), "{named} is not named: {}", finished.stderr);
        }
        check!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        Ok(())
    });
}

#[test]
fn a_missing_configuration_and_a_wrong_command_line_have_their_codes() {
    scenario(|scene| {
        let node = Node::new(scene, "a")?;
        let missing = run_to_end(node.command()?.args(["run", "--config", "nowhere.toml"]))?;
        check_equal!(missing.code, Some(78), "{}", missing.stderr);
        check!(missing.stderr.contains("nowhere.toml"), "{}", missing.stderr);
        let wrong = run_to_end(node.command()?.arg("frobnicate"))?;
        check_equal!(wrong.code, Some(2), "{}", wrong.stderr);
        Ok(())
    });
}

#[test]
fn listening_beyond_loopback_without_a_token_is_refused() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        shell(&node.database("notes"), SCHEMA)?;
        node.environment("SYNC_ENGINE__LISTEN", &format!("0.0.0.0:{}", node.port()));
        node.launch()?;
        let finished = node.finish()?;
        check_equal!(finished.code, Some(78), "{}", finished.stderr);
        check!(finished.stderr.contains("token"), "{}", finished.stderr);
        Ok(())
    });
}

#[test]
fn a_foreign_host_is_refused() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        shell(&node.database("notes"), SCHEMA)?;
        node.start()?;
        let answer = system_tests::get_as(node.port(), "/v1/status", "attacker.example")?;
        check!((400..500).contains(&answer.status), "HTTP {}: {}", answer.status, answer.body);
        node.stop()
    });
}

#[test]
fn the_hook_command_is_given_each_event() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        shell(&node.database("shop"), "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER)")?;
        let seen = scene.path("seen");
        node.log_setting(&format!("hook = [\"sh\", \"-c\", \"cat >> '{}'; exit 3\"]", seen.display()));
        node.start()?;
        scene.eventually("the hook has seen the start, and its failure is told", || {
            let text = std::fs::read_to_string(&seen)?;
            let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap_or_default())?;
            check_equal!((&first["event"], &first["node"]), (&"sync_start".into(), &"a".into()));
            check!(node.log().contains("log_hook_error") && node.log().contains("exit status: 3"), "{}", node.log());
            Ok(())
        })?;
        node.stop()
    });
}
