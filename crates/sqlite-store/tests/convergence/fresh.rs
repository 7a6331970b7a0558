//! What a capture leaves at hand for peers is what they would be sent, were it read from the file.

use std::sync::Arc;
use std::time::Duration;

use replication::{Batch, Granularity, VersionVector};
use sqlite_store::{ApplyOutcome, BatchLimits, DatabaseState};
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::{Random, SCHEMA, seeds, write};

/// Transactions of one seed.
const ROUNDS: u64 = 12;

/// How many were at hand.
async fn compared(seed: u64) -> u64 {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let granularity = if seed.is_multiple_of(4) { Granularity::Row } else { Granularity::Column };
    let journal = ["WAL", "DELETE"][usize::try_from(random.below(2)).unwrap()];
    let replica = Replica::create(folder.path(), "a", Setup { journal, granularity, ..Setup::of(SCHEMA) }).await;
    let conn = replica.application();
    // Some rows are there before anybody asks for baselines, and stay without entries for a while.
    (0..random.below(40)).for_each(|_| write(&conn, &mut random));
    let mut found = 0;
    for round in 0..ROUNDS {
        if round == 2 {
            replica.database.publish().await;
            replica.until(|state| !state.publishing).await;
        }
        let (have, limits) = (replica.database.state().borrow().have.clone(), BatchLimits::default());
        // Whoever reads may want what comes next.
        replica.database.read(have, Arc::default(), limits).await.unwrap();
        let before = replica.database.state().borrow().have.clone();
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        (0..1 + random.below(90)).for_each(|_| write(&conn, &mut random));
        // Something is new, whatever the others did.
        conn.execute_batch(&format!("INSERT INTO item (id, qty) VALUES ({}, 1); COMMIT", 1_000 + round)).unwrap();
        replica.until(|state| state.have != before).await;
        let state = replica.database.state().borrow().clone();
        let Some(fresh) = at_hand_after(&state, &before, false, limits) else { continue };
        let read = replica.database.read(before.clone(), Arc::default(), limits).await.unwrap();
        let fewer = BatchLimits { rows: read.row_count() - 1, ..limits };
        assert_eq!(at_hand_after(&state, &before, true, fewer), None, "SEED={seed}, round {round}");
        assert_eq!(at_hand_after(&state, &read.to, true, limits), None, "SEED={seed}, round {round}");
        assert_eq!(fresh, read, "SEED={seed}, round {round}");
        found += 1;
    }
    replica.database.close().await;
    found
}

