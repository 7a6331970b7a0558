//! What all tasks of one engine share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use peer_link::LinkOptions;
use sqlite_store::{DatabaseState, Phase, StateDatabase};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::change_event::ApplyCallback;
use crate::config::HealthSettings;
use crate::engine::changes::Changes;
use crate::engine::databases::Databases;
use crate::engine::health::problems;
use crate::engine::liveness::Hearts;
use crate::engine::membership::Membership;
use crate::engine::places::Places;
use crate::engine::registry::Registry;
use crate::engine::repeats::{Allowance, Repeats};
use crate::event::EventSink;
use crate::status::{
    DatabaseStatus, PeerStatus, RemoteNames, Status, Tombstones, TriggerStatus, UnsyncedTable, WarningStatus,
};

/// Links that may stand without their peers having said who they are.
const STRANGERS: usize = 128;

/// One engine's common state.
pub(crate) struct Shared {
    pub(crate) node: String,
    pub(crate) membership: Membership,
    /// Drawn at each start: tells this process from another of the same name.
    pub(crate) incarnation: u64,
    /// How long stopping may take.
    pub(crate) grace: Mutex<Duration>,
    /// Who may do what.
    access: RwLock<Arc<Access>>,
    /// From when on the node counts as not healthy.
    pub(crate) health: Mutex<HealthSettings>,
    pub(crate) link_options: LinkOptions,
    pub(crate) registry: Registry,
    pub(crate) events: EventSink,
    pub(crate) tracker: TaskTracker,
    /// Ends every task of the engine: sessions say `bye`, nothing new begins.
    pub(crate) stop: CancellationToken,
    /// Closes the links, once the sessions have said what they had to say.
    pub(crate) links: CancellationToken,
    pub(crate) started: Instant,
    /// For peers that connect to us.
    pub(crate) callback: Option<Arc<ApplyCallback>>,
    pub(crate) state: StateDatabase,
    /// Those who follow changes.
    pub(crate) changes: Changes,
    /// The databases; a subscriber learns their names from its peers.
    pub(crate) databases: Databases,
    /// Peers that are dialed.
    dialed: Mutex<BTreeMap<u64, Dialed>>,
    /// Addresses that are listened on.
    pub(crate) listeners: Mutex<Vec<Listening>>,
    /// Tasks that show that they are alive.
    pub(crate) hearts: Hearts,
    sessions: AtomicU64,
    /// Troubles with peers that the log has lately.
    pub(crate) told: Repeats,
    /// How much of what peers say the log still takes.
    pub(crate) allowance: Allowance,
    /// Places for links whose peers have not said who they are.
    pub(crate) strangers: Arc<Places>,
}

/// What a new [`Shared`] is made of.
pub(crate) struct SharedParts {
    pub(crate) node: String,
    pub(crate) cluster: String,
    pub(crate) incarnation: u64,
    pub(crate) grace: Duration,
    pub(crate) access: Access,
    pub(crate) health: HealthSettings,
    pub(crate) events: EventSink,
    pub(crate) callback: Option<Arc<ApplyCallback>>,
    pub(crate) state: StateDatabase,
    pub(crate) databases: Databases,
}

/// An address that is listened on.
pub(crate) struct Listening {
    pub(crate) local: SocketAddr,
    /// Ends it.
    pub(crate) end: CancellationToken,
    /// Over when the port is free again.
    pub(crate) served: JoinHandle<()>,
}

/// A peer that is dialed.
pub(crate) struct Dialed {
    pub(crate) url: String,
    /// What became of it.
    pub(crate) status: Arc<Mutex<PeerStatus>>,
    /// Ends it.
    pub(crate) end: CancellationToken,
}

impl Shared {
    pub(crate) fn new(parts: SharedParts) -> Self {
        let stop = CancellationToken::new();
        Self {
            node: parts.node,
            membership: Membership::new(parts.cluster, &stop),
            incarnation: parts.incarnation,
            grace: Mutex::new(parts.grace),
            access: RwLock::new(Arc::new(parts.access)),
            health: Mutex::new(parts.health),
            link_options: LinkOptions::default(),
            registry: Registry::default(),
            events: parts.events,
            tracker: TaskTracker::new(),
            stop,
            links: CancellationToken::new(),
            started: Instant::now(),
            callback: parts.callback,
            changes: Changes::new(parts.state.clone()),
            state: parts.state,
            databases: parts.databases,
            dialed: Mutex::default(),
            listeners: Mutex::default(),
            hearts: Hearts::default(),
            sessions: AtomicU64::new(1),
            told: Repeats::default(),
            allowance: Allowance::default(),
            strangers: Places::new(STRANGERS),
        }
    }

