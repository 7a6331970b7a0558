//! Conflict records as users see them: over HTTP, on the command line and in the library. Owns their form, the questions
//! that can be asked about them, and the words of the errors; must not touch how they are kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use replication::ConflictKind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use sqlite_store::nearest::nearest;
use sqlite_store::{ConflictSide, Refusal, RefusalKind, StoreError, StoredConflict};

use crate::moment;
use crate::query_string;
use crate::telemetry::rfc3339;

/// Records that a list holds unless it is asked for another number.
const LIMIT: u32 = 100;

/// Records that a list can be asked for.
const MAX_LIMIT: u32 = 1_000;

/// A conflict that was decided on this node, with both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConflictRecord {
    /// `DATABASE:NUMBER`: unique on this node, and never given to another record.
    pub id: String,
    /// The database's shared name.
    pub database: String,
    /// The table.
    pub table: String,
    /// The losing row's key, by column.
    pub key: Json,
    /// What kind of conflict, by PostgreSQL's names.
    pub kind: String,
    /// The policy that decided.
    pub policy: String,
    /// What became of the change that came in: `skip`, `apply` or `merge`.
    pub outcome: String,
    /// When it was decided, in RFC 3339, UTC.
    pub at: String,
    /// The names of the columns that both sides wrote to different values; empty where the rows were compared as wholes.
    pub columns: Vec<String>,
    /// The side that stands.
    pub winner: Option<RecordSide>,
    /// The side that was discarded.
    pub loser: Option<RecordSide>,
    /// The row that a restore replaced; none if there was none, or nothing was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<RecordSide>,
    /// The names of columns that a restore left out because the table no longer has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// `open`, `restored` or `dismissed`.
    pub state: String,
}

/// One side of a conflict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordSide {
    /// The node that wrote it last.
    pub node: String,
    /// The newest change in it: `origin:sequence`.
    pub dot: String,
    /// When that was written, in RFC 3339, UTC.
    pub timestamp: String,
    /// The row by column; none if this side deleted it.
    pub row: Option<Map<String, Json>>,
}

impl ConflictRecord {
    pub(crate) fn new(database: &str, stored: StoredConflict) -> Self {
        let StoredConflict { number, table, key, kind, policy, outcome, at, state, sides } = stored;
        Self {
            id: record_id(database, number),
            database: database.to_owned(),
            table,
            key,
            kind,
            policy,
            outcome,
            at: time_text(at),
            columns: sides.columns,
            winner: sides.winner.map(RecordSide::new),
            loser: sides.loser.map(RecordSide::new),
            replaced: sides.replaced.map(RecordSide::new),
            left_out: sides.left_out,
            state,
        }
    }
}

impl RecordSide {
    fn new(side: ConflictSide) -> Self {
        Self { node: side.node, dot: side.dot, timestamp: time_text(side.timestamp.millis()), row: side.row }
    }
}

/// The id of a database's record.
pub(crate) fn record_id(database: &str, number: i64) -> String {
    format!("{database}:{number}")
}

fn time_text(millis: i64) -> String {
    rfc3339(UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
}

/// The state of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictState {
    /// Nobody has acted on it.
    Open,
    /// Its losing row was written back.
    Restored,
    /// Somebody has seen it and left everything as it is.
    Dismissed,
}

impl ConflictState {
    /// The name in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Restored => "restored",
            Self::Dismissed => "dismissed",
        }
    }
}

/// Which records are asked for; by default the hundred newest open ones.
#[derive(Debug, Clone, PartialEq)]
pub struct ConflictFilter {
    /// Of this database.
    pub database: Option<String>,
    /// Of this table.
    pub table: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
    /// In this state; none: in any.
    pub state: Option<ConflictState>,
    /// With a side that this node wrote.
    pub node: Option<String>,
    /// Decided then or later.
    pub since: Option<SystemTime>,
    /// That come after the record of this id in the list of all, which begins with the newest: the next page.
    pub before: Option<String>,
    /// Not more than so many, the newest; 1 to 1,000.
    pub limit: u32,
}

