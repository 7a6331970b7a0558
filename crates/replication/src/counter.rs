//! Counters: columns whose concurrent increments and decrements add up.
//!
//! State, not operations: a counter is what its column was set to, and for each origin the sum of what that origin counted.
//! Setting it is a register like any column; sums are joined origin by origin, the larger sequence replaces the smaller. That
//! is a join, so any order, grouping or repetition gives the same state, and nothing is counted twice or lost when states are
//! compacted (Shapiro, Preguiça, Baquero, Zawirski: "A comprehensive study of convergent and commutative
//! replicated data types", 2011, the PN-counter, with a reset that remembers what it has seen).
//!
//! What sets a counter knows sums that were counted before: they are absorbed and count no more. Sums that it did not know
//! count on top of it, so that of two concurrent inserts of one key one base stands, and every increment. A row that a node
//! without the column put in the place of another one cannot tell what it knew: whoever has counted takes all of it to be
//! known, in the name of that row.
//!
//! Only finite numbers are counted: what is no number, or leads to an infinity, sets the counter. Of two settings the later
//! one stands, and one that nobody could see the end of is told by the merge as a conflict. Sums of integers are exact,
//! and become a REAL only where the total fits no INTEGER, as in SQLite; nodes with one state hold one value.
//!
//! # Tables that a migration rebuilds
//!
//! While a table is rebuilt nothing is logged, so only the difference between what the table holds and what the clock makes
//! of the counter tells what was counted. That needs what a counter was set to also where nothing was counted yet: the
//! store keeps it beside the clock of each row. What becomes of a row when the triggers are back:
//!
//! | the row | its counter |
//! | --- | --- |
//! | holds what it held | counts nothing; what it was set to is the same, under the row's new entry |
//! | holds another number | the difference is counted by this node, on top of what others count |
//! | holds what cannot be counted, or did | is set to what it holds |
//! | was deleted and inserted meanwhile | as an update: nothing tells them apart |
//! | is new by the migration, unknown to the clock | is set to what it holds, older than every change |
//! | is there again, a tombstone to the clock | is set to what it holds, as by an insert |
//! | is gone | its deletion; what was counted is kept for a row that comes after it |
//!
//! It is the same whether one node rebuilt its table or several, in one order or another: sums are this node's own. Hence a
//! migration that changes what a counter holds (`n * 2`) counts as what a program counts: run on two nodes, twice.

use crate::origin::Origin;
use crate::row::{Entry, EntryFlags};
use crate::value::Value;

/// One counter column of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// The change that set it.
    pub set: Entry,
    /// What it was set to. Anything but a number counts as 0 once something is counted.
    pub base: Value,
    /// What origins counted, ordered by origin.
    pub tallies: Vec<Tally>,
}

/// What one origin counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// The origin's last change of the counter.
    pub entry: Entry,
    /// The sum of all that the origin counted: INTEGER or REAL.
    pub sum: Value,
    /// How much of the sum was known when the counter was set, or is taken to have been, and counts no more: INTEGER or REAL.
    pub absorbed: Value,
    /// The sequence of the change at which the sum was that; 0 if nothing was known.
    pub absorbed_at: u64,
}

impl Tally {
    /// Who counted.
    pub fn origin(&self) -> Origin {
        self.entry.dot.origin
    }

    /// A sum of which nothing was known when the counter was set.
    fn unknown(entry: Entry, sum: Value) -> Self {
        Self { entry, sum, absorbed: Value::Integer(0), absorbed_at: 0 }
    }

    /// Whether more of the origin's changes are known here. Two amounts of one change, which no honest node has, are still in an
    /// order that any nodes agree on.
    fn absorbed_more(&self, other: &Self) -> bool {
        (self.absorbed_at, &self.absorbed) > (other.absorbed_at, &other.absorbed)
    }

    /// Takes the whole sum as known: it counts no more.
    pub(crate) fn absorb(&mut self) {
        (self.absorbed, self.absorbed_at) = (self.sum.clone(), self.entry.dot.sequence);
    }
}

impl Counter {
    /// A counter that was set and not counted since.
    pub fn new(set: Entry, base: Value) -> Self {
        Self { set: Entry { authored: None, ..set }, base, tallies: Vec::new() }
    }

