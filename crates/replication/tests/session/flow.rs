//! Many databases in one session: what they hold in memory together, and whose turn it is.

use std::collections::{BTreeMap, BTreeSet};

use replication::DotSet;
use replication::message::{Changes, DatabaseHello, Message, ProblemCode, Received, Want};
use replication::session::{AppliedOutcome, CloseReason, Input, LocalState, ReadOutcome, SessionConfig};

use crate::bench::{Bench, batch, origin, state, table, vector};

/// What one part takes.
const PART: usize = 10_000;

/// Room for a hundred parts, which two batches of a database may take four of.
fn small() -> SessionConfig {
    SessionConfig {
        part_bytes: PART,
        max_batch_bytes: 2 * PART,
        window_bytes: 4 * PART,
        buffer_bytes: 100 * PART,
        ..SessionConfig::default()
    }
}

fn name(number: usize) -> String {
    format!("db {number:03}")
}

/// A session of `count` databases that have `changes` changes here each and none there.
fn lacking(config: SessionConfig, count: usize, changes: u64) -> Bench {
    Bench::open_many(config, (0..count).map(|number| (name(number), vector(&[(2, changes)]), vector(&[]))))
}

/// A database answers what was asked of it: one row of `size` bytes for each change up to `upto`.
fn answer(bench: &mut Bench, place: usize, upto: u64, sizes: &[usize]) {
    let (database, from) = (bench.read_of[place].clone(), bench.reads[place].clone());
    let first = from.get(origin(2));
    let rows = batch(2, from, vector(&[(2, upto)]), vec![table(2, "t", first, sizes)]);
    bench.input(Input::BatchRead { database, outcome: ReadOutcome::Batch(rows) });
}

fn sent(bench: &Bench) -> Vec<(String, usize)> {
    let changes = bench.sent.iter().filter_map(|message| match message {
        Message::Changes(changes) => Some((changes.database.clone(), changes.rows.row_count())),
        _ => None,
    });
    changes.collect()
}

#[test]
fn no_more_is_read_than_there_is_room_for_and_the_rest_when_it_is_sent() {
    let mut bench =
        lacking(SessionConfig { buffer_bytes: 10 * 300_000, max_batch_bytes: 300_000, ..small() }, 100, 100_000);
    bench.room = false;
    assert_eq!(bench.reads.len(), 7, "three quarters of the room");
    for place in 0..7 {
        answer(&mut bench, place, 100_000, &[300_000]);
    }
    assert_eq!(bench.reads.len(), 7);
    bench.room = true;
    let mut place = 7;
    while place < 100 {
        bench.input(Input::Timeout);
        assert!(bench.reads.len() > place, "{place} were read, and there is room");
        answer(&mut bench, place, 100_000, &[300_000]);
        place += 1;
    }
    let mut databases = bench.read_of.clone();
    databases.sort();
    databases.dedup();
    assert_eq!(databases.len(), 100, "each had its turn before any had another");
}

#[test]
fn a_database_with_little_to_say_is_read_beside_those_that_take_all_the_room() {
    let config = SessionConfig { buffer_bytes: 1_000_000, max_batch_bytes: 300_000, ..small() };
    let mut bench = lacking(config, 50, 100_000);
    bench.room = false;
    for place in 0..bench.reads.len() {
        answer(&mut bench, place, 100_000, &[300_000]);
    }
    let before = bench.reads.len();
    bench.input(Input::Local { database: "quiet".to_owned(), state: state(2, vector(&[(2, 1)])) });
    let names = (0..50).map(name).chain(["quiet".to_owned()]);
    bench.greet(names.map(|name| (name, DatabaseHello::new(origin(1), vector(&[])))).collect::<BTreeMap<_, _>>());
    assert_eq!(&bench.read_of[before..], ["quiet"]);
}

#[test]
fn databases_take_turns_on_the_link() {
    let mut bench = lacking(small(), 3, 40);
    bench.room = false;
    assert_eq!(bench.read_of, [name(0), name(1), name(2)]);
    answer(&mut bench, 0, 40, &[PART; 4]);
    answer(&mut bench, 1, 40, &[PART]);
    answer(&mut bench, 2, 40, &[PART; 2]);
    bench.room = true;
    bench.input(Input::Timeout);
    let order: Vec<String> = sent(&bench).into_iter().map(|(database, _)| database).collect();
    let expected = [0, 1, 2, 0, 2, 0, 0].map(name);
    assert_eq!(order, expected);
}

