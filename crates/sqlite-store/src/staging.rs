//! Catch-ups that take more than one batch: their rows are staged, and merged once all are here.
//!
//! A part of a snapshot is no snapshot. A row of it may hold the unique value of another whose newer state is still to
//! come; and a row that is overwritten by a change which the vector does not cover yet is no longer what the vector
//! promises to others. So nothing of an incomplete batch is merged. What is staged is durable: an interrupted catch-up goes
//! on from its position. When the last batch is in, everything is merged in transactions of a bounded number of rows, and
//! the last one raises the vector. Until then the database is not read for peers and takes no other batch. Most rows are staged many
//! at a time, in [pages]; the others are kept by their keys, each in its newest state.
//!
//! The stage is a file of its own in the state folder, attached to the database's connection as `_sync_spool`: the
//! application's file does not grow with what only passes through. Rows must never be gone from the stage and not be in the
//! tables, whenever the process is killed. The stage has a rollback journal for that: if the application's file has one too,
//! SQLite commits both as one by a super-journal; if that has a write-ahead log, it is committed first, and rows may be merged
//! a second time, which changes nothing. A stage with a write-ahead log would be committed before a rollback journal.

mod course;
pub(crate) mod exchanges;
mod pages;

pub(crate) use course::{
    begin_anew, clear, clear_known, clear_stale, load, make_room, note_began, note_dropped, start_over,
};
pub(crate) use pages::Paging;

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use replication::codec::{decode_row, encode_row, encode_values};
use replication::{Origin, RowImage, Value, VersionVector};
use rusqlite::{Connection, params};

use crate::capture::canonical_key;
use crate::error::StoreError;
use crate::replica::{Replica, ReplicaTable};
use crate::table_sql::AT_ONCE;

/// When rows of a catch-up are merged, whatever table they are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    /// First, rows that the source could not take in.
    PassedOn,
    /// Its own state of rows.
    Own,
    /// Last, single columns of these.
    Parts,
}

impl Turn {
    /// The number under which rows of a table are staged. Numbers of tables are small.
    fn place(self, table: i64) -> i64 {
        match self {
            Self::PassedOn => -table,
            Self::Own => table,
            Self::Parts => table + (1 << 32),
        }
    }
}

/// Keyed rows fetched from the stage at a time: their memory is bounded however many a transaction merges.
const FETCHED: usize = 256;

/// The tables of the stage.
const TABLES: &str = "
    -- Whose it is: positions mean nothing to another incarnation of the database.
    CREATE TABLE IF NOT EXISTS _sync_spool._sync_owner (origin BLOB NOT NULL);
    -- Catch-ups that are under way: what the database knew when each began, how far it has come, the tables' shapes that its
    -- rows fit, whether all of it is here, and whether some of it is merged.
    CREATE TABLE IF NOT EXISTS _sync_spool._sync_received (source BLOB PRIMARY KEY, base TEXT NOT NULL,
        position TEXT NOT NULL, shapes INTEGER NOT NULL, complete INTEGER NOT NULL, merged INTEGER NOT NULL DEFAULT 0)
        WITHOUT ROWID;
    -- What their sources knew when they began, and up to where tombstones may have been gone there.
    CREATE TABLE IF NOT EXISTS _sync_spool._sync_began (source BLOB PRIMARY KEY, context TEXT NOT NULL,
        dropped TEXT NOT NULL, last TEXT) WITHOUT ROWID;
    -- Their batches, and what the rows of each have taken into account.
    CREATE TABLE IF NOT EXISTS _sync_spool._sync_batch (id INTEGER PRIMARY KEY, source BLOB NOT NULL,
        context TEXT NOT NULL);
    -- Their rows that are kept by their keys, each as of the last batch that brought it.
    CREATE TABLE IF NOT EXISTS _sync_spool._sync_staged (source BLOB, tbl INTEGER, key BLOB, batch INTEGER NOT NULL,
        row BLOB NOT NULL, PRIMARY KEY (source, tbl, key)) WITHOUT ROWID;";

/// Attaches the stage to a database's connection: the file at `path`, or one that goes with the connection. A file that
/// cannot be used is made anew: what was in it is asked for again.
pub(crate) fn attach(conn: &Connection, path: Option<&Path>) -> Result<(), StoreError> {
    let Some(path) = path else {
        conn.execute_batch("ATTACH '' AS _sync_spool")?;
        return Ok(conn.execute_batch(&[TABLES, pages::TABLE, exchanges::TABLE].concat())?);
    };
    if try_attach(conn, path).is_ok() {
        return Ok(());
    }
    // Not attached, if that is what failed.
    let _ = conn.execute_batch("DETACH _sync_spool");
    for suffix in ["", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        // What is not there need not go.
        let _ = std::fs::remove_file(name);
    }
    try_attach(conn, path)
}

