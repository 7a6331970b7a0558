//! What a restored database has in common with its peers: nothing is used twice, nothing comes back that was deleted, and what it lacks is
//! given back.

use std::path::Path;

use system_tests::{
    Cluster, Failure, Node, Result, Running, Scene, Topology, check, check_equal, log_is_drained, python_script,
    query_text, run_to_end, same_contents, scenario, shell,
};

use super::super::{back_up, run};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);";

fn bodies(file: &Path) -> Result<String> {
    query_text(file, "SELECT group_concat(id || '=' || body, ' ') FROM (SELECT * FROM note ORDER BY id)")
}

/// Two nodes in step, with three rows.
fn in_step(scene: &Scene, journal: &str) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "notes", 2, Topology::Mesh)?;
    // Deletions are forgotten soon.
    cluster.nodes.iter_mut().for_each(|node| node.setting("upkeep_interval = \"50ms\""));
    cluster.create(&format!("PRAGMA journal_mode = {journal}; {SCHEMA}"))?;
    cluster.start()?;
    shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one'), (2, 'two'), (3, 'three')")?;
    cluster.settled()?;
    Ok(cluster)
}

fn restore(scene: &Scene, database: &Path, backup: &Path) -> Result<String> {
    let (database, backup) = (database.display().to_string(), backup.display().to_string());
    run(scene, &["restore", &database, &backup])?.success()
}

/// Awaits that nobody remembers a deletion.
fn forgotten(scene: &Scene, cluster: &Cluster) -> Result {
    scene.eventually("the deletions are forgotten", || {
        for file in cluster.files() {
            check_equal!(query_text(file, "SELECT count(*) FROM _sync_clock_note WHERE flags & 2")?, "0");
        }
        Ok(())
    })
}

fn no_conflicts(cluster: &Cluster) -> Result {
    no_conflicts_of(cluster, "notes")
}

fn no_conflicts_of(cluster: &Cluster, database: &str) -> Result {
    for node in &cluster.nodes {
        check_equal!(node.database_status(database)?["conflicts"], 0, "{}", node.name());
    }
    Ok(())
}

/// Both write and delete after the backup; one is restored.
fn what_was_written_and_deleted_since(journal: &'static str) {
    scenario(|scene| {
        let mut cluster = in_step(scene, journal)?;
        let backup = back_up(scene, cluster.file(0))?;
        let origin = cluster.nodes[0].database_status("notes")?["origin"].clone();
        shell(
            cluster.file(0),
            "DELETE FROM note WHERE id = 1; INSERT INTO note VALUES (4, 'four'); UPDATE note SET body = 'TWO' WHERE id = 2",
        )?;
        cluster.settled()?;
        shell(cluster.file(1), "DELETE FROM note WHERE id = 3; INSERT INTO note VALUES (5, 'five')")?;
        cluster.settled()?;
        cluster.nodes[0].stop()?;
        let told = restore(scene, cluster.file(0), &backup)?;
        check!(told.contains("it takes a new origin"), "{told}");
        check_equal!(bodies(cluster.file(0))?, "1=one 2=two 3=three");
        // Before it meets a peer again.
        shell(cluster.file(0), "INSERT INTO note VALUES (6, 'six')")?;
        cluster.start()?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(0))?, "2=TWO 4=four 5=five 6=six");
        check!(cluster.nodes[0].database_status("notes")?["origin"] != origin, "the origin is still {origin}");
        check!(cluster.nodes[0].log().contains("the file was restored from a backup"), "{}", cluster.nodes[0].log());
        no_conflicts(&cluster)?;
        // It goes on under that origin.
        let now = cluster.nodes[0].database_status("notes")?["origin"].clone();
        cluster.nodes[0].stop()?;
        shell(cluster.file(0), "DELETE FROM note WHERE id = 2")?;
        cluster.start()?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(1))?, "4=four 5=five 6=six");
        check_equal!(cluster.nodes[0].database_status("notes")?["origin"], now);
        Ok(())
    });
}

