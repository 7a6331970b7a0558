//! Seeded simulations of whole clusters: the merge and the sessions under everything that networks and machines do.
//!
//! Each test runs many seeds and prints the one that fails; `SEED=n` runs that one alone, `TIMES=n` as many times as many.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

mod baselines;
mod counters;
mod model;
mod network;
mod policies;
mod random;
mod reading;
mod tombstones;

use std::collections::{BTreeMap, BTreeSet};

use model::{Applied, Content, Replica, Rules, Writes, assert_equal, assert_newest};
use network::{Cluster, Weather};
use random::{Random, for_seeds};
use replication::{
    Conflict, ConflictPolicy as _, Granularity, LastWriteWins, Origin, Resolution, ResolverPolicy, Value, VersionVector,
};

const ROUGH: Weather = Weather { loss: 12, repeats: 12, delay: 60 };
const CALM: Weather = Weather { loss: 0, repeats: 0, delay: 5 };

static NOBODY: BTreeMap<Origin, String> = BTreeMap::new();

fn rules(deletes: bool) -> Rules<'static> {
    Rules {
        granularity: Granularity::Column,
        policy: &LastWriteWins,
        deletes,
        keys: 4,
        columns: &[],
        nodes: &NOBODY,
        content: Content::Texts,
    }
}

fn mesh(nodes: usize) -> BTreeSet<(usize, usize)> {
    (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b))).collect()
}

/// A mesh, a line, a star or a random connected graph of `nodes`.
fn topology(nodes: usize, random: &mut Random) -> BTreeSet<(usize, usize)> {
    match random.below(4) {
        0 => mesh(nodes),
        1 => (1..nodes).map(|node| (node - 1, node)).collect(),
        2 => (1..nodes).map(|node| (0, node)).collect(),
        _ => (1..nodes).map(|node| (random.index(node), node)).chain([(0, nodes - 1)]).collect(),
    }
}

/// One cluster through a storm and into calm; everything must be equal in the end.
fn weather_the_storm(seed: u64, rules: Rules<'_>) {
    let mut random = Random::new(seed);
    let nodes = 5 + u8::try_from(random.below(2)).unwrap();
    let edges = topology(usize::from(nodes), &mut random);
    let mut cluster = Cluster::new(edges, nodes, rules, ROUGH, seed);
    cluster.storm(20_000, false);
    cluster.weather = CALM;
    cluster.heal();
    assert!(cluster.settle(), "not quiet after half an hour; run again with SEED={seed}");
    assert_equal(&cluster.replicas, seed);
    if !rules.deletes && rules.policy.name() == LastWriteWins.name() && rules.content == Content::Texts {
        assert_newest(&cluster.replicas[0], &cluster.writes, seed);
    }
}

#[test]
fn overwrite_or_conflict_the_newest_write_of_each_cell_stands_everywhere() {
    for_seeds(700, |seed| weather_the_storm(seed, rules(false)));
}

#[test]
fn revival_deletions_and_updates_in_any_order_end_equal() {
    for_seeds(900, |seed| weather_the_storm(seed, rules(true)));
}

#[test]
fn row_granularity_ends_equal() {
    for_seeds(300, |seed| {
        weather_the_storm(seed, Rules { granularity: Granularity::Row, ..rules(seed % 2 == 0) });
    });
}

#[test]
fn snapshot_nodes_that_die_in_the_middle_of_a_batch_leave_the_others_equal() {
    for_seeds(600, |seed| {
        // A mesh: the living stay connected whoever dies.
        let mut cluster = Cluster::new(mesh(5), 5, rules(seed % 2 == 0), ROUGH, seed);
        cluster.storm(15_000, true);
        cluster.weather = CALM;
        cluster.heal();
        assert!(cluster.settle(), "not quiet after half an hour; run again with SEED={seed}");
        assert_equal(cluster.living(), seed);
    });
}

/// Joins the texts of both rows, whichever is local: deterministic, and no join in the algebraic sense.
fn concatenate(conflict: &Conflict<'_>) -> Resolution {
    let (Some(a), Some(b)) = (conflict.local.values, conflict.remote.values) else { return Resolution::Newest };
    let (first, second) = if a <= b { (a, b) } else { (b, a) };
    let joined = first.iter().zip(second).map(|(a, b)| match (a, b) {
        (Value::Text(a), Value::Text(b)) if a != b => Value::Text([a.as_slice(), b.as_slice()].concat()),
        _ => a.clone(),
    });
    Resolution::Row(joined.collect())
}

