//! Row against row as wholes: with row granularity, or where one side is deleted.

use super::counters::is_counted;
use super::{
    Decided, Decision, MergeContext, Merged, Outcome, Relation, Undecided, content, differing, has_cells_apart,
    image_of, issue_row, kind_of,
};
use crate::hybrid_clock::Timestamp;
use crate::origin::Origin;
use crate::policy::{ConflictPolicy, Granularity, Resolution};
use crate::row::{Entry, EntryFlags, RowClock, RowImage};
use crate::value::Value;

/// Two deletions never conflict; one of the entries stays.
pub(super) fn merge_tombstones(local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Merged {
    let take = match cx.relation(&local.clock.row, &remote.clock.row) {
        Relation::Same | Relation::Known => false,
        Relation::Overwrite => true,
        Relation::Concurrent => remote.clock.row.order() > local.clock.row.order(),
    };
    Merged::quiet(if take { Outcome::TakeRemote } else { Outcome::Keep })
}

pub(super) fn merge_whole(local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Result<Merged, Undecided> {
    let (ours, theirs) = (weighed(local, remote), weighed(remote, local));
    if theirs.iter().all(|entry| cx.own.covers(entry.dot) || ours.iter().any(|own| own.dot == entry.dot)) {
        // The local node had taken all of it into account.
        return Ok(Merged::quiet(Outcome::Keep));
    }
    if ours.iter().all(|entry| cx.context.covers(entry.dot) || theirs.iter().any(|their| their.dot == entry.dot)) {
        let in_part = revived_in_part(local, remote, cx);
        return Ok(Merged::quiet(if in_part { revived(remote, local, cx) } else { Outcome::TakeRemote }));
    }
    let plain = plain(local, remote, cx);
    let columns = match (content(local), content(remote)) {
        (Some(ours), Some(theirs)) => {
            let mut columns = differing(ours, theirs);
            columns.retain(|column| !is_counted(*column, local, remote));
            if columns.is_empty() {
                return Ok(Merged::quiet(plain));
            }
            columns
        }
        _ => Vec::new(),
    };
    decide(local, remote, cx, columns, plain)
}

/// The entries that count for a side. What was counted stands beside a row that another row takes the place of, and with a
/// deletion it is lost.
fn weighed<'a>(image: &'a RowImage, other: &RowImage) -> Vec<&'a Entry> {
    if image.clock.is_deleted() || other.clock.is_deleted() {
        image.clock.entries().collect()
    } else {
        image.clock.registers().collect()
    }
}

