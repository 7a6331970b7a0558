//! The databases of a running engine: those that sessions see, and those that are on their way out. Owns their coming and
//! going; must not know what sessions do with them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use replication::Origin;
use sqlite_store::{
    BatchLimits, ConflictRetention, DatabaseEvent, DatabaseOptions, FileWatch, StateDatabase, StoreError,
};
use tokio::sync::{mpsc, watch};

use crate::change_event::{ApplyCallback, ChangeObserver};
use crate::config::Settings;
use crate::engine::EngineError;
use crate::engine::database::Database;
use crate::engine::source::{Source, Subscriber};
use crate::event::EventSink;

/// The longest pause between two schema changes of one migration. Frameworks run theirs within fractions of a second of each
/// other.
const SCHEMA_QUIET: Duration = Duration::from_secs(2);

/// Databases that an engine without files subscribes to at most: peers name as many as they like.
const SUBSCRIPTIONS: usize = 1_000;

/// What holds for all databases of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DatabaseLimits {
    pub(crate) poll_interval: Duration,
    pub(crate) max_clock_skew: Duration,
    pub(crate) tombstone_horizon: Duration,
    pub(crate) upkeep_interval: Duration,
    pub(crate) close_after: Duration,
    pub(crate) batch: BatchLimits,
    pub(crate) retention: ConflictRetention,
}

impl From<&Settings> for DatabaseLimits {
    fn from(settings: &Settings) -> Self {
        let days = u32::try_from(settings.conflicts.keep_days).unwrap_or(u32::MAX);
        Self {
            poll_interval: settings.poll_interval,
            max_clock_skew: settings.max_clock_skew,
            tombstone_horizon: settings.tombstone_horizon,
            upkeep_interval: settings.upkeep_interval,
            close_after: settings.close_after,
            batch: BatchLimits { rows: settings.max_batch_rows, ..BatchLimits::default() },
            retention: ConflictRetention {
                records: settings.conflicts.keep,
                age: Duration::from_secs(86_400).saturating_mul(days),
            },
        }
    }
}

/// What every database is started with.
pub(crate) struct DatabasesParts {
    pub(crate) node: String,
    pub(crate) state: StateDatabase,
    pub(crate) file_watch: Arc<FileWatch>,
    pub(crate) heard: mpsc::Sender<(Arc<str>, DatabaseEvent)>,
    pub(crate) callback: Option<Arc<ApplyCallback>>,
    pub(crate) events: EventSink,
    pub(crate) limits: DatabaseLimits,
    pub(crate) subscriber: Option<Origin>,
}

/// The databases of one engine.
pub(crate) struct Databases {
    parts: DatabasesParts,
    limits: Mutex<DatabaseLimits>,
    set: Mutex<Set>,
    /// Counts up when a database comes or goes.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Set {
    members: BTreeMap<String, Member>,
    /// Those that were removed and whose threads may still be at work.
    leaving: Vec<(u64, sqlite_store::Database)>,
    started: u64,
}

/// A database that sessions see.
#[derive(Clone)]
pub(crate) struct Member {
    /// Tells a database from another one of the same name that was there before.
    pub(crate) life: u64,
    pub(crate) source: Source,
    pub(crate) path: PathBuf,
}

impl Databases {
    pub(crate) fn new(parts: DatabasesParts) -> Self {
        let limits = Mutex::new(parts.limits);
        Self { parts, limits, set: Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// What holds for databases that are started from now on, and for batches.
    pub(crate) fn limits(&self) -> DatabaseLimits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_limits(&self, limits: DatabaseLimits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Whether the engine has no files: it subscribes to whatever databases its peers have.
    pub(crate) fn is_subscriber(&self) -> bool {
        self.parts.subscriber.is_some()
    }

    /// The databases, by name.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.lock().members.values().cloned().collect()
    }

    /// News of databases that come or go.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Starts a database.
    ///
    /// # Errors
    /// There is one of its name, what is said of it cannot be, or the system gives no thread. Nothing was changed then.
    pub(crate) fn start(&self, database: Database) -> Result<(), EngineError> {
        let attach = database.attach_rules()?;
        let (parts, limits, rules) = (&self.parts, self.limits(), database.rules());
        let mut set = self.lock();
        if set.members.contains_key(&database.name) {
            return Err(EngineError::DuplicateDatabase { name: database.name });
        }
        let path = database.path.clone();
        let options = DatabaseOptions {
            observer: ChangeObserver::wanted(&database.name, parts.callback.as_ref(), &parts.events),
            name: database.name.clone(),
            path: database.path,
            node: parts.node.clone(),
            rules,
            attach,
            poll_interval: limits.poll_interval,
            max_clock_skew: limits.max_clock_skew,
            tombstone_horizon: limits.tombstone_horizon,
            upkeep_interval: limits.upkeep_interval,
            close_after: limits.close_after,
            schema_quiet: SCHEMA_QUIET,
            max_rows: limits.batch.rows,
            retention: limits.retention,
            state: Some(parts.state.clone()),
        };
        let started = sqlite_store::Database::start(options, Arc::clone(&parts.file_watch), parts.heard.clone())?;
        set.started += 1;
        let member = Member { life: set.started, source: Source::File(started), path };
        set.members.insert(database.name, member);
        drop(set);
        self.bump();
        Ok(())
    }

    /// Takes a database from the sessions and closes it: its thread finishes what it is doing. Whoever does not wait for the end leaves
    /// that to [`Self::close`]. False if there is no such database.
    pub(crate) async fn remove(&self, name: &str) -> bool {
        let (life, database) = {
            let mut set = self.lock();
            let Some(Member { life, source: Source::File(database), .. }) = set.members.get(name).cloned() else {
                return false;
            };
            set.members.remove(name);
            set.leaving.push((life, database.clone()));
            (life, database)
        };
        self.bump();
        database.close().await;
        self.lock().leaving.retain(|(other, _)| *other != life);
        true
    }

    /// Closes all databases.
    pub(crate) async fn close(&self) {
        let all = self.running();
        futures::future::join_all(all.iter().map(|(_, database)| database.close())).await;
    }

    /// The databases whose threads run, also those that are on their way out, each with what tells it from others of its name.
    pub(crate) fn running(&self) -> Vec<(u64, sqlite_store::Database)> {
        let set = self.lock();
        let members = set.members.values().filter_map(|member| match &member.source {
            Source::File(database) => Some((member.life, database.clone())),
            Source::Subscriber(_) => None,
        });
        members.chain(set.leaving.iter().cloned()).collect()
    }

    /// Makes an engine without files a subscriber of these databases too.
    pub(crate) async fn subscribe(&self, names: impl Iterator<Item = String>) -> Result<(), StoreError> {
        let Some(origin) = self.parts.subscriber else { return Ok(()) };
        for name in names {
            let needless = {
                let set = self.lock();
                set.members.contains_key(&name) || set.members.len() >= SUBSCRIPTIONS
            };
            if needless {
                continue;
            }
            let subscriber = Source::Subscriber(Subscriber::open(&name, origin, self.parts.state.clone()).await?);
            let mut set = self.lock();
            set.started += 1;
            let life = set.started;
            set.members.entry(name).or_insert(Member { life, source: subscriber, path: PathBuf::new() });
            drop(set);
            self.bump();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}
