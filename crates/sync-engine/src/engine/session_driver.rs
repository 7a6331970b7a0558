//! Drives one session: the pure state machine on one side, a link and the databases on the other.
//!
//! The machine is asked for messages only while the link has room, which is the back-pressure: what is not sent stays in
//! the database.

mod acquaintance;
mod answers;
mod behind;
mod ending;
mod following;
mod measuring;
mod showing;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll, StreamExt as _};
use peer_link::{Direction, Frame, Link, LinkReceiver, LinkSender};
use replication::message::{Envelope, ProblemCode};
use replication::session::{CloseReason, Input, Output, PeerDatabase, Session, SessionConfig, SessionEvent};
use sqlite_store::DatabaseState;
use tokio_util::sync::CancellationToken;

use answers::Answer;
use behind::Behind;
pub(crate) use ending::SessionEnd;
use ending::overdue;

use crate::access::{Grant, Role};
use crate::change_event::ApplyCallback;
use crate::engine::membership::Member;
use crate::engine::places::Place;
use crate::engine::registry::{MOST, Seat};
use crate::engine::repeats::STRANGERS;
use crate::engine::session_events;
use crate::engine::shared::{Shared, wall_millis};
use crate::engine::source::Source;
use crate::status::PeerStatus;
use crate::wire;

/// Bytes without a whole message that count as a message on its way; pings are a few.
const PROGRESS: u64 = 4 << 10;

/// Why a link ends whose place another needs.
const NO_PLACE: &str = "many connected and said nothing: the oldest of them were dropped";

/// A database's name and life, and its newest state.
type StateStream = BoxStream<'static, (String, u64, Arc<DatabaseState>)>;

/// How a link came about.
pub(crate) enum Arrival {
    /// This node dialed.
    Dialed {
        /// What the peer may do, by what it has shown.
        grant: Grant,
    },
    /// The peer did, and showed what it has to.
    Accepted {
        /// Its place among those who have not said who they are.
        place: Place,
        /// What it may do.
        grant: Grant,
    },
}

/// One session at work.
pub(crate) struct SessionDriver {
    shared: Arc<Shared>,
    session: Session,
    /// What the peer may do.
    grant: Grant,
    /// Whether that is settled. Where it matters who the peer is, it is told of no database before it has said so.
    acquainted: bool,
    sender: LinkSender,
    receiver: LinkReceiver,
    callback: Option<Arc<ApplyCallback>>,
    /// The databases, each with its life: one that was closed and started again is another one.
    sources: BTreeMap<String, (u64, Source)>,
    /// The states of databases that were taken last; weak, for they hold rows.
    taken: BTreeMap<String, Weak<DatabaseState>>,
    /// What the peer has said last of its databases.
    said: BTreeMap<String, PeerDatabase>,
    states: SelectAll<StateStream>,
    pending: FuturesUnordered<BoxFuture<'static, Answer>>,
    seat: Option<Seat>,
    /// The place among those who have not said who they are.
    place: Option<Place>,
    status: Arc<Mutex<PeerStatus>>,
    /// Ends the session.
    over: CancellationToken,
    number: u64,
    /// Since when the peer lacks something, by database.
    behind: BTreeMap<String, Behind>,
    /// The bytes that are counted: received and sent.
    counted: (u64, u64),
    /// When the status was last made to say how things stand.
    shown: Option<tokio::time::Instant>,
    closing: Option<CloseReason>,
    /// How much had been read from the link when something was last heard.
    heard_at: u64,
    /// When databases were last told what the peer knows.
    learned: tokio::time::Instant,
    /// Set once this side goes: until when the peer may take the goodbye, and how the session ends then.
    leaving: Option<(tokio::time::Instant, CloseReason)>,
}

