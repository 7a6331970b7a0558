//! Foreign keys between nodes: rows whose parents are not here are reported, and cascades run where they were set off only.

use std::path::Path;

use serde_json::json;
use system_tests::{
    Cluster, Node, Result, Scene, Topology, check, check_equal, python_code, query_text, run_to_end, scenario,
};

const SCHEMA: &str = "
    CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE invoice (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customer ON DELETE CASCADE);
    CREATE TABLE contact (id INTEGER PRIMARY KEY, since TEXT,
        customer INTEGER REFERENCES customer ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED);
    CREATE INDEX invoice_customer ON invoice (customer); CREATE INDEX contact_customer ON contact (customer);";

/// Two nodes in step.
fn pair(scene: &Scene) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "shop", 2, Topology::Mesh)?;
    cluster.create(SCHEMA)?;
    cluster.start()?;
    cluster.settled()?;
    Ok(cluster)
}

/// Writes one transaction with foreign keys enforced, as a careful application does.
fn write(file: &Path, statements: &[&str]) -> Result {
    let mut code = "db.execute('PRAGMA foreign_keys = ON')\ndb.execute('BEGIN IMMEDIATE')\n".to_owned();
    for statement in statements {
        code.push_str(&format!("db.execute(\"{statement}\")\n"));
    }
    python_code(file, &(code + "db.execute('COMMIT')")).map(drop)
}

/// Writes without foreign keys, as many applications do.
fn write_freely(file: &Path, statement: &str) -> Result {
    python_code(file, &format!("db.execute(\"{statement}\")")).map(drop)
}

fn missing(node: &Node) -> Result<serde_json::Value> {
    Ok(node.database_status("shop")?["foreign_key_missing"].clone())
}

fn lines(node: &Node, event: &str) -> Vec<String> {
    let about = |line: &&str| line.contains(event) && line.contains("kind=foreign_key_missing");
    node.log().lines().filter(about).map(str::to_owned).collect()
}

fn lacks(scene: &Scene, node: &Node, count: u64) -> Result {
    scene.eventually("the status counts the rows without parents", || {
        check_equal!(missing(node)?["count"], count);
        Ok(())
    })
}

#[test]
fn a_row_without_its_parent_is_reported_once_until_the_parent_comes() {
    scenario(|scene| {
        let mut cluster = pair(scene)?;
        write_freely(cluster.file(0), "INSERT INTO invoice VALUES (1, 70)")?;
        cluster.settled()?;
        lacks(scene, &cluster.nodes[1], 1)?;
        let expected = json!([{"table": "invoice", "key": {"id": 1}, "parent": {"customer": {"id": 70}}}]);
        check_equal!(missing(&cluster.nodes[1])?["first"], expected);
        check_equal!(
            missing(&cluster.nodes[0])?["count"],
            0,
            "it is its own application's business where it was written"
        );
        let shown =
            run_to_end(cluster.nodes[1].command()?.args(["status", "--config", "sync-engine.toml"]))?.success()?;
        check!(shown.contains("invoice {\"id\":1} lacks {\"customer\":{\"id\":70}}"), "{shown}");
        scene.eventually("the log tells of it", || {
            check_equal!(lines(&cluster.nodes[1], "sync_error").len(), 1);
            Ok(())
        })?;
        cluster.nodes[1].stop()?;
        cluster.nodes[1].start()?;
        write_freely(cluster.file(0), "INSERT INTO contact VALUES (1, 'now', NULL)")?;
        cluster.settled()?;
        check_equal!(missing(&cluster.nodes[1])?["first"], expected);
        let told = lines(&cluster.nodes[1], "sync_error");
        check_equal!(told.len(), 1, "{told:?}");
        for part in ["database=shop", "table=invoice", "key=", "70", "reason=", "remedy="] {
            check!(told[0].contains(part), "no {part} in {}", told[0]);
        }
        write(cluster.file(0), &["INSERT INTO customer VALUES (70, 'late')"])?;
        lacks(scene, &cluster.nodes[1], 0)?;
        scene.eventually("the log says that nothing is missing", || {
            check_equal!(lines(&cluster.nodes[1], "sync_complete").len(), 1);
            Ok(())
        })
    });
}

