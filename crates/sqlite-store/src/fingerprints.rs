//! What there is in ranges of tables, for peers that have never met this database: see [`replication::reconcile`].

use replication::reconcile::{
    Answer, Compared, Exchange, KeyRange, Question, RangeFingerprint, RowHasher, RunFinder, Verdict, by_name,
};
use replication::{Dot, Origin, Value};
use rusqlite::Connection;

use crate::bind::{bind_from, values_from};
use crate::error::StoreError;
use crate::replica::{Replica, ReplicaTable};
use crate::staging::exchanges;

/// Rows that one answer looks at.
const ANSWER_ROWS: u64 = 50_000;

/// Bytes of these rows, and of the keys in an answer, to within a row.
const ANSWER_BYTES: usize = 32 << 20;
const ANSWER_KEY_BYTES: usize = 256 << 10;

/// Runs that are noted of one peer at most: what differs in more places is sent.
const RUNS: usize = 20_000;

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
    let mut answer = Answer { number: question.number, tables: Vec::new(), rest: Vec::new() };
    for (name, ranges) in &question.tables {
        let Some(table) = replica.table_by_wire_name(name).map(|index| &replica.tables[index]) else { continue };
        let (mut found, mut rest) = (Vec::new(), Vec::new());
        for range in ranges.iter().filter(|range| fits(table, range)) {
            if room.is_full() {
                rest.push(range.clone());
            } else {
                rest.extend(look(conn, replica, table, range, u64::from(question.rows), &mut room, &mut found)?);
            }
        }
        answer.tables.push((name.clone(), found));
        if !rest.is_empty() {
            answer.rest.push((name.clone(), rest));
        }
    }
    Ok(answer)
}

/// Whether a range is one of this table's keys.
fn fits(table: &ReplicaTable, range: &KeyRange) -> bool {
    let width = table.table.key.len();
    [&range.after, &range.until].into_iter().flatten().all(|key| key.len() == width)
}

/// Fingerprints of a range, in parts of at most `limit` rows; what is left of it when there is no room any more.
fn look(
    conn: &Connection,
    replica: &Replica,
    table: &ReplicaTable,
    range: &KeyRange,
    limit: u64,
    room: &mut Room,
    found: &mut Vec<RangeFingerprint>,
) -> Result<Option<KeyRange>, StoreError> {
    let mut part = Part::new(table, range.after.clone());
    let mut full = false;
    each(conn, replica, table, range, |row| {
        part.add(&row);
        room.take(&row.values);
        if part.run.rows() >= limit || room.is_full() {
            room.keys = room.keys.saturating_sub(2 * size(&row.key));
            found.push(part.end(Some(row.key)));
            full = room.is_full();
        }
        Ok(!full)
    })?;
    if full {
        return Ok(Some(KeyRange { after: part.after, until: range.until.clone() }));
    }
    found.push(part.end(range.until.clone()));
    Ok(None)
}

/// A row as it is looked at.
struct Row {
    key: Vec<Value>,
    values: Vec<Value>,
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
}

impl Part {
    fn new(table: &ReplicaTable, after: Option<Vec<Value>>) -> Self {
        let (columns, grown) = (by_name(&table.wire.columns), !table.born.is_empty());
        Self { after, columns, hasher: RowHasher::new(), run: RunFinder::default(), grown }
    }

    fn add(&mut self, row: &Row) {
        self.hasher.row(self.columns.iter().map(|place| &row.values[*place]));
        self.run.note(row.alone.filter(|_| !self.grown));
    }

    fn end(&mut self, until: Option<Vec<Value>>) -> RangeFingerprint {
        let range = KeyRange { after: std::mem::replace(&mut self.after, until.clone()), until };
        let run = std::mem::take(&mut self.run);
        RangeFingerprint { range, rows: run.rows(), content: self.hasher.finish(), run: run.run() }
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
        if !show(Row { key, values, alone })? {
            break;
        }
    }
    Ok(())
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
                Verdict::Alike(exchange) if compared.ours.run_count() < RUNS => {
                    let (origin, first, last) = exchange.our_run();
                    compared.ours.insert(origin, first, last);
                    note(conn, replica, (source, index), &theirs.range, &exchange)?;
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

fn note(
    conn: &Connection,
    replica: &mut Replica,
    (source, index): (Origin, usize),
    range: &KeyRange,
    exchange: &Exchange,
) -> Result<(), StoreError> {
    let number = replica.tables[index].table.number;
    exchanges::note(conn, replica, source, number, range, exchange)
}

/// What is here in the range of a peer's fingerprint, as far as it can be the same.
fn fingerprint(
    conn: &Connection,
    replica: &Replica,
    index: usize,
    theirs: &RangeFingerprint,
) -> Result<RangeFingerprint, StoreError> {
    let table = &replica.tables[index];
    let mut part = Part::new(table, theirs.range.after.clone());
    each(conn, replica, table, &theirs.range, |row| {
        part.add(&row);
        Ok(part.run.rows() <= theirs.rows)
    })?;
    Ok(part.end(theirs.range.until.clone()))
}
