//! What there is in ranges of tables, for peers that have never met this database: see [`replication::reconcile`].

use std::collections::HashSet;

use replication::reconcile::{
    Answer, Compared, Exchange, KeyRange, LAST_ROWS, Question, RangeFingerprint, RowHasher, RunFinder, TableRanges,
    Verdict, by_name,
};
use replication::{Dot, Origin, Value, VersionVector};
use rusqlite::Connection;

use crate::bind::{bind_from, values_from};
use crate::capture::canonical_key;
use crate::error::StoreError;
use crate::parked;
use crate::replica::{Replica, ReplicaTable};
use crate::staging::exchanges;

/// Rows that one answer looks at.
const ANSWER_ROWS: u64 = 50_000;

/// Bytes of these rows, and of the keys in an answer, to within a row.
const ANSWER_BYTES: usize = 32 << 20;
const ANSWER_KEY_BYTES: usize = 256 << 10;

/// Runs that are noted of one peer at most: what differs in more places is sent.
const RUNS: usize = 20_000;

/// Keys that are missing at a peer which are looked at in one answer.
const SWEPT: usize = 20_000;

/// What an answer may still look at.
struct Room {
    rows: u64,
    bytes: usize,
    keys: usize,
}

impl Room {
    const fn is_full(&self) -> bool {
        self.rows == 0 || self.bytes == 0 || self.keys == 0
    }

    fn take(&mut self, row: &[Value]) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size(row));
    }
}

fn size(values: &[Value]) -> usize {
    values.iter().map(Value::wire_size).sum()
}

/// Answers a question, as far as there is room. A table that is not synced here has nothing to compare.
pub(crate) fn answer(conn: &Connection, replica: &Replica, question: &Question) -> Result<Answer, StoreError> {
    let mut room = Room { rows: ANSWER_ROWS, bytes: ANSWER_BYTES, keys: ANSWER_KEY_BYTES };
    let (number, have, dropped) = (question.number, replica.have.clone(), replica.dropped.upto.clone());
    let mut answer = Answer { number, tables: Vec::new(), rest: Vec::new(), have, dropped, waiting: Vec::new() };
    let asked = Asked { rows: u64::from(question.rows), keys: question.keys, tell: question.rows <= LAST_ROWS };
    for (name, ranges) in &question.tables {
        let Some(table) = replica.table_by_wire_name(name).map(|index| &replica.tables[index]) else { continue };
        let (mut found, mut rest) = (Vec::new(), Vec::new());
        for range in ranges.iter().filter(|range| fits(table, range)) {
            if room.is_full() {
                rest.push(range.clone());
            } else {
                rest.extend(look(conn, replica, table, (range, asked), &mut room, &mut found)?);
            }
        }
        answer.tables.push((name.clone(), found));
        if question.keys && replica.waiting.rows > 0 {
            answer.waiting.push((name.clone(), parked::keys_of(conn, &table.wire)?));
        }
        if !rest.is_empty() {
            answer.rest.push((name.clone(), rest));
        }
    }
    Ok(answer)
}

/// Whether a range is one of this table's keys.
pub(crate) fn fits(table: &ReplicaTable, range: &KeyRange) -> bool {
    let width = table.table.key.len();
    [&range.after, &range.until].into_iter().flatten().all(|key| key.len() == width)
}

/// What is asked about.
#[derive(Clone, Copy)]
struct Asked {
    /// Rows to a fingerprint.
    rows: u64,
    /// Whether it is about keys alone, and whether these are to be told.
    keys: bool,
    tell: bool,
}

/// Fingerprints of a range, in parts of at most so many rows as are asked for; what is left of it when there is no room any more.
fn look(
    conn: &Connection,
    replica: &Replica,
    table: &ReplicaTable,
    (range, asked): (&KeyRange, Asked),
    room: &mut Room,
    found: &mut Vec<RangeFingerprint>,
) -> Result<Option<KeyRange>, StoreError> {
    let mut part = Part::new(table, range.after.clone(), asked.keys && asked.tell);
    let mut full = false;
    let show = |row: Row| {
        part.add(table, &row);
        room.take(row.values.as_deref().unwrap_or(&row.key));
        if part.run.rows() >= asked.rows || room.is_full() {
            room.keys = room.keys.saturating_sub(2 * size(&row.key));
            found.push(part.end(Some(row.key)));
            full = room.is_full();
        }
        Ok(!full)
    };
    if asked.keys {
        each_key(conn, table, range, show)?
    } else {
        each(conn, replica, table, range, show)?
    }
    if full {
        return Ok(Some(KeyRange { after: part.after, until: range.until.clone() }));
    }
    found.push(part.end(range.until.clone()));
    Ok(None)
}

