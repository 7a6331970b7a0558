//! Building an engine.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use replication::Origin;
use sqlite_store::{BatchLimits, ConflictRetention, FileWatch, Machine, StateDatabase};
use tokio::sync::mpsc;

use crate::access::Access;
use crate::change_event::{ApplyCallback, ApplyDecision, ChangeEvent};
use crate::config::{HealthSettings, Settings};
use crate::engine::database::Database;
use crate::engine::databases::{DatabaseLimits, Databases, DatabasesParts};
use crate::engine::shared::{Shared, SharedParts};
use crate::engine::{EngineError, SyncEngine, database_events};
use crate::event::{Event, EventName, EventSink};

/// Log events of databases that may wait to be written.
const EVENT_QUEUE: usize = 256;

/// Collects what an engine is made of.
pub struct SyncEngineBuilder {
    node: Option<String>,
    cluster: String,
    state_dir: PathBuf,
    grace: Duration,
    health: HealthSettings,
    limits: DatabaseLimits,
    access: Access,
    databases: Vec<Database>,
    callback: Option<Arc<ApplyCallback>>,
    events: EventSink,
}

impl Default for SyncEngineBuilder {
    fn default() -> Self {
        Self {
            node: None,
            cluster: "default".to_owned(),
            state_dir: PathBuf::from(".sync-engine"),
            grace: Duration::from_secs(10),
            health: HealthSettings::default(),
            limits: DatabaseLimits {
                poll_interval: Duration::from_secs(1),
                max_clock_skew: Duration::from_secs(60),
                tombstone_horizon: Duration::from_secs(30 * 86_400),
                upkeep_interval: Duration::from_secs(60),
                close_after: Duration::from_secs(30),
                batch: BatchLimits::default(),
                retention: ConflictRetention::default(),
            },
            access: Access::open(),
            databases: Vec::new(),
            callback: None,
            events: EventSink::default(),
        }
    }
}

impl std::fmt::Debug for SyncEngineBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncEngineBuilder")
            .field("node", &self.node)
            .field("databases", &self.databases)
            .finish_non_exhaustive()
    }
}

impl SyncEngineBuilder {
    /// What a configuration says of the node, its databases and the hook. Who is let in is left to
    /// [`access`](Self::access), listening and dialing to
    /// [`SyncEngine::listen`] and [`SyncEngine::connect`]; [`SyncEngine::reconfigure`] goes over to another configuration.
    #[must_use]
    pub fn configured(mut self, settings: &Settings) -> Self {
        self.node = Some(settings.node.clone());
        self.cluster.clone_from(&settings.cluster);
        self.state_dir.clone_from(&settings.state_dir);
        self.grace = settings.shutdown_grace;
        self.limits = settings.into();
        self.health = settings.health;
        self.databases = settings.databases.iter().map(Database::configured).collect();
        if settings.log.hook.is_empty() { self } else { self.log_hook_command(settings.log.hook.clone()) }
    }

    /// The node's name, unique among its peers. Default: the host name.
    #[must_use]
    pub fn node(mut self, node: impl Into<String>) -> Self {
        self.node = Some(node.into());
        self
    }

    /// The cluster's name: nodes of different clusters refuse each other. Default: `default`.
    #[must_use]
    pub fn cluster(mut self, cluster: impl Into<String>) -> Self {
        self.cluster = cluster.into();
        self
    }