fn try_attach(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    // The database's own connection makes no files. Pages that become free are given back.
    Connection::open(path)?.execute_batch("PRAGMA auto_vacuum = FULL; PRAGMA journal_mode = DELETE")?;
    conn.execute("ATTACH ?1 AS _sync_spool", [path.to_string_lossy()])?;
    let settings = "PRAGMA _sync_spool.journal_mode = TRUNCATE; PRAGMA _sync_spool.synchronous = NORMAL;";
    Ok(conn.execute_batch(&[settings, TABLES, pages::TABLE, exchanges::TABLE].concat())?)
}

/// A staged row.
#[derive(Debug)]
pub(crate) struct Staged {
    /// The table's index.
    pub(crate) table: usize,
    /// The row, in the table's own shape.
    pub(crate) row: RowImage,
    /// What it has taken into account: the context of its own batch. A later one's would be wrong, for a row that changed
    /// since at the source is not sent again where the change came here from others.
    pub(crate) context: Arc<VersionVector>,
    /// What it is.
    pub(crate) turn: Turn,
}

/// The staged rows of one source.
#[derive(Debug)]
pub(crate) struct Stage {
    source: Origin,
    contexts: HashMap<i64, Arc<VersionVector>>,
    /// How many of the tables that rows are taken of, in their order, are known to have none left.
    emptied: Cell<usize>,
}

impl Stage {
    /// The stage of a source, as it is.
    pub(crate) fn open(conn: &Connection, source: Origin) -> Result<Self, StoreError> {
        let mut contexts = HashMap::new();
        let mut statement = conn.prepare_cached("SELECT id, context FROM _sync_spool._sync_batch WHERE source = ?1")?;
        let mut rows = statement.query([source.as_bytes()])?;
        while let Some(row) = rows.next()? {
            let text: String = row.get(1)?;
            let context =
                serde_json::from_str(&text).map_err(|error| StoreError::Damaged { what: error.to_string() })?;
            contexts.insert(row.get(0)?, Arc::new(context));
        }
        Ok(Self { source, contexts, emptied: Cell::new(0) })
    }

    /// Begins a batch; its number.
    pub(crate) fn begin(&mut self, conn: &Connection, context: &VersionVector) -> Result<i64, StoreError> {
        let sql = "INSERT INTO _sync_spool._sync_batch (source, context) VALUES (?1, ?2)";
        conn.prepare_cached(sql)?.execute(params![self.source.as_bytes(), text(context)?])?;
        let number = conn.last_insert_rowid();
        self.contexts.insert(number, Arc::new(context.clone()));
        Ok(number)
    }