/// A row as it is looked at.
struct Row {
    key: Vec<Value>,
    /// None where only keys are looked at.
    values: Option<Vec<Value>>,
    /// Its entry, if it is a baseline row with nothing else.
    alone: Option<Dot>,
}

/// What is being looked at.
struct Part {
    after: Option<Vec<Value>>,
    columns: Vec<usize>,
    hasher: RowHasher,
    run: RunFinder,
    /// Columns came later than rows: what speaks for them is not the rows' entries alone.
    grown: bool,
    /// The keys, if they are to be told.
    keys: Option<Vec<Vec<Value>>>,
}

impl Part {
    fn new(table: &ReplicaTable, after: Option<Vec<Value>>, tell: bool) -> Self {
        let (columns, grown) = (by_name(&table.wire.columns), !table.born.is_empty());
        let (hasher, run, keys) = (RowHasher::new(), RunFinder::default(), tell.then(Vec::new));
        Self { after, columns, hasher, run, grown, keys }
    }

    fn add(&mut self, table: &ReplicaTable, row: &Row) {
        match &row.values {
            Some(values) => self.hasher.row(self.columns.iter().map(|place| &values[*place])),
            None => self.hasher.row(&canonical_key(table, &row.key)),
        }
        self.keys.iter_mut().for_each(|keys| keys.push(row.key.clone()));
        self.run.note(row.alone.filter(|_| !self.grown));
    }

    fn end(&mut self, until: Option<Vec<Value>>) -> RangeFingerprint {
        let range = KeyRange { after: std::mem::replace(&mut self.after, until.clone()), until };
        let (run, keys) = (std::mem::take(&mut self.run), self.keys.as_mut().map(std::mem::take));
        RangeFingerprint { range, rows: run.rows(), content: self.hasher.finish(), run: run.run(), keys }
    }
}

/// Shows the rows of a range in the order of their keys, until `show` has seen enough.
fn each(
    conn: &Connection,
    replica: &Replica,
    table: &ReplicaTable,
    range: &KeyRange,
    mut show: impl FnMut(Row) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let mut statement = conn.prepare_cached(&table.sql.in_range(range.after.is_some(), range.until.is_some()))?;
    let bounds: Vec<Value> = [&range.after, &range.until].into_iter().flatten().flatten().cloned().collect();
    bind_from(&mut statement, 1, &bounds)?;
    let width = table.table.columns.len();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let values = values_from(row, 0, width)?;
        let key = table.table.key.iter().map(|index| values[*index].clone()).collect();
        let alone = match row.get::<_, Option<i64>>(width)? {
            Some(origin) => {
                Some(Dot { origin: replica.origin(origin)?, sequence: row.get::<_, i64>(width + 1)?.cast_unsigned() })
            }
            None => None,
        };
        if !show(Row { key, values: Some(values), alone })? {
            break;
        }
    }
    Ok(())
}

/// Shows the keys of a range in their order, until `show` has seen enough.
fn each_key(
    conn: &Connection,
    table: &ReplicaTable,
    range: &KeyRange,
    mut show: impl FnMut(Row) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let mut statement = conn.prepare_cached(&table.sql.keys_in_range(range.after.is_some(), range.until.is_some()))?;
    let bounds: Vec<Value> = [&range.after, &range.until].into_iter().flatten().flatten().cloned().collect();
    bind_from(&mut statement, 1, &bounds)?;
    let width = table.table.key.len();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        if !show(Row { key: values_from(row, 0, width)?, values: None, alone: None })? {
            break;
        }
    }
    Ok(())
}

/// What of a peer's answer about keys is not the same here.
#[derive(Debug, Default)]
pub(crate) struct Differing {
    /// Keys here that the peer does not have, by the table's index.
    pub(crate) missing_there: Vec<(usize, Vec<Vec<Value>>)>,
    /// Where more is to be asked.
    pub(crate) ranges: TableRanges,
}

