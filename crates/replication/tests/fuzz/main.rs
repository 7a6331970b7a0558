//! Bytes that come from elsewhere: what they decode to, what that does to merges and sessions, whatever they are.
//!
//! Each target runs its corpus (`__fuzz__/NAME/corpus`) and then random inputs. A failure prints the input and the seed:
//! `BOLERO_RANDOM_SEED=… cargo test …` runs it again. `.ci/fuzz` searches for longer, led by coverage.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

mod alteration;
mod corpora;
mod merge;
mod session;
mod stored;
mod wire;
