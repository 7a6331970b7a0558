//! Foreign keys: they are not enforced while applying; rows whose parents are not here are noted, told of once, and
//! forgotten when the parent comes or the row goes.
//!
//! They are told of only if they lack their parents for a while: what a peer sends of the time before its first contact comes
//! in steps, in which a row may come before its parent.
//!
//! TEMP triggers on the applying connection note the rows in doubt as they are written: those whose parent is not here at
//! that moment, and those whose parent goes. Once the batch is in, only these are judged. So a row whose parents come before
//! it costs one look into the parent's index. Rows of a deleted parent are found where an index begins with the
//! columns that refer; without one each deleted parent would take a reading of the whole table, and they are left.

mod record;
mod relation;

use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, OptionalExtension};
use serde_json::Value as Json;

use crate::error::StoreError;
use crate::identifier::quote;
use crate::schema::Schema;
use record::Place;
pub(crate) use relation::parents_first;
use relation::{Child, key_list};

/// Rows looked at again in one step.
const STEP_ROWS: usize = 1_000;

/// How much longer than a whole round the pause after it is: many rows without parents must not keep a processor busy.
const REST: u32 = 10;

/// How long a row must lack its parent before people are told, in milliseconds.
const PATIENCE: i64 = 5_000;

/// In `_sync_meta`: rows noted up to this time, in milliseconds since 1970, have been told of.
const TOLD: &str = "orphans_told";

/// Set in `_sync_meta` while a merge of several transactions has rows in doubt, which only its end can judge.
const DUE: &str = "parents_due";

/// A row without one of its parents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The row's table.
    pub table: String,
    /// Its key, as a JSON object.
    pub key: Json,
    /// The parent that is missing, as `{"table": {"column": value}}`.
    pub parent: Json,
}

/// The rows of a database whose parents are not here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orphans {
    /// How many; a row without two parents counts twice.
    pub count: u64,
    /// The first few.
    pub first: Vec<Orphan>,
}

/// New rows of one table without parents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOrphans {
    /// The table.
    pub table: String,
    /// How many.
    pub count: u64,
    /// The first few.
    pub first: Vec<Orphan>,
}

/// The foreign keys of one connection's database, and what is known of missing parents.
#[derive(Debug)]
pub(crate) struct ForeignKeys {
    children: Vec<Child>,
    orphans: Arc<Orphans>,
    /// Whether a merge has left rows in doubt; see [`DUE`].
    due: bool,
    /// Whether something was written since the last look at the rows without parents began.
    written: bool,
    /// Where the look at them stands, and when it began.
    round: Option<Round>,
    rest_until: Option<Instant>,
    /// When the first of the rows was noted that nobody has been told of.
    untold: Option<i64>,
    /// Up to when those were noted that people have been told of.
    told: i64,
    /// Whether people have been told of a row, and not yet that none is left.
    alarmed: bool,
}

/// One look at all rows without parents.
#[derive(Debug)]
struct Round {
    after: Place,
    begun: Instant,
    /// Those noted up to this time are told of when it ends: that they still lack their parents is known then.
    tell: Option<i64>,
}

/// What the end of a transaction found.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// The rows without parents, where there are new ones.
    orphans: Option<Orphans>,
    due: bool,
}

/// What a look at rows without parents found.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Lines to be forgotten.
    settled: Vec<Place>,
    /// Lines noted up to this time, and later than those before, are to be told of.
    tell: Option<i64>,
}

/// What has become of the rows without parents in a transaction that is to be committed.
#[derive(Debug)]
pub(crate) struct Followed {
    left: Orphans,
    untold: Option<i64>,
    told: Option<i64>,
    news: Vec<NewOrphans>,
}

impl ForeignKeys {
    /// Puts the TEMP triggers in place on a fresh connection. `unfinished` says that a merge is under way, of whose rows the
    /// connection before this one knew which are in doubt.
    pub(crate) fn watch(conn: &Connection, schema: &Schema) -> Result<Self, StoreError> {
        let children = relation::read(conn, schema)?;
        let width = children.iter().map(|child| child.table.key.len()).max().unwrap_or(1);
        let keys: String = (0..width).map(|place| format!(", k{place}")).collect();
        conn.execute_batch(&format!("CREATE TEMP TABLE _sync_in_doubt (tbl{keys})"))?;
        for child in &children {
            conn.execute_batch(&child_triggers(child))?;
        }
        for (number, (child, key)) in children.iter().flat_map(|c| c.keys.iter().map(move |key| (c, key))).enumerate() {
            if key.indexed {
                conn.execute_batch(&parent_triggers(number, child, key))?;
            }
        }
        let due = conn.prepare("SELECT 1 FROM main._sync_meta WHERE key = ?1")?.exists([DUE])?;
        if due {
            children.iter().try_for_each(|child| doubt_all(conn, child))?;
        }
        let orphans = Arc::new(record::read(conn)?);
        let written = orphans.count > 0;
        let told = conn
            .query_row("SELECT value FROM main._sync_meta WHERE key = ?1", [TOLD], |row| row.get(0))
            .optional()?
            .unwrap_or(0);
        let (untold, alarmed) = (record::first_untold(conn, told)?, record::has_told(conn, told)?);
        Ok(Self { children, orphans, due, written, round: None, rest_until: None, untold, told, alarmed })
    }