/// Compares the keys that a peer has with those here.
pub(crate) fn compare_keys(conn: &Connection, replica: &Replica, answer: &Answer) -> Result<Differing, StoreError> {
    let mut differing = Differing::default();
    for (name, theirs) in &answer.tables {
        let Some(index) = replica.table_by_wire_name(name) else { continue };
        let table = &replica.tables[index];
        let canonical =
            |keys: &[Vec<Value>]| -> HashSet<Vec<Value>> { keys.iter().map(|key| canonical_key(table, key)).collect() };
        let same = |(waiting, _): &&(String, Vec<Vec<Value>>)| waiting.eq_ignore_ascii_case(name);
        let waiting = answer.waiting.iter().find(same).map(|(_, keys)| canonical(keys)).unwrap_or_default();
        let (mut missing, mut ranges) = (Vec::new(), Vec::new());
        for theirs in theirs.iter().filter(|theirs| fits(table, &theirs.range)) {
            let mut ours = Part::new(table, theirs.range.after.clone(), false);
            each_key(conn, table, &theirs.range, |row| {
                ours.add(table, &row);
                Ok(true)
            })?;
            let ours = ours.end(theirs.range.until.clone());
            if ours.rows == theirs.rows && ours.content == theirs.content {
                continue;
            }
            let there = match &theirs.keys {
                Some(keys) => canonical(keys),
                None if theirs.rows == 0 => HashSet::new(),
                None => {
                    ranges.push(theirs.range.clone());
                    continue;
                }
            };
            let gone = |key: &Vec<Value>| {
                let key = canonical_key(table, key);
                !there.contains(&key) && !waiting.contains(&key)
            };
            let mut last = None;
            each_key(conn, table, &theirs.range, |row| {
                if missing.len() >= SWEPT {
                    return Ok(false);
                }
                last = Some(row.key.clone());
                missing.extend(Some(row.key).filter(gone));
                Ok(true)
            })?;
            if missing.len() >= SWEPT {
                // The rest of the range is asked about again.
                ranges.push(KeyRange { after: last, until: theirs.range.until.clone() });
            }
        }
        if !missing.is_empty() {
            differing.missing_there.push((index, missing));
        }
        if !ranges.is_empty() {
            differing.ranges.push((name.clone(), ranges));
        }
    }
    Ok(differing)
}

/// Compares a peer's answer with what is here, and notes which rows are alike. Inside the caller's transaction.
pub(crate) fn compare(
    conn: &Connection,
    replica: &mut Replica,
    source: Origin,
    answer: &Answer,
) -> Result<Compared, StoreError> {
    let mut compared = Compared::default();
    for (name, theirs) in &answer.tables {
        let Some(index) = replica.table_by_wire_name(name) else { continue };
        let mut differing = Vec::new();
        for theirs in theirs {
            if !fits(&replica.tables[index], &theirs.range) {
                continue;
            }
            let ours = fingerprint(conn, replica, index, theirs)?;
            match ours.against(theirs) {
                Verdict::Alike(exchange) if is_noted(replica, source, &exchange) => {
                    let (origin, first, last) = exchange.our_run();
                    compared.ours.insert(origin, first, last);
                }
                Verdict::Alike(exchange) if may_note(replica, (source, answer), &exchange) => {
                    let (origin, first, last) = exchange.our_run();
                    compared.ours.insert(origin, first, last);
                    let began = (answer.have.clone(), answer.dropped.clone());
                    note(conn, replica, (source, index), (&theirs.range, &exchange), began)?;
                }
                _ if ours.rows > 0 && theirs.rows > 0 => differing.push(theirs.range.clone()),
                _ => {}
            }
        }
        if !differing.is_empty() {
            compared.differing.push((name.clone(), differing));
        }
    }
    compared.theirs = replica.received.get(&source).map(|received| received.held.clone()).unwrap_or_default();
    Ok(compared)
}

/// Whether an exchange was noted before.
fn is_noted(replica: &Replica, source: Origin, exchange: &Exchange) -> bool {
    let (origin, first, last) = exchange.their_run();
    let held = replica.received.get(&source).map(|received| &received.held);
    held.is_some_and(|held| held.gaps(origin, first - 1, last).is_empty())
}

/// Whether an exchange can be noted: of dots that the peer knows, and that this database has not issued itself.
fn may_note(replica: &Replica, (source, answer): (Origin, &Answer), exchange: &Exchange) -> bool {
    let (origin, _, sequence) = exchange.their_run();
    let room = replica.received.get(&source).is_none_or(|received| received.held.run_count() < RUNS);
    room && origin != replica.own && answer.have.covers(Dot { origin, sequence })
}

fn note(
    conn: &Connection,
    replica: &mut Replica,
    (source, index): (Origin, usize),
    exchange: (&KeyRange, &Exchange),
    began: (VersionVector, VersionVector),
) -> Result<(), StoreError> {
    let number = replica.tables[index].table.number;
    exchanges::note(conn, replica, (source, number), exchange, began)
}

/// What is here in the range of a peer's fingerprint, as far as it can be the same.
fn fingerprint(
    conn: &Connection,
    replica: &Replica,
    index: usize,
    theirs: &RangeFingerprint,
) -> Result<RangeFingerprint, StoreError> {
    let table = &replica.tables[index];
    let mut part = Part::new(table, theirs.range.after.clone(), false);
    each(conn, replica, table, &theirs.range, |row| {
        part.add(table, &row);
        Ok(part.run.rows() <= theirs.rows)
    })?;
    Ok(part.end(theirs.range.until.clone()))
}
