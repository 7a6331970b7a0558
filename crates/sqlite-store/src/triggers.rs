//! The text of the capture triggers.
//!
//! They run inside the application's SQLite, whatever its version and settings: core SQL of SQLite 3.24, no function of
//! ours, no table-valued pragma (a client with `trusted_schema=OFF` would fail). Each changed row appends one row to
//! `_sync_log`; that is all the application pays. Text only: nothing here touches a connection.

mod replace_guard;

pub(crate) use replace_guard::default_value;

use crate::identifier::quote;
use crate::lift;
use crate::schema::tokens::{TokenKind, tokens};
use crate::schema::{Affinity, Collation, Column, Table};

/// What the triggers write into the log's `op`.
pub(crate) mod op {
    /// The row was inserted.
    pub(crate) const INSERT: i64 = 1;
    /// The row was deleted.
    pub(crate) const DELETE: i64 = 2;
    /// Columns of the row were updated.
    pub(crate) const UPDATE: i64 = 3;
    /// A row that a REPLACE may have taken out without a word.
    pub(crate) const CANDIDATE: i64 = 4;
    /// The row has got another key: under the one that it had it is gone.
    pub(crate) const MOVE: i64 = 5;
}

/// The last bit of the mask: a sign bit would make shifts and sums surprising. Columns from this number on share it.
const SHARED_BIT: u16 = 61;

/// Milliseconds since 1970. `unixepoch('subsec')` would be NULL in older versions.
const NOW: &str = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)";

/// The triggers without which changes are lost.
pub(crate) const ESSENTIAL: [&str; 3] = ["insert", "delete", "update"];

/// A trigger of earlier versions: what it told, `update` tells as well.
const FORMER: &str = "key";

/// One trigger of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trigger {
    /// Its name.
    pub(crate) name: String,
    /// Its statement, exactly as SQLite stores it.
    pub(crate) sql: String,
}

/// The name of a table's trigger.
pub(crate) fn name(number: i64, role: &str) -> String {
    format!("_sync_{number}_{role}")
}

/// The number and role in the name of a trigger of ours.
pub(crate) fn parse_name(name: &str) -> Option<(i64, &str)> {
    let (number, role) = name.strip_prefix("_sync_")?.split_once('_')?;
    let others = ["replace_insert", "replace_update", lift::ROLE, FORMER];
    let known = ESSENTIAL.contains(&role) || others.contains(&role);
    Some((number.parse().ok()?, role)).filter(|_| known)
}

/// Whether a trigger of this name logs the rows that a REPLACE may take out through a unique index.
pub(crate) fn is_guard(name: &str) -> bool {
    parse_name(name).is_some_and(|(_, role)| !ESSENTIAL.contains(&role) && role != FORMER)
}

/// All triggers of a table.
pub(crate) fn of_table(table: &Table) -> Vec<Trigger> {
    let on = quote(&table.name);
    let make = |role: &str, event: &str, body: &[String]| {
        let name = name(table.number, role);
        let sql = format!("CREATE TRIGGER {} {event} BEGIN\n{};\nEND", quote(&name), body.join(";\n"));
        Trigger { name, sql }
    };
    let same_key = same_key(table);
    let compared = compared(table);
    let mut made = vec![
        make("insert", &format!("AFTER INSERT ON {on}"), &[log(table, op::INSERT, "NEW")]),
        make("delete", &format!("AFTER DELETE ON {on}"), &[log(table, op::DELETE, "OLD")]),
        // One for all: each that there is costs every update, whether it has anything to say or not. And no UPDATE OF the key would tell
        // all: `UPDATE t SET rowid = …` changes an INTEGER PRIMARY KEY without naming it.
        make(
            "update",
            &format!("AFTER UPDATE ON {on} WHEN NOT {same_key} OR {}", any_differs(&compared)),
            &[log_update(table, &same_key, &compared)],
        ),
    ];
    let on_insert: Vec<String> = table.unique.iter().map(|index| replace_guard::on_insert(table, index)).collect();
    let on_update: Vec<String> = table.unique.iter().map(|index| replace_guard::on_update(table, index)).collect();
    if !on_insert.is_empty() {
        made.push(make("replace_insert", &format!("BEFORE INSERT ON {on}"), &on_insert));
        let of = replace_guard::update_of(table);
        made.push(make("replace_update", &format!("BEFORE UPDATE {of}ON {on}"), &on_update));
    }
    made
}

/// The columns that a stored update trigger speaks of: number and present name. ALTER TABLE RENAME COLUMN rewrites the
/// names and leaves the comments with the numbers alone, so a renamed column is known again.
pub(crate) fn numbered_columns(sql: &str) -> Vec<(u16, String)> {
    let mut found = Vec::new();
    let mut name = None;
    let mut qualified = false;
    for token in tokens(sql) {
        if token.kind == TokenKind::Comment {
            let number = token.text.trim_start_matches("/*").trim_end_matches("*/").parse().ok();
            found.extend(number.zip(name.take()));
        } else if qualified {
            name = token.identifier();
        }
        qualified = token.is_symbol(".");
    }
    found
}

fn key_list(table: &Table) -> String {
    (0..table.key.len()).map(|place| format!(", k{place}")).collect()
}

fn key_values(table: &Table, row: &str) -> String {
    table.key_columns().map(|column| format!(", {row}.{}", quote(&column.name))).collect()
}

