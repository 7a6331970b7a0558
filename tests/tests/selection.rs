//! Tables and columns that a node leaves out by configuration: it has nothing of them, and everything passes through it.

use system_tests::{
    Cluster, Node, Result, Scene, Topology, check, check_equal, check_integrity, query_text, run_to_end, scenario,
    shell,
};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, local_note TEXT DEFAULT 'none'); \
    CREATE TABLE session_data (id INTEGER PRIMARY KEY, v TEXT);";

const EXCLUDE: &str = "exclude = [\"session_*\"]";
const EXCLUDE_COLUMN: &str = "[[database.table]]\nname = \"stock\"\nexclude_columns = [\"local_note\"]";

const SESSIONS: &str = "SELECT coalesce(group_concat(id || v, ' '), '') FROM (SELECT * FROM session_data ORDER BY id)";
const STOCK: &str =
    "SELECT coalesce(group_concat(sku || qty || local_note, ' '), '') FROM (SELECT * FROM stock ORDER BY sku)";

/// Three nodes in a line.
fn line(scene: &Scene) -> Result<Cluster> {
    let cluster = Cluster::new(scene, "shop", 3, Topology::Line)?;
    cluster.create(SCHEMA)?;
    Ok(cluster)
}

/// Awaits what files hold.
#[track_caller]
fn await_text(scene: &Scene, node: &Node, sql: &str, expected: &str) -> Result {
    scene.eventually(&format!("node {} holds {expected:?}", node.name()), || {
        check_equal!(query_text(node.file(), sql)?, expected);
        Ok(())
    })
}

#[test]
fn what_a_node_in_the_middle_leaves_out_passes_through_it() {
    scenario(|scene| {
        let mut cluster = line(scene)?;
        cluster.nodes[1].database_setting(EXCLUDE);
        cluster.nodes[1].database_setting(EXCLUDE_COLUMN);
        shell(cluster.file(1), "INSERT INTO session_data VALUES (1, 'own')")?;
        shell(cluster.file(0), "INSERT INTO session_data VALUES (1, 'before')")?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO session_data VALUES (2, 'x'); INSERT INTO stock VALUES ('A', 1, 'a')")?;
        await_text(scene, &cluster.nodes[2], SESSIONS, "1before 2x")?;
        await_text(scene, &cluster.nodes[2], STOCK, "A1a")?;
        await_text(scene, &cluster.nodes[1], STOCK, "A1none")?;
        shell(
            cluster.file(1),
            "UPDATE stock SET local_note = 'own', qty = 2; UPDATE session_data SET v = 'still own'",
        )?;
        await_text(scene, &cluster.nodes[0], STOCK, "A2a")?;
        shell(cluster.file(2), "UPDATE stock SET local_note = 'c', qty = 3; DELETE FROM session_data WHERE id = 2")?;
        await_text(scene, &cluster.nodes[0], STOCK, "A3c")?;
        await_text(scene, &cluster.nodes[0], SESSIONS, "1before")?;
        await_text(scene, &cluster.nodes[1], STOCK, "A3own")?;
        check_equal!(query_text(cluster.file(1), SESSIONS)?, "1still own");
        scene.eventually("the status tells what is kept", || {
            let status = cluster.nodes[1].database_status("shop")?;
            check_equal!(status["parked"], 0);
            // The two rows of the table, one of them deleted, and the column of one row.
            check_equal!(status["passed_on"], 3);
            check_equal!(status["unsynced"][0]["table"], "session_data");
            check_equal!(status["unsynced"][0]["reason"], "excluded by configuration: pattern \"session_*\"");
            check_equal!(status["excluded_columns"], serde_json::json!({ "stock": ["local_note"] }));
            Ok(())
        })?;
        for node in &cluster.nodes {
            check!(!node.log().contains("schema_mismatch"), "node {} cries: {}", node.name(), node.log());
            check_integrity(node.file())?;
        }
        cluster.stop()
    });
}

