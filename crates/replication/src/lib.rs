//! The pure core of sync-engine: values, changes, origins, version vectors, the hybrid clock, conflict policies and
//! merge, messages and their codec, and the session state machine.
//!
//! Owns: what is decided. Never touches: tokio, SQL, files, sockets, the clock, randomness (`now` and seeds are
//! arguments). The same inputs give the same outputs, so a failing seed of a simulation replays exactly.

pub mod claims;
pub mod codec;
pub mod counter;
pub mod dot_set;
pub mod hybrid_clock;
pub mod known_nodes;
pub mod merge;
pub mod message;
pub mod node_schema;
pub mod origin;
pub mod policy;
pub mod reconcile;
pub mod row;
pub mod selection;
pub mod session;
pub mod value;
pub mod version_vector;

pub use claims::{Contradiction, contradiction, impossible};
pub use counter::{Counter, Tally};
pub use dot_set::DotSet;
pub use hybrid_clock::{HybridClock, Timestamp};
pub use known_nodes::{KnownNode, KnownNodes};
pub use merge::{Decided, Decision, Fresh, MergeContext, Merged, Outcome, Undecided, merge};
pub use node_schema::{NodeSchema, NodeSchemas};
pub use origin::{Dot, MAX_ORIGINS, MAX_SEQUENCE, Origin};
pub use policy::{
    ColumnRule, Conflict, ConflictKind, ConflictPolicy, FirstWriteWins, Granularity, LastWriteWins, Maximum, Minimum,
    OriginPriority, Resolution, ResolverPolicy, Scope, Side, TimestampColumn, Union,
};
pub use row::{
    Admission, Batch, Entry, EntryFlags, RowClock, RowImage, TableRows, TableShape, admit, lacks_dropped,
    misses_dropped,
};
pub use selection::Selection;
pub use value::Value;
pub use version_vector::VersionVector;
