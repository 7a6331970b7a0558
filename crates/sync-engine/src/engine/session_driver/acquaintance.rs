//! Who the peer is, and what databases are told of what it says. Owns what is believed of whom.

use std::collections::BTreeMap;

use replication::session::{Input, PeerDatabase};
use replication::{KnownNode, KnownNodes, NodeSchemas};
use sqlite_store::NodeNames;

use super::SessionDriver;
use crate::access::Role;
use crate::engine::shared::wall_millis;

impl SessionDriver {
    /// Settles what the peer may do, now that it has said who it is; why it is turned away, if it is.
    pub(super) fn acquaint(&mut self, node: &str) -> Option<String> {
        if let Some(expected) = self.grant.node.as_ref().filter(|expected| *expected != node) {
            return Some(format!(
                "node {node:?} came with the token or the certificate of node {expected:?}; give it its own, or its right name"
            ));
        }
        if !std::mem::replace(&mut self.acquainted, true) {
            self.grant = self.grant.and(&self.shared.access().of_node(node));
            self.handle(Input::Admitted { takes: self.grant.role == Role::Write });
            self.follow_sources();
        }
        None
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