impl Default for ConflictFilter {
    fn default() -> Self {
        Self {
            database: None,
            table: None,
            kind: None,
            state: Some(ConflictState::Open),
            node: None,
            since: None,
            before: None,
            limit: LIMIT,
        }
    }
}

impl ConflictFilter {
    /// Reads the query of a URL.
    ///
    /// # Errors
    /// A name or a value is none that can be asked for; the text says which, and what can.
    pub fn from_query(query: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for (name, value) in query_string::pairs(query)? {
            match name.as_str() {
                "database" => filter.database = Some(value),
                "table" => filter.table = Some(value),
                "kind" => filter.kind = Some(kind(&value)?),
                "state" => filter.state = state(&value)?,
                "node" => filter.node = Some(value),
                // An offset's plus sign that nobody encoded has become a blank.
                "since" => filter.since = Some(moment(&value.trim_end().replace(' ', "+"))?),
                "before" => filter.before = Some(value),
                "limit" => filter.limit = limit(&value)?,
                _ => {
                    return Err(format!(
                        "{name:?} is nothing to ask for; use database, table, kind, state, node, since, before or limit"
                    ));
                }
            }
        }
        Ok(filter)
    }

    /// The filter as the query of a URL.
    pub fn to_query(&self) -> String {
        let since = self.since.map(rfc3339);
        let limit = self.limit.to_string();
        let pairs = [
            ("database", self.database.as_deref()),
            ("table", self.table.as_deref()),
            ("kind", self.kind.as_deref()),
            ("state", Some(self.state.map_or("all", ConflictState::as_str))),
            ("node", self.node.as_deref()),
            ("since", since.as_deref()),
            ("before", self.before.as_deref()),
            ("limit", Some(limit.as_str())),
        ];
        let given = pairs.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
        given.map(|(name, value)| format!("{name}={}", query_string::encode(value))).collect::<Vec<_>>().join("&")
    }
}

/// The state that a word stands for; none for `all`.
///
/// # Errors
/// The word is no state; the text says which there are.
pub fn state(word: &str) -> Result<Option<ConflictState>, String> {
    match word {
        "open" => Ok(Some(ConflictState::Open)),
        "restored" => Ok(Some(ConflictState::Restored)),
        "dismissed" => Ok(Some(ConflictState::Dismissed)),
        "all" => Ok(None),
        _ => Err(format!(
            "{word:?} is no state; {}use open, restored, dismissed or all",
            did_you_mean(["open", "restored", "dismissed", "all"].into_iter(), word)
        )),
    }
}

fn did_you_mean<'a>(names: impl Iterator<Item = &'a str>, word: &str) -> String {
    nearest(names, word).map(|near| format!("did you mean {near:?}? Else ")).unwrap_or_default()
}

/// A kind of conflict.
///
/// # Errors
/// The word is none; the text says which there are.
pub fn kind(word: &str) -> Result<String, String> {
    let names = ConflictKind::ALL.map(ConflictKind::as_str);
    match names.iter().find(|name| **name == word) {
        Some(name) => Ok((*name).to_owned()),
        None => Err(format!(
            "{word:?} is no kind of conflict; {}use one of {}",
            did_you_mean(names.into_iter(), word),
            names.join(", ")
        )),
    }
}

/// A moment in RFC 3339, or a day, which begins at midnight UTC.
///
/// # Errors
/// The text is neither; it is told how one looks.
pub fn moment(text: &str) -> Result<SystemTime, String> {
    moment::parse(text)
        .ok_or_else(|| format!("{text:?} is no time; write it as 2026-11-23T10:00:00Z, or as 2026-11-23"))
}

