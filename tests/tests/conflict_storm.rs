//! Three nodes that write the same few rows while daemons are stopped and killed: nothing that was committed is lost
//! without a record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value as Json;
use system_tests::{
    Cluster, Failure, Result, Running, Scene, Topology, check, check_equal, fail, python_script, query_text, scenario,
    shell,
};

const NODES: usize = 3;
const ROUNDS: usize = 5;
/// Transactions of each node before, and again while, the daemons of a round come back.
const CHANGES: usize = 80;
/// For the writers, and again for the files to become equal.
const DEADLINE: Duration = Duration::from_secs(120);
/// Chooses the changes and the interruptions.
const SEED_VARIABLE: &str = "SYNC_ENGINE_TEST_SEED";
const DEFAULT_SEED: u64 = 20_261_125;

/// Tables of rows that are inserted, changed and deleted; each is merged by another rule.
const TABLES: [&str; 5] = ["item", "card", "claim", "rank", "peak"];
const SETTINGS: &str = r#"
[[database.table]]
name = "card"
granularity = "row"
[[database.table]]
name = "claim"
policy = "first-write-wins"
[[database.table]]
name = "rank"
policy = "origin-priority"
priority = ["b", "a"]
[[database.table]]
name = "peak"
policy = "max"
[[database.table]]
name = "tally"
columns.n = { policy = "counter" }
columns.tags = { policy = "union" }
"#;
/// What has to be met for a storm to be one.
const KINDS: [&str; 6] = [
    "insert_exists",
    "update_origin_differs",
    "update_deleted",
    "delete_origin_differs",
    "unique_exists",
    "multiple_unique_conflicts",
];

/// What all writers committed.
#[derive(Default)]
struct Told {
    written: BTreeSet<String>,
    replaced: BTreeSet<String>,
    added: BTreeSet<String>,
    /// The sum of what was counted, by row.
    counted: BTreeMap<String, i64>,
}

impl Told {
    fn hear(&mut self, line: &str) -> Result {
        let told: Json = serde_json::from_str(line)?;
        let texts = |name: &str| {
            let list = told[name].as_array().cloned().unwrap_or_default();
            list.into_iter().filter_map(|text| text.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        self.written.extend(texts("written"));
        self.replaced.extend(texts("replaced"));
        self.added.extend(texts("added"));
        for (row, amount) in told["counted"].as_object().into_iter().flatten() {
            let amount = amount.as_i64().ok_or_else(|| Failure::new(format!("no amount in {line}")))?;
            *self.counted.entry(row.clone()).or_default() += amount;
        }
        Ok(())
    }
}

/// The seed of this run, printed so that a failure can be repeated.
fn seed() -> Result<u64> {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().map_err(|error| Failure::new(format!("{SEED_VARIABLE}={text}: {error}")))?,
        Err(_) => DEFAULT_SEED,
    };
    println!("{SEED_VARIABLE}={seed}");
    Ok(seed)
}

/// Three nodes in step, with the rows in which they will count.
fn in_step(scene: &Scene, topology: Topology) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "storm", NODES, topology)?;
    cluster.nodes.iter_mut().for_each(|node| node.database_setting(SETTINGS));
    let mut schema = "CREATE TABLE tally (id INTEGER PRIMARY KEY, n INTEGER, note TEXT, tags TEXT);".to_owned();
    for table in TABLES {
        let columns = "(id INTEGER PRIMARY KEY, code TEXT UNIQUE, slot INTEGER UNIQUE, body TEXT, note TEXT)";
        let _ = write!(schema, "CREATE TABLE {table} {columns};");
    }
    cluster.create(&schema)?;
    for (file, mode) in cluster.files().into_iter().zip(["WAL", "DELETE", "WAL"]) {
        shell(file, &format!("PRAGMA journal_mode = {mode}"))?;
    }
    cluster.start()?;
    shell(
        cluster.file(0),
        "INSERT INTO tally VALUES (0, 0, '', '[]'), (1, 0, '', '[]'), (2, 0, '', '[]'), (3, 0, '', '[]')",
    )?;
    cluster.settled()?;
    Ok(cluster)
}

/// Starts a writer on each node.
fn writers(scene: &Scene, cluster: &Cluster, seed: u64, wave: usize) -> Result<Vec<Running>> {
    let start = |node: &system_tests::Node| {
        let mut command = python_script("storm_writer.py");
        command.arg(node.file()).arg(node.name()).arg(seed.to_string());
        command.args([(wave * CHANGES).to_string(), CHANGES.to_string()]);
        Running::start(&mut command, &scene.path(format!("writer-{}-{wave}", node.name())))
    };
    cluster.nodes.iter().map(start).collect()
}

