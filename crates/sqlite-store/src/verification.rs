//! What a database holds, for whoever compares it with another one: ranges of rows, and single rows.
//!
//! Only looks. Each answer is of one snapshot, and tells what the database knew then: rows differ for good only where both know the
//! same changes.

use replication::reconcile::{KeyRange, Question, RangeFingerprint, RowHasher, by_name};
use replication::{Origin, RowImage, Selection, Timestamp, Value, VersionVector};
use rusqlite::Connection;

use crate::capture::{canonical_key, has_log};
use crate::error::StoreError;
use crate::fingerprints;
use crate::replica::{Replica, ReplicaTable};
use crate::row_clock::{read_image, read_row};

/// What is asked. Tables go by their names on the wire.
#[derive(Debug, Clone, PartialEq)]
pub enum VerifyQuestion {
    /// Which tables there are.
    Tables,
    /// Fingerprints of these ranges of a table, in parts of at most so many rows.
    Ranges {
        /// The table.
        table: String,
        /// Rows to a part, at least 1.
        rows: u32,
        /// The ranges, in the order of keys.
        ranges: Vec<KeyRange>,
    },
    /// The rows with these keys.
    Rows {
        /// The table.
        table: String,
        /// Their keys.
        keys: Vec<Vec<Value>>,
    },
}

/// The answer, and what the database knew when it looked.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifyAnswer {
    /// The version vector.
    pub have: VersionVector,
    /// Whether nothing was left to be captured, or to be made known: rows may be newer than what is known of them otherwise.
    pub captured: bool,
    /// What is synced, by names on the wire.
    pub selection: Selection,
    /// What was found.
    pub found: Verified,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub enum Verified {
    /// The tables that are synced.
    Tables(Vec<VerifyTable>),
    /// Parts of the ranges, each with a form of its last key that is the same wherever that row is; and what was not looked at,
    /// because an answer is short.
    Ranges(Vec<(RangeFingerprint, Option<Vec<Value>>)>, Vec<KeyRange>),
    /// The rows, in the order of the question.
    Rows(Vec<RowState>),
    /// There is no such table, or its key has another number of columns.
    NoSuchTable,
}

/// A table to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyTable {
    /// Its name on the wire.
    pub name: String,
    /// Its synced columns, by their names on the wire in lower case, in the order of these.
    pub columns: Vec<String>,
    /// The columns of its key, in lower case, in the key's order.
    pub key: Vec<String>,
}

/// A row as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct RowState {
    /// Its key as it was asked for.
    pub key: Vec<Value>,
    /// What all of it holds; none where there is no row.
    pub content: Option<[u8; 16]>,
    /// When and by whom it was last written or deleted; none where nobody is known to have done either.
    pub newest: Option<(Timestamp, Origin)>,
}

/// Looks. Inside a transaction of the caller's.
pub(crate) fn look(conn: &Connection, replica: &Replica, question: VerifyQuestion) -> Result<VerifyAnswer, StoreError> {
    let found = match question {
        VerifyQuestion::Tables => Verified::Tables(replica.tables.iter().map(described).collect()),
        VerifyQuestion::Ranges { table, rows, ranges } => match replica.table_by_wire_name(&table) {
            Some(index) if ranges.iter().all(|range| fingerprints::fits(&replica.tables[index], range)) => {
                self::ranges(conn, replica, index, (rows, ranges))?
            }
            _ => Verified::NoSuchTable,
        },
        VerifyQuestion::Rows { table, keys } => match replica.table_by_wire_name(&table) {
            Some(index) if keys.iter().all(|key| key.len() == replica.tables[index].table.key.len()) => {
                let state = |key| row(conn, replica, &replica.tables[index], key);
                Verified::Rows(keys.into_iter().map(state).collect::<Result<_, _>>()?)
            }
            _ => Verified::NoSuchTable,
        },
    };
    let captured = !has_log(conn)? && !replica.is_publishing();
    Ok(VerifyAnswer { have: replica.have.clone(), captured, selection: replica.wire_selection.clone(), found })
}

fn described(table: &ReplicaTable) -> VerifyTable {
    // SQLite does not tell the case of ASCII letters apart in names.
    let name = |column: &u16| table.wire.columns[usize::from(*column)].to_ascii_lowercase();
    let mut columns: Vec<String> = table.wire.columns.iter().map(|name| name.to_ascii_lowercase()).collect();
    columns.sort_unstable();
    VerifyTable { name: table.wire.name.clone(), columns, key: table.wire.key.iter().map(name).collect() }
}

fn ranges(
    conn: &Connection,
    replica: &Replica,
    index: usize,
    (rows, ranges): (u32, Vec<KeyRange>),
) -> Result<Verified, StoreError> {
    let table = &replica.tables[index];
    let tables = vec![(table.wire.name.clone(), ranges)];
    let question = Question { number: 0, rows: rows.max(1), keys: false, tables };
    let answer = fingerprints::answer(conn, replica, &question)?;
    let found = answer.tables.into_iter().flat_map(|(_, found)| found);
    let named = found.map(|found| {
        let last = found.range.until.as_ref().map(|key| canonical_key(table, key));
        (found, last)
    });
    Ok(Verified::Ranges(named.collect(), answer.rest.into_iter().flat_map(|(_, rest)| rest).collect()))
}

fn row(conn: &Connection, replica: &Replica, table: &ReplicaTable, key: Vec<Value>) -> Result<RowState, StoreError> {
    let image = read_image(conn, replica, table, &key)?;
    let newest = |image: &RowImage| {
        let newest = image.clock.newest();
        (newest.timestamp, newest.dot.origin)
    };
    let (newest, values) = match image {
        Some(image) if !image.clock.is_deleted() => (Some(newest(&image)), Some(image.values)),
        // A row that nobody was told of.
        image => (image.as_ref().map(newest), read_row(conn, table, &key)?),
    };
    let content = values.map(|values| {
        let mut hasher = RowHasher::new();
        hasher.row(by_name(&table.wire.columns).into_iter().map(|place| &values[place]));
        hasher.finish()
    });
    Ok(RowState { key, content, newest })
}
