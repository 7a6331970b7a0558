//! The work of one attach on the synced tables: numbers, clock tables and triggers, and the marks of what is due.

use std::collections::BTreeSet;

use replication::{Origin, Selection, VersionVector};
use rusqlite::Connection;

use super::counted::Counted;
use super::marks::{born_key, counted_key, included_key, mark, rebuilt_key, rewritten_key, unwatched_key};
use super::naming::{Said, WireNames};
use super::registry::{Registry, StoredTrigger, stored_triggers};
use super::{bookkeeping, clock_table, sort, sorted_out, statement_check};
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::identifier::quote;
use crate::lift::BeforeLift;
use crate::meta;
use crate::schema::introspection::Found;
use crate::schema::{Table, Unsynced};
use crate::triggers::{self, Trigger};

/// What an attach left in place.
pub(super) struct Installed {
    pub(super) tables: Vec<Table>,
    pub(super) unsynced: Vec<Unsynced>,
    pub(super) retired: BTreeSet<String>,
}

/// The work of one attach on the synced tables.
pub(super) struct Installation<'a> {
    conn: &'a Connection,
    registry: Registry,
    /// Our triggers as they were.
    stored: Vec<StoredTrigger>,
    counted: Counted,
    names: WireNames,
    /// What peers were told before.
    said: Said,
    /// Which columns were counters until now.
    counted_before: Counted,
    /// What tables held before a migration whose triggers are put back now.
    before_lift: BeforeLift,
    /// What was chosen to be synced until now.
    before: &'a Selection,
}

