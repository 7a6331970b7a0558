//! Another choice of what is synced: what is known of tables and columns that are not synced any more is kept among the rows
//! that are passed on, so that peers which lack it still get it. What is included again merges in from there as after a
//! migration that brought the table or column.

use replication::{Selection, Value};
use rusqlite::Connection;

use crate::attach::Attached;
use crate::attach::naming::WireNames;
use crate::capture::capture;
use crate::error::StoreError;
use crate::fail_point::fail_point;
use crate::generation;
use crate::migration::Migrated;
use crate::parked;
use crate::replica::{DatabaseRules, Replica, wall_millis};
use crate::row_clock::{collect_keys, counter_places, read_image};
use crate::schema::Table;

/// Sets aside what `wanted` leaves out of a database that is attached by the choice before it. In a write transaction, before
/// it is attached by the new one.
pub(crate) fn set_aside(
    conn: &Connection,
    attached: &Attached,
    wanted: &Selection,
    rules: Option<&DatabaseRules>,
) -> Result<(), StoreError> {
    let now = wall_millis();
    let rules = rules.cloned().unwrap_or_default();
    let mut replica = Replica::load_file(conn, &attached.schema, &rules)?;
    // What applications wrote, and what migrations did, belongs to what is known.
    capture(conn, &mut replica, now, usize::MAX, None)?;
    let mut migrated = Migrated::of(attached);
    while !migrated.is_done() {
        let step = migrated.step(conn, &mut replica)?;
        migrated.advance(step);
    }
    let before = replica.have.clone();
    let by_wire_names = WireNames::in_use(conn, None)?.selection(wanted);
    for index in 0..replica.tables.len() {
        let table = &replica.tables[index].table;
        if let Some(exclusion) = wanted.exclusion(&table.name) {
            set_table_aside(conn, &mut replica, index, exclusion.to_string(), now)?;
            continue;
        }
        let left_out = |column: &&String| wanted.excludes_column(&table.name, column);
        let columns = table.columns.iter().map(|column| &column.name).filter(left_out);
        let columns: Vec<String> = columns.cloned().collect();
        // A table that cannot be without one of the columns is not synced as long as it is to be.
        if !columns.is_empty() && columns.iter().all(|column| is_dispensable(table, column)) {
            set_columns_aside(conn, &mut replica, index, &columns, &by_wire_names, now)?;
        }
    }
    replica.save(conn, &before)?;
    // Whoever else has the file open reads it again.
    generation::begin(conn)?;
    fail_point("reselect-before-commit");
    Ok(())
}

/// Keeps all that is known of a table to be passed on, deletions too, and forgets its clock.
fn set_table_aside(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    reason: String,
    now: i64,
) -> Result<(), StoreError> {
    let shape = replica.tables[index].wire.clone();
    for key in known_keys(conn, replica, index)? {
        if let Some(image) = read_image(conn, replica, &replica.tables[index], &key)? {
            parked::keep(conn, replica, &shape, &image, (&[], reason.clone()), now)?;
        }
    }
    conn.execute(&replica.tables[index].sql.clock_clear, [])?;
    Ok(())
}

/// Keeps what is known of columns to be passed on, and forgets their entries: the rows' own do not speak for them any more.
/// `wanted` goes by names on the wire.
fn set_columns_aside(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    columns: &[String],
    wanted: &Selection,
    now: i64,
) -> Result<(), StoreError> {
    let shape = replica.tables[index].wire.clone();
    let table = &replica.tables[index];
    let left_out = table.table.columns.iter().filter(|column| columns.contains(&column.name));
    let wire_columns: Vec<String> = left_out.map(|column| column.wire_name().to_owned()).collect();
    let (_, reason) = parked::reason_of_columns(wanted, (&shape.name, &table.named()), &wire_columns);
    for key in known_keys(conn, replica, index)? {
        let image = read_image(conn, replica, &replica.tables[index], &key)?;
        if let Some(image) = image.filter(|image| !image.clock.is_deleted()) {
            parked::keep(conn, replica, &shape, &image, (&wire_columns, reason.clone()), now)?;
        }
    }
    let table = &replica.tables[index];
    let named = |name: &String| columns.contains(name);
    for column in table.table.columns.iter().filter(|column| named(&column.name)) {
        let (first, last) = counter_places(column.number);
        let sql = &table.sql.clock_drop_column;
        conn.execute(sql, [i64::from(column.number), first, last])?;
    }
    Ok(())
}

/// The keys of all rows that have a clock.
fn known_keys(conn: &Connection, replica: &Replica, index: usize) -> Result<Vec<Vec<Value>>, StoreError> {
    let table = &replica.tables[index];
    collect_keys(&mut conn.prepare(&table.sql.clock_keys)?, table.table.key.len())
}

/// Whether rows can be inserted without a column.
fn is_dispensable(table: &Table, name: &str) -> bool {
    let mut columns = table.columns.iter().enumerate().filter(|(_, column)| column.name == name);
    columns.all(|(place, column)| !table.key.contains(&place) && (!column.not_null || column.default.is_some()))
}