#[test]
fn what_was_written_and_deleted_since_comes_back_with_a_write_ahead_log() {
    what_was_written_and_deleted_since("WAL");
}

#[test]
fn what_was_written_and_deleted_since_comes_back_with_a_rollback_journal() {
    what_was_written_and_deleted_since("DELETE");
}

/// Nothing tells but the file's own mark where the state folder went with the disk.
fn takes_a_new_origin(keeps_state: bool) {
    scenario(|scene| {
        let mut cluster = in_step(scene, "WAL")?;
        let backup = back_up(scene, cluster.file(0))?;
        let origin = cluster.nodes[0].database_status("notes")?["origin"].clone();
        shell(cluster.file(0), "INSERT INTO note VALUES (4, 'four'), (5, 'five')")?;
        cluster.settled()?;
        cluster.stop()?;
        if !keeps_state {
            std::fs::remove_dir_all(cluster.nodes[0].path("state"))?;
        }
        restore(scene, cluster.file(0), &backup)?;
        // More than what was lost, so that peers cannot tell by numbers.
        for id in 10..16 {
            shell(cluster.file(0), &format!("INSERT INTO note VALUES ({id}, 'since')"))?;
        }
        cluster.nodes[0].start()?;
        scene.eventually("it is captured", || log_is_drained(cluster.file(0)))?;
        check!(cluster.nodes[0].database_status("notes")?["origin"] != origin, "the origin is still {origin}");
        cluster.start()?;
        check_equal!(cluster.settled()?.count("note"), 11);
        no_conflicts(&cluster)
    });
}

#[test]
fn a_restored_file_takes_a_new_origin() {
    takes_a_new_origin(true);
}

#[test]
fn a_restored_file_takes_a_new_origin_also_where_the_state_folder_is_lost() {
    takes_a_new_origin(false);
}

/// The peer is away when it is restored, and meets it later; a third node is made from the same backup.
#[test]
fn a_backup_is_restored_while_peers_are_away_and_on_another_node() {
    scenario(|scene| {
        let mut cluster = in_step(scene, "DELETE")?;
        let backup = back_up(scene, cluster.file(1))?;
        shell(cluster.file(1), "DELETE FROM note WHERE id = 1; INSERT INTO note VALUES (4, 'four')")?;
        cluster.settled()?;
        forgotten(scene, &cluster)?;
        cluster.stop()?;
        restore(scene, cluster.file(0), &backup)?;
        let mut third = Node::new(scene, "c")?;
        let file = third.database("notes");
        restore(scene, &file, &backup)?;
        check_equal!(bodies(&file)?, "1=one 2=two 3=three");
        cluster.nodes.iter().for_each(|node| third.peer(node));
        cluster.nodes.push(third);
        for (index, id) in [(0, 10), (2, 12)] {
            shell(cluster.file(index), &format!("INSERT INTO note VALUES ({id}, 'own')"))?;
        }
        cluster.nodes[0].start()?;
        cluster.nodes[2].start()?;
        scene.eventually("the two are in step", || same_contents(&[cluster.file(0), cluster.file(2)]).map(drop))?;
        cluster.start()?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(0))?, "2=two 3=three 4=four 10=own 12=own");
        no_conflicts(&cluster)
    });
}

