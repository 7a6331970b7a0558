//! `changes` as bytes.
//!
//! `[format, compression]`, then MessagePack without any outer structure: from, to, database, batch, part, last, the
//! origins that occur, source, from, to and context by the origins' numbers, then the tables. A row is its flags, its
//! clock, and its values. TEXT that is UTF-8 is `str`, other TEXT an extension; a BLOB is `bin`.

use std::collections::HashMap;

use rmp::{Marker, encode as mp};

use crate::codec::reader::Reader;
use crate::codec::{CodecError, Limits};
use crate::hybrid_clock::Timestamp;
use crate::message::{Changes, Envelope, Message};
use crate::origin::{Dot, MAX_SEQUENCE, Origin};
use crate::row::{Batch, Entry, EntryFlags, RowClock, RowImage, TableRows, TableShape};
use crate::value::Value;
use crate::version_vector::VersionVector;

const FORMAT: u8 = 1;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Bodies below this are not worth compressing.
const COMPRESS_FROM: usize = 4 << 10;

/// The extension type of TEXT that is not UTF-8.
const RAW_TEXT: i8 = 1;

pub(super) fn encode(from: &str, to: Option<&str>, changes: &Changes) -> Result<Vec<u8>, CodecError> {
    let mut body = Vec::with_capacity(4096);
    let mut origins = Origins::default();
    let batch = &changes.rows;
    origins.collect(batch);
    write_body(&mut body, from, to, changes, &origins)
        .map_err(|_| CodecError::Unencodable("a value is larger than MessagePack can hold"))?;
    let mut bytes = vec![FORMAT, PLAIN];
    if body.len() >= COMPRESS_FROM
        && let Ok(small) = zstd::bulk::compress(&body, 1)
        && small.len() + 4 < body.len()
    {
        bytes[1] = ZSTD;
        let size = u32::try_from(body.len()).map_err(|_| CodecError::Unencodable("a message is larger than 4 GiB"))?;
        bytes.extend_from_slice(&size.to_be_bytes());
        bytes.extend_from_slice(&small);
        return Ok(bytes);
    }
    bytes.append(&mut body);
    Ok(bytes)
}

/// The origins that occur in a batch, by number.
#[derive(Default)]
struct Origins {
    list: Vec<Origin>,
    numbers: HashMap<Origin, u64>,
}

impl Origins {
    fn add(&mut self, origin: Origin) {
        let next = self.list.len() as u64;
        self.numbers.entry(origin).or_insert_with(|| {
            self.list.push(origin);
            next
        });
    }

    fn collect(&mut self, batch: &Batch) {
        self.add(batch.source);
        for vector in [&batch.from, &batch.to, &batch.context] {
            vector.iter().for_each(|(origin, _)| self.add(origin));
        }
        for row in batch.tables.iter().flat_map(|table| &table.rows) {
            row.clock.entries().for_each(|entry| self.add(entry.dot.origin));
        }
    }

    fn number(&self, origin: Origin) -> u64 {
        self.numbers.get(&origin).copied().unwrap_or(0)
    }
}

type Written = Result<(), mp::ValueWriteError>;

fn write_body(out: &mut Vec<u8>, from: &str, to: Option<&str>, changes: &Changes, origins: &Origins) -> Written {
    mp::write_str(out, from)?;
    match to {
        Some(to) => mp::write_str(out, to)?,
        None => mp::write_nil(out).map_err(mp::ValueWriteError::InvalidMarkerWrite)?,
    }
    mp::write_str(out, &changes.database)?;
    mp::write_uint(out, changes.batch)?;
    mp::write_uint(out, u64::from(changes.part))?;
    mp::write_uint(out, u64::from(changes.last))?;
    mp::write_uint(out, origins.list.len() as u64)?;
    origins.list.iter().for_each(|origin| out.extend_from_slice(origin.as_bytes()));
    let batch = &changes.rows;
    mp::write_uint(out, origins.number(batch.source))?;
    for vector in [&batch.from, &batch.to, &batch.context] {
        mp::write_uint(out, vector.len() as u64)?;
        for (origin, sequence) in vector.iter() {
            mp::write_uint(out, origins.number(origin))?;
            mp::write_uint(out, sequence)?;
        }
    }
    mp::write_uint(out, batch.tables.len() as u64)?;
    batch.tables.iter().try_for_each(|table| write_table(out, table, origins))
}

fn write_table(out: &mut Vec<u8>, table: &TableRows, origins: &Origins) -> Written {
    mp::write_str(out, &table.shape.name)?;
    mp::write_uint(out, table.shape.columns.len() as u64)?;
    for column in &table.shape.columns {
        mp::write_str(out, column)?;
    }
    mp::write_uint(out, table.shape.key.len() as u64)?;
    for index in &table.shape.key {
        mp::write_uint(out, u64::from(*index))?;
    }
    mp::write_uint(out, table.rows.len() as u64)?;
    for row in &table.rows {
        write_entry(out, &row.clock.row, origins)?;
        mp::write_uint(out, row.clock.columns.len() as u64)?;
        for (column, entry) in &row.clock.columns {
            mp::write_uint(out, u64::from(*column))?;
            write_entry(out, entry, origins)?;
        }
        row.values.iter().try_for_each(|value| write_value(out, value))?;
    }
    Ok(())
}

fn write_entry(out: &mut Vec<u8>, entry: &Entry, origins: &Origins) -> Written {
    mp::write_uint(out, u64::from(entry.flags.bits()))?;
    mp::write_uint(out, entry.timestamp.raw().cast_unsigned())?;
    mp::write_uint(out, origins.number(entry.dot.origin))?;
    mp::write_uint(out, entry.dot.sequence).map(drop)
}

