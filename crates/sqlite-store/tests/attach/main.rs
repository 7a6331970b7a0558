//! Attach and detach against the machine's own SQLite: the Python module and the shell write, as applications do.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

mod app_triggers;
mod columns;
mod keys;
mod lift;
mod migrations;
mod naming;
mod replace;
mod selection;
mod support;
mod tables;
mod unknown_names;
mod writers;
