//! What the peer sends: parts become batches, batches are applied one after the other, gaps are asked for.

use std::collections::VecDeque;

use crate::message::{Changes, Message, Problem, ProblemCode};
use crate::origin::Origin;
use crate::row::{Admission, Batch, RowImage, admit};
use crate::session::channel::{Applying, Assembly, Channel};
use crate::session::{AppliedOutcome, Output, Session, SessionEvent};
use crate::version_vector::VersionVector;

/// How many windows of rows a peer may have waiting here before it counts as not keeping to the protocol.
pub(super) const QUEUED_WINDOWS: usize = 4;

/// How many `repeat` intervals may pass without a word of what the peer is known to have, before it counts as lost.
/// Links keep their promises: this is for what goes missing between them and the session.
pub(super) const PATIENCE: u64 = 3;

/// A part that does not follow the one before.
struct OutOfOrder;

impl Session {
    pub(super) fn changes(&mut self, changes: Changes) {
        let (now, repeat) = (self.now, self.config.repeat);
        let limit = QUEUED_WINDOWS * self.config.window_bytes.max(self.config.max_batch_bytes);
        let Some(channel) = self.channels.get_mut(&changes.database).filter(|channel| channel.is_shared()) else {
            return;
        };
        let database = changes.database.clone();
        if !channel.terms.takes {
            return self.not_taken(&database);
        }
        // The sender vouches for what its rows have taken into account.
        channel.peer_have.join(&changes.rows.context);
        channel.position.join(&changes.rows.context);
        channel.patience = None;
        if let Some(remote) = &mut channel.remote {
            remote.dropped.join(&changes.rows.dropped);
        }
        if !channel.is_swept() {
            // It is asked for when all that was deleted is known.
            return;
        }
        if channel.held_until.is_some() {
            return;
        }
        let waiting = channel.waiting();
        if waiting.beyond_largest() > limit || self.holds_too_much() {
            let text = format!("database {database:?}: more was sent than the window allows");
            return self.refuse(ProblemCode::Protocol, text);
        }
        let Some(channel) = self.channels.get_mut(&database) else { return };
        // On a slow link the answer to a `want` may take longer than the pause before the next one.
        if channel.want_repeat.is_some() && channel.fits(&changes.rows) {
            channel.want_repeat = Some(now + repeat);
        }
        match channel.assemble(changes) {
            Ok(Some(whole)) => channel.queue.push_back(whole),
            Ok(None) => {}
            Err(OutOfOrder) => {
                channel.assembly = None;
                channel.ask_again(&database, now, repeat, &mut self.sends);
            }
        }
    }

    /// Changes came of a peer that may only read, and was told so.
    fn not_taken(&mut self, database: &str) {
        let node = self.remote_node().unwrap_or_default();
        let text = format!(
            "node {node:?} may only read here, and sent changes of database {database:?}: they are not taken; \
             give it the role \"write\" on node {:?} if it is to write",
            self.config.node
        );
        let (code, database) = (ProblemCode::ReadOnly, database.to_owned());
        let problem = Problem { code, text, database: Some(database.clone()), table: None };
        let told = self.channels.get(&database).is_some_and(|channel| channel.own_problem.as_ref() == Some(&problem));
        if !told {
            self.sends.push_back(Message::Problem(problem.clone()));
            self.hold(&database, problem);
        }
    }

    pub(super) fn applied(&mut self, database: &str, outcome: AppliedOutcome) {
        let (now, repeat) = (self.now, self.config.repeat);
        let Some(channel) = self.channels.get_mut(database) else { return };
        let source = channel.applying.take().map(|applying| applying.source);
        match outcome {
            AppliedOutcome::Done { have, received, rows } => {
                channel.note(&have, source, received);
                if let Some(catch_up) = &mut channel.catch_up {
                    catch_up.rows += rows as u64;
                }
                channel.owe_ack();
                channel.want_repeat = None;
                channel.own_problem = None;
            }
            AppliedOutcome::Gap { have, received } => {
                channel.queue.clear();
                channel.note(&have, source, received);
                channel.ask_again(database, now, repeat, &mut self.sends);
            }
            AppliedOutcome::Held(problem) => {
                channel.queue.clear();
                channel.assembly = None;
                channel.held_until = Some(now + repeat);
                let problem = Problem { database: Some(database.to_owned()), ..problem };
                self.sends
                    .retain(|message| !matches!(message, Message::Problem(old) if old.database == problem.database));
                self.sends.push_back(Message::Problem(problem.clone()));
                self.hold(database, problem);
            }
            AppliedOutcome::Retry { after } => {
                // What waits here is in the peer's database too; it is asked for again.
                channel.queue.clear();
                channel.assembly = None;
                channel.held_until = Some(now + after);
            }
        }
        self.note_applied();
    }
}

impl Session {
    /// Tells of a problem of ours with a database, once while it lasts.
    pub(super) fn hold(&mut self, database: &str, problem: Problem) {
        let Some(channel) = self.channels.get_mut(database) else { return };
        if channel.own_problem.as_ref() != Some(&problem) {
            channel.own_problem = Some(problem.clone());
            let event = SessionEvent::Held { database: database.to_owned(), problem };
            self.actions.push_back(Output::Event(event));
        }
    }
}

/// How much is held back in memory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Waiting {
    pub(super) bytes: usize,
    largest_row: usize,
}

