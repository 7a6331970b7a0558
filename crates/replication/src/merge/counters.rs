//! Counters of two sides: joined whatever became of the rest of the row.

use super::{MergeContext, Outcome, Relation, column_number, content, image_of, outcome_of};
use crate::counter::Counter;
use crate::row::RowImage;
use crate::value::Value;

/// Whether either side has counted something in a column. Where none has, a counter column is a column like others, of which
/// the newest value stands.
pub(super) fn is_counted(column: u16, local: &RowImage, remote: &RowImage) -> bool {
    local.clock.counter(column).is_some() || remote.clock.counter(column).is_some()
}

/// Puts the joined counters of both sides, and what their columns hold by them, into an outcome.
pub(super) fn join_into(outcome: Outcome, local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Outcome {
    if local.clock.counters.is_empty() && remote.clock.counters.is_empty() {
        return outcome;
    }
    let mut image = image_of(&outcome, local, remote).clone();
    image.clock.counters.clear();
    for column in (0..cx.shape.columns.len()).map(column_number) {
        let Some((mut counter, value)) = joined(column, local, remote, cx) else { continue };
        if image.clock.is_deleted() {
            counter.bury(image.clock.row);
        } else {
            image.values[usize::from(column)] = value;
        }
        image.clock.counters.push((column, counter));
    }
    match outcome {
        Outcome::Issue { fresh, .. } => Outcome::Issue { image, fresh },
        _ => outcome_of(image, local, remote),
    }
}

/// The counter of a column that was counted in, and what the column holds.
///
/// A state that is one of the two sides' own holds what that side holds: sums of reals depend on their order, and nodes with
/// one state must hold one value.
fn joined(column: u16, local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Option<(Counter, Value)> {
    if !is_counted(column, local, remote) {
        return None;
    }
    let (ours, theirs) = match (counter_of(column, local), counter_of(column, remote)) {
        (Some(ours), Some(theirs)) => (ours, theirs),
        (ours, theirs) => return ours.or(theirs).map(|counter| (counter.clone(), counter.value())),
    };
    let take_set = match (local.clock.is_deleted(), remote.clock.is_deleted()) {
        (false, false) => match cx.relation(&ours.set, &theirs.set) {
            Relation::Same | Relation::Known => false,
            // It has set the column anew, or deleted the row that this was set in.
            Relation::Overwrite => true,
            Relation::Concurrent => theirs.set.order() > ours.set.order(),
        },
        // A deletion sets nothing: if the row lives on, it is with what it had.
        (deleted, _) => deleted,
    };
    let both = ours.joined(&theirs, take_set);
    let held = |image: &RowImage| content(image).and_then(|values| values.get(usize::from(column)).cloned());
    let own = if both == ours {
        held(local)
    } else if both == theirs {
        held(remote)
    } else {
        None
    };
    let value = own.unwrap_or_else(|| both.value());
    Some((both, value))
}

/// A side's counter; one that nothing was counted in is what the column was last set to.
fn counter_of(column: u16, image: &RowImage) -> Option<Counter> {
    if let Some(counter) = image.clock.counter(column) {
        return Some(counter.clone());
    }
    let value = content(image)?.get(usize::from(column))?;
    Some(Counter::new(*image.clock.effective(column), value.clone()))
}
