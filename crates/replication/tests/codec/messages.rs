//! Whatever can be said.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use replication::message::{
    Ack, Bye, ByeReason, Changes, Compare, DatabaseHello, Envelope, Fingerprints, Hello, Message, Problem, ProblemCode,
    Received, Want,
};
use replication::reconcile::{Answer, KeyRange, Question, RangeFingerprint};
use replication::{
    Batch, Counter, Dot, DotSet, Entry, EntryFlags, KnownNode, KnownNodes, MAX_SEQUENCE, NodeSchema, NodeSchemas,
    Origin, RowClock, RowImage, Selection, TableRows, TableShape, Tally, Timestamp, Value, VersionVector,
};

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![(0_u8..4).prop_map(|n| Origin::from_bytes([n; 16])), any::<[u8; 16]>().prop_map(Origin::from_bytes)]
}

fn sequence() -> impl Strategy<Value = u64> {
    prop_oneof![1_u64..300, 1..=MAX_SEQUENCE, Just(MAX_SEQUENCE)]
}

fn vector() -> impl Strategy<Value = VersionVector> {
    btree_map(origin(), sequence(), 0..5).prop_map(|map| {
        let mut vector = VersionVector::new();
        map.into_iter().for_each(|(origin, sequence)| vector.raise(origin, sequence));
        vector
    })
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    prop_oneof![Just(0), 0..=i64::MAX, Just(i64::MAX)].prop_map(|raw| Timestamp::from_raw(raw).unwrap())
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        (-200_i64..200).prop_map(Value::Integer),
        prop_oneof![
            any::<f64>().prop_filter("SQLite stores NaN as NULL", |real| !real.is_nan()),
            Just(-0.0),
            Just(f64::INFINITY),
            Just(f64::NEG_INFINITY),
            Just(f64::MIN_POSITIVE / 8.0)
        ]
        .prop_map(Value::Real),
        any::<String>().prop_map(|text| Value::from(text.as_str())),
        vec(any::<u8>(), 0..40).prop_map(Value::Text),
        vec(any::<u8>(), 0..40).prop_map(Value::Blob),
        (any::<u8>(), 1_usize..70_000).prop_map(|(byte, length)| Value::Blob(vec![byte; length])),
    ]
}

fn entry(flags: u8) -> impl Strategy<Value = Entry> {
    let flags = proptest::bits::u8::masked(flags).prop_map(|bits| {
        [EntryFlags::INSERTED, EntryFlags::DELETED, EntryFlags::RESOLUTION, EntryFlags::DISPLACED]
            .into_iter()
            .filter(|flag| bits & flag.bits() != 0)
            .fold(EntryFlags::empty(), EntryFlags::with)
    });
    let authored = proptest::option::weighted(0.2, (timestamp(), origin()));
    (timestamp(), origin(), sequence(), flags, authored).prop_map(|(timestamp, origin, sequence, flags, authored)| {
        Entry { authored, ..Entry::new(timestamp, Dot { origin, sequence }, flags) }
    })
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![any::<i64>().prop_map(Value::Integer), (-1e9..1e9).prop_map(Value::Real)]
}

fn counter() -> impl Strategy<Value = Counter> {
    let tally = (entry(0), number(), number(), sequence()).prop_map(|(entry, sum, absorbed, absorbed_at)| Tally {
        entry,
        sum,
        absorbed,
        absorbed_at,
    });
    let tallies = vec(tally, 1..4).prop_map(|tallies| {
        let by_origin: BTreeMap<Origin, Tally> =
            tallies.into_iter().map(|tally| (tally.entry.dot.origin, tally)).collect();
        by_origin.into_values().collect()
    });
    (entry(0b1), value(), tallies).prop_map(|(set, base, tallies)| Counter { tallies, ..Counter::new(set, base) })
}

fn counters(columns: u16) -> impl Strategy<Value = Vec<(u16, Counter)>> {
    let some = btree_map(0..columns, counter(), 0..2);
    some.prop_map(|counters| counters.into_iter().collect())
}

