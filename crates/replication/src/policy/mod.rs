//! Conflict policies: who decides when two changes of one row met and neither writer knew the other.

mod choosing;
mod merging;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use choosing::{FirstWriteWins, LastWriteWins, OriginPriority, TimestampColumn};
pub use merging::{Maximum, Minimum, Union};

use crate::origin::Origin;
use crate::row::{Entry, RowClock, TableShape};
use crate::value::Value;

/// How finely two concurrent changes of one row are told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Granularity {
    /// Each column has its own clock: changes of different columns both stand.
    #[default]
    Column,
    /// The row is one thing: of two concurrent changes one stands as a whole.
    Row,
}

/// What two changes did to each other, by PostgreSQL's names for conflicts in logical replication. Its `update_missing` and
/// `delete_missing` cannot occur: a change carries the whole row, and a deletion is remembered where the row never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConflictKind {
    /// Both sides inserted a row of one key.
    InsertExists,
    /// Both sides updated the row.
    UpdateOriginDiffers,
    /// The incoming update meets a row that was deleted here.
    UpdateDeleted,
    /// The incoming deletion meets a row that was updated here.
    DeleteOriginDiffers,
    /// The incoming row holds the value of another row's unique index.
    UniqueExists,
    /// The incoming row holds values of several other rows' unique indexes.
    MultipleUniqueConflicts,
}

impl ConflictKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::InsertExists,
        Self::UpdateOriginDiffers,
        Self::UpdateDeleted,
        Self::DeleteOriginDiffers,
        Self::UniqueExists,
        Self::MultipleUniqueConflicts,
    ];

    /// The name in the log, the records and the interfaces.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InsertExists => "insert_exists",
            Self::UpdateOriginDiffers => "update_origin_differs",
            Self::UpdateDeleted => "update_deleted",
            Self::DeleteOriginDiffers => "delete_origin_differs",
            Self::UniqueExists => "unique_exists",
            Self::MultipleUniqueConflicts => "multiple_unique_conflicts",
        }
    }
}

impl fmt::Display for ConflictKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One side of a conflict.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// All columns in the shape's order; none if this side deleted the row.
    pub values: Option<&'a [Value]>,
    /// The row's clock on this side.
    pub clock: &'a RowClock,
}

/// Two states of one row, neither of which takes the other into account.
#[derive(Debug, Clone, Copy)]
pub struct Conflict<'a> {
    /// The table and its columns.
    pub shape: &'a TableShape,
    /// What kind of conflict.
    pub kind: ConflictKind,
    /// The state in this node's database.
    pub local: Side<'a>,
    /// The state that came in.
    pub remote: Side<'a>,
    /// The columns that both sides wrote to different values and that the policy is to decide, as indices into the shape;
    /// empty where one side deleted.
    pub columns: &'a [u16],
    /// The names of the nodes that origins belong to, as far as this node knows.
    pub nodes: &'a BTreeMap<Origin, String>,
}

impl<'a> Conflict<'a> {
    /// The newest of what a side wrote in the columns in question; of anything, where one side deleted.
    pub fn entry(&self, side: &Side<'a>) -> &'a Entry {
        let entries = self.columns.iter().map(|column| side.clock.effective(*column));
        entries.max_by_key(|entry| entry.order()).unwrap_or_else(|| side.clock.newest())
    }

    /// Both sides in an order that is the same on every node: the earlier write first, by the plain comparison.
    pub fn in_order(&self) -> (Side<'a>, Side<'a>) {
        let earlier_is_local = self.entry(&self.local).order() <= self.entry(&self.remote).order();
        if earlier_is_local { (self.local, self.remote) } else { (self.remote, self.local) }
    }

    /// What both sides hold in a column; none where one side deleted.
    pub fn values_of(&self, column: u16) -> Option<(&'a Value, &'a Value)> {
        let index = usize::from(column);
        Some((self.local.values?.get(index)?, self.remote.values?.get(index)?))
    }

    /// The local row with other values in the columns in question; as a [`Resolution`]. One that cannot be made fails.
    pub fn with_values(&self, value: impl Fn(&Value, &Value) -> Result<Value, String>) -> Resolution {
        let Some(row) = self.local.values else { return Resolution::Newest };
        let mut row = row.to_vec();
        for column in self.columns {
            let Some((ours, theirs)) = self.values_of(*column) else { return Resolution::Newest };
            match value(ours, theirs) {
                Ok(value) => row[usize::from(*column)] = value,
                Err(reason) => {
                    let name = self.shape.columns.get(usize::from(*column)).map_or("?", String::as_str);
                    return Resolution::Fail(format!("column {name:?}: {reason}"));
                }
            }
        }
        Resolution::Row(row)
    }
}

/// A policy's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolution {
    /// The larger (timestamp, origin) wins, column by column or by row as the table's granularity says. The only answer
    /// that needs no new change: it agrees with causality and is the same on every node.
    Newest,
    /// The local state stands, in the columns in question.
    KeepLocal,
    /// The incoming state stands, in the columns in question.
    TakeRemote,
    /// This row stands: all columns in the shape's order. Asked for single columns, only these are taken of it.
    Row(Vec<Value>),
    /// The row is deleted.
    Delete,
    /// The policy cannot decide, for this reason. The incoming row is parked until something changes.
    Fail(String),
}

