//! What migrations did while our triggers did not see it: rows that went with a rebuilt table, what the rows that stayed
//! hold now, and values in columns that are new. All become changes of this database, in short transactions.

use replication::{Entry, EntryFlags, Granularity, Value};
use rusqlite::Connection;

use crate::attach::{self, Attached, Misnamed};
use crate::bind::bind_from;
use crate::counting::{self, Rewritten as RewrittenRow};
use crate::error::StoreError;
use crate::parked::{self, Unwritten};
use crate::replica::{Replica, ReplicaTable, wall_millis};
use crate::row_clock::{
    collect_keys, drop_column_entries, has_column_entry, put_entry, put_rest, read_clock, read_clock_and_settings,
};

/// Rows in one transaction.
const STEP_ROWS: usize = 5_000;

/// What is left to look at. The file remembers it until it is done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Migrated {
    /// Numbers of tables whose clock entries without a row are to become deletions.
    rebuilt: Vec<i64>,
    /// Tables whose rows are to become changes, whatever they hold.
    rewritten: Vec<Rewritten>,
    /// Tables whose deletions are to be said anew.
    renamed: Vec<Rewritten>,
    unwatched: Vec<Unwatched>,
    misnamed: Misnamed,
    /// Tables of whose counters it is to be noted what they hold.
    counted: Vec<Rewritten>,
}

/// A table whose rows are looked at one after the other.
#[derive(Debug, Clone)]
struct Rewritten {
    /// Its number.
    table: i64,
    /// The last key that was looked at.
    after: Option<Vec<Value>>,
}

/// A column that was written before the triggers knew it, because it is new or was excluded.
#[derive(Debug, Clone)]
struct Unwatched {
    /// The table's number.
    table: i64,
    /// The column's number.
    column: u16,
    /// Whether it bore another name, under which peers know what it holds.
    renamed: bool,
    /// Whether it was excluded: what has been merged into it since is no news.
    included: bool,
    /// The last key that was looked at.
    after: Option<Vec<Value>>,
}

