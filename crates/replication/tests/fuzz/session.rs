//! A conversation with a peer that says anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bolero::check;
use replication::codec::{PackedBatch, decode_binary, decode_text, encode};
use replication::message::{
    Ack, Bye, ByeReason, Changes, Compare, DatabaseHello, Envelope, Fingerprints, Hello, Message, Problem, ProblemCode,
    Received, Want,
};
use replication::reconcile::{Answer, Compared, KeyRange, Question, RangeFingerprint, TableRanges};
use replication::session::{AppliedOutcome, Input, LocalState, Output, ReadOutcome, Session, SessionConfig};
use replication::{Batch, DotSet, Origin, Selection, Timestamp, Value, VersionVector};

use crate::alteration::{Script, script};
use crate::corpora::named;
use crate::wire::{CONTROL, LIMITS, ROWS};

const DATABASE: &str = "db";

fn origin(number: u8) -> Origin {
    Origin::from_bytes([number; 16])
}

fn vector(script: &mut Script<'_>) -> VersionVector {
    let mut vector = VersionVector::new();
    (0..script.byte() % 3).for_each(|_| vector.raise(origin(script.byte() % 3), u64::from(script.byte() % 8)));
    vector
}

fn state(script: &mut Script<'_>) -> LocalState {
    LocalState {
        origin: origin(script.byte() % 2),
        have: vector(script),
        received: BTreeMap::from([(origin(2), vector(script))]),
        clock: Timestamp::from_millis(1),
        tables: BTreeMap::from([("t".to_owned(), u64::from(script.byte() % 2))]),
        policies: BTreeMap::new(),
        retired: BTreeSet::new(),
        nodes: BTreeMap::new(),
        schemas: Arc::default(),
        selection: Selection::default(),
        publishing: script.byte().is_multiple_of(4),
        issued: BTreeSet::from(["t".to_owned()]),
        held: BTreeMap::from([(origin(2), dots(script))]),
        dropped: vector(script),
        known: Arc::default(),
    }
}

fn dots(script: &mut Script<'_>) -> DotSet {
    let mut dots = DotSet::new();
    dots.insert(origin(script.byte() % 3), u64::from(script.byte() % 8), u64::from(script.byte() % 8));
    dots
}

fn ranges(script: &mut Script<'_>) -> TableRanges {
    let key = |script: &mut Script<'_>| Some(vec![Value::Integer(i64::from(script.byte() % 8))]);
    let range = KeyRange { after: key(script), until: None };
    vec![("t".to_owned(), vec![range; usize::from(script.byte() % 3)])]
}

fn answer(script: &mut Script<'_>) -> Answer {
    let tables = ranges(script).into_iter().map(|(table, ranges)| {
        let fingerprint =
            |range: KeyRange| RangeFingerprint { range, rows: 2, content: [7; 16], run: None, keys: None };
        (table, ranges.into_iter().map(fingerprint).collect())
    });
    let (number, tables) = (u64::from(script.byte() % 4), tables.collect());
    Answer { number, tables, rest: ranges(script), have: vector(script), dropped: vector(script), waiting: Vec::new() }
}

fn batch(script: &mut Script<'_>) -> Batch {
    let source = origin(script.byte() % 3);
    let [from, to, context, dropped] = [(); 4].map(|()| vector(script));
    Batch { source, from, to, context, held: u64::from(script.byte() % 2), dropped, tables: Vec::new() }
}

/// A message that keeps to the protocol's form, though perhaps not to its order.
fn message(script: &mut Script<'_>) -> Message {
    let database = if script.byte().is_multiple_of(8) { "other" } else { DATABASE }.to_owned();
    let received =
        |script: &mut Script<'_>| Some(Received { source: origin(script.byte() % 2), position: vector(script) });
    match script.byte() % 8 {
        6 => {
            let (number, keys) = (u64::from(script.byte()), script.byte().is_multiple_of(2));
            let question = Question { number, rows: 16, keys, tables: ranges(script) };
            Message::Compare(Compare { database, question })
        }
        7 => {
            let source = origin(2 + script.byte() % 2);
            Message::Fingerprints(Fingerprints { database, source, answer: answer(script) })
        }
        0 => {
            let mut hello = DatabaseHello::new(origin(2 + script.byte() % 2), vector(script));
            hello.received.insert(origin(0), vector(script));
            hello.tables.insert("t".to_owned(), u64::from(script.byte() % 2));
            hello.issued.insert("t".to_owned());
            (hello.publishing, hello.dropped) = (script.byte().is_multiple_of(4), vector(script));
            Message::Hello(Hello {
                protocol: 1,
                cluster: "c".to_owned(),
                node: "a".to_owned(),
                incarnation: 1,
                version: String::new(),
                clock_millis: i64::MIN,
                read_only: false,
                databases: BTreeMap::from([(database, hello)]),
            })
        }
        1 => Message::Want(Want { database, have: vector(script), received: received(script), held: dots(script) }),
        2 => Message::Ack(Ack {
            database,
            origin: origin(2),
            have: vector(script),
            received: received(script),
            clock: Timestamp::from_millis(i64::MAX),
            publishing: script.byte().is_multiple_of(4),
            dropped: vector(script),
        }),
        3 => {
            let text = String::new();
            Message::Problem(Problem { code: ProblemCode::Other, text, database: Some(database), table: None })
        }
        4 if script.byte() == 7 => Message::Bye(Bye { reason: ByeReason::Other }),
        _ => {
            let (number, part) = (u64::from(script.byte() % 2), u32::from(script.byte() % 3));
            let last = script.byte().is_multiple_of(2);
            Message::Changes(Changes { database, batch: number, part, last, rows: batch(script) })
        }
    }
}

