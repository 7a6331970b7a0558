//! How others see, and have a say in, the rows that apply writes.

use replication::{Dot, TableShape, Timestamp, Value};

/// What happens to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOperation {
    /// The row appears.
    Insert,
    /// Columns of the row change.
    Update,
    /// The row goes.
    Delete,
}

impl RowOperation {
    /// The name in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// One row that is about to be written by an incoming change.
#[derive(Debug, Clone, Copy)]
pub struct IncomingRow<'a> {
    /// The table and its columns.
    pub shape: &'a TableShape,
    /// What will happen to the row here.
    pub operation: RowOperation,
    /// The key, in the key's order.
    pub key: &'a [Value],
    /// The row as it stands here now; none if there is none.
    pub old: Option<&'a [Value]>,
    /// The row as it will be: all columns in the shape's order; none if it goes.
    pub new: Option<&'a [Value]>,
    /// The newest change in it.
    pub dot: Dot,
    /// That change's stamp.
    pub timestamp: Timestamp,
    /// The name of the node that issued it, or its origin where no name is known.
    pub node: &'a str,
}

impl IncomingRow<'_> {
    /// The indices of the columns whose values change; all of them for an insert.
    pub fn changed(&self) -> Vec<usize> {
        match (self.old, self.new) {
            (Some(old), Some(new)) => (0..new.len()).filter(|index| old[*index] != new[*index]).collect(),
            (None, Some(new)) => (0..new.len()).collect(),
            _ => Vec::new(),
        }
    }
}

/// An observer's answer to a row.
#[derive(Debug, Clone, PartialEq)]
pub enum RowVerdict {
    /// Write it.
    Apply,
    /// Do not write it: the row as it stands here becomes a new change, so that all nodes agree on it.
    Skip,
    /// Write this row instead, as a new change that all nodes receive: all columns in the shape's order.
    Replace(Vec<Value>),
    /// Roll the whole batch back; it will be tried again.
    Fail(String),
}

/// Sees each row inside the apply transaction, before it is written. It runs on the database's own thread and holds the
/// write lock: it should be quick, and must not wait for anything that writes to the same database.
pub trait RowObserver: Send + Sync {
    /// Judges one row.
    fn observe(&self, row: &IncomingRow<'_>) -> RowVerdict;

    /// The transaction of the rows that were shown since the last call has ended: it was committed, or rolled back.
    fn ended(&self, committed: bool) {
        let _ = committed;
    }
}
