//! The `sql` policy: an expression over both sides' columns, which SQLite evaluates.
//!
//! `local.c` and `remote.c` are the two states of the row, in an order that is the same on every node: `local` is the earlier
//! write, `remote` the later one. The expression runs in a database of its own without tables. What could differ from node to
//! node, such as the time or chance, is refused, and so is what takes too long.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use replication::{Conflict, ConflictPolicy, Resolution, Scope, Side, Value};
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, Error, ErrorCode};

use crate::bind::{bind_from, value_at};
use crate::identifier::quote;
use crate::schema::tokens::{TokenKind, significant};

/// Steps of SQLite's machine that one evaluation may take.
const STEPS: i32 = 1_000_000;

/// Functions whose results differ from node to node or from moment to moment.
const IMPURE: [&str; 11] = [
    "random",
    "randomblob",
    "changes",
    "total_changes",
    "last_insert_rowid",
    "load_extension",
    "current_time",
    "current_date",
    "current_timestamp",
    "sqlite_offset",
    "sqlite_compileoption_get",
];

/// Functions of date and time: without an argument, or for 'now', they tell the present.
const TIMES: [&str; 7] = ["date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff"];

/// Decides a column by an expression.
pub struct SqlPolicy {
    expression: String,
    statement: String,
    /// The columns that it reads, in the order of its parameters.
    columns: Vec<String>,
    conn: Mutex<Connection>,
}

/// An expression that cannot be a policy. A correction helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct SqlPolicyError {
    /// What is wrong with it.
    pub reason: String,
}

impl SqlPolicy {
    /// The policy of an expression such as `max(local.price, remote.price)`.
    ///
    /// # Errors
    /// It is no expression, reads something else than columns of `local` and `remote`, or depends on more than they hold.
    pub fn new(expression: &str) -> Result<Self, SqlPolicyError> {
        let refuse = |reason: String| SqlPolicyError { reason };
        let columns = columns_of(expression);
        if columns.is_empty() {
            let reason = "it reads no column of local or remote, as in max(local.price, remote.price)";
            return Err(refuse(reason.to_owned()));
        }
        if let Some(impure) = impure(expression) {
            return Err(refuse(format!("{impure} is not the same on every node")));
        }
        let side = |first: usize| -> String {
            let names =
                columns.iter().enumerate().map(|(place, name)| format!("?{} AS {}", first + place, quote(name)));
            names.collect::<Vec<_>>().join(", ")
        };
        let statement = format!(
            "SELECT ({expression}\n) FROM (SELECT {}) AS local, (SELECT {}) AS remote",
            side(1),
            side(columns.len() + 1)
        );
        let failed = |error: Error| refuse(message(&error));
        let conn = open().map_err(failed)?;
        {
            let prepared = conn.prepare(&statement).map_err(failed)?;
            if prepared.parameter_count() != 2 * columns.len() {
                return Err(refuse("it has parameters of its own".to_owned()));
            }
        }
        Ok(Self { expression: expression.to_owned(), statement, columns, conn: Mutex::new(conn) })
    }

    fn evaluate(&self, conflict: &Conflict<'_>, sides: [&Side<'_>; 2]) -> Result<Value, String> {
        let mut values = Vec::with_capacity(2 * self.columns.len());
        for side in sides {
            for name in &self.columns {
                let same = |known: &String| known.eq_ignore_ascii_case(name);
                let place = conflict.shape.columns.iter().position(same);
                let value = place.and_then(|place| side.values?.get(place));
                values.push(value.cloned().ok_or_else(|| format!("the table has no column {name:?}"))?);
            }
        }
        let conn = self.conn.lock().unwrap_or_else(PoisonError::into_inner);
        let evaluated = || -> rusqlite::Result<Value> {
            let mut statement = conn.prepare_cached(&self.statement)?;
            bind_from(&mut statement, 1, &values)?;
            let mut rows = statement.raw_query();
            rows.next()?.map_or(Err(Error::QueryReturnedNoRows), |row| value_at(row, 0))
        };
        evaluated().map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => "the expression takes too long".to_owned(),
            _ => message(&error),
        })
    }
}

