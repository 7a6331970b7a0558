//! What is made known of an attached database.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Attachment;
use crate::database::{DatabaseState, Phase};
use crate::replica::DatabaseRules;
use crate::schema::Schema;

impl Attachment {
    /// What to make known.
    pub(crate) fn state(&self, old: &DatabaseState, phase: Phase) -> DatabaseState {
        let tables = if *old.tables == *self.tables { Arc::clone(&old.tables) } else { Arc::clone(&self.tables) };
        let unsynced =
            if *old.unsynced == *self.unsynced { Arc::clone(&old.unsynced) } else { Arc::clone(&self.unsynced) };
        DatabaseState {
            phase,
            origin: Some(self.replica.own),
            have: self.replica.have.clone(),
            received: self.replica.positions(),
            clock: self.replica.clock.last(),
            tables,
            policies: Arc::clone(&self.policies),
            retired: Arc::clone(&self.retired),
            nodes: Arc::clone(self.replica.names()),
            unsynced,
            orphans: Arc::clone(self.foreign_keys.orphans()),
            triggers: Arc::clone(&self.triggers),
            warnings: Arc::clone(&self.warnings),
            conflicts: self.conflicts,
            parked: self.replica.waiting.rows,
            backlog: if self.more { self.log_length() } else { 0 },
        }
    }

    fn log_length(&self) -> u64 {
        let sql = "SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM main._sync_log";
        self.conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map_or(0, i64::cast_unsigned)
    }
}

/// The fingerprints of the synced tables' shapes.
pub(super) fn fingerprints(schema: &Schema) -> BTreeMap<String, u64> {
    schema.tables.iter().map(|table| table.shape()).map(|shape| (shape.name.clone(), shape.fingerprint())).collect()
}

/// How conflicts are decided in the synced tables where not by the default.
pub(super) fn policies(schema: &Schema, rules: &DatabaseRules) -> BTreeMap<String, String> {
    let described = schema.tables.iter().map(|table| (table.name.clone(), rules.of(&table.name).describe()));
    described.filter_map(|(table, rule)| Some((table, rule?))).collect()
}
