//! A database whose thread ends, while others hold handles of it.

use std::time::Duration;

use replication::VersionVector;
use sqlite_store::{BatchLimits, StoreError};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::replica::{Replica, Setup};

/// What stands in the queue behind the end is told so, and not left waiting.
#[tokio::test]
async fn what_is_asked_of_a_database_that_ends_is_answered() {
    let folder = TempDir::new().unwrap();
    let setup = Setup::of("CREATE TABLE t (k INTEGER PRIMARY KEY, n)");
    let mut closed = 0;
    for round in 0..20 {
        let replica = Replica::create(folder.path(), &round.to_string(), setup).await;
        let mut asked = JoinSet::new();
        for _ in 0..40 {
            let database = replica.database.clone();
            asked.spawn(async move {
                database.read(VersionVector::new(), std::sync::Arc::default(), BatchLimits::default()).await
            });
        }
        let both = async { tokio::join!(replica.database.close(), asked.join_all()) };
        let ((), answers) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("all are answered");
        closed += answers.iter().filter(|answer| matches!(answer, Err(StoreError::Closed))).count();
    }
    assert!(closed > 0, "nothing was asked too late");
}
