//! One session at a time, fed by hand: what it does about slow links, large rows, busy and silent peers.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

mod bench;
mod flow;
mod heartbeats;
mod packed;
mod publishing;
mod reading;
mod sweeping;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bench::{Bench, DATABASE, batch, origin, state, table, vector};
use replication::message::{Ack, DatabaseHello, Message, Problem, ProblemCode, Want};
use replication::session::{AppliedOutcome, CloseReason, Input, LocalState, ReadOutcome, SessionConfig, SessionEvent};
use replication::{Batch, DotSet, NodeSchema, NodeSchemas, Selection, TableShape, Timestamp};

#[test]
fn a_batch_is_sent_although_the_peer_learns_something_while_it_is_read() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[(2, 3)]), vector(&[]))));
    assert_eq!(bench.reads, [vector(&[])]);
    bench.hear(Message::Ack(Ack {
        database: DATABASE.to_owned(),
        origin: origin(1),
        have: vector(&[(1, 9)]),
        received: None,
        clock: Timestamp::default(),
        publishing: false,
        dropped: vector(&[]),
    }));
    let rows = batch(2, vector(&[]), vector(&[(2, 3)]), vec![table(2, "t", 0, &[1, 1, 1])]);
    bench.input(Input::BatchRead { database: DATABASE.to_owned(), outcome: ReadOutcome::Batch(rows) });
    assert_eq!(bench.parts(), 1);
    assert_eq!(bench.reads.len(), 1, "what was sent is not read again");
}

#[test]
fn a_batch_that_was_read_from_a_place_the_peer_gave_up_is_read_again() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[(2, 3)]), vector(&[(2, 1)]))));
    bench.hear(Message::Want(Want {
        database: DATABASE.to_owned(),
        have: vector(&[]),
        received: None,
        held: DotSet::new(),
    }));
    let rows = batch(2, vector(&[(2, 1)]), vector(&[(2, 3)]), vec![table(2, "t", 1, &[1, 1])]);
    bench.input(Input::BatchRead { database: DATABASE.to_owned(), outcome: ReadOutcome::Batch(rows) });
    assert_eq!(bench.parts(), 0);
    assert_eq!(bench.reads, [vector(&[(2, 1)]), vector(&[])]);
}

/// A bench that has asked once for what it lacks.
fn asking() -> (Bench, impl Fn(u64) -> Batch) {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[]), vector(&[(1, 9)]))));
    let gap = batch(1, vector(&[(1, 5)]), vector(&[(1, 9)]), vec![]);
    bench.hear_part(0, true, gap);
    bench.applied(AppliedOutcome::Gap { have: vector(&[]), received: None });
    assert_eq!(bench.wants(), 1);
    (bench, |row| batch(1, vector(&[]), vector(&[(1, 9)]), vec![table(1, "t", row, &[100])]))
}

#[test]
fn what_is_coming_slowly_is_not_asked_for_again() {
    let (mut bench, part) = asking();
    for number in 0..8 {
        bench.wait(9_000);
        bench.hear_part(number, number == 7, part(u64::from(number)));
    }
    assert_eq!(bench.wants(), 1);
    assert_eq!(bench.applies.len(), 2);
    assert_eq!(bench.applies[1].row_count(), 8);
}

#[test]
fn a_message_that_takes_minutes_is_waited_for_and_silence_is_not() {
    let (mut bench, _) = asking();
    for _ in 0..40 {
        bench.wait(9_000);
        bench.input(Input::Progress);
    }
    assert_eq!((bench.wants(), &bench.closed), (1, &None));
    bench.wait(15_000);
    assert_eq!((bench.wants(), &bench.closed), (2, &None));
    bench.wait(40_000);
    assert_eq!(bench.closed, Some(CloseReason::Silent));
}

#[test]
fn rows_that_do_not_fit_do_not_put_off_asking_again() {
    let (mut bench, _) = asking();
    for number in 0..6 {
        bench.wait(4_000);
        bench.hear_part(0, true, batch(1, vector(&[(1, 5)]), vector(&[(1, 9 + number)]), vec![]));
        bench.applied(AppliedOutcome::Gap { have: vector(&[]), received: None });
    }
    assert!(bench.wants() >= 3, "asked {} times", bench.wants());
}

