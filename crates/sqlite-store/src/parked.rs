//! Rows of peers that could not be taken in: the table or a column is not here, a policy cannot decide, or a constraint
//! refuses the row. They wait in `_sync_parked` as they came, with what they had taken into account, and are merged when
//! that can be done. Beside them are kept rows of tables, and values of columns, that were chosen not to be synced: they
//! wait for nothing. Tables and columns have the names of the wire here.
//!
//! The version vector covers them all the same, so they are passed on like rows of tables, as they came: a node that vouched
//! for what it does not hold would hide it from those behind it.

mod beside;
mod gone;
mod later;
mod selected;

use std::collections::BTreeSet;

use replication::codec::{decode_row, encode_row, encode_values};
use replication::{Entry, Origin, RowImage, TableShape, Value, VersionVector};
use rusqlite::{Connection, Row, params};

pub(crate) use beside::{
    Beside, Kept, Speaks, beside, forget_columns, has_cell, keep_silent_of, lacks_cell, supersede, without_absent,
};
pub(crate) use gone::{Places, forget_gone};
pub(crate) use later::{Progress, Unwritten, merge_next, pass_over};
pub(crate) use selected::{keep, reason_of_columns, reclassify};

use crate::apply::columns::Fit;
use crate::error::StoreError;
use crate::replica::Replica;

/// Why a row waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParkedKind {
    /// A table or its columns are not the same on both sides.
    Schema,
    /// A policy cannot decide a conflict.
    Policy,
    /// A constraint of the table refuses the row.
    Constraint,
    /// It does not wait: this database was chosen not to have it, and passes it on.
    Excluded,
}

impl ParkedKind {
    /// The name in the log and in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Schema => "schema_mismatch",
            Self::Policy => "policy",
            Self::Constraint => "constraint",
            Self::Excluded => "excluded",
        }
    }

    fn named(name: &str) -> Self {
        [Self::Policy, Self::Constraint, Self::Excluded]
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .unwrap_or(Self::Schema)
    }
}

/// A reason to wait that was not there before, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedNote {
    /// The table; by its name on the wire where it is not here.
    pub table: String,
    /// What kind of reason.
    pub kind: ParkedKind,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// What waits in a database.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting {
    /// Rows, those too that are only passed on.
    pub(crate) rows: u64,
    /// Of these, rows that wait for nothing and are passed on.
    pub(crate) passed_on: u64,
    /// Of these, rows that may be merged as soon as a row here has changed.
    pub(crate) undecided: u64,
    /// Tables and reasons that have been told.
    told: BTreeSet<(String, String)>,
}

impl Waiting {
    pub(crate) fn load(conn: &Connection) -> Result<Self, StoreError> {
        let mut statement =
            conn.prepare("SELECT tbl, reason, kind, count(*) FROM main._sync_parked GROUP BY 1, 2, 3")?;
        let mut rows = statement.query([])?;
        let mut waiting = Self::default();
        while let Some(row) = rows.next()? {
            let count = row.get::<_, i64>(3)?.cast_unsigned();
            waiting.rows += count;
            match ParkedKind::named(&row.get::<_, String>(2)?) {
                ParkedKind::Excluded => {
                    waiting.passed_on += count;
                    continue;
                }
                ParkedKind::Schema => {}
                ParkedKind::Policy | ParkedKind::Constraint => waiting.undecided += count,
            }
            waiting.told.insert((row.get(0)?, row.get(1)?));
        }
        Ok(waiting)
    }

    fn count(&mut self, kind: ParkedKind, more: bool) {
        let step = |count: u64| if more { count + 1 } else { count.saturating_sub(1) };
        self.rows = step(self.rows);
        match kind {
            ParkedKind::Schema => {}
            ParkedKind::Policy | ParkedKind::Constraint => self.undecided = step(self.undecided),
            ParkedKind::Excluded => self.passed_on = step(self.passed_on),
        }
    }

    /// Rows that wait to be merged.
    pub(crate) fn to_merge(&self) -> u64 {
        self.rows.saturating_sub(self.passed_on)
    }
}

