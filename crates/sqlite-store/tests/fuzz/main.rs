//! Schemas of any kind, and bookkeeping that was damaged.
//!
//! Each target runs its corpus (`__fuzz__/NAME/corpus`) and then random inputs. A failure prints the input and the seed:
//! `BOLERO_RANDOM_SEED=… cargo test …` runs it again. `.ci/fuzz` searches for longer, led by coverage.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

mod choices;
mod damaged;
mod file_merge;
mod generated_schema;
mod generated_writes;
mod names_and_values;
mod replica;
mod schemas;
