//! Where a session's rows come from and go to: a database file, or the callback of an engine without one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use replication::reconcile::{Answer, Compared, Question};
use replication::{
    Admission, Batch, Contradiction, DotSet, KnownNodes, MAX_ORIGINS, NodeSchema, NodeSchemas, Origin, VersionVector,
    admit, contradiction,
};
use serde::{Deserialize, Serialize};
use sqlite_store::{
    Applied, ApplyOutcome, ApplyReply, BatchLimits, Database, DatabaseState, Held, HeldKind, IncomingRow, NodeNames,
    Phase, RowObserver, RowVerdict, StateDatabase, StoreError,
};
use tokio::sync::watch;

use crate::engine::changes::operation;
use crate::engine::shared::wall_millis;

/// How far ahead of this machine's clock that of another may be, in milliseconds.
const CLOCK_SKEW: i64 = 60_000;

/// Catch-ups of a subscriber that may be under way.
const CATCH_UPS: usize = 64;

/// One database as sessions see it.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A file under sync.
    File(Database),
    /// No file: every row goes to the callback only.
    Subscriber(Subscriber),
}

impl Source {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::File(database) => database.name(),
            Self::Subscriber(subscriber) => &subscriber.name,
        }
    }

    pub(crate) fn state(&self) -> watch::Receiver<Arc<DatabaseState>> {
        match self {
            Self::File(database) => database.state(),
            Self::Subscriber(subscriber) => subscriber.state.subscribe(),
        }
    }

    /// What a peer at `from` lacks, without the dots of `omit`; none where there is nothing to read from.
    pub(crate) async fn read(
        &self,
        from: VersionVector,
        omit: Arc<DotSet>,
        limits: BatchLimits,
    ) -> Result<Option<Batch>, StoreError> {
        match self {
            Self::File(database) => database.read(from, omit, limits).await.map(Some),
            Self::Subscriber(_) => Ok(None),
        }
    }

    /// What there is in some ranges of tables; none where there are no tables.
    pub(crate) async fn fingerprint(&self, question: Question) -> Result<Option<Answer>, StoreError> {
        match self {
            Self::File(database) => database.fingerprint(question).await.map(Some),
            // It holds no rows, and knows of none.
            Self::Subscriber(_) => {
                let (tables, rest, have, dropped, waiting) = Default::default();
                Ok(Some(Answer { number: question.number, tables, rest, have, dropped, waiting }))
            }
        }
    }

    /// Compares what a peer has with what there is; none where there are no tables.
    pub(crate) async fn compare(&self, source: Origin, answer: Answer) -> Result<Option<Compared>, StoreError> {
        match self {
            Self::File(database) => database.compare(source, answer).await.map(Some),
            Self::Subscriber(_) => Ok(None),
        }
    }

    /// Deletes what a peer does not have of what it knows; none where there are no tables.
    pub(crate) async fn sweep(&self, source: Origin, answer: Answer) -> Result<Option<Compared>, StoreError> {
        match self {
            Self::File(database) => database.sweep(source, answer).await.map(Some),
            Self::Subscriber(_) => Ok(Some(Compared::default())),
        }
    }

    /// All that tombstones up to there deleted is deleted. A subscriber holds no rows.
    pub(crate) async fn swept(&self, dropped: VersionVector) {
        match self {
            Self::File(database) => database.swept(dropped).await,
            Self::Subscriber(subscriber) => {
                subscriber.state.send_modify(|state| Arc::make_mut(state).dropped.join(&dropped));
            }
        }
    }

    /// A peer has refused stamps. A subscriber gives none.
    pub(crate) async fn restamp(&self, peer_millis: i64) {
        if let Self::File(database) = self {
            database.restamp(peer_millis).await;
        }
    }

    pub(crate) async fn learn_nodes(&self, nodes: KnownNodes) {
        if let Self::File(database) = self {
            database.learn_nodes(nodes).await;
        }
    }

    pub(crate) async fn apply(
        &self,
        batch: Batch,
        observer: Option<Arc<dyn RowObserver>>,
    ) -> Result<ApplyReply, StoreError> {
        match self {
            Self::File(database) => database.apply(batch, observer).await,
            Self::Subscriber(subscriber) => subscriber.apply(batch, observer).await,
        }
    }

    pub(crate) async fn publish(&self) {
        if let Self::File(database) = self {
            database.publish().await;
        }
    }

    /// What a database had at hand was taken.
    pub(crate) fn note_taken(&self) {
        if let Self::File(database) = self {
            database.note_taken();
        }
    }

    pub(crate) async fn learn_schemas(&self, schemas: NodeSchemas) {
        if let Self::File(database) = self {
            database.learn_schemas(schemas).await;
        }
    }

    pub(crate) async fn learn_names(&self, names: NodeNames) {
        match self {
            Self::File(database) => database.learn_names(names).await,
            Self::Subscriber(subscriber) => {
                let mut known = subscriber.names.lock().unwrap_or_else(PoisonError::into_inner);
                let full = known.len() + names.heard.len() > MAX_ORIGINS;
                // Names that are told of origins without end are not all kept.
                let mut learn = |origin, node: String, anew: bool| match known.entry(origin) {
                    Entry::Occupied(mut entry) if anew => drop(entry.insert(node)),
                    Entry::Occupied(_) => {}
                    Entry::Vacant(_) if full => {}
                    Entry::Vacant(entry) => drop(entry.insert(node)),
                };
                names.heard.into_iter().for_each(|(origin, node)| learn(origin, node, false));
                names.own.into_iter().for_each(|(origin, node)| learn(origin, node, true));
            }
        }
    }
}

