//! Automatic keys: each node gives out keys of its own, so that no two nodes ever insert the same AUTOINCREMENT key.
//!
//! SQLite gives a new row the number after the larger of two: the highest rowid that is in the table, and the one in
//! `sqlite_sequence`. A range for each node, from here to there, therefore works for the node with the highest range only:
//! as soon as one of its rows arrives elsewhere, the others go on from that row, whatever `sqlite_sequence` says. A trigger
//! cannot help: it cannot set NEW.id, and what it writes into `sqlite_sequence` SQLite overwrites at the end of the INSERT.
//!
//! So a node's keys are not one range but blocks of 2^20, spread over all numbers: whenever a row with a higher key
//! has arrived, the sequence goes on to the node's next block above it, in the same transaction. The application's next
//! insert, whenever it comes, takes a key of that block. A block is left for the next one when it is half used up, so that
//! about half a million rows and more can be inserted before the daemon looks again.
//!
//! Which blocks are a node's is in the low bits of the block's number, in groups of four: three bits of the node's number,
//! from the lowest, and whether more follow. A few nodes share the numbers more densely than many: with numbers up to
//! 7 every sixteenth block is a node's, so that two nodes which insert by turns, one row each, come to 2^53, beyond which
//! JavaScript does not hold whole numbers exactly, after more than 500 million turns; with numbers up to 63 after 33 million.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};

use crate::error::StoreError;
use crate::identifier::quote;
use crate::schema::{Schema, Table};
use crate::warning::{Warning, WarningKind};

/// Bits of a key within its block.
const BLOCK_BITS: u32 = 20;
const BLOCK: i64 = 1 << BLOCK_BITS;

/// Keys that must be left in a block; with fewer the sequence goes on to the next.
const ROOM: i64 = BLOCK / 2;

/// Up to here JavaScript and other users of 64-bit reals tell all whole numbers apart.
const EXACT: i64 = 1 << 53;

/// A node's number among those that give out keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRanges {
    number: u16,
}

impl KeyRanges {
    /// The largest number that a node can have.
    pub const MAX: u16 = 4095;

    /// The key ranges of the node with this number, from 1 to [`KeyRanges::MAX`]; none for another.
    pub fn of_node(number: u16) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self { number })
    }

    /// The node's number.
    pub fn number(self) -> u16 {
        self.number
    }

    /// The low bits of the numbers of this node's blocks, and how many bits they are.
    fn low_bits(self) -> (i64, u32) {
        let (mut left, mut bits, mut width) = (i64::from(self.number), 0, 0);
        loop {
            let more = i64::from(left >= 8);
            bits |= (((left & 7) << 1) | more) << width;
            width += 4;
            left >>= 3;
            if left == 0 {
                return (bits, width);
            }
        }
    }

    /// Whether a block is this node's.
    fn owns(self, block: i64) -> bool {
        let (bits, width) = self.low_bits();
        block >= 0 && block & ((1 << width) - 1) == bits
    }

    /// Whether the key after `last` is this node's, with enough to follow.
    fn has_room(self, last: i64) -> bool {
        self.owns(last >> BLOCK_BITS) && BLOCK - (last & (BLOCK - 1)) >= ROOM
    }

    /// Where the sequence goes on above `last`: the number before the first of the next block of this node. None at the end
    /// of all numbers.
    fn next(self, last: i64) -> Option<i64> {
        let (bits, width) = self.low_bits();
        // The block of `last` itself is used in part.
        let block = if last <= 0 { 0 } else { ((last - 1) >> BLOCK_BITS) + 1 };
        let block = block + ((bits - block) & ((1 << width) - 1));
        block.checked_mul(BLOCK).filter(|start| *start <= i64::MAX - BLOCK)
    }

    /// The last key of this node's last block below `last`, if that is in another block.
    fn left_behind(self, last: i64) -> Option<i64> {
        let (bits, width) = self.low_bits();
        let block = (last - 1) >> BLOCK_BITS;
        let beyond = (block - bits) & ((1 << width) - 1);
        (last > 0 && beyond > 0 && block > beyond).then(|| (block - beyond + 1) << BLOCK_BITS)
    }
}

/// Sees to it that the next automatic key of each table is this node's. Inside a write transaction.
pub(crate) fn settle<'a>(
    conn: &Connection,
    tables: impl Iterator<Item = &'a Table>,
    ranges: KeyRanges,
) -> Result<Vec<Warning>, StoreError> {
    let mut tables = tables.filter(|table| table.autoincrement).peekable();
    let mut troubles = Vec::new();
    if tables.peek().is_none() {
        return Ok(troubles);
    }
    let sequences = {
        let mut statement = conn.prepare_cached("SELECT name, rowid, seq FROM main.sqlite_sequence")?;
        let lines = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        lines.collect::<Result<HashMap<String, (i64, Option<i64>)>, _>>()?
    };
    for table in tables {
        let sequence = sequences.get(&table.name).copied();
        troubles.extend(settle_table(conn, table, sequence, ranges)?);
    }
    Ok(troubles)
}

