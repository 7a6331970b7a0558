//! The conversation with one remote node, over all databases that both have: a state machine without I/O.
//!
//! The driver feeds it with [`Input`]s and drains [`Output`]s until there are none; it asks for messages to send only
//! while the link has room, which is the back-pressure: what is not sent stays in the database. Time is an argument, in
//! milliseconds of any clock that never goes back. The same inputs give the same outputs.
//!
//! Per database a [`channel::Channel`] keeps what the peer has, what it has been sent, and what came in. Live changes
//! and catch-up are one path: whenever the local version vector is not covered by what the peer has been sent, a batch
//! is read from there. The database is the queue; a slow or absent peer costs no memory.

mod channel;
mod incoming;
mod outgoing;

use std::collections::{BTreeMap, VecDeque};

use crate::hybrid_clock::Timestamp;
use crate::message::{Bye, ByeReason, DatabaseHello, Envelope, Hello, Message, PROTOCOL_VERSION, Problem, ProblemCode};
use crate::origin::Origin;
use crate::row::Batch;
use crate::session::channel::Channel;
use crate::version_vector::VersionVector;

/// What a session is told about this node, and its limits.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// This node's name.
    pub node: String,
    /// Nodes of another cluster are refused.
    pub cluster: String,
    /// A number drawn at the start of this process.
    pub incarnation: u64,
    /// This node's software version.
    pub version: String,
    /// This node's wall clock, milliseconds since 1970, at the start of the session.
    pub wall_millis: i64,
    /// Rows of a batch at most.
    pub max_batch_rows: usize,
    /// Bytes of a batch, to within a row.
    pub max_batch_bytes: usize,
    /// Unacknowledged bytes per database beyond which nothing more is read; one batch is always allowed.
    pub window_bytes: usize,
    /// Bytes of one message, to within a row.
    pub part_bytes: usize,
    /// Milliseconds after which an idle session says that it is alive.
    pub heartbeat: u64,
    /// Milliseconds of silence after which the peer counts as lost.
    pub idle: u64,
    /// Milliseconds after which an unanswered `want` is repeated, and a held database is tried again.
    pub repeat: u64,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            node: String::new(),
            cluster: "default".to_owned(),
            incarnation: 0,
            version: String::new(),
            wall_millis: 0,
            max_batch_rows: 20_000,
            max_batch_bytes: 8 << 20,
            window_bytes: 8 << 20,
            part_bytes: 256 << 10,
            heartbeat: 10_000,
            idle: 45_000,
            repeat: 10_000,
        }
    }
}

/// What the session knows of a local database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalState {
    /// The origin under which it issues changes.
    pub origin: Origin,
    /// What it knows, durably.
    pub have: VersionVector,
    /// Positions in catch-ups that are not complete, by the origin they are read from.
    pub received: BTreeMap<Origin, VersionVector>,
    /// The last stamp given or seen.
    pub clock: Timestamp,
    /// The synced tables' fingerprints.
    pub tables: BTreeMap<String, u64>,
    /// The names of the nodes that origins belong to, as far as they are known.
    pub nodes: BTreeMap<Origin, String>,
}

/// What happens to a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// All databases known so far have been told: the conversation may begin.
    Start,
    /// A message came.
    Received(Box<Envelope>),
    /// Something came that is no message.
    Malformed(String),
    /// A local database appeared, or its state moved.
    Local {
        /// Its shared name.
        database: String,
        /// Its state now.
        state: LocalState,
    },
    /// A local database is not available at the moment.
    LocalGone {
        /// Its shared name.
        database: String,
    },
    /// The answer to [`Output::Read`]; none if it could not be read.
    BatchRead {
        /// The database.
        database: String,
        /// What the peer lacks.
        batch: Option<Batch>,
    },
    /// The answer to [`Output::Apply`].
    Applied {
        /// The database.
        database: String,
        /// What became of the batch.
        outcome: AppliedOutcome,
    },
    /// The time of [`Session::next_timeout`] has come.
    Timeout,
    /// This node stops.
    Stop,
    /// Another link to the same node takes this one's place.
    Replaced,
}

