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

    /// Lets go of what opening the file took: its statements are not run again. With many databases it is much. Later statements are
    /// kept, also at rest: without them the first change after it would take twice as long to reach peers.
    pub(crate) fn forget_opening(&self) {
        self.conn.flush_prepared_statement_cache();
        // It cannot fail.
        let _ = self.conn.execute_batch("PRAGMA shrink_memory");
    }
}
