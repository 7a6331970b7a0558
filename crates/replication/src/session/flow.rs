//! What all databases of a session hold in memory together, and whose turn it is.
//!
//! The windows of single databases bound what each of them holds; with hundreds of databases that is no bound. So rows are read
//! while there is room for them among all that waits to be sent, and messages are taken off the link while there is room among
//! all that waits to be applied. Databases take turns, and a database with little to say is not kept waiting by those with much.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use crate::dot_set::DotSet;
use crate::message::Message;
use crate::session::channel::Channel;
use crate::session::incoming::{QUEUED_WINDOWS, Waiting};
use crate::session::{Output, Session, Stage};
use crate::version_vector::VersionVector;

/// Bytes that are little: who waits for no more is served before room runs out for others.
const LITTLE: usize = 64 << 10;

/// What one change takes on the wire where nothing is known of a database's rows.
const CHANGE_BYTES: usize = 512;

/// Milliseconds without a batch that is taken in, after which it is not waited for while messages wait on the link.
const STUCK: u64 = 2_000;

/// Whose turn it was last, and since when nothing is taken off the link.
#[derive(Debug, Default)]
pub(super) struct Turns {
    read: String,
    send: String,
    apply: String,
    /// Something is to be read and had no room.
    pub(super) short_of_room: bool,
    pub(super) full_since: Option<u64>,
}

/// The names of databases, those after `last` first.
fn from_after<'a>(
    channels: &'a BTreeMap<String, Channel>,
    last: &'a str,
) -> impl Iterator<Item = (&'a String, &'a Channel)> {
    let after = channels.range::<str, _>((Excluded(last), Unbounded));
    after.chain(channels.range::<str, _>((Unbounded, Included(last))))
}

/// Whether `bytes` more fit beside what is there: more than a little only up to three quarters, and anything where nothing is.
fn fits(there: usize, bytes: usize, room: usize) -> bool {
    let room = if bytes <= LITTLE { room } else { room / 4 * 3 };
    there == 0 || there.saturating_add(bytes) <= room
}

impl Session {
    /// Whether a message that waits on the link should be taken. Otherwise there is much to be applied first, and the peer sends
    /// no more than the link holds.
    pub fn takes_more(&self) -> bool {
        self.turns.full_since.is_none() || self.stage == Stage::Closed
    }

    /// Reads what peers lack, as long as there is room.
    pub(super) fn start_reads(&mut self) {
        let (window, most) = (self.config.window_bytes, self.config.max_batch_bytes);
        let mut waiting: usize = self.channels.values().map(Channel::bytes_to_send).sum();
        self.turns.short_of_room = false;
        let last = std::mem::take(&mut self.turns.read);
        let lacking: Vec<String> = from_after(&self.channels, &last)
            .filter(|(_, channel)| channel.may_read(window))
            .map(|(name, _)| name.clone())
            .collect();
        self.turns.read = last;
        for name in lacking {
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            let expected = channel.expected(most);
            if !fits(waiting, expected, self.config.buffer_bytes) {
                self.turns.short_of_room = true;
                continue;
            }
            waiting += expected;
            let from = channel.begin_read(expected);
            let omit = Arc::clone(&channel.omit);
            let whole = !channel.partial;
            self.actions.push_back(Output::Read { database: name.clone(), from, omit, whole });
            if expected > LITTLE {
                self.turns.read = name;
            }
        }
    }

    /// Whether rows that were read have no room: they are larger than was expected, as those of many databases are.
    pub(super) fn overflows(&self) -> bool {
        let unsent: usize = self.channels.values().map(|channel| channel.unsent).sum();
        unsent > 2 * self.config.buffer_bytes
    }

    /// The next message with rows, of one database after the other.
    pub(super) fn next_changes(&mut self) -> Option<Message> {
        let last = std::mem::take(&mut self.turns.send);
        let next = from_after(&self.channels, &last).find(|(_, channel)| channel.has_changes());
        let next = next.map(|(name, _)| name.clone());
        self.turns.send = next.clone().unwrap_or(last);
        next?;
        let channel = self.channels.get_mut(&self.turns.send)?;
        let (message, bytes) = channel.outbox.pop_front()?;
        channel.unsent = channel.unsent.saturating_sub(bytes);
        if self.turns.short_of_room {
            self.start_reads();
        }
        Some(message)
    }

    /// Where the next message without rows is: what is said of a database waits for what is new of it.
    pub(super) fn next_said(&self) -> Option<usize> {
        let waits = |database: &str| self.channels.get(database).is_some_and(|channel| channel.has_news);
        self.sends.iter().position(|message| !message.database().is_some_and(waits))
    }

    /// Whether rows wait to be sent.
    pub(super) fn has_changes(&self) -> bool {
        self.channels.values().any(Channel::has_changes)
    }

