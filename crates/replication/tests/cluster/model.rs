//! A replica in memory: what the store does with SQL, done with maps. Everything in it is durable.

use std::collections::{BTreeMap, BTreeSet};

use replication::reconcile::{Exchange, KeyRange};
use replication::{
    Admission, Batch, ColumnRule, ConflictPolicy, Counter, Decided, Dot, DotSet, Entry, EntryFlags, Granularity,
    HybridClock, MergeContext, Merged, Origin, Outcome, RowClock, RowImage, TableRows, TableShape, Timestamp,
    Undecided, Value, VersionVector, admit, lacks_dropped, merge, misses_dropped,
};

use crate::random::Random;

/// Columns beside the key.
pub(crate) const COLUMNS: u16 = 3;

/// What one write of one cell was: the oracle's record.
pub(crate) type Writes = BTreeMap<(i64, u16), BTreeMap<(Timestamp, Origin), Value>>;

/// How a cluster merges and what its applications do.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) granularity: Granularity,
    pub(crate) policy: &'a dyn ConflictPolicy,
    /// Whether applications delete rows.
    pub(crate) deletes: bool,
    /// Rows that there may be.
    pub(crate) keys: i64,
    /// Rules of single columns.
    pub(crate) columns: &'a [Option<ColumnRule>],
    pub(crate) nodes: &'a BTreeMap<Origin, String>,
    /// What is written into cells that are no counters.
    pub(crate) content: Content,
}

/// What applications write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Texts that tell who wrote them and when: no two are alike.
    Texts,
    /// Small numbers, often alike.
    Numbers,
    /// JSON arrays.
    Sets,
}

impl Rules<'_> {
    pub(crate) fn counts(&self, column: u16) -> bool {
        matches!(self.columns.get(usize::from(column)), Some(Some(ColumnRule::Counter)))
    }
}

pub(crate) struct Replica {
    pub(crate) origin: Origin,
    pub(crate) have: VersionVector,
    pub(crate) received: BTreeMap<Origin, VersionVector>,
    /// Rows of catch-ups that are not complete, by source and key, with the context of their batch.
    staged: BTreeMap<Origin, BTreeMap<i64, (RowImage, VersionVector)>>,
    /// Dots that are to be exchanged when a catch-up is complete, by its source.
    pub(crate) exchanges: BTreeMap<Origin, Vec<(KeyRange, Exchange)>>,
    /// Up to where tombstones may be gone.
    pub(crate) dropped: VersionVector,
    /// The stamp of the newest of them.
    pub(crate) dropped_until: Timestamp,
    /// What the source of a catch-up knew when it began, and up to where tombstones may have been gone there.
    pub(crate) began: BTreeMap<Origin, (VersionVector, VersionVector)>,
    pub(crate) clock: HybridClock,
    pub(crate) rows: BTreeMap<i64, RowImage>,
    /// The conflicts that it recorded.
    pub(crate) decided: Vec<Decided>,
    shape: TableShape,
}

/// What applying did.
pub(crate) enum Applied {
    Done,
    Gap,
}

impl Replica {
    pub(crate) fn new(number: u8) -> Self {
        let columns = (0..=COLUMNS).map(|n| format!("c{n}")).collect();
        Self {
            origin: Origin::from_bytes([number; 16]),
            have: VersionVector::new(),
            received: BTreeMap::new(),
            staged: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            dropped: VersionVector::new(),
            dropped_until: Timestamp::BASELINE,
            began: BTreeMap::new(),
            clock: HybridClock::default(),
            rows: BTreeMap::new(),
            decided: Vec::new(),
            shape: TableShape { name: "t".to_owned(), columns, key: vec![0] },
        }
    }

    pub(crate) fn entry(&mut self, now: i64, flags: EntryFlags) -> Entry {
        let sequence = self.have.get(self.origin) + 1;
        self.have.raise(self.origin, sequence);
        let dot = Dot { origin: self.origin, sequence };
        Entry::new(self.clock.stamp(now, now), dot, flags)
    }

