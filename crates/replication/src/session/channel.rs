//! One database within a session: what each side has, what was sent, what came in.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::dot_set::DotSet;
use crate::message::{Ack, DatabaseHello, Message, Problem, Received};
use crate::origin::{MAX_ORIGINS, Origin};
use crate::row::Batch;
use crate::session::comparing::{Comparing, Sweep};
use crate::session::incoming::Waiting;
use crate::session::{LocalState, Output, SessionEvent};
use crate::version_vector::VersionVector;

/// Milliseconds between two words about a catch-up that goes on.
const PROGRESS: u64 = 2_000;

/// How often it is said what is durable here, before it counts as heard: links may lose messages.
const REPEATS: u8 = 2;

/// Databases of which both sides know the same have their turn with every so many heartbeats.
pub(super) const ROUND: u64 = 6;

/// A batch that was sent and is not acknowledged.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) to: VersionVector,
    pub(super) bytes: usize,
}

/// A batch that is being applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Applying {
    pub(super) source: Origin,
    pub(super) bytes: usize,
}

/// A batch of which parts are missing.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) number: u64,
    pub(super) next_part: u32,
    pub(super) batch: Batch,
    pub(super) waiting: Waiting,
}

/// A table that is merged by different rules: its name, the rule here and the rule there.
type PoliciesDiffering = (String, Option<String>, Option<String>);

/// Which way changes go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// This side takes what the peer sends.
    pub(super) takes: bool,
    /// The peer takes what is sent to it.
    pub(super) gives: bool,
}

impl Default for Terms {
    /// Both ways.
    fn default() -> Self {
        Self { takes: true, gives: true }
    }
}

/// One database's state in a session.
#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) local: Option<LocalState>,
    pub(super) terms: Terms,
    /// Something is new here that is not said yet.
    pub(super) has_news: bool,
    /// When the peer's refusal of stamps was last looked into.
    pub(super) refused: Option<u64>,
    /// The database was here, and went away.
    pub(super) left: bool,
    pub(super) remote: Option<DatabaseHello>,
    /// What the peer vouched for.
    pub(super) peer_have: VersionVector,
    /// What the peer has or was sent.
    pub(super) position: VersionVector,
    /// What leads there was sent in part, and the rest of it was not read at once: see [`Output::Read`].
    pub(super) partial: bool,
    /// What the peer will know once it has taken what it was sent. It may fall short of `position`: a peer that has
    /// everything from several sides, but the end of no catch-up, is still to be told that nothing lacks.
    pub(super) promised: VersionVector,
    pub(super) in_flight: VecDeque<InFlight>,
    /// Messages with rows that wait to be sent, in order, with their bytes, and the bytes of all.
    pub(super) outbox: VecDeque<(Message, usize)>,
    pub(super) unsent: usize,
    /// About how many bytes the batch takes that is being read, and what each change took in the last one.
    pub(super) expecting: usize,
    pub(super) change_bytes: Option<usize>,
    /// What the peer said to hold when a batch was asked for that is being read.
    pub(super) reading: Option<DotSet>,
    pub(super) comparing: Comparing,
    pub(super) sweep: Option<Box<Sweep>>,
    /// How many questions were asked.
    pub(super) questions: u64,
    /// A question of the peer's is being looked into.
    pub(super) fingerprinting: bool,
    /// Dots that the peer holds the rows of, under others: it says so with a `want`.
    pub(super) held_by_peer: DotSet,
    /// Dots of rows that the peer has under dots that come after them.
    pub(super) spared: DotSet,
    /// Both.
    pub(super) omit: Arc<DotSet>,
    /// The database could not be read: it is tried again at this time, or when its state moves.
    pub(super) unreadable: Option<u64>,
    pub(super) last_batch: u64,
    /// The peer said that it cannot take this database now.
    pub(super) paused_by_peer: bool,
    pub(super) ack_due: bool,
    /// How often it was said since there was something new in it.
    acks: u8,
    pub(super) assembly: Option<Assembly>,
    /// Whole batches that wait, the oldest first, with their sizes.
    pub(super) queue: VecDeque<(Batch, Waiting)>,
    pub(super) applying: Option<Applying>,
    /// A `want` is out, and is to be repeated at this time.
    pub(super) want_repeat: Option<u64>,
    /// The peer has what lacks here; if none of it has come by this time, it was lost and is asked for.
    pub(super) patience: Option<u64>,
    /// Nothing is taken until this time, or until either side's schema changes.
    pub(super) held_until: Option<u64>,
    /// The last problem of ours with this database that was told: it is told once while it lasts.
    pub(super) own_problem: Option<Problem>,
    /// The last problem of the peer's with this database that was told.
    pub(super) peer_problem: Option<Problem>,
    published: bool,
    told_differing: Vec<String>,
    /// What was told of rules that differ: table, rule here, rule there.
    told_policies: Vec<PoliciesDiffering>,
    pub(super) catch_up: Option<CatchUp>,
    caught_up: bool,
}

