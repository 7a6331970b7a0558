//! Peers that keep to WebSocket and to nothing else: whatever they say, the daemon lives, the file is sound, an honest peer and
//! the applications are served on, and memory stays bounded.

mod hostile_bench;

use std::collections::BTreeMap;

use hostile_bench::{Bench, DATABASE, liar, note, origin, vector};
use replication::message::{DatabaseHello, Message, Problem, ProblemCode, Want};
use replication::{DotSet, NodeSchema, NodeSchemas, TableShape, VersionVector};
use system_tests::{HostilePeer, check, check_equal, claim, hello, query_text, scenario};
use tokio_tungstenite::tungstenite::Message as Frame;

/// A `changes` message of nothing but a size and what it is said to be when it is decompressed.
fn bomb(claimed: u32, body: &[u8]) -> Vec<u8> {
    [&[1, 1], &claimed.to_be_bytes()[..], body].concat()
}

/// A zstd frame of 200 MiB of zeros: blocks that each repeat one byte 128 KiB times.
fn zeros() -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    for block in (0..1600).rev() {
        let header = (0x2_0000_u32 << 3) | 0b010 | u32::from(block == 0);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

#[test]
fn what_is_no_message_ends_its_own_link_and_is_told() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let nested = format!("{{\"from\":\"x\",\"type\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let frames = [
            Frame::text("garbage"),
            Frame::text(""),
            Frame::text(nested),
            Frame::text("{\"from\":\"x\",\"type\":\"unknown\"}"),
            Frame::binary(vec![]),
            Frame::binary(vec![1, 0]),
            Frame::binary(vec![9; 5000]),
            Frame::binary(bomb(u32::MAX, &[0; 100])),
            Frame::binary(bomb(200 << 20, &zeros())),
        ];
        for (greeted, frame) in [false, true].into_iter().flat_map(|greeted| frames.iter().map(move |f| (greeted, f))) {
            let mut peer = if greeted { bench.liar(liar())?.0 } else { bench.stranger()? };
            peer.send(frame.clone())?;
            check!(!peer.dropped()?.is_empty(), "nobody is told what is wrong with {frame:?}");
        }
        bench.unaffected()?;
        bench.told("kind=protocol")?;
        bench.end()
    });
}

#[test]
fn messages_larger_than_allowed_end_the_link_before_they_are_kept() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let mut peer = bench.stranger()?;
        // More than a stranger may say.
        let _ = peer.send(Frame::text("x".repeat(8 << 20)));
        peer.dropped()?;
        let (mut peer, _) = bench.liar(liar())?;
        let _ = peer.send(Frame::text("x".repeat(8 << 20)));
        check!(!peer.dropped()?.is_empty(), "it is told");
        // A frame that says that it has an exabyte, and one message in fragments without an end.
        let (mut peer, _) = bench.liar(liar())?;
        peer.send_raw(&[0x82, 0xff, 0x10, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4])?;
        peer.dropped()?;
        let (mut peer, _) = bench.liar(liar())?;
        let mut fragment = vec![0x00, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 2, 3, 4];
        fragment.resize(fragment.len() + (1 << 20), 0);
        peer.send_raw(&[0x02, 0x80, 1, 2, 3, 4])?;
        for _ in 0..400 {
            if peer.send_raw(&fragment).is_err() {
                break;
            }
        }
        peer.dropped()?;
        bench.unaffected()?;
        bench.end()
    });
}

#[test]
fn nodes_of_another_cluster_or_protocol_or_of_this_name_are_refused() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let good = hello("liar", BTreeMap::new());
        let own_name = hello(bench.daemon().name(), BTreeMap::new());
        let own_name_from = bench.daemon().name().to_owned();
        let cases = [
            ("liar", replication::message::Hello { cluster: "other".to_owned(), ..good.clone() }, "cluster"),
            ("liar", replication::message::Hello { protocol: 99, ..good.clone() }, "protocol"),
            ("other", good.clone(), "protocol"),
            (own_name_from.as_str(), own_name, "duplicate_node"),
        ];
        for (from, greeting, kind) in cases {
            let mut peer = HostilePeer::connect(bench.daemon().port(), from)?;
            peer.say(Message::Hello(greeting))?;
            check!(!peer.dropped()?.is_empty(), "it is told");
            bench.told(&format!("kind={kind}"))?;
        }
        bench.unaffected()?;
        bench.end()
    });
}

