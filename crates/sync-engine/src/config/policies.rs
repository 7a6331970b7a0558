//! Conflict policies in the configuration: what may be said of a database, a table and a column, and what goes together.

use std::sync::Arc;

use replication::{
    ColumnRule, ConflictPolicy, FirstWriteWins, LastWriteWins, Maximum, Minimum, OriginPriority, TimestampColumn, Union,
};
use sqlite_store::SqlPolicy;
use sqlite_store::nearest::nearest;

use super::check::Check;
use super::error::ErrorKind;
use super::values;

/// The names of policies.
const NAMES: [&str; 8] =
    ["last-write-wins", "first-write-wins", "origin-priority", "max", "min", "union", "counter", "sql"];

/// Who decides conflicts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// The newest write stands.
    #[default]
    LastWriteWins,
    /// The row with the larger value in this column stands, else the newest write.
    TimestampColumn(String),
    /// What was written first stands.
    FirstWriteWins,
    /// What the node that comes first in this list wrote stands.
    OriginPriority(Vec<String>),
    /// The larger value stands.
    Max,
    /// The smaller value stands.
    Min,
    /// JSON arrays, of which the union stands.
    Union,
    /// Concurrent increments add up. Columns only.
    Counter,
    /// What this expression makes of `local.c` and `remote.c` stands. Columns only.
    Sql(String),
}

impl Policy {
    /// The name in the configuration.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::LastWriteWins | Self::TimestampColumn(_) => "last-write-wins",
            Self::FirstWriteWins => "first-write-wins",
            Self::OriginPriority(_) => "origin-priority",
            Self::Max => "max",
            Self::Min => "min",
            Self::Union => "union",
            Self::Counter => "counter",
            Self::Sql(_) => "sql",
        }
    }

    /// The rule for a column.
    pub(crate) fn column_rule(&self) -> ColumnRule {
        match self {
            Self::Counter => ColumnRule::Counter,
            other => ColumnRule::Policy(other.policy()),
        }
    }

    /// The policy of this name for a database: `priority` are the nodes of `origin-priority`, the strongest first, and the default goes by
    /// a timestamp column where one is named.
    ///
    /// # Errors
    /// There is no such policy, it is one of columns, or it reads no timestamp column; in words.
    pub fn of_database(name: &str, priority: &[String], timestamp_column: Option<&str>) -> Result<Self, String> {
        let policy = match name {
            "last-write-wins" => match timestamp_column {
                Some(column) => return Ok(Self::TimestampColumn(column.to_owned())),
                None => Self::LastWriteWins,
            },
            "first-write-wins" => Self::FirstWriteWins,
            "origin-priority" => Self::OriginPriority(priority.to_vec()),
            "max" => Self::Max,
            "min" => Self::Min,
            "union" => Self::Union,
            "counter" | "sql" => return Err(format!("{name:?} is a policy of single columns")),
            other => {
                let rows = NAMES.into_iter().filter(|name| !matches!(*name, "counter" | "sql"));
                return Err(match nearest(rows.clone(), other) {
                    Some(near) => format!("there is no policy {other:?}; did you mean {near:?}?"),
                    None => format!("there is no policy {other:?}; there are {}", rows.collect::<Vec<_>>().join(", ")),
                });
            }
        };
        match timestamp_column {
            Some(_) => Err(format!("a timestamp column is read by last-write-wins only, not by {name}")),
            None => Ok(policy),
        }
    }

    /// The policy for a database or table, whose configuration has no policies that are for columns only.
    pub fn policy(&self) -> Arc<dyn ConflictPolicy> {
        match self {
            Self::TimestampColumn(column) => Arc::new(TimestampColumn::new(column)),
            Self::FirstWriteWins => Arc::new(FirstWriteWins),
            Self::OriginPriority(nodes) => Arc::new(OriginPriority::new(nodes)),
            Self::Max => Arc::new(Maximum),
            Self::Min => Arc::new(Minimum),
            Self::Union => Arc::new(Union),
            // The expression was tried when the configuration was read.
            Self::Sql(expression) => match SqlPolicy::new(expression) {
                Ok(policy) => Arc::new(policy),
                Err(_) => Arc::new(LastWriteWins),
            },
            Self::LastWriteWins | Self::Counter => Arc::new(LastWriteWins),
        }
    }

    /// Whether it chooses one side, rather than making one value of both.
    const fn chooses(&self) -> bool {
        matches!(self, Self::LastWriteWins | Self::TimestampColumn(_) | Self::FirstWriteWins | Self::OriginPriority(_))
    }
}

/// What is written about a policy in one place.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) policy: Option<String>,
    pub(super) priority: Vec<String>,
    pub(super) timestamp_column: Option<String>,
    pub(super) merge: Option<String>,
}

/// What a policy is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// A database or a table.
    Rows,
    /// A column of a table that is merged as a whole, or of one that is merged column by column.
    Column { whole_rows: bool },
}

