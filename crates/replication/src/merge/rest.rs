//! What speaks for columns that a node does not have: joined whatever became of the rest of the row.

use super::{MergeContext, Merged, Outcome, Relation, image_of, outcome_of};
use crate::row::{Entry, EntryFlags, RowImage};

/// Puts the newer of both sides' [`rest`](crate::RowClock::rest) into what became of the row.
pub(super) fn join_into(merged: Merged, local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Merged {
    let (ours, theirs) = (local.clock.rest, remote.clock.rest);
    let image = image_of(&merged.outcome, local, remote);
    let rest = match (local.clock.is_deleted(), remote.clock.is_deleted()) {
        _ if image.clock.is_deleted() => None,
        (false, false) => joined(ours, theirs, cx),
        (true, _) => newest([image.clock.rest, theirs, Some(deletion(local))]),
        (_, true) => newest([image.clock.rest, ours, Some(deletion(remote))]),
    };
    if image.clock.rest == rest {
        return merged;
    }
    let mut image = image.clone();
    image.clock.rest = rest;
    let Merged { outcome, conflict } = merged;
    let outcome = match outcome {
        Outcome::Issue { fresh, .. } => Outcome::Issue { image, fresh },
        _ => outcome_of(image, local, remote),
    };
    Merged { outcome, conflict }
}

/// What a deletion says of the columns of a row that stands all the same: nothing older is in them. A node that never had the
/// deleted row, and does not have all of its columns, is the only one to pass that on.
fn deletion(tombstone: &RowImage) -> Entry {
    Entry { flags: EntryFlags::empty(), authored: None, ..tombstone.clock.row }
}

/// The newest; of equal ones the first.
fn newest(entries: [Option<Entry>; 3]) -> Option<Entry> {
    entries.into_iter().flatten().reduce(|newest, entry| if entry.order() > newest.order() { entry } else { newest })
}

fn joined(ours: Option<Entry>, theirs: Option<Entry>, cx: &MergeContext<'_>) -> Option<Entry> {
    let (Some(mine), Some(other)) = (ours, theirs) else { return ours.or(theirs) };
    let take = match cx.relation(&mine, &other) {
        Relation::Same | Relation::Known => false,
        Relation::Overwrite => true,
        Relation::Concurrent => other.order() > mine.order(),
    };
    if take { theirs } else { ours }
}
