//! Writing what became of a row: shown to the observer, its clock, and its content, now or once a unique index lets it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use replication::{RowClock, RowImage, Value};
use rusqlite::Connection;

use super::work::{NOBODY, RowPlan, Work};
use super::{ApplyOutcome, Stop};
use crate::bind::bind_from;
use crate::capture::canonical_key;
use crate::counting;
use crate::error::StoreError;
use crate::observer::{IncomingRow, RowOperation, RowVerdict};
use crate::replica::Replica;
use crate::row_clock::put_clock;
use crate::row_write::{RowWrite, write_row};

impl Work<'_> {
    /// Writes what was decided, with the observer's consent.
    pub(super) fn store(
        &mut self,
        index: usize,
        key: &[Value],
        local: Option<&RowImage>,
        decision: RowPlan,
    ) -> Result<(), Stop> {
        let old = local.filter(|image| !image.clock.is_deleted()).map(|image| image.values.clone());
        let decision = self.consult(index, key, old.as_deref(), decision)?;
        // A row that was written twice has the column entries of the first time.
        let parts = |clock: &RowClock| !clock.columns.is_empty() || clock.rest.is_some() || clock.is_deleted();
        let had_columns = local.is_some_and(|image| parts(&image.clock)) || decision.again;
        put_clock(self.conn, self.replica, index, key, &decision.clock, had_columns)?;
        if let Some(values) = &decision.values {
            counting::note(self.conn, self.replica, (index, key), &decision.clock, values)?;
        }
        let refused = self.refused(index, key);
        if old == decision.values && refused.is_none() {
            return Ok(());
        }
        self.applied.written.count(old.is_some(), decision.values.is_some());
        let mut write = RowWrite { table: index, key: key.to_vec(), old, new: decision.values, clock: decision.clock };
        if let Some(place) = refused {
            // What is in the table is older than what this row was merged with.
            write.old.clone_from(&self.deferred[place].old);
        }
        let written = write_row(self.conn, &self.replica.tables[index], &write)?;
        match refused {
            Some(place) => {
                if written {
                    write.old.clone_from(&write.new);
                }
                self.deferred[place] = write;
            }
            None if !written => {
                self.refused_keys.insert((index, canonical_key(&self.replica.tables[index], key)));
                self.deferred.push(write);
            }
            None => {}
        }
        self.applied.rows += 1;
        self.replica.touched.insert(self.replica.tables[index].table.number);
        Ok(())
    }

    /// The place of a row among those that a unique index refused: the table does not hold what it was merged to.
    pub(super) fn refused(&self, index: usize, key: &[Value]) -> Option<usize> {
        if self.deferred.is_empty() {
            return None;
        }
        let table = &self.replica.tables[index];
        let canonical = (index, canonical_key(table, key));
        if !self.refused_keys.contains(&canonical) {
            return None;
        }
        let same = |write: &RowWrite| write.table == index && canonical_key(table, &write.key) == canonical.1;
        self.deferred.iter().position(same)
    }

    /// Shows the row to the observer and follows its verdict.
    fn consult(
        &mut self,
        index: usize,
        key: &[Value],
        old: Option<&[Value]>,
        decision: RowPlan,
    ) -> Result<RowPlan, Stop> {
        let new = decision.values.as_deref();
        let operation = match (old, new) {
            (None, Some(_)) => RowOperation::Insert,
            (Some(_), None) => RowOperation::Delete,
            (Some(before), Some(after)) if before != after => RowOperation::Update,
            _ => return Ok(decision),
        };
        let Some(observer) = self.rules.observer else { return Ok(decision) };
        let newest = decision.clock.newest();
        let node = self.replica.node_name(newest.dot.origin);
        let shape = &self.replica.tables[index].shape;
        let row =
            IncomingRow { shape, operation, key, old, new, dot: newest.dot, timestamp: newest.timestamp, node: &node };
        let verdict = catch_unwind(AssertUnwindSafe(|| observer.observe(&row)))
            .unwrap_or_else(|_| RowVerdict::Fail("the apply callback panicked".to_owned()));
        let values = match verdict {
            RowVerdict::Apply => return Ok(decision),
            RowVerdict::Skip => old.map(<[Value]>::to_vec),
            RowVerdict::Replace(values) if values.len() == shape.columns.len() => Some(values),
            RowVerdict::Replace(values) => {
                let reason = format!(
                    "the apply callback replaced a row of table {:?} with {} values where it has {} columns",
                    shape.name,
                    values.len(),
                    shape.columns.len()
                );
                return Err(Stop::Outcome(Box::new(ApplyOutcome::Failed { reason })));
            }
            RowVerdict::Fail(reason) => return Err(Stop::Outcome(Box::new(ApplyOutcome::Failed { reason }))),
        };
        Ok(self.reissue(values, &decision.clock))
    }
}

/// Gives a key the clock that it had before a row that could not be written.
pub(super) fn put_back(
    conn: &Connection,
    replica: &mut Replica,
    index: usize,
    key: &[Value],
    local: Option<&RowImage>,
) -> Result<(), StoreError> {
    let mut statement = conn.prepare_cached(&replica.tables[index].sql.clock_drop)?;
    bind_from(&mut statement, 1, key)?;
    statement.raw_execute()?;
    drop(statement);
    let Some(local) = local.filter(|local| local.clock.row.dot.origin != NOBODY) else { return Ok(()) };
    let mut clock = local.clock.clone();
    clock.columns.retain(|(_, entry)| entry.dot.origin != NOBODY);
    put_clock(conn, replica, index, key, &clock, false)?;
    counting::note(conn, replica, (index, key), &clock, &local.values)
}
