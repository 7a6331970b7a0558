//! Daemons are killed at every fail point, in the middle of calls that change files, and at any moment, while programs write: afterwards
//! each file is sound, and in the end nothing is lost, nothing is doubled, all files are equal, and no conflict was made up.
//!
//! `SYNC_ENGINE_TEST_SEED` chooses other moments, `SYNC_ENGINE_TEST_CRASHES` how many crashes there are while programs write, at least:
//! `SYNC_ENGINE_TEST_CRASHES=500 cargo test --workspace --locked --test crashes while_programs_write`.

mod crashes {
    pub(crate) mod backups;
    pub(crate) mod catch_up;
    pub(crate) mod load;
    pub(crate) mod migrations;
    pub(crate) mod operation;
    pub(crate) mod origin;
    pub(crate) mod under_load;
}

use std::path::Path;
use std::time::Duration;

use crashes::{backups, catch_up, migrations, operation, origin, under_load};
use system_tests::{
    Cluster, Crash, Crasher, DEADLINE, Failure, Node, Result, Scene, check, check_equal, check_integrity, scenario,
};

/// How long a daemon has to come to a place that it may not come to at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// A number from the environment.
fn number(variable: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    let number = text.parse().map_err(|error| Failure::new(format!("{variable}={text}: {error}")))?;
    Ok(Some(number))
}

/// The seed of this run, printed so that a failure can be repeated.
fn seed() -> Result<u64> {
    const VARIABLE: &str = "SYNC_ENGINE_TEST_SEED";
    let seed = number(VARIABLE)?.unwrap_or(20_261_128);
    println!("{VARIABLE}={seed}");
    Ok(seed)
}

/// Awaits that a daemon dies as it was told to, and checks what it leaves.
fn dies(node: &mut Node, crash: &Crash) -> Result {
    Scene::within(DEADLINE, &format!("node {} dies at {crash:?}", node.name()), || {
        check!(node.has_ended()?, "it runs");
        Ok(())
    })?;
    died(node, crash)
}

fn died(node: &mut Node, crash: &Crash) -> Result {
    let finished = node.finish()?;
    check_equal!(finished.signal, Some(crash.signal()), "{crash:?}: {}", finished.stderr);
    is_sound(node.file())
}

/// Has a daemon that does not run die at a place that it comes to by itself.
fn crash(crasher: &Crasher, node: &mut Node, crash: &Crash) -> Result {
    node.launch_with(&crasher.variables(crash)?)?;
    dies(node, crash)
}

/// Has a node's daemon die at a place that it comes to once something else is done, which is when it serves its database; then it is
/// started again.
fn crash_after(
    crasher: &Crasher,
    cluster: &mut Cluster,
    index: usize,
    crash: &Crash,
    act: impl FnOnce(&mut Cluster) -> Result,
) -> Result {
    let node = &mut cluster.nodes[index];
    if node.is_running() {
        node.kill()?;
        is_sound(node.file())?;
    }
    node.launch_with(&crasher.variables(crash)?)?;
    Scene::within(DEADLINE, "the database is attached, or the daemon dead", || {
        let attached = || Ok::<_, Failure>(node.database_status("crash")?["state"] == "attached");
        check!(attached().is_ok_and(|attached| attached) || node.has_ended()?, "it is neither");
        Ok(())
    })?;
    act(cluster)?;
    dies(&mut cluster.nodes[index], crash)?;
    cluster.nodes[index].start()
}

fn is_sound(file: &Path) -> Result {
    if file.exists() { check_integrity(file) } else { Ok(()) }
}

/// Nothing was told that a run without crashes would not tell; that would tell of `kinds` of errors.
fn nothing_went_wrong(cluster: &Cluster, kinds: &[&str]) -> Result {
    for node in &cluster.nodes {
        let complaints = std::fs::read_to_string(node.path("daemon.stderr")).unwrap_or_default();
        check!(!complaints.contains("panicked"), "node {}: {complaints}", node.name());
        let log = node.log();
        // Of a peer that dies while it says who it is.
        let kinds = [kinds, &["protocol"]].concat();
        let is_told = |line: &str| kinds.iter().any(|kind| line.contains(&format!(" kind={kind} ")));
        let wrong: Vec<&str> = log.lines().filter(|line| line.contains(" sync_error ") && !is_told(line)).collect();
        check!(wrong.is_empty(), "node {}: {wrong:#?}", node.name());
    }
    Ok(())
}

fn origins_are_kept(cluster: &Cluster) -> Result {
    for node in &cluster.nodes {
        let log = node.log();
        let left: Vec<&str> = log.lines().filter(|line| line.contains(" origin=")).collect();
        check!(left.is_empty(), "node {} has left its origin: {left:#?}", node.name());
    }
    Ok(())
}

#[test]
fn every_fail_point_is_one_at_which_a_daemon_is_killed() {
    scenario(|_| {
        let mut reached: Vec<&str> = [
            &under_load::POINTS[..],
            &catch_up::BEFORE_IT,
            &catch_up::RECEIVING,
            &migrations::POINTS,
            &operation::POINTS,
            &origin::POINTS,
            &backups::POINTS,
        ]
        .concat();
        reached.sort_unstable();
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
        check_equal!(system_tests::fail_points(&crates)?, reached);
        Ok(())
    });
}