#[test]
fn a_row_larger_than_the_window_is_taken_together_with_what_follows() {
    let config = SessionConfig { window_bytes: 1_000, max_batch_bytes: 1_000, ..SessionConfig::default() };
    let mut bench = Bench::open(config, Some((vector(&[]), vector(&[(1, 3)]))));
    let part = |tables| batch(1, vector(&[]), vector(&[(1, 3)]), tables);
    bench.hear_part(0, false, part(vec![table(1, "a", 1, &[100_000])]));
    bench.hear_part(1, true, part(vec![table(1, "z", 0, &[1])]));
    assert_eq!(bench.closed, None);
    assert_eq!(bench.applies.len(), 1);
}

#[test]
fn a_peer_that_sends_more_than_the_window_is_refused() {
    let config = SessionConfig { window_bytes: 100, max_batch_bytes: 100, ..SessionConfig::default() };
    let mut bench = Bench::open(config, Some((vector(&[]), vector(&[(1, 300)]))));
    for number in 0..8 {
        let rows = table(1, "t", u64::from(number), &[60]);
        bench.hear_part(number, false, batch(1, vector(&[]), vector(&[(1, 300)]), vec![rows]));
    }
    assert!(matches!(&bench.closed, Some(CloseReason::Refused(problem)) if problem.code == ProblemCode::Protocol));
    assert!(bench.events.iter().any(|event| matches!(event, SessionEvent::Refused(_))));
}

#[test]
fn messages_without_rows_fill_the_window_too() {
    let config = SessionConfig { window_bytes: 10_000, max_batch_bytes: 10_000, ..SessionConfig::default() };
    let mut bench = Bench::open(config, Some((vector(&[]), vector(&[(1, 300)]))));
    for number in 0..100 {
        let names = table(1, &"n".repeat(1_000), 0, &[]);
        bench.hear_part(number, false, batch(1, vector(&[]), vector(&[(1, 300)]), vec![names]));
    }
    assert!(matches!(&bench.closed, Some(CloseReason::Refused(problem)) if problem.code == ProblemCode::Protocol));
}

#[test]
fn of_databases_that_neither_side_has_nothing_is_kept() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[]), vector(&[]))));
    for number in 0..3 {
        let elsewhere = DatabaseHello::new(origin(1), vector(&[(1, 1)]));
        bench.greet(BTreeMap::from([(format!("elsewhere {number}"), elsewhere)]));
    }
    let session = format!("{:?}", bench.session);
    assert!(session.contains("elsewhere 2") && !session.contains("elsewhere 1"), "{session}");
    assert_eq!(bench.session.shared_databases().count(), 0);
}

#[test]
fn a_row_that_no_message_holds_is_named_once_and_nothing_is_sent() {
    let config = SessionConfig { max_row_bytes: 50, ..SessionConfig::default() };
    let mut bench = Bench::open(config, Some((vector(&[(2, 1)]), vector(&[]))));
    for sequence in 1..4 {
        let have = vector(&[(2, sequence)]);
        let rows = batch(2, vector(&[]), have.clone(), vec![table(2, "t", 0, &[1_000])]);
        bench.input(Input::BatchRead { database: DATABASE.to_owned(), outcome: ReadOutcome::Batch(rows) });
        bench.input(Input::Local { database: DATABASE.to_owned(), state: state(2, have) });
    }
    let problems: Vec<&Problem> = bench
        .events
        .iter()
        .filter_map(|event| if let SessionEvent::Held { problem, .. } = event { Some(problem) } else { None })
        .collect();
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].code, problems[0].table.as_deref()), (ProblemCode::TooLarge, Some("t")));
    assert!(problems[0].text.contains("key (1)"), "{}", problems[0].text);
    assert_eq!((bench.parts(), &bench.closed), (0, &None));
}

#[test]
fn nodes_without_a_common_database_stay_connected() {
    let mut bench = Bench::open(SessionConfig::default(), None);
    let greetings = |bench: &Bench| bench.sent.iter().filter(|message| matches!(message, Message::Hello(_))).count();
    let first = greetings(&bench);
    bench.wait(25_000);
    assert!(greetings(&bench) >= first + 2, "the peer hears nothing");
}

