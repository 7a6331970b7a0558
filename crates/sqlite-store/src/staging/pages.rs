//! Pages: rows of a catch-up that are staged many at a time.
//!
//! Most rows of a long catch-up come once, and nobody looks for them before they are merged: to keep each under its key, find its
//! place there and take it out again costs more than to write it to its table. Such rows are put one after the other into pages, in
//! the order in which they come, and a page is taken at once.
//!
//! A row comes again only if its batch does, which links may repeat and which may begin before the place where the last one ended, or
//! if it changed after it was sent. Of a batch that comes again, all rows are staged by their keys. A row that changed has an
//! entry that its source did not know at the catch-up's first batch; rows with such an entry are staged by their keys, and so is
//! every row that holds more than its row entry, or is told of in another way than as its source has it. Rows that the source had
//! before it was attached are no exception though they are made known while it is read: each gets its first entry by that, and
//! was in no batch before. Thus a key may be in a page once and beside that among the keyed rows: of the two, the one of the
//! later batch is the newer state of the row, or the same, and the other one is not merged.

use std::sync::Arc;

use replication::codec::{decode_rows, encode_rows};
use replication::{Entry, EntryFlags, RowClock, RowImage, Timestamp, Value, VersionVector};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Stage, Staged, Turn, place, unusable};
use crate::error::StoreError;
use crate::replica::{Replica, ReplicaTable};
use crate::table_sql::AT_ONCE;

/// Rows of a page at most: a multiple of those that are written together.
const ROWS: usize = 32 * AT_ONCE;

/// Bytes from which on a page is full, as soon as its rows can be written together.
const FULL: usize = 64 << 10;

/// Bytes of a page of more than one row at most. One row alone may have as many as it likes.
const MOST: usize = 1 << 20;

pub(super) const TABLE: &str = "
    -- Rows of catch-ups that are staged many at a time, and how many they are.
    CREATE TABLE IF NOT EXISTS _sync_spool._sync_page (id INTEGER PRIMARY KEY, source BLOB NOT NULL, tbl INTEGER NOT NULL,
        batch INTEGER NOT NULL, count INTEGER NOT NULL, rows BLOB NOT NULL);
    CREATE INDEX IF NOT EXISTS _sync_spool._sync_page_source ON _sync_page (source, tbl, id, count);";

/// Rows of a table that are put into pages as a batch brings them.
pub(crate) struct Paging<'a> {
    stage: &'a Stage,
    batch: i64,
    turn: Turn,
    /// What the source knew when the catch-up began; none where the batch brings rows again.
    began: Option<&'a VersionVector>,
    /// Rows of a page at most.
    most: usize,
    /// The number of the table.
    table: i64,
    rows: Vec<RowImage>,
    size: usize,
}

impl<'a> Paging<'a> {
    /// Pages of at most `most` rows of a batch, in a catch-up that began when its source knew `began`; none of a batch that does not
    /// go on where the last one ended.
    pub(crate) fn new(
        stage: &'a Stage,
        (batch, turn): (i64, Turn),
        began: Option<&'a VersionVector>,
        most: usize,
    ) -> Self {
        Self { stage, batch, turn, began, most: most.clamp(1, ROWS), table: 0, rows: Vec::new(), size: 0 }
    }

    /// Whether a row of a table may go into a page: it does not come twice there, and nobody looks for it by its key, as is done
    /// where rows may stand in each other's way.
    pub(crate) fn takes(&self, table: &ReplicaTable, row: &RowImage) -> bool {
        let RowClock { row: entry, columns, counters, rest } = &row.clock;
        self.turn == Turn::Own
            && table.table.unique.is_empty()
            && columns.is_empty()
            && counters.is_empty()
            && rest.is_none()
            && !entry.flags.contains(EntryFlags::ABSENT)
            && self.began.is_some_and(|began| began.covers(entry.dot) || self.is_made_known(entry))
    }

    /// Whether an entry is the first of a row that the source had before it was attached.
    fn is_made_known(&self, entry: &Entry) -> bool {
        entry.dot.origin == self.stage.source && entry.timestamp == Timestamp::BASELINE
    }

    /// Adds rows of the table, which follow its own shape.
    pub(crate) fn put(
        &mut self,
        conn: &Connection,
        table: &ReplicaTable,
        rows: impl Iterator<Item = RowImage>,
    ) -> Result<(), StoreError> {
        self.table = table.table.number;
        for row in rows {
            let size = row.wire_size();
            if self.size.saturating_add(size) > MOST {
                self.write(conn)?;
            }
            self.size = self.size.saturating_add(size);
            self.rows.push(row);
            let full = self.size >= FULL && self.rows.len().is_multiple_of(AT_ONCE);
            if full || self.size >= MOST || self.rows.len() >= self.most {
                self.write(conn)?;
            }
        }
        Ok(())
    }

    /// Writes the last page.
    pub(crate) fn finish(mut self, conn: &Connection) -> Result<(), StoreError> {
        self.write(conn)
    }

    fn write(&mut self, conn: &Connection) -> Result<(), StoreError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let sql = "INSERT INTO _sync_spool._sync_page (source, tbl, batch, count, rows) VALUES (?1, ?2, ?3, ?4, ?5)";
        let bytes = encode_rows(&self.rows).map_err(unusable)?;
        let (source, count) = (self.stage.source.as_bytes(), count(&self.rows));
        conn.prepare_cached(sql)?.execute(params![source, self.table, self.batch, count, bytes])?;
        self.rows.clear();
        self.size = 0;
        Ok(())
    }
}