fn row(shape: &TableShape) -> impl Strategy<Value = RowImage> + use<> {
    let columns = shape.columns.len();
    let width = u16::try_from(columns).unwrap();
    let key: Vec<usize> = shape.key.iter().map(|index| usize::from(*index)).collect();
    let deleted = (
        vec(value().prop_filter("keys hold no NULL", |value| !value.is_null()), key.len()),
        entry(0b1110),
        counters(width),
    )
        .prop_map(|(values, entry, counters)| {
            let row = Entry { flags: entry.flags.with(EntryFlags::DELETED), ..entry };
            RowImage { values, clock: RowClock { counters, ..RowClock::whole(row) } }
        });
    let never = origin().prop_map(Entry::never);
    let entries = btree_map(0..width, prop_oneof![4 => entry(0b1100), 1 => never], 0..=columns.min(3));
    let rest = proptest::option::weighted(0.2, entry(0b1101));
    let alive = (vec(value(), columns), entry(0b1101), entries, counters(width), rest).prop_map(
        move |(mut values, row, columns, counters, rest)| {
            for index in &key {
                if values[*index].is_null() {
                    values[*index] = Value::Integer(0);
                }
            }
            RowImage { values, clock: RowClock { row, columns: columns.into_iter().collect(), counters, rest } }
        },
    );
    prop_oneof![3 => alive, 1 => deleted]
}

fn table() -> impl Strategy<Value = TableRows> {
    (1_u16..8, any::<String>(), any::<String>()).prop_flat_map(|(columns, name, prefix)| {
        let shape =
            btree_set(0..columns, 1..=usize::from(columns.min(3))).prop_map(move |key: BTreeSet<u16>| TableShape {
                name: name.clone(),
                columns: (0..columns).map(|number| format!("{prefix}{number}")).collect(),
                key: key.into_iter().rev().collect(),
            });
        shape.prop_flat_map(move |shape| {
            (vec(row(&shape), 0..6), option::weighted(0.2, vector()), any::<bool>(), vec("[a-z]{1,3}", 0..3)).prop_map(
                move |(rows, context, limited, parts)| TableRows {
                    shape: shape.clone(),
                    rows,
                    context,
                    limited,
                    parts,
                },
            )
        })
    })
}

pub(crate) fn changes() -> impl Strategy<Value = Changes> {
    (
        any::<String>(),
        any::<u64>(),
        any::<u32>(),
        any::<bool>(),
        origin(),
        ([vector(), vector(), vector()], prop_oneof![Just(0), any::<u64>()], vector()),
        vec(table(), 0..3),
    )
        .prop_map(|(database, batch, part, last, source, ([from, to, context], held, dropped), tables)| Changes {
            database,
            batch,
            part,
            last,
            rows: Batch { source, from, to, context, held, dropped, tables },
        })
}

fn received() -> impl Strategy<Value = Option<Received>> {
    option::of((origin(), vector()).prop_map(|(source, position)| Received { source, position }))
}

/// The name of a node or database.
fn name() -> impl Strategy<Value = String> {
    "[^\\pC]{0,20}[^\\pC\\s][^\\pC]{0,20}"
}

fn schemas() -> impl Strategy<Value = NodeSchemas> {
    let shape = (any::<String>(), vec(any::<String>(), 1..4), 0..1_u16).prop_map(|(name, columns, key)| TableShape {
        name,
        columns,
        key: vec![key],
    });
    vec((origin(), any::<u64>(), vec(shape, 0..3)), 0..4).prop_map(|nodes| {
        let mut schemas = NodeSchemas::default();
        for (origin, version, tables) in nodes {
            schemas.learn(origin, NodeSchema::new(version, tables));
        }
        schemas
    })
}

fn selection() -> impl Strategy<Value = Selection> {
    let texts = || vec(any::<String>(), 0..3);
    let columns = btree_map(any::<String>(), vec(any::<String>(), 1..3), 0..2);
    (texts(), texts(), columns).prop_map(|(include, exclude, columns)| {
        let mut selection = Selection::default();
        selection.set_include(include);
        selection.set_exclude(exclude);
        columns.into_iter().for_each(|(table, columns)| selection.set_excluded_columns(table, columns));
        selection
    })
}

fn known() -> impl Strategy<Value = KnownNodes> {
    let node = (origin(), vector(), 0_i64..1_000, 0_i64..1_000);
    let node = node.prop_map(|(origin, have, seen, forgotten)| KnownNode { origin, have, seen, forgotten });
    vec((name(), node), 0..3).prop_map(|nodes| {
        let mut known = KnownNodes::default();
        nodes.into_iter().for_each(|(name, node)| known.learn(&name, node));
        known
    })
}

pub(crate) fn hello() -> impl Strategy<Value = Hello> {
    let database = (
        origin(),
        vector(),
        btree_map(origin(), vector(), 0..2),
        btree_map(any::<String>(), any::<u64>(), 0..3),
        btree_map(any::<String>(), any::<String>(), 0..3),
        btree_map(origin(), name(), 0..3),
        schemas(),
        (selection(), any::<bool>(), btree_set(any::<String>(), 0..3), vector(), known()),
    )
        .prop_map(|(origin, have, received, tables, policies, nodes, schemas, last)| DatabaseHello {
            origin,
            have,
            received,
            tables,
            policies,
            nodes,
            schemas,
            selection: last.0,
            publishing: last.1,
            issued: last.2,
            dropped: last.3,
            known: last.4,
        });
    (any::<(u32, String, u64, String, i64, bool)>(), name(), btree_map(name(), database, 0..3)).prop_map(
        |((protocol, cluster, incarnation, version, clock_millis, read_only), node, databases)| Hello {
            protocol,
            cluster,
            node,
            incarnation,
            version,
            clock_millis,
            read_only,
            databases,
        },
    )
}

