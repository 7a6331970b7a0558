//! Encoding and decoding batches of rows as applications have them, against JSON of the same rows.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use replication::codec::{Encoded, Limits, decode_binary, encode};
use replication::message::{Changes, Envelope, Message};
use replication::{
    Batch, Dot, Entry, EntryFlags, Origin, RowClock, RowImage, TableRows, TableShape, Timestamp, Value, VersionVector,
};

/// `count` inserted rows of about 60 bytes.
fn batch(count: u64) -> Envelope {
    let origin = Origin::from_bytes([1; 16]);
    let names = ["id", "sku", "quantity", "price", "note"];
    let shape = TableShape { name: "stock".to_owned(), columns: names.map(str::to_owned).to_vec(), key: vec![0] };
    let rows = (1..=count).map(|n| {
        let timestamp = Timestamp::from_millis(1_790_000_000_000 + i64::try_from(n / 500).unwrap());
        let entry = Entry::new(timestamp, Dot { origin, sequence: n }, EntryFlags::INSERTED);
        // A multiplication scatters the digits, so that compression has something to do.
        let scattered = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let values = vec![
            Value::Integer(i64::try_from(n).unwrap()),
            Value::from(format!("SKU-{:08}", scattered >> 40).as_str()),
            Value::Integer(i64::try_from(scattered % 1_000).unwrap()),
            Value::Real(f64::from(u32::try_from(scattered >> 48).unwrap()) / 100.0),
            Value::from("delivered to the back door"),
        ];
        RowImage { values, clock: RowClock::whole(entry) }
    });
    let tables = vec![TableRows::new(shape, rows.collect())];
    let mut context = VersionVector::new();
    context.raise(origin, count);
    let rows = Batch {
        source: origin,
        from: VersionVector::new(),
        to: context.clone(),
        context,
        held: 0,
        dropped: VersionVector::new(),
        tables,
    };
    let changes = Changes { database: "shop".to_owned(), batch: 1, part: 0, last: true, rows };
    Envelope { from: "a".to_owned(), to: Some("b".to_owned()), message: Message::Changes(changes) }
}

/// What the same rows are as JSON text: the yardstick for size.
fn json_size(envelope: &Envelope) -> usize {
    let Message::Changes(changes) = &envelope.message else { return 0 };
    let table = &changes.rows.tables[0];
    let rows = table.rows.iter().map(|row| {
        let cells = table.shape.columns.iter().zip(&row.values).map(|(name, value)| {
            let value = match value {
                Value::Integer(n) => serde_json::json!(n),
                Value::Real(r) => serde_json::json!(r),
                Value::Text(text) => serde_json::json!(String::from_utf8_lossy(text)),
                Value::Null | Value::Blob(_) => serde_json::Value::Null,
            };
            (name.clone(), value)
        });
        serde_json::Value::Object(cells.collect()).to_string().len() + 1
    });
    rows.sum()
}

fn codec(c: &mut Criterion) {
    for count in [1, 500, 5_000] {
        let envelope = batch(count);
        let Encoded::Binary(bytes) = encode(&envelope).unwrap() else { unreachable!("rows are binary") };
        println!("{count} rows: {} bytes, {} as JSON", bytes.len(), json_size(&envelope));
        let mut group = c.benchmark_group("codec");
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("encode/{count}"), |b| b.iter(|| encode(black_box(&envelope)).unwrap()));
        let limits = Limits::default();
        group.bench_function(format!("decode/{count}"), |b| {
            b.iter(|| decode_binary(black_box(&bytes), &limits).unwrap());
        });
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
