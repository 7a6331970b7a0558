//! A daemon that is attacked, and an honest peer beside it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::Path;

use replication::message::{DatabaseHello, Message, ProblemCode};
use replication::{
    Dot, Entry, EntryFlags, Origin, RowClock, RowImage, TableRows, TableShape, Timestamp, Value, VersionVector,
};
use system_tests::{
    Cluster, Failure, HostilePeer, Node, Result, Scene, Topology, check, check_equal, check_integrity, query_text,
    shell,
};

/// The database that all share.
pub(crate) const DATABASE: &str = "notes";

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);";

/// What the daemon may take at most. A message may have 256 MiB, and is decompressed beside that; what accumulates goes beyond it.
const MEMORY: u64 = 900 << 20;

/// The daemon, which is the first node, and the honest peer, which is the second.
pub(crate) struct Bench<'a> {
    scene: &'a Scene,
    cluster: Cluster,
    /// Numbers the rows that show that all is well.
    probes: u64,
}

impl<'a> Bench<'a> {
    pub(crate) fn start(scene: &'a Scene) -> Result<Self> {
        let mut cluster = Cluster::new(scene, DATABASE, 2, Topology::Apart)?;
        let url = cluster.nodes[0].url();
        cluster.nodes[1].peer_url(&url);
        cluster.create(SCHEMA)?;
        cluster.start()?;
        let mut bench = Self { scene, cluster, probes: 0 };
        bench.unaffected()?;
        Ok(bench)
    }

    pub(crate) fn scene(&self) -> &Scene {
        self.scene
    }

