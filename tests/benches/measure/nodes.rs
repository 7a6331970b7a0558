//! Daemons, and when a file holds what it is to hold.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use system_tests::{Node, Result, Scene, check_equal, fail};

use crate::application;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(600);

/// Two nodes with one database, the second of which dials the first.
pub(crate) struct Pair {
    pub(crate) a: Node,
    pub(crate) b: Node,
}

impl Pair {
    /// Makes both with empty tables, without starting them.
    pub(crate) fn new(scene: &Scene) -> Result<Self> {
        let mut a = Node::new(scene, "a")?;
        let mut b = Node::new(scene, "b")?;
        for node in [&mut a, &mut b] {
            node.as_installed();
            application::create(&node.database("shop"))?;
        }
        b.peer(&a);
        Ok(Self { a, b })
    }

    /// Makes and starts both, and awaits that they talk.
    pub(crate) fn start(scene: &Scene) -> Result<Self> {
        let mut pair = Self::new(scene)?;
        pair.a.start()?;
        pair.b.start()?;
        await_peers(&pair.b, 1)?;
        Ok(pair)
    }

    /// Checks that both files hold the same rows, and so many.
    pub(crate) fn check_equal(&self, rows: u64) -> Result {
        let (a, b) = (sums(self.a.file())?, sums(self.b.file())?);
        check_equal!(a, b);
        check_equal!(a.0, rows.cast_signed());
        Ok(())
    }
}

/// Awaits that a node shares databases with so many peers.
pub(crate) fn await_peers(node: &Node, peers: usize) -> Result {
    let shares = |peer: &serde_json::Value| peer["databases"].as_array().is_some_and(|shared| !shared.is_empty());
    await_that(Duration::from_millis(5), || {
        let status = node.status()?;
        Ok(status["peers"].as_array().is_some_and(|known| known.iter().filter(|peer| shares(peer)).count() >= peers))
    })
}

/// Looks again and again after a pause, until it holds.
pub(crate) fn await_that(pause: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result {
    let begun = Instant::now();
    while !holds()? {
        if begun.elapsed() > DEADLINE {
            fail!("not within {DEADLINE:?}");
        }
        std::thread::sleep(pause);
    }
    Ok(())
}

/// The highest key.
pub(crate) fn last(conn: &Connection) -> Result<i64> {
    Ok(conn.prepare_cached("SELECT coalesce(max(id), 0) FROM item")?.query_row([], |row| row.get(0))?)
}

/// A value of a row, if it is there.
pub(crate) fn qty(conn: &Connection, id: u64) -> Result<Option<i64>> {
    let mut statement = conn.prepare_cached("SELECT qty FROM item WHERE id = ?1")?;
    let mut rows = statement.query([id.cast_signed()])?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}

/// Rows, and what they add up to.
pub(crate) fn sums(file: &Path) -> Result<(i64, i64, i64)> {
    let sql = "SELECT count(*), coalesce(sum(id), 0), coalesce(sum(qty), 0) FROM item";
    let conn = application::open(file)?;
    Ok(conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?)
}

/// Seconds that a process has computed.
pub(crate) fn computed(pid: u32) -> Result<f64> {
    Ok(threads(pid)?.values().map(|thread| thread.computed).sum::<Duration>().as_secs_f64())
}

/// What a process computes from a moment on.
pub(crate) struct Stopwatch {
    pid: u32,
    before: HashMap<OsString, Thread>,
}

impl Stopwatch {
    pub(crate) fn start(node: &Node) -> Result<Self> {
        let pid = node.pid()?;
        Ok(Self { pid, before: threads(pid)? })
    }

    /// Seconds since then. A thread that has ended meanwhile counts for nothing, rather than for less than that: what it did before
    /// is in neither sum.
    pub(crate) fn seconds(&self) -> Result<f64> {
        let before = |thread| self.before.get(thread).map_or(Duration::ZERO, |before| before.computed);
        let now = threads(self.pid)?;
        let spent = now.iter().map(|(thread, now)| now.computed.saturating_sub(before(thread)));
        Ok(spent.sum::<Duration>().as_secs_f64())
    }
}

/// What a thread has done so far.
#[derive(Debug, Clone, Copy, Default)]
struct Thread {
    computed: Duration,
    /// Ready to compute, while others did.
    waited: Duration,
}

fn threads(pid: u32) -> Result<HashMap<OsString, Thread>> {
    let mut threads = HashMap::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?;
        // One that ends meanwhile counts for nothing.
        let Ok(text) = std::fs::read_to_string(thread.path().join("schedstat")) else { continue };
        let mut numbers = text.split_whitespace().map(|word| Duration::from_nanos(word.parse().unwrap_or(0)));
        let mut next = || numbers.next().unwrap_or_default();
        threads.insert(thread.file_name(), Thread { computed: next(), waited: next() });
    }
    Ok(threads)
}

/// Awaits that nodes do next to nothing for a tenth of a second: all together compute for less than a tenth of it, and not because
/// they would and others do.
pub(crate) fn await_quiet(nodes: &[&Node]) -> Result {
    const LOOK: Duration = Duration::from_millis(100);
    let mut before = None;
    await_that(LOOK, || {
        let mut now = Thread::default();
        for node in nodes {
            for thread in threads(node.pid()?)?.values() {
                now.computed += thread.computed;
                now.waited += thread.waited;
            }
        }
        let quiet = before.is_some_and(|before: Thread| {
            now.computed.saturating_sub(before.computed) < LOOK / 10
                && now.waited.saturating_sub(before.waited) < LOOK / 2
        });
        before = Some(now);
        Ok(quiet)
    })
}

/// Bytes of memory that a process has.
pub(crate) fn memory(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    Ok(1024.0 * kib.unwrap_or(f64::NAN))
}
