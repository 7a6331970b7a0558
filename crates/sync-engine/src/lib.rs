//! sync-engine keeps SQLite files on several machines at the same rows, while unmodified applications write them.
//!
//! An engine watches database files, captures each committed row change, sends it to its peers over WebSocket, and merges
//! what peers send under a conflict policy.
//!
//! ```no_run
//! use sync_engine::{ApplyDecision, Database, Resolution, ResolverPolicy, SyncEngine};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = SyncEngine::builder()
//!     .database(Database::open("inventory.db").table("stock", ResolverPolicy::new(|_| Resolution::Newest)))
//!     .log_hook(|event| eprintln!("{event}"))
//!     .build()
//!     .await?;
//! engine.open_websocket("ws://oslo.example:7420", |_change| ApplyDecision::Apply).await?;
//! engine.listen("127.0.0.1:7420").await?;
//! // …
//! engine.stop_realtime_sync().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Owns: the engine, its callbacks and hooks, configuration, the log, HTTP, and the binary. Never touches: SQL text, frame
//! types, merge decisions.

pub mod access;
pub mod config;
pub mod conflicts;
pub mod event;
pub mod status;
pub mod telemetry;
pub mod verification;

mod change_event;
mod engine;
mod metrics;
mod moment;
mod query_string;
mod wire;

pub use access::Access;
pub use change_event::{ApplyCallback, ApplyDecision, ChangeEvent, ChangeFilter};
pub use conflicts::{ConflictError, ConflictFilter, ConflictRecord, ConflictState, RecordSide};
pub use engine::{
    Database, EngineError, Reconfigured, SignOfLife, SyncEngine, SyncEngineBuilder, Verifier, VerifyError,
};
pub use event::{Event, EventName};
pub use replication::{
    ColumnRule, Conflict, ConflictKind, ConflictPolicy, FirstWriteWins, Granularity, LastWriteWins, Maximum, Minimum,
    OriginPriority, Resolution, ResolverPolicy, Scope, Selection, Side, TimestampColumn, Union, Value,
};
pub use sqlite_store::app_triggers::TriggerRule;
pub use sqlite_store::key_ranges::KeyRanges;