#[test]
fn rows_that_are_far_larger_than_expected_are_read_again_when_there_is_room() {
    let config = SessionConfig { max_batch_bytes: 500_000, buffer_bytes: 400_000, ..small() };
    let mut bench = lacking(config, 10, 1);
    bench.room = false;
    assert_eq!(bench.reads.len(), 10, "one change each");
    for place in 0..10 {
        answer(&mut bench, place, 1, &[250_000]);
    }
    bench.room = true;
    bench.input(Input::Timeout);
    let first = sent(&bench).len();
    assert!((3..6).contains(&first), "{first} were kept in a room of 400 kB");
    let mut place = 10;
    while place < bench.reads.len() {
        answer(&mut bench, place, 1, &[250_000]);
        place += 1;
    }
    let mut databases: Vec<String> = sent(&bench).into_iter().map(|(database, _)| database).collect();
    databases.sort();
    assert_eq!(databases, (0..10).map(name).collect::<Vec<_>>(), "all were sent, none twice");
}

/// One whole batch of a database that has nothing yet, up to `sequence` of the peer's.
fn come(bench: &mut Bench, database: &str, (from, sequence): (u64, u64), size: usize) {
    let from = vector(&[(1, from)]);
    let rows = batch(1, from, vector(&[(1, sequence)]), vec![table(1, "t", sequence, &[size])]);
    bench.hear(Message::Changes(Changes { database: database.to_owned(), batch: sequence, part: 0, last: true, rows }));
}

fn receiving(count: usize) -> Bench {
    let config = SessionConfig { buffer_bytes: 500_000, window_bytes: 500_000, max_batch_bytes: 500_000, ..small() };
    Bench::open_many(config, (0..count).map(|number| (name(number), vector(&[]), vector(&[(1, 100)]))))
}

fn done(bench: &mut Bench, place: usize) {
    let (database, have) = (bench.applied_to[place].clone(), bench.applies[place].context.clone());
    bench.input(Input::Applied { database, outcome: AppliedOutcome::Done { have, received: None, rows: 1 } });
}

#[test]
fn nothing_is_taken_from_the_link_while_much_waits_to_be_applied() {
    let mut bench = receiving(30);
    let mut came = 0;
    while came < 30 && bench.session.takes_more() {
        come(&mut bench, &name(came), (0, 50), 100_000);
        came += 1;
    }
    // Three are applied at once, and a little more than 500 kB wait.
    assert_eq!((came, bench.applies.len()), (8, 3));
    let mut place = 0;
    while place < bench.applies.len() {
        done(&mut bench, place);
        place += 1;
        while came < 30 && bench.session.takes_more() {
            come(&mut bench, &name(came), (0, 50), 100_000);
            came += 1;
        }
    }
    assert_eq!((came, place), (30, 30));
    let expected: Vec<String> = (0..30).map(name).collect();
    assert_eq!(bench.applied_to, expected, "in turn");
}

#[test]
fn databases_that_take_nothing_in_do_not_keep_others_waiting() {
    let mut bench = receiving(10);
    for number in 0..9 {
        come(&mut bench, &name(number), (0, 50), 100_000);
    }
    assert!(!bench.session.takes_more());
    bench.wait(1_900);
    assert!(!bench.session.takes_more());
    bench.wait(200);
    assert!(bench.session.takes_more(), "nothing was taken in for two seconds");
    // Little is applied whoever is stuck.
    come(&mut bench, &name(9), (0, 50), 100);
    assert_eq!(bench.applied_to.last(), Some(&name(9)));
    // What was let go of is asked for again.
    let before = bench.wants();
    bench.wait(10_000);
    assert!(bench.wants() >= before + 6, "{} wants", bench.wants() - before);
    assert_eq!(bench.closed, None);
}

