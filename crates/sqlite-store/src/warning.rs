//! What people should know of a database although it is in sync.

use replication::selection::matches;

use crate::nearest::nearest;
use crate::schema::{Schema, Table};

/// One thing that they should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What kind of thing.
    pub kind: WarningKind,
    /// The table, if it is about one.
    pub table: Option<String>,
    /// What.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

/// Kinds of warnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WarningKind {
    /// Two nodes may give out the same key.
    KeyClash,
    /// This node's own automatic keys are in danger.
    KeyRange,
    /// A rule for a trigger cannot be followed.
    TriggerRule,
    /// No trigger is meant by a rule.
    UnknownTrigger,
    /// No table or column is meant by a remote name, or by a name or pattern in the choice of what is synced.
    UnknownName,
}

impl WarningKind {
    /// A word for the log and for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeyClash => "key_clash",
            Self::KeyRange => "key_range",
            Self::TriggerRule => "trigger_rule",
            Self::UnknownTrigger => "unknown_trigger",
            Self::UnknownName => "unknown_name",
        }
    }
}

/// Whether rows of a table that are inserted on two nodes may get the same key.
pub(crate) fn key_clash(table: &Table, key_ranges: bool) -> Option<Warning> {
    table.rowid_alias?;
    let (reason, remedy) = match (table.autoincrement, key_ranges) {
        (true, true) => return None,
        (true, false) => (
            "two nodes give out the same AUTOINCREMENT keys to different rows, of which one is then kept",
            "set key_ranges for the database, to another number on each node",
        ),
        (false, _) => (
            "two nodes give out the same keys to different rows, of which one is then kept, where a program leaves the key \
             to SQLite",
            "declare the key AUTOINCREMENT and set key_ranges for the database, or use keys such as UUIDs",
        ),
    };
    Some(Warning {
        kind: WarningKind::KeyClash,
        table: Some(table.name.clone()),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    })
}

/// What in the choice of tables and columns means nothing that is there.
pub(crate) fn unmet_selection(schema: &Schema) -> Vec<Warning> {
    let selection = &schema.selection;
    let synced = schema.tables.iter().map(|table| &table.name);
    let names: Vec<String> = synced.chain(schema.unsynced.iter().map(|table| &table.table)).cloned().collect();
    let mut unmet = Vec::new();
    for pattern in selection.patterns() {
        if pattern != "*" && !names.iter().any(|name| matches(pattern, name)) {
            let near = nearest_to_pattern(&names, pattern);
            unmet.push(unknown(None, format!("the pattern {pattern:?} matches no table"), near));
        }
    }
    for (table, columns) in selection.columns() {
        if !names.iter().any(|name| name.eq_ignore_ascii_case(table)) {
            let near = nearest(names.iter().map(String::as_str), table);
            unmet.push(unknown(None, format!("columns of a table {table:?} are excluded, which is not there"), near));
        }
        let Some(known) = schema.tables.iter().find(|known| known.name.eq_ignore_ascii_case(table)) else { continue };
        for column in
            columns.iter().filter(|column| !known.excluded.iter().any(|name| name.eq_ignore_ascii_case(column)))
        {
            let near = nearest(known.columns.iter().map(|column| column.name.as_str()), column);
            let reason = format!("the column {column:?} of table {:?} is excluded, and is not there", known.name);
            unmet.push(unknown(Some(known.name.clone()), reason, near));
        }
    }
    unmet
}

fn unknown(table: Option<String>, reason: String, near: Option<&str>) -> Warning {
    let remedy = near.map_or("correct or remove it".to_owned(), |near| format!("did you mean {near:?}?"));
    Warning { kind: WarningKind::UnknownName, table, reason, remedy }
}

/// The name that is nearest to what a pattern says, where it begins or ends with that.
fn nearest_to_pattern<'a>(names: &'a [String], pattern: &str) -> Option<&'a str> {
    let said = pattern.trim_matches(['*', '?']);
    let length = said.chars().count();
    let start = |name: &str| name.chars().take(length).collect::<String>();
    let end = |name: &str| name.chars().skip(name.chars().count().saturating_sub(length)).collect::<String>();
    let mut close = names.iter().filter(|name| {
        let parts = [start(name), end(name), name.to_string()];
        nearest(parts.iter().map(String::as_str), said).is_some()
    });
    close.next().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::nearest_to_pattern;

    #[test]
    fn a_pattern_means_what_is_a_few_slips_away_from_what_it_says() {
        let names = ["stock".to_owned(), "session_data".to_owned(), "page_cache".to_owned()];
        assert_eq!(nearest_to_pattern(&names, "sesion_*"), Some("session_data"));
        assert_eq!(nearest_to_pattern(&names, "*_chache"), Some("page_cache"));
        assert_eq!(nearest_to_pattern(&names, "stok"), Some("stock"));
        assert_eq!(nearest_to_pattern(&names, "order*"), None);
    }
}