    /// Who may do what now.
    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Others may do other things from now on: sessions begin anew. The tables of the configuration that say something else.
    pub(crate) fn change_access(&self, access: Access) -> Vec<&'static str> {
        let changed = {
            let mut present = self.access.write().unwrap_or_else(PoisonError::into_inner);
            let changed = present.differences(&access);
            *present = Arc::new(access);
            changed
        };
        if !changed.is_empty() {
            self.membership.renew();
        }
        changed
    }

    /// A number that tells this engine's sessions apart.
    pub(crate) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// Milliseconds since the engine was built: the time that sessions are driven by.
    pub(crate) fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes note of a peer that is dialed.
    pub(crate) fn note_dialed(&self, dialed: Dialed) {
        self.dialed.lock().unwrap_or_else(PoisonError::into_inner).insert(self.next_session(), dialed);
    }

    /// Forgets a peer that is dialed; what ends it, once for each time that it was to be dialed.
    pub(crate) fn forget_dialed(&self, url: &str) -> Vec<CancellationToken> {
        let mut dialed = self.dialed.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = dialed.values().filter(|known| known.url == url).map(|known| known.end.clone()).collect();
        dialed.retain(|_, known| known.url != url);
        ends
    }

    /// What there is to say of the engine now.
    pub(crate) fn status(&self) -> Status {
        let members = self.databases.members();
        let databases: Vec<DatabaseStatus> = members
            .iter()
            .map(|member| database_status(member.source.name(), &member.path, &member.source.state().borrow()))
            .collect();
        let mut peers = self.registry.statuses();
        let dialed = self.dialed.lock().unwrap_or_else(PoisonError::into_inner);
        for Dialed { url, status, .. } in dialed.values() {
            let status = status.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // A link that a better one made needless shows under that one.
            let shown = peers.iter().any(|peer| peer.url == *url || (peer.node.is_some() && peer.node == status.node));
            if !shown {
                peers.push(status);
            }
        }
        peers.iter_mut().for_each(PeerStatus::refresh);
        let mut status = Status {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            healthy: true,
            problems: Vec::new(),
            databases,
            peers,
        };
        status.problems = problems(&status, &self.health.lock().unwrap_or_else(PoisonError::into_inner));
        status.healthy = status.problems.is_empty();
        status
    }
}

fn database_status(name: &str, path: &std::path::Path, state: &DatabaseState) -> DatabaseStatus {
    let (word, errors) = match &state.phase {
        Phase::Opening => ("opening", Vec::new()),
        Phase::Missing => ("missing", Vec::new()),
        Phase::Attached => ("attached", Vec::new()),
        Phase::Migrating => ("migrating", Vec::new()),
        Phase::Failed { kind, reason, remedy } => ("failed", vec![format!("{kind}: {reason}; {remedy}")]),
    };
    DatabaseStatus {
        name: name.to_owned(),
        path: path.display().to_string(),
        state: word.to_owned(),
        origin: state.origin.map(|origin| origin.to_string()),
        sequence: state.origin.map_or(0, |origin| state.have.get(origin)),
        have: state.have.iter().map(|(origin, sequence)| (origin.to_string(), sequence)).collect(),
        tables: state.names.iter().map(|table| table.name.clone()).collect(),
        remote_names: state.names.iter().filter_map(RemoteNames::of).collect(),
        unsynced: state
            .unsynced
            .iter()
            .map(|table| UnsyncedTable { table: table.table.clone(), reason: table.reason.clone() })
            .collect(),
        excluded_columns: (*state.excluded_columns).clone(),
        backlog: state.backlog,
        conflicts: state.conflicts,
        foreign_key_missing: state.orphans.as_ref().into(),
        triggers: state.triggers.iter().map(TriggerStatus::from).collect(),
        warnings: state.warnings.iter().map(WarningStatus::from).collect(),
        parked: state.parked,
        passed_on: state.passed_on,
        tombstones: Tombstones {
            kept: state.tombstones,
            waiting_for: state.tombstones_wait_for.iter().cloned().collect(),
        },
        written: state.written.into(),
        errors,
    }
}

/// Milliseconds since 1970.
pub(crate) fn wall_millis() -> i64 {
    millis_of(SystemTime::now())
}

/// A moment in milliseconds since 1970.
pub(crate) fn millis_of(moment: SystemTime) -> i64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_millis().try_into().unwrap_or(i64::MAX)
}
