//! Merging an incoming row into the local one: a pure function, called inside the apply transaction.
//!
//! Each entry of the incoming clock is, in this order: the *same* as the local one; *known* (the receiver's vector, as it
//! was before the batch, covers it): ignored; an *overwrite* (the batch's context covers the local entry): taken; or
//! *concurrent*: a conflict, which the policy decides. Counters are joined; only what sets them can be in conflict.
//!
//! Under the plain comparison, (timestamp, origin), the merge is a join: any order, repetition or grouping of the same
//! states gives the same result. Everything else is issued as a new change of the deciding node, which has taken both
//! sides into account: what a policy decides otherwise, column by column or for the row as a whole; the revival of a
//! deleted row by a newer change of some of its columns, or by a row that came without some of them, because the deleted
//! side has dropped cells that its vector claims; and what a counter is set to by a row that came without it.

mod columns;
mod counters;
mod rest;
mod whole;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::hybrid_clock::Timestamp;
use crate::origin::{Dot, Origin};
use crate::policy::{ColumnRule, Conflict, ConflictKind, ConflictPolicy, Granularity, Resolution, Side};
use crate::row::{Entry, EntryFlags, RowClock, RowImage, TableShape};
use crate::value::Value;
use crate::version_vector::VersionVector;

/// What a merge is judged by.
#[derive(Clone, Copy)]
pub struct MergeContext<'a> {
    /// The table; both images follow its order of columns.
    pub shape: &'a TableShape,
    /// The receiver's version vector as it was before the batch.
    pub own: &'a VersionVector,
    /// The batch's context: the sender's version vector at the snapshot.
    pub context: &'a VersionVector,
    /// How finely the table is merged.
    pub granularity: Granularity,
    /// Who decides conflicts.
    pub policy: &'a dyn ConflictPolicy,
    /// Rules of single columns, in the shape's order; columns beyond its end have none.
    pub columns: &'a [Option<ColumnRule>],
    /// The names of the nodes that origins belong to, as far as they are known.
    pub nodes: &'a BTreeMap<Origin, String>,
    /// The columns that the incoming row came without, which have been filled in here.
    pub filled_in: &'a [u16],
    /// Rows that are not here and not newer than this may have been deleted: tombstones up to then are gone here, and the sender
    /// does not know all of those deletions.
    pub doubtful: Option<Timestamp>,
}

/// What becomes of the row.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The local row and clock stand as they are.
    Keep,
    /// The incoming image replaces the local row and clock.
    TakeRemote,
    /// This image, made of both, replaces the local row and clock.
    Store(RowImage),
    /// The same, and parts of it are a new change of this node: [`RowImage::issued`] gives them their dot and stamp. It
    /// supersedes both sides.
    Issue {
        /// The image. The fresh parts' entries have flags and `authored` already.
        image: RowImage,
        /// Which parts.
        fresh: Fresh,
    },
}

/// The parts of a row that are a new change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fresh {
    /// The row as a whole.
    Row,
    /// Parts of it, as indices into the shape.
    Parts {
        /// Columns; each has an entry of its own.
        columns: Vec<u16>,
        /// What these counters are set to. Their stamp is given: they are set in the name of a change that could not say so.
        counters: Vec<u16>,
    },
}

impl RowImage {
    /// The image with the dot and stamp of the change that its fresh parts are.
    #[must_use]
    pub fn issued(mut self, fresh: &Fresh, timestamp: Timestamp, dot: Dot) -> Self {
        let (columns, counters) = match fresh {
            Fresh::Row => {
                (self.clock.row.timestamp, self.clock.row.dot) = (timestamp, dot);
                self.clock.columns.retain(|(_, entry)| entry.flags.contains(EntryFlags::SILENT));
                // The same change brings the row back, and says when what it does not have went.
                self.clock.rest =
                    self.clock.rest.map(|rest| if rest.is_never() { Entry { dot, ..rest } } else { rest });
                // Two nodes that issue the row each know what the other's counters were set to: it must be told anew.
                let row = self.clock.row;
                self.clock.counters.iter_mut().for_each(|(_, counter)| counter.confirm(row));
                return self;
            }
            Fresh::Parts { columns, counters } => (columns, counters),
        };
        for (_, counter) in self.clock.counters.iter_mut().filter(|(column, _)| counters.contains(column)) {
            counter.set.dot = dot;
        }
        for (_, entry) in self.clock.columns.iter_mut().filter(|(column, _)| columns.contains(column)) {
            (entry.timestamp, entry.dot) = (timestamp, dot);
        }
        self
    }
}

