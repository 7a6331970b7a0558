//! Counters: what applications do with them, and what all replicas must make of it.

use replication::{
    ColumnRule, ConflictKind, Counter, Decided, Decision, Dot, Entry, EntryFlags, Granularity, RowClock, RowImage,
    Timestamp, Value,
};

use crate::model::{COLUMNS, Replica, Rules, Writes, assert_equal};
use crate::random::{Random, for_seeds};
use crate::{gather, rules};

/// The counter column of the tests.
const COUNTER: u16 = 1;

static COUNTERS: [Option<ColumnRule>; 2] = [None, Some(ColumnRule::Counter)];

impl Replica {
    /// What an application does with a counter: mostly it counts.
    pub(crate) fn use_counter(&mut self, random: &mut Random, cell: (i64, u16), now: i64, granularity: Granularity) {
        let held = &self.rows[&cell.0].values[usize::from(cell.1)];
        // Where rows are one thing, what sets a counter before anybody counted in it is a write of the whole row.
        let sets = granularity == Granularity::Column || self.rows[&cell.0].clock.counter(cell.1).is_some();
        if matches!(held, Value::Integer(_)) && !(sets && random.chance(8)) {
            return self.count(cell.0, cell.1, 1 + random.range(9) - 5, now);
        }
        let value = match random.below(4) {
            0 => Value::Null,
            1 => Value::from("hello"),
            2 => Value::Real(f64::INFINITY),
            _ => Value::Integer(random.range(9)),
        };
        self.set(cell, value, now, granularity);
    }

    /// One increment of a counter.
    pub(crate) fn count(&mut self, key: i64, column: u16, by: i64, now: i64) {
        let Value::Integer(number) = self.rows[&key].values[usize::from(column)] else { panic!("an integer") };
        self.set((key, column), Value::Integer(number + by), now, Granularity::Column);
    }

    /// Makes a counter hold something, as capture takes it: counted where that can be, else set.
    pub(crate) fn set(&mut self, (key, column): (i64, u16), after: Value, now: i64, granularity: Granularity) {
        let place = usize::from(column);
        let row = &self.rows[&key];
        let (before, known) = (row.values[place].clone(), row.clock.counter(column).cloned());
        if before == after {
            return;
        }
        let mut counter = known.clone().unwrap_or_else(|| Counter::new(*row.clock.effective(column), before.clone()));
        let entry = self.entry(now, EntryFlags::empty());
        let counted = counter.count(entry, &before, &after);
        if !counted && known.is_none() {
            return self.put_as(key, column, (after, entry), granularity);
        }
        if !counted {
            counter.set_to(entry, after.clone());
        }
        let row = self.rows.get_mut(&key).unwrap();
        row.values[place] = after;
        row.clock.counters.retain(|(other, _)| *other != column);
        row.clock.counters.push((column, counter));
        row.clock.counters.sort_unstable_by_key(|(column, _)| *column);
    }

    /// A write of one cell that is none of what was counted.
    fn put_as(&mut self, key: i64, column: u16, (value, entry): (Value, Entry), granularity: Granularity) {
        let row = self.rows.get_mut(&key).unwrap();
        row.values[usize::from(column)] = value;
        if granularity == Granularity::Row {
            row.clock = RowClock { counters: std::mem::take(&mut row.clock.counters), ..RowClock::whole(entry) };
            row.clock.counters.iter_mut().for_each(|(_, counter)| counter.confirm(entry));
            return;
        }
        row.clock.columns.retain(|(other, _)| *other != column);
        row.clock.columns.push((column, entry));
        row.clock.columns.sort_unstable_by_key(|(column, _)| *column);
    }

