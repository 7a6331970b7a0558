//! Conflict policies: who decides when two changes of one row met and neither writer knew the other.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::row::{RowClock, TableShape};
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

/// What two changes did to each other, by PostgreSQL's names for conflicts in logical replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConflictKind {
    /// Both sides inserted a row of one key.
    InsertExists,
    /// Both sides updated the row.
    UpdateOriginDiffers,
    /// The incoming update meets a row that is not there and was never deleted.
    UpdateMissing,
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
    /// The name in the log, the records and the interfaces.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InsertExists => "insert_exists",
            Self::UpdateOriginDiffers => "update_origin_differs",
            Self::UpdateMissing => "update_missing",
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
    /// The columns that both sides wrote to different values, as indices into the shape; empty where one side deleted.
    pub columns: &'a [u16],
}

/// A policy's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolution {
    /// The larger (timestamp, origin) wins, column by column or by row as the table's granularity says. The only answer
    /// that needs no new change: it agrees with causality and is the same on every node.
    Newest,
    /// The local state stands.
    KeepLocal,
    /// The incoming state stands.
    TakeRemote,
    /// This row stands: all columns in the shape's order.
    Row(Vec<Value>),
    /// The row is deleted.
    Delete,
}

/// Decides conflicts. A policy must be pure and deterministic: it sees the two states and nothing else, runs inside the
/// apply transaction, and every node must come to the same content whichever side is local to it.
///
/// An answer other than what [`Resolution::Newest`] would give becomes a new change of the deciding node, marked as a
/// resolution. Two concurrent resolutions of one row are settled by [`Resolution::Newest`] without asking again, so
/// that nodes which answer differently still end equal and fall silent.
pub trait ConflictPolicy: Send + Sync {
    /// The name in records and log.
    fn name(&self) -> &str;

    /// Decides one conflict.
    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution;
}

/// The default: the larger (timestamp, origin) wins.
#[derive(Debug, Clone, Copy, Default)]
pub struct LastWriteWins;

impl ConflictPolicy for LastWriteWins {
    fn name(&self) -> &str {
        "last-write-wins"
    }

    fn resolve(&self, _: &Conflict<'_>) -> Resolution {
        Resolution::Newest
    }
}

/// A policy made of a function. A panic in it counts as [`Resolution::Newest`].
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
        catch_unwind(AssertUnwindSafe(|| (self.resolve)(conflict))).unwrap_or(Resolution::Newest)
    }
}