/// A row that is to wait.
pub(crate) struct Parking<'a> {
    pub(crate) shape: &'a TableShape,
    pub(crate) row: &'a RowImage,
    /// What it has taken into account.
    pub(crate) context: &'a VersionVector,
    /// What this database knew before it came.
    pub(crate) own: &'a VersionVector,
    /// The columns that wait; none: the row as a whole.
    pub(crate) missing: &'a [String],
    /// Whether it comes from a node that leaves out columns of the table on purpose.
    pub(crate) limited: bool,
    pub(crate) kind: ParkedKind,
    pub(crate) reason: String,
}

/// A row that waits.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) id: i64,
    pub(crate) shape: TableShape,
    pub(crate) row: RowImage,
    pub(crate) context: VersionVector,
    pub(crate) own: VersionVector,
    /// The columns that wait; none: the row as a whole.
    pub(crate) missing: Vec<String>,
    kind: ParkedKind,
    reason: String,
    /// When it came, in milliseconds.
    at: i64,
}

const COLUMNS: &str = "id, shape, image, context, own, missing, kind, reason, at";

impl Parked {
    fn from_row(row: &Row<'_>) -> Result<Self, StoreError> {
        let shape: TableShape = from_text(&row.get::<_, String>(1)?)?;
        let image = decode_row(&row.get::<_, Vec<u8>>(2)?, &shape).map_err(unusable)?;
        Ok(Self {
            id: row.get(0)?,
            shape,
            row: image,
            context: from_text(&row.get::<_, String>(3)?)?,
            own: from_text(&row.get::<_, String>(4)?)?,
            missing: from_text(&row.get::<_, String>(5)?)?,
            kind: ParkedKind::named(&row.get::<_, String>(6)?),
            reason: row.get(7)?,
            at: row.get(8)?,
        })
    }

    /// The columns that the row tells of.
    fn told(&self) -> impl Iterator<Item = &String> {
        let absent: Vec<u16> = self.row.clock.absent().collect();
        (0..).zip(&self.shape.columns).filter(move |(column, _)| !absent.contains(column)).map(|(_, name)| name)
    }

    /// Whether it is what was counted, in columns that are not here, in a row that was deleted.
    fn is_counted(&self) -> bool {
        self.row.clock.is_deleted() && !self.missing.is_empty()
    }

    /// The columns that are not here.
    fn places_of_missing(&self) -> impl Iterator<Item = u16> {
        let missing = |name: &String| self.missing.iter().any(|missing| missing.eq_ignore_ascii_case(name));
        (0..).zip(&self.shape.columns).filter(move |(_, name)| missing(name)).map(|(column, _)| column)
    }

    /// The entry of what set a column.
    fn setting(&self, column: u16) -> &Entry {
        self.row.clock.counter(column).map_or(self.row.clock.effective(column), |counter| &counter.set)
    }

    /// Whether it is a state of the row that took the place of one which went with this deletion.
    fn tells_of(&self, deletion: &Entry) -> bool {
        self.row.clock.rest.is_some_and(|rest| rest.dot == deletion.dot)
    }

    /// Whether a column that is not here was written after a deletion of the row, or with the row that took its place.
    fn outlives(&self, deletion: &Entry) -> bool {
        !self.row.clock.is_deleted()
            && self.places_of_missing().any(|column| self.setting(column).order() >= deletion.order())
    }
}

/// Lets a row wait, in place of what it supersedes. The note is of a reason that was not told before.
pub(crate) fn park(
    conn: &Connection,
    replica: &mut Replica,
    parking: Parking<'_>,
    now: i64,
) -> Result<Option<ParkedNote>, StoreError> {
    let news = !replica.waiting.told.contains(&(parking.shape.name.clone(), parking.reason.clone()));
    let (shape, row) = without_absent(parking.shape, parking.row, Kept::AndSilent);
    let in_part = parking.limited || parking.row.clock.absent().next().is_some();
    let parking = Parking { shape: &shape, row: &row, ..parking };
    let Parking { shape, row, context, missing, kind, .. } = parking;
    let speaks = match (missing.is_empty(), in_part) {
        (false, _) => Speaks::Columns(missing),
        (true, true) => Speaks::PartOfRow,
        (true, false) => Speaks::Row,
    };
    // What waited is in the row that is to wait in its place.
    let told = without_absent(shape, row, Kept::Told);
    let _ = supersede(conn, replica, (&told.0, &told.1), context, speaks)?;
    if missing.is_empty() && !replica.places().has_table(shape) {
        // It was dropped everywhere while this was on its way.
        return Ok(None);
    }
    put(conn, replica, &parking, now)?;
    let table = local_name(replica, &shape.name).to_owned();
    let told = news && kind != ParkedKind::Excluded;
    Ok(told.then(|| ParkedNote { table, kind, reason: parking.reason, remedy: remedy(kind) }))
}

