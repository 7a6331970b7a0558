//! The numbers of tables and columns, as `_sync_table` and `_sync_column` hold them, and the clock tables that go with
//! them. Numbers outlive renames and are never given twice.

use std::collections::BTreeMap;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, params};

use super::marks::{misnamed_key, rebuilt_key, renamed_key, rewritten_key};
use crate::connection::with_setting;
use crate::error::StoreError;
use crate::identifier::quote;
use crate::lift;
use crate::schema::Table;
use crate::triggers;

/// A trigger of ours as the file holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredTrigger {
    pub(crate) name: String,
    pub(crate) table: String,
    pub(crate) sql: String,
}

/// The triggers of ours that the file holds.
pub(crate) fn stored_triggers(conn: &Connection) -> Result<Vec<StoredTrigger>, StoreError> {
    let sql = "SELECT name, tbl_name, sql FROM main.sqlite_schema WHERE type = 'trigger'";
    let mut statement = conn.prepare(sql)?;
    let read = |row: &rusqlite::Row<'_>| Ok(StoredTrigger { name: row.get(0)?, table: row.get(1)?, sql: row.get(2)? });
    let mut stored = statement.query_map([], read)?.collect::<Result<Vec<_>, _>>()?;
    stored.retain(|trigger| triggers::parse_name(&trigger.name).is_some());
    Ok(stored)
}

#[derive(Debug)]
struct Entry {
    name: String,
    clock: String,
    baseline_published: bool,
    columns: BTreeMap<u16, String>,
}

/// All numbers.
#[derive(Debug)]
pub(crate) struct Registry {
    tables: BTreeMap<i64, Entry>,
    last: i64,
}

