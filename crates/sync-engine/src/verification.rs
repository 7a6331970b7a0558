//! Comparing a database with a peer's by hand: the questions that `POST /v1/databases/NAME/verify` takes, and its answers.
//!
//! Tables and columns go by their names on the wire, keys are lists of values in the key's order. Each answer is of one snapshot and
//! tells what the database knew then. Rows differ for good only where both sides know the same changes and have captured all.

use replication::{Origin, Selection, Value, VersionVector};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sqlite_store::json::{value_from_json, value_json};
use sqlite_store::{RowState, Verified, VerifyAnswer, VerifyQuestion};

/// A key: one value for each of its columns.
pub type Key = Vec<Json>;

/// A question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Which tables are synced.
    Tables,
    /// What there is in some ranges of a table, in parts of at most so many rows.
    Ranges {
        /// The table.
        table: String,
        /// Rows to a part, at least 1.
        rows: u32,
        /// The ranges, in the order of keys.
        ranges: Vec<Range>,
    },
    /// What some rows are.
    Rows {
        /// The table.
        table: String,
        /// Their keys.
        keys: Vec<Key>,
    },
}

/// The keys after one up to another; from the first, and to the last, where there is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The key after which it begins.
    pub after: Option<Key>,
    /// The last key.
    pub until: Option<Key>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// The node.
    pub node: String,
    /// What the database knew when it looked.
    pub have: VersionVector,
    /// Whether nothing was left to be captured, or to be made known.
    pub captured: bool,
    /// What is synced.
    pub selection: Selection,
    /// What was found.
    #[serde(flatten)]
    pub found: Found,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// The tables that are synced.
    Tables(Vec<Table>),
    /// Parts of the ranges that were asked about.
    Ranges {
        /// The parts.
        parts: Vec<Part>,
        /// What is to be asked about again: answers are short.
        rest: Vec<Range>,
    },
    /// The rows, in the order of the question.
    Rows(Vec<Row>),
}

/// A synced table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns in lower case, in the order of their names.
    pub columns: Vec<String>,
    /// Its key in lower case.
    pub key: Vec<String>,
}

/// A part of a range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its keys.
    #[serde(flatten)]
    pub range: Range,
    /// How many rows there are.
    pub rows: u64,
    /// What they hold: equal where, and only where, the rows are.
    pub content: String,
    /// Its last key in the form that is the same for all spellings of it.
    pub last: Option<Key>,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it holds; none where there is none.
    pub content: Option<String>,
    /// The stamp with which it was last written or deleted, and by which origin; none where neither is known.
    pub newest: Option<(i64, Origin)>,
}

/// Rows to be issued anew: `POST /v1/databases/NAME/reissue`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reissue {
    /// The table.
    pub table: String,
    /// The rows' keys.
    pub keys: Vec<Key>,
}

/// A key as SQLite has it; none if it holds what SQLite has no value for.
pub(crate) fn key_of(key: &Key) -> Option<Vec<Value>> {
    key.iter().map(value_from_json).collect()
}

fn key_json(key: &[Value]) -> Key {
    key.iter().map(value_json).collect()
}

impl Range {
    fn as_keys(&self) -> Option<replication::reconcile::KeyRange> {
        let end = |key: &Option<Key>| match key {
            Some(key) => key_of(key).map(Some),
            None => Some(None),
        };
        Some(replication::reconcile::KeyRange { after: end(&self.after)?, until: end(&self.until)? })
    }

    fn of(range: &replication::reconcile::KeyRange) -> Self {
        Self { after: range.after.as_deref().map(key_json), until: range.until.as_deref().map(key_json) }
    }
}

impl Ask {
    /// The question as a database takes it; none if it names what SQLite has no value for.
    pub(crate) fn question(self) -> Option<VerifyQuestion> {
        Some(match self {
            Self::Tables => VerifyQuestion::Tables,
            Self::Ranges { table, rows, ranges } => {
                let ranges = ranges.iter().map(Range::as_keys).collect::<Option<_>>()?;
                VerifyQuestion::Ranges { table, rows, ranges }
            }
            Self::Rows { table, keys } => {
                VerifyQuestion::Rows { table, keys: keys.iter().map(key_of).collect::<Option<_>>()? }
            }
        })
    }
}

impl Told {
    /// A database's answer; none if it has no such table.
    pub(crate) fn new(node: &str, answer: VerifyAnswer) -> Option<Self> {
        let found = match answer.found {
            Verified::Tables(tables) => Found::Tables(
                tables
                    .into_iter()
                    .map(|table| Table { name: table.name, columns: table.columns, key: table.key })
                    .collect(),
            ),
            Verified::Ranges(parts, rest) => Found::Ranges {
                parts: parts
                    .iter()
                    .map(|(part, last)| Part {
                        range: Range::of(&part.range),
                        rows: part.rows,
                        content: hex(part.content),
                        last: last.as_deref().map(key_json),
                    })
                    .collect(),
                rest: rest.iter().map(Range::of).collect(),
            },
            Verified::Rows(rows) => Found::Rows(rows.into_iter().map(Row::from).collect()),
            Verified::NoSuchTable => return None,
        };
        let VerifyAnswer { have, captured, selection, .. } = answer;
        Some(Self { node: node.to_owned(), have, captured, selection, found })
    }
}

impl From<RowState> for Row {
    fn from(row: RowState) -> Self {
        let newest = row.newest.map(|(timestamp, origin)| (timestamp.raw(), origin));
        Self { content: row.content.map(hex), newest }
    }
}

fn hex(content: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(content))
}
