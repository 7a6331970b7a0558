//! Peers that keep to WebSocket and to nothing else: whatever they say, the daemon lives, the file is sound, an honest peer and
//! the applications are served on, and memory stays bounded.

mod hostile_bench;

use std::collections::BTreeMap;

use hostile_bench::{Bench, DATABASE, note};
use replication::message::{Ack, Changes, DatabaseHello, Message, Problem, ProblemCode, Want};
use replication::{DotSet, NodeSchema, NodeSchemas, Origin, TableRows, TableShape, Timestamp, VersionVector};
use system_tests::{HostilePeer, Result, check, check_equal, claim, hello, query_text, scenario};
use tokio_tungstenite::tungstenite::Message as Frame;

fn origin(number: u32) -> Origin {
    let mut bytes = [0x5a; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Origin::from_bytes(bytes)
}

/// The liar's own origin.
fn liar() -> Origin {
    origin(0)
}

fn vector(entries: &[(Origin, u64)]) -> VersionVector {
    entries.iter().copied().collect()
}

/// A `changes` message of nothing but a size and what it is said to be when it is decompressed.
fn bomb(claimed: u32, body: &[u8]) -> Vec<u8> {
    [&[1, 1], &claimed.to_be_bytes()[..], body].concat()
}

/// What kind of problem the daemon has with what was said.
fn problem(peer: &mut HostilePeer) -> Result<ProblemCode> {
    peer.hear("it is told", |message| match message {
        Message::Problem(problem) => Some(problem.code),
        _ => None,
    })
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
fn stamps_far_ahead_are_held_and_told() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let ahead = Timestamp::from_millis(Timestamp::MAX_MILLIS);
        for resolution in [true, false] {
            let (mut peer, _) = bench.liar(liar())?;
            let mut batch = claim(liar(), vector(&[(liar(), 1)]));
            let mut table = note("note", &["id", "body"], liar(), 1, 1);
            // The stamp of what it stands for decides under some policies.
            let entry = &mut table.rows[0].clock.row;
            if resolution {
                entry.authored = Some((ahead, liar()));
            } else {
                entry.timestamp = ahead;
            }
            batch.tables.push(table);
            peer.send_batch(DATABASE, batch)?;
            check_equal!(problem(&mut peer)?, ProblemCode::ClockSkew);
        }
        bench.told("kind=clock_skew")?;
        bench.unaffected()?;
        bench.end()
    });
}

/// Rows with dots that the sender's own vector does not cover would stand in the way of the real changes of these dots, and nobody
/// would find out.
#[test]
fn rows_of_changes_that_their_sender_does_not_claim_to_know_are_refused() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let honest = bench.honest_origin()?;
        let next = bench.honest_sequence()? + 1;
        let (mut peer, _) = bench.liar(liar())?;
        let mut batch = claim(liar(), vector(&[(liar(), 1)]));
        batch.tables.push(note("note", &["id", "body"], honest, next, 0));
        peer.send_batch(DATABASE, batch)?;
        check_equal!(problem(&mut peer)?, ProblemCode::Protocol);
        bench.unaffected()?;
        check_equal!(bench.honest_origin()?, honest);
        bench.end()
    });
}

#[test]
fn sequences_that_nobody_can_have_issued_are_not_believed() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let (honest, own) = (bench.honest_origin()?, bench.own_origin()?);
        for (claimed, sequence) in [honest, own].into_iter().flat_map(|o| [(o, u64::MAX / 2), (o, 1 << 60)]) {
            let (mut peer, _) = bench.liar(liar())?;
            let lie = vector(&[(claimed, sequence), (liar(), 1)]);
            peer.say(Message::Want(Want {
                database: DATABASE.to_owned(),
                have: lie.clone(),
                received: None,
                held: DotSet::new(),
            }))?;
            let ack = Ack {
                database: DATABASE.to_owned(),
                origin: liar(),
                have: lie.clone(),
                received: None,
                clock: Timestamp::default(),
                publishing: false,
                dropped: VersionVector::new(),
            };
            peer.say(Message::Ack(ack))?;
            peer.send_batch(DATABASE, claim(liar(), lie))?;
            check_equal!(problem(&mut peer)?, ProblemCode::Protocol);
        }
        bench.unaffected()?;
        check_equal!((bench.honest_origin()?, bench.own_origin()?), (honest, own));
        bench.told("kind=protocol")?;
        bench.end()
    });
}