impl Migrated {
    /// What an attach found.
    pub(crate) fn of(attached: &Attached) -> Self {
        let from_start = |tables: &[i64]| tables.iter().map(|table| Rewritten { table: *table, after: None }).collect();
        let column = |place: &(i64, u16), included| Unwatched {
            table: place.0,
            column: place.1,
            renamed: attached.renamed_columns.contains(place),
            included,
            after: None,
        };
        let unwatched = attached.unwatched.iter().map(|place| column(place, false));
        let included = attached.included.iter().map(|place| column(place, true));
        Self {
            rebuilt: attached.rebuilt.clone(),
            rewritten: from_start(&attached.rewritten),
            renamed: from_start(&attached.renamed),
            unwatched: unwatched.chain(included).collect(),
            misnamed: attached.misnamed.clone(),
            counted: from_start(&attached.counted),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        let tables_done = self.rebuilt.is_empty() && self.rewritten.is_empty() && self.renamed.is_empty();
        tables_done && self.unwatched.is_empty() && self.counted.is_empty()
    }

    /// What is left to look at as far as the merging of single columns goes.
    pub(crate) fn unwritten(&self) -> Unwritten {
        if self.is_done() {
            return Unwritten::All;
        }
        let renamed = self.unwatched.iter().filter(|column| column.renamed);
        Unwritten::Known {
            rebuilt: self.rewritten.iter().map(|rewritten| rewritten.table).collect(),
            renamed: renamed.map(|column| (column.table, column.column)).collect(),
        }
    }

    /// What peers know by other names, as far as it is not said anew.
    pub(crate) fn misnamed(&self) -> Misnamed {
        if self.is_done() { Misnamed::default() } else { self.misnamed.clone() }
    }

    /// The columns that were excluded until now, by numbers of table and column.
    pub(crate) fn included_columns(&self) -> Vec<(i64, u16)> {
        let included = self.unwatched.iter().filter(|column| column.included);
        included.map(|column| (column.table, column.column)).collect()
    }

    /// The names of the rebuilt tables.
    pub(crate) fn rebuilt_names(&self, replica: &Replica) -> Vec<String> {
        let tables = self.rebuilt.iter().filter_map(|number| replica.table_by_number(*number));
        tables.map(|index| replica.tables[index].shape.name.clone()).collect()
    }

    /// Does one step, in a write transaction. A step that fails is done again.
    pub(crate) fn step(&self, conn: &Connection, replica: &mut Replica) -> Result<Step, StoreError> {
        let before = replica.have.clone();
        let done = |keys: &[Vec<Value>]| keys.len() < STEP_ROWS;
        let keys = if let Some(number) = self.rebuilt.last() {
            let keys = bury_rowless(conn, replica, *number)?;
            if done(&keys) {
                attach::settle_rebuilt(conn, *number)?;
            }
            keys
        } else if let Some(rewritten) = self.rewritten.last() {
            let keys = issue_rows(conn, replica, rewritten)?;
            if done(&keys) {
                attach::settle_rewritten(conn, rewritten.table)?;
            }
            keys
        } else if let Some(renamed) = self.renamed.last() {
            let keys = issue_deletions(conn, replica, renamed)?;
            if done(&keys) {
                attach::settle_renamed(conn, renamed.table)?;
            }
            keys
        } else if let Some(column) = self.unwatched.last() {
            let keys = issue_written(conn, replica, column)?;
            if done(&keys) {
                attach::settle_unwatched(conn, column.table, column.column)?;
                attach::settle_included(conn, column.table, column.column)?;
            }
            keys
        } else if let Some(counted) = self.counted.last() {
            let keys = note_counters(conn, replica, counted)?;
            if done(&keys) {
                attach::settle_counted(conn, counted.table)?;
            }
            keys
        } else {
            Vec::new()
        };
        replica.save(conn, &before)?;
        Ok(Step { finished: done(&keys), after: keys.into_iter().next_back() })
    }

    /// Takes note of a step that is durable.
    pub(crate) fn advance(&mut self, step: Step) {
        if !self.rebuilt.is_empty() {
            if step.finished {
                self.rebuilt.pop();
            }
        } else if let Some(rewritten) = self.rewritten.last_mut() {
            rewritten.after = step.after;
            if step.finished {
                self.rewritten.pop();
            }
        } else if let Some(renamed) = self.renamed.last_mut() {
            renamed.after = step.after;
            if step.finished {
                self.renamed.pop();
            }
        } else if let Some(column) = self.unwatched.last_mut() {
            column.after = step.after;
            if step.finished {
                self.unwatched.pop();
            }
        } else if let Some(counted) = self.counted.last_mut() {
            counted.after = step.after;
            if step.finished {
                self.counted.pop();
            }
        }
    }
}

/// What one step did.
#[derive(Debug)]
pub(crate) struct Step {
    finished: bool,
    after: Option<Vec<Value>>,
}

/// Makes deletions of living clock entries without a row: a migration rebuilt the table without its triggers, and these
/// rows went meanwhile. Returns their keys.
fn bury_rowless(conn: &Connection, replica: &mut Replica, number: i64) -> Result<Vec<Vec<Value>>, StoreError> {
    let Some(index) = replica.table_by_number(number) else { return Ok(Vec::new()) };
    let now = wall_millis();
    let table = &replica.tables[index];
    let keys = {
        let mut statement = conn.prepare_cached(&table.sql.rowless)?;
        statement.raw_bind_parameter(1, i64::try_from(STEP_ROWS).unwrap_or(i64::MAX))?;
        collect_keys(&mut statement, table.table.key.len())?
    };
    for key in &keys {
        let timestamp = replica.clock.stamp(now, now);
        let entry = Entry::new(timestamp, replica.next_dot(), EntryFlags::DELETED);
        counting::write_whole(conn, replica, (index, key), entry, counting::Written::Deleted)?;
        drop_column_entries(conn, &replica.tables[index], key)?;
        put_entry(conn, replica, index, key, 0, &entry)?;
    }
    Ok(keys)
}

/// Makes changes of the rows of a rebuilt table, as they stand: what was written to them meanwhile is not known. Nor is
/// when; the stamp is the next one after the row's, so that no write that was seen loses against it. Rows without an
/// entry need none: they are sent as they stand when they get one. Returns the keys that were looked at.
fn issue_rows(conn: &Connection, replica: &mut Replica, rewritten: &Rewritten) -> Result<Vec<Vec<Value>>, StoreError> {
    each(conn, replica, rewritten, Which::Clocked, issue_row)
}

/// Notes what counters hold that have become counters since their rows got a clock. Returns the keys that were looked at.
fn note_counters(conn: &Connection, replica: &mut Replica, counted: &Rewritten) -> Result<Vec<Vec<Value>>, StoreError> {
    each(conn, replica, counted, Which::Clocked, |conn, replica, index, key| {
        let known = counting::settings(conn, replica, index, key)?;
        counting::note_as_it_stands(conn, replica, (index, key), &known)
    })
}

/// Makes new changes of a renamed table's deletions: peers that renamed theirs before have no place for those under the old
/// name. Returns the keys.
fn issue_deletions(
    conn: &Connection,
    replica: &mut Replica,
    renamed: &Rewritten,
) -> Result<Vec<Vec<Value>>, StoreError> {
    each(conn, replica, renamed, Which::Buried, |conn, replica, index, key| {
        let Some(clock) = read_clock(conn, replica, &replica.tables[index], key)? else { return Ok(()) };
        let entry = next_after(clock.newest(), replica, clock.row.flags);
        counting::write_whole(conn, replica, (index, key), entry, counting::Written::Deleted)?;
        drop_column_entries(conn, &replica.tables[index], key)?;
        put_entry(conn, replica, index, key, 0, &entry)
    })
}

/// Which of a table's rows are looked at.
#[derive(Debug, Clone, Copy)]
enum Which {
    /// Those that stand in the table and have a clock.
    Clocked,
    /// Those that were deleted.
    Buried,
}

/// Looks at the next rows of a table, if it is there; returns their keys.
fn each(
    conn: &Connection,
    replica: &mut Replica,
    rewritten: &Rewritten,
    which: Which,
    look: impl Fn(&Connection, &mut Replica, usize, &[Value]) -> Result<(), StoreError>,
) -> Result<Vec<Vec<Value>>, StoreError> {
    let Some(index) = replica.table_by_number(rewritten.table) else { return Ok(Vec::new()) };
    let keys = next_keys(conn, &replica.tables[index], which, rewritten.after.as_deref())?;
    keys.iter().try_for_each(|key| look(conn, replica, index, key))?;
    Ok(keys)
}

/// The next keys of a table after one, or from the start.
fn next_keys(
    conn: &Connection,
    table: &ReplicaTable,
    which: Which,
    after: Option<&[Value]>,
) -> Result<Vec<Vec<Value>>, StoreError> {
    let after = after.unwrap_or_default();
    let sql = match (which, after.is_empty()) {
        (Which::Clocked, true) => &table.sql.clocked,
        (Which::Clocked, false) => &table.sql.clocked_after,
        (Which::Buried, true) => &table.sql.buried,
        (Which::Buried, false) => &table.sql.buried_after,
    };
    let mut statement = conn.prepare_cached(sql)?;
    bind_from(&mut statement, 1, after)?;
    statement.raw_bind_parameter(after.len() + 1, i64::try_from(STEP_ROWS).unwrap_or(i64::MAX))?;
    collect_keys(&mut statement, table.table.key.len())
}

/// Makes a change of a row as it stands. What was counted is one of its own, after all that was seen; the row itself comes
/// only after what was written in it, so that where others write it counting alone wins nothing.
fn issue_row(conn: &Connection, replica: &mut Replica, index: usize, key: &[Value]) -> Result<(), StoreError> {
    let found = read_clock_and_settings(conn, replica, &replica.tables[index], key)?;
    let Some((clock, settings)) = found else { return Ok(()) };
    let flags = if clock.is_deleted() { EntryFlags::INSERTED } else { EntryFlags::empty() };
    let entry = next_after(clock.newest_written(), replica, flags);
    let counted = next_after(clock.newest(), replica, EntryFlags::empty());
    let rewritten = RewrittenRow { index, key, clock: &clock, settings: &settings };
    counting::rewrite(conn, replica, &rewritten, (entry, counted))?;
    drop_column_entries(conn, &replica.tables[index], key)?;
    put_entry(conn, replica, index, key, 0, &entry)?;
    if clock.is_deleted() {
        put_rest(conn, replica, index, key, &entry)?;
    }
    counting::note_as_it_stands(conn, replica, (index, key), &Vec::new())
}

/// An entry with the next stamp after another's.
pub(crate) fn next_after(written: &Entry, replica: &mut Replica, flags: EntryFlags) -> Entry {
    let timestamp = written.timestamp.next();
    replica.clock.observe(timestamp);
    Entry::new(timestamp, replica.next_dot(), flags)
}

/// Makes changes of what a new column holds besides its default, and of all that a renamed one holds, except cells that rows
/// came without; returns the keys that were looked at. When it was written is not known, only that it was after the row: the
/// stamp is the next one after the row's, so that no write that was seen loses against it.
fn issue_written(
    conn: &Connection,
    replica: &mut Replica,
    unwatched: &Unwatched,
) -> Result<Vec<Vec<Value>>, StoreError> {
    let Some(index) = replica.table_by_number(unwatched.table) else { return Ok(Vec::new()) };
    let table = &replica.tables[index];
    let Some(place) = table.table.columns.iter().position(|known| known.number == unwatched.column) else {
        return Ok(Vec::new());
    };
    let keys = if unwatched.renamed {
        next_keys(conn, table, Which::Clocked, unwatched.after.as_deref())?
    } else {
        let after = unwatched.after.as_deref().unwrap_or_default();
        let mut statement = conn.prepare(&table.sql.written(&table.table.columns[place], after.len()))?;
        bind_from(&mut statement, 1, after)?;
        statement.raw_bind_parameter(after.len() + 1, i64::try_from(STEP_ROWS).unwrap_or(i64::MAX))?;
        collect_keys(&mut statement, table.table.key.len())?
    };
    let column = u16::try_from(place).unwrap_or(u16::MAX);
    let whole = table.rules.granularity == Granularity::Row;
    for key in &keys {
        // A row without an entry is sent as it stands when it gets one.
        let Some(clock) = read_clock(conn, replica, &replica.tables[index], key)? else { continue };
        let has_own = has_column_entry(conn, &replica.tables[index], key, unwatched.column)?;
        if unwatched.included && has_own {
            continue;
        }
        if unwatched.renamed
            && replica.waiting.rows > 0
            && parked::lacks_cell(conn, &replica.tables[index], (key, &clock), column)?
        {
            continue;
        }
        let written = match whole {
            true => clock.newest(),
            false if has_own => clock.effective(column),
            false => &clock.row,
        };
        let entry = next_after(written, replica, EntryFlags::empty());
        if whole {
            counting::write_whole(conn, replica, (index, key), entry, counting::Written::Updated)?;
            drop_column_entries(conn, &replica.tables[index], key)?;
        }
        if whole {
            put_entry(conn, replica, index, key, 0, &entry)?;
        }
        // Also where the row is one: of a cell without an entry it is not known that somebody wrote it, if a value of it waits.
        put_entry(conn, replica, index, key, unwatched.column, &entry)?;
        counting::note_as_it_stands(conn, replica, (index, key), &Vec::new())?;
    }
    Ok(keys)
}