    /// The rows without parents.
    pub(crate) fn orphans(&self) -> &Arc<Orphans> {
        &self.orphans
    }

    /// At the end of a write transaction, in it: judges the rows in doubt, unless `merging` says that more of what belongs to
    /// them is still to come.
    pub(crate) fn judge(&self, conn: &Connection, merging: bool, now: i64) -> Result<Judged, StoreError> {
        let in_doubt = conn.prepare_cached("SELECT 1 FROM temp._sync_in_doubt")?.exists([])?;
        if merging {
            if in_doubt && !self.due {
                conn.execute("INSERT OR IGNORE INTO main._sync_meta (key, value) VALUES (?1, 1)", [DUE])?;
            }
            return Ok(Judged { due: self.due || in_doubt, ..Judged::default() });
        }
        if self.due {
            conn.execute("DELETE FROM main._sync_meta WHERE key = ?1", [DUE])?;
        }
        if !in_doubt {
            return Ok(Judged::default());
        }
        // A clock that was put back must not make a row one that people have been told of.
        let at = now.max(self.told + 1);
        let mut noted = 0;
        for child in &self.children {
            noted += record::note(conn, child, at)?;
        }
        // Without a condition SQLite drops the pages whole.
        conn.prepare_cached("DELETE FROM temp._sync_in_doubt")?.execute([])?;
        let orphans = if noted == 0 { None } else { Some(record::read(conn)?) };
        Ok(Judged { orphans, due: false })
    }

    /// Takes over what a transaction found that has been committed.
    pub(crate) fn committed(&mut self, judged: Judged, now: i64) {
        self.due = judged.due;
        if let Some(orphans) = judged.orphans {
            self.orphans = Arc::new(orphans);
            self.untold.get_or_insert(now);
        }
    }

    /// Up to when those rows were noted that people have been told of, in milliseconds since 1970.
    pub(crate) fn told(&self) -> i64 {
        self.told
    }

    /// Says that rows were written, by whomever: parents may have come, or rows without parents gone.
    pub(crate) fn note_written(&mut self) {
        self.written = self.orphans.count > 0;
    }

    /// Whether rows without parents are to be looked at again.
    pub(crate) fn has_work(&self, now: i64) -> bool {
        let rested = self.rest_until.is_none_or(|until| until <= Instant::now());
        let moved = self.round.is_some() || (self.written && rested);
        self.orphans.count > 0 && (moved || self.tells_at(now).is_some())
    }

    /// The time up to which rows have been noted that people are to be told of by now.
    fn tells_at(&self, now: i64) -> Option<i64> {
        let limit = now - PATIENCE;
        self.untold.filter(|first| *first <= limit).map(|_| limit)
    }

    /// Looks at the next rows without parents.
    pub(crate) fn look(&mut self, conn: &Connection, now: i64) -> Result<Looked, StoreError> {
        let round = match self.round.take() {
            Some(round) => round,
            None => Round { after: Place::default(), begun: Instant::now(), tell: self.tells_at(now) },
        };
        if round.after == Place::default() {
            self.written = false;
        }
        let looked = record::settled(conn, &self.children, &round.after, STEP_ROWS);
        let (settled, last) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                // What could not be looked at is looked at once more.
                self.written = true;
                return Err(error);
            }
        };
        let mut looked = Looked { settled, tell: None };
        match last {
            Some(after) => self.round = Some(Round { after, ..round }),
            None => {
                self.rest_until = Some(Instant::now() + round.begun.elapsed() * REST);
                looked.tell = round.tell;
            }
        }
        Ok(looked)
    }

    /// In a write transaction: forgets rows that lack nothing any more, and notes that people are told of others.
    /// `told` is [`Self::told`] of before.
    pub(crate) fn follow(conn: &Connection, looked: &Looked, told: i64) -> Result<Followed, StoreError> {
        record::forget(conn, &looked.settled)?;
        let news = match looked.tell {
            Some(limit) => {
                let sql = "INSERT INTO main._sync_meta (key, value) VALUES (?1, ?2) \
                           ON CONFLICT DO UPDATE SET value = excluded.value";
                conn.execute(sql, rusqlite::params![TOLD, limit])?;
                record::untold(conn, told, limit)?
            }
            None => Vec::new(),
        };
        let untold = record::first_untold(conn, looked.tell.unwrap_or(told))?;
        Ok(Followed { left: record::read(conn)?, untold, told: looked.tell, news })
    }

    /// Takes over what was committed. Returns what people are to be told; true if no row is left that they were told of.
    pub(crate) fn followed(&mut self, followed: Followed) -> (Vec<NewOrphans>, bool) {
        self.orphans = Arc::new(followed.left);
        self.untold = followed.untold;
        self.told = followed.told.unwrap_or(self.told);
        self.alarmed |= !followed.news.is_empty();
        let complete = self.orphans.count == 0 && std::mem::take(&mut self.alarmed);
        (followed.news, complete)
    }
}