    /// Where the engine keeps its own state. Default: `.sync-engine`. Not shared between engines that run at once.
    #[must_use]
    pub fn state_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state_dir = folder.into();
        self
    }

    /// The pause between looks at a database when no file event comes. Default: one second.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.limits.poll_interval = interval;
        self
    }

    /// How far ahead of this machine's clock a peer's stamps may be. Default: 60 seconds.
    #[must_use]
    pub fn max_clock_skew(mut self, skew: Duration) -> Self {
        self.limits.max_clock_skew = skew;
        self
    }

    /// For how long a deletion is remembered at most for nodes that do not know of it. Default: 30 days.
    #[must_use]
    pub fn tombstone_horizon(mut self, horizon: Duration) -> Self {
        self.limits.tombstone_horizon = horizon;
        self
    }

    /// The pause between looks for deletions that need not be remembered any more, and between what nodes tell of each other.
    /// Default: one minute.
    #[must_use]
    pub fn upkeep_interval(mut self, interval: Duration) -> Self {
        self.limits.upkeep_interval = interval;
        self
    }

    /// How long nothing must have happened in a database until its file is closed. It is opened again when something does, which takes
    /// some milliseconds; closed it takes hardly any memory. Default: 30 seconds.
    #[must_use]
    pub fn close_after(mut self, quiet: Duration) -> Self {
        self.limits.close_after = quiet;
        self
    }

    /// How long [`SyncEngine::stop_realtime_sync`] may take. Default: 10 seconds.
    #[must_use]
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Who may do what, and what this node shows to peers. Default: everybody who reaches it may do everything, so that it listens on
    /// loopback only.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// How many rows a peer applies in one transaction at most. Default: 50,000.
    #[must_use]
    pub fn max_batch_rows(mut self, rows: usize) -> Self {
        self.limits.batch.rows = rows.max(1);
        self
    }

    /// From when on the node counts as not healthy. Default: only where a database does not work.
    #[must_use]
    pub fn health(mut self, limits: HealthSettings) -> Self {
        self.health = limits;
        self
    }

    /// How many conflict records each database keeps; those that were acted on go first, then the oldest. Default: 10,000.
    #[must_use]
    pub fn keep_conflicts(mut self, records: usize) -> Self {
        self.limits.retention.records = records.max(1);
        self
    }

    /// How long conflict records are kept, whatever their state. Default: 90 days.
    #[must_use]
    pub fn keep_conflicts_for(mut self, age: Duration) -> Self {
        self.limits.retention.age = age;
        self
    }

    /// Adds a database. Without any the engine is a subscriber: the apply callback sees every change of every database
    /// that its peers have, and how far it has come is kept in the state folder.
    #[must_use]
    pub fn database(mut self, database: Database) -> Self {
        self.databases.push(database);
        self
    }

    /// Shows changes from peers that connect to this node, and from [`SyncEngine::connect`], to a callback.
    #[must_use]
    pub fn apply_callback(mut self, callback: impl Fn(&ChangeEvent) -> ApplyDecision + Send + Sync + 'static) -> Self {
        self.callback = Some(Arc::new(callback));
        self
    }

    /// Hands every event of the log to a hook. A slow or panicking hook never holds up sync.
    #[must_use]
    pub fn log_hook(mut self, hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.events = EventSink::with_hook(Arc::new(hook));
        self
    }

    /// The same without single rows, but where the log has them: rows that are new need not go one by one then. Takes the place of
    /// [`log_hook`](Self::log_hook).
    #[must_use]
    pub fn event_hook(mut self, hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.events = EventSink::with_event_hook(Arc::new(hook));
        self
    }

    /// Runs a program for every event of the log, with the event as one line of JSON on its standard input. One that fails or
    /// takes longer than ten seconds is told as `log_hook_error` and never holds up sync. Takes the place of
    /// [`log_hook`](Self::log_hook).
    #[must_use]
    pub fn log_hook_command(mut self, command: Vec<String>) -> Self {
        self.events = EventSink::with_command(command);
        self
    }

    /// Opens the state folder and starts the databases.
    ///
    /// # Errors
    /// Two databases bear one name, a number for key ranges is none, two names on the wire are the same, or the state folder or the file watch cannot be opened. A database file that is missing
    /// or broken is no error here: it is waited for, and its state tells.
    pub async fn build(self) -> Result<SyncEngine, EngineError> {
        let mut names = BTreeSet::new();
        if let Some(twice) = self.databases.iter().find(|database| !names.insert(database.name.clone())) {
            return Err(EngineError::DuplicateDatabase { name: twice.name.clone() });
        }
        self.databases.iter().try_for_each(|database| database.attach_rules().map(drop))?;
        let node = self.node.clone().unwrap_or_else(crate::config::host_name);
        let state = StateDatabase::open(&self.state_dir, Machine::this(), &node).await?;
        let (heard, hears) = mpsc::channel(EVENT_QUEUE);
        let databases = Databases::new(DatabasesParts {
            node: node.clone(),
            state: state.clone(),
            file_watch: Arc::new(FileWatch::new()?),
            heard,
            callback: self.callback.clone(),
            events: self.events.clone(),
            limits: self.limits,
            subscriber: self.databases.is_empty().then(|| subscriber_origin(&node)),
        });
        self.events.emit(Event::new(EventName::SyncStart).field("node", node.as_str()).field("databases", names.len()));
        self.databases.into_iter().try_for_each(|database| databases.start(database))?;
        let shared = Arc::new(Shared::new(SharedParts {
            node,
            cluster: self.cluster,
            incarnation: fastrand::u64(..),
            grace: self.grace,
            access: self.access,
            health: self.health,
            events: self.events,
            callback: self.callback,
            state,
            databases,
        }));
        shared.tracker.spawn(database_events::report(Arc::clone(&shared), hears));
        Ok(SyncEngine { shared })
    }
}

/// A subscriber issues no changes; the origin only names it to its peers.
fn subscriber_origin(node: &str) -> Origin {
    let mut bytes = [0; 16];
    for (place, byte) in node.bytes().enumerate() {
        bytes[place % 16] ^= byte.rotate_left(u32::try_from(place / 16 % 8).unwrap_or(0));
    }
    Origin::from_bytes(bytes)
}
