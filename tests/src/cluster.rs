//! Several nodes that share one database.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::compare::same_contents_but;
use crate::{Contents, DEADLINE, Node, Result, Scene, check_integrity, fail, log_is_drained};

/// Who dials whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// Everybody dials everybody.
    Mesh,
    /// Each dials the next.
    Line,
    /// All dial the first.
    Star,
    /// Nobody dials anybody, until told whom.
    Apart,
}

/// Nodes that share one database; the file of each is `<node>/<database>.db`.
pub struct Cluster {
    database: String,
    /// Tables that each node has for itself.
    own_tables: Vec<String>,
    /// The nodes, in the order of their names.
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Makes the nodes, named `a`, `b` and so on, without starting them.
    ///
    /// # Errors
    /// A folder or port cannot be had.
    pub fn new(scene: &Scene, database: &str, count: usize, topology: Topology) -> Result<Self> {
        let mut nodes =
            ('a'..).take(count).map(|name| Node::new(scene, &name.to_string())).collect::<Result<Vec<_>>>()?;
        let urls: Vec<String> = nodes.iter().map(Node::url).collect();
        for (index, node) in nodes.iter_mut().enumerate() {
            node.database(database);
            for (other, url) in urls.iter().enumerate() {
                let dials = match topology {
                    Topology::Mesh => other != index,
                    Topology::Line => other == index + 1,
                    Topology::Star => other == 0 && index != 0,
                    Topology::Apart => false,
                };
                if dials {
                    node.peer_url(url);
                }
            }
        }
        Ok(Self { database: database.to_owned(), own_tables: Vec::new(), nodes })
    }

    /// Leaves a table out of comparisons, because each node has it for itself. It must be among the unsynced ones.
    pub fn own_table(&mut self, table: &str) {
        self.own_tables.push(table.to_owned());
    }

    /// Lets the `sqlite3` shell make each node's file.
    ///
    /// # Errors
    /// The SQL fails.
    pub fn create(&self, sql: &str) -> Result {
        self.nodes.iter().try_for_each(|node| crate::shell(node.file(), sql).map(drop))
    }

    /// Starts all nodes that do not run.
    ///
    /// # Errors
    /// One does not come up.
    pub fn start(&mut self) -> Result {
        self.nodes.iter_mut().filter(|node| !node.is_running()).try_for_each(Node::start)
    }

    /// Stops all nodes that run; each must end with 0.
    ///
    /// # Errors
    /// One does not.
    pub fn stop(&mut self) -> Result {
        self.nodes.iter_mut().filter(|node| node.is_running()).try_for_each(Node::stop)
    }

    /// The files, in the order of the nodes.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        self.nodes.iter().map(Node::file).collect()
    }

    /// The file of one node.
    #[must_use]
    pub fn file(&self, index: usize) -> &Path {
        self.nodes[index].file()
    }

    /// Awaits that everything written has arrived everywhere; see [`Self::settled_within`].
    ///
    /// # Errors
    /// It does not.
    #[track_caller]
    pub fn settled(&self) -> Result<Contents> {
        self.settled_within(DEADLINE)
    }

    /// Awaits that all are connected, nothing waits for capture, all nodes know the same changes and all files hold the same rows; then
    /// checks the files' integrity and returns the rows.
    ///
    /// # Errors
    /// It does not come about within the deadline, or a file is damaged.
    #[track_caller]
    pub fn settled_within(&self, deadline: Duration) -> Result<Contents> {
        let rows = Scene::within(deadline, "all files are equal and nothing waits", || {
            self.files().into_iter().try_for_each(log_is_drained)?;
            self.all_connected()?;
            self.same_vectors()?;
            self.own_tables_are_unsynced()?;
            same_contents_but(&self.files(), &self.own_tables)
        })?;
        self.files().into_iter().try_for_each(check_integrity)?;
        Ok(rows)
    }

    fn own_tables_are_unsynced(&self) -> Result {
        for node in &self.nodes {
            let status = node.database_status(&self.database)?;
            let unsynced = status["unsynced"].as_array().cloned().unwrap_or_default();
            if let Some(table) =
                self.own_tables.iter().find(|own| !unsynced.iter().any(|found| found["table"] == **own))
            {
                fail!("node {} syncs {table}: {status}", node.name());
            }
        }
        Ok(())
    }

    /// Checks that every node has a peer; equal files of nodes that have not met yet say nothing.
    fn all_connected(&self) -> Result {
        for node in self.nodes.iter().filter(|_| self.nodes.len() > 1) {
            let status = node.status()?;
            let peers = status["peers"].as_array();
            if !peers.is_some_and(|peers| peers.iter().any(|peer| peer["state"] == "connected")) {
                fail!("node {} has no peer: {status}", node.name());
            }
        }
        Ok(())
    }

    /// Checks by status that all nodes have the same version vector and no backlog.
    fn same_vectors(&self) -> Result {
        let mut first: Option<(&str, BTreeMap<String, u64>)> = None;
        for node in &self.nodes {
            let status = node.database_status(&self.database)?;
            if status["backlog"] != 0 {
                fail!("node {} has a backlog: {status}", node.name());
            }
            let Some(have) = status["have"].as_object() else { fail!("no version vector in {status}") };
            // An origin of which nothing is known may be listed or not.
            let vector = have
                .iter()
                .filter_map(|(origin, sequence)| Some((origin.clone(), sequence.as_u64().filter(|seq| *seq > 0)?)))
                .collect();
            match &first {
                None => first = Some((node.name(), vector)),
                Some((name, expected)) if *expected != vector => {
                    fail!("{name} knows {expected:?}, {} knows {vector:?}", node.name())
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}
