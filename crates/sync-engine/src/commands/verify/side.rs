//! One of two databases that are compared: a running daemon's.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sync_engine::Selection;
use sync_engine::verification::{Ask, Found, Key, Part, Range, Reissue, Row, Table, Told};

use crate::commands::daemon::Daemon;

/// How long a database that cannot be asked now is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// A daemon's database.
#[derive(Debug)]
pub(super) struct Side {
    daemon: Daemon,
    database: String,
}

impl Side {
    pub(super) fn new(daemon: Daemon, database: &str) -> Self {
        Self { daemon, database: database.to_owned() }
    }

    fn path(&self, what: &str) -> String {
        format!("/v1/databases/{}/{what}", sync_engine::conflicts::path_segment(&self.database))
    }

    fn post<T: serde::Serialize>(&self, what: &str, body: &T) -> anyhow::Result<String> {
        let body = serde_json::to_string(body)?;
        let since = Instant::now();
        let answered = loop {
            let answer = self.daemon.post_json(&self.path(what), &body)?;
            // While a program holds the lock, or a migration is looked at.
            if answer.status != 503 || since.elapsed() >= PATIENCE {
                break answer.expect_done();
            }
            std::thread::sleep(PAUSE);
        };
        answered.with_context(|| format!("http://{} was asked about {:?}", self.daemon.authority(), self.database))
    }

    fn ask(&self, ask: &Ask) -> anyhow::Result<Told> {
        serde_json::from_str(&self.post("verify", ask)?)
            .with_context(|| format!("the answer of http://{} is of another version", self.daemon.authority()))
    }

    fn unexpected<T>(&self) -> anyhow::Result<T> {
        anyhow::bail!("http://{} answered something else than it was asked", self.daemon.authority())
    }

    /// The node's name, its tables, and what it syncs.
    pub(super) fn tables(&self) -> anyhow::Result<(String, Vec<Table>, Selection)> {
        let told = self.ask(&Ask::Tables)?;
        match told.found {
            Found::Tables(tables) => Ok((told.node, tables, told.selection)),
            _ => self.unexpected(),
        }
    }

    /// Parts of ranges with at most so many rows each, and what is to be asked about again.
    pub(super) fn ranges(&self, table: &str, rows: u32, ranges: Vec<Range>) -> anyhow::Result<(Vec<Part>, Vec<Range>)> {
        match self.ask(&Ask::Ranges { table: table.to_owned(), rows, ranges })?.found {
            Found::Ranges { parts, rest } => Ok((parts, rest)),
            _ => self.unexpected(),
        }
    }

    /// What rows are, and what was known when they were looked at.
    pub(super) fn rows(&self, table: &str, keys: &[Key]) -> anyhow::Result<(Vec<Row>, Told)> {
        let mut told = self.ask(&Ask::Rows { table: table.to_owned(), keys: keys.to_vec() })?;
        match std::mem::replace(&mut told.found, Found::Rows(Vec::new())) {
            Found::Rows(rows) if rows.len() == keys.len() => Ok((rows, told)),
            _ => self.unexpected(),
        }
    }

    /// Has rows issued anew as they are.
    pub(super) fn reissue(&self, table: &str, keys: Vec<Key>) -> anyhow::Result<()> {
        self.post("reissue", &Reissue { table: table.to_owned(), keys }).map(drop)
    }
}
