//! What a person decides about a database before it is attached.

use replication::Selection;

use super::naming::WireNames;
use crate::app_triggers::TriggerRules;
use crate::key_ranges::KeyRanges;

/// Decisions about a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachRules {
    /// Which automatic keys this node gives out; none: SQLite's own choice.
    pub key_ranges: Option<KeyRanges>,
    /// Which of the application's triggers run when changes are applied, other than those that would.
    pub triggers: TriggerRules,
    /// Which tables and columns bear other names on the wire; none: those that the file remembers.
    pub names: Option<WireNames>,
    /// Which tables and columns are synced; none: those that were until now.
    pub selection: Option<Selection>,
}
