//! What is done at the request of a person.

use std::time::Instant;

use super::Worker;
use crate::attached::Attachment;
use crate::error::StoreError;

impl Worker {
    /// Does what is asked, and makes known what came of it before it is answered.
    pub(super) fn do_for_somebody<T>(
        &mut self,
        work: impl FnOnce(&mut Attachment) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.check_identity();
        let acted = self.with_attachment(work);
        let events = self.attachment.as_mut().map(Attachment::take_events).unwrap_or_default();
        events.into_iter().for_each(|event| self.tell(event));
        match &acted {
            Ok(_) => {
                self.changed = Some(Instant::now());
                self.recover();
            }
            // These pass.
            Err(StoreError::NotAttached | StoreError::Closed | StoreError::Migrating | StoreError::Unmerged { .. }) => {
            }
            Err(error) => {
                self.unwritable = !error.is_busy();
                self.fail(error);
            }
        }
        self.announce();
        acted
    }
}
