//! The databases: those of the file and those of the command line, their names, and what must differ between them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use replication::{Granularity, Selection};
use sqlite_store::app_triggers::{TriggerRule, TriggerRules};
use sqlite_store::attach::naming::{SameName, same_remote_names};
use sqlite_store::key_ranges::KeyRanges;

use super::check::Check;
use super::error::{ErrorKind, Place};
use super::policies::{self, Level};
use super::raw::{RawColumn, RawDatabase, RawTable};
use super::{DatabaseSettings, Policy, TableSettings, selection, values};

const GRANULARITIES: [(&str, Granularity); 2] = [("column", Granularity::Column), ("row", Granularity::Row)];

const TRIGGER_RULES: [(&str, TriggerRule); 2] = [("run", TriggerRule::Run), ("skip", TriggerRule::Skip)];

/// A database as it is written, and the key that it stands under.
struct Written {
    key: String,
    raw: RawDatabase,
}

/// The databases to sync. Files on the command line choose among those of the file and add others.
pub(super) fn resolve(configured: Vec<RawDatabase>, arguments: &[PathBuf], check: &mut Check) -> Vec<DatabaseSettings> {
    let configured = configured
        .into_iter()
        .enumerate()
        .map(|(index, raw)| Written { key: format!("database[{index}]"), raw })
        .collect();
    let (written, rest) =
        if arguments.is_empty() { (configured, Vec::new()) } else { chosen(configured, arguments, check) };
    // What is not synced this time is still part of the file, and wrong if it is wrong. Its names clash with no argument's.
    described(rest, check);
    described(written, check)
}

/// Databases in their types, without those that have an error.
fn described(written: Vec<Written>, check: &mut Check) -> Vec<DatabaseSettings> {
    let mut databases: Vec<DatabaseSettings> = Vec::with_capacity(written.len());
    let mut names = BTreeMap::new();
    let mut files = BTreeMap::new();
    for Written { key, raw } in written {
        let path = file(&key, raw.path.as_deref(), check);
        if let Some(path) = &path
            && let Some(first) = files.insert(absolute(path), key.clone())
        {
            let what = format!("{} is the file of {first} already", path.display());
            check.complain(&subkey(&key, "path"), ErrorKind::Duplicate, what, "remove one of the two");
            continue;
        }
        let name = database_name(&key, &raw, path.as_deref(), &mut names, check);
        let written = policies::Written {
            policy: raw.policy,
            priority: raw.priority,
            timestamp_column: raw.timestamp_column,
            merge: None,
        };
        let policy = policies::resolve(|name| subkey(&key, name), written, Level::Rows, check).unwrap_or_default();
        let granularity = granularity(&key, raw.granularity.as_deref(), check).unwrap_or_default();
        let key_ranges = key_ranges(&key, raw.key_ranges, check);
        let triggers = triggers(&key, &raw.triggers, check);
        let mut selection = selection::tables(|name| subkey(&key, name), raw.include, raw.exclude, check);
        let of_database = (&policy, granularity);
        let tables = tables(&key, raw.table, of_database, &mut selection, check);
        if let (Some(name), Some(path)) = (name, path) {
            let settings =
                DatabaseSettings { name, path, policy, granularity, selection, key_ranges, triggers, tables };
            databases.push(settings);
        }
    }
    databases
}

/// The databases of the command line, and those of the file that it does not name.
fn chosen(mut configured: Vec<Written>, arguments: &[PathBuf], check: &mut Check) -> (Vec<Written>, Vec<Written>) {
    let mut chosen = Vec::with_capacity(arguments.len());
    for path in arguments {
        let known = configured
            .iter()
            .position(|written| written.raw.path.as_deref().is_some_and(|known| absolute(known) == absolute(path)));
        chosen.push(match known {
            Some(index) => configured.remove(index),
            None => {
                let key = path.display().to_string();
                check.given(&key, Place::Argument("DB"));
                Written { key, raw: RawDatabase { path: Some(path.clone()), ..RawDatabase::default() } }
            }
        });
    }
    (chosen, configured)
}

/// The same file under several spellings of one path is one file.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

