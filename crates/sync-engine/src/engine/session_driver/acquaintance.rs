//! Who the peer is, and what databases are told of what it says. Owns what is believed of whom.

use std::collections::BTreeMap;
use std::time::Duration;

use peer_link::Frame;
use replication::session::{PeerDatabase, Session};
use replication::{KnownNode, KnownNodes, NodeSchemas};
use sqlite_store::NodeNames;

use super::{SessionDriver, SessionEnd};
use crate::access::Role;
use crate::engine::shared::wall_millis;
use crate::wire;

impl SessionDriver {
    /// What a peer says first that was dialed, where it matters who it is: then it is told nothing before that.
    pub(super) async fn first_word(&mut self) -> Result<Option<Frame>, SessionEnd> {
        if self.known {
            return Ok(None);
        }
        let silence = Duration::from_millis(self.config.idle);
        let frame = tokio::select! {
            () = self.over.cancelled() => return Err(SessionEnd::Stopped),
            frame = tokio::time::timeout(silence, self.receiver.recv()) => frame,
        };
        let Ok(Some(frame)) = frame else {
            return Err(SessionEnd::Lost { reason: "the peer did not say who it is".to_owned() });
        };
        // What is no message is told when it is taken.
        if let Ok(envelope) = wire::decode(&frame, false) {
            self.grant = self.shared.access().of_dialed(&envelope.from);
            self.config.takes = self.grant.role == Role::Write;
            self.session = Session::new(self.config.clone(), self.shared.millis());
        }
        Ok(Some(frame))
    }

    /// Tells databases what the peer has said of them.
    pub(super) async fn pass_on(&mut self, databases: &[String]) {
        let Some(node) = self.session.remote_node().map(str::to_owned) else { return };
        for name in databases {
            let Some((_, source)) = self.sources.get(name).cloned() else { continue };
            let Some(said) = self.said.get(name).cloned() else { continue };
            let PeerDatabase { origin, nodes, schemas, known } = said;
            let own = BTreeMap::from([(origin, node.clone())]);
            if self.grant.role == Role::Read {
                // Its word counts for itself alone: what is known of others decides what is remembered for them.
                let mut its = NodeSchemas::default();
                schemas.get(origin).into_iter().for_each(|schema| its.learn(origin, schema.clone()));
                source.learn_names(NodeNames { own, heard: BTreeMap::new() }).await;
                source.learn_schemas(its).await;
                continue;
            }
            source.learn_names(NodeNames { own, heard: nodes }).await;
            source.learn_schemas(schemas).await;
            source.learn_nodes(known).await;
        }
        self.learn_peer().await;
    }

    /// Tells databases what the peer knows by now.
    pub(super) async fn learn_peer(&mut self) {
        self.learned = tokio::time::Instant::now();
        let Some(node) = self.session.remote_node() else { return };
        let seen = wall_millis();
        for (name, origin, have) in self.session.peer_vectors() {
            let Some((_, source)) = self.sources.get(name) else { continue };
            let mut nodes = KnownNodes::default();
            nodes.learn(node, KnownNode { origin, have: have.clone(), seen, forgotten: 0 });
            source.learn_nodes(nodes).await;
        }
    }
}
