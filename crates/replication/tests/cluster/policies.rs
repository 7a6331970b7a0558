//! Every policy, on four replicas and more: they end equal and fall silent in storms, in lock-step and in any order, and
//! what they end with is what the policy says.

use std::collections::BTreeMap;
use std::sync::Arc;

use replication::{
    ColumnRule, Conflict, ConflictPolicy, FirstWriteWins, Granularity, LastWriteWins, Maximum, Minimum, Origin,
    OriginPriority, Resolution, ResolverPolicy, TimestampColumn, Union, Value,
};

use crate::model::{Content, Replica, Rules, Writes, assert_equal};
use crate::random::{Random, for_seeds};
use crate::{gather, lock_step, rules, scattered, weather_the_storm};

fn nodes() -> BTreeMap<Origin, String> {
    (1..=8).map(|n| (Origin::from_bytes([n; 16]), format!("n{n}"))).collect()
}

/// A policy under test, and what applications write.
struct Case {
    name: &'static str,
    policy: Box<dyn ConflictPolicy>,
    columns: Vec<Option<ColumnRule>>,
    content: Content,
}

fn case(name: &'static str, policy: impl ConflictPolicy + 'static, content: Content) -> Case {
    Case { name, policy: Box::new(policy), columns: Vec::new(), content }
}

fn of_column(policy: impl ConflictPolicy + 'static) -> Option<ColumnRule> {
    Some(ColumnRule::Policy(Arc::new(policy)))
}

/// Both texts, the local one first: nodes answer differently.
fn local_first(conflict: &Conflict<'_>) -> Resolution {
    conflict.with_values(|ours, theirs| match (ours, theirs) {
        (Value::Text(a), Value::Text(b)) => Ok(Value::Text([a.as_slice(), b.as_slice()].concat())),
        _ => Ok(ours.clone()),
    })
}

/// Empties a row that both wrote.
fn delete(_: &Conflict<'_>) -> Resolution {
    Resolution::Delete
}

fn cases() -> Vec<Case> {
    let mixed = vec![None, Some(ColumnRule::Counter), of_column(Maximum), of_column(FirstWriteWins)];
    let counters = vec![None, Some(ColumnRule::Counter), None, Some(ColumnRule::Counter)];
    vec![
        case("last-write-wins", LastWriteWins, Content::Texts),
        case("timestamp column", TimestampColumn::new("c1"), Content::Numbers),
        case("first-write-wins", FirstWriteWins, Content::Texts),
        case("first-write-wins, equal values", FirstWriteWins, Content::Numbers),
        case("origin-priority", OriginPriority::new(["n3", "n1"]), Content::Texts),
        case("max", Maximum, Content::Numbers),
        case("min", Minimum, Content::Numbers),
        case("union", Union, Content::Sets),
        case("custom: local first", ResolverPolicy::new(local_first), Content::Texts),
        case("custom: keep local", ResolverPolicy::new(|_| Resolution::KeepLocal), Content::Texts),
        case("custom: take remote", ResolverPolicy::new(|_| Resolution::TakeRemote), Content::Texts),
        case("custom: delete", ResolverPolicy::new(delete), Content::Texts),
        Case { columns: counters, ..case("counters", LastWriteWins, Content::Texts) },
        Case { columns: mixed, ..case("mixed columns", OriginPriority::new(["n2"]), Content::Numbers) },
    ]
}

/// Runs a test for every policy, granularity, and with and without deletions.
fn for_cases(count: u64, test: impl Fn(u64, Rules<'_>)) {
    let nodes = nodes();
    for case in cases() {
        for_seeds(count, |seed| {
            let granularity = if seed % 4 < 2 { Granularity::Column } else { Granularity::Row };
            let rules = Rules {
                granularity,
                policy: case.policy.as_ref(),
                columns: &case.columns,
                nodes: &nodes,
                content: case.content,
                ..rules(seed % 2 == 0)
            };
            let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(seed, rules)));
            assert!(tried.is_ok(), "policy {:?}, {granularity:?}; run again with SEED={seed}", case.name);
        });
    }
}

#[test]
fn every_policy_ends_equal_after_a_storm() {
    for_cases(24, weather_the_storm);
}

#[test]
fn every_policy_falls_silent_in_lock_step() {
    for_cases(200, lock_step);
}

#[test]
fn every_policy_gives_one_result_in_any_order_with_any_repetition_and_any_split() {
    for_cases(200, |seed, rules| {
        let (mut replicas, _, mut random) = scattered(seed, &rules);
        gather(&mut replicas, &mut random, &rules, seed);
        assert_equal(&replicas, seed);
    });
}