/// How far a subscriber has come, as the state folder keeps it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Progress {
    have: VersionVector,
    received: BTreeMap<Origin, VersionVector>,
}

/// A database that exists only at the peers. Its callback sees every change once; which it has seen is kept in the state
/// folder, written after the callback has seen a batch: a crash between the two shows the batch again.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    name: Arc<str>,
    progress: Arc<Mutex<Progress>>,
    store: StateDatabase,
    state: Arc<watch::Sender<Arc<DatabaseState>>>,
    names: Arc<Mutex<BTreeMap<Origin, String>>>,
    /// One batch at a time, whichever session it comes from.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Subscriber {
    /// Continues where the state folder says.
    pub(crate) async fn open(name: &str, origin: Origin, store: StateDatabase) -> Result<Self, StoreError> {
        let saved = store.progress(name).await?;
        let progress: Progress = saved.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        // Nothing waits for a subscriber.
        let mut schemas = NodeSchemas::default();
        schemas.learn(origin, NodeSchema::new(0, Vec::new()));
        let state = DatabaseState {
            phase: Phase::Attached,
            origin: Some(origin),
            have: progress.have.clone(),
            received: progress.received.clone(),
            schemas: Arc::new(schemas),
            ..DatabaseState::default()
        };
        Ok(Self {
            name: name.into(),
            progress: Arc::new(Mutex::new(progress)),
            store,
            state: Arc::new(watch::Sender::new(Arc::new(state))),
            names: Arc::default(),
            turn: Arc::default(),
        })
    }

    async fn apply(&self, batch: Batch, observer: Option<Arc<dyn RowObserver>>) -> Result<ApplyReply, StoreError> {
        let _turn = self.turn.lock().await;
        let source = batch.source;
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let nothing = VersionVector::new();
        let name = |origin: Origin| {
            let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            names.get(&origin).cloned().unwrap_or_else(|| origin.to_string())
        };
        if let Some(Contradiction { table, reason }) =
            contradiction(&progress.have, &batch, (wall_millis(), CLOCK_SKEW), name)
        {
            let remedy = "see what that peer is, and keep it out until it is mended".to_owned();
            let outcome = ApplyOutcome::Held(Held { kind: HeldKind::Claim, table, reason, remedy });
            let received = progress.received.get(&source).cloned();
            return Ok(ApplyReply { outcome, have: progress.have, received });
        }
        let outcome = match admit(&progress.have, progress.received.get(&source).unwrap_or(&nothing), &batch) {
            Admission::Known => ApplyOutcome::Known,
            Admission::Gap => ApplyOutcome::Gap,
            Admission::Apply => self.take(&mut progress, batch, observer).await?,
        };
        let received = progress.received.get(&source).cloned();
        Ok(ApplyReply { outcome, have: progress.have, received })
    }

    async fn take(
        &self,
        progress: &mut Progress,
        batch: Batch,
        observer: Option<Arc<dyn RowObserver>>,
    ) -> Result<ApplyOutcome, StoreError> {
        let (complete, source, to, context) =
            (batch.is_complete(), batch.source, batch.to.clone(), batch.context.clone());
        let own = progress.have.clone();
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let shower = observer.clone();
        let shown = tokio::task::spawn_blocking(move || show(&batch, &own, &names, shower.as_deref()))
            .await
            .unwrap_or_else(|_| Err("the apply callback panicked".to_owned()));
        if let Some(observer) = observer {
            observer.ended(shown.is_ok());
        }
        let rows = match shown {
            Ok(rows) => rows,
            Err(reason) => return Ok(ApplyOutcome::Failed { reason }),
        };
        if complete {
            progress.have.join(&context);
            progress.received.remove(&source);
        } else {
            progress.received.entry(source).or_default().join(&to);
            // The oldest are begun anew if they go on.
            while progress.received.len() > CATCH_UPS {
                progress.received.pop_first();
            }
        }
        let text =
            serde_json::to_string(progress).map_err(|error| StoreError::Encoding { reason: error.to_string() })?;
        self.store.save_progress(&self.name, &text).await?;
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress.clone();
        self.state.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.have = progress.have.clone();
            state.received = progress.received.clone();
        });
        Ok(ApplyOutcome::Applied(Applied { rows, ..Applied::default() }))
    }
}

/// Shows a batch's new rows to the observer.
fn show(
    batch: &Batch,
    own: &VersionVector,
    names: &BTreeMap<Origin, String>,
    observer: Option<&dyn RowObserver>,
) -> Result<usize, String> {
    let Some(observer) = observer else { return Ok(0) };
    let mut shown = 0;
    for table in &batch.tables {
        for row in &table.rows {
            if row.clock.entries().all(|entry| own.covers(entry.dot)) {
                continue;
            }
            let key: Vec<replication::Value> = row.key(&table.shape).into_iter().cloned().collect();
            let deleted = row.clock.is_deleted();
            let newest = row.clock.newest();
            let first = !own.covers(row.clock.row.dot);
            let operation = operation(&row.clock, first);
            let origin = newest.dot.origin;
            let node = names.get(&origin).cloned().unwrap_or_else(|| origin.to_string());
            let incoming = IncomingRow {
                shape: &table.shape,
                operation,
                key: &key,
                old: None,
                new: (!deleted).then_some(row.values.as_slice()),
                dot: newest.dot,
                timestamp: newest.timestamp,
                node: &node,
            };
            if let RowVerdict::Fail(reason) = observer.observe(&incoming) {
                return Err(reason);
            }
            shown += 1;
        }
    }
    Ok(shown)
}
