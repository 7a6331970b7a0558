//! What nodes say to each other. `codec` turns these into bytes and back; nothing else in the workspace is serialized
//! for the wire, so compatibility is decided here.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::codec::PackedPart;
use crate::dot_set::DotSet;
use crate::hybrid_clock::Timestamp;
use crate::known_nodes::KnownNodes;
use crate::node_schema::NodeSchemas;
use crate::origin::Origin;
use crate::reconcile::{Answer, Question};
use crate::row::{Batch, TableShape};
use crate::selection::Selection;
use crate::version_vector::VersionVector;

/// The protocol's name as a WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "sync-engine.v1";

/// The version that `hello` names. A node refuses another one.
pub const PROTOCOL_VERSION: u32 = 1;

/// Bytes of a node's or database's name at most.
pub const MAX_NAME: usize = 255;

/// Why a text cannot be the name of a node or database, if it cannot.
pub fn unfit_name(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        Some("it is empty".to_owned())
    } else if text.chars().any(char::is_control) {
        Some(format!("{text:?} holds a control character"))
    } else if text.len() > MAX_NAME {
        Some(format!("it is longer than {MAX_NAME} bytes"))
    } else {
        None
    }
}

/// As much of a text as `most` bytes hold, with a mark where something is left out: what peers write is shown to people and
/// remembered.
pub fn shortened(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(most)])
}

/// A message with its addresses. A session belongs to a remote node, not to a socket: a relay may carry many over one.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The name of the sending node.
    pub from: String,
    /// The name of the receiving node, where the message is meant for one. The first `hello` does not know it.
    pub to: Option<String>,
    /// What is said.
    pub message: Message,
}

/// What one node says to another.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Who speaks and what it has; the first message in each direction, repeated when databases come or go.
    Hello(Hello),
    /// A part of a batch of rows.
    Changes(Changes),
    /// The same, packed before it was known to whom it goes. Whoever receives it reads [`Self::Changes`].
    Packed(PackedChanges),
    /// "Send what I lack": the receiver of a batch found a gap, or starts over.
    Want(Want),
    /// What is durable here; also the heartbeat.
    Ack(Ack),
    /// "What do you have there?": see [`reconcile`](crate::reconcile).
    Compare(Compare),
    /// "This."
    Fingerprints(Fingerprints),
    /// What the sender cannot do, and why.
    Problem(Problem),
    /// The sender goes away on purpose.
    Bye(Bye),
}

impl Message {
    /// The database that it is about, if it is about one.
    pub fn database(&self) -> Option<&str> {
        match self {
            Self::Hello(_) | Self::Bye(_) => None,
            Self::Changes(changes) => Some(&changes.database),
            Self::Packed(changes) => Some(&changes.database),
            Self::Want(want) => Some(&want.database),
            Self::Ack(ack) => Some(&ack.database),
            Self::Compare(compare) => Some(&compare.database),
            Self::Fingerprints(fingerprints) => Some(&fingerprints.database),
            Self::Problem(problem) => problem.database.as_deref(),
        }
    }
}

/// The opening of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub protocol: u32,
    /// Nodes of different clusters refuse each other.
    pub cluster: String,
    /// The sender's name.
    pub node: String,
    /// A number drawn at each start of the process: tells a node from another of the same name, and from itself.
    pub incarnation: u64,
    /// The sender's software version, for people.
    pub version: String,
    /// The sender's wall clock, milliseconds since 1970.
    pub clock_millis: i64,
    /// The receiver may only read: the sender takes no changes of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// The sender's databases by shared name.
    pub databases: BTreeMap<String, DatabaseHello>,
}

/// What `hello` says of one database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseHello {
    /// The origin under which the sender's file issues changes now.
    pub origin: Origin,
    /// What the sender knows.
    pub have: VersionVector,
    /// How far the sender has come with the receiver's interrupted catch-up, by the origin it was read from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub received: BTreeMap<Origin, VersionVector>,
    /// A fingerprint of each synced table's shape.
    #[serde(default)]
    pub tables: BTreeMap<String, u64>,
    /// How conflicts are decided in the tables where not by the default, in words that are equal where the rules are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<String, String>,
    /// The names of the nodes that origins belong to, as far as the sender knows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<Origin, String>,
    /// The tables of each node that the sender knows of, its own among them.
    #[serde(default, skip_serializing_if = "NodeSchemas::is_empty")]
    pub schemas: NodeSchemas,
    /// What the sender keeps in sync: what it leaves out is missing there on purpose.
    #[serde(default, skip_serializing_if = "Selection::is_everything")]
    pub selection: Selection,
    /// Whether rows that were there before attach are still to be made known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub publishing: bool,
    /// The tables in which the sender's origin has issued something: what others have of them may be compared with it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub issued: BTreeSet<String>,
    /// Up to where tombstones may be gone at the sender: who does not know all of that has to ask for keys first.
    #[serde(default, skip_serializing_if = "VersionVector::is_empty")]
    pub dropped: VersionVector,
    /// What the sender knows of what other nodes know.
    #[serde(default, skip_serializing_if = "KnownNodes::is_empty")]
    pub known: KnownNodes,
}