fn write_value(out: &mut Vec<u8>, value: &Value) -> Written {
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

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Envelope, CodecError> {
    let mut header = Reader::new(bytes, limits.structure);
    let [format, compression] = header.array()?;
    if format != FORMAT {
        return Err(CodecError::Format(format));
    }
    match compression {
        PLAIN => {
            check_size(header.left(), limits)?;
            read_body(header)
        }
        ZSTD => {
            let size = usize::try_from(u32::from_be_bytes(header.array()?)).unwrap_or(usize::MAX);
            check_size(size, limits)?;
            let left = header.left();
            let body = zstd::bulk::decompress(header.take(left)?, size).map_err(|_| CodecError::Compression)?;
            read_body(Reader::new(&body, limits.structure))
        }
        _ => Err(CodecError::Compression),
    }
}

fn check_size(size: usize, limits: &Limits) -> Result<(), CodecError> {
    if size > limits.body { Err(CodecError::TooLarge { size, limit: limits.body }) } else { Ok(()) }
}

fn read_body(mut reader: Reader<'_>) -> Result<Envelope, CodecError> {
    let from = reader.name()?;
    let to = reader.optional_name()?;
    let database = reader.name()?;
    let batch = reader.unsigned()?;
    let part = u32::try_from(reader.unsigned()?).map_err(|_| CodecError::Invalid("a part number is too large"))?;
    let last = match reader.unsigned()? {
        0 => false,
        1 => true,
        _ => return Err(CodecError::Invalid("a yes or no is neither")),
    };
    let mut origins = Vec::new();
    for _ in 0..reader.count::<Origin>(16)? {
        origins.push(Origin::from_bytes(reader.array()?));
    }
    let source = read_origin(&mut reader, &origins)?;
    let [from_vector, to_vector, context] = [(); 3].map(|()| read_vector(&mut reader, &origins));
    let mut tables = Vec::new();
    for _ in 0..reader.count::<TableRows>(4)? {
        tables.push(read_table(&mut reader, &origins)?);
    }
    reader.end()?;
    let rows = Batch { source, from: from_vector?, to: to_vector?, context: context?, tables };
    Ok(Envelope { from, to, message: Message::Changes(Changes { database, batch, part, last, rows }) })
}

fn read_origin(reader: &mut Reader<'_>, origins: &[Origin]) -> Result<Origin, CodecError> {
    let number = usize::try_from(reader.unsigned()?).unwrap_or(usize::MAX);
    origins.get(number).copied().ok_or(CodecError::Invalid("an origin's number is not in the list"))
}

fn read_sequence(reader: &mut Reader<'_>) -> Result<u64, CodecError> {
    match reader.unsigned()? {
        sequence @ 1..=MAX_SEQUENCE => Ok(sequence),
        _ => Err(CodecError::Invalid("a sequence is 0 or larger than sequences can be")),
    }
}

fn read_vector(reader: &mut Reader<'_>, origins: &[Origin]) -> Result<VersionVector, CodecError> {
    let mut vector = VersionVector::new();
    for _ in 0..reader.count::<(Origin, u64)>(2)? {
        let origin = read_origin(reader, origins)?;
        vector.raise(origin, read_sequence(reader)?);
    }
    Ok(vector)
}

fn read_table(reader: &mut Reader<'_>, origins: &[Origin]) -> Result<TableRows, CodecError> {
    let name = reader.name()?;
    let count = reader.count::<String>(1)?;
    if count > usize::from(u16::MAX) {
        return Err(CodecError::Invalid("a table has more columns than tables can have"));
    }
    let columns = (0..count).map(|_| reader.name()).collect::<Result<Vec<_>, _>>()?;
    let count = reader.count::<u16>(1)?;
    if count > columns.len() {
        return Err(CodecError::Invalid("a key names more columns than there are"));
    }
    let mut key = Vec::new();
    for _ in 0..count {
        let index = u16::try_from(reader.unsigned()?).unwrap_or(u16::MAX);
        if usize::from(index) >= columns.len() || key.contains(&index) {
            return Err(CodecError::Invalid("a key names a column that is not there, or one twice"));
        }
        key.push(index);
    }
    if key.is_empty() {
        return Err(CodecError::Invalid("a table has no key"));
    }
    let shape = TableShape { name, columns, key };
    let mut rows = Vec::new();
    // Four for the row entry, one for the count of column entries, one for each key value.
    for _ in 0..reader.count::<RowImage>(5 + shape.key.len())? {
        rows.push(read_row(reader, &shape, origins)?);
    }
    Ok(TableRows { shape, rows })
}

fn read_row(reader: &mut Reader<'_>, shape: &TableShape, origins: &[Origin]) -> Result<RowImage, CodecError> {
    let mut clock = RowClock::whole(read_entry(reader, origins)?);
    let deleted = clock.is_deleted();
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

fn read_entry(reader: &mut Reader<'_>, origins: &[Origin]) -> Result<Entry, CodecError> {
    let flags = u8::try_from(reader.unsigned()?).map_err(|_| CodecError::Invalid("an entry's marks are too many"))?;
    let timestamp = i64::try_from(reader.unsigned()?).ok().and_then(Timestamp::from_raw);
    let timestamp = timestamp.ok_or(CodecError::Invalid("a timestamp is too large"))?;
    let origin = read_origin(reader, origins)?;
    let sequence = read_sequence(reader)?;
    Ok(Entry { timestamp, dot: Dot { origin, sequence }, flags: EntryFlags::from_bits(flags) })
}

fn read_value(reader: &mut Reader<'_>) -> Result<Value, CodecError> {
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
