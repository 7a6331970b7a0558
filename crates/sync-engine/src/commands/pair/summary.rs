//! What became of pairs: rows written each way, conflicts, errors; for people and for scripts.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use serde_json::{Value as Json, json};
use sync_engine::status::{Status, WrittenRows};
use sync_engine::{ConflictError, ConflictFilter, ConflictRecord, RecordSide, SyncEngine};

use super::hearing::Heard;
use crate::commands::say;

/// Conflicts that are told one by one.
const LISTED: usize = 20;

/// Records that are read at a time.
const PAGE: u32 = 1_000;

/// What was written to one file and decided in it, since it was last looked at.
#[derive(Debug)]
pub(super) struct Ledger {
    written: WrittenRows,
    /// When it was begun, and the number of the last conflict record that is known since.
    since: SystemTime,
    record: u64,
}

/// What is new of one file.
#[derive(Debug, Clone, Default)]
pub(super) struct News {
    pub(super) written: WrittenRows,
    pub(super) conflicts: Vec<ConflictRecord>,
}

impl Ledger {
    /// From here on.
    pub(super) fn begin() -> Self {
        Self { written: WrittenRows::default(), since: SystemTime::now(), record: 0 }
    }

    /// What is new since this was last asked.
    pub(super) async fn news(&mut self, engine: &SyncEngine) -> Result<News, ConflictError> {
        let conflicts = self.records(engine).await?;
        let status = engine.status();
        let now = status.databases.first().map(|database| database.written).unwrap_or_default();
        let written = WrittenRows {
            inserted: now.inserted - self.written.inserted,
            updated: now.updated - self.written.updated,
            deleted: now.deleted - self.written.deleted,
        };
        self.written = now;
        Ok(News { written, conflicts })
    }

    /// Records that were not known before, the newest first.
    async fn records(&mut self, engine: &SyncEngine) -> Result<Vec<ConflictRecord>, ConflictError> {
        let mut filter =
            ConflictFilter { state: None, since: Some(self.since), limit: PAGE, ..ConflictFilter::default() };
        let mut conflicts: Vec<ConflictRecord> = Vec::new();
        loop {
            let page = engine.conflicts(&filter).await?;
            filter.before = page.last().map(|record| record.id.clone());
            let (before, read) = (conflicts.len(), page.len());
            conflicts.extend(page.into_iter().take_while(|record| number(record) > self.record));
            if conflicts.len() - before < PAGE as usize || read < PAGE as usize {
                break;
            }
        }
        self.record = conflicts.iter().map(number).max().unwrap_or(0).max(self.record);
        Ok(conflicts)
    }
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.written == WrittenRows::default() && self.conflicts.is_empty()
    }

    /// Adds what came later.
    pub(super) fn add(&mut self, later: Self) {
        self.written.inserted += later.written.inserted;
        self.written.updated += later.written.updated;
        self.written.deleted += later.written.deleted;
        self.conflicts.extend(later.conflicts);
    }
}

/// A record's number: later ones are larger.
fn number(record: &ConflictRecord) -> u64 {
    record.id.rsplit_once(':').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// What became of one pair.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) files: [String; 2],
    /// Whether both hold the same; none where programs write on.
    pub(super) equal: Option<bool>,
    pub(super) news: [News; 2],
    pub(super) not_synced: Vec<(String, String)>,
    pub(super) warnings: Vec<String>,
    pub(super) errors: Vec<String>,
    pub(super) took: Duration,
    /// Whether it is the first time that these meet.
    pub(super) first: bool,
}

impl Summary {
    pub(super) fn new(files: [String; 2], news: [News; 2], took: Duration) -> Self {
        let (not_synced, warnings, errors) = Default::default();
        Self { files, equal: None, news, not_synced, warnings, errors, took, first: false }
    }

    /// A pair that could not begin.
    pub(super) fn failed(files: [String; 2], error: String) -> Self {
        let mut summary = Self::new(files, Default::default(), Duration::ZERO);
        summary.fail(error);
        summary
    }

    /// Something kept the pair from being in step.
    pub(super) fn fail(&mut self, reason: String) {
        self.equal = Some(false);
        self.errors.push(reason);
    }

    /// Adds the errors that the engines have told, and tells those that nobody has told yet.
    pub(super) fn hear(&mut self, heard: &Heard) {
        let told = heard.errors(&self.files);
        for error in &self.errors {
            // A database that failed has said so itself.
            if !told.iter().any(|known| error.contains(known.as_str())) {
                tell(&format!("{}: {error}", self.files.join(":")));
            }
        }
        if !told.is_empty() {
            self.errors.retain(|error| !told.iter().any(|known| error.contains(known.as_str())));
            self.errors.extend(told);
        }
    }

