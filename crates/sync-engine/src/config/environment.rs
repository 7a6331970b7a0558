//! Variables `SYNC_ENGINE__A__B` as values of keys `a.b`; a number between underscores counts in a list of tables, so that
//! `SYNC_ENGINE__DATABASE__0__PATH` is `database[0].path`. Owns the names of variables.

use super::Environment;
use super::check::Check;
use super::error::{ErrorKind, Place};
use super::schema::{self, Key, Kind};

/// What the names of variables for keys begin with. Variables with a single underscore, such as `SYNC_ENGINE_CONFIG`, are
/// no keys.
const PREFIX: &str = "SYNC_ENGINE__";

/// A value that the environment gives: the key's path, and the value in its type.
pub(super) type Given = (String, config::Value);

/// Reads all variables of keys. Empty ones count as not set, as services set them that way.
pub(super) fn read(environment: &Environment, databases: &toml::Table, check: &mut Check) -> Vec<Given> {
    let mut all = Vec::new();
    for (variable, value) in environment {
        if let Some(name) = variable.strip_prefix(PREFIX)
            && !value.is_empty()
            && let Some(given) = variable_value(variable, &name.to_lowercase(), value, check)
        {
            all.push(given);
        }
    }
    refuse_gaps(&mut all, databases, check);
    all
}

/// One variable. What is wrong with it goes to `check`.
fn variable_value(variable: &str, name: &str, value: &str, check: &mut Check) -> Option<Given> {
    let place = || Place::Variable(variable.to_owned());
    let mut keys = schema::ROOT;
    let mut path = String::new();
    let mut found: Option<&'static Key> = None;
    let mut segments = name.split("__").peekable();
    while let Some(segment) = segments.next() {
        let Some(key) = schema::find(keys, segment) else {
            let dot = if path.is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{segment}");
            let advice = schema::advice(keys, segment);
            check.complain_at(place(), &path, ErrorKind::UnknownKey, "there is no such key", advice);
            return None;
        };
        path = if path.is_empty() { segment.to_owned() } else { format!("{path}.{segment}") };
        found = Some(key);
        keys = match key.kind {
            Kind::Table(inner) => inner,
            Kind::Tables(inner) => {
                let Some(index) = segments.peek().and_then(|number| number.parse::<u16>().ok()) else {
                    let what = "the number of the table is missing";
                    let remedy = format!("name the variable {PREFIX}{}__0__…", segment.to_uppercase());
                    check.complain_at(place(), &path, ErrorKind::UnknownKey, what, remedy);
                    return None;
                };
                segments.next();
                path = format!("{path}[{index}]");
                inner
            }
            Kind::TextsByName => {
                let (Some(name), None) = (segments.next(), segments.next()) else { break };
                if !is_plain(name) {
                    refuse_name(variable, &path, name, check);
                    return None;
                }
                let path = format!("{path}.{name}");
                check.given(&path, place());
                return Some((path, value.into()));
            }
            Kind::Named(inner) => {
                let Some(name) = segments.next().filter(|name| !name.is_empty()) else {
                    let what = "the name is missing";
                    let remedy = format!("name the variable {PREFIX}…__{}__NAME__…", segment.to_uppercase());
                    check.complain_at(place(), &path, ErrorKind::UnknownKey, what, remedy);
                    return None;
                };
                if !is_plain(name) {
                    refuse_name(variable, &path, name, check);
                    return None;
                }
                path = format!("{path}.{name}");
                inner
            }
            _ => &[],
        };
    }
    let key = found?;
    check.given(&path, place());
    typed(key, &path, value, check).map(|value| (path, value))
}

/// Whether a name that the owner chose can stand in a variable's: other characters mean something in the paths of keys.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn refuse_name(variable: &str, path: &str, name: &str, check: &mut Check) {
    let what = format!("a variable cannot name {name:?}: it needs letters of ASCII, digits, - or _");
    let place = Place::Variable(variable.to_owned());
    check.complain_at(place, path, ErrorKind::UnknownKey, what, "set it in the configuration file".to_owned());
}

fn typed(key: &'static Key, path: &str, value: &str, check: &mut Check) -> Option<config::Value> {
    match key.kind {
        Kind::Text => Some(value.into()),
        Kind::Integer => match value.trim().parse::<i64>() {
            Ok(number) => Some(number.into()),
            Err(_) => {
                let what = format!("{} is expected, not {value:?}", key.kind.expected());
                check.complain(path, ErrorKind::WrongType, what, "write digits only");
                None
            }
        },
        Kind::Texts => Some(super::values::comma_separated(value).into()),
        Kind::TextsByName | Kind::Table(_) | Kind::Tables(_) | Kind::Named(_) => {
            let what = format!("{} is expected, which a variable cannot hold", key.kind.expected());
            check.complain(path, ErrorKind::WrongType, what, "set its keys one by one, with __ between the levels");
            None
        }
    }
}

/// A variable may change a table of the file or add the next one, but not leave a hole.
fn refuse_gaps(all: &mut Vec<Given>, file: &toml::Table, check: &mut Check) {
    let mut counts = std::collections::BTreeMap::new();
    count_tables(file, "", &mut counts);
    let mut refused = Vec::new();
    // Variables come in the order of their names, where 10 stands before 2.
    let mut order: Vec<(Vec<(String, usize)>, String)> =
        all.iter().map(|(path, _)| (indices(path), path.clone())).collect();
    order.sort_by_key(|(indices, _)| indices.iter().map(|(_, index)| *index).collect::<Vec<_>>());
    for (indices, path) in order {
        for (list, index) in indices {
            let count = counts.entry(list.clone()).or_insert(0_usize);
            if index > *count {
                let what = format!("there are only {count} tables before it");
                check.complain(&path, ErrorKind::BadValue, what, format!("use the number {count} to add one"));
                refused.push(path.clone());
                break;
            }
            *count = (*count).max(index + 1);
        }
    }
    all.retain(|(path, _)| !refused.contains(path));
}

/// The lists that a path goes through, with the index in each.
fn indices(path: &str) -> Vec<(String, usize)> {
    let opened = path.match_indices('[');
    opened
        .filter_map(|(start, _)| {
            let digits = path[start + 1..].split(']').next()?;
            Some((path[..start].to_owned(), digits.parse().ok()?))
        })
        .collect()
}

fn count_tables(table: &toml::Table, path: &str, counts: &mut std::collections::BTreeMap<String, usize>) {
    for (name, value) in table {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let Some(items) = value.as_array() else { continue };
        counts.insert(path.clone(), items.len());
        for (index, item) in items.iter().enumerate() {
            if let Some(table) = item.as_table() {
                count_tables(table, &format!("{path}[{index}]"), counts);
            }
        }
    }
}