fn log(table: &Table, op: i64, row: &str) -> String {
    format!(
        "INSERT INTO _sync_log (tbl, op, ts{}) VALUES ({}, {op}, {NOW}{})",
        key_list(table),
        table.number,
        key_values(table, row)
    )
}

fn log_update(table: &Table, same_key: &str, compared: &[&Column]) -> String {
    let previous: String = (0..table.key.len()).map(|place| format!(", {}", previous(place))).collect();
    let columns: String = table.counters().map(|column| format!(", {}", before(column.number))).collect();
    let values: String = table.counters().map(|column| format!(", OLD.{}", quote(&column.name))).collect();
    format!(
        "INSERT INTO _sync_log (tbl, op, mask, ts{}{previous}{columns}) \
         VALUES ({}, CASE WHEN {same_key} THEN {} ELSE {} END, {}, {NOW}{}{}{values})",
        key_list(table),
        table.number,
        op::UPDATE,
        op::MOVE,
        mask(compared),
        key_values(table, "NEW"),
        key_values(table, "OLD")
    )
}

/// The log's column for what a key column held before an update.
pub(crate) fn previous(place: usize) -> String {
    format!("p{place}")
}

/// The log's column for what a counter held before an update. By the column's number: what is in the log may have been
/// logged when other columns were counters.
pub(crate) fn before(number: u16) -> String {
    format!("o{number}")
}

/// Whether an update left the key as it was, by SQLite's own idea of equal keys.
fn same_key(table: &Table) -> String {
    let parts = table.key_columns().map(|column| {
        let name = quote(&column.name);
        format!("OLD.{name} IS NEW.{name}/*{}*/", column.number)
    });
    balanced(&parts.collect::<Vec<_>>(), " AND ")
}

/// The columns that can differ where the key is the same: a key column whose equality is that of bytes cannot.
fn compared(table: &Table) -> Vec<&Column> {
    let exact = |column: &Column| column.affinity != Affinity::Blob && column.collation == Collation::Binary;
    let columns = table.columns.iter().enumerate();
    columns.filter(|(index, column)| !(table.key.contains(index) && exact(column))).map(|(_, column)| column).collect()
}

/// Whether a column's bytes differ. The column's own collation and numeric equality would hide 'Abc' → 'ABC' and, where
/// no affinity keeps values to one class, 1 → 1.0. Nothing in SQL tells 0.0 from -0.0, which only such a column can hold:
/// a real zero counts as different always.
fn differs(column: &Column) -> String {
    let name = quote(&column.name);
    let value = format!("OLD.{name} IS NOT NEW.{name} COLLATE BINARY");
    match column.affinity {
        Affinity::Blob => format!(
            "({value} OR typeof(OLD.{name}) <> typeof(NEW.{name}) OR (typeof(NEW.{name}) = 'real' AND NEW.{name} = 0))"
        ),
        _ => format!("({value})"),
    }
}

fn any_differs(columns: &[&Column]) -> String {
    balanced(&columns.iter().map(|column| differs(column)).collect::<Vec<_>>(), " OR ")
}

/// A column's bit in the log's mask.
pub(crate) fn mask_bit(number: u16) -> i64 {
    1 << place_in_mask(number)
}

fn place_in_mask(number: u16) -> u16 {
    number.saturating_sub(1).min(SHARED_BIT)
}

fn mask(columns: &[&Column]) -> String {
    let bit = |column: &Column| place_in_mask(column.number);
    let numbered = |column: &Column| format!("{}/*{}*/", differs(column), column.number);
    let alone = columns.iter().copied().filter(|column| bit(column) < SHARED_BIT);
    let mut terms: Vec<String> = alone.map(|column| format!("({} << {})", numbered(column), bit(column))).collect();
    let shared: Vec<String> =
        columns.iter().copied().filter(|column| bit(column) == SHARED_BIT).map(numbered).collect();
    if !shared.is_empty() {
        terms.push(format!("({} << {SHARED_BIT})", balanced(&shared, " OR ")));
    }
    balanced(&terms, " | ")
}

/// Joins terms into a tree of parentheses: a chain of 2,000 would exceed SQLite's expression depth.
fn balanced(terms: &[String], operator: &str) -> String {
    match terms {
        [] => "0".to_owned(),
        [only] => format!("({only})"),
        _ => {
            let (left, right) = terms.split_at(terms.len() / 2);
            format!("({}{operator}{})", balanced(left, operator), balanced(right, operator))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{balanced, name, numbered_columns, parse_name};

    #[test]
    fn only_names_of_ours_are_parsed() {
        assert_eq!(parse_name(&name(12, "replace_insert")), Some((12, "replace_insert")));
        assert_eq!(parse_name("_sync_12_other"), None);
        assert_eq!(parse_name("_sync_log_insert"), None);
        assert_eq!(parse_name("sync_1_insert"), None);
    }

    #[test]
    fn trees_are_balanced() {
        let terms: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
        let tree = balanced(&terms, " OR ");
        let depths = tree.chars().scan(0, |depth: &mut i32, c| {
            *depth += i32::from(c == '(') - i32::from(c == ')');
            Some(*depth)
        });
        assert!(depths.max().unwrap() < 20);
    }

    #[test]
    fn numbers_go_with_the_name_before_them() {
        let sql = "WHEN (OLD.a IS NEW.a/*1*/) BEGIN ((OLD.x IS NOT NEW.\"b c\" COLLATE BINARY)/*3*/ << 2) /* no */";
        assert_eq!(numbered_columns(sql), [(1, "a".to_owned()), (3, "b c".to_owned())]);
    }
}
