//! While programs write all the time.

use system_tests::{Cluster, Crash, Crasher, Node, Result, Scene, Topology, scenario, shell};

use super::load::{self, Load};
use crate::{PATIENCE, crash, is_sound, nothing_went_wrong, number, origins_are_kept, seed};

pub(crate) const POINTS: [&str; 9] = [
    "apply-before-commit",
    "apply-between-rows",
    "apply-committed",
    "capture-log-read",
    "capture-rows-written",
    "state-before-write",
    "state-written",
    "transaction-before-commit",
    "transaction-committed",
];

/// Parts of the paths of files, and how many calls to each there are within [`PATIENCE`], about.
const FILES: [(&str, u32); 5] =
    [("/crash.db$", 200), ("/crash.db-journal", 60), ("/crash.db-wal", 60), ("/staged-", 20), ("/state.db", 20)];

/// How many times a daemon is killed besides once at each point.
const CRASHES: u64 = 12;

/// Three nodes in step, each with another journal, with rows in which they count.
fn in_step(scene: &Scene) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "crash", 3, Topology::Mesh)?;
    cluster.nodes.iter_mut().for_each(|node| node.database_setting(load::SETTING));
    cluster.create(load::SCHEMA)?;
    for (file, mode) in cluster.files().into_iter().zip(["WAL", "DELETE", "TRUNCATE"]) {
        shell(file, &format!("PRAGMA journal_mode = {mode}"))?;
    }
    cluster.start()?;
    shell(cluster.file(0), "INSERT INTO tally VALUES (0, 0), (1, 0), (2, 0), (3, 0)")?;
    cluster.settled()?;
    Ok(cluster)
}

/// Somewhere, and not at once.
fn anywhere(random: &mut fastrand::Rng) -> Crash {
    if random.bool() {
        Crash::Point(POINTS[random.usize(..POINTS.len())], random.u32(1..30))
    } else {
        let (part, calls) = FILES[random.usize(..FILES.len())];
        Crash::Call(part, random.u32(1..=calls))
    }
}

/// Kills one daemon as it is, if it runs, and again at the place; often it is started again at once.
fn crash_one(
    cluster: &mut Cluster,
    crasher: &Crasher,
    place: &Crash,
    must: bool,
    random: &mut fastrand::Rng,
) -> Result {
    let index = random.usize(..cluster.nodes.len());
    // Of one that is alone nothing is heard.
    cluster.nodes.iter_mut().filter(|node| !node.is_running()).try_for_each(Node::launch)?;
    let node = &mut cluster.nodes[index];
    if node.is_running() {
        node.kill()?;
        is_sound(node.file())?;
        load::halves_match(node.file())?;
    }
    if must {
        crash(crasher, node, place)?;
    } else {
        node.launch_with(&crasher.variables(place)?)?;
        let dead = Scene::within(PATIENCE, "it dies", || {
            system_tests::check!(node.has_ended()?, "it runs");
            Ok(())
        });
        match dead {
            Ok(()) => crate::died(node, place)?,
            Err(_) => node.kill()?,
        }
        is_sound(node.file())?;
    }
    load::halves_match(node.file())?;
    if random.u8(..3) > 0 { node.launch() } else { Ok(()) }
}

#[test]
fn daemons_are_killed_anywhere_while_programs_write() {
    scenario(|scene| {
        let seed = seed()?;
        let mut random = fastrand::Rng::with_seed(seed);
        let crasher = Crasher::new(scene);
        let mut cluster = in_step(scene)?;
        let writers = Load::start(scene, &cluster.nodes, seed)?;
        let mut places: Vec<(Crash, bool)> =
            POINTS.iter().map(|name| (Crash::Point(name, random.u32(1..4)), true)).collect();
        let more = number("SYNC_ENGINE_TEST_CRASHES")?.unwrap_or(CRASHES);
        places.extend((0..more).map(|_| (anywhere(&mut random), false)));
        random.shuffle(&mut places);
        for (place, must) in &places {
            crash_one(&mut cluster, &crasher, place, *must, &mut random)
                .map_err(|failure| system_tests::Failure::new(format!("{place:?} with seed {seed}: {failure}")))?;
        }
        let written = writers.end()?;
        cluster.start()?;
        cluster.settled_within(system_tests::DEADLINE * 2)?;
        println!("{} places, {} rows", places.len(), written.rows());
        cluster.files().into_iter().try_for_each(|file| written.is_in(file))?;
        load::nothing_is_recorded(&cluster)?;
        nothing_went_wrong(&cluster, &[])?;
        origins_are_kept(&cluster)?;
        cluster.stop()
    });
}
