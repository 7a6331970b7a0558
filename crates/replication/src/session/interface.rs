//! What goes into a session and what comes out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::codec::PackedBatch;
use crate::dot_set::DotSet;
use crate::hybrid_clock::Timestamp;
use crate::known_nodes::KnownNodes;
use crate::message::{ByeReason, Envelope, Problem, ProblemCode};
use crate::node_schema::NodeSchemas;
use crate::origin::Origin;
use crate::reconcile::{Answer, Compared, Question, TableRanges};
use crate::row::Batch;
use crate::selection::Selection;
use crate::version_vector::VersionVector;

/// Bytes of one message, to within a row, where nothing else is asked for.
pub const PART_BYTES: usize = 256 << 10;

/// What a session is told about this node, and its limits.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// This node's name.
    pub node: String,
    /// Nodes of another cluster are refused.
    pub cluster: String,
    /// Whether changes of the peer are taken. A peer that may only read is told so, and is believed nothing that would change a row.
    pub takes: bool,
    /// A number drawn at the start of this process.
    pub incarnation: u64,
    /// This node's software version.
    pub version: String,
    /// This node's wall clock, milliseconds since 1970, at the start of the session.
    pub wall_millis: i64,
    /// Rows that are merged in one transaction where no more are new: a first contact with more need not come as one.
    pub max_batch_rows: u64,
    /// Bytes of a batch, to within a row.
    pub max_batch_bytes: usize,
    /// Unacknowledged bytes per database beyond which nothing more is read; one batch is always allowed.
    pub window_bytes: usize,
    /// Bytes that are read and not sent yet, over all databases, beyond which nothing more is read; and bytes that came and are
    /// not applied yet, beyond which no message is taken. Each to within a batch.
    pub buffer_bytes: usize,
    /// Bytes of one message, to within a row.
    pub part_bytes: usize,
    /// Bytes of one row at most: what peers decode, with room for what goes around a row.
    pub max_row_bytes: usize,
    /// Milliseconds after which an idle session says that it is alive.
    pub heartbeat: u64,
    /// Milliseconds of silence after which the peer counts as lost.
    pub idle: u64,
    /// Milliseconds after which an unanswered `want` is repeated, and a held database is tried again.
    pub repeat: u64,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            node: String::new(),
            cluster: "default".to_owned(),
            takes: true,
            incarnation: 0,
            version: String::new(),
            wall_millis: 0,
            max_batch_rows: 50_000,
            max_batch_bytes: 8 << 20,
            window_bytes: 8 << 20,
            buffer_bytes: 32 << 20,
            part_bytes: PART_BYTES,
            max_row_bytes: 255 << 20,
            heartbeat: 10_000,
            idle: 45_000,
            repeat: 10_000,
        }
    }
}

/// What the session knows of a local database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalState {
    /// The origin under which it issues changes.
    pub origin: Origin,
    /// What it knows, durably.
    pub have: VersionVector,
    /// Positions in catch-ups that are not complete, by the origin they are read from.
    pub received: BTreeMap<Origin, VersionVector>,
    /// The last stamp given or seen.
    pub clock: Timestamp,
    /// The synced tables' fingerprints.
    pub tables: BTreeMap<String, u64>,
    /// How conflicts are decided in the tables where not by the default, in words that are equal where the rules are.
    pub policies: BTreeMap<String, String>,
    /// Tables that were synced and are not any more. What the vector covers of them is not there to be sent, so nothing
    /// is sent to a peer that has such a table: it would believe to have been sent everything.
    pub retired: BTreeSet<String>,
    /// The names of the nodes that origins belong to, as far as they are known.
    pub nodes: BTreeMap<Origin, String>,
    /// The tables of each node, as far as they are known; its own among them.
    pub schemas: Arc<NodeSchemas>,
    /// What is kept in sync.
    pub selection: Selection,
    /// Whether rows that were there before attach are still to be made known.
    pub publishing: bool,
    /// The tables in which this database's origin has issued something.
    pub issued: BTreeSet<String>,
    /// Dots of catch-ups that are not complete which are not to be sent, by the origin they are read from: see
    /// [`reconcile`](crate::reconcile).
    pub held: BTreeMap<Origin, DotSet>,
    /// Up to where tombstones may be gone.
    pub dropped: VersionVector,
    /// What is known of what other nodes know.
    pub known: Arc<KnownNodes>,
}

