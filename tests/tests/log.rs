//! The log as it is promised: new files when their time has come, and no more than are to be kept; one object a line in JSON; what repeats
//! is said once; and sync goes on while the log cannot be written.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value as Json;
use system_tests::{
    Cluster, DiskFault, Machine, Node, Result, Scene, Signal, Topology, check, check_equal, query_text, run_to_end,
    scenario, shell, sync_engine,
};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)";
const NAME: &str = "synchronization.log";

fn node(scene: &Scene, settings: &[&str]) -> Result<Node> {
    let mut node = Node::new(scene, "a")?;
    shell(&node.database("notes"), SCHEMA)?;
    settings.iter().for_each(|line| node.log_setting(line));
    Ok(node)
}

fn files(node: &Node) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(node.path("logs"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn current(node: &Node) -> Result<String> {
    Ok(std::fs::read_to_string(node.path("logs").join(NAME))?)
}

/// The lines of the current file, each an object.
fn objects(node: &Node) -> Result<Vec<Json>> {
    current(node)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn a_new_file_is_begun_by_the_hour_and_the_oldest_go() {
    scenario(|scene| {
        let mut node = node(scene, &["rotation = \"hourly\"", "keep = 3"])?;
        let machine = Machine::new(scene, "a")?;
        machine.carries(&mut node);
        // In the middle of an hour.
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let ahead = |hours: u64| machine.clock_ahead(Duration::from_secs(3_600 * hours + 5_400 - now % 3_600));
        ahead(0)?;
        node.start()?;
        std::fs::write(node.path("logs").join("synchronization.log.old"), "not the daemon's")?;
        let mut before = BTreeSet::from([String::new()]);
        for hours in 1..=4 {
            ahead(hours)?;
            node.signal(Signal::HangUp)?;
            before = scene.eventually("the line is in a file of its own", || {
                let lines = current(&node)?;
                let now: BTreeSet<String> = lines.lines().filter_map(|line| Some(line.get(..13)?.to_owned())).collect();
                check!(now.len() == 1 && now != before && lines.contains("config_reload"), "{lines}");
                Ok(now)
            })?;
        }
        let names = files(&node)?;
        let dated: Vec<&String> = names.iter().filter(|name| name.contains(".20")).collect();
        check_equal!(dated.len(), 2, "{names:?}");
        for name in &dated {
            let lines = std::fs::read_to_string(node.path("logs").join(name))?;
            let hour = name.strip_prefix("synchronization.log.").unwrap_or_default();
            check!(
                lines.lines().all(|line| line.starts_with(hour)) && lines.contains("config_reload"),
                "{name}: {lines}"
            );
        }
        check!(names.contains(&"synchronization.log.old".to_owned()) && names.len() == 4, "{names:?}");
        // A start goes on in the file of its hour.
        node.stop()?;
        node.start()?;
        check_equal!(files(&node)?, names);
        node.stop()
    });
}

#[test]
fn json_is_one_object_a_line_with_the_names_of_the_text() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        cluster.nodes.iter_mut().for_each(|node| node.log_setting("level = \"debug\""));
        cluster.nodes[1].log_setting("format = \"json\"");
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'a \"quoted\" text'), (2, 'line' || char(10) || 'break')")?;
        shell(cluster.file(1), "INSERT INTO note VALUES (3, 'three')")?;
        cluster.settled()?;
        let name = |line: &Json| line["event"].as_str().unwrap_or_default().to_owned();
        scene.eventually("both have told of a row", || {
            let lines = objects(&cluster.nodes[1])?;
            check!(lines.iter().any(|line| name(line) == "insert"), "{lines:?}");
            check!(cluster.nodes[0].log().contains(" insert "), "{}", cluster.nodes[0].log());
            Ok(())
        })?;
        for line in objects(&cluster.nodes[1])? {
            let fields = line.as_object().into_iter().flat_map(|line| line.keys()).take(3).map(String::as_str);
            check_equal!(fields.collect::<Vec<_>>(), ["time", "level", "event"]);
        }
        // The fields of an event are the same in both.
        let text = cluster.nodes[0].log();
        for event in ["insert", "peer_connected", "sync_complete"] {
            let json = objects(&cluster.nodes[1])?.into_iter().find(|line| name(line) == event).unwrap_or_default();
            let Some(line) = text.lines().find(|line| line.split(' ').nth(2) == Some(event)) else {
                system_tests::fail!("no {event} in {text}")
            };
            for key in json.as_object().into_iter().flat_map(|line| line.keys()).skip(3) {
                check!(line.contains(&format!(" {key}=")), "{key} of {json} is not in {line}");
            }
        }
        Ok(())
    });
}

