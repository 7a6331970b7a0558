//! What the peer lacks: reading it, splitting it into messages, and keeping within the window.

use std::sync::Arc;

use crate::codec::{PackedBatch, PackedPart};
use crate::dot_set::DotSet;
use crate::message::{Ack, Changes, Message, PackedChanges, Problem, ProblemCode, Want};
use crate::origin::Origin;
use crate::row::{Batch, Part, RowsOfTable, TableRows};
use crate::session::channel::{Channel, InFlight};
use crate::session::comparing::Comparing;
use crate::session::{ReadOutcome, Session};
use crate::version_vector::VersionVector;

impl Session {
    /// Starts whatever can be started now, on every database.
    pub(super) fn pump(&mut self) {
        let (now, repeat, together) = (self.now, self.config.repeat, self.config.max_batch_rows);
        for (name, channel) in &mut self.channels {
            if !channel.is_shared() {
                continue;
            }
            channel.unreadable = channel.unreadable.filter(|until| now < *until);
            channel.pump_sweep(name, now, repeat, &mut self.actions, &mut self.sends);
            channel.pump_comparing(name, now, repeat, together, &mut self.actions, &mut self.sends);
            channel.pump_incoming(name, now, repeat, &mut self.sends);
            channel.follow_catch_up(name, now, &mut self.actions);
        }
        self.start_reads();
        self.start_applies();
    }

    pub(super) fn batch_read(&mut self, database: &str, outcome: ReadOutcome) {
        let now = self.now;
        let Some(channel) = self.channels.get_mut(database) else { return };
        let omitted = channel.reading.take();
        let mut read = match outcome {
            ReadOutcome::Batch(batch) => Read::Open(batch),
            ReadOutcome::Packed(batch) => Read::Packed(batch),
            ReadOutcome::Nothing => return channel.unreadable = Some(u64::MAX),
            ReadOutcome::Retry { after } => return channel.unreadable = Some(now + after),
        };
        let Way { source, from, to, context } = read.way();
        let current = channel.local.as_ref().is_some_and(|local| local.origin == source);
        // What the peer learned from others meanwhile does no harm, and a peer that keeps learning would otherwise never
        // be sent anything. A peer that starts over from before the batch is read for again.
        // So is one that says now that it holds something else.
        if !current || !channel.position.covers_all(from) || omitted.as_ref() != Some(&channel.held_by_peer) {
            return;
        }
        let size = read.size();
        let changes = usize::try_from(from.behind(to)).unwrap_or(usize::MAX);
        let held = channel.held_by_peer.beyond(from).fingerprint();
        let (to, context) = (to.clone(), context.clone());
        channel.change_bytes = Some((size / changes.max(1)).max(1));
        if let Some(problem) = read.too_large(self.config.max_row_bytes) {
            channel.unreadable = Some(u64::MAX);
            self.hold(database, problem);
            return;
        }
        if self.overflows() {
            // It is read again when there is room for it: now it is known how large it is.
            self.turns.short_of_room = true;
            return;
        }
        let Some(channel) = self.channels.get_mut(database) else { return };
        channel.position.join(&to);
        channel.partial = to != context;
        if !channel.partial {
            channel.promised.join(&context);
        }
        channel.last_batch += 1;
        channel.ack_due = false;
        channel.in_flight.push_back(InFlight { to, bytes: size });
        if let Read::Open(batch) = &mut read {
            batch.held = held;
        }
        for (message, bytes) in read.messages(database, channel.last_batch, self.config.part_bytes) {
            channel.unsent += bytes;
            channel.outbox.push_back((message, bytes));
        }
    }

    pub(super) fn want(&mut self, want: Want) {
        let Some(channel) = self.channels.get_mut(&want.database) else { return };
        channel.paused_by_peer = false;
        channel.unreadable = None;
        channel.peer_have.join(&want.have);
        channel.restart(&want.have);
        channel.held_by_peer = want.held;
        channel.comparing = Comparing::Done;
        let origin = channel.local.as_ref().map(|local| local.origin);
        let received = want.received.filter(|received| Some(received.source) == origin);
        channel.go_on_from(received.as_ref().map(|received| &received.position));
    }

    pub(super) fn ack(&mut self, ack: Ack) {
        let Some(channel) = self.channels.get_mut(&ack.database) else { return };
        if !channel.peer_have.covers_all(&ack.have) {
            // It takes changes again: the next problem is a new one.
            channel.peer_problem = None;
        }
        channel.peer_have.join(&ack.have);
        channel.position.join(&ack.have);
        if let Some(remote) = channel.remote.as_mut().filter(|remote| remote.origin == ack.origin) {
            remote.publishing = ack.publishing;
            remote.dropped.join(&ack.dropped);
        }
        let mut reached = channel.peer_have.clone();
        if let (Some(received), Some(local)) = (ack.received, &channel.local)
            && received.source == local.origin
        {
            reached.join(&received.position);
        }
        channel.in_flight.retain(|batch| !reached.covers_all(&batch.to));
        channel.forget_omitted();
    }
}

