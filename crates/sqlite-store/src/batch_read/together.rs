//! The rows of entries, looked up many to a statement.

use std::vec::IntoIter;

use replication::{RowImage, Value};
use rusqlite::Connection;

use super::{Gathered, LackingEntry, Place};
use crate::error::StoreError;
use crate::replica::Replica;
use crate::row_state::{RowState, read_states};
use crate::table_sql::AT_ONCE;

/// Entries in their order, the rows of the next ones looked up already.
pub(super) struct Together<'a> {
    conn: &'a Connection,
    replica: &'a Replica,
    ahead: IntoIter<LackingEntry>,
    rest: IntoIter<LackingEntry>,
}

impl<'a> Together<'a> {
    pub(super) fn new(conn: &'a Connection, replica: &'a Replica, entries: Vec<LackingEntry>) -> Self {
        Self { conn, replica, ahead: Vec::new().into_iter(), rest: entries.into_iter() }
    }

    /// The next entry.
    pub(super) fn next(&mut self, gathered: &Gathered<'_>) -> Result<Option<LackingEntry>, StoreError> {
        if self.ahead.len() == 0 {
            let mut next: Vec<LackingEntry> =
                self.rest.by_ref().take(if gathered.are_small() { AT_ONCE } else { 1 }).collect();
            for table in 0..self.replica.tables.len() {
                self.look_up(table, &mut next, gathered)?;
            }
            self.ahead = next.into_iter();
        }
        Ok(self.ahead.next())
    }

    /// The sequence of the one after that.
    pub(super) fn peek(&self) -> Option<u64> {
        self.ahead.as_slice().first().or(self.rest.as_slice().first()).map(|entry| entry.sequence)
    }

    /// Looks up the rows of one table.
    fn look_up(&self, table: usize, entries: &mut [LackingEntry], gathered: &Gathered<'_>) -> Result<(), StoreError> {
        let wanted: Vec<&mut Place> = entries
            .iter_mut()
            .map(|entry| &mut entry.place)
            .filter(
                |place| matches!(place, Place::Table(of, key) if *of == table && !gathered.has_seen(self.replica, table, key)),
            )
            .collect();
        if wanted.len() < 2 {
            return Ok(());
        }
        let keys: Vec<&[Value]> = wanted.iter().map(|place| place.key()).collect();
        let states = read_states(self.conn, self.replica, table, &keys)?;
        for (place, state) in wanted.into_iter().zip(states) {
            // Of what else there is in its clock, more is to be read.
            if !state.has_more {
                let key = place.key().to_vec();
                *place = Place::Found(table, key.clone(), image(key, state).map(Box::new));
            }
        }
        Ok(())
    }
}

/// The image of a row that has a row entry, as [`read_image`](crate::row_clock::read_image) has it.
fn image(key: Vec<Value>, state: RowState) -> Option<RowImage> {
    let clock = state.clock?;
    let values = if clock.is_deleted() { Some(key) } else { state.values };
    values.map(|values| RowImage { values, clock })
}
