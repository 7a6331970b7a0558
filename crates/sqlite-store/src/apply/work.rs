//! Merging rows one by one: what becomes of each is decided, shown to the observer, recorded and written.

use std::collections::HashSet;

use replication::{
    ConflictKind, ConflictPolicy as _, Decided, Decision, Dot, Entry, EntryFlags, LastWriteWins, MergeContext, Origin,
    Outcome, RowClock, RowImage, Timestamp, Value, VersionVector, merge,
};
use rusqlite::Connection;

use super::columns::{converted, fill};
use super::storing::put_back;
use super::{Applied, ApplyRules, Stop};
use crate::bind::bind_from;
use crate::capture::give_row_entry;
use crate::conflict_record::{forget_conflict, record_conflict};
use crate::counting;
use crate::error::StoreError;
use crate::parked::{self, Kept, ParkedKind, Speaks};
use crate::replica::Replica;
use crate::row_clock::{read_clock_and_settings, read_row};
use crate::row_write::RowWrite;
use crate::staging::Stage;
use crate::unique;

/// One batch at work.
pub(crate) struct Work<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) replica: &'a mut Replica,
    pub(crate) rules: &'a ApplyRules<'a>,
    /// The version vector before the batch.
    pub(super) own: &'a VersionVector,
    /// Where rows that are merged later are; none where the batch is whole.
    pub(crate) stage: Option<&'a Stage>,
    pub(crate) applied: Applied,
    /// Whether the row here stands where it cannot be decided, because somebody wrote it when the other one waited already.
    pub(crate) local_stands: bool,
    /// Rows that a unique index refused.
    pub(crate) deferred: Vec<RowWrite>,
    /// The tables and keys of all that were refused so far.
    pub(super) refused_keys: HashSet<(usize, Vec<Value>)>,
    /// The tables and keys of rows that came back and of which some cells are still to come.
    pub(super) silent: HashSet<(usize, Vec<Value>)>,
    /// Those of them that were not looked at yet.
    pub(super) came_back: Vec<(usize, Vec<Value>)>,
    /// How often rows could not be written together.
    pub(super) in_vain: usize,
}

/// What a row is to become.
pub(super) struct RowPlan {
    pub(super) clock: RowClock,
    pub(super) values: Option<Vec<Value>>,
    /// Whether another decision was written before and is given up.
    pub(super) again: bool,
}

impl<'a> Work<'a> {
    pub(crate) fn new(
        conn: &'a Connection,
        replica: &'a mut Replica,
        rules: &'a ApplyRules<'a>,
        own: &'a VersionVector,
        stage: Option<&'a Stage>,
    ) -> Self {
        Self {
            conn,
            replica,
            rules,
            own,
            stage,
            applied: Applied::default(),
            local_stands: false,
            deferred: Vec::new(),
            refused_keys: HashSet::new(),
            silent: HashSet::new(),
            came_back: Vec::new(),
            in_vain: 0,
        }
    }

    /// Settles the rows that unique indexes refused; tells what was done.
    pub(crate) fn finish(mut self) -> Result<Applied, Stop> {
        unique::settle(&mut self)?;
        self.settle_silent()?;
        Ok(self.applied)
    }

    /// Merges one row, which is in the order of the table and has taken `context` into account; writes what becomes of it.
    pub(crate) fn row(&mut self, index: usize, remote: RowImage, context: &VersionVector) -> Result<(), Stop> {
        self.row_known(index, remote, (context, self.own), Self::local)
    }