#[test]
fn resolutions_of_a_policy_that_is_no_join_fall_silent_and_end_equal() {
    let policy = ResolverPolicy::new(concatenate);
    for_seeds(300, |seed| weather_the_storm(seed, Rules { policy: &policy, ..rules(seed % 2 == 0) }));
}

/// All exchange with all at once, round by round: what random schedules hide.
fn lock_step(seed: u64, rules: Rules<'_>) {
    let mut random = Random::new(seed);
    let mut replicas: Vec<Replica> = (1..=4).map(Replica::new).collect();
    let mut writes = Writes::new();
    for (node, replica) in (0..).zip(&mut replicas) {
        (0..6).for_each(|_| replica.write(&mut random, 1_000 + node, &rules, &mut writes));
    }
    for round in 0.. {
        assert!(round < 40, "never silent; run again with SEED={seed}");
        let snapshots: Vec<Vec<_>> =
            replicas.iter().map(|to| replicas.iter().map(|from| from.read(&to.have, usize::MAX)).collect()).collect();
        let before: Vec<VersionVector> = replicas.iter().map(|replica| replica.have.clone()).collect();
        for (replica, batches) in replicas.iter_mut().zip(&snapshots) {
            let own = replica.origin;
            for batch in batches.iter().filter(|batch| batch.source != own) {
                assert!(matches!(replica.apply(batch, 2_000 + round, &rules), Applied::Done));
            }
        }
        if replicas.iter().map(|replica| &replica.have).eq(&before) {
            break;
        }
    }
    assert_equal(&replicas, seed);
}

#[test]
fn resolutions_in_lock_step_fall_silent() {
    let policy = ResolverPolicy::new(concatenate);
    for_seeds(2_000, |seed| {
        lock_step(seed, rules(seed % 2 == 0));
        lock_step(seed, Rules { policy: &policy, ..rules(seed % 2 == 0) });
    });
}

/// Four replicas that write and take from each other at random.
fn scattered(seed: u64, rules: &Rules<'_>) -> (Vec<Replica>, Writes, Random) {
    let mut random = Random::new(seed);
    let mut replicas: Vec<Replica> = (1..=4).map(Replica::new).collect();
    let mut writes = Writes::new();
    for step in 0..60 {
        let node = random.index(4);
        if random.chance(2) {
            replicas[node].write(&mut random, 1_000 + step, rules, &mut writes);
        } else {
            pull(&mut replicas, node, &mut random, 1_000 + step, rules);
        }
    }
    (replicas, writes, random)
}

/// All take from all at random until they know the same.
fn gather(replicas: &mut [Replica], random: &mut Random, rules: &Rules<'_>, seed: u64) {
    for step in 0.. {
        assert!(step < 400, "never equal; run again with SEED={seed}");
        let node = random.index(replicas.len());
        pull(replicas, node, random, 2_000, rules);
        if replicas.iter().all(|replica| replica.have == replicas[0].have) {
            break;
        }
    }
}

#[test]
fn any_order_any_repetition_and_any_split_give_the_same_result() {
    for_seeds(2_000, |seed| {
        let rules = rules(seed % 2 == 0);
        let (mut replicas, writes, mut random) = scattered(seed, &rules);
        gather(&mut replicas, &mut random, &rules, seed);
        assert_equal(&replicas, seed);
        if !rules.deletes {
            assert_newest(&replicas[0], &writes, seed);
        }
    });
}

/// A replica falls silent for ever at any moment, perhaps in the middle of what another takes from it.
#[test]
fn snapshot_a_source_that_falls_silent_leaves_no_false_claim() {
    for_seeds(2_000, |seed| {
        let rules = rules(seed % 2 == 0);
        let (mut replicas, _, mut random) = scattered(seed, &rules);
        replicas.pop();
        gather(&mut replicas, &mut random, &rules, seed);
        assert_equal(&replicas, seed);
    });
}

/// One replica takes a batch of any size from another, from any position that it has, perhaps twice, perhaps an old one.
fn pull(replicas: &mut [Replica], to: usize, random: &mut Random, now: i64, rules: &Rules<'_>) {
    let from = random.index(replicas.len());
    if from == to {
        return;
    }
    let mut position = replicas[to].have.clone();
    let source = replicas[from].origin;
    if let Some(received) = replicas[to].received.get(&source).filter(|_| !random.chance(4)) {
        position.join(received);
    }
    let limit = 1 + random.index(5);
    let batch = replicas[from].read(&position, limit);
    for _ in 0..1 + random.below(2) {
        assert!(matches!(replicas[to].apply(&batch, now, rules), Applied::Done));
    }
}
