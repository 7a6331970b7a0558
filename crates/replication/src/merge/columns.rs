//! Column by column, both sides alive. In a table that is merged by rows these are the cells that one side's row was written
//! without, and all others together.

use std::collections::BTreeMap;

use super::counters::{POLICY, is_counted};
use super::{
    Decided, Decision, Fresh, MergeContext, Merged, Outcome, Relation, Undecided, column_number, issue_row, kind_of,
    outcome_of, undecided,
};
use crate::hybrid_clock::Timestamp;
use crate::origin::Origin;
use crate::policy::{ConflictPolicy, Granularity, Resolution, Scope};
use crate::row::{Entry, EntryFlags, RowClock, RowImage};
use crate::value::Value;

pub(super) fn merge_columns(local: &RowImage, remote: &RowImage, cx: &MergeContext<'_>) -> Result<Merged, Undecided> {
    if local.clock.columns.is_empty() && remote.clock.columns.is_empty() {
        match cx.relation(&local.clock.row, &remote.clock.row) {
            Relation::Same | Relation::Known => return Ok(Merged::quiet(Outcome::Keep)),
            Relation::Overwrite => return Ok(Merged::quiet(Outcome::TakeRemote)),
            Relation::Concurrent => {}
        }
    }
    let groups = Groups::of(local, remote, cx);
    if groups.all_is_remote() {
        debug_assert!({
            let (from_remote, conflicting) = groups.chosen();
            conflicting.is_empty() && combine(local, remote, &from_remote, &groups) == *remote
        });
        return Ok(Merged::quiet(Outcome::TakeRemote));
    }
    let (from_remote, conflicting) = groups.chosen();
    let plain = combine(local, remote, &from_remote, &groups);
    if conflicting.is_empty() {
        return Ok(Merged::quiet(outcome_of(plain, local, remote)));
    }
    let mut decider =
        Decider { cx, local, remote, from_remote: &from_remote, changed: BTreeMap::new(), names: Vec::new() };
    let deleted = decider.decide(&conflicting)?;
    let policy = std::mem::take(&mut decider.names).join("+");
    let kind = kind_of(local, remote);
    if deleted {
        let decided = Decided { kind, decision: Decision::Merged, columns: conflicting, policy };
        return Ok(Merged { outcome: issue_row(local, None, None, cx), conflict: Some(decided) });
    }
    let changed = decider.changed;
    let image = with_changes(plain, &changed, &groups);
    let stands = |side: &RowImage| {
        conflicting.iter().all(|column| image.values[usize::from(*column)] == side.values[usize::from(*column)])
    };
    let decision = if stands(local) {
        Decision::LocalKept
    } else if stands(remote) {
        Decision::RemoteApplied
    } else {
        Decision::Merged
    };
    let outcome = if changed.is_empty() {
        outcome_of(image, local, remote)
    } else {
        Outcome::Issue { image, fresh: Fresh::Parts { columns: changed.into_keys().collect(), counters: Vec::new() } }
    };
    Ok(Merged { outcome, conflict: Some(Decided { kind, decision, columns: conflicting, policy }) })
}

/// What is compared as one.
struct Groups<'a> {
    local: &'a RowImage,
    remote: &'a RowImage,
    cx: &'a MergeContext<'a>,
    /// How the rows stand to each other, without the cells that one was written without, and whether the remote one is newer;
    /// none where every cell is compared for itself.
    rows: Option<(Relation, bool)>,
}

impl<'a> Groups<'a> {
    fn of(local: &'a RowImage, remote: &'a RowImage, cx: &'a MergeContext<'a>) -> Self {
        let mut groups = Self { local, remote, cx, rows: None };
        if cx.granularity == Granularity::Row {
            groups.rows = Some(groups.compared_rows());
        }
        groups
    }

    fn compared_rows(&self) -> (Relation, bool) {
        let (ours, theirs) = (self.of_row(self.local), self.of_row(self.remote));
        let within = |side: &[&Entry], other: &[&Entry], covers: &dyn Fn(&Entry) -> bool| {
            side.iter().all(|entry| covers(entry) || other.iter().any(|same| same.dot == entry.dot))
        };
        let newest = |side: &[&Entry]| side.iter().map(|entry| entry.order()).max();
        let relation = if within(&theirs, &ours, &|entry| self.cx.own.covers(entry.dot)) {
            Relation::Known
        } else if within(&ours, &theirs, &|entry| self.cx.context.covers(entry.dot)) {
            Relation::Overwrite
        } else {
            Relation::Concurrent
        };
        (relation, newest(&theirs) > newest(&ours))
    }

