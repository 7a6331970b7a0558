//! A session that is fed by hand, and what came out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use replication::message::{Changes, DatabaseHello, Envelope, Hello, Message, PROTOCOL_VERSION};
use replication::session::{
    AppliedOutcome, CloseReason, Input, LocalState, Output, Session, SessionConfig, SessionEvent,
};
use replication::{
    Batch, Dot, Entry, EntryFlags, Origin, RowClock, RowImage, Selection, TableRows, TableShape, Timestamp, Value,
    VersionVector,
};

pub(crate) const DATABASE: &str = "db";

pub(crate) fn origin(number: u8) -> Origin {
    Origin::from_bytes([number; 16])
}

pub(crate) fn vector(entries: &[(u8, u64)]) -> VersionVector {
    let mut vector = VersionVector::new();
    entries.iter().for_each(|(number, sequence)| vector.raise(origin(*number), *sequence));
    vector
}

pub(crate) fn state(number: u8, have: VersionVector) -> LocalState {
    LocalState {
        origin: origin(number),
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
        dropped: vector(&[]),
        known: Arc::default(),
    }
}

/// Rows of table `table`, one for each size, with sequences of origin `source` from `from + 1` on.
pub(crate) fn table(source: u8, name: &str, from: u64, sizes: &[usize]) -> TableRows {
    let rows = (from + 1..).zip(sizes).map(|(sequence, size)| RowImage {
        values: vec![Value::Integer(sequence.cast_signed()), Value::Blob(vec![7; *size])],
        clock: RowClock::whole(Entry::new(
            Timestamp::from_raw(1).unwrap(),
            Dot { origin: origin(source), sequence },
            EntryFlags::empty(),
        )),
    });
    let shape = TableShape { name: name.to_owned(), columns: vec!["k".to_owned(), "v".to_owned()], key: vec![0] };
    TableRows::new(shape, rows.collect())
}

pub(crate) fn batch(source: u8, from: VersionVector, context: VersionVector, tables: Vec<TableRows>) -> Batch {
    Batch { source: origin(source), from, to: context.clone(), context, held: 0, dropped: VersionVector::new(), tables }
}

/// A session of node "b" (origin 2) that node "a" (origin 1) greets, and what came out of it.
pub(crate) struct Bench {
    pub(crate) session: Session,
    pub(crate) now: u64,
    pub(crate) sent: Vec<Message>,
    /// Whether the link takes messages.
    pub(crate) room: bool,
    pub(crate) reads: Vec<VersionVector>,
    /// Whether the peer has all up to there, for each of them.
    pub(crate) whole: Vec<bool>,
    /// The databases that were asked for these.
    pub(crate) read_of: Vec<String>,
    pub(crate) published: usize,
    /// What the peer's clock showed when it refused stamps.
    pub(crate) refused_at: Vec<i64>,
    pub(crate) swept: Vec<VersionVector>,
    pub(crate) applies: Vec<Batch>,
    /// The databases that were given these.
    pub(crate) applied_to: Vec<String>,
    pub(crate) events: Vec<SessionEvent>,
    pub(crate) closed: Option<CloseReason>,
}

impl Bench {
    /// With databases at both ends: what each knows.
    pub(crate) fn open(config: SessionConfig, shared: Option<(VersionVector, VersionVector)>) -> Self {
        let mut bench = Self::waiting(config);
        bench.begin(shared.map(|(local, remote)| (DATABASE.to_owned(), local, remote)));
        bench
    }

    fn waiting(config: SessionConfig) -> Self {
        let config = SessionConfig { node: "b".to_owned(), incarnation: 2, ..config };
        Self {
            session: Session::new(config, 0),
            now: 0,
            sent: Vec::new(),
            room: true,
            reads: Vec::new(),
            whole: Vec::new(),
            read_of: Vec::new(),
            published: 0,
            refused_at: Vec::new(),
            swept: Vec::new(),
            applies: Vec::new(),
            applied_to: Vec::new(),
            events: Vec::new(),
            closed: None,
        }
    }

    /// With databases at both ends, by name: what each knows.
    pub(crate) fn open_many(
        config: SessionConfig,
        shared: impl IntoIterator<Item = (String, VersionVector, VersionVector)>,
    ) -> Self {
        let mut bench = Self::waiting(config);
        bench.begin(shared);
        bench
    }

    fn begin(&mut self, shared: impl IntoIterator<Item = (String, VersionVector, VersionVector)>) {
        let mut databases = BTreeMap::new();
        for (database, local, remote) in shared {
            databases.insert(database.clone(), DatabaseHello::new(origin(1), remote));
            self.input(Input::Local { database, state: state(2, local) });
        }
        self.input(Input::Start);
        self.greet(databases);
    }

    pub(crate) fn greet(&mut self, databases: BTreeMap<String, DatabaseHello>) {
        self.greet_as(false, databases);
    }

    /// The same of a peer that takes nothing where `read_only` says so.
    pub(crate) fn greet_as(&mut self, read_only: bool, databases: BTreeMap<String, DatabaseHello>) {
        self.hear(Message::Hello(Hello {
            protocol: PROTOCOL_VERSION,
            cluster: "default".to_owned(),
            node: "a".to_owned(),
            incarnation: 1,
            version: String::new(),
            clock_millis: 0,
            read_only,
            databases,
        }));
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.session.handle(self.now, input);
        while let Some(output) = self.session.poll_output(self.room) {
            match output {
                Output::Send(envelope) => self.sent.push(envelope.message),
                Output::Read { database, from, whole, .. } => {
                    self.reads.push(from);
                    self.whole.push(whole);
                    self.read_of.push(database);
                }
                Output::Apply { database, batch } => {
                    self.applies.push(*batch);
                    self.applied_to.push(database);
                }
                Output::Publish { .. } => self.published += 1,
                Output::StampsRefused { peer_millis, .. } => self.refused_at.push(peer_millis),
                Output::Swept { dropped, .. } => self.swept.push(dropped),
                Output::Fingerprint { .. } | Output::Compare { .. } | Output::Sweep { .. } => {
                    panic!("nothing is there to compare")
                }
                Output::Event(event) => self.events.push(event),
                Output::Close(reason) => self.closed = Some(reason),
            }
        }
    }

    pub(crate) fn hear(&mut self, message: Message) {
        self.input(Input::Received(Box::new(Envelope { from: "a".to_owned(), to: None, message })));
    }

    pub(crate) fn hear_part(&mut self, part: u32, last: bool, rows: Batch) {
        self.hear(Message::Changes(Changes { database: DATABASE.to_owned(), batch: 1, part, last, rows }));
    }

    pub(crate) fn applied(&mut self, outcome: AppliedOutcome) {
        self.input(Input::Applied { database: DATABASE.to_owned(), outcome });
    }

    /// Lets time pass, with everything that falls due on the way.
    pub(crate) fn wait(&mut self, millis: u64) {
        let until = self.now + millis;
        while let Some(due) = self.session.next_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.input(Input::Timeout);
        }
        self.now = until;
    }

    pub(crate) fn wants(&self) -> usize {
        self.sent.iter().filter(|message| matches!(message, Message::Want(_))).count()
    }

    pub(crate) fn parts(&self) -> usize {
        self.sent.iter().filter(|message| matches!(message, Message::Changes(_) | Message::Packed(_))).count()
    }
}