    /// A migration rebuilds the table; `unseen` tells what applications count by row and column before the triggers are back.
    pub(crate) fn rebuild(&mut self, rules: &Rules<'_>, mut unseen: impl FnMut(i64, u16) -> i64) {
        let keys: Vec<i64> = self.rows.iter().filter(|(_, row)| !row.clock.is_deleted()).map(|(key, _)| *key).collect();
        for key in keys {
            let mut row = self.rows[&key].clone();
            let (written, newest) = (row.clock.newest_written().timestamp, row.clock.newest().timestamp);
            let (entry, counted) = (self.entry_after(written), self.entry_after(newest));
            for column in (1..=COLUMNS).filter(|column| rules.counts(*column)) {
                let held = row.values[usize::from(column)].clone();
                let known = row.clock.counter(column).cloned();
                let mut counter = known.unwrap_or_else(|| Counter::new(*row.clock.effective(column), held.clone()));
                let now = match held {
                    Value::Integer(number) => Value::Integer(number + unseen(key, column)),
                    other => other,
                };
                counter.follow(&now, entry, counted);
                row.values[usize::from(column)] = now;
                row.clock.counters.retain(|(other, _)| *other != column);
                if !counter.tallies.is_empty() {
                    row.clock.counters.push((column, counter));
                    row.clock.counters.sort_unstable_by_key(|(column, _)| *column);
                }
            }
            (row.clock.row, row.clock.columns) = (entry, Vec::new());
            self.rows.insert(key, row);
        }
    }

    fn entry_after(&mut self, timestamp: Timestamp) -> Entry {
        let timestamp = timestamp.next();
        self.clock.observe(timestamp);
        let sequence = self.have.get(self.origin) + 1;
        self.have.raise(self.origin, sequence);
        Entry::new(timestamp, Dot { origin: self.origin, sequence }, EntryFlags::empty())
    }
}

fn counting(granularity: Granularity) -> Rules<'static> {
    Rules { granularity, columns: &COUNTERS, keys: 1, ..rules(false) }
}

/// Replicas that all know one row, whose counter holds `value`.
fn knowing(count: u8, value: Value, rules: &Rules<'_>) -> Vec<Replica> {
    let mut random = Random::new(7);
    let mut replicas: Vec<Replica> = (1..=count).map(Replica::new).collect();
    replicas[0].write_row(&mut random, 0, 500, rules, &mut Writes::new());
    replicas[0].rows.get_mut(&0).unwrap().values[usize::from(COUNTER)] = value;
    gather(&mut replicas, &mut random, rules, 7);
    replicas
}

fn held(replica: &Replica) -> Value {
    replica.content()[&0][usize::from(COUNTER)].clone()
}

/// The exact sum, whoever rebuilds the table how often, and however much is counted meanwhile that nobody sees.
#[test]
fn counters_add_up_exactly_over_tables_that_are_rebuilt() {
    for_seeds(600, |seed| {
        let granularity = if seed % 2 == 0 { Granularity::Column } else { Granularity::Row };
        let rules = counting(granularity);
        let mut random = Random::new(seed);
        let nodes = 2 + u8::try_from(random.below(4)).unwrap();
        let mut replicas = knowing(nodes, Value::Integer(100), &rules);
        let mut total = 100;
        for step in 0..60 {
            let node = random.index(replicas.len());
            let by = random.range(21) - 10;
            match random.below(5) {
                0 | 1 => {
                    replicas[node].count(0, COUNTER, by, 1_000 + step);
                    total += by;
                }
                2 => {
                    replicas[node].rebuild(&rules, |_, _| by);
                    total += by;
                }
                3 => replicas[node].write_row(&mut random, 0, 1_000 + step, &rules, &mut Writes::new()),
                _ => crate::pull(&mut replicas, node, &mut random, 1_000 + step, &rules),
            }
        }
        gather(&mut replicas, &mut random, &rules, seed);
        assert_equal(&replicas, seed);
        assert_eq!(held(&replicas[0]), Value::Integer(total), "run again with SEED={seed}");
    });
}

/// What two replicas decide of the other's row, and what all three hold in the end, having met in some order.
fn met(replicas: &mut [Replica], rules: &Rules<'_>, seed: u64) -> ([Option<Decided>; 2], Value) {
    let decided =
        [(0, 1), (1, 0)].map(|(to, from)| replicas[to].merge_from(&replicas[from], 0, rules).unwrap().conflict);
    gather(replicas, &mut Random::new(seed), rules, seed);
    assert_equal(&*replicas, seed);
    (decided, held(&replicas[2]))
}