    /// The same for a row that came when this database knew `own`; `local` tells this node's state of a row.
    pub(crate) fn row_known(
        &mut self,
        index: usize,
        mut remote: RowImage,
        (context, own): (&VersionVector, &VersionVector),
        local: impl FnOnce(&mut Self, usize, &[Value]) -> Result<Option<RowImage>, StoreError>,
    ) -> Result<(), Stop> {
        let table = &self.replica.tables[index];
        let columns = &table.table.columns;
        if let Some(column) = converted(columns, &remote, 0..columns.len()) {
            let reason = format!("column {:?} of {} has another type here", column.name, table.named());
            return Ok(self.park_row(index, &remote, (context, own), ParkedKind::Schema, reason)?);
        }
        let key: Vec<Value> = remote.owned_key(&table.shape);
        let mut lowered = None;
        if self.replica.waiting.rows > 0 {
            let wire = self.replica.tables[index].wire.clone();
            let (shape, row) = parked::without_absent(&wire, &remote, Kept::Told);
            let in_part = remote.clock.absent().next().is_some();
            let speaks = if in_part { Speaks::PartOfRow } else { Speaks::Row };
            let waited = parked::supersede(self.conn, self.replica, (&shape, &row), context, speaks)?;
            // A change that only waited until now is known from nowhere else: what is left of it in this row is news. What its
            // origin did after it to the row was in no other state of the row than those that waited.
            let left = remote.clock.entries().map(|entry| entry.dot).filter(|dot| waited.contains(dot));
            for dot in left {
                lowered.get_or_insert_with(|| own.clone()).lower(dot.origin, dot.sequence.saturating_sub(1));
            }
        }
        let own = lowered.as_ref().unwrap_or(own);
        let local = match self.refused(index, &key) {
            Some(place) => Some(self.deferred[place].image()),
            None => local(self, index, &key)?,
        };
        let flags = remote.clock.row.flags;
        remote.clock.row.flags = flags.without(EntryFlags::ABSENT);
        if flags.contains(EntryFlags::ABSENT.with(EntryFlags::DISPLACED)) {
            self.record_unseen(index, &key, local.as_ref(), &remote, own)?;
        }
        let table = &self.replica.tables[index];
        // What is filled in is this database's own, and not to wait with the row.
        let as_it_came = remote.clock.absent().next().is_some().then(|| remote.clone());
        fill(&mut remote, local.as_ref(), &table.defaults, table.rules.granularity, self.replica.own);
        self.merge_images(index, &key, local, (remote, as_it_came), (context, own))
    }

    /// Records a row that lost its unique value at a node which does not have all of its columns: nobody else knows what was in
    /// them and went with it.
    fn record_unseen(
        &mut self,
        index: usize,
        key: &[Value],
        local: Option<&RowImage>,
        deletion: &RowImage,
        own: &VersionVector,
    ) -> Result<(), StoreError> {
        let Some(local) = local.filter(|image| !image.clock.is_deleted()) else { return Ok(()) };
        let newer = local.clock.newest().order() > deletion.clock.row.order();
        if newer || own.covers(deletion.clock.row.dot) {
            return Ok(());
        }
        let (kind, policy) = (ConflictKind::UniqueExists, LastWriteWins.name().to_owned());
        let decided = Decided { kind, decision: Decision::RemoteApplied, columns: Vec::new(), policy };
        self.record(index, key, Some(local), deletion, &decided)
    }

    /// Merges two states of a row; writes what becomes of it, or parks the one that came if that cannot be done: as it was
    /// before cells that the sender does not have were filled in.
    pub(crate) fn merge_images(
        &mut self,
        index: usize,
        key: &[Value],
        local: Option<RowImage>,
        (remote, as_it_came): (RowImage, Option<RowImage>),
        vectors: (&VersionVector, &VersionVector),
    ) -> Result<(), Stop> {
        let (context, own) = vectors;
        let came = as_it_came.as_ref().unwrap_or(&remote);
        let filled_in: Vec<u16> = as_it_came.iter().flat_map(|image| image.clock.absent()).collect();
        let cx = merge_context(self.replica, index, context, own, &filled_in);
        let merged = match merge(local.as_ref(), &remote, &cx) {
            Ok(merged) => merged,
            Err(undecided) if self.local_stands => {
                return self.keep_local(index, key, local.as_ref(), &remote, undecided.policy);
            }
            Err(undecided) => {
                let reason = format!("{}: {undecided}", self.replica.tables[index].named());
                return Ok(self.park_row(index, came, vectors, ParkedKind::Policy, reason)?);
            }
        };
        let recorded = self.applied.conflicts.len();
        if let Some(decided) = &merged.conflict {
            self.record(index, key, local.as_ref(), &remote, decided)?;
        }
        // What two sides make together may be what the table's constraints forbid, though neither is.
        let mixed = matches!(merged.outcome, Outcome::Store(_) | Outcome::Issue { .. });
        let decision = match merged.outcome {
            Outcome::Keep => return Ok(()),
            Outcome::TakeRemote => Self::decision_of(remote.clone()),
            Outcome::Store(image) => Self::decision_of(image),
            Outcome::Issue { image, fresh } => {
                self.note_silent(index, key, &image);
                let (timestamp, dot) = self.next_change();
                Self::decision_of(image.issued(&fresh, timestamp, dot))
            }
        };
        let mut stored = self.store(index, key, local.as_ref(), decision);
        if let (Err(stop), true, Some(local)) = (&stored, mixed, &local)
            && stop.is_constraint()
        {
            stored = self.take_newer(index, key, local, &remote, merged.conflict.is_some());
        }
        let Some(reason) = stored.as_ref().err().and_then(Stop::constraint) else { return stored };
        // Nothing of it stays: neither its clock, nor a record of what did not happen.
        put_back(self.conn, self.replica, index, key, local.as_ref())?;
        for note in self.applied.conflicts.drain(recorded..) {
            forget_conflict(self.conn, &note)?;
        }
        if self.local_stands {
            return self.keep_local(index, key, local.as_ref(), &remote, LastWriteWins.name().to_owned());
        }
        Ok(self.park_row(index, came, vectors, ParkedKind::Constraint, reason)?)
    }

