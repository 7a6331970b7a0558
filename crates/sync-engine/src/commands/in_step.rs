//! Two engines of this process that keep a database in step: waiting until they are.

use std::time::{Duration, Instant, SystemTime};

use replication::VersionVector;
use serde_json::{Value as Json, json};
use sync_engine::status::Status;
use sync_engine::verification::{Ask, Told};
use sync_engine::{EngineError, SyncEngine, Verifier, VerifyError};

/// The pause between two looks at how far they are.
const PAUSE: Duration = Duration::from_millis(10);

/// How often each has come to know what either knew when it was asked before, until that is enough: programs write on.
const ROUNDS: u32 = 8;

/// Bytes that a session without anything to do takes long for.
const SIGNS_OF_LIFE: u64 = 64 << 10;

/// Two engines that are linked, and their database.
pub(super) struct Couple<'a> {
    engines: [&'a SyncEngine; 2],
    sides: [Verifier; 2],
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Both know the same, and nothing is on its way.
    Equal,
    /// Each knows what both knew when they were asked, several times over; programs write without a pause.
    Written,
    /// Nothing has moved for long, perhaps for this reason.
    Stalled(Option<String>),
    /// A database cannot be synced, for this reason.
    Failed(String),
}

impl<'a> Couple<'a> {
    /// Links two engines.
    pub(super) fn link(engines: [&'a SyncEngine; 2], database: &str) -> Result<Self, EngineError> {
        engines[0].link(engines[1])?;
        Ok(Self { engines, sides: engines.map(|engine| engine.verifier(database)) })
    }

    /// Those who can be asked what they hold.
    pub(super) fn sides(&self) -> [Verifier; 2] {
        self.sides.clone()
    }

    /// Waits until both know the same, or nothing has moved for as long as `patience`.
    pub(super) async fn settle(&self, patience: Duration) -> Standing {
        let (mut goal, mut rounds): (Option<VersionVector>, u32) = (None, 0);
        let mut moved = (Instant::now(), Vec::new());
        let mut hindered = None;
        loop {
            let statuses = self.engines.map(SyncEngine::status);
            if let Some(error) = failure(&statuses) {
                return Standing::Failed(error);
            }
            if have_met(&statuses) {
                match self.ask().await {
                    Ok([here, there]) if here.captured && there.captured => {
                        if here.have == there.have {
                            return Standing::Equal;
                        }
                        let known = |goal: &VersionVector| here.have.covers_all(goal) && there.have.covers_all(goal);
                        if goal.as_ref().is_none_or(known) {
                            rounds += u32::from(goal.is_some());
                            goal = Some(here.have.clone().joined(&there.have));
                        }
                        if rounds >= ROUNDS {
                            return Standing::Written;
                        }
                        hindered = None;
                    }
                    Ok(_) => hindered = None,
                    Err(error) => hindered = Some(error.to_string()),
                }
            }
            let now = position(&statuses);
            if now != moved.1 {
                moved = (Instant::now(), now);
            } else if moved.0.elapsed() >= patience {
                return Standing::Stalled(hindered);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether both know the same now.
    pub(super) async fn is_equal(&self) -> bool {
        let asked = self.ask().await;
        asked.is_ok_and(|[here, there]| here.captured && there.captured && here.have == there.have)
    }

    async fn ask(&self) -> Result<[Told; 2], VerifyError> {
        let [here, there] = &self.sides;
        let (here, there) = tokio::try_join!(here.ask(Ask::Tables), there.ask(Ask::Tables))?;
        Ok([here, there])
    }
}

/// Why a database cannot be synced.
fn failure(statuses: &[Status; 2]) -> Option<String> {
    statuses.iter().flat_map(|status| &status.databases).find_map(|database| match database.state.as_str() {
        "failed" => database.errors.first().map(|error| format!("{}: {error}", database.path)),
        "missing" => Some(format!("{}: the file is gone; put it back", database.path)),
        _ => None,
    })
}

/// Whether the two have told each other what they have.
fn have_met(statuses: &[Status; 2]) -> bool {
    let [first, second] = statuses;
    let knows = |status: &Status, other: &Status| {
        let mut peers = status.peers.iter();
        peers.any(|peer| peer.node.as_ref() == Some(&other.node) && !peer.databases.is_empty())
    };
    knows(first, second) && knows(second, first)
}

/// What changes while anything is done: what is known, what is sent but for signs of life, and the files.
fn position(statuses: &[Status; 2]) -> Vec<(Json, u64, Vec<Option<SystemTime>>)> {
    let of = |status: &Status| {
        let have: Vec<_> = status.databases.iter().map(|database| (&database.have, database.backlog)).collect();
        let bytes: u64 = status.peers.iter().map(|peer| peer.bytes_in + peer.bytes_out).sum();
        let files = status.databases.iter().flat_map(|one| [one.path.clone(), format!("{}-wal", one.path)]);
        let written = files.map(|file| std::fs::metadata(file).and_then(|file| file.modified()).ok()).collect();
        (json!(have), bytes / SIGNS_OF_LIFE, written)
    };
    statuses.iter().map(of).collect()
}