/// What became of a batch that was to be applied.
#[derive(Debug, Clone, PartialEq)]
pub enum AppliedOutcome {
    /// It is durable, or was known.
    Done {
        /// What the database knows now.
        have: VersionVector,
        /// The position in the sender's catch-up, where that is not complete.
        received: Option<VersionVector>,
        /// How many rows it changed.
        rows: usize,
    },
    /// It rests on something that is missing.
    Gap {
        /// What the database knows.
        have: VersionVector,
        /// The position in the sender's catch-up, if there is one.
        received: Option<VersionVector>,
    },
    /// It cannot be taken as things are.
    Held(Problem),
    /// It could not be written now; it is to be tried again after so many milliseconds.
    Retry {
        /// The pause.
        after: u64,
    },
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send a message. Asked for only while the link has room.
    Send(Box<Envelope>),
    /// Read what lies between `from` and the database's vector; answer with [`Input::BatchRead`].
    Read {
        /// The database.
        database: String,
        /// The peer's position.
        from: VersionVector,
    },
    /// Apply a batch; answer with [`Input::Applied`].
    Apply {
        /// The database.
        database: String,
        /// The batch.
        batch: Box<Batch>,
    },
    /// Make the rows that existed before attach known: somebody is there who may lack them.
    Publish {
        /// The database.
        database: String,
    },
    /// Something for the log.
    Event(SessionEvent),
    /// The conversation is over; close the link once everything is sent.
    Close(CloseReason),
}

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEvent {
    /// The peer said who it is and was not refused.
    Opened {
        /// Its name.
        node: String,
        /// Its software version.
        version: String,
    },
    /// The peer said which databases it has.
    Databases {
        /// For each, the nodes that origins belong to, as far as the peer knows.
        databases: BTreeMap<String, BTreeMap<Origin, String>>,
    },
    /// The peer has what we lack.
    CatchUpStarted {
        /// The database.
        database: String,
    },
    /// We have what the peer had when the session began.
    CatchUpComplete {
        /// The database.
        database: String,
        /// Rows that changed.
        rows: u64,
        /// How long it took, in milliseconds.
        millis: u64,
    },
    /// Tables are not the same on both sides; rows of those that differ cannot be taken.
    SchemaDiffers {
        /// The database.
        database: String,
        /// The tables, missing on one side or of another shape.
        tables: Vec<String>,
    },
    /// A batch cannot be taken as things are; nothing of the database is taken until that changes.
    Held {
        /// The database.
        database: String,
        /// Why.
        problem: Problem,
    },
    /// The peer reports a problem of its own.
    PeerProblem(Problem),
}

/// Why a conversation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// This node stops.
    Stopped,
    /// There is another link to this node.
    Replaced,
    /// The peer said goodbye.
    Bye(ByeReason),
    /// Both ends are this process.
    SelfConnection,
    /// The peer was refused.
    Refused(Problem),
    /// Nothing came for too long.
    Silent,
}

/// Where the conversation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Before [`Input::Start`].
    Waiting,
    /// Our `hello` is out, the peer's has not come.
    Greeting,
    Open,
    Closed,
}

/// The conversation with one remote node.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    stage: Stage,
    now: u64,
    remote: Option<Remote>,
    channels: BTreeMap<String, Channel>,
    /// What to do that needs no room on the link.
    actions: VecDeque<Output>,
    /// Messages to send, in order. Bounded: control messages are coalesced, and per database one batch is split at a time.
    sends: VecDeque<Message>,
    last_heard: u64,
    last_sent: u64,
}

/// Who the peer is.
#[derive(Debug)]
struct Remote {
    node: String,
    incarnation: u64,
}

impl Session {
    /// A session over a link that just came up.
    pub fn new(config: SessionConfig, now: u64) -> Self {
        Self {
            config,
            stage: Stage::Waiting,
            now,
            remote: None,
            channels: BTreeMap::new(),
            actions: VecDeque::new(),
            sends: VecDeque::new(),
            last_heard: now,
            last_sent: now,
        }
    }

    /// The peer's name, once it has said it.
    pub fn remote_node(&self) -> Option<&str> {
        self.remote.as_ref().map(|remote| remote.node.as_str())
    }

    /// The databases that both have: name, and how many sequences of ours the peer has not said to have.
    pub fn shared_databases(&self) -> impl Iterator<Item = (&str, u64)> {
        self.channels.iter().filter_map(|(name, channel)| {
            let local = channel.local.as_ref()?;
            channel.remote.as_ref()?;
            Some((name.as_str(), channel.peer_have.behind(&local.have)))
        })
    }

    /// Takes one input.
    pub fn handle(&mut self, now: u64, input: Input) {
        self.now = self.now.max(now);
        if self.stage == Stage::Closed {
            return;
        }
        match input {
            Input::Start => self.start(),
            Input::Received(envelope) => self.received(*envelope),
            Input::Malformed(reason) => self.refuse(ProblemCode::Protocol, reason),
            Input::Local { database, state } => self.local(database, state),
            Input::LocalGone { database } => self.local_gone(&database),
            Input::BatchRead { database, batch } => self.batch_read(&database, batch),
            Input::Applied { database, outcome } => self.applied(&database, outcome),
            Input::Timeout => self.timeout(),
            Input::Stop => self.leave(ByeReason::Shutdown, CloseReason::Stopped),
            Input::Replaced => self.leave(ByeReason::Duplicate, CloseReason::Replaced),
        }
        if self.stage == Stage::Open {
            self.pump();
        }
    }