/// What a table is called here; what it is called on the wire, where it is not here.
fn local_name<'a>(replica: &'a Replica, wire_name: &'a str) -> &'a str {
    replica.table_by_wire_name(wire_name).map_or(wire_name, |index| &replica.tables[index].shape.name)
}

const fn remedy(kind: ParkedKind) -> &'static str {
    match kind {
        ParkedKind::Schema => {
            "run the same migration on every node, or set remote_name for what has another name here; what waits is merged \
             by itself then"
        }
        ParkedKind::Policy => "correct the values of the row, or the policy; the row is merged by itself then",
        ParkedKind::Constraint => {
            "make the table's constraints the same on every node, or correct the row where it was written"
        }
        ParkedKind::Excluded => "include it, if it is to be here",
    }
}

/// Lets a row wait beside whatever waits of it already.
fn put(conn: &Connection, replica: &mut Replica, parking: &Parking<'_>, now: i64) -> Result<(), StoreError> {
    let Parking { shape, row, context, own, missing, kind, reason, .. } = parking;
    if *kind != ParkedKind::Excluded {
        replica.waiting.told.insert((shape.name.clone(), reason.clone()));
    }
    let key = place(shape, row)?;
    conn.prepare_cached(
        "INSERT INTO main._sync_parked (tbl, key, kind, reason, at, missing, shape, image, context, own) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        shape.name,
        key,
        kind.as_str(),
        reason,
        now,
        text(&missing)?,
        text(shape)?,
        encode_row(row).map_err(unusable)?,
        text(context)?,
        text(own)?
    ])?;
    let id = conn.last_insert_rowid();
    for entry in row.clock.entries() {
        let origin = replica.origin_id(conn, entry.dot.origin)?;
        let sql = "INSERT OR IGNORE INTO main._sync_parked_dot (origin, seq, parked) VALUES (?1, ?2, ?3)";
        conn.prepare_cached(sql)?.execute(params![origin, entry.dot.sequence.cast_signed(), id])?;
    }
    replica.waiting.count(*kind, true);
    Ok(())
}

/// What waits of the row of this key.
fn under_key(conn: &Connection, shape: &TableShape, key: &[Value]) -> Result<Vec<Parked>, StoreError> {
    of_key(conn, &shape.name, place_of_key(shape, key.iter())?)
}

/// What waits of a row.
fn of_key(conn: &Connection, table: &str, key: Vec<u8>) -> Result<Vec<Parked>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM main._sync_parked WHERE tbl = ?1 AND key = ?2");
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query(params![table, key])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Parked::from_row(row)?);
    }
    Ok(found)
}

/// Takes what waits as a whole of the row of this key.
pub(crate) fn take_whole(
    conn: &Connection,
    replica: &mut Replica,
    shape: &TableShape,
    key: &[Value],
) -> Result<Vec<Parked>, StoreError> {
    let mut waiting = under_key(conn, shape, key)?;
    waiting.retain(|parked| parked.missing.is_empty() && !matches!(Fit::of(&parked.shape, shape), Fit::OtherKey));
    waiting.iter().try_for_each(|parked| remove(conn, replica, parked))?;
    Ok(waiting)
}

/// What rows look like that wait because of the schema.
pub(crate) fn shapes(conn: &Connection) -> Result<Vec<TableShape>, StoreError> {
    let sql = "SELECT DISTINCT shape FROM main._sync_parked WHERE kind = 'schema_mismatch'";
    let texts = conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    texts.iter().map(|text| from_text(text)).collect()
}