    /// Stages rows of a batch, in place of older states of them. They follow the table's own shape. Those that the source passes
    /// on as they came stand beside what the source has of them.
    pub(crate) fn put<'r>(
        &self,
        conn: &Connection,
        (batch, turn): (i64, Turn),
        table: &ReplicaTable,
        rows: impl Iterator<Item = &'r RowImage>,
    ) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        for row in rows {
            let key: Vec<Value> = row.owned_key(&table.shape);
            let (mut key, row) = (place(table, &key)?, encode_row(row).map_err(unusable)?);
            if turn != Turn::Own {
                key.extend(batch.to_be_bytes());
            }
            bytes.push((key, row));
        }
        let number = turn.place(table.table.number);
        let put = |sql: &str, rows: &[(Vec<u8>, Vec<u8>)]| -> Result<(), StoreError> {
            let mut statement = conn.prepare_cached(sql)?;
            statement.raw_bind_parameter(1, self.source.as_bytes())?;
            statement.raw_bind_parameter(2, number)?;
            statement.raw_bind_parameter(3, batch)?;
            for (place, bytes) in (4..).zip(rows.iter().flat_map(|(key, row)| [key, row])) {
                statement.raw_bind_parameter(place, bytes)?;
            }
            statement.raw_execute()?;
            Ok(())
        };
        let together = bytes.chunks_exact(AT_ONCE);
        together.remainder().chunks(1).try_for_each(|row| put(put_sql(1), row))?;
        together.into_iter().try_for_each(|rows| put(put_sql(AT_ONCE), rows))
    }

    /// Takes the staged state of a key, if there is one.
    pub(crate) fn take(
        &self,
        conn: &Connection,
        replica: &Replica,
        index: usize,
        key: &[Value],
    ) -> Result<Option<Staged>, StoreError> {
        let table = &replica.tables[index];
        let sql =
            "DELETE FROM _sync_spool._sync_staged WHERE source = ?1 AND tbl = ?2 AND key = ?3 RETURNING batch, row";
        let parameters = params![self.source.as_bytes(), table.table.number, place(table, key)?];
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query(parameters)?;
        let staged = match rows.next()? {
            Some(row) => Some(self.staged(replica, (Turn::Own, index), row.get(0)?, &row.get::<_, Vec<u8>>(1)?)?),
            None => None,
        };
        // A statement that is not run to its end may not have done its work.
        while rows.next()?.is_some() {}
        Ok(staged)
    }

    /// Takes the parts of a row that are staged.
    pub(crate) fn take_parts(
        &self,
        conn: &Connection,
        replica: &Replica,
        index: usize,
        key: &[Value],
    ) -> Result<Vec<Staged>, StoreError> {
        let table = &replica.tables[index];
        let (number, first) = (Turn::Parts.place(table.table.number), place(table, key)?);
        // The number of their batch follows the key.
        let last = [first.as_slice(), &[u8::MAX; 9]].concat();
        let mut statement = conn.prepare_cached(
            "DELETE FROM _sync_spool._sync_staged WHERE source = ?1 AND tbl = ?2 AND key >= ?3 AND key <= ?4 \
             AND length(key) = ?5 RETURNING batch, row",
        )?;
        let length = i64::try_from(first.len() + 8).unwrap_or(i64::MAX);
        let parameters = params![self.source.as_bytes(), number, first, last, length];
        let rows = statement.query_map(parameters, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut taken = rows.collect::<Result<Vec<(i64, Vec<u8>)>, _>>()?;
        taken.sort_unstable_by_key(|(batch, _)| *batch);
        taken.iter().map(|(batch, row)| self.staged(replica, (Turn::Parts, index), *batch, row)).collect()
    }

    /// Takes some of the next rows, at most `limit`: how many, none if there are no more, and those of them that are to be merged.
    /// Parents come before their children, which would all be in doubt else.
    pub(crate) fn take_next(
        &self,
        conn: &Connection,
        replica: &Replica,
        limit: usize,
    ) -> Result<(usize, Vec<Staged>), StoreError> {
        let order = [Turn::PassedOn, Turn::Own, Turn::Parts];
        let order: Vec<(Turn, usize)> =
            order.iter().flat_map(|turn| replica.parents_first.iter().map(|index| (*turn, *index))).collect();
        while let Some(place) = order.get(self.emptied.get()) {
            let taken = self.take_of(conn, replica, *place, limit)?;
            if taken.0 > 0 {
                return Ok(taken);
            }
            self.emptied.set(self.emptied.get() + 1);
        }
        Ok((0, Vec::new()))
    }

    /// The same of the rows of one table whose turn it is. Keyed rows tell which of those in pages are out of date, and go
    /// after them.
    fn take_of(
        &self,
        conn: &Connection,
        replica: &Replica,
        (turn, index): (Turn, usize),
        limit: usize,
    ) -> Result<(usize, Vec<Staged>), StoreError> {
        if turn == Turn::Own {
            let paged = self.take_paged(conn, replica, index, limit)?;
            if paged.0 > 0 {
                return Ok(paged);
            }
        }
        let number = turn.place(replica.tables[index].table.number);
        let (source, limit) = (self.source.as_bytes(), i64::try_from(limit.min(FETCHED)).unwrap_or(i64::MAX));
        let mut statement = conn.prepare_cached(
            "SELECT key, batch, row FROM _sync_spool._sync_staged WHERE source = ?1 AND tbl = ?2 ORDER BY key LIMIT ?3",
        )?;
        let mut rows = statement.query(params![source, number, limit])?;
        let mut taken = Vec::new();
        let mut last: Option<Vec<u8>> = None;
        while let Some(row) = rows.next()? {
            taken.push(self.staged(replica, (turn, index), row.get(1)?, &row.get::<_, Vec<u8>>(2)?)?);
            last = Some(row.get(0)?);
        }
        drop(rows);
        let sql = "DELETE FROM _sync_spool._sync_staged WHERE source = ?1 AND tbl = ?2 AND key <= ?3";
        if let Some(key) = last {
            conn.prepare_cached(sql)?.execute(params![source, number, key])?;
        }
        Ok((taken.len(), taken))
    }

    fn staged(
        &self,
        replica: &Replica,
        (turn, index): (Turn, usize),
        batch: i64,
        bytes: &[u8],
    ) -> Result<Staged, StoreError> {
        let row = decode_row(bytes, &replica.tables[index].shape).map_err(unusable)?;
        Ok(Staged { table: index, row, context: self.context_of(batch)?, turn })
    }

    /// What the rows of a batch have taken into account.
    fn context_of(&self, batch: i64) -> Result<Arc<VersionVector>, StoreError> {
        let lost = || StoreError::Damaged { what: format!("batch {batch} of staged rows is not in _sync_batch") };
        Ok(Arc::clone(self.contexts.get(&batch).ok_or_else(lost)?))
    }

    /// What the database knows when everything that is staged is merged: the context of the last batch.
    pub(crate) fn context(&self) -> VersionVector {
        self.contexts
            .iter()
            .max_by_key(|(number, _)| **number)
            .map(|(_, context)| (**context).clone())
            .unwrap_or_default()
    }

    /// Whether at most `limit` rows are staged.
    pub(crate) fn holds_at_most(&self, conn: &Connection, limit: usize) -> Result<bool, StoreError> {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM _sync_spool._sync_staged WHERE source = ?1 LIMIT ?2)";
        let beyond = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        let count: i64 =
            conn.prepare_cached(sql)?.query_row(params![self.source.as_bytes(), beyond], |row| row.get(0))?;
        Ok(count < beyond && self.paged(conn)? <= limit - usize::try_from(count).unwrap_or(limit))
    }

    pub(crate) fn is_empty(&self, conn: &Connection) -> Result<bool, StoreError> {
        let sql = "SELECT NOT EXISTS (SELECT 1 FROM _sync_spool._sync_staged WHERE source = ?1) \
                   AND NOT EXISTS (SELECT 1 FROM _sync_spool._sync_page WHERE source = ?1)";
        Ok(conn.prepare_cached(sql)?.query_row([self.source.as_bytes()], |row| row.get(0))?)
    }

    /// Notes how far the catch-up has come, and whether all of it is here.
    pub(crate) fn advance(
        &self,
        conn: &Connection,
        replica: &mut Replica,
        to: &VersionVector,
        complete: bool,
    ) -> Result<(), StoreError> {
        let (shapes, base) = (course::shapes(replica), text(&replica.have)?);
        let received = replica.received.entry(self.source).or_default();
        received.position.join(to);
        received.complete = complete;
        conn.prepare_cached(
            "INSERT INTO _sync_spool._sync_received (source, base, position, shapes, complete) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT DO UPDATE SET position = excluded.position, shapes = excluded.shapes, complete = excluded.complete",
        )?
        .execute(params![self.source.as_bytes(), base, text(&received.position)?, shapes, complete])?;
        Ok(())
    }

    /// Notes that some of it is merged and some is not.
    pub(crate) fn note_merged(&self, conn: &Connection, replica: &mut Replica) -> Result<(), StoreError> {
        let received = replica.received.entry(self.source).or_default();
        if !std::mem::replace(&mut received.merged, true) {
            conn.execute(
                "UPDATE _sync_spool._sync_received SET merged = 1 WHERE source = ?1",
                [self.source.as_bytes()],
            )?;
        }
        Ok(())
    }
}

