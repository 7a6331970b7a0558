//! Daemons that come and go, and files that do.

use std::path::{Path, PathBuf};

use system_tests::{
    Cluster, Node, Result, Scene, Signal, Topology, check, check_equal, contents, query_text, run_to_end,
    same_contents, scenario, shell,
};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT, n INTEGER);";

/// Nodes with the table, in step.
fn running(scene: &Scene, count: usize) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "notes", count, Topology::Mesh)?;
    cluster.create(SCHEMA)?;
    cluster.start()?;
    cluster.settled()?;
    Ok(cluster)
}

fn bodies(file: &Path) -> Result<String> {
    query_text(file, "SELECT group_concat(id || '=' || body, ' ') FROM (SELECT * FROM note ORDER BY id)")
}

#[test]
fn terminate_and_interrupt_end_with_0() {
    scenario(|scene| {
        let mut cluster = running(scene, 2)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one', 1)")?;
        check_equal!(cluster.nodes[0].end(Signal::Terminate)?.code, Some(0));
        check_equal!(cluster.nodes[1].end(Signal::Interrupt)?.code, Some(0));
        cluster.start()?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(1))?, "1=one");
        Ok(())
    });
}

#[test]
fn a_daemon_without_peers_ends_with_0() {
    scenario(|scene| {
        let mut node = Node::new(scene, "alone")?;
        let file = node.database("notes");
        shell(&file, SCHEMA)?;
        node.start()?;
        scene.eventually("the database is attached", || system_tests::log_is_drained(&file))?;
        node.stop()
    });
}

#[test]
fn changes_made_while_the_daemon_is_down_are_captured_when_it_comes_back() {
    scenario(|scene| {
        let mut cluster = running(scene, 2)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', 3)")?;
        cluster.settled()?;
        cluster.nodes[0].stop()?;
        shell(
            cluster.file(0),
            "UPDATE note SET body = 'TWO' WHERE id = 2; DELETE FROM note WHERE id = 3; INSERT INTO note VALUES (4, 'four', 4)",
        )?;
        cluster.start()?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(1))?, "1=one 2=TWO 4=four");
        cluster.nodes[0].kill()?;
        shell(cluster.file(0), "DELETE FROM note WHERE id = 1")?;
        cluster.start()?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(1))?, "2=TWO 4=four");
        Ok(())
    });
}

#[test]
fn a_file_in_a_folder_that_does_not_exist_yet_is_attached_once_created() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 1, Topology::Mesh)?;
        cluster.create(SCHEMA)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one', 1)")?;
        let mut late = Node::new(scene, "late")?;
        let folder = late.path("deep/er");
        let file = folder.join("notes.db");
        late.database_at("notes", &file);
        late.peer(&cluster.nodes[0]);
        cluster.nodes.push(late);
        cluster.start()?;
        scene.eventually("the daemon says that the file is missing", || {
            let status = cluster.nodes[1].database_status("notes")?;
            check_equal!(status["state"], "missing");
            Ok(())
        })?;
        std::fs::create_dir_all(&folder)?;
        shell(&file, SCHEMA)?;
        cluster.settled()?;
        check_equal!(bodies(&file)?, "1=one");
        shell(&file, "INSERT INTO note VALUES (2, 'two', 2)")?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(0))?, "1=one 2=two");
        Ok(())
    });
}

#[test]
fn a_file_replaced_by_rename_is_followed() {
    scenario(|scene| {
        let cluster = running(scene, 2)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one', 1)")?;
        cluster.settled()?;
        let fresh = scene.path("fresh.db");
        shell(&fresh, &format!("{SCHEMA} INSERT INTO note VALUES (7, 'seven', 7)"))?;
        std::fs::rename(&fresh, cluster.file(0))?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(0))?, "1=one 7=seven");
        shell(cluster.file(0), "UPDATE note SET body = 'SEVEN' WHERE id = 7")?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(1))?, "1=one 7=SEVEN");
        Ok(())
    });
}

#[test]
fn a_file_copied_to_another_node_takes_part_as_itself() {
    scenario(|scene| {
        let mut cluster = running(scene, 2)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one', 1)")?;
        cluster.settled()?;
        cluster.stop()?;
        shell(cluster.file(0), &format!("VACUUM INTO '{}'", scene.path("copy.db").display()))?;
        let mut third = Node::new(scene, "c")?;
        std::fs::copy(scene.path("copy.db"), third.database("notes"))?;
        cluster.nodes.iter().for_each(|node| third.peer(node));
        cluster.nodes.push(third);
        for (index, id) in [(0, 10), (1, 11), (2, 12)] {
            shell(cluster.file(index), &format!("INSERT INTO note VALUES ({id}, 'own', {id})"))?;
        }
        cluster.start()?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(0))?, "1=one 10=own 11=own 12=own");
        Ok(())
    });
}