/// One row by its number.
pub(crate) fn read(conn: &Connection, id: i64) -> Result<Option<Parked>, StoreError> {
    let mut statement = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM main._sync_parked WHERE id = ?1"))?;
    let mut rows = statement.query([id])?;
    rows.next()?.map(Parked::from_row).transpose()
}

/// The keys of rows of a table that wait, as far as they fit its key.
pub(crate) fn keys_of(conn: &Connection, shape: &TableShape) -> Result<Vec<Vec<Value>>, StoreError> {
    let mut statement = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM main._sync_parked WHERE tbl = ?1"))?;
    let mut rows = statement.query([&shape.name])?;
    let names = |shape: &TableShape| -> Vec<String> {
        shape.key.iter().map(|index| shape.columns[usize::from(*index)].to_ascii_lowercase()).collect()
    };
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        let parked = Parked::from_row(row)?;
        if names(&parked.shape) == names(shape) {
            keys.push(parked.row.owned_key(&parked.shape));
        }
    }
    Ok(keys)
}

/// Takes back that what waits, or this database when it came, had taken into account what an origin did after a sequence.
pub(crate) fn forget_sequences(conn: &Connection, origin: Origin, after: u64) -> Result<(), StoreError> {
    let mut statement = conn.prepare("SELECT id, context, own FROM main._sync_parked")?;
    let mut update = conn.prepare("UPDATE main._sync_parked SET context = ?2, own = ?3 WHERE id = ?1")?;
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?));
    let all: Vec<(i64, String, String)> = statement.query_map([], read)?.collect::<Result<_, _>>()?;
    for (id, context, own) in all {
        let (mut context, mut own): (VersionVector, VersionVector) = (from_text(&context)?, from_text(&own)?);
        if context.get(origin).max(own.get(origin)) > after {
            context.lower(origin, after);
            own.lower(origin, after);
            update.execute(params![id, text(&context)?, text(&own)?])?;
        }
    }
    Ok(())
}

fn remove(conn: &Connection, replica: &mut Replica, parked: &Parked) -> Result<(), StoreError> {
    for entry in parked.row.clock.entries() {
        let sql = "DELETE FROM main._sync_parked_dot WHERE origin = ?1 AND seq = ?2 AND parked = ?3";
        let origin = replica.origin_id(conn, entry.dot.origin)?;
        conn.prepare_cached(sql)?.execute(params![origin, entry.dot.sequence.cast_signed(), parked.id])?;
    }
    conn.prepare_cached("DELETE FROM main._sync_parked WHERE id = ?1")?.execute([parked.id])?;
    replica.waiting.count(parked.kind, false);
    let sql = "SELECT EXISTS (SELECT 1 FROM main._sync_parked WHERE tbl = ?1 AND reason = ?2)";
    let left: bool =
        conn.prepare_cached(sql)?.query_row(params![parked.shape.name, parked.reason], |row| row.get(0))?;
    if !left {
        replica.waiting.told.remove(&(parked.shape.name.clone(), parked.reason.clone()));
    }
    Ok(())
}

/// A row's key in bytes, whatever the order of the key's columns on either side.
fn place(shape: &TableShape, row: &RowImage) -> Result<Vec<u8>, StoreError> {
    place_of_key(shape, row.key(shape).into_iter())
}

fn place_of_key<'a>(shape: &TableShape, key: impl Iterator<Item = &'a Value>) -> Result<Vec<u8>, StoreError> {
    let names = shape.key.iter().map(|index| shape.columns[usize::from(*index)].to_ascii_lowercase());
    let mut key: Vec<(String, Value)> = names.zip(key.cloned()).collect();
    key.sort_unstable();
    let values: Vec<Value> = key.into_iter().map(|(_, value)| value).collect();
    encode_values(&values).map_err(unusable)
}

fn text<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Encoding { reason: error.to_string() })
}

fn from_text<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Damaged { what: format!("a parked row: {error}") })
}

fn unusable(error: replication::codec::CodecError) -> StoreError {
    StoreError::Encoding { reason: error.to_string() }
}
