//! Reading batches: what a peer at some position lacks, as one snapshot of the database.
//!
//! Runs inside one transaction in which the change log is empty; otherwise content newer than its clock would be sent.

mod lacking;
mod together;

use std::collections::HashSet;

use replication::{Batch, Dot, DotSet, Origin, RowImage, TableRows, Value, VersionVector};
use rusqlite::Connection;

use lacking::{LackingEntry, Place};
use together::Together;

use crate::capture::canonical_key;
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
    /// Whether rows are read as well that wait here and are passed on to peers as they came, with what they say of others. Without
    /// them it is what the tables hold.
    pub passed_on: bool,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { rows: 50_000, bytes: 8 << 20, passed_on: true }
    }
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
    /// The canonical keys of rows that are done, by table.
    seen: Vec<HashSet<Vec<Value>>>,
    seen_parked: HashSet<i64>,
    rows: usize,
    bytes: usize,
    /// Where it is large.
    place: Option<LargeRead>,
}

/// Bytes beyond which a batch is large.
const LARGE: usize = 64 << 10;

/// Bytes of a row that is small enough to be read together with others, before it is known whether there is room for all of them.
const SMALL: usize = 4 << 10;

impl Gathered<'_> {
    /// Whether the rows that come next are likely to be small, going by those before.
    fn are_small(&self) -> bool {
        self.rows > 0 && self.bytes / self.rows < SMALL
    }

    /// Whether a row is gathered already.
    fn has_seen(&self, replica: &Replica, table: usize, key: &[Value]) -> bool {
        self.seen[table].contains(&canonical_key(&replica.tables[table], key))
    }

    /// Takes note of a row. False if it is gathered already.
    fn note_seen(&mut self, replica: &Replica, table: usize, key: &[Value]) -> bool {
        self.seen[table].insert(canonical_key(&replica.tables[table], key))
    }

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
        seen: replica.tables.iter().map(|_| HashSet::new()).collect(),
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
    let mut reached = after;
    // Of what is found much may have been overwritten: then there is room for more.
    while reached < until {
        let room = BatchLimits { rows: limits.rows.saturating_sub(gathered.rows).max(1), ..limits };
        let lacking = lacking::find(conn, replica, id, (reached, until), room)?;
        let end = lacking.upto;
        let mut entries = Together::new(conn, replica, lacking.entries);
        while let Some(LackingEntry { sequence, place }) = entries.next(gathered)? {
            if gathered.bytes > LARGE && gathered.place.is_none() {
                gathered.place = Some(LargeRead::begin());
            }
            if sequence > end {
                break;
            }
            gather(conn, replica, (Dot { origin, sequence }, place), limits, gathered)?;
            // A position may only stand between two sequences: entries of one dot go together.
            let next = entries.peek().filter(|next| *next <= end);
            if next.is_none_or(|next| next > sequence) && gathered.is_full(limits) {
                return Ok(if next.is_none() { end } else { sequence });
            }
        }
        reached = end;
    }
    Ok(until)
}

/// Gathers the row of an entry, if that has not been overwritten.
fn gather(
    conn: &Connection,
    replica: &Replica,
    (dot, place): (Dot, Place),
    limits: BatchLimits,
    gathered: &mut Gathered<'_>,
) -> Result<(), StoreError> {
    let (table, key, image) = match place {
        Place::Found(table, key, image) => (table, key, image.map(|image| *image)),
        Place::Table(table, key) => {
            if gathered.has_seen(replica, table, &key) {
                return Ok(());
            }
            let image = read_image(conn, replica, &replica.tables[table], &key)?;
            (table, key, image)
        }
        Place::Parked(id) => {
            parked::read(conn, id)?.into_iter().for_each(|parked| pass_on(parked, gathered));
            return Ok(());
        }
    };
    let bears = |image: &RowImage| image.clock.entries().chain(&image.clock.rest).any(|entry| entry.dot == dot);
    // What has taken the place of an entry has a dot of its own, under which the row is met if the peer lacks it.
    let Some(image) = image.filter(bears) else { return Ok(()) };
    if gathered.note_seen(replica, table, &key) {
        gathered.rows += 1;
        gathered.bytes += image.wire_size();
        if !limits.passed_on {
            gathered.tables[table].push(image);
            return Ok(());
        }
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