/// Each replica writes one cell of a row that all have, none knows of the others', and all gather in any order. Returns what
/// the replicas wrote, in the order of time, and what they end with.
fn one_write_each(seed: u64, rules: &Rules<'_>, values: &[Value]) -> (Vec<Value>, Value) {
    let mut random = Random::new(seed);
    let mut replicas: Vec<Replica> = (1..=4).map(Replica::new).collect();
    let mut writes = Writes::new();
    replicas[0].write_row(&mut random, 0, 500, rules, &mut writes);
    gather(&mut replicas, &mut random, rules, seed);
    let mut order: Vec<usize> = (0..4).collect();
    for place in (1..4).rev() {
        order.swap(place, random.index(place + 1));
    }
    for (time, node) in (0..).zip(&order) {
        replicas[*node].put(0, 1, values[*node].clone(), 1_000 + time, rules.granularity);
    }
    gather(&mut replicas, &mut random, rules, seed);
    assert_equal(&replicas, seed);
    (order.iter().map(|node| values[*node].clone()).collect(), replicas[0].content()[&0][1].clone())
}

#[test]
fn of_single_writes_the_one_that_the_policy_names_stands() {
    let nodes = nodes();
    let texts: Vec<Value> = ["of n1", "of n2", "of n3", "of n4"].map(Value::from).to_vec();
    let sets: Vec<Value> = ["[4, 1]", "[1,2]", "[3]", "[2]"].map(Value::from).to_vec();
    let numbers: Vec<Value> = vec![Value::Integer(4), Value::Real(4.5), Value::Null, Value::Integer(-1)];
    for_seeds(300, |seed| {
        for granularity in [Granularity::Column, Granularity::Row] {
            let run = |policy: &dyn ConflictPolicy, values: &[Value]| {
                let rules = Rules { granularity, policy, nodes: &nodes, ..rules(false) };
                one_write_each(seed, &rules, values)
            };
            let shown = format!("{granularity:?}; run again with SEED={seed}");
            let (written, end) = run(&LastWriteWins, &texts);
            assert_eq!(&end, written.last().unwrap(), "last: {shown}");
            let (written, end) = run(&FirstWriteWins, &texts);
            assert_eq!(&end, written.first().unwrap(), "first: {shown}");
            assert_eq!(run(&OriginPriority::new(["n3", "n1"]), &texts).1, texts[2], "priority: {shown}");
            assert_eq!(run(&TimestampColumn::new("c1"), &texts).1, texts[3], "timestamp column: {shown}");
            assert_eq!(run(&Maximum, &numbers).1, Value::Real(4.5), "max: {shown}");
            assert_eq!(run(&Minimum, &numbers).1, Value::Integer(-1), "min: {shown}");
            assert_eq!(run(&Union, &sets).1, "[1,2,3,4]".into(), "union: {shown}");
        }
    });
}

/// The exact sum, whatever is lost, repeated, split, forwarded or restarted meanwhile.
#[test]
fn counters_add_up_exactly() {
    let columns = [None, Some(ColumnRule::Counter)];
    for_seeds(600, |seed| {
        let granularity = if seed % 2 == 0 { Granularity::Column } else { Granularity::Row };
        let rules = Rules { granularity, columns: &columns, keys: 1, ..rules(false) };
        let mut random = Random::new(seed);
        let mut replicas: Vec<Replica> = (1..=4).map(Replica::new).collect();
        let mut writes = Writes::new();
        replicas[0].write_row(&mut random, 0, 500, &rules, &mut writes);
        let Value::Integer(mut total) = replicas[0].content()[&0][1] else { panic!("a counter") };
        gather(&mut replicas, &mut random, &rules, seed);
        for step in 0..60 {
            let node = random.index(4);
            match random.below(3) {
                0 => {
                    let by = random.range(21) - 10;
                    replicas[node].count(0, 1, by, 1_000 + step);
                    total += by;
                }
                // Other columns of the row, or the row as a whole, are written as well.
                1 => replicas[node].write_row(&mut random, 0, 1_000 + step, &rules, &mut writes),
                _ => crate::pull(&mut replicas, node, &mut random, 1_000 + step, &rules),
            }
        }
        gather(&mut replicas, &mut random, &rules, seed);
        assert_equal(&replicas, seed);
        assert_eq!(replicas[0].content()[&0][1], Value::Integer(total), "run again with SEED={seed}");
    });
}

#[test]
fn a_policy_that_panics_or_gives_an_unfit_row_decides_nothing() {
    type Resolve = fn(&Conflict<'_>) -> Resolution;
    let unfit: [(Resolve, &str); 3] = [
        (|_| panic!("in a policy"), "panicked"),
        (|_| Resolution::Row(vec![Value::Null]), "1 values for 4 columns"),
        (|_| Resolution::Fail("cannot say".to_owned()), "cannot say"),
    ];
    for (resolve, reason) in unfit {
        let policy = ResolverPolicy::new(resolve).named("mine");
        let rules = Rules { policy: &policy, ..rules(false) };
        let mut random = Random::new(1);
        let mut replicas = [Replica::new(1), Replica::new(2)];
        for replica in &mut replicas {
            replica.write_row(&mut random, 0, 500, &rules, &mut Writes::new());
        }
        let undecided = replicas[0].merge_from(&replicas[1], 0, &rules).unwrap_err();
        assert_eq!(undecided.policy, "mine");
        assert!(undecided.reason.contains(reason), "{undecided}");
    }
}