    /// What the column holds.
    pub fn value(&self) -> Value {
        let counted: Vec<&Tally> = self.tallies.iter().filter(|tally| tally.sum != tally.absorbed).collect();
        if counted.is_empty() {
            return self.base.clone();
        }
        let base = match &self.base {
            // Nothing that is counted takes it away from there.
            Value::Real(infinite) if infinite.is_infinite() => return self.base.clone(),
            base if is_number(base) => base,
            _ => &Value::Integer(0),
        };
        let whole = counted.iter().try_fold(integer(base), |total, tally| {
            Some(Some(total? + integer(&tally.sum)? - integer(&tally.absorbed)?))
        });
        let parts = || counted.iter().map(|tally| (real(&tally.sum), real(&tally.absorbed)));
        match whole.flatten() {
            Some(total) => number(total),
            None => match parts().fold(real(base), |total, (sum, absorbed)| total + (sum - absorbed)) {
                total if total.is_finite() => Value::Real(total),
                // On the way it was beyond what a double holds; that its end is as well is not said.
                _ => Value::Real(
                    parts().fold(real(base) * SCALE, |total, (sum, absorbed)| total + (sum * SCALE - absorbed * SCALE))
                        / SCALE,
                ),
            },
        }
    }

    /// Counts the difference between the column's value, `before`, and what an application made of it, as one more change
    /// of its origin. False, and nothing is changed, if one of them, or what they add up to, is not a finite number: then
    /// the counter is to be [set](Self::set_to).
    pub fn count(&mut self, entry: Entry, before: &Value, after: &Value) -> bool {
        if !is_finite(before) || !is_finite(after) {
            return false;
        }
        let difference = sum_of(after, &negated(before));
        let place = self.tallies.binary_search_by_key(&entry.dot.origin, Tally::origin);
        let sum = place.map_or_else(|_| difference.clone(), |found| sum_of(&self.tallies[found].sum, &difference));
        if !is_finite(&sum) {
            return false;
        }
        match place {
            Ok(found) => (self.tallies[found].entry, self.tallies[found].sum) = (entry, sum),
            Err(place) => self.tallies.insert(place, Tally::unknown(entry, sum)),
        }
        true
    }

    /// Sets the counter: what was counted until now counts no more.
    pub fn set_to(&mut self, set: Entry, base: Value) {
        (self.set, self.base) = (Entry { authored: None, ..set }, base);
        self.tallies.iter_mut().for_each(Tally::absorb);
    }

    /// Takes note that the row was written as a whole, with this entry: what the counter was set to is said anew. Otherwise a
    /// deletion that knows another setting, and not this one, would leave nodes with different ones.
    pub fn confirm(&mut self, row: Entry) {
        self.set = Entry { authored: None, ..row };
    }

    /// Takes note of what the column holds after a time in which nothing was logged, and that the row was written as a whole
    /// with the entry `row`: the difference is counted with the entry `counted`, or the counter is set where nothing can be
    /// counted. True if it was counted.
    pub fn follow(&mut self, holds: &Value, row: Entry, counted: Entry) -> bool {
        let known = self.value();
        if known == *holds {
            self.confirm(row);
            return false;
        }
        let counts = self.count(counted, &known, holds);
        if counts {
            self.confirm(row);
        } else {
            self.set_to(row, holds.clone());
        }
        counts
    }

    /// What is kept of the counter when its row is deleted: only what was counted, so that a row which comes after it can
    /// absorb that.
    pub fn bury(&mut self, deletion: Entry) {
        (self.set, self.base) = (Entry { authored: None, ..deletion }, Value::Null);
        self.tallies.iter_mut().for_each(|tally| *tally = Tally::unknown(tally.entry, tally.sum.clone()));
    }