#[test]
fn an_update_revives_a_row_that_another_node_deleted_before() {
    scenario(|scene| {
        let mut cluster = running(scene, 2)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one', 1), (2, 'two', 2)")?;
        cluster.settled()?;
        cluster.nodes[1].stop()?;
        shell(cluster.file(0), "DELETE FROM note WHERE id = 1")?;
        scene.eventually("the delete is captured", || system_tests::log_is_drained(cluster.file(0)))?;
        // A process starts between the two writes, so that their times in milliseconds differ.
        shell(cluster.file(1), "UPDATE note SET body = 'newer' WHERE id = 1")?;
        cluster.start()?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(0))?, "1=newer 2=two");
        Ok(())
    });
}

#[test]
fn deletes_against_updates_on_three_parted_nodes_end_equal() {
    scenario(|scene| {
        let mut cluster = running(scene, 3)?;
        shell(
            cluster.file(0),
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60) \
             INSERT INTO note SELECT i, 'row', i FROM n",
        )?;
        cluster.settled()?;
        cluster.stop()?;
        shell(cluster.file(0), "DELETE FROM note WHERE id % 2 = 0")?;
        shell(cluster.file(1), "UPDATE note SET n = n + 1000 WHERE id % 3 = 0")?;
        shell(cluster.file(2), "UPDATE note SET id = id + 100 WHERE id % 5 = 0")?;
        cluster.start()?;
        let rows = cluster.settled()?;
        // Rows that nobody deleted or moved.
        let untouched =
            query_text(cluster.file(0), "SELECT count(*) FROM note WHERE id < 100 AND id % 2 = 1 AND id % 5 <> 0")?;
        check_equal!(untouched, "24");
        check!(rows.count("note") >= 24 + 12, "{} rows", rows.count("note"));
        Ok(())
    });
}

#[test]
fn several_databases_share_one_connection() {
    scenario(|scene| {
        let mut nodes = [Node::new(scene, "a")?, Node::new(scene, "b")?];
        let names = ["one", "two", "three"];
        for node in &mut nodes {
            for name in names {
                shell(&node.database(name), SCHEMA)?;
            }
        }
        let [a, b] = &mut nodes;
        b.peer(a);
        a.start()?;
        b.start()?;
        for (name, node) in names.iter().zip([&*a, b, a]) {
            shell(&node.path(&format!("{name}.db")), &format!("INSERT INTO note VALUES (1, '{name}', 1)"))?;
        }
        for name in names {
            let files = [a.path(&format!("{name}.db")), b.path(&format!("{name}.db"))];
            scene.eventually("the row is on both nodes", || {
                same_contents(&[&files[0], &files[1]])?;
                check_equal!(bodies(&files[0])?, format!("1={name}"));
                Ok(())
            })?;
        }
        let peers = a.status()?["peers"].as_array().map_or(0, Vec::len);
        check_equal!(peers, 1);
        Ok(())
    });
}

#[test]
fn a_writer_that_holds_the_lock_delays_and_loses_nothing() {
    scenario(|scene| {
        let cluster = running(scene, 2)?;
        let file = cluster.file(1);
        // The other node writes while this one's file is locked.
        let code =
            "import subprocess\ndb.execute('BEGIN IMMEDIATE')\ndb.execute(\"INSERT INTO note VALUES (2, 'b', 2)\")\n";
        let other = format!(
            "subprocess.run(['sqlite3', '-cmd', '.timeout 30000', {:?}, \"INSERT INTO note VALUES (1, 'a', 1)\"], check=True)\n",
            cluster.file(0)
        );
        system_tests::python_code(file, &format!("{code}{other}db.execute('COMMIT')"))?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(0))?, "1=a 2=b");
        check_equal!(contents(file)?.count("note"), 2);
        Ok(())
    });
}

/// While the daemon was down somebody put an older state of the file back, into the same file.
#[test]
fn an_older_state_of_a_file_gets_a_new_origin_and_back_what_it_lacks() {
    scenario(|scene| {
        let mut cluster = running(scene, 2)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one', 1)")?;
        cluster.settled()?;
        let backup = scene.path("backup.db");
        shell(cluster.file(0), &format!(".backup '{}'", backup.display()))?;
        shell(cluster.file(0), "INSERT INTO note VALUES (2, 'two', 2), (3, 'three', 3)")?;
        cluster.settled()?;
        let origin = cluster.nodes[0].database_status("notes")?["origin"].clone();
        cluster.nodes[0].stop()?;
        // Not a new file: the same one with the old content.
        std::fs::write(cluster.file(0), std::fs::read(&backup)?)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (4, 'four', 4)")?;
        cluster.nodes[0].start()?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(1))?, "1=one 2=two 3=three 4=four");
        check!(cluster.nodes[0].database_status("notes")?["origin"] != origin, "the origin is still {origin}");
        Ok(())
    });
}

