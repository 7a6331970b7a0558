//! More than can be taken at once: applications that write faster than peers take it, one very large transaction, hundreds of
//! databases, a peer that stands still. Memory is bounded, applications are not told that their database is locked, and
//! databases take turns.
//!
//! `ROWS` sets how many rows the large transaction has, `DATABASES` how many databases there are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use system_tests::{
    Cluster, Failure, Node, Result, Running, Scene, Signal, Topology, check, check_equal, python_script, query_text,
    scenario, shell,
};

/// Bounds a failure where much is to be taken.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a daemon with a database or two may take, whatever they are loaded with.
const MEMORY: u64 = 200 << 20;

fn setting(name: &str, default: u32) -> Result<u32> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|error| Failure::new(format!("{name}={text}: {error}"))),
        Err(_) => Ok(default),
    }
}

fn number(file: &Path, sql: &str) -> Result<u64> {
    Ok(query_text(file, sql)?.parse()?)
}

/// Two nodes in a line, whose files have a write-ahead log or a rollback journal.
fn pair(scene: &Scene, journal: &str) -> Result<Cluster> {
    let cluster = Cluster::new(scene, "load", 2, Topology::Line)?;
    let tables = "CREATE TABLE bulk (id INTEGER PRIMARY KEY, body); CREATE TABLE small (id INTEGER PRIMARY KEY, body)";
    cluster.create(&format!("PRAGMA journal_mode = {journal}; {tables}"))?;
    Ok(cluster)
}

/// Applications that write until they are told to stop.
struct Writers {
    stop: PathBuf,
    running: Vec<Running>,
}

impl Writers {
    /// One on each of two files, transactions of `rows` rows, `pause` seconds apart.
    fn start(scene: &Scene, files: &[&Path], (table, rows): (&str, u32), pause: &str) -> Result<Self> {
        let stop = scene.path(format!("stop {table}"));
        let start = |(node, file): (usize, &&Path)| {
            let mut command = python_script("overload_writer.py");
            command.arg(file).args([table, &node.to_string(), &rows.to_string()]).arg(&stop).arg(pause);
            let outputs = scene.path(format!("writer {table} {node}"));
            std::fs::create_dir_all(&outputs)?;
            Running::start(&mut command, &outputs)
        };
        let running = files.iter().enumerate().map(start).collect::<Result<_>>()?;
        Ok(Self { stop, running })
    }

    /// What each has written; none may have found its database locked.
    fn end(self) -> Result<Vec<u64>> {
        std::fs::write(&self.stop, "")?;
        let told = self.running.into_iter().map(|writer| {
            let told: serde_json::Value = serde_json::from_str(&writer.finish(PATIENCE)?.success()?)?;
            println!("{told}");
            check_equal!(told["locked"].as_u64(), Some(0), "{told}");
            told["written"].as_u64().ok_or_else(|| Failure::new(told.to_string()))
        });
        told.collect()
    }
}

fn memory_is_bounded<'n>(nodes: impl IntoIterator<Item = &'n Node>, bound: u64) -> Result {
    for node in nodes {
        let peak = node.peak_memory()?;
        println!("node {} took {} MiB at most", node.name(), peak >> 20);
        check!(peak < bound, "node {} took {} MiB", node.name(), peak >> 20);
    }
    Ok(())
}

#[test]
fn applications_that_write_without_a_pause_are_not_told_that_the_database_is_locked() {
    scenario(|scene| {
        let mut cluster = pair(scene, "WAL")?;
        cluster.start()?;
        let bulk = Writers::start(scene, &[cluster.file(0)], ("bulk", 500), "0")?;
        let small = Writers::start(scene, &cluster.files(), ("small", 1), "0.001")?;
        scene.eventually("much is written", || {
            let bulk = number(cluster.file(0), "SELECT count(*) FROM bulk")?;
            let small = number(cluster.file(1), "SELECT count(*) FROM small WHERE id % 2 = 1")?;
            check!(bulk >= 40_000 && small >= 1_000, "{bulk} and {small} rows");
            Ok(())
        })?;
        // In the midst of it a daemon can be stopped, and goes on.
        cluster.nodes[0].stop()?;
        cluster.nodes[0].start()?;
        let written = (bulk.end()?[0], small.end()?.iter().sum::<u64>());
        let rows = cluster.settled_within(PATIENCE)?;
        check_equal!((rows.count("bulk") as u64, rows.count("small") as u64), written);
        memory_is_bounded(&cluster.nodes, MEMORY)
    });
}

