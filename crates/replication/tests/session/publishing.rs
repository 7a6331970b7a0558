//! First contact while one side still makes its rows known.

use std::collections::{BTreeMap, BTreeSet};

use replication::message::{Ack, DatabaseHello, Message};
use replication::session::{AppliedOutcome, Input, LocalState, SessionConfig, SessionEvent};
use replication::{Timestamp, VersionVector};

use crate::bench::{Bench, DATABASE, batch, origin, state, table, vector};

fn publishing(number: u8, sequence: u64) -> LocalState {
    let issued = BTreeSet::from(["t".to_owned()]);
    LocalState { publishing: true, issued, ..state(number, vector(&[(number, sequence)])) }
}

/// A session whose database publishes, with a peer that does not and has issued rows in these tables.
fn bench(issued: &[&str]) -> Bench {
    let mut bench = Bench::open(SessionConfig::default(), None);
    bench.input(Input::Local { database: DATABASE.to_owned(), state: publishing(2, 5_000) });
    let issued = issued.iter().map(|table| (*table).to_owned()).collect();
    let hello = DatabaseHello { issued, ..DatabaseHello::new(origin(1), vector(&[])) };
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello)]));
    bench
}

fn publish(bench: &mut Bench, sequence: u64) {
    bench.input(Input::Local { database: DATABASE.to_owned(), state: publishing(2, sequence) });
}

#[test]
fn a_peer_that_has_nothing_is_sent_rows_before_all_are_published() {
    let mut bench = bench(&[]);
    publish(&mut bench, 50_000);
    assert_eq!(bench.reads, [], "what fits one transaction comes as one");
    publish(&mut bench, 55_000);
    assert_eq!(bench.reads, [vector(&[])]);
}

#[test]
fn a_few_rows_are_sent_when_all_are_published() {
    let mut bench = bench(&[]);
    let finished = LocalState { publishing: false, ..publishing(2, 6_000) };
    bench.input(Input::Local { database: DATABASE.to_owned(), state: finished });
    assert_eq!(bench.reads, [vector(&[])]);
}

#[test]
fn a_peer_that_has_rows_is_compared_with_first() {
    let mut bench = bench(&["t"]);
    publish(&mut bench, 1_000_000);
    assert_eq!(bench.reads, []);
}

fn ack(have: VersionVector, publishing: bool) -> Message {
    let (database, origin) = (DATABASE.to_owned(), origin(1));
    let (received, clock, dropped) = (None, Timestamp::default(), vector(&[]));
    Message::Ack(Ack { database, origin, have, received, clock, publishing, dropped })
}

#[test]
fn a_catch_up_is_complete_when_the_peer_has_published_all_and_all_is_here() {
    let mut bench = Bench::open(SessionConfig::default(), None);
    bench.input(Input::Local { database: DATABASE.to_owned(), state: state(2, vector(&[])) });
    let hello = DatabaseHello { publishing: true, ..DatabaseHello::new(origin(1), vector(&[(1, 1)])) };
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello)]));
    let told = |bench: &Bench| -> Vec<(bool, u64)> {
        let told = bench.events.iter().filter_map(|event| match event {
            SessionEvent::CatchUpProgress { rows, .. } => Some((false, *rows)),
            SessionEvent::CatchUpComplete { rows, .. } => Some((true, *rows)),
            _ => None,
        });
        told.collect()
    };
    for sequence in 1..4 {
        bench.wait(1_500);
        let context = vector(&[(1, sequence)]);
        let rows = vec![table(1, "t", sequence - 1, &[1])];
        bench.hear_part(0, true, batch(1, vector(&[(1, sequence - 1)]), context.clone(), rows));
        bench.applied(AppliedOutcome::Done { have: context.clone(), received: None, rows: 1 });
        bench.input(Input::Local { database: DATABASE.to_owned(), state: state(2, context.clone()) });
        bench.hear(ack(context, true));
    }
    assert_eq!(told(&bench), [(false, 1)], "it is not complete, and told every two seconds");
    bench.hear(ack(vector(&[(1, 4)]), false));
    assert_eq!(told(&bench).len(), 1, "the last row is not here");
    bench.hear_part(0, true, batch(1, vector(&[(1, 3)]), vector(&[(1, 4)]), vec![table(1, "t", 3, &[1])]));
    bench.applied(AppliedOutcome::Done { have: vector(&[(1, 4)]), received: None, rows: 1 });
    bench.input(Input::Local { database: DATABASE.to_owned(), state: state(2, vector(&[(1, 4)])) });
    assert_eq!(told(&bench).last(), Some(&(true, 4)));
}
