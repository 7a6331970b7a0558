//! SIGHUP: what differs in the configuration is changed while the daemon runs, and nothing else is touched.

mod reload {
    mod databases;
    mod settings;
}

use system_tests::{Cluster, Node, Result, Scene, Topology, check, check_equal, shell};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);";

/// Two nodes in step; the second dials the first.
fn running(scene: &Scene) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "notes", 2, Topology::Star)?;
    cluster.create(SCHEMA)?;
    cluster.start()?;
    cluster.settled()?;
    Ok(cluster)
}

/// How often a text stands in a node's log.
fn told(node: &Node, text: &str) -> usize {
    node.log().matches(text).count()
}

/// All links are those that were there from the start.
fn links_stand(cluster: &Cluster) -> Result {
    for node in &cluster.nodes {
        check_equal!((told(node, "peer_connected"), told(node, "peer_lost")), (1, 0), "node {}", node.name());
    }
    Ok(())
}

/// A reload has changed just these keys.
fn changed(line: &str, keys: &str) -> Result {
    check!(line.contains("outcome=applied") && line.contains(&format!("changed={keys} ")), "{line}");
    Ok(())
}

/// Writes a row on each node and awaits it on both.
fn still_in_step(cluster: &Cluster, id: usize) -> Result {
    shell(cluster.file(0), &format!("INSERT INTO note VALUES ({id}, 'a')"))?;
    shell(cluster.file(1), &format!("INSERT INTO note VALUES ({}, 'b')", id + 1))?;
    cluster.settled().map(drop)
}
