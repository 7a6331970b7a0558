//! Peers that may only read: they are sent everything, and nothing that they say changes a row.

use std::collections::BTreeMap;

use replication::message::{DatabaseHello, Message, Problem, ProblemCode};
use replication::session::{Input, ReadOutcome, SessionConfig, SessionEvent};

use crate::bench::{Bench, DATABASE, batch, origin, state, table, vector};

fn taking_nothing() -> SessionConfig {
    SessionConfig { takes: false, ..SessionConfig::default() }
}

#[test]
fn changes_of_a_reader_are_refused_once_and_it_is_sent_what_it_lacks() {
    let mut bench = Bench::open(taking_nothing(), Some((vector(&[(2, 4)]), vector(&[(1, 9)]))));
    let told = bench.sent.iter().any(|message| matches!(message, Message::Hello(hello) if hello.read_only));
    assert!(told, "the peer is told that it only reads");
    assert_eq!(bench.reads, [vector(&[(1, 9)])]);
    for _ in 0..3 {
        let rows = batch(1, vector(&[(2, 4)]), vector(&[(1, 9), (2, 4)]), vec![table(1, "t", 1, &[1])]);
        bench.hear_part(0, true, rows);
    }
    assert!(bench.applies.is_empty(), "nothing of a reader is applied");
    let refusals = bench.sent.iter().filter(|message| {
        matches!(message, Message::Problem(Problem { code: ProblemCode::ReadOnly, database: Some(_), .. }))
    });
    let held = bench.events.iter().filter(|event| matches!(event, SessionEvent::Held { .. }));
    assert_eq!((refusals.count(), held.count()), (1, 1));
    let rows = batch(2, vector(&[(1, 9)]), vector(&[(1, 9), (2, 4)]), vec![table(2, "t", 1, &[1, 2])]);
    bench.input(Input::BatchRead { database: DATABASE.to_owned(), outcome: ReadOutcome::Batch(rows) });
    assert_eq!(bench.parts(), 1);
    // What it has and does not send is not missed.
    bench.wait(44_000);
    assert_eq!((bench.wants(), &bench.closed), (0, &None));
}

#[test]
fn deletions_that_a_reader_has_forgotten_delete_nothing_here() {
    let mut bench = Bench::open(taking_nothing(), None);
    bench.input(Input::Local { database: DATABASE.to_owned(), state: state(2, vector(&[(1, 3), (2, 4)])) });
    let mut hello = DatabaseHello::new(origin(1), vector(&[(1, 9)]));
    hello.dropped = vector(&[(1, 7)]);
    hello.tables = BTreeMap::from([("t".to_owned(), 1)]);
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello)]));
    let questions = bench.sent.iter().filter(|message| matches!(message, Message::Compare(_))).count();
    assert_eq!((questions, bench.swept.len(), bench.reads.len()), (0, 0, 1));
}

#[test]
fn a_peer_that_turns_out_to_be_a_reader_is_told_before_it_hears_of_a_database() {
    let mut bench = Bench::open(SessionConfig::default(), None);
    bench.input(Input::Admitted { takes: false });
    bench.input(Input::Local { database: DATABASE.to_owned(), state: state(2, vector(&[(2, 4)])) });
    let greetings = bench.sent.iter().filter_map(|message| match message {
        Message::Hello(hello) => Some((hello.read_only, hello.databases.len())),
        _ => None,
    });
    assert_eq!(greetings.collect::<Vec<_>>(), [(false, 0), (true, 0), (true, 1)]);
}

#[test]
fn who_may_only_read_keeps_its_changes_to_itself() {
    let mut bench = Bench::open(SessionConfig::default(), None);
    bench.input(Input::Local { database: DATABASE.to_owned(), state: state(2, vector(&[(1, 3), (2, 4)])) });
    bench.greet_as(true, BTreeMap::from([(DATABASE.to_owned(), DatabaseHello::new(origin(1), vector(&[(1, 9)])))]));
    assert!(!bench.session.gives());
    let lacks: Vec<u64> = bench.session.shared_databases().map(|(_, has, wanted)| has.behind(wanted)).collect();
    assert_eq!((bench.reads.len(), lacks), (0, vec![0]));
    let rows = batch(1, vector(&[(1, 3)]), vector(&[(1, 9)]), vec![table(1, "t", 1, &[1])]);
    bench.hear_part(0, true, rows);
    assert_eq!(bench.applies.len(), 1, "it takes what it reads");
}