/// What happens to a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// All databases known so far have been told: the conversation may begin.
    Start,
    /// A message came.
    Received(Box<Envelope>),
    /// Something came that is no message.
    Malformed(String),
    /// A local database appeared, or its state moved.
    Local {
        /// Its shared name.
        database: String,
        /// Its state now.
        state: LocalState,
    },
    /// A local database is not available at the moment.
    LocalGone {
        /// Its shared name.
        database: String,
    },
    /// The answer to [`Output::Read`].
    BatchRead {
        /// The database.
        database: String,
        /// What came of it.
        outcome: ReadOutcome,
    },
    /// The answer to [`Output::Apply`].
    Applied {
        /// The database.
        database: String,
        /// What became of the batch.
        outcome: AppliedOutcome,
    },
    /// The answer to [`Output::Fingerprint`].
    Fingerprinted {
        /// The database.
        database: String,
        /// What there is; none if the database could not be read now.
        answer: Option<Answer>,
    },
    /// The answer to [`Output::Compare`], or to [`Output::Sweep`].
    Compared {
        /// The database.
        database: String,
        /// The number of the question.
        number: u64,
        /// What the peer has not answered yet: see [`Answer::rest`].
        rest: TableRanges,
        /// What came of it; none if the database could not be read or noted now.
        compared: Option<Compared>,
    },
    /// A part of a message came, or more of it: the peer is there, and what is waited for may be on its way.
    Progress,
    /// The time of [`Session::next_timeout`](super::Session::next_timeout) has come.
    Timeout,
    /// This node stops.
    Stop,
    /// Another link to the same node takes this one's place.
    Replaced,
    /// Who the peer is, is known: whether its changes are taken. Before any database is told of.
    Admitted {
        /// As in [`SessionConfig`].
        takes: bool,
    },
    /// This node does not take the peer: of what kind the reason is, and the reason.
    TurnedAway(ProblemCode, String),
}

/// What became of a batch that was to be read.
#[derive(Debug, Clone, PartialEq)]
pub enum ReadOutcome {
    /// What the peer lacks.
    Batch(Batch),
    /// The same, where it was asked for with nothing to leave out and is at hand packed: in parts of
    /// [`SessionConfig::part_bytes`], to within a row.
    Packed(Arc<PackedBatch>),
    /// There is nothing to read from; it is asked again when the database's state moves.
    Nothing,
    /// It could not be read now; it is to be tried again after so many milliseconds.
    Retry {
        /// The pause.
        after: u64,
    },
}

/// What became of a batch that was to be applied.
#[derive(Debug, Clone, PartialEq)]
pub enum AppliedOutcome {
    /// It is durable, or was known.
    Done {
        /// What the database knows now.
        have: VersionVector,
        /// The position in the sender's catch-up, where that is not complete.
        received: Option<VersionVector>,
        /// How many rows it changed.
        rows: usize,
    },
    /// It rests on something that is missing.
    Gap {
        /// What the database knows.
        have: VersionVector,
        /// The position in the sender's catch-up, if there is one.
        received: Option<VersionVector>,
    },
    /// It cannot be taken as things are.
    Held(Problem),
    /// It could not be written now; it is to be tried again after so many milliseconds.
    Retry {
        /// The pause.
        after: u64,
    },
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send a message. Asked for only while the link has room.
    Send(Box<Envelope>),
    /// Read what lies between `from` and the database's vector; answer with [`Input::BatchRead`].
    Read {
        /// The database.
        database: String,
        /// The peer's position.
        from: VersionVector,
        /// Dots that the peer need not be sent.
        omit: Arc<DotSet>,
        /// Whether the peer has all that the database's vector covered when it was what `from` is. Otherwise `from` is only how far
        /// it has come in a catch-up, which ends in what the database is when the last of it is read.
        whole: bool,
    },
    /// Look at what there is in some ranges; answer with [`Input::Fingerprinted`].
    Fingerprint {
        /// The database.
        database: String,
        /// Where.
        question: Question,
    },
    /// Compare what the peer has in some ranges with what is here, and note what is alike; answer with [`Input::Compared`].
    Compare {
        /// The database.
        database: String,
        /// The origin of the peer's database.
        source: Origin,
        /// What the peer has.
        answer: Answer,
    },
    /// Delete the rows in some ranges that the peer does not have, of what it knows; answer with [`Input::Compared`].
    Sweep {
        /// The database.
        database: String,
        /// The origin of the peer's database.
        source: Origin,
        /// What the peer has.
        answer: Answer,
    },
    /// All that tombstones up to here deleted is deleted: take note of that.
    Swept {
        /// The database.
        database: String,
        /// Up to where.
        dropped: VersionVector,
    },
    /// The peer has refused stamps of this database as too far ahead; its own clock is at `peer_millis`.
    StampsRefused {
        /// The database.
        database: String,
        /// Milliseconds since 1970.
        peer_millis: i64,
    },
    /// Apply a batch; answer with [`Input::Applied`].
    Apply {
        /// The database.
        database: String,
        /// The batch.
        batch: Box<Batch>,
    },
    /// Make the rows that existed before attach known: somebody is there who may lack them.
    Publish {
        /// The database.
        database: String,
    },
    /// Something for the log.
    Event(SessionEvent),
    /// The conversation is over; close the link once everything is sent.
    Close(CloseReason),
}

