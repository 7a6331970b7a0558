//! Restoring: the losing side of a conflict becomes a new change of this node, as if an application had written it now.
//!
//! Columns are found by their names: a record may be older than a migration. The daemon's own writes are not captured, so
//! the clock entries are written here, in the forms that capture gives them.

use std::collections::BTreeSet;

use replication::{Counter, Entry, EntryFlags, Granularity, RowClock, RowImage, TableShape, Value};
use rusqlite::Connection;
use serde_json::{Map, Value as Json};

use crate::apply::Stop;
use crate::bind::value_at;
use crate::capture::{canonical_key, give_row_entry};
use crate::conflicts::closing::{Denied, Refusal, close, open_record};
use crate::conflicts::{ConflictSide, RESTORED, StoredConflict};
use crate::counting;
use crate::error::StoreError;
use crate::json::{key_json, value_from_json};
use crate::replica::{Replica, ReplicaTable};
use crate::row_clock::{put_clock, put_counter, put_entry, read_image, read_row};
use crate::row_write::{delete, is_constraint, is_unique_violation, try_write};
use crate::triggers::default_value;
use crate::unique::in_the_way;

/// What to do where a record cannot be restored and never will be.
const BY_HAND: &str = "write by hand what is wanted of the row that the record shows, and dismiss the record";

/// Rows in the way that are named.
const NAMED_RIVALS: usize = 5;

/// Writes the losing side of an open record back, inside a write transaction in which the change log has been captured.
pub(crate) fn restore(
    conn: &Connection,
    replica: &mut Replica,
    number: i64,
    now: i64,
) -> Result<StoredConflict, Denied> {
    let mut record = open_record(conn, number, RESTORED)?;
    let before = replica.have.clone();
    let (index, key) = target(replica, &record)?;
    let present = present(conn, replica, index, &key)?;
    let Some(loser) = &record.sides.loser else {
        return Err(Refusal::in_the_way("it holds no losing row", BY_HAND).into());
    };
    let mut restoring = Restoring { conn, replica, index, key, present, now };
    let left_out = match &loser.row {
        None => restoring.delete()?,
        Some(row) => restoring.write(row, &record.sides.columns)?,
    };
    let Restoring { present, key, .. } = restoring;
    counting::note_as_it_stands(conn, replica, (index, &key), &Vec::new())?;
    let shape = &replica.tables[index].shape;
    record.sides.replaced = present.map(|image| ConflictSide::of(replica, shape, &image));
    record.sides.left_out = left_out;
    replica.save(conn, &before)?;
    close(conn, &mut record, RESTORED)?;
    Ok(record)
}

/// The table and the key of the row that was lost.
fn target(replica: &Replica, record: &StoredConflict) -> Result<(usize, Vec<Value>), Refusal> {
    let Some(index) = replica.table_by_name(&record.table) else {
        let reason = format!("table {:?} is not synced here any more: it is gone or has another name", record.table);
        return Err(Refusal::in_the_way(reason, BY_HAND));
    };
    let shape = &replica.tables[index].shape;
    let names = shape.key.iter().map(|column| &shape.columns[usize::from(*column)]);
    let key: Option<Vec<Value>> = names.map(|name| value_from_json(record.key.get(name)?)).collect();
    let width = record.key.as_object().map_or(0, Map::len);
    match key {
        Some(key) if key.iter().any(Value::is_null) => {
            let reason = format!("the lost row of table {:?} has NULL in its key {}", record.table, record.key);
            Err(Refusal::in_the_way(reason, format!("no node can sync such a row; {BY_HAND}")))
        }
        Some(key) if key.len() == width => Ok((index, key)),
        _ => {
            let reason =
                format!("table {:?} has another key now than the lost row's, which is {}", record.table, record.key);
            Err(Refusal::in_the_way(reason, BY_HAND))
        }
    }
}

/// This node's state of the row. A baseline row is given its row entry first.
fn present(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    key: &[Value],
) -> Result<Option<RowImage>, StoreError> {
    if let Some(image) = read_image(conn, replica, &replica.tables[index], key)? {
        return Ok(Some(image));
    }
    let Some(values) = read_row(conn, &replica.tables[index], key)? else { return Ok(None) };
    let clock = RowClock::whole(give_row_entry(conn, replica, index, key, Some(&values))?);
    Ok(Some(RowImage { values, clock }))
}

