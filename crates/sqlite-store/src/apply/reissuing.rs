//! Rows that are to stand as they are, whatever other nodes hold: each becomes a new change of this node.

use replication::Value;
use rusqlite::Connection;

use super::work::{RowPlan, Work};
use super::{ApplyOutcome, ApplyRules, Stop, of_own_accord};
use crate::error::StoreError;
use crate::replica::Replica;
use crate::row_clock::read_clock;

/// Issues the rows with these keys anew, or their deletions. Inside the caller's write transaction, like
/// [`apply`](super::apply).
pub(crate) fn reissue_rows(
    conn: &Connection,
    replica: &mut Replica,
    rules: &ApplyRules<'_>,
    index: usize,
    keys: &[Vec<Value>],
) -> Result<ApplyOutcome, StoreError> {
    of_own_accord(conn, replica, rules, |work| keys.iter().try_for_each(|key| work.issue_as_it_is(index, key)))
}

impl Work<'_> {
    fn issue_as_it_is(&mut self, index: usize, key: &[Value]) -> Result<(), Stop> {
        let deleted = read_clock(self.conn, self.replica, &self.replica.tables[index], key)?;
        let deleted = deleted.is_some_and(|clock| clock.is_deleted());
        let Some(local) = self.local(index, key)? else { return Ok(()) };
        let values = (!local.clock.is_deleted()).then(|| local.values.clone());
        let mut plan = RowPlan { again: true, ..self.reissue(values, &local.clock) };
        if deleted && !local.clock.is_deleted() {
            // It came back, and nobody was told.
            plan.clock.rest = Some(plan.clock.row);
        }
        self.store(index, key, Some(&local), plan)
    }
}
