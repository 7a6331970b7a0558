//! A replica in memory: what the store does with SQL, done with maps. Everything in it is durable.

use std::collections::{BTreeMap, BTreeSet};

use replication::{
    Admission, Batch, ConflictPolicy, Dot, Entry, EntryFlags, Granularity, HybridClock, MergeContext, Origin, Outcome,
    RowClock, RowImage, TableRows, TableShape, Timestamp, Value, VersionVector, admit, merge,
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
}

pub(crate) struct Replica {
    pub(crate) origin: Origin,
    pub(crate) have: VersionVector,
    pub(crate) received: BTreeMap<Origin, VersionVector>,
    /// Rows of catch-ups that are not complete, by source and key, with the context of their batch.
    staged: BTreeMap<Origin, BTreeMap<i64, (RowImage, VersionVector)>>,
    pub(crate) clock: HybridClock,
    pub(crate) rows: BTreeMap<i64, RowImage>,
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
            clock: HybridClock::default(),
            rows: BTreeMap::new(),
            shape: TableShape { name: "t".to_owned(), columns, key: vec![0] },
        }
    }

    fn entry(&mut self, now: i64, flags: EntryFlags) -> Entry {
        let sequence = self.have.get(self.origin) + 1;
        self.have.raise(self.origin, sequence);
        let dot = Dot { origin: self.origin, sequence };
        Entry { timestamp: self.clock.stamp(now, now), dot, flags }
    }

    /// One write of an application, noted for the oracle.
    pub(crate) fn write(&mut self, random: &mut Random, now: i64, rules: &Rules<'_>, writes: &mut Writes) {
        let key = random.range(rules.keys);
        let alive = self.rows.get(&key).is_some_and(|row| !row.clock.is_deleted());
        if alive && rules.deletes && random.chance(4) {
            let entry = self.entry(now, EntryFlags::DELETED);
            self.rows.insert(key, RowImage { values: vec![Value::Integer(key)], clock: RowClock::whole(entry) });
        } else if alive && rules.granularity == Granularity::Column && !random.chance(4) {
            let entry = self.entry(now, EntryFlags::empty());
            let column = 1 + u16::try_from(random.range(i64::from(COLUMNS))).unwrap();
            let value = self.value(entry.dot);
            let row = self.rows.get_mut(&key).unwrap();
            row.values[usize::from(column)] = value.clone();
            row.clock.columns.retain(|(other, _)| *other != column);
            row.clock.columns.push((column, entry));
            row.clock.columns.sort_unstable_by_key(|(column, _)| *column);
            writes.entry((key, column)).or_default().insert(entry.order(), value);
        } else {
            let flags = if alive { EntryFlags::empty() } else { EntryFlags::INSERTED };
            let entry = self.entry(now, flags);
            let value = self.value(entry.dot);
            let mut values = vec![Value::Integer(key)];
            for column in 1..=COLUMNS {
                values.push(value.clone());
                writes.entry((key, column)).or_default().insert(entry.order(), value.clone());
            }
            self.rows.insert(key, RowImage { values, clock: RowClock::whole(entry) });
        }
    }

    /// A value that tells who wrote it.
    fn value(&self, dot: Dot) -> Value {
        Value::from(format!("{}:{}", self.origin.as_bytes()[0], dot.sequence).as_str())
    }

    /// What a replica at `from` lacks, `limit` rows at most.
    pub(crate) fn read(&self, from: &VersionVector, limit: usize) -> Batch {
        let mut keys = BTreeSet::new();
        let mut to = from.clone();
        let mut whole = true;
        'origins: for (origin, until) in self.have.iter() {
            let after = from.get(origin);
            let mut lacking = BTreeMap::new();
            for (key, row) in &self.rows {
                for entry in row.clock.entries().filter(|entry| entry.dot.origin == origin) {
                    if entry.dot.sequence > after && entry.dot.sequence <= until {
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
        let tables = if rows.is_empty() { Vec::new() } else { vec![TableRows { shape: self.shape.clone(), rows }] };
        Batch { source: self.origin, from: from.clone(), to, context, tables }
    }

    /// Applies a batch whole, or not at all.
    pub(crate) fn apply(&mut self, batch: &Batch, now: i64, rules: &Rules<'_>) -> Applied {
        let nothing = VersionVector::new();
        match admit(&self.have, self.received.get(&batch.source).unwrap_or(&nothing), batch) {
            Admission::Known => return Applied::Done,
            Admission::Gap => return Applied::Gap,
            Admission::Apply => {}
        }
        let own = self.have.clone();
        let shape = self.shape.clone();
        let incoming = batch.tables.iter().flat_map(|table| &table.rows);
        incoming.clone().flat_map(|row| row.clock.entries()).for_each(|entry| self.clock.observe(entry.timestamp));
        let alone = batch.is_complete() && self.have.covers_all(&batch.from);
        let mut staged = if alone { BTreeMap::new() } else { self.staged.remove(&batch.source).unwrap_or_default() };
        let newer = staged.values().any(|(_, context)| !batch.context.covers_all(context));
        if batch.is_complete() && newer {
            self.staged.insert(batch.source, staged);
            return Applied::Gap;
        }
        for remote in incoming {
            let Value::Integer(key) = *remote.key(&shape)[0] else { panic!("keys are integers") };
            staged.insert(key, (remote.clone(), batch.context.clone()));
        }
        if !batch.is_complete() {
            self.staged.insert(batch.source, staged);
            self.received.entry(batch.source).or_default().join(&batch.to);
            return Applied::Done;
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
            };
            let image = match merge(self.rows.get(&key), remote, &cx).outcome {
                Outcome::Keep => continue,
                Outcome::TakeRemote => remote.clone(),
                Outcome::Store(image) => image,
                Outcome::Reissue { values, flags } => {
                    let entry = self.entry(now, flags);
                    let values = values.unwrap_or_else(|| vec![Value::Integer(key)]);
                    RowImage { values, clock: RowClock::whole(entry) }
                }
            };
            self.rows.insert(key, image);
        }
        self.have.join(&batch.context);
        if !alone {
            self.received.remove(&batch.source);
        }
        let have = &self.have;
        self.received.retain(|_, position| !have.covers_all(position));
        let received = &self.received;
        self.staged.retain(|source, _| received.contains_key(source));
        Applied::Done
    }

    /// What is compared in the end: the living rows.
    pub(crate) fn content(&self) -> BTreeMap<i64, Vec<Value>> {
        let alive = self.rows.iter().filter(|(_, row)| !row.clock.is_deleted());
        alive.map(|(key, row)| (*key, row.values.clone())).collect()
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
