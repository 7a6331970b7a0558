//! `sync-engine migrate`: a migration with the triggers lifted, beside a running daemon and without one.

use std::path::Path;
use std::process::Command;

use system_tests::{
    Cluster, Node, Result, Running, Scene, Signal, Topology, check, check_equal, query_text, run_to_end, scenario,
    shell,
};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, place TEXT); \
    CREATE INDEX stock_qty ON stock (qty); CREATE TABLE place (name TEXT PRIMARY KEY, code TEXT UNIQUE);";

const DROP_COLUMN: &str = "ALTER TABLE stock DROP COLUMN place";

/// Two nodes in step, with some rows.
fn stocked(scene: &Scene) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
    cluster.create(SCHEMA)?;
    cluster.start()?;
    shell(
        cluster.file(0),
        "INSERT INTO stock VALUES ('A', 1, 'x'), ('B', 2, 'y'), ('C', 3, 'x'); INSERT INTO place VALUES ('x', '1')",
    )?;
    cluster.settled()?;
    Ok(cluster)
}

/// `sync-engine migrate` on a node's file, with the words of a command.
fn migrate(node: &Node, words: &[&str]) -> Result<Command> {
    let mut command = node.command()?;
    command.arg("migrate").arg(node.file()).arg("--").args(words);
    Ok(command)
}

fn migrate_sql(node: &Node, sql: &str) -> Result<String> {
    let file = node.file().to_string_lossy();
    run_to_end(&mut migrate(node, &["sqlite3", "-bail", "-cmd", ".timeout 30000", &file, sql])?)?.success()
}

fn triggers(file: &Path) -> Result<String> {
    query_text(
        file,
        "SELECT group_concat(name) FROM (SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY 1)",
    )
}

/// A migration that waits in its middle, with a file `started` in the node's folder, until there is a file `go`.
fn start_waiting(scene: &Scene, node: &Node, then: &str) -> Result<Running> {
    let code = format!(
        "import os, sqlite3, time\nopen('started', 'w').close()\n\
         while not os.path.exists('go'): time.sleep(0.01)\n\
         db = sqlite3.connect({:?}, timeout=30, isolation_level=None)\n{then}\nopen('done', 'w').close()",
        node.file()
    );
    let running = Running::start(&mut migrate(node, &["python3", "-c", &code])?, &node.path("migrate"))?;
    scene.eventually("the command runs", || {
        check!(node.path("started").exists(), "{}", running.complaints());
        Ok(())
    })?;
    Ok(running)
}

fn await_state(scene: &Scene, node: &Node, state: &str) -> Result {
    scene.eventually("the database's state", || {
        check_equal!(node.database_status("shop")?["state"], state);
        Ok(())
    })
}

#[test]
fn a_column_is_dropped_on_one_node_after_the_other_while_rows_are_written() {
    scenario(|scene| {
        let cluster = stocked(scene)?;
        check!(shell(cluster.file(0), DROP_COLUMN).is_err(), "a trigger names the column");
        migrate_sql(&cluster.nodes[0], &format!("{DROP_COLUMN}; UPDATE place SET code = '10'"))?;
        shell(cluster.file(1), "UPDATE stock SET qty = 20 WHERE sku = 'B'; INSERT INTO stock VALUES ('D', 4, 'z')")?;
        shell(cluster.file(0), "DELETE FROM stock WHERE sku = 'C'")?;
        migrate_sql(&cluster.nodes[1], DROP_COLUMN)?;
        cluster.settled()?;
        let rows = "SELECT group_concat(sku || qty, ' ') FROM (SELECT * FROM stock ORDER BY sku)";
        check_equal!(query_text(cluster.file(0), rows)?, "A1 B20 D4");
        check_equal!(query_text(cluster.file(1), "SELECT code FROM place")?, "10");
        for (node, other) in [(0, 1), (1, 0)] {
            shell(cluster.file(node), &format!("INSERT INTO stock VALUES ('new {node}', 1)"))?;
            scene.eventually("what is written afterwards arrives", || {
                let arrived = format!("SELECT count(*) FROM stock WHERE sku = 'new {node}'");
                check_equal!(query_text(cluster.file(other), &arrived)?, "1");
                Ok(())
            })?;
        }
        // The migration wrote no row of the table: it does not rival what was written on the other node meanwhile.
        check_equal!(query_text(cluster.file(1), "SELECT count(*) FROM _sync_conflict")?, "0");
        Ok(())
    });
}

