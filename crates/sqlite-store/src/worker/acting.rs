//! Acting on conflict records, at the request of a person.

use std::time::Instant;

use super::Worker;
use crate::attached::Attachment;
use crate::conflicts::{ConflictAction, Refusal, StoredConflict};
use crate::error::StoreError;

impl Worker {
    /// Acts on a record, and makes known what came of it before it is answered.
    pub(super) fn act(
        &mut self,
        number: i64,
        action: ConflictAction,
    ) -> Result<Result<StoredConflict, Refusal>, StoreError> {
        self.check_identity();
        let acted = self.with_attachment(|attachment| attachment.act(number, action));
        let events = self.attachment.as_mut().map(Attachment::take_events).unwrap_or_default();
        events.into_iter().for_each(|event| self.tell(event));
        match &acted {
            Ok(_) => {
                self.changed = Some(Instant::now());
                self.recover();
            }
            Err(StoreError::NotAttached | StoreError::Closed) => {}
            Err(error) => {
                self.unwritable = !error.is_busy();
                self.fail(error);
            }
        }
        self.announce();
        acted
    }
}
