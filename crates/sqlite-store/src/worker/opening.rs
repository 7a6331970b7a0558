//! Opening a file and letting go of it: when it comes, is replaced, detached or removed, and when something stands in the way.

use std::time::{Duration, Instant};

use super::Worker;
use super::looking::LOCK_CHECK;
use super::turn::Turn;
use crate::attached::{Attachment, Before};
use crate::database::{DatabaseEvent, Phase};
use crate::error::StoreError;
use crate::lift;
use crate::pulse;
use crate::state::FileIdentity;

/// A database that failed within this time before goes on with the pauses it had.
const CALM: Duration = Duration::from_secs(60);

/// The pause before it is looked whether a detached file is attached again.
const DETACHED_CHECK: Duration = Duration::from_secs(1);

/// The pause before it is looked whether a migration is over.
const MIGRATION_CHECK: Duration = Duration::from_millis(500);

/// The longest pause between tries to open a database that failed.
const RETRY_CAP: Duration = Duration::from_secs(30);

impl Worker {
    /// Lets go of a file that was replaced or removed. Asked before every look: what another file's program writes beside it
    /// must not be taken for the old one's journal.
    pub(super) fn check_identity(&mut self) {
        let now = FileIdentity::of(&self.options.path).ok();
        if self.attachment.as_ref().is_some_and(|attachment| Some(attachment.file()) != now)
            && let Some(attachment) = self.attachment.take()
        {
            attachment.abandon();
            self.open();
        }
    }

    /// Lets go of a replica that may not be what the file holds; it is opened again at once.
    pub(super) fn check_broken(&mut self) {
        if self.attachment.as_ref().is_some_and(Attachment::is_broken) {
            self.attachment = None;
            self.open();
        }
    }

    pub(super) fn open(&mut self) {
        self.forget_pace();
        let Ok(file) = FileIdentity::of(&self.options.path) else {
            self.retry_at = None;
            self.failures = 0;
            // Its folder may go as well, and the watch with it.
            self.watching = false;
            if self.phase != Phase::Missing {
                self.tell(DatabaseEvent::Missing);
                self.phase = Phase::Missing;
                self.announce();
            }
            return;
        };
        if self.detached == Some(file) && !Attachment::is_attached(&self.options.path).unwrap_or(false) {
            return self.fail(&StoreError::Detached);
        }
        self.detached = None;
        // A connection, let alone a lock, would be in the migration's way.
        if lift::is_running(&self.options.path) {
            return self.fail(&StoreError::Lifted);
        }
        if self.is_still_damaged() {
            return;
        }
        let before = self.sleep.before.take().filter(|before| before.is_of(file));
        match self.open_aside(file, before.as_ref()) {
            Ok((attachment, mut events)) => {
                // Where something went wrong meanwhile, it is told of as a whole.
                before.iter().filter(|_| self.phase == Phase::Attached).for_each(|before| before.filter(&mut events));
                self.attachment = Some(attachment);
                self.sleep.put_off();
                self.unwritable = false;
                self.lean = false;
                self.changed = Some(Instant::now());
                events.into_iter().for_each(|event| self.tell(event));
                self.recover();
                self.announce();
            }
            Err(error) => {
                if matches!(error, StoreError::Detached) {
                    self.detached = Some(file);
                } else {
                    self.sleep.before = before;
                }
                self.fail(&error);
                self.announce();
            }
        }
    }

