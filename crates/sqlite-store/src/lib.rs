//! Everything SQL: schema introspection, capture triggers, change log, row clocks, apply, batch reads and the file watch.
//!
//! Owns: the SQLite files. Never touches: sockets, sessions, wire messages.

pub mod app_triggers;
pub mod attach;
pub mod backup;
pub mod connection;
pub mod detach;
pub mod error;
pub mod file_comparison;
pub mod file_merge;
pub mod foreign_keys;
pub mod json;
pub mod key_ranges;
pub mod lift;
pub mod nearest;
pub mod restore;
pub mod sample;
pub mod schema;
pub mod warning;

mod apply;
mod attached;
mod baseline;
mod batch_read;
mod bind;
mod capture;
mod conflict_record;
mod conflicts;
mod counting;
mod database;
mod dot_index;
mod fail_point;
mod fingerprints;
mod fresh;
mod generation;
mod identifier;
mod large_reads;
mod meta;
mod migration;
mod node_schemas;
mod observer;
mod parked;
mod patrol;
mod pause;
mod pulse;
mod replica;
mod reselect;
mod row_clock;
mod row_state;
mod row_write;
mod sql_policy;
mod staging;
mod state;
mod table_sql;
mod triggers;
mod unique;
mod verification;
mod watch;
mod worker;
mod write_lock;

pub use apply::{Applied, ApplyOutcome, Held, HeldKind, RowCounts};
pub use attached::new_origin;
pub use batch_read::BatchLimits;
pub use conflict_record::ConflictNote;
pub use conflicts::{
    ConflictAction, ConflictQuery, ConflictRetention, ConflictSide, ConflictSides, Refusal, RefusalKind, StoredConflict,
};
pub use database::{ApplyReply, Database, DatabaseEvent, DatabaseOptions, DatabaseState, NodeNames, Phase, TableNames};
pub use error::StoreError;
pub use fail_point::{fail_point, hang_point};
pub use observer::{IncomingRow, RowObserver, RowOperation, RowVerdict};
pub use parked::{ParkedKind, ParkedNote};
pub use pulse::Pulse;
pub use replica::{DatabaseRules, MergeRules};
pub use sql_policy::{SqlPolicy, SqlPolicyError};
pub use state::{
    FOLLOWERS_RETURN, FileIdentity, FollowedChange, FollowedDatabase, FollowedStep, Machine, Remembered, StateDatabase,
};
pub use verification::{RowState, Verified, VerifyAnswer, VerifyQuestion, VerifyTable};
pub use watch::FileWatch;
