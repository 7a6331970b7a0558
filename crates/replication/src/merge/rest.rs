//! What speaks for columns that a node does not have: joined whatever became of the rest of the row.

use super::{MergeContext, Merged, Outcome, Relation, image_of, outcome_of};
use crate::row::{Entry, RowImage};

/// Puts the newer of both sides' [`rest`](crate::RowClock::rest) into what became of the row.
pub(super) fn join_into(merged: Merged, local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Merged {
    let (ours, theirs) = (local.clock.rest, remote.clock.rest);
    let image = image_of(&merged.outcome, local, remote);
    let is_issue = matches!(merged.outcome, Outcome::Issue { .. });
    let rest = match (local.clock.is_deleted(), remote.clock.is_deleted()) {
        _ if image.clock.is_deleted() => None,
        (false, false) => joined(ours, theirs, cx),
        // A row that comes back tells of the deletion itself.
        _ => image.clock.rest.or_else(|| ours.or(theirs).filter(|_| is_issue)),
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

fn joined(ours: Option<Entry>, theirs: Option<Entry>, cx: &MergeContext<'_>) -> Option<Entry> {
    let (Some(mine), Some(other)) = (ours, theirs) else { return ours.or(theirs) };
    let take = match cx.relation(&mine, &other) {
        Relation::Same | Relation::Known => false,
        Relation::Overwrite => true,
        Relation::Concurrent => other.order() > mine.order(),
    };
    if take { theirs } else { ours }
}
