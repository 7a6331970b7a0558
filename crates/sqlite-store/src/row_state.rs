//! How rows stand: what they hold and what their clocks say, many to a statement.

use replication::{RowClock, Value};
use rusqlite::Connection;

use crate::bind::{bind_from, values_from};
use crate::error::StoreError;
use crate::replica::Replica;
use crate::row_clock::ClockReader;
use crate::table_sql::AT_ONCE;

/// The columns before a row's content in what [`ManySql::states`](crate::table_sql::ManySql::states) gives.
const FIXED: usize = 8;

/// A row as it stands in the file.
#[derive(Debug)]
pub(crate) struct RowState {
    /// Its content, where it is there; empty where only that is wanted.
    pub(crate) values: Option<Vec<Value>>,
    /// Its clock, unless there is more in it.
    pub(crate) clock: Option<RowClock>,
    /// Whether single columns have entries of their own.
    pub(crate) has_columns: bool,
    /// Whether there is something else in its clock: counters, or what speaks for columns that are not here.
    pub(crate) has_more: bool,
}

/// How the rows of a table with these keys stand, in their order, with their contents.
pub(crate) fn read_states(
    conn: &Connection,
    replica: &Replica,
    index: usize,
    keys: &[&[Value]],
) -> Result<Vec<RowState>, StoreError> {
    read_states_within(conn, replica, index, keys, Some(&mut { usize::MAX }))
}

/// The same with their contents for as long as there is room for so many bytes, which get less by them; without, if there is none.
pub(crate) fn read_states_within(
    conn: &Connection,
    replica: &Replica,
    index: usize,
    keys: &[&[Value]],
    mut room: Option<&mut usize>,
) -> Result<Vec<RowState>, StoreError> {
    let mut states = Vec::with_capacity(keys.len());
    let together = keys.chunks_exact(AT_ONCE);
    let rest = together.remainder().chunks(1);
    for keys in together.chain(rest) {
        let content = room.as_ref().is_some_and(|room| **room > 0);
        let read = states.len();
        read_chunk(conn, replica, index, keys, content, &mut states)?;
        if let Some(room) = room.as_mut() {
            let values = states[read..].iter().filter_map(|state| state.values.as_ref()).flatten();
            **room = room.saturating_sub(values.map(Value::wire_size).sum());
        }
    }
    Ok(states)
}

/// Tells of each dot in the clocks of the rows of a table with these keys: the place of the row's key, the number of the origin, and the
/// sequence.
pub(crate) fn each_dot(
    conn: &Connection,
    replica: &Replica,
    index: usize,
    keys: &[&[Value]],
    mut tell: impl FnMut(usize, i64, u64),
) -> Result<(), StoreError> {
    let together = keys.chunks_exact(AT_ONCE);
    let rest = together.remainder().chunks(1);
    let mut first = 0;
    for keys in together.chain(rest) {
        let sql = replica.tables[index].many.states(keys.len() > 1, false);
        let mut statement = conn.prepare_cached(sql)?;
        for (place, key) in keys.iter().enumerate() {
            bind_from(&mut statement, place * key.len() + 1, key)?;
        }
        let mut lines = statement.raw_query();
        while let Some(line) = lines.next()? {
            if let Some(origin) = line.get::<_, Option<i64>>(4)? {
                tell(first + usize::from(line.get::<_, u16>(0)?), origin, line.get::<_, i64>(5)?.cast_unsigned());
            }
        }
        first += keys.len();
    }
    Ok(())
}

fn read_chunk(
    conn: &Connection,
    replica: &Replica,
    index: usize,
    keys: &[&[Value]],
    content: bool,
    states: &mut Vec<RowState>,
) -> Result<(), StoreError> {
    let table = &replica.tables[index];
    let columns = if content { table.table.columns.len() } else { 0 };
    let mut statement = conn.prepare_cached(table.many.states(keys.len() > 1, content))?;
    for (place, key) in keys.iter().enumerate() {
        bind_from(&mut statement, place * key.len() + 1, key)?;
    }
    let mut found: Vec<(Option<Vec<Value>>, ClockReader)> =
        keys.iter().map(|_| (None, ClockReader::default())).collect();
    let mut lines = statement.raw_query();
    while let Some(line) = lines.next()? {
        let Some((values, reader)) = found.get_mut(usize::from(line.get::<_, u16>(0)?)) else { continue };
        if values.is_none() && line.get(1)? {
            *values = Some(values_from(line, FIXED, columns)?);
        }
        if line.get::<_, Option<i64>>(2)?.is_some() {
            reader.note(replica, table, line, 2)?;
        }
    }
    drop(lines);
    for (key, (values, reader)) in keys.iter().zip(found) {
        let (has_columns, has_more) = (reader.has_columns(), reader.has_more());
        let clock = match has_more {
            true => None,
            false => reader.finish(conn, replica, table, key)?.map(|(clock, _)| clock),
        };
        states.push(RowState { values, clock, has_columns, has_more });
    }
    Ok(())
}
