//! The configuration as it is written, after the sources are laid over each other. Owns the shape, not the meaning.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The top level.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) node: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) peers: Vec<String>,
    pub(super) cluster: Option<String>,
    pub(super) state_dir: Option<String>,
    pub(super) poll_interval: Option<String>,
    pub(super) max_clock_skew: Option<String>,
    pub(super) tombstone_horizon: Option<String>,
    pub(super) upkeep_interval: Option<String>,
    pub(super) close_after: Option<String>,
    pub(super) shutdown_grace: Option<String>,
    pub(super) max_batch_rows: Option<i64>,
    pub(super) auth: RawAuth,
    pub(super) tls: RawTls,
    pub(super) log: RawLog,
    pub(super) backup: RawBackup,
    pub(super) conflicts: RawConflicts,
    pub(super) health: RawHealth,
    pub(super) database: Vec<RawDatabase>,
}

/// `[auth]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAuth {
    pub(super) token_file: Option<String>,
    pub(super) peer_token_file: Option<String>,
    pub(super) others: Option<String>,
    pub(super) peer: Vec<RawPeer>,
}

/// `[[auth.peer]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPeer {
    pub(super) name: Option<String>,
    pub(super) token_file: Option<String>,
    pub(super) certificate: Option<String>,
    pub(super) role: Option<String>,
    pub(super) databases: Vec<String>,
}

/// `[tls]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTls {
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
    pub(super) client_ca: Option<String>,
    pub(super) ca: Option<String>,
}

/// `[log]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) directory: Option<String>,
    pub(super) level: Option<String>,
    pub(super) format: Option<String>,
    pub(super) rotation: Option<String>,
    pub(super) keep: Option<i64>,
    pub(super) hook: Vec<String>,
}

/// `[backup]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBackup {
    pub(super) root: Option<String>,
    pub(super) keep: Option<i64>,
}

/// `[conflicts]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConflicts {
    pub(super) keep: Option<i64>,
    pub(super) keep_days: Option<i64>,
}

/// `[health]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawHealth {
    pub(super) max_lag: Option<String>,
    pub(super) max_backlog: Option<i64>,
    pub(super) min_peers: Option<i64>,
}

/// `[[database]]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDatabase {
    pub(super) name: Option<String>,
    pub(super) path: Option<std::path::PathBuf>,
    pub(super) policy: Option<String>,
    pub(super) priority: Vec<String>,
    pub(super) timestamp_column: Option<String>,
    pub(super) granularity: Option<String>,
    pub(super) include: Option<Vec<String>>,
    pub(super) exclude: Option<Vec<String>>,
    pub(super) key_ranges: Option<i64>,
    pub(super) triggers: std::collections::BTreeMap<String, String>,
    pub(super) table: Vec<RawTable>,
}

/// `[[database.table]]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTable {
    pub(super) name: Option<String>,
    pub(super) policy: Option<String>,
    pub(super) priority: Vec<String>,
    pub(super) timestamp_column: Option<String>,
    pub(super) granularity: Option<String>,
    pub(super) remote_name: Option<String>,
    pub(super) exclude_columns: Vec<String>,
    pub(super) columns: BTreeMap<String, RawColumn>,
}

/// `columns.NAME` of a `[[database.table]]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawColumn {
    pub(super) policy: Option<String>,
    pub(super) priority: Vec<String>,
    pub(super) merge: Option<String>,
    pub(super) remote_name: Option<String>,
}