    /// One write of an application, noted for the oracle.
    pub(crate) fn write(&mut self, random: &mut Random, now: i64, rules: &Rules<'_>, writes: &mut Writes) {
        let key = random.range(rules.keys);
        let alive = self.rows.get(&key).is_some_and(|row| !row.clock.is_deleted());
        // A table that is rebuilt is written as a whole: what it knew then may come before an unknown earlier write.
        if rules.deletes && !rules.columns.is_empty() && random.chance(12) {
            let by = random.range(9) - 4;
            self.rebuild(rules, |row, _| if row == key { by } else { 0 });
        } else if alive && rules.deletes && random.chance(4) {
            self.delete(key, now);
        } else if alive && !random.chance(4) {
            let column = 1 + u16::try_from(random.range(i64::from(COLUMNS))).unwrap();
            if rules.counts(column) {
                self.use_counter(random, (key, column), now, rules.granularity);
            } else if rules.granularity == Granularity::Column {
                self.write_cell(random, (key, column), now, rules, writes);
            } else {
                self.write_row(random, key, now, rules, writes);
            }
        } else {
            self.write_row(random, key, now, rules, writes);
        }
    }

    pub(crate) fn delete(&mut self, key: i64, now: i64) {
        let entry = self.entry(now, EntryFlags::DELETED);
        let mut counters = self.rows[&key].clock.counters.clone();
        counters.iter_mut().for_each(|(_, counter)| counter.bury(entry));
        let clock = RowClock { counters, ..RowClock::whole(entry) };
        self.rows.insert(key, RowImage { values: vec![Value::Integer(key)], clock });
    }

    fn write_cell(
        &mut self,
        random: &mut Random,
        (key, column): (i64, u16),
        now: i64,
        rules: &Rules<'_>,
        writes: &mut Writes,
    ) {
        let entry = self.entry(now, EntryFlags::empty());
        let value = self.value(entry.dot, random, rules);
        let row = self.rows.get_mut(&key).unwrap();
        row.values[usize::from(column)] = value.clone();
        row.clock.columns.retain(|(other, _)| *other != column);
        row.clock.columns.push((column, entry));
        row.clock.columns.sort_unstable_by_key(|(column, _)| *column);
        writes.entry((key, column)).or_default().insert(entry.order(), value);
    }

    /// An insert, or an update of all columns but the counters, which keep what they hold.
    pub(crate) fn write_row(
        &mut self,
        random: &mut Random,
        key: i64,
        now: i64,
        rules: &Rules<'_>,
        writes: &mut Writes,
    ) {
        let before = self.rows.get(&key).cloned();
        let alive = before.as_ref().is_some_and(|row| !row.clock.is_deleted());
        let entry = self.entry(now, if alive { EntryFlags::empty() } else { EntryFlags::INSERTED });
        let value = self.value(entry.dot, random, rules);
        let mut clock = RowClock::whole(entry);
        let mut values = vec![Value::Integer(key)];
        clock.counters = before.as_ref().map(|row| row.clock.counters.clone()).unwrap_or_default();
        for column in 1..=COLUMNS {
            let kept = before.as_ref().filter(|_| alive && rules.counts(column));
            let value = match kept {
                Some(row) => row.values[usize::from(column)].clone(),
                None if rules.counts(column) => Value::Integer(100 * random.range(5)),
                None => value.clone(),
            };
            if let Some((_, counter)) = clock.counters.iter_mut().find(|(other, _)| *other == column) {
                if alive {
                    counter.confirm(entry);
                } else {
                    counter.set_to(entry, value.clone());
                }
            }
            if !rules.counts(column) {
                writes.entry((key, column)).or_default().insert(entry.order(), value.clone());
            }
            values.push(value);
        }
        self.rows.insert(key, RowImage { values, clock });
    }

    /// Writes one cell; with row granularity that is a write of the row.
    pub(crate) fn put(&mut self, key: i64, column: u16, value: Value, now: i64, granularity: Granularity) {
        let entry = self.entry(now, EntryFlags::empty());
        let row = self.rows.get_mut(&key).unwrap();
        row.values[usize::from(column)] = value;
        if granularity == Granularity::Row {
            row.clock = RowClock::whole(entry);
            return;
        }
        row.clock.columns.retain(|(other, _)| *other != column);
        row.clock.columns.push((column, entry));
        row.clock.columns.sort_unstable_by_key(|(column, _)| *column);
    }

    /// What a merge of another replica's row would give.
    pub(crate) fn merge_from(&self, other: &Self, key: i64, rules: &Rules<'_>) -> Result<Merged, Undecided> {
        let cx = MergeContext {
            shape: &self.shape,
            own: &self.have,
            context: &other.have,
            granularity: rules.granularity,
            policy: rules.policy,
            columns: rules.columns,
            nodes: rules.nodes,
            filled_in: &[],
            doubtful: None,
        };
        merge(self.rows.get(&key), &other.rows[&key], &cx)
    }

