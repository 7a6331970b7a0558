//! What is sent of a batch that is at hand packed is what is sent of it otherwise.

use std::sync::Arc;

use replication::codec::{Encoded, Limits, PackedBatch, decode_binary, encode};
use replication::message::{Envelope, Message};
use replication::session::{Input, ReadOutcome, SessionConfig, SessionEvent};
use replication::{Batch, TableRows};

use crate::bench::{Bench, DATABASE, batch, table, vector};

/// Bytes of a part.
const PART: usize = 10_000;

/// What a session says when this is what it asked for: as its receiver reads it, with the bytes that it takes on the way.
fn said(outcome: ReadOutcome, config: SessionConfig) -> (Vec<(Envelope, usize)>, Vec<SessionEvent>) {
    let mut bench = Bench::open(config, Some((vector(&[(2, 9)]), vector(&[]))));
    bench.input(Input::BatchRead { database: DATABASE.to_owned(), outcome });
    let said = bench.sent.into_iter().filter(|message| matches!(message, Message::Changes(_) | Message::Packed(_)));
    let heard = said.map(|message| {
        let envelope = Envelope { from: "b".to_owned(), to: Some("a".to_owned()), message };
        let Encoded::Binary(bytes) = encode(&envelope).unwrap() else { panic!("rows are binary") };
        (decode_binary(&bytes, &Limits::default()).unwrap(), bytes.len())
    });
    (heard.collect(), bench.events)
}

fn config() -> SessionConfig {
    SessionConfig { part_bytes: PART, ..SessionConfig::default() }
}

fn of(tables: Vec<TableRows>) -> Batch {
    batch(2, vector(&[]), vector(&[(2, 9)]), tables)
}

fn packed(batch: &Batch) -> ReadOutcome {
    ReadOutcome::Packed(Arc::new(PackedBatch::of(batch, PART).unwrap()))
}

#[test]
fn the_parts_of_a_packed_batch_are_read_as_those_of_another() {
    let mut limited = table(2, "u", 6, &[1]);
    limited.limited = true;
    let mut forgetful = of(vec![table(2, "t", 0, &[1])]);
    forgetful.dropped = vector(&[(1, 4)]);
    let batches = [
        (of(vec![]), 1),
        (of(vec![table(2, "t", 0, &[1, 2, 3])]), 1),
        (of(vec![table(2, "t", 0, &[6_000, 6_000, 6_000, 1]), table(2, "empty", 0, &[]), limited]), 2),
        (of(vec![table(2, "t", 0, &[PART; 4])]), 4),
        (forgetful, 1),
    ];
    for (batch, parts) in batches {
        let (open, _) = said(ReadOutcome::Batch(batch.clone()), config());
        let (packed, events) = said(packed(&batch), config());
        assert_eq!(open.len(), parts);
        assert_eq!(packed, open);
        assert!(!events.iter().any(|event| matches!(event, SessionEvent::Held { .. })));
    }
}

#[test]
fn a_packed_row_that_is_too_large_is_told_of_as_another_is() {
    let rows = of(vec![table(2, "t", 0, &[1, 5_000])]);
    let small = || SessionConfig { max_row_bytes: 3_000, ..config() };
    let (open, told) = said(ReadOutcome::Batch(rows.clone()), small());
    let (sent, told_of_packed) = said(packed(&rows), small());
    assert!(open.is_empty() && sent.is_empty());
    assert!(told.iter().any(|event| matches!(event, SessionEvent::Held { .. })), "{told:?}");
    assert_eq!(told_of_packed, told);
}
