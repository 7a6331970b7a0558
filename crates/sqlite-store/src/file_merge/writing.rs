//! Writing what was found to one table: rows that go, rows that change, rows that come.

use std::collections::BTreeMap;
use std::sync::Arc;

use replication::{
    Conflict, ConflictKind, ConflictPolicy, Dot, Entry, EntryFlags, Origin, Resolution, RowClock, Side, TableShape,
    Timestamp, Value,
};
use rusqlite::Connection;

use super::plan::{Keys, Plan};
use super::settling::Deferred;
use super::{FileMergeOptions, FileMergeStep, Progress, SOURCE, SkipKind, Skipped, TARGET, TableMerge};
use crate::bind::{bind_from, values_from};
use crate::error::StoreError;
use crate::identifier::quote;
use crate::json::value_json;
use crate::row_write::{is_constraint, is_unique_violation};
use crate::schema::Table;
use crate::table_sql::TableSql;

/// Rows between two words about progress, and rows that are inserted by one statement.
const PORTION: u64 = 1_000;

/// One table at work.
pub(super) struct Writer<'a> {
    pub(super) conn: &'a Connection,
    table: &'a Table,
    plan: &'a Plan,
    limit: usize,
    /// Who decides over rows that differ; none where SOURCE's stands.
    policy: Option<Arc<dyn ConflictPolicy>>,
    pub(super) sql: TableSql,
    shape: TableShape,
    /// The row of SOURCE with a key.
    source_row: String,
    done: TableMerge,
}

/// What became of a row that was to be written.
pub(super) enum Written {
    Done,
    /// A unique index refuses it; in words.
    Clashes(String),
    /// A constraint refuses it, for this reason.
    Refused(String),
}

impl<'a> Writer<'a> {
    pub(super) fn new(conn: &'a Connection, table: &'a Table, plan: &'a Plan, options: &FileMergeOptions) -> Self {
        let columns: Vec<String> = table.columns.iter().map(|column| quote(&column.name)).collect();
        let key: Vec<String> = table.key_columns().map(|column| column.name.clone()).collect();
        let matches: Vec<String> =
            key.iter().enumerate().map(|(place, name)| format!("{} = ?{}", quote(name), place + 1)).collect();
        let source_row =
            format!("SELECT {} FROM source.{} WHERE {}", columns.join(", "), quote(&table.name), matches.join(" AND "));
        let done = TableMerge { table: table.name.clone(), key, nameless: plan.nameless, ..TableMerge::default() };
        Self {
            conn,
            table,
            plan,
            limit: options.limit,
            policy: (!options.mirror).then(|| options.policy_of(table)),
            sql: TableSql::new(table),
            shape: table.shape(),
            source_row,
            done,
        }
    }

    pub(super) fn finish(self) -> TableMerge {
        self.done
    }

    /// Deletes the rows that only TARGET has.
    pub(super) fn delete(&mut self, progress: &mut Progress<'_>) -> Result<(), StoreError> {
        let plan = self.plan;
        each_portion(self.conn, &plan.gone, self.table.key.len(), |keys| {
            for key in &keys {
                let mut statement = self.conn.prepare_cached(&self.sql.delete)?;
                bind_from(&mut statement, 1, key)?;
                self.done.deletes += statement.raw_execute()? as u64;
            }
            progress.add(&self.table.name, FileMergeStep::Delete, keys.len() as u64);
            Ok(())
        })
    }