impl DatabaseHello {
    /// A database of which nothing more is known.
    pub fn new(origin: Origin, have: VersionVector) -> Self {
        let (received, tables, policies, nodes, schemas, selection) = Default::default();
        let (publishing, issued, dropped, known) = Default::default();
        Self { origin, have, received, tables, policies, nodes, schemas, selection, publishing, issued, dropped, known }
    }
}

/// One part of a batch: as many rows as fit a message. The parts of a batch follow each other on a link.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// The database's shared name.
    pub database: String,
    /// Numbers the sender's batches of this database within the session, from 1; all parts of a batch carry one number.
    pub batch: u64,
    /// The part's place among the batch's parts, from 0.
    pub part: u32,
    /// Whether this is the batch's last part.
    pub last: bool,
    /// This part's rows, with the whole batch's source and vectors.
    pub rows: Batch,
}

/// One part of a batch whose rows are packed.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedChanges {
    /// As in [`Changes`].
    pub database: String,
    /// As in [`Changes`].
    pub batch: u64,
    /// As in [`Changes`].
    pub part: u32,
    /// As in [`Changes`].
    pub last: bool,
    /// This part's rows, with the whole batch's source and vectors.
    pub rows: PackedPart,
}

/// A request to start over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Want {
    /// The database's shared name.
    pub database: String,
    /// What the asking node knows.
    pub have: VersionVector,
    /// How far it has come with what this sender sent (see [`Batch`]), if it stands in the middle of a catch-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<Received>,
    /// Dots that are not to be sent: the same rows are there under others, and are going to take these when all else is there.
    #[serde(default, skip_serializing_if = "DotSet::is_empty")]
    pub held: DotSet,
}

/// A question about a database's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The database's shared name.
    pub database: String,
    /// The question.
    pub question: Question,
}

/// The answer to a question about a database's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprints {
    /// The database's shared name.
    pub database: String,
    /// The origin of the database that was looked at.
    pub source: Origin,
    /// The answer.
    pub answer: Answer,
}

/// A receiver's position in a catch-up that is not complete yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// The origin of the database that the batches were read from: the position means nothing for another.
    pub source: Origin,
    /// The position after the last batch that is durable.
    pub position: VersionVector,
}

/// What is durable at the sender.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ack {
    /// The database's shared name.
    pub database: String,
    /// The origin under which the sender's file issues changes now.
    pub origin: Origin,
    /// What the sender knows, durably.
    pub have: VersionVector,
    /// How far it has come with the receiver's catch-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<Received>,
    /// The last stamp that the sender's clock gave or saw.
    pub clock: Timestamp,
    /// As in [`DatabaseHello`]; said again, for a greeting can be lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub publishing: bool,
    /// As in [`DatabaseHello`].
    #[serde(default, skip_serializing_if = "VersionVector::is_empty")]
    pub dropped: VersionVector,
}

/// What goes wrong at the sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind of thing.
    pub code: ProblemCode,
    /// What, where, why and what to do, for people.
    pub text: String,
    /// The database it concerns, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The table it concerns, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
}

/// Kinds of problems. A kind that this version does not know reads as `Other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The protocol versions differ.
    ProtocolVersion,
    /// The clusters differ.
    Cluster,
    /// Two running nodes bear the same name.
    DuplicateNode,
    /// The two ends are one node.
    SelfConnection,
    /// A message that is no message, or that breaks the protocol's rules.
    Protocol,
    /// Tables or columns differ.
    SchemaMismatch,
    /// A change is stamped further ahead than is allowed.
    ClockSkew,
    /// The database cannot be written at the moment.
    Unavailable,
    /// A row is larger than can be sent.
    TooLarge,
    /// The receiver sent changes, and may only read.
    ReadOnly,
    /// The receiver is not who it has to be.
    Denied,
    /// Anything else.
    #[serde(other)]
    Other,
}

/// The end of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// Why.
    pub reason: ByeReason,
}

/// Why a node goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByeReason {
    /// The node stops.
    Shutdown,
    /// The two nodes have another link already.
    Duplicate,
    /// Something was wrong; a `problem` before it says what.
    Refused,
    /// Anything else.
    #[serde(other)]
    Other,
}

impl TableShape {
    /// A fingerprint of the shape that does not depend on the order of its columns: FNV-1a over the sorted names and the
    /// key's names in order. Equal fingerprints mean that rows of one table fit the other.
    pub fn fingerprint(&self) -> u64 {
        let mut names: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        names.sort_unstable();
        let key = self.key.iter().filter_map(|index| self.columns.get(usize::from(*index)));
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut feed = |text: &str| {
            for byte in text.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        names.into_iter().for_each(&mut feed);
        feed("");
        key.map(String::as_str).for_each(&mut feed);
        hash
    }
}
