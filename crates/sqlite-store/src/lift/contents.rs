//! What the tables held when the triggers were lifted, as one sum a column, and what a migration did to them since.

use std::collections::HashMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};

use super::lock;
use crate::attach::registry::Registry;
use crate::error::StoreError;
use crate::identifier::quote;
use crate::replica::wall_millis;
use crate::schema::Table;

/// The sums of tables as they were before the triggers were lifted; nothing where they are in place.
#[derive(Debug, Default)]
pub(crate) struct BeforeLift {
    /// By number of table and column.
    tables: HashMap<i64, HashMap<u16, i64>>,
}

impl BeforeLift {
    /// Notes in the file that the triggers are lifted, since when, and what the tables hold.
    pub(super) fn note(conn: &Connection, tables: &[Table]) -> Result<(), StoreError> {
        let mut note = conn.prepare("INSERT OR REPLACE INTO main._sync_meta (key, value) VALUES (?1, ?2)")?;
        for table in tables {
            for (column, sum) in table.columns.iter().zip(sums(conn, table)?) {
                note.execute(params![format!("lifted_{}_{}", table.number, column.number), sum])?;
            }
        }
        note.execute(params!["lifted", wall_millis()])?;
        Ok(())
    }

    /// Ends the state in which the triggers are lifted, in the transaction that puts them back.
    ///
    /// # Errors
    /// [`StoreError::Lifted`] while the migration that lifted them holds its lock.
    pub(crate) fn take(conn: &Connection) -> Result<Self, StoreError> {
        let since: Option<i64> = conn
            .query_row("SELECT value FROM main._sync_meta WHERE key = 'lifted'", [], |row| row.get(0))
            .optional()?;
        if since.is_some()
            && let Some(path) = conn.path()
            && lock::is_held(path.as_ref())?
        {
            return Err(StoreError::Lifted);
        }
        let mut statement = conn.prepare("SELECT key, value FROM main._sync_meta WHERE key GLOB 'lifted_*'")?;
        let mut rows = statement.query([])?;
        let mut taken = Self::default();
        while let Some(row) = rows.next()? {
            let key: String = row.get(0)?;
            let numbers = key.strip_prefix("lifted_").and_then(|numbers| numbers.split_once('_'));
            if let Some((table, column)) = numbers.and_then(|(t, c)| Some((t.parse().ok()?, c.parse().ok()?))) {
                taken.tables.entry(table).or_default().insert(column, row.get(1)?);
            }
        }
        drop(rows);
        if since.is_some() || !taken.tables.is_empty() {
            conn.execute("DELETE FROM main._sync_meta WHERE key = 'lifted' OR key GLOB 'lifted_*'", [])?;
            // The schema may read as it did before: whoever has the file open must look at what is due all the same.
            conn.execute(
                "INSERT INTO main._sync_meta (key, value) VALUES ('lifts', 1) \
                 ON CONFLICT DO UPDATE SET value = value + 1",
                [],
            )?;
        }
        Ok(taken)
    }

    /// How often triggers were put back after a migration that lifted them.
    pub(crate) fn count(conn: &Connection) -> Result<i64, StoreError> {
        let sql = "SELECT value FROM main._sync_meta WHERE key = 'lifts'";
        Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
    }

    /// Whether a table's columns hold what they held, or were renamed and hold it under their new names, which the
    /// registry then knows. What columns hold that were added meanwhile is not judged. False for a table of which nothing
    /// was noted.
    pub(crate) fn is_as_it_was(
        &self,
        conn: &Connection,
        registry: &mut Registry,
        table: &Table,
    ) -> Result<bool, StoreError> {
        let Some(number) = registry.number(&table.name) else { return Ok(false) };
        let Some(before) = self.tables.get(&number) else { return Ok(false) };
        let now = sums(conn, table)?;
        follow_renames(conn, registry, number, before, table, &now)?;
        let mut columns = table.columns.iter().zip(&now).enumerate();
        Ok(columns.all(|(index, (column, sum))| match registry.column(number, &column.name) {
            Some(column) => before.get(&column) == Some(sum),
            None => !table.key.contains(&index),
        }))
    }
}

/// Finds new columns that hold what one that is gone held, and no other: while the triggers are lifted, nothing of ours in
/// the schema tells that a column was renamed.
fn follow_renames(
    conn: &Connection,
    registry: &mut Registry,
    number: i64,
    before: &HashMap<u16, i64>,
    table: &Table,
    now: &[i64],
) -> Result<(), StoreError> {
    let present = |name: &str| table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    let gone: Vec<(u16, i64)> = registry
        .columns(number)
        .into_iter()
        .filter(|(_, name)| !present(name))
        .filter_map(|(column, _)| Some((column, *before.get(&column)?)))
        .collect();
    let added: Vec<(&str, i64)> = table
        .columns
        .iter()
        .zip(now)
        .filter(|(column, _)| registry.column(number, &column.name).is_none())
        .map(|(column, sum)| (column.name.as_str(), *sum))
        .collect();
    for (name, sum) in &added {
        let alone = added.iter().filter(|(_, other)| other == sum).count() == 1;
        let mut same = gone.iter().filter(|(_, other)| other == sum);
        if let (true, Some((column, _)), None) = (alone, same.next(), same.next()) {
            registry.rename_column(conn, number, *column, name)?;
        }
    }
    Ok(())
}

/// For each column the sum over all rows of a hash of the row's key and the column's value. Deletions, insertions and
/// updates change it; the order in which rows are read does not.
fn sums(conn: &Connection, table: &Table) -> Result<Vec<i64>, StoreError> {
    let columns: Vec<String> = table.columns.iter().map(|column| quote(&column.name)).collect();
    let mut statement = conn.prepare(&format!("SELECT {} FROM main.{}", columns.join(", "), quote(&table.name)))?;
    let mut rows = statement.query([])?;
    let mut sums = vec![0_u64; columns.len()];
    while let Some(row) = rows.next()? {
        let mut of_key = OFFSET;
        for index in &table.key {
            of_key = hash(of_key, row.get_ref(*index)?);
        }
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = sum.wrapping_add(spread(hash(of_key, row.get_ref(index)?)));
        }
    }
    Ok(sums.into_iter().map(u64::cast_signed).collect())
}

/// Where FNV-1a begins.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a over a value's class, length and bytes, going on from another hash.
fn hash(from: u64, value: ValueRef<'_>) -> u64 {
    let number;
    let (class, bytes): (u8, &[u8]) = match value {
        ValueRef::Null => (0, &[]),
        ValueRef::Integer(integer) => {
            number = integer.to_le_bytes();
            (1, &number)
        }
        ValueRef::Real(real) => {
            number = real.to_le_bytes();
            (2, &number)
        }
        ValueRef::Text(text) => (3, text),
        ValueRef::Blob(blob) => (4, blob),
    };
    let length = bytes.len().to_le_bytes();
    let all = [class].into_iter().chain(length).chain(bytes.iter().copied());
    all.fold(from, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Spreads a hash over all its bits, so that sums of similar ones do not meet (the finalizer of SplitMix64).
fn spread(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