    /// Changes the rows that differ. Rows that stand in each other's way make way for each other.
    pub(super) fn update(&mut self, progress: &mut Progress<'_>) -> Result<(), StoreError> {
        let plan = self.plan;
        let mut deferred = Vec::new();
        each_portion(self.conn, &plan.differ, self.table.key.len(), |keys| {
            let rows = keys.len() as u64;
            for key in keys {
                let (old, new) = (self.row(&self.sql.row, &key)?, self.row(&self.source_row, &key)?);
                let (Some(old), Some(new)) = (old, new) else { continue };
                let Some(new) = self.decide(&key, &old, new) else { continue };
                match self.write(&key, &old, &new)? {
                    Written::Done => self.done.updates += 1,
                    Written::Clashes(_) => deferred.push(Deferred { key, old, new }),
                    Written::Refused(reason) => self.skip(&key, SkipKind::Constraint, Some(reason)),
                }
            }
            progress.add(&self.table.name, FileMergeStep::Update, rows);
            Ok(())
        })?;
        let settled = self.settle(deferred)?;
        self.done.updates += settled.written;
        for (key, kind, reason) in settled.refused {
            self.skip(&key, kind, Some(reason));
        }
        Ok(())
    }

    /// Inserts the rows that only SOURCE has: many by one statement, and one by one where that fails.
    pub(super) fn insert(&mut self, progress: &mut Progress<'_>) -> Result<(), StoreError> {
        let (name, keys) = (quote(&self.table.name), &self.plan.new);
        let columns: Vec<String> = self.table.columns.iter().map(|column| quote(&column.name)).collect();
        let same: Vec<String> = (self.table.key_columns().enumerate())
            .map(|(place, column)| format!("b.{} = n.k{place}", quote(&column.name)))
            .collect();
        // A row that a constraint has SQLite leave out, or put in the place of another one, must not go unnoticed.
        let or_abort = if self.table.has_conflict_clauses { " OR ABORT" } else { "" };
        let sql = format!(
            "INSERT{or_abort} INTO main.{name} ({}) SELECT b.{} FROM {} AS n CROSS JOIN source.{name} AS b ON {} \
             WHERE n.rowid BETWEEN ?1 AND ?2",
            columns.join(", "),
            columns.join(", b."),
            keys.name,
            same.join(" AND ")
        );
        let mut first = 1;
        while first <= keys.rows {
            let last = keys.rows.min(first + PORTION - 1);
            let range = [first.cast_signed(), last.cast_signed()];
            match self.conn.prepare_cached(&sql)?.execute(range) {
                Ok(rows) => self.done.inserts += rows as u64,
                Err(error) if is_constraint(&error) => self.insert_singly(range)?,
                Err(error) => return Err(error.into()),
            }
            progress.add(&self.table.name, FileMergeStep::Insert, last + 1 - first);
            first = last + 1;
        }
        Ok(())
    }

    fn insert_singly(&mut self, range: [i64; 2]) -> Result<(), StoreError> {
        for key in read_keys(self.conn, &self.plan.new, self.table.key.len(), range)? {
            let Some(new) = self.row(&self.source_row, &key)? else { continue };
            let mut statement = self.conn.prepare_cached(&self.sql.insert)?;
            bind_from(&mut statement, 1, &new)?;
            match written(statement.raw_execute())? {
                Written::Done => self.done.inserts += 1,
                Written::Clashes(reason) => self.skip(&key, SkipKind::UniqueExists, Some(reason)),
                Written::Refused(reason) => self.skip(&key, SkipKind::Constraint, Some(reason)),
            }
        }
        Ok(())
    }