#[test]
fn a_problem_on_both_sides_is_told_once_each_while_it_lasts() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[]), vector(&[(1, 1)]))));
    let problem = |text: &str| Problem {
        code: ProblemCode::SchemaMismatch,
        text: text.to_owned(),
        database: Some(DATABASE.to_owned()),
        table: Some("t".to_owned()),
    };
    for _ in 0..5 {
        bench.hear_part(0, true, batch(1, vector(&[]), vector(&[(1, 1)]), vec![table(1, "t", 0, &[1])]));
        bench.applied(AppliedOutcome::Held(problem("ours")));
        bench.hear(Message::Problem(problem("theirs")));
        bench.wait(11_000);
    }
    let told = |wanted: &str| {
        let matching = bench.events.iter().filter(|event| match event {
            SessionEvent::Held { problem, .. } | SessionEvent::PeerProblem(problem) => problem.text == wanted,
            _ => false,
        });
        matching.count()
    };
    assert_eq!((told("ours"), told("theirs")), (1, 1));
}

/// The tables that are told to differ from the peer's.
fn differing(bench: &mut Bench) -> Vec<String> {
    let told = bench.events.drain(..).filter_map(|event| match event {
        SessionEvent::SchemaDiffers { tables, .. } => Some(tables),
        _ => None,
    });
    told.flatten().collect()
}

#[test]
fn what_either_side_leaves_out_on_purpose_is_not_told_as_a_difference() {
    let tables = |names: &[(&str, u64)]| -> BTreeMap<String, u64> {
        names.iter().map(|(name, fingerprint)| ((*name).to_owned(), *fingerprint)).collect()
    };
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[]), vector(&[]))));
    let mut ours = Selection::default();
    ours.set_exclude(["log_*".to_owned()]);
    let here = tables(&[("stock", 1), ("session_1", 2), ("other", 3)]);
    let local = LocalState { tables: here, selection: ours, ..state(2, vector(&[])) };
    bench.input(Input::Local { database: DATABASE.to_owned(), state: local });
    let mut hello = DatabaseHello {
        tables: tables(&[("stock", 9), ("log_1", 4), ("other", 3)]),
        selection: Selection::default(),
        ..DatabaseHello::new(origin(1), vector(&[]))
    };
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello.clone())]));
    assert_eq!(differing(&mut bench), ["other", "session_1", "stock"], "log_1 is left out here");
    hello.selection.set_exclude(["session_*".to_owned()]);
    hello.selection.set_excluded_columns("stock", ["note".to_owned()]);
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello.clone())]));
    assert_eq!(differing(&mut bench), [""; 0]);
    hello.tables.insert("other".to_owned(), 5);
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello)]));
    assert_eq!(differing(&mut bench), ["other"]);
}

#[test]
fn nothing_is_sent_to_a_peer_that_has_a_table_which_was_lost_here() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[(2, 5)]), vector(&[(2, 5)]))));
    let mut hello = DatabaseHello::new(origin(1), vector(&[(2, 5)]));
    hello.tables.insert("gone".to_owned(), 1);
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello.clone())]));
    let lost = LocalState { retired: BTreeSet::from(["gone".to_owned()]), ..state(2, vector(&[(2, 9)])) };
    bench.input(Input::Local { database: DATABASE.to_owned(), state: lost });
    assert_eq!(bench.reads, []);
    hello.tables.clear();
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello)]));
    assert_eq!(bench.reads, [vector(&[(2, 5)])]);
}