#[test]
fn a_row_without_its_parent_is_forgotten_when_an_application_repairs_it() {
    scenario(|scene| {
        let cluster = pair(scene)?;
        write_freely(cluster.file(0), "INSERT INTO invoice VALUES (1, 70), (2, 80), (3, 90)")?;
        cluster.settled()?;
        lacks(scene, &cluster.nodes[1], 3)?;
        write_freely(cluster.file(1), "DELETE FROM invoice WHERE id = 1")?;
        lacks(scene, &cluster.nodes[1], 2)?;
        write(cluster.file(1), &["INSERT INTO customer VALUES (80, 'made up for')"])?;
        lacks(scene, &cluster.nodes[1], 1)?;
        write_freely(cluster.file(1), "UPDATE invoice SET customer = 80 WHERE id = 3")?;
        lacks(scene, &cluster.nodes[1], 0)
    });
}

#[test]
fn many_rows_without_parents_are_one_line() {
    scenario(|scene| {
        let cluster = pair(scene)?;
        let many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
                    INSERT INTO invoice SELECT i, i FROM n";
        write_freely(cluster.file(0), many)?;
        cluster.settled()?;
        lacks(scene, &cluster.nodes[1], 500)?;
        scene.eventually("the log tells of them", || {
            let told = lines(&cluster.nodes[1], "sync_error");
            check_equal!(told.len(), 1, "{told:?}");
            check!(told[0].contains("rows=500"), "{}", told[0]);
            Ok(())
        })
    });
}

#[test]
fn a_child_written_while_its_parent_was_deleted_elsewhere_is_reported_on_every_node() {
    scenario(|scene| {
        let mut cluster = pair(scene)?;
        write(cluster.file(0), &["INSERT INTO customer VALUES (1, 'one')"])?;
        cluster.settled()?;
        cluster.nodes[1].stop()?;
        write(cluster.file(0), &["DELETE FROM customer WHERE id = 1"])?;
        write(cluster.file(1), &["INSERT INTO invoice VALUES (5, 1)"])?;
        cluster.start()?;
        let rows = cluster.settled()?;
        check_equal!(
            (rows.count("customer"), rows.count("invoice")),
            (0, 1),
            "the cascade runs where the parent was deleted"
        );
        for node in &cluster.nodes {
            lacks(scene, node, 1)?;
        }
        write(cluster.file(0), &["DELETE FROM invoice WHERE id = 5"])?;
        cluster.nodes.iter().try_for_each(|node| lacks(scene, node, 0))
    });
}

#[test]
fn cascades_arrive_as_changes_and_deferred_parents_are_not_missed() {
    scenario(|scene| {
        let cluster = pair(scene)?;
        write(
            cluster.file(0),
            &[
                "INSERT INTO contact VALUES (1, 'before its parent', 1)",
                "INSERT INTO customer VALUES (1, 'one'), (2, 'two')",
                "INSERT INTO invoice VALUES (1, 1), (2, 2), (3, 1)",
            ],
        )?;
        cluster.settled()?;
        write(cluster.file(1), &["UPDATE contact SET customer = 2 WHERE id = 1", "DELETE FROM customer WHERE id = 1"])?;
        cluster.settled()?;
        check_equal!(query_text(cluster.file(0), "SELECT group_concat(id) FROM invoice")?, "2");
        write(cluster.file(0), &["DELETE FROM customer"])?;
        cluster.settled()?;
        check_equal!(query_text(cluster.file(1), "SELECT count(*) FROM invoice")?, "0");
        check_equal!(query_text(cluster.file(1), "SELECT coalesce(customer, 'none') FROM contact")?, "none");
        for node in &cluster.nodes {
            check_equal!(missing(node)?["count"], 0);
            check_equal!(node.database_status("shop")?["conflicts"], 0);
            check!(lines(node, "sync_error").is_empty(), "{}", node.log());
        }
        Ok(())
    });
}
