//! Segments: rows and the dots of their entries, many in one value of a column, as differences from one to the next.
//!
//! Most are what one transaction wrote: dots that follow each other, of rows of one table whose keys are often integers beside each
//! other. Such a row takes two bytes.

use replication::Value;
use replication::codec::{decode_values, encode_values};

use crate::error::StoreError;

/// Bits of the byte before each row: what is as expected is not written.
const NEXT_SEQUENCE: u8 = 1;
const SAME_TABLE: u8 = 2;
const INTEGER_KEY: u8 = 4;

/// A row that bears a dot, or did when that was noted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DotRow {
    /// The sequence of the dot. Its origin is that of the segment.
    pub(crate) sequence: u64,
    /// The table's number in the registry.
    pub(crate) table: i64,
    pub(crate) key: Vec<Value>,
}

/// What the next row is told as a difference to.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    sequence: u64,
    table: i64,
    key: i64,
}

/// A segment that is being written.
#[derive(Debug, Default)]
pub(super) struct Segment {
    /// The lowest and the highest sequence in it.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: Vec<u8>,
    /// The tables in it, by their numbers.
    pub(super) tables: Vec<i64>,
    at: Last,
    /// Bytes of the key that was added last; none if it is an integer.
    encoded: Option<usize>,
}

impl Segment {
    /// Adds a row, unless it is the one that was added last: a change may have written several entries of it.
    pub(super) fn add(&mut self, sequence: u64, table: i64, key: &[Value]) -> Result<(), StoreError> {
        let integer = match key {
            [Value::Integer(key)] => Some(*key),
            _ => None,
        };
        let encoded = match integer {
            Some(_) => Vec::new(),
            None => encode_values(key).map_err(|error| StoreError::Encoding { reason: error.to_string() })?,
        };
        let header = self.bytes.len();
        if header > 0 && (sequence, table) == (self.at.sequence, self.at.table) {
            let is_last = match (integer, self.encoded) {
                (Some(key), None) => key == self.at.key,
                (None, Some(length)) => length == encoded.len() && self.bytes.ends_with(&encoded),
                _ => false,
            };
            if is_last {
                return Ok(());
            }
        }
        self.bytes.push(0);
        let mut flags = 0;
        if header > 0 && sequence == self.at.sequence.wrapping_add(1) {
            flags |= NEXT_SEQUENCE;
        } else {
            self.put_difference(sequence.wrapping_sub(self.at.sequence).cast_signed());
        }
        if header > 0 && table == self.at.table {
            flags |= SAME_TABLE;
        } else {
            self.put_difference(table);
            if !self.tables.contains(&table) {
                self.tables.push(table);
            }
        }
        if let Some(key) = integer {
            flags |= INTEGER_KEY;
            self.put_difference(key.wrapping_sub(self.at.key));
            self.at.key = key;
        } else {
            self.put(key.len() as u64);
            self.put(encoded.len() as u64);
            self.bytes.extend_from_slice(&encoded);
        }
        self.encoded = integer.is_none().then_some(encoded.len());
        self.bytes[header] = flags;
        self.first = if header == 0 { sequence } else { self.first.min(sequence) };
        self.last = self.last.max(sequence);
        (self.at.sequence, self.at.table) = (sequence, table);
        Ok(())
    }

    /// Seven bits to a byte, the lowest first; all but the last have the eighth set.
    fn put(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push((number & 0x7f) as u8);
    }

    /// A difference either way: small ones in a byte.
    fn put_difference(&mut self, difference: i64) {
        self.put(((difference << 1) ^ (difference >> 63)).cast_unsigned());
    }
}

/// The key of a row in a segment.
#[derive(Debug, Clone, Copy)]
enum Key<'a> {
    Integer(i64),
    /// So many values.
    Encoded(usize, &'a [u8]),
}

/// Reads the rows of a segment in the order in which they were noted.
pub(super) struct SegmentReader<'a> {
    rest: &'a [u8],
    at: Last,
    is_first: bool,
}

/// A row of a segment whose key is not unpacked yet.
pub(super) struct PackedRow<'a> {
    pub(super) sequence: u64,
    table: i64,
    key: Key<'a>,
}

impl PackedRow<'_> {
    pub(super) fn unpacked(&self) -> Result<DotRow, StoreError> {
        let key = match self.key {
            Key::Integer(key) => vec![Value::Integer(key)],
            Key::Encoded(width, bytes) => decode_values(bytes, width).map_err(|_| damaged())?,
        };
        Ok(DotRow { sequence: self.sequence, table: self.table, key })
    }
}

