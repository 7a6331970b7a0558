//! The names of tables and columns on the wire: which are others than those in the file, and what peers were told before.
//!
//! The file remembers both (`names` and `said` in `_sync_meta`). Whoever attaches it without saying names goes by those that
//! it remembers; and where a name on the wire is another than it was, by another mapping or by a migration, what the table
//! or column holds is said anew under it.

use std::collections::{BTreeMap, HashMap};

use replication::Selection;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::marks::{
    mark, misnamed_column_key, misnamed_key, renamed_column_key, renamed_key, rewritten_key, unwatched_key,
};
use super::registry::Registry;
use crate::error::StoreError;
use crate::meta;
use crate::nearest::nearest;
use crate::schema::introspection::Found;
use crate::schema::{Table, Unsynced};
use crate::warning::{Warning, WarningKind};

/// Which tables and columns of a database bear other names on the wire, by their names in the file. ASCII case does not count
/// in either.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireNames(BTreeMap<String, OfTable>);

/// What is said of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct OfTable {
    /// The table's name on the wire.
    name: Option<String>,
    /// Those of its columns, by their names in the file.
    columns: BTreeMap<String, String>,
}

impl WireNames {
    /// Gives a table a name on the wire, in place of one that it was given before.
    pub fn name_table(&mut self, table: &str, remote_name: &str) {
        self.of(table).name = Some(remote_name.to_owned());
    }

    /// Gives a column of a table a name on the wire, in place of one that it was given before.
    pub fn name_column(&mut self, table: &str, column: &str, remote_name: &str) {
        let columns = &mut self.of(table).columns;
        columns.retain(|known, _| !known.eq_ignore_ascii_case(column));
        columns.insert(column.to_owned(), remote_name.to_owned());
    }

    fn of(&mut self, table: &str) -> &mut OfTable {
        let known = self.0.keys().find(|known| known.eq_ignore_ascii_case(table)).cloned();
        self.0.entry(known.unwrap_or_else(|| table.to_owned())).or_default()
    }

    /// A choice of what is synced as it reads by names on the wire. A table whose own name is included stays so whatever its name
    /// on the wire: rows of it have their place before the choice is asked.
    pub(crate) fn selection(&self, chosen: &Selection) -> Selection {
        let mut selection = chosen.clone();
        let mut excluded = chosen.excluded().to_vec();
        for (name, said) in &self.0 {
            let wire_name = said.name.as_ref().unwrap_or(name);
            if said.name.is_some() && chosen.exclusion(name).is_some() {
                excluded.push(wire_name.clone());
            }
            let named = |column: &String| {
                let mut known = said.columns.iter().filter(|(known, _)| known.eq_ignore_ascii_case(column));
                known.next().map_or(column, |(_, remote_name)| remote_name).clone()
            };
            let columns: Vec<String> = chosen.excluded_columns(name).iter().map(named).collect();
            if !columns.is_empty() {
                selection.set_excluded_columns(name, []);
                selection.set_excluded_columns(wire_name, columns);
            }
        }
        selection.set_exclude(excluded);
        selection
    }

    /// The names in use: those that are said now, which the file remembers, or else those that it remembers.
    pub(crate) fn in_use(conn: &Connection, now: Option<&Self>) -> Result<Self, StoreError> {
        let remembered: Option<Self> = meta::read(conn, NAMES)?;
        let Some(now) = now else { return Ok(remembered.unwrap_or_default()) };
        if *now != remembered.unwrap_or_default() {
            meta::write(conn, NAMES, now)?;
        }
        Ok(now.clone())
    }

