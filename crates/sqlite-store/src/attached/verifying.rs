//! Comparing with another database by hand, and issuing anew what is to stand.

use replication::Value;

use super::Attachment;
use crate::apply::{ApplyOutcome, reissue_rows};
use crate::error::StoreError;
use crate::verification::{self, VerifyAnswer, VerifyQuestion};

impl Attachment {
    /// What there is.
    pub(crate) fn verify(&mut self, question: VerifyQuestion) -> Result<VerifyAnswer, StoreError> {
        self.in_snapshot(|conn, replica| verification::look(conn, replica, question))
    }

    /// Issues rows of a table anew, as they are. False if there is no such table, or its key has another number of columns.
    pub(crate) fn reissue(&mut self, table: &str, keys: &[Vec<Value>]) -> Result<bool, StoreError> {
        let Some(index) = self.replica.table_by_wire_name(table) else { return Ok(false) };
        if keys.iter().any(|key| key.len() != self.replica.tables[index].table.key.len()) {
            return Ok(false);
        }
        match self.transact(None, |conn, replica, rules| reissue_rows(conn, replica, rules, index, keys))? {
            ApplyOutcome::Applied(_) => Ok(true),
            ApplyOutcome::Held(held) => Err(StoreError::Unmerged { reason: held.reason }),
            ApplyOutcome::Failed { reason } => Err(StoreError::Unmerged { reason }),
            ApplyOutcome::Known | ApplyOutcome::Gap => Err(StoreError::Migrating),
        }
    }
}
