//! Tables, indexes, views and triggers, most of them valid.

use crate::choices::Choices;
use crate::names_and_values::{COLLATIONS, COLUMNS, TABLES, TYPES, column, condition, expression, value};

/// A table as it was asked for. SQLite may have refused it.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
}

/// What to do where a constraint fails.
pub(crate) const RESOLUTIONS: [&str; 6] = ["", "REPLACE", "IGNORE", "ABORT", "FAIL", "ROLLBACK"];

/// The statements of a schema, and its tables.
pub(crate) fn schema(choices: &mut Choices<'_>) -> (Vec<String>, Vec<Asked>) {
    let mut statements = Vec::new();
    let mut tables: Vec<Asked> = Vec::new();
    for _ in 0..1 + choices.below(3) {
        let (sql, asked) = table(choices, &tables);
        statements.push(sql);
        tables.push(asked);
    }
    for _ in 0..choices.below(4) {
        let on = choices_of(choices, &tables);
        statements.push(index(choices, &on));
    }
    for number in 0..choices.below(3) {
        let (on, other) = (choices_of(choices, &tables), choices_of(choices, &tables));
        statements.push(trigger(choices, number, &on, &other));
    }
    if choices.one_in(6) {
        let on = choices_of(choices, &tables);
        statements.push(format!("CREATE VIEW seen AS SELECT * FROM {}", on.name));
    }
    (statements, tables)
}

pub(crate) fn choices_of(choices: &mut Choices<'_>, tables: &[Asked]) -> Asked {
    tables[choices.below(tables.len())].clone()
}

fn on_conflict(choices: &mut Choices<'_>) -> String {
    match choices.choose(&RESOLUTIONS) {
        "" => String::new(),
        _ if choices.one_in(2) => String::new(),
        resolution => format!(" ON CONFLICT {resolution}"),
    }
}

fn table(choices: &mut Choices<'_>, others: &[Asked]) -> (String, Asked) {
    let free = |name: &&&str| others.iter().all(|other| other.name != **name);
    let names: Vec<&str> = TABLES.iter().filter(free).copied().collect();
    let name = choices.choose(&names).to_owned();
    let strict = choices.one_in(6);
    let mut columns: Vec<String> = Vec::new();
    let mut parts = Vec::new();
    // Most tables have a key, of any of the kinds that there are.
    let kind = choices.below(8);
    for place in 0..1 + choices.below(5) {
        let column = choices.choose(&COLUMNS).to_owned();
        if columns.contains(&column) {
            continue;
        }
        let key = if place == 0 { key_of_column(choices, kind) } else { String::new() };
        parts.push(format!("{column} {}", definition(choices, strict, &columns, others, &key)));
        columns.push(column);
    }
    if (4..7).contains(&kind) {
        let key = choices.list(2, |choices| indexed_column(choices, &columns));
        parts.push(format!("PRIMARY KEY ({key}){}", on_conflict(choices)));
    }
    if choices.one_in(5) {
        let unique = choices.list(2, |choices| indexed_column(choices, &columns));
        parts.push(format!("UNIQUE ({unique}){}", on_conflict(choices)));
    }
    if choices.one_in(10) {
        parts.push(format!("CHECK ({})", condition(choices, &columns)));
    }
    let mut options = Vec::new();
    if choices.one_in(4) {
        options.push("WITHOUT ROWID");
    }
    if strict {
        options.push("STRICT");
    }
    let sql = format!("CREATE TABLE {name} ({}) {}", parts.join(", "), options.join(", "));
    (sql, Asked { name, columns })
}

fn key_of_column(choices: &mut Choices<'_>, kind: usize) -> String {
    match kind {
        0 => "INTEGER PRIMARY KEY".to_owned(),
        1 => "INTEGER PRIMARY KEY AUTOINCREMENT".to_owned(),
        2 => format!("{} PRIMARY KEY{}", choices.choose(&TYPES), on_conflict(choices)),
        3 => format!("{} NOT NULL PRIMARY KEY DESC", choices.choose(&TYPES)),
        7 => "TEXT NOT NULL UNIQUE".to_owned(),
        _ => String::new(),
    }
}