    /// Records that the row here stands against one that waited, and makes it a new change that has taken that one into
    /// account: the node that wrote the other one cannot decide either.
    fn keep_local(
        &mut self,
        index: usize,
        key: &[Value],
        local: Option<&RowImage>,
        remote: &RowImage,
        policy: String,
    ) -> Result<(), Stop> {
        let Some(local) = local else { return Ok(()) };
        let values = Some(local).filter(|local| !local.clock.is_deleted() && !remote.clock.is_deleted());
        let differing = values.into_iter().flat_map(|local| local.values.iter().zip(&remote.values).zip(0..));
        let columns = differing.filter(|((ours, theirs), _)| ours != theirs).map(|(_, column)| column).collect();
        let kind = ConflictKind::UpdateOriginDiffers;
        let decided = Decided { kind, decision: Decision::LocalKept, columns, policy };
        self.record(index, key, Some(local), remote, &decided)?;
        let values = (!local.clock.is_deleted()).then(|| local.values.clone());
        let decision = RowPlan { again: true, ..self.reissue(values, &local.clock) };
        self.store(index, key, Some(local), decision)
    }

    /// Takes the newer of two rows as a whole, as a new change that all nodes receive: their columns do not go together.
    fn take_newer(
        &mut self,
        index: usize,
        key: &[Value],
        local: &RowImage,
        remote: &RowImage,
        recorded: bool,
    ) -> Result<(), Stop> {
        let ours = local.clock.newest().order() > remote.clock.newest().order();
        if !recorded {
            let differing = local.values.iter().zip(&remote.values).zip(0..);
            let columns = differing.filter(|((ours, theirs), _)| ours != theirs).map(|(_, column)| column).collect();
            let decision = if ours { Decision::LocalKept } else { Decision::RemoteApplied };
            let policy = LastWriteWins.name().to_owned();
            let decided = Decided { kind: ConflictKind::UpdateOriginDiffers, decision, columns, policy };
            self.record(index, key, Some(local), remote, &decided)?;
        }
        let winner = if ours { local } else { remote };
        let decision = RowPlan { again: true, ..self.reissue(Some(winner.values.clone()), &winner.clock) };
        self.store(index, key, Some(local), decision)
    }

    fn decision_of(image: RowImage) -> RowPlan {
        let values = (!image.clock.is_deleted()).then_some(image.values);
        RowPlan { clock: image.clock, values, again: false }
    }

    /// The stamp and dot of a new change of this node.
    fn next_change(&mut self) -> (Timestamp, Dot) {
        (self.replica.clock.stamp(self.rules.now, self.rules.now), self.replica.next_dot())
    }

    /// A row with these values, or its deletion, as a new change in place of a row with this clock. What its counters hold by
    /// it is what they are set to.
    pub(super) fn reissue(&mut self, values: Option<Vec<Value>>, clock: &RowClock) -> RowPlan {
        let deleted = if values.is_none() { EntryFlags::DELETED } else { EntryFlags::empty() };
        let (timestamp, dot) = self.next_change();
        let entry = Entry::new(timestamp, dot, EntryFlags::RESOLUTION.with(deleted));
        let mut counters = clock.counters.clone();
        for (column, counter) in &mut counters {
            match &values {
                Some(values) => counter.set_to(entry, values[usize::from(*column)].clone()),
                None => counter.bury(entry),
            }
        }
        let rest = clock.rest.filter(|_| values.is_some());
        RowPlan { clock: RowClock { counters, rest, ..RowClock::whole(entry) }, values, again: false }
    }

