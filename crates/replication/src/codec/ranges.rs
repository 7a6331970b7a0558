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
use crate::version_vector::VersionVector;

/// The mark of a fingerprint of a run.
const RUN: u64 = 1;

/// The mark of a fingerprint that is followed by the keys.
const KEYS: u64 = 2;

pub(super) fn encode_compare(from: &str, to: Option<&str>, compare: &Compare) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    let Compare { database, question } = compare;
    let written = write_addresses(&mut out, from, to, database).and_then(|()| {
        mp::write_uint(&mut out, question.number)?;
        mp::write_uint(&mut out, u64::from(question.rows))?;
        mp::write_uint(&mut out, u64::from(question.keys))?;
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
        write_ranges(&mut out, &answer.rest)?;
        write_vector(&mut out, &answer.have)?;
        write_vector(&mut out, &answer.dropped)?;
        mp::write_uint(&mut out, answer.waiting.len() as u64)?;
        for (table, keys) in &answer.waiting {
            mp::write_str(&mut out, table)?;
            write_keys(&mut out, keys)?;
        }
        Ok(())
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
    write_key(out, range.after.as_deref().unwrap_or_default())?;
    write_key(out, range.until.as_deref().unwrap_or_default())
}

fn write_key(out: &mut Vec<u8>, key: &[Value]) -> Written {
    mp::write_uint(out, key.len() as u64)?;
    key.iter().try_for_each(|value| write_value(out, value))
}

fn write_keys(out: &mut Vec<u8>, keys: &[Vec<Value>]) -> Written {
    mp::write_uint(out, keys.len() as u64)?;
    keys.iter().try_for_each(|key| write_key(out, key))
}

fn write_fingerprint(out: &mut Vec<u8>, fingerprint: &RangeFingerprint) -> Written {
    write_range(out, &fingerprint.range)?;
    mp::write_uint(out, fingerprint.rows)?;
    out.extend_from_slice(&fingerprint.content);
    let marks = [(fingerprint.run.is_some(), RUN), (fingerprint.keys.is_some(), KEYS)];
    mp::write_uint(out, marks.iter().filter(|(set, _)| *set).map(|(_, mark)| mark).sum())?;
    if let Some(dot) = fingerprint.run {
        out.extend_from_slice(dot.origin.as_bytes());
        mp::write_uint(out, dot.sequence)?;
    }
    fingerprint.keys.as_deref().map_or(Ok(()), |keys| write_keys(out, keys))
}

pub(super) fn decode_compare(mut reader: Reader<'_>) -> Result<Envelope, CodecError> {
    let (from, to, database) = (reader.name()?, reader.optional_name()?, reader.name()?);
    let number = reader.unsigned()?;
    let rows = u32::try_from(reader.unsigned()?).ok().filter(|rows| *rows > 0);
    let rows = rows.ok_or(CodecError::Invalid("a number of rows is 0 or too large"))?;
    let keys = read_truth(&mut reader)?;
    let tables = read_ranges(&mut reader)?;
    reader.end()?;
    let question = Question { number, rows, keys, tables };
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
    let (have, dropped) = (read_vector(&mut reader)?, read_vector(&mut reader)?);
    let mut waiting = Vec::new();
    for _ in 0..reader.count::<(String, Vec<Vec<Value>>)>(2)? {
        waiting.push((reader.name()?, read_keys(&mut reader)?));
    }
    reader.end()?;
    let answer = Answer { number, tables, rest, have, dropped, waiting };
    Ok(Envelope { from, to, message: Message::Fingerprints(Fingerprints { database, source, answer }) })
}

fn write_vector(out: &mut Vec<u8>, vector: &VersionVector) -> Written {
    mp::write_uint(out, vector.len() as u64)?;
    for (origin, sequence) in vector.iter() {
        out.extend_from_slice(origin.as_bytes());
        mp::write_uint(out, sequence)?;
    }
    Ok(())
}

fn read_vector(reader: &mut Reader<'_>) -> Result<VersionVector, CodecError> {
    let mut vector = VersionVector::new();
    for _ in 0..reader.count::<(Origin, u64)>(17)? {
        let origin = Origin::from_bytes(reader.array()?);
        vector.raise(origin, read_sequence(reader)?);
    }
    Ok(vector)
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

fn read_truth(reader: &mut Reader<'_>) -> Result<bool, CodecError> {
    match reader.unsigned()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CodecError::Invalid("a yes or no is neither")),
    }
}

fn read_keys(reader: &mut Reader<'_>) -> Result<Vec<Vec<Value>>, CodecError> {
    let mut keys = Vec::new();
    for _ in 0..reader.count::<Vec<Value>>(2)? {
        keys.push(read_key(reader)?.ok_or(CodecError::Invalid("a key has no values"))?);
    }
    Ok(keys)
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
    let marks = reader.unsigned()?;
    if marks & !(RUN | KEYS) != 0 {
        return Err(CodecError::Invalid("a fingerprint bears a mark that is not known"));
    }
    let run = match marks & RUN {
        0 => None,
        _ => Some(Dot { origin: Origin::from_bytes(reader.array()?), sequence: read_sequence(reader)? }),
    };
    let keys = if marks & KEYS != 0 { Some(read_keys(reader)?) } else { None };
    let fingerprint = RangeFingerprint { range, rows, content, run, keys };
    if is_sound(&fingerprint) {
        Ok(fingerprint)
    } else {
        Err(CodecError::Invalid("a run of sequences is longer than sequences can be"))
    }
}
