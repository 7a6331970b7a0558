//! One database and its application.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use replication::reconcile::{KeyRange, Question, TableRanges};
use replication::{Batch, DotSet, Granularity, Origin, Selection, lacks_dropped};
use rusqlite::Connection;
use rusqlite::types::Value;
use sqlite_store::attach::AttachRules;
use sqlite_store::attach::naming::WireNames;
use sqlite_store::key_ranges::KeyRanges;
use sqlite_store::{
    ApplyOutcome, BatchLimits, ConflictRetention, Database, DatabaseEvent, DatabaseOptions, DatabaseRules,
    DatabaseState, FileWatch, Machine, Phase, RowObserver, StateDatabase,
};
use tokio::sync::mpsc;

/// How a replica begins.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) schema: &'static str,
    pub(crate) journal: &'static str,
    pub(crate) granularity: Granularity,
    pub(crate) max_rows: usize,
    pub(crate) key_ranges: Option<KeyRanges>,
    pub(crate) rules: fn() -> DatabaseRules,
    pub(crate) names: fn() -> WireNames,
    pub(crate) selection: fn() -> Selection,
    pub(crate) retention: ConflictRetention,
    pub(crate) tombstone_horizon: Duration,
    pub(crate) upkeep_interval: Duration,
    pub(crate) close_after: Duration,
    pub(crate) machine: Machine,
}

impl Setup {
    pub(crate) fn of(schema: &'static str) -> Self {
        Self {
            schema,
            journal: "WAL",
            granularity: Granularity::Column,
            max_rows: 20_000,
            key_ranges: None,
            rules: DatabaseRules::default,
            names: WireNames::default,
            selection: Selection::default,
            retention: ConflictRetention::default(),
            tombstone_horizon: Duration::from_secs(86_400),
            upkeep_interval: Duration::from_secs(60),
            close_after: Duration::from_secs(86_400),
            machine: Machine::this(),
        }
    }
}

pub(crate) struct Replica {
    pub(crate) database: Database,
    pub(crate) path: PathBuf,
    state: StateDatabase,
    pub(crate) events: mpsc::UnboundedReceiver<(Arc<str>, DatabaseEvent)>,
    pub(crate) setup: Setup,
    /// Dots that others need not be sent, by their origins.
    pub(crate) spared: Mutex<BTreeMap<Origin, DotSet>>,
}

impl Replica {
    /// A new file, in sync from the start.
    pub(crate) async fn create(folder: &Path, name: &str, setup: Setup) -> Self {
        let path = folder.join(format!("{name}.db"));
        let conn = Connection::open(&path).unwrap();
        conn.pragma_update(None, "journal_mode", setup.journal).unwrap();
        conn.execute_batch(setup.schema).unwrap();
        drop(conn);
        Self::start(path, setup).await
    }

