//! Reconcile: two databases that meet for the first time find out which of their baseline rows are alike, without sending them.
//!
//! Baseline rows are ordinary changes with the stamp 0 and a dot each (a *run* of dots, for rows that lie beside each other), and
//! ordinary catch-ups would send all of them in both directions. Instead, tables are compared by ranges of their key: how many
//! rows, and a fingerprint of what they hold. Where a range holds the same on both sides, and the rows of each are one run,
//! merging them would do no more than replace the entries of the smaller origin by those of the larger: (0, origin) decides
//! between equal stamps. So they are not sent. Their owner by the smaller origin notes which run takes the place of which, as if
//! it had received the rows, and does that when the catch-up is complete, as it would merge them then. The other side has
//! nothing to do: it holds what supersedes them.
//!
//! Ranges that differ are split, and in the end the few rows around each difference travel as they always do.
//!
//! The same questions about keys alone serve a database that was away for so long that tombstones which it lacks are gone: of what
//! the other one knows, rows that the other one does not have were deleted. It *sweeps* them away before the two exchange changes.
//!
//! The method is range-based set reconciliation (Meyer, "Range-Based Set Reconciliation", 2022), with a fingerprint of all
//! rows in their order in place of a sum: a range is always read as a whole, and the order is what the runs stand for.

use crate::dot_set::DotSet;
use crate::origin::{Dot, MAX_SEQUENCE, Origin};
use crate::value::Value;
use crate::version_vector::VersionVector;

/// Rows in a range that is asked about first.
pub const FIRST_ROWS: u32 = 256;

/// Rows in a range that is asked about last: what differs in it is sent.
pub const LAST_ROWS: u32 = 16;

/// A part of a table in the order of its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The key after which it begins; none: the first row.
    pub after: Option<Vec<Value>>,
    /// The key with which it ends; none: the last row.
    pub until: Option<Vec<Value>>,
}

/// Ranges of tables, by their names on the wire.
pub type TableRanges = Vec<(String, Vec<KeyRange>)>;

/// "What do you have there?"
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Numbers the questions of a session about a database.
    pub number: u64,
    /// How many rows a fingerprint is to be of at most; at least 1.
    pub rows: u32,
    /// Whether it is about keys alone, and these are to be told as well where a fingerprint is of [`LAST_ROWS`] rows at most.
    pub keys: bool,
    /// Where.
    pub tables: TableRanges,
}

/// What a database has in a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeFingerprint {
    /// The range.
    pub range: KeyRange,
    /// How many rows there are.
    pub rows: u64,
    /// What they hold, in their order: see [`RowHasher`].
    pub content: [u8; 16],
    /// The dot of the first, where all of them are baseline rows with one entry each, and their dots follow each other.
    pub run: Option<Dot>,
    /// The keys, where they were asked for.
    pub keys: Option<Vec<Vec<Value>>>,
}

/// "This."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The number of the question.
    pub number: u64,
    /// Fingerprints of what was asked about, in parts that are no larger than was asked for.
    pub tables: Vec<(String, Vec<RangeFingerprint>)>,
    /// What was asked about and is to be asked about again: answers are short.
    pub rest: TableRanges,
    /// What the database knew when it looked: of what it knows, rows that are not there were deleted.
    pub have: VersionVector,
    /// Up to where tombstones may be gone.
    pub dropped: VersionVector,
    /// Keys of rows that are there but in no table, because they could not be taken in. Only where keys are asked for.
    pub waiting: Vec<(String, Vec<Vec<Value>>)>,
}

/// How two fingerprints of a range stand to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The rows are the same, and ours are to take the others' dots.
    Alike(Exchange),
    /// They differ, or cannot be exchanged.
    Differ,
}

/// Dots of ours whose place is taken by as many of the peer's, in their order. Never none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// The first of ours.
    pub ours: Dot,
    /// The first of the peer's; the larger of the two by its origin.
    pub theirs: Dot,
    /// How many.
    pub count: u64,
}

/// What came of an answer, at the side that asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Dots of ours that the peer need not be sent: these of the answer.
    pub ours: DotSet,
    /// Dots of the peer's that are not to be sent here: all that the database has noted, durably, to be exchanged.
    pub theirs: DotSet,
    /// Where the sides differ and both have rows.
    pub differing: TableRanges,
}

impl RangeFingerprint {
    /// Compares ours with the peer's of the same range.
    pub fn against(&self, theirs: &Self) -> Verdict {
        let (Some(ours), Some(other)) = (self.run, theirs.run) else { return Verdict::Differ };
        let same = self.rows == theirs.rows && self.rows > 0 && self.content == theirs.content;
        if same && ours.origin < other.origin {
            Verdict::Alike(Exchange { ours, theirs: other, count: self.rows })
        } else {
            Verdict::Differ
        }
    }
}

