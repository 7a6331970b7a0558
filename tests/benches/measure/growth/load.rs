//! The application of this measure: changes rows here and there in a large table, or writes to many files in turn.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use system_tests::{Result, fail};

use crate::application::{self, ROWS_A_TRANSACTION, Spent};
use crate::nodes::{last, qty};

/// What is written.
pub(super) enum Load {
    /// One column of some rows of a table. Each transaction changes rows over the whole range of keys, so that in a table of any size
    /// but the smallest each of its rows is in a page of its own: where the changed rows of a small table shared pages and those of
    /// a large one did not, that would be measured in place of the size.
    Scattered { file: PathBuf, rows: u64, changed: u64 },
    /// New rows, each transaction to the next one of some files.
    InTurn { files: Vec<PathBuf>, first: u64, rows: u64 },
}

impl Load {
    /// The process that writes it.
    pub(super) fn command(&self) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        match self {
            Self::Scattered { file, rows, changed } => {
                command.args(["load", "scattered", &rows.to_string(), &changed.to_string()]).arg(file)
            }
            Self::InTurn { files, first, rows } => {
                command.args(["load", "in-turn", &first.to_string(), &rows.to_string()]).args(files)
            }
        };
        Ok(command)
    }

    /// The row of each file that it writes last.
    pub(super) fn ends(&self) -> Vec<u64> {
        match self {
            Self::Scattered { rows, changed, .. } => {
                scattered(*rows, *changed).last().into_iter().flatten().max().into_iter().collect()
            }
            Self::InTurn { files, first, rows } => {
                let mut ends = vec![0; files.len()];
                for (file, ids) in in_turn(files.len(), *first, *rows) {
                    ends[file] = ids.end - 1;
                }
                ends
            }
        }
    }

    /// Whether the row that it writes last to a file is in another one.
    pub(super) fn has_come_to(&self, file: &Connection, end: u64) -> Result<bool> {
        match self {
            Self::Scattered { .. } => Ok(qty(file, end)? != Some(application::row(end).1)),
            Self::InTurn { .. } => Ok(last(file)? >= end.cast_signed()),
        }
    }
}

/// The rows of each transaction.
fn scattered(rows: u64, changed: u64) -> impl Iterator<Item = impl Iterator<Item = u64>> {
    let transactions = changed.div_ceil(ROWS_A_TRANSACTION);
    let step = usize::try_from(transactions).unwrap_or(usize::MAX);
    (0..transactions).map(move |first| (first..changed).step_by(step).map(move |n| 1 + n * (rows / changed)))
}

/// The file of each transaction, by its number, and its rows. With so many files that some would get nothing, fewer rows are in each.
fn in_turn(files: usize, first: u64, rows: u64) -> impl Iterator<Item = (usize, Range<u64>)> {
    let step = (rows / files as u64).clamp(1, ROWS_A_TRANSACTION);
    let end = first + rows;
    (0..rows.div_ceil(step)).zip((0..files).cycle()).map(move |(n, file)| {
        let begin = first + n * step;
        (file, begin..end.min(begin + step))
    })
}

/// The process: `load scattered ROWS CHANGED FILE` or `load in-turn FIRST ROWS FILE...`.
pub(crate) fn serve(arguments: &[String]) -> Result {
    match arguments {
        [work, rows, changed, file] if work == "scattered" => {
            let (rows, changed) = (rows.parse()?, changed.parse()?);
            let mut conn = application::open(Path::new(file))?;
            Spent::tell(|| {
                scattered(rows, changed).try_for_each(|ids| transaction(&mut conn, ids, application::update))
            })
        }
        [work, first, rows, files @ ..] if work == "in-turn" => {
            let (first, rows) = (first.parse()?, rows.parse()?);
            let mut conns = files.iter().map(|file| application::open(Path::new(file))).collect::<Result<Vec<_>>>()?;
            Spent::tell(|| {
                in_turn(files.len(), first, rows)
                    .try_for_each(|(file, ids)| transaction(&mut conns[file], ids, application::insert))
            })
        }
        _ => fail!("load scattered ROWS CHANGED FILE, or load in-turn FIRST ROWS FILE..."),
    }
}

fn transaction(
    conn: &mut Connection,
    mut ids: impl Iterator<Item = u64>,
    write: impl Fn(&Connection, u64) -> Result,
) -> Result {
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    ids.try_for_each(|id| write(&transaction, id))?;
    Ok(Transaction::commit(transaction)?)
}
