//! Programs that write while daemons die, and what must be there in the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;
use system_tests::{Cluster, Node, Result, Running, Scene, check, check_equal, python_script, query_text};

/// What a writer and a daemon that lock each other out may need.
const DEADLINE: Duration = Duration::from_secs(120);

/// The writers' tables.
pub(crate) const SCHEMA: &str = "CREATE TABLE entry (name TEXT PRIMARY KEY, body TEXT); \
    CREATE TABLE left_half (node TEXT, id INTEGER, body TEXT, PRIMARY KEY (node, id)); \
    CREATE TABLE right_half (node TEXT, id INTEGER, body TEXT, PRIMARY KEY (node, id)); \
    CREATE TABLE tally (id INTEGER PRIMARY KEY, n INTEGER);";

/// What makes counting no conflict.
pub(crate) const SETTING: &str = "[[database.table]]\nname = \"tally\"\ncolumns.n = { policy = \"counter\" }";

/// Writers at work, one on each node.
pub(crate) struct Load {
    writers: Vec<(String, Running)>,
    stop: PathBuf,
}

/// What they have committed by now.
#[derive(Debug, Default)]
pub(crate) struct Written {
    entries: BTreeMap<String, String>,
    pairs: BTreeMap<(String, i64), String>,
    counted: BTreeMap<i64, i64>,
}

impl Load {
    pub(crate) fn start(scene: &Scene, nodes: &[Node], seed: u64) -> Result<Self> {
        let stop = scene.path(format!("stop-{seed}"));
        let start = |node: &Node| {
            let mut command = python_script("crash_writer.py");
            command.arg(node.file()).arg(node.name()).arg(seed.to_string()).arg(&stop);
            let outputs = scene.path(format!("writer-{}-{seed}", node.name()));
            Ok((node.name().to_owned(), Running::start(&mut command, &outputs)?))
        };
        let writers = nodes.iter().map(start).collect::<Result<Vec<_>>>()?;
        scene.eventually("all have begun", || {
            check!(writers.iter().all(|(_, writer)| !writer.output().is_empty()), "they have not");
            Ok(())
        })?;
        Ok(Self { writers, stop })
    }

    /// Lets them end.
    pub(crate) fn end(self) -> Result<Written> {
        std::fs::write(&self.stop, "")?;
        let mut written = Written::default();
        for (node, writer) in self.writers {
            let told = writer.finish(DEADLINE)?.success()?;
            written.hear(&node, &serde_json::from_str(told.lines().last().unwrap_or_default())?);
        }
        Ok(written)
    }
}

impl Written {
    fn hear(&mut self, node: &str, told: &Json) {
        let members = |name: &str| told[name].as_object().cloned().unwrap_or_default();
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        self.entries.extend(members("entries").iter().map(|(name, body)| (name.clone(), text(body))));
        let key = |text: &str| text.parse::<i64>().unwrap_or(-1);
        self.pairs.extend(members("pairs").iter().map(|(id, body)| ((node.to_owned(), key(id)), text(body))));
        for (id, amount) in members("counted") {
            *self.counted.entry(key(&id)).or_default() += amount.as_i64().unwrap_or(i64::MIN);
        }
    }

    /// All of it is in a file, as it was written last, and nothing else.
    pub(crate) fn is_in(&self, file: &Path) -> Result {
        let lines = |lines: &mut dyn Iterator<Item = String>| lines.collect::<Vec<_>>().join("\n");
        let entries = lines(&mut self.entries.iter().map(|(name, body)| format!("{name}|{body}")));
        same(&query_text(file, "SELECT name, body FROM entry ORDER BY name")?, &entries, "entry")?;
        let pairs = lines(&mut self.pairs.iter().map(|((node, id), body)| format!("{node}|{id}|{body}")));
        for half in ["left_half", "right_half"] {
            same(&query_text(file, &format!("SELECT node, id, body FROM {half} ORDER BY node, id"))?, &pairs, half)?;
        }
        let counted = lines(&mut self.counted.iter().map(|(id, sum)| format!("{id}|{sum}")));
        same(&query_text(file, "SELECT id, n FROM tally WHERE n <> 0 ORDER BY id")?, &counted, "tally")
    }

    /// How many rows were written.
    pub(crate) fn rows(&self) -> usize {
        self.entries.len() + 2 * self.pairs.len()
    }
}

/// Names the first lines that differ: all of them are many.
fn same(found: &str, expected: &str, table: &str) -> Result {
    let mut told = String::new();
    let (found, expected): (Vec<&str>, Vec<&str>) = (found.lines().collect(), expected.lines().collect());
    for line in expected.iter().filter(|line| found.binary_search(line).is_err() && !found.contains(line)).take(5) {
        let _ = writeln!(told, "lost: {}", line.trim_end_matches('x'));
    }
    for line in found.iter().filter(|line| !expected.contains(line)).take(5) {
        let _ = writeln!(told, "not written last: {}", line.trim_end_matches('x'));
    }
    check_equal!(told, "", "{table}");
    check_equal!(found.len(), expected.len(), "rows of {table}");
    Ok(())
}

/// Nobody sees half of a transaction.
pub(crate) fn halves_match(file: &Path) -> Result {
    let sql = "SELECT count(*) FROM (SELECT * FROM left_half EXCEPT SELECT * FROM right_half UNION ALL \
               SELECT * FROM (SELECT * FROM right_half EXCEPT SELECT * FROM left_half))";
    check_equal!(query_text(file, sql)?, "0", "pairs of which only half is there");
    Ok(())
}

/// No conflict was decided, and nothing waits.
pub(crate) fn nothing_is_recorded(cluster: &Cluster) -> Result {
    for file in cluster.files() {
        check_equal!(query_text(file, "SELECT kind, outcome, record FROM _sync_conflict")?, "");
        check_equal!(query_text(file, "SELECT count(*) FROM _sync_parked")?, "0");
    }
    Ok(())
}
