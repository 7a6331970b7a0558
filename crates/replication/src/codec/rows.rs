//! Rows as bytes. A row is its flags, its clock, and its values. TEXT that is UTF-8 is `str`, other TEXT an extension; a
//! BLOB is `bin`.

use std::collections::HashMap;

use rmp::{Marker, encode as mp};

use crate::codec::reader::Reader;
use crate::codec::{CodecError, Limits};
use crate::counter::{Counter, Tally, is_finite};
use crate::hybrid_clock::Timestamp;
use crate::origin::{Dot, MAX_SEQUENCE, Origin};
use crate::row::{Entry, EntryFlags, RowClock, RowImage, TableShape};
use crate::value::Value;

/// Set beside an entry's marks where the order of another change follows: see [`Entry::authored`].
const AUTHORED: u64 = 1 << 8;

/// Set beside a row entry's marks where the entry of columns that the sender does not have follows: see [`RowClock::rest`].
const REST: u64 = 1 << 9;

/// The extension type of TEXT that is not UTF-8.
const RAW_TEXT: i8 = 1;

pub(super) type Written = Result<(), mp::ValueWriteError>;

/// One row by itself, to be kept and read again with [`decode_row`] by the same shape.
///
/// # Errors
/// [`CodecError::Unencodable`] for a value that the format cannot hold.
pub fn encode_row(row: &RowImage) -> Result<Vec<u8>, CodecError> {
    let mut origins = Origins::default();
    origins.add_row(row);
    let mut out = Vec::with_capacity(row.wire_size());
    let written = origins.write(&mut out).and_then(|()| write_row(&mut out, row, &origins));
    written.map(|()| out).map_err(|_| CodecError::Unencodable("a value is larger than MessagePack can hold"))
}

/// Reads what [`encode_row`] wrote.
///
/// # Errors
/// The bytes are no row of this shape.
pub fn decode_row(bytes: &[u8], shape: &TableShape) -> Result<RowImage, CodecError> {
    let mut reader = Reader::new(bytes, Limits::default().structure);
    let origins = read_origins(&mut reader)?;
    let row = read_row(&mut reader, shape, &origins)?;
    reader.end()?;
    Ok(row)
}

/// Rows of one table by themselves, to be kept and read again together with [`decode_rows`] by the same shape. What they have in
/// common is written once.
///
/// # Errors
/// [`CodecError::Unencodable`] for a value that the format cannot hold.
pub fn encode_rows(rows: &[RowImage]) -> Result<Vec<u8>, CodecError> {
    let mut origins = Origins::default();
    rows.iter().for_each(|row| origins.add_row(row));
    let mut out = Vec::with_capacity(rows.iter().map(RowImage::wire_size).sum());
    let written = origins.write(&mut out).and_then(|()| {
        mp::write_uint(&mut out, rows.len() as u64)?;
        rows.iter().try_for_each(|row| write_row(&mut out, row, &origins))
    });
    written.map(|()| out).map_err(|_| CodecError::Unencodable("a value is larger than MessagePack can hold"))
}

/// Reads what [`encode_rows`] wrote.
///
/// # Errors
/// The bytes are no rows of this shape, or would take more memory than a message may.
pub fn decode_rows(bytes: &[u8], shape: &TableShape) -> Result<Vec<RowImage>, CodecError> {
    let mut reader = Reader::new(bytes, Limits::default().structure);
    let origins = read_origins(&mut reader)?;
    let rows = read_rows(&mut reader, shape, &origins)?;
    reader.end()?;
    Ok(rows)
}

/// Values by themselves, the same bytes for the same values: a key to look things up by.
///
/// # Errors
/// [`CodecError::Unencodable`] for a value that the format cannot hold.
pub fn encode_values(values: &[Value]) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    let written = values.iter().try_for_each(|value| write_value(&mut out, value));
    written.map(|()| out).map_err(|_| CodecError::Unencodable("a value is larger than MessagePack can hold"))
}

/// Reads what [`encode_values`] wrote of `count` values.
///
/// # Errors
/// The bytes are something else.
pub fn decode_values(bytes: &[u8], count: usize) -> Result<Vec<Value>, CodecError> {
    let mut reader = Reader::new(bytes, Limits::default().structure);
    let values = (0..count).map(|_| read_value(&mut reader)).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(values)
}

