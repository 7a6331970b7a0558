//! Forgetting deletions: a tombstone goes when every node that is expected to return knows of the deletion and nothing of theirs
//! is unknown here, and everybody who follows changes was shown it, or when it is older than the horizon. Who lacks one that went sweeps before it exchanges changes (see
//! [`sweeping`](super::sweeping)), so this may err in both directions without harm.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use replication::{KnownNode, KnownNodes, RowClock, Value, VersionVector};
use rusqlite::Connection;

use super::Attachment;
use crate::bind::bind_from;
use crate::database::DatabaseOptions;
use crate::error::StoreError;
use crate::meta;
use crate::replica::{Replica, ReplicaTable, wall_millis};
use crate::row_clock::{collect_keys, read_clock};

/// Tombstones looked at in one step.
const PAGE: usize = 500;

/// A pass takes at most one part in so many of the time.
const REST: u32 = 100;

/// Those that have reached the horizon go once in this part of it: a catch-up that is under way when they go begins anew.
const HORIZON_PARTS: u32 = 30;

/// Who deletions wait for that wait for such a client.
const FOLLOWERS: &str = "(who follows changes)";

/// Where the known nodes are kept in the file.
const KEY: &str = "nodes";

/// What is known of other nodes, and where the pass over the tombstones stands.
#[derive(Debug, Clone)]
pub(super) struct Tombstones {
    known: KnownNodes,
    /// As they were told last: others need not hear of each change.
    told: Arc<KnownNodes>,
    /// Whether the file holds all of it.
    saved: bool,
    /// When others were told, and when a pass ended.
    told_at: Option<Instant>,
    passed_at: Option<Instant>,
    took: Duration,
    /// What the last pass was made for.
    passed_for: Option<(VersionVector, Vec<(String, VersionVector)>)>,
    /// When the last pass looked for old ones.
    aged_at: Option<Instant>,
    pass: Option<Pass>,
    /// What the last pass left.
    kept: u64,
    held_by: Arc<BTreeSet<String>>,
}

/// A pass over all tables.
#[derive(Debug, Clone)]
struct Pass {
    began: Instant,
    /// What all know.
    common: Option<VersionVector>,
    /// What everybody was shown who follows changes, if anybody does.
    followed: Option<VersionVector>,
    /// The horizon, in milliseconds: nodes that were heard last before it are not waited for.
    oldest: i64,
    /// Whether tombstones with older stamps than that go too.
    aged: bool,
    table: usize,
    after: Option<Vec<Value>>,
    kept: u64,
    held_by: BTreeSet<String>,
}

impl Tombstones {
    pub(super) fn load(conn: &Connection) -> Result<Self, StoreError> {
        let known: KnownNodes = meta::read(conn, KEY)?.unwrap_or_default();
        Ok(Self {
            told: Arc::new(known.clone()),
            known,
            saved: true,
            told_at: None,
            passed_at: None,
            took: Duration::ZERO,
            passed_for: None,
            aged_at: None,
            pass: None,
            kept: 0,
            held_by: Arc::default(),
        })
    }

    /// What others are to be told.
    pub(super) fn told(&self) -> &Arc<KnownNodes> {
        &self.told
    }

    /// How many there are, and whom they wait for, as of the last pass.
    pub(super) fn kept(&self) -> (u64, &Arc<BTreeSet<String>>) {
        (self.kept, &self.held_by)
    }

    /// Whether the file holds what is known of other nodes.
    pub(super) const fn is_saved(&self) -> bool {
        self.saved
    }

    pub(super) const fn has_work(&self) -> bool {
        self.pass.is_some()
    }

    /// The file was closed and is open again: what is known is what was, and what it says.
    pub(super) fn go_on(&mut self, before: Self) {
        let loaded = std::mem::replace(self, before);
        self.known.learn_all(&loaded.known);
    }
}

/// How much of the horizon is of no account.
pub(super) fn horizon_part(options: &DatabaseOptions) -> Duration {
    options.tombstone_horizon / HORIZON_PARTS
}

/// The same in milliseconds: that a node is still there need not be written down each time.
pub(crate) fn lately(options: &DatabaseOptions) -> i64 {
    i64::try_from(horizon_part(options).as_millis()).unwrap_or(i64::MAX)
}

