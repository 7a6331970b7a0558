//! The databases: those that come, those that go, and those of which something else is said.

use std::path::Path;

use system_tests::{
    Cluster, Failure, Result, Scene, check, check_equal, python_code, query_text, same_contents, scenario, shell,
    while_locked,
};

use crate::{SCHEMA, changed, links_stand, running, still_in_step, told};

/// Awaits that two files hold the same rows, so many of them.
fn in_step(scene: &Scene, files: [&Path; 2], rows: usize) -> Result {
    scene.eventually("both files hold the rows", || {
        same_contents(&files)?;
        check_equal!(query_text(files[0], "SELECT count(*) FROM note")?, rows.to_string());
        Ok(())
    })
}

#[test]
fn databases_come_and_go_beside_those_that_stay() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        for node in &mut cluster.nodes {
            shell(&node.database("extra"), SCHEMA)?;
            changed(&node.reload()?, "database.extra")?;
        }
        let files = [cluster.nodes[0].path("extra.db"), cluster.nodes[1].path("extra.db")];
        let files = [files[0].as_path(), files[1].as_path()];
        shell(files[0], "INSERT INTO note VALUES (1, 'one')")?;
        in_step(scene, files, 1)?;
        // What is written while a node does not sync it is sent later.
        cluster.nodes[0].without_database();
        changed(&cluster.nodes[0].reload()?, "database.extra")?;
        check_equal!(told(&cluster.nodes[0], "sync_complete database=extra reason="), 1);
        check!(cluster.nodes[0].database_status("extra").is_err(), "it is still there");
        shell(files[0], "INSERT INTO note VALUES (2, 'two'); DELETE FROM note WHERE id = 1")?;
        shell(files[1], "INSERT INTO note VALUES (3, 'three')")?;
        still_in_step(&cluster, 1)?;
        check_equal!(query_text(files[0], "SELECT count(*) FROM _sync_log")?, "2");
        cluster.nodes[0].database("extra");
        changed(&cluster.nodes[0].reload()?, "database.extra")?;
        in_step(scene, files, 2)?;
        links_stand(&cluster)?;
        for node in &cluster.nodes {
            check_equal!(told(node, "sync_start database=notes tables=1"), 1);
        }
        Ok(())
    });
}

/// Lets both nodes write one row while they do not know of each other; what is in it then on both.
fn conflict(scene: &Scene, cluster: &mut Cluster) -> Result<String> {
    let [a, b] = &mut cluster.nodes[..] else { unreachable!() };
    b.without_peer(a);
    changed(&b.reload()?, "peers")?;
    scene.eventually("they are parted", || {
        check_equal!(a.status()?["peers"].as_array().map(Vec::len), Some(0));
        Ok(())
    })?;
    for node in [&*a, &*b] {
        shell(node.file(), &format!("UPDATE note SET body = '{}' WHERE id = 1", node.name()))?;
        scene.eventually("it is captured", || system_tests::log_is_drained(node.file()))?;
    }
    b.peer(a);
    changed(&b.reload()?, "peers")?;
    cluster.settled()?;
    let body = query_text(cluster.file(0), "SELECT body FROM note WHERE id = 1")?;
    shell(cluster.file(0), "UPDATE note SET body = '' WHERE id = 1")?;
    cluster.settled()?;
    Ok(body)
}

#[test]
fn a_policy_that_changed_decides_the_next_conflict() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, '')")?;
        cluster.settled()?;
        check_equal!(conflict(scene, &mut cluster)?, "b");
        for node in &mut cluster.nodes {
            node.database_setting("policy = \"first-write-wins\"");
            changed(&node.reload()?, "database.notes.policy")?;
        }
        cluster.settled()?;
        check_equal!(conflict(scene, &mut cluster)?, "a");
        Ok(())
    });
}

#[test]
fn another_selection_and_other_names_count_from_the_reload_on() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        let more = "CREATE TABLE log (id INTEGER PRIMARY KEY, line TEXT); CREATE TABLE tag (id INTEGER PRIMARY KEY, word TEXT);";
        shell(cluster.file(0), more)?;
        shell(cluster.file(1), &more.replace("TABLE tag", "TABLE label"))?;
        cluster.nodes[1].database_setting("exclude = [\"log\"]");
        cluster.nodes[1].database_setting("key_ranges = 2");
        cluster.nodes[1].database_setting("[[database.table]]\nname = \"label\"\nremote_name = \"tag\"");
        let keys = "database.notes.table,database.notes.exclude,database.notes.key_ranges";
        changed(&cluster.nodes[1].reload()?, keys)?;
        shell(cluster.file(0), "INSERT INTO log VALUES (1, 'mine'); INSERT INTO tag VALUES (1, 'red')")?;
        scene.eventually("what is synced is there under its name", || {
            check_equal!(query_text(cluster.file(1), "SELECT word FROM label")?, "red");
            check_equal!(cluster.nodes[1].database_status("notes")?["passed_on"], 1);
            Ok(())
        })?;
        check_equal!(query_text(cluster.file(1), "SELECT count(*) FROM log")?, "0");
        links_stand(&cluster)
    });
}

