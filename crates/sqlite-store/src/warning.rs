//! What people should know of a database although it is in sync.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use replication::selection::matches;

use crate::nearest::nearest;
use crate::replica::{DatabaseRules, MergeRules};
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
    /// No table or column is meant by a rule, a remote name, or a name or pattern in the choice of what is synced.
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

/// What in the configuration of a database means nothing that is there; `misnamed` is what of its remote names does not.
pub(crate) fn unmet(schema: &Schema, rules: Option<&DatabaseRules>, misnamed: Vec<Warning>) -> Vec<Warning> {
    let mut unmet = unmet_selection(schema);
    unmet.extend(misnamed);
    if let Some(rules) = rules {
        let named = |warning: &Warning, name: &str| {
            warning.table.as_ref().is_some_and(|table| table.eq_ignore_ascii_case(name))
        };
        let told: Vec<Warning> = unmet.clone();
        unmet.extend(unmet_rules(schema, rules, &|name| told.iter().any(|warning| named(warning, name))));
    }
    unmet
}

/// What in the choice of tables and columns means nothing that is there.
fn unmet_selection(schema: &Schema) -> Vec<Warning> {
    let selection = &schema.selection;
    let names = names_of_all(schema);
    let mut unmet = Vec::new();
    for pattern in selection.patterns() {
        if pattern != "*" && !names.iter().any(|name| matches(pattern, name)) {
            let near = nearest_to_pattern(&names, pattern);
            unmet.push(unknown(None, format!("the pattern {pattern:?} matches no table"), near));
        }
    }
    for (table, columns) in selection.columns() {
        if !names.iter().any(|name| name.eq_ignore_ascii_case(table)) {
            let near = nearest(names.iter().copied(), table);
            let reason = format!("columns of a table {table:?} are excluded, which is not there");
            unmet.push(unknown(Some(table.to_owned()), reason, near));
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

/// What in the rules of merging means nothing that is there. Tables that are told of otherwise are in `told`.
fn unmet_rules(schema: &Schema, rules: &DatabaseRules, told: &dyn Fn(&str) -> bool) -> Vec<Warning> {
    let names = names_of_all(schema);
    let mut unmet = Vec::new();
    for (name, rules_of_table) in rules.tables.iter().collect::<BTreeMap<_, _>>() {
        if let Some(table) = schema.tables.iter().find(|table| table.name.eq_ignore_ascii_case(name)) {
            unmet.extend(unmet_columns(table, rules_of_table, &rules.default));
        } else if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) && !told(name) {
            let near = nearest(names.iter().copied(), name);
            let reason = format!("rules are given for a table {name:?}, which is not there");
            unmet.push(unknown(Some(name.clone()), reason, near));
        }
    }
    let policy = &rules.default.policy;
    let used = schema.tables.iter().filter(|table| Arc::ptr_eq(&rules.of(&table.name).policy, policy));
    let used: Vec<&Table> = used.collect();
    for column in columns_named(&rules.default) {
        if !used.is_empty() && !used.iter().any(|table| has_column(table, &column)) {
            let columns = used.iter().flat_map(|table| &table.columns);
            let near = nearest(columns.map(|column| column.name.as_str()), &column);
            let policy = policy.name();
            unmet.push(unknown(
                None,
                format!("the {policy} of the database names a column {column:?}, which no table that goes by it has"),
                near,
            ));
        }
    }
    unmet
}

/// What in the rules of a table means no column of it.
fn unmet_columns(table: &Table, rules: &MergeRules, of_database: &MergeRules) -> Vec<Warning> {
    let mut unmet: Vec<(String, String)> = Vec::new();
    for (column, rule) in rules.columns.iter().collect::<BTreeMap<_, _>>() {
        unmet.push((column.clone(), format!("the policy {} is given to column {column:?}", rule.name())));
        let named = gathered(|named| drop(rule.describe(named)));
        unmet.extend(named.into_iter().map(|name| {
            let reason = format!("the {} of column {column:?} names a column {name:?}", rule.name());
            (name, reason)
        }));
    }
    if !Arc::ptr_eq(&rules.policy, &of_database.policy) {
        let policy = rules.policy.name();
        unmet.extend(columns_named(rules).into_iter().map(|name| {
            let reason = format!("the {policy} of the table names a column {name:?}");
            (name, reason)
        }));
    }
    unmet.retain(|(column, _)| !has_column(table, column));
    let warning = |(column, said): (String, String)| {
        let near = nearest(table.columns.iter().map(|known| known.name.as_str()), &column);
        unknown(Some(table.name.clone()), format!("{said}, and table {:?} has no such column", table.name), near)
    };
    unmet.into_iter().map(warning).collect()
}

/// The columns that a table's policy looks at.
fn columns_named(rules: &MergeRules) -> Vec<String> {
    gathered(|named| drop(rules.policy.describe(named)))
}

/// The names that a description is asked about.
fn gathered(describe: impl FnOnce(&dyn Fn(&str) -> String)) -> Vec<String> {
    let names = RefCell::new(Vec::new());
    describe(&|name| {
        let mut names = names.borrow_mut();
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
        name.to_owned()
    });
    names.into_inner()
}

fn has_column(table: &Table, name: &str) -> bool {
    table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name))
}

/// The tables of the file, synced or not.
fn names_of_all(schema: &Schema) -> Vec<&str> {
    let synced = schema.tables.iter().map(|table| table.name.as_str());
    synced.chain(schema.unsynced.iter().map(|table| table.table.as_str())).collect()
}

fn unknown(table: Option<String>, reason: String, near: Option<&str>) -> Warning {
    let remedy = near.map_or("correct or remove it".to_owned(), |near| format!("did you mean {near:?}?"));
    Warning { kind: WarningKind::UnknownName, table, reason, remedy }
}

/// The name that is nearest to what a pattern says, where it begins or ends with that.
fn nearest_to_pattern<'a>(names: &[&'a str], pattern: &str) -> Option<&'a str> {
    let said = pattern.trim_matches(['*', '?']);
    let length = said.chars().count();
    let start = |name: &str| name.chars().take(length).collect::<String>();
    let end = |name: &str| name.chars().skip(name.chars().count().saturating_sub(length)).collect::<String>();
    let mut close = names.iter().filter(|name| {
        let parts = [start(name), end(name), name.to_string()];
        nearest(parts.iter().map(String::as_str), said).is_some()
    });
    close.next().copied()
}

#[cfg(test)]
mod tests {
    use super::nearest_to_pattern;

    #[test]
    fn a_pattern_means_what_is_a_few_slips_away_from_what_it_says() {
        let names = ["stock", "session_data", "page_cache"];
        assert_eq!(nearest_to_pattern(&names, "sesion_*"), Some("session_data"));
        assert_eq!(nearest_to_pattern(&names, "*_chache"), Some("page_cache"));
        assert_eq!(nearest_to_pattern(&names, "stok"), Some("stock"));
        assert_eq!(nearest_to_pattern(&names, "order*"), None);
    }
}
