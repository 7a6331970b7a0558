//! A database in which nothing has happened for long: its file is closed until something does, and its thread ends. An open one takes
//! memory and descriptors, and there may be hundreds that nobody uses.
//!
//! It is closed as at a stop and opened as at a start, with all that a start finds out: the file may have been replaced, restored or
//! detached meanwhile. What is known of it stays known, and whoever asks for something, or writes to the file, wakes it. That a file is
//! not written is told by its times, as at any rest (see [`resting`](super::resting)).

use std::time::{Duration, Instant};

use replication::MAX_ORIGINS;

use super::{Command, Worker};
use crate::attached::{Before, lately};
use crate::database::NodeNames;
use crate::patrol::{Files, Post, Seen};

/// What is known of a database's sleep.
#[derive(Debug)]
pub(super) struct Sleep {
    /// When something was last done.
    active_at: Instant,
    closed: Option<Closed>,
    /// What was known of the file when it was closed.
    pub(super) before: Option<Before>,
}

/// Files that are closed.
#[derive(Debug)]
struct Closed {
    files: Files,
    /// What they are like.
    seen: Seen,
    /// When they are opened in any case.
    until: Instant,
}

impl Sleep {
    pub(super) fn new() -> Self {
        Self { active_at: Instant::now(), closed: None, before: None }
    }

    /// Something is done.
    pub(super) fn put_off(&mut self) {
        self.active_at = Instant::now();
    }
}

impl Worker {
    /// How long nothing more must happen until the file is closed.
    pub(super) fn sleeps_in(&self) -> Duration {
        self.options.close_after.saturating_sub(self.sleep.active_at.elapsed())
    }

    /// The file has been left alone for long: what it has issued is put on the disk, and when its times tell of the next write once more,
    /// it is closed. `seen` is what the files were like before a look that found nothing.
    pub(super) fn go_to_sleep(&mut self, seen: Seen) {
        let Some(attachment) = &mut self.attachment else { return };
        let done = attachment.is_put_down().and_then(|put_down| {
            match put_down {
                true => attachment.note_rest()?,
                // Somebody may come back, and is not to find the lock taken.
                false if attachment.is_in_use() => return Ok(None),
                false => attachment.put_down()?,
            }
            Ok(Some(put_down))
        });
        match done {
            Ok(Some(true)) => {}
            Ok(Some(false)) => {
                // Its log is folded first.
                self.changed = Some(Instant::now());
                return self.look();
            }
            Ok(None) => return self.sleep.put_off(),
            Err(error) => {
                self.sleep.put_off();
                self.fail(&error);
                return self.announce();
            }
        }
        let Some(attachment) = self.attachment.take() else { return };
        self.sleep.before = Some(attachment.close_for_now());
        let files = Files::of(&self.options.path);
        let now = files.seen();
        if !now.is_after_closing(&seen) {
            // Somebody came while it was closed.
            return self.open();
        }
        let closed = Closed { files, seen: now, until: Instant::now() + Before::lasts(&self.options) };
        self.watch_over(&closed);
        self.sleep.closed = Some(closed);
    }

    fn watch_over(&self, Closed { files, seen, .. }: &Closed) {
        let (files, every) = (files.clone(), self.options.poll_interval);
        // If nobody can do it, it is looked at now and then.
        self.file_watch.rest(Post { files, seen: *seen, every, wake: self.wake.clone() });
    }

    pub(super) const fn is_asleep(&self) -> bool {
        self.sleep.closed.is_some()
    }

    /// Whether nothing has happened to the file, and nothing is due.
    pub(super) fn sleeps_on(&self) -> bool {
        let Some(closed) = &self.sleep.closed else { return false };
        let on = Instant::now() < closed.until && closed.files.seen() == closed.seen;
        if on {
            self.watch_over(closed);
        }
        on
    }

    /// Opens the file, if it is asleep.
    pub(super) fn wake_up(&mut self) {
        if self.sleep.closed.take().is_some() {
            self.open();
        }
    }

    /// Whether a command tells or asks anything that is not known. What nodes know of each other they say again and again, and of more
    /// than can be kept nothing is new.
    pub(super) fn is_news(&self, command: &Command) -> bool {
        let state = self.state.borrow();
        let of_others = |origin| state.origin != Some(origin);
        match command {
            Command::Look | Command::Close => false,
            // It is done once.
            Command::Publish => state.publishing,
            Command::LearnNodes(nodes) => {
                let mut known = (*state.known).clone();
                known.learn_all(nodes);
                nodes.is_news_to(&state.known, lately(&self.options)) && known != *state.known
            }
            Command::LearnNames(NodeNames { own, heard }) => {
                let room = state.nodes.len() < MAX_ORIGINS;
                own.iter().any(|(origin, node)| of_others(*origin) && state.nodes.get(origin) != Some(node))
                    || room && heard.keys().any(|origin| of_others(*origin) && !state.nodes.contains_key(origin))
            }
            Command::LearnSchemas(heard) => {
                let mut known = (*state.schemas).clone();
                let others = heard.iter().filter(|(origin, _)| of_others(*origin));
                others.for_each(|(origin, schema)| known.learn(origin, schema.clone()));
                known != *state.schemas
            }
            _ => true,
        }
    }
}