/// A snapshot of the machine comes back, the state folder in it: only peers can tell. Meanwhile a program writes.
#[test]
fn a_machine_that_is_brought_back_from_a_snapshot_loses_nothing() {
    scenario(|scene| {
        let mut cluster = running(scene, 2)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one', 1)")?;
        cluster.settled()?;
        let origin = cluster.nodes[0].database_status("notes")?["origin"].clone();
        cluster.nodes[0].stop()?;
        let state = std::fs::read_dir(cluster.nodes[0].path("state"))?.map(|file| Ok(file?.path()));
        let files: Vec<PathBuf> = state.chain([Ok(cluster.file(0).to_owned())]).collect::<Result<_>>()?;
        let snapshot: Vec<Vec<u8>> = files.iter().map(std::fs::read).collect::<std::io::Result<_>>()?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO note VALUES (2, 'two', 2), (3, 'three', 3), (4, 'four', 4)")?;
        cluster.settled()?;
        cluster.stop()?;
        files.iter().zip(&snapshot).try_for_each(|(file, bytes)| std::fs::write(file, bytes))?;
        cluster.nodes[0].start()?;
        shell(cluster.file(0), "INSERT INTO note VALUES (5, 'five', 5)")?;
        scene.eventually("it is captured", || system_tests::log_is_drained(cluster.file(0)))?;
        check_equal!(cluster.nodes[0].database_status("notes")?["origin"], origin);
        cluster.start()?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(1))?, "1=one 2=two 3=three 4=four 5=five");
        check!(cluster.nodes[0].database_status("notes")?["origin"] != origin, "the origin is still {origin}");
        // It goes on, over a restart too.
        cluster.nodes[0].stop()?;
        shell(cluster.file(0), "DELETE FROM note WHERE id > 3")?;
        cluster.start()?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(1))?, "1=one 2=two 3=three");
        Ok(())
    });
}

#[test]
fn a_file_that_is_detached_under_the_daemon_stays_detached() {
    scenario(|scene| {
        let cluster = running(scene, 2)?;
        let node = &cluster.nodes[0];
        let run = |word: &str| run_to_end(node.command()?.arg(word).arg(node.file()))?.success();
        let ours = "SELECT count(*) FROM sqlite_schema WHERE name GLOB '_sync_*'";
        run("detach")?;
        scene.eventually("the status says so", || {
            let status = node.database_status("notes")?;
            check_equal!(status["state"], "failed");
            check!(status["errors"][0].as_str().is_some_and(|error| error.starts_with("detached")), "{status}");
            Ok(())
        })?;
        check_equal!(query_text(node.file(), ours)?, "0");
        shell(node.file(), "INSERT INTO note VALUES (1, 'one', 1)")?;
        run("attach")?;
        cluster.settled()?;
        check_equal!(bodies(cluster.file(1))?, "1=one");
        Ok(())
    });
}

/// The log that the daemon leaves open must not be read into a file that another program puts in the place of this one.
#[test]
fn a_file_in_wal_mode_can_be_replaced_while_nobody_writes() {
    scenario(|scene| {
        let cluster = running(scene, 2)?;
        shell(cluster.file(0), "PRAGMA journal_mode = WAL; INSERT INTO note VALUES (1, 'one', 1)")?;
        cluster.settled()?;
        let wal = cluster.file(0).with_extension("db-wal");
        scene.eventually("the write-ahead log is folded", || {
            check!(std::fs::metadata(&wal).map_or(0, |found| found.len()) == 0, "it is not empty");
            Ok(())
        })?;
        let fresh = scene.path("fresh.db");
        shell(
            &fresh,
            &format!(
                "PRAGMA journal_mode = WAL; {SCHEMA} WITH RECURSIVE n (i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n \
                 WHERE i < 3000) INSERT INTO note SELECT i, 'new ' || i, i FROM n"
            ),
        )?;
        std::fs::rename(&fresh, cluster.file(0))?;
        let rows = cluster.settled()?;
        check_equal!(rows.count("note"), 2992);
        Ok(())
    });
}

#[test]
fn two_nodes_of_one_name_are_told_and_do_not_spin() {
    scenario(|scene| {
        let mut hub = Node::new(scene, "hub")?;
        shell(&hub.database("notes"), SCHEMA)?;
        hub.start()?;
        let mut twins = Vec::new();
        for folder in ["first", "second"] {
            let mut twin = Node::new(scene, folder)?;
            twin.rename("twin");
            shell(&twin.database("notes"), SCHEMA)?;
            twin.peer(&hub);
            twin.start()?;
            twins.push(twin);
        }
        scene.eventually("the hub says that two nodes bear one name", || {
            check!(hub.log().contains("kind=duplicate_node node=twin"), "{}", hub.log());
            Ok(())
        })?;
        scene.eventually("a twin waits with growing pauses", || {
            let log = twins.iter().map(Node::log).collect::<String>();
            check!(log.contains("sync_retry") && log.contains("rename one"), "{log}");
            Ok(())
        })?;
        let met = hub.log().matches("peer_connected").count();
        check!(met < 40, "they met {met} times");
        Ok(())
    });
}