/// How a conflict ended, seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The incoming change lost.
    LocalKept,
    /// The local change lost.
    RemoteApplied,
    /// Something of both stands.
    Merged,
}

impl Decision {
    /// The name in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LocalKept => "skip",
            Self::RemoteApplied => "apply",
            Self::Merged => "merge",
        }
    }
}

/// A conflict that the merge met and decided; to be recorded with both images.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// What kind of conflict.
    pub kind: ConflictKind,
    /// How it ended.
    pub decision: Decision,
    /// The columns that both sides wrote to different values.
    pub columns: Vec<u16>,
    /// Who decided; several names with `+` between them, if different columns have different policies.
    pub policy: String,
}

/// The result of merging one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// What becomes of the row.
    pub outcome: Outcome,
    /// The conflict, if there was one.
    pub conflict: Option<Decided>,
}

impl Merged {
    const fn quiet(outcome: Outcome) -> Self {
        Self { outcome, conflict: None }
    }
}

/// A policy could not decide a conflict. Nothing is changed; asking again helps once the rows or the policy have changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy {policy:?} cannot decide: {reason}")]
pub struct Undecided {
    /// The policy.
    pub policy: String,
    /// What it says.
    pub reason: String,
}

/// How an incoming entry stands to the local one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Same,
    Known,
    Overwrite,
    Concurrent,
}

impl MergeContext<'_> {
    fn relation(&self, local: &Entry, remote: &Entry) -> Relation {
        if local.dot == remote.dot {
            Relation::Same
        } else if local.dot.origin == remote.dot.origin {
            // An origin knows what it issued before.
            if remote.dot.sequence > local.dot.sequence { Relation::Overwrite } else { Relation::Known }
        } else if self.own.covers(remote.dot) {
            Relation::Known
        } else if self.context.covers(local.dot) {
            Relation::Overwrite
        } else {
            Relation::Concurrent
        }
    }

    fn rule(&self, column: u16) -> Option<&ColumnRule> {
        self.columns.get(usize::from(column)).and_then(Option::as_ref)
    }

    /// The policy that a column has for itself.
    fn own_policy(&self, column: u16) -> Option<&dyn ConflictPolicy> {
        match self.rule(column) {
            Some(ColumnRule::Policy(policy)) => Some(policy.as_ref()),
            Some(ColumnRule::Counter) | None => None,
        }
    }

    fn is_counter(&self, column: u16) -> bool {
        matches!(self.rule(column), Some(ColumnRule::Counter))
    }

    /// Asks a policy about some columns.
    fn ask(
        &self,
        policy: &dyn ConflictPolicy,
        (local, remote): (&RowImage, &RowImage),
        columns: &[u16],
    ) -> Result<Resolution, Undecided> {
        let conflict = Conflict {
            shape: self.shape,
            kind: kind_of(local, remote),
            local: Side { values: content(local), clock: &local.clock },
            remote: Side { values: content(remote), clock: &remote.clock },
            columns,
            nodes: self.nodes,
        };
        let answer = catch_unwind(AssertUnwindSafe(|| policy.resolve(&conflict)))
            .unwrap_or_else(|_| Resolution::Fail("it panicked".to_owned()));
        match answer {
            Resolution::Fail(reason) => Err(undecided(policy, reason)),
            Resolution::Row(values) if values.len() != self.shape.columns.len() => Err(undecided(
                policy,
                format!("it gave a row of {} values for {} columns", values.len(), self.shape.columns.len()),
            )),
            answer => Ok(answer),
        }
    }
}

fn undecided(policy: &dyn ConflictPolicy, reason: String) -> Undecided {
    Undecided { policy: policy.name().to_owned(), reason }
}

