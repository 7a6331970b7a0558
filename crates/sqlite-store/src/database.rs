//! The handle of one database: what the rest of the daemon asks of it, and what it tells.

mod state;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use replication::reconcile::{Answer, Compared, Question};
use replication::{Batch, DotSet, KnownNodes, NodeSchemas, Origin, Value, VersionVector};
use tokio::sync::{mpsc, oneshot, watch};

use crate::apply::ApplyOutcome;
use crate::attach::AttachRules;
use crate::batch_read::BatchLimits;
use crate::conflict_record::ConflictNote;
use crate::conflicts::reading::ConflictReader;
use crate::conflicts::{ConflictAction, ConflictQuery, ConflictRetention, Refusal, StoredConflict};
use crate::error::StoreError;
use crate::foreign_keys::NewOrphans;
use crate::observer::RowObserver;
use crate::parked::ParkedNote;
use crate::pulse::Pulse;
use crate::replica::DatabaseRules;
use crate::schema::Unsynced;
use crate::state::StateDatabase;
use crate::verification::{VerifyAnswer, VerifyQuestion};
use crate::warning::Warning;
use crate::watch::{FileWatch, Wake};
use crate::worker::{self, Command, Line, Worker};

pub use state::{DatabaseState, Phase, TableNames};

/// Commands that may wait for a database's thread.
const COMMAND_QUEUE: usize = 64;

/// How a database is kept in sync.
#[derive(Clone)]
pub struct DatabaseOptions {
    /// The name that peers know it by.
    pub name: String,
    /// The file. It need not exist yet.
    pub path: PathBuf,
    /// This node's name.
    pub node: String,
    /// How its tables are merged.
    pub rules: DatabaseRules,
    /// Which automatic keys it gives out, which of the application's triggers run, and what is synced.
    pub attach: AttachRules,
    /// The pause between looks when no file event comes.
    pub poll_interval: Duration,
    /// How far ahead of this machine's clock an incoming stamp may be.
    pub max_clock_skew: Duration,
    /// How long the schema must be left alone after a change before rows of peers are taken, and given to them.
    pub schema_quiet: Duration,
    /// How many rows one transaction of incoming changes writes at most.
    pub max_rows: usize,
    /// For how long a deletion is remembered at most for nodes that do not know of it.
    pub tombstone_horizon: Duration,
    /// The pause between looks for deletions that need not be remembered, and between what is told of other nodes.
    pub upkeep_interval: Duration,
    /// How long nothing must have happened to the file until it is closed, for as long as nothing does.
    pub close_after: Duration,
    /// Which conflict records are kept.
    pub retention: ConflictRetention,
    /// Who sees rows of a catch-up that was interrupted while it was merged.
    pub observer: Option<Arc<dyn RowObserver>>,
    /// Where identities are kept. Without it a copied file is not told from its original.
    pub state: Option<StateDatabase>,
}

/// Something that happened to a database, for the log.
#[derive(Debug, Clone)]
pub enum DatabaseEvent {
    /// It was attached: triggers and tables are in place.
    Attached {
        /// Whether they had to be made for the first time.
        created: bool,
        /// Tables that are synced.
        synced: usize,
        /// Tables that are not.
        unsynced: Vec<Unsynced>,
    },
    /// There is something to know of it.
    Warned(Warning),
    /// Rows came from a peer whose parents are not here.
    ParentsMissing(NewOrphans),
    /// No row lacks its parent any more.
    ParentsComplete,
    /// Its changes are stamped ahead of this machine's clock, further than peers take: one of the clocks was or is wrong.
    ClockBehind {
        /// How far ahead the last stamp is, in milliseconds.
        millis: i64,
    },
    /// It issues changes under a new origin, because the file is not the one it was.
    NewOrigin {
        /// The new one.
        origin: Origin,
        /// Why.
        reason: String,
    },
    /// The schema changed; tables were looked at again.
    SchemaChanged {
        /// Names of tables that had lost their triggers.
        rebuilt: Vec<String>,
    },
    /// Something stands in the way.
    Failed {
        /// A word for the kind.
        kind: &'static str,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
        /// The pause before the next try.
        retry_in: Duration,
    },
    /// A migration runs on it with the triggers lifted; it is waited for.
    Migrating,
    /// An application holds the lock for longer than is usual; it is waited for.
    Waiting {
        /// The pause before the next try.
        retry_in: Duration,
    },
    /// It works again.
    Recovered,
    /// The file went away; it is waited for.
    Missing,
    /// Rows of peers cannot be taken in, for a reason that was not told before; they wait, and the rest goes on.
    Parked(ParkedNote),
    /// Rows that waited are merged.
    Unparked {
        /// The table.
        table: String,
        /// How many.
        rows: u64,
    },
    /// What waited for a column or table that no node has any more is forgotten.
    Forgotten {
        /// The table.
        table: String,
        /// How many rows of it.
        rows: u64,
    },
    /// Rows whose key holds NULL were written; they are not synced.
    NullKeys {
        /// How many.
        rows: usize,
    },
    /// A long catch-up is coming in.
    CatchingUp {
        /// Rows that are here, and are merged when the rest is.
        rows: u64,
    },
    /// A conflict was decided, and its record is in the file.
    Conflict(ConflictNote),
    /// Rows that existed before attach are being made known to peers.
    Publishing {
        /// The table.
        table: String,
        /// How many of its rows so far.
        rows: u64,
        /// Whether it is finished.
        finished: bool,
    },
}

