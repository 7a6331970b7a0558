//! What is made known of an attached database.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Attachment;
use crate::database::{DatabaseState, Phase};
use crate::replica::DatabaseRules;
use crate::schema::{Schema, Table};

impl Attachment {
    /// What to make known.
    pub(crate) fn state(&self, old: &DatabaseState, phase: Phase) -> DatabaseState {
        let tables = if *old.tables == *self.tables { Arc::clone(&old.tables) } else { Arc::clone(&self.tables) };
        let names = if *old.names == *self.names { Arc::clone(&old.names) } else { Arc::clone(&self.names) };
        let unsynced =
            if *old.unsynced == *self.unsynced { Arc::clone(&old.unsynced) } else { Arc::clone(&self.unsynced) };
        let schemas = if *old.schemas == *self.replica.schemas { &old.schemas } else { &self.replica.schemas };
        DatabaseState {
            phase,
            origin: Some(self.replica.own),
            have: self.replica.have.clone(),
            received: self.replica.positions(),
            clock: self.replica.clock.last(),
            tables,
            names,
            policies: Arc::clone(&self.policies),
            retired: Arc::clone(&self.retired),
            nodes: Arc::clone(self.replica.names()),
            schemas: Arc::clone(schemas),
            unsynced,
            orphans: Arc::clone(self.foreign_keys.orphans()),
            triggers: Arc::clone(&self.triggers),
            warnings: Arc::clone(&self.warnings),
            conflicts: self.conflicts,
            parked: self.replica.waiting.to_merge(),
            passed_on: self.replica.waiting.passed_on,
            selection: Arc::clone(&self.selection),
            excluded_columns: Arc::clone(&self.excluded_columns),
            publishing: self.replica.is_publishing(),
            issued: self.replica.issued(),
            held: self.replica.held(),
            dropped: self.replica.dropped.upto.clone(),
            known: Arc::clone(self.tombstones.told()),
            tombstones: self.tombstones.kept().0,
            tombstones_wait_for: Arc::clone(self.tombstones.kept().1),
            backlog: if self.more { self.log_length() } else { 0 },
            written: old.written,
            fresh: self.fresh(),
        }
    }

    fn log_length(&self) -> u64 {
        let sql = "SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM main._sync_log";
        self.conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map_or(0, i64::cast_unsigned)
    }
}

/// The fingerprints of the synced tables' shapes, by their names on the wire.
pub(super) fn fingerprints(schema: &Schema) -> BTreeMap<String, u64> {
    schema.tables.iter().map(Table::wire_shape).map(|shape| (shape.name.clone(), shape.fingerprint())).collect()
}

/// How conflicts are decided in the synced tables where not by the default, by their names on the wire.
pub(super) fn policies(schema: &Schema, rules: &DatabaseRules) -> BTreeMap<String, String> {
    let described = schema.tables.iter().filter_map(|table| {
        let wire_name = |column: &str| {
            let known = table.columns.iter().find(|known| known.name.eq_ignore_ascii_case(column));
            known.map_or(column, |known| known.wire_name()).to_ascii_lowercase()
        };
        Some((table.wire_name().to_owned(), rules.of(&table.name).describe(&wire_name)?))
    });
    described.collect()
}

/// The columns of synced tables that were chosen not to be synced, by table.
pub(super) fn excluded_columns(schema: &Schema) -> BTreeMap<String, Vec<String>> {
    let limited = schema.tables.iter().filter(|table| !table.excluded.is_empty());
    limited.map(|table| (table.name.clone(), table.excluded.clone())).collect()
}