#[test]
fn another_file_is_synced_and_the_one_before_left_alone() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one')")?;
        cluster.settled()?;
        let before = cluster.file(1).to_owned();
        let other = scene.path("other.db");
        shell(&other, &format!("{SCHEMA} INSERT INTO note VALUES (2, 'two')"))?;
        cluster.nodes[1].without_database();
        cluster.nodes[1].database_at("notes", &other);
        changed(&cluster.nodes[1].reload()?, "database.notes.path")?;
        check_equal!(cluster.settled()?.count("note"), 2);
        shell(&before, "INSERT INTO note VALUES (3, 'three')")?;
        still_in_step(&cluster, 10)?;
        check_equal!(query_text(cluster.file(0), "SELECT count(*) FROM note WHERE id = 3")?, "0");
        check_equal!(query_text(&before, "SELECT count(*) FROM _sync_log")?, "1");
        links_stand(&cluster)
    });
}

#[test]
fn a_database_is_closed_and_started_although_another_program_holds_its_lock() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        let file = cluster.file(1).to_owned();
        while_locked(scene, &file, "INSERT INTO note VALUES (1, 'held')", || {
            let node = &mut cluster.nodes[1];
            node.database_setting("exclude = [\"scratch\"]");
            changed(&node.reload()?, "database.notes.exclude")?;
            check_equal!(node.database_status("notes")?["state"], "opening");
            shell(cluster.file(0), "INSERT INTO note VALUES (2, 'meanwhile')").map(drop)
        })?;
        check_equal!(cluster.settled()?.count("note"), 2);
        links_stand(&cluster)
    });
}

const ROWS: usize = 60_000;

/// What is staged of it is kept.
#[test]
fn a_long_catch_up_goes_on_after_reloads_in_its_middle() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        for node in &mut cluster.nodes {
            node.setting("max_batch_rows = 500");
            changed(&node.reload()?, "max_batch_rows")?;
        }
        shell(
            cluster.file(0),
            &format!("INSERT INTO note SELECT value, printf('%0200d', value) FROM generate_series(1, {ROWS})"),
        )?;
        let mut before = 0;
        for reloaded in [1, 0, 1] {
            before = scene.eventually("more of it is staged", || {
                let staged = cluster.nodes[1].staged()?;
                check!(staged > before + (64 << 10), "{staged} bytes");
                Ok(staged)
            })?;
            let node = &mut cluster.nodes[reloaded];
            let skew = |seconds: usize| format!("max_clock_skew = \"{seconds}s\"");
            let reloads = told(node, "config_reload");
            node.without_setting(&skew(30 + reloads - 1));
            node.setting(&skew(30 + reloads));
            changed(&node.reload()?, "max_clock_skew")?;
        }
        check_equal!(cluster.settled()?.count("note"), ROWS);
        links_stand(&cluster)
    });
}

const WRITE: &str = "
import time
for step in range(200):
    db.execute('BEGIN IMMEDIATE')
    for row in range(5):
        db.execute('INSERT INTO note VALUES (?, ?)', (first + step * 5 + row, 'x' * 200))
    db.execute('COMMIT')
    time.sleep(0.01)
";

#[test]
fn what_is_written_while_databases_are_closed_and_started_arrives() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        let files = [cluster.file(0).to_owned(), cluster.file(1).to_owned()];
        let write = |file: &Path, first: usize| python_code(file, &format!("first = {first}\n{WRITE}"));
        std::thread::scope(|scope| -> Result {
            let writers = [scope.spawn(|| write(&files[0], 1)), scope.spawn(|| write(&files[1], 100_001))];
            for round in 0..12 {
                for node in &mut cluster.nodes {
                    node.without_setting(&format!("max_batch_rows = {}", 99 + round));
                    node.setting(&format!("max_batch_rows = {}", 100 + round));
                    changed(&node.reload()?, "max_batch_rows")?;
                }
            }
            for writer in writers {
                writer.join().map_err(|_| Failure::new("a writer panicked"))??;
            }
            Ok(())
        })?;
        check_equal!(cluster.settled()?.count("note"), 2_000);
        links_stand(&cluster)?;
        for node in &cluster.nodes {
            check_equal!(node.database_status("notes")?["conflicts"], 0);
        }
        Ok(())
    });
}
