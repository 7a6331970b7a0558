//! Conflict records as they are kept, found, acted on and forgotten.
//!
//! `conflict_record` writes them where conflicts are decided. Here they are read (by connections of their own, so that a
//! database at work keeps nobody waiting), closed (`closing`), put into effect after all (`restore`), and removed when
//! they are old or many (`retention`).

pub(crate) mod closing;
pub(crate) mod reading;
pub(crate) mod restore;
pub(crate) mod retention;

use replication::{RowImage, TableShape, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::json::row_json;
use crate::replica::Replica;

pub use closing::{ConflictAction, Refusal, RefusalKind};
pub use reading::ConflictQuery;
pub use retention::ConflictRetention;

/// The state of a record that nobody has acted on.
pub(crate) const OPEN: &str = "open";
/// The state of a record whose loser was written back.
pub(crate) const RESTORED: &str = "restored";
/// The state of a record that somebody has seen and left as it is.
pub(crate) const DISMISSED: &str = "dismissed";

/// A conflict record as the file keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredConflict {
    /// The record's number, unique in its file; never given to another record.
    pub number: i64,
    /// The table, as it was named then.
    pub table: String,
    /// The key of the losing row, as an object.
    pub key: Json,
    /// What kind of conflict.
    pub kind: String,
    /// The policy that decided.
    pub policy: String,
    /// How it ended on this node: `skip`, `apply` or `merge`.
    pub outcome: String,
    /// When it was decided, in milliseconds since 1970.
    pub at: i64,
    /// `open`, `restored` or `dismissed`.
    pub state: String,
    /// Both sides, and what became of them.
    pub sides: ConflictSides,
}

/// Both sides of a conflict, and what acting on the record did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictSides {
    /// The side that stands.
    pub winner: Option<ConflictSide>,
    /// The side that was discarded.
    pub loser: Option<ConflictSide>,
    /// The names of the columns that both sides wrote to different values; empty where the rows were compared as wholes.
    pub columns: Vec<String>,
    /// The row that a restore replaced; none if there was none, or nothing was restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<ConflictSide>,
    /// The names of columns that a restore left out because the table no longer has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// One side of a conflict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConflictSide {
    /// The node that wrote it last, or its origin where no name is known.
    pub node: String,
    /// The newest change in it.
    pub dot: String,
    /// That change's stamp.
    pub timestamp: Timestamp,
    /// The row: all columns by name. None if this side deleted it.
    pub row: Option<Map<String, Json>>,
}

impl ConflictSide {
    /// The side that an image is.
    pub(crate) fn of(replica: &Replica, shape: &TableShape, image: &RowImage) -> Self {
        let newest = image.clock.newest();
        Self {
            node: replica.node_name(newest.dot.origin),
            dot: newest.dot.to_string(),
            timestamp: newest.timestamp,
            row: (!image.clock.is_deleted()).then(|| row_json(shape, &image.values)),
        }
    }
}