#[test]
fn what_is_taken_in_slowly_is_waited_for() {
    let mut bench = receiving(10);
    for number in 0..9 {
        come(&mut bench, &name(number), (0, 50), 100_000);
    }
    for place in 0..9 {
        bench.wait(1_500);
        done(&mut bench, place);
    }
    assert_eq!(bench.applies.len(), 9);
    assert_eq!(bench.wants(), 0, "nothing was let go of");
    assert_eq!(bench.closed, None);
}

fn greetings(bench: &Bench) -> usize {
    bench.sent.iter().filter(|message| matches!(message, Message::Hello(_))).count()
}

#[test]
fn the_news_of_many_databases_go_in_one_greeting_before_their_changes() {
    let mut bench = lacking(small(), 100, 1);
    let before = greetings(&bench);
    let news = |upto| LocalState { issued: BTreeSet::from(["t".to_owned()]), ..state(2, vector(&[(2, upto)])) };
    for number in 0..100 {
        bench.input(Input::Local { database: name(number), state: news(1) });
        bench.wait(usize::from(number % 10 == 0).try_into().unwrap());
    }
    answer(&mut bench, 0, 1, &[10]);
    assert_eq!((greetings(&bench), sent(&bench).len()), (before, 0));
    // Nothing else is said of them either, which the peer might take for something that it is not; nor is it tried all the time.
    let said = |bench: &Bench| bench.sent.iter().filter(|message| message.database().is_some()).count();
    let other = said(&bench);
    bench.input(Input::Local { database: name(5), state: state(2, vector(&[(2, 9)])) });
    assert_eq!((said(&bench), bench.session.wants_room()), (other, false));
    bench.input(Input::Local { database: name(5), state: news(9) });
    bench.wait(100);
    assert_eq!((greetings(&bench), sent(&bench).len()), (before + 1, 1));
    let said = bench.sent.iter().rev().find_map(|message| match message {
        Message::Hello(hello) => Some(hello.databases.values().filter(|database| !database.issued.is_empty()).count()),
        _ => None,
    });
    assert_eq!(said, Some(100));
}

#[test]
fn a_peer_that_leaves_batches_of_many_databases_unfinished_is_refused() {
    let mut bench = receiving(100);
    let mut came = 0;
    while came < 100 && bench.closed.is_none() {
        let rows = batch(1, vector(&[]), vector(&[(1, 50)]), vec![table(1, "t", 50, &[100_000])]);
        let part = Changes { database: name(came), batch: 1, part: 0, last: false, rows };
        bench.hear(Message::Changes(part));
        came += 1;
    }
    // Four times the room, and the largest row, which is nobody's fault.
    assert_eq!(came, 22);
    assert!(matches!(&bench.closed, Some(CloseReason::Refused(problem)) if problem.code == ProblemCode::Protocol));
}

#[test]
fn a_read_says_whether_what_was_sent_before_is_all_there_was() {
    let lacks = Some((vector(&[(2, 4)]), vector(&[])));
    let mut bench = Bench::open(SessionConfig::default(), lacks);
    let answer = |bench: &mut Bench, first: u64, upto: u64, known: u64| {
        let mut rows = batch(2, vector(&[(2, first)]), vector(&[(2, known)]), vec![table(2, "t", first, &[1])]);
        if upto < known {
            rows.to = vector(&[(2, upto)]);
        }
        let database = bench.read_of[0].clone();
        bench.input(Input::BatchRead { database, outcome: ReadOutcome::Batch(rows) });
    };
    let move_to = |bench: &mut Bench, sequence| {
        let database = bench.read_of[0].clone();
        bench.input(Input::Local { database, state: state(2, vector(&[(2, sequence)])) });
    };
    answer(&mut bench, 0, 2, 4);
    answer(&mut bench, 2, 4, 4);
    move_to(&mut bench, 5);
    assert_eq!(bench.whole, [true, false, true], "the first, the one after a part, and the one after the end");
    // The peer starts over from the middle of a catch-up.
    let database = bench.read_of[0].clone();
    let received = Some(Received { source: origin(2), position: vector(&[(2, 3)]) });
    answer(&mut bench, 4, 5, 5);
    bench.hear(Message::Want(Want { database, have: vector(&[]), received, held: DotSet::new() }));
    assert_eq!((bench.reads.last(), &bench.whole[3..]), (Some(&vector(&[(2, 3)])), &[false][..]));
}