#[test]
fn another_choice_takes_effect_at_the_next_start_and_loses_nothing() {
    scenario(|scene| {
        let mut cluster = line(scene)?;
        for index in [0, 1] {
            cluster.nodes[index].start()?;
        }
        shell(
            cluster.file(0),
            "INSERT INTO session_data VALUES (1, 'a'), (2, 'a'); INSERT INTO stock VALUES ('A', 1, 'a'), ('B', 1, 'b')",
        )?;
        await_text(scene, &cluster.nodes[1], SESSIONS, "1a 2a")?;
        await_text(scene, &cluster.nodes[1], STOCK, "A1a B1b")?;
        for index in [0, 1] {
            cluster.nodes[index].stop()?;
        }
        // The one in the middle leaves out what it has; the third node has nothing yet, and the first does not run.
        cluster.nodes[1].database_setting(EXCLUDE);
        cluster.nodes[1].database_setting(EXCLUDE_COLUMN);
        for index in [1, 2] {
            cluster.nodes[index].start()?;
        }
        await_text(scene, &cluster.nodes[2], SESSIONS, "1a 2a")?;
        await_text(scene, &cluster.nodes[2], STOCK, "A1a B1b")?;
        shell(
            cluster.file(1),
            "UPDATE session_data SET v = 'own' WHERE id = 1; INSERT INTO session_data VALUES (3, 'own')",
        )?;
        shell(cluster.file(1), "UPDATE stock SET local_note = 'own' WHERE sku = 'A'")?;
        shell(
            cluster.file(2),
            "DELETE FROM session_data WHERE id = 2; UPDATE stock SET local_note = 'c' WHERE sku = 'B'",
        )?;
        cluster.nodes[0].start()?;
        await_text(scene, &cluster.nodes[0], SESSIONS, "1a")?;
        await_text(scene, &cluster.nodes[0], STOCK, "A1a B1c")?;
        // Included again, its own rows meet what passed through.
        cluster.nodes[1].stop()?;
        cluster.nodes[1].without_database_setting(EXCLUDE);
        cluster.nodes[1].without_database_setting(EXCLUDE_COLUMN);
        cluster.nodes[1].start()?;
        cluster.settled()?;
        check_equal!(query_text(cluster.file(2), SESSIONS)?, "1a 3own");
        check_equal!(query_text(cluster.file(2), STOCK)?, "A1a B1c");
        let status = cluster.nodes[1].database_status("shop")?;
        check_equal!((&status["parked"], &status["passed_on"]), (&serde_json::json!(0), &serde_json::json!(0)));
        // What differed here is in records, two of which hold its own: the others have what it had before the others changed it.
        check_equal!(status["conflicts"], 4);
        let lost = "SELECT count(*) FROM _sync_conflict WHERE record LIKE '%own%'";
        check_equal!(query_text(cluster.file(1), lost)?, "2");
        cluster.stop()
    });
}

#[test]
fn what_is_left_out_is_shown_and_names_that_mean_nothing_are_told() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        let file = node.database("shop");
        node.database_setting("exclude = [\"session_*\", \"stok\"]");
        node.database_setting(EXCLUDE_COLUMN);
        shell(&file, SCHEMA)?;
        node.start()?;
        scene.eventually("the log tells", || {
            let log = node.log();
            let Some(line) = log.lines().find(|line| line.contains("kind=unknown_name")) else {
                system_tests::fail!("not in the log: {log}")
            };
            check!(line.contains("sync_error") && line.contains("stok") && line.contains("stock"), "{line}");
            check!(!log.contains("kind=unsynced_table"), "what is meant is no error: {log}");
            Ok(())
        })?;
        let shown =
            run_to_end(node.command()?.args(["attach", "--config", "sync-engine.toml"]).arg(&file))?.success()?;
        check!(shown.contains("synced      stock (key sku; without local_note)"), "{shown}");
        check!(
            shown.contains("not synced  session_data: excluded by configuration: pattern \"session_*\"; "),
            "{shown}"
        );
        let status = run_to_end(node.command()?.args(["status", "--config", "sync-engine.toml"]))?.success()?;
        check_equal!(node.database_status("shop")?["passed_on"], 0, "{status}");
        check!(status.contains("not synced: local_note of stock (excluded by configuration)"), "{status}");
        let shown = run_to_end(node.command()?.args(["config", "show", "--config", "sync-engine.toml"]))?.success()?;
        check!(shown.contains("exclude = [\"session_*\", \"stok\"]"), "{shown}");
        check!(shown.contains("exclude_columns = [\"local_note\"]"), "{shown}");
        Ok(())
    });
}
