//! The wire format: everything that can be said comes back as it was, and nothing that comes in can do harm.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

mod messages;

use std::collections::BTreeMap;

use messages::{changes, envelope, hello};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use replication::codec::{CodecError, Encoded, Limits, PackedBatch, decode_binary, decode_text, encode};
use replication::message::{Ack, Changes, DatabaseHello, Envelope, Hello, Message, Problem, ProblemCode};
use replication::{
    Batch, Dot, Entry, EntryFlags, Origin, RowClock, RowImage, TableRows, TableShape, Timestamp, Value, VersionVector,
};

fn decode(encoded: &Encoded, limits: &Limits) -> Result<Envelope, CodecError> {
    match encoded {
        Encoded::Text(text) => decode_text(text, limits),
        Encoded::Binary(bytes) => decode_binary(bytes, limits),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn what_is_said_is_what_is_heard(envelope in envelope()) {
        let heard = decode(&encode(&envelope).unwrap(), &Limits::default());
        prop_assert_eq!(heard, Ok(envelope));
    }

    #[test]
    fn what_is_packed_is_what_it_was(changes in changes(), part_bytes in prop_oneof![Just(usize::MAX), 1_usize..500]) {
        let mut batch = Batch { held: 0, ..changes.rows };
        let packed = PackedBatch::of(&batch, part_bytes).unwrap();
        prop_assert_eq!(packed.size(), batch.size());
        prop_assert_eq!(packed.largest_row(), rows_of(&batch).map(|(_, row)| row.wire_size()).max().unwrap_or(0));
        let unpacked = packed.unpack().unwrap();
        prop_assert!(rows_of(&unpacked).eq(rows_of(&batch)));
        if part_bytes == usize::MAX {
            batch.tables.retain(|table| !table.rows.is_empty());
        } else {
            // Tables that are alike may have become one.
            batch.tables.clone_from(&unpacked.tables);
        }
        prop_assert_eq!(unpacked, batch);
    }

    #[test]
    fn bytes_that_are_no_message_are_refused(bytes in vec(any::<u8>(), 0..300), header in 0_u8..4) {
        let limits = Limits { control: 1 << 10, body: 1 << 16, structure: 1 << 20 };
        let bytes = if header > 0 { [vec![header, 0], bytes].concat() } else { bytes };
        // Whatever it is found to be, it can be said again.
        if let Ok(envelope) = decode_binary(&bytes, &limits) {
            prop_assert_eq!(decode(&encode(&envelope).unwrap(), &limits), Ok(envelope));
        }
        if let Ok(text) = std::str::from_utf8(&bytes) {
            prop_assert!(decode_text(text, &limits).is_err());
        }
    }

    #[test]
    fn a_message_with_errors_is_refused_or_is_another_message(
        changes in changes(),
        errors in vec((any::<Index>(), any::<u8>()), 1..4),
        cut in option::of(any::<Index>()),
    ) {
        let envelope = Envelope { from: "a".to_owned(), to: None, message: Message::Changes(changes) };
        let Encoded::Binary(mut bytes) = encode(&envelope).unwrap() else { panic!("rows are binary") };
        for (place, byte) in errors {
            let place = place.index(bytes.len());
            bytes[place] ^= byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(envelope) = decode_binary(&bytes, &Limits::default()) {
            prop_assert_eq!(decode(&encode(&envelope).unwrap(), &Limits::default()), Ok(envelope));
        }
    }

    #[test]
    fn control_messages_with_errors_are_refused_or_are_other_messages(
        hello in hello(),
        place in any::<Index>(),
        inserted in "[\\[\\]{}\",:0-9a-z]{1,3}",
    ) {
        let envelope = Envelope { from: "a".to_owned(), to: None, message: Message::Hello(hello) };
        let Encoded::Text(mut text) = encode(&envelope).unwrap() else { panic!("a greeting is text") };
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        text.insert_str(places[place.index(places.len())], &inserted);
        if let Ok(envelope) = decode_text(&text, &Limits::default()) {
            prop_assert_eq!(decode(&encode(&envelope).unwrap(), &Limits::default()), Ok(envelope));
        }
    }
}

/// A batch's rows, each with all that says how it is to be read.
fn rows_of(batch: &Batch) -> impl Iterator<Item = (TableRows, &RowImage)> {
    let of_table = |table: &TableRows| TableRows { rows: Vec::new(), ..table.clone() };
    batch.tables.iter().flat_map(move |table| table.rows.iter().map(move |row| (of_table(table), row)))
}

fn rows(rows: Vec<RowImage>) -> Envelope {
    let shape = TableShape { name: "t".to_owned(), columns: vec!["k".to_owned(), "v".to_owned()], key: vec![0] };
    let origin = Origin::from_bytes([7; 16]);
    let mut context = VersionVector::new();
    context.raise(origin, 3);
    let tables = vec![TableRows::new(shape, rows)];
    let rows = Batch {
        source: origin,
        from: VersionVector::new(),
        to: context.clone(),
        context,
        held: 0,
        dropped: VersionVector::new(),
        tables,
    };
    let changes = Changes { database: "d".to_owned(), batch: 1, part: 0, last: true, rows };
    Envelope { from: "a".to_owned(), to: Some("b".to_owned()), message: Message::Changes(changes) }
}

fn inserted(value: Value) -> RowImage {
    let dot = Dot { origin: Origin::from_bytes([7; 16]), sequence: 3 };
    let entry = Entry::new(Timestamp::from_raw(5).unwrap(), dot, EntryFlags::INSERTED);
    RowImage { values: vec![Value::Integer(1), value], clock: RowClock::whole(entry) }
}

/// The format is a promise to nodes that run another build: these bytes never change within a protocol version.
#[test]
fn the_bytes_of_a_batch_are_fixed() {
    let Encoded::Binary(bytes) = encode(&rows(vec![inserted(Value::Real(-0.5))])).unwrap() else {
        panic!("rows are binary")
    };
    let mut expected = vec![1, 0]; // format, not compressed
    expected.extend(*b"\xa1a\xa1b\xa1d"); // from, to, database
    expected.extend([1, 0, 1]); // batch, part, last
    expected.push(1); // one origin
    expected.extend([7; 16]);
    expected.push(0); // the source is origin 0
    expected.extend([0, 1, 0, 3, 1, 0, 3]); // from: nothing; to and context: origin 0 at 3
    expected.push(1); // one table
    expected.extend(*b"\xa1t\x02\xa1k\xa1v"); // its name and columns
    expected.extend([1, 0]); // key: column 0
    expected.push(0); // its rows have taken the batch's context into account
    expected.push(1); // one row
    expected.extend([1, 5, 0, 3]); // its entry: inserted, stamp, origin, sequence
    expected.extend([0, 0]); // no column entries, no counters
    expected.push(1); // the key's value
    expected.extend([0xcb, 0xbf, 0xe0, 0, 0, 0, 0, 0, 0]); // -0.5
    assert_eq!(bytes, expected);
}

#[test]
fn the_text_of_an_acknowledgement_is_fixed() {
    let origin = Origin::from_bytes([7; 16]);
    let mut have = VersionVector::new();
    have.raise(origin, 3);
    let ack = Ack {
        database: "d".to_owned(),
        origin,
        have,
        received: None,
        clock: Timestamp::from_raw(131_072).unwrap(),
        publishing: false,
        dropped: VersionVector::new(),
    };
    let envelope = Envelope { from: "a".to_owned(), to: Some("b".to_owned()), message: Message::Ack(ack) };
    let name = origin.to_string();
    let expected = format!(
        r#"{{"from":"a","to":"b","type":"ack","database":"d","origin":"{name}","have":{{"{name}":3}},"clock":131072}}"#
    );
    assert_eq!(encode(&envelope), Ok(Encoded::Text(expected)));
}

#[test]
fn rows_that_repeat_are_sent_compressed() {
    let envelope = rows(vec![inserted(Value::Blob(vec![b'x'; 100_000]))]);
    let Encoded::Binary(bytes) = encode(&envelope).unwrap() else { panic!("rows are binary") };
    assert!(bytes.len() < 1_000, "{} bytes", bytes.len());
    assert_eq!(decode_binary(&bytes, &Limits::default()), Ok(envelope));
}

#[test]
fn what_would_unpack_beyond_the_limit_is_refused_before_it_is_unpacked() {
    let Encoded::Binary(mut bytes) = encode(&rows(vec![inserted(Value::Blob(vec![0; 1 << 20]))])).unwrap() else {
        panic!("rows are binary")
    };
    let limits = Limits { body: 1 << 16, ..Limits::default() };
    assert!(matches!(decode_binary(&bytes, &limits), Err(CodecError::TooLarge { limit: 65_536, .. })));
    // It says that it is small, and is not.
    bytes[2..6].copy_from_slice(&1_000_u32.to_be_bytes());
    assert_eq!(decode_binary(&bytes, &limits), Err(CodecError::Compression));
}

#[test]
fn control_messages_beyond_the_limit_or_nested_deeply_are_refused() {
    let limits = Limits { control: 1_000, ..Limits::default() };
    assert!(matches!(decode_text(&" ".repeat(1_001), &limits), Err(CodecError::TooLarge { .. })));
    let nested = format!(r#"{{"from":"a","type":"hello","x":{}"#, "[".repeat(100_000));
    assert!(decode_text(&nested, &Limits::default()).is_err());
}

#[test]
fn counts_that_promise_more_than_follows_are_refused() {
    // Names, numbers, and then 2^32 - 1 origins of which none follows.
    let bytes = [b"\x01\x00\xa1a\xc0\xa1d\x01\x00\x01".as_slice(), &[0xce, 0xff, 0xff, 0xff, 0xff]].concat();
    assert_eq!(decode_binary(&bytes, &Limits::default()), Err(CodecError::Truncated));
}

/// A message with one table of `count` columns, up to the columns' names.
fn columns_claimed(count: u32) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0xa1, b'x', 0xc0, 0xa1, b'd', 1, 0, 0, 1];
    bytes.extend_from_slice(&[1; 16]);
    bytes.extend_from_slice(&[0, 0, 0, 0, 1, 0xa1, b't', 0xce]);
    bytes.extend_from_slice(&count.to_be_bytes());
    bytes
}

#[test]
fn small_messages_that_would_be_large_in_memory_are_refused() {
    let mut columns = columns_claimed(5_000_000);
    columns.resize(columns.len() + 5_000_000, 0xa0);
    assert!(matches!(decode_binary(&columns, &Limits::default()), Err(CodecError::TooLarge { .. })));
    let mut columns = columns_claimed(70_000);
    columns.resize(columns.len() + 70_000, 0xa0);
    assert!(matches!(decode_binary(&columns, &Limits::default()), Err(CodecError::Invalid(_))));
    // What a node sends is far below the limit: a part full of NULLs.
    let row = RowImage { values: vec![Value::Integer(1), Value::Null], ..inserted(Value::Null) };
    let nulls = rows(vec![row; 20_000]);
    let Encoded::Binary(bytes) = encode(&nulls).unwrap() else { panic!("rows are binary") };
    assert_eq!(decode_binary(&bytes, &Limits::default()), Ok(nulls));
}

#[test]
fn a_kind_of_problem_that_is_not_known_reads_as_another() {
    let text = r#"{"from":"a","type":"problem","code":"from_the_future","text":"x"}"#;
    let problem = Problem { code: ProblemCode::Other, text: "x".to_owned(), database: None, table: None };
    let expected = Envelope { from: "a".to_owned(), to: None, message: Message::Problem(problem) };
    assert_eq!(decode_text(text, &Limits::default()), Ok(expected));
}

#[test]
fn a_greeting_without_what_came_later_is_understood() {
    let origin = Origin::from_bytes([9; 16]);
    let text = format!(
        r#"{{"from":"a","type":"hello","protocol":1,"cluster":"c","node":"a","incarnation":1,"version":"0","clock_millis":0,
            "databases":{{"d":{{"origin":"{origin}","have":{{}}}}}},"later":true}}"#
    );
    let Message::Hello(hello) = decode_text(&text, &Limits::default()).unwrap().message else { panic!("a greeting") };
    assert_eq!(hello.databases["d"], DatabaseHello::new(origin, VersionVector::new()));
}

#[test]
fn names_that_would_spoil_a_log_are_refused() {
    let hello = |node: &str, database: &str| {
        let databases = [(database.to_owned(), DatabaseHello::new(Origin::from_bytes([1; 16]), VersionVector::new()))];
        let hello = Hello {
            protocol: 1,
            cluster: "c".to_owned(),
            node: node.to_owned(),
            incarnation: 1,
            version: String::new(),
            clock_millis: 0,
            read_only: false,
            databases: BTreeMap::from(databases),
        };
        let envelope = Envelope { from: node.to_owned(), to: None, message: Message::Hello(hello) };
        let Encoded::Text(text) = encode(&envelope).unwrap() else { panic!("hello is text") };
        decode_text(&text, &Limits::default())
    };
    assert!(hello("größe 1", "d").is_ok());
    for (node, database) in [("", "d"), ("a\nb", "d"), ("a", " "), ("a", "\u{1b}[2J"), (&"x".repeat(256), "d")] {
        assert!(matches!(hello(node, database), Err(CodecError::Invalid(_))), "{node:?} {database:?}");
    }
}