    /// Gives tables and their columns their names on the wire. Takes out those that cannot have them, because another table
    /// or column has that name too.
    pub(super) fn give(&self, tables: &mut Vec<Table>) -> Vec<Unsynced> {
        for table in tables.iter_mut() {
            let said = self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(&table.name)).map(|(_, said)| said);
            let Some(OfTable { name, columns }) = said else { continue };
            table.remote_name = name.clone().filter(|name| *name != table.name);
            for column in &mut table.columns {
                let other = columns.iter().find(|(known, _)| known.eq_ignore_ascii_case(&column.name));
                column.remote_name = other.map(|(_, name)| name.clone()).filter(|name| *name != column.name);
            }
        }
        let mut refused = Vec::new();
        let mut taken: HashMap<String, String> = HashMap::new();
        // A name that somebody gave goes before one that merely is.
        tables.sort_by_key(|table| table.remote_name.is_none());
        tables.retain(|table| {
            let first = taken.entry(fold(table.wire_name())).or_insert_with(|| table.name.clone());
            let clash =
                if *first == table.name { clash_of_columns(table) } else { Some(clash_of_tables(table, first)) };
            refused.extend(clash.clone());
            clash.is_none()
        });
        refused
    }

    /// What names are given to that is not in the file.
    pub(super) fn unmet(&self, found: &[Found]) -> Vec<Warning> {
        let name = |found: &Found| match found {
            Ok(table) => table.name.clone(),
            Err(unsynced) => unsynced.table.clone(),
        };
        let present: Vec<String> = found.iter().map(name).collect();
        let mut warnings = Vec::new();
        for (name, said) in &self.0 {
            if !present.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                warnings.push(unknown_table(name, &present));
                continue;
            }
            let table = found.iter().flatten().find(|table| table.name.eq_ignore_ascii_case(name));
            // Of what is not synced the reason is told elsewhere.
            let Some(table) = table else { continue };
            let names = || table.columns.iter().map(|known| &known.name).chain(&table.excluded);
            let known = |column: &str| names().any(|known| known.eq_ignore_ascii_case(column));
            let unknown = said.columns.keys().filter(|column| !known(column));
            warnings.extend(unknown.map(|column| unknown_column(table, column)));
        }
        warnings
    }
}

/// Which of these names, given as that in the file and that on the wire, are the same on the wire.
pub fn same_remote_names<'a>(names: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<SameName<'a>> {
    let mut taken: HashMap<String, &str> = HashMap::new();
    let clash = |(name, remote_name)| {
        let first = taken.insert(fold(remote_name), name)?;
        Some(SameName { remote_name, first, second: name })
    };
    names.into_iter().filter_map(clash).collect()
}

/// Two tables, or two columns of a table, that would bear the same name on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SameName<'a> {
    /// That name.
    pub remote_name: &'a str,
    /// What has it already.
    pub first: &'a str,
    /// What comes after it.
    pub second: &'a str,
}

/// SQLite does not tell the case of ASCII letters apart in names.
fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
}

fn clash_of_tables(table: &Table, first: &str) -> Unsynced {
    Unsynced {
        table: table.name.clone(),
        reason: format!("its name on the wire, {:?}, is that of table {first:?} as well", table.wire_name()),
        remedy: format!("give this table a remote_name of its own, or table {first:?} another one"),
        intended: false,
    }
}

fn clash_of_columns(table: &Table) -> Option<Unsynced> {
    let names = table.columns.iter().map(|column| (column.name.as_str(), column.wire_name()));
    let SameName { remote_name, first, second } = *same_remote_names(names).first()?;
    Some(Unsynced {
        table: table.name.clone(),
        reason: format!("its columns {first:?} and {second:?} would both be {remote_name:?} on the wire"),
        remedy: "give each of the two a remote_name of its own".to_owned(),
        intended: false,
    })
}

fn unknown_table(name: &str, present: &[String]) -> Warning {
    Warning {
        kind: WarningKind::UnknownName,
        table: Some(name.to_owned()),
        reason: format!("a remote_name is said of table {name:?} or its columns, and there is no such table"),
        remedy: remedy(nearest(present.iter().map(String::as_str), name)),
    }
}

