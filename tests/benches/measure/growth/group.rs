//! Daemons with the same databases, and what they compute while a load goes through all of them.

use std::iter::once;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use system_tests::{Node, Result, Scene, check_equal};

use super::load::Load;
use crate::application::{self, Spent};
use crate::nodes::{Stopwatch, await_quiet, await_that, sums};

/// The pause between two looks at a peer's file.
const PAUSE: Duration = Duration::from_millis(5);

/// A node whose files an application writes, and peers that dial it.
pub(super) struct Group {
    pub(super) writer: Node,
    pub(super) peers: Vec<Node>,
    databases: usize,
}

/// Seconds that a load took: of each process's computing, and of time until all of it was in all files.
pub(super) struct Cost {
    pub(super) application: f64,
    pub(super) writer: f64,
    /// Of all peers together.
    pub(super) peers: f64,
    pub(super) wall: f64,
}

impl Group {
    /// Nodes that know of databases whose files are still to be made.
    pub(super) fn new(scene: &Scene, databases: usize, peers: usize) -> Result<Self> {
        let mut writer = Node::new(scene, "writer")?;
        let mut peers = (0..peers).map(|n| Node::new(scene, &format!("peer-{n}"))).collect::<Result<Vec<_>>>()?;
        for node in once(&mut writer).chain(&mut peers) {
            node.as_installed();
            for n in 0..databases {
                node.database(&name(n));
            }
        }
        for peer in &mut peers {
            peer.peer(&writer);
        }
        Ok(Self { writer, peers, databases })
    }

    fn nodes(&self) -> Vec<&Node> {
        once(&self.writer).chain(&self.peers).collect()
    }

    /// The files of a node.
    pub(super) fn files(&self, node: &Node) -> Vec<PathBuf> {
        (0..self.databases).map(|n| node.path(&format!("{}.db", name(n)))).collect()
    }

    /// Makes all files, with empty tables.
    pub(super) fn create(&self) -> Result {
        for node in self.nodes() {
            for file in self.files(node) {
                application::create(&file)?;
            }
        }
        Ok(())
    }

    /// Starts all daemons.
    pub(super) fn start(&mut self) -> Result {
        self.writer.start()?;
        self.peers.iter_mut().try_for_each(Node::start)
    }

    /// Sends a row with a new key through each database. What is written then does not pay for how daemons meet, nor for what the
    /// first change takes once.
    pub(super) fn warm(&self, key: u64) -> Result {
        let files = self.files(&self.writer);
        self.write(&Load::InTurn { rows: files.len() as u64, files, first: key }).map(drop)
    }

    /// Has an application write, and awaits that all files hold it and the daemons have no more to do with it.
    pub(super) fn write(&self, load: &Load) -> Result<Cost> {
        let readers = self.readers()?;
        let writer = Stopwatch::start(&self.writer)?;
        let peers = self.peers.iter().map(Stopwatch::start).collect::<Result<Vec<_>>>()?;
        let begun = Instant::now();
        let application = Spent::by(&mut load.command()?)?.cpu;
        for files in &readers {
            for (file, end) in files.iter().zip(load.ends()) {
                await_that(PAUSE, || load.has_come_to(file, end))?;
            }
        }
        let wall = begun.elapsed().as_secs_f64();
        await_quiet(&self.nodes())?;
        let peers = peers.iter().map(Stopwatch::seconds).sum::<Result<f64>>()?;
        Ok(Cost { application, writer: writer.seconds()?, peers, wall })
    }

    fn readers(&self) -> Result<Vec<Vec<Connection>>> {
        let of = |node| self.files(node).iter().map(|file| application::open(file)).collect();
        self.peers.iter().map(of).collect()
    }

    /// Checks that all nodes hold the same, and stops them.
    pub(super) fn finish(mut self) -> Result {
        for (place, file) in self.files(&self.writer).iter().enumerate() {
            let rows = sums(file)?;
            for peer in &self.peers {
                check_equal!(rows, sums(&self.files(peer)[place])?);
            }
        }
        self.peers.iter_mut().try_for_each(Node::stop)?;
        self.writer.stop()
    }
}

fn name(database: usize) -> String {
    format!("shop-{database}")
}