fn hear_all(told: &mut Told, writers: Vec<Running>) -> Result {
    for writer in writers {
        writer.finish(DEADLINE)?.success()?.lines().try_for_each(|line| told.hear(line))?;
    }
    Ok(())
}

/// Lets all nodes write, first while one or two daemons are down, then while these come back.
fn storm(scene: &Scene, cluster: &mut Cluster, seed: u64) -> Result<Told> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut told = Told::default();
    for round in 0..ROUNDS {
        let mut order: Vec<usize> = (0..NODES).collect();
        random.shuffle(&mut order);
        cluster.nodes[order[0]].kill()?;
        // Two that are down leave all three alone.
        if round % 2 == 0 {
            cluster.nodes[order[1]].stop()?;
        }
        hear_all(&mut told, writers(scene, cluster, seed, 2 * round)?)?;
        let meanwhile = writers(scene, cluster, seed, 2 * round + 1)?;
        cluster.start()?;
        hear_all(&mut told, meanwhile)?;
    }
    Ok(told)
}

/// The texts of all rows; the same on every node once the cluster has settled.
fn final_texts(cluster: &Cluster) -> Result<String> {
    let mut texts = query_text(cluster.file(0), "SELECT note, tags FROM tally")?;
    for table in TABLES {
        texts.push_str(&query_text(cluster.file(0), &format!("SELECT body, note FROM {table}"))?);
    }
    Ok(texts)
}

/// What the records of all nodes keep.
#[derive(Default)]
struct Records {
    kinds: BTreeSet<String>,
    /// The texts that lost.
    discarded: BTreeSet<String>,
}

impl Records {
    fn read(cluster: &Cluster) -> Result<Self> {
        let mut records = Self::default();
        for file in cluster.files() {
            for line in query_text(file, "SELECT kind, outcome, record FROM _sync_conflict")?.lines() {
                let mut fields = line.splitn(3, '|').map(str::to_owned);
                let (Some(kind), Some(outcome), Some(record)) = (fields.next(), fields.next(), fields.next()) else {
                    fail!("no record: {line}")
                };
                records.kinds.insert(kind);
                records.take(&outcome, &serde_json::from_str(&record)?);
            }
        }
        Ok(records)
    }

    /// The loser's columns in conflict, or its whole row; of a merge each side has lost some of the columns in conflict.
    fn take(&mut self, outcome: &str, record: &Json) {
        let columns = record["columns"].as_array().cloned().unwrap_or_default();
        let sides = if outcome == "merge" { &["loser", "winner"][..] } else { &["loser"] };
        for (column, value) in sides.iter().filter_map(|side| record[side]["row"].as_object()).flatten() {
            let lost = columns.is_empty() || columns.contains(&column.as_str().into());
            self.discarded.extend(value.as_str().filter(|_| lost).map(str::to_owned));
        }
    }
}

/// Awaits the end of a storm, equal and sound files, and looks for everything that was committed.
fn nothing_is_lost_without_a_record(topology: Topology) {
    scenario(|scene| {
        let seed = seed()?;
        let mut cluster = in_step(scene, topology)?;
        let told = storm(scene, &mut cluster, seed)?;
        cluster.settled_within(DEADLINE)?;
        let (rows, records) = (final_texts(&cluster)?, Records::read(&cluster)?);

        let sums = query_text(cluster.file(0), "SELECT id, n FROM tally ORDER BY id")?;
        let counted: Vec<String> = told.counted.iter().map(|(row, sum)| format!("{row}|{sum}")).collect();
        check_equal!(sums, counted.join("\n"), "what was counted with seed {seed}");
        let gone: Vec<&String> = told.added.iter().filter(|text| !rows.contains(*text)).collect();
        check!(gone.is_empty(), "{} of {} members are gone with seed {seed}: {gone:?}", gone.len(), told.added.len());

        let discarded: Vec<&String> =
            told.written.difference(&told.replaced).filter(|text| !rows.contains(*text)).collect();
        let silent: Vec<&&String> = discarded.iter().filter(|text| !records.discarded.contains(**text)).collect();
        check!(
            silent.is_empty(),
            "{} of {} discarded values are in no record with seed {seed}: {silent:?}",
            silent.len(),
            discarded.len()
        );
        check!(discarded.len() > CHANGES, "only {} values were discarded with seed {seed}", discarded.len());
        for kind in KINDS {
            check!(records.kinds.contains(kind), "no {kind} with seed {seed}");
        }
        cluster.stop()
    });
}

#[test]
fn every_value_that_a_storm_discards_in_a_mesh_is_in_a_record() {
    nothing_is_lost_without_a_record(Topology::Mesh);
}

#[test]
fn every_value_that_a_storm_discards_along_a_line_is_in_a_record() {
    nothing_is_lost_without_a_record(Topology::Line);
}