/// The policy that is written under a key; none if nothing is. What is wrong goes to `check`.
pub(super) fn resolve(
    key: impl Fn(&str) -> String,
    written: Written,
    level: Level,
    check: &mut Check,
) -> Option<Policy> {
    let Written { policy, priority, timestamp_column, merge } = written;
    let at = key("policy");
    let named = match policy.as_deref() {
        Some(name) if NAMES.contains(&name) => Some(name),
        Some(name) => {
            let remedy = match nearest(NAMES.into_iter(), name) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("the policies are {}", NAMES.join(", ")),
            };
            check.bad_value(&at, format!("there is no policy {name:?}"), remedy);
            return None;
        }
        None if check.is_refused(&at) => return None,
        None => None,
    };
    let goes_with = |check: &mut Check, name: &str, present: bool, owner: &str| {
        if present && named != Some(owner) && !(owner == "last-write-wins" && named.is_none()) {
            let what = format!("{name} is read by the policy {owner:?} only");
            check.complain(
                &key(name),
                ErrorKind::BadValue,
                what,
                format!("write policy = {owner:?}, or remove {name}"),
            );
        }
    };
    goes_with(check, "priority", !priority.is_empty(), "origin-priority");
    goes_with(check, "merge", merge.is_some(), "sql");
    goes_with(check, "timestamp_column", timestamp_column.is_some(), "last-write-wins");
    let policy = match named {
        None if timestamp_column.is_none() => return None,
        None | Some("last-write-wins") => timestamp(&key, timestamp_column, check)?,
        Some("first-write-wins") => Policy::FirstWriteWins,
        Some("origin-priority") => origin_priority(&key, priority, check)?,
        Some("max") => Policy::Max,
        Some("min") => Policy::Min,
        Some("union") => Policy::Union,
        Some("counter") => Policy::Counter,
        Some(_) => sql(&key, merge, check)?,
    };
    allowed(&at, &policy, level, check).then_some(policy)
}

fn timestamp(key: &impl Fn(&str) -> String, column: Option<String>, check: &mut Check) -> Option<Policy> {
    let Some(column) = column else { return Some(Policy::LastWriteWins) };
    match values::name(&column) {
        Ok(column) => Some(Policy::TimestampColumn(column)),
        Err((what, remedy)) => {
            check.bad_value(&key("timestamp_column"), what, remedy);
            None
        }
    }
}

fn origin_priority(key: &impl Fn(&str) -> String, nodes: Vec<String>, check: &mut Check) -> Option<Policy> {
    if nodes.is_empty() {
        if !check.is_refused(&key("priority")) {
            let remedy = "list node names, the strongest first, as priority = [\"berlin\", \"oslo\"]";
            check.complain(&key("policy"), ErrorKind::Missing, "origin-priority has no list of nodes", remedy);
        }
        return None;
    }
    for (index, node) in nodes.iter().enumerate() {
        let at = format!("{}[{index}]", key("priority"));
        if let Err((what, remedy)) = values::name(node) {
            check.bad_value(&at, what, remedy);
        } else if nodes[..index].contains(node) {
            check.complain(&at, ErrorKind::Duplicate, format!("{node:?} stands there twice"), "remove one");
        }
    }
    Some(Policy::OriginPriority(nodes))
}

fn sql(key: &impl Fn(&str) -> String, merge: Option<String>, check: &mut Check) -> Option<Policy> {
    let Some(expression) = merge else {
        if !check.is_refused(&key("merge")) {
            let remedy = "write one, as merge = \"max(local.price, remote.price)\"";
            check.complain(&key("policy"), ErrorKind::Missing, "the policy \"sql\" has no expression", remedy);
        }
        return None;
    };
    match SqlPolicy::new(&expression) {
        Ok(_) => Some(Policy::Sql(expression)),
        Err(error) => {
            let remedy = "write an SQL expression over local.COLUMN and remote.COLUMN";
            check.bad_value(&key("merge"), format!("the expression cannot be used: {error}"), remedy);
            None
        }
    }
}

fn allowed(at: &str, policy: &Policy, level: Level, check: &mut Check) -> bool {
    let name = policy.name();
    match (level, policy) {
        (Level::Rows, Policy::Counter | Policy::Sql(_)) => {
            let remedy = format!("write columns.NAME = {{ policy = {name:?}, … }} under [[database.table]]");
            check.bad_value(at, format!("{name:?} is a policy of columns"), remedy);
            false
        }
        (Level::Column { whole_rows: true }, policy) if policy.chooses() => {
            let what = format!("with granularity = \"row\" a column cannot have {name:?} for itself");
            check.bad_value(at, what, "give the policy to the table, or merge the table column by column");
            false
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::Policy;

    #[test]
    fn policies_of_a_database_go_by_the_names_of_the_configuration() {
        let named = |name: &str| Policy::of_database(name, &["a".to_owned()], None);
        assert_eq!(named("last-write-wins"), Ok(Policy::LastWriteWins));
        assert_eq!(named("origin-priority"), Ok(Policy::OriginPriority(vec!["a".to_owned()])));
        assert_eq!(named("counter").unwrap_err(), "\"counter\" is a policy of single columns");
        assert_eq!(named("mox").unwrap_err(), "there is no policy \"mox\"; did you mean \"max\"?");
        assert_eq!(
            Policy::of_database("last-write-wins", &[], Some("at")),
            Ok(Policy::TimestampColumn("at".to_owned()))
        );
        assert!(Policy::of_database("max", &[], Some("at")).unwrap_err().contains("by last-write-wins only"));
        for name in super::NAMES {
            assert!(named(name).is_ok() || ["counter", "sql"].contains(&name), "{name}");
        }
    }
}
