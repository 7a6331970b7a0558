//! Rows as nodes exchange them: content and clock, and the batches that carry them.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::counter::Counter;
use crate::hybrid_clock::Timestamp;
use crate::origin::{Dot, Origin};
use crate::value::Value;
use crate::version_vector::VersionVector;

/// When, by whom and as what a row or column was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The stamp. Together with the dot's origin it orders all changes totally.
    pub timestamp: Timestamp,
    /// The change that wrote it.
    pub dot: Dot,
    /// What kind of change it was.
    pub flags: EntryFlags,
    /// The order of the change that a resolution stands for: policies that choose between two sides compare it, so that
    /// what was chosen once is chosen again. The plain comparison does not look at it.
    pub authored: Option<(Timestamp, Origin)>,
}

impl Entry {
    /// The entry of a change that stands for itself.
    pub const fn new(timestamp: Timestamp, dot: Dot, flags: EntryFlags) -> Self {
        Self { timestamp, dot, flags, authored: None }
    }

    /// The entry of a cell that nobody has written: the row came from a writer whose table does not have the column, or leaves it
    /// out. Whatever anybody writes there is newer, and its dot is one that everybody knows.
    pub const fn never(node: Origin) -> Self {
        Self::new(Timestamp::BASELINE, Dot { origin: node, sequence: 0 }, EntryFlags::empty())
    }

    /// Whether it is that of a cell that nobody has written.
    pub const fn is_never(&self) -> bool {
        self.dot.sequence == 0
    }

    /// The same for a cell that this entry speaks for without having written it.
    #[must_use]
    pub const fn filled(self) -> Self {
        Self { flags: self.flags.with(EntryFlags::FILLED), ..self }
    }

    /// What the plain comparison compares: (timestamp, origin). Two different changes of one row never compare equal.
    pub fn order(&self) -> (Timestamp, Origin) {
        (self.timestamp, self.dot.origin)
    }

    /// When and by whom the value was written, whoever chose it since.
    pub fn authored(&self) -> (Timestamp, Origin) {
        self.authored.unwrap_or_else(|| self.order())
    }
}

/// Marks of a clock entry, one bit each; unknown bits are kept and passed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EntryFlags(u8);

impl EntryFlags {
    /// The change inserted the row (as against rewriting it). Only on row entries. The commonest mark is the lowest bit:
    /// SQLite stores 0 and 1 without a byte of content.
    pub const INSERTED: Self = Self(1);
    /// The row is deleted: the entry is a tombstone. Only on row entries.
    pub const DELETED: Self = Self(2);
    /// The change is a resolution: it was issued by a node that decided a conflict, not by a writer.
    pub const RESOLUTION: Self = Self(4);
    /// The deletion took the row out because another row took its unique value. Only on tombstones.
    pub const DISPLACED: Self = Self(8);
    /// The cell is not in the image, because the sender's table has no such column: the image does not speak for it. On a
    /// tombstone, that there are such columns. Only until the row is merged.
    pub const ABSENT: Self = Self(16);

    /// The cell is not part of the write that the row entry stands for, in a table that is merged by rows: that writer's table
    /// has no such column. Such a cell is merged for itself. Only on column entries.
    pub const APART: Self = Self(32);

    /// Of an absent cell: the image says nothing of it even where its row took the place of another one. Another image of the row
    /// does, which its sender sends as well where the receiver may lack it.
    pub const SILENT: Self = Self(64);

    /// Nobody wrote the cell: the row took the place of a deleted one, and came from a node without the column. Only on column
    /// entries.
    pub const FILLED: Self = Self(128);

    /// No mark.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// The marks that these bits stand for.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The marks as bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all marks of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These marks without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// These marks and those of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The clock of one row: its row entry, and an entry for each column that was last written on its own.
///
/// A column's effective entry is its own if it has one, else the row entry. A tombstone has no column entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowClock {
    /// The insert, whole-row update or deletion that the row rests on.
    pub row: Entry,
    /// Column entries, ordered by column: an index into [`TableShape::columns`].
    pub columns: Vec<(u16, Entry)>,
    /// The counters that were counted since their column was set, ordered by column. A tombstone has them too: what was
    /// counted before does not count in a row that comes after it.
    pub counters: Vec<(u16, Counter)>,
    /// What speaks for columns that this node does not have, where the row took the place of one that was deleted: all that was
    /// written there before has gone with that. A tombstone has none.
    pub rest: Option<Entry>,
}