/// The copy is made while a program writes and the daemon captures.
#[test]
fn a_copy_of_a_database_in_use_is_restored_and_converges() {
    scenario(|scene| {
        for journal in ["WAL", "DELETE"] {
            let mut cluster = Cluster::new(scene, &format!("pair{journal}"), 2, Topology::Mesh)?;
            let tables = "CREATE TABLE one (id INTEGER PRIMARY KEY, n, filling BLOB); CREATE TABLE two (id INTEGER PRIMARY KEY, n, filling BLOB);";
            cluster.create(&format!("PRAGMA journal_mode = {journal}; {tables}"))?;
            cluster.start()?;
            let stop = scene.path(format!("stop {journal}"));
            let mut writer = python_script("pair_writer.py");
            let writer =
                Running::start(writer.arg(cluster.file(0)).arg(&stop), &scene.path(format!("writer{journal}")))?;
            let count = |file: &Path| -> Result<u64> { Ok(query_text(file, "SELECT count(*) FROM one")?.parse()?) };
            scene.eventually("rows arrive", || {
                check!(count(cluster.file(1))? > 100, "too few");
                Ok(())
            })?;
            let backup = back_up(scene, cluster.file(0))?;
            let then = count(&backup)?;
            scene.eventually("more rows arrive", || {
                check!(count(cluster.file(1))? > then + 100, "too few");
                Ok(())
            })?;
            std::fs::write(&stop, "")?;
            writer.finish(system_tests::DEADLINE)?.success()?;
            let rows = cluster.settled()?;
            cluster.nodes[0].stop()?;
            restore(scene, cluster.file(0), &backup)?;
            check_equal!(count(cluster.file(0))?, then);
            cluster.start()?;
            let now = cluster.settled()?;
            check!(now == rows, "{} rows are {} now", rows.rows(), now.rows());
            cluster.stop()?;
            for node in ["a", "b"] {
                std::fs::remove_dir_all(scene.path(node))?;
            }
        }
        Ok(())
    });
}

/// As the timer calls it: with the daemon's configuration, while the daemon runs.
#[test]
fn the_configuration_of_the_daemon_says_what_is_backed_up() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        let file = node.database("notes");
        shell(&file, SCHEMA)?;
        node.start()?;
        node.environment("SYNC_ENGINE_BACKUP_ROOT", &scene.path("backups").display().to_string());
        let made = run_to_end(node.command()?.arg("backup").arg("--config").arg(node.config_file()))?.success()?;
        check!(made.starts_with("notes: ") && made.contains("/backups/notes/notes-20"), "{made}");
        let listed = run_to_end(node.command()?.args(["backup", "--list", "--check"]))?.success()?;
        check!(listed.contains("checksum right"), "{listed}");
        let refused = run_to_end(node.command()?.args(["restore", "notes", "latest"]))?;
        check_equal!(refused.code, Some(1));
        let daemon = format!("pid {}, a sync-engine daemon: ", node.pid()?);
        check!(refused.stderr.contains(&daemon), "{}", refused.stderr);
        node.stop()?;
        run_to_end(node.command()?.args(["restore", "notes", "latest"]))?.success()?;
        node.start()
    });
}

/// What waited for capture in the copy would be counted again by the restored file: the copy is of a moment at which nothing waits.
#[test]
fn what_a_counter_counted_when_the_copy_was_made_is_not_counted_twice() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "stock", 2, Topology::Mesh)?;
        for node in &mut cluster.nodes {
            node.database_setting("[[database.table]]\nname = \"item\"\ncolumns.qty = { policy = \"counter\" }");
        }
        cluster
            .create("PRAGMA journal_mode = WAL; CREATE TABLE item (id INTEGER PRIMARY KEY, qty INTEGER, note TEXT);")?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO item VALUES (1, 0, 'a'), (2, 20, 'b')")?;
        cluster.settled()?;
        let stop = scene.path("stop");
        let code = format!(
            "import os\nn = 0\nwhile not os.path.exists({:?}):\n    n += 1\n    db.execute('UPDATE item SET qty = qty + 1 WHERE id = 1')\n\
             print(n)",
            stop.display().to_string()
        );
        let qty = |file: &Path| -> Result<u64> { Ok(query_text(file, "SELECT qty FROM item WHERE id = 1")?.parse()?) };
        let file = cluster.file(0).to_owned();
        let counted = std::thread::scope(|scope| -> Result<String> {
            let writer = scope.spawn(|| system_tests::python_code(&file, &code));
            let made = (|| {
                scene.eventually("it counts", || {
                    check!(qty(cluster.file(1))? > 20, "too little");
                    Ok(())
                })?;
                let backup = back_up(scene, &file)?;
                let then = qty(&backup)?;
                scene.eventually("it counts on", || {
                    check!(qty(cluster.file(1))? > then + 20, "too little");
                    Ok(())
                })?;
                Ok::<_, Failure>(backup)
            })();
            std::fs::write(&stop, "")?;
            let counted = writer.join().map_err(|_| Failure::new("the writer panicked"))??;
            let backup = made?;
            cluster.settled()?;
            cluster.nodes[0].stop()?;
            restore(scene, &file, &backup)?;
            Ok(counted)
        })?;
        cluster.start()?;
        cluster.settled()?;
        check_equal!(qty(cluster.file(1))?.to_string(), counted.trim());
        no_conflicts_of(&cluster, "stock")?;
        // Without a daemon there is no such moment, and it is said.
        cluster.stop()?;
        shell(cluster.file(0), "UPDATE item SET note = 'x'")?;
        let told = run(scene, &["backup", &file.display().to_string()])?;
        check!(
            told.code == Some(0) && told.stderr.contains("2 changes in it had not been captured"),
            "{}",
            told.stderr
        );
        Ok(())
    });
}