impl fmt::Debug for SqlPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqlPolicy").field(&self.expression).finish()
    }
}

impl ConflictPolicy for SqlPolicy {
    fn name(&self) -> &str {
        "sql"
    }

    fn describe(&self, named: &dyn Fn(&str) -> String) -> String {
        let tokens = significant(&self.expression);
        let is_column = |place: usize| {
            place >= 2
                && tokens[place - 1].is_symbol(".")
                && tokens[place - 2].identifier().is_some_and(|side| is_side(&side))
        };
        let words = tokens.iter().enumerate().map(|(place, token)| match token.identifier() {
            Some(column) if is_column(place) => named(&column),
            _ => token.text.to_owned(),
        });
        format!("sql {}", words.collect::<Vec<_>>().join(" "))
    }

    fn resolve(&self, conflict: &Conflict<'_>) -> Resolution {
        let (earlier, later) = conflict.in_order();
        let Some(row) = conflict.local.values.filter(|_| conflict.remote.values.is_some()) else {
            return Resolution::Newest;
        };
        match self.evaluate(conflict, [&earlier, &later]) {
            Ok(value) => {
                let mut row = row.to_vec();
                for column in conflict.columns {
                    row[usize::from(*column)] = value.clone();
                }
                Resolution::Row(row)
            }
            Err(reason) => Resolution::Fail(reason),
        }
    }

    fn scope(&self) -> Scope {
        Scope::Column
    }
}

/// A database without tables, in which nothing but expressions can be evaluated.
fn open() -> rusqlite::Result<Connection> {
    let conn = Connection::open_in_memory()?;
    // "text" in double quotes is a name, and an unknown one is an error.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    conn.authorizer(Some(|context: AuthContext<'_>| match context.action {
        AuthAction::Select => Authorization::Allow,
        AuthAction::Read { table_name, .. } if table_name.is_empty() || is_side(table_name) => Authorization::Allow,
        AuthAction::Function { function_name } if !is_in(&IMPURE, function_name) => Authorization::Allow,
        _ => Authorization::Deny,
    }))?;
    conn.progress_handler(STEPS, Some(|| true))?;
    Ok(conn)
}

