//! The thread of one database: everything that writes to it or reads its rows happens here, in turn.
//!
//! It looks at the file when an event or the poll says so, captures what applications committed, and serves batches. A
//! file event often comes before the commit that caused it is visible, so a look that finds nothing is repeated after
//! growing pauses before the thread rests until the next event or poll; where nothing is due, the poll looks at the file's
//! times alone (see [`resting`]).

mod acting;
mod command;
mod damage;
mod looking;
mod opening;
mod pace;
mod resting;
mod sleeping;
mod thread;
mod turn;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub(crate) use command::Command;
use damage::Traces;
use looking::{RECHECKS, WHILE_WRITTEN};
use pace::Pace;
use replication::{Batch, MAX_ORIGINS, NodeSchemas};
use resting::Rest;
use sleeping::Sleep;
pub(crate) use thread::{Line, start};
use tokio::sync::{mpsc, watch};

use crate::attached::Attachment;
use crate::database::{ApplyReply, DatabaseEvent, DatabaseOptions, DatabaseState, NodeNames, Phase};
use crate::error::StoreError;
use crate::fail_point::hang_point;
use crate::observer::RowObserver;
use crate::pause;
use crate::pulse;
use crate::state::FileIdentity;
use crate::watch::{FileWatch, Wake};

/// The thread's state.
pub(crate) struct Worker {
    name: Arc<str>,
    options: DatabaseOptions,
    file_watch: Arc<FileWatch>,
    watching: bool,
    wake: Wake,
    state: watch::Sender<Arc<DatabaseState>>,
    events: mpsc::Sender<(Arc<str>, DatabaseEvent)>,
    runtime: tokio::runtime::Handle,
    closing: Arc<AtomicBool>,
    attachment: Option<Attachment>,
    phase: Phase,
    /// The next of [`RECHECKS`].
    recheck: usize,
    /// Until when applications are left alone.
    left_alone_until: Instant,
    pace: Pace,
    /// Failed tries in a row, and when the next is due.
    failures: u32,
    failed_at: Option<Instant>,
    retry_at: Option<Instant>,
    /// A write failed for another reason than a lock: the database counts as failed until one succeeds.
    unwritable: bool,
    /// It is told that an application holds the lock.
    told_waiting: bool,
    /// What the file was like when it was found to be malformed.
    damaged: Option<Traces>,
    /// Why a catch-up that is merged in part cannot go on, if that was told.
    unmerged: Option<String>,
    /// The file that somebody detached: it is left alone until it is attached again.
    detached: Option<FileIdentity>,
    /// What was asked for and could not be done yet.
    wants_publishing: bool,
    names: NodeNames,
    schemas: NodeSchemas,
    last_poll: Instant,
    /// When the state folder was last told.
    remembered: Option<Instant>,
    /// When the file was last seen to change; none once its write-ahead log is folded.
    changed: Option<Instant>,
    rest: Rest,
    sleep: Sleep,
    /// What opening the file and first contact took is let go of.
    lean: bool,
}

impl Worker {
    pub(crate) fn new(
        options: DatabaseOptions,
        file_watch: Arc<FileWatch>,
        wake: Wake,
        state: watch::Sender<Arc<DatabaseState>>,
        events: mpsc::Sender<(Arc<str>, DatabaseEvent)>,
        runtime: tokio::runtime::Handle,
        closing: Arc<AtomicBool>,
    ) -> Self {
        Self {
            name: options.name.as_str().into(),
            options,
            file_watch,
            watching: false,
            wake,
            state,
            events,
            runtime,
            closing,
            attachment: None,
            phase: Phase::Opening,
            recheck: RECHECKS.len(),
            left_alone_until: Instant::now(),
            pace: Pace::default(),
            failures: 0,
            failed_at: None,
            retry_at: None,
            unwritable: false,
            told_waiting: false,
            damaged: None,
            unmerged: None,
            detached: None,
            wants_publishing: false,
            names: NodeNames::default(),
            schemas: NodeSchemas::default(),
            last_poll: Instant::now(),
            remembered: None,
            changed: None,
            rest: Rest::default(),
            sleep: Sleep::new(),
            lean: false,
        }
    }

