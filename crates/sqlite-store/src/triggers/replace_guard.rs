//! Statements that log the rows which a REPLACE would displace through a unique index other than the key's: SQLite
//! fires no DELETE trigger for them. They run BEFORE, hence log candidates only; capture looks which are really gone.
//!
//! The SELECT repeats the index's own columns, expressions, collations and WHERE, so that SQLite answers it from the
//! index and finds exactly the rows that clash.

use super::{NOW, balanced, key_list, op};
use crate::identifier::{literal, quote};
use crate::schema::index_text::mentioned_names;
use crate::schema::tokens::{TokenKind, significant};
use crate::schema::{Affinity, Column, IndexPart, Table, UniqueIndex};

/// The statement for an insert.
pub(super) fn on_insert(table: &Table, index: &UniqueIndex) -> String {
    let mut other: Vec<String> = table
        .key_columns()
        .map(|column| {
            let name = quote(&column.name);
            format!("{name} IS NOT NEW.{name}")
        })
        .collect();
    if let Some(alias) = table.rowid_alias {
        // Until SQLite has given an automatic key, NEW shows -1; a real row -1 must not hide behind it.
        other.push(format!("{} = -1", quote(&table.columns[alias].name)));
    }
    statement(table, index, &other)
}

/// The statement for an update.
pub(super) fn on_update(table: &Table, index: &UniqueIndex) -> String {
    let other: Vec<String> = table
        .key_columns()
        .map(|column| {
            let name = quote(&column.name);
            format!("{name} IS NOT OLD.{name}")
        })
        .collect();
    statement(table, index, &other)
}

/// `OF` the columns whose update can bring about a clash, so that other updates pay nothing. Nothing where a generated
/// column is involved, of which it is not told what it is made of, or the rowid, which has other names.
pub(super) fn update_of(table: &Table) -> String {
    let mut columns = Vec::new();
    for index in &table.unique {
        let Some(deciding) = table.deciding_columns(index) else { return String::new() };
        if table.rowid_alias.is_some_and(|alias| deciding.contains(&alias)) {
            // `SET rowid = …` changes the column without naming it.
            return String::new();
        }
        for place in deciding {
            let name = quote(&table.columns[place].name);
            if !columns.contains(&name) {
                columns.push(name);
            }
        }
    }
    if columns.is_empty() { String::new() } else { format!("OF {} ", columns.join(", ")) }
}

fn mentions(names: &[String], column: &str) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(column))
}

fn statement(table: &Table, index: &UniqueIndex, other: &[String]) -> String {
    let mut conditions = Vec::new();
    if let Some(predicate) = &index.partial {
        conditions.push(format!("({predicate})"));
        // A candidate too many does no harm where it is not known yet what the new row will hold.
        let mentioned = mentioned_names(predicate);
        let unknown = table.rowid_alias.map(|alias| &table.columns[alias].name);
        if !unknown.into_iter().chain(&table.generated).any(|name| mentions(&mentioned, name)) {
            conditions.push(of_new(table, predicate));
        }
    }
    for part in &index.columns {
        conditions.push(match part {
            IndexPart::Column { index, collation } => {
                let column = &table.columns[*index];
                format!("{} = {} COLLATE {}", quote(&column.name), new_value(column), collation.name())
            }
            IndexPart::Unsynced { name, collation } => {
                let name = quote(name);
                format!("{name} = NEW.{name} COLLATE {}", collation.name())
            }
            IndexPart::Expression { text, collation } => {
                let clashes = format!("({text}) = {} COLLATE {}", of_new(table, text), collation.name());
                // What an automatic key will be is not known yet.
                let alias = table.rowid_alias.map(|alias| &table.columns[alias].name);
                match alias.filter(|alias| mentions(&mentioned_names(text), alias)) {
                    Some(alias) => format!("({clashes} OR NEW.{} = -1)", quote(alias)),
                    None => clashes,
                }
            }
        });
    }
    conditions.push(balanced(other, " OR "));
    let keys: String = table.key_columns().map(|column| format!(", {}", quote(&column.name))).collect();
    format!(
        "INSERT INTO _sync_log (tbl, op, ts{}) SELECT {}, {}, {NOW}{keys} FROM {}{} WHERE {}",
        key_list(table),
        table.number,
        op::CANDIDATE,
        quote(&table.name),
        alias(table),
        conditions.join(" AND ")
    )
}

