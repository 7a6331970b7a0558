//! Replicas that talk through real sessions over links that delay, reorder, lose, repeat and break, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use replication::codec::{Encoded, Limits, PackedBatch, decode_binary, decode_text, encode};
use replication::message::Envelope;
use replication::reconcile::{Answer, Question};
use replication::session::{AppliedOutcome, Input, LocalState, Output, ReadOutcome, Session, SessionConfig};
use replication::{Batch, DotSet, Origin, Selection, Value, VersionVector};

use crate::model::{Applied, Replica, Rules, Writes};
use crate::random::Random;

const DATABASE: &str = "db";

/// Most batches take several messages.
const PART_BYTES: usize = 200;

/// A directed pair of nodes: whose session, with whom.
type Side = (usize, usize);

/// What happens at a time.
enum Event {
    Deliver { side: Side, epoch: u64, bytes: Encoded },
    Read { side: Side, epoch: u64, from: VersionVector, omit: Arc<DotSet> },
    Fingerprint { side: Side, epoch: u64, question: Question },
    Compare { side: Side, epoch: u64, source: Origin, answer: Answer },
    Sweep { side: Side, epoch: u64, answer: Answer },
    Apply { side: Side, epoch: u64, batch: Box<Batch> },
    Connect { edge: Side },
    Moved { node: usize },
}

/// How hard the network is.
#[derive(Clone, Copy)]
pub(crate) struct Weather {
    /// One message in so many is lost; 0: none.
    pub(crate) loss: u64,
    /// One message in so many comes twice; 0: none.
    pub(crate) repeats: u64,
    /// The longest delay of a message in milliseconds; messages overtake each other.
    pub(crate) delay: u64,
}

