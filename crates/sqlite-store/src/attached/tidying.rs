//! Tidying the index of dots, step by step: when nothing else happens, or when too much has come together meanwhile.

use super::Attachment;
use crate::dot_index::{Growth, Tidying};
use crate::error::StoreError;

/// Rows that are added before it is asked again whether it is time to.
const OFTEN: u64 = 1_000;

/// Where that stands.
#[derive(Debug, Default)]
pub(super) struct DotTidying {
    pass: Option<Tidying>,
    /// The pass waits for a quiet moment.
    waits: bool,
    /// How many rows had been added when it was last asked whether to begin one, and whether that was in a quiet moment.
    asked_at: Option<(u64, bool)>,
    /// The generation of the file that the last step left.
    generation: Option<i64>,
}

impl DotTidying {
    /// Whether there is something to do without being asked.
    pub(super) const fn has_work(&self) -> bool {
        self.pass.is_some() && !self.waits
    }
}

impl Attachment {
    /// Tidies some segments, if it is time to.
    pub(super) fn tidy_dots(&mut self) -> Result<(), StoreError> {
        let is_quiet = self.tidying.generation == Some(self.generation);
        self.tidying.generation = Some(self.generation);
        let added = self.replica.dots.added();
        let is_news =
            |(at, quiet): (u64, bool)| added.wrapping_sub(at) >= OFTEN || (is_quiet && (added != at || !quiet));
        if self.tidying.pass.is_none() && !self.tidying.asked_at.is_none_or(is_news) {
            return Ok(());
        }
        self.tidying.asked_at = Some((added, is_quiet));
        let growth = Growth::of(&self.conn)?;
        self.tidying.waits = !is_quiet && !growth.is_urgent();
        if self.tidying.waits {
            return Ok(());
        }
        let mut pass = match self.tidying.pass.take() {
            None if growth.is_due() => Tidying::begin(&self.conn)?,
            None => return Ok(()),
            Some(pass) => pass,
        };
        let finished = self.tidy_some(&mut pass);
        self.tidying.generation = Some(self.generation);
        if !matches!(finished, Ok(true)) {
            self.tidying.pass = Some(pass);
        }
        finished.map(drop)
    }

    /// One step of a pass. True if it is finished.
    fn tidy_some(&mut self, pass: &mut Tidying) -> Result<bool, StoreError> {
        let Some(exchange) = self.in_known_state(|conn, replica| pass.next(conn, replica))? else {
            // Another program has changed the file: that is seen to first.
            self.tidying.waits = true;
            return Ok(false);
        };
        let Some(exchange) = exchange else {
            self.in_write(|conn, _| Tidying::finish(conn).map(|()| ((), true)))?;
            return Ok(true);
        };
        if !exchange.is_empty() {
            self.in_write(|conn, replica| exchange.make(conn, replica).map(|made| ((), made)))?;
        }
        Ok(false)
    }
}
