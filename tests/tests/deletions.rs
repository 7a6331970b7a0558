//! Deletions are forgotten once all nodes know of them, or when they are old, and do not come undone.

use serde_json::json;
use system_tests::{Cluster, Result, Scene, Topology, check, check_equal, query_text, run_to_end, scenario, shell};

const SCHEMA: &str = "CREATE TABLE stock (sku INTEGER PRIMARY KEY, qty INTEGER, note TEXT);";
const FILL: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
                    INSERT INTO stock SELECT i, i, NULL FROM n";
const BURIED: &str = "SELECT count(*) FROM _sync_clock_stock WHERE flags & 2";

/// Nodes with 500 rows that look often for what can be forgotten.
fn filled(scene: &Scene, count: usize, settings: &[&str]) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "shop", count, Topology::Mesh)?;
    for node in &mut cluster.nodes {
        node.setting("upkeep_interval = \"50ms\"");
        settings.iter().for_each(|line| node.setting(line));
    }
    cluster.create(SCHEMA)?;
    shell(cluster.file(0), FILL)?;
    cluster.start()?;
    cluster.settled()?;
    Ok(cluster)
}

fn forgotten_everywhere(cluster: &Cluster, scene: &Scene) -> Result {
    scene.eventually("all nodes have forgotten the deletions", || {
        for file in cluster.files() {
            check_equal!(query_text(file, BURIED)?, "0");
        }
        Ok(())
    })
}

#[test]
fn what_all_nodes_know_is_forgotten() {
    scenario(|scene| {
        let cluster = filled(scene, 3, &[])?;
        shell(cluster.file(1), "DELETE FROM stock WHERE sku <= 400")?;
        check_equal!(cluster.settled()?.count("stock"), 100);
        forgotten_everywhere(&cluster, scene)?;
        shell(cluster.file(2), "INSERT INTO stock VALUES (7, 70, NULL); UPDATE stock SET qty = 0 WHERE sku = 450")?;
        check_equal!(cluster.settled()?.count("stock"), 101);
        for node in &cluster.nodes {
            check_equal!(node.database_status("shop")?["conflicts"], json!(0));
        }
        Ok(())
    });
}

#[test]
fn what_a_node_does_not_know_is_remembered_until_it_is_forgotten() {
    scenario(|scene| {
        let mut cluster = filled(scene, 3, &[])?;
        let away = cluster.nodes[2].name().to_owned();
        cluster.nodes[2].stop()?;
        shell(cluster.file(0), "DELETE FROM stock WHERE sku <= 10")?;
        scene.eventually("status tells who is waited for", || {
            let tombstones = &cluster.nodes[0].database_status("shop")?["tombstones"];
            check_equal!(*tombstones, json!({ "kept": 10, "waiting_for": [away] }));
            Ok(())
        })?;
        let forget = |name: &str| run_to_end(cluster.nodes[0].command()?.args(["forget", name]));
        let unknown = forget("nobody")?;
        check!(unknown.code != Some(0), "nobody is known");
        check!(unknown.stderr.contains("no database knows a node \"nobody\""), "{}", unknown.stderr);
        let own = forget(cluster.nodes[0].name())?;
        check!(own.code != Some(0) && own.stderr.contains("is this node itself; ask one of"), "{}", own.stderr);
        check_equal!(forget(&away)?.success()?.trim(), format!("1 database does not wait for {away} any more"));
        for node in &cluster.nodes[..2] {
            scene.eventually("the deletions are forgotten, the other node has been told", || {
                check_equal!(query_text(node.file(), BURIED)?, "0");
                Ok(())
            })?;
        }
        cluster.nodes[2].start()?;
        check_equal!(cluster.settled()?.count("stock"), 490);
        Ok(())
    });
}

#[test]
fn who_was_away_for_longer_than_deletions_are_remembered_brings_nothing_back() {
    scenario(|scene| {
        let mut cluster = filled(scene, 2, &["tombstone_horizon = \"1s\""])?;
        cluster.nodes[1].stop()?;
        shell(cluster.file(0), "DELETE FROM stock WHERE sku BETWEEN 100 AND 299")?;
        scene.eventually("the deletions are forgotten", || {
            check_equal!(query_text(cluster.file(0), "SELECT count(*) FROM _sync_meta WHERE key = 'dropped'")?, "1");
            check_equal!(query_text(cluster.file(0), BURIED)?, "0");
            Ok(())
        })?;
        shell(
            cluster.file(1),
            "UPDATE stock SET qty = -1 WHERE sku IN (200, 400); INSERT INTO stock VALUES (900, 9, NULL)",
        )?;
        cluster.nodes[1].start()?;
        check_equal!(cluster.settled()?.count("stock"), 301);
        let own = "SELECT group_concat(sku) FROM (SELECT sku FROM stock WHERE qty = -1 OR sku = 900 ORDER BY sku)";
        check_equal!(query_text(cluster.file(0), own)?, "400,900");
        check_equal!(cluster.nodes[1].database_status("shop")?["conflicts"], json!(1));
        Ok(())
    });
}
