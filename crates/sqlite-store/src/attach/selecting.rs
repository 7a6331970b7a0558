//! What is chosen to be synced. The file remembers it, so that whoever attaches it without saying so leaves it as it is, and
//! that a change is noticed.

use replication::Selection;
use rusqlite::Connection;

use super::registry::Registry;
use crate::error::StoreError;
use crate::meta;

/// The key in `_sync_meta`.
const SELECTION: &str = "selection";

/// What the file remembers; everything where it remembers nothing.
pub(crate) fn stored(conn: &Connection) -> Result<Selection, StoreError> {
    Ok(meta::read(conn, SELECTION)?.unwrap_or_default())
}

/// Has the file remember what is chosen.
pub(super) fn store(conn: &Connection, selection: &Selection) -> Result<(), StoreError> {
    meta::write(conn, SELECTION, selection)
}

/// The choice before this one, without tables and columns that are not known yet and are not to be: what bears a name for the
/// first time, such as an excluded column that was renamed, is never synced in between.
pub(super) fn between(conn: &Connection, before: &Selection, wanted: &Selection) -> Result<Selection, StoreError> {
    let registry = Registry::load(conn)?;
    let mut between = before.clone();
    for (table, columns) in wanted.columns() {
        let number = registry.number(table);
        let is_known = |column: &&String| number.is_some_and(|number| registry.column(number, column).is_some());
        let fresh = columns.iter().filter(|column| !is_known(column));
        let excluded: Vec<String> = before.excluded_columns(table).iter().chain(fresh).cloned().collect();
        between.set_excluded_columns(table, excluded);
    }
    let mut statement = conn.prepare("SELECT name FROM main.sqlite_schema WHERE type = 'table'")?;
    let names = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let fresh = names.into_iter().filter(|name| wanted.exclusion(name).is_some() && registry.number(name).is_none());
    between.set_exclude(before.excluded().iter().cloned().chain(fresh));
    Ok(between)
}