impl Waiting {
    fn of(batch: &Batch) -> Self {
        let rows = batch.tables.iter().flat_map(|table| &table.rows).map(RowImage::wire_size);
        // A part takes something even if there is nothing in it.
        Self { bytes: size_of::<Batch>() + batch.size(), largest_row: rows.max().unwrap_or(0) }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, largest_row: self.largest_row.max(other.largest_row) }
    }

    /// A batch ends with the row that reaches the limit, whatever its size: one row is not the sender's fault.
    pub(super) const fn beyond_largest(self) -> usize {
        self.bytes - self.largest_row
    }
}

impl Channel {
    /// What came and is not applied.
    pub(super) fn waiting(&self) -> Waiting {
        let assembled = self.assembly.as_ref().map(|assembly| assembly.waiting).unwrap_or_default();
        self.queue.iter().fold(assembled, |sum, (_, waiting)| sum.plus(*waiting))
    }

    /// Whether a batch goes on from what is here, or from what waits to be applied.
    fn fits(&self, batch: &Batch) -> bool {
        let Some(local) = &self.local else { return false };
        let nothing = VersionVector::new();
        let received = local.received.get(&batch.source).unwrap_or(&nothing);
        let follows = self.queue.back().is_some_and(|(last, _)| last.to.covers_all(&batch.from));
        follows || admit(&local.have, received, batch) != Admission::Gap
    }

    /// Joins a part to those before it; the whole batch with the last.
    fn assemble(&mut self, changes: Changes) -> Result<Option<(Batch, Waiting)>, OutOfOrder> {
        let waiting = Waiting::of(&changes.rows);
        let assembly = if changes.part == 0 {
            // A batch that breaks off and starts anew after a `want` leaves the old one behind.
            Assembly { number: changes.batch, next_part: 1, batch: changes.rows, waiting }
        } else {
            let Some(mut assembly) = self.assembly.take() else { return Err(OutOfOrder) };
            let same = assembly.number == changes.batch
                && assembly.next_part == changes.part
                && assembly.batch.source == changes.rows.source
                && assembly.batch.from == changes.rows.from
                && assembly.batch.to == changes.rows.to
                && assembly.batch.context == changes.rows.context
                && assembly.batch.held == changes.rows.held
                && assembly.batch.dropped == changes.rows.dropped;
            if !same {
                return Err(OutOfOrder);
            }
            assembly.next_part += 1;
            assembly.waiting = assembly.waiting.plus(waiting);
            assembly.batch.tables.extend(changes.rows.tables);
            assembly
        };
        if changes.last {
            self.assembly = None;
            return Ok(Some((assembly.batch, assembly.waiting)));
        }
        self.assembly = Some(assembly);
        Ok(None)
    }

    /// Applies the next batch, and lets waiting come to an end.
    pub(super) fn pump_incoming(&mut self, name: &str, now: u64, repeat: u64, sends: &mut VecDeque<Message>) {
        if self.held_until.is_some_and(|until| now >= until) {
            self.held_until = None;
            self.want_repeat = None;
            self.ask_again(name, now, repeat, sends);
        }
        if self.want_repeat.is_some_and(|at| now >= at) {
            self.want_repeat = None;
            self.ask_again(name, now, repeat, sends);
        }
        if self.patience.is_some_and(|at| now >= at) {
            self.patience = None;
            self.ask_again(name, now, repeat, sends);
        }
        let waits =
            self.applying.is_none() && self.queue.is_empty() && self.held_until.is_none() && self.want_repeat.is_none();
        let takes = self.terms.takes;
        let lacks = takes && self.local.as_ref().is_some_and(|local| !local.have.covers_all(&self.peer_have));
        self.patience =
            (waits && lacks && self.comparing.is_done()).then(|| self.patience.unwrap_or(now + PATIENCE * repeat));
    }

    /// Applies the next batch that has something new, if there is one.
    pub(super) fn start_apply(&mut self, name: &str, actions: &mut VecDeque<Output>) -> bool {
        while let Some((mut batch, waiting)) = self.queue.pop_front() {
            let known = self.local.as_ref().is_some_and(|local| local.have.covers_all(&batch.context));
            if known {
                self.owe_ack();
                continue;
            }
            if let Some(local) = self.local.as_ref().filter(|_| !self.terms.gives) {
                // The peer is told nothing of what was deleted here, so that it lacks nothing of that.
                batch.dropped.join(&local.dropped);
            }
            self.applying = Some(Applying { source: batch.source, bytes: waiting.bytes });
            actions.push_back(Output::Apply { database: name.to_owned(), batch: Box::new(batch) });
            return true;
        }
        false
    }

    /// Takes note of what an apply told about the database, which may be newer than the last word of its state.
    fn note(&mut self, have: &VersionVector, source: Option<Origin>, received: Option<VersionVector>) {
        let Some(local) = &mut self.local else { return };
        local.have.join(have);
        if let Some(source) = source {
            match received {
                Some(position) => {
                    local.received.insert(source, position);
                }
                None => {
                    local.received.remove(&source);
                }
            }
        }
    }

    /// Says what is here and asks for what lacks, unless that was just done.
    fn ask_again(&mut self, name: &str, now: u64, repeat: u64, sends: &mut VecDeque<Message>) {
        if self.local.is_none() || self.want_repeat.is_some() {
            return;
        }
        self.want_repeat = Some(now + repeat);
        self.say_want(name, sends);
    }
}
