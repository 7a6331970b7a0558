//! Attach and detach, tables that cannot be synced, and schemas that change under the daemon.

use std::path::Path;

use system_tests::{
    Cluster, Node, Result, Scene, Topology, check, check_equal, query, query_text, run_to_end, scenario, shell,
};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER); \
    CREATE TABLE journal (line TEXT, at TEXT);";

/// Everything that an application sees of its schema.
fn schema(file: &Path) -> Result<Vec<Vec<system_tests::Cell>>> {
    query(file, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")
}

fn attach_and_detach(node: &Node, file: &Path) -> Result<[String; 2]> {
    let attached = run_to_end(node.command()?.arg("attach").arg(file))?.success()?;
    let added = query_text(
        file,
        "SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '\\_sync\\_%' ESCAPE '\\'",
    )?;
    check_equal!(added, "1");
    let detached = run_to_end(node.command()?.arg("detach").arg(file))?.success()?;
    Ok([attached, detached])
}

#[test]
fn detach_leaves_the_schema_as_it_was() {
    scenario(|scene| {
        let node = Node::new(scene, "a")?;
        let file = node.path("shop.db");
        shell(
            &file,
            "CREATE TABLE \"odd name\" (\"a \"\"b\" INTEGER PRIMARY KEY, \"select\" TEXT UNIQUE, [x y] BLOB DEFAULT x'00'); \
             CREATE TABLE pair (x, y, v, PRIMARY KEY (x, y)) WITHOUT ROWID; \
             CREATE TABLE strict_one (id TEXT PRIMARY KEY NOT NULL, n INT, twice INT AS (n * 2)) STRICT; \
             CREATE INDEX pair_v ON pair (v) WHERE v > 0; CREATE VIEW seen AS SELECT * FROM pair; \
             CREATE TRIGGER watch AFTER INSERT ON pair BEGIN UPDATE strict_one SET n = n + 1; END; \
             CREATE VIRTUAL TABLE words USING fts5(w); INSERT INTO pair VALUES (1, 2, 3);",
        )?;
        let before = schema(&file)?;
        attach_and_detach(&node, &file)?;
        check_equal!(schema(&file)?, before);
        shell(&file, "INSERT INTO pair VALUES (2, 2, 3); UPDATE pair SET v = 4; DELETE FROM pair WHERE x = 1")?;
        system_tests::check_integrity(&file)
    });
}

#[test]
fn attach_tells_what_will_be_synced_and_what_not() {
    scenario(|scene| {
        let node = Node::new(scene, "a")?;
        let file = node.path("shop.db");
        shell(&file, SCHEMA)?;
        let [attached, _] = attach_and_detach(&node, &file)?;
        let line = |table: &str| attached.lines().find(|line| line.contains(table)).map(str::to_owned);
        check!(line("stock").is_some(), "stock is not named: {attached}");
        let Some(journal) = line("journal") else { system_tests::fail!("journal is not named: {attached}") };
        check!(journal.to_lowercase().contains("key"), "no reason: {journal}");
        // The remedy: what to add to the table.
        check!(attached.to_uppercase().contains("PRIMARY KEY"), "no remedy: {attached}");
        Ok(())
    });
}

#[test]
fn a_table_without_a_key_is_named_while_the_others_sync() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO journal VALUES ('opened', 'now'); INSERT INTO stock VALUES ('A', 1)")?;
        scene.eventually("the row with a key arrives", || {
            check_equal!(query_text(cluster.file(1), "SELECT qty FROM stock WHERE sku = 'A'")?, "1");
            Ok(())
        })?;
        let status = cluster.nodes[0].database_status("shop")?;
        check_equal!(status["unsynced"][0]["table"], "journal");
        check!(status["unsynced"][0]["reason"].as_str().is_some_and(|reason| reason.contains("key")), "{status}");
        check_equal!(query_text(cluster.file(1), "SELECT count(*) FROM journal")?, "0");
        Ok(())
    });
}

/// Two nodes with a filled table, in step.
fn stocked(scene: &Scene) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
    cluster.create("CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER); CREATE INDEX stock_qty ON stock (qty);")?;
    cluster.start()?;
    shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1), ('B', 2), ('C', 3)")?;
    cluster.settled()?;
    Ok(cluster)
}

/// What migration tools do where ALTER TABLE does not suffice.
const REBUILD: &str = "BEGIN IMMEDIATE; \
    CREATE TABLE stock_new (sku TEXT PRIMARY KEY, qty INTEGER NOT NULL DEFAULT 0, place TEXT); \
    INSERT INTO stock_new (sku, qty) SELECT sku, qty FROM stock; \
    DROP TABLE stock; ALTER TABLE stock_new RENAME TO stock; COMMIT;";