#[test]
fn tables_that_differ_are_told_once_and_told_when_they_agree() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[]), vector(&[]))));
    let greet = |bench: &mut Bench, tables: &[(&str, u64)]| {
        let tables = tables.iter().map(|(name, shape)| ((*name).to_owned(), *shape)).collect();
        let hello = DatabaseHello { tables, ..DatabaseHello::new(origin(1), vector(&[])) };
        bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello)]));
        let told = std::mem::take(&mut bench.events).into_iter().filter_map(|event| match event {
            SessionEvent::SchemaDiffers { tables, .. } => Some((true, tables)),
            SessionEvent::SchemaAgrees { tables, .. } => Some((false, tables)),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(greet(&mut bench, &[("a", 1)]), [(true, names(&["a"]))]);
    assert_eq!(greet(&mut bench, &[("a", 1), ("b", 1)]), [(true, names(&["b"]))]);
    assert_eq!(greet(&mut bench, &[("a", 2), ("b", 1)]), []);
    assert_eq!(greet(&mut bench, &[("b", 1)]), [(false, names(&["a"]))]);
    assert_eq!(greet(&mut bench, &[]), [(false, names(&["b"]))]);
}

#[test]
fn a_greeting_tells_of_the_tables_of_all_nodes_and_is_said_again_when_they_change() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[]), vector(&[]))));
    let shape = TableShape { name: "t".to_owned(), columns: vec!["k".to_owned()], key: vec![0] };
    let mut schemas = NodeSchemas::default();
    schemas.learn(origin(2), NodeSchema::new(1, vec![shape.clone()]));
    schemas.learn(origin(3), NodeSchema::new(1, Vec::new()));
    let told = LocalState { schemas: Arc::new(schemas.clone()), ..state(2, vector(&[])) };
    bench.input(Input::Local { database: DATABASE.to_owned(), state: told });
    let Some(Message::Hello(hello)) = bench.sent.last() else { panic!("no greeting: {:?}", bench.sent) };
    assert_eq!(hello.databases[DATABASE].schemas, schemas);
    let hello = DatabaseHello { schemas: schemas.clone(), ..DatabaseHello::new(origin(1), vector(&[])) };
    bench.events.clear();
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello)]));
    let heard = bench.events.iter().find_map(|event| match event {
        SessionEvent::Databases { databases } => Some(databases[DATABASE].schemas.clone()),
        _ => None,
    });
    assert_eq!(heard, Some(schemas));
}

#[test]
fn what_could_not_be_read_is_read_again() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[(2, 3)]), vector(&[]))));
    bench.input(Input::BatchRead { database: DATABASE.to_owned(), outcome: ReadOutcome::Retry { after: 500 } });
    assert_eq!(bench.reads.len(), 1);
    bench.wait(499);
    assert_eq!(bench.reads.len(), 1);
    bench.wait(1);
    assert_eq!(bench.reads.len(), 2);
    bench.input(Input::BatchRead { database: DATABASE.to_owned(), outcome: ReadOutcome::Nothing });
    bench.wait(60_000);
    assert_eq!(bench.reads.len(), 2, "a subscriber has nothing to read");
}

#[test]
fn a_database_that_comes_back_is_begun_anew() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[(2, 3)]), vector(&[]))));
    assert_eq!((bench.published, bench.reads.len()), (1, 1));
    let rows = batch(2, vector(&[]), vector(&[(2, 3)]), vec![table(2, "t", 0, &[1, 1, 1])]);
    bench.input(Input::BatchRead { database: DATABASE.to_owned(), outcome: ReadOutcome::Batch(rows) });
    bench.input(Input::LocalGone { database: DATABASE.to_owned() });
    bench.input(Input::Local { database: DATABASE.to_owned(), state: state(3, vector(&[(3, 1)])) });
    assert_eq!(bench.published, 2, "rows of another file are not published yet");
    assert_eq!(bench.reads.last(), Some(&vector(&[])), "what the old file had sent says nothing");
}

/// Its farewell may never have been sent: the peer then takes what it sent meanwhile for arrived.
#[test]
fn a_database_that_comes_back_asks_for_what_it_lacks() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[]), vector(&[(1, 3)]))));
    assert_eq!(bench.wants(), 0);
    bench.input(Input::LocalGone { database: DATABASE.to_owned() });
    bench.hear_part(0, true, batch(1, vector(&[]), vector(&[(1, 3)]), vec![table(1, "t", 0, &[1, 1, 1])]));
    assert_eq!(bench.applies.len(), 0, "there is nothing to apply it to");
    for _ in 0..2 {
        bench.input(Input::Local { database: DATABASE.to_owned(), state: state(2, vector(&[])) });
        assert_eq!(bench.wants(), 1, "it is asked for once");
    }
    bench.hear_part(0, true, batch(1, vector(&[]), vector(&[(1, 3)]), vec![table(1, "t", 0, &[1, 1, 1])]));
    assert_eq!(bench.applies.len(), 1);
}