/// The first catch-up of a session.
#[derive(Debug)]
pub(super) struct CatchUp {
    target: VersionVector,
    since: u64,
    pub(super) rows: u64,
    /// The peer was still making its rows known: they are part of it.
    growing: bool,
    /// When it was last told how far it is, and how far that was.
    told: u64,
    told_rows: u64,
}

impl Channel {
    /// Whether both sides have the database.
    pub(super) fn is_shared(&self) -> bool {
        self.local.is_some() && self.remote.is_some()
    }

    /// Whether the peer has named more origins than there can be.
    pub(super) fn knows_too_many(&self) -> bool {
        self.peer_have.len().max(self.position.len()) > 2 * MAX_ORIGINS
    }

    pub(super) fn next_timeout(&self) -> Option<u64> {
        let sweep = self.sweep.as_ref().and_then(|sweep| sweep.next_timeout());
        let due =
            [self.want_repeat, self.held_until, self.patience, self.unreadable, self.comparing.next_timeout(), sweep];
        let due = due.into_iter().flatten().filter(|at| *at < u64::MAX).min();
        due.filter(|_| self.is_shared())
    }

    /// Takes the peer's word on the database. A new origin, or the first word, starts the conversation over.
    pub(super) fn greet(&mut self, hello: DatabaseHello) {
        let known = self.remote.as_ref().is_some_and(|remote| remote.origin == hello.origin);
        if !known {
            self.peer_have = VersionVector::new();
            self.restart(&hello.have);
            self.compare_anew();
            self.assembly = None;
            self.queue.clear();
        }
        self.peer_have.join(&hello.have);
        self.position.join(&hello.have);
        let received = self.local.as_ref().and_then(|local| hello.received.get(&local.origin)).cloned();
        self.go_on_from(received.as_ref());
        self.paused_by_peer = false;
        // What is held here may fit now: it is asked for again at once.
        self.held_until = self.held_until.map(|_| 0);
        self.remote = Some(hello);
    }

    /// Nothing is known of what both sides have.
    fn compare_anew(&mut self) {
        self.comparing = Comparing::Undecided;
        self.sweep = None;
        (self.held_by_peer, self.spared) = Default::default();
    }

    /// Sends from `have` again.
    pub(super) fn restart(&mut self, have: &VersionVector) {
        self.position = have.clone();
        self.partial = false;
        self.promised = VersionVector::new();
        self.in_flight.clear();
        // Rows of older batches that still wait to be sent would only be refused.
        self.outbox.clear();
        self.unsent = 0;
    }

    /// Sends the rest of a catch-up of which the peer has received a part.
    pub(super) fn go_on_from(&mut self, received: Option<&VersionVector>) {
        if let Some(received) = received {
            self.position.join(received);
            self.partial = true;
        }
    }

    /// A database that comes, comes back, or has another origin now: positions are positions in what that origin's
    /// database would have sent, and its baseline may be another.
    fn begin_local(&mut self, state: LocalState) {
        let have = self.peer_have.clone();
        self.restart(&have);
        let received = self.remote.as_ref().and_then(|remote| remote.received.get(&state.origin)).cloned();
        self.go_on_from(received.as_ref());
        self.published = false;
        self.compare_anew();
        self.unreadable = None;
        (self.ack_due, self.acks) = (self.is_shared(), 0);
        self.local = Some(state);
    }

    /// Takes a new local state; true if the peer is to be greeted again.
    pub(super) fn update_local(&mut self, state: LocalState) -> bool {
        let Some(old) = &mut self.local else {
            self.begin_local(state);
            return true;
        };
        let other = old.tables != state.tables
            || old.policies != state.policies
            || old.nodes != state.nodes
            || old.schemas != state.schemas
            || old.selection != state.selection
            || old.publishing != state.publishing
            || old.issued != state.issued
            || old.dropped != state.dropped
            || old.known != state.known;
        if old.origin != state.origin {
            self.begin_local(state);
            return true;
        }
        if old.tables != state.tables {
            self.held_until = self.held_until.map(|_| 0);
        }
        self.unreadable = None;
        let moved = old.have != state.have;
        // News from the store may be older than the answer to an apply.
        let have = state.have.clone().joined(&old.have);
        *old = LocalState { have, ..state };
        // Peers that need nothing from us learn what we have, so that they do not send it.
        if moved && self.is_shared() {
            self.owe_ack();
        }
        other
    }