    /// The counter that both states make together; `take_set` says whether the other's setting stands.
    #[must_use]
    pub fn joined(&self, other: &Self, take_set: bool) -> Self {
        let (winner, loser) = if take_set { (other, self) } else { (self, other) };
        let mut tallies = winner.tallies.clone();
        // What several nodes say in the name of one change: each knows of it what it was told.
        let in_one_name = |entry: &Entry| entry.flags.contains(EntryFlags::RESOLUTION);
        let one_setting = winner.set.dot == loser.set.dot
            || (winner.set.timestamp == loser.set.timestamp && in_one_name(&winner.set) && in_one_name(&loser.set));
        for theirs in &loser.tallies {
            match tallies.binary_search_by_key(&theirs.origin(), Tally::origin) {
                Ok(found) => {
                    let tally = &mut tallies[found];
                    if theirs.entry.dot.sequence > tally.entry.dot.sequence {
                        (tally.entry, tally.sum) = (theirs.entry, theirs.sum.clone());
                    }
                    if one_setting && theirs.absorbed_more(tally) {
                        (tally.absorbed, tally.absorbed_at) = (theirs.absorbed.clone(), theirs.absorbed_at);
                    }
                }
                Err(place) if one_setting => tallies.insert(place, theirs.clone()),
                // What set the counter did not know of it.
                Err(place) => tallies.insert(place, Tally::unknown(theirs.entry, theirs.sum.clone())),
            }
        }
        Self { set: winner.set, base: winner.base.clone(), tallies }
    }

    /// Whether the other one, with the same setting, takes as much of each sum as known.
    pub(crate) fn absorbs_as(&self, other: &Self) -> bool {
        let known = |counter: &Self, origin| {
            let found = counter.tallies.iter().find(|tally| tally.origin() == origin);
            found.map_or(0, |tally| tally.absorbed_at)
        };
        self.tallies.iter().all(|tally| tally.absorbed_at == known(other, tally.origin()))
    }

    /// The entry of what set it, and those of what was counted.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.set).chain(self.tallies.iter().map(|tally| &tally.entry))
    }

    /// The number of bytes on the wire, to within some.
    pub(crate) fn wire_size(&self) -> usize {
        40 + self.base.wire_size() + 50 * self.tallies.len()
    }
}

/// Takes sums of doubles away from where they overflow: a power of two, so that nothing is rounded.
const SCALE: f64 = 1.0 / 18_446_744_073_709_551_616.0;

/// Whether a value counts for what it is where something is counted on top of it, and not as 0.
pub fn is_number(value: &Value) -> bool {
    matches!(value, Value::Integer(_) | Value::Real(_))
}

/// Whether a value can be part of a sum.
pub fn is_finite(value: &Value) -> bool {
    match value {
        Value::Integer(_) => true,
        Value::Real(real) => real.is_finite(),
        _ => false,
    }
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Integer(n) => Some(i128::from(*n)),
        _ => None,
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "what is beyond a double's precision is a real all the same, as in SQLite"
)]
fn real(value: &Value) -> f64 {
    match value {
        Value::Integer(n) => *n as f64,
        Value::Real(r) => *r,
        _ => 0.0,
    }
}

/// An integer where it fits one, else a real: as SQLite's own sums.
#[allow(clippy::cast_precision_loss, reason = "it does not fit an integer")]
fn number(total: i128) -> Value {
    i64::try_from(total).map_or(Value::Real(total as f64), Value::Integer)
}

fn negated(value: &Value) -> Value {
    match value {
        Value::Integer(n) => number(-i128::from(*n)),
        other => Value::Real(-real(other)),
    }
}