/// Merges `remote` into `local` (none: this node has neither row nor clock for the key).
///
/// Both images follow `cx.shape`. A baseline row must have been given a row entry before it can be merged.
///
/// # Errors
/// A policy that was asked cannot decide.
pub fn merge(local: Option<&RowImage>, remote: &RowImage, cx: &MergeContext<'_>) -> Result<Merged, Undecided> {
    let Some(local) = local else { return Ok(Merged::quiet(unknown_here(remote, cx))) };
    let merged = match (local.clock.is_deleted(), remote.clock.is_deleted()) {
        (true, true) => whole::merge_tombstones(local, remote, cx),
        (false, false) if cx.granularity == Granularity::Column || has_cells_apart(local, remote) => {
            columns::merge_columns(local, remote, cx)?
        }
        _ => whole::merge_whole(local, remote, cx)?,
    };
    Ok(rest::join_into(counters::join_into(merged, local, remote, cx), local, remote, cx))
}

/// What becomes of a row of which this node has nothing.
fn unknown_here(remote: &RowImage, cx: &MergeContext<'_>) -> Outcome {
    if remote.clock.entries().all(|entry| cx.own.covers(entry.dot)) {
        return Outcome::Keep;
    }
    let doubtful = cx.doubtful.is_some_and(|until| remote.clock.newest().timestamp <= until);
    if remote.clock.is_deleted() || !doubtful {
        return Outcome::TakeRemote;
    }
    // A node that still has the tombstone lets it win. It is not to be found out whether there was one: the row stays, on all nodes.
    let mut image = remote.clone();
    image.clock.row.flags = image.clock.row.flags.with(EntryFlags::RESOLUTION);
    Outcome::Issue { image, fresh: Fresh::Row }
}

/// Whether a side has cells that its row was written without: in a table that is merged by rows, the rest of it is merged as
/// one then.
fn has_cells_apart(local: &RowImage, remote: &RowImage) -> bool {
    [local, remote]
        .iter()
        .any(|side| side.clock.columns.iter().any(|(_, entry)| entry.flags.contains(EntryFlags::APART)))
}

fn kind_of(local: &RowImage, remote: &RowImage) -> ConflictKind {
    let inserted = |image: &RowImage| image.clock.row.flags.contains(EntryFlags::INSERTED);
    if local.clock.is_deleted() {
        ConflictKind::UpdateDeleted
    } else if remote.clock.is_deleted() {
        ConflictKind::DeleteOriginDiffers
    } else if inserted(local) && inserted(remote) && local.clock.row.dot != remote.clock.row.dot {
        ConflictKind::InsertExists
    } else {
        ConflictKind::UpdateOriginDiffers
    }
}

fn content(image: &RowImage) -> Option<&[Value]> {
    (!image.clock.is_deleted()).then_some(image.values.as_slice())
}

/// The image that replaces the local one; none if that stands.
fn image_of<'a>(outcome: &'a Outcome, local: &'a RowImage, remote: &'a RowImage) -> &'a RowImage {
    match outcome {
        Outcome::Keep => local,
        Outcome::TakeRemote => remote,
        Outcome::Store(image) | Outcome::Issue { image, .. } => image,
    }
}

/// The outcome that an image of both sides is.
fn outcome_of(image: RowImage, local: &RowImage, remote: &RowImage) -> Outcome {
    if image == *local {
        Outcome::Keep
    } else if image == *remote {
        Outcome::TakeRemote
    } else {
        Outcome::Store(image)
    }
}

/// A row that becomes a new change as a whole, or its deletion.
fn issue_row(
    key: &RowImage,
    values: Option<Vec<Value>>,
    authored: Option<(Timestamp, Origin)>,
    cx: &MergeContext<'_>,
) -> Outcome {
    let deleted = if values.is_none() { EntryFlags::DELETED } else { EntryFlags::empty() };
    let entry = Entry { flags: EntryFlags::RESOLUTION.with(deleted), authored, ..key.clock.row };
    let values = values.unwrap_or_else(|| key.owned_key(cx.shape));
    Outcome::Issue { image: RowImage { values, clock: RowClock::whole(entry) }, fresh: Fresh::Row }
}

fn differing(ours: &[Value], theirs: &[Value]) -> Vec<u16> {
    ours.iter().zip(theirs).enumerate().filter(|(_, (a, b))| a != b).map(|(index, _)| column_number(index)).collect()
}

/// Shapes have at most 65,535 columns (SQLite allows 32,767).
fn column_number(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}