    /// The next thing to do. Messages come out only if the link has `room`.
    pub fn poll_output(&mut self, room: bool) -> Option<Output> {
        // The end comes last: what is to be said before it goes first.
        let closing = matches!(self.actions.front(), Some(Output::Close(_)));
        if !closing && let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if room && let Some(message) = self.next_message() {
            self.last_sent = self.now;
            let to = self.remote.as_ref().map(|remote| remote.node.clone());
            return Some(Output::Send(Box::new(Envelope { from: self.config.node.clone(), to, message })));
        }
        if closing && self.sends.is_empty() { self.actions.pop_front() } else { None }
    }

    /// Whether there are messages that wait for room.
    pub fn wants_room(&self) -> bool {
        !self.sends.is_empty() || (self.stage == Stage::Open && self.channels.values().any(|channel| channel.ack_due))
    }

    /// When [`Input::Timeout`] is due, on the clock that `now` comes from.
    pub fn next_timeout(&self) -> Option<u64> {
        if self.stage == Stage::Closed {
            return None;
        }
        let alive = self.last_heard + self.config.idle;
        let heartbeat = self.last_sent + self.config.heartbeat;
        self.channels.values().filter_map(Channel::next_timeout).chain([alive, heartbeat]).min()
    }

    fn start(&mut self) {
        if self.stage == Stage::Waiting {
            self.stage = Stage::Greeting;
            self.say_hello();
        }
    }

    fn say_hello(&mut self) {
        let databases = self
            .channels
            .iter()
            .filter_map(|(name, channel)| {
                let local = channel.local.as_ref()?;
                let hello = DatabaseHello {
                    origin: local.origin,
                    have: local.have.clone(),
                    received: local.received.clone(),
                    tables: local.tables.clone(),
                    nodes: local.nodes.clone(),
                };
                Some((name.clone(), hello))
            })
            .collect();
        // An older greeting that still waits says less.
        self.sends.retain(|message| !matches!(message, Message::Hello(_)));
        self.sends.push_front(Message::Hello(Hello {
            protocol: PROTOCOL_VERSION,
            cluster: self.config.cluster.clone(),
            node: self.config.node.clone(),
            incarnation: self.config.incarnation,
            version: self.config.version.clone(),
            clock_millis: self.config.wall_millis,
            databases,
        }));
    }

    fn received(&mut self, envelope: Envelope) {
        if envelope.to.as_ref().is_some_and(|to| *to != self.config.node) {
            return;
        }
        let stranger = self.remote.as_ref().is_some_and(|remote| remote.node != envelope.from);
        if stranger {
            return;
        }
        self.last_heard = self.now;
        match envelope.message {
            Message::Hello(hello) => self.greeted(hello, &envelope.from),
            Message::Bye(bye) => self.end(CloseReason::Bye(bye.reason)),
            Message::Problem(problem) => self.peer_problem(problem),
            _ if self.remote.is_none() => {
                self.refuse(ProblemCode::Protocol, "a message came before hello".to_owned());
            }
            Message::Changes(changes) => self.changes(changes),
            Message::Want(want) => self.want(want),
            Message::Ack(ack) => self.ack(ack),
        }
    }

    fn greeted(&mut self, hello: Hello, from: &str) {
        if let Err((code, text)) = self.check(&hello, from) {
            return self.refuse(code, text);
        }
        if self.remote.is_none() {
            self.remote = Some(Remote { node: hello.node.clone(), incarnation: hello.incarnation });
            self.stage = Stage::Open;
            let event = SessionEvent::Opened { node: hello.node.clone(), version: hello.version };
            self.actions.push_back(Output::Event(event));
        }
        let databases = hello.databases.iter().map(|(name, database)| {
            let mut nodes = database.nodes.clone();
            nodes.insert(database.origin, hello.node.clone());
            (name.clone(), nodes)
        });
        let event = SessionEvent::Databases { databases: databases.collect() };
        self.actions.push_back(Output::Event(event));
        for (name, channel) in &mut self.channels {
            if !hello.databases.contains_key(name) {
                channel.remote = None;
            }
        }
        for (name, database) in hello.databases {
            self.channels.entry(name).or_default().greet(database);
        }
        self.review_shared();
    }