/// A key of a database. One from the command line has no keys: it stands for itself.
fn subkey(key: &str, name: &str) -> String {
    if key.starts_with("database[") { format!("{key}.{name}") } else { key.to_owned() }
}

/// The file. It need not exist yet.
fn file(key: &str, path: Option<&Path>, check: &mut Check) -> Option<PathBuf> {
    let at = subkey(key, "path");
    match path {
        None => {
            // A path that was refused already is not missing.
            if !check.is_given(&at) {
                let remedy = "write path = \"FILE\" into it";
                check.complain(&at, ErrorKind::Missing, "the database has no path", remedy);
            }
            None
        }
        Some(path) if path.as_os_str().is_empty() => {
            check.bad_value(&at, "the path is empty", "write the path of the database file");
            None
        }
        Some(path) if path.is_dir() => {
            check.bad_value(&at, format!("{} is a folder", path.display()), "write the path of the database file");
            None
        }
        Some(path) => Some(path.to_owned()),
    }
}

fn database_name(
    key: &str,
    raw: &RawDatabase,
    path: Option<&Path>,
    names: &mut BTreeMap<String, String>,
    check: &mut Check,
) -> Option<String> {
    let at = subkey(key, "name");
    let derived = raw.name.is_none();
    let name = match &raw.name {
        Some(name) => name.clone(),
        None if at != key && check.is_given(&at) => return None,
        None => match path?.file_stem().and_then(|stem| stem.to_str()) {
            Some(stem) => stem.to_owned(),
            None => {
                let what = "no name can be made of the file's name";
                check.complain(&at, ErrorKind::Missing, what, "give the database a name in sync-engine.toml");
                return None;
            }
        },
    };
    if let Err((what, remedy)) = values::name(&name) {
        check.bad_value(&at, what, remedy);
        return None;
    }
    if let Some(first) = names.get(&name) {
        let from = if derived { " (from the file's name)" } else { "" };
        let what = format!("{name:?}{from} is the name of {first} already");
        let remedy = if at == key {
            "list both in sync-engine.toml with different names"
        } else {
            "give one of them another name; a database has the same name on all nodes"
        };
        check.complain(&at, ErrorKind::Duplicate, what, remedy);
        return None;
    }
    names.insert(name.clone(), key.to_owned());
    Some(name)
}

fn granularity(key: &str, text: Option<&str>, check: &mut Check) -> Option<Granularity> {
    match values::choice(text?, &GRANULARITIES) {
        Ok(granularity) => Some(granularity),
        Err((what, remedy)) => {
            check.bad_value(&subkey(key, "granularity"), what, remedy);
            None
        }
    }
}

fn key_ranges(key: &str, number: Option<i64>, check: &mut Check) -> Option<KeyRanges> {
    let number = number?;
    let ranges = u16::try_from(number).ok().and_then(KeyRanges::of_node);
    if ranges.is_none() {
        let remedy = format!("number the nodes from 1 to {}, each with a number of its own", KeyRanges::MAX);
        check.bad_value(&subkey(key, "key_ranges"), format!("{number} is out of range"), remedy);
    }
    ranges
}

fn triggers(key: &str, raw: &BTreeMap<String, String>, check: &mut Check) -> TriggerRules {
    let mut rules = TriggerRules::default();
    for (name, text) in raw {
        match values::choice(text, &TRIGGER_RULES) {
            Ok(rule) => rules.insert(name, rule),
            Err((what, remedy)) => check.bad_value(&format!("{}.{name}", subkey(key, "triggers")), what, remedy),
        }
    }
    rules
}