#[test]
fn a_value_that_is_no_number_counts_as_0_with_a_record_where_somebody_counts_who_did_not_know_it() {
    let values = [Value::from("hello"), Value::Null, Value::Blob(vec![1, 2])];
    for_seeds(24, |seed| {
        let counted = seed % 2 == 0;
        let granularity = if seed % 4 < 2 { Granularity::Column } else { Granularity::Row };
        for value in &values {
            let rules = counting(granularity);
            let mut replicas = knowing(3, Value::Integer(100), &rules);
            if counted {
                replicas[2].count(0, COUNTER, 1, 800);
                gather(&mut replicas, &mut Random::new(1), &rules, 1);
            }
            replicas[0].set((0, COUNTER), value.clone(), 1_000, granularity);
            replicas[1].count(0, COUNTER, 7, 1_001);
            let ([here, there], end) = met(&mut replicas, &rules, seed);
            assert_eq!(end, Value::Integer(7), "{value} {granularity:?}");
            let decided = |decision| Decided {
                kind: ConflictKind::UpdateOriginDiffers,
                decision,
                columns: vec![COUNTER],
                policy: "counter".to_owned(),
            };
            assert_eq!(here, Some(decided(Decision::RemoteApplied)), "{value} {granularity:?}: the loser is here");
            assert_eq!(there, Some(decided(Decision::LocalKept)), "{value} {granularity:?}: the loser came");
        }
    });
}

#[test]
fn infinities_that_replicas_count_apart_end_as_the_later_one_with_a_record() {
    for_seeds(12, |seed| {
        let granularity = if seed % 2 == 0 { Granularity::Column } else { Granularity::Row };
        for infinity in [f64::INFINITY, f64::NEG_INFINITY] {
            let rules = counting(granularity);
            let mut replicas = knowing(3, Value::Integer(100), &rules);
            replicas[1].set((0, COUNTER), Value::Real(-infinity), 1_000, granularity);
            replicas[0].set((0, COUNTER), Value::Real(infinity), 1_001, granularity);
            replicas[2].count(0, COUNTER, 5, 1_002);
            let ([here, there], end) = met(&mut replicas, &rules, seed);
            assert_eq!(end, Value::Real(infinity));
            let decided = |side: Option<Decided>| side.map(|decided| (decided.decision, decided.columns));
            assert_eq!(decided(here), Some((Decision::LocalKept, vec![COUNTER])), "{granularity:?}");
            assert_eq!(decided(there), Some((Decision::RemoteApplied, vec![COUNTER])), "{granularity:?}");
        }
    });
}

#[test]
fn a_sum_that_no_integer_holds_is_one_real_everywhere() {
    for_seeds(200, |seed| {
        let rules = counting(Granularity::Column);
        let mut random = Random::new(seed);
        let mut replicas = knowing(4, Value::Integer(i64::MAX - 10), &rules);
        for (replica, by) in replicas.iter_mut().zip([7, 6, 3, -1]) {
            replica.count(0, COUNTER, by, 1_000);
        }
        gather(&mut replicas, &mut random, &rules, seed);
        assert_equal(&replicas, seed);
        assert_eq!(held(&replicas[0]), Value::Real(9_223_372_036_854_775_808.0));
        // What SQLite makes of it goes on as a real.
        let node = random.index(4);
        replicas[node].set((0, COUNTER), Value::Real(9_223_372_036_854_773_760.0), 2_000, Granularity::Column);
        gather(&mut replicas, &mut random, &rules, seed);
        assert_equal(&replicas, seed);
        assert_eq!(held(&replicas[0]), Value::Real(9_223_372_036_854_773_760.0));
    });
}

impl Replica {
    /// An insert of a row that was deleted here.
    fn insert_again(&mut self, key: i64, value: &Value, now: i64) {
        let entry = self.entry(now, EntryFlags::INSERTED);
        let mut counters = self.rows[&key].clock.counters.clone();
        counters.iter_mut().for_each(|(_, counter)| counter.set_to(entry, value.clone()));
        let values = vec![Value::Integer(key), value.clone(), Value::from("again"), Value::from("again")];
        self.rows.insert(key, RowImage { values, clock: RowClock { counters, ..RowClock::whole(entry) } });
    }
}