    fn check(&self, hello: &Hello, from: &str) -> Result<(), (ProblemCode, String)> {
        if hello.protocol != PROTOCOL_VERSION {
            let text = format!(
                "node {} speaks protocol {} and node {} speaks {PROTOCOL_VERSION}; run the same version of sync-engine on both",
                hello.node, hello.protocol, self.config.node
            );
            return Err((ProblemCode::ProtocolVersion, text));
        }
        if hello.cluster != self.config.cluster {
            let text = format!(
                "node {} is of cluster {:?} and node {} of {:?}; set the same cluster on both if they belong together",
                hello.node, hello.cluster, self.config.node, self.config.cluster
            );
            return Err((ProblemCode::Cluster, text));
        }
        if hello.node == self.config.node {
            let own = hello.incarnation == self.config.incarnation;
            let code = if own { ProblemCode::SelfConnection } else { ProblemCode::DuplicateNode };
            let text = format!("two nodes are named {:?}; give each node a name of its own", hello.node);
            return Err((code, text));
        }
        if hello.node != from {
            return Err((ProblemCode::Protocol, format!("hello names node {:?} but comes from {from:?}", hello.node)));
        }
        if self.remote.as_ref().is_some_and(|remote| remote.incarnation != hello.incarnation) {
            let text = format!("node {:?} was started anew behind a link that stands", hello.node);
            return Err((ProblemCode::Protocol, text));
        }
        Ok(())
    }

    fn local(&mut self, database: String, state: LocalState) {
        let channel = self.channels.entry(database).or_default();
        let greet_again = channel.update_local(state);
        if greet_again && self.stage != Stage::Waiting {
            self.say_hello();
            self.review_shared();
        }
    }

    fn local_gone(&mut self, database: &str) {
        let gone = self.channels.get_mut(database).is_some_and(|channel| channel.local.take().is_some());
        if gone && self.stage != Stage::Waiting {
            self.say_hello();
        }
    }

    /// Looks at the databases that both sides have, after one side's list changed.
    fn review_shared(&mut self) {
        if self.stage != Stage::Open {
            return;
        }
        for (name, channel) in &mut self.channels {
            channel.review(name, self.now, &mut self.actions);
        }
    }

    fn peer_problem(&mut self, problem: Problem) {
        if let Some(channel) = problem.database.as_ref().and_then(|name| self.channels.get_mut(name)) {
            channel.paused_by_peer = true;
            if channel.told_problem.as_ref() == Some(&problem) {
                return;
            }
            channel.told_problem = Some(problem.clone());
        }
        self.actions.push_back(Output::Event(SessionEvent::PeerProblem(problem)));
    }

    fn timeout(&mut self) {
        if self.now >= self.last_heard + self.config.idle {
            return self.end(CloseReason::Silent);
        }
        if self.stage == Stage::Open && self.now >= self.last_sent + self.config.heartbeat {
            self.channels.values_mut().filter(|channel| channel.is_shared()).for_each(|channel| channel.ack_due = true);
            // With nothing in common the link's own keep-alive has to do.
            self.last_sent = self.now;
        }
    }

    fn refuse(&mut self, code: ProblemCode, text: String) {
        let problem = Problem { code, text, database: None, table: None };
        self.sends.push_back(Message::Problem(problem.clone()));
        let reason = match code {
            ProblemCode::SelfConnection => CloseReason::SelfConnection,
            _ => CloseReason::Refused(problem),
        };
        self.leave(ByeReason::Refused, reason);
    }

    fn leave(&mut self, bye: ByeReason, reason: CloseReason) {
        // Rows that wait stay in the database; what is durable here is worth saying.
        self.sends.retain(|message| !matches!(message, Message::Changes(_)));
        if self.stage == Stage::Open {
            let acks: Vec<Message> =
                self.channels.iter_mut().filter_map(|(name, channel)| channel.due_ack(name)).collect();
            self.sends.extend(acks);
        }
        self.sends.push_back(Message::Bye(Bye { reason: bye }));
        self.actions.push_back(Output::Close(reason));
        self.stage = Stage::Closed;
    }

    fn end(&mut self, reason: CloseReason) {
        self.sends.clear();
        self.actions.push_back(Output::Close(reason));
        self.stage = Stage::Closed;
    }

    fn next_message(&mut self) -> Option<Message> {
        let bulk = !matches!(self.sends.front(), Some(message) if !matches!(message, Message::Changes(_)));
        if bulk && self.stage == Stage::Open {
            // Acknowledgements go before rows: the peer's window waits for them.
            let ack = self.channels.iter_mut().find_map(|(name, channel)| channel.due_ack(name));
            if ack.is_some() {
                return ack;
            }
        }
        self.sends.pop_front()
    }
}