fn held() -> impl Strategy<Value = DotSet> {
    vec((origin(), sequence(), 0_u64..50), 0..4).prop_map(|runs| {
        let mut held = DotSet::new();
        runs.into_iter().for_each(|(origin, last, more)| held.insert(origin, last.saturating_sub(more).max(1), last));
        held
    })
}

fn range() -> impl Strategy<Value = KeyRange> {
    let key = || option::of(vec(value().prop_filter("keys hold no NULL", |value| !value.is_null()), 1..3));
    (key(), key()).prop_map(|(after, until)| KeyRange { after, until })
}

fn ranges() -> impl Strategy<Value = Vec<(String, Vec<KeyRange>)>> {
    vec((any::<String>(), vec(range(), 0..3)), 0..3)
}

fn compare() -> impl Strategy<Value = Compare> {
    (any::<String>(), any::<u64>(), 1..=u32::MAX, any::<bool>(), ranges()).prop_map(
        |(database, number, rows, keys, tables)| Compare {
            database,
            question: Question { number, rows, keys, tables },
        },
    )
}

fn fingerprints() -> impl Strategy<Value = Fingerprints> {
    let run = option::of((origin(), 1..=MAX_SEQUENCE / 2).prop_map(|(origin, sequence)| Dot { origin, sequence }));
    let keys = || vec(vec(value().prop_filter("keys hold no NULL", |value| !value.is_null()), 1..3), 0..3);
    let fingerprint = (range(), 0..=MAX_SEQUENCE / 2, any::<[u8; 16]>(), run, option::of(keys()))
        .prop_map(|(range, rows, content, run, keys)| RangeFingerprint { range, rows, content, run, keys });
    let tables = vec((any::<String>(), vec(fingerprint, 0..3)), 0..3);
    let waiting = vec((any::<String>(), keys()), 0..2);
    (any::<String>(), origin(), any::<u64>(), tables, ranges(), [vector(), vector()], waiting).prop_map(
        |(database, source, number, tables, rest, [have, dropped], waiting)| {
            let answer = Answer { number, tables, rest, have, dropped, waiting };
            Fingerprints { database, source, answer }
        },
    )
}

fn problem() -> impl Strategy<Value = Problem> {
    let code = prop_oneof![
        Just(ProblemCode::ProtocolVersion),
        Just(ProblemCode::Cluster),
        Just(ProblemCode::DuplicateNode),
        Just(ProblemCode::SelfConnection),
        Just(ProblemCode::Protocol),
        Just(ProblemCode::SchemaMismatch),
        Just(ProblemCode::ClockSkew),
        Just(ProblemCode::Unavailable),
        Just(ProblemCode::Other),
    ];
    (code, any::<String>(), any::<Option<String>>(), any::<Option<String>>())
        .prop_map(|(code, text, database, table)| Problem { code, text, database, table })
}

fn message() -> impl Strategy<Value = Message> {
    let reason = prop_oneof![
        Just(ByeReason::Shutdown),
        Just(ByeReason::Duplicate),
        Just(ByeReason::Refused),
        Just(ByeReason::Other)
    ];
    prop_oneof![
        4 => changes().prop_map(Message::Changes),
        1 => hello().prop_map(Message::Hello),
        1 => (any::<String>(), vector(), received(), held())
            .prop_map(|(database, have, received, held)| Message::Want(Want { database, have, received, held })),
        1 => compare().prop_map(Message::Compare),
        1 => fingerprints().prop_map(Message::Fingerprints),
        1 => (any::<String>(), origin(), vector(), received(), timestamp(), vector()).prop_map(
            |(database, origin, have, received, clock, dropped)| Message::Ack(Ack {
                database,
                origin,
                have,
                received,
                clock,
                publishing: dropped.is_empty(),
                dropped,
            })
        ),
        1 => problem().prop_map(Message::Problem),
        1 => reason.prop_map(|reason| Message::Bye(Bye { reason })),
    ]
}

pub(crate) fn envelope() -> impl Strategy<Value = Envelope> {
    (any::<String>(), any::<Option<String>>(), message()).prop_map(|(from, to, message)| Envelope { from, to, message })
}