fn count(rows: &[RowImage]) -> i64 {
    i64::try_from(rows.len()).unwrap_or(i64::MAX)
}

/// A page that was taken.
struct Page {
    batch: i64,
    rows: Vec<RowImage>,
}

impl Stage {
    /// Takes at most `limit` rows of the next page of a table: how many, and those of them that are to be merged.
    pub(super) fn take_paged(
        &self,
        conn: &Connection,
        replica: &Replica,
        index: usize,
        limit: usize,
    ) -> Result<(usize, Vec<Staged>), StoreError> {
        let table = &replica.tables[index];
        let Some(Page { batch, mut rows }) = self.next_page(conn, table, limit)? else { return Ok((0, Vec::new())) };
        let taken = rows.len();
        self.leave_out_older(conn, table, batch, &mut rows)?;
        let context = self.context_of(batch)?;
        let staged = |row| Staged { table: index, row, context: Arc::clone(&context), turn: Turn::Own };
        Ok((taken, rows.into_iter().map(staged).collect()))
    }

    /// The next page of a table, or its first `limit` rows: the others stay a page.
    fn next_page(&self, conn: &Connection, table: &ReplicaTable, limit: usize) -> Result<Option<Page>, StoreError> {
        let mut statement = conn.prepare_cached(
            "SELECT id, batch, rows FROM _sync_spool._sync_page WHERE source = ?1 AND tbl = ?2 ORDER BY id LIMIT 1",
        )?;
        let mut found = statement.query(params![self.source.as_bytes(), table.table.number])?;
        let Some(page) = found.next()? else { return Ok(None) };
        let (id, batch): (i64, i64) = (page.get(0)?, page.get(1)?);
        let damaged = |reason: String| StoreError::Damaged { what: format!("page {id} of staged rows: {reason}") };
        let bytes = page.get_ref(2)?.as_blob().map_err(|error| damaged(error.to_string()))?;
        let mut rows = decode_rows(bytes, &table.shape).map_err(|error| damaged(error.to_string()))?;
        drop(found);
        if rows.is_empty() {
            return Err(damaged("it is empty".to_owned()));
        }
        let rest = rows.split_off(limit.max(1).min(rows.len()));
        if rest.is_empty() {
            conn.prepare_cached("DELETE FROM _sync_spool._sync_page WHERE id = ?1")?.execute([id])?;
        } else {
            let sql = "UPDATE _sync_spool._sync_page SET count = ?2, rows = ?3 WHERE id = ?1";
            conn.prepare_cached(sql)?.execute(params![id, count(&rest), encode_rows(&rest).map_err(unusable)?])?;
        }
        Ok(Some(Page { batch, rows }))
    }

    /// Leaves out the rows of a page of which a newer state is staged by its key, and forgets older ones.
    fn leave_out_older(
        &self,
        conn: &Connection,
        table: &ReplicaTable,
        batch: i64,
        rows: &mut Vec<RowImage>,
    ) -> Result<(), StoreError> {
        let (source, number) = (self.source.as_bytes(), table.table.number);
        let any = "SELECT EXISTS (SELECT 1 FROM _sync_spool._sync_staged WHERE source = ?1 AND tbl = ?2)";
        if !conn.prepare_cached(any)?.query_row(params![source, number], |row| row.get(0))? {
            return Ok(());
        }
        let mut find = conn
            .prepare_cached("SELECT batch FROM _sync_spool._sync_staged WHERE source = ?1 AND tbl = ?2 AND key = ?3")?;
        let mut forget =
            conn.prepare_cached("DELETE FROM _sync_spool._sync_staged WHERE source = ?1 AND tbl = ?2 AND key = ?3")?;
        for row in std::mem::take(rows) {
            let key: Vec<Value> = row.owned_key(&table.shape);
            let place = place(table, &key)?;
            let keyed: Option<i64> = find.query_row(params![source, number, place], |row| row.get(0)).optional()?;
            if keyed.is_some_and(|keyed| keyed >= batch) {
                continue;
            }
            if keyed.is_some() {
                forget.execute(params![source, number, place])?;
            }
            rows.push(row);
        }
        Ok(())
    }

    /// Stages rows of pages by their keys where they may be looked for by now, because their table has got a unique index: at most
    /// `limit` of them. How many there were.
    pub(crate) fn spread(&self, conn: &Connection, replica: &Replica, limit: usize) -> Result<usize, StoreError> {
        let mut spread = 0;
        for table in replica.tables.iter().filter(|table| !table.table.unique.is_empty()) {
            while spread < limit {
                let Some(Page { batch, rows }) = self.next_page(conn, table, limit - spread)? else { break };
                self.put(conn, (batch, Turn::Own), table, rows.iter())?;
                spread += rows.len();
            }
        }
        Ok(spread)
    }

    /// How many rows are in pages.
    pub(super) fn paged(&self, conn: &Connection) -> Result<usize, StoreError> {
        let sql = "SELECT coalesce(sum(count), 0) FROM _sync_spool._sync_page WHERE source = ?1";
        let count: i64 = conn.prepare_cached(sql)?.query_row([self.source.as_bytes()], |row| row.get(0))?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }
}
