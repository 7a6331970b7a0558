//! Counters of tables that migrations rebuild while programs count in them and daemons run.

use system_tests::{
    Cluster, DEADLINE, Result, Running, Scene, Topology, check_equal, python_script, query_text, scenario, shell,
};

const COUNTS: usize = 300;
const REBUILDS: usize = 14;

/// Starts the writer of a node.
fn writer(scene: &Scene, cluster: &Cluster, node: usize, what: &str, times: usize) -> Result<Running> {
    let mut command = python_script("count_writer.py");
    command.arg(cluster.file(node)).arg(what).arg(times.to_string());
    Running::start(&mut command, &scene.path(format!("{what}-{node}")))
}

/// Both nodes rebuild the table again and again while both count: the triggers are gone each time until the daemon notices,
/// and what is counted meanwhile is in no log.
#[test]
fn every_count_that_was_committed_counts_once_whoever_rebuilds_the_table_meanwhile() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "tally", 2, Topology::Line)?;
        for node in &mut cluster.nodes {
            node.database_setting("[[database.table]]\nname = \"t\"\ncolumns.n = { policy = \"counter\" }");
        }
        cluster.create("PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, n)")?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO t VALUES (1, 100)")?;
        cluster.settled()?;
        let mut writers = Vec::new();
        for node in 0..2 {
            writers.push(writer(scene, &cluster, node, "count", COUNTS)?);
            writers.push(writer(scene, &cluster, node, "rebuild", REBUILDS)?);
        }
        for writer in writers {
            writer.finish(DEADLINE)?.success()?;
        }
        cluster.settled()?;
        check_equal!(query_text(cluster.file(0), "SELECT id, n FROM t")?, format!("1|{}", 100 + 2 * COUNTS));
        cluster.stop()
    });
}
