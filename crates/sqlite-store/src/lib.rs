//! Everything SQL: schema introspection, capture triggers, change log, row clocks, apply, batch reads and the file watch.
//!
//! Owns: the SQLite files. Never touches: sockets, sessions, wire messages.

pub mod error;
pub mod schema;

mod identifier;