/// Origins by number: what is written names them in a byte or two.
#[derive(Default)]
pub(super) struct Origins {
    list: Vec<Origin>,
    numbers: HashMap<Origin, u64>,
}

impl Origins {
    pub(super) fn add(&mut self, origin: Origin) {
        if self.list.first() == Some(&origin) {
            return;
        }
        let next = self.list.len() as u64;
        self.numbers.entry(origin).or_insert_with(|| {
            self.list.push(origin);
            next
        });
    }

    pub(super) fn add_row(&mut self, row: &RowImage) {
        for entry in row.clock.entries().chain(&row.clock.rest) {
            self.add(entry.dot.origin);
            if let Some((_, origin)) = entry.authored {
                self.add(origin);
            }
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) -> Written {
        mp::write_uint(out, self.list.len() as u64)?;
        self.list.iter().for_each(|origin| out.extend_from_slice(origin.as_bytes()));
        Ok(())
    }

    pub(super) fn number(&self, origin: Origin) -> u64 {
        match self.list.first() {
            // Most rows of a batch are of one origin.
            Some(first) if *first == origin => 0,
            _ => self.numbers.get(&origin).copied().unwrap_or(0),
        }
    }
}

/// Who speaks, to whom, and about which database.
pub(super) fn write_addresses(out: &mut Vec<u8>, from: &str, to: Option<&str>, database: &str) -> Written {
    mp::write_str(out, from)?;
    match to {
        Some(to) => mp::write_str(out, to)?,
        None => mp::write_nil(out).map_err(mp::ValueWriteError::InvalidMarkerWrite)?,
    }
    mp::write_str(out, database)
}

pub(super) fn write_row(out: &mut Vec<u8>, row: &RowImage, origins: &Origins) -> Written {
    write_marked(out, &row.clock.row, origins, if row.clock.rest.is_some() { REST } else { 0 })?;
    if let Some(rest) = &row.clock.rest {
        write_entry(out, rest, origins)?;
    }
    mp::write_uint(out, row.clock.columns.len() as u64)?;
    for (column, entry) in &row.clock.columns {
        mp::write_uint(out, u64::from(*column))?;
        write_entry(out, entry, origins)?;
    }
    mp::write_uint(out, row.clock.counters.len() as u64)?;
    for (column, counter) in &row.clock.counters {
        mp::write_uint(out, u64::from(*column))?;
        write_counter(out, counter, origins)?;
    }
    row.values.iter().try_for_each(|value| write_value(out, value))
}

fn write_entry(out: &mut Vec<u8>, entry: &Entry, origins: &Origins) -> Written {
    write_marked(out, entry, origins, 0)
}

fn write_marked(out: &mut Vec<u8>, entry: &Entry, origins: &Origins, marks: u64) -> Written {
    let authored = if entry.authored.is_some() { AUTHORED } else { 0 };
    mp::write_uint(out, u64::from(entry.flags.bits()) | authored | marks)?;
    mp::write_uint(out, entry.timestamp.raw().cast_unsigned())?;
    mp::write_uint(out, origins.number(entry.dot.origin))?;
    mp::write_uint(out, entry.dot.sequence)?;
    if let Some((timestamp, origin)) = entry.authored {
        mp::write_uint(out, timestamp.raw().cast_unsigned())?;
        mp::write_uint(out, origins.number(origin))?;
    }
    Ok(())
}

fn write_counter(out: &mut Vec<u8>, counter: &Counter, origins: &Origins) -> Written {
    write_entry(out, &counter.set, origins)?;
    write_value(out, &counter.base)?;
    mp::write_uint(out, counter.tallies.len() as u64)?;
    for tally in &counter.tallies {
        write_entry(out, &tally.entry, origins)?;
        write_value(out, &tally.sum)?;
        write_value(out, &tally.absorbed)?;
        mp::write_uint(out, tally.absorbed_at)?;
    }
    Ok(())
}

pub(super) fn write_value(out: &mut Vec<u8>, value: &Value) -> Written {
    match value {
        Value::Null => mp::write_nil(out).map_err(mp::ValueWriteError::InvalidMarkerWrite),
        Value::Integer(n) => mp::write_sint(out, *n).map(drop),
        Value::Real(r) => mp::write_f64(out, *r),
        Value::Blob(bytes) => mp::write_bin(out, bytes),
        Value::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => mp::write_str(out, text),
            Err(_) => {
                // A length beyond 32 bits cannot occur: SQLite's values end at 2 GiB.
                mp::write_ext_meta(out, u32::try_from(bytes.len()).unwrap_or(u32::MAX), RAW_TEXT)?;
                out.extend_from_slice(bytes);
                Ok(())
            }
        },
    }
}