fn tables(
    database: &str,
    raw: Vec<RawTable>,
    (policy_of_database, granularity_of_database): (&Policy, Granularity),
    selection: &mut Selection,
    check: &mut Check,
) -> Vec<TableSettings> {
    let mut tables: Vec<TableSettings> = Vec::with_capacity(raw.len());
    let mut named = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("{database}.table[{index}]");
        let at = subkey(&key, "name");
        let written = policies::Written {
            policy: raw.policy,
            priority: raw.priority,
            timestamp_column: raw.timestamp_column,
            merge: None,
        };
        let policy = policies::resolve(|name| subkey(&key, name), written, Level::Rows, check);
        let granularity = granularity(&key, raw.granularity.as_deref(), check);
        let whole_rows = granularity.unwrap_or(granularity_of_database) == Granularity::Row;
        let (columns, remote_columns) = columns(&key, raw.columns, Level::Column { whole_rows }, check);
        let remote_name = remote_name(&key, raw.remote_name, check);
        let deciding = policy.as_ref().unwrap_or(policy_of_database);
        let at_columns = subkey(&key, "exclude_columns");
        let excluded = selection::columns(&at_columns, raw.exclude_columns, deciding, columns.keys(), check);
        let Some(name) = raw.name else {
            if !check.is_given(&at) {
                check.complain(&at, ErrorKind::Missing, "the table has no name", "write name = \"TABLE\" into it");
            }
            continue;
        };
        if let Err((what, remedy)) = values::name(&name) {
            check.bad_value(&at, what, remedy);
        } else if tables.iter().any(|table| table.name.eq_ignore_ascii_case(&name)) {
            // SQLite does not tell the case of ASCII letters apart in names of tables.
            check.complain(&at, ErrorKind::Duplicate, format!("the table {name:?} stands there twice"), "remove one");
        } else {
            named.push(Named { key, name: name.clone(), remote_name: remote_name.clone() });
            selection.set_excluded_columns(&name, excluded);
            tables.push(TableSettings { name, policy, granularity, columns, remote_name, remote_columns });
        }
    }
    check_remote_names("tables", &named, check);
    tables
}

/// A table or column with its key, and its name on the wire if that is another.
struct Named {
    key: String,
    name: String,
    remote_name: Option<String>,
}

/// Complains of those that would have one name on the wire.
fn check_remote_names(what: &str, named: &[Named], check: &mut Check) {
    let names = named.iter().map(|item| (item.name.as_str(), item.remote_name.as_ref().unwrap_or(&item.name).as_str()));
    for SameName { remote_name, first, second } in same_remote_names(names) {
        let both = [second, first].into_iter().filter_map(|name| named.iter().find(|item| item.name == name));
        let given = both.into_iter().find(|item| item.remote_name.is_some());
        let Some(Named { key, .. }) = given else { continue };
        let what = format!("the {what} {first:?} and {second:?} would both be {remote_name:?} on the wire");
        check.complain(&format!("{key}.remote_name"), ErrorKind::Duplicate, what, "give one of them another name");
    }
}

fn remote_name(key: &str, name: Option<String>, check: &mut Check) -> Option<String> {
    match values::name(&name?) {
        Ok(name) => Some(name),
        Err((what, remedy)) => {
            check.bad_value(&format!("{key}.remote_name"), what, remedy);
            None
        }
    }
}

/// The columns that have policies, and those that have other names on the wire.
fn columns(
    table: &str,
    raw: BTreeMap<String, RawColumn>,
    level: Level,
    check: &mut Check,
) -> (BTreeMap<String, Policy>, BTreeMap<String, String>) {
    let (mut columns, mut remote_columns) = (BTreeMap::new(), BTreeMap::new());
    let mut named: Vec<Named> = Vec::with_capacity(raw.len());
    for (name, raw) in raw {
        let key = format!("{table}.columns.{name}");
        let written =
            policies::Written { policy: raw.policy, priority: raw.priority, merge: raw.merge, timestamp_column: None };
        if let Err((what, remedy)) = values::name(&name) {
            check.bad_value(&key, what, remedy);
            continue;
        }
        if named.iter().any(|known| known.name.eq_ignore_ascii_case(&name)) {
            check.complain(&key, ErrorKind::Duplicate, format!("the column {name:?} stands there twice"), "remove one");
            continue;
        }
        let policy = policies::resolve(|inner| format!("{key}.{inner}"), written, level, check);
        columns.extend(policy.map(|policy| (name.clone(), policy)));
        let remote_name = remote_name(&key, raw.remote_name, check);
        remote_columns.extend(remote_name.clone().map(|remote_name| (name.clone(), remote_name)));
        named.push(Named { key, name, remote_name });
    }
    check_remote_names("columns", &named, check);
    (columns, remote_columns)
}