fn unknown_column(table: &Table, name: &str) -> Warning {
    Warning {
        kind: WarningKind::UnknownName,
        table: Some(table.name.clone()),
        reason: format!("a remote_name is given to column {name:?}, and the table syncs no such column"),
        remedy: remedy(nearest(table.columns.iter().map(|column| column.name.as_str()), name)),
    }
}

fn remedy(near: Option<&str>) -> String {
    let otherwise = "write the name that it has in this file, or remove the remote_name; nothing else is held up";
    near.map_or_else(|| otherwise.to_owned(), |near| format!("did you mean {near:?}?"))
}

/// What tables and their columns are called, by their numbers.
type Called = BTreeMap<i64, CalledTable>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CalledTable {
    name: String,
    columns: BTreeMap<u16, String>,
}

/// What peers were last told that tables and columns are called, and what they were called here then.
#[derive(Debug)]
pub(super) struct Said {
    told: Called,
    here: Called,
}

impl Said {
    /// What the file remembers. One that remembers nothing was attached when there was no other name than that in the
    /// registry, which must not have followed any renames yet.
    pub(super) fn load(conn: &Connection, registry: &Registry) -> Result<Self, StoreError> {
        let tables = registry.numbers().into_iter().filter_map(|number| {
            let columns = registry.columns(number).into_iter().collect();
            Some((number, CalledTable { name: registry.name(number)?, columns }))
        });
        let here: Called = tables.collect();
        Ok(Self { told: meta::read(conn, SAID)?.unwrap_or_else(|| here.clone()), here })
    }

    /// The name of a table that peers were told.
    pub(super) fn name(&self, number: i64) -> Option<String> {
        self.told.get(&number).map(|said| said.name.clone())
    }

    /// Has what bears another name now said anew: peers have no place for it under the old one, or another one. `numbers` are
    /// those of all tables that are known, of which some may not be there.
    pub(super) fn follow(mut self, conn: &Connection, tables: &[Table], numbers: &[i64]) -> Result<(), StoreError> {
        self.told.retain(|number, _| numbers.contains(number));
        for table in tables {
            let number = table.number;
            let fresh = || CalledTable { name: table.wire_name().to_owned(), columns: BTreeMap::new() };
            let said = self.told.entry(number).or_insert_with(fresh);
            let here = self.here.get(&number);
            if !said.name.eq_ignore_ascii_case(table.wire_name()) {
                mark(conn, rewritten_key(number))?;
                // What was deleted here was no row of what bears the name elsewhere, unless all rename it.
                let other_mapping = here.is_some_and(|here| here.name.eq_ignore_ascii_case(&table.name));
                mark(conn, if other_mapping { misnamed_key } else { renamed_key }(number))?;
            }
            table.wire_name().clone_into(&mut said.name);
            for column in &table.columns {
                let before = said.columns.insert(column.number, column.wire_name().to_owned());
                if before.is_some_and(|before| !before.eq_ignore_ascii_case(column.wire_name())) {
                    mark(conn, unwatched_key(number, column.number))?;
                    let here = here.and_then(|here| here.columns.get(&column.number));
                    let other_mapping = here.is_some_and(|here| here.eq_ignore_ascii_case(&column.name));
                    let key = if other_mapping { misnamed_column_key } else { renamed_column_key };
                    mark(conn, key(number, column.number))?;
                }
            }
        }
        if meta::read::<Called>(conn, SAID)?.as_ref() != Some(&self.told) {
            meta::write(conn, SAID, &self.told)?;
        }
        Ok(())
    }
}

/// The mapping in use.
const NAMES: &str = "names";

/// What peers were told.
const SAID: &str = "said";

#[cfg(test)]
mod tests {
    use replication::Selection;
    use rusqlite::Connection;

    use super::{SameName, WireNames, same_remote_names};
    use crate::schema::introspection::{Found, read_tables};

    fn found(schema: &str) -> Vec<Found> {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(schema).unwrap();
        read_tables(&conn, &Selection::default()).unwrap()
    }