/// Once all nodes know of a deletion nobody remembers it: a backup from before it brings nothing back all the same. On both sides rows are
/// written before the restored node meets its peers.
fn what_nobody_remembers(nodes: usize, state_is_lost: bool) {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", nodes, Topology::Mesh)?;
        cluster.nodes.iter_mut().for_each(|node| node.setting("upkeep_interval = \"50ms\""));
        cluster.create(SCHEMA)?;
        // Rows that nothing was written to since, and rows that have a history.
        shell(cluster.file(0), "INSERT INTO note SELECT value, 'baseline' FROM generate_series(1, 20)")?;
        cluster.start()?;
        cluster.settled()?;
        shell(cluster.file(0), "INSERT INTO note SELECT value, 'row' FROM generate_series(21, 100)")?;
        shell(cluster.file(1), "INSERT INTO note SELECT value, 'row' FROM generate_series(101, 150)")?;
        cluster.settled()?;
        let backup = back_up(scene, cluster.file(0))?;
        shell(cluster.file(0), "DELETE FROM note WHERE id % 3 = 0; UPDATE note SET body = 'new' WHERE id % 7 = 1")?;
        cluster.settled()?;
        shell(cluster.file(1), "DELETE FROM note WHERE id % 5 = 0")?;
        let before = cluster.settled()?;
        forgotten(scene, &cluster)?;
        cluster.nodes[0].stop()?;
        if state_is_lost {
            std::fs::remove_dir_all(cluster.nodes[0].path("state"))?;
        }
        restore(scene, cluster.file(0), &backup)?;
        check_equal!(query_text(cluster.file(0), "SELECT count(*) FROM note")?, "150");
        shell(cluster.file(0), "INSERT INTO note VALUES (1000, 'here')")?;
        shell(cluster.file(1), "INSERT INTO note VALUES (1001, 'there')")?;
        cluster.start()?;
        let after = cluster.settled()?;
        check_equal!(after.count("note"), before.count("note") + 2);
        let differing: Vec<String> = system_tests::differences(&before, &after);
        check!(differing.iter().all(|line| line.contains("100")), "{differing:?}");
        no_conflicts(&cluster)
    });
}

#[test]
fn deletions_that_nobody_remembers_are_not_undone_between_two_nodes() {
    what_nobody_remembers(2, false);
}

#[test]
fn deletions_that_nobody_remembers_are_not_undone_between_three_nodes() {
    what_nobody_remembers(3, false);
}

#[test]
fn deletions_that_nobody_remembers_are_not_undone_where_the_state_folder_is_lost() {
    what_nobody_remembers(2, true);
}
