//! Questions and answers about ranges of tables as bytes: MessagePack without any outer structure. A key is the number of its
//! values, 0 where there is none, and the values.

use rmp::encode as mp;

use crate::codec::CodecError;
use crate::codec::reader::Reader;
use crate::codec::rows::{Written, read_sequence, read_value, write_addresses, write_value};
use crate::message::{Compare, Envelope, Fingerprints, Message};
use crate::origin::{Dot, Origin};
use crate::reconcile::{Answer, KeyRange, Question, RangeFingerprint, TableRanges, is_sound};
use crate::value::Value;

pub(super) fn encode_compare(from: &str, to: Option<&str>, compare: &Compare) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    let Compare { database, question } = compare;
    let written = write_addresses(&mut out, from, to, database).and_then(|()| {
        mp::write_uint(&mut out, question.number)?;
        mp::write_uint(&mut out, u64::from(question.rows))?;
        write_ranges(&mut out, &question.tables)
    });
    written.map(|()| out).map_err(too_large)
}

pub(super) fn encode_fingerprints(
    from: &str,
    to: Option<&str>,
    fingerprints: &Fingerprints,
) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    let Fingerprints { database, source, answer } = fingerprints;
    let written = write_addresses(&mut out, from, to, database).and_then(|()| {
        out.extend_from_slice(source.as_bytes());
        mp::write_uint(&mut out, answer.number)?;
        mp::write_uint(&mut out, answer.tables.len() as u64)?;
        for (table, fingerprints) in &answer.tables {
            mp::write_str(&mut out, table)?;
            mp::write_uint(&mut out, fingerprints.len() as u64)?;
            fingerprints.iter().try_for_each(|fingerprint| write_fingerprint(&mut out, fingerprint))?;
        }
        write_ranges(&mut out, &answer.rest)
    });
    written.map(|()| out).map_err(too_large)
}

fn too_large<E>(_: E) -> CodecError {
    CodecError::Unencodable("a value is larger than MessagePack can hold")
}

fn write_ranges(out: &mut Vec<u8>, tables: &TableRanges) -> Written {
    mp::write_uint(out, tables.len() as u64)?;
    for (table, ranges) in tables {
        mp::write_str(out, table)?;
        mp::write_uint(out, ranges.len() as u64)?;
        ranges.iter().try_for_each(|range| write_range(out, range))?;
    }
    Ok(())
}

fn write_range(out: &mut Vec<u8>, range: &KeyRange) -> Written {
    for key in [&range.after, &range.until] {
        let values = key.as_deref().unwrap_or_default();
        mp::write_uint(out, values.len() as u64)?;
        values.iter().try_for_each(|value| write_value(out, value))?;
    }
    Ok(())
}

fn write_fingerprint(out: &mut Vec<u8>, fingerprint: &RangeFingerprint) -> Written {
    write_range(out, &fingerprint.range)?;
    mp::write_uint(out, fingerprint.rows)?;
    out.extend_from_slice(&fingerprint.content);
    mp::write_uint(out, u64::from(fingerprint.run.is_some()))?;
    if let Some(dot) = fingerprint.run {
        out.extend_from_slice(dot.origin.as_bytes());
        mp::write_uint(out, dot.sequence)?;
    }
    Ok(())
}

pub(super) fn decode_compare(mut reader: Reader<'_>) -> Result<Envelope, CodecError> {
    let (from, to, database) = (reader.name()?, reader.optional_name()?, reader.name()?);
    let number = reader.unsigned()?;
    let rows = u32::try_from(reader.unsigned()?).ok().filter(|rows| *rows > 0);
    let rows = rows.ok_or(CodecError::Invalid("a number of rows is 0 or too large"))?;
    let tables = read_ranges(&mut reader)?;
    reader.end()?;
    let question = Question { number, rows, tables };
    Ok(Envelope { from, to, message: Message::Compare(Compare { database, question }) })
}

pub(super) fn decode_fingerprints(mut reader: Reader<'_>) -> Result<Envelope, CodecError> {
    let (from, to, database) = (reader.name()?, reader.optional_name()?, reader.name()?);
    let source = Origin::from_bytes(reader.array()?);
    let number = reader.unsigned()?;
    let mut tables = Vec::new();
    for _ in 0..reader.count::<(String, Vec<RangeFingerprint>)>(2)? {
        let table = reader.name()?;
        let mut fingerprints = Vec::new();
        for _ in 0..reader.count::<RangeFingerprint>(20)? {
            fingerprints.push(read_fingerprint(&mut reader)?);
        }
        tables.push((table, fingerprints));
    }
    let rest = read_ranges(&mut reader)?;
    reader.end()?;
    let answer = Answer { number, tables, rest };
    Ok(Envelope { from, to, message: Message::Fingerprints(Fingerprints { database, source, answer }) })
}

fn read_ranges(reader: &mut Reader<'_>) -> Result<TableRanges, CodecError> {
    let mut tables = Vec::new();
    for _ in 0..reader.count::<(String, Vec<KeyRange>)>(2)? {
        let table = reader.name()?;
        let mut ranges = Vec::new();
        for _ in 0..reader.count::<KeyRange>(2)? {
            ranges.push(read_range(reader)?);
        }
        tables.push((table, ranges));
    }
    Ok(tables)
}

fn read_range(reader: &mut Reader<'_>) -> Result<KeyRange, CodecError> {
    Ok(KeyRange { after: read_key(reader)?, until: read_key(reader)? })
}

fn read_key(reader: &mut Reader<'_>) -> Result<Option<Vec<Value>>, CodecError> {
    let count = reader.count::<Value>(1)?;
    let key = (0..count).map(|_| read_value(reader)).collect::<Result<Vec<_>, _>>()?;
    if key.iter().any(Value::is_null) {
        return Err(CodecError::Invalid("a key holds NULL"));
    }
    Ok((count > 0).then_some(key))
}

fn read_fingerprint(reader: &mut Reader<'_>) -> Result<RangeFingerprint, CodecError> {
    let (range, rows) = (read_range(reader)?, reader.unsigned()?);
    let content = reader.array()?;
    let run = match reader.unsigned()? {
        0 => None,
        1 => Some(Dot { origin: Origin::from_bytes(reader.array()?), sequence: read_sequence(reader)? }),
        _ => return Err(CodecError::Invalid("a yes or no is neither")),
    };
    let fingerprint = RangeFingerprint { range, rows, content, run };
    if is_sound(&fingerprint) {
        Ok(fingerprint)
    } else {
        Err(CodecError::Invalid("a run of sequences is longer than sequences can be"))
    }
}
