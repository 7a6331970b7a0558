//! Where a database stands, as everybody is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use replication::codec::PackedBatch;
use replication::{DotSet, KnownNodes, NodeSchemas, Origin, Selection, Timestamp, VersionVector};

use crate::app_triggers::AppTrigger;
use crate::apply::RowCounts;
use crate::batch_read::BatchLimits;
use crate::foreign_keys::Orphans;
use crate::fresh::FreshChanges;
use crate::schema::{Schema, Table, Unsynced};
use crate::warning::Warning;

/// Where a database stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not looked at yet.
    #[default]
    Opening,
    /// The file does not exist yet; it is waited for.
    Missing,
    /// Attached and in sync with its log.
    Attached,
    /// A migration runs on it with the triggers lifted; it is left alone until that is over.
    Migrating,
    /// Something stands in the way; it is tried again.
    Failed {
        /// A word for the kind: `io`, `corrupt`, `busy`, ….
        kind: &'static str,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// What a database tells, always as a whole and always the newest.
#[derive(Debug, Clone, Default)]
pub struct DatabaseState {
    /// Where it stands.
    pub phase: Phase,
    /// The origin under which it issues changes; none until it is attached for the first time.
    pub origin: Option<Origin>,
    /// What it knows.
    pub have: VersionVector,
    /// Positions in catch-ups that are not complete, by the origin they are read from.
    pub received: BTreeMap<Origin, VersionVector>,
    /// The last stamp given or seen.
    pub clock: Timestamp,
    /// The synced tables' names on the wire, and their fingerprints.
    pub tables: Arc<BTreeMap<String, u64>>,
    /// How conflicts are decided in the synced tables where not by the default, in words that are equal where the rules are.
    pub policies: Arc<BTreeMap<String, String>>,
    /// The synced tables' names in the file, with those on the wire.
    pub names: Arc<Vec<TableNames>>,
    /// Names on the wire of tables that were synced and are not any more: what the vector covers of them is not here.
    pub retired: Arc<BTreeSet<String>>,
    /// The names of the nodes that origins belong to, as far as they are known.
    pub nodes: Arc<BTreeMap<Origin, String>>,
    /// The tables of each node, as far as they are known; its own among them.
    pub schemas: Arc<NodeSchemas>,
    /// Tables that are not synced, and why.
    pub unsynced: Arc<Vec<Unsynced>>,
    /// Rows whose parents are not here.
    pub orphans: Arc<Orphans>,
    /// What becomes of the application's triggers when changes are applied.
    pub triggers: Arc<Vec<AppTrigger>>,
    /// What people should know of it.
    pub warnings: Arc<Vec<Warning>>,
    /// Open conflict records.
    pub conflicts: u64,
    /// Rows of peers that could not be taken in and wait.
    pub parked: u64,
    /// Rows that are kept only to be passed on: of tables, or for columns, that were chosen not to be synced.
    pub passed_on: u64,
    /// What was chosen to be synced.
    pub selection: Arc<Selection>,
    /// The columns of synced tables that were chosen not to be synced, by table.
    pub excluded_columns: Arc<BTreeMap<String, Vec<String>>>,
    /// Whether rows that were there before attach are still to be made known to peers.
    pub publishing: bool,
    /// The names on the wire of tables in which the database's origin has issued something.
    pub issued: BTreeSet<String>,
    /// Dots that peers need not send, by the origin of the database that has them: the same rows are here under others.
    pub held: BTreeMap<Origin, DotSet>,
    /// Up to where tombstones may be gone.
    pub dropped: VersionVector,
    /// What is known of what other nodes know.
    pub known: Arc<KnownNodes>,
    /// Tombstones that are kept, as of the last look at them.
    pub tombstones: u64,
    /// The nodes that they wait for.
    pub tombstones_wait_for: Arc<BTreeSet<String>>,
    /// Log rows that wait for capture, as of the last look.
    pub backlog: u64,
    /// What changes of peers have written since the database was started.
    pub written: RowCounts,
    /// What was captured last, as far as it is at hand; some of it may be newer than this state.
    pub fresh: Arc<FreshChanges>,
}

/// What a synced table is called, here and on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableNames {
    /// Its name in the file.
    pub name: String,
    /// Its name on the wire, if that is another.
    pub remote_name: Option<String>,
    /// The columns that have other names on the wire: those in the file, and those on the wire.
    pub columns: Vec<(String, String)>,
}

impl TableNames {
    /// Those of all synced tables, by name.
    pub fn of(schema: &Schema) -> Vec<Self> {
        let columns = |table: &Table| {
            let named = table.columns.iter();
            named.filter_map(|column| Some((column.name.clone(), column.remote_name.clone()?))).collect()
        };
        let mut names: Vec<Self> = schema
            .tables
            .iter()
            .map(|table| Self {
                name: table.name.clone(),
                remote_name: table.remote_name.clone(),
                columns: columns(table),
            })
            .collect();
        names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        names
    }
}

impl DatabaseState {
    /// What a peer that has `from` is to be sent, if it is at hand and within these limits. It is what was [read](crate::Database::read)
    /// when that was new, or would have been; `whole` says that the peer got to `from` by nothing but such batches, and otherwise
    /// it is sent nothing older than what is newest. It is packed in parts of [`PART_BYTES`](replication::session::PART_BYTES).
    pub fn fresh_after(&self, from: &VersionVector, whole: bool, limits: BatchLimits) -> Option<Arc<PackedBatch>> {
        self.fresh.after(from, (self.origin, &self.have), whole, limits)
    }

    /// Whether there is nothing in it that is not in another one. The last stamp alone is no news, nor is what is at hand of what
    /// is known; and what is shared is compared by where it is, since it is made anew when it changes.
    pub(crate) fn says_the_same_as(&self, other: &Self) -> bool {
        self.phase == other.phase
            && self.origin == other.origin
            && self.have == other.have
            && self.received == other.received
            && self.publishing == other.publishing
            && self.issued == other.issued
            && self.held == other.held
            && self.dropped == other.dropped
            && self.tombstones == other.tombstones
            && Arc::ptr_eq(&self.known, &other.known)
            && self.tombstones_wait_for == other.tombstones_wait_for
            && self.conflicts == other.conflicts
            && self.parked == other.parked
            && self.passed_on == other.passed_on
            && self.selection == other.selection
            && self.excluded_columns == other.excluded_columns
            && self.backlog == other.backlog
            && self.written == other.written
            && self.nodes == other.nodes
            && self.retired == other.retired
            && Arc::ptr_eq(&self.schemas, &other.schemas)
            && Arc::ptr_eq(&self.orphans, &other.orphans)
            && Arc::ptr_eq(&self.triggers, &other.triggers)
            && Arc::ptr_eq(&self.warnings, &other.warnings)
            && Arc::ptr_eq(&self.tables, &other.tables)
            && self.policies == other.policies
            && Arc::ptr_eq(&self.names, &other.names)
            && Arc::ptr_eq(&self.unsynced, &other.unsynced)
    }
}
