//! What `/v1/status` and `status --json` say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlite_store::app_triggers::AppTrigger;
use sqlite_store::foreign_keys::{Orphan, Orphans};
use sqlite_store::warning::Warning;
use sqlite_store::{RowCounts, TableNames};

/// A running engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// The software's version.
    pub version: String,
    /// Seconds since the engine was built.
    pub uptime_seconds: u64,
    /// Whether all databases are in order, and nothing is beyond what `[health]` allows.
    pub healthy: bool,
    /// What is wrong, if it is not healthy, a sentence each.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The databases under sync.
    pub databases: Vec<DatabaseStatus>,
    /// The peers that there is a session with or that are being dialed.
    pub peers: Vec<PeerStatus>,
}

/// One database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatabaseStatus {
    /// The shared name.
    pub name: String,
    /// The file.
    pub path: String,
    /// `opening`, `missing`, `attached`, `migrating` or `failed`.
    pub state: String,
    /// The origin under which the file issues changes.
    pub origin: Option<String>,
    /// The last sequence of that origin.
    pub sequence: u64,
    /// The version vector.
    pub have: BTreeMap<String, u64>,
    /// The synced tables.
    pub tables: Vec<String>,
    /// Those of them that bear other names on the wire, or have columns that do.
    #[serde(default)]
    pub remote_names: Vec<RemoteNames>,
    /// Tables that are not synced.
    pub unsynced: Vec<UnsyncedTable>,
    /// The columns of synced tables that are excluded, by table.
    #[serde(default)]
    pub excluded_columns: BTreeMap<String, Vec<String>>,
    /// Changes of applications that wait for capture.
    pub backlog: u64,
    /// Open conflict records.
    pub conflicts: u64,
    /// Rows whose parents are not here.
    #[serde(default)]
    pub foreign_key_missing: MissingParents,
    /// The application's triggers that changes of synced tables set off.
    #[serde(default)]
    pub triggers: Vec<TriggerStatus>,
    /// What people should know of the database although it is in sync.
    #[serde(default)]
    pub warnings: Vec<WarningStatus>,
    /// Changes that wait until they can be applied.
    pub parked: u64,
    /// Changes that are kept only to be passed on to peers: of tables and columns that are excluded here.
    #[serde(default)]
    pub passed_on: u64,
    /// Deletions that are still remembered.
    #[serde(default)]
    pub tombstones: Tombstones,
    /// What changes of peers have written here since the engine was started.
    #[serde(default)]
    pub written: WrittenRows,
    /// What stands in the way.
    pub errors: Vec<String>,
}

/// Rows that changes of peers wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenRows {
    /// Rows that appeared.
    pub inserted: u64,
    /// Rows of which columns changed.
    pub updated: u64,
    /// Rows that went.
    pub deleted: u64,
}

impl From<RowCounts> for WrittenRows {
    fn from(rows: RowCounts) -> Self {
        let RowCounts { inserted, updated, deleted } = rows;
        Self { inserted, updated, deleted }
    }
}

/// Deletions that are remembered until all nodes know of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstones {
    /// How many, as of the last look at them.
    pub kept: u64,
    /// The nodes that do not know of all of them, or have something that is not here. `sync-engine forget NODE` does not wait for
    /// one any more.
    pub waiting_for: Vec<String>,
}

/// A table that bears another name on the wire, or has columns that do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteNames {
    /// Its name here.
    pub table: String,
    /// Its name on the wire.
    pub remote_name: String,
    /// The columns that have other names on the wire: those here, and those on the wire.
    pub columns: BTreeMap<String, String>,
}

impl RemoteNames {
    /// None where all names are the same.
    pub fn of(names: &TableNames) -> Option<Self> {
        let TableNames { name, remote_name, columns } = names;
        (remote_name.is_some() || !columns.is_empty()).then(|| Self {
            table: name.clone(),
            remote_name: remote_name.as_ref().unwrap_or(name).clone(),
            columns: columns.iter().cloned().collect(),
        })
    }
}