/// What a policy is asked about at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// All columns in conflict together.
    #[default]
    Row,
    /// One column in conflict after the other.
    Column,
}

/// Decides conflicts. A policy must be pure and deterministic: it sees the two states and nothing else, runs inside the
/// apply transaction, and every node must come to the same content whichever side is local to it
/// ([`Conflict::in_order`] helps).
///
/// An answer other than what [`Resolution::Newest`] would give becomes a new change of the deciding node, marked as a
/// resolution. Two concurrent resolutions are settled by [`Resolution::Newest`] without asking again, so that nodes which
/// answer differently still end equal and fall silent; unless the policy [settles](Self::settles) itself.
///
/// A panic counts as [`Resolution::Fail`].
pub trait ConflictPolicy: Send + Sync {
    /// The name in records and log.
    fn name(&self) -> &str;

    /// Decides one conflict.
    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution;

    /// All that its answers depend on, for people and for comparison with what other nodes say: name and arguments. `named`
    /// tells what a column is called there.
    fn describe(&self, _named: &dyn Fn(&str) -> String) -> String {
        self.name().to_owned()
    }

    /// What it is asked about at a time.
    fn scope(&self) -> Scope {
        Scope::Row
    }

    /// Whether nodes that ask again about two resolutions come to an end by themselves: because the policy chooses by a total
    /// order of [`Entry::authored`], or because its merge is a join, which only grows.
    fn settles(&self) -> bool {
        false
    }
}

/// How the conflicts of one column are decided, where not as the table's.
#[derive(Clone)]
pub enum ColumnRule {
    /// By a policy of its own.
    Policy(Arc<dyn ConflictPolicy>),
    /// There are none: the column is a counter, whose concurrent increments add up.
    Counter,
}

impl ColumnRule {
    /// The name in records and log.
    pub fn name(&self) -> &str {
        match self {
            Self::Policy(policy) => policy.name(),
            Self::Counter => "counter",
        }
    }

    /// All that its answers depend on, as of [`ConflictPolicy::describe`].
    pub fn describe(&self, named: &dyn Fn(&str) -> String) -> String {
        match self {
            Self::Policy(policy) => policy.describe(named),
            Self::Counter => "counter".to_owned(),
        }
    }
}

impl fmt::Debug for ColumnRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A policy made of a function.
pub struct ResolverPolicy {
    name: String,
    resolve: Box<dyn Fn(&Conflict<'_>) -> Resolution + Send + Sync>,
}

impl ResolverPolicy {
    /// A policy named `custom` that asks `resolve`.
    pub fn new(resolve: impl Fn(&Conflict<'_>) -> Resolution + Send + Sync + 'static) -> Self {
        Self { name: "custom".to_owned(), resolve: Box::new(resolve) }
    }

    /// The same policy under another name in records and log.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

impl fmt::Debug for ResolverPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolverPolicy").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ConflictPolicy for ResolverPolicy {
    fn name(&self) -> &str {
        &self.name
    }

    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution {
        (self.resolve)(conflict)
    }
}