#[test]
fn what_is_held_is_asked_for_again_when_the_peer_has_migrated() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[]), vector(&[(1, 3)]))));
    bench.hear_part(0, true, batch(1, vector(&[]), vector(&[(1, 3)]), vec![table(1, "t", 0, &[1])]));
    let problem = Problem { code: ProblemCode::SchemaMismatch, text: "t".to_owned(), database: None, table: None };
    bench.applied(AppliedOutcome::Held(problem));
    assert_eq!(bench.wants(), 0);
    let mut hello = DatabaseHello::new(origin(1), vector(&[(1, 3)]));
    hello.tables.insert("t".to_owned(), 7);
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello)]));
    assert_eq!(bench.wants(), 1);
}

/// Nothing else need come before it: it may be quiet.
#[test]
fn two_databases_that_meet_compare_what_they_have_at_once() {
    let tables = BTreeMap::from([("t".to_owned(), 1)]);
    let issued = BTreeSet::from(["t".to_owned()]);
    let mut bench = Bench::open(SessionConfig::default(), None);
    let local = LocalState { tables: tables.clone(), issued: issued.clone(), ..state(2, vector(&[(2, 5)])) };
    bench.input(Input::Local { database: DATABASE.to_owned(), state: local });
    let hello = DatabaseHello { tables, issued, ..DatabaseHello::new(origin(3), vector(&[(3, 5)])) };
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello)]));
    assert!(bench.sent.iter().any(|message| matches!(message, Message::Compare(_))), "{:?}", bench.sent);
}

#[test]
fn an_acknowledgement_for_a_database_that_the_peer_lost_is_not_waited_with() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[]), vector(&[(1, 3)]))));
    bench.hear_part(0, true, batch(1, vector(&[]), vector(&[(1, 3)]), vec![table(1, "t", 0, &[1])]));
    bench.greet(BTreeMap::new());
    bench.applied(AppliedOutcome::Done { have: vector(&[(1, 3)]), received: None, rows: 1 });
    assert!(!bench.session.wants_room(), "nothing is there to be sent");
}

#[test]
fn tables_that_are_merged_by_other_rules_at_the_peer_are_told_once() {
    let tables = BTreeMap::from(["t", "same", "mine"].map(|name| (name.to_owned(), 1)));
    let rules =
        |rule: &str| BTreeMap::from([("t", rule), ("same", "row: union")].map(|(t, r)| (t.to_owned(), r.to_owned())));
    let local = LocalState { tables: tables.clone(), policies: rules("column: max"), ..state(2, vector(&[])) };
    let mut hello = DatabaseHello::new(origin(1), vector(&[]));
    hello.tables = tables;
    hello.tables.remove("mine");
    hello.policies = BTreeMap::from([("same".to_owned(), "row: union".to_owned())]);
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[]), vector(&[]))));
    bench.input(Input::Local { database: DATABASE.to_owned(), state: local.clone() });
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello.clone())]));
    bench.greet(BTreeMap::from([(DATABASE.to_owned(), hello)]));
    bench.input(Input::Local { database: DATABASE.to_owned(), state: local });
    let told = bench.events.iter().filter_map(|event| match event {
        SessionEvent::PoliciesDiffer { table, here, there, .. } => {
            Some((table.as_str(), here.as_deref(), there.as_deref()))
        }
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [("t", Some("column: max"), None)]);
}

#[test]
fn a_peer_that_refuses_stamps_tells_what_its_clock_shows() {
    let mut bench = Bench::open(SessionConfig::default(), Some((vector(&[(2, 1)]), vector(&[]))));
    let refusal = |database: Option<&str>| {
        Message::Problem(Problem {
            code: ProblemCode::ClockSkew,
            text: "too far ahead".to_owned(),
            database: database.map(str::to_owned),
            table: None,
        })
    };
    bench.wait(7_000);
    bench.hear(refusal(Some(DATABASE)));
    bench.hear(refusal(Some("elsewhere")));
    bench.hear(refusal(None));
    bench.hear(refusal(Some(DATABASE)));
    bench.wait(1_000);
    // The same problem once more: it is told once, and looked into each time.
    bench.hear(refusal(Some(DATABASE)));
    assert_eq!(bench.refused_at, [7_000, 8_000]);
}