/// One restore at work.
struct Restoring<'a> {
    conn: &'a Connection,
    replica: &'a mut Replica,
    index: usize,
    key: Vec<Value>,
    /// The row as it stands, or its tombstone.
    present: Option<RowImage>,
    /// Milliseconds since 1970.
    now: i64,
}

impl Restoring<'_> {
    fn table(&self) -> &ReplicaTable {
        &self.replica.tables[self.index]
    }

    fn living(&self) -> Option<&RowImage> {
        self.present.as_ref().filter(|image| !image.clock.is_deleted())
    }

    /// Deletes the row, if there is one.
    fn delete(&mut self) -> Result<Vec<String>, Denied> {
        if self.living().is_some() {
            delete(self.conn, self.table(), &self.key)?;
            let entry = self.entry(EntryFlags::DELETED);
            let mut counters = self.counters();
            counters.iter_mut().for_each(|(_, counter)| counter.bury(entry));
            let clock = RowClock { counters, ..RowClock::whole(entry) };
            put_clock(self.conn, self.replica, self.index, &self.key, &clock, true)?;
        }
        Ok(Vec::new())
    }

    /// Writes the lost row; returns the names of columns that it has and the table no longer has.
    fn write(&mut self, lost: &Map<String, Json>, columns: &[String]) -> Result<Vec<String>, Denied> {
        let column_by_column = !columns.is_empty() && self.table().rules.granularity == Granularity::Column;
        let wanted: Vec<&String> = match self.living() {
            Some(_) if column_by_column => columns.iter().collect(),
            _ => lost.keys().collect(),
        };
        let shape = &self.table().shape;
        let (known, left_out): (Vec<&String>, Vec<&String>) =
            wanted.into_iter().partition(|name| shape.columns.contains(name));
        if known.is_empty() {
            let reason = format!("table {:?} no longer has the columns that were lost: {left_out:?}", shape.name);
            return Err(Refusal::in_the_way(reason, BY_HAND).into());
        }
        let new = self.row_with(lost, &known)?;
        let old = self.living().map(|image| image.values.clone());
        if old.as_ref() != Some(&new) {
            self.put_row(old.as_deref(), &new)?;
            match old {
                Some(old) if column_by_column => self.stamp_columns(&old, &new)?,
                _ => self.stamp_row(&new)?,
            }
        }
        Ok(left_out.into_iter().cloned().collect())
    }

    /// The row as it is to be: the named columns as they were lost, the others as they are, or by default.
    fn row_with(&self, lost: &Map<String, Json>, named: &[&String]) -> Result<Vec<Value>, Denied> {
        let table = self.table();
        let value = |(place, name): (usize, &String)| -> Result<Value, Denied> {
            match (lost.get(name).filter(|_| named.contains(&name)), self.living()) {
                (Some(json), _) => Ok(value_from_json(json).ok_or_else(|| unreadable(&table.shape, name))?),
                (None, Some(present)) => Ok(present.values[place].clone()),
                (None, None) => {
                    let default = table.table.columns[place].default.as_deref().unwrap_or("NULL");
                    let sql = format!("SELECT {}", default_value(default));
                    let value = self.conn.query_row(&sql, [], |row| value_at(row, 0));
                    value.map_err(|error| no_default(&table.shape, name, &error).into())
                }
            }
        };
        table.shape.columns.iter().enumerate().map(value).collect()
    }

    fn put_row(&self, old: Option<&[Value]>, new: &[Value]) -> Result<(), Denied> {
        let table = self.table();
        match try_write(self.conn, table, &self.key, old, Some(new)) {
            Ok(()) => Ok(()),
            Err(error) if is_unique_violation(&error) => self.taken(new, &error),
            Err(error) if is_constraint(&error) => {
                let reason = format!("table {:?} does not take the lost row as it is now: {error}", table.shape.name);
                let remedy = "nothing was changed; change what the constraint is about and restore again, or write the \
                              row by hand and dismiss the record";
                Err(Refusal::in_the_way(reason, remedy).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses a row whose unique value another row holds, and names that row.
    fn taken(&self, new: &[Value], error: &rusqlite::Error) -> Result<(), Denied> {
        let table = self.table();
        let (keys, nameless) = match in_the_way(self.conn, self.index, table, &self.key, new) {
            Ok(rivals) => rivals,
            Err(Stop::Store(error)) => return Err(error.into()),
            // The row that would replace all others breaks another constraint besides.
            Err(Stop::Outcome(_)) => (Vec::new(), Vec::new()),
        };
        let own = canonical_key(table, &self.key);
        let rivals = keys.iter().filter(|key| canonical_key(table, key) != own);
        let named = rivals.map(|key| key_json(&table.shape, key).to_string());
        let named = named.chain(nameless.iter().map(|rowid| format!("rowid {rowid}")));
        let named: Vec<String> = named.take(NAMED_RIVALS).collect();
        let who = if named.is_empty() { "another row".to_owned() } else { format!("row {}", named.join(", ")) };
        let reason = format!("{who} of table {:?} holds the lost row's unique value now ({error})", table.shape.name);
        let remedy = "nothing was changed; give that row another value or delete it, and restore again, or dismiss the \
                      record";
        Err(Refusal::in_the_way(reason, remedy).into())
    }

    /// Gives the columns that changed an entry of their own.
    fn stamp_columns(&mut self, old: &[Value], new: &[Value]) -> Result<(), Denied> {
        let entry = self.entry(EntryFlags::empty());
        for place in (0..new.len()).filter(|place| old[*place] != new[*place]) {
            let number = self.table().table.columns[place].number;
            put_entry(self.conn, self.replica, self.index, &self.key, number, &entry)?;
            let counters = self.counters().into_iter().filter(|(column, _)| usize::from(*column) == place);
            for (_, mut counter) in counters {
                counter.set_to(entry, new[place].clone());
                put_counter(self.conn, self.replica, self.index, &self.key, number, &counter)?;
            }
        }
        Ok(())
    }

    /// What was counted in the row, which restoring sets.
    fn counters(&self) -> Vec<(u16, Counter)> {
        self.present.as_ref().map(|image| image.clock.counters.clone()).unwrap_or_default()
    }

    /// Gives the row one entry as a whole.
    fn stamp_row(&mut self, new: &[Value]) -> Result<(), Denied> {
        let columns = self.kept_entries(new);
        let flags = if self.living().is_some() { EntryFlags::empty() } else { EntryFlags::INSERTED };
        let entry = self.entry(flags);
        let mut counters = self.counters();
        counters.iter_mut().for_each(|(column, counter)| counter.set_to(entry, new[usize::from(*column)].clone()));
        let gone = |image: &RowImage| if image.clock.is_deleted() { Some(entry) } else { image.clock.rest };
        let rest = self.present.as_ref().and_then(gone);
        let clock = RowClock { row: entry, columns, counters, rest };
        put_clock(self.conn, self.replica, self.index, &self.key, &clock, true)?;
        Ok(())
    }

    /// Where rows are merged as wholes, columns that decide over unique values and do not change keep their entries: who
    /// keeps a unique value is judged by when it was written.
    fn kept_entries(&self, new: &[Value]) -> Vec<(u16, Entry)> {
        let table = self.table();
        let Some(image) = self.living().filter(|_| table.rules.granularity == Granularity::Row) else {
            return Vec::new();
        };
        let deciding = table.table.unique.iter().filter_map(|index| table.table.deciding_columns(index));
        let deciding: BTreeSet<usize> = deciding.flatten().collect();
        let unchanged = deciding.into_iter().filter(|place| image.values[*place] == new[*place]);
        let columns = unchanged.filter_map(|place| u16::try_from(place).ok());
        let entry = |column| {
            let entry = image.clock.effective(column);
            Entry { flags: entry.flags.without(EntryFlags::APART), ..*entry }
        };
        columns.map(|column| (column, entry(column))).collect()
    }

    /// A fresh entry of this node.
    fn entry(&mut self, flags: EntryFlags) -> Entry {
        Entry::new(self.replica.clock.stamp(self.now, self.now), self.replica.next_dot(), flags)
    }
}

fn no_default(shape: &TableShape, column: &str, error: &rusqlite::Error) -> Refusal {
    let reason = format!(
        "table {:?} has a column {column:?} that the lost row lacks, and its default cannot be had here: {error}",
        shape.name
    );
    Refusal::in_the_way(reason, BY_HAND)
}

fn unreadable(shape: &TableShape, column: &str) -> Refusal {
    let reason = format!("the record's value of column {column:?} of table {:?} is none that SQLite has", shape.name);
    Refusal::in_the_way(reason, BY_HAND)
}
