//! What people should know of a database although it is in sync.

use crate::schema::Table;

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
    /// No table or column is meant by a remote name.
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