fn indexed_column(choices: &mut Choices<'_>, columns: &[String]) -> String {
    let column = column(choices, columns);
    match choices.below(6) {
        0 => format!("{column} COLLATE {}", choices.choose(&COLLATIONS)),
        1 => format!("{column} DESC"),
        _ => column,
    }
}

fn definition(choices: &mut Choices<'_>, strict: bool, before: &[String], others: &[Asked], key: &str) -> String {
    let bound = if strict { 8 } else { TYPES.len() };
    let mut sql = if key.is_empty() { TYPES[choices.below(bound)].to_owned() } else { key.to_owned() };
    if key.is_empty() && !before.is_empty() && choices.one_in(8) {
        let kept = choices.choose(&["VIRTUAL", "STORED", ""]);
        let expression = expression(choices, before);
        return format!("{sql} GENERATED ALWAYS AS ({expression}) {kept}");
    }
    if choices.one_in(5) {
        sql += &format!(" COLLATE {}", choices.choose(&COLLATIONS));
    }
    if choices.one_in(5) {
        sql += " NOT NULL";
        sql += &on_conflict(choices);
    }
    if choices.one_in(4) {
        let default = match choices.below(6) {
            0 => "nothing".to_owned(),
            1 => "\"it\"\"s\"".to_owned(),
            2 => "(1 + 2)".to_owned(),
            3 => "-5".to_owned(),
            4 => "TRUE".to_owned(),
            _ => format!("({})", value(choices)),
        };
        sql += &format!(" DEFAULT {default}");
    }
    if choices.one_in(7) {
        sql += " UNIQUE";
        sql += &on_conflict(choices);
    }
    if choices.one_in(7) && !others.is_empty() {
        let parent = choices_of(choices, others);
        let action = choices.choose(&["CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"]);
        let when = choices.choose(&["DELETE", "UPDATE"]);
        let deferred = choices.choose(&["", " DEFERRABLE INITIALLY DEFERRED"]);
        // The first column is the key of most tables, and other columns can rarely be referred to.
        let to = if choices.one_in(8) { column(choices, &parent.columns) } else { parent.columns[0].clone() };
        sql += &format!(" REFERENCES {} ({to}) ON {when} {action}{deferred}", parent.name);
    }
    sql
}

fn index(choices: &mut Choices<'_>, on: &Asked) -> String {
    let unique = if choices.one_in(3) { "" } else { "UNIQUE " };
    let name = choices.choose(&["i", "\"on (\"", "\"where\"", "\"i \"\"1\"\"\""]);
    let parts = choices.list(2, |choices| match choices.below(3) {
        0 => expression(choices, &on.columns),
        _ => indexed_column(choices, &on.columns),
    });
    let partial = if choices.one_in(3) { format!(" WHERE {}", condition(choices, &on.columns)) } else { String::new() };
    format!("CREATE {unique}INDEX {name} ON {} ({parts}){partial}", on.name)
}

fn trigger(choices: &mut Choices<'_>, number: usize, on: &Asked, other: &Asked) -> String {
    let time = choices.choose(&["AFTER", "BEFORE"]);
    let event = choices.choose(&["INSERT", "DELETE", "UPDATE"]);
    let row = if event == "DELETE" { "OLD" } else { "NEW" };
    let (here, there) = (column(choices, &on.columns), column(choices, &other.columns));
    let body = match choices.below(8) {
        0 => format!("UPDATE {} SET {there} = {row}.{here}", other.name),
        1 => format!("DELETE FROM {} WHERE {there} = {row}.{here}", other.name),
        2 => format!("INSERT OR IGNORE INTO {} ({there}) VALUES ({row}.{here})", other.name),
        3 => format!("INSERT OR REPLACE INTO {} ({there}) VALUES ({})", other.name, value(choices)),
        4 => format!("SELECT RAISE(ABORT, 'no') WHERE {row}.{here} = 2"),
        5 => format!("SELECT RAISE(IGNORE) WHERE {row}.{here} = 3"),
        6 => format!("UPDATE {} SET {there} = {}", other.name, value(choices)),
        _ => format!("SELECT count(*) FROM {} WHERE {there} IS {row}.{here}", other.name),
    };
    format!("CREATE TRIGGER app{number} {time} {event} ON {} BEGIN {body}; END", on.name)
}