/// A peer that comes late and takes what is at hand, or a part of what is there: how often it was led on by what was at hand, and
/// by what was not the newest.
async fn led(seed: u64) -> (u64, u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let setup = Setup { journal: ["WAL", "DELETE"][usize::try_from(random.below(2)).unwrap()], ..Setup::of(SCHEMA) };
    let writer = Replica::create(folder.path(), "a", setup).await;
    let peer = Replica::create(folder.path(), "b", setup).await;
    let conn = writer.application();
    writer.database.publish().await;
    writer.until(|state| !state.publishing).await;
    let (mut shown, mut whole, mut found, mut late) = (Vec::new(), true, 0, 0);
    for round in 0..4 * ROUNDS {
        if random.below(3) > 0 {
            let before = writer.database.state().borrow().have.clone();
            conn.execute_batch("BEGIN IMMEDIATE").unwrap();
            (0..1 + random.below(20)).for_each(|_| write(&conn, &mut random));
            // What waits is soon too much to be kept as it is.
            conn.execute_batch(&format!(
                "INSERT INTO item (id, note) VALUES ({}, randomblob(40000)); COMMIT",
                1_000 + round
            ))
            .unwrap();
            let state = writer.until(|state| state.have != before).await;
            shown.push((state.have.clone(), writer.dump()));
        }
        let takes = if random.below(3) == 0 { random.below(8) } else { 0 };
        for _ in 0..takes {
            let (ours, theirs) = (writer.database.state().borrow().clone(), peer.database.state().borrow().clone());
            let mut position = theirs.have.clone();
            theirs.received.values().for_each(|received| position.join(received));
            if position == ours.have {
                break;
            }
            let rows = if random.below(12) == 0 { 3 } else { 20_000 };
            let at_hand = at_hand_after(&ours, &position, whole, BatchLimits { rows, ..BatchLimits::default() });
            found += u64::from(at_hand.is_some());
            let batch = match at_hand {
                Some(batch) => batch,
                None => peer.next_from(&writer, rows).await,
            };
            whole = batch.is_complete();
            late += u64::from(whole && batch.to != ours.have);
            let to = batch.to.clone();
            assert!(matches!(peer.apply(batch, None).await, ApplyOutcome::Applied(_)), "SEED={seed}, round {round}");
            if whole {
                let (_, then) = shown.iter().find(|(have, _)| *have == to).expect("a state that was there");
                assert!(peer.dump() == *then, "SEED={seed}, round {round}: {to:?} is another state");
            }
        }
    }
    peer.pull(&writer, 20_000).await;
    assert!(peer.dump() == writer.dump(), "SEED={seed}");
    writer.database.close().await;
    peer.database.close().await;
    (found, late)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_behind_is_led_through_the_same_states() {
    let seeds = seeds(12);
    let (mut found, mut late, tried) = (0, 0, seeds.end - seeds.start);
    for seed in seeds {
        let (at_hand, not_the_newest) = led(seed).await;
        (found, late) = (found + at_hand, late + not_the_newest);
    }
    assert!(found > tried && late > tried, "{found} were at hand, {late} of them not the newest, in {tried} runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_at_hand_is_what_would_be_read() {
    let seeds = seeds(12);
    let (mut found, tried) = (0, ROUNDS * (seeds.end - seeds.start));
    for seed in seeds {
        found += compared(seed).await;
    }
    // What is let go of after a rest, or was captured by another way, is read.
    assert!(found > tried / 2, "{found} of {tried} transactions were at hand");
}

/// A statement that changes nothing is in the log, and leads a peer nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_is_not_at_hand() {
    let folder = TempDir::new().unwrap();
    let writer = Replica::create(folder.path(), "a", Setup::of(SCHEMA)).await;
    writer.database.publish().await;
    writer.until(|state| !state.publishing).await;
    let (conn, limits) = (writer.application(), BatchLimits::default());
    let read = async || {
        let have = writer.database.state().borrow().have.clone();
        // It captures what is in the log.
        writer.database.read(have, Arc::default(), limits).await.unwrap();
        writer.database.state().borrow().clone()
    };
    let before = read().await;
    conn.execute_batch("INSERT INTO account VALUES ('a1', 'e1', 1)").unwrap();
    let state = writer.until(|state| state.have != before.have).await;
    assert!(at_hand_after(&state, &before.have, true, limits).is_some());
    conn.execute_batch("BEGIN IMMEDIATE; INSERT OR IGNORE INTO account VALUES ('a2', 'e1', 2)").unwrap();
    let logged: i64 = conn.query_row("SELECT count(*) FROM _sync_log", [], |row| row.get(0)).unwrap();
    conn.execute_batch("COMMIT").unwrap();
    let after = read().await;
    assert_eq!((logged > 0, &after.have), (true, &state.have));
    assert_eq!(at_hand_after(&after, &state.have, true, limits), None);
    assert!(at_hand_after(&after, &before.have, true, limits).is_some(), "what was there before it is still at hand");
    writer.database.close().await;
}

/// What is at hand, as it was before it was packed.
fn at_hand_after(state: &DatabaseState, from: &VersionVector, whole: bool, limits: BatchLimits) -> Option<Batch> {
    state.fresh_after(from, whole, limits).map(|packed| packed.unpack().unwrap())
}

/// A row that is written again while it is captured has another place among the rows, which says nothing.
fn by_key(mut batch: Batch) -> Batch {
    batch.tables.iter_mut().for_each(|table| table.rows.sort_by_key(|row| row.values[0].to_string()));
    batch
}

/// One transaction is captured in several, and peers are told when it is there as a whole: also where the last of them finds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_in_parts_is_told_as_a_whole() {
    const STEP: u64 = 5_000;
    let folder = TempDir::new().unwrap();
    let writer = Replica::create(folder.path(), "a", Setup::of(SCHEMA)).await;
    writer.database.publish().await;
    writer.until(|state| !state.publishing).await;
    let conn = writer.application();
    let limits = BatchLimits::default();
    let (mut end, mut found) = (0, 0);
    for rows in [STEP - 1, STEP, STEP + 1, 2 * STEP, 3 * STEP + 1] {
        let before = writer.database.state().borrow().have.clone();
        // Whoever reads may want what comes next.
        writer.database.read(before.clone(), Arc::default(), limits).await.unwrap();
        let (first, last) = (end + 1, end + rows);
        let insert = format!(
            "WITH RECURSIVE n(id) AS (VALUES ({first}) UNION ALL SELECT id + 1 FROM n WHERE id < {last})
             INSERT INTO item (id, qty) SELECT id, 1 FROM n; UPDATE item SET qty = 2 WHERE id = {first}"
        );
        conn.execute_batch(&format!("BEGIN IMMEDIATE; {insert}; COMMIT")).unwrap();
        end = last;
        let state = writer.until(|state| state.have != before && state.backlog == 0).await;
        if let Some(batch) = at_hand_after(&state, &before, true, limits) {
            assert_eq!(u64::try_from(batch.row_count()).unwrap(), rows);
            let read = writer.database.read(before, Arc::default(), limits).await.unwrap();
            assert!(by_key(batch) == by_key(read), "after {rows} rows");
            found += 1;
        }
    }
    assert!(found > 2, "{found} were at hand");
    writer.database.close().await;
}