pub(super) fn read_origins(reader: &mut Reader<'_>) -> Result<Vec<Origin>, CodecError> {
    let mut origins = Vec::new();
    for _ in 0..reader.count::<Origin>(16)? {
        origins.push(Origin::from_bytes(reader.array()?));
    }
    Ok(origins)
}

pub(super) fn read_origin(reader: &mut Reader<'_>, origins: &[Origin]) -> Result<Origin, CodecError> {
    let number = usize::try_from(reader.unsigned()?).unwrap_or(usize::MAX);
    origins.get(number).copied().ok_or(CodecError::Invalid("an origin's number is not in the list"))
}

pub(super) fn read_sequence(reader: &mut Reader<'_>) -> Result<u64, CodecError> {
    read_sequence_from(reader, 1)
}

fn read_sequence_from(reader: &mut Reader<'_>, first: u64) -> Result<u64, CodecError> {
    match reader.unsigned()? {
        sequence if (first..=MAX_SEQUENCE).contains(&sequence) => Ok(sequence),
        _ => Err(CodecError::Invalid("a sequence is 0 or larger than sequences can be")),
    }
}

fn read_row(reader: &mut Reader<'_>, shape: &TableShape, origins: &[Origin]) -> Result<RowImage, CodecError> {
    let (row, marks) = read_marked(reader, origins)?;
    if row.is_never() {
        return Err(CodecError::Invalid("a row was written by nobody"));
    }
    let mut clock = RowClock::whole(row);
    let deleted = clock.is_deleted();
    if marks & REST != 0 {
        let rest = read_entry(reader, origins)?;
        if deleted || rest.is_never() {
            return Err(CodecError::Invalid("what speaks for other columns is out of place"));
        }
        clock.rest = Some(rest);
    }
    for _ in 0..reader.count::<(u16, Entry)>(5)? {
        let column = u16::try_from(reader.unsigned()?).unwrap_or(u16::MAX);
        let ascending = clock.columns.last().is_none_or(|(before, _)| *before < column);
        if usize::from(column) >= shape.columns.len() || !ascending || deleted {
            return Err(CodecError::Invalid("a column entry is out of place"));
        }
        let entry = read_entry(reader, origins)?;
        if entry.flags.contains(EntryFlags::DELETED) {
            return Err(CodecError::Invalid("a column is marked as deleted"));
        }
        clock.columns.push((column, entry));
    }
    for _ in 0..reader.count::<(u16, Counter)>(8)? {
        let column = u16::try_from(reader.unsigned()?).unwrap_or(u16::MAX);
        let ascending = clock.counters.last().is_none_or(|(before, _)| *before < column);
        if usize::from(column) >= shape.columns.len() || !ascending {
            return Err(CodecError::Invalid("a counter is out of place"));
        }
        clock.counters.push((column, read_counter(reader, origins)?));
    }
    let count = if deleted { shape.key.len() } else { shape.columns.len() };
    if count > reader.left() {
        return Err(CodecError::Truncated);
    }
    reader.make_room::<Value>(count)?;
    let values = (0..count).map(|_| read_value(reader)).collect::<Result<Vec<_>, _>>()?;
    let image = RowImage { values, clock };
    if image.key(shape).into_iter().any(Value::is_null) {
        return Err(CodecError::Invalid("a key holds NULL"));
    }
    Ok(image)
}

/// How many rows there are, and these.
pub(super) fn read_rows(
    reader: &mut Reader<'_>,
    shape: &TableShape,
    origins: &[Origin],
) -> Result<Vec<RowImage>, CodecError> {
    // Four for the row entry, one for each count of other entries, one for each key value.
    let count = reader.count::<RowImage>(6 + shape.key.len())?;
    (0..count).map(|_| read_row(reader, shape, origins)).collect()
}