fn problem() -> Problem {
    Problem { code: ProblemCode::SchemaMismatch, text: String::new(), database: None, table: None }
}

/// What comes next: from the peer, from the databases, or with time.
fn input(script: &mut Script<'_>, texts: &[Vec<u8>], rows: &[Vec<u8>]) -> Option<Input> {
    let received = |envelope| Some(Input::Received(Box::new(envelope)));
    let database = DATABASE.to_owned();
    match script.byte() % 14 {
        0 => received(decode_text(std::str::from_utf8(&script.altered(texts)).ok()?, &LIMITS).ok()?),
        1 => received(decode_binary(&script.altered(rows), &LIMITS).ok()?),
        2..6 => received(Envelope { from: "a".to_owned(), to: None, message: message(script) }),
        6 => Some(Input::Local { database, state: state(script) }),
        7 if script.byte().is_multiple_of(8) => Some(Input::LocalGone { database }),
        8 => {
            let outcome = match script.byte() % 4 {
                0 => ReadOutcome::Nothing,
                3 => ReadOutcome::Packed(Arc::new(PackedBatch::of(&batch(script), 100).ok()?)),
                1 => ReadOutcome::Retry { after: 5 },
                _ => ReadOutcome::Batch(batch(script)),
            };
            Some(Input::BatchRead { database, outcome })
        }
        9 | 10 => {
            let (have, received) = (vector(script), Some(vector(script)));
            let outcome = match script.byte() % 4 {
                0 => AppliedOutcome::Gap { have, received },
                1 => AppliedOutcome::Held(problem()),
                2 => AppliedOutcome::Retry { after: 5 },
                _ => AppliedOutcome::Done { have, received, rows: 1 },
            };
            Some(Input::Applied { database, outcome })
        }
        11 => Some(Input::Timeout),
        12 => {
            let answer = (!script.byte().is_multiple_of(4)).then(|| answer(script));
            Some(Input::Fingerprinted { database, answer })
        }
        13 => {
            let compared = Compared { ours: dots(script), theirs: dots(script), differing: ranges(script) };
            let compared = (!script.byte().is_multiple_of(4)).then_some(compared);
            Some(Input::Compared { database, number: u64::from(script.byte() % 4), rest: ranges(script), compared })
        }
        _ => Some(Input::Progress),
    }
}

/// Takes out all that is to be done. It comes to an end, and what is to be sent can be sent.
fn drain(session: &mut Session, room: bool) {
    let mut count = 0;
    while let Some(output) = session.poll_output(room) {
        count += 1;
        assert!(count < 1_000, "outputs without end");
        if let Output::Send(envelope) = output {
            encode(&envelope).unwrap();
        }
    }
}

#[test]
fn a_session_goes_on_whatever_the_peer_says() {
    let (texts, rows) = (named(CONTROL, "real"), named(ROWS, "real"));
    check!().with_iterations(5_000).with_generator(script(512)).for_each(|script| {
        let mut script = Script(script);
        let config = SessionConfig { node: "b".to_owned(), cluster: "c".to_owned(), ..SessionConfig::default() };
        let mut session = Session::new(config, 0);
        let mut now = 0;
        session.handle(now, Input::Local { database: DATABASE.to_owned(), state: state(&mut script) });
        session.handle(now, Input::Start);
        while !script.is_over() {
            if let Some(input) = input(&mut script, &texts, &rows) {
                session.handle(now, input);
            }
            now += u64::from(script.byte()) * 16;
            drain(&mut session, !script.byte().is_multiple_of(4));
            assert!(session.next_timeout().is_none_or(|due| due < now + 100_000));
        }
        session.handle(now, Input::Stop);
        drain(&mut session, true);
        assert_eq!(session.next_timeout(), None, "it is over");
    });
}
