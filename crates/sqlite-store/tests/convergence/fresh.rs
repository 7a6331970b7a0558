//! What a capture leaves at hand for peers is what they would be sent, were it read from the file.

use std::sync::Arc;

use replication::Granularity;
use sqlite_store::BatchLimits;
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
        let fresh = replica.database.state().borrow().fresh.clone();
        let Some(fresh) = fresh else { continue };
        let read = replica.database.read(fresh.from().clone(), Arc::default(), limits).await.unwrap();
        let fewer = BatchLimits { rows: read.row_count() - 1, ..limits };
        assert_eq!(fresh.after(fresh.from(), fewer), None, "SEED={seed}, round {round}");
        assert_eq!(fresh.after(&read.to, limits), None, "SEED={seed}, round {round}");
        assert_eq!(fresh.after(&before, limits), Some(read), "SEED={seed}, round {round}");
        found += 1;
    }
    replica.database.close().await;
    found
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