    /// Opens the file on a thread of its own. SQLite's parser and the search of schemas go deep, and what they touch of a thread's stack
    /// stays with it: with many databases it is much. (A schema that changes later is looked at on the database's own.)
    fn open_aside(
        &self,
        file: FileIdentity,
        before: Option<&Before>,
    ) -> Result<(Attachment, Vec<DatabaseEvent>), StoreError> {
        let _turn = Turn::take();
        let pulse = pulse::own();
        let Self { options, runtime, closing, unwritable, .. } = self;
        let open = || {
            pulse.into_iter().for_each(pulse::begin);
            let (mut opened, events) = Attachment::open(options, (file, before), runtime, closing)?;
            if *unwritable {
                opened.write(|_, _| Ok(((), true)))?;
            }
            // What opening took is for the next one.
            opened.forget_statements();
            Ok((opened, events))
        };
        std::thread::scope(|scope| {
            let opening = std::thread::Builder::new().name(format!("opening {}", self.name));
            let opening = opening.spawn_scoped(scope, open).map_err(|source| StoreError::Thread { source })?;
            opening.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub(super) fn recover(&mut self) {
        if self.failed_at.is_none_or(|at| at.elapsed() >= CALM) {
            self.failures = 0;
        }
        self.retry_at = None;
        if self.told_waiting || matches!(self.phase, Phase::Failed { .. } | Phase::Migrating) {
            self.tell(DatabaseEvent::Recovered);
        }
        self.told_waiting = false;
        self.phase = Phase::Attached;
    }

    /// An application that holds the lock is waited for; everything else lets go of the file, so that the next try starts
    /// from what is there.
    pub(super) fn fail(&mut self, error: &StoreError) {
        let detached = self.attachment.as_ref().is_some_and(Attachment::is_detached);
        let error = if detached { &StoreError::Detached } else { error };
        if matches!(error, StoreError::Lifted) {
            return self.await_migration();
        }
        let retry_in = Duration::from_millis(500).saturating_mul(1 << self.failures.min(8)).min(RETRY_CAP);
        let retry_in = match error {
            StoreError::Detached => DETACHED_CHECK,
            // A try waits for the lock by itself.
            error if error.is_busy() => LOCK_CHECK,
            _ => retry_in,
        };
        self.failures = self.failures.saturating_add(u32::from(!error.is_busy()));
        self.retry_at = Some(Instant::now() + retry_in);
        if error.is_busy() {
            self.check_broken();
            if !std::mem::replace(&mut self.told_waiting, true) {
                self.tell(DatabaseEvent::Waiting { retry_in });
            }
            return;
        }
        self.failed_at = Some(Instant::now());
        let attachment = self.attachment.take();
        let file = attachment.as_ref().map(Attachment::file);
        let mut disk = None;
        if error.is_damage() {
            attachment.into_iter().for_each(Attachment::abandon);
            disk = self.note_damage();
        }
        let error = disk.as_ref().unwrap_or(error);
        if matches!(error, StoreError::Detached) {
            self.detached = self.detached.or(file);
        }
        let (kind, remedy) = (error.kind(), error.remedy());
        let reason = error.to_string();
        let phase = Phase::Failed { kind, reason: reason.clone(), remedy };
        if self.phase != phase {
            self.phase = phase;
            self.tell(DatabaseEvent::Failed { kind, reason, remedy, retry_in });
        }
    }

    /// Lets go of a file on which a migration runs.
    fn await_migration(&mut self) {
        self.attachment = None;
        self.retry_at = Some(Instant::now() + MIGRATION_CHECK);
        if self.phase != Phase::Migrating {
            self.phase = Phase::Migrating;
            self.tell(DatabaseEvent::Migrating);
            self.announce();
        }
    }

    /// Tells once why nothing is sent to anybody.
    pub(super) fn tell_unmerged(&mut self, error: Option<&StoreError>) {
        let reason = error.filter(|error| matches!(error, StoreError::Unmerged { .. })).map(ToString::to_string);
        if let (Some(error), Some(reason)) = (error, &reason)
            && self.unmerged.as_ref() != Some(reason)
        {
            let (kind, remedy) = (error.kind(), error.remedy());
            self.tell(DatabaseEvent::Failed {
                kind,
                reason: reason.clone(),
                remedy,
                retry_in: Duration::from_millis(500),
            });
        }
        self.unmerged = reason;
    }
}
