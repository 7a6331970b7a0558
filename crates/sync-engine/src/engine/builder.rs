//! Building an engine.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use replication::{ColumnRule, ConflictPolicy, Granularity, Origin};
use sqlite_store::app_triggers::{TriggerRule, TriggerRules};
use sqlite_store::attach::AttachRules;
use sqlite_store::key_ranges::KeyRanges;
use sqlite_store::{
    BatchLimits, ConflictRetention, DatabaseOptions, DatabaseRules, FileWatch, MergeRules, StateDatabase,
};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::change_event::{ApplyCallback, ApplyDecision, ChangeEvent, ChangeObserver};
use crate::config::{DatabaseSettings, Policy};
use crate::engine::shared::{Shared, SharedParts};
use crate::engine::source::Source;
use crate::engine::{EngineError, SyncEngine, database_events};
use crate::event::{Event, EventName, EventSink};

/// The longest pause between two schema changes of one migration. Frameworks run theirs within fractions of a second of each
/// other.
const SCHEMA_QUIET: Duration = Duration::from_secs(2);

/// Log events of databases that may wait to be written.
const EVENT_QUEUE: usize = 256;

/// One SQLite file to keep in sync. What is said of the database counts for every table of which nothing else is said, in
/// whatever order it is said.
#[derive(Clone)]
pub struct Database {
    name: String,
    path: PathBuf,
    granularity: Granularity,
    policy: Arc<dyn ConflictPolicy>,
    tables: HashMap<String, TableRules>,
    key_ranges: Option<u16>,
    triggers: TriggerRules,
}

/// What is said of one table.
#[derive(Clone, Default)]
struct TableRules {
    granularity: Option<Granularity>,
    policy: Option<Arc<dyn ConflictPolicy>>,
    columns: HashMap<String, ColumnRule>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Database");
        shown.field("name", &self.name).field("path", &self.path).field("rules", &self.rules()).finish()
    }
}

impl Database {
    /// The file at `path`, under its file name without extension. It need not exist yet.
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let MergeRules { granularity, policy, .. } = MergeRules::default();
        Self {
            name,
            path,
            granularity,
            policy,
            tables: HashMap::new(),
            key_ranges: None,
            triggers: TriggerRules::default(),
        }
    }

    /// The database that a configuration describes.
    pub fn configured(settings: &DatabaseSettings) -> Self {
        let mut database = Self::open(&settings.path).name(&settings.name).granularity(settings.granularity);
        database.policy = settings.policy.policy();
        database.key_ranges = settings.key_ranges.map(KeyRanges::number);
        database.triggers = settings.triggers.clone();
        for table in &settings.tables {
            let columns = table.columns.iter().map(|(name, policy)| (name.clone(), policy.column_rule()));
            let rules = TableRules {
                granularity: table.granularity,
                policy: table.policy.as_ref().map(Policy::policy),
                columns: columns.collect(),
            };
            database.tables.insert(table.name.clone(), rules);
        }
        database
    }

    /// The name that peers know the database by.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How finely tables are merged. All nodes must say the same.
    #[must_use]
    pub fn granularity(mut self, granularity: Granularity) -> Self {
        self.granularity = granularity;
        self
    }

    /// Who decides conflicts.
    #[must_use]
    pub fn policy(mut self, policy: impl ConflictPolicy + 'static) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Who decides the conflicts of one table.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>, policy: impl ConflictPolicy + 'static) -> Self {
        self.tables.entry(table.into()).or_default().policy = Some(Arc::new(policy));
        self
    }

    /// How finely one table is merged. All nodes must say the same.
    #[must_use]
    pub fn table_granularity(mut self, table: impl Into<String>, granularity: Granularity) -> Self {
        self.tables.entry(table.into()).or_default().granularity = Some(granularity);
        self
    }

    /// Who decides the conflicts of one column.
    #[must_use]
    pub fn column(
        self,
        table: impl Into<String>,
        column: impl Into<String>,
        policy: impl ConflictPolicy + 'static,
    ) -> Self {
        self.column_rule(table, column, ColumnRule::Policy(Arc::new(policy)))
    }

    /// Makes a column a counter: concurrent increments and decrements add up. All nodes must say the same.
    #[must_use]
    pub fn counter(self, table: impl Into<String>, column: impl Into<String>) -> Self {
        self.column_rule(table, column, ColumnRule::Counter)
    }

    /// How the conflicts of one column are decided.
    #[must_use]
    pub fn column_rule(mut self, table: impl Into<String>, column: impl Into<String>, rule: ColumnRule) -> Self {
        self.tables.entry(table.into()).or_default().columns.insert(column.into(), rule);
        self
    }

    /// Has AUTOINCREMENT keys of this node come from blocks of numbers that no other node uses. `number`, from 1 to
    /// [`KeyRanges::MAX`], is another one on each node; a node that inserts without one gives out the others' keys.
    #[must_use]
    pub fn key_ranges(mut self, number: u16) -> Self {
        self.key_ranges = Some(number);
        self
    }

    /// Decides whether one of the application's triggers runs when changes are applied, in place of what it does deciding
    /// it. [`TriggerRule::Run`] cannot be followed for all; the log and the status tell if it cannot.
    #[must_use]
    pub fn trigger(mut self, trigger: impl AsRef<str>, rule: TriggerRule) -> Self {
        self.triggers.insert(trigger.as_ref(), rule);
        self
    }

    fn attach_rules(&self) -> Result<AttachRules, EngineError> {
        let of_node = |number| {
            KeyRanges::of_node(number).ok_or_else(|| EngineError::KeyRanges { name: self.name.clone(), number })
        };
        Ok(AttachRules { key_ranges: self.key_ranges.map(of_node).transpose()?, triggers: self.triggers.clone() })
    }

    fn rules(&self) -> DatabaseRules {
        let tables = self.tables.iter().map(|(name, rules)| {
            let rules = MergeRules {
                granularity: rules.granularity.unwrap_or(self.granularity),
                policy: rules.policy.as_ref().unwrap_or(&self.policy).clone(),
                columns: rules.columns.clone(),
            };
            (name.clone(), rules)
        });
        let policy = Arc::clone(&self.policy);
        let default = MergeRules { granularity: self.granularity, policy, columns: HashMap::new() };
        DatabaseRules { default, tables: tables.collect() }
    }
}

