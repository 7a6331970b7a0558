//! `changes` as bytes: MessagePack without any outer structure: from, to, database, batch, part, its marks, the
//! origins that occur, source, from, to and context by the origins' numbers, then the tables with their rows.

use rmp::encode as mp;

use crate::codec::frame::{Body, Kind};
use crate::codec::reader::Reader;
use crate::codec::rows::{
    Origins, Written, read_origin, read_origins, read_rows, read_sequence, write_addresses, write_row,
};
use crate::codec::{CodecError, Limits};
use crate::message::{Changes, Envelope, Message};
use crate::origin::{MAX_ORIGINS, Origin};
use crate::row::{Batch, Part, RowImage, RowsOfTable, TableRows, TableShape};
use crate::version_vector::VersionVector;

const TOO_LARGE: &str = "a value is larger than MessagePack can hold";

/// The mark of a batch's last part.
const LAST: u64 = 1;

/// The mark of a batch in which dots were left out: their fingerprint follows.
const HELD: u64 = 2;

/// The mark of a batch from where tombstones may be gone: up to where follows the other vectors.
const DROPPED: u64 = 4;

/// The mark of a table whose rows have a context of their own.
const CONTEXT: u64 = 1;

/// The mark of a table of which the sender leaves out columns.
const LIMITED: u64 = 2;

/// The mark of a table whose rows are there for single columns.
const PARTS: u64 = 4;

/// What is said of a part beside its rows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks {
    /// Whether it is the batch's last.
    pub(super) is_last: bool,
    /// As [`Batch::held`].
    pub(super) held: u64,
    /// Whether [`Batch::dropped`] follows the other vectors.
    pub(super) is_dropped: bool,
}

pub(super) fn encode(from: &str, to: Option<&str>, changes: &Changes) -> Result<Vec<u8>, CodecError> {
    let Changes { database, batch, part, last, rows } = changes;
    let marks = Marks { is_last: *last, held: rows.held, is_dropped: !rows.dropped.is_empty() };
    let head = encode_head((from, to), (database, *batch, *part), marks)?;
    Body::of(encode_rows_of(rows, &rows.whole())?).message(Kind::Changes, &head)
}

/// What comes before the rows of a part, and is meant for one receiver.
pub(super) fn encode_head(
    (from, to): (&str, Option<&str>),
    (database, batch, part): (&str, u64, u32),
    marks: Marks,
) -> Result<Vec<u8>, CodecError> {
    let mut head = Vec::with_capacity(64);
    let mut write = || {
        write_addresses(&mut head, from, to, database)?;
        mp::write_uint(&mut head, batch)?;
        mp::write_uint(&mut head, u64::from(part))?;
        write_marks(&mut head, marks)
    };
    write().map_err(|_| CodecError::Unencodable(TOO_LARGE))?;
    Ok(head)
}

/// Some rows of a batch with what is the same for whoever receives them.
pub(super) fn encode_rows_of(batch: &Batch, Part { rows, bytes, .. }: &Part) -> Result<Vec<u8>, CodecError> {
    let mut body = Vec::with_capacity(1024 + bytes);
    write_rows_of(&mut body, batch, rows, &origins_of(batch, rows)).map_err(|_| CodecError::Unencodable(TOO_LARGE))?;
    Ok(body)
}

/// Reads what [`encode_rows_of`] wrote.
pub(super) fn decode_part(bytes: &[u8], marks: Marks, limits: &Limits) -> Result<Batch, CodecError> {
    let mut reader = Reader::new(bytes, limits.structure);
    let batch = read_rows_of(&mut reader, marks)?;
    reader.end()?;
    Ok(batch)
}

fn origins_of(batch: &Batch, part: &[RowsOfTable]) -> Origins {
    let mut origins = Origins::default();
    origins.add(batch.source);
    for vector in [&batch.from, &batch.to, &batch.context, &batch.dropped] {
        vector.iter().for_each(|(origin, _)| origins.add(origin));
    }
    for (table, rows) in part {
        let table = &batch.tables[*table];
        table.rows[rows.clone()].iter().for_each(|row| origins.add_row(row));
        table.context.iter().flat_map(VersionVector::iter).for_each(|(origin, _)| origins.add(origin));
    }
    origins
}

fn write_marks(out: &mut Vec<u8>, Marks { is_last, held, is_dropped }: Marks) -> Written {
    let marks = [(is_last, LAST), (held != 0, HELD), (is_dropped, DROPPED)];
    mp::write_uint(out, marks.iter().filter(|(set, _)| *set).map(|(_, mark)| mark).sum())?;
    if held != 0 {
        mp::write_uint(out, held)?;
    }
    Ok(())
}

