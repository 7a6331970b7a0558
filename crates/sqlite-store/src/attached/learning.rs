//! What peers tell of other nodes: their names, and what their tables are.

use replication::{MAX_ORIGINS, NodeSchemas, Origin};

use super::Attachment;
use crate::database::NodeNames;
use crate::error::StoreError;
use crate::replica::Replica;

impl Attachment {
    /// Remembers which nodes origins belong to.
    pub(crate) fn learn_names(&mut self, names: &NodeNames) -> Result<(), StoreError> {
        let own = self.replica.own;
        let news = |replica: &Replica| -> Vec<(Origin, String)> {
            let known = replica.names();
            let said = names.own.iter().filter(|(origin, node)| known.get(origin) != Some(node));
            let heard = names.heard.iter().filter(|(origin, _)| !known.contains_key(origin));
            // Names that are told of origins without end are not all kept.
            said.chain(heard.take(MAX_ORIGINS.saturating_sub(replica.origins_known())))
                .filter(|(origin, _)| **origin != own)
                .map(|(origin, node)| (*origin, node.clone()))
                .collect()
        };
        if news(&self.replica).is_empty() {
            return Ok(());
        }
        self.in_write(|conn, replica| {
            for (origin, node) in news(replica) {
                replica.learn_name(conn, origin, &node)?;
            }
            Ok(((), true))
        })
    }

    /// Remembers what the tables of nodes are.
    pub(crate) fn learn_schemas(&mut self, heard: &NodeSchemas) -> Result<(), StoreError> {
        if !self.replica.lacks_schemas(heard) {
            return Ok(());
        }
        self.in_write(|conn, replica| replica.learn_schemas(conn, heard).map(|()| ((), true)))?;
        self.forgetting.get_or_insert_default();
        Ok(())
    }
}