fn message(error: &Error) -> String {
    match error {
        Error::SqliteFailure(_, Some(message)) => message.clone(),
        Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

fn is_side(name: &str) -> bool {
    name.eq_ignore_ascii_case("local") || name.eq_ignore_ascii_case("remote")
}

fn is_in(names: &[&str], name: &str) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// The names after `local.` and `remote.`, each once.
fn columns_of(expression: &str) -> Vec<String> {
    let tokens = significant(expression);
    let mut columns: Vec<String> = Vec::new();
    for window in tokens.windows(3) {
        let [side, dot, column] = window else { continue };
        if side.identifier().is_some_and(|side| is_side(&side))
            && dot.is_symbol(".")
            && let Some(name) = column.identifier()
            && !columns.iter().any(|known| known.eq_ignore_ascii_case(&name))
        {
            columns.push(name);
        }
    }
    columns
}

/// What of an expression depends on the moment, beside functions that the authorizer refuses.
fn impure(expression: &str) -> Option<String> {
    let tokens = significant(expression);
    let now = |text: &str| ["'now'", "'localtime'", "'utc'"].iter().any(|word| word.eq_ignore_ascii_case(text));
    if let Some(token) = tokens.iter().find(|token| token.kind == TokenKind::Text && now(token.text)) {
        return Some(token.text.to_owned());
    }
    let called = tokens.windows(3).find(|window| {
        window[0].identifier().is_some_and(|name| is_in(&TIMES, &name))
            && window[1].is_symbol("(")
            && window[2].is_symbol(")")
    });
    let word = tokens.iter().find(|token| token.kind == TokenKind::Word && is_in(&IMPURE, token.text));
    called.map(|window| format!("{}()", window[0].text)).or_else(|| word.map(|token| token.text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use replication::{
        Conflict, ConflictKind, ConflictPolicy as _, Dot, Entry, EntryFlags, Origin, Resolution, RowClock, Side,
        TableShape, Timestamp, Value,
    };

    use super::SqlPolicy;

    fn clock(millis: i64) -> RowClock {
        let dot = Dot { origin: Origin::from_bytes([1; 16]), sequence: millis.unsigned_abs() };
        RowClock::whole(Entry::new(Timestamp::from_millis(millis), dot, EntryFlags::empty()))
    }

    /// What becomes of the column `price`, both ways round.
    fn decide(expression: &str, earlier: [Value; 2], later: [Value; 2]) -> Result<Value, String> {
        let policy = SqlPolicy::new(expression).map_err(|error| error.reason)?;
        let columns = ["Id", "price"].map(str::to_owned).to_vec();
        let shape = TableShape { name: "t".to_owned(), columns, key: vec![0] };
        let (first, second) = (clock(1), clock(2));
        let (earlier, later) =
            (Side { values: Some(&earlier), clock: &first }, Side { values: Some(&later), clock: &second });
        let answer = |local, remote| {
            let kind = ConflictKind::UpdateOriginDiffers;
            let nodes = BTreeMap::new();
            let conflict = Conflict { shape: &shape, kind, local, remote, columns: &[1], nodes: &nodes };
            match policy.resolve(&conflict) {
                Resolution::Row(row) => Ok(row[1].clone()),
                Resolution::Fail(reason) => Err(reason),
                other => panic!("{other:?}"),
            }
        };
        let (one, other) = (answer(earlier, later), answer(later, earlier));
        assert_eq!(one, other, "the answer must not depend on the node");
        one
    }

    fn row(price: impl Into<Value>) -> [Value; 2] {
        [Value::Integer(7), price.into()]
    }

    #[test]
    fn an_expression_decides_the_same_on_both_sides() {
        let decided = |expression| decide(expression, row(3), row(5.5)).unwrap();
        assert_eq!(decided("max(local.price, remote.price)"), Value::Real(5.5));
        assert_eq!(decided("local.\"price\" -- the earlier one"), Value::Integer(3));
        assert_eq!(decided("CASE WHEN remote.price > 5 THEN local.id ELSE 0 END"), Value::Integer(7));
        assert_eq!(decide("local.price || ' ' || REMOTE.Price", row("a"), row("b")).unwrap(), "a b".into());
    }

    #[test]
    fn what_cannot_be_a_policy_is_refused_with_its_reason() {
        let refused = |expression: &str| SqlPolicy::new(expression).unwrap_err().reason;
        assert!(refused("max(local.price,").contains("syntax error"));
        assert!(refused("nosuch(local.price)").contains("no such function"));
        assert!(refused("1 + 1").contains("reads no column"));
        assert!(refused("local.price + price").contains("ambiguous"));
        assert!(refused("local.price + random()").contains("random"));
        assert!(refused("local.price || datetime('NOW')").contains("'NOW'"));
        assert!(refused("local.price || date( )").contains("date()"));
        assert!(refused("local.price || CURRENT_TIMESTAMP").contains("CURRENT_TIMESTAMP"));
        assert!(refused("local.price + (SELECT count(*) FROM sqlite_schema)").contains("not authorized"));
        assert!(refused("local.price + ?9").contains("parameters"));
        let endless =
            "(WITH RECURSIVE n(i) AS (SELECT local.price UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n)";
        assert!(refused(endless).contains("not authorized"));
    }

    #[test]
    fn what_fails_while_it_runs_decides_nothing() {
        let missing = decide("max(local.cost, remote.cost)", row(1), row(2)).unwrap_err();
        assert!(missing.contains("no column \"cost\""), "{missing}");
        let overflow = decide("abs(local.price)", row(i64::MIN), row(2)).unwrap_err();
        assert!(overflow.contains("overflow"), "{overflow}");
        let ten = "(VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9))";
        let long = format!("local.price + (SELECT count(*) FROM {})", [ten; 8].join(", "));
        assert_eq!(decide(&long, row(1), row(2)).unwrap_err(), "the expression takes too long");
    }
}