/// What was written under the old name, on a node that renames it later, is there under the new one.
#[test]
fn a_table_is_renamed_as_old_tools_do_and_its_rows_are_said_anew() {
    scenario(|scene| {
        let cluster = stocked(scene)?;
        for node in &cluster.nodes {
            migrate_sql(node, "PRAGMA legacy_alter_table = ON; ALTER TABLE place RENAME TO location")?;
        }
        cluster.settled()?;
        check_equal!(cluster.nodes[0].database_status("shop")?["conflicts"], 0);
        shell(cluster.file(1), "INSERT OR REPLACE INTO location VALUES ('y', '1')")?;
        cluster.settled()?;
        check_equal!(query_text(cluster.file(0), "SELECT group_concat(name) FROM location")?, "y");
        Ok(())
    });
}

#[test]
fn the_exit_code_is_the_commands_and_the_triggers_come_back_whatever_it_is() {
    scenario(|scene| {
        let cluster = stocked(scene)?;
        let (node, file) = (&cluster.nodes[0], cluster.file(0));
        let before = triggers(file)?;
        let failing = run_to_end(&mut migrate(node, &["sh", "-c", "echo said; echo complained >&2; exit 7"])?)?;
        check_equal!((failing.code, failing.stdout.as_str()), (Some(7), "said\n"));
        check!(failing.stderr.starts_with("complained\n"), "{}", failing.stderr);
        check_equal!(triggers(file)?, before);
        check_equal!(run_to_end(&mut migrate(node, &["sh", "-c", "kill -9 $$"])?)?.code, Some(137));
        check_equal!(triggers(file)?, before);
        let missing = run_to_end(&mut migrate(node, &["/nowhere/tool"])?)?;
        check_equal!(missing.code, Some(74));
        check!(missing.stderr.contains("cannot run /nowhere/tool"), "{}", missing.stderr);
        check_equal!(triggers(file)?, before);
        shell(file, "UPDATE stock SET qty = 9")?;
        cluster.settled().map(drop)
    });
}

#[test]
fn the_daemon_leaves_the_file_alone_while_a_migration_runs() {
    scenario(|scene| {
        let cluster = stocked(scene)?;
        let node = &cluster.nodes[0];
        let running = start_waiting(scene, node, "db.execute('ALTER TABLE stock DROP COLUMN place')")?;
        await_state(scene, node, "migrating")?;
        check_equal!(node.get("/healthz")?.status, 200);
        check!(!node.log().contains("sync_error"), "{}", node.log());
        let second = run_to_end(&mut migrate(node, &["true"])?)?;
        check_equal!(second.code, Some(74));
        check!(second.stderr.contains("a migration runs on the file"), "{}", second.stderr);
        // Nothing logs what an application writes meanwhile, and nothing of it is lost.
        shell(node.file(), "DELETE FROM stock WHERE sku = 'A'; UPDATE stock SET qty = 30 WHERE sku = 'C'")?;
        std::fs::write(node.path("go"), "")?;
        running.finish(system_tests::DEADLINE)?.success()?;
        await_state(scene, node, "attached")?;
        migrate_sql(&cluster.nodes[1], DROP_COLUMN)?;
        cluster.settled()?;
        let rows = "SELECT group_concat(sku || qty, ' ') FROM (SELECT * FROM stock ORDER BY sku)";
        check_equal!(query_text(cluster.file(1), rows)?, "B2 C30");
        Ok(())
    });
}

#[test]
fn a_signal_reaches_the_command_and_the_triggers_come_back() {
    scenario(|scene| {
        let cluster = stocked(scene)?;
        let node = &cluster.nodes[0];
        let before = triggers(node.file())?;
        let ended = start_waiting(scene, node, "")?.end_with(Signal::Terminate)?;
        check_equal!(ended.code, Some(128 + 15));
        check_equal!(triggers(node.file())?, before);
        await_state(scene, node, "attached")
    });
}