/// The plain comparison of whole rows, with the revival of a deleted row.
fn plain(local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Outcome {
    let newest = |image: &RowImage, other: &RowImage| -> Option<(Timestamp, Origin)> {
        weighed(image, other).into_iter().map(Entry::order).max()
    };
    if local.clock.is_deleted() != remote.clock.is_deleted() {
        let (tombstone, alive) = if local.clock.is_deleted() { (local, remote) } else { (remote, local) };
        let deletion = tombstone.clock.row.order();
        // The row rests on an insert or rewrite that the deletion is older than, by a node that has all of its columns: it carries
        // every column itself.
        let rests_on_newer = alive.clock.registers().all(|entry| entry.order() >= deletion);
        let counted = !alive.clock.counters.is_empty();
        let in_parts = cx.granularity == Granularity::Column || counted || has_cells_apart(local, remote);
        let lacks_cells = in_parts && !rests_on_newer || revived_in_part(local, remote, cx);
        if lacks_cells && newest(alive, tombstone) > Some(deletion) {
            return revived(alive, tombstone, cx);
        }
    }
    if newest(remote, local) > newest(local, remote) { Outcome::TakeRemote } else { Outcome::Keep }
}

/// Whether an incoming row that stands against a deletion here says nothing of some columns. Nodes that have not seen the
/// deletion still hold what the row had in them; here they hold what a new row has. Not where the row itself tells that.
fn revived_in_part(local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> bool {
    let deletion = local.clock.row.order();
    !cx.filled_in.is_empty() && local.clock.is_deleted() && remote.clock.rest.is_none_or(|rest| rest.order() < deletion)
}

/// A row that comes back, as a new change: all nodes then hold the same in all of its columns. In those that this node lacks
/// it leaves nothing that is older than the deletion.
fn revived(alive: &RowImage, tombstone: &RowImage, cx: &MergeContext<'_>) -> Outcome {
    let deletion = tombstone.clock.row;
    let mut outcome = issue_row(alive, Some(alive.values.clone()), None, cx);
    if let Outcome::Issue { image, .. } = &mut outcome {
        let gone = Entry { timestamp: deletion.timestamp, ..Entry::never(deletion.dot.origin) };
        // Whoever sends the row is going to say what is in these.
        let unsaid = |(_, entry): &&(u16, Entry)| entry.flags.contains(EntryFlags::SILENT);
        image.clock.columns = alive.clock.columns.iter().filter(unsaid).copied().collect();
        image.clock.rest = alive.clock.rest.filter(|rest| rest.order() > deletion.order()).or(Some(gone));
    }
    outcome
}

/// Asks the policies and compares their answer with the plain outcome.
fn decide(
    local: &RowImage,
    remote: &RowImage,
    cx: &MergeContext<'_>,
    columns: Vec<u16>,
    plain: Outcome,
) -> Result<Merged, Undecided> {
    let standing = content(image_of(&plain, local, remote)).map(<[Value]>::to_vec);
    let (own, rest): (Vec<u16>, Vec<u16>) = columns.iter().partition(|column| cx.own_policy(**column).is_some());
    let resolved = is_resolution(&local.clock) && is_resolution(&remote.clock);
    let mut names = Vec::new();
    let mut wanted = standing.clone();
    if columns.is_empty() || !rest.is_empty() {
        names.push(cx.policy.name());
        if !resolved || cx.policy.settles() {
            wanted = match cx.ask(cx.policy, (local, remote), &rest)? {
                Resolution::KeepLocal => content(local).map(<[Value]>::to_vec),
                Resolution::TakeRemote => content(remote).map(<[Value]>::to_vec),
                Resolution::Row(values) => Some(values),
                Resolution::Delete => None,
                Resolution::Newest | Resolution::Fail(_) => wanted,
            };
        }
    }
    for column in own {
        let (Some(policy), Some(row)) = (cx.own_policy(column), wanted.as_mut()) else { continue };
        names.push(policy.name());
        if !resolved || policy.settles() {
            decide_column(policy, (local, remote), cx, column, row)?;
        }
    }
    names.dedup();
    let policy = names.join("+");
    let decision = if wanted.as_deref() == content(local) {
        Decision::LocalKept
    } else if wanted.as_deref() == content(remote) {
        Decision::RemoteApplied
    } else {
        Decision::Merged
    };
    let authored = match decision {
        Decision::LocalKept => Some(local.clock.newest().authored()),
        Decision::RemoteApplied => Some(remote.clock.newest().authored()),
        Decision::Merged => None,
    };
    let outcome = if wanted == standing { plain } else { issue_row(local, wanted, authored, cx) };
    let decided = Decided { kind: kind_of(local, remote), decision, columns, policy };
    Ok(Merged { outcome, conflict: Some(decided) })
}

/// Puts what the policy of one column wants into a row that has been decided otherwise.
fn decide_column(
    policy: &dyn ConflictPolicy,
    (local, remote): (&RowImage, &RowImage),
    cx: &MergeContext<'_>,
    column: u16,
    row: &mut [Value],
) -> Result<(), Undecided> {
    let place = usize::from(column);
    match cx.ask(policy, (local, remote), &[column])? {
        Resolution::KeepLocal => row[place] = local.values[place].clone(),
        Resolution::TakeRemote => row[place] = remote.values[place].clone(),
        Resolution::Row(mut values) => row[place] = values.swap_remove(place),
        Resolution::Newest | Resolution::Fail(_) => {}
        Resolution::Delete => {
            return Err(super::undecided(policy, "the policy of a column cannot delete the row".to_owned()));
        }
    }
    Ok(())
}

fn is_resolution(clock: &RowClock) -> bool {
    clock.newest().flags.contains(EntryFlags::RESOLUTION)
}
