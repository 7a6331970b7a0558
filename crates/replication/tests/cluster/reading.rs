//! Nodes that may only read: they follow the others, and nothing of theirs reaches anybody.

use std::collections::{BTreeMap, BTreeSet};

use crate::baselines::alike;
use crate::model::{Replica, assert_equal, assert_newest};
use crate::network::Cluster;
use crate::random::{Random, for_seeds};
use crate::{CALM, ROUGH, mesh, rules};

/// Three nodes that write, and two that read from some of them and are linked with each other.
fn with_readers(seed: u64, readers_write: bool) -> Cluster<'static> {
    let mut random = Random::new(seed);
    let mut edges = mesh(3);
    edges.insert((3, 4));
    for reader in [3, 4] {
        edges.insert((random.index(3), reader));
        edges.insert((random.index(3), reader));
    }
    let files = match random.below(2) {
        0 if readers_write => alike(5, &mut random),
        _ => vec![BTreeMap::new(); 5],
    };
    let deletes = seed.is_multiple_of(2);
    let mut cluster = Cluster::over(&files, edges, rules(deletes), ROUGH, seed);
    cluster.readers = BTreeSet::from([3, 4]);
    cluster.readers_write = readers_write;
    cluster.drops = deletes && random.chance(2);
    cluster.storm(15_000, false);
    cluster.weather = CALM;
    cluster.heal();
    assert!(cluster.settle(), "not quiet after half an hour; run again with SEED={seed}");
    cluster
}

#[test]
fn who_only_reads_ends_equal_to_those_that_write() {
    for_seeds(300, |seed| {
        let cluster = with_readers(seed, false);
        let first = cluster.writers().next().expect("three write");
        for replica in cluster.living() {
            assert!(replica.have.covers_all(&first.have), "changes lack; run again with SEED={seed}");
            // A reader that meets an update and a deletion answers as all do, and nobody hears it: such rows are its own.
            let own =
                |key: i64| replica.clocks().iter().any(|(cell, dot)| cell.0 == key && dot.origin == replica.origin);
            let reads = cluster.replicas[3..].iter().any(|reader| reader.origin == replica.origin);
            let others = |of: &Replica| -> BTreeMap<_, _> {
                of.content().into_iter().filter(|(key, _)| !(reads && own(*key))).collect()
            };
            assert_eq!(others(replica), others(first), "rows differ; run again with SEED={seed}");
        }
        if seed % 2 == 1 {
            assert_newest(first, &cluster.writes, seed);
        }
    });
}

#[test]
fn what_readers_write_stays_with_them() {
    for_seeds(300, |seed| {
        let cluster = with_readers(seed, true);
        let origins: Vec<_> = cluster.replicas[3..].iter().map(|reader| reader.origin).collect();
        if !cluster.drops {
            assert_equal(cluster.writers(), seed);
        }
        let first = cluster.writers().next().expect("three write");
        for writer in cluster.writers() {
            assert_eq!(writer.content(), first.content(), "rows differ; run again with SEED={seed}");
            let known = origins.iter().any(|origin| writer.have.get(*origin) > 0);
            let held = writer.clocks().values().any(|dot| origins.contains(&dot.origin));
            assert!(!known && !held, "a reader's change arrived; run again with SEED={seed}");
        }
    });
}
