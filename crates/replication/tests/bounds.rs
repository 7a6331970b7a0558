//! What a session keeps of a peer that does not keep to the protocol: no more than a bound.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use replication::codec::{Encoded, encode};
use replication::message::{Changes, DatabaseHello, Envelope, Hello, Message, PROTOCOL_VERSION, Problem, ProblemCode};
use replication::session::{AppliedOutcome, CloseReason, Input, LocalState, Output, Session, SessionConfig};
use replication::{Batch, MAX_ORIGINS, Origin, Selection, TableRows, TableShape, Timestamp, VersionVector};

const DATABASE: &str = "db";

fn origin(number: u32) -> Origin {
    let mut bytes = [7; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Origin::from_bytes(bytes)
}

fn state(have: VersionVector) -> LocalState {
    LocalState {
        origin: origin(1),
        have,
        received: BTreeMap::new(),
        clock: Timestamp::default(),
        tables: BTreeMap::new(),
        policies: BTreeMap::new(),
        retired: BTreeSet::new(),
        nodes: BTreeMap::new(),
        schemas: Arc::default(),
        selection: Selection::default(),
        publishing: false,
        issued: BTreeSet::new(),
        held: BTreeMap::new(),
        dropped: VersionVector::new(),
        known: Arc::default(),
    }
}

fn hello(databases: BTreeMap<String, DatabaseHello>) -> Message {
    Message::Hello(Hello {
        protocol: PROTOCOL_VERSION,
        cluster: "default".to_owned(),
        node: "liar".to_owned(),
        incarnation: 1,
        version: String::new(),
        clock_millis: 0,
        read_only: false,
        databases,
    })
}

fn shared() -> Message {
    hello(BTreeMap::from([(
        DATABASE.to_owned(),
        DatabaseHello::new(origin(2), [(origin(2), 9)].into_iter().collect()),
    )]))
}

/// A session that is greeted by a peer with the database, over a link that has no room.
struct Bench {
    session: Session,
    now: u64,
}

impl Bench {
    fn greeted() -> Self {
        let config = SessionConfig { node: "honest".to_owned(), incarnation: 2, ..SessionConfig::default() };
        let mut bench = Self { session: Session::new(config, 0), now: 0 };
        bench.input(Input::Local { database: DATABASE.to_owned(), state: state(VersionVector::new()) });
        bench.input(Input::Start);
        bench.hear(shared());
        bench
    }

    fn input(&mut self, input: Input) {
        self.now += 1;
        self.session.handle(self.now, input);
        if self.session.next_timeout().is_some() {
            while self.session.poll_output(false).is_some() {}
        }
    }

    fn hear(&mut self, message: Message) {
        self.input(Input::Received(Box::new(Envelope { from: "liar".to_owned(), to: None, message })));
    }

    /// What waits to be sent.
    fn waiting(&mut self) -> Vec<Message> {
        let sent = std::iter::from_fn(|| self.session.poll_output(true));
        sent.filter_map(|output| match output {
            Output::Send(envelope) => Some(envelope.message),
            _ => None,
        })
        .collect()
    }

    fn is_refused(&mut self) -> bool {
        let mut outputs = std::iter::from_fn(|| self.session.poll_output(true));
        outputs.any(|output| matches!(output, Output::Close(CloseReason::Refused(_))))
    }
}

#[test]
fn databases_that_the_peer_does_not_name_any_more_are_forgotten() {
    let mut bench = Bench::greeted();
    let mut size = 0;
    for round in 0..50 {
        let name = |n: u32| format!("database {}", round * 100 + n);
        let databases = (0..100).map(|n| (name(n), DatabaseHello::new(origin(n), VersionVector::new())));
        bench.hear(hello(databases.collect()));
        let now = format!("{:?}", bench.session).len();
        if round == 1 {
            size = now;
        }
        assert!(round < 1 || now < 2 * size, "{now} bytes after {round} greetings, {size} after one");
    }
}

/// The link takes nothing, and the peer greets again and again, after which what is held is asked for at once.
#[test]
fn requests_that_wait_to_be_sent_take_the_place_of_older_ones() {
    let mut bench = Bench::greeted();
    for round in 0..200 {
        let context: VersionVector = [(origin(2), 9 + round)].into_iter().collect();
        let rows = Batch {
            source: origin(2),
            from: VersionVector::new(),
            to: context.clone(),
            context,
            held: 0,
            dropped: VersionVector::new(),
            tables: Vec::new(),
        };
        let database = DATABASE.to_owned();
        bench.hear(Message::Changes(Changes { database: database.clone(), batch: round, part: 0, last: true, rows }));
        let text = format!("refused for the {round}th time");
        let problem = Problem { code: ProblemCode::Unavailable, text, database: None, table: None };
        bench.input(Input::Applied { database, outcome: AppliedOutcome::Held(problem) });
        bench.hear(shared());
    }
    let waiting = bench.waiting();
    assert!(waiting.len() < 10, "{} messages wait", waiting.len());
    assert!(waiting.iter().any(|message| matches!(message, Message::Want(_))), "{waiting:?}");
}

#[test]
fn tables_without_rows_and_parts_without_tables_take_room_too() {
    let shape = TableShape { name: "t".to_owned(), columns: vec!["x".repeat(60_000)], key: vec![0] };
    for tables in [vec![TableRows::new(shape, Vec::new())], Vec::new()] {
        let mut bench = Bench::greeted();
        let most = if tables.is_empty() { 1_000_000 } else { 2_000 };
        let context: VersionVector = [(origin(2), 9)].into_iter().collect();
        let rows = Batch {
            source: origin(2),
            from: VersionVector::new(),
            to: context.clone(),
            context,
            held: 0,
            dropped: VersionVector::new(),
            tables,
        };
        let refused = (0..most).any(|part| {
            let (database, rows) = (DATABASE.to_owned(), rows.clone());
            bench.hear(Message::Changes(Changes { database, batch: 1, part, last: false, rows }));
            bench.session.next_timeout().is_none()
        });
        assert!(refused && bench.is_refused());
    }
}

#[test]
fn a_peer_that_names_ever_new_origins_is_refused() {
    let mut bench = Bench::greeted();
    for round in 0..8_u32 {
        let many = (0..4_000).map(|n| (origin(10 + 4_000 * round + n), 1));
        let context: VersionVector = many.collect();
        let from: VersionVector = [(origin(3), 1)].into_iter().collect();
        let rows = Batch {
            source: origin(2),
            from,
            to: context.clone(),
            context,
            held: 0,
            dropped: VersionVector::new(),
            tables: Vec::new(),
        };
        bench.hear(Message::Changes(Changes { database: DATABASE.to_owned(), batch: 1, part: 0, last: true, rows }));
    }
    assert!(bench.is_refused());
}

/// A greeting is read from a stranger up to a size.
#[test]
fn a_greeting_is_small_enough_however_much_is_known() {
    let mut full = state((0..).map(origin).take(MAX_ORIGINS).map(|origin| (origin, 1 << 40)).collect());
    full.nodes = (0..).map(origin).take(MAX_ORIGINS).map(|origin| (origin, "n".repeat(255))).collect();
    full.received = (0..64).map(|source| (origin(source), full.have.clone())).collect();
    let config = SessionConfig { node: "honest".to_owned(), ..SessionConfig::default() };
    let mut session = Session::new(config, 0);
    session.handle(0, Input::Local { database: DATABASE.to_owned(), state: full });
    session.handle(0, Input::Start);
    let Some(Output::Send(greeting)) = session.poll_output(true) else { panic!("no greeting") };
    let Encoded::Text(text) = encode(&greeting).unwrap() else { panic!("a greeting is text") };
    assert!(text.len() < 2 << 20, "{} bytes", text.len());
    let Message::Hello(hello) = greeting.message else { panic!("no greeting") };
    assert!(hello.databases[DATABASE].nodes.contains_key(&origin(1)), "its own name goes first");
}