#[test]
fn a_rebuilt_table_goes_on_syncing() {
    scenario(|scene| {
        let cluster = stocked(scene)?;
        for file in cluster.files() {
            shell(file, REBUILD)?;
        }
        cluster.settled()?;
        shell(cluster.file(0), "UPDATE stock SET place = 'shelf' WHERE sku = 'A'")?;
        shell(cluster.file(1), "DELETE FROM stock WHERE sku = 'B'; INSERT INTO stock VALUES ('D', 4, 'floor')")?;
        let rows = cluster.settled()?;
        check_equal!(rows.count("stock"), 3);
        check_equal!(query_text(cluster.file(1), "SELECT place FROM stock WHERE sku = 'A'")?, "shelf");
        Ok(())
    });
}

/// A migration that also writes: on one node only, while the others have the rows as they were.
#[test]
fn what_a_rebuild_wrote_on_one_node_reaches_the_others() {
    scenario(|scene| {
        let cluster = stocked(scene)?;
        shell(
            cluster.file(0),
            "BEGIN IMMEDIATE; CREATE TABLE stock_new (sku TEXT PRIMARY KEY, qty INTEGER); \
             INSERT INTO stock_new SELECT sku, qty * 10 FROM stock WHERE sku <> 'C'; \
             DROP TABLE stock; ALTER TABLE stock_new RENAME TO stock; COMMIT;",
        )?;
        scene.eventually("the other node has what the rebuild wrote", || {
            let rows = "SELECT group_concat(sku || qty, ' ') FROM (SELECT * FROM stock ORDER BY sku)";
            check_equal!(query_text(cluster.file(1), rows)?, "A10 B20");
            Ok(())
        })?;
        cluster.settled().map(drop)
    });
}

/// Each statement a transaction of its own, and the daemon looks after each.
#[test]
fn a_table_rebuilt_in_steps_goes_on_syncing() {
    scenario(|scene| {
        let cluster = stocked(scene)?;
        let await_table = |name: &str, there: bool| {
            scene.eventually("the daemon sees the table come or go", || {
                let status = cluster.nodes[0].database_status("shop")?;
                let tables = status["tables"].as_array();
                let found = tables.is_some_and(|tables| tables.iter().any(|table| table == name));
                check!(found == there, "{status}");
                Ok(())
            })
        };
        shell(cluster.file(0), "CREATE TABLE stock_new (sku TEXT PRIMARY KEY, qty INTEGER)")?;
        await_table("stock_new", true)?;
        shell(cluster.file(0), "INSERT INTO stock_new SELECT sku, qty + 1 FROM stock WHERE sku <> 'B'")?;
        shell(cluster.file(0), "DROP TABLE stock")?;
        await_table("stock", false)?;
        // What the other node writes meanwhile is not lost.
        shell(cluster.file(1), "INSERT INTO stock VALUES ('D', 4)")?;
        shell(cluster.file(0), "ALTER TABLE stock_new RENAME TO stock")?;
        await_table("stock", true)?;
        cluster.settled()?;
        let rows = "SELECT group_concat(sku || qty, ' ') FROM (SELECT * FROM stock ORDER BY sku)";
        check_equal!(query_text(cluster.file(1), rows)?, "A2 C4 D4");
        Ok(())
    });
}

/// A node that has lost a table does not make others believe that they have been sent its rows.
#[test]
fn a_node_without_a_table_does_not_vouch_for_its_rows() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 3, Topology::Line)?;
        cluster
            .create("CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER); CREATE TABLE o (k TEXT PRIMARY KEY)")?;
        cluster.start()?;
        cluster.settled()?;
        cluster.nodes[2].stop()?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1)")?;
        scene.eventually("the row is in the middle", || {
            check_equal!(query_text(cluster.file(1), "SELECT count(*) FROM stock")?, "1");
            Ok(())
        })?;
        shell(cluster.file(1), "DROP TABLE stock")?;
        scene.eventually("the middle has lost the table", || {
            check_equal!(cluster.nodes[1].database_status("shop")?["tables"].as_array().map(Vec::len), Some(1));
            Ok(())
        })?;
        cluster.nodes[0].stop()?;
        cluster.nodes[2].start()?;
        scene.eventually("the last node is told of the difference", || {
            check!(cluster.nodes[2].log().contains("schema_mismatch"), "{}", cluster.nodes[2].log());
            Ok(())
        })?;
        // By the time that what the last node writes is in the middle, the middle has said what it has to say.
        shell(cluster.file(2), "INSERT INTO o VALUES ('later')")?;
        scene.eventually("the middle has the other table's row", || {
            check_equal!(query_text(cluster.file(1), "SELECT count(*) FROM o")?, "1");
            Ok(())
        })?;
        cluster.nodes[1].stop()?;
        let url = cluster.nodes[2].url();
        cluster.nodes[0].peer_url(&url);
        cluster.nodes[0].start()?;
        scene.eventually("the row comes from the node that has it", || {
            check_equal!(query_text(cluster.file(2), "SELECT count(*) FROM stock")?, "1");
            Ok(())
        })
    });
}

