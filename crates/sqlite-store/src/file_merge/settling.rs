//! Rows that unique indexes refuse while others still hold their values.
//!
//! Most can be written once others are. Rows in a circle make way for each other: all are taken out and put back changed. A row whose
//! value is held by one that stays is refused, and stays as it was.

use replication::Value;

use super::SkipKind;
use super::writing::{Writer, Written, first_value, written};
use crate::bind::{bind_from, values_from};
use crate::error::StoreError;

/// A row that could not be changed yet.
pub(super) struct Deferred {
    pub(super) key: Vec<Value>,
    pub(super) old: Vec<Value>,
    pub(super) new: Vec<Value>,
}

/// What became of rows.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) written: u64,
    /// The keys of rows that stay as they were, and why.
    pub(super) refused: Vec<(Vec<Value>, SkipKind, String)>,
}

/// What a row that makes way is to have again.
struct Vacated {
    rowid: Option<i64>,
    /// What is in the columns that SOURCE does not have.
    excluded: Vec<Value>,
}

impl Writer<'_> {
    /// Writes the rows that can be written.
    pub(super) fn settle(&self, mut deferred: Vec<Deferred>) -> Result<Settled, StoreError> {
        let mut settled = Settled::default();
        // A chain of rows that each take the value of the next comes free from its end.
        loop {
            let before = deferred.len();
            let mut refused = Vec::new();
            for row in deferred.into_iter().rev() {
                match self.write(&row.key, &row.old, &row.new)? {
                    Written::Done => settled.written += 1,
                    Written::Clashes(_) => refused.push(row),
                    Written::Refused(reason) => settled.refused.push((row.key, SkipKind::Constraint, reason)),
                }
            }
            deferred = refused;
            // A long chain in no order must not take quadratic time.
            if (before - deferred.len()) * 8 <= before {
                break;
            }
        }
        self.make_way(deferred, &mut settled)?;
        Ok(settled)
    }

    /// Takes all rows out and puts them back changed. Where some are refused, all is undone and tried again without them: they stay as
    /// they were, and others may need what they hold.
    fn make_way(&self, mut rows: Vec<Deferred>, settled: &mut Settled) -> Result<(), StoreError> {
        while !rows.is_empty() {
            self.conn.execute_batch("SAVEPOINT _sync_way")?;
            let mut vacated = Vec::with_capacity(rows.len());
            for row in &rows {
                vacated.push(self.take_out(&row.key)?);
            }
            let mut refusals = Vec::with_capacity(rows.len());
            for (row, place) in rows.iter().zip(&vacated) {
                refusals.push(match self.put_back(row, place)? {
                    Written::Done => None,
                    Written::Clashes(reason) => Some((SkipKind::UniqueExists, reason)),
                    Written::Refused(reason) => Some((SkipKind::Constraint, reason)),
                });
            }
            if refusals.iter().all(Option::is_none) {
                settled.written += rows.len() as u64;
                self.conn.execute_batch("RELEASE _sync_way")?;
                return Ok(());
            }
            self.conn.execute_batch("ROLLBACK TO _sync_way; RELEASE _sync_way")?;
            let mut left = Vec::new();
            for (row, refusal) in rows.into_iter().zip(refusals) {
                match refusal {
                    Some((kind, reason)) => settled.refused.push((row.key, kind, reason)),
                    None => left.push(row),
                }
            }
            rows = left;
        }
        Ok(())
    }

    fn take_out(&self, key: &[Value]) -> Result<Vacated, StoreError> {
        let mut excluded = Vec::new();
        if let Some(sql) = &self.sql.excluded {
            let mut statement = self.conn.prepare_cached(&sql.read)?;
            bind_from(&mut statement, 1, key)?;
            if let Some(row) = statement.raw_query().next()? {
                excluded = values_from(row, 0, sql.count)?;
            }
        }
        let rowid = match &self.sql.rowid {
            Some(sql) => first_value(self.conn, sql, key)?,
            None => None,
        };
        let mut statement = self.conn.prepare_cached(&self.sql.delete)?;
        bind_from(&mut statement, 1, key)?;
        statement.raw_execute()?;
        Ok(Vacated { rowid, excluded })
    }

    fn put_back(&self, row: &Deferred, place: &Vacated) -> Result<Written, StoreError> {
        let inserted = match (place.rowid, &self.sql.insert_with_rowid) {
            (Some(rowid), Some(sql)) => {
                let mut statement = self.conn.prepare_cached(sql)?;
                statement.raw_bind_parameter(1, rowid)?;
                bind_from(&mut statement, 2, &row.new)?;
                written(statement.raw_execute())?
            }
            _ => {
                let mut statement = self.conn.prepare_cached(&self.sql.insert)?;
                bind_from(&mut statement, 1, &row.new)?;
                written(statement.raw_execute())?
            }
        };
        let (Written::Done, Some(sql), false) = (&inserted, &self.sql.excluded, place.excluded.is_empty()) else {
            return Ok(inserted);
        };
        let mut statement = self.conn.prepare_cached(&sql.write)?;
        bind_from(&mut statement, 1, &row.key)?;
        bind_from(&mut statement, row.key.len() + 1, &place.excluded)?;
        written(statement.raw_execute())
    }
}
