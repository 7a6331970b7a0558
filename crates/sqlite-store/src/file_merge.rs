//! One pass from one file to another: what SOURCE holds is merged into TARGET, or TARGET becomes equal to it.
//!
//! Whether the files are attached or not makes no difference, but that a TARGET that is has what is written captured, as an application's
//! writes are. SOURCE is only read. All of it is one transaction on TARGET, over one snapshot of SOURCE: a reader sees nothing half.
//!
//! Owns what is compared, decided and written. Rows are the same if they have the same key, as the key's collations compare. Must not
//! touch what is known of changes: there are no clocks here, so what was deleted cannot be told from what was never there.

mod capturing;
mod matching;
mod opening;
mod parents;
mod plan;
mod settling;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use replication::{ConflictPolicy, LastWriteWins, TimestampColumn};
use rusqlite::Connection;
use serde_json::Value as Json;

use crate::app_triggers::{TriggerClass, TriggerRules, install_temp_copies};
use crate::error::StoreError;
use crate::file_comparison::NotCompared;
use crate::lift;
use crate::schema::{Schema, Table};
use crate::write_lock;
pub use parents::MissingParents;
use plan::Plan;
use writing::Writer;

/// What policies know the two files as, where they ask who wrote a row.
pub const SOURCE: &str = "source";
/// The other one.
pub const TARGET: &str = "target";

/// The columns that tell when a row was written, unless others are named: the first that a table has counts.
pub const TIMESTAMP_COLUMNS: [&str; 2] = ["updated_at", "modified_at"];

/// Why nothing was merged. Neither file is changed.
#[derive(Debug, thiserror::Error)]
pub enum FileMergeError {
    /// A file cannot be opened, read or written. [`StoreError`] tells whether a retry helps.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Both paths lead to the same file. A retry does not help.
    #[error("{} and {} are the same file", source_file.display(), target.display())]
    SameFile {
        /// SOURCE.
        source_file: PathBuf,
        /// TARGET.
        target: PathBuf,
    },
    /// SQLite does not work on both in one transaction. A retry does not help.
    #[error(
        "{} holds its text as {source_encoding} and {} as {target_encoding}, which SQLite does not work on together; make a TARGET of \
         the same encoding with VACUUM INTO or .dump, or sync both with sync-engine pair",
        source_file.display(),
        target.display()
    )]
    Encoding {
        /// SOURCE.
        source_file: PathBuf,
        /// TARGET.
        target: PathBuf,
        /// SOURCE's encoding.
        source_encoding: String,
        /// TARGET's encoding.
        target_encoding: String,
    },
}

impl From<rusqlite::Error> for FileMergeError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// How to merge.
#[derive(Clone)]
pub struct FileMergeOptions {
    /// TARGET becomes equal: its other rows are deleted, and of rows that differ SOURCE's stands.
    pub mirror: bool,
    /// Who decides over rows that differ. Without one the row that was written last stands, by its timestamp column; SOURCE's where
    /// that is not told.
    pub policy: Option<Arc<dyn ConflictPolicy>>,
    /// The names of timestamp columns; the first that a table has counts.
    pub timestamp_columns: Vec<String>,
    /// Whether all is undone in the end.
    pub dry_run: bool,
    /// How many keys of rows that were not taken over are listed of each table.
    pub limit: usize,
}

impl Default for FileMergeOptions {
    fn default() -> Self {
        Self {
            mirror: false,
            policy: None,
            timestamp_columns: TIMESTAMP_COLUMNS.map(str::to_owned).to_vec(),
            dry_run: false,
            limit: 100,
        }
    }
}

/// What was done, or with [`FileMergeOptions::dry_run`] would be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileMerge {
    /// The tables that both have.
    pub tables: Vec<TableMerge>,
    /// Tables and columns that were left out, and why; whether the files differ in them.
    pub left_out: Vec<NotCompared>,
    /// Rows that lack their parents now, and did not before.
    pub missing_parents: Vec<MissingParents>,
    /// Triggers of TARGET that did not run although something depends on them, and why.
    pub triggers: Vec<(String, String)>,
    /// Whether TARGET is attached: what was written is captured.
    pub captured: bool,
}

/// What was done to one table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TableMerge {
    /// Its name in TARGET.
    pub table: String,
    /// The columns of its key.
    pub key: Vec<String>,
    /// Rows that only SOURCE had.
    pub inserts: u64,
    /// Rows that differed and were changed.
    pub updates: u64,
    /// Rows that only TARGET had.
    pub deletes: u64,
    /// Rows that differed, or clash with another row on a unique index, of which TARGET's stands.
    pub conflict_skips: u64,
    /// Rows that TARGET does not take: a constraint refuses them, or the policy cannot decide.
    pub refused: u64,
    /// Rows of SOURCE and of TARGET with NULL in their key: they cannot be named, and are left as they are.
    pub nameless: [u64; 2],
    /// The first of the rows that were not taken over.
    pub skipped: Vec<Skipped>,
}

/// A row of SOURCE that was not taken over.
#[derive(Debug, Clone, PartialEq)]
pub struct Skipped {
    /// Its key.
    pub key: Vec<Json>,
    /// Why not.
    pub kind: SkipKind,
    /// The same in words, where there is more to say.
    pub reason: Option<String>,
}

/// Why a row was not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipKind {
    /// TARGET has another row of this key, which stands.
    InsertExists,
    /// Another row of TARGET has its unique value.
    UniqueExists,
    /// A constraint of TARGET refuses it.
    Constraint,
    /// The policy cannot decide.
    Policy,
}

