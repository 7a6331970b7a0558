//! The opening of a conversation: `hello` in both directions, said again when databases come or go.

use std::collections::BTreeMap;

use crate::message::{DatabaseHello, Hello, Message, PROTOCOL_VERSION, ProblemCode};
use crate::origin::Origin;
use crate::session::{Output, PeerDatabase, Remote, Session, SessionEvent, Stage};
use crate::version_vector::VersionVector;

/// Bytes that what is said of nodes' tables takes in a greeting, which must be small enough to be taken from a stranger.
const SCHEMA_BYTES: usize = 512 << 10;

/// Bytes that the names of nodes take in a greeting.
const NAME_BYTES: usize = 768 << 10;

/// The names of as many origins' nodes as there is room for, `first` before others.
fn names_within(names: &BTreeMap<Origin, String>, first: Origin, room: &mut usize) -> BTreeMap<Origin, String> {
    let others = names.iter().filter(|(origin, _)| **origin != first);
    let fitting = names.get_key_value(&first).into_iter().chain(others).map_while(|(origin, name)| {
        // JSON may take six bytes for one of a name.
        *room = room.checked_sub(48 + if name.is_ascii() { name.len() } else { 6 * name.len() })?;
        Some((*origin, name.clone()))
    });
    fitting.collect()
}

/// Bytes that positions in catch-ups take in a greeting. A peer that is not told its own sends from the beginning.
const RECEIVED_BYTES: usize = 128 << 10;

/// As many positions as there is room for, the newest sources first.
fn received_within(received: &BTreeMap<Origin, VersionVector>, room: &mut usize) -> BTreeMap<Origin, VersionVector> {
    let fitting = received.iter().rev().map_while(|(source, position)| {
        *room = room.checked_sub(64 + 64 * position.len())?;
        Some((*source, position.clone()))
    });
    fitting.collect()
}

/// Bytes that what is known of other nodes takes in a greeting. Who is not told it forgets deletions later.
const KNOWN_BYTES: usize = 128 << 10;

/// Databases of which each that has news is told of at once. A greeting names all: with more it waits a millisecond for each, so
/// that the news of many go in one.
const FEW: usize = 8;

impl Session {
    /// Says what is new of a database, together with what is new of others meanwhile. Its changes wait for that.
    pub(super) fn say_hello_soon(&mut self) {
        let count = self.channels.len();
        if count <= FEW {
            return self.say_hello();
        }
        let pause = u64::try_from(count).unwrap_or(u64::MAX);
        self.hello_at = Some(self.hello_at.unwrap_or(self.now.saturating_add(pause)));
    }

    pub(super) fn say_hello(&mut self) {
        self.hello_at = None;
        self.channels.values_mut().for_each(|channel| channel.has_news = false);
        let (mut room, mut name_room, mut received_room) = (SCHEMA_BYTES, NAME_BYTES, RECEIVED_BYTES);
        let mut known_room = KNOWN_BYTES;
        let databases = self
            .channels
            .iter()
            .filter_map(|(name, channel)| {
                let local = channel.local.as_ref()?;
                let (schemas, left) = local.schemas.within(local.origin, room);
                room = left;
                let received = received_within(&local.received, &mut received_room);
                let nodes = names_within(&local.nodes, local.origin, &mut name_room);
                let hello = DatabaseHello {
                    origin: local.origin,
                    have: local.have.clone(),
                    received,
                    tables: local.tables.clone(),
                    policies: local.policies.clone(),
                    nodes,
                    schemas,
                    selection: local.selection.clone(),
                    publishing: local.publishing,
                    issued: local.issued.clone(),
                    dropped: local.dropped.clone(),
                    known: local.known.within(&mut known_room),
                };
                Some((name.clone(), hello))
            })
            .collect();
        // An older greeting that still waits says less.
        self.sends.retain(|message| !matches!(message, Message::Hello(_)));
        self.sends.push_front(Message::Hello(Hello {
            protocol: PROTOCOL_VERSION,
            cluster: self.config.cluster.clone(),
            node: self.config.node.clone(),
            incarnation: self.config.incarnation,
            version: self.config.version.clone(),
            clock_millis: self.config.wall_millis,
            read_only: !self.config.takes,
            databases,
        }));
    }

    pub(super) fn greeted(&mut self, hello: Hello, from: &str) {
        if let Err((code, text)) = self.check(&hello, from) {
            return self.refuse(code, text);
        }
        if self.remote.is_none() {
            self.remote = Some(Remote {
                node: hello.node.clone(),
                incarnation: hello.incarnation,
                clock: (hello.clock_millis, self.now),
            });
            self.stage = Stage::Open;
            let event = SessionEvent::Opened {
                node: hello.node.clone(),
                incarnation: hello.incarnation,
                version: hello.version,
            };
            self.actions.push_back(Output::Event(event));
        }
        self.gives = !hello.read_only;
        let databases = hello.databases.iter().map(|(name, database)| {
            let mut nodes = database.nodes.clone();
            nodes.remove(&database.origin);
            let (schemas, known) = (database.schemas.clone(), database.known.clone());
            (name.clone(), PeerDatabase { origin: database.origin, nodes, schemas, known })
        });
        let event = SessionEvent::Databases { databases: databases.collect() };
        self.actions.push_back(Output::Event(event));
        // What the peer alone has, and does not name any more, is nothing to keep.
        self.channels.retain(|name, channel| {
            let named = hello.databases.contains_key(name);
            if !named {
                channel.remote = None;
            }
            named || channel.local.is_some()
        });
        for (name, database) in hello.databases {
            self.channels.entry(name).or_default().greet(database);
        }
        self.settle_terms();
        self.review_shared();
    }

    fn check(&self, hello: &Hello, from: &str) -> Result<(), (ProblemCode, String)> {
        if hello.protocol != PROTOCOL_VERSION {
            let text = format!(
                "node {} speaks protocol {} and node {} speaks {PROTOCOL_VERSION}; run the same version of sync-engine on both",
                hello.node, hello.protocol, self.config.node
            );
            return Err((ProblemCode::ProtocolVersion, text));
        }
        if hello.cluster != self.config.cluster {
            let text = format!(
                "node {} is of cluster {:?} and node {} of {:?}; set the same cluster on both if they belong together",
                hello.node, hello.cluster, self.config.node, self.config.cluster
            );
            return Err((ProblemCode::Cluster, text));
        }
        if hello.node == self.config.node {
            let own = hello.incarnation == self.config.incarnation;
            let code = if own { ProblemCode::SelfConnection } else { ProblemCode::DuplicateNode };
            let text = format!("two nodes are named {:?}; give each node a name of its own", hello.node);
            return Err((code, text));
        }
        if hello.node != from {
            return Err((ProblemCode::Protocol, format!("hello names node {:?} but comes from {from:?}", hello.node)));
        }
        if self.remote.as_ref().is_some_and(|remote| remote.incarnation != hello.incarnation) {
            let text = format!("node {:?} was started anew behind a link that stands", hello.node);
            return Err((ProblemCode::Protocol, text));
        }
        Ok(())
    }

    /// Looks at the databases that both sides have, after one side's list changed.
    pub(super) fn review_shared(&mut self) {
        if self.stage != Stage::Open {
            return;
        }
        for (name, channel) in &mut self.channels {
            channel.review(name, self.now, &mut self.actions);
        }
    }
}