pub(crate) struct Cluster<'a> {
    pub(crate) replicas: Vec<Replica>,
    pub(crate) writes: Writes,
    pub(crate) weather: Weather,
    rules: Rules<'a>,
    edges: BTreeSet<Side>,
    sessions: BTreeMap<Side, Session>,
    epochs: BTreeMap<Side, u64>,
    /// Links that are cut and not to be connected.
    parted: BTreeSet<Side>,
    dead: BTreeSet<usize>,
    incarnations: Vec<u64>,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    pub(crate) now: u64,
    batch_rows: usize,
    /// Whether nodes forget deletions.
    pub(crate) drops: bool,
    /// Nodes that may only read: others take nothing of them.
    pub(crate) readers: BTreeSet<usize>,
    /// Whether applications write there all the same.
    pub(crate) readers_write: bool,
    /// Rows that were read for peers.
    pub(crate) rows_sent: usize,
    random: Random,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(edges: BTreeSet<Side>, nodes: u8, rules: Rules<'a>, weather: Weather, seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let batch_rows = 1 + random.index(6);
        let mut cluster = Self {
            replicas: (1..=nodes).map(Replica::new).collect(),
            writes: Writes::new(),
            weather,
            rules,
            edges,
            sessions: BTreeMap::new(),
            epochs: BTreeMap::new(),
            parted: BTreeSet::new(),
            dead: BTreeSet::new(),
            incarnations: vec![1; usize::from(nodes)],
            events: BTreeMap::new(),
            next_event: 0,
            now: 0,
            batch_rows,
            drops: false,
            readers: BTreeSet::new(),
            readers_write: false,
            rows_sent: 0,
            random,
        };
        for edge in cluster.edges.clone() {
            cluster.plan(1, Event::Connect { edge });
        }
        cluster
    }

    /// The same, of files that were there before.
    pub(crate) fn over(
        files: &[BTreeMap<i64, Value>],
        edges: BTreeSet<Side>,
        rules: Rules<'a>,
        weather: Weather,
        seed: u64,
    ) -> Self {
        let nodes = u8::try_from(files.len()).expect("a cluster is small");
        let mut cluster = Self::new(edges, nodes, rules, weather, seed);
        cluster.replicas.iter_mut().zip(files).for_each(|(replica, rows)| replica.seed_baseline(rows));
        cluster
    }

    fn plan(&mut self, after: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now + after, self.next_event), event);
    }

    fn epoch(&self, side: Side) -> u64 {
        self.epochs.get(&edge_of(side)).copied().unwrap_or(0)
    }

    /// Breaks a link; both sides notice.
    fn disconnect(&mut self, edge: Side) {
        *self.epochs.entry(edge).or_insert(0) += 1;
        self.sessions.remove(&edge);
        self.sessions.remove(&(edge.1, edge.0));
        let pause = 50 + self.random.below(2_000);
        self.plan(pause, Event::Connect { edge });
    }

    fn connect(&mut self, edge: Side) {
        let impossible = self.parted.contains(&edge) || self.dead.contains(&edge.0) || self.dead.contains(&edge.1);
        if impossible || self.sessions.contains_key(&edge) {
            return;
        }
        *self.epochs.entry(edge).or_insert(0) += 1;
        for side in [edge, (edge.1, edge.0)] {
            let config = SessionConfig {
                node: format!("n{}", side.0),
                incarnation: self.incarnations[side.0],
                takes: !self.readers.contains(&side.1),
                part_bytes: PART_BYTES,
                window_bytes: 2_000,
                buffer_bytes: 3_000,
                ..SessionConfig::default()
            };
            let mut session = Session::new(config, self.now);
            session.handle(self.now, Input::Local { database: DATABASE.to_owned(), state: self.state(side.0) });
            session.handle(self.now, Input::Start);
            self.sessions.insert(side, session);
        }
        self.drain(edge);
        self.drain((edge.1, edge.0));
    }

    fn state(&self, node: usize) -> LocalState {
        let replica = &self.replicas[node];
        LocalState {
            origin: replica.origin,
            have: replica.have.clone(),
            received: replica.received.clone(),
            clock: replica.clock.last(),
            tables: BTreeMap::from([("t".to_owned(), 1)]),
            policies: BTreeMap::new(),
            retired: BTreeSet::new(),
            nodes: BTreeMap::new(),
            schemas: Arc::default(),
            selection: Selection::default(),
            publishing: false,
            issued: (replica.have.get(replica.origin) > 0).then(|| "t".to_owned()).into_iter().collect(),
            held: replica.exchanges.keys().map(|source| (*source, replica.held(*source))).collect(),
            dropped: replica.dropped.clone(),
            known: Arc::default(),
        }
    }

    fn input(&mut self, side: Side, input: Input) {
        let now = self.now;
        if let Some(session) = self.sessions.get_mut(&side) {
            session.handle(now, input);
            self.drain(side);
        }
    }

    /// Tells all sessions of a node that its vector moved.
    fn moved(&mut self, node: usize) {
        let sides: Vec<Side> = self.sessions.keys().copied().filter(|side| side.0 == node).collect();
        for side in sides {
            let state = self.state(node);
            self.input(side, Input::Local { database: DATABASE.to_owned(), state });
        }
    }

    fn drain(&mut self, side: Side) {
        while let Some(output) = self.sessions.get_mut(&side).and_then(|session| session.poll_output(true)) {
            let epoch = self.epoch(side);
            let work = 1 + self.random.below(20);
            match output {
                Output::Send(envelope) => self.send(side, epoch, &envelope),
                Output::Read { from, omit, .. } => self.plan(work, Event::Read { side, epoch, from, omit }),
                Output::Fingerprint { question, .. } => {
                    self.plan(work, Event::Fingerprint { side, epoch, question });
                }
                Output::Sweep { answer, .. } => self.plan(work, Event::Sweep { side, epoch, answer }),
                Output::Swept { dropped, .. } => {
                    let millis = self.millis();
                    let replica = &mut self.replicas[side.0];
                    replica.dropped.join(&dropped);
                    replica.dropped_until = replication::Timestamp::from_millis(millis + 1_000_000);
                    self.plan(1, Event::Moved { node: side.0 });
                }
                Output::Compare { source, answer, .. } => {
                    self.plan(work, Event::Compare { side, epoch, source, answer });
                }
                Output::Apply { batch, .. } => self.plan(work, Event::Apply { side, epoch, batch }),
                Output::Close(_) => return self.disconnect(edge_of(side)),
                Output::Publish { .. } | Output::StampsRefused { .. } | Output::Event(_) => {}
            }
        }
    }

    fn send(&mut self, from: Side, epoch: u64, envelope: &Envelope) {
        let bytes = encode(envelope).expect("every message can be encoded");
        let side = (from.1, from.0);
        let lost = self.weather.loss > 0 && self.random.chance(self.weather.loss);
        let twice = self.weather.repeats > 0 && self.random.chance(self.weather.repeats);
        for _ in 0..usize::from(!lost) + usize::from(twice) {
            let delay = 1 + self.random.below(self.weather.delay);
            self.plan(delay, Event::Deliver { side, epoch, bytes: bytes.clone() });
        }
    }

    /// Does everything that is due until `until`.
    pub(crate) fn run(&mut self, until: u64) {
        loop {
            let event = self.events.keys().next().map(|(at, _)| *at);
            let timeout = self.sessions.values().filter_map(Session::next_timeout).min();
            let Some(at) = [event, timeout].into_iter().flatten().min().filter(|at| *at <= until) else { break };
            self.now = self.now.max(at);
            if event == Some(at) {
                let (_, event) = self.events.pop_first().expect("there is a next event");
                self.happen(event);
            } else {
                let due: Vec<Side> = self
                    .sessions
                    .iter()
                    .filter(|(_, session)| session.next_timeout().is_some_and(|due| due <= at))
                    .map(|(side, _)| *side)
                    .collect();
                due.into_iter().for_each(|side| self.input(side, Input::Timeout));
            }
        }
        self.now = until;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Connect { edge } => self.connect(edge),
            Event::Moved { node } => self.moved(node),
            Event::Sweep { side, epoch, answer } => self.sweep(side, epoch, &answer),
            Event::Deliver { side, epoch, bytes } if epoch == self.epoch(side) => {
                let limits = Limits::default();
                let envelope = match &bytes {
                    Encoded::Text(text) => decode_text(text, &limits),
                    Encoded::Binary(bytes) => decode_binary(bytes, &limits),
                };
                let envelope = envelope.expect("what was encoded can be decoded");
                self.input(side, Input::Received(Box::new(envelope)));
            }
            Event::Read { side, epoch, from, omit } if epoch == self.epoch(side) => {
                let batch = self.replicas[side.0].read_without(&from, &omit, self.batch_rows);
                self.rows_sent += batch.row_count();
                // What is at hand is packed.
                let outcome = if omit.is_empty() && self.now.is_multiple_of(2) {
                    let packed = PackedBatch::of(&batch, PART_BYTES).expect("every batch can be packed");
                    ReadOutcome::Packed(Arc::new(packed))
                } else {
                    ReadOutcome::Batch(batch)
                };
                self.input(side, Input::BatchRead { database: DATABASE.to_owned(), outcome });
            }
            Event::Apply { side, epoch, batch } => self.apply(side, epoch, &batch),
            Event::Fingerprint { side, epoch, question } if epoch == self.epoch(side) => {
                // A database may be busy.
                let answer = (!self.random.chance(6)).then(|| self.replicas[side.0].answer(&question));
                self.input(side, Input::Fingerprinted { database: DATABASE.to_owned(), answer });
            }
            Event::Compare { side, epoch, source, answer } => self.compare(side, epoch, source, &answer),
            // The link that it belonged to is gone.
            Event::Deliver { .. } | Event::Read { .. } | Event::Fingerprint { .. } => {}
        }
    }

    /// So may a part of a sweep.
    fn sweep(&mut self, side: Side, epoch: u64, answer: &Answer) {
        let current = epoch == self.epoch(side);
        if self.dead.contains(&side.0) || (!current && self.random.chance(2)) {
            return;
        }
        let now = self.millis();
        let compared = self.replicas[side.0].sweep(answer, now);
        if current {
            let (number, rest, compared) = (answer.number, answer.rest.clone(), Some(compared));
            self.input(side, Input::Compared { database: DATABASE.to_owned(), number, rest, compared });
        }
        self.moved(side.0);
    }

    /// A node forgets deletions: those that all others know, or any, as they are old.
    fn drop_tombstones(&mut self, node: usize) {
        let any = self.random.chance(6);
        let have = self.replicas[node].have.clone();
        let known = self.living().map(|replica| &replica.have).fold(have.clone(), |known, other| known.met(other));
        if any || self.living().all(|replica| have.covers_all(&replica.have)) {
            self.replicas[node].drop_tombstones(&known, any);
            self.moved(node);
        }
    }

    /// A comparison that was under way when its link broke may still be noted.
    fn compare(&mut self, side: Side, epoch: u64, source: Origin, answer: &Answer) {
        let current = epoch == self.epoch(side);
        if self.dead.contains(&side.0) || self.random.chance(6) {
            if current {
                let (number, rest) = (answer.number, answer.rest.clone());
                self.input(side, Input::Compared { database: DATABASE.to_owned(), number, rest, compared: None });
            }
            return;
        }
        let compared = self.replicas[side.0].compare(source, answer);
        if current {
            let (number, rest, compared) = (answer.number, answer.rest.clone(), Some(compared));
            self.input(side, Input::Compared { database: DATABASE.to_owned(), number, rest, compared });
        }
        self.moved(side.0);
    }

    /// An apply that was under way when its link broke may still take place.
    fn apply(&mut self, side: Side, epoch: u64, batch: &Batch) {
        let current = epoch == self.epoch(side);
        if self.dead.contains(&side.0) || (!current && self.random.chance(2)) {
            return;
        }
        let now = self.millis();
        let replica = &mut self.replicas[side.0];
        let applied = replica.apply(batch, now, &self.rules);
        let (have, received) = (replica.have.clone(), replica.received.get(&batch.source).cloned());
        if current {
            let outcome = match applied {
                Applied::Done => AppliedOutcome::Done { have, received, rows: batch.row_count() },
                Applied::Gap => AppliedOutcome::Gap { have, received },
            };
            self.input(side, Input::Applied { database: DATABASE.to_owned(), outcome });
        }
        self.moved(side.0);
    }

    fn millis(&self) -> i64 {
        1_000_000 + i64::try_from(self.now).unwrap()
    }

    /// Applications, cuts, partitions, crashes and deaths, until `until`.
    pub(crate) fn storm(&mut self, until: u64, deaths: bool) {
        while self.now < until {
            let pause = 1 + self.random.below(400);
            self.run(self.now + pause);
            let node = self.random.index(self.replicas.len());
            let edges: Vec<Side> = self.edges.iter().copied().collect();
            let edge = edges[self.random.index(edges.len())];
            match self.random.below(24) {
                0 => self.disconnect(edge),
                1 => self.part(edge),
                2 => self.heal(),
                3 => self.restart(node),
                4 if deaths && self.dead.is_empty() => self.die(node),
                5..8 if self.drops => self.drop_tombstones(node),
                _ => self.write(node),
            }
        }
    }

    fn write(&mut self, node: usize) {
        if self.dead.contains(&node) || (self.readers.contains(&node) && !self.readers_write) {
            return;
        }
        // Wall clocks of machines differ.
        let now = self.millis() + 50 * i64::try_from(node).unwrap();
        for _ in 0..1 + self.random.below(4) {
            self.replicas[node].write(&mut self.random, now, &self.rules, &mut self.writes);
        }
        self.moved(node);
    }

    /// The process ends and starts again: what is not durable is gone.
    fn restart(&mut self, node: usize) {
        self.incarnations[node] += 1;
        let edges: Vec<Side> = self.edges.iter().copied().filter(|edge| edge.0 == node || edge.1 == node).collect();
        edges.into_iter().for_each(|edge| self.disconnect(edge));
    }

    fn die(&mut self, node: usize) {
        self.dead.insert(node);
        self.restart(node);
    }

    /// Breaks a link until all are healed.
    pub(crate) fn part(&mut self, edge: Side) {
        self.parted.insert(edge);
        self.disconnect(edge);
    }

    /// Ends all partitions.
    pub(crate) fn heal(&mut self) {
        for edge in std::mem::take(&mut self.parted) {
            self.plan(1, Event::Connect { edge });
        }
    }

    /// Runs until all that live know the same, readers perhaps more, and nothing is on its way, for half an hour at most.
    pub(crate) fn settle(&mut self) -> bool {
        let deadline = self.now + 1_800_000;
        while self.now < deadline {
            self.run(self.now + 5_000);
            let first = self.writers().next().expect("somebody lives");
            let equal = self.writers().all(|replica| replica.have == first.have);
            if equal && self.living().all(|replica| replica.have.covers_all(&first.have)) {
                return true;
            }
        }
        false
    }

    /// Those that live and may write.
    pub(crate) fn writers(&self) -> impl Iterator<Item = &Replica> {
        let writes = |node: &usize| !self.dead.contains(node) && !self.readers.contains(node);
        self.replicas.iter().enumerate().filter(move |(node, _)| writes(node)).map(|(_, replica)| replica)
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().enumerate().filter(|(node, _)| !self.dead.contains(node)).map(|(_, replica)| replica)
    }
}

const fn edge_of(side: Side) -> Side {
    if side.0 < side.1 { side } else { (side.1, side.0) }
}
