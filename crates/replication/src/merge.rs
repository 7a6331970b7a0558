//! Merging an incoming row into the local one: a pure function, called inside the apply transaction.
//!
//! Each entry of the incoming clock is, in this order: the *same* as the local one; *known* (the receiver's vector, as it
//! was before the batch, covers it): ignored; an *overwrite* (the batch's context covers the local entry): taken; or
//! *concurrent*: a conflict, which the policy decides.
//!
//! Under the plain comparison, (timestamp, origin), the merge is a join: any order, repetition or grouping of the same
//! states gives the same result. The one exception is the revival of a deleted row by a newer change of some of its
//! columns: the deleted side has dropped cells that its vector claims, so a join would leave nodes with different rows.
//! It is therefore issued as a new change of the deciding node.

use crate::hybrid_clock::Timestamp;
use crate::origin::Origin;
use crate::policy::{Conflict, ConflictKind, ConflictPolicy, Granularity, Resolution, Side};
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
    /// The row with these values (or its deletion) becomes a new change of this node, with a fresh dot and stamp, written
    /// as a whole and carrying these marks. It supersedes both sides.
    Reissue {
        /// All columns in the shape's order; none to delete.
        values: Option<Vec<Value>>,
        /// Marks of the new row entry.
        flags: EntryFlags,
    },
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

    /// Whether the local node had taken all of a clock into account before the batch came.
    fn knows(&self, local: &RowClock, remote: &RowClock) -> bool {
        remote.entries().all(|entry| self.own.covers(entry.dot) || local.entries().any(|own| own.dot == entry.dot))
    }

    /// Whether the sender had taken all of the local clock into account.
    fn sender_knows(&self, local: &RowClock, remote: &RowClock) -> bool {
        local
            .entries()
            .all(|entry| self.context.covers(entry.dot) || remote.entries().any(|theirs| theirs.dot == entry.dot))
    }
}

/// Merges `remote` into `local` (none: this node has neither row nor clock for the key).
///
/// Both images follow `cx.shape`. A baseline row must have been given a row entry before it can be merged.
pub fn merge(local: Option<&RowImage>, remote: &RowImage, cx: &MergeContext<'_>) -> Merged {
    let Some(local) = local else {
        let known = remote.clock.entries().all(|entry| cx.own.covers(entry.dot));
        return Merged::quiet(if known { Outcome::Keep } else { Outcome::TakeRemote });
    };
    match (local.clock.is_deleted(), remote.clock.is_deleted()) {
        (true, true) => merge_tombstones(local, remote, cx),
        (false, false) if cx.granularity == Granularity::Column => merge_columns(local, remote, cx),
        _ => merge_whole(local, remote, cx),
    }
}