fn one_large_transaction(journal: &str) {
    scenario(|scene| {
        let rows = setting("ROWS", 100_000)?;
        let mut cluster = pair(scene, journal)?;
        cluster.start()?;
        cluster.settled()?;
        shell(
            cluster.file(0),
            &format!("INSERT INTO bulk SELECT value, printf('%060d', value) FROM generate_series(1, {rows})"),
        )?;
        let small = Writers::start(scene, &cluster.files(), ("small", 1), "0.005")?;
        Scene::within(PATIENCE, "it has arrived", || {
            check_equal!(number(cluster.file(1), "SELECT count(*) FROM bulk")?, u64::from(rows));
            Ok(())
        })?;
        let written = small.end()?.iter().sum::<u64>();
        let settled = cluster.settled_within(PATIENCE)?;
        check_equal!((settled.count("bulk") as u64, settled.count("small") as u64), (u64::from(rows), written));
        memory_is_bounded(&cluster.nodes, MEMORY)
    });
}

#[test]
fn beside_a_very_large_transaction_others_go_on_with_a_write_ahead_log() {
    one_large_transaction("WAL");
}

#[test]
fn beside_a_very_large_transaction_others_go_on_with_a_rollback_journal() {
    one_large_transaction("DELETE");
}

/// Two nodes with as many databases of one table.
struct Many {
    nodes: [Node; 2],
    files: [Vec<PathBuf>; 2],
}

impl Many {
    fn start(scene: &Scene, count: u32) -> Result<Self> {
        let mut nodes = [Node::new(scene, "a")?, Node::new(scene, "b")?];
        let url = nodes[1].url();
        nodes[0].peer_url(&url);
        let names: Vec<String> = (0..count).map(|number| format!("db{number:03}")).collect();
        let files = nodes.each_mut().map(|node| names.iter().map(|name| node.database(name)).collect::<Vec<_>>());
        let make = "PRAGMA journal_mode = WAL; CREATE TABLE note (id INTEGER PRIMARY KEY, body);";
        files.iter().flatten().try_for_each(|file| shell(file, make).map(drop))?;
        nodes.iter_mut().try_for_each(Node::start)?;
        let many = Self { nodes, files };
        Scene::within(PATIENCE, "they are linked", || {
            let status = many.nodes[0].status()?;
            let shared = status["peers"][0]["databases"].as_array().map_or(0, Vec::len);
            check_equal!(shared, many.files[0].len());
            Ok(())
        })?;
        Ok(many)
    }

    /// Writes rows of `bytes` bytes into a database of the first node.
    fn write(&self, database: usize, rows: u32, bytes: u32) -> Result {
        let sql = format!("INSERT INTO note SELECT value, randomblob({bytes}) FROM generate_series(1, {rows})");
        shell(&self.files[0][database], &sql).map(drop)
    }

    /// Awaits that all databases are the same at both nodes.
    fn settled(&self) -> Result {
        for (left, right) in self.files[0].iter().zip(&self.files[1]) {
            Scene::within(PATIENCE, "the databases are equal", || {
                // Blobs without an order of their own, told by their lengths and edges.
                let sum = "SELECT count(*), sum(length(body)), total(id), group_concat(hex(substr(body, 1, 1)), '') FROM note";
                check_equal!(query_text(right, sum)?, query_text(left, sum)?, "{}", right.display());
                Ok(())
            })?;
        }
        Ok(())
    }
}

#[test]
fn a_peer_that_stands_still_takes_no_memory_whatever_waits_for_it() {
    scenario(|scene| {
        let many = Many::start(scene, 60)?;
        let [left, right] = &many.nodes;
        right.signal(Signal::Pause)?;
        for database in 0..60 {
            many.write(database, 500, 8_000)?;
        }
        scene.eventually("all is captured", || {
            for file in &many.files[0] {
                check_equal!(query_text(file, "SELECT count(*) FROM _sync_log")?, "0", "{}", file.display());
            }
            Ok(())
        })?;
        // 240 MB wait.
        memory_is_bounded([left], MEMORY)?;
        right.signal(Signal::Continue)?;
        many.settled()?;
        memory_is_bounded(&many.nodes, 2 * MEMORY)
    });
}

#[test]
fn hundreds_of_databases_take_turns() {
    scenario(|scene| {
        let count = setting("DATABASES", 120)? as usize;
        let many = Many::start(scene, u32::try_from(count)?)?;
        (0..count).try_for_each(|database| many.write(database, 20, 100))?;
        many.settled()?;
        // One has much to say; what others say does not wait for its end.
        shell(
            &many.files[0][0],
            "INSERT INTO note SELECT value, hex(randomblob(40)) FROM generate_series(1000, 120000)",
        )?;
        for database in [1, count / 2, count - 1] {
            shell(&many.files[0][database], "INSERT INTO note VALUES (100, 'here')")?;
            scene.eventually("the row arrives", || {
                check_equal!(query_text(&many.files[1][database], "SELECT body FROM note WHERE id = 100")?, "here");
                Ok(())
            })?;
        }
        let arrived = number(&many.files[1][0], "SELECT count(*) FROM note")?;
        check!(arrived < 119_021, "the large one was there first");
        many.settled()?;
        memory_is_bounded(&many.nodes, 3 * MEMORY)
    });
}