    /// What a row that differs is to become; none if TARGET's stands.
    fn decide(&mut self, key: &[Value], old: &[Value], new: Vec<Value>) -> Option<Vec<Value>> {
        let Some(policy) = &self.policy else { return Some(new) };
        let clock = |origin: Origin, stamp: Timestamp| {
            RowClock::whole(Entry::new(stamp, Dot { origin, sequence: 1 }, EntryFlags::empty()))
        };
        // Nothing is known of when they were written: SOURCE's counts as the later one.
        let [theirs, ours] = [(1, SOURCE), (0, TARGET)].map(|(byte, name)| (Origin::from_bytes([byte; 16]), name));
        let [our_clock, their_clock] =
            [clock(ours.0, Timestamp::BASELINE), clock(theirs.0, Timestamp::BASELINE.next())];
        let differing = (0..new.len()).filter(|place| old[*place] != new[*place]);
        let columns: Vec<u16> = differing.filter_map(|place| u16::try_from(place).ok()).collect();
        let conflict = Conflict {
            shape: &self.shape,
            kind: ConflictKind::InsertExists,
            local: Side { values: Some(old), clock: &our_clock },
            remote: Side { values: Some(&new), clock: &their_clock },
            columns: &columns,
            nodes: &BTreeMap::from([ours, theirs].map(|(origin, name)| (origin, name.to_owned()))),
        };
        let row = match policy.resolve(&conflict) {
            Resolution::Newest | Resolution::TakeRemote => Some(new),
            Resolution::Row(row) if row.len() == old.len() && row != old => Some(row),
            Resolution::KeepLocal | Resolution::Row(_) | Resolution::Delete => None,
            Resolution::Fail(reason) => {
                self.skip(key, SkipKind::Policy, Some(reason));
                return None;
            }
        };
        if row.is_none() {
            self.skip(key, SkipKind::InsertExists, None);
        }
        row
    }

    fn skip(&mut self, key: &[Value], kind: SkipKind, reason: Option<String>) {
        match kind {
            SkipKind::InsertExists | SkipKind::UniqueExists => self.done.conflict_skips += 1,
            SkipKind::Constraint | SkipKind::Policy => self.done.refused += 1,
        }
        if self.done.skipped.len() < self.limit {
            self.done.skipped.push(Skipped { key: key.iter().map(value_json).collect(), kind, reason });
        }
    }

    /// The row with a key; none if there is none.
    fn row(&self, sql: &str, key: &[Value]) -> Result<Option<Vec<Value>>, StoreError> {
        let mut statement = self.conn.prepare_cached(sql)?;
        bind_from(&mut statement, 1, key)?;
        let mut rows = statement.raw_query();
        Ok(rows.next()?.map(|row| values_from(row, 0, self.table.columns.len())).transpose()?)
    }

    /// Changes a row of TARGET. One that is refused stays as it is.
    pub(super) fn write(&self, key: &[Value], old: &[Value], new: &[Value]) -> Result<Written, StoreError> {
        let changed: Vec<usize> = (0..new.len()).filter(|index| old[*index] != new[*index]).collect();
        let mut statement = self.conn.prepare_cached(&self.sql.update(&changed, key.len()))?;
        bind_from(&mut statement, 1, key)?;
        for (offset, index) in changed.iter().enumerate() {
            bind_from(&mut statement, key.len() + 1 + offset, std::slice::from_ref(&new[*index]))?;
        }
        written(statement.raw_execute())
    }
}

/// What became of a row, by what SQLite says.
pub(super) fn written(result: rusqlite::Result<usize>) -> Result<Written, StoreError> {
    match result {
        Ok(_) => Ok(Written::Done),
        Err(error) if is_unique_violation(&error) => Ok(Written::Clashes(error.to_string())),
        Err(error) if is_constraint(&error) => Ok(Written::Refused(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// Does something with keys, a portion after the other.
fn each_portion(
    conn: &Connection,
    keys: &Keys,
    width: usize,
    mut act: impl FnMut(Vec<Vec<Value>>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut first = 1;
    while first <= keys.rows {
        let last = keys.rows.min(first + PORTION - 1);
        act(read_keys(conn, keys, width, [first.cast_signed(), last.cast_signed()])?)?;
        first = last + 1;
    }
    Ok(())
}

fn read_keys(conn: &Connection, keys: &Keys, width: usize, range: [i64; 2]) -> Result<Vec<Vec<Value>>, StoreError> {
    let sql = format!("SELECT * FROM {} WHERE rowid BETWEEN ?1 AND ?2", keys.name);
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(range, |row| values_from(row, 0, width))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// One value of a row, if there is a row.
pub(super) fn first_value(conn: &Connection, sql: &str, key: &[Value]) -> Result<Option<i64>, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    bind_from(&mut statement, 1, key)?;
    let mut rows = statement.raw_query();
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}