impl Exchange {
    /// The run of ours: origin, first and last sequence.
    pub const fn our_run(&self) -> (Origin, u64, u64) {
        (self.ours.origin, self.ours.sequence, self.ours.sequence + (self.count - 1))
    }

    /// The peer's.
    pub const fn their_run(&self) -> (Origin, u64, u64) {
        (self.theirs.origin, self.theirs.sequence, self.theirs.sequence + (self.count - 1))
    }

    /// The origin and the sequence that take the place of a dot, if it is one of ours.
    pub fn taken_by(&self, dot: Dot) -> Option<Dot> {
        let place = dot.sequence.checked_sub(self.ours.sequence)?;
        let own = dot.origin == self.ours.origin && place < self.count;
        own.then(|| Dot { origin: self.theirs.origin, sequence: self.theirs.sequence + place })
    }

    /// Follows another exchange, by which dots of ours have become others: what of this one is left, and under which dots.
    /// Where those come after the peer's, nothing is: they stand.
    pub fn after(&self, done: &Self) -> Vec<Self> {
        if self.ours.origin != done.ours.origin {
            return vec![*self];
        }
        let (start, end) = (self.ours.sequence, self.ours.sequence + self.count);
        let (from, to) = (done.ours.sequence.max(start), (done.ours.sequence + done.count).min(end));
        if from >= to {
            return vec![*self];
        }
        let part = |first: u64, last: u64| {
            let (sequence, count) = (self.theirs.sequence + (first - start), last - first);
            let ours = Dot { origin: self.ours.origin, sequence: first };
            Self { ours, theirs: Dot { origin: self.theirs.origin, sequence }, count }
        };
        let moved = part(from, to);
        let ours = done.taken_by(moved.ours).unwrap_or(moved.ours);
        let moved = Self { ours, ..moved };
        let parts = [part(start, from), moved, part(to, end)];
        parts.into_iter().filter(|part| part.count > 0 && part.ours.origin < part.theirs.origin).collect()
    }
}

/// The fingerprint of rows in their order: BLAKE3 over the values of each, by the columns' names on the wire, so that the order of
/// columns does not count. Nobody can write other rows with the same fingerprint.
#[derive(Debug, Clone, Default)]
pub struct RowHasher {
    hasher: blake3::Hasher,
    row: Vec<u8>,
}

impl RowHasher {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row: its values in the order of the columns' names.
    pub fn row<'a>(&mut self, values: impl IntoIterator<Item = &'a Value>) {
        self.row.clear();
        let mut put = |class: u8, bytes: &[u8]| {
            self.row.push(class);
            self.row.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            self.row.extend_from_slice(bytes);
        };
        for value in values {
            match value {
                Value::Null => put(0, &[]),
                Value::Integer(n) => put(1, &n.to_be_bytes()),
                Value::Real(r) => put(2, &r.to_bits().to_be_bytes()),
                Value::Text(bytes) => put(3, bytes),
                Value::Blob(bytes) => put(4, bytes),
            }
        }
        self.hasher.update(&self.row);
    }

    /// The fingerprint of all rows so far, and a new beginning.
    pub fn finish(&mut self) -> [u8; 16] {
        let mut short = [0; 16];
        short.copy_from_slice(&self.hasher.finalize().as_bytes()[..16]);
        self.hasher.reset();
        short
    }
}

/// The places of columns in the order of their names, the case of ASCII letters apart: what [`RowHasher::row`] wants.
pub fn by_name(columns: &[String]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..columns.len()).collect();
    places.sort_unstable_by_key(|place| columns[*place].to_ascii_lowercase());
    places
}

/// Notes a run of dots while rows are read in their order.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunFinder {
    first: Option<Dot>,
    count: u64,
    broken: bool,
}

impl RunFinder {
    /// The next row's only entry, if it is a baseline row with one entry.
    pub fn note(&mut self, dot: Option<Dot>) {
        let fits = match (self.first, dot) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(first), Some(dot)) => dot.origin == first.origin && dot.sequence == first.sequence + self.count,
        };
        self.broken |= !fits;
        self.first = self.first.or(dot);
        self.count += 1;
    }

    /// The rows so far.
    pub const fn rows(&self) -> u64 {
        self.count
    }

    /// The first dot, if all rows so far are one run.
    pub fn run(&self) -> Option<Dot> {
        self.first.filter(|_| !self.broken)
    }
}

/// Whether the dots of a run are sequences that there can be.
pub(crate) fn is_sound(fingerprint: &RangeFingerprint) -> bool {
    let end = |dot: Dot| dot.sequence.checked_add(fingerprint.rows);
    fingerprint.run.is_none_or(|dot| end(dot).is_some_and(|end| end <= MAX_SEQUENCE))
}