/// Two deletions never conflict; one of the entries stays.
fn merge_tombstones(local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Merged {
    let take = match cx.relation(&local.clock.row, &remote.clock.row) {
        Relation::Same | Relation::Known => false,
        Relation::Overwrite => true,
        Relation::Concurrent => remote.clock.row.order() > local.clock.row.order(),
    };
    Merged::quiet(if take { Outcome::TakeRemote } else { Outcome::Keep })
}

/// Row against row as wholes: with row granularity, or where one side is deleted.
fn merge_whole(local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Merged {
    if cx.knows(&local.clock, &remote.clock) {
        return Merged::quiet(Outcome::Keep);
    }
    if cx.sender_knows(&local.clock, &remote.clock) {
        return Merged::quiet(Outcome::TakeRemote);
    }
    let plain = newest_whole(local, remote, cx.granularity);
    let (local_values, remote_values) = (content(local), content(remote));
    if local_values == remote_values {
        return Merged::quiet(plain);
    }
    let columns = match (local_values, remote_values) {
        (Some(ours), Some(theirs)) => differing(ours, theirs),
        _ => Vec::new(),
    };
    decide(local, remote, cx, kind_of(local, remote), columns, plain)
}

/// Column by column, both sides alive.
fn merge_columns(local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Merged {
    if local.clock.columns.is_empty() && remote.clock.columns.is_empty() {
        match cx.relation(&local.clock.row, &remote.clock.row) {
            Relation::Same | Relation::Known => return Merged::quiet(Outcome::Keep),
            Relation::Overwrite => return Merged::quiet(Outcome::TakeRemote),
            Relation::Concurrent => {}
        }
    }
    let mut from_remote = vec![false; remote.values.len()];
    let mut columns = Vec::new();
    for (index, take) in from_remote.iter_mut().enumerate() {
        let column = column_number(index);
        let (ours, theirs) = (local.clock.effective(column), remote.clock.effective(column));
        *take = match cx.relation(ours, theirs) {
            Relation::Same | Relation::Known => false,
            Relation::Overwrite => true,
            Relation::Concurrent => {
                if local.values[index] != remote.values[index] {
                    columns.push(column);
                }
                theirs.order() > ours.order()
            }
        };
    }
    let plain = combine(local, remote, &from_remote, cx);
    if columns.is_empty() {
        return Merged::quiet(plain);
    }
    decide(local, remote, cx, kind_of(local, remote), columns, plain)
}

/// The image whose columns come from the side that `from_remote` says.
fn combine(local: &RowImage, remote: &RowImage, from_remote: &[bool], cx: &MergeContext<'_>) -> Outcome {
    let (ours, theirs) = (&local.clock.row, &remote.clock.row);
    let row = match cx.relation(ours, theirs) {
        Relation::Same | Relation::Known => ours,
        Relation::Overwrite => theirs,
        Relation::Concurrent => {
            if theirs.order() > ours.order() {
                theirs
            } else {
                ours
            }
        }
    };
    let mut clock = RowClock::whole(*row);
    let mut values = Vec::with_capacity(from_remote.len());
    for (index, take) in from_remote.iter().enumerate() {
        let column = column_number(index);
        let side = if *take { remote } else { local };
        let entry = side.clock.effective(column);
        if entry.dot != row.dot {
            clock.columns.push((column, *entry));
        }
        values.push(side.values[index].clone());
    }
    if clock == local.clock && values == local.values {
        Outcome::Keep
    } else if clock == remote.clock && values == remote.values {
        Outcome::TakeRemote
    } else {
        Outcome::Store(RowImage { values, clock })
    }
}

/// The plain comparison of whole rows, with the revival of a deleted row.
fn newest_whole(local: &RowImage, remote: &RowImage, granularity: Granularity) -> Outcome {
    let newest = |image: &RowImage| -> (Timestamp, Origin) { image.clock.newest().order() };
    if granularity == Granularity::Column && local.clock.is_deleted() != remote.clock.is_deleted() {
        let (tombstone, alive) = if local.clock.is_deleted() { (local, remote) } else { (remote, local) };
        let deletion = tombstone.clock.row.order();
        // The row rests on an insert or rewrite that the deletion is older than: it carries every column itself.
        let rests_on_newer = alive.clock.row.order() > deletion;
        if newest(alive) > deletion && !rests_on_newer {
            return Outcome::Reissue { values: Some(alive.values.clone()), flags: EntryFlags::RESOLUTION };
        }
    }
    if newest(remote) > newest(local) { Outcome::TakeRemote } else { Outcome::Keep }
}

/// Asks the policy and compares its answer with the plain outcome.
fn decide(
    local: &RowImage,
    remote: &RowImage,
    cx: &MergeContext<'_>,
    kind: ConflictKind,
    columns: Vec<u16>,
    plain: Outcome,
) -> Merged {
    let conflict = Conflict {
        shape: cx.shape,
        kind,
        local: Side { values: content(local), clock: &local.clock },
        remote: Side { values: content(remote), clock: &remote.clock },
        columns: &columns,
    };
    let resolution = if both_resolutions(local, remote) { Resolution::Newest } else { cx.policy.resolve(&conflict) };
    let wanted: Option<Vec<Value>> = match resolution {
        Resolution::Newest => outcome_content(&plain, local, remote).map(<[Value]>::to_vec),
        Resolution::KeepLocal => content(local).map(<[Value]>::to_vec),
        Resolution::TakeRemote => content(remote).map(<[Value]>::to_vec),
        Resolution::Row(values) if values.len() == cx.shape.columns.len() => Some(values),
        // A row that does not fit the table cannot be stored; the plain comparison loses nothing.
        Resolution::Row(_) => outcome_content(&plain, local, remote).map(<[Value]>::to_vec),
        Resolution::Delete => None,
    };
    let decision = if wanted.as_deref() == content(local) {
        Decision::LocalKept
    } else if wanted.as_deref() == content(remote) {
        Decision::RemoteApplied
    } else {
        Decision::Merged
    };
    let outcome = if wanted.as_deref() == outcome_content(&plain, local, remote) {
        plain
    } else {
        let deleted = if wanted.is_none() { EntryFlags::DELETED } else { EntryFlags::empty() };
        Outcome::Reissue { values: wanted, flags: EntryFlags::RESOLUTION.with(deleted) }
    };
    Merged { outcome, conflict: Some(Decided { kind, decision, columns }) }
}

fn both_resolutions(local: &RowImage, remote: &RowImage) -> bool {
    let resolution = |image: &RowImage| image.clock.newest().flags.contains(EntryFlags::RESOLUTION);
    resolution(local) && resolution(remote)
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

fn outcome_content<'a>(outcome: &'a Outcome, local: &'a RowImage, remote: &'a RowImage) -> Option<&'a [Value]> {
    match outcome {
        Outcome::Keep => content(local),
        Outcome::TakeRemote => content(remote),
        Outcome::Store(image) => content(image),
        Outcome::Reissue { values, .. } => values.as_deref(),
    }
}

fn differing(ours: &[Value], theirs: &[Value]) -> Vec<u16> {
    ours.iter().zip(theirs).enumerate().filter(|(_, (a, b))| a != b).map(|(index, _)| column_number(index)).collect()
}

/// Shapes have at most 65,535 columns (SQLite allows 32,767).
fn column_number(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}