impl RowClock {
    /// The clock of a row that one change wrote as a whole.
    pub const fn whole(row: Entry) -> Self {
        Self { row, columns: Vec::new(), counters: Vec::new(), rest: None }
    }

    /// Whether the row is deleted.
    pub fn is_deleted(&self) -> bool {
        self.row.flags.contains(EntryFlags::DELETED)
    }

    /// The entry that speaks for `column`.
    pub fn effective(&self, column: u16) -> &Entry {
        match self.columns.binary_search_by_key(&column, |(index, _)| *index) {
            Ok(found) => &self.columns[found].1,
            Err(_) => &self.row,
        }
    }

    /// The columns that are [absent](EntryFlags::ABSENT).
    pub fn absent(&self) -> impl Iterator<Item = u16> {
        self.columns.iter().filter(|(_, entry)| entry.flags.contains(EntryFlags::ABSENT)).map(|(column, _)| *column)
    }

    /// Gives a column an entry of its own.
    pub fn set_entry(&mut self, column: u16, entry: Entry) {
        match self.columns.binary_search_by_key(&column, |(index, _)| *index) {
            Ok(found) => self.columns[found].1 = entry,
            Err(place) => self.columns.insert(place, (column, entry)),
        }
    }

    /// The counter of `column`, if anything was counted.
    pub fn counter(&self, column: u16) -> Option<&Counter> {
        let found = self.counters.binary_search_by_key(&column, |(index, _)| *index).ok()?;
        Some(&self.counters[found].1)
    }

    /// The entry that speaks for a column, and those of what was counted in it.
    pub fn entries_of(&self, column: u16) -> impl Iterator<Item = &Entry> {
        let counted = self.counter(column).into_iter().flat_map(Counter::entries);
        std::iter::once(self.effective(column)).chain(counted)
    }

    /// The entries of the row and of its columns, the row entry first.
    pub fn registers(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.row).chain(self.columns.iter().map(|(_, entry)| entry))
    }

    /// All entries, those of counters too; the row entry first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.registers().chain(self.counters.iter().flat_map(|(_, counter)| counter.entries()))
    }

    /// The newest entry of what was written and not counted: of the row, its columns, and what set its counters.
    pub fn newest_written(&self) -> &Entry {
        let sets = self.counters.iter().map(|(_, counter)| &counter.set);
        self.registers().chain(sets).max_by_key(|entry| entry.order()).unwrap_or(&self.row)
    }

    /// The newest entry by the plain comparison.
    pub fn newest(&self) -> &Entry {
        self.entries().max_by_key(|entry| entry.order()).unwrap_or(&self.row)
    }
}

/// One row as it stood in the sender's database: its content and its clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowImage {
    /// All columns of the table's shape in its order; for a deleted row the key columns alone, in the key's order.
    pub values: Vec<Value>,
    /// The row's clock.
    pub clock: RowClock,
}

impl RowImage {
    /// The row's key, in the key's order.
    pub fn key<'a>(&'a self, shape: &'a TableShape) -> Vec<&'a Value> {
        if self.clock.is_deleted() {
            self.values.iter().collect()
        } else {
            shape.key.iter().map(|index| &self.values[usize::from(*index)]).collect()
        }
    }

    /// A copy of the row's key, in the key's order.
    pub fn owned_key(&self, shape: &TableShape) -> Vec<Value> {
        if self.clock.is_deleted() {
            self.values.clone()
        } else {
            shape.key.iter().map(|index| self.values[usize::from(*index)].clone()).collect()
        }
    }

    /// Takes a cell of another image of the row, with all that is known of it. `more` are marks that its entry gets.
    pub fn take_cell(&mut self, column: u16, other: &Self, more: EntryFlags) {
        let entry = other.clock.effective(column);
        self.clock.set_entry(column, Entry { flags: entry.flags.with(more), ..*entry });
        self.values[usize::from(column)] = other.values[usize::from(column)].clone();
        self.clock.counters.retain(|(known, _)| *known != column);
        if let Some(counter) = other.clock.counter(column) {
            self.clock.counters.push((column, counter.clone()));
            self.clock.counters.sort_unstable_by_key(|(known, _)| *known);
        }
    }

