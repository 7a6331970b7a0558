//! Deletions that the peer has forgotten: nothing goes either way before what they deleted is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use replication::message::{DatabaseHello, Message};
use replication::session::{Input, LocalState, ReadOutcome, SessionConfig};
use replication::{NodeSchema, NodeSchemas, TableShape};

use crate::bench::{Bench, DATABASE, batch, origin, state, table, vector};

#[test]
fn a_table_with_another_key_is_not_swept() {
    for (theirs, asked) in [("k", true), ("v", false)] {
        let mut bench = Bench::open(SessionConfig::default(), None);
        let schema = |origin, key: &str| {
            let columns = ["k", "v", "w"].map(str::to_owned).to_vec();
            let place = u16::from(key == "v");
            let mut schemas = NodeSchemas::default();
            let shape = TableShape { name: "t".to_owned(), columns, key: vec![place] };
            schemas.learn(origin, NodeSchema::new(1, vec![shape]));
            schemas
        };
        let tables = |fingerprint| BTreeMap::from([("t".to_owned(), fingerprint)]);
        let local = LocalState {
            tables: tables(1),
            schemas: Arc::new(schema(origin(2), "k")),
            ..state(2, vector(&[(1, 3), (2, 1)]))
        };
        bench.input(Input::Local { database: DATABASE.to_owned(), state: local });
        let mut hello = DatabaseHello::new(origin(1), vector(&[(1, 9)]));
        (hello.tables, hello.schemas, hello.dropped) = (tables(2), schema(origin(1), theirs), vector(&[(1, 7)]));
        bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello)]));
        let questions = bench.sent.iter().filter(|message| matches!(message, Message::Compare(_))).count();
        assert_eq!((questions, bench.swept.len()), if asked { (1, 0) } else { (0, 1) });
    }
}

#[test]
fn nothing_is_sent_before_it_is_swept_and_what_was_not_taken_is_sent_again() {
    let swept = |upto| LocalState { dropped: vector(&[(1, upto)]), ..state(2, vector(&[(1, 3), (2, 4)])) };
    let mut bench = Bench::open(SessionConfig::default(), None);
    bench.input(Input::Local { database: DATABASE.to_owned(), state: swept(0) });
    let greet = |bench: &mut Bench, dropped| {
        let mut hello = DatabaseHello::new(origin(1), vector(&[(1, 9), (2, 1)]));
        hello.dropped = vector(&[(1, dropped)]);
        bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello)]));
    };
    greet(&mut bench, 7);
    assert_eq!((bench.swept.len(), bench.reads.len()), (1, 0), "the peer would not take it");
    bench.input(Input::Local { database: DATABASE.to_owned(), state: swept(7) });
    assert_eq!((bench.wants(), &bench.reads[..]), (1, &[vector(&[(1, 9), (2, 1)])][..]));
    let rows = batch(2, vector(&[(1, 9), (2, 1)]), vector(&[(1, 9), (2, 4)]), vec![table(2, "t", 1, &[1, 1, 1])]);
    bench.input(Input::BatchRead { database: DATABASE.to_owned(), outcome: ReadOutcome::Batch(rows) });
    assert_eq!(bench.parts(), 1);
    // It forgets more while this is on its way.
    greet(&mut bench, 8);
    bench.input(Input::Local { database: DATABASE.to_owned(), state: swept(8) });
    assert_eq!(&bench.reads[1..], [vector(&[(1, 9), (2, 1)])]);
}