/// Greetings one after the other, each as large as may be, and no name in them twice.
#[test]
fn greetings_without_end_take_bounded_memory_and_leave_greetings_of_others_possible() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let (mut peer, _) = bench.liar(liar())?;
        for round in 0..40_u32 {
            let mut databases = BTreeMap::new();
            let mut own = DatabaseHello::new(liar(), VersionVector::new());
            let first = round * 4000;
            own.nodes =
                (first..first + 4000).map(|n| (origin(1 + n), format!("node {n} {}", "n".repeat(100)))).collect();
            own.tables = (first..first + 4000).map(|n| (format!("table {n}"), u64::from(n))).collect();
            let mut schemas = NodeSchemas::default();
            for n in first..first + 1000 {
                let columns = vec![format!("c{n}"), "x".repeat(200)];
                let shape = TableShape { name: format!("t{n}"), columns, key: vec![0] };
                schemas.learn(origin(1 + n), NodeSchema::new(u64::MAX, vec![shape]));
            }
            own.schemas = schemas;
            databases.insert(DATABASE.to_owned(), own);
            for n in first..first + 10_000 {
                databases.insert(format!("database {n}"), DatabaseHello::new(origin(n), VersionVector::new()));
            }
            // Who does not read what it is answered is dropped in the end, and comes again.
            if peer.say(Message::Hello(hello("liar", databases))).is_err() {
                peer = bench.liar(liar())?.0;
            }
        }
        bench.unaffected()?;
        let lines = bench.log().lines().count();
        check!(lines < 5_000, "the log has {lines} lines");
        // Who comes anew is told all that is known.
        bench.restart_honest()?;
        bench.unaffected()?;
        bench.end()
    });
}

#[test]
fn names_that_hold_sql_and_tables_that_nobody_has_touch_nothing() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let evil = "note\"; DROP TABLE note; --";
        let mut own = DatabaseHello::new(liar(), VersionVector::new());
        own.tables =
            BTreeMap::from([(evil.to_owned(), 1), ("sqlite_schema".to_owned(), 1), ("_sync_meta".to_owned(), 1)]);
        own.policies = BTreeMap::from([("note".to_owned(), "'; DROP TABLE note; --".to_owned())]);
        own.nodes = BTreeMap::from([(origin(7), "'; DROP TABLE _sync_origin; --".to_owned())]);
        let name = "liar'; DROP TABLE note; --";
        let (mut peer, _) = HostilePeer::greeted(bench.daemon().port(), name, DATABASE, own)?;
        let tables = [
            (evil, vec!["id", "body"]),
            ("note", vec!["id", "body\" = 1; DROP TABLE note; --", "body"]),
            ("sqlite_schema", vec!["rowid", "sql"]),
            ("_sync_meta", vec!["key", "value"]),
            ("", vec!["", "\0"]),
        ];
        let known = vector(&[(liar(), 20)]);
        let mut batch = claim(liar(), known);
        for (sequence, (table, columns)) in (1..).zip(tables) {
            batch.tables.push(note(table, &columns, liar(), sequence, 100 + sequence));
        }
        peer.send_batch(DATABASE, batch)?;
        peer.send_batch("note'; DROP TABLE note; --", claim(liar(), vector(&[(liar(), 1)])))?;
        bench.scene().eventually("what it could say is known", || {
            let status = bench.daemon().database_status(DATABASE)?;
            check_equal!(status["have"][liar().to_string()], 20, "{status}");
            Ok(())
        })?;
        check_equal!(
            query_text(bench.daemon().file(), "SELECT value FROM _sync_meta WHERE key = 'format'").is_ok(),
            true
        );
        bench.unaffected()?;
        bench.end()
    });
}

#[test]
fn a_peer_that_asks_without_end_and_reads_nothing_takes_bounded_memory() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        bench.fill()?;
        let mut peers = Vec::new();
        for _ in 0..4 {
            let (mut peer, _) = bench.named_liar(&format!("liar {}", peers.len()), origin(90))?;
            for round in 0..3_000_u32 {
                let want = Want {
                    database: DATABASE.to_owned(),
                    have: VersionVector::new(),
                    received: None,
                    held: DotSet::new(),
                };
                let said = peer.say(Message::Want(want)).and_then(|()| {
                    let text = format!("{round} {}", "problem ".repeat(2_000));
                    let problem = Problem { code: ProblemCode::Other, text, database: None, table: None };
                    peer.say(Message::Problem(problem))
                });
                if said.is_err() {
                    break;
                }
            }
            peers.push(peer);
        }
        bench.unaffected()?;
        let size = bench.log().len();
        check!(size < 2 << 20, "the log has {size} bytes");
        bench.end()
    });
}