impl<'a> Installation<'a> {
    pub(super) fn new(
        conn: &'a Connection,
        (counted_before, counted): (Counted, Counted),
        names: WireNames,
        (before_lift, before): (BeforeLift, &'a Selection),
    ) -> Result<Self, StoreError> {
        let (registry, stored) = (Registry::load(conn)?, stored_triggers(conn)?);
        let said = Said::load(conn, &registry)?;
        Ok(Self { conn, registry, stored, counted, counted_before, names, said, before_lift, before })
    }

    pub(super) fn run(mut self, found: Vec<Found>) -> Result<Installed, StoreError> {
        let (mut candidates, mut unsynced) = sorted_out(found);
        self.registry.follow_renames(self.conn, &candidates, &self.stored)?;
        unsynced.extend(self.names.give(&mut candidates));
        let mut tables = Vec::new();
        let mut expected: Vec<String> = Vec::new();
        for table in candidates {
            match self.install(table)? {
                Ok((table, triggers)) => {
                    expected.extend(triggers.into_iter().map(|trigger| trigger.name));
                    tables.push(table);
                }
                Err(refused) => unsynced.push(refused),
            }
        }
        let retired = self.clear_away(&tables, &expected)?;
        self.said.follow(self.conn, &tables, &self.registry.numbers())?;
        sort(&mut tables, &mut unsynced);
        Ok(Installed { tables, unsynced, retired })
    }

    /// Installs one table, or leaves nothing of it.
    fn install(&mut self, mut table: Table) -> Result<Result<(Table, Vec<Trigger>), Unsynced>, StoreError> {
        self.conn.execute_batch("SAVEPOINT _sync_install")?;
        self.counted.mark(&mut table);
        let known = self.registry.number(&table.name).is_some();
        let as_it_was = self.before_lift.is_as_it_was(self.conn, &mut self.registry, &table)?;
        let added = self.registry.register(self.conn, &mut table)?;
        if clock_table::ensure(self.conn, &table)? {
            self.registry.reset_baseline(self.conn, &mut table)?;
        }
        bookkeeping::widen_log(self.conn, &table)?;
        let triggers = triggers::of_table(&table);
        if known {
            let lost = !as_it_was && self.has_lost_triggers(&table);
            if lost || (!as_it_was && self.has_new_guards(&triggers)) {
                self.registry.reset_baseline(self.conn, &mut table)?;
                mark(self.conn, rebuilt_key(table.number))?;
            }
            if lost {
                mark(self.conn, rewritten_key(table.number))?;
            }
            if self.counted.has_more_than(&self.counted_before, &table) {
                mark(self.conn, counted_key(table.number))?;
            }
            for column in self.unwatched(&table, &added) {
                let key = if self.was_excluded(&table, column) { included_key } else { unwatched_key };
                mark(self.conn, key(table.number, column))?;
                meta::write(self.conn, &born_key(table.number, column), &known_now(self.conn)?)?;
            }
        }
        fail_point("attach-before-triggers");
        self.put_triggers(&table, &triggers)?;
        let refusal = statement_check::refusal(self.conn, &table, &triggers)?;
        if refusal.is_some() {
            self.conn.execute_batch("ROLLBACK TO _sync_install")?;
        }
        self.conn.execute_batch("RELEASE _sync_install")?;
        Ok(match refusal {
            Some(refused) => Err(refused),
            None => Ok((table, triggers)),
        })
    }

    fn was_excluded(&self, table: &Table, column: u16) -> bool {
        let mut columns = table.columns.iter().filter(|known| known.number == column);
        columns.any(|column| self.before.excludes_column(&table.name, &column.name))
    }

    fn has_lost_triggers(&self, table: &Table) -> bool {
        triggers::ESSENTIAL.iter().any(|role| {
            let name = triggers::name(table.number, role);
            !self.stored.iter().any(|stored| stored.name == name && stored.table.eq_ignore_ascii_case(&table.name))
        })
    }

    /// Whether a REPLACE could take out rows without a word until now: through a unique index that is new.
    fn has_new_guards(&self, triggers: &[Trigger]) -> bool {
        triggers.iter().filter(|trigger| triggers::is_guard(&trigger.name)).any(|guard| {
            let stored = self.stored.iter().find(|stored| stored.name == guard.name);
            stored.is_none_or(|stored| stored.sql != guard.sql)
        })
    }

    /// The columns that the triggers did not know until now: new ones, and ones that come back.
    fn unwatched(&self, table: &Table, added: &[u16]) -> Vec<u16> {
        let name = triggers::name(table.number, "update");
        let stored = self.stored.iter().find(|trigger| trigger.name == name);
        let watched = stored.map(|trigger| triggers::numbered_columns(&trigger.sql));
        let is_new = |number: &u16| match &watched {
            Some(watched) => !watched.iter().any(|(column, _)| column == number),
            None => added.contains(number),
        };
        table.columns.iter().map(|column| column.number).filter(is_new).collect()
    }

    fn put_triggers(&self, table: &Table, triggers: &[Trigger]) -> Result<(), StoreError> {
        for trigger in triggers {
            match self.stored.iter().find(|stored| stored.name == trigger.name) {
                Some(stored) if stored.sql == trigger.sql && stored.table == table.name => continue,
                Some(_) => self.drop_trigger(&trigger.name)?,
                None => {}
            }
            self.conn.execute_batch(&trigger.sql)?;
        }
        Ok(())
    }

    /// Removes what belongs to tables that are gone or no longer synced; returns the names on the wire of those of which
    /// entries are kept.
    fn clear_away(&mut self, tables: &[Table], expected: &[String]) -> Result<BTreeSet<String>, StoreError> {
        for stored in &self.stored {
            if !expected.contains(&stored.name) {
                self.drop_trigger(&stored.name)?;
            }
        }
        let mut retired = BTreeSet::new();
        for number in self.registry.numbers() {
            if tables.iter().any(|table| table.number == number) {
                continue;
            }
            if self.went_into_another(number, tables) || !self.registry.has_entries(self.conn, number)? {
                self.registry.forget(self.conn, number)?;
            } else {
                retired.extend(self.said.name(number).or_else(|| self.registry.name(number)));
            }
        }
        Ok(retired)
    }

    /// Whether a table took the place of another one: a migration filled it and renamed it, and its rows go on as the
    /// other's.
    fn went_into_another(&self, number: i64, tables: &[Table]) -> bool {
        let triggers = self
            .stored
            .iter()
            .filter(|stored| triggers::parse_name(&stored.name).is_some_and(|(named, _)| named == number));
        triggers.into_iter().any(|stored| tables.iter().any(|table| table.name.eq_ignore_ascii_case(&stored.table)))
    }

    fn drop_trigger(&self, name: &str) -> Result<(), StoreError> {
        Ok(self.conn.execute_batch(&format!("DROP TRIGGER IF EXISTS main.{}", quote(name)))?)
    }
}

/// What this database knows now.
fn known_now(conn: &Connection) -> Result<VersionVector, StoreError> {
    let mut statement = conn.prepare("SELECT origin, seq FROM main._sync_origin")?;
    let mut rows = statement.query([])?;
    let mut known = VersionVector::new();
    while let Some(row) = rows.next()? {
        known.raise(Origin::from_bytes(row.get(0)?), row.get::<_, i64>(1)?.cast_unsigned());
    }
    Ok(known)
}