/// One replica deletes the row, another counts in it, a third takes both in any order; both and the third record it where one
/// of them met the other.
#[test]
fn a_count_and_a_deletion_end_as_the_later_one_with_a_record() {
    for_seeds(300, |seed| {
        let granularity = if seed % 2 == 0 { Granularity::Column } else { Granularity::Row };
        let rules = counting(granularity);
        let mut replicas = knowing(3, Value::Integer(100), &rules);
        let count_is_later = seed % 4 < 2;
        replicas[0].delete(0, 1_000);
        replicas[1].count(0, COUNTER, 5, if count_is_later { 1_001 } else { 999 });
        let decided = [(0, 1), (1, 0)].map(|(to, from)| replicas[to].merge_from(&replicas[from], 0, &rules).unwrap());
        let kinds = decided.map(|merged| merged.conflict.unwrap().kind);
        assert_eq!(kinds, [ConflictKind::UpdateDeleted, ConflictKind::DeleteOriginDiffers]);
        gather(&mut replicas, &mut Random::new(seed), &rules, seed);
        assert_equal(&replicas, seed);
        let end: Vec<Value> =
            replicas[0].content().into_values().map(|row| row[usize::from(COUNTER)].clone()).collect();
        let expected = if count_is_later { vec![Value::Integer(105)] } else { Vec::new() };
        assert_eq!(end, expected, "run again with SEED={seed}");
    });
}

/// A row that is deleted and inserted again starts from what the insert says, and what others count who do not know of it is
/// on top: whether they counted before or after. Only where somebody met the deletion and a later count before the insert is
/// the row that comes back a later write than the insert, which loses and is recorded.
#[test]
fn an_insert_begins_anew_and_counts_that_it_did_not_know_are_on_top() {
    for_seeds(400, |seed| {
        let granularity = if seed % 2 == 0 { Granularity::Column } else { Granularity::Row };
        let rules = counting(granularity);
        let mut random = Random::new(seed);
        let mut replicas = knowing(4, Value::Integer(100), &rules);
        let mut before = 100;
        if random.chance(2) {
            replicas[3].count(0, COUNTER, 50, 800);
            gather(&mut replicas, &mut random, &rules, seed);
            before += 50;
        }
        let counted_at = 950 + random.range(100);
        replicas[1].count(0, COUNTER, 5, counted_at);
        replicas[0].delete(0, 1_000);
        let seen_deleted = random.chance(2);
        if seen_deleted {
            // By one that has not met the count: where both have, either of them decides.
            let batch = replicas[0].read(&replicas[2].have, usize::MAX);
            assert!(matches!(replicas[2].apply(&batch, 1_001, &rules), crate::model::Applied::Done));
        }
        replicas[0].insert_again(0, &Value::Integer(1), 1_060);
        gather(&mut replicas, &mut random, &rules, seed);
        assert_equal(&replicas, seed);
        let end = held(&replicas[0]);
        if end == Value::Integer(6) {
            return;
        }
        let shown = format!("run again with SEED={seed}");
        assert!(seen_deleted && counted_at > 1_000, "{end}: nobody brought the row back; {shown}");
        assert_eq!(end, Value::Integer(before + 5), "{shown}");
        let lost = |decided: &Decided| decided.columns.contains(&COUNTER);
        assert!(replicas.iter().any(|replica| replica.decided.iter().any(lost)), "the insert is in no record; {shown}");
    });
}

#[test]
fn of_two_values_that_are_no_numbers_the_one_that_does_not_stand_is_recorded_whoever_counted_in_between() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let rules = counting(granularity);
        let mut replicas = knowing(3, Value::Integer(100), &rules);
        replicas[0].set((0, COUNTER), Value::from("first"), 1_000, granularity);
        replicas[1].set((0, COUNTER), Value::from("second"), 1_001, granularity);
        replicas[2].count(0, COUNTER, 1, 1_002);
        let batch = replicas[2].read(&replicas[1].have, usize::MAX);
        replicas[1].apply(&batch, 2_000, &rules);
        let merged = replicas[1].merge_from(&replicas[0], 0, &rules).unwrap();
        let Some(decided) = merged.conflict else { panic!("{granularity:?}: nothing is recorded") };
        assert_eq!((decided.decision, decided.columns), (Decision::LocalKept, vec![COUNTER]), "{granularity:?}");
    }
}