/// The command goes on without `sync-engine migrate`, and keeps the triggers lifted until it ends.
#[test]
fn a_migration_whose_sync_engine_is_killed_is_made_good_by_the_daemon() {
    scenario(|scene| {
        let cluster = stocked(scene)?;
        let node = &cluster.nodes[0];
        let before = triggers(node.file())?;
        let work = "db.execute('ALTER TABLE stock DROP COLUMN place')\n\
                    db.execute(\"UPDATE stock SET qty = 5 WHERE sku = 'A'\")";
        start_waiting(scene, node, work)?.kill()?;
        let refused = run_to_end(node.command()?.arg("attach").arg(node.file()))?;
        check!(refused.stderr.contains("a migration runs on the file"), "{}", refused.stderr);
        await_state(scene, node, "migrating")?;
        std::fs::write(node.path("go"), "")?;
        scene.eventually("the daemon puts the triggers back", || {
            check!(node.path("done").exists(), "the command has not ended well");
            check_equal!(triggers(node.file())?, before);
            Ok(())
        })?;
        migrate_sql(&cluster.nodes[1], DROP_COLUMN)?;
        cluster.settled()?;
        check_equal!(query_text(cluster.file(1), "SELECT qty FROM stock WHERE sku = 'A'")?, "5");
        Ok(())
    });
}

#[test]
fn a_migration_without_a_daemon_is_sent_when_there_is_one() {
    scenario(|scene| {
        let mut cluster = stocked(scene)?;
        cluster.stop()?;
        for node in &cluster.nodes {
            migrate_sql(node, &format!("{DROP_COLUMN}; UPDATE stock SET qty = qty * 10"))?;
        }
        migrate_sql(&cluster.nodes[0], "INSERT INTO stock VALUES ('Z', 26); DELETE FROM stock WHERE sku = 'B'")?;
        cluster.start()?;
        cluster.settled()?;
        let rows = "SELECT group_concat(sku || qty, ' ') FROM (SELECT * FROM stock ORDER BY sku)";
        check_equal!(query_text(cluster.file(1), rows)?, "A10 C30 Z26");
        Ok(())
    });
}

#[test]
fn a_file_that_is_not_attached_or_not_there_yet_is_migrated_as_it_is() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        let file = node.database("shop");
        let path = file.to_string_lossy();
        let made = run_to_end(&mut migrate(&node, &["sqlite3", &path, SCHEMA])?)?;
        check!(made.stderr.contains("not attached, nothing to lift"), "{}", made.stderr);
        made.success()?;
        check_equal!(query_text(&file, "SELECT count(*) FROM stock")?, "0");
        Ok(())
    });
}

/// In a line the ends hear of each other's tables by way of the middle only.
#[test]
fn what_waits_for_a_column_that_every_node_of_a_line_dropped_is_forgotten() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 3, Topology::Line)?;
        cluster.create(SCHEMA)?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1, 'x'), ('B', 2, 'y')")?;
        cluster.settled()?;
        let parked = |node: usize, expected: u64| {
            scene.eventually("the status tells how many rows wait", || {
                check_equal!(cluster.nodes[node].database_status("shop")?["parked"].as_u64(), Some(expected));
                Ok(())
            })
        };
        migrate_sql(&cluster.nodes[1], DROP_COLUMN)?;
        shell(cluster.file(0), "UPDATE stock SET place = 'z', qty = 9 WHERE sku = 'A'")?;
        parked(1, 1)?;
        scene.eventually("the middle passes on what it has no place for", || {
            check_equal!(query_text(cluster.file(2), "SELECT place FROM stock WHERE sku = 'A'")?, "z");
            Ok(())
        })?;
        migrate_sql(&cluster.nodes[0], DROP_COLUMN)?;
        shell(cluster.file(2), "UPDATE stock SET place = 'w' WHERE sku = 'B'")?;
        parked(0, 1)?;
        parked(1, 2)?;
        migrate_sql(&cluster.nodes[2], DROP_COLUMN)?;
        (0..3).try_for_each(|node| parked(node, 0))?;
        for (node, line) in [
            (0, "no node has any more is forgotten"),
            (1, "no node has any more is forgotten"),
            (1, "sync_complete kind=schema_mismatch"),
            (1, "the table is the same on both sides now"),
        ] {
            scene.eventually("the log tells that it is over", || {
                let log = cluster.nodes[node].log();
                check!(log.contains(line), "{line:?} is not in the log: {log}");
                Ok(())
            })?;
        }
        for file in cluster.files() {
            shell(file, "ALTER TABLE stock ADD COLUMN place TEXT")?;
        }
        cluster.settled()?;
        check_equal!(query_text(cluster.file(1), "SELECT count(place) || ' ' || sum(qty) FROM stock")?, "0 11");
        Ok(())
    });
}
