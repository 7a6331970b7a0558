//! What a session asks of databases, and what it is told of their answers.

use std::sync::Arc;
use std::time::Duration;

use replication::message::{Problem, ProblemCode};
use replication::reconcile::{self, Compared, Question, TableRanges};
use replication::session::{AppliedOutcome, Input, ReadOutcome};
use replication::{Batch, DotSet, Origin, VersionVector};
use sqlite_store::{ApplyOutcome, ApplyReply, HeldKind, StoreError};

use super::SessionDriver;
use super::measuring::Measured;
use crate::change_event::ChangeObserver;
use crate::engine::session_events;

/// The pause before what could not be read or written is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Something that a database was asked and has answered.
pub(super) enum Answer {
    Read {
        database: String,
        life: u64,
        result: Result<Option<Batch>, StoreError>,
    },
    Applied {
        database: String,
        life: u64,
        result: Result<ApplyReply, StoreError>,
    },
    Fingerprinted {
        database: String,
        life: u64,
        result: Result<Option<reconcile::Answer>, StoreError>,
    },
    Compared {
        database: String,
        life: u64,
        number: u64,
        rest: TableRanges,
        result: Result<Option<Compared>, StoreError>,
    },
    Done,
}

impl SessionDriver {
    pub(super) fn read(&mut self, database: String, from: VersionVector, omit: Arc<DotSet>, whole: bool) {
        let Some((life, source)) = self.sources.get(&database).cloned() else {
            let outcome = ReadOutcome::Retry { after: millis(RETRY) };
            return self.handle(Input::BatchRead { database, outcome });
        };
        let limits = self.shared.databases.limits().batch;
        let state = source.state().borrow().clone();
        let fresh = omit.is_empty().then(|| state.fresh_after(&from, whole, limits)).flatten();
        if let Some(batch) = fresh {
            source.note_taken();
            self.take_state(database.clone(), &state);
            return self.handle(Input::BatchRead { database, outcome: ReadOutcome::Packed(batch) });
        }
        self.pending.push(Box::pin(async move {
            let result = source.read(from, omit, limits).await;
            Answer::Read { database, life, result }
        }));
    }

    pub(super) fn fingerprint(&mut self, database: String, question: Question) {
        let Some((life, source)) = self.sources.get(&database).cloned() else {
            return self.handle(Input::Fingerprinted { database, answer: None });
        };
        self.pending.push(Box::pin(async move {
            let result = source.fingerprint(question).await;
            Answer::Fingerprinted { database, life, result }
        }));
    }

    pub(super) fn compare(&mut self, database: String, origin: Origin, answer: reconcile::Answer) {
        let (number, rest) = (answer.number, answer.rest.clone());
        let Some((life, source)) = self.sources.get(&database).cloned() else {
            return self.handle(Input::Compared { database, number, rest, compared: None });
        };
        self.pending.push(Box::pin(async move {
            let result = source.compare(origin, answer).await;
            Answer::Compared { database, life, number, rest, result }
        }));
    }

    pub(super) fn sweep(&mut self, database: String, origin: Origin, answer: reconcile::Answer) {
        let (number, rest) = (answer.number, answer.rest.clone());
        let Some((life, source)) = self.sources.get(&database).cloned() else {
            return self.handle(Input::Compared { database, number, rest, compared: None });
        };
        self.pending.push(Box::pin(async move {
            let result = source.sweep(origin, answer).await;
            Answer::Compared { database, life, number, rest, result }
        }));
    }

    pub(super) fn swept(&mut self, database: &str, dropped: VersionVector) {
        let Some((_, source)) = self.sources.get(database).cloned() else { return };
        self.pending.push(Box::pin(async move {
            source.swept(dropped).await;
            Answer::Done
        }));
    }

