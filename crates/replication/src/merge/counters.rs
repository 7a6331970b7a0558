//! Counters of two sides: joined whatever became of the rest of the row.
//!
//! What is counted is never in conflict. What sets a counter can be: of two settings that did not know each other one
//! stands, and one that is no number counts as 0 where somebody counts who did not know it. Whoever finds that decides it,
//! by the order of the settings, and records it.

use super::{
    Decided, Decision, Fresh, MergeContext, Merged, Outcome, Relation, column_number, content, image_of, kind_of,
    outcome_of,
};
use crate::counter::{Counter, Tally, is_number};
use crate::origin::Origin;
use crate::policy::ConflictKind;
use crate::row::{Entry, EntryFlags, RowImage};
use crate::value::Value;
use crate::version_vector::VersionVector;

/// The policy's name in records.
pub(super) const POLICY: &str = "counter";

/// Whose setting of a counter counts no more, though the other side did not know it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Discarded {
    ours: bool,
    theirs: bool,
}

/// Whether either side has counted something in a column. Where none has, a counter column is a column like others, of which
/// the newest value stands.
pub(super) fn is_counted(column: u16, local: &RowImage, remote: &RowImage) -> bool {
    local.clock.counter(column).is_some() || remote.clock.counter(column).is_some()
}

/// Puts the joined counters of both sides, and what their columns hold by them, into what became of the row.
pub(super) fn join_into(merged: Merged, local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Merged {
    if local.clock.counters.is_empty() && remote.clock.counters.is_empty() {
        return merged;
    }
    let Merged { outcome, mut conflict } = merged;
    let mut image = image_of(&outcome, local, remote).clone();
    image.clock.counters.clear();
    let mut issued = Vec::new();
    for column in (0..cx.shape.columns.len()).map(column_number) {
        let Some(Joined { mut counter, value, discarded, anew }) = joined(column, local, remote, cx) else { continue };
        if image.clock.is_deleted() {
            counter.bury(image.clock.row);
        } else {
            image.values[usize::from(column)] = value;
            issued.extend(anew.then_some(column));
        }
        image.clock.counters.push((column, counter));
        conflict = with_discarded(conflict, column, discarded, kind_of(local, remote));
    }
    let outcome = match outcome {
        Outcome::Issue { fresh: Fresh::Parts { columns, .. }, .. } => {
            Outcome::Issue { image, fresh: Fresh::Parts { columns, counters: issued } }
        }
        Outcome::Issue { fresh: Fresh::Row, .. } => Outcome::Issue { image, fresh: Fresh::Row },
        _ if issued.is_empty() => outcome_of(image, local, remote),
        _ => Outcome::Issue { image, fresh: Fresh::Parts { columns: Vec::new(), counters: issued } },
    };
    Merged { outcome, conflict }
}

/// The conflict of a row with that of one of its counters.
fn with_discarded(conflict: Option<Decided>, column: u16, discarded: Discarded, kind: ConflictKind) -> Option<Decided> {
    let decision = match (discarded.ours, discarded.theirs) {
        (false, false) => return conflict,
        (true, false) => Decision::RemoteApplied,
        (false, true) => Decision::LocalKept,
        (true, true) => Decision::Merged,
    };
    let Some(mut decided) = conflict else {
        return Some(Decided { kind, decision, columns: vec![column], policy: POLICY.to_owned() });
    };
    if decided.decision != decision {
        decided.decision = Decision::Merged;
    }
    if let Err(place) = decided.columns.binary_search(&column) {
        decided.columns.insert(place, column);
    }
    if !decided.policy.split('+').any(|name| name == POLICY) {
        decided.policy = format!("{}+{POLICY}", decided.policy);
    }
    Some(decided)
}

/// What two sides make of a counter.
struct Joined {
    counter: Counter,
    /// What the column holds.
    value: Value,
    discarded: Discarded,
    /// Whether that is a new change.
    anew: bool,
}

/// The counter of a column that was counted in.
///
/// A state that is one of the two sides' own holds what that side holds: sums of reals depend on their order, and nodes with
/// one state must hold one value.
fn joined(column: u16, local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Option<Joined> {
    if !is_counted(column, local, remote) {
        return None;
    }
    let (ours, theirs) = match (counter_of(column, local), counter_of(column, remote)) {
        (Some(ours), Some(theirs)) => (ours, theirs),
        (ours, theirs) => {
            let counter = ours.or(theirs)?;
            return Some(Joined { value: counter.value(), counter, discarded: Discarded::default(), anew: false });
        }
    };
    let alive = !local.clock.is_deleted() && !remote.clock.is_deleted();
    let relation = cx.relation(&ours.set, &theirs.set);
    let take_set = match relation {
        // A deletion sets nothing: if the row lives on, it is with what it had.
        _ if !alive => local.clock.is_deleted(),
        Relation::Same | Relation::Known => false,
        // It has set the column anew.
        Relation::Overwrite => true,
        Relation::Concurrent => theirs.set.order() > ours.set.order(),
    };
    // Of that another image tells, which comes after it.
    let is_silent = remote.clock.effective(column).flags.contains(EntryFlags::SILENT);
    if take_set && !is_silent {
        // Here, or by who took the row from a node without the column and had counted nothing.
        let filled_in =
            remote.clock.counter(column).is_none() && (cx.filled_in.contains(&column) || is_filled(column, remote));
        let untold = untold(&ours, &theirs, filled_in, cx);
        if !untold.is_empty() {
            let (counter, unknown) = taken_over(&ours, &theirs, &untold, cx.context);
            let lost = alive && (relation == Relation::Concurrent || unknown);
            let value = counter.value();
            let discarded = Discarded { ours: lost && ours.value() != value, theirs: false };
            return Some(Joined { counter, value, discarded, anew: true });
        }
    } else if !take_set && relation != Relation::Same && is_filled(column, local) && !theirs.tallies.is_empty() {
        // The other way round: it is the row here that came without the column.
        let all: Vec<Origin> = theirs.tallies.iter().map(Tally::origin).collect();
        let (counter, unknown) = taken_over(&theirs, &ours, &all, cx.own);
        let lost = alive && (relation == Relation::Concurrent || unknown);
        let value = counter.value();
        let discarded = Discarded { ours: false, theirs: lost && theirs.value() != value };
        return Some(Joined { counter, value, discarded, anew: true });
    }
    let both = ours.joined(&theirs, take_set);
    let discarded =
        if alive { discarded((&ours, &theirs), &both, (relation, take_set), cx) } else { Discarded::default() };
    let held = |image: &RowImage| content(image).and_then(|values| values.get(usize::from(column)).cloned());
    let own = if both == ours {
        held(local)
    } else if both == theirs {
        held(remote)
    } else {
        None
    };
    let value = own.unwrap_or_else(|| both.value());
    // Two nodes that said so in one name each knew of some: the one whose word stands has to be told of the rest.
    let anew = !both.absorbs_as(if take_set { &theirs } else { &ours });
    Some(Joined { counter: both, value, discarded, anew })
}

/// The places of our tallies that `theirs`, which sets the counter anew, should have told of: it comes from a node that cannot, or
/// from one that had it from such a node and has taken them into account.
fn untold(ours: &Counter, theirs: &Counter, filled_in: bool, cx: &MergeContext<'_>) -> Vec<Origin> {
    let is_told = |tally: &Tally| theirs.tallies.iter().any(|other| other.origin() == tally.origin());
    let tallies = ours.tallies.iter().filter(|tally| !is_told(tally));
    tallies.filter(|tally| filled_in || cx.context.covers(tally.entry.dot)).map(Tally::origin).collect()
}

/// Whether the row came without the column from a node that put it in the place of a deleted one, and nothing was counted since.
fn is_filled(column: u16, image: &RowImage) -> bool {
    image.clock.counter(column).is_none() && image.clock.effective(column).flags.contains(EntryFlags::FILLED)
}

/// What becomes of a counter when its row makes way for one that was written without the column: that sets the counter to what a
/// new row holds, but its writer cannot say what was counted until then. This node says it in that one's name: a change of its own,
/// next after it, so that what is newer than the row stays newer, and those of several nodes are one.
///
/// `untold` are the origins of which the row does not tell. With whether something counts no more of which the side of the row,
/// which knew `context`, did not know.
fn taken_over(old: &Counter, new: &Counter, untold: &[Origin], context: &VersionVector) -> (Counter, bool) {
    let mut counter = old.joined(new, true);
    let unknown = |tally: &Tally| tally.sum != tally.absorbed && !context.covers(tally.entry.dot);
    let told_of = |tally: &&mut Tally| untold.contains(&tally.origin());
    counter.tallies.iter_mut().filter(told_of).for_each(Tally::absorb);
    counter.set = Entry { timestamp: new.set.timestamp.next(), flags: EntryFlags::RESOLUTION, ..new.set };
    (counter, old.tallies.iter().any(unknown))
}

/// What of two living sides' settings is to be seen no more in what they make together.
fn discarded(
    (ours, theirs): (&Counter, &Counter),
    both: &Counter,
    (relation, take_set): (Relation, bool),
    cx: &MergeContext<'_>,
) -> Discarded {
    let mut discarded = Discarded::default();
    // Saying the same anew, as a change of the whole row does, discards nothing. What is no number counts as 0: neither of two
    // such settings shows in the sum, and both were values all the same.
    let numbers = is_number(&ours.base) && is_number(&theirs.base);
    let differ = (!numbers && ours.base != theirs.base) || ours.joined(theirs, !take_set).value() != both.value();
    if relation == Relation::Concurrent && differ {
        (discarded.ours, discarded.theirs) = (take_set, !take_set);
    }
    // Whoever knew the setting has recorded it when it came to count as 0.
    let (stands, unknown) =
        if take_set { (theirs, !cx.own.covers(theirs.set.dot)) } else { (ours, !cx.context.covers(ours.set.dot)) };
    let shown = stands.value();
    if unknown && !is_number(&shown) && both.value() != shown {
        *(if take_set { &mut discarded.theirs } else { &mut discarded.ours }) = true;
    }
    discarded
}

/// A side's counter; one that nothing was counted in is what the column was last set to.
fn counter_of(column: u16, image: &RowImage) -> Option<Counter> {
    if let Some(counter) = image.clock.counter(column) {
        return Some(counter.clone());
    }
    let value = content(image)?.get(usize::from(column))?;
    Some(Counter::new(*image.clock.effective(column), value.clone()))
}
