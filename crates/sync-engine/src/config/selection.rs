//! What is synced: patterns of tables, and the columns that are left out. Owns which of them make sense.

use replication::Selection;

use super::check::Check;
use super::error::ErrorKind;
use super::{Policy, values};

/// The tables of a database by the patterns of its two keys; none where nothing is said.
pub(super) fn tables(
    key: impl Fn(&str) -> String,
    include: Option<Vec<String>>,
    exclude: Option<Vec<String>>,
    check: &mut Check,
) -> Selection {
    let mut selection = Selection::default();
    if let Some(include) = include {
        let at = key("include");
        if include.is_empty() {
            check.bad_value(
                &at,
                "nothing is included",
                "remove the key to sync all tables, or the database to sync none",
            );
        }
        selection.set_include(patterns(&at, include, check));
    }
    if let Some(exclude) = exclude {
        selection.set_exclude(patterns(&key("exclude"), exclude, check));
    }
    selection
}

fn patterns(at: &str, patterns: Vec<String>, check: &mut Check) -> Vec<String> {
    for (index, pattern) in patterns.iter().enumerate() {
        let at = format!("{at}[{index}]");
        // What is empty because it was refused is not wrong once more.
        if check.is_refused(&at) {
            continue;
        }
        if let Err((what, _)) = values::name(pattern) {
            let remedy = "write the name of a table; * stands for any text, ? for one character";
            check.bad_value(&at, what, remedy);
        }
    }
    patterns
}

/// The columns of a table that are left out. Those that decide conflicts are needed for that on every node.
pub(super) fn columns<'a>(
    at: &str,
    columns: Vec<String>,
    policy: &Policy,
    with_policy: impl Iterator<Item = &'a String> + Clone,
    check: &mut Check,
) -> Vec<String> {
    for (index, column) in columns.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let same = |other: &String| other.eq_ignore_ascii_case(column);
        if check.is_refused(&at) {
            continue;
        }
        if let Err((what, remedy)) = values::name(column) {
            check.bad_value(&at, what, remedy);
        } else if columns[..index].iter().any(same) {
            check.complain(
                &at,
                ErrorKind::Duplicate,
                format!("the column {column:?} stands there twice"),
                "remove one",
            );
        } else if matches!(policy, Policy::TimestampColumn(deciding) if same(deciding)) {
            let what = format!("{column:?} is the timestamp_column, which decides conflicts on all nodes");
            check.bad_value(&at, what, "remove it here, or name another timestamp_column for the table");
        } else if with_policy.clone().any(same) {
            let what = format!("the column {column:?} has a policy, and what is excluded has no conflicts");
            check.bad_value(&at, what, "remove it here, or its policy");
        }
    }
    columns
}
