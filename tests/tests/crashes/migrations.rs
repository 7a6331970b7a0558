//! While the schema changes: under the daemon's eyes, and by `sync-engine migrate`.

use system_tests::{
    Cluster, Crash, Crasher, Node, Result, Scene, Topology, check, check_equal, query_text, run_to_end, scenario, shell,
};

use super::load::{self, Load};
use crate::{crash_after, is_sound, nothing_went_wrong, origins_are_kept, seed};

pub(crate) const POINTS: [&str; 10] = [
    "lift-before-commit",
    "lift-committed",
    "migration-before-commit",
    "migration-committed",
    "reattach-attached",
    "reattach-begun",
    "unlift-before-commit",
    "unlift-committed",
    "waiting-before-commit",
    "waiting-committed",
];

const REBUILD: &str = "BEGIN IMMEDIATE; CREATE TABLE note_new (id INTEGER PRIMARY KEY, body TEXT); \
    INSERT INTO note_new SELECT id, body || '!' FROM note WHERE id <> (SELECT max(id) FROM note); \
    DROP TABLE note; ALTER TABLE note_new RENAME TO note; COMMIT;";

/// Two nodes in step, each with another journal, with rows that no writer touches.
fn in_step(scene: &Scene) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "crash", 2, Topology::Mesh)?;
    cluster.create(&format!("{} CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);", load::SCHEMA))?;
    shell(cluster.file(0), "PRAGMA journal_mode = WAL")?;
    cluster.start()?;
    shell(cluster.file(0), "INSERT INTO note SELECT value, 'note ' || value FROM generate_series(1, 100)")?;
    cluster.settled()?;
    Ok(cluster)
}

fn at(name: &'static str) -> Crash {
    Crash::Point(name, 1)
}

fn rebuilt(cluster: &Cluster, file: usize) -> Result<String> {
    query_text(cluster.file(file), "SELECT count(*), max(id), max(body) FROM note")
}

/// Rows wait for a table that a migration makes later.
fn wait_for_a_table(scene: &Scene, cluster: &Cluster, name: &str) -> Result {
    let table = format!("CREATE TABLE {name} (id INTEGER PRIMARY KEY, body TEXT)");
    shell(cluster.file(0), &format!("{table}; INSERT INTO {name} VALUES (1, 'one'), (2, 'two'), (3, 'three')"))?;
    scene.eventually("the rows wait", || {
        check_equal!(cluster.nodes[1].database_status("crash")?["parked"], 3);
        Ok(())
    })?;
    shell(cluster.file(1), &table).map(drop)
}

#[test]
fn a_daemon_is_killed_while_it_follows_a_migration() {
    scenario(|scene| {
        let crasher = Crasher::new(scene);
        let mut cluster = in_step(scene)?;
        let writers = Load::start(scene, &cluster.nodes, seed()?)?;
        for (index, name) in [(0, "reattach-begun"), (1, "reattach-attached")] {
            let index_of = format!("CREATE INDEX note_{index} ON note (body)");
            crash_after(&crasher, &mut cluster, index, &at(name), |cluster| {
                shell(cluster.file(index), &index_of).map(drop)
            })?;
        }
        for (index, name) in [(0, "migration-before-commit"), (1, "migration-committed")] {
            crash_after(&crasher, &mut cluster, index, &at(name), |cluster| {
                shell(cluster.file(index), REBUILD).map(drop)
            })?;
            let expected = rebuilt(&cluster, index)?;
            scene.eventually("the other node has what the migration wrote", || {
                check_equal!(rebuilt(&cluster, 1 - index)?, expected);
                Ok(())
            })?;
        }
        check_equal!(rebuilt(&cluster, 0)?, "98|98|note 98!!");
        for name in ["waiting-before-commit", "waiting-committed"] {
            let table = name.replace('-', "_");
            crash_after(&crasher, &mut cluster, 1, &at(name), |cluster| wait_for_a_table(scene, cluster, &table))?;
            scene.eventually("what waited is there", || {
                check_equal!(query_text(cluster.file(1), &format!("SELECT count(*) FROM {table}"))?, "3");
                Ok(())
            })?;
        }
        let written = writers.end()?;
        check_equal!(cluster.settled()?.count("waiting_committed"), 3);
        cluster.files().into_iter().try_for_each(|file| written.is_in(file))?;
        load::nothing_is_recorded(&cluster)?;
        nothing_went_wrong(&cluster, &["schema_mismatch"])?;
        origins_are_kept(&cluster)?;
        cluster.stop()
    });
}

/// `sync-engine migrate` with a command that writes a row; it dies at a place, and the triggers come back all the same. Whether the
/// command was run.
fn migrate(scene: &Scene, crasher: &Crasher, node: &Node, name: &'static str) -> Result<bool> {
    const TRIGGERS: &str = "SELECT group_concat(name) FROM sqlite_schema WHERE type = 'trigger' ORDER BY name";
    let before = query_text(node.file(), TRIGGERS)?.len();
    let sql = format!("UPDATE note SET body = '{name}' WHERE id = 7");
    let mut command = node.command()?;
    command.envs(crasher.variables(&at(name))?).arg("migrate").arg(node.file()).args(["--", "sqlite3", "-bail"]);
    let finished = run_to_end(command.args(["-cmd", ".timeout 30000"]).arg(node.file()).arg(sql))?;
    check_equal!(finished.signal, Some(at(name).signal()), "{name}: {}", finished.stderr);
    is_sound(node.file())?;
    if !node.is_running() {
        run_to_end(node.command()?.arg("attach").arg(node.file()))?.success()?;
    }
    scene.eventually("the triggers are back", || {
        check_equal!(query_text(node.file(), TRIGGERS)?.len(), before);
        Ok(())
    })?;
    Ok(query_text(node.file(), "SELECT body FROM note WHERE id = 7")? == name)
}

/// Each time beside a daemon, and where none runs.
#[test]
fn a_migration_is_killed_while_it_lifts_the_triggers_or_puts_them_back() {
    scenario(|scene| {
        let crasher = Crasher::new(scene);
        let mut cluster = in_step(scene)?;
        for index in [0, 1] {
            if index == 1 {
                cluster.nodes[1].stop()?;
            }
            let node = &cluster.nodes[index];
            check!(!migrate(scene, &crasher, node, "lift-before-commit")?, "the command was run");
            check!(!migrate(scene, &crasher, node, "lift-committed")?, "the command was run");
            check!(migrate(scene, &crasher, node, "unlift-before-commit")?, "the command was not run");
            check!(migrate(scene, &crasher, node, "unlift-committed")?, "the command was not run");
            cluster.start()?;
            cluster.settled()?;
            let other = cluster.file(1 - index);
            check_equal!(query_text(other, "SELECT body FROM note WHERE id = 7")?, "unlift-committed");
            shell(other, "UPDATE note SET body = 'again' WHERE id = 7")?;
            cluster.settled()?;
        }
        load::nothing_is_recorded(&cluster)?;
        nothing_went_wrong(&cluster, &[])?;
        origins_are_kept(&cluster)?;
        cluster.stop()
    });
}
