//! Which tables and columns of the two files go together, and why the others do not.

use replication::Selection;
use rusqlite::Connection;

use crate::error::StoreError;
use crate::file_comparison::NotCompared;
use crate::schema::introspection::{Found, read_tables};
use crate::schema::{Column, Table};

/// What goes together.
#[derive(Debug, Default)]
pub(super) struct Matched {
    /// Tables as TARGET has them. Columns that SOURCE does not have count as excluded: they stay as they are.
    pub(super) tables: Vec<Table>,
    /// What does not go together.
    pub(super) left_out: Vec<NotCompared>,
}

impl Matched {
    fn leave_out(&mut self, table: &str, reason: impl Into<String>, differs: bool) {
        self.left_out.push(NotCompared { table: table.to_owned(), reason: reason.into(), differs });
    }
}

/// Looks at TARGET, with the tables of SOURCE.
pub(super) fn tables(conn: &Connection, theirs: &[Found]) -> Result<Matched, StoreError> {
    let mut matched = Matched::default();
    let ours = read_tables(conn, &Selection::default())?;
    let named = |name: &str| theirs.iter().find(|found| name_of(found).eq_ignore_ascii_case(name));
    let mut selection = Selection::default();
    let mut together = Vec::new();
    for found in &ours {
        let name = name_of(found);
        match (found, named(name)) {
            (Ok(table), Some(Ok(other))) => match other_key(table, other) {
                Some(reason) => matched.leave_out(name, reason, true),
                None => {
                    let apart = columns_apart(table, other, &mut matched);
                    selection.set_excluded_columns(name, apart);
                    together.push(name);
                }
            },
            (Err(unsynced), other) => matched.leave_out(name, &unsynced.reason, other.is_none()),
            (Ok(_), Some(Err(unsynced))) => {
                matched.leave_out(name, format!("in SOURCE it {}", unsynced.reason), true);
            }
            (Ok(_), None) => matched.leave_out(name, "only TARGET has it", true),
        }
    }
    for found in
        theirs.iter().filter(|found| !ours.iter().any(|ours| name_of(ours).eq_ignore_ascii_case(name_of(found))))
    {
        matched.leave_out(name_of(found), "only SOURCE has it; make it in TARGET", true);
    }
    for found in read_tables(conn, &selection)? {
        match found {
            Ok(table) if together.contains(&table.name.as_str()) => matched.tables.push(table),
            // A column of TARGET alone that rows of SOURCE cannot do without.
            Err(unsynced) if together.contains(&unsynced.table.as_str()) => {
                let reason = format!("{}; SOURCE does not have the column, or not as TARGET does", unsynced.reason);
                matched.leave_out(&unsynced.table, reason.replace(" cannot be excluded:", " is in the way:"), true);
            }
            _ => {}
        }
    }
    Ok(matched)
}

fn name_of(found: &Found) -> &str {
    found.as_ref().map_or_else(|unsynced| &unsynced.table, |table| &table.name)
}

/// Why rows of the two cannot be told to be the same.
fn other_key(table: &Table, other: &Table) -> Option<String> {
    let key =
        |table: &Table| -> Vec<String> { table.key_columns().map(|column| column.name.to_ascii_lowercase()).collect() };
    if key(table) != key(other) {
        return Some(format!(
            "its key in SOURCE is {}, and in TARGET {}",
            key(other).join(", "),
            key(table).join(", ")
        ));
    }
    let compares = |column: &Column| (column.affinity, column.collation);
    let differs =
        table.key_columns().zip(other.key_columns()).find(|(ours, theirs)| compares(ours) != compares(theirs));
    differs.map(|(column, _)| format!("its key column {} has another type or collation in SOURCE", column.name))
}

/// The columns of TARGET that do not go with one of SOURCE's; those of either are told.
fn columns_apart(table: &Table, other: &Table, matched: &mut Matched) -> Vec<String> {
    let find = |table: &Table, name: &str| {
        table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)).map(|column| column.affinity)
    };
    let mut apart = Vec::new();
    for column in &table.columns {
        match find(other, &column.name) {
            Some(affinity) if affinity == column.affinity => continue,
            Some(_) => {
                let reason = format!("its column {} is left out: it has another type in SOURCE", column.name);
                matched.leave_out(&table.name, reason, true);
            }
            None => {
                matched.leave_out(
                    &table.name,
                    format!("its column {} is left out: only TARGET has it", column.name),
                    true,
                );
            }
        }
        apart.push(column.name.clone());
    }
    for column in other.columns.iter().filter(|column| find(table, &column.name).is_none()) {
        matched.leave_out(&table.name, format!("its column {} is left out: only SOURCE has it", column.name), true);
    }
    apart
}
