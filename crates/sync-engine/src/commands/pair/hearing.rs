//! What engines tell of their files while they are kept in step: errors are told at once and counted, each once.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sync_engine::event::{Event, EventName, FieldValue};

/// What tells what is not synced at all: that is told with the first run.
const KNOWN: &str = "unsynced_table";

/// What is told, and does not keep files from being in step.
const HARMLESS: &str = "foreign_key_missing";

/// What was heard of all files.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What was told: one file's error is often the other's as well.
    told: BTreeSet<String>,
    /// Errors: the file, and what is wrong.
    errors: Vec<(String, String)>,
    /// Files that were attached for the first time.
    created: BTreeSet<String>,
}

impl Heard {
    /// Takes an event of a file's engine.
    pub(super) fn hear(&self, shown: &Path, event: &Event) {
        let file = shown.display().to_string();
        let field = |name: &str| event.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        let text = |name: &str| match field(name) {
            Some(FieldValue::Text(text)) => text.clone(),
            _ => String::new(),
        };
        match event.name {
            EventName::SyncStart if field("created") == Some(&FieldValue::Truth(true)) => {
                self.lock().created.insert(file);
            }
            EventName::SyncError if text("kind") != KNOWN => {
                let table = match text("table") {
                    table if table.is_empty() => String::new(),
                    table => format!("table {table}: "),
                };
                let what = format!("{table}{}; {}", text("reason"), text("remedy"));
                let mut inner = self.lock();
                if text("kind") != HARMLESS {
                    inner.errors.push((file.clone(), what.clone()));
                }
                if inner.told.insert(what.clone()) {
                    complain(&file, &what);
                }
            }
            EventName::SyncRetry if field("database").is_some() => {
                let what = text("reason");
                if self.lock().told.insert(format!("{file} {what}")) {
                    complain(&file, &what);
                }
            }
            _ => {}
        }
    }

    /// The errors of these files, each once.
    pub(super) fn errors(&self, files: &[String; 2]) -> Vec<String> {
        let inner = self.lock();
        let mut errors: Vec<String> = Vec::new();
        for (_, what) in inner.errors.iter().filter(|(file, _)| files.contains(file)) {
            if !errors.contains(what) {
                errors.push(what.clone());
            }
        }
        errors
    }

    /// What was heard until now is told.
    pub(super) fn forget(&self) {
        self.lock().errors.clear();
    }

    /// Whether one of these files was attached for the first time.
    pub(super) fn is_first(&self, files: &[String; 2]) -> bool {
        let inner = self.lock();
        files.iter().any(|file| inner.created.contains(file))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn complain(file: &str, what: &str) {
    // Where standard error is gone there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "sync-engine: {file}: {what}");
}