/// What a peer says of a database.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerDatabase {
    /// The peer's own origin.
    pub origin: Origin,
    /// The nodes that other origins belong to, as far as the peer has heard.
    pub nodes: BTreeMap<Origin, String>,
    /// The tables of each node that the peer knows of.
    pub schemas: NodeSchemas,
    /// What the peer knows of what nodes know, itself not among them.
    pub known: KnownNodes,
}

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEvent {
    /// The peer said who it is and was not refused.
    Opened {
        /// Its name.
        node: String,
        /// The number that this run of it drew.
        incarnation: u64,
        /// Its software version.
        version: String,
    },
    /// The peer said which databases it has.
    Databases {
        /// What it said of each.
        databases: BTreeMap<String, PeerDatabase>,
    },
    /// The peer has what we lack.
    CatchUpStarted {
        /// The database.
        database: String,
    },
    /// More of what the peer had when the session began is here.
    CatchUpProgress {
        /// The database.
        database: String,
        /// Rows that changed so far.
        rows: u64,
    },
    /// We have what the peer had when the session began, and what it had not made known then.
    CatchUpComplete {
        /// The database.
        database: String,
        /// Rows that changed.
        rows: u64,
        /// How long it took, in milliseconds.
        millis: u64,
    },
    /// The rows that both sides had before they met have been compared.
    Reconciled {
        /// The database.
        database: String,
        /// Rows that are alike and are not sent.
        rows: u64,
        /// How long it took, in milliseconds.
        millis: u64,
    },
    /// Tables are not the same on both sides; rows of those that differ cannot be taken.
    SchemaDiffers {
        /// The database.
        database: String,
        /// The tables, missing on one side or of another shape.
        tables: Vec<String>,
    },
    /// Conflicts in a table are decided by another rule there than here.
    PoliciesDiffer {
        /// The database.
        database: String,
        /// The table.
        table: String,
        /// The rule here; none for the default.
        here: Option<String>,
        /// The rule at the peer; none for the default.
        there: Option<String>,
    },
    /// Tables that were told to differ are the same on both sides now.
    SchemaAgrees {
        /// The database.
        database: String,
        /// The tables.
        tables: Vec<String>,
    },
    /// A batch cannot be taken, or not be sent, as things are; nothing more is until that changes.
    Held {
        /// The database.
        database: String,
        /// Why.
        problem: Problem,
    },
    /// The peer is not talked to.
    Refused(Problem),
    /// The peer reports a problem of its own.
    PeerProblem(Problem),
}

/// Why a conversation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// This node stops.
    Stopped,
    /// There is another link to this node.
    Replaced,
    /// The peer said goodbye.
    Bye(ByeReason),
    /// Both ends are this process.
    SelfConnection,
    /// The peer was refused.
    Refused(Problem),
    /// Nothing came for too long.
    Silent,
}
