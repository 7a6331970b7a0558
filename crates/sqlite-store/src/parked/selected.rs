//! What is kept of tables and columns that were chosen not to be synced: nothing of it waits, and all of it is passed on.

use replication::{RowImage, Selection, TableShape, VersionVector};
use rusqlite::{Connection, params};

use super::{ParkedKind, Parking, beside, from_text, put};
use crate::error::StoreError;
use crate::replica::Replica;

/// Keeps a row of this database to be passed on. Of the row as a whole it is as if a peer had sent it; of columns, this
/// database had taken it into account.
pub(crate) fn keep(
    conn: &Connection,
    replica: &mut Replica,
    shape: &TableShape,
    row: &RowImage,
    (columns, reason): (&[String], String),
    now: i64,
) -> Result<(), StoreError> {
    let have = replica.have.clone();
    let context = beside(conn, replica, shape, row)?.context.unwrap_or_else(|| have.clone());
    let own = if columns.is_empty() { VersionVector::new() } else { have };
    let kind = ParkedKind::Excluded;
    let parking = Parking { shape, row, context: &context, own: &own, missing: columns, limited: false, kind, reason };
    put(conn, replica, &parking, now)
}

/// Why columns of a table wait, or do not. The table is named as on the wire, and for people.
pub(crate) fn reason_of_columns(
    selection: &Selection,
    (table, named): (&str, &str),
    missing: &[String],
) -> (ParkedKind, String) {
    let lacking = missing.iter().filter(|name| !selection.excludes_column(table, name));
    let lacking: Vec<String> = lacking.map(|name| format!("{name:?}")).collect();
    if lacking.is_empty() {
        (ParkedKind::Excluded, format!("columns of {named} are excluded by configuration"))
    } else {
        (ParkedKind::Schema, format!("{named} has no column {} here", lacking.join(", ")))
    }
}

/// Judges anew, by another selection, which rows wait and which are only passed on. What was excluded and is no more waits
/// until it is merged.
pub(crate) fn reclassify(conn: &Connection, selection: &Selection) -> Result<(), StoreError> {
    let mut statement = conn.prepare("SELECT id, tbl, missing, kind FROM main._sync_parked")?;
    let mut update = conn.prepare("UPDATE main._sync_parked SET kind = ?2, reason = ?3 WHERE id = ?1")?;
    let mut rows = statement.query([])?;
    let mut changed = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, table): (i64, String) = (row.get(0)?, row.get(1)?);
        let missing: Vec<String> = from_text(&row.get::<_, String>(2)?)?;
        let kind = ParkedKind::named(&row.get::<_, String>(3)?);
        let (now, reason) = match selection.exclusion(&table) {
            Some(exclusion) => (ParkedKind::Excluded, exclusion.to_string()),
            None if !missing.is_empty() => {
                reason_of_columns(selection, (&table, &format!("table {table:?}")), &missing)
            }
            None if kind == ParkedKind::Excluded => (ParkedKind::Schema, format!("table {table:?} is not synced here")),
            None => continue,
        };
        if now != kind {
            changed.push((id, now, reason));
        }
    }
    drop(rows);
    for (id, kind, reason) in changed {
        update.execute(params![id, kind.as_str(), reason])?;
    }
    Ok(())
}