/// Collects what an engine is made of.
pub struct SyncEngineBuilder {
    node: Option<String>,
    cluster: String,
    state_dir: PathBuf,
    poll_interval: Duration,
    max_clock_skew: Duration,
    grace: Duration,
    limits: BatchLimits,
    retention: ConflictRetention,
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
            poll_interval: Duration::from_secs(1),
            max_clock_skew: Duration::from_secs(60),
            grace: Duration::from_secs(10),
            limits: BatchLimits::default(),
            retention: ConflictRetention::default(),
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
        self.poll_interval = interval;
        self
    }

    /// How far ahead of this machine's clock a peer's stamps may be. Default: 60 seconds.
    #[must_use]
    pub fn max_clock_skew(mut self, skew: Duration) -> Self {
        self.max_clock_skew = skew;
        self
    }

    /// How long [`SyncEngine::stop_realtime_sync`] may take. Default: 10 seconds.
    #[must_use]
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How many rows a peer applies in one transaction at most. Default: 20,000.
    #[must_use]
    pub fn max_batch_rows(mut self, rows: usize) -> Self {
        self.limits.rows = rows.max(1);
        self
    }

    /// How many conflict records each database keeps; those that were acted on go first, then the oldest. Default: 10,000.
    #[must_use]
    pub fn keep_conflicts(mut self, records: usize) -> Self {
        self.retention.records = records.max(1);
        self
    }

    /// How long conflict records are kept, whatever their state. Default: 90 days.
    #[must_use]
    pub fn keep_conflicts_for(mut self, age: Duration) -> Self {
        self.retention.age = age;
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
    /// Two databases bear one name, a number for key ranges is none, or the state folder or the file watch cannot be opened. A database file that is missing
    /// or broken is no error here: it is waited for, and its state tells.
    pub async fn build(self) -> Result<SyncEngine, EngineError> {
        let mut names = BTreeSet::new();
        if let Some(twice) = self.databases.iter().find(|database| !names.insert(database.name.clone())) {
            return Err(EngineError::DuplicateDatabase { name: twice.name.clone() });
        }
        self.databases.iter().try_for_each(|database| database.attach_rules().map(drop))?;
        let node = self.node.clone().unwrap_or_else(crate::config::host_name);
        let state = StateDatabase::open(&self.state_dir).await?;
        let file_watch = Arc::new(FileWatch::new()?);
        let (events, heard) = mpsc::channel(EVENT_QUEUE);
        let mut databases = Vec::with_capacity(self.databases.len());
        let mut sources = Vec::with_capacity(self.databases.len());
        for database in self.databases {
            let (path, rules, attach) = (database.path.clone(), database.rules(), database.attach_rules()?);
            let observer = ChangeObserver::wanted(&database.name, self.callback.as_ref(), &self.events);
            let options = DatabaseOptions {
                name: database.name,
                path: database.path,
                node: node.clone(),
                rules,
                attach,
                poll_interval: self.poll_interval,
                max_clock_skew: self.max_clock_skew,
                schema_quiet: SCHEMA_QUIET,
                max_rows: self.limits.rows,
                retention: self.retention,
                observer,
                state: Some(state.clone()),
            };
            let started = sqlite_store::Database::start(options, Arc::clone(&file_watch), events.clone())?;
            sources.push((Source::File(started.clone()), path));
            databases.push(started);
        }
        drop(events);
        self.events
            .emit(Event::new(EventName::SyncStart).field("node", node.as_str()).field("databases", databases.len()));
        let subscriber = databases.is_empty().then(|| subscriber_origin(&node));
        let shared = Arc::new(Shared::new(SharedParts {
            node,
            cluster: self.cluster,
            incarnation: fastrand::u64(..),
            limits: self.limits,
            events: self.events,
            callback: self.callback,
            state,
            sources,
            subscriber,
        }));
        let tracker: &TaskTracker = &shared.tracker;
        tracker.spawn(database_events::report(shared.events.clone(), heard, shared.stop.clone()));
        Ok(SyncEngine { shared, databases, grace: self.grace })
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

#[cfg(test)]
mod tests {
    use replication::{Granularity, LastWriteWins, Resolution, ResolverPolicy};

    use super::Database;

    #[test]
    fn what_is_said_of_a_table_stands_whatever_is_said_of_the_database_and_when() {
        let own = || ResolverPolicy::new(|_| Resolution::KeepLocal);
        let database = Database::open("shop.db")
            .table("stock", own())
            .table_granularity("orders", Granularity::Column)
            .granularity(Granularity::Row)
            .policy(own().named("house"));
        let rules = database.rules();
        let shown = |table: &str| format!("{:?}", rules.of(table));
        assert_eq!(shown("stock"), "Row by custom");
        assert_eq!(shown("orders"), "Column by house");
        assert_eq!(shown("other"), "Row by house");
        assert_eq!(
            format!("{:?}", Database::open("x").table("t", LastWriteWins).rules().of("t")),
            "Column by last-write-wins"
        );
    }
}