    /// This node's state of the row. A baseline row is given its row entry first.
    pub(crate) fn local(&mut self, index: usize, key: &[Value]) -> Result<Option<RowImage>, StoreError> {
        if let Some(place) = self.refused(index, key) {
            return Ok(Some(self.deferred[place].image()));
        }
        let clock = read_clock_and_settings(self.conn, self.replica, &self.replica.tables[index], key)?;
        let values = read_row(self.conn, &self.replica.tables[index], key)?;
        if let Some((clock, _)) = clock.as_ref().filter(|(clock, _)| clock.is_deleted()) {
            return Ok(Some(as_it_stands(key, clock.clone(), values)));
        }
        let Some(values) = values else {
            if clock.is_some() {
                // It was deleted unseen. Nothing that was written in it speaks for what comes in its place.
                let mut statement = self.conn.prepare_cached(&self.replica.tables[index].sql.clock_drop_parts)?;
                bind_from(&mut statement, 1, key)?;
                statement.raw_execute()?;
            }
            return Ok(None);
        };
        let clock = match clock {
            Some((clock, settings)) => {
                counting::count_unseen(self.conn, self.replica, (index, key), clock, &settings, &values)?
            }
            None => RowClock::whole(give_row_entry(self.conn, self.replica, index, key, Some(&values))?),
        };
        Ok(Some(RowImage { values, clock }))
    }

    pub(super) fn record(
        &mut self,
        index: usize,
        key: &[Value],
        local: Option<&RowImage>,
        remote: &RowImage,
        decided: &Decided,
    ) -> Result<(), StoreError> {
        let local = local.map(|local| of_this_node(local, self.replica.own));
        let (local, now) = (local.as_ref(), self.rules.now);
        let note = record_conflict(self.conn, self.replica, index, key, local, Some(remote), decided, now)?;
        self.applied.conflicts.push(note);
        Ok(())
    }
}

/// The image of a row that was deleted. Where it came back unseen, by a connection that runs no triggers, the row stands: it counts as
/// written by the change that deleted it, and whatever comes after that takes its place.
fn as_it_stands(key: &[Value], mut clock: RowClock, values: Option<Vec<Value>>) -> RowImage {
    let Some(values) = values else { return RowImage { values: key.to_vec(), clock } };
    clock.row.flags = clock.row.flags.without(EntryFlags::DELETED);
    RowImage { values, clock }
}

/// Whom entries name that stand for what has no clock.
pub(super) const NOBODY: Origin = Origin::from_bytes([0; 16]);

/// The entry of what this node holds and has never said: it is older than everything, and nobody has taken it into account.
/// Not a dot of this node: a node knows what it said before, and this is not what it said since. It is stored nowhere.
pub(crate) fn unknown_entry(flags: EntryFlags) -> Entry {
    Entry::new(Timestamp::BASELINE, Dot { origin: NOBODY, sequence: 1 }, flags)
}

/// An image that names this node for what it has never said.
fn of_this_node(image: &RowImage, own: Origin) -> RowImage {
    let mut image = image.clone();
    let entries = std::iter::once(&mut image.clock.row).chain(image.clock.columns.iter_mut().map(|(_, entry)| entry));
    for entry in entries.filter(|entry| entry.dot.origin == NOBODY) {
        entry.dot = Dot { origin: own, sequence: 0 };
    }
    image
}

pub(super) fn merge_context<'a>(
    replica: &'a Replica,
    index: usize,
    context: &'a VersionVector,
    own: &'a VersionVector,
    filled_in: &'a [u16],
) -> MergeContext<'a> {
    let table = &replica.tables[index];
    MergeContext {
        shape: &table.shape,
        own,
        context,
        granularity: table.rules.granularity,
        policy: table.rules.policy.as_ref(),
        columns: &table.columns,
        nodes: replica.names(),
        filled_in,
        doubtful: replica.dropped.doubts(context),
    }
}