fn read_entry(reader: &mut Reader<'_>, origins: &[Origin]) -> Result<Entry, CodecError> {
    match read_marked(reader, origins)? {
        (entry, 0) => Ok(entry),
        _ => Err(CodecError::Invalid("an entry's marks are too many")),
    }
}

/// An entry, and what else its marks say.
fn read_marked(reader: &mut Reader<'_>, origins: &[Origin]) -> Result<(Entry, u64), CodecError> {
    let marks = reader.unsigned()?;
    let (said, more) = (marks & !(AUTHORED | REST), marks & REST);
    let flags = u8::try_from(said).map_err(|_| CodecError::Invalid("an entry's marks are too many"))?;
    let timestamp = read_timestamp(reader)?;
    let origin = read_origin(reader, origins)?;
    let sequence = read_sequence_from(reader, 0)?;
    let authored = match marks & AUTHORED {
        0 => None,
        _ => Some((read_timestamp(reader)?, read_origin(reader, origins)?)),
    };
    let entry = Entry { authored, ..Entry::new(timestamp, Dot { origin, sequence }, EntryFlags::from_bits(flags)) };
    if entry.is_never() && (timestamp != Timestamp::BASELINE || authored.is_some()) {
        return Err(CodecError::Invalid("what nobody has written was written at some time"));
    }
    Ok((entry, more))
}

fn read_timestamp(reader: &mut Reader<'_>) -> Result<Timestamp, CodecError> {
    let timestamp = i64::try_from(reader.unsigned()?).ok().and_then(Timestamp::from_raw);
    timestamp.ok_or(CodecError::Invalid("a timestamp is too large"))
}

fn read_counter(reader: &mut Reader<'_>, origins: &[Origin]) -> Result<Counter, CodecError> {
    let mut counter = Counter::new(read_entry(reader, origins)?, read_value(reader)?);
    for _ in 0..reader.count::<Tally>(7)? {
        let (entry, sum) = (read_entry(reader, origins)?, read_value(reader)?);
        let tally = Tally { entry, sum, absorbed: read_value(reader)?, absorbed_at: reader.unsigned()? };
        if tally.entry.is_never() {
            return Err(CodecError::Invalid("something was counted by nobody"));
        }
        if !is_finite(&tally.sum) || !is_finite(&tally.absorbed) {
            return Err(CodecError::Invalid("a counter's sum is no finite number"));
        }
        let last = counter.tallies.last().map(|last: &Tally| last.entry.dot.origin);
        if last.is_some_and(|last| last >= tally.entry.dot.origin) {
            return Err(CodecError::Invalid("a counter's origins are not in order"));
        }
        counter.tallies.push(tally);
    }
    if counter.tallies.is_empty() {
        return Err(CodecError::Invalid("a counter counted nothing"));
    }
    Ok(counter)
}

pub(super) fn read_value(reader: &mut Reader<'_>) -> Result<Value, CodecError> {
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(_) => Ok(Value::Text(bytes.to_vec())),
        Err(_) => Err(CodecError::Invalid("a text is not UTF-8")),
    };
    Ok(match reader.marker()? {
        Marker::Null => Value::Null,
        Marker::F64 => {
            let real = f64::from_bits(u64::from_be_bytes(reader.array()?));
            if real.is_nan() {
                return Err(CodecError::Invalid("a real is not a number"));
            }
            Value::Real(real)
        }
        Marker::FixStr(length) => text(reader.take(usize::from(length))?)?,
        Marker::Str8 => text(reader.sized(1)?)?,
        Marker::Str16 => text(reader.sized(2)?)?,
        Marker::Str32 => text(reader.sized(4)?)?,
        Marker::Bin8 => Value::Blob(reader.sized(1)?.to_vec()),
        Marker::Bin16 => Value::Blob(reader.sized(2)?.to_vec()),
        Marker::Bin32 => Value::Blob(reader.sized(4)?.to_vec()),
        marker => match reader.extension(marker)? {
            Some((RAW_TEXT, bytes)) => Value::Text(bytes.to_vec()),
            Some(_) => return Err(CodecError::Invalid("a value is of a kind that is not known")),
            None => Value::Integer(reader.integer(marker)?),
        },
    })
}