fn sum_of(a: &Value, b: &Value) -> Value {
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => number(a + b),
        _ => Value::Real(real(a) + real(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Counter, Tally};
    use crate::hybrid_clock::Timestamp;
    use crate::origin::{Dot, Origin};
    use crate::row::{Entry, EntryFlags};
    use crate::value::Value;

    fn entry(origin: u8, sequence: u64) -> Entry {
        let dot = Dot { origin: Origin::from_bytes([origin; 16]), sequence };
        let millis = i64::try_from(sequence).unwrap();
        Entry::new(Timestamp::from_millis(millis), dot, EntryFlags::empty())
    }

    fn count(counter: &mut Counter, entry: Entry, by: i64) {
        let before = counter.value();
        let Value::Integer(n) = before else { panic!("a whole number") };
        assert!(counter.count(entry, &before, &Value::Integer(n + by)));
    }

    #[test]
    fn what_is_counted_on_both_sides_adds_up_and_repeats_change_nothing() {
        let start = Counter::new(entry(1, 1), Value::Integer(100));
        let (mut a, mut b) = (start.clone(), start);
        count(&mut a, entry(1, 2), 5);
        count(&mut b, entry(2, 1), -30);
        count(&mut a, entry(1, 3), 2);
        let both = a.joined(&b, false);
        assert_eq!(both.value(), Value::Integer(77));
        assert_eq!(both, b.joined(&a, false));
        assert_eq!(both.joined(&a, false).joined(&b, false).joined(&both, false), both);
    }

    #[test]
    fn what_a_set_knew_counts_no_more_and_what_it_did_not_know_does() {
        let start = Counter::new(entry(1, 1), Value::Integer(0));
        let (mut a, mut b) = (start.clone(), start);
        count(&mut a, entry(1, 2), 10);
        count(&mut b, entry(2, 3), 4);
        a.set_to(entry(1, 9), Value::Integer(50));
        assert_eq!(a.value(), Value::Integer(50));
        assert_eq!((a.joined(&b, false).value(), b.joined(&a, true).value()), (Value::Integer(54), Value::Integer(54)));
    }

    #[test]
    fn of_two_that_set_it_in_one_name_who_knew_more_changes_is_believed() {
        let start = Counter::new(entry(1, 1), Value::Integer(100));
        let (mut first, mut second) = (start.clone(), start);
        count(&mut first, entry(2, 5), 3);
        second = second.joined(&first, false);
        count(&mut second, entry(2, 6), -3);
        // The sum went down in between.
        let name = Entry { flags: EntryFlags::RESOLUTION, ..entry(3, 9) };
        first.set_to(name, Value::Integer(100));
        second.set_to(name, Value::Integer(100));
        let both = first.joined(&second, true);
        assert_eq!((both.value(), &both), (Value::Integer(100), &second.joined(&first, false)));
    }

    #[test]
    fn numbers_that_no_integer_holds_become_reals_and_nothing_counts_as_zero() {
        let mut big = Counter::new(entry(1, 1), Value::Integer(i64::MAX));
        big.tallies = vec![Tally::unknown(entry(2, 1), Value::Integer(1))];
        assert_eq!(big.value(), Value::Real(9_223_372_036_854_775_808.0));
        let mut none = Counter::new(entry(1, 1), Value::Null);
        assert!(!none.count(entry(2, 1), &Value::Null, &Value::Integer(1)));
        none.tallies = big.tallies.clone();
        assert_eq!(none.value(), Value::Integer(1));
    }

    #[test]
    fn infinities_are_set_and_never_counted() {
        let infinite = Value::Real(f64::INFINITY);
        let mut counter = Counter::new(entry(1, 1), Value::Integer(3));
        assert!(!counter.count(entry(1, 2), &Value::Integer(3), &infinite));
        assert!(!counter.count(entry(1, 2), &infinite, &Value::Integer(3)));
        assert!(
            !counter.count(entry(1, 2), &Value::Real(-1.5e308), &Value::Real(1.5e308)),
            "the difference is infinite"
        );
        assert!(counter.count(entry(1, 2), &Value::Real(0.0), &Value::Real(1.5e308)));
        assert!(!counter.count(entry(1, 3), &Value::Real(0.0), &Value::Real(1.5e308)), "the sum is infinite");
        counter.set_to(entry(1, 3), infinite.clone());
        let other = Counter::new(entry(1, 1), Value::Integer(3));
        let mut other = Counter { tallies: vec![], ..other };
        assert!(other.count(entry(2, 1), &Value::Integer(3), &Value::Integer(-4)));
        assert_eq!(counter.joined(&other, false).value(), infinite);
    }

    #[test]
    fn sums_beyond_what_a_double_holds_never_cancel_to_nothing() {
        let tally = |origin, sum| Tally::unknown(entry(origin, 1), Value::Real(sum));
        let mut counter = Counter::new(entry(1, 1), Value::Real(1e308));
        counter.tallies = vec![tally(1, 1.5e308), tally(2, -1.5e308)];
        assert_eq!(counter.value(), Value::Real(1e308));
        counter.tallies = vec![tally(1, 1.5e308)];
        assert_eq!(counter.value(), Value::Real(f64::INFINITY));
        // What was counted before it was set, and the other way since.
        counter.tallies = vec![Tally { absorbed: Value::Real(1.5e308), ..tally(1, -1.5e308) }, tally(2, 1.5e308)];
        assert_eq!(counter.value(), Value::Real(1e308 - 1.5e308));
    }
}
