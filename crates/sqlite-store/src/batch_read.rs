//! Reading batches: what a peer at some position lacks, as one snapshot of the database.
//!
//! Runs inside one transaction in which the change log is empty; otherwise content newer than its clock would be sent.

use std::collections::HashSet;

use replication::{Batch, DotSet, Origin, RowImage, TableRows, Value, VersionVector};
use rusqlite::Connection;

use crate::bind::values_from;
use crate::error::StoreError;
use crate::large_reads::LargeRead;
use crate::parked::{self, Beside, Parked};
use crate::replica::Replica;
use crate::row_clock::read_image;

/// How much one batch may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Rows, at least 1.
    pub rows: usize,
    /// Bytes on the wire, to within a row.
    pub bytes: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { rows: 20_000, bytes: 8 << 20 }
    }
}

/// An entry that the peer lacks: where its row is.
struct Lacking {
    sequence: u64,
    row: Place,
}

enum Place {
    /// In a table, by its index, under this key.
    Table(usize, Vec<Value>),
    /// Among the rows that could not be taken in, under this number.
    Parked(i64),
}

/// Rows gathered so far.
struct Gathered<'a> {
    /// What the peer has been sent.
    from: &'a VersionVector,
    tables: Vec<Vec<RowImage>>,
    /// Rows that are passed on as they came.
    passed_on: Vec<TableRows>,
    /// Rows here beside which such rows wait: they have not taken those into account, or say nothing of their columns.
    beside: Vec<TableRows>,
    seen: HashSet<(usize, Vec<Value>)>,
    seen_parked: HashSet<i64>,
    rows: usize,
    bytes: usize,
    /// Where it is large.
    place: Option<LargeRead>,
}

/// Bytes beyond which a batch is large.
const LARGE: usize = 64 << 10;

impl Gathered<'_> {
    const fn is_full(&self, limits: BatchLimits) -> bool {
        self.rows >= limits.rows || self.bytes >= limits.bytes
    }
}

/// Reads what lies between `from` and this replica's version vector without the dots of `omit`, as much as the limits allow.
pub(crate) fn read_batch(
    conn: &Connection,
    replica: &Replica,
    (from, omit): (&VersionVector, &DotSet),
    limits: BatchLimits,
) -> Result<Batch, StoreError> {
    let mut gathered = Gathered {
        from,
        tables: (0..replica.tables.len()).map(|_| Vec::new()).collect(),
        passed_on: Vec::new(),
        beside: Vec::new(),
        seen: HashSet::new(),
        seen_parked: HashSet::new(),
        rows: 0,
        bytes: 0,
        place: None,
    };
    let mut to = from.clone();
    let mut whole = true;
    for (origin, until) in replica.have.iter() {
        let mut reached = from.get(origin);
        for (place, (after, end)) in omit.gaps(origin, reached, until).into_iter().enumerate() {
            if place > 0 && gathered.is_full(limits) {
                whole = false;
                break;
            }
            reached = read_origin(conn, replica, origin, (after, end), limits, &mut gathered)?;
            if reached < end {
                whole = false;
                break;
            }
        }
        to.raise(origin, if whole { until } else { reached });
        if !whole {
            break;
        }
    }
    let own = gathered.tables.into_iter().zip(&replica.tables).filter(|(rows, _)| !rows.is_empty());
    let own =
        own.map(|(rows, table)| TableRows { limited: table.is_limited(), ..TableRows::new(table.wire.clone(), rows) });
    let tables = gathered.passed_on.into_iter().chain(gathered.beside).chain(own).collect();
    let context = replica.have.clone();
    let to = if whole { context.clone() } else { to };
    Ok(Batch {
        source: replica.own,
        from: from.clone(),
        to,
        context,
        held: 0,
        dropped: replica.dropped.upto.clone(),
        tables,
    })
}

/// Gathers the rows of one origin's entries; returns the sequence up to which all are gathered.
fn read_origin(
    conn: &Connection,
    replica: &Replica,
    origin: Origin,
    (after, until): (u64, u64),
    limits: BatchLimits,
    gathered: &mut Gathered<'_>,
) -> Result<u64, StoreError> {
    let Some(id) = replica.known_id(origin) else { return Ok(until) };
    if after >= until {
        return Ok(until);
    }
    let room = limits.rows.saturating_sub(gathered.rows).max(1);
    let (mut lacking, end) = lacking_entries(conn, replica, origin, id, (after, until), room)?;
    lacking.sort_by_key(|entry| entry.sequence);
    let mut reached = after;
    for (place, entry) in lacking.iter().enumerate() {
        if gathered.bytes > LARGE && gathered.place.is_none() {
            gathered.place = Some(LargeRead::begin());
        }
        if entry.sequence > end {
            return Ok(reached);
        }
        gather(conn, replica, entry, gathered)?;
        // A position may only stand between two sequences: entries of one dot go together.
        let boundary = lacking.get(place + 1).is_none_or(|next| next.sequence > entry.sequence);
        if boundary {
            reached = entry.sequence;
            if gathered.is_full(limits) {
                let last = place + 1 == lacking.len() && end == until;
                return Ok(if last { until } else { reached });
            }
        }
    }
    Ok(end)
}

