//! Peers that lie about what they and others have written: what cannot be so is not believed, what could be so costs an origin at most,
//! and no change of an honest node is kept from being taken.

mod hostile_bench;

use hostile_bench::{Bench, DATABASE, liar, note, origin, problem, vector};
use replication::message::{Ack, Changes, DatabaseHello, Message, ProblemCode, Want};
use replication::{DotSet, TableRows, TableShape, Timestamp, VersionVector};
use system_tests::{HostilePeer, check, check_equal, claim, scenario};

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
fn catch_ups_of_ever_other_sources_that_never_end_are_given_up() {
    scenario(|scene| {
        let mut bench = Bench::start(scene)?;
        for number in 0..100 {
            let source = origin(100 + number);
            let own = DatabaseHello::new(source, VersionVector::new());
            let (mut peer, _) = HostilePeer::greeted(bench.daemon().port(), "liar", DATABASE, own)?;
            let mut batch = claim(source, vector(&[(source, 2)]));
            batch.to = vector(&[(source, 1)]);
            peer.send_batch(DATABASE, batch)?;
            peer.hear("it is kept", |message| match message {
                Message::Ack(ack) => ack.received.filter(|received| received.source == source),
                _ => None,
            })?;
        }
        let (_, theirs) = bench.liar(liar())?;
        check!((1..=64).contains(&theirs.received.len()), "{} are kept", theirs.received.len());
        bench.unaffected()?;
        bench.end()
    });
}
