//! The conversation with one remote node, over all databases that both have: a state machine without I/O.
//!
//! The driver feeds it with [`Input`]s and drains [`Output`]s until there are none; it asks for messages to send only
//! while the link has room, which is the back-pressure: what is not sent stays in the database. Time is an argument, in
//! milliseconds of any clock that never goes back. The same inputs give the same outputs.
//!
//! Per database a `Channel` keeps what the peer has, what it has been sent, and what came in. Live changes
//! and catch-up are one path: whenever the local version vector is not covered by what the peer has been sent, a batch
//! is read from there. The database is the queue; a slow or absent peer costs no memory.

mod channel;
mod comparing;
mod flow;
mod handshake;
mod incoming;
mod interface;
mod outgoing;

use std::collections::{BTreeMap, VecDeque};

use crate::message::{Bye, ByeReason, Changes, Envelope, Message, PackedChanges, Problem, ProblemCode};
use crate::origin::Origin;
use crate::session::channel::{Channel, Terms};
use crate::session::flow::Turns;
use crate::version_vector::VersionVector;

pub use interface::{
    AppliedOutcome, CloseReason, Input, LocalState, Output, PART_BYTES, PeerDatabase, ReadOutcome, SessionConfig,
    SessionEvent,
};

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
    /// Whether the peer takes changes.
    gives: bool,
    channels: BTreeMap<String, Channel>,
    /// What to do that needs no room on the link.
    actions: VecDeque<Output>,
    /// Messages without rows to send, in order. Bounded: they are coalesced.
    sends: VecDeque<Message>,
    turns: Turns,
    /// When what is new of databases is to be said.
    hello_at: Option<u64>,
    last_heard: u64,
    last_sent: u64,
    /// How often nothing was left but to say that this side is alive.
    heartbeats: u64,
}

/// Who the peer is.
#[derive(Debug)]
struct Remote {
    node: String,
    incarnation: u64,
    /// What its clock showed, and when by the session's.
    clock: (i64, u64),
}

impl Session {
    /// A session over a link that just came up.
    pub fn new(config: SessionConfig, now: u64) -> Self {
        Self {
            config,
            stage: Stage::Waiting,
            now,
            remote: None,
            gives: true,
            channels: BTreeMap::new(),
            actions: VecDeque::new(),
            sends: VecDeque::new(),
            turns: Turns::default(),
            hello_at: None,
            last_heard: now,
            last_sent: now,
            heartbeats: 0,
        }
    }

    /// The peer's name, once it has said it.
    pub fn remote_node(&self) -> Option<&str> {
        self.remote.as_ref().map(|remote| remote.node.as_str())
    }

    /// Whether the peer takes changes of this node. One that does not has said so.
    pub fn gives(&self) -> bool {
        self.gives
    }

    /// The databases that both have: name, what the peer has said to have, and what it would take of what is here.
    pub fn shared_databases(&self) -> impl Iterator<Item = (&str, &VersionVector, &VersionVector)> {
        self.channels.iter().filter_map(|(name, channel)| {
            let local = channel.local.as_ref()?;
            channel.remote.as_ref()?;
            // Who takes nothing lacks nothing.
            let wanted = if channel.terms.gives { &local.have } else { &channel.peer_have };
            Some((name.as_str(), &channel.peer_have, wanted))
        })
    }