/// Rows that are there before the database is attached, and are published in several steps.
const PUBLISHED: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, qty INTEGER, note TEXT);
    WITH RECURSIVE n(id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM n WHERE id < 24000)
    INSERT INTO item SELECT 3 * id, id % 7, 'note ' || id FROM n";

const EMPTY: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, qty INTEGER, note TEXT)";

/// A peer comes while rows are published and applications write: how often it was led on by what was at hand.
async fn published(seed: u64) -> u64 {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let journal = ["WAL", "DELETE"][usize::try_from(random.below(2)).unwrap()];
    let max_rows = [10, 8_000][usize::try_from(random.below(2)).unwrap()];
    let writer = Replica::create(folder.path(), "a", Setup { journal, max_rows, ..Setup::of(PUBLISHED) }).await;
    let peer = Replica::create(folder.path(), "b", Setup { journal, max_rows, ..Setup::of(EMPTY) }).await;
    writer.database.publish().await;
    let (mut whole, mut found) = (true, 0);
    loop {
        let id = random.below(72_000);
        match random.below(9) {
            0 => writer.write(&format!("UPDATE item SET qty = qty + 1 WHERE id BETWEEN {id} AND {id} + 90")),
            1 => writer.write(&format!("DELETE FROM item WHERE id BETWEEN {id} AND {id} + 60")),
            2 => writer.write(&format!("INSERT OR REPLACE INTO item VALUES ({id}, 1, 'new')")),
            _ => {}
        }
        let theirs = peer.database.state().borrow().clone();
        let mut position = theirs.have.clone();
        theirs.received.values().for_each(|received| position.join(received));
        let ours = writer.until(|state| state.have != position || !state.publishing).await;
        if position == ours.have {
            break;
        }
        let limits = BatchLimits { rows: 20_000, ..BatchLimits::default() };
        let batch = match at_hand_after(&ours, &position, whole, limits) {
            Some(batch) => {
                writer.database.note_taken();
                found += 1;
                batch
            }
            None => peer.next_from(&writer, limits.rows).await,
        };
        whole = batch.is_complete();
        assert!(matches!(peer.apply(batch, None).await, ApplyOutcome::Applied(_)), "SEED={seed}");
    }
    peer.pull(&writer, 20_000).await;
    assert!(peer.dump() == writer.dump(), "SEED={seed}");
    writer.database.close().await;
    peer.database.close().await;
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_at_hand_for_who_comes_for_it() {
    let seeds = seeds(8);
    let (mut found, tried) = (0, seeds.end - seeds.start);
    for seed in seeds {
        found += published(seed).await;
    }
    assert!(found > tried, "{found} were at hand in {tried} runs");
}

/// What a peer takes in one transaction is not at hand in parts.
#[tokio::test(flavor = "multi_thread")]
async fn few_published_rows_come_as_one() {
    let folder = TempDir::new().unwrap();
    let writer = Replica::create(folder.path(), "a", Setup { max_rows: 24_000, ..Setup::of(PUBLISHED) }).await;
    let nothing = writer.database.state().borrow().have.clone();
    writer.database.publish().await;
    let state = writer.until(|state| !state.publishing).await;
    let limits = BatchLimits::default();
    assert_eq!(at_hand_after(&state, &nothing, true, limits), None);
    let batch = writer.database.read(nothing, Arc::default(), limits).await.unwrap();
    assert!(batch.is_complete() && batch.row_count() == 24_000);
    writer.database.close().await;
}

/// A table is rebuilt with other rows while the next step of publishing waits for the lock.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_migration_brings_while_rows_are_published_are_published_too() {
    for rows_before in [1, 6_000, 11_000, 16_000] {
        let folder = TempDir::new().unwrap();
        let writer = Replica::create(folder.path(), "a", Setup::of(PUBLISHED)).await;
        let peer = Replica::create(folder.path(), "b", Setup::of(EMPTY)).await;
        let origin = writer.database.state().borrow().origin.unwrap();
        let conn = writer.application();
        writer.database.publish().await;
        writer.until(|state| state.have.get(origin) >= rows_before).await;
        // Between two steps.
        conn.busy_timeout(Duration::ZERO).unwrap();
        while conn.execute_batch("BEGIN IMMEDIATE").is_err() {
            tokio::task::yield_now().await;
        }
        conn.execute_batch(
            "CREATE TABLE rebuilt (id INTEGER PRIMARY KEY, qty INTEGER, note TEXT);
             INSERT INTO rebuilt SELECT * FROM item;
             INSERT INTO rebuilt SELECT id - 1, 1, 'brought' FROM item WHERE id % 30 = 0;
             DROP TABLE item;
             ALTER TABLE rebuilt RENAME TO item",
        )
        .unwrap();
        // It tries for the lock, if there is something left to publish.
        let (pulse, state) = (writer.database.pulse().clone(), writer.database.state());
        let beats = pulse.beats();
        while pulse.beats() < beats + 20 && state.borrow().publishing {
            tokio::task::yield_now().await;
        }
        conn.execute_batch("COMMIT").unwrap();
        let all: i64 = conn.query_row("SELECT count(*) FROM item", [], |row| row.get(0)).unwrap();
        writer.until(|state| !state.publishing && state.have.get(origin) >= all.cast_unsigned()).await;
        peer.pull(&writer, 20_000).await;
        assert!(peer.dump() == writer.dump(), "after {rows_before} rows");
        writer.database.close().await;
        peer.database.close().await;
    }
}

