//! While files that meet for the first time are brought in step, in more batches and transactions than one, and programs write.

use system_tests::{Cluster, Crash, Crasher, Failure, Result, Scene, Topology, check_equal, scenario, shell};

use super::load::{self, Load};
use crate::{crash_after, nothing_went_wrong, number, origins_are_kept, seed};

/// Before rows are sent: at attach, while rows of before are made known, and while it is found out which both have.
pub(crate) const BEFORE_IT: [&str; 9] = [
    "attach-before-commit",
    "attach-before-triggers",
    "attach-committed",
    "exchange-done",
    "exchange-forgotten",
    "exchange-noted",
    "publish-before-commit",
    "publish-committed",
    "snapshot-ended",
];

pub(crate) const RECEIVING: [&str; 7] = [
    "merge-before-commit",
    "merge-between-rows",
    "merge-committed",
    "merge-last-before-commit",
    "stage-before-commit",
    "stage-between-rows",
    "stage-committed",
];

/// Files that are written on the way, and how many calls to each there are, at least. The first is there while SQLite commits the
/// database and the stage as one.
const FILES: [(&str, u32); 4] = [("/crash.db-mj", 12), ("/staged-", 150), ("/crash.db", 150), ("/crash.db-", 60)];

/// How many of these calls are chosen.
const CALLS: usize = 6;

/// Rows that are there before the files meet, and how many a transaction takes.
const ROWS: usize = 1500;
const STEP: &str = "max_batch_rows = 200";

/// One node that is killed on the way.
struct Case {
    place: Crash,
    /// The one that sends, else the one that receives.
    sender: bool,
    /// Whether most of the rows are in both files.
    alike: bool,
    journals: [&'static str; 2],
}

impl Case {
    fn at_point(name: &'static str, random: &mut fastrand::Rng) -> Self {
        let alike = name.starts_with("exchange") || name.starts_with("compare");
        // How many times it is come to, at least.
        let times = match name {
            _ if name.ends_with("between-rows") => 40,
            "attach-before-triggers" | "stage-before-commit" | "stage-committed" | "merge-committed" => 4,
            _ => 1,
        };
        let journals = [["WAL", "DELETE"], ["DELETE", "WAL"]][random.usize(..2)];
        Self { place: Crash::Point(name, random.u32(1..=times)), sender: name.starts_with("publish"), alike, journals }
    }

    fn in_call((part, calls): (&'static str, u32), random: &mut fastrand::Rng) -> Self {
        // Only journals that are deleted are committed as one, and only those are files of their own each time.
        let journals = if part == "/staged-" && random.bool() { ["WAL", "WAL"] } else { ["WAL", "DELETE"] };
        Self { place: Crash::Call(part, random.u32(1..=calls)), sender: false, alike: random.bool(), journals }
    }
}

/// Two files that have not met.
fn apart(scene: &Scene, case: &Case) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "crash", 2, Topology::Star)?;
    for node in &mut cluster.nodes {
        node.setting(STEP);
    }
    for (index, rows) in [(0, ROWS), (1, if case.alike { ROWS - 300 } else { 0 })] {
        let (journal, tables) = (case.journals[index], load::SCHEMA);
        let stock = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER); INSERT INTO stock SELECT printf('A-%05d', value), value";
        let sql = format!(
            "PRAGMA journal_mode = {journal}; {tables} {stock} FROM generate_series(1, {rows}) WHERE {rows} > 0"
        );
        shell(cluster.file(index), &sql)?;
    }
    Ok(cluster)
}

/// Brings them in step with one of them killed on the way.
fn in_step_all_the_same(scene: &Scene, case: &Case, seed: u64) -> Result {
    let crasher = Crasher::new(scene);
    let mut cluster = apart(scene, case)?;
    let writers = Load::start(scene, &cluster.nodes, seed)?;
    let (dying, other) = if case.sender { (0, 1) } else { (1, 0) };
    crash_after(&crasher, &mut cluster, dying, &case.place, |cluster| cluster.nodes[other].start())?;
    let written = writers.end()?;
    check_equal!(cluster.settled()?.count("stock"), ROWS);
    cluster.files().into_iter().try_for_each(|file| written.is_in(file))?;
    load::nothing_is_recorded(&cluster)?;
    nothing_went_wrong(&cluster, &[])?;
    if case.place != Crash::Point("attach-committed", 1) {
        // What is attached and not remembered may be another's.
        origins_are_kept(&cluster)?;
    }
    cluster.stop()
}

fn all_in_step_all_the_same(cases: impl FnOnce(&mut fastrand::Rng) -> Result<Vec<Case>>) {
    let run = || -> Result {
        let seed = seed()?;
        for case in cases(&mut fastrand::Rng::with_seed(seed))? {
            // Each has a folder of its own.
            scenario(|scene| {
                in_step_all_the_same(scene, &case, seed).map_err(|failure| {
                    Failure::new(format!("{:?} of {:?} with seed {seed}: {failure}", case.place, case.journals))
                })
            });
        }
        Ok(())
    };
    if let Err(failure) = run() {
        panic!("{failure}");
    }
}

#[test]
fn a_daemon_is_killed_before_its_first_catch_up() {
    all_in_step_all_the_same(|random| Ok(BEFORE_IT.iter().map(|name| Case::at_point(name, random)).collect()));
}

#[test]
fn a_daemon_is_killed_while_it_receives_its_first_catch_up() {
    all_in_step_all_the_same(|random| Ok(RECEIVING.iter().map(|name| Case::at_point(name, random)).collect()));
}

#[test]
fn a_daemon_is_killed_in_the_middle_of_a_call_in_its_first_catch_up() {
    all_in_step_all_the_same(|random| {
        let calls = number("SYNC_ENGINE_TEST_CRASHES")?.and_then(|calls| calls.try_into().ok()).unwrap_or(CALLS);
        Ok(FILES.iter().cycle().take(calls).map(|file| Case::in_call(*file, random)).collect())
    });
}