    /// Takes note of what is not synced in a file, of what people should know, and of rows that it does not take.
    pub(super) fn look_at(&mut self, status: &Status) {
        for database in &status.databases {
            for table in &database.unsynced {
                let told = (table.table.clone(), table.reason.clone());
                if !self.not_synced.contains(&told) {
                    self.not_synced.push(told);
                }
            }
            for warning in &database.warnings {
                let table = warning.table.as_ref().map(|table| format!("table {table}: ")).unwrap_or_default();
                let told = format!("{table}{}", warning.reason);
                if !self.warnings.contains(&told) {
                    self.warnings.push(told);
                }
            }
            if database.parked > 0 {
                let (rows, path) = (database.parked, &database.path);
                self.errors
                    .push(format!("{rows} rows of the other file wait, because {path} does not take them as it is"));
            }
        }
    }

    /// Conflicts of both files: one that both have decided is one.
    fn conflicts(&self) -> Vec<&ConflictRecord> {
        let mut seen = BTreeSet::new();
        let dots = |record: &ConflictRecord| {
            let dot = |side: &Option<RecordSide>| side.as_ref().map(|side| side.dot.clone());
            (record.table.clone(), record.key.to_string(), dot(&record.winner), dot(&record.loser))
        };
        self.news.iter().flat_map(|news| &news.conflicts).filter(|record| seen.insert(dots(record))).collect()
    }

    /// Whether there is something to tell.
    pub(super) fn is_news(&self) -> bool {
        !self.news.iter().all(News::is_empty)
    }

    pub(super) fn print(&self, json: bool, quiet: bool) {
        if json {
            say(&self.json().to_string());
        } else {
            self.print_text(quiet);
        }
    }

    fn json(&self) -> Json {
        let side = |place: usize| {
            let WrittenRows { inserted, updated, deleted } = self.news[place].written;
            json!({ "file": self.files[place], "inserted": inserted, "updated": updated, "deleted": deleted })
        };
        let not_synced = self.not_synced.iter().map(|(table, reason)| json!({ "table": table, "reason": reason }));
        let not_synced: Vec<Json> = not_synced.collect();
        json!({
            "equal": self.equal,
            "first": side(0),
            "second": side(1),
            "conflicts": self.conflicts(),
            "not_synced": not_synced,
            "warnings": self.warnings,
            "errors": self.errors,
            "seconds": (self.took.as_secs_f64() * 1000.0).round() / 1000.0,
        })
    }

    fn print_text(&self, quiet: bool) {
        let [first, second] = &self.files;
        let conflicts = self.conflicts();
        for record in conflicts.iter().take(LISTED) {
            tell(&format!("{first}:{second}: {}", conflict_line(record)));
        }
        if conflicts.len() > LISTED {
            tell(&format!("{first}:{second}: and {} more conflicts; --json tells all", conflicts.len() - LISTED));
        }
        if quiet {
            return;
        }
        let standing = match (self.equal, self.errors.is_empty()) {
            (_, false) => "there were errors",
            (Some(true), _) => "equal",
            (Some(false), _) => "not equal",
            (None, _) => "in step; programs write on",
        };
        let mut line = format!("{first}:{second}: {standing}");
        for (file, news) in self.files.iter().zip(&self.news) {
            let WrittenRows { inserted, updated, deleted } = news.written;
            let counts = [(inserted, "inserted"), (updated, "updated"), (deleted, "deleted")];
            let counts: Vec<String> =
                counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
            if !counts.is_empty() {
                line += &format!("; in {file} {}", counts.join(", "));
            }
        }
        match conflicts.len() {
            0 => {}
            1 => line += "; 1 conflict",
            count => line += &format!("; {count} conflicts"),
        }
        say(&format!("{line}; {:.1} s", self.took.as_secs_f64()));
        if self.first {
            for (table, reason) in &self.not_synced {
                say(&format!("  not synced  {table}: {reason}"));
            }
            for warning in &self.warnings {
                say(&format!("  warning     {warning}"));
            }
        }
    }
}

fn conflict_line(record: &ConflictRecord) -> String {
    let name = |side: &Option<RecordSide>| side.as_ref().map_or_else(|| "nobody".to_owned(), |side| side.node.clone());
    let row = record.loser.as_ref().and_then(|side| side.row.as_ref());
    let row = row.map_or_else(|| "its deletion".to_owned(), |row| Json::Object(row.clone()).to_string());
    format!(
        "conflict in table {}, key {}: {} over {}, {} by {}; discarded {row}",
        record.table,
        record.key,
        name(&record.winner),
        name(&record.loser),
        record.kind,
        record.policy
    )
}

/// Tells on standard error. Where that is gone there is nobody to tell.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "sync-engine: {line}");
}
