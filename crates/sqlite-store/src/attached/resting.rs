//! Rest: when nothing is due.

use super::Attachment;

impl Attachment {
    /// Whether nothing is to be done soon unless somebody writes to the file or asks for something. What is done now and then can wait.
    pub(crate) fn rests(&self) -> bool {
        let waits = self.replica.waiting.undecided > 0 && !self.replica.touched.is_empty();
        !self.has_work()
            && !self.broken
            && !self.told_ahead
            && !self.cut_off
            && !waits
            && !self.is_publishing()
            && self.quiet_left().is_none()
            && self.replica.merging().is_none()
            && self.foreign_keys.orphans().count == 0
            && self.events.is_empty()
    }

    /// Lets go of the statements that were run so far, for when most of them are not run again, and of the memory beside them. With many
    /// databases it is much.
    pub(crate) fn forget_statements(&self) {
        self.conn.flush_prepared_statement_cache();
        // It cannot fail.
        let _ = self.conn.execute_batch("PRAGMA shrink_memory");
    }
}