impl Channel {
    /// What the peer has taken need not be left out any more.
    fn forget_omitted(&mut self) {
        for omitted in [&mut self.held_by_peer, &mut self.spared] {
            if !omitted.is_empty() && omitted.beyond(&self.peer_have).is_empty() {
                *omitted = DotSet::new();
            }
        }
    }
}

/// Why a batch cannot be sent, if a row in it is larger than a message may be.
fn too_large(batch: &Batch, limit: usize) -> Option<Problem> {
    let rows = batch.tables.iter().flat_map(|table| table.rows.iter().map(move |row| (table, row)));
    let (table, row) = rows.max_by_key(|(_, row)| row.wire_size()).filter(|(_, row)| row.wire_size() > limit)?;
    let key: Vec<String> = row.key(&table.shape).into_iter().map(ToString::to_string).collect();
    let text = format!(
        "the row of table {:?} with key ({}) is about {} bytes and a row can be sent up to {limit}; nothing of this database goes to the peer until the row is made smaller or deleted",
        table.shape.name,
        key.join(", "),
        row.wire_size()
    );
    Some(Problem { code: ProblemCode::TooLarge, text, database: None, table: Some(table.shape.name.clone()) })
}

/// A batch that was read.
enum Read {
    Open(Batch),
    Packed(Arc<PackedBatch>),
}

/// From where a batch leads to where.
struct Way<'a> {
    source: Origin,
    from: &'a VersionVector,
    to: &'a VersionVector,
    context: &'a VersionVector,
}

impl Read {
    fn way(&self) -> Way<'_> {
        match self {
            Self::Open(Batch { source, from, to, context, .. }) => Way { source: *source, from, to, context },
            Self::Packed(batch) => {
                let PackedBatch { source, from, to, context, .. } = batch.as_ref();
                Way { source: *source, from, to, context }
            }
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Open(batch) => batch.size(),
            Self::Packed(batch) => batch.size(),
        }
    }

    /// Why it cannot be sent, if it cannot.
    fn too_large(&self, limit: usize) -> Option<Problem> {
        match self {
            Self::Open(batch) => too_large(batch, limit),
            Self::Packed(batch) if batch.largest_row() <= limit => None,
            Self::Packed(batch) => match batch.unpack() {
                Ok(batch) => too_large(&batch, limit),
                Err(error) => {
                    let text = format!(
                        "rows that were changed together cannot be sent together ({error}); nothing of this database goes to the peer until they are made smaller or deleted"
                    );
                    Some(Problem { code: ProblemCode::TooLarge, text, database: None, table: None })
                }
            },
        }
    }

    /// Its messages, at least one, with the bytes of each.
    fn messages(self, database: &str, batch: u64, part_bytes: usize) -> Vec<(Message, usize)> {
        let database = || database.to_owned();
        match self {
            Self::Open(rows) => {
                let parts = split(rows, part_bytes);
                let count = parts.len();
                let message = |(rows, part): (Batch, u32)| {
                    let (bytes, last) = (rows.size(), is_last(part, count));
                    (Message::Changes(Changes { database: database(), batch, part, last, rows }), bytes)
                };
                parts.into_iter().zip(0..).map(message).collect()
            }
            Self::Packed(packed) => {
                let count = packed.parts.len();
                let message = |(rows, part): (&PackedPart, u32)| {
                    let (rows, last) = (rows.clone(), is_last(part, count));
                    let bytes = rows.size();
                    (Message::Packed(PackedChanges { database: database(), batch, part, last, rows }), bytes)
                };
                packed.parts.iter().zip(0..).map(message).collect()
            }
        }
    }
}

fn is_last(part: u32, parts: usize) -> bool {
    usize::try_from(part).is_ok_and(|part| part + 1 == parts)
}

/// Splits a batch into parts of at most `limit` bytes, to within a row; at least one part, which may hold no row.
fn split(batch: Batch, limit: usize) -> Vec<Batch> {
    let parts = batch.parts(limit);
    let Batch { source, from, to, context, held, dropped, tables } = batch;
    // Parts are in the order of the rows.
    let mut tables: Vec<_> = tables
        .into_iter()
        .map(|mut table| {
            let rows = std::mem::take(&mut table.rows);
            (table, rows.into_iter())
        })
        .collect();
    let mut part = |part: Part| {
        let of_table = |(table, range): RowsOfTable| {
            let (like, rows) = &mut tables[table];
            TableRows { rows: rows.take(range.len()).collect(), ..like.clone() }
        };
        let tables = part.rows.into_iter().map(of_table).collect();
        let (from, to, context, dropped) = (from.clone(), to.clone(), context.clone(), dropped.clone());
        Batch { source, from, to, context, held, dropped, tables }
    };
    parts.into_iter().map(&mut part).collect()
}
