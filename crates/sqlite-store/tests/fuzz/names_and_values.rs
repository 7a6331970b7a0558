//! What SQL is made of: identifiers that need care, values of all kinds, expressions.

use crate::choices::Choices;

pub(crate) const TABLES: [&str; 12] = [
    "t",
    "\"a b\"",
    "\"it\"\"s\"",
    "\"select\"",
    "größe",
    "\"New\"",
    "old",
    "\"\"",
    "[x y]",
    "`-- z`",
    "\"_sync_mine\"",
    "\"a.b\"",
];

pub(crate) const COLUMNS: [&str; 24] = [
    "a",
    "b",
    "c",
    "\"d e\"",
    "\"it\"\"s\"",
    "\"it's\"",
    "\"select\"",
    "rowid",
    "oid",
    "_rowid_",
    "k0",
    "col",
    "ts",
    "origin",
    "seq",
    "new",
    "\"\"",
    "\"/*\"",
    "\"*/7\"",
    "\"a\nb\"",
    "größe",
    "\"1\"",
    "\"true\"",
    "[f]",
];

pub(crate) const TYPES: [&str; 15] = [
    "",
    "INTEGER",
    "INT",
    "TEXT",
    "REAL",
    "BLOB",
    "NUMERIC",
    "ANY",
    "VARCHAR(10)",
    "DOUBLE PRECISION",
    "FLOATING POINT",
    "BOOLEAN",
    "CHARINT",
    "\"my type\"",
    "STRING",
];

pub(crate) const COLLATIONS: [&str; 4] = ["BINARY", "NOCASE", "RTRIM", "\"nocase\""];

pub(crate) const VALUES: [&str; 32] = [
    "1",
    "2",
    "3",
    "0",
    "NULL",
    "-1",
    "'a'",
    "'A'",
    "'a '",
    "'b'",
    "''",
    "'1'",
    "'01'",
    "1.0",
    "1.5",
    "x''",
    "x'61'",
    "x'ff00'",
    "'ä'",
    "'it''s'",
    // Not the last rowid that there is: after that SQLite draws them at random.
    "4611686018427387904",
    "-9223372036854775808",
    "9007199254740993",
    "9007199254740993.0",
    "1e999",
    "-1e999",
    "-0.0",
    "0.0",
    "'1e3'",
    "CAST(x'61ff' AS TEXT)",
    "CAST(x'610062' AS TEXT)",
    "'2024-01-01'",
];

pub(crate) fn value(choices: &mut Choices<'_>) -> &'static str {
    // Small numbers are the commonest: rows are to meet, and most columns take them.
    let bound = [5, 8, VALUES.len()][choices.below(3)];
    VALUES[choices.below(bound)]
}

/// Something that an index, a CHECK or a generated column can be made of.
pub(crate) fn expression(choices: &mut Choices<'_>, columns: &[String]) -> String {
    let column = column(choices, columns);
    match choices.below(14) {
        0 => format!("lower({column})"),
        1 => format!("{column} || 'x'"),
        2 => format!("{column} + 1"),
        3 => format!("abs({column})"),
        4 => format!("coalesce({column}, 0)"),
        5 => format!("length({column}) /* ) , */"),
        6 => format!("{column} IS NULL"),
        7 => format!("substr({column}, 1, 1)"),
        8 => format!("typeof({column})"),
        9 => format!("CASE WHEN {column} > 1 THEN ',(' ELSE {column} END"),
        10 => format!("({column}) COLLATE NOCASE"),
        11 => format!("CAST({column} AS TEXT)"),
        12 => format!("{column} -- comment\n"),
        _ => format!("ifnull({column}, \"nothing\")"),
    }
}

pub(crate) fn condition(choices: &mut Choices<'_>, columns: &[String]) -> String {
    let column = column(choices, columns);
    match choices.below(8) {
        0 => format!("{column} = {}", value(choices)),
        1 => format!("{column} IS NOT NULL"),
        2 => format!("{column} > {}", value(choices)),
        3 => format!("{column} IN (1, 'a', 2)"),
        4 => format!("typeof({column}) = 'text'"),
        5 => format!("{column} IS {}", value(choices)),
        6 => format!("{column} <> {} /* here */", value(choices)),
        _ => format!("{column} LIKE 'a%'"),
    }
}

pub(crate) fn column(choices: &mut Choices<'_>, columns: &[String]) -> String {
    if columns.is_empty() { "rowid".to_owned() } else { columns[choices.below(columns.len())].clone() }
}