    /// The entries of what a row was written with.
    fn of_row<'b>(&self, side: &'b RowImage) -> Vec<&'b Entry> {
        let columns = side.clock.columns.iter().filter(|(column, _)| !self.is_apart(*column)).map(|(_, entry)| entry);
        std::iter::once(&side.clock.row).chain(columns).collect()
    }

    fn is_apart(&self, column: u16) -> bool {
        let flagged = |side: &RowImage| side.clock.effective(column).flags.contains(EntryFlags::APART);
        flagged(self.local) || flagged(self.remote)
    }

    /// How the sides stand to each other in a column, and whether the remote one is newer.
    fn compared(&self, column: u16) -> (Relation, bool) {
        match self.rows.filter(|_| !self.is_apart(column)) {
            Some(rows) => rows,
            None => self.compared_entries(self.local.clock.effective(column), self.remote.clock.effective(column)),
        }
    }

    /// Whether the row entry is the remote one.
    fn row_from_remote(&self) -> bool {
        let compared = || self.compared_entries(&self.local.clock.row, &self.remote.clock.row);
        match self.rows.unwrap_or_else(compared) {
            (Relation::Same | Relation::Known, _) => false,
            (Relation::Overwrite, _) => true,
            (Relation::Concurrent, newer) => newer,
        }
    }

    /// For each column whether the plain comparison takes the remote side's, and the columns that are in conflict.
    fn chosen(&self) -> (Vec<bool>, Vec<u16>) {
        let (local, remote) = (self.local, self.remote);
        let mut conflicting = Vec::new();
        let from_remote = (0..remote.values.len()).map(|index| {
            let column = column_number(index);
            match self.compared(column) {
                (Relation::Same | Relation::Known, _) => false,
                (Relation::Overwrite, _) => true,
                (Relation::Concurrent, newer) => {
                    if local.values[index] != remote.values[index] && !is_counted(column, local, remote) {
                        conflicting.push(column);
                    }
                    newer
                }
            }
        });
        (from_remote.collect(), conflicting)
    }

    /// Whether what becomes of both is the remote row as it is, without a conflict: most changes of a row rest on all that is here. What
    /// is put together otherwise would be the same.
    fn all_is_remote(&self) -> bool {
        let (ours, theirs) = (&self.local.clock, &self.remote.clock);
        if self.rows.is_some() || !theirs.counters.is_empty() || theirs.rest.is_some() {
            return false;
        }
        let row_is_remote = match self.cx.relation(&ours.row, &theirs.row) {
            Relation::Overwrite => true,
            Relation::Same => ours.row == theirs.row,
            Relation::Known | Relation::Concurrent => false,
        };
        let has_own = |clock: &RowClock, column| clock.columns.iter().any(|(known, _)| *known == column);
        let mut is_new = false;
        let mut is_remote = |index: usize| {
            let column = column_number(index);
            let (our, their) = (ours.effective(column), theirs.effective(column));
            match self.cx.relation(our, their) {
                Relation::Overwrite => is_new = true,
                Relation::Same => {
                    return our == their
                        && has_own(ours, column) == has_own(theirs, column)
                        && self.local.values[index] == self.remote.values[index];
                }
                Relation::Known | Relation::Concurrent => return false,
            }
            true
        };
        row_is_remote && (0..self.remote.values.len()).all(&mut is_remote) && is_new
    }

    fn compared_entries(&self, ours: &Entry, theirs: &Entry) -> (Relation, bool) {
        (self.cx.relation(ours, theirs), theirs.order() > ours.order())
    }
}

/// The image whose columns come from the side that `from_remote` says.
fn combine(local: &RowImage, remote: &RowImage, from_remote: &[bool], groups: &Groups<'_>) -> RowImage {
    let row = if groups.row_from_remote() { remote.clock.row } else { local.clock.row };
    let mut clock = RowClock::whole(row);
    let mut values = Vec::with_capacity(from_remote.len());
    for (index, take) in from_remote.iter().enumerate() {
        let column = column_number(index);
        let side = if *take { remote } else { local };
        let entry = *side.clock.effective(column);
        let explicit = side.clock.columns.iter().any(|(known, _)| *known == column);
        if explicit || entry.dot != row.dot {
            let apart = groups.rows.is_some() && groups.is_apart(column);
            let flags = if apart { entry.flags.with(EntryFlags::APART) } else { entry.flags };
            clock.columns.push((column, Entry { flags, ..entry }));
        }
        values.push(side.values[index].clone());
    }
    // What is counted is put in where all of it is known.
    RowImage { values, clock }
}

/// What a column is to hold against the plain comparison, and when and by whom that was written, if by one of the sides.
type Change = (Value, Option<(Timestamp, Origin)>);