    /// What the peer has said that it knows: database, the origin of its file, its vector.
    pub fn peer_vectors(&self) -> impl Iterator<Item = (&str, Origin, &VersionVector)> {
        self.channels.iter().filter_map(|(name, channel)| {
            let remote = channel.remote.as_ref()?;
            channel.local.as_ref()?;
            Some((name.as_str(), remote.origin, &channel.peer_have))
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
            Input::BatchRead { database, outcome } => self.batch_read(&database, outcome),
            Input::Applied { database, outcome } => self.applied(&database, outcome),
            Input::Fingerprinted { database, answer } => self.fingerprinted(database, answer),
            Input::Compared { database, number, rest, compared } => self.compared(&database, number, rest, compared),
            Input::Progress => self.progress(),
            Input::Timeout => self.timeout(),
            Input::Stop => self.leave(ByeReason::Shutdown, CloseReason::Stopped),
            Input::Admitted { takes } => self.admitted(takes),
            Input::TurnedAway(code, reason) => {
                // Nothing that it said counts.
                self.actions.clear();
                self.refuse(code, reason);
            }
            Input::Replaced => self.leave(ByeReason::Duplicate, CloseReason::Replaced),
        }
        if self.hello_at.is_some_and(|at| self.now >= at) && self.stage != Stage::Closed {
            self.say_hello();
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
        if self.stage != Stage::Open {
            return !self.sends.is_empty();
        }
        self.next_said().is_some() || self.has_changes() || self.channels.values().any(Channel::owes_ack)
    }

    /// When [`Input::Timeout`] is due, on the clock that `now` comes from.
    pub fn next_timeout(&self) -> Option<u64> {
        if self.stage == Stage::Closed {
            return None;
        }
        let alive = self.last_heard + self.config.idle;
        let heartbeat = self.last_sent + self.config.heartbeat;
        self.channels
            .values()
            .filter_map(Channel::next_timeout)
            .chain(self.stuck_at())
            .chain(self.hello_at)
            .chain([alive, heartbeat])
            .min()
    }

    fn start(&mut self) {
        if self.stage == Stage::Waiting {
            self.stage = Stage::Greeting;
            self.say_hello();
        }
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
            Message::Packed(PackedChanges { database, batch, part, last, rows }) => match rows.unpack() {
                Ok(rows) => self.changes(Changes { database, batch, part, last, rows }),
                Err(error) => self.refuse(ProblemCode::Protocol, error.to_string()),
            },
            Message::Want(want) => self.want(want),
            Message::Ack(ack) => self.ack(ack),
            Message::Compare(compare) => self.compare(compare),
            Message::Fingerprints(fingerprints) => self.fingerprints(fingerprints),
        }
        let beyond = self.channels.iter().find(|(_, channel)| channel.knows_too_many());
        if let Some((database, _)) = beyond.filter(|_| self.stage != Stage::Closed) {
            let text = format!("database {database:?}: more origins are named than a database may know");
            self.refuse(ProblemCode::Protocol, text);
        }
    }

    fn local(&mut self, database: String, state: LocalState) {
        let channel = self.channels.entry(database.clone()).or_default();
        let returns = std::mem::take(&mut channel.left) && channel.remote.is_some();
        let greet_again = channel.update_local(state);
        self.settle_terms();
        let Some(channel) = self.channels.get_mut(&database) else { return };
        if greet_again && self.stage != Stage::Waiting {
            channel.has_news = true;
            if returns {
                self.say_hello();
            } else {
                self.say_hello_soon();
            }
            if let Some(channel) = self.channels.get(&database).filter(|_| returns) {
                // What came meanwhile was not taken. The peer may not have heard that the database was away: the greeting that said so
                // may have given way to this one.
                channel.say_want(&database, &mut self.sends);
            }
            self.review_shared();
        }
    }

    fn admitted(&mut self, takes: bool) {
        if std::mem::replace(&mut self.config.takes, takes) != takes {
            self.settle_terms();
            self.say_hello();
        }
    }

    /// Tells the databases which way changes go.
    fn settle_terms(&mut self) {
        let terms = Terms { takes: self.config.takes, gives: self.gives };
        self.channels.values_mut().for_each(|channel| channel.terms = terms);
    }

    fn local_gone(&mut self, database: &str) {
        let Some(channel) = self.channels.get_mut(database) else { return };
        let gone = channel.local.take().is_some();
        channel.left |= gone;
        if gone && self.stage != Stage::Waiting {
            self.say_hello_soon();
        }
    }

    fn peer_problem(&mut self, problem: Problem) {
        if let (ProblemCode::ClockSkew, Some(database), Some(remote)) = (problem.code, &problem.database, &self.remote)
        {
            let (showed, at) = remote.clock;
            let passed = i64::try_from(self.now.saturating_sub(at)).unwrap_or(i64::MAX);
            let peer_millis = showed.saturating_add(passed);
            let now = self.now;
            let heard = self.channels.get_mut(database).filter(|channel| channel.terms.takes);
            let shared = heard.filter(|channel| channel.is_shared());
            // It is looked into once a second at most, however often the peer says so.
            if let Some(channel) = shared.filter(|channel| channel.refused.is_none_or(|at| now >= at + 1_000)) {
                channel.refused = Some(now);
                self.actions.push_back(Output::StampsRefused { database: database.clone(), peer_millis });
            }
        }
        if let Some(channel) = problem.database.as_ref().and_then(|name| self.channels.get_mut(name)) {
            channel.paused_by_peer = true;
            if channel.peer_problem.as_ref() == Some(&problem) {
                return;
            }
            channel.peer_problem = Some(problem.clone());
        }
        self.actions.push_back(Output::Event(SessionEvent::PeerProblem(problem)));
    }

    fn timeout(&mut self) {
        if self.now >= self.last_heard + self.config.idle {
            return self.end(CloseReason::Silent);
        }
        if self.now >= self.last_sent + self.config.heartbeat {
            let mut shared = self.channels.values_mut().filter(|channel| channel.is_shared()).peekable();
            if shared.peek().is_none() {
                // Nothing to acknowledge: a greeting says as well that somebody is here.
                return self.say_hello();
            }
            // All at once would be much of the same where there are many.
            self.heartbeats = self.heartbeats.wrapping_add(1);
            let turn = self.heartbeats;
            let mut due = false;
            for (place, channel) in (0_u64..).zip(shared) {
                channel.ack_due |= !channel.is_settled() || place % channel::ROUND == turn % channel::ROUND;
                due |= channel.ack_due;
            }
            // One at least: it says as well that somebody is here.
            if let Some(channel) = self.channels.values_mut().find(|channel| !due && channel.is_shared()) {
                channel.ack_due = true;
            }
            self.last_sent = self.now;
        }
    }

    /// Bytes of a message that is not complete yet: on a slow link it takes long, and is on its way nevertheless.
    fn progress(&mut self) {
        self.last_heard = self.now;
        let repeat = self.config.repeat;
        for channel in self.channels.values_mut() {
            let later = |at: u64, pauses: u64| at.max(self.now + pauses * repeat);
            channel.want_repeat = channel.want_repeat.map(|at| later(at, 1));
            channel.patience = channel.patience.map(|at| later(at, incoming::PATIENCE));
            channel.comparing.hurry_less(self.now, repeat);
        }
    }

    fn refuse(&mut self, code: ProblemCode, text: String) {
        let problem = Problem { code, text, database: None, table: None };
        self.sends.push_back(Message::Problem(problem.clone()));
        let reason = match code {
            ProblemCode::SelfConnection => CloseReason::SelfConnection,
            _ => {
                self.actions.push_back(Output::Event(SessionEvent::Refused(problem.clone())));
                CloseReason::Refused(problem)
            }
        };
        self.leave(ByeReason::Refused, reason);
    }

    fn leave(&mut self, bye: ByeReason, reason: CloseReason) {
        // Rows that wait stay in the database; what is durable here is worth saying.
        self.channels.values_mut().for_each(|channel| channel.outbox.clear());
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
        self.channels.values_mut().for_each(|channel| channel.outbox.clear());
        self.actions.push_back(Output::Close(reason));
        self.stage = Stage::Closed;
    }

    /// What is said without rows goes first: the peer's window waits for acknowledgements.
    fn next_message(&mut self) -> Option<Message> {
        if self.stage != Stage::Open {
            return self.sends.pop_front();
        }
        if let Some(place) = self.next_said() {
            return self.sends.remove(place);
        }
        let ack = self.channels.iter_mut().find_map(|(name, channel)| channel.due_ack(name));
        ack.or_else(|| self.next_changes())
    }
}
