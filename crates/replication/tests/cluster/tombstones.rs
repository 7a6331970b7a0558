//! Deletions that are forgotten: what they deleted does not come back, and what was written elsewhere meanwhile arrives.

use std::collections::BTreeMap;

use replication::{Dot, Granularity, Value};

use crate::baselines::alike;
use crate::model::{Replica, Rules};
use crate::network::Cluster;
use crate::random::{Random, for_seeds};
use crate::{CALM, ROUGH, mesh, rules, topology};

/// What speaks for each row that is there.
fn living_clocks(replica: &Replica) -> BTreeMap<(i64, u16), Dot> {
    let alive = |key: &i64| replica.rows.get(key).is_some_and(|row| !row.clock.is_deleted());
    replica.clocks().into_iter().filter(|((key, _), _)| alive(key)).collect()
}

fn forget_deletions(seed: u64, rules: Rules<'_>) {
    let mut random = Random::new(seed);
    let nodes = 2 + u8::try_from(random.below(4)).unwrap();
    let edges = if nodes == 2 { mesh(2) } else { topology(usize::from(nodes), &mut random) };
    let rules = Rules { keys: 1 + random.range(30), ..rules };
    // Some have rows when they meet, and some come late.
    let files = if random.chance(2) { alike(nodes, &mut random) } else { vec![BTreeMap::new(); usize::from(nodes)] };
    let mut cluster = Cluster::over(&files, edges.clone(), rules, ROUGH, seed);
    cluster.drops = true;
    if random.chance(2) {
        let late = random.index(usize::from(nodes));
        edges.into_iter().filter(|edge| edge.0 == late || edge.1 == late).for_each(|edge| cluster.part(edge));
        cluster.storm(8_000, false);
    }
    cluster.storm(25_000, false);
    cluster.weather = CALM;
    cluster.heal();
    assert!(cluster.settle(), "not quiet after half an hour; run again with SEED={seed}");
    let first = &cluster.replicas[0];
    for other in &cluster.replicas {
        assert_eq!(first.content(), other.content(), "rows differ; run again with SEED={seed}");
        assert_eq!(living_clocks(first), living_clocks(other), "clocks differ; run again with SEED={seed}");
        assert_eq!(first.have, other.have, "vectors differ; run again with SEED={seed}");
    }
}

#[test]
fn nodes_that_forget_deletions_end_equal() {
    for_seeds(900, |seed| forget_deletions(seed, rules(true)));
}

#[test]
fn nodes_that_forget_deletions_end_equal_by_rows() {
    for_seeds(300, |seed| forget_deletions(seed, Rules { granularity: Granularity::Row, ..rules(true) }));
}

#[test]
fn who_returns_after_deletions_were_forgotten_brings_nothing_back_and_its_own_rows_arrive() {
    let rows: BTreeMap<i64, Value> = (0..100).map(|key| (key, Value::from("there"))).collect();
    let mut cluster = Cluster::over(&[rows, BTreeMap::new()], mesh(2), rules(true), CALM, 1);
    assert!(cluster.settle());
    cluster.part((0, 1));
    for key in 10..60 {
        cluster.replicas[0].delete(key, 2_000_000);
    }
    let known = cluster.replicas[1].have.clone();
    cluster.replicas[0].drop_tombstones(&known, true);
    let column = Granularity::Column;
    cluster.replicas[1].put(12, 1, Value::from("update of a deleted row"), 2_000_001, column);
    cluster.replicas[1].put(70, 1, Value::from("update"), 2_000_001, column);
    let mut writes = BTreeMap::new();
    cluster.replicas[1].write_row(&mut Random::new(1), 200, 2_000_002, &rules(true), &mut writes);
    cluster.heal();
    assert!(cluster.settle());
    for replica in &cluster.replicas {
        let content = replica.content();
        assert_eq!(content.len(), 51);
        assert!(!content.contains_key(&12) && content.contains_key(&200));
        assert_eq!(content[&70][1], Value::from("update"));
    }
}