    pub(crate) fn daemon(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    pub(crate) fn log(&self) -> String {
        self.daemon().log()
    }

    /// A link on which nothing is said.
    pub(crate) fn stranger(&self) -> Result<HostilePeer> {
        HostilePeer::connect(self.daemon().port(), "liar")
    }

    /// A peer that knows nothing, and what the daemon says of the database.
    pub(crate) fn liar(&self, origin: Origin) -> Result<(HostilePeer, DatabaseHello)> {
        self.named_liar("liar", origin)
    }

    pub(crate) fn named_liar(&self, name: &str, origin: Origin) -> Result<(HostilePeer, DatabaseHello)> {
        let own = DatabaseHello::new(origin, VersionVector::new());
        HostilePeer::greeted(self.daemon().port(), name, DATABASE, own)
    }

    /// A write of either's application reaches the other, the files are sound, and memory is bounded.
    #[track_caller]
    pub(crate) fn unaffected(&mut self) -> Result {
        self.probes += 1;
        let number = 1_000_000 + 2 * self.probes;
        for (node, id) in [(0, number), (1, number + 1)] {
            shell(self.cluster.file(node), &format!("INSERT INTO note VALUES ({id}, 'probe')"))?;
        }
        self.scene.eventually("what is written arrives", || {
            for file in self.cluster.files() {
                let sql = format!("SELECT group_concat(id) FROM note WHERE id >= {number}");
                check_equal!(query_text(file, &sql)?, format!("{number},{}", number + 1), "{}", file.display());
            }
            Ok(())
        })?;
        self.cluster.files().into_iter().try_for_each(check_integrity)?;
        self.memory_is_bounded()
    }

    fn memory_is_bounded(&self) -> Result {
        let bytes = self.daemon().peak_memory()?;
        println!("the daemon took {} MiB at most", bytes >> 20);
        check!(bytes < MEMORY, "the daemon took {} MiB", bytes >> 20);
        Ok(())
    }

    /// A row that the honest node's application writes.
    pub(crate) fn write_honest(&self, body: &str) -> Result {
        shell(self.cluster.file(1), &format!("INSERT INTO note VALUES (7, '{body}')")).map(drop)?;
        self.scene.eventually("it is captured", || {
            check_equal!(query_text(self.cluster.file(1), "SELECT count(*) FROM _sync_log")?, "0");
            Ok(())
        })
    }

    /// Much for a peer that knows nothing to ask for.
    pub(crate) fn fill(&mut self) -> Result {
        let sql = "INSERT INTO note SELECT value, hex(randomblob(5000)) FROM generate_series(1, 4000)";
        shell(self.cluster.file(0), sql)?;
        self.unaffected()
    }

    pub(crate) fn restart_honest(&mut self) -> Result {
        self.cluster.nodes[1].stop()?;
        self.cluster.nodes[1].start()
    }

    /// The honest node goes on without the daemon.
    pub(crate) fn part(&mut self) -> Result {
        self.cluster.nodes[1].stop()?;
        self.cluster.nodes[1].without_peers();
        self.cluster.nodes[1].start()
    }

    pub(crate) fn restart_honest_alone(&mut self) -> Result {
        self.restart_honest()
    }

    /// The honest node finds the daemon again.
    pub(crate) fn meet(&mut self) -> Result {
        self.cluster.nodes[1].stop()?;
        let url = self.cluster.nodes[0].url();
        self.cluster.nodes[1].peer_url(&url);
        self.cluster.nodes[1].start()
    }

    pub(crate) fn own_origin(&self) -> Result<Origin> {
        self.scene.eventually("the daemon has opened the file", || origin_of(&self.cluster.nodes[0]))
    }

    pub(crate) fn honest_origin(&self) -> Result<Origin> {
        self.scene.eventually("the honest node has opened the file", || origin_of(&self.cluster.nodes[1]))
    }

    /// Awaits that the daemon logs something.
    #[track_caller]
    pub(crate) fn told(&self, text: &str) -> Result {
        self.scene.eventually("it is told", || {
            check!(self.log().contains(text), "{text} is not in the log");
            Ok(())
        })
    }

    pub(crate) fn honest_sequence(&self) -> Result<u64> {
        let status = self.cluster.nodes[1].database_status(DATABASE)?;
        status["sequence"].as_u64().ok_or_else(|| Failure::new(status.to_string()))
    }

    pub(crate) fn file(&self) -> &Path {
        self.cluster.file(0)
    }

    /// Both end as they should, and with the same rows.
    pub(crate) fn end(mut self) -> Result {
        self.scene
            .eventually("both hold the same rows", || system_tests::same_contents(&self.cluster.files()).map(drop))?;
        self.cluster.stop()
    }
}

fn origin_of(node: &Node) -> Result<Origin> {
    let status = node.database_status(DATABASE)?;
    let origin = status["origin"].as_str().ok_or_else(|| Failure::new(status.to_string()))?;
    Ok(origin.parse()?)
}

/// One row of a table, as a peer would send it: the first column is the key.
pub(crate) fn note(table: &str, columns: &[&str], origin: Origin, sequence: u64, id: u64) -> TableRows {
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    let stamp = Timestamp::from_millis(1_700_000_000_000);
    let entry = Entry::new(stamp, Dot { origin, sequence }, EntryFlags::empty());
    let mut values = vec![Value::Integer(id.cast_signed())];
    values.resize(columns.len(), Value::Text(b"of the liar".to_vec()));
    let shape = TableShape { name: table.to_owned(), columns, key: vec![0] };
    TableRows::new(shape, vec![RowImage { values, clock: RowClock::whole(entry) }])
}

/// An origin that nobody has.
pub(crate) fn origin(number: u32) -> Origin {
    let mut bytes = [0x5a; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Origin::from_bytes(bytes)
}

/// The liar's own origin.
pub(crate) fn liar() -> Origin {
    origin(0)
}

/// A version vector.
pub(crate) fn vector(entries: &[(Origin, u64)]) -> VersionVector {
    entries.iter().copied().collect()
}

/// What kind of problem the daemon has with what was said.
pub(crate) fn problem(peer: &mut HostilePeer) -> Result<ProblemCode> {
    peer.hear("it is told", |message| match message {
        Message::Problem(problem) => Some(problem.code),
        _ => None,
    })
}