    /// Applies what waits, as long as there is room, and looks whether more can be taken.
    pub(super) fn start_applies(&mut self) {
        let mut applying: usize =
            self.channels.values().filter_map(|channel| channel.applying).map(|it| it.bytes).sum();
        let last = std::mem::take(&mut self.turns.apply);
        let waiting: Vec<String> = from_after(&self.channels, &last)
            .filter(|(_, channel)| channel.is_shared() && channel.applying.is_none() && !channel.queue.is_empty())
            .map(|(name, _)| name.clone())
            .collect();
        self.turns.apply = last;
        for name in waiting {
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            let bytes = channel.queue.front().map_or(0, |(_, waiting)| waiting.bytes);
            if fits(applying, bytes, self.config.buffer_bytes) && channel.start_apply(&name, &mut self.actions) {
                applying += bytes;
                self.turns.apply = name;
            }
        }
        self.look_for_room();
    }

    /// All that waits to be applied.
    fn waiting(&self) -> Waiting {
        self.channels.values().map(Channel::waiting).fold(Waiting::default(), Waiting::plus)
    }

    /// Whether a peer has left more unfinished than one that keeps to the protocol does, and than [`Session::takes_more`] can keep out:
    /// batches that do not come to their ends are never applied.
    pub(super) fn holds_too_much(&self) -> bool {
        self.waiting().beyond_largest() > QUEUED_WINDOWS * self.config.buffer_bytes
    }

    fn look_for_room(&mut self) {
        let full = self.waiting().bytes > self.config.buffer_bytes
            && self.channels.values().any(|channel| channel.applying.is_some());
        self.turns.full_since = full.then(|| self.turns.full_since.unwrap_or(self.now));
        if self.turns.full_since.is_some_and(|since| self.now >= since + STUCK) {
            self.let_go();
        }
    }

    /// Databases that take nothing in must not keep others waiting: what waits for them is asked for again.
    fn let_go(&mut self) {
        let until = self.now + self.config.repeat;
        for channel in self.channels.values_mut().filter(|channel| channel.waiting().bytes > 0) {
            channel.queue.clear();
            channel.assembly = None;
            channel.held_until = Some(until);
        }
        self.turns.full_since = None;
    }

    /// When [`Session::let_go`] is due.
    pub(super) fn stuck_at(&self) -> Option<u64> {
        self.turns.full_since.map(|since| since + STUCK)
    }

    /// A batch was taken in, or given back: there is progress.
    pub(super) fn note_applied(&mut self) {
        self.turns.full_since = self.turns.full_since.map(|_| self.now);
        self.last_heard = self.last_heard.max(self.turns.full_since.unwrap_or(0));
    }
}

impl Channel {
    /// Whether rows can be sent: what they are is said first.
    fn has_changes(&self) -> bool {
        !self.has_news && !self.outbox.is_empty()
    }

    /// Bytes that were read, or are being read, and are not sent.
    fn bytes_to_send(&self) -> usize {
        self.unsent + if self.reading.is_some() { self.expecting } else { 0 }
    }

    /// Whether there is something to read and room for it among what the peer has not acknowledged.
    fn may_read(&self, window: usize) -> bool {
        let (Some(local), Some(remote)) = (&self.local, &self.remote) else { return false };
        let waits =
            self.reading.is_some() || !self.comparing.is_done() || self.paused_by_peer || self.unreadable.is_some();
        let sent = || {
            let known = |origin| self.promised.get(origin).max(self.peer_have.get(origin));
            local.have.iter().all(|(origin, sequence)| known(origin) >= sequence)
        };
        // Before it is swept nothing would be taken.
        if waits || !self.terms.gives || !self.is_swept() || sent() {
            return false;
        }
        let unacknowledged: usize = self.in_flight.iter().map(|batch| batch.bytes).sum();
        let full = !self.in_flight.is_empty() && unacknowledged >= window;
        let vouches = !local.retired.iter().any(|table| remote.tables.contains_key(table));
        !full && vouches
    }

    /// About how many bytes the next batch takes.
    fn expected(&self, most: usize) -> usize {
        let lacking = self.local.as_ref().map_or(0, |local| self.position.behind(&local.have));
        let changes = usize::try_from(lacking).unwrap_or(usize::MAX);
        changes.max(1).saturating_mul(self.change_bytes.unwrap_or(CHANGE_BYTES)).min(most)
    }

    /// The position to read from.
    fn begin_read(&mut self, expected: usize) -> VersionVector {
        self.expecting = expected;
        self.reading = Some(self.held_by_peer.clone());
        let omit: DotSet = self.held_by_peer.joined(&self.spared);
        if *self.omit != omit {
            self.omit = Arc::new(omit);
        }
        self.position.clone()
    }
}