    /// Puts what was counted in another state of the row, of which this one does not know, on top of what a column holds.
    pub fn join_tallies(&mut self, column: u16, other: &Counter) {
        let place = usize::from(column);
        let own = self.clock.counter(column).cloned();
        let own = own.unwrap_or_else(|| Counter::new(*self.clock.effective(column), self.values[place].clone()));
        let joined = own.joined(other, false);
        self.values[place] = joined.value();
        self.clock.counters.retain(|(known, _)| *known != column);
        self.clock.counters.push((column, joined));
        self.clock.counters.sort_unstable_by_key(|(known, _)| *known);
    }

    /// The number of bytes that this row takes on the wire, to within some ten bytes an entry.
    pub fn wire_size(&self) -> usize {
        let values: usize = self.values.iter().map(Value::wire_size).sum();
        let counters: usize = self.clock.counters.iter().map(|(_, counter)| counter.wire_size()).sum();
        let entries = 1 + self.clock.columns.len() + usize::from(self.clock.rest.is_some());
        values + 8 + 32 * entries + counters
    }
}

/// What rows of a table look like in a batch: names only, in the sender's order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableShape {
    /// The table's name on the wire.
    pub name: String,
    /// The names of the columns that are sent; at most 65,535.
    pub columns: Vec<String>,
    /// The key columns as indices into `columns`, in the key's order.
    pub key: Vec<u16>,
}

/// Rows of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRows {
    /// How the rows are to be read.
    pub shape: TableShape,
    /// The rows, no key twice.
    pub rows: Vec<RowImage>,
    /// What the rows have taken into account, where that is not the batch's context: rows that the sender could not take in and
    /// passes on as it got them, and its own rows beside which such a row waits. Where they are not [parts](Self::parts), they
    /// come before all others.
    pub context: Option<VersionVector>,
    /// Whether the sender leaves out columns of the table on purpose: what the shape lacks is not gone there.
    pub limited: bool,
    /// Where the rows are sent for single columns that the sender could not take in: these. What it holds of the rows itself, if it
    /// holds them, comes before and tells all the rest, unless the receiver has it.
    pub parts: Vec<String>,
}

impl TableRows {
    /// Rows as the sender has them.
    pub const fn new(shape: TableShape, rows: Vec<RowImage>) -> Self {
        Self { shape, rows, context: None, limited: false, parts: Vec::new() }
    }

    /// Whether rows of another one are to be read as these are.
    fn is_like(&self, other: &Self) -> bool {
        self.shape == other.shape
            && self.context == other.context
            && self.limited == other.limited
            && self.parts == other.parts
    }

    /// About how many bytes they take while they wait.
    pub fn size(&self) -> usize {
        let names = self.shape.columns.iter().chain(&self.parts).chain([&self.shape.name]);
        let names: usize = names.map(|name| name.len() + size_of::<String>()).sum();
        let context = self.context.as_ref().map_or(0, VersionVector::size);
        names + context + size_of::<Self>() + self.rows.iter().map(RowImage::wire_size).sum::<usize>()
    }
}

/// The place of a table in a batch, and which of its rows.
pub(crate) type RowsOfTable = (usize, Range<usize>);

/// Some rows of a batch, in its order.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) rows: Vec<RowsOfTable>,
    /// The [wire size](RowImage::wire_size) of all, and that of the largest.
    pub(crate) bytes: usize,
    pub(crate) largest: usize,
}

/// The delta of one snapshot of the sender's database: what a receiver at `from` lacks to be at `to`.
///
/// Rows and vectors come from one read transaction. A receiver takes it whole or not at all.
///
/// `from` and `to` are *positions*: what of the sender's clock entries the receiver has been sent. A complete batch ends at
/// the sender's own vector (`to == context`) and lets the receiver raise its vector to it, for all origins together. An
/// incomplete one carries a bounded part, ordered by origin and sequence; its `to` says only where the next one goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The origin of the database that the batch was read from. Positions hold for this origin only.
    pub source: Origin,
    /// The position before the batch.
    pub from: VersionVector,
    /// The position after it.
    pub to: VersionVector,
    /// The sender's version vector at the snapshot: what its rows have taken into account.
    pub context: VersionVector,
    /// The [fingerprint](crate::DotSet::fingerprint) of the dots that were left out because the receiver said that it holds them.
    pub held: u64,
    /// Up to where tombstones may be gone at the sender: a receiver that knows less would not hear of them.
    pub dropped: VersionVector,
    /// The rows by table.
    pub tables: Vec<TableRows>,
}

