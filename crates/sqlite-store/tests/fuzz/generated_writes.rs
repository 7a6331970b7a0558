//! What an application does to its tables.

use crate::choices::Choices;
use crate::generated_schema::{Asked, RESOLUTIONS, choices_of};
use crate::names_and_values::{column, condition, expression, value};

pub(crate) fn write(choices: &mut Choices<'_>, tables: &[Asked]) -> String {
    let table = choices_of(choices, tables);
    match choices.below(16) {
        0..7 => insert(choices, &table),
        7..11 => update(choices, &table),
        11 => format!("DELETE FROM {} WHERE {}", table.name, condition(choices, &table.columns)),
        12 => upsert(choices, &table),
        13 => {
            let from = choices_of(choices, tables);
            let (to, what) = (column(choices, &table.columns), expression(choices, &from.columns));
            format!("INSERT{} INTO {} ({to}) SELECT {what} FROM {}", or(choices), table.name, from.name)
        }
        14 if choices.one_in(4) => format!("DELETE FROM {}", table.name),
        _ => choices
            .choose(&[
                "BEGIN",
                "COMMIT",
                "ROLLBACK",
                "SAVEPOINT s",
                "ROLLBACK TO s",
                "RELEASE s",
                "BEGIN IMMEDIATE",
                "COMMIT",
                "PRAGMA recursive_triggers = ON",
                "PRAGMA recursive_triggers = OFF",
                "PRAGMA foreign_keys = OFF",
                "PRAGMA foreign_keys = ON",
                "PRAGMA defer_foreign_keys = ON",
            ])
            .to_owned(),
    }
}

fn or(choices: &mut Choices<'_>) -> String {
    match choices.choose(&RESOLUTIONS) {
        "" => String::new(),
        resolution => format!(" OR {resolution}"),
    }
}

fn insert(choices: &mut Choices<'_>, table: &Asked) -> String {
    let or = or(choices);
    if choices.one_in(12) {
        return format!("INSERT{or} INTO {} DEFAULT VALUES", table.name);
    }
    // All columns, or without the first, or without the last.
    let columns = match (choices.below(4), table.columns.as_slice()) {
        (1, [_, rest @ ..]) if !rest.is_empty() => rest,
        (2, [rest @ .., _]) if !rest.is_empty() => rest,
        (_, all) => all,
    };
    let row = |choices: &mut Choices<'_>| {
        let values: Vec<&str> = columns.iter().map(|_| value(choices)).collect();
        format!("({})", values.join(", "))
    };
    let rows = choices.list(3, row);
    let returning = if choices.one_in(8) { " RETURNING *" } else { "" };
    format!("INSERT{or} INTO {} ({}) VALUES {rows}{returning}", table.name, columns.join(", "))
}

fn update(choices: &mut Choices<'_>, table: &Asked) -> String {
    let or = or(choices);
    let sets = choices.list(2, |choices| {
        let to = if choices.one_in(16) { "rowid".to_owned() } else { column(choices, &table.columns) };
        match choices.below(4) {
            0 => format!("{to} = {to} + 1"),
            1 => format!("{to} = {}", expression(choices, &table.columns)),
            _ => format!("{to} = {}", value(choices)),
        }
    });
    let rows = if choices.one_in(3) { String::new() } else { format!(" WHERE {}", condition(choices, &table.columns)) };
    format!("UPDATE{or} {} SET {sets}{rows}", table.name)
}

fn upsert(choices: &mut Choices<'_>, table: &Asked) -> String {
    let values: Vec<&str> = table.columns.iter().map(|_| value(choices)).collect();
    let target = if choices.one_in(2) { format!(" ({})", column(choices, &table.columns)) } else { String::new() };
    let act = match choices.below(3) {
        0 => "NOTHING".to_owned(),
        1 => format!("UPDATE SET {} = {}", column(choices, &table.columns), value(choices)),
        _ => {
            let column = column(choices, &table.columns);
            format!("UPDATE SET {column} = excluded.{column}")
        }
    };
    format!(
        "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT{target} DO {act}",
        table.name,
        table.columns.join(", "),
        values.join(", ")
    )
}