#[test]
fn what_fits_of_a_row_is_applied_and_an_added_column_once_both_have_it() {
    scenario(|scene| {
        let cluster = stocked(scene)?;
        shell(
            cluster.file(0),
            "ALTER TABLE stock ADD COLUMN place TEXT; UPDATE stock SET place = 'here', qty = 10 WHERE sku = 'A'",
        )?;
        scene.eventually("the difference is told", || {
            let log = cluster.nodes[1].log();
            check!(log.contains("schema_mismatch") && log.contains("place"), "not in the log: {log}");
            Ok(())
        })?;
        let parked = |expected: u64| {
            scene.eventually("the status tells how many rows wait", || {
                check_equal!(cluster.nodes[1].database_status("shop")?["parked"].as_u64(), Some(expected));
                Ok(())
            })
        };
        parked(1)?;
        check_equal!(query_text(cluster.file(1), "SELECT qty FROM stock WHERE sku = 'A'")?, "10");
        shell(cluster.file(1), "ALTER TABLE stock ADD COLUMN place TEXT")?;
        cluster.settled()?;
        parked(0)?;
        check_equal!(query_text(cluster.file(1), "SELECT place FROM stock WHERE sku = 'A'")?, "here");
        Ok(())
    });
}

#[test]
fn a_column_that_was_added_and_written_while_the_daemon_was_down_arrives() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
        cluster.create(
            "CREATE TABLE stock (sku TEXT, lot INTEGER, qty INTEGER, PRIMARY KEY (sku, lot)); \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) \
             INSERT INTO stock SELECT 'sku', i, i FROM n; INSERT INTO stock VALUES (NULL, 1, 1);",
        )?;
        cluster.start()?;
        scene.eventually("all that has a key is on both", || {
            cluster.nodes.iter().try_for_each(|node| {
                let published = "SELECT count(*) FROM _sync_clock_stock WHERE col = 0";
                check_equal!(query_text(node.file(), published)?, "12000");
                Ok(())
            })
        })?;
        cluster.settled()?;
        cluster.stop()?;
        let add =
            "ALTER TABLE stock ADD COLUMN place TEXT DEFAULT 'Yard'; ALTER TABLE stock ADD COLUMN extra DEFAULT 1";
        shell(
            cluster.file(0),
            &format!(
                "{add}; UPDATE stock SET place = 'yard' WHERE sku IS NOT NULL; UPDATE stock SET extra = 1.0 WHERE lot = 7"
            ),
        )?;
        shell(cluster.file(1), &format!("{add}; UPDATE stock SET extra = x'00' WHERE lot = 8"))?;
        cluster.start()?;
        cluster.settled()?;
        let seen = "SELECT count(*) || ' ' || (SELECT typeof(extra) FROM stock WHERE lot = 7) || ' ' || \
            (SELECT typeof(extra) FROM stock WHERE lot = 8) FROM stock WHERE place = 'yard' AND sku IS NOT NULL";
        for file in cluster.files() {
            check_equal!(query_text(file, seen)?, "12000 real blob");
        }
        Ok(())
    });
}

#[test]
fn a_new_table_syncs_without_a_restart() {
    scenario(|scene| {
        let cluster = stocked(scene)?;
        for file in cluster.files() {
            shell(file, "CREATE TABLE place (id INTEGER PRIMARY KEY, name TEXT)")?;
        }
        shell(cluster.file(1), "INSERT INTO place VALUES (1, 'shelf')")?;
        scene.eventually("the row arrives", || {
            check_equal!(query_text(cluster.file(0), "SELECT name FROM place")?, "shelf");
            Ok(())
        })?;
        cluster.settled().map(drop)
    });
}
