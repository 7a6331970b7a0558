//! Which columns are counters. The file remembers it, so that whoever attaches it without saying so leaves the triggers as
//! they are.

use std::collections::BTreeSet;

use rusqlite::Connection;

use crate::error::StoreError;
use crate::meta;
use crate::replica::DatabaseRules;
use crate::schema::Table;

/// The key in `_sync_meta`.
const COUNTERS: &str = "counters";

/// Counter columns by folded names of table and column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counted(BTreeSet<(String, String)>);

impl Counted {
    /// What the file remembers.
    pub(super) fn load(conn: &Connection) -> Result<Self, StoreError> {
        Ok(Self(meta::read(conn, COUNTERS)?.unwrap_or_default()))
    }

    /// The columns of these tables that are counters by the rules; the file remembers them.
    pub(super) fn declare<'a>(
        conn: &Connection,
        tables: impl Iterator<Item = &'a Table>,
        rules: &DatabaseRules,
    ) -> Result<Self, StoreError> {
        let mut counted = BTreeSet::new();
        for table in tables {
            let columns = table.columns.iter().filter(|column| rules.is_counter(&table.name, &column.name));
            counted.extend(columns.map(|column| (fold(&table.name), fold(&column.name))));
        }
        let counted = Self(counted);
        if counted != Self::load(conn)? {
            meta::write(conn, COUNTERS, &counted.0)?;
        }
        Ok(counted)
    }

    /// Marks a table's counters. A column of the key is none.
    pub(super) fn mark(&self, table: &mut Table) {
        let key = table.key.clone();
        for (place, column) in table.columns.iter_mut().enumerate() {
            let listed = self.0.contains(&(fold(&table.name), fold(&column.name)));
            column.counter = listed && !key.contains(&place);
        }
    }

    /// Whether these name a counter of a table that others do not.
    pub(super) fn has_more_than(&self, before: &Self, table: &Table) -> bool {
        let name = fold(&table.name);
        self.0.difference(&before.0).any(|(of, _)| *of == name)
    }
}

/// Names compare without ASCII case.
fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
}