    /// An existing file.
    async fn start(path: PathBuf, setup: Setup) -> Self {
        let (sender, mut heard) = mpsc::channel(64);
        // Somebody always listens, as in the daemon.
        let (keep, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(event) = heard.recv().await {
                let _ = keep.send(event);
            }
        });
        let mut rules = (setup.rules)();
        rules.default.granularity = setup.granularity;
        rules.tables.values_mut().for_each(|rules| rules.granularity = setup.granularity);
        let node = path.file_stem().unwrap().to_string_lossy().into_owned();
        let state = StateDatabase::open(&path.with_extension("state"), setup.machine, &node).await.unwrap();
        let options = DatabaseOptions {
            name: "test".to_owned(),
            path: path.clone(),
            node,
            rules,
            attach: AttachRules {
                key_ranges: setup.key_ranges,
                names: Some((setup.names)()),
                selection: Some((setup.selection)()),
                ..AttachRules::default()
            },
            poll_interval: Duration::from_millis(50),
            max_clock_skew: Duration::from_secs(60),
            schema_quiet: Duration::ZERO,
            max_rows: setup.max_rows,
            tombstone_horizon: setup.tombstone_horizon,
            upkeep_interval: setup.upkeep_interval,
            close_after: setup.close_after,
            retention: setup.retention,
            observer: None,
            state: Some(state.clone()),
        };
        let database = Database::start(options, Arc::new(FileWatch::new().unwrap()), sender).unwrap();
        let replica = Self { database, path, events, setup, state, spared: Mutex::default() };
        replica.until(|state| state.phase == Phase::Attached).await;
        replica
    }

    /// The same file after its database's thread has ended and `meanwhile` was done.
    pub(crate) async fn restart(self, meanwhile: impl FnOnce(&Connection)) -> Self {
        self.database.close().await;
        meanwhile(&self.application());
        let Self { path, setup, .. } = self;
        Self::start(path, setup).await
    }

    /// The same file under other names.
    pub(crate) async fn renamed(mut self, names: fn() -> WireNames) -> Self {
        self.setup.names = names;
        self.restart(|_| {}).await
    }

    /// The same file under another choice of what is synced.
    pub(crate) async fn reselect(mut self, selection: fn() -> Selection) -> Self {
        self.setup.selection = selection;
        self.restart(|_| {}).await
    }

    /// What the disk holds now, as a power cut would leave it.
    pub(crate) fn disk(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let paths = || {
            let state = std::fs::read_dir(self.path.with_extension("state")).unwrap().map(|file| file.unwrap().path());
            let wal = PathBuf::from(format!("{}-wal", self.path.display()));
            state.chain([self.path.clone(), wal])
        };
        // Files that belong together are copied one after the other: while there are readers none of them is begun anew.
        let closed = self.is_closed();
        let readers: Vec<Connection> = paths()
            .filter(|path| path.extension().is_some_and(|extension| extension == "db"))
            .filter(|path| !closed || *path != self.path)
            .map(|path| {
                let conn = Connection::open(path).unwrap();
                conn.busy_timeout(Duration::from_secs(20)).unwrap();
                conn.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").unwrap();
                conn
            })
            .collect();
        // Whoever reads a file with a write-ahead log may have made that.
        let copies = paths().filter(|path| !path.to_string_lossy().ends_with("-shm"));
        let copies = copies.map(|path| (path.clone(), std::fs::read(path).unwrap_or_default())).collect();
        drop(readers);
        copies
    }

    /// Whether nothing in this process has the file open.
    pub(crate) fn is_closed(&self) -> bool {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        open.filter_map(|open| std::fs::read_link(open.path()).ok()).all(|file| file != self.path)
    }

    /// Waits until its file is closed.
    pub(crate) async fn until_closed(&self) {
        let begun = std::time::Instant::now();
        while !self.is_closed() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} stays open", self.path.display());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Closes all files.
    async fn close(&self) {
        self.database.close().await;
        self.state.clone().close().await;
    }

    /// The same file started again, and what the disk held while nobody wrote.
    pub(crate) async fn snapshot(self) -> (Self, Vec<(PathBuf, Vec<u8>)>) {
        self.close().await;
        let disk = self.disk();
        let Self { path, setup, .. } = self;
        (Self::start(path, setup).await, disk)
    }

    /// The same file after a power cut that left this on the disk, on this machine.
    pub(crate) async fn power_cut(self, disk: Vec<(PathBuf, Vec<u8>)>, machine: Machine) -> Self {
        self.close().await;
        for (path, bytes) in disk {
            std::fs::write(&path, bytes).unwrap();
            let shared = PathBuf::from(format!("{}-shm", path.display()));
            let _ = std::fs::remove_file(shared);
        }
        let Self { path, setup, .. } = self;
        Self::start(path, Setup { machine, ..setup }).await
    }

    pub(crate) async fn until(&self, mut reached: impl FnMut(&DatabaseState) -> bool) -> Arc<DatabaseState> {
        let mut state = self.database.state();
        tokio::time::timeout(Duration::from_secs(30), state.wait_for(|state| reached(state)))
            .await
            .unwrap_or_else(|_| panic!("not reached: {:?}", self.database.state().borrow()))
            .unwrap()
            .clone()
    }

    pub(crate) fn application(&self) -> Connection {
        let conn = Connection::open(&self.path).unwrap();
        conn.busy_timeout(Duration::from_secs(20)).unwrap();
        conn.pragma_update(None, "foreign_keys", true).unwrap();
        conn
    }

    /// Writes as an application does, and later than everything that was written before.
    pub(crate) fn write(&self, sql: &str) {
        crate::capture::later();
        self.application().execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The file in which its catch-ups are staged.
    pub(crate) fn stage(&self) -> Connection {
        let folder = std::fs::read_dir(self.path.with_extension("state")).unwrap();
        let mut files = folder.map(|file| file.unwrap().path());
        let is_stage = |file: &PathBuf| {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("staged-") && name.ends_with(".db")
        };
        Connection::open(files.find(is_stage).unwrap()).unwrap()
    }

    /// One text.
    pub(crate) fn text(&self, sql: &str) -> String {
        self.application().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    pub(crate) fn conflicts(&self) -> u64 {
        self.database.state().borrow().conflicts
    }

    /// The next batch of at most `rows` that `other` has for this replica.
    pub(crate) async fn next_from(&self, other: &Self, rows: usize) -> Batch {
        let state = self.database.state().borrow().clone();
        let source = other.database.state().borrow().origin.unwrap();
        let mut position = state.have.clone();
        if let Some(received) = state.received.get(&source) {
            position.join(received);
        }
        let held = state.held.get(&source).cloned().unwrap_or_default();
        let spared = other.spared.lock().unwrap().get(&state.origin.unwrap()).cloned().unwrap_or_default();
        let omit = Arc::new(held.joined(&spared));
        let mut batch =
            other.database.read(position, omit, BatchLimits { rows, bytes: 1 << 20, passed_on: true }).await.unwrap();
        batch.held = held.beyond(&batch.from).fingerprint();
        batch
    }

    /// Whether tombstones that it lacks are gone at another.
    fn lacks_dropped(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.database.state().borrow().clone(), other.database.state().borrow().clone());
        lacks_dropped((&ours.have, &ours.dropped), (&theirs.have, &theirs.dropped))
    }

    /// Deletes what was deleted at another, if tombstones are gone there that it lacks.
    pub(crate) async fn sweep(&self, other: &Self) {
        while self.lacks_dropped(other) {
            let state = other.database.state().borrow().clone();
            let whole = state.tables.keys().map(|table| (table.clone(), vec![KeyRange::default()])).collect();
            let mut todo: Vec<(u32, TableRanges)> = vec![(40, whole)];
            while let Some((rows, tables)) = todo.pop() {
                let answer =
                    other.database.fingerprint(Question { number: 1, rows, keys: true, tables }).await.unwrap();
                let rest = answer.rest.clone();
                let compared = self.database.sweep(state.origin.unwrap(), answer).await.unwrap();
                todo.extend((!rest.is_empty()).then_some((rows, rest)));
                if !compared.differing.is_empty() {
                    assert!(rows > 5, "keys are told");
                    todo.push((5, compared.differing));
                }
            }
            self.database.swept(state.dropped.clone()).await;
            self.until(|own| own.dropped.covers_all(&state.dropped)).await;
        }
    }

    /// Compares what both have, if they have never met, with so many rows to a fingerprint at first.
    pub(crate) async fn compare(&self, other: &Self, rows: u32) {
        let origin = |replica: &Self| replica.database.state().borrow().origin.unwrap();
        let (asking, answering) = if origin(self) < origin(other) { (self, other) } else { (other, self) };
        let (ours, theirs) = (origin(asking), origin(answering));
        let knows = |replica: &Self, origin| replica.database.state().borrow().have.get(origin) > 0;
        if knows(asking, theirs) || knows(answering, ours) {
            return;
        }
        let tables: Vec<String> = asking.database.state().borrow().tables.keys().cloned().collect();
        let whole = tables.into_iter().map(|table| (table, vec![KeyRange::default()])).collect();
        let mut todo: Vec<(u32, TableRanges)> = vec![(rows, whole)];
        while let Some((rows, tables)) = todo.pop() {
            let question = Question { number: 1, rows, keys: false, tables };
            let Ok(answer) = answering.database.fingerprint(question).await else { return };
            let rest = answer.rest.clone();
            let Ok(compared) = asking.database.compare(theirs, answer).await else { return };
            asking.spared.lock().unwrap().entry(theirs).or_default().join(&compared.ours);
            todo.extend((!rest.is_empty()).then_some((rows, rest)));
            if rows > 1 && !compared.differing.is_empty() {
                todo.push((1, compared.differing));
            }
        }
    }

    pub(crate) async fn apply(&self, batch: Batch, observer: Option<Arc<dyn RowObserver>>) -> ApplyOutcome {
        self.database.apply(batch, observer).await.unwrap().outcome
    }

    /// Waits until its origin is another; false if it stays.
    async fn until_origin(&self, is: impl Fn(Origin) -> bool) -> bool {
        let mut state = self.database.state();
        let changed = state.wait_for(|state| state.origin.is_some_and(&is));
        tokio::time::timeout(Duration::from_secs(5), changed).await.is_ok()
    }

    /// Takes what `other` has and this replica lacks, in batches of at most `rows`.
    pub(crate) async fn pull(&self, other: &Self, rows: usize) {
        self.pull_shown(other, rows, None).await;
    }

    /// The same; an observer is shown the rows.
    pub(crate) async fn pull_shown(&self, other: &Self, rows: usize, observer: Option<&Arc<dyn RowObserver>>) {
        loop {
            self.sweep(other).await;
            other.sweep(self).await;
            let before = self.database.state().borrow().clone();
            let origin = before.origin;
            let batch = self.next_from(other, rows).await;
            // As a greeting does, before what is read after it is sent.
            let schemas = other.database.state().borrow().schemas.clone();
            self.database.learn_schemas((*schemas).clone()).await;
            let complete = batch.is_complete();
            match self.apply(batch, observer.cloned()).await {
                ApplyOutcome::Applied(_) | ApplyOutcome::Known => {}
                // Tombstones have gone since.
                ApplyOutcome::Gap if self.lacks_dropped(other) || other.lacks_dropped(self) => continue,
                ApplyOutcome::Gap if self.database.state().borrow().received != before.received => continue,
                // Rows that were not sent are no longer what they were: it starts over.
                ApplyOutcome::Gap if self.database.state().borrow().held != before.held => continue,
                // What the batch was read for is not what this replica knows any more.
                ApplyOutcome::Gap if self.until_origin(|now| Some(now) != origin).await => continue,
                other => panic!("{other:?}"),
            }
            if complete {
                return;
            }
        }
    }

    /// The rows of all tables of the application.
    pub(crate) fn dump(&self) -> Vec<(String, Vec<Vec<Value>>)> {
        let conn = self.application();
        let mut statement = conn
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB '_sync_*' ORDER BY name")
            .unwrap();
        let tables: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let rows = |table: &String| {
            let mut statement = conn.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2")).unwrap();
            let width = statement.column_count();
            let rows = statement
                .query_map([], |row| (0..width).map(|index| row.get(index)).collect::<rusqlite::Result<Vec<_>>>())
                .unwrap();
            rows.map(Result::unwrap).collect()
        };
        tables.iter().map(|table| (table.clone(), rows(table))).collect()
    }
}
