//! Rows that lack their parents: foreign keys are not enforced while rows are written, and looked at before and after.

use rusqlite::Connection;

use crate::error::StoreError;

/// Rows of one table that lack their parents in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingParents {
    /// The table.
    pub table: String,
    /// The table of the parents.
    pub parent: String,
    /// How many rows.
    pub rows: u64,
}

/// All of them in TARGET. A foreign key that SQLite itself refuses is not looked at.
pub(super) fn missing(conn: &Connection) -> Result<Vec<MissingParents>, StoreError> {
    let sql = "SELECT DISTINCT m.name FROM main.sqlite_schema AS m, pragma_foreign_key_list(m.name, 'main') \
               WHERE m.type = 'table'";
    let mut children = conn.prepare(sql)?;
    let children = children.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let mut found = Vec::new();
    for table in children {
        let sql = "SELECT parent, count(*) FROM pragma_foreign_key_check(?1, 'main') GROUP BY fkid, parent";
        let mut statement = conn.prepare(sql)?;
        let counted = statement.query_map([&table], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)));
        // A key that refers to what is not unique is one that SQLite refuses.
        let Ok(counted) = counted.and_then(Iterator::collect::<Result<Vec<(String, i64)>, _>>) else { continue };
        found.extend(counted.into_iter().map(|(parent, rows)| {
            let table = table.clone();
            MissingParents { table, parent, rows: rows.unsigned_abs() }
        }));
    }
    Ok(found)
}

/// What is missing beyond what was missing before.
pub(super) fn more(before: &[MissingParents], now: Vec<MissingParents>) -> Vec<MissingParents> {
    let known = |missing: &MissingParents| {
        let same = |other: &&MissingParents| (&other.table, &other.parent) == (&missing.table, &missing.parent);
        before.iter().filter(same).map(|other| other.rows).sum::<u64>()
    };
    now.into_iter()
        .map(|missing| MissingParents { rows: missing.rows.saturating_sub(known(&missing)), ..missing })
        .filter(|missing| missing.rows > 0)
        .collect()
}
