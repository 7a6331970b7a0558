//! Random operations on three nodes at once while daemons are stopped, killed and started again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use system_tests::{Cluster, Failure, Result, Running, Scene, Topology, check, fail, python_script, scenario, shell};

const NODES: usize = 3;
/// Operations of each node's writer.
const OPERATIONS: usize = 10_000;
/// How many times a daemon is ended or started while they write.
const INTERRUPTIONS: usize = 14;
/// For the writers, and again for the files to become equal.
const DEADLINE: Duration = Duration::from_secs(240);
/// Chooses the operations and the interruptions.
const SEED_VARIABLE: &str = "SYNC_ENGINE_TEST_SEED";
const DEFAULT_SEED: u64 = 20_261_123;

/// One node's writer, where it tells how far it is, and where it is told how far it may go.
struct Writer {
    process: Running,
    progress: PathBuf,
    limit: PathBuf,
}

impl Writer {
    fn start(scene: &Scene, file: &Path, node: &str, seed: u64) -> Result<Self> {
        let progress = scene.path(format!("writer-{node}.progress"));
        let limit = scene.path(format!("writer-{node}.limit"));
        std::fs::write(&limit, permitted(1).to_string())?;
        let mut command = python_script("random_writer.py");
        command.arg(file).arg(format!("{seed}-{node}")).arg(OPERATIONS.to_string()).args([&progress, &limit]);
        let process = Running::start(&mut command, &scene.path(format!("writer-{node}")))?;
        Ok(Self { process, progress, limit })
    }

    /// How many operations are done; what cannot be read counts as none yet.
    fn done(&mut self) -> Result<usize> {
        if let Some(status) = self.process.ended()?
            && !status.success()
        {
            fail!("a writer ended with {status}: {}", self.process.complaints());
        }
        Ok(std::fs::read_to_string(&self.progress).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0))
    }
}

/// How far a writer may go until an interruption is over: beyond its moment, so that all write while it happens, but not
/// so far that nothing is left to write during the later ones.
fn permitted(interruption: usize) -> usize {
    OPERATIONS * (interruption + 1) / (INTERRUPTIONS + 1)
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

/// Ends or starts one daemon.
fn interrupt(cluster: &mut Cluster, random: &mut fastrand::Rng) -> Result {
    let node = &mut cluster.nodes[random.usize(..NODES)];
    let kill = random.bool();
    if !node.is_running() {
        node.start()
    } else if kill {
        node.kill()
    } else {
        node.stop()
    }
}

/// Ends and starts daemons, evenly spread over the work of the writers.
fn interrupt_while_they_write(cluster: &mut Cluster, writers: &mut [Writer], random: &mut fastrand::Rng) -> Result {
    for number in 1..=INTERRUPTIONS {
        let mark = NODES * OPERATIONS * number / (INTERRUPTIONS + 1);
        Scene::within(DEADLINE, "the writers go on", || {
            // A writer that failed will not go on.
            let done = match writers.iter_mut().map(Writer::done).sum::<Result<usize>>() {
                Ok(done) => done,
                Err(failure) => return Ok(Err(failure)),
            };
            check!(done >= mark, "{done} operations of {mark}");
            Ok(Ok(()))
        })??;
        interrupt(cluster, random)?;
        for writer in writers.iter() {
            std::fs::write(&writer.limit, permitted(number + 1).to_string())?;
        }
    }
    Ok(())
}

#[test]
fn all_files_end_equal_whatever_happened() {
    scenario(|scene| {
        let seed = seed()?;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut cluster = Cluster::new(scene, "random", NODES, Topology::Mesh)?;
        cluster.create(&std::fs::read_to_string(system_tests::data_file("random_schema.sql"))?)?;
        for (file, mode) in cluster.files().into_iter().zip(["WAL", "DELETE", "WAL"]) {
            shell(file, &format!("PRAGMA journal_mode = {mode}"))?;
        }
        cluster.start()?;
        cluster.settled()?;
        let mut writers = cluster
            .nodes
            .iter()
            .map(|node| Writer::start(scene, node.file(), node.name(), seed))
            .collect::<Result<Vec<_>>>()?;
        interrupt_while_they_write(&mut cluster, &mut writers, &mut random)?;
        for writer in writers {
            writer.process.finish(DEADLINE)?.success()?;
        }
        cluster.start()?;
        let rows = cluster.settled_within(DEADLINE)?;
        for table in ["item", "note", "pair", "label", "chunk", "account", "parent", "child"] {
            check!(rows.count(table) > 0, "{table} is empty with seed {seed}");
        }
        cluster.stop()
    });
}