/// Rows of which fewer than are read together are more than is kept at hand, among small ones.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_to_be_at_hand_is_read_from_the_file() {
    const SCHEMA: &str = "CREATE TABLE small (id INTEGER PRIMARY KEY, n INTEGER); CREATE TABLE wide (id INTEGER PRIMARY KEY, body BLOB);";
    let folder = TempDir::new().unwrap();
    let writer = Replica::create(folder.path(), "a", Setup::of(SCHEMA)).await;
    let peer = Replica::create(folder.path(), "b", Setup::of(SCHEMA)).await;
    // Somebody is expected to come.
    writer.database.publish().await;
    peer.pull(&writer, 20_000).await;
    let origin = writer.database.state().borrow().origin.unwrap();
    let before = writer.database.state().borrow().have.clone();
    writer.write(
        "BEGIN;
         WITH RECURSIVE n(id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM n WHERE id < 100)
         INSERT INTO small SELECT id, id FROM n;
         WITH RECURSIVE n(id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM n WHERE id < 400)
         INSERT INTO wide SELECT id, randomblob(40000) FROM n;
         INSERT INTO small VALUES (101, 101);
         COMMIT",
    );
    let state = writer.until(|state| state.have.get(origin) >= before.get(origin) + 501).await;
    assert_eq!(at_hand_after(&state, &before, true, BatchLimits { rows: 1_000, ..BatchLimits::default() }), None);
    peer.pull(&writer, 20_000).await;
    assert!(peer.dump() == writer.dump());
}