impl<'a> SegmentReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: Last::default(), is_first: true }
    }

    /// The next row, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<PackedRow<'a>>, StoreError> {
        let Some((flags, rest)) = self.rest.split_first() else { return Ok(None) };
        self.rest = rest;
        // Nothing comes before the first row that it might follow.
        let is_set = |flag: u8| flags & flag != 0;
        if self.is_first && (is_set(NEXT_SEQUENCE) || is_set(SAME_TABLE)) {
            return Err(damaged());
        }
        self.is_first = false;
        let step = if is_set(NEXT_SEQUENCE) { 1 } else { self.difference()?.cast_unsigned() };
        self.at.sequence = self.at.sequence.wrapping_add(step);
        if !is_set(SAME_TABLE) {
            self.at.table = self.difference()?;
        }
        let key = if is_set(INTEGER_KEY) {
            self.at.key = self.at.key.wrapping_add(self.difference()?);
            Key::Integer(self.at.key)
        } else {
            let (width, length) = (self.number()?, self.number()?);
            let (width, length) =
                (usize::try_from(width).map_err(|_| damaged())?, usize::try_from(length).map_err(|_| damaged())?);
            let bytes = self.rest.get(..length).filter(|_| width <= length).ok_or_else(damaged)?;
            self.rest = &self.rest[length..];
            Key::Encoded(width, bytes)
        };
        Ok(Some(PackedRow { sequence: self.at.sequence, table: self.at.table, key }))
    }

    fn number(&mut self) -> Result<u64, StoreError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or_else(damaged)?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(damaged())
    }

    fn difference(&mut self) -> Result<i64, StoreError> {
        let number = self.number()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }
}

/// All rows of a segment.
pub(super) fn rows_of(bytes: &[u8]) -> Result<Vec<DotRow>, StoreError> {
    let mut reader = SegmentReader::new(bytes);
    let mut rows = Vec::new();
    while let Some(row) = reader.next()? {
        rows.push(row.unpacked()?);
    }
    Ok(rows)
}

fn damaged() -> StoreError {
    StoreError::Damaged { what: "_sync_dot: a segment is not what was written".to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row() -> impl Strategy<Value = DotRow> {
        let value = prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            (0_i64..4).prop_map(Value::Integer),
            any::<f64>().prop_filter("NaN is NULL in SQLite", |real| !real.is_nan()).prop_map(Value::Real),
            any::<Vec<u8>>().prop_map(Value::Text),
            any::<Vec<u8>>().prop_map(Value::Blob),
        ];
        let sequence = prop_oneof![any::<u64>(), 0_u64..10];
        let table = prop_oneof![any::<i64>(), 1_i64..3];
        (sequence, table, prop::collection::vec(value, 1..3)).prop_map(|(sequence, table, key)| DotRow {
            sequence,
            table,
            key,
        })
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(rows in prop::collection::vec(row(), 1..40)) {
            let mut segment = Segment::default();
            for DotRow { sequence, table, key } in &rows {
                segment.add(*sequence, *table, key).unwrap();
            }
            prop_assert_eq!(segment.first, rows.iter().map(|row| row.sequence).min().unwrap());
            prop_assert_eq!(segment.last, rows.iter().map(|row| row.sequence).max().unwrap());
            let mut rows = rows;
            rows.dedup();
            prop_assert_eq!(rows_of(&segment.bytes).unwrap(), rows);
        }

        #[test]
        fn other_bytes_are_an_error_or_some_rows(bytes in any::<Vec<u8>>()) {
            let _ = rows_of(&bytes);
        }
    }

    #[test]
    fn a_row_is_not_told_twice_in_a_row_and_one_whose_key_ends_alike_is() {
        let text = |text: &str| [Value::Text(text.as_bytes().to_vec())];
        let mut segment = Segment::default();
        let rows =
            [(1, text("ab")), (1, text("ab")), (1, text("b")), (1, [Value::Integer(7)]), (1, [Value::Integer(7)])];
        for (sequence, key) in &rows {
            segment.add(*sequence, 1, key).unwrap();
        }
        let told: Vec<Vec<Value>> = rows_of(&segment.bytes).unwrap().into_iter().map(|row| row.key).collect();
        assert_eq!(told, [&rows[0].1, &rows[2].1, &rows[3].1]);
    }

    #[test]
    fn rows_beside_each_other_take_two_bytes() {
        let mut segment = Segment::default();
        for key in 1..=1000 {
            segment.add(key, 1, &[Value::Integer(key.cast_signed())]).unwrap();
        }
        assert!(segment.bytes.len() <= 2002, "{}", segment.bytes.len());
    }
}
