//! Databases in which nothing happens are closed, and are there when something does.

use std::path::Path;

use system_tests::{
    Cluster, Node, Result, Scene, Topology, check, check_equal, python_code, query_text, scenario, shell,
};

const INSERT: &str = "
for n in range(FIRST, FIRST + 10):
    db.execute('INSERT INTO note VALUES (?, ?)', (n, 'written by ' + sqlite3.sqlite_version))
    db.commit()
";

fn insert(file: &Path, first: u32) -> Result {
    python_code(file, &format!("FIRST = {first}\n{INSERT}")).map(drop)
}

fn await_closed(scene: &Scene, cluster: &Cluster) -> Result {
    scene.eventually("no file is open", || {
        for (node, file) in cluster.nodes.iter().zip(cluster.files()) {
            check!(!node.has_open(file)?, "{} is open", file.display());
        }
        Ok(())
    })
}

fn origin(node: &Node) -> Result<String> {
    Ok(node.database_status("notes")?["origin"].to_string())
}

fn come_and_go(journal: &str) {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Line)?;
        cluster.nodes.iter_mut().for_each(|node| node.setting("close_after = \"1s\""));
        cluster.create(&format!(
            "PRAGMA journal_mode = {journal}; CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)"
        ))?;
        cluster.start()?;
        insert(cluster.file(0), 1)?;
        cluster.settled()?;
        let origins = [origin(&cluster.nodes[0])?, origin(&cluster.nodes[1])?];
        await_closed(scene, &cluster)?;
        check_equal!(cluster.nodes[0].database_status("notes")?["state"], "attached");
        // Both come back, one for its application and one for its peer.
        insert(cluster.file(1), 100)?;
        cluster.settled()?;
        await_closed(scene, &cluster)?;
        // What was closed is whole whatever becomes of the daemon, and is what it was when that is back.
        cluster.nodes[0].kill()?;
        cluster.nodes[1].stop()?;
        for file in cluster.files() {
            let log = file.with_file_name("notes.db-wal");
            check!(!log.exists(), "{} is there", log.display());
        }
        shell(cluster.file(0), "UPDATE note SET body = 'meanwhile' WHERE id = 5")?;
        cluster.start()?;
        cluster.settled()?;
        await_closed(scene, &cluster)?;
        check_equal!([origin(&cluster.nodes[0])?, origin(&cluster.nodes[1])?], origins);
        let rows = query_text(cluster.file(1), "SELECT count(*), sum(body = 'meanwhile') FROM note")?;
        check_equal!(rows, "20|1");
        // It is told of each start alone.
        let starts = cluster.nodes[1].log().matches("sync_start database=notes tables=").count();
        check_equal!(starts, 2, "{}", cluster.nodes[1].log());
        Ok(())
    });
}

#[test]
fn files_with_a_write_ahead_log_are_closed_and_opened_for_whoever_comes() {
    come_and_go("WAL");
}

#[test]
fn files_with_a_rollback_journal_are_closed_and_opened_for_whoever_comes() {
    come_and_go("DELETE");
}
