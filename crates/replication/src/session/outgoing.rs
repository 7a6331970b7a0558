//! What the peer lacks: reading it, splitting it into messages, and keeping within the window.

use crate::dot_set::DotSet;
use crate::message::{Ack, Changes, Problem, ProblemCode, Want};
use crate::row::{Batch, TableRows};
use crate::session::channel::{Channel, InFlight};
use crate::session::comparing::Comparing;
use crate::session::{ReadOutcome, Session};

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
        let mut batch = match outcome {
            ReadOutcome::Batch(batch) => batch,
            ReadOutcome::Nothing => return channel.unreadable = Some(u64::MAX),
            ReadOutcome::Retry { after } => return channel.unreadable = Some(now + after),
        };
        let current = channel.local.as_ref().is_some_and(|local| local.origin == batch.source);
        // What the peer learned from others meanwhile does no harm, and a peer that keeps learning would otherwise never
        // be sent anything. A peer that starts over from before the batch is read for again.
        // So is one that says now that it holds something else.
        if !current || !channel.position.covers_all(&batch.from) || omitted.as_ref() != Some(&channel.held_by_peer) {
            return;
        }
        let size = batch.size();
        let changes = usize::try_from(batch.from.behind(&batch.to)).unwrap_or(usize::MAX);
        channel.change_bytes = Some((size / changes.max(1)).max(1));
        batch.held = channel.held_by_peer.beyond(&batch.from).fingerprint();
        if let Some(problem) = too_large(&batch, self.config.max_row_bytes) {
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
        channel.position.join(&batch.to);
        channel.partial = !batch.is_complete();
        if batch.is_complete() {
            channel.promised.join(&batch.context);
        }
        channel.last_batch += 1;
        channel.ack_due = false;
        channel.in_flight.push_back(InFlight { to: batch.to.clone(), bytes: size });
        let number = channel.last_batch;
        let parts = split(batch, self.config.part_bytes);
        let last = parts.len().saturating_sub(1);
        for (place, rows) in parts.into_iter().enumerate() {
            let part = u32::try_from(place).unwrap_or(u32::MAX);
            let changes = Changes { database: database.to_owned(), batch: number, part, last: place == last, rows };
            channel.unsent += changes.rows.size();
            channel.outbox.push_back(changes);
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

/// Splits a batch into parts of at most `limit` bytes, to within a row; at least one part, which may hold no row.
fn split(batch: Batch, limit: usize) -> Vec<Batch> {
    let Batch { source, from, to, context, held, dropped, tables } = batch;
    let part = |tables| Batch {
        source,
        from: from.clone(),
        to: to.clone(),
        context: context.clone(),
        held,
        dropped: dropped.clone(),
        tables,
    };
    let mut parts = Vec::new();
    let mut current: Vec<TableRows> = Vec::new();
    let mut bytes = 0;
    for mut table in tables {
        let mut rows = Vec::new();
        for row in std::mem::take(&mut table.rows) {
            bytes += row.wire_size();
            rows.push(row);
            if bytes >= limit {
                let full = std::mem::take(&mut rows);
                current.push(TableRows {
                    shape: table.shape.clone(),
                    rows: full,
                    context: table.context.clone(),
                    limited: table.limited,
                    parts: table.parts.clone(),
                });
                parts.push(part(std::mem::take(&mut current)));
                bytes = 0;
            }
        }
        if !rows.is_empty() {
            current.push(TableRows { rows, ..table });
        }
    }
    if !current.is_empty() || parts.is_empty() {
        parts.push(part(current));
    }
    parts
}