/// A peer at whose address something else answers is dialled again and again.
#[test]
fn a_peer_that_cannot_be_reached_is_told_once_while_it_is_dialled_again() {
    scenario(|scene| {
        let mut node = node(scene, &["level = \"info\""])?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        node.peer_url(&format!("ws://{}", listener.local_addr()?));
        node.start()?;
        for _ in 0..6 {
            // It hangs up at once.
            drop(listener.accept()?);
        }
        let log = node.log();
        let told = log.lines().filter(|line| line.contains("sync_retry")).count();
        check!((1..=2).contains(&told), "{told} times: {log}");
        node.stop()
    });
}

#[test]
fn sync_goes_on_while_the_disk_under_the_log_is_full_and_the_log_says_what_it_lacks() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Mesh)?;
        cluster.create(SCHEMA)?;
        let machine = Machine::new(scene, "b")?;
        machine.carries(&mut cluster.nodes[1]);
        cluster.nodes[1].log_setting("level = \"debug\"");
        cluster.nodes[1].log_setting("format = \"json\"");
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one')")?;
        cluster.settled()?;
        machine.disk(DiskFault::Full, NAME)?;
        // More lines than may wait to be written.
        shell(cluster.file(0), "INSERT INTO note SELECT value, 'much' FROM generate_series(10, 20000)")?;
        shell(cluster.file(1), "INSERT INTO note VALUES (2, 'two')")?;
        check_equal!(cluster.settled()?.count("note"), 19_993);
        machine.disk(DiskFault::Full, "")?;
        shell(cluster.file(0), "INSERT INTO note VALUES (3, 'three')")?;
        cluster.settled()?;
        scene.eventually("the log goes on", || {
            let lines = objects(&cluster.nodes[1])?;
            let lost = lines.iter().filter_map(|line| line["lines_lost"].as_u64()).sum::<u64>();
            check!(lost >= 19_991, "{lost} lines are said to be lost");
            check!(lines.iter().any(|line| line["key"] == "{\"id\":3}"), "the new row is not told");
            Ok(())
        })?;
        let complaints = std::fs::read_to_string(cluster.nodes[1].path("daemon.stderr"))?;
        check_equal!(complaints.matches("lines of the log are lost").count(), 1, "{complaints}");
        cluster.stop()
    });
}

#[test]
fn a_log_file_that_is_moved_or_removed_is_begun_anew() {
    scenario(|scene| {
        let mut node = node(scene, &[])?;
        node.start()?;
        let path = node.path("logs").join(NAME);
        let comes_back = |node: &Node, path: &Path| {
            scene.eventually("the file is there again", || {
                node.signal(Signal::HangUp)?;
                check!(std::fs::read_to_string(path)?.contains("config_reload"), "nothing is in it");
                Ok(())
            })
        };
        std::fs::rename(&path, node.path("logs").join("put away"))?;
        comes_back(&node, &path)?;
        std::fs::remove_dir_all(node.path("logs"))?;
        comes_back(&node, &path)?;
        node.stop()
    });
}

#[test]
fn a_log_that_cannot_be_written_from_the_start_is_an_error() {
    scenario(|scene| {
        let file = scene.path("notes.db");
        shell(&file, SCHEMA)?;
        std::fs::write(scene.path("logs"), "no folder")?;
        let mut run = std::process::Command::new(sync_engine()?);
        let refused = run_to_end(run.current_dir(scene.path("")).args(["run", "notes.db", "--listen", "127.0.0.1:0"]))?;
        check_equal!(refused.code, Some(74));
        check!(refused.stderr.contains("set log.directory to a folder that this user may write"), "{}", refused.stderr);
        check_equal!(query_text(&file, "SELECT count(*) FROM sqlite_schema WHERE name GLOB '_sync*'")?, "0");
        Ok(())
    });
}