impl Registry {
    /// Reads the registry.
    pub(crate) fn load(conn: &Connection) -> Result<Self, StoreError> {
        let mut tables = BTreeMap::new();
        let mut statement = conn.prepare("SELECT id, name, clock, baseline FROM main._sync_table")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (name, clock, baseline_published) = (row.get(1)?, row.get(2)?, row.get(3)?);
            tables.insert(row.get(0)?, Entry { name, clock, baseline_published, columns: BTreeMap::new() });
        }
        let mut statement = conn.prepare("SELECT tbl, id, name FROM main._sync_column")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(entry) = tables.get_mut(&row.get::<_, i64>(0)?) {
                entry.columns.insert(row.get(1)?, row.get(2)?);
            }
        }
        let last: Option<i64> = conn
            .query_row("SELECT value FROM main._sync_meta WHERE key = 'last_table'", [], |row| row.get(0))
            .optional()?;
        let highest = tables.keys().next_back().copied();
        Ok(Self { tables, last: last.max(highest).unwrap_or(0) })
    }

    /// The number of the table of this name.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        let mut tables = self.tables.iter();
        tables.find(|(_, entry)| entry.name.eq_ignore_ascii_case(name)).map(|(number, _)| *number)
    }

    /// The numbers of all tables.
    pub(crate) fn numbers(&self) -> Vec<i64> {
        self.tables.keys().copied().collect()
    }

    /// The name of a table.
    pub(super) fn name(&self, number: i64) -> Option<String> {
        self.tables.get(&number).map(|entry| entry.name.clone())
    }

    /// Whether there are clock entries of a table.
    pub(super) fn has_entries(&self, conn: &Connection, number: i64) -> Result<bool, StoreError> {
        let Some(entry) = self.tables.get(&number) else { return Ok(false) };
        if !super::bookkeeping::has_table(conn, &entry.clock)? {
            return Ok(false);
        }
        let sql = format!("SELECT EXISTS (SELECT 1 FROM main.{})", quote(&entry.clock));
        Ok(conn.query_row(&sql, [], |row| row.get(0))?)
    }

    /// Fills in what the registry knows of a table. False if it does not know the table or all of its columns.
    pub(crate) fn complete(&self, table: &mut Table) -> bool {
        let Some((number, entry)) = self.number(&table.name).and_then(|n| Some((n, self.tables.get(&n)?))) else {
            return false;
        };
        table.number = number;
        table.clock.clone_from(&entry.clock);
        table.baseline_published = entry.baseline_published;
        table.columns.iter_mut().all(|column| {
            let known = entry.columns.iter().find(|(_, name)| name.eq_ignore_ascii_case(&column.name));
            column.number = known.map_or(0, |(number, _)| *number);
            known.is_some()
        })
    }

    /// Follows tables and columns that were renamed. Triggers move along with a renamed table and name its columns as
    /// they are called now. A table that has the registered name comes first, though: a migration that renames the old
    /// table away means the new one, and peers know it by that name.
    pub(super) fn follow_renames(
        &mut self,
        conn: &Connection,
        present: &[Table],
        stored: &[StoredTrigger],
    ) -> Result<(), StoreError> {
        let find = |name: &str| present.iter().find(|table| table.name.eq_ignore_ascii_case(name));
        for trigger in stored {
            let Some((number, "update" | lift::ROLE)) = triggers::parse_name(&trigger.name) else { continue };
            let Some(registered) = self.tables.get(&number).map(|entry| entry.name.clone()) else { continue };
            let now =
                find(&registered).or_else(|| find(&trigger.table).filter(|_| self.number(&trigger.table).is_none()));
            let Some(now) = now else { continue };
            if now.name != registered {
                self.rename_table(conn, number, &now.name)?;
            }
            if trigger.table.eq_ignore_ascii_case(&now.name) {
                self.rename_columns(conn, number, now, &trigger.sql)?;
            }
        }
        Ok(())
    }

    fn rename_table(&mut self, conn: &Connection, number: i64, name: &str) -> Result<(), StoreError> {
        let clock = self.clock_name(conn, number, name)?;
        let Some(entry) = self.tables.get_mut(&number) else { return Ok(()) };
        let has_clock = super::bookkeeping::has_table(conn, &entry.clock)?;
        if has_clock && !entry.clock.eq_ignore_ascii_case(&clock) {
            // Without this setting SQLite re-reads all views and triggers first, and fails on one that is broken.
            with_setting(conn, DbConfig::SQLITE_DBCONFIG_LEGACY_ALTER_TABLE, true, || {
                let rename = format!("ALTER TABLE main.{} RENAME TO {}", quote(&entry.clock), quote(&clock));
                Ok(conn.execute_batch(&rename)?)
            })?;
        }
        entry.name = name.to_owned();
        entry.clock = clock;
        conn.execute(
            "UPDATE main._sync_table SET name = ?2, clock = ?3 WHERE id = ?1",
            params![number, entry.name, entry.clock],
        )?;
        Ok(())
    }

    fn rename_columns(&mut self, conn: &Connection, number: i64, table: &Table, sql: &str) -> Result<(), StoreError> {
        for (column, name) in triggers::numbered_columns(sql) {
            if table.columns.iter().any(|present| present.name.eq_ignore_ascii_case(&name)) {
                self.rename_column(conn, number, column, &name)?;
            }
        }
        Ok(())
    }

    /// Gives a column that is known another name.
    pub(crate) fn rename_column(
        &mut self,
        conn: &Connection,
        number: i64,
        column: u16,
        name: &str,
    ) -> Result<(), StoreError> {
        let known = self.tables.get_mut(&number).and_then(|entry| entry.columns.get_mut(&column));
        let Some(known) = known.filter(|known| *known != name) else { return Ok(()) };
        conn.execute(
            "UPDATE main._sync_column SET name = ?3 WHERE tbl = ?1 AND id = ?2",
            params![number, column, name],
        )?;
        name.clone_into(known);
        Ok(())
    }

    /// The number of a column by its name. None for a table or column that is not known.
    pub(crate) fn column(&self, number: i64, name: &str) -> Option<u16> {
        let columns = self.tables.get(&number)?.columns.iter();
        columns.into_iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(column, _)| *column)
    }

    /// The numbers and names of a table's columns, those that are gone too.
    pub(crate) fn columns(&self, number: i64) -> Vec<(u16, String)> {
        let entry = self.tables.get(&number);
        entry.map(|entry| entry.columns.iter().map(|(n, name)| (*n, name.clone())).collect()).unwrap_or_default()
    }

    /// Gives a table and its columns numbers where they have none, and the table the name of a clock table. Returns the
    /// new columns' numbers.
    pub(super) fn register(&mut self, conn: &Connection, table: &mut Table) -> Result<Vec<u16>, StoreError> {
        let number = match self.number(&table.name) {
            Some(number) => number,
            None => self.add_table(conn, &table.name)?,
        };
        let mut added = Vec::new();
        let Some(entry) = self.tables.get_mut(&number) else { return Ok(added) };
        for column in &table.columns {
            if entry.columns.values().any(|name| name.eq_ignore_ascii_case(&column.name)) {
                continue;
            }
            let last = entry.columns.keys().next_back().copied().unwrap_or(0);
            let next = last.checked_add(1).ok_or_else(|| StoreError::Damaged {
                what: format!("table {:?} has used up its column numbers", table.name),
            })?;
            conn.execute(
                "INSERT INTO main._sync_column (tbl, id, name) VALUES (?1, ?2, ?3)",
                params![number, next, column.name],
            )?;
            entry.columns.insert(next, column.name.clone());
            added.push(next);
        }
        self.complete(table);
        Ok(added)
    }

    fn add_table(&mut self, conn: &Connection, name: &str) -> Result<i64, StoreError> {
        let number = self.last + 1;
        let clock = self.clock_name(conn, number, name)?;
        conn.execute(
            "INSERT INTO main._sync_table (id, name, clock) VALUES (?1, ?2, ?3)",
            params![number, name, clock],
        )?;
        // A number that comes back would be given log rows of the table that had it.
        conn.execute("INSERT OR REPLACE INTO main._sync_meta (key, value) VALUES ('last_table', ?1)", [number])?;
        self.last = number;
        let entry = Entry { name: name.to_owned(), clock, baseline_published: false, columns: BTreeMap::new() };
        self.tables.insert(number, entry);
        Ok(number)
    }

    /// The clock table's name for a table, unlike that of any other and of anything that is in the file.
    fn clock_name(&self, conn: &Connection, number: i64, table: &str) -> Result<String, StoreError> {
        let plain = format!("_sync_clock_{table}");
        let mut present = conn.prepare_cached("SELECT 1 FROM main.sqlite_schema WHERE name = ?1 COLLATE NOCASE")?;
        let own = self.tables.get(&number).map(|entry| entry.clock.as_str());
        for n in 0_u32.. {
            let name = if n == 0 { plain.clone() } else { format!("{plain}_{number}_{n}") };
            if own.is_some_and(|own| own.eq_ignore_ascii_case(&name)) {
                return Ok(name);
            }
            let promised = self.tables.values().any(|entry| entry.clock.eq_ignore_ascii_case(&name));
            if !promised && !present.exists([&name])? {
                return Ok(name);
            }
        }
        Ok(plain)
    }

    /// Marks the rows of a table as not published.
    pub(super) fn reset_baseline(&mut self, conn: &Connection, table: &mut Table) -> Result<(), StoreError> {
        conn.execute("UPDATE main._sync_table SET baseline = 0 WHERE id = ?1 AND baseline <> 0", [table.number])?;
        table.baseline_published = false;
        if let Some(entry) = self.tables.get_mut(&table.number) {
            entry.baseline_published = false;
        }
        Ok(())
    }

    /// Removes a table, with its clock table and its log rows.
    pub(super) fn forget(&mut self, conn: &Connection, number: i64) -> Result<(), StoreError> {
        if let Some(entry) = self.tables.remove(&number) {
            conn.execute_batch(&format!("DROP TABLE IF EXISTS main.{}", quote(&entry.clock)))?;
        }
        conn.execute("DELETE FROM main._sync_table WHERE id = ?1", [number])?;
        conn.execute("DELETE FROM main._sync_column WHERE tbl = ?1", [number])?;
        conn.execute("DELETE FROM main._sync_log WHERE tbl = ?1", [number])?;
        conn.execute(
            "DELETE FROM main._sync_meta WHERE key IN (?1, ?2, ?3, ?4)",
            [rebuilt_key, rewritten_key, misnamed_key, renamed_key].map(|key| key(number)),
        )?;
        for columns in ["born", "unwatched", "included", "misnamed", "renamed"].map(|mark| format!("{mark}_{number}_*"))
        {
            conn.execute("DELETE FROM main._sync_meta WHERE key GLOB ?1", [columns])?;
        }
        Ok(())
    }
}