/// The first entries of an origin in all tables, at least `room` if there are as many, and the sequence up to which
/// they are complete.
fn lacking_entries(
    conn: &Connection,
    replica: &Replica,
    origin: Origin,
    id: i64,
    (after, until): (u64, u64),
    room: usize,
) -> Result<(Vec<Lacking>, u64), StoreError> {
    let mut lacking = Vec::new();
    let mut end = until;
    for (index, table) in replica.tables.iter().enumerate() {
        if table.high.get(origin) <= after {
            continue;
        }
        // One more than there is room for tells that more follows.
        let limit = room.saturating_add(1);
        let mut statement = conn.prepare_cached(&table.sql.clock_since)?;
        let mut rows = statement.query(rusqlite::params![
            id,
            after.cast_signed(),
            until.cast_signed(),
            i64::try_from(limit).unwrap_or(i64::MAX)
        ])?;
        let (mut count, mut last) = (0, after);
        while let Some(row) = rows.next()? {
            let sequence = row.get::<_, i64>(0)?.cast_unsigned();
            count += 1;
            let key = values_from(row, 1, table.table.key.len())?;
            // One dot may have many entries. It has one row, but for sums that were counted under an origin that was left.
            let same = |known: &Lacking| matches!(&known.row, Place::Table(of, known) if *of == index && *known == key);
            if count == 1 || sequence != last || !lacking.last().is_some_and(same) {
                lacking.push(Lacking { sequence, row: Place::Table(index, key) });
            }
            last = sequence;
        }
        if count == limit {
            end = end.min(last);
        }
    }
    if replica.waiting.rows > 0 {
        end = end.min(lacking_parked(conn, id, (after, until), room, &mut lacking)?);
    }
    Ok((lacking, end))
}

/// The same of the rows that could not be taken in: they are as much this database's to pass on.
fn lacking_parked(
    conn: &Connection,
    id: i64,
    (after, until): (u64, u64),
    room: usize,
    lacking: &mut Vec<Lacking>,
) -> Result<u64, StoreError> {
    let limit = room.saturating_add(1);
    let mut statement = conn.prepare_cached(
        "SELECT seq, parked FROM main._sync_parked_dot WHERE origin = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4",
    )?;
    let bound = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query([id, after.cast_signed(), until.cast_signed(), bound])?;
    let (mut count, mut last) = (0, until);
    while let Some(row) = rows.next()? {
        last = row.get::<_, i64>(0)?.cast_unsigned();
        count += 1;
        lacking.push(Lacking { sequence: last, row: Place::Parked(row.get(1)?) });
    }
    Ok(if count == limit { last } else { until })
}

fn gather(
    conn: &Connection,
    replica: &Replica,
    entry: &Lacking,
    gathered: &mut Gathered<'_>,
) -> Result<(), StoreError> {
    let (table, key) = match &entry.row {
        Place::Table(table, key) => (*table, key),
        Place::Parked(id) => {
            parked::read(conn, *id)?.into_iter().for_each(|parked| pass_on(parked, gathered));
            return Ok(());
        }
    };
    // Clock tables hold a key in one spelling, so its bytes tell rows apart.
    if !gathered.seen.insert((table, key.clone())) {
        return Ok(());
    }
    if let Some(image) = read_image(conn, replica, &replica.tables[table], key)? {
        gathered.rows += 1;
        gathered.bytes += image.wire_size();
        let (shape, limited) = (&replica.tables[table].wire, replica.tables[table].is_limited());
        let Beside { waiting, context, told } = parked::beside(conn, replica, shape, &image)?;
        let from = gathered.from;
        let has = |Parked { row, .. }: &Parked| {
            row.clock.entries().chain(&row.clock.rest).all(|entry| from.covers(entry.dot))
        };
        waiting.into_iter().filter(|parked| !has(parked)).for_each(|parked| pass_on(parked, gathered));
        if context.is_none() && told.is_empty() {
            gathered.tables[table].push(image);
            return Ok(());
        }
        let (mut shape, mut image) = (shape.clone(), image);
        parked::keep_silent_of(&told, &mut shape, &mut image);
        let alike = |rows: &&mut TableRows| rows.shape == shape && rows.context == context;
        match gathered.beside.last_mut().filter(alike) {
            Some(last) => last.rows.push(image),
            None => gathered.beside.push(TableRows { context, limited, ..TableRows::new(shape, vec![image]) }),
        }
    }
    Ok(())
}

/// Adds a row that waits as it came.
fn pass_on(parked: Parked, gathered: &mut Gathered<'_>) {
    if !gathered.seen_parked.insert(parked.id) {
        return;
    }
    gathered.rows += 1;
    gathered.bytes += parked.row.wire_size();
    let Parked { shape, row, context, missing: parts, .. } = parked;
    let context = Some(context);
    match gathered.passed_on.last_mut() {
        Some(last) if last.shape == shape && last.context == context && last.parts == parts => last.rows.push(row),
        _ => gathered.passed_on.push(TableRows { context, parts, ..TableRows::new(shape, vec![row]) }),
    }
}