/// How many records a list may hold.
///
/// # Errors
/// The text is no number from 1 to 1,000.
pub fn limit(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_LIMIT).contains(number));
    number.ok_or_else(|| format!("{text:?} is no limit; choose from 1 to {MAX_LIMIT}"))
}

/// An id as a segment of a URL's path.
pub fn path_segment(id: &str) -> String {
    query_string::encode(id)
}

/// Why a record cannot be shown or acted on. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConflictError {
    /// The text is no id. Trying again does not help.
    #[error("{text:?} is no id of a conflict record; write DATABASE:NUMBER, as the list shows it")]
    Id {
        /// What was given.
        text: String,
    },
    /// The node has no such database. Trying again does not help.
    #[error("there is no database {name:?} on this node; it has {}", listed(known))]
    Database {
        /// What was given.
        name: String,
        /// The databases that there are.
        known: Vec<String>,
    },
    /// There is no such record. Trying again does not help.
    #[error("there is no conflict record {id}; see the list for those that there are: old ones are removed")]
    Unknown {
        /// What was asked for.
        id: String,
    },
    /// Several databases have a record of this number. One of the ids helps.
    #[error("{number} is a conflict record of more than one database; write one of {}", listed(candidates))]
    Ambiguous {
        /// What was given.
        number: i64,
        /// The ids of the records.
        candidates: Vec<String>,
    },
    /// The record cannot be acted on as things are. Whether another try helps, the refusal says.
    #[error("conflict record {id}: {refusal}")]
    Refused {
        /// The record.
        id: String,
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// The database cannot be read or written at the moment. Trying again helps once the cause is gone.
    #[error("database {database}: {source}; {}", remedy(source))]
    Store {
        /// The database.
        database: String,
        /// The cause.
        source: StoreError,
    },
}

impl ConflictError {
    pub(crate) fn refused(id: String, refusal: Refusal) -> Self {
        match refusal.kind {
            RefusalKind::Unknown => Self::Unknown { id },
            RefusalKind::Closed | RefusalKind::InTheWay => Self::Refused { id, refusal },
        }
    }
}

/// What a person does about a store's error who waits for an answer.
fn remedy(error: &StoreError) -> &'static str {
    if error.is_busy() { "try again when the application lets go of the lock" } else { error.remedy() }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{ConflictFilter, ConflictState};

    #[test]
    fn a_filter_reads_back_from_its_query() {
        let filter = ConflictFilter {
            database: Some("shop & söhne/1".to_owned()),
            table: Some("order items".to_owned()),
            kind: Some("insert_exists".to_owned()),
            state: None,
            node: Some("a+b=c%20".to_owned()),
            since: Some(UNIX_EPOCH + Duration::from_millis(1_795_428_000_123)),
            before: Some("shop & söhne/1:12".to_owned()),
            limit: 7,
        };
        assert_eq!(ConflictFilter::from_query(&filter.to_query()), Ok(filter));
        assert_eq!(ConflictFilter::from_query(""), Ok(ConflictFilter::default()));
        assert_eq!(ConflictFilter::from_query("state=restored").unwrap().state, Some(ConflictState::Restored));
    }

    #[test]
    fn an_offset_may_stand_in_a_query_as_it_is_written() {
        let since = |query| ConflictFilter::from_query(query).unwrap().since;
        assert_eq!(since("since=2026-11-23T12:00:00+02:00"), since("since=2026-11-23T10%3A00%3A00Z"));
    }

    #[test]
    fn what_cannot_be_asked_for_is_named() {
        for (query, named) in [
            ("stat=open", "\"stat\""),
            ("state=closed", "open, restored, dismissed or all"),
            ("since=yesterday", "\"yesterday\""),
            ("limit=0", "1 to 1000"),
            ("limit=1001", "1 to 1000"),
            ("table=%zz", "%zz"),
        ] {
            let error = ConflictFilter::from_query(query).unwrap_err();
            assert!(error.contains(named), "{query}: {error}");
        }
    }
}