/// Stages so many rows: `?1` is the source, `?2` the table, `?3` the batch; the key and the bytes of each row follow.
fn put_sql(rows: usize) -> &'static str {
    static TOGETHER: OnceLock<String> = OnceLock::new();
    static ALONE: OnceLock<String> = OnceLock::new();
    let sql = if rows == 1 { &ALONE } else { &TOGETHER };
    sql.get_or_init(|| {
        let row = |row: usize| format!("(?1, ?2, ?3, ?{}, ?{})", 2 * row + 4, 2 * row + 5);
        format!(
            "INSERT INTO _sync_spool._sync_staged (source, tbl, batch, key, row) VALUES {} \
             ON CONFLICT DO UPDATE SET batch = excluded.batch, row = excluded.row WHERE excluded.batch >= batch",
            (0..rows).map(row).collect::<Vec<_>>().join(", ")
        )
    })
}

fn text(vector: &VersionVector) -> Result<String, StoreError> {
    serde_json::to_string(vector).map_err(|error| StoreError::Encoding { reason: error.to_string() })
}

fn place(table: &ReplicaTable, key: &[Value]) -> Result<Vec<u8>, StoreError> {
    encode_values(&canonical_key(table, key)).map_err(unusable)
}

fn unusable(error: replication::codec::CodecError) -> StoreError {
    StoreError::Encoding { reason: error.to_string() }
}
