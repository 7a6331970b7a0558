//! When the thread looks at the file, and what it does then.

use std::time::{Duration, Instant};

use super::Worker;
use crate::attached::{Attachment, Looked};
use crate::error::StoreError;

/// The pause before it is looked whether a lock that was held for long is free.
const LOCK_CHECK: Duration = Duration::from_millis(500);

/// Pauses before looks after an event. The first event of a commit comes before the rest of it is written: a look at once would find
/// nothing and be in the writer's way. And fsync on a slow disk may hold a commit back for a long time; what takes longer than all of
/// them is found by the poll.
pub(super) const RECHECKS: [Duration; 9] = [
    Duration::from_micros(40),
    Duration::from_micros(100),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
];

/// The longest of these pauses, by its place, while more events come: a long commit is under way.
pub(super) const WHILE_WRITTEN: usize = 2;

/// How long applications are left alone after a capture for which the lock was held for three times less, so long that few of their
/// commits find the file locked and their caches outdated where much is written.
const LEFT_ALONE: Duration = Duration::from_millis(1);

/// How long they are at most, after a capture for which it was held for twice as long. What is written meanwhile at full speed is to be
/// captured at once, and sent as one batch.
const LEFT_ALONE_AT_MOST: Duration = Duration::from_millis(20);

/// How long nothing must have happened before the write-ahead log is folded into the file.
const FOLD_AFTER: Duration = Duration::from_secs(1);

/// How long the state folder may not know how far a file has come.
const REMEMBER_AFTER: Duration = Duration::from_millis(500);

impl Worker {
    /// How long to wait for a command. Not at all where it is to close.
    pub(super) fn pause(&self) -> Duration {
        if self.is_closing() {
            return Duration::ZERO;
        }
        if let Some(left) = self.rest.left() {
            return left;
        }
        let poll = self.options.poll_interval.saturating_sub(self.last_poll.elapsed());
        if let Some(at) = self.retry_at {
            return at.saturating_duration_since(Instant::now()).min(poll);
        }
        let alone = self.left_alone_until.saturating_duration_since(Instant::now());
        if let Some(attachment) = self.attachment.as_ref().filter(|attachment| attachment.has_work()) {
            return if attachment.is_behind() { alone } else { Duration::ZERO };
        }
        let quiet = self.attachment.as_ref().and_then(Attachment::migrating).unwrap_or(poll);
        let reader = self.attachment.as_ref().and_then(Attachment::publishing_waits).unwrap_or(poll);
        RECHECKS.get(self.recheck).map_or(poll, |pause| alone.max(*pause)).min(poll).min(quiet).min(reader)
    }

    /// Looks again, or polls.
    pub(super) fn on_timer(&mut self) {
        let written = self.wake.take();
        self.recheck = (self.recheck + 1).min(if written { WHILE_WRITTEN } else { RECHECKS.len() });
        if self.last_poll.elapsed() >= self.options.poll_interval || self.attachment.is_none() {
            self.poll();
        } else {
            self.look_by(Attachment::glance);
        }
    }

    /// The slow look, which also does what is done now and then.
    pub(super) fn poll(&mut self) {
        self.last_poll = Instant::now();
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        if !self.watching {
            self.watching = self.file_watch.watch(&self.options.path, &self.wake).is_ok();
        }
        if self.attachment.is_none() {
            self.open();
        }
        let before = self.before_rest();
        self.look();
        if self.changed.is_some_and(|at| at.elapsed() >= FOLD_AFTER) {
            let forgotten = self.attachment.as_mut().is_some_and(Attachment::forget_fresh);
            if self.attachment.as_ref().is_some_and(Attachment::fold) && forgotten {
                self.changed = None;
            }
        }
        self.rest(before);
    }

    /// Captures what applications committed, if anything, and goes on with what there is to do.
    pub(super) fn look(&mut self) {
        self.look_by(Attachment::look);
    }

    fn look_by(&mut self, look: impl FnOnce(&mut Attachment) -> Result<Looked, StoreError>) {
        self.rest.end();
        self.check_identity();
        if self.attachment.is_none() {
            return;
        }
        let looked = self.follow_orders().and_then(|()| self.with_attachment(look));
        match looked {
            Ok(looked) if looked.quiet && self.retry_at.is_none() && !self.told_waiting => return,
            Ok(looked) => {
                if let Some(held) = looked.captured_in {
                    self.leave_alone(held);
                }
                if looked.found {
                    self.recheck = 0;
                    self.changed = Some(Instant::now());
                }
                looked.events.into_iter().for_each(|event| self.tell(event));
                if self.told_waiting && self.attachment.as_ref().is_some_and(Attachment::is_locked) {
                    // It could be read; what is to be written still waits.
                    self.retry_at = Some(Instant::now() + LOCK_CHECK);
                } else {
                    self.recover();
                }
            }
            Err(error) => self.fail(&error),
        }
        // Whoever were told now would have to read what it is about to be given.
        if !self.attachment.as_ref().is_some_and(Attachment::is_gathering) {
            self.announce();
        }
        self.remember();
    }

    /// Leaves applications alone after a transaction for which the lock was held for so long. Between those of one capture it is
    /// not for long: they would write about as much meanwhile as was captured, and it would have no end.
    fn leave_alone(&mut self, held: Duration) {
        self.held += held;
        let alone = if self.attachment.as_ref().is_some_and(Attachment::is_gathering) {
            LEFT_ALONE
        } else {
            let held = std::mem::take(&mut self.held);
            (3 * held).min(LEFT_ALONE).max(held / 2).min(LEFT_ALONE_AT_MOST)
        };
        self.left_alone_until = Instant::now() + alone;
    }

    /// Takes note of how far the file has come, now and then. What fails is tried again at the next look: the state folder is
    /// not what sync depends on.
    fn remember(&mut self) {
        if self.remembered.is_none_or(|at| at.elapsed() >= REMEMBER_AFTER) {
            self.remembered = Some(Instant::now());
            let _ = self.with_attachment(Attachment::remember);
        }
    }
}