impl SkipKind {
    /// The name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InsertExists => "insert_exists",
            Self::UniqueExists => "unique_exists",
            Self::Constraint => "constraint",
            Self::Policy => "policy",
        }
    }
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMergeStep {
    /// Looking which rows differ.
    Compare,
    /// Deleting rows that only TARGET has.
    Delete,
    /// Updating rows that differ.
    Update,
    /// Inserting rows that only SOURCE has.
    Insert,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMergeProgress<'a> {
    /// The table at work.
    pub table: &'a str,
    /// What is done to it.
    pub step: FileMergeStep,
    /// Rows that are to be written in all tables, as far as it is known.
    pub rows: u64,
    /// How many of them are.
    pub done: u64,
}

/// Is told how far it is.
pub type OnProgress<'a> = &'a mut dyn FnMut(FileMergeProgress<'_>);

/// Merges SOURCE into TARGET.
///
/// # Errors
/// A file is missing, no database, or cannot be read or written; or the two cannot be worked on together. Neither is changed then. A
/// row that TARGET does not take is no error: it is told in the table's [`skipped`](TableMerge::skipped).
pub fn merge_files(
    source: &Path,
    target: &Path,
    options: &FileMergeOptions,
    progress: OnProgress<'_>,
) -> Result<FileMerge, FileMergeError> {
    let opened = opening::open(source, target)?;
    if lift::is_running(target) {
        // What is written now would be captured by nobody.
        return Err(StoreError::Lifted.into());
    }
    let mut conn = opened.conn;
    conn.set_prepared_statement_cache_capacity(256);
    let transaction = write_lock::transaction(&mut conn, None)?;
    let merge = merge(&transaction, &opened.source_tables, options, progress)?;
    if options.dry_run || merge.tables.iter().all(|table| table.inserts + table.updates + table.deletes == 0) {
        transaction.rollback()?;
    } else {
        transaction.commit()?;
    }
    Ok(merge)
}

fn merge(
    conn: &Connection,
    theirs: &[crate::schema::introspection::Found],
    options: &FileMergeOptions,
    progress: OnProgress<'_>,
) -> Result<FileMerge, FileMergeError> {
    let matched = matching::tables(conn, theirs)?;
    let mut merge = FileMerge { left_out: matched.left_out, ..FileMerge::default() };
    merge.triggers = copy_triggers(conn, &matched.tables)?;
    merge.captured = capturing::install(conn)?;
    let mut plans = Vec::new();
    for (number, table) in matched.tables.iter().enumerate() {
        let (step, name) = (FileMergeStep::Compare, table.name.as_str());
        progress(FileMergeProgress { table: name, step, rows: 0, done: 0 });
        plans.push(Plan::make(conn, number, table, options.mirror)?);
    }
    let rows = plans.iter().map(Plan::rows).sum();
    let before = if rows > 0 { parents::missing(conn)? } else { Vec::new() };
    let mut writers: Vec<Writer<'_>> = Vec::new();
    for (plan, table) in plans.iter().zip(&matched.tables) {
        writers.push(Writer::new(conn, table, plan, options));
    }
    let mut done = Progress { on: progress, rows, done: 0 };
    // What goes makes room for what changes, and that for what comes.
    writers.iter_mut().try_for_each(|writer| writer.delete(&mut done))?;
    writers.iter_mut().try_for_each(|writer| writer.update(&mut done))?;
    writers.iter_mut().try_for_each(|writer| writer.insert(&mut done))?;
    merge.tables = writers.into_iter().map(Writer::finish).collect();
    if rows > 0 {
        merge.missing_parents = parents::more(&before, parents::missing(conn)?);
    }
    Ok(merge)
}

/// Has those of TARGET's triggers run that write nothing but what is not merged, such as a full-text index: what the others do is in the
/// rows of SOURCE. Tells which of the others leave something behind.
fn copy_triggers(conn: &Connection, tables: &[Table]) -> Result<Vec<(String, String)>, StoreError> {
    let schema = Schema { tables: tables.to_vec(), ..Schema::default() };
    let triggers = install_temp_copies(conn, &schema, &TriggerRules::default())?;
    let behind = |class: &TriggerClass| matches!(class, TriggerClass::Mixed | TriggerClass::Unusable { .. });
    let told = triggers.iter().filter(|trigger| behind(&trigger.class));
    Ok(told.map(|trigger| (trigger.name.clone(), trigger.why())).collect())
}

/// How far all tables are.
struct Progress<'a> {
    on: OnProgress<'a>,
    rows: u64,
    done: u64,
}

impl Progress<'_> {
    /// So many more rows are done with.
    fn add(&mut self, table: &str, step: FileMergeStep, rows: u64) {
        self.done += rows;
        (self.on)(FileMergeProgress { table, step, rows: self.rows, done: self.done });
    }
}

impl FileMergeOptions {
    /// Who decides over the rows of a table that differ.
    fn policy_of(&self, table: &Table) -> Arc<dyn ConflictPolicy> {
        let has = |name: &&String| table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        match (&self.policy, self.timestamp_columns.iter().find(has)) {
            (Some(policy), _) => Arc::clone(policy),
            (None, Some(column)) => Arc::new(TimestampColumn::new(column)),
            (None, None) => Arc::new(LastWriteWins),
        }
    }
}