impl std::fmt::Display for RemoteNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to peers", self.remote_name)?;
        let mut separator = ", with ";
        for (column, remote_name) in &self.columns {
            write!(f, "{separator}{column} as {remote_name}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// A table that is not synced.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnsyncedTable {
    /// Its name.
    pub table: String,
    /// Why.
    pub reason: String,
}

/// Rows whose parents are not here.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MissingParents {
    /// How many; a row without two parents counts twice.
    pub count: u64,
    /// The first few.
    pub first: Vec<OrphanStatus>,
}

impl From<&Orphans> for MissingParents {
    fn from(orphans: &Orphans) -> Self {
        let row = |Orphan { table, key, parent }: &Orphan| OrphanStatus {
            table: table.clone(),
            key: key.clone(),
            parent: parent.clone(),
        };
        Self { count: orphans.count, first: orphans.first.iter().map(row).collect() }
    }
}

/// A row without a parent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OrphanStatus {
    /// Its table.
    pub table: String,
    /// Its key.
    pub key: serde_json::Value,
    /// The parent, as `{"table": {"column": value}}`.
    pub parent: serde_json::Value,
}

/// One of the application's triggers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TriggerStatus {
    /// Its name.
    pub trigger: String,
    /// The table or view that it is on.
    pub table: String,
    /// `run` or `skip`: what becomes of it when a peer's changes are applied.
    pub on_apply: String,
    /// Why.
    pub why: String,
}

impl From<&AppTrigger> for TriggerStatus {
    fn from(trigger: &AppTrigger) -> Self {
        Self {
            trigger: trigger.name.clone(),
            table: trigger.table.clone(),
            on_apply: if trigger.runs() { "run" } else { "skip" }.to_owned(),
            why: trigger.why(),
        }
    }
}

/// Something that people should know of a database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WarningStatus {
    /// `key_clash`, `key_range`, `trigger_rule`, `unknown_trigger` or `unknown_name`.
    pub kind: String,
    /// The table, if it is about one.
    pub table: Option<String>,
    /// What.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl From<&Warning> for WarningStatus {
    fn from(warning: &Warning) -> Self {
        Self {
            kind: warning.kind.as_str().to_owned(),
            table: warning.table.clone(),
            reason: warning.reason.clone(),
            remedy: warning.remedy.clone(),
        }
    }
}

/// One peer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name; none until it has said it.
    pub node: Option<String>,
    /// The URL that is dialed, or the address that it came from.
    pub url: String,
    /// `connecting`, `connected` or `waiting`; `stopped` for an engine of the same process that has.
    pub state: String,
    /// The databases that both have.
    pub databases: Vec<PeerDatabaseStatus>,
    /// Bytes of messages received over the present link.
    pub bytes_in: u64,
    /// Bytes of messages sent over it.
    pub bytes_out: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// What it may do here: `read` or `write`; empty until it is known.
    #[serde(default)]
    pub role: String,
    /// Whether it takes none of the changes of this node, which may only read there.
    #[serde(default)]
    pub read_only_there: bool,
}

/// One database of a peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerDatabaseStatus {
    /// The shared name.
    pub name: String,
    /// How many sequences of ours the peer has not acknowledged.
    pub behind: u64,
    /// For how long it has been behind, in milliseconds.
    pub lag_ms: u64,
    /// Since when, by this process's clock.
    #[serde(skip)]
    pub(crate) since: Option<std::time::Instant>,
}

impl PeerStatus {
    /// Brings up to date what passes with time.
    pub(crate) fn refresh(&mut self) {
        for database in &mut self.databases {
            let lag = database.since.map_or(0, |since| since.elapsed().as_millis());
            database.lag_ms = u64::try_from(lag).unwrap_or(u64::MAX);
        }
    }
}