/// In a table of such a name, `NEW.c` would mean the row that is searched.
fn alias(table: &Table) -> &'static str {
    let hides = ["new", "old"].iter().any(|name| table.name.eq_ignore_ascii_case(name));
    if hides { " AS \"_sync_row\"" } else { "" }
}

/// What an expression over the table's columns gives for the new row. The text is the application's own, so it is
/// evaluated over a row that has the columns' names instead of being rewritten. An empty SELECT from the table comes before
/// that row and gives it the columns' affinities and collations; LIMIT keeps SQLite from taking the two apart.
fn of_new(table: &Table, text: &str) -> String {
    let mentioned = mentioned_names(text);
    let synced = table.columns.iter().filter(|column| mentions(&mentioned, &column.name));
    let synced = synced.map(|column| (quote(&column.name), new_value(column)));
    let unsynced = table.unsynced_columns().filter(|name| mentions(&mentioned, name));
    let unsynced = unsynced.map(|name| (quote(name), format!("NEW.{}", quote(name))));
    let (names, values): (Vec<String>, Vec<String>) = synced.chain(unsynced).unzip();
    if names.is_empty() {
        return format!("({text})");
    }
    let on = quote(&table.name);
    format!(
        "(SELECT ({text}) FROM (SELECT {} FROM {on} WHERE 0 UNION ALL SELECT {} LIMIT 1))",
        names.join(", "),
        values.join(", ")
    )
}

/// A column of the new row. Under REPLACE, NULL in a NOT NULL column becomes its default; BEFORE still sees the NULL.
fn new_value(column: &Column) -> String {
    let name = quote(&column.name);
    let Some(default) = column.default.as_deref().filter(|_| column.not_null) else { return format!("NEW.{name}") };
    let default = default_value(default);
    // As the column will hold it.
    let default = match column.affinity {
        Affinity::Real => {
            format!("CASE typeof({default}) WHEN 'integer' THEN CAST({default} AS REAL) ELSE {default} END")
        }
        Affinity::Text => {
            format!(
                "CASE WHEN typeof({default}) IN ('integer', 'real') THEN CAST({default} AS TEXT) ELSE {default} END"
            )
        }
        _ => default,
    };
    format!("coalesce(NEW.{name}, {default})")
}

/// A DEFAULT as an expression: a lone identifier there is a string, not a column.
pub(crate) fn default_value(text: &str) -> String {
    let tokens = significant(text);
    let [token] = tokens.as_slice() else { return format!("({text})") };
    let bare = token.kind == TokenKind::Word && !token.text.starts_with(|c: char| c.is_ascii_digit());
    let keywords = ["null", "true", "false", "current_time", "current_date", "current_timestamp"];
    let is_value = keywords.iter().any(|keyword| token.is_word(keyword));
    match token.identifier() {
        Some(name) if token.kind == TokenKind::Quoted || (bare && !is_value) => literal(&name),
        _ => format!("({text})"),
    }
}

#[cfg(test)]
mod tests {
    use super::default_value;

    #[test]
    fn a_lone_identifier_is_a_string() {
        assert_eq!(default_value("foo"), "'foo'");
        assert_eq!(default_value("\"it's\""), "'it''s'");
        assert_eq!(default_value("TRUE"), "(TRUE)");
        assert_eq!(default_value("0x10"), "(0x10)");
        assert_eq!(default_value("-5"), "(-5)");
        assert_eq!(default_value("current_timestamp"), "(current_timestamp)");
    }
}