    /// Acts on a database that both sides have: publishes baselines, compares schemas, notes what is to be caught up.
    pub(super) fn review(&mut self, name: &str, now: u64, actions: &mut VecDeque<Output>) {
        let (Some(local), Some(remote)) = (&self.local, &self.remote) else { return };
        if !self.published {
            self.published = true;
            actions.push_back(Output::Publish { database: name.to_owned() });
        }
        let policies = policies_differing(local, remote);
        if policies != self.told_policies {
            for (table, here, there) in policies.iter().filter(|differing| !self.told_policies.contains(differing)) {
                let (table, here, there) = (table.clone(), here.clone(), there.clone());
                let event = SessionEvent::PoliciesDiffer { database: name.to_owned(), table, here, there };
                actions.push_back(Output::Event(event));
            }
            self.told_policies = policies;
        }
        let names: BTreeSet<&String> = local.tables.keys().chain(remote.tables.keys()).collect();
        // What is left out on purpose needs no migration.
        let meant = |table: &String| local.selection.limits(table) || remote.selection.limits(table);
        let differs = |table: &&String| local.tables.get(*table) != remote.tables.get(*table) && !meant(table);
        let differing: Vec<String> = names.into_iter().filter(differs).cloned().collect();
        let told = std::mem::replace(&mut self.told_differing, differing.clone());
        let beyond = |all: &[String], known: &[String]| -> Vec<String> {
            all.iter().filter(|table| !known.contains(table)).cloned().collect()
        };
        let (news, agreeing) = (beyond(&differing, &told), beyond(&told, &differing));
        if !news.is_empty() {
            let event = SessionEvent::SchemaDiffers { database: name.to_owned(), tables: news };
            actions.push_back(Output::Event(event));
        }
        if !agreeing.is_empty() {
            let event = SessionEvent::SchemaAgrees { database: name.to_owned(), tables: agreeing };
            actions.push_back(Output::Event(event));
        }
        if self.terms.takes && !self.caught_up && self.catch_up.is_none() && !local.have.covers_all(&remote.have) {
            self.catch_up = Some(CatchUp {
                target: remote.have.clone(),
                since: now,
                rows: 0,
                growing: false,
                told: now,
                told_rows: 0,
            });
            actions.push_back(Output::Event(SessionEvent::CatchUpStarted { database: name.to_owned() }));
        }
    }

    /// Reports how far the first catch-up is now and then, and its end when it has come.
    pub(super) fn follow_catch_up(&mut self, name: &str, now: u64, actions: &mut VecDeque<Output>) {
        let (Some(catch_up), Some(local)) = (&mut self.catch_up, &self.local) else { return };
        let publishing = self.remote.as_ref().is_some_and(|remote| remote.publishing);
        if publishing || std::mem::take(&mut catch_up.growing) {
            catch_up.target.join(&self.peer_have);
            catch_up.growing = publishing;
        }
        if !catch_up.growing && local.have.covers_all(&catch_up.target) {
            actions.push_back(Output::Event(SessionEvent::CatchUpComplete {
                database: name.to_owned(),
                rows: catch_up.rows,
                millis: now.saturating_sub(catch_up.since),
            }));
            self.catch_up = None;
            self.caught_up = true;
        } else if catch_up.rows > catch_up.told_rows && now >= catch_up.told + PROGRESS {
            (catch_up.told, catch_up.told_rows) = (now, catch_up.rows);
            let event = SessionEvent::CatchUpProgress { database: name.to_owned(), rows: catch_up.rows };
            actions.push_back(Output::Event(event));
        }
    }

    /// Where this side stands in the peer's catch-up.
    pub(super) fn received(&self) -> Option<Received> {
        let source = self.remote.as_ref()?.origin;
        let position = self.local.as_ref()?.received.get(&source)?.clone();
        Some(Received { source, position })
    }

    /// There is something to acknowledge.
    pub(super) const fn owe_ack(&mut self) {
        (self.ack_due, self.acks) = (true, 0);
    }

    /// Whether both sides know the same, as far as this one has heard, and have told each other often enough.
    pub(super) fn is_settled(&self) -> bool {
        let alike = self.local.as_ref().is_some_and(|local| local.have == self.peer_have);
        alike
            && self.acks >= REPEATS
            && self.in_flight.is_empty()
            && self.received().is_none()
            && self.next_timeout().is_none()
    }

    /// Whether an acknowledgement is due, and somebody is there to get it.
    pub(super) fn owes_ack(&self) -> bool {
        self.ack_due && self.is_shared() && !self.has_news
    }

    /// The acknowledgement, if one is due.
    pub(super) fn due_ack(&mut self, name: &str) -> Option<Message> {
        if !self.owes_ack() {
            return None;
        }
        self.ack_due = false;
        self.acks = self.acks.saturating_add(1);
        let local = self.local.as_ref()?;
        Some(Message::Ack(Ack {
            database: name.to_owned(),
            origin: local.origin,
            have: local.have.clone(),
            received: self.received(),
            clock: local.clock,
            publishing: local.publishing,
            dropped: local.dropped.clone(),
        }))
    }
}

/// The tables of both sides whose conflicts are decided by different rules.
fn policies_differing(local: &LocalState, remote: &DatabaseHello) -> Vec<PoliciesDiffering> {
    let shared = local.tables.keys().filter(|table| remote.tables.contains_key(*table));
    let rules = shared.map(|table| (table, local.policies.get(table), remote.policies.get(table)));
    let differing = rules.filter(|(_, here, there)| here != there);
    differing.map(|(table, here, there)| (table.clone(), here.cloned(), there.cloned())).collect()
}