    /// The tables as peers are told of them, and what is not synced.
    fn given(schema: &str, names: &WireNames) -> (Vec<String>, Vec<String>) {
        let mut tables: Vec<_> = found(schema).into_iter().flatten().collect();
        let refused = names.give(&mut tables);
        let mut told: Vec<String> = tables
            .iter()
            .map(|table| table.wire_shape())
            .map(|shape| format!("{} {}", shape.name, shape.columns.join(" ")))
            .collect();
        told.sort();
        (told, refused.into_iter().map(|unsynced| format!("{}: {}", unsynced.table, unsynced.reason)).collect())
    }

    #[test]
    fn names_are_given_whatever_the_case_of_letters_and_may_be_swapped() {
        let schema = "CREATE TABLE Stock (sku PRIMARY KEY, a, b, c); CREATE TABLE old (id PRIMARY KEY)";
        let mut names = WireNames::default();
        names.name_table("STOCK", "old");
        names.name_table("old", "Stock");
        names.name_column("stock", "SKU", "id");
        names.name_column("stock", "a", "b");
        names.name_column("Stock", "B", "z");
        names.name_column("stock", "b", "A");
        assert_eq!(given(schema, &names), (vec!["Stock id".to_owned(), "old id b A c".to_owned()], vec![]));
    }

    #[test]
    fn of_two_tables_with_one_name_on_the_wire_that_which_was_given_it_is_synced() {
        let schema = "CREATE TABLE item (id PRIMARY KEY); CREATE TABLE stock (id PRIMARY KEY); \
                      CREATE TABLE pair (a PRIMARY KEY, b, B2); CREATE TABLE other (id PRIMARY KEY)";
        let mut names = WireNames::default();
        names.name_table("stock", "ITEM");
        names.name_column("pair", "a", "B");
        let (told, refused) = given(schema, &names);
        assert_eq!(told, ["ITEM id", "other id"]);
        assert_eq!(
            refused,
            [
                "item: its name on the wire, \"item\", is that of table \"stock\" as well",
                "pair: its columns \"a\" and \"b\" would both be \"b\" on the wire"
            ]
        );
    }

    #[test]
    fn names_that_nothing_in_the_file_has_are_told_with_the_nearest() {
        let schema = "CREATE TABLE stock (sku PRIMARY KEY, label, twice AS (label || label)); CREATE TABLE log (line)";
        let mut names = WireNames::default();
        names.name_table("stok", "item");
        names.name_table("log", "journal");
        names.name_column("nothing", "a", "b");
        names.name_column("stock", "labl", "title");
        names.name_column("stock", "twice", "double");
        let told: Vec<String> = names
            .unmet(&found(schema))
            .into_iter()
            .map(|warning| format!("{}: {}; {}", warning.table.unwrap(), warning.reason, warning.remedy))
            .collect();
        let by_hand = "write the name that it has in this file, or remove the remote_name; nothing else is held up";
        assert_eq!(
            told,
            [
                format!(
                    "nothing: a remote_name is said of table \"nothing\" or its columns, and there is no such table; {by_hand}"
                ),
                "stock: a remote_name is given to column \"labl\", and the table syncs no such column; did you mean \
                 \"label\"?"
                    .to_owned(),
                format!(
                    "stock: a remote_name is given to column \"twice\", and the table syncs no such column; {by_hand}"
                ),
                "stok: a remote_name is said of table \"stok\" or its columns, and there is no such table; did you \
                 mean \"stock\"?"
                    .to_owned(),
            ]
        );
    }

    #[test]
    fn the_same_name_twice_is_found_whatever_the_case_of_letters() {
        let names = [("a", "x"), ("b", "y"), ("c", "X"), ("d", "d")];
        assert_eq!(same_remote_names(names), [SameName { remote_name: "X", first: "a", second: "c" }]);
        assert_eq!(same_remote_names([("a", "b"), ("b", "a")]), []);
    }
}