    pub(super) fn apply(&mut self, database: String, batch: Batch) {
        let Some((life, source)) = self.sources.get(&database).cloned() else {
            let outcome = AppliedOutcome::Retry { after: millis(RETRY) };
            return self.handle(Input::Applied { database, outcome });
        };
        let observer = ChangeObserver::wanted(&database, self.callback.as_ref(), &self.shared.events);
        let measured = Measured::of(&batch, &source.state().borrow().have);
        let (shared, node) = (Arc::clone(&self.shared), self.session.remote_node().unwrap_or_default().to_owned());
        self.pending.push(Box::pin(async move {
            let result = source.apply(batch, observer).await;
            measured.done(shared.events.metrics(), &node, &database, &result);
            Answer::Applied { database, life, result }
        }));
    }

    pub(super) fn publish(&mut self, database: &str) {
        let Some((_, source)) = self.sources.get(database).cloned() else { return };
        self.pending.push(Box::pin(async move {
            source.publish().await;
            Answer::Done
        }));
    }

    pub(super) fn restamp(&mut self, database: &str, peer_millis: i64) {
        let Some((_, source)) = self.sources.get(database).cloned() else { return };
        self.pending.push(Box::pin(async move {
            source.restamp(peer_millis).await;
            Answer::Done
        }));
    }

    pub(super) fn take_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Done => {}
            Answer::Read { database, life, result } => {
                // The peer is told what the tables are before it is sent what was written in them.
                let state = self.sources.get(&database).map(|(_, source)| source.state().borrow().clone());
                if let Some(state) = state {
                    self.take_state(database.clone(), &state);
                }
                let outcome = match result {
                    // What another life of the database has read may not be what this one shows to peers.
                    Ok(_) if !self.knows(&database, life) => ReadOutcome::Retry { after: 0 },
                    Ok(Some(batch)) => ReadOutcome::Batch(batch),
                    Ok(None) => ReadOutcome::Nothing,
                    // A database that cannot be read says so itself.
                    Err(_) => ReadOutcome::Retry { after: millis(RETRY) },
                };
                self.handle(Input::BatchRead { database, outcome });
            }
            // A database that cannot be read says so itself; what it was asked is asked again.
            Answer::Fingerprinted { database, life, result } => {
                let answer = result.ok().flatten().filter(|_| self.knows(&database, life));
                self.handle(Input::Fingerprinted { database, answer });
            }
            Answer::Compared { database, life, number, rest, result } => {
                let compared = result.ok().flatten().filter(|_| self.knows(&database, life));
                self.handle(Input::Compared { database, number, rest, compared });
            }
            Answer::Applied { database, life, .. } if !self.knows(&database, life) => {
                let outcome = AppliedOutcome::Retry { after: 0 };
                self.handle(Input::Applied { database, outcome });
            }
            Answer::Applied { database, result, .. } => {
                let outcome = self.outcome(&database, result);
                self.handle(Input::Applied { database, outcome });
            }
        }
    }

    fn outcome(&self, database: &str, result: Result<ApplyReply, StoreError>) -> AppliedOutcome {
        let retry = AppliedOutcome::Retry { after: millis(RETRY) };
        let Ok(ApplyReply { outcome, have, received }) = result else { return retry };
        match outcome {
            ApplyOutcome::Applied(applied) => AppliedOutcome::Done { have, received, rows: applied.rows },
            ApplyOutcome::Known => AppliedOutcome::Done { have, received, rows: 0 },
            ApplyOutcome::Gap => AppliedOutcome::Gap { have, received },
            ApplyOutcome::Failed { reason } => {
                session_events::apply_failed(&self.shared.events, database, &reason, RETRY);
                retry
            }
            ApplyOutcome::Held(held) => {
                let code = match held.kind {
                    HeldKind::ClockSkew => ProblemCode::ClockSkew,
                    HeldKind::Constraint => ProblemCode::Unavailable,
                    HeldKind::Claim => ProblemCode::Protocol,
                };
                let text = format!("{}; {}", held.reason, held.remedy);
                AppliedOutcome::Held(Problem { code, text, database: None, table: held.table })
            }
        }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