/// Which nodes origins belong to.
#[derive(Debug, Clone, Default)]
pub struct NodeNames {
    /// What nodes say of their own origins: it counts.
    pub own: BTreeMap<Origin, String>,
    /// What they have heard of others: it counts where nothing is known, or two that heard differently would correct each
    /// other for ever.
    pub heard: BTreeMap<Origin, String>,
}

/// A batch's fate, and where the database stands after it.
#[derive(Debug, Clone)]
pub struct ApplyReply {
    /// What became of the batch.
    pub outcome: ApplyOutcome,
    /// What the database knows now.
    pub have: VersionVector,
    /// The position in the batch's source's catch-up, where that is not complete.
    pub received: Option<VersionVector>,
}

/// A database under sync. Clones are handles of the same; its thread ends when [`Database::close`] is called or the last
/// handle is gone.
#[derive(Debug, Clone)]
pub struct Database {
    name: Arc<str>,
    commands: flume::Sender<Command>,
    state: watch::Receiver<Arc<DatabaseState>>,
    wake: Wake,
    /// Raised when the thread is to end: long work stops between two transactions.
    closing: Arc<AtomicBool>,
    pulse: Pulse,
    records: ConflictReader,
}

impl Database {
    /// Starts the thread of a database. It opens and attaches the file as soon as it exists; `events` receives what is
    /// worth a line in the log.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        options: DatabaseOptions,
        file_watch: Arc<FileWatch>,
        events: mpsc::Sender<(Arc<str>, DatabaseEvent)>,
    ) -> Result<Self, StoreError> {
        let (sender, receiver) = flume::bounded(COMMAND_QUEUE);
        let (state_sender, state) = watch::channel(Arc::default());
        let wake = Wake::new(&sender);
        let waking = wake.clone();
        let name: Arc<str> = options.name.as_str().into();
        let runtime = tokio::runtime::Handle::current();
        let closing = Arc::<AtomicBool>::default();
        let raised = Arc::clone(&closing);
        let records = ConflictReader::new(&options.path);
        let pulse = Pulse::default();
        let beating = pulse.clone();
        let worker = Worker::new(options, file_watch, wake, state_sender, events, runtime, raised);
        worker::start(worker, Line { commands: receiver, pulse: beating })?;
        Ok(Self { name, commands: sender, state, wake: waking, closing, pulse, records })
    }

    /// The name that peers know it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The newest state, and news of it.
    pub fn state(&self) -> watch::Receiver<Arc<DatabaseState>> {
        self.state.clone()
    }

    /// Reads what a peer at `from` lacks, without the dots of `omit`.
    ///
    /// # Errors
    /// The database is not attached at the moment, or cannot be read; nothing changed, and a later try may succeed.
    pub async fn read(&self, from: VersionVector, omit: Arc<DotSet>, limits: BatchLimits) -> Result<Batch, StoreError> {
        self.ask(|reply| Command::Read { from, omit, limits, reply }).await
    }

    /// Tells a peer what there is in some ranges of tables.
    ///
    /// # Errors
    /// The database is not attached at the moment, or cannot be read; nothing changed, and a later try may succeed.
    pub async fn fingerprint(&self, question: Question) -> Result<Answer, StoreError> {
        self.ask(|reply| Command::Fingerprint { question, reply }).await
    }

    /// Compares what a peer's database has in some ranges of tables with what there is, and notes what is alike.
    ///
    /// # Errors
    /// The database is not attached at the moment, or cannot be read; nothing changed, and a later try may succeed.
    pub async fn compare(&self, source: Origin, answer: Answer) -> Result<Compared, StoreError> {
        self.ask(|reply| Command::Compare { source, answer, reply }).await
    }

    /// Applies a peer's batch in one transaction.
    ///
    /// # Errors
    /// The database is not attached at the moment, or cannot be written; nothing changed, and a later try may succeed.
    pub async fn apply(&self, batch: Batch, observer: Option<Arc<dyn RowObserver>>) -> Result<ApplyReply, StoreError> {
        self.ask(|reply| Command::Apply { batch: Box::new(batch), observer, reply }).await
    }

    /// Deletes the rows in some ranges of tables that a peer's database does not have, of what that knows.
    ///
    /// # Errors
    /// The database is not attached at the moment, or cannot be written; a later try may succeed.
    pub async fn sweep(&self, source: Origin, answer: Answer) -> Result<Compared, StoreError> {
        self.ask(|reply| Command::Sweep { source, answer, reply }).await
    }

    /// Takes note that all which tombstones up to there deleted is deleted.
    pub async fn swept(&self, dropped: VersionVector) {
        self.tell(Command::Swept(dropped)).await;
    }

    /// Tells what other nodes know.
    pub async fn learn_nodes(&self, nodes: KnownNodes) {
        self.tell(Command::LearnNodes(nodes)).await;
    }

    /// A peer whose clock shows `peer_millis`, in milliseconds since 1970, has refused stamps of this database as too far ahead. If
    /// this machine's clock was ahead and is right by now, what bears such stamps is issued anew.
    pub async fn restamp(&self, peer_millis: i64) {
        self.tell(Command::Restamp(peer_millis)).await;
    }

    /// Does not wait for a node any more; false if it is not known.
    ///
    /// # Errors
    /// The database is not attached at the moment, or cannot be written; nothing changed, and a later try may succeed.
    pub async fn forget_node(&self, node: String) -> Result<bool, StoreError> {
        self.ask(|reply| Command::ForgetNode { node, reply }).await
    }

    /// Conflict records, the newest first. They are read beside the database's thread, which may be at work for long.
    ///
    /// # Errors
    /// The file is missing, not attached, or cannot be read.
    pub async fn conflicts(&self, query: &ConflictQuery) -> Result<Vec<StoredConflict>, StoreError> {
        self.records.list(query).await
    }

    /// The conflict record of this number.
    ///
    /// # Errors
    /// The file is missing, not attached, or cannot be read.
    pub async fn conflict(&self, number: i64) -> Result<Option<StoredConflict>, StoreError> {
        self.records.get(number).await
    }

    /// Acts on a conflict record in one transaction; returns the record as it is then, or why nothing was changed.
    ///
    /// # Errors
    /// The database is not attached at the moment, or cannot be written; nothing changed, and a later try may succeed.
    pub async fn act(
        &self,
        number: i64,
        action: ConflictAction,
    ) -> Result<Result<StoredConflict, Refusal>, StoreError> {
        self.ask(|reply| Command::Act { number, action, reply }).await
    }

    /// Tells somebody who compares it with another database what there is.
    ///
    /// # Errors
    /// The database is not attached at the moment, or cannot be read; nothing changed, and a later try may succeed.
    pub async fn verify(&self, question: VerifyQuestion) -> Result<VerifyAnswer, StoreError> {
        self.ask(|reply| Command::Verify { question, reply }).await
    }

    /// Issues rows of a table, by its name on the wire, anew as they are here, in one transaction: as a change that all nodes
    /// receive and that has taken all into account which is known here. A key without a row counts as its deletion where one is
    /// known. False if there is no such table, or its key has another number of columns.
    ///
    /// # Errors
    /// The database is not attached at the moment, or cannot be written; nothing changed, and a later try may succeed.
    pub async fn reissue(&self, table: String, keys: Vec<Vec<Value>>) -> Result<bool, StoreError> {
        self.ask(|reply| Command::Reissue { table, keys, reply }).await
    }

    /// Makes the rows that existed before attach known to peers, in the background; nothing happens if they are.
    pub async fn publish(&self) {
        self.tell(Command::Publish).await;
    }

    /// Tells that a peer has come for what is at hand of the newest state: what waits for that goes on.
    pub fn note_taken(&self) {
        if self.state.borrow().publishing {
            self.wake.raise();
        }
    }

    /// Tells which nodes origins belong to.
    pub async fn learn_names(&self, names: NodeNames) {
        self.tell(Command::LearnNames(names)).await;
    }

    /// Tells what the tables of nodes are. What they write in them is to be applied after that.
    pub async fn learn_schemas(&self, schemas: NodeSchemas) {
        self.tell(Command::LearnSchemas(schemas)).await;
    }

    /// The thread's signs of life. It is asked for the next one, which it gives when it comes round, or on the way there.
    pub fn pulse(&self) -> &Pulse {
        // Where the queue is full it comes round without being asked.
        let _ = self.commands.try_send(Command::Look);
        &self.pulse
    }

    /// Ends the thread after what it is doing, and waits for it.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.records.close().await;
        self.tell(Command::Close).await;
        // Not joined: a blocked join would keep the process.
        self.ended().await;
    }

    async fn tell(&self, command: Command) {
        // A closed queue means that the thread has ended, and there is nobody to tell.
        let _ = self.commands.send_async(command).await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (reply, mut answer) = oneshot::channel();
        self.tell(command(reply)).await;
        // What stands in the queue when the thread ends stays there for as long as somebody holds a handle.
        tokio::select! {
            biased;
            answered = &mut answer => answered.unwrap_or(Err(StoreError::Closed)),
            () = self.ended() => answer.try_recv().unwrap_or(Err(StoreError::Closed)),
        }
    }

    /// Waits until the thread has ended: it holds the other end of the state for as long as it runs.
    async fn ended(&self) {
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
    }
}