impl Attachment {
    /// Takes note of what nodes know.
    pub(crate) fn learn_nodes(&mut self, nodes: &KnownNodes) {
        self.tombstones.saved &= !nodes.is_news_to(&self.tombstones.told, lately(&self.options));
        self.tombstones.known.learn_all(nodes);
        // A clock that is ahead, another's or this one's before it was put right, is not believed for ever.
        self.tombstones.known.seen_until(wall_millis().saturating_add(self.max_skew()));
    }

    /// Up to which of this database's own changes another node knows.
    pub(super) fn known_by_others(&self) -> u64 {
        let own = self.replica.own;
        let others = self.tombstones.known.iter().filter(|(name, _)| *name != self.options.node);
        others.map(|(_, node)| node.have.get(own)).max().unwrap_or_default()
    }

    /// Does not wait for a node any more. False if it is not known.
    pub(crate) fn forget_node(&mut self, node: &str) -> Result<bool, StoreError> {
        let known = self.tombstones.known.forget(node, wall_millis());
        if known {
            self.tombstones.saved = false;
            self.tombstones.told_at = None;
            self.tell_nodes()?;
        }
        Ok(known)
    }

    /// Saves what is known of nodes now.
    pub(super) fn save_nodes(&mut self) -> Result<(), StoreError> {
        self.tombstones.told_at = self.tombstones.told_at.filter(|_| self.tombstones.saved);
        self.tell_nodes()
    }

    /// Saves what is known of nodes, and lets others know, now and then.
    pub(super) fn tell_nodes(&mut self) -> Result<(), StoreError> {
        let due = self.tombstones.told_at.is_none_or(|at| at.elapsed() >= self.options.upkeep_interval);
        if !due || self.tombstones.saved {
            return Ok(());
        }
        // Nodes that were only heard of are waited for as well.
        let (now, own) = (wall_millis(), self.options.node.clone());
        let heard: Vec<_> = self.replica.names().iter().map(|(origin, name)| (*origin, name.clone())).collect();
        for (origin, name) in heard {
            if name != own && self.tombstones.known.get(&name).is_none() {
                let node = KnownNode { origin, have: VersionVector::new(), seen: now, forgotten: 0 };
                self.tombstones.known.learn(&name, node);
            }
        }
        let known = self.tombstones.known.clone();
        self.in_write(|conn, _| meta::write(conn, KEY, &known).map(|()| ((), true)))?;
        let tombstones = &mut self.tombstones;
        (tombstones.saved, tombstones.told_at, tombstones.told) = (true, Some(Instant::now()), Arc::new(known));
        Ok(())
    }

    /// Looks at some tombstones, if it is time to.
    pub(super) fn forget_deletions(&mut self) -> Result<(), StoreError> {
        self.tell_nodes()?;
        let pass = match self.tombstones.pass.take() {
            Some(pass) => Some(pass),
            None => self.next_pass()?,
        };
        let Some(mut pass) = pass else { return Ok(()) };
        // What waits may be older than a deletion, and must not outlive it.
        let finished = self.replica.waiting.rows > 0 || self.look_at_some(&mut pass)?;
        if !finished {
            self.tombstones.pass = Some(pass);
            return Ok(());
        }
        let tombstones = &mut self.tombstones;
        (tombstones.took, tombstones.passed_at) = (pass.began.elapsed(), Some(Instant::now()));
        (tombstones.kept, tombstones.held_by) = (pass.kept, Arc::new(pass.held_by));
        if pass.aged {
            tombstones.aged_at = Some(Instant::now());
        }
        Ok(())
    }

    fn next_pass(&mut self) -> Result<Option<Pass>, StoreError> {
        let (upkeep, horizon) = (self.options.upkeep_interval, self.options.tombstone_horizon);
        let tombstones = &mut self.tombstones;
        let pause = upkeep.max(tombstones.took * REST);
        if tombstones.passed_at.is_some_and(|at| at.elapsed() < pause) {
            return Ok(None);
        }
        let horizon_millis = i64::try_from(horizon.as_millis()).unwrap_or(i64::MAX);
        let oldest = wall_millis().saturating_sub(horizon_millis);
        let (own, have) = (&self.options.node, &self.replica.have);
        let common = tombstones.known.known_to_all(own, have, oldest);
        let expected = tombstones.known.expected(own, oldest);
        let aged = tombstones.aged_at.is_none_or(|at| at.elapsed() >= horizon_part(&self.options));
        let news = (have.clone(), expected.map(|(name, node)| (name.to_owned(), node.have.clone())).collect());
        if !aged && tombstones.passed_for.as_ref() == Some(&news) {
            return Ok(None);
        }
        // Where the state folder cannot tell, nothing is forgotten now: it is not what sync depends on.
        let followed = self.memory.as_ref().and_then(|memory| {
            memory.seen_by_followers(&self.options.name).unwrap_or_else(|_| Some(VersionVector::new()))
        });
        tombstones.passed_for = Some(news);
        let (began, after, held_by) = (Instant::now(), None, BTreeSet::new());
        Ok(Some(Pass { began, common, followed, oldest, aged, table: 0, after, kept: 0, held_by }))
    }