impl Looked {
    pub(crate) fn is_empty(&self) -> bool {
        self.settled.is_empty() && self.tell.is_none()
    }
}

/// Notes each row that is written without one of its parents.
fn child_triggers(child: &Child) -> String {
    let (number, name) = (child.table.number, quote(&child.table.name));
    let missing = missing(child, "NEW");
    let key = key_list(&child.table, "NEW");
    let count = child.table.key.len();
    let columns: String = (0..count).map(|place| format!(", k{place}")).collect();
    let note = format!("WHEN {missing} BEGIN INSERT INTO _sync_in_doubt (tbl{columns}) VALUES ({number}, {key}); END;");
    let of: Vec<&str> = child.keys.iter().flat_map(|key| key.from()).collect();
    let of = update_of(&of, &child.table.generated);
    format!(
        "CREATE TEMP TRIGGER _sync_child_{number}_insert AFTER INSERT ON main.{name} {note}
         CREATE TEMP TRIGGER _sync_child_{number}_update AFTER UPDATE{of} ON main.{name} {note}"
    )
}

/// Notes the rows that refer to a parent which goes, or is called otherwise from now on.
fn parent_triggers(number: usize, child: &Child, key: &relation::ForeignKey) -> String {
    let name = quote(&key.parent);
    let columns: String = (0..child.table.key.len()).map(|place| format!(", k{place}")).collect();
    let note =
        format!("BEGIN INSERT INTO _sync_in_doubt (tbl{columns}) {}; END;", key.children_of(&child.table, "OLD"));
    let other: Vec<String> = key.to().map(|to| format!("OLD.{0} IS NOT NEW.{0}", quote(to))).collect();
    format!(
        "CREATE TEMP TRIGGER _sync_parent_{number}_delete AFTER DELETE ON main.{name} {note}
         CREATE TEMP TRIGGER _sync_parent_{number}_update AFTER UPDATE ON main.{name} WHEN {} {note}",
        other.join(" OR ")
    )
}

/// `OF` these columns; nothing where one is generated: no statement names it.
fn update_of(columns: &[&str], generated: &[String]) -> String {
    if columns.iter().any(|column| generated.iter().any(|name| name.eq_ignore_ascii_case(column))) {
        return String::new();
    }
    format!(" OF {}", columns.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", "))
}

fn missing(child: &Child, row: &str) -> String {
    child.keys.iter().map(|key| key.missing(row)).collect::<Vec<_>>().join(" OR ")
}

/// Puts all rows in doubt that came from peers and lack a parent.
fn doubt_all(conn: &Connection, child: &Child) -> Result<(), StoreError> {
    let own: Option<i64> =
        conn.query_row("SELECT value FROM main._sync_meta WHERE key = 'origin_id'", [], |row| row.get(0)).optional()?;
    let columns: String = (0..child.table.key.len()).map(|place| format!(", k{place}")).collect();
    let same: Vec<String> = child
        .table
        .key_columns()
        .enumerate()
        .map(|(place, column)| format!("e.k{place} = c.{}", quote(&column.name)))
        .collect();
    conn.execute(
        &format!(
            "INSERT INTO temp._sync_in_doubt (tbl{columns}) SELECT {}, {} FROM main.{} AS c WHERE ({}) \
             AND EXISTS (SELECT 1 FROM main.{} AS e WHERE {} AND e.origin <> ?1)",
            child.table.number,
            key_list(&child.table, "c"),
            quote(&child.table.name),
            missing(child, "c"),
            quote(&child.table.clock),
            same.join(" AND ")
        ),
        [own],
    )?;
    Ok(())
}
