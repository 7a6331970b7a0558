//! One of two databases that are compared: a running daemon's, or one of an engine in this process.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sync_engine::verification::{Ask, Found, Key, Part, Range, Reissue, Row, Table, Told};
use sync_engine::{Selection, Verifier, VerifyError};

use tokio::runtime::Handle;

use crate::commands::daemon::Daemon;

/// How long a database that cannot be asked now is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// A database that can be asked.
#[derive(Debug)]
pub(super) enum Side {
    /// A daemon's, by its name.
    Daemon(Daemon, String),
    /// One of an engine in this process. Whoever asks is on a thread that may wait.
    Here(Verifier, Handle),
}

impl Side {
    pub(super) fn new(daemon: Daemon, database: &str) -> Self {
        Self::Daemon(daemon, database.to_owned())
    }

    pub(super) const fn here(verifier: Verifier, runtime: Handle) -> Self {
        Self::Here(verifier, runtime)
    }

    fn ask(&self, ask: &Ask) -> anyhow::Result<Told> {
        match self {
            Self::Here(verifier, runtime) => patiently(|| runtime.block_on(verifier.ask(ask.clone()))),
            Self::Daemon(daemon, database) => {
                let answer = post(daemon, database, "verify", ask)?;
                serde_json::from_str(&answer)
                    .with_context(|| format!("the answer of http://{} is of another version", daemon.authority()))
            }
        }
    }

    fn unexpected<T>(&self) -> anyhow::Result<T> {
        match self {
            Self::Daemon(daemon, _) => {
                anyhow::bail!("http://{} answered something else than it was asked", daemon.authority())
            }
            Self::Here(..) => anyhow::bail!("the database answered something else than it was asked"),
        }
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
        let rows = Reissue { table: table.to_owned(), keys };
        match self {
            Self::Daemon(daemon, database) => post(daemon, database, "reissue", &rows).map(drop),
            Self::Here(verifier, runtime) => patiently(|| runtime.block_on(verifier.reissue(rows.clone()))).map(drop),
        }
    }
}

fn post<T: serde::Serialize>(daemon: &Daemon, database: &str, what: &str, body: &T) -> anyhow::Result<String> {
    let path = format!("/v1/databases/{}/{what}", sync_engine::conflicts::path_segment(database));
    let body = serde_json::to_string(body)?;
    let since = Instant::now();
    let answered = loop {
        let answer = daemon.post_json(&path, &body)?;
        // While a program holds the lock, or a migration is looked at.
        if answer.status != 503 || since.elapsed() >= PATIENCE {
            break answer.expect_done();
        }
        std::thread::sleep(PAUSE);
    };
    answered.with_context(|| format!("http://{} was asked about {database:?}", daemon.authority()))
}

/// Asks again while a program holds the lock, or a migration is looked at.
fn patiently<T>(ask: impl Fn() -> Result<T, VerifyError>) -> anyhow::Result<T> {
    let since = Instant::now();
    loop {
        match ask() {
            Err(VerifyError::Store(_)) if since.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            answered => return Ok(answered?),
        }
    }
}