fn settle_table(
    conn: &Connection,
    table: &Table,
    sequence: Option<(i64, Option<i64>)>,
    ranges: KeyRanges,
) -> Result<Option<Warning>, StoreError> {
    let highest = format!("SELECT max(rowid) FROM main.{}", quote(&table.name));
    let highest: Option<i64> = conn.prepare_cached(&highest)?.query_row([], |row| row.get(0))?;
    let last = highest.max(sequence.and_then(|(_, seq)| seq)).unwrap_or(0).max(0);
    if sequence.is_some() && ranges.has_room(last) {
        return Ok(None);
    }
    let overrun = match ranges.left_behind(last) {
        // Both are in use: a program has run out of the block, and went on.
        Some(end) if has_rows_around(conn, table, end)? => Some(trouble(
            table,
            format!(
                "more than {BLOCK} rows were inserted without a look of the daemon; keys from {} on may be given out by \
                 another node too",
                end + 1
            ),
            "let the daemon run while many rows are inserted, or insert them in several transactions",
        )),
        _ => None,
    };
    let Some(next) = ranges.next(last) else {
        return Ok(Some(trouble(
            table,
            format!("no automatic keys are left above {last}, which is the highest number in use"),
            "delete the row with the extremely high key, or use keys such as UUIDs",
        )));
    };
    match sequence {
        Some((rowid, _)) => {
            conn.prepare_cached("UPDATE main.sqlite_sequence SET seq = ?2 WHERE rowid = ?1")?.execute([rowid, next])?
        }
        None => conn
            .prepare_cached("INSERT INTO main.sqlite_sequence (name, seq) VALUES (?1, ?2)")?
            .execute(rusqlite::params![table.name, next])?,
    };
    let inexact = (next >= EXACT && last < EXACT).then(|| {
        trouble(
            table,
            format!("automatic keys are beyond 2^53 from now on: the next is {}", next + 1),
            "make sure that no program takes keys for 64-bit reals, as JavaScript does; or use keys such as UUIDs",
        )
    });
    Ok(overrun.or(inexact))
}

/// Whether the last key of a block and the one after it are both in use.
fn has_rows_around(conn: &Connection, table: &Table, end: i64) -> Result<bool, StoreError> {
    let sql = format!("SELECT count(*) = 2 FROM main.{} WHERE rowid IN (?1, ?1 + 1)", quote(&table.name));
    Ok(conn.prepare_cached(&sql)?.query_row([end], |row| row.get(0)).optional()?.unwrap_or(false))
}

/// Sees to it at attach; see [`settle`].
pub(crate) fn settle_schema(
    conn: &Connection,
    schema: &Schema,
    ranges: Option<KeyRanges>,
) -> Result<Vec<Warning>, StoreError> {
    ranges.map_or_else(|| Ok(Vec::new()), |ranges| settle(conn, schema.tables.iter(), ranges))
}

fn trouble(table: &Table, reason: String, remedy: &str) -> Warning {
    Warning { kind: WarningKind::KeyRange, table: Some(table.name.clone()), reason, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, BLOCK_BITS, EXACT, KeyRanges};

    fn node(number: u16) -> KeyRanges {
        KeyRanges::of_node(number).unwrap()
    }

    #[test]
    fn nodes_are_numbered_from_1_to_4095() {
        assert_eq!((KeyRanges::of_node(0), KeyRanges::of_node(4096)), (None, None));
        assert_eq!((node(1).number(), node(4095).number()), (1, 4095));
    }

    #[test]
    fn no_block_is_of_two_nodes() {
        let bits: Vec<(i64, u32)> = (1..=KeyRanges::MAX).map(|number| node(number).low_bits()).collect();
        for (place, (bits_of_one, width_of_one)) in bits.iter().enumerate() {
            for (bits_of_other, width_of_other) in &bits[..place] {
                let common = (1_i64 << width_of_one.min(width_of_other)) - 1;
                assert_ne!(bits_of_one & common, bits_of_other & common);
            }
        }
    }

    #[test]
    fn the_next_block_is_above_and_the_nodes_own() {
        for number in [1, 2, 7, 8, 63, 64, 511, 512, 4095] {
            let ranges = node(number);
            let mut last = 0;
            for step in [0, 1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 1 << 40, EXACT, 1 << 61] {
                let next = ranges.next(last + step).unwrap();
                assert!(next >= last + step && ranges.owns(next >> BLOCK_BITS), "{number} {last} {step} {next}");
                assert!(ranges.has_room(next) && !ranges.has_room(next + BLOCK));
                assert!(ranges.has_room(next + BLOCK / 2) && !ranges.has_room(next + BLOCK / 2 + 1));
                assert_eq!(ranges.left_behind(next + 1), None);
                assert_eq!(ranges.left_behind(next + BLOCK + 1), Some(next + BLOCK));
                last = next;
            }
        }
        assert_eq!(node(1).next(i64::MAX - BLOCK), None);
        assert_eq!(node(1).next(0), Some(2 * BLOCK));
    }

    #[test]
    fn a_few_nodes_come_far_by_turns_within_what_a_real_holds() {
        let turns = |most: u16| {
            let widest = (1..=most).map(|number| 1_i64 << node(number).low_bits().1).max().unwrap();
            EXACT / (widest * BLOCK)
        };
        assert_eq!([turns(7), turns(63), turns(511)], [1 << 29, 1 << 25, 1 << 21]);
    }
}