/// The image with these columns as parts of a new change.
fn with_changes(mut image: RowImage, changed: &BTreeMap<u16, Change>, groups: &Groups<'_>) -> RowImage {
    for (column, (value, authored)) in changed {
        image.values[usize::from(*column)] = value.clone();
        let apart =
            if groups.rows.is_some() && groups.is_apart(*column) { EntryFlags::APART } else { EntryFlags::empty() };
        let entry = Entry { flags: EntryFlags::RESOLUTION.with(apart), authored: *authored, ..image.clock.row };
        image.clock.set_entry(*column, entry);
    }
    image
}

/// Asks policies about columns, and gathers what they want otherwise than the plain comparison.
struct Decider<'a> {
    cx: &'a MergeContext<'a>,
    local: &'a RowImage,
    remote: &'a RowImage,
    /// For each column, whether the plain comparison takes the remote side's.
    from_remote: &'a [bool],
    changed: BTreeMap<u16, Change>,
    /// Who was asked.
    names: Vec<String>,
}

impl Decider<'_> {
    /// Decides all columns in conflict. True if the row is to be deleted.
    fn decide(&mut self, conflicting: &[u16]) -> Result<bool, Undecided> {
        let cx = self.cx;
        let (own, rest): (Vec<u16>, Vec<u16>) =
            conflicting.iter().partition(|column| cx.own_policy(**column).is_some() || cx.is_counter(**column));
        if !rest.is_empty() && self.ask_about(cx.policy, &rest, true)? {
            return Ok(true);
        }
        for column in own {
            match cx.own_policy(column) {
                Some(policy) => drop(self.ask_about(policy, &[column], false)?),
                // Set on both sides, not counted: the later one stands, as in a column without a rule.
                None => self.name(POLICY),
            }
        }
        Ok(false)
    }

    fn name(&mut self, name: &str) {
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
    }

    /// Asks one policy. True if it wants the row deleted.
    fn ask_about(&mut self, policy: &dyn ConflictPolicy, columns: &[u16], of_row: bool) -> Result<bool, Undecided> {
        self.name(policy.name());
        let resolution = |side: &RowImage, column| side.clock.effective(column).flags.contains(EntryFlags::RESOLUTION);
        let open =
            |column: &u16| policy.settles() || !(resolution(self.local, *column) && resolution(self.remote, *column));
        let open: Vec<u16> = columns.iter().copied().filter(open).collect();
        let questions: Vec<&[u16]> = match policy.scope() {
            _ if open.is_empty() => Vec::new(),
            Scope::Row => vec![&open],
            Scope::Column => open.chunks(1).collect(),
        };
        for question in questions {
            match self.cx.ask(policy, (self.local, self.remote), question)? {
                Resolution::Newest | Resolution::Fail(_) => {}
                Resolution::KeepLocal => question.iter().for_each(|column| self.choose(*column, false)),
                Resolution::TakeRemote => question.iter().for_each(|column| self.choose(*column, true)),
                Resolution::Row(row) if of_row && policy.scope() == Scope::Row => self.take_row(policy, &open, row)?,
                Resolution::Row(row) => {
                    question.iter().for_each(|column| self.set(*column, row[usize::from(*column)].clone()));
                }
                Resolution::Delete if of_row => return Ok(true),
                Resolution::Delete => {
                    return Err(undecided(policy, "the policy of a column cannot delete the row".to_owned()));
                }
            }
        }
        Ok(false)
    }

    /// Takes a whole row that a table's policy made. Columns with rules of their own are not its business.
    fn take_row(&mut self, policy: &dyn ConflictPolicy, open: &[u16], row: Vec<Value>) -> Result<(), Undecided> {
        for (index, value) in row.into_iter().enumerate() {
            let column = column_number(index);
            if self.cx.rule(column).is_some() || is_counted(column, self.local, self.remote) {
                continue;
            }
            if self.cx.shape.key.contains(&column) && !open.contains(&column) && value != *self.standing(column) {
                return Err(undecided(policy, format!("it changed the key column {:?}", self.cx.shape.columns[index])));
            }
            self.set(column, value);
        }
        Ok(())
    }

    fn side(&self, remote: bool) -> &RowImage {
        if remote { self.remote } else { self.local }
    }

    /// What the plain comparison puts into a column.
    fn standing(&self, column: u16) -> &Value {
        let index = usize::from(column);
        &self.side(self.from_remote[index]).values[index]
    }

    fn choose(&mut self, column: u16, remote: bool) {
        let index = usize::from(column);
        if self.from_remote[index] != remote {
            let side = self.side(remote);
            let change = (side.values[index].clone(), Some(side.clock.effective(column).authored()));
            self.changed.insert(column, change);
        }
    }

    fn set(&mut self, column: u16, value: Value) {
        let index = usize::from(column);
        if value == *self.standing(column) {
            return;
        }
        let other = self.side(!self.from_remote[index]);
        let authored = (value == other.values[index]).then(|| other.clock.effective(column).authored());
        self.changed.insert(column, (value, authored));
    }
}