impl SessionDriver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        link: Link,
        callback: Option<Arc<ApplyCallback>>,
        status: Arc<Mutex<PeerStatus>>,
        arrival: Arrival,
        member: Member,
    ) -> Self {
        let (place, grant) = match arrival {
            Arrival::Accepted { place, grant } => (Some(place), grant),
            Arrival::Dialed { grant } => (None, grant),
        };
        let batch = shared.databases.limits().batch;
        let config = SessionConfig {
            node: shared.node.clone(),
            cluster: member.cluster,
            takes: grant.role == Role::Write,
            incarnation: shared.incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wall_millis: wall_millis(),
            max_batch_rows: batch.rows as u64,
            max_batch_bytes: batch.bytes,
            ..SessionConfig::default()
        };
        let number = shared.next_session();
        let (sender, receiver) = link.split();
        Self {
            session: Session::new(config, shared.millis()),
            acquainted: grant.node.is_some() || !shared.access().tells_peers_apart(),
            grant,
            shared,
            sender,
            receiver,
            callback,
            sources: BTreeMap::new(),
            taken: BTreeMap::new(),
            said: BTreeMap::new(),
            states: SelectAll::new(),
            pending: FuturesUnordered::new(),
            seat: None,
            place,
            status,
            over: member.over,
            number,
            behind: BTreeMap::new(),
            counted: (0, 0),
            shown: None,
            closing: None,
            heard_at: 0,
            learned: tokio::time::Instant::now(),
            leaving: None,
        }
    }

    /// Talks until the session ends; returns the peer's name, if it was the session with that peer, and the end.
    pub(crate) async fn run(mut self) -> (Option<String>, SessionEnd) {
        let mut sources_changed = self.shared.databases.changed();
        self.follow_sources();
        self.handle(Input::Start);
        let over = self.over.clone();
        loop {
            self.act().await;
            if let Some(reason) = self.closing.take() {
                return self.ended(reason);
            }
            let show_at = self.show();
            let deadline = self.session.next_timeout();
            let replaced = self.seat.as_ref().map(|seat| seat.replaced.clone());
            let wanted = self.place.as_ref().map(|place| place.wanted.clone());
            let leaving = self.leaving.clone();
            let learn_at = self.learned + self.shared.databases.limits().upkeep_interval;
            tokio::select! {
                biased;
                () = over.cancelled(), if leaving.is_none() => self.leave(Input::Stop, CloseReason::Stopped),
                () = cancelled(wanted) => return (None, SessionEnd::Lost { reason: NO_PLACE.to_owned() }),
                () = cancelled(replaced), if leaving.is_none() => self.leave(Input::Replaced, CloseReason::Replaced),
                reason = overdue(leaving) => return self.ended(reason),
                Some(answer) = self.pending.next(), if !self.pending.is_empty() => self.take_answer(answer),
                Some((database, life, state)) = self.states.next(), if !self.states.is_empty() => if self.knows(&database, life) {
                    self.take_state(database, &state);
                },
                room = self.sender.room(), if self.session.wants_room() => if !room {
                    return self.lost().await;
                },
                frame = self.receiver.recv(), if self.session.takes_more() => match frame {
                    Some(frame) => self.take_frame(&frame),
                    None => return self.lost().await,
                },
                changed = sources_changed.changed() => if changed.is_ok() {
                    let new = self.follow_sources();
                    self.pass_on(&new).await;
                },
                () = until(&self.shared, deadline) => self.wake(),
                () = tokio::time::sleep_until(learn_at) => self.learn_peer().await,
                // What was done is in the status from the next turn on.
                () = tokio::time::sleep_until(show_at.unwrap_or(learn_at)), if show_at.is_some() => {}
            }
        }
    }

    fn take_frame(&mut self, frame: &Frame) {
        self.heard_at = self.sender.traffic().bytes_read();
        let greeted = self.session.remote_node().is_some();
        match wire::decode(frame, greeted) {
            Ok(envelope) => self.handle(Input::Received(Box::new(envelope))),
            Err(error) => self.handle(Input::Malformed(error.to_string())),
        }
    }

    /// Something is due, unless what it waits for is on its way.
    fn wake(&mut self) {
        let read = self.sender.traffic().bytes_read();
        if read > self.heard_at + PROGRESS {
            self.heard_at = read;
            self.handle(Input::Progress);
        }
        self.handle(Input::Timeout);
    }

    fn handle(&mut self, input: Input) {
        self.session.handle(self.shared.millis(), input);
    }

    /// Does everything that the session wants done and that can be done without waiting for room.
    async fn act(&mut self) {
        while let Some(output) = self.session.poll_output(self.sender.has_room()) {
            match output {
                Output::Send(envelope) => self.send(&envelope).await,
                Output::Read { database, from, omit, whole } => self.read(database, from, omit, whole),
                Output::Fingerprint { database, question } => self.fingerprint(database, question),
                Output::Compare { database, source, answer } => self.compare(database, source, answer),
                Output::Sweep { database, source, answer } => self.sweep(database, source, answer),
                Output::Swept { database, dropped } => self.swept(&database, dropped),
                Output::Apply { database, batch } => self.apply(database, *batch),
                Output::StampsRefused { database, peer_millis } => self.restamp(&database, peer_millis),
                Output::Publish { database } => self.publish(&database),
                Output::Event(event) => self.event(event).await,
                Output::Close(reason) => self.closing = Some(reason),
            }
        }
    }

    async fn send(&mut self, envelope: &Envelope) {
        match wire::encode(envelope) {
            // A link that is gone is noticed by the next read from it.
            Ok(frame) => {
                self.sender.send(frame).await;
            }
            Err(error) => self.handle(Input::Malformed(error.to_string())),
        }
    }

    async fn event(&mut self, mut event: SessionEvent) {
        let node = self.session.remote_node().unwrap_or_default().to_owned();
        if let SessionEvent::Opened { node, incarnation, .. } = &event
            && !self.opened(node, *incarnation)
        {
            return;
        }
        if let SessionEvent::Databases { databases } = &event {
            let admitted = databases.keys().filter(|name| self.grant.admits(name)).cloned();
            if let Err(error) = self.shared.databases.subscribe(admitted).await {
                session_events::store_failed(&self.shared.events, &error);
            }
            self.said.clone_from(databases);
            self.follow_sources();
            let all: Vec<String> = databases.keys().cloned().collect();
            self.pass_on(&all).await;
        }
        if let SessionEvent::PeerProblem(problem)
        | SessionEvent::Refused(problem)
        | SessionEvent::Held { problem, .. } = &event
        {
            let text = problem.text.clone();
            self.status.lock().unwrap_or_else(PoisonError::into_inner).last_error = Some(text);
            // A peer that is refused comes again and again.
            let refused = problem.database.is_none() && !matches!(event, SessionEvent::Held { .. });
            if refused && !self.shared.told.is_news(&format!("{node} {}", problem.text)) {
                return;
            }
        }
        if let SessionEvent::PoliciesDiffer { database, table, here, there } = &event
            && !self.shared.told.is_news(&format!("{node} {database} {table} {here:?} {there:?}"))
        {
            // Two nodes may meet several times before they keep one link.
            return;
        }
        // Who was turned away has no say in what is told of the node whose name it bore.
        let about = if self.seat.is_some() { node.as_str() } else { STRANGERS };
        let (granted, cut_short) = self.shared.allowance.take(about, session_events::lines_of(&event));
        session_events::shorten(&mut event, granted);
        if cut_short {
            session_events::cut_short(&self.shared.events, &node);
        }
        if granted == 0 {
            return;
        }
        let source = session_events::database_of(&event).and_then(|database| self.sources.get(database));
        let names = source.map(|(_, source)| Arc::clone(&source.state().borrow().names)).unwrap_or_default();
        session_events::tell(&self.shared.events, &node, event, &names);
    }

    /// Takes the peer's seat, now that it has said who it is. False if it is not talked to.
    fn opened(&mut self, node: &str, incarnation: u64) -> bool {
        if let Some(reason) = self.acquaint(node) {
            self.handle(Input::TurnedAway(ProblemCode::Denied, reason));
            return false;
        }
        self.sender.admit();
        self.place = None;
        let dialed_by = match self.sender.direction() {
            Direction::Dialed => self.shared.node.clone(),
            Direction::Accepted if !self.shared.registry.has_room_for(node) => {
                let reason =
                    format!("{MOST} nodes are connected, and no more are taken; let it dial another one of them");
                self.handle(Input::TurnedAway(ProblemCode::Other, reason));
                return false;
            }
            Direction::Accepted => node.to_owned(),
        };
        let taken = self.shared.registry.take(node, incarnation, self.number, &dialed_by, &self.status);
        let Some((seat, namesake)) = taken else {
            self.handle(Input::Replaced);
            return false;
        };
        self.seat = Some(seat);
        if namesake && self.shared.told.is_news(&format!("namesake {node}")) {
            session_events::namesake(&self.shared.events, node);
        }
        self.connected_to(node);
        true
    }

    fn connected_to(&self, node: &str) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        (status.node, status.state, status.last_error) = (Some(node.to_owned()), "connected".to_owned(), None);
    }
}

/// Waits until something is taken from this session; for ever where there is nothing to take.
async fn cancelled(token: Option<CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Waits until the engine's clock shows `deadline`; for ever without one.
async fn until(shared: &Shared, deadline: Option<u64>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until((shared.started + Duration::from_millis(deadline)).into()).await,
        None => std::future::pending().await,
    }
}