fn write_rows_of(out: &mut Vec<u8>, batch: &Batch, part: &[RowsOfTable], origins: &Origins) -> Written {
    origins.write(out)?;
    mp::write_uint(out, origins.number(batch.source))?;
    for vector in [&batch.from, &batch.to, &batch.context] {
        write_vector(out, vector, origins)?;
    }
    if !batch.dropped.is_empty() {
        write_vector(out, &batch.dropped, origins)?;
    }
    mp::write_uint(out, part.len() as u64)?;
    part.iter().try_for_each(|(table, rows)| {
        let table = &batch.tables[*table];
        write_table(out, table, &table.rows[rows.clone()], origins)
    })
}

fn write_vector(out: &mut Vec<u8>, vector: &VersionVector, origins: &Origins) -> Written {
    mp::write_uint(out, vector.len() as u64)?;
    for (origin, sequence) in vector.iter() {
        mp::write_uint(out, origins.number(origin))?;
        mp::write_uint(out, sequence)?;
    }
    Ok(())
}

fn write_table(out: &mut Vec<u8>, table: &TableRows, rows: &[RowImage], origins: &Origins) -> Written {
    mp::write_str(out, &table.shape.name)?;
    mp::write_uint(out, table.shape.columns.len() as u64)?;
    for column in &table.shape.columns {
        mp::write_str(out, column)?;
    }
    mp::write_uint(out, table.shape.key.len() as u64)?;
    for index in &table.shape.key {
        mp::write_uint(out, u64::from(*index))?;
    }
    let marks = [(table.context.is_some(), CONTEXT), (table.limited, LIMITED), (!table.parts.is_empty(), PARTS)];
    mp::write_uint(out, marks.iter().filter(|(set, _)| *set).map(|(_, mark)| mark).sum())?;
    if let Some(context) = &table.context {
        write_vector(out, context, origins)?;
    }
    if !table.parts.is_empty() {
        mp::write_uint(out, table.parts.len() as u64)?;
        table.parts.iter().try_for_each(|column| mp::write_str(out, column))?;
    }
    mp::write_uint(out, rows.len() as u64)?;
    rows.iter().try_for_each(|row| write_row(out, row, origins))
}

pub(super) fn decode(mut reader: Reader<'_>) -> Result<Envelope, CodecError> {
    let from = reader.name()?;
    let to = reader.optional_name()?;
    let database = reader.name()?;
    let batch = reader.unsigned()?;
    let part = u32::try_from(reader.unsigned()?).map_err(|_| CodecError::Invalid("a part number is too large"))?;
    let marks = read_marks(&mut reader)?;
    let rows = read_rows_of(&mut reader, marks)?;
    reader.end()?;
    let last = marks.is_last;
    Ok(Envelope { from, to, message: Message::Changes(Changes { database, batch, part, last, rows }) })
}

fn read_marks(reader: &mut Reader<'_>) -> Result<Marks, CodecError> {
    let marks = reader.unsigned()?;
    if marks & !(LAST | HELD | DROPPED) != 0 {
        return Err(CodecError::Invalid("a part bears a mark that is not known"));
    }
    let held = if marks & HELD != 0 { reader.unsigned()? } else { 0 };
    Ok(Marks { is_last: marks & LAST != 0, held, is_dropped: marks & DROPPED != 0 })
}

fn read_rows_of(reader: &mut Reader<'_>, Marks { held, is_dropped, .. }: Marks) -> Result<Batch, CodecError> {
    let origins = read_origins(reader)?;
    let source = read_origin(reader, &origins)?;
    let [from, to, context] = [(); 3].map(|()| read_vector(reader, &origins));
    let dropped = if is_dropped { read_vector(reader, &origins)? } else { VersionVector::new() };
    let mut tables = Vec::new();
    for _ in 0..reader.count::<TableRows>(4)? {
        tables.push(read_table(reader, &origins)?);
    }
    Ok(Batch { source, from: from?, to: to?, context: context?, held, dropped, tables })
}

fn read_vector(reader: &mut Reader<'_>, origins: &[Origin]) -> Result<VersionVector, CodecError> {
    let mut vector = VersionVector::new();
    let count = reader.count::<(Origin, u64)>(2)?;
    if count > MAX_ORIGINS {
        return Err(CodecError::Invalid("a version vector names more origins than a database may know"));
    }
    for _ in 0..count {
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
    let marks = reader.unsigned()?;
    if marks & !(CONTEXT | LIMITED | PARTS) != 0 {
        return Err(CodecError::Invalid("a table bears a mark that is not known"));
    }
    let limited = marks & LIMITED != 0;
    let context = if marks & CONTEXT != 0 { Some(read_vector(reader, origins)?) } else { None };
    let mut parts = Vec::new();
    if marks & PARTS != 0 {
        for _ in 0..reader.count::<String>(1)? {
            parts.push(reader.name()?);
        }
        if parts.is_empty() {
            return Err(CodecError::Invalid("a table's rows are sent for no column"));
        }
    }
    let rows = read_rows(reader, &shape, origins)?;
    Ok(TableRows { shape, rows, context, limited, parts })
}