/// What a peer claims to know of this file's origin may be so: the file may have been brought back from an older state. But not
/// again and again.
#[test]
fn a_peer_that_claims_ever_more_of_our_origin_is_held_after_a_few_times() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let mut origins = std::collections::BTreeSet::new();
        let mut held = false;
        for _ in 0..20 {
            let own = bench.own_origin()?;
            origins.insert(own);
            let (mut peer, theirs) = bench.liar(liar())?;
            let lie = theirs.have.joined(&vector(&[(own, 1_000_000), (liar(), 1)]));
            peer.send_batch(DATABASE, claim(liar(), lie))?;
            held = peer.hear("it is taken, or held", |message| match message {
                Message::Problem(problem) => Some(problem.code == ProblemCode::Protocol),
                Message::Want(_) => Some(false),
                _ => None,
            })?;
            if held {
                break;
            }
        }
        check!(held, "{origins:?}");
        check!(origins.len() <= 6, "{origins:?}");
        bench.told("claims")?;
        bench.unaffected()?;
        bench.end()
    });
}

/// A lie about an honest node's origin that could be true: that node takes a new origin as soon as it hears of it, and what it
/// wrote and nobody has goes out under that.
#[test]
fn a_lie_about_an_honest_node_keeps_none_of_its_changes_from_being_taken() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let honest = bench.honest_origin()?;
        let (mut peer, theirs) = bench.liar(liar())?;
        let lie = theirs.have.joined(&vector(&[(honest, 1_000_000), (liar(), 1)]));
        peer.send_batch(DATABASE, claim(liar(), lie))?;
        bench.unaffected()?;
        check!(bench.honest_origin()? != honest, "the honest node keeps an origin of which others claim more");
        bench.end()
    });
}

/// The honest node is away while the lie is told, and was started anew since it wrote what nobody has.
#[test]
fn a_lie_about_a_node_that_is_away_keeps_none_of_its_changes_from_being_taken() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        bench.part()?;
        bench.write_honest("written in an earlier run")?;
        bench.restart_honest_alone()?;
        let honest = bench.honest_origin()?;
        let (mut peer, theirs) = bench.liar(liar())?;
        let lie = theirs.have.joined(&vector(&[(honest, 1_000_000), (liar(), 1)]));
        peer.send_batch(DATABASE, claim(liar(), lie))?;
        peer.hear("it is taken", |message| match message {
            Message::Ack(ack) => (ack.have.get(honest) == 1_000_000).then_some(()),
            _ => None,
        })?;
        bench.meet()?;
        bench.unaffected()?;
        bench.end()
    });
}

#[test]
fn batches_that_contradict_themselves_or_never_end_are_held_apart() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let (mut peer, _) = bench.liar(liar())?;
        let lacking = vector(&[(origin(3), 50), (liar(), 1)]);
        // It rests on what is not here; it goes back; it ends beyond what its sender knows.
        let one = vector(&[(liar(), 1)]);
        let mut gap = claim(liar(), lacking.clone());
        gap.from = vector(&[(origin(3), 40)]);
        peer.send_batch(DATABASE, gap)?;
        let mut back = claim(liar(), one.clone());
        back.from = lacking.clone();
        peer.send_batch(DATABASE, back)?;
        let mut beyond = claim(liar(), one.clone());
        beyond.to = lacking;
        peer.send_batch(DATABASE, beyond)?;
        bench.unaffected()?;
        // Parts without an end: of rows, of tables without rows, of whole batches that tell of many origins.
        let shape = |n: u64| TableShape { name: format!("t{n}"), columns: vec!["x".repeat(60_000)], key: vec![0] };
        for kind in 0..2 {
            let (mut peer, _) = bench.liar(liar())?;
            for part in 0..4_000_u32 {
                let mut rows = claim(liar(), one.clone());
                rows.tables = match kind {
                    0 => vec![note("note", &["id", "body"], liar(), 1, u64::from(part))],
                    _ => vec![TableRows::new(shape(u64::from(part)), Vec::new())],
                };
                if kind == 0 {
                    rows.tables[0].rows[0].values[1] = replication::Value::Blob(vec![7; 100_000]);
                }
                let changes = Changes { database: DATABASE.to_owned(), batch: 1, part, last: false, rows };
                if peer.say(Message::Changes(changes)).is_err() {
                    break;
                }
            }
            check!(peer.dropped().is_ok(), "the daemon goes on collecting");
        }
        bench.unaffected()?;
        bench.end()
    });
}

#[test]
fn vectors_of_ever_new_origins_end_the_link() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        let (mut peer, _) = bench.liar(liar())?;
        for round in 0..200_u32 {
            let many = (round * 5000..(round + 1) * 5000).map(|n| (origin(1 + n), 1));
            let mut batch = claim(liar(), many.collect());
            // It is never applied.
            batch.from = vector(&[(origin(u32::MAX), 1)]);
            if peer.send_batch(DATABASE, batch).is_err() {
                break;
            }
        }
        peer.dropped()?;
        // Origins that are taken are bounded too.
        let mut known = VersionVector::new();
        for round in 0..8_u32 {
            let (mut peer, _) = bench.liar(liar())?;
            known.join(&(0..2000).map(|n| (origin(1 + round * 2000 + n), 1)).collect());
            let _ = peer.send_batch(DATABASE, claim(liar(), known.clone()));
            bench.unaffected()?;
        }
        bench.restart_honest()?;
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