    fn value(&self, dot: Dot, random: &mut Random, rules: &Rules<'_>) -> Value {
        match rules.content {
            Content::Texts => Value::from(format!("{}:{}", self.origin.as_bytes()[0], dot.sequence).as_str()),
            Content::Numbers => Value::Integer(random.range(6)),
            Content::Sets => Value::from(format!("[{}, {}]", random.range(9), random.range(9)).as_str()),
        }
    }

    /// What a replica at `from` lacks, `limit` rows at most.
    pub(crate) fn read(&self, from: &VersionVector, limit: usize) -> Batch {
        self.read_without(from, &DotSet::new(), limit)
    }

    /// The same without what is to be left out.
    pub(crate) fn read_without(&self, from: &VersionVector, omit: &DotSet, limit: usize) -> Batch {
        let mut keys = BTreeSet::new();
        let mut to = from.clone();
        let mut whole = true;
        'origins: for (origin, until) in self.have.iter() {
            let after = from.get(origin);
            let mut lacking = BTreeMap::new();
            for (key, row) in &self.rows {
                for entry in row.clock.entries().filter(|entry| entry.dot.origin == origin) {
                    if entry.dot.sequence > after && entry.dot.sequence <= until && !omit.contains(entry.dot) {
                        lacking.insert(entry.dot.sequence, *key);
                    }
                }
            }
            for (sequence, key) in lacking {
                if keys.len() >= limit && !keys.contains(&key) {
                    whole = false;
                    break 'origins;
                }
                keys.insert(key);
                to.raise(origin, sequence);
            }
            to.raise(origin, until);
        }
        let rows: Vec<RowImage> = keys.iter().map(|key| self.rows[key].clone()).collect();
        let context = self.have.clone();
        let to = if whole { context.clone() } else { to };
        let tables = if rows.is_empty() { Vec::new() } else { vec![TableRows::new(self.shape.clone(), rows)] };
        Batch { source: self.origin, from: from.clone(), to, context, held: 0, dropped: self.dropped.clone(), tables }
    }

    /// Applies a batch whole, or not at all.
    pub(crate) fn apply(&mut self, batch: &Batch, now: i64, rules: &Rules<'_>) -> Applied {
        let nothing = VersionVector::new();
        match admit(&self.have, self.received.get(&batch.source).unwrap_or(&nothing), batch) {
            Admission::Known => return Applied::Done,
            Admission::Gap => return Applied::Gap,
            Admission::Apply => {}
        }
        let (ours, theirs) = ((&self.have, &self.dropped), (&batch.context, &batch.dropped));
        if lacks_dropped(ours, theirs) || lacks_dropped(theirs, ours) {
            return Applied::Gap;
        }
        if let Some((context, dropped)) = self.began.get(&batch.source)
            && (misses_dropped((&self.have, dropped), &batch.dropped) || lacks_dropped((context, dropped), ours))
        {
            self.forget_catch_up(batch.source);
            return Applied::Gap;
        }
        let held = self.held(batch.source);
        if held.beyond(&batch.from).fingerprint() != batch.held {
            return Applied::Gap;
        }
        let own = self.have.clone();
        let shape = self.shape.clone();
        let incoming = batch.tables.iter().flat_map(|table| &table.rows);
        incoming.clone().flat_map(|row| row.clock.entries()).for_each(|entry| self.clock.observe(entry.timestamp));
        let alone = batch.is_complete() && self.have.covers_all(&batch.from) && held.is_empty();
        let mut staged = if alone { BTreeMap::new() } else { self.staged.remove(&batch.source).unwrap_or_default() };
        // An old message, which would put older states of rows in the place of newer ones.
        let newer = staged.values().any(|(_, context)| !batch.context.covers_all(context));
        if newer {
            self.staged.insert(batch.source, staged);
            return Applied::Gap;
        }
        for remote in incoming {
            let Value::Integer(key) = *remote.key(&shape)[0] else { panic!("keys are integers") };
            staged.insert(key, (remote.clone(), batch.context.clone()));
        }
        if !alone {
            let began = || (batch.context.clone(), batch.dropped.clone());
            self.began.entry(batch.source).or_insert_with(began);
        }
        if !batch.is_complete() {
            self.staged.insert(batch.source, staged);
            self.received.entry(batch.source).or_default().join(&batch.to);
            return Applied::Done;
        }
        if !self.exchange(batch.source) {
            self.received.remove(&batch.source);
            return Applied::Gap;
        }
        for (key, (remote, context)) in &staged {
            let key = *key;
            // What is not covered must not be in the tables: it would hide what is.
            assert!(remote.clock.entries().all(|entry| context.covers(entry.dot)), "a row is beyond its batch");
            let cx = MergeContext {
                shape: &shape,
                own: &own,
                context,
                granularity: rules.granularity,
                policy: rules.policy,
                columns: rules.columns,
                nodes: rules.nodes,
                filled_in: &[],
                doubtful: (!context.covers_all(&self.dropped)).then_some(self.dropped_until),
            };
            let merged = merge(self.rows.get(&key), remote, &cx).expect("the policies decide");
            self.decided.extend(merged.conflict);
            let image = match merged.outcome {
                Outcome::Keep => continue,
                Outcome::TakeRemote => remote.clone(),
                Outcome::Store(image) => image,
                Outcome::Issue { image, fresh } => {
                    let entry = self.entry(now, EntryFlags::empty());
                    image.issued(&fresh, entry.timestamp, entry.dot)
                }
            };
            self.rows.insert(key, image);
        }
        self.have.join(&batch.context);
        if !self.dropped.covers_all(&batch.dropped) {
            self.dropped.join(&batch.dropped);
            self.dropped_until = Timestamp::from_millis(now + 1_000_000);
        }
        if !alone {
            self.received.remove(&batch.source);
        }
        let have = &self.have;
        self.received.retain(|_, position| !have.covers_all(position));
        let received = &self.received;
        self.staged.retain(|source, _| received.contains_key(source));
        let over: Vec<Origin> =
            self.exchanges.keys().copied().filter(|source| self.held(*source).beyond(&self.have).is_empty()).collect();
        over.iter().for_each(|source| drop(self.exchanges.remove(source)));
        let (received, exchanges) = (&self.received, &self.exchanges);
        self.began.retain(|source, _| received.contains_key(source) || exchanges.contains_key(source));
        Applied::Done
    }

    /// Begins a catch-up anew: of what came with it tombstones may be gone at its source.
    pub(crate) fn forget_catch_up(&mut self, source: Origin) {
        self.received.remove(&source);
        self.staged.remove(&source);
        self.exchanges.remove(&source);
        self.began.remove(&source);
    }

    /// What is compared in the end: the living rows.
    pub(crate) fn content(&self) -> BTreeMap<i64, Vec<Value>> {
        let alive = self.rows.iter().filter(|(_, row)| !row.clock.is_deleted());
        alive.map(|(key, row)| (*key, row.values.clone())).collect()
    }

    /// What the counters of every row hold.
    pub(crate) fn counters(&self) -> BTreeMap<i64, Vec<(u16, Counter)>> {
        self.rows.iter().map(|(key, row)| (*key, row.clock.counters.clone())).collect()
    }

    /// The effective clock of every cell, and the tombstones.
    pub(crate) fn clocks(&self) -> BTreeMap<(i64, u16), Dot> {
        let cells = self.rows.iter().flat_map(|(key, row)| {
            let columns = if row.clock.is_deleted() { 0..=0 } else { 0..=COLUMNS };
            columns.map(move |column| ((*key, column), row.clock.effective(column).dot))
        });
        cells.collect()
    }
}

/// All replicas hold the same rows, clocks and vectors.
pub(crate) fn assert_equal<'a>(replicas: impl IntoIterator<Item = &'a Replica>, seed: u64) {
    let mut replicas = replicas.into_iter();
    let first = replicas.next().expect("a cluster has replicas");
    for other in replicas {
        assert_eq!(first.content(), other.content(), "rows differ; run again with SEED={seed}");
        assert_eq!(first.clocks(), other.clocks(), "clocks differ; run again with SEED={seed}");
        assert_eq!(first.counters(), other.counters(), "counters differ; run again with SEED={seed}");
        assert_eq!(first.have, other.have, "vectors differ; run again with SEED={seed}");
    }
}

/// Without deletions every cell holds the newest write of it, whoever knew whom.
pub(crate) fn assert_newest(replica: &Replica, writes: &Writes, seed: u64) {
    let content = replica.content();
    for ((key, column), history) in writes {
        let newest = history.values().next_back().expect("a cell in the record was written");
        let held = &content[key][usize::from(*column)];
        assert_eq!(held, newest, "cell {key}.{column} lost its newest write; run again with SEED={seed}");
    }
}