    /// One step of a pass. True if it is finished.
    fn look_at_some(&mut self, pass: &mut Pass) -> Result<bool, StoreError> {
        let Some(table) = self.replica.tables.get(pass.table) else { return Ok(true) };
        let keys = buried(&self.conn, table, pass.after.as_deref())?;
        let mut going = Vec::new();
        for key in &keys {
            let Some(clock) = read_clock(&self.conn, &self.replica, table, key)? else { continue };
            if goes(&clock, pass) {
                going.push(key.clone());
            } else {
                pass.kept += 1;
                self.note_waiting(&clock, pass);
            }
        }
        if !going.is_empty() {
            let index = pass.table;
            self.write(|conn, replica| {
                for key in &going {
                    drop_tombstone(conn, replica, index, key, pass)?;
                }
                replica.dropped.save(conn)?;
                Ok(((), true))
            })?;
        }
        if keys.len() < PAGE {
            (pass.table, pass.after) = (pass.table + 1, None);
        } else {
            pass.after = keys.into_iter().next_back();
        }
        Ok(pass.table >= self.replica.tables.len())
    }

    /// Notes whom a tombstone waits for: who does not know of the deletion, or knows something that is not here.
    fn note_waiting(&self, clock: &RowClock, pass: &mut Pass) {
        let have = &self.replica.have;
        let expected = self.tombstones.known.expected(&self.options.node, pass.oldest);
        let waits = |node: &KnownNode| {
            !have.covers_all(&node.have) || !clock.entries().all(|entry| node.have.covers(entry.dot))
        };
        pass.held_by.extend(expected.filter(|(_, node)| waits(node)).map(|(name, _)| name.to_owned()));
        if !shown(clock, pass) {
            pass.held_by.insert(FOLLOWERS.to_owned());
        }
    }
}

/// Whether a tombstone is of no use any more.
fn goes(clock: &RowClock, pass: &Pass) -> bool {
    let known = |common: &VersionVector| clock.entries().all(|entry| common.covers(entry.dot));
    let old = || clock.entries().all(|entry| entry.timestamp.millis() < pass.oldest);
    (pass.common.as_ref().is_some_and(known) && shown(clock, pass)) || (pass.aged && old())
}

/// Whether everybody was shown a deletion who follows changes.
fn shown(clock: &RowClock, pass: &Pass) -> bool {
    pass.followed.as_ref().is_none_or(|seen| clock.entries().all(|entry| seen.covers(entry.dot)))
}

fn buried(conn: &Connection, table: &ReplicaTable, after: Option<&[Value]>) -> Result<Vec<Vec<Value>>, StoreError> {
    let sql = if after.is_some() { &table.sql.buried_after } else { &table.sql.buried };
    let mut statement = conn.prepare_cached(sql)?;
    let key = after.unwrap_or_default();
    bind_from(&mut statement, 1, key)?;
    statement.raw_bind_parameter(key.len() + 1, i64::try_from(PAGE).unwrap_or(i64::MAX))?;
    collect_keys(&mut statement, table.table.key.len())
}

fn drop_tombstone(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    key: &[Value],
    pass: &Pass,
) -> Result<(), StoreError> {
    // It was looked at without the lock.
    let clock = read_clock(conn, replica, &replica.tables[index], key)?;
    let Some(clock) = clock.filter(|clock| clock.is_deleted() && goes(clock, pass)) else { return Ok(()) };
    for entry in clock.entries() {
        replica.dropped.upto.raise(entry.dot.origin, entry.dot.sequence);
    }
    replica.dropped.until = replica.dropped.until.max(clock.newest().timestamp);
    let mut statement = conn.prepare_cached(&replica.tables[index].sql.clock_drop)?;
    bind_from(&mut statement, 1, key)?;
    statement.raw_execute()?;
    Ok(())
}
