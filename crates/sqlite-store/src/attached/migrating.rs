//! Migrations under way.
//!
//! A migration is a series of changes of the schema. Rows that came in its middle would find some of its tables made and
//! others not, and the program that migrates would find rows without their parents. So while rows wait for tables or columns
//! that are still to come, none are taken or given until the schema has been left alone for a while. As soon as everything
//! has its place, the migration is over as far as peers are concerned.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use replication::{TableRows, TableShape};

use super::Attachment;
use crate::apply::columns::Fit;
use crate::error::StoreError;
use crate::parked;

/// Where a migration stands.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Migration {
    /// When the schema last changed.
    changed: Option<Instant>,
    /// Whether rows wait that have no place yet.
    unplaced: bool,
}

impl Attachment {
    /// The schema has changed.
    pub(super) fn note_migration(&mut self) -> Result<(), StoreError> {
        let shapes = parked::shapes(&self.conn)?;
        let unplaced = shapes.iter().any(|shape| !self.has_place(shape));
        self.migration = Migration { changed: Some(Instant::now()), unplaced };
        Ok(())
    }

    /// How long the schema must still be left alone before rows are taken and given.
    pub(crate) fn migrating(&self) -> Option<Duration> {
        if self.migration.unplaced { self.quiet_left() } else { None }
    }

    pub(super) fn quiet_left(&self) -> Option<Duration> {
        let since = self.migration.changed?.elapsed();
        self.options.schema_quiet.checked_sub(since).filter(|left| !left.is_zero())
    }

    /// Whether the table that rows of a shape belong to is what it is on the other side.
    fn has_place(&self, shape: &TableShape) -> bool {
        let selection = &self.replica.wire_selection;
        if selection.exclusion(&shape.name).is_some() {
            return true;
        }
        let table = self.replica.table_by_wire_name(&shape.name).map(|index| &self.replica.tables[index]);
        table.is_some_and(|table| match Fit::of(shape, &table.wire) {
            Fit::Whole(order) => order.fills_all(),
            Fit::Partly(order, missing) => {
                order.fills_all() && missing.iter().all(|column| selection.excludes_column(&shape.name, column))
            }
            Fit::OtherKey => false,
        })
    }

    /// Whether rows may be taken and given now; `incoming` are the ones that are to be taken.
    pub(super) fn check_not_migrating(&mut self, incoming: &[TableRows]) -> Result<(), StoreError> {
        if self.schema_version()? != self.replica.schema_version {
            let mut events = self.take_events();
            let reattached = self.reattach(&mut events);
            self.events.extend(events);
            reattached?;
        }
        let unplaced = self.quiet_left().is_some() && incoming.iter().any(|rows| !self.has_place(&rows.shape));
        if unplaced || self.migrating().is_some() {
            return Err(StoreError::Migrating);
        }
        // What a migration wrote while nobody watched is in no clock yet: rows that come would take its place without a word,
        // and rows that go would not be what their clocks say.
        while !self.migrated.is_done() {
            if self.closing.load(Ordering::Relaxed) {
                return Err(StoreError::Closed);
            }
            self.merge_waiting()?;
            self.migration_step()?;
            if self.migrated.is_done() {
                self.retry_all();
            }
        }
        Ok(())
    }
}
