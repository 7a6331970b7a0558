//! Who the peer is, and what databases are told of what it says. Owns what is believed of whom.

use std::collections::BTreeMap;

use peer_link::Direction;
use replication::session::{Input, PeerDatabase};
use replication::{KnownNode, KnownNodes, NodeSchemas};
use sqlite_store::NodeNames;

use super::SessionDriver;
use crate::access::Role;
use crate::engine::shared::wall_millis;

impl SessionDriver {
    /// Settles what the peer may do, now that it has said who it is; why it is turned away, if it is.
    pub(super) fn acquaint(&mut self, node: &str) -> Option<String> {
        if !self.grant.fits(node) {
            let whose = match &self.grant.node {
                Some(expected) => format!("the token or the certificate of node {expected:?}"),
                None => "a certificate that does not bear its name".to_owned(),
            };
            return Some(format!("node {node:?} came with {whose}; give it its own, or its right name"));
        }
        let access = self.shared.access();
        // Who is dialed shows no token.
        let reserved = match self.sender.direction() {
            Direction::Accepted => access.is_reserved(node),
            Direction::Dialed => access.is_certified(node),
        };
        if reserved && self.grant.node.is_none() {
            return Some(format!(
                "node {node:?} has a token or a certificate of its own here, and came with another one; give it its own"
            ));
        }
        if !std::mem::replace(&mut self.acquainted, true) {
            self.grant = self.grant.and(&access.of_node(node));
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
                // Its word counts for itself alone, and takes nothing from others: what is known of them decides conflicts, and what
                // is remembered for them.
                let known_as = source.state().borrow().nodes.get(&origin).cloned();
                if known_as.is_none_or(|known_as| known_as == node) {
                    let mut its = NodeSchemas::default();
                    schemas.get(origin).into_iter().for_each(|schema| its.learn(origin, schema.clone()));
                    source.learn_names(NodeNames { own: BTreeMap::new(), heard: own }).await;
                    source.learn_schemas(its).await;
                }
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
            // What a reader has for itself comes to nobody: it is nothing that others lack.
            let have = match self.grant.role {
                Role::Read => have.met(&source.state().borrow().have),
                Role::Write => have.clone(),
            };
            nodes.learn(node, KnownNode { origin, have, seen, forgotten: 0 });
            source.learn_nodes(nodes).await;
        }
    }
}
