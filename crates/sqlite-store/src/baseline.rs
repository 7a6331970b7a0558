//! Baseline rows: rows that no change since attach has touched. They have no clock entry until a peer needs them.
//!
//! On first contact each gets a row entry with a dot of this database and the stamp 0, in short transactions in key
//! order. From then on baseline rows are ordinary changes, older than every other: they are streamed, resumed, forwarded
//! and merged by the same rules, and two nodes that publish the same key decide by (0, origin), equal content without a
//! conflict. A separate exchange of baselines, and a mark for it in the version vector, are not needed.

use replication::{Dot, Entry, EntryFlags, RowClock, RowImage, Timestamp, Value};
use rusqlite::Connection;

use crate::bind::{bind_from, values_from};
use crate::capture::Gathered;
use crate::counting;
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::replica::Replica;
use crate::row_clock::{KeyEntry, put_entries};

/// Bytes of rows that are read at once where their content is wanted.
const BYTES: usize = 1 << 20;

/// Where publishing stands.
#[derive(Debug, Default)]
pub(crate) struct Publishing {
    /// Number of the table at work, and the last key that was given an entry.
    at: Option<(i64, Vec<Value>)>,
    /// Rows given an entry in this table.
    rows: u64,
}

/// What one step of publishing did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishStep {
    /// The table; none if all tables are published.
    pub(crate) table: Option<String>,
    /// Rows of the table given an entry so far.
    pub(crate) rows: u64,
    /// Whether the table is finished.
    pub(crate) finished: bool,
    /// Whether all that was done was added to what is gathered.
    pub(crate) gathered: bool,
}

/// Rows without entries.
struct Unpublished {
    keys: Vec<Vec<Value>>,
    /// All of their columns, where that is wanted.
    contents: Vec<Vec<Value>>,
    /// Whether they are the last of their table.
    finished: bool,
}

/// What was done to some rows of a table.
struct Published {
    rows: usize,
    last: Option<Vec<Value>>,
    finished: bool,
    gathered: bool,
}

impl Publishing {
    /// Gives up to `limit` rows of one table their entries, and adds the rows to what is gathered, unless more is to be said of them.
    pub(crate) fn step(
        &mut self,
        conn: &Connection,
        replica: &mut Replica,
        limit: usize,
        gathered: Option<&mut Gathered>,
    ) -> Result<PublishStep, StoreError> {
        let Some(index) = next_table(replica) else {
            return Ok(PublishStep { table: None, rows: 0, finished: true, gathered: true });
        };
        let number = replica.tables[index].table.number;
        if self.at.as_ref().is_none_or(|(table, _)| *table != number) {
            self.rows = 0;
            self.at = None;
        }
        let before = replica.have.clone();
        let after = self.at.as_ref().map(|(_, key)| key.as_slice());
        let Published { rows, last, finished, gathered } = publish(conn, replica, index, after, limit, gathered)?;
        self.rows += rows as u64;
        if finished {
            conn.execute("UPDATE main._sync_table SET baseline = 1 WHERE id = ?1", [number])?;
            replica.tables[index].table.baseline_published = true;
        }
        if let Some(last) = last {
            self.at = Some((number, last));
        }
        replica.save(conn, &before)?;
        fail_point("publish-before-commit");
        Ok(PublishStep { table: Some(replica.tables[index].shape.name.clone()), rows: self.rows, finished, gathered })
    }
}

/// The table at work, or the next. Peers receive what is published so far, and would miss the parents of its rows.
fn next_table(replica: &Replica) -> Option<usize> {
    replica.parents_first.iter().copied().find(|index| !replica.tables[*index].table.baseline_published)
}

/// Gives the next rows of a table their entries, and adds them to what is gathered. They are fewer than `limit` where there are no more,
/// or where they are large.
fn publish(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    after: Option<&[Value]>,
    limit: usize,
    gathered: Option<&mut Gathered>,
) -> Result<Published, StoreError> {
    // Where columns came later than rows, what speaks for them is not the row's entry alone; and beside rows that wait, they are not told
    // alone.
    let born = &replica.tables[index].born;
    let plain = !counts(replica, index) && born.is_empty() && replica.waiting.rows == 0;
    let mut gathered = gathered.filter(|_| plain);
    let rows = read(conn, replica, index, after, limit, gathered.is_some())?;
    if rows.keys.is_empty() {
        return Ok(Published { rows: 0, last: None, finished: rows.finished, gathered: true });
    }
    let first = replica.next_dots(rows.keys.len() as u64) + 1;
    let dots = (first..).map(|sequence| Dot { origin: replica.own, sequence });
    let entries: Vec<Entry> =
        dots.zip(&rows.keys).map(|(dot, _)| Entry::new(Timestamp::BASELINE, dot, EntryFlags::INSERTED)).collect();
    let written: Vec<KeyEntry<'_>> =
        rows.keys.iter().zip(&entries).map(|(key, entry)| (key.as_slice(), 0, *entry)).collect();
    put_entries(conn, replica, index, &written)?;
    if counts(replica, index) {
        for key in &rows.keys {
            counting::note_as_it_stands(conn, replica, (index, key), &Vec::new())?;
        }
    }
    if let Some(gathered) = &mut gathered {
        let images = rows.contents.into_iter().zip(entries);
        images.for_each(|(values, entry)| gathered.add(index, RowImage { values, clock: RowClock::whole(entry) }));
    }
    let (count, gathered) = (rows.keys.len(), gathered.is_some());
    Ok(Published { rows: count, last: rows.keys.into_iter().next_back(), finished: rows.finished, gathered })
}

fn counts(replica: &Replica, index: usize) -> bool {
    replica.tables[index].table.counters().next().is_some()
}

/// Reads the next rows of a table that have no entries.
fn read(
    conn: &Connection,
    replica: &Replica,
    index: usize,
    after: Option<&[Value]>,
    limit: usize,
    content: bool,
) -> Result<Unpublished, StoreError> {
    let table = &replica.tables[index];
    let columns = if content { table.table.columns.len() } else { table.table.key.len() };
    let mut statement = conn.prepare_cached(table.many.unpublished(content, after.is_some()))?;
    let key = after.unwrap_or_default();
    bind_from(&mut statement, 1, key)?;
    statement.raw_bind_parameter(key.len() + 1, i64::try_from(limit).unwrap_or(i64::MAX))?;
    let mut lines = statement.raw_query();
    let (mut keys, mut contents, mut bytes) = (Vec::new(), Vec::new(), 0);
    while bytes < BYTES {
        let Some(line) = lines.next()? else {
            let finished = keys.len() < limit;
            return Ok(Unpublished { keys, contents, finished });
        };
        let values = values_from(line, 0, columns)?;
        if content {
            bytes += values.iter().map(Value::wire_size).sum::<usize>();
            keys.push(table.table.key.iter().map(|column| values[*column].clone()).collect());
            contents.push(values);
        } else {
            keys.push(values);
        }
    }
    Ok(Unpublished { keys, contents, finished: false })
}