    /// Serves commands, the `first` before all, until it is told to close, nobody is left to send one, or the file falls asleep. Once it
    /// is to close it does nothing of what still waits: each command, and each look, may be the turn of some long work.
    fn run(&mut self, line: &Line, first: Option<Command>) {
        pulse::begin(line.pulse.clone());
        pause::keep_short();
        if self.is_closing() {
            return;
        }
        self.wake_up();
        self.poll();
        first.into_iter().for_each(|command| self.serve(command));
        while !self.is_asleep() {
            hang_point("worker");
            pulse::beat();
            let command = line.commands.recv_timeout(self.pause());
            if self.is_closing() || matches!(command, Ok(Command::Close)) {
                // It may hold the lock that is needed for the last transaction.
                if let Some(attachment) = &mut self.attachment {
                    attachment.end_folding();
                }
                // What is not remembered makes the next start a little less able to tell an older copy.
                let _ = self.with_attachment(Attachment::remember);
                // Without it a power cut before the next start costs the database a new origin.
                let _ = self.with_attachment(Attachment::rest);
                break;
            }
            match command {
                Err(flume::RecvTimeoutError::Disconnected) => break,
                Ok(command) => self.serve(command),
                Err(flume::RecvTimeoutError::Timeout) => self.on_timer(),
            }
            // While a look is due soon, the flag stays up: nobody needs to be woken for it.
            if self.recheck > WHILE_WRITTEN && !self.is_asleep() && self.wake.take() {
                self.rest.end();
                self.recheck = 0;
                self.look_at_once();
            }
        }
        if let Some(attachment) = self.attachment.take() {
            attachment.close();
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn serve(&mut self, command: Command) {
        if !matches!(command, Command::Look) {
            self.rest.end();
        }
        if command.is_work() {
            self.sleep.put_off();
        }
        match command {
            Command::Look | Command::Close => {}
            Command::Read { from, omit, limits, reply } => {
                let result = self.read(|attachment| attachment.read((&from, &omit), limits));
                // The asker may have gone; it will ask again.
                let _ = reply.send(result);
            }
            Command::Fingerprint { question, reply } => {
                let _ = reply.send(self.read(|attachment| attachment.answer(&question)));
            }
            Command::Sweep { source, answer, reply } => {
                let swept = self.read(|attachment| attachment.sweep(source, &answer));
                self.tell_all();
                let _ = reply.send(swept);
            }
            Command::Swept(dropped) => {
                // If it cannot be noted, it is asked for again.
                let _ = self.read(|attachment| attachment.swept(&dropped));
            }
            Command::LearnNodes(nodes) => {
                if let Some(attachment) = &mut self.attachment {
                    attachment.learn_nodes(&nodes);
                }
            }
            Command::Restamp(peer_millis) => {
                // If it cannot be done, the peer refuses them again.
                let _ = self.read(|attachment| attachment.restamp(peer_millis));
                self.tell_all();
            }
            Command::ForgetNode { node, reply } => {
                let _ = reply.send(self.read(|attachment| attachment.forget_node(&node)));
            }
            Command::Compare { source, answer, reply } => {
                let _ = reply.send(self.read(|attachment| attachment.compare(source, &answer)));
            }
            Command::Apply { batch, observer, reply } => {
                let result = self.apply(*batch, observer);
                let _ = reply.send(result);
            }
            Command::Verify { question, reply } => {
                let _ = reply.send(self.read(|attachment| attachment.verify(question)));
            }
            Command::Reissue { table, keys, reply } => {
                let result = self.do_for_somebody(|attachment| attachment.reissue(&table, &keys));
                let _ = reply.send(result);
            }
            Command::Act { number, action, reply } => {
                let result = self.do_for_somebody(|attachment| attachment.act(number, action));
                let _ = reply.send(result);
            }
            Command::Publish => {
                self.wants_publishing = true;
                self.look();
            }
            Command::LearnNames(names) => {
                if self.names.own.len() < MAX_ORIGINS {
                    self.names.own.extend(names.own);
                }
                let room = MAX_ORIGINS.saturating_sub(self.names.heard.len());
                self.names.heard.extend(names.heard.into_iter().take(room));
                self.look();
            }
            Command::LearnSchemas(schemas) => {
                for (origin, schema) in schemas.iter() {
                    self.schemas.learn(origin, schema.clone());
                }
                self.look();
            }
        }
    }

    /// Reads for a peer.
    fn read<T>(&mut self, read: impl FnOnce(&mut Attachment) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let result = self.with_attachment(read);
        self.check_broken();
        match &result {
            Err(error) if error.is_damage() => self.fail(error),
            _ => self.tell_unmerged(result.as_ref().err()),
        }
        // Reading captures what was committed meanwhile.
        if self.attachment.as_ref().is_some_and(Attachment::has_fresh) {
            self.changed.get_or_insert_with(Instant::now);
        }
        self.announce();
        result
    }

    fn apply(&mut self, batch: Batch, observer: Option<Arc<dyn RowObserver>>) -> Result<ApplyReply, StoreError> {
        let source = batch.source;
        // What was told before the batch was sent says what its rows are.
        let told = self.follow_orders();
        let reply = self.with_attachment(|attachment| {
            told?;
            let outcome = attachment.apply(batch, observer.as_ref())?;
            let replica = attachment.replica();
            let received = replica.received.get(&source).map(|received| received.position.clone());
            Ok(ApplyReply { outcome, have: replica.have.clone(), received })
        });
        self.changed = Some(Instant::now());
        self.tell_all();
        match &reply {
            Ok(_) => self.recover(),
            Err(StoreError::NotAttached | StoreError::Closed | StoreError::Migrating | StoreError::Unmerged { .. }) => {
            }
            Err(error) => {
                self.unwritable = !error.is_busy() && !matches!(error, StoreError::Lifted);
                self.fail(error);
            }
        }
        self.announce();
        reply
    }

    /// Does what was asked for and could not be done at once: an application may hold the lock for long.
    fn follow_orders(&mut self) -> Result<(), StoreError> {
        if self.wants_publishing {
            self.with_attachment(Attachment::start_publishing)?;
            self.wants_publishing = false;
        }
        if !self.names.own.is_empty() || !self.names.heard.is_empty() {
            let names = std::mem::take(&mut self.names);
            if let Err(error) = self.with_attachment(|attachment| attachment.learn_names(&names)) {
                self.names = names;
                return Err(error);
            }
        }
        if !self.schemas.is_empty() {
            let schemas = std::mem::take(&mut self.schemas);
            if let Err(error) = self.with_attachment(|attachment| attachment.learn_schemas(&schemas)) {
                self.schemas = schemas;
                return Err(error);
            }
        }
        Ok(())
    }

    fn with_attachment<T>(
        &mut self,
        act: impl FnOnce(&mut Attachment) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let attachment = self.attachment.as_mut().ok_or(StoreError::NotAttached)?;
        act(attachment)
    }

    /// Tells what happened and is still to be told.
    fn tell_all(&mut self) {
        let events = self.attachment.as_mut().map(Attachment::take_events).unwrap_or_default();
        events.into_iter().for_each(|event| self.tell(event));
    }

    fn tell(&self, event: DatabaseEvent) {
        // The daemon drains its events until it stops; after that nobody listens.
        let _ = self.events.blocking_send((Arc::clone(&self.name), event));
    }

    /// Makes the newest state known, if it is new.
    fn announce(&mut self) {
        let old = self.state.borrow().clone();
        let written = self.attachment.as_mut().map(Attachment::take_written).unwrap_or_default();
        let mut state = match &self.attachment {
            Some(attachment) => attachment.state(&old, self.phase.clone()),
            None => DatabaseState { phase: self.phase.clone(), fresh: Arc::default(), ..DatabaseState::clone(&old) },
        };
        state.written.add(written);
        if !state.says_the_same_as(&old) {
            self.state.send_replace(Arc::new(state));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::ConflictRetention;
    use crate::attach::AttachRules;
    use crate::database::{Database, DatabaseOptions, DatabaseState};
    use crate::replica::DatabaseRules;

    pub(super) const DEADLINE: Duration = Duration::from_secs(60);

    pub(super) fn options(path: &Path) -> DatabaseOptions {
        DatabaseOptions {
            name: "shop".to_owned(),
            path: path.to_owned(),
            node: "berlin".to_owned(),
            rules: DatabaseRules::default(),
            attach: AttachRules::default(),
            poll_interval: Duration::from_millis(20),
            max_clock_skew: Duration::from_secs(60),
            schema_quiet: Duration::ZERO,
            max_rows: 1_000,
            tombstone_horizon: Duration::from_secs(86_400),
            // Nothing that is done now and then wakes the thread within the deadline.
            upkeep_interval: Duration::from_secs(86_400),
            close_after: Duration::from_secs(86_400),
            retention: ConflictRetention::default(),
            observer: None,
            state: None,
        }
    }

    /// Awaits that so many changes of its own are captured.
    pub(super) async fn await_changes(database: &Database, count: u64) {
        let knows = |state: &Arc<DatabaseState>| state.origin.is_some_and(|origin| state.have.get(origin) >= count);
        let mut state = database.state();
        tokio::time::timeout(DEADLINE, state.wait_for(knows)).await.unwrap().unwrap();
    }
}