impl Batch {
    /// Whether the receiver may claim the sender's whole vector after this batch.
    pub fn is_complete(&self) -> bool {
        self.to == self.context
    }

    /// About how many bytes the batch takes while it waits: its rows, and what goes around them.
    pub fn size(&self) -> usize {
        let vectors = [&self.from, &self.to, &self.context].map(|vector| vector.size()).iter().sum::<usize>();
        vectors + self.tables.iter().map(TableRows::size).sum::<usize>()
    }

    /// All of its rows.
    pub(crate) fn whole(&self) -> Part {
        let rows = (0..).zip(&self.tables).map(|(place, table)| (place, 0..table.rows.len()));
        let sizes = self.tables.iter().flat_map(|table| &table.rows).map(RowImage::wire_size);
        let (bytes, largest) = sizes.fold((0, 0), |(bytes, largest), size| (bytes + size, largest.max(size)));
        Part { rows: rows.collect(), bytes, largest }
    }

    /// Its rows in parts of at most `limit` bytes, to within a row; at least one part, which may hold no row.
    pub(crate) fn parts(&self, limit: usize) -> Vec<Part> {
        let (mut parts, mut current) = (Vec::new(), Part::default());
        for (place, table) in self.tables.iter().enumerate() {
            let mut begin = 0;
            for (row, end) in table.rows.iter().zip(1..) {
                let size = row.wire_size();
                (current.bytes, current.largest) = (current.bytes + size, current.largest.max(size));
                if current.bytes >= limit {
                    current.rows.push((place, begin..end));
                    parts.push(std::mem::take(&mut current));
                    begin = end;
                }
            }
            if begin < table.rows.len() {
                current.rows.push((place, begin..table.rows.len()));
            }
        }
        if !current.rows.is_empty() || parts.is_empty() {
            parts.push(current);
        }
        parts
    }

    /// Adds the rows of the part that follows.
    pub(crate) fn extend(&mut self, part: Self) {
        for table in part.tables {
            match self.tables.last_mut().filter(|last| last.is_like(&table)) {
                Some(last) => last.rows.extend(table.rows),
                None => self.tables.push(table),
            }
        }
    }

    /// The number of rows.
    pub fn row_count(&self) -> usize {
        self.tables.iter().map(|table| table.rows.len()).sum()
    }
}

/// What a receiver should do with a batch, by the vectors alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The batch continues what the receiver has: apply it.
    Apply,
    /// Everything in it is known already: acknowledge, do nothing.
    Known,
    /// It rests on something that the receiver lacks: refuse it and ask for what is missing.
    Gap,
}

/// Whether a replica that knows `have`, and has swept away what tombstones up to `swept` deleted, lacks tombstones that are gone at
/// another which knows `other`. One that has nothing in common with the other has nothing that they could have deleted.
pub fn lacks_dropped(
    (have, swept): (&VersionVector, &VersionVector),
    (other, dropped): (&VersionVector, &VersionVector),
) -> bool {
    let met = || have.iter().any(|(origin, _)| other.get(origin) > 0);
    misses_dropped((have, swept), dropped) && met()
}

/// The same whatever they have in common: of rows that came from the other itself.
pub fn misses_dropped((have, swept): (&VersionVector, &VersionVector), dropped: &VersionVector) -> bool {
    dropped.iter().any(|(origin, sequence)| sequence > have.get(origin).max(swept.get(origin)))
}

/// Decides whether a batch fits a receiver that knows `have` and that stands at position `received` with this sender.
///
/// A batch is taken or refused as a whole: taking the origins that fit alone would be unsound, because rows move
/// between origins.
pub fn admit(have: &VersionVector, received: &VersionVector, batch: &Batch) -> Admission {
    if have.covers_all(&batch.context) {
        return Admission::Known;
    }
    let position = have.clone().joined(received);
    if position.covers_all(&batch.from) { Admission::Apply } else { Admission::Gap }
}
