//! Attaching: our tables and triggers are put into a database, and put right whenever its schema has changed.
//!
//! One transaction, whose cost does not depend on the number of rows. Rows that are there already get no entries; what
//! becomes of them is decided elsewhere.

pub(crate) mod bookkeeping;
mod clock_table;
mod counted;
mod installing;
mod marks;
pub mod naming;
pub(crate) mod registry;
mod rules;
pub(crate) mod selecting;
pub(crate) mod statement_check;

use std::collections::BTreeSet;

use replication::{Origin, Selection};
use rusqlite::Connection;

use crate::app_triggers::{self, AppTrigger, Classified};
use crate::error::StoreError;
use crate::key_ranges;
use crate::lift::BeforeLift;
use crate::node_schemas;
use crate::parked;
use crate::replica::{DatabaseRules, wall_millis};
use crate::reselect;
use crate::schema::introspection::{Found, read_tables};
use crate::schema::{Schema, Table, Unsynced};
use crate::warning::{self, Warning, key_clash};
use crate::write_lock;
pub use marks::{
    Misnamed, settle_counted, settle_included, settle_rebuilt, settle_renamed, settle_rewritten, settle_unwatched,
};
pub(crate) use marks::{born_key, is_rewritten};

use counted::Counted;
use installing::{Installation, Installed};
use marks::{Marks, read_marks};
use naming::WireNames;
use registry::Registry;
pub use rules::AttachRules;

/// An attached database.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The application's schema.
    pub schema: Schema,
    /// The origin under which the database issues changes.
    pub origin: Origin,
    /// Whether it was attached for the first time.
    pub created: bool,
    /// Numbers of tables from which rows may have gone without being logged: their triggers had been lost because a
    /// migration rebuilt them, or lacked the guard of a unique index that is new. They are named at every attach until
    /// [`settle_rebuilt`] is called for them.
    pub rebuilt: Vec<i64>,
    /// Those of them whose rows may hold anything by now, because all triggers had been lost. They are named until
    /// [`settle_rewritten`] is called for them.
    pub rewritten: Vec<i64>,
    /// Columns that may have been written before the triggers knew them: numbers of table and column. They are named at
    /// every attach until [`settle_unwatched`] is called for them.
    pub unwatched: Vec<(i64, u16)>,
    /// Columns that were excluded until now: numbers of table and column. They are named at every attach until
    /// [`settle_included`] is called for them.
    pub included: Vec<(i64, u16)>,
    /// Numbers of tables whose deletions are to be said anew, because peers know them under another name. They are named until
    /// [`settle_renamed`] is called for them.
    pub renamed: Vec<i64>,
    /// Those of the unwatched columns that bear another name now, and held what they hold before.
    pub renamed_columns: Vec<(i64, u16)>,
    /// Those of the rewritten tables and unwatched columns that peers know by other names, because the names on the wire were
    /// changed.
    pub misnamed: Misnamed,
    /// Numbers of tables with counters of which it is not known what they hold, because they have become counters. They are
    /// named at every attach until [`settle_counted`] is called for them.
    pub counted: Vec<i64>,
    /// Names on the wire of tables that were synced and are gone or cannot be synced any more. Their clock entries are kept: a table
    /// that comes back goes on with them, and until then this database does not hold everything that its vector covers.
    pub retired: BTreeSet<String>,
    /// What becomes of the application's own triggers when changes are applied.
    pub app_triggers: Vec<AppTrigger>,
    /// What people should know of the database.
    pub warnings: Vec<Warning>,
}

/// Attaches a database, or puts an attached one right after its schema has changed.
///
/// `new_origin` is used only if the database is not attached yet; `node` is the name by which the origin is shown. From the
/// same transaction on, automatic keys are those of this node, if it has key ranges.
///
/// # Errors
/// SQLite's own; [`StoreError::Format`] or [`StoreError::Damaged`] for tables of ours that this version cannot work with;
/// [`StoreError::Lifted`] while a migration runs that lifted the triggers. The file is as it was. A table that cannot be
/// synced is no error: it is in [`Schema::unsynced`].
pub fn attach(conn: &mut Connection, new_origin: Origin, node: &str) -> Result<Attached, StoreError> {
    attach_with(conn, new_origin, node, None, &AttachRules::default())
}

/// Whether a database is attached.
///
/// # Errors
/// The file cannot be read.
pub fn is_attached(conn: &Connection) -> Result<bool, StoreError> {
    bookkeeping::is_attached(conn)
}

/// The name of the node that a database is attached as; none if it is not attached.
///
/// # Errors
/// The file cannot be read.
pub fn attached_as(conn: &Connection) -> Result<Option<String>, StoreError> {
    if !is_attached(conn)? {
        return Ok(None);
    }
    bookkeeping::own_node(conn).map(Some)
}

/// The same under rules. `merge` says how tables are merged and which columns are counters; without it counters stay as they
/// were.
///
/// Where the rules choose other tables or columns than before, what is known of those that are not synced any more is kept
/// to be passed on to peers.
///
/// # Errors
/// As [`attach`].
pub fn attach_with(
    conn: &mut Connection,
    new_origin: Origin,
    node: &str,
    merge: Option<&DatabaseRules>,
    rules: &AttachRules,
) -> Result<Attached, StoreError> {
    let transaction = write_lock::transaction(conn, None)?;
    let attached = attach_within(&transaction, new_origin, node, merge, rules)?;
    transaction.commit()?;
    Ok(attached)
}

/// Attaches in a write transaction of the caller's.
pub(crate) fn attach_within(
    conn: &Connection,
    new_origin: Origin,
    node: &str,
    merge: Option<&DatabaseRules>,
    rules: &AttachRules,
) -> Result<Attached, StoreError> {
    let created = bookkeeping::ensure(conn)?;
    let origin = bookkeeping::own_origin(conn, created, new_origin, node)?;
    let (before, names) = (selecting::stored(conn)?, WireNames::in_use(conn, None)?);
    let selection = rules.selection.as_ref().unwrap_or(&before);
    if *selection != before {
        if !created {
            // What was chosen until now is brought up to date for the last time.
            let between = selecting::between(conn, &before, selection)?;
            let attached = install(conn, (origin, node, created), (&before, &between), merge, rules)?;
            reselect::set_aside(conn, &attached, selection, merge)?;
        }
        selecting::store(conn, selection)?;
    }
    let attached = install(conn, (origin, node, created), (&before, selection), merge, rules)?;
    let wire_selection = &attached.schema.wire_selection;
    if names.selection(&before) != *wire_selection {
        parked::reclassify(conn, wire_selection)?;
    }
    Ok(attached)
}

/// Puts right what is in the file for a selection, and for the one before it.
fn install(
    conn: &Connection,
    (origin, node, created): (Origin, &str, bool),
    (before, selection): (&Selection, &Selection),
    merge: Option<&DatabaseRules>,
    rules: &AttachRules,
) -> Result<Attached, StoreError> {
    let before_lift = BeforeLift::take(conn)?;
    let found = read_tables(conn, selection)?;
    let counted_before = Counted::load(conn)?;
    let counted = match merge {
        Some(merge) => Counted::declare(conn, found.iter().filter_map(|table| table.as_ref().ok()), merge)?,
        None => counted_before.clone(),
    };
    let names = WireNames::in_use(conn, rules.names.as_ref())?;
    let misnamed = names.unmet(&found);
    let wire_selection = names.selection(selection);
    let left_out = if selection.is_everything() { Vec::new() } else { everything(conn, &names)? };
    let installation = Installation::new(conn, (counted_before, counted), names, (before_lift, before))?;
    let Installed { tables, unsynced, retired } = installation.run(found)?;
    let (hash, version, selection) = (schema_hash(conn)?, schema_version(conn)?, selection.clone());
    let schema = Schema { hash, version, tables, unsynced, selection, wire_selection };
    // What is left out has its place here all the same: it may be included again.
    let present = if left_out.is_empty() { &schema.tables } else { &left_out };
    node_schemas::announce(conn, (origin, node), present, wall_millis())?;
    let marks = read_marks(conn, &schema.tables)?;
    let Classified { triggers: app_triggers, problems } = app_triggers::classify(conn, &schema, &rules.triggers)?;
    let clashes = schema.tables.iter().filter_map(|table| key_clash(table, rules.key_ranges.is_some()));
    let key_ranges = key_ranges::settle_schema(conn, &schema, rules.key_ranges)?;
    let warnings = clashes.chain(key_ranges).chain(problems).chain(warning::unmet(&schema, merge, misnamed)).collect();
    let Marks { rebuilt, rewritten, unwatched, renamed, renamed_columns, counted, misnamed, included } = marks;
    Ok(Attached {
        schema,
        origin,
        created,
        rebuilt,
        rewritten,
        unwatched,
        renamed,
        renamed_columns,
        misnamed,
        counted,
        included,
        retired,
        app_triggers,
        warnings,
    })
}

/// Reads the schema of an attached database without changing anything. Tables that the last attach did not see are
/// among the unsynced ones.
///
/// # Errors
/// [`StoreError::NotAttached`], or SQLite's own.
pub fn introspect(conn: &Connection) -> Result<Schema, StoreError> {
    if !bookkeeping::is_attached(conn)? {
        return Err(StoreError::NotAttached);
    }
    let registry = Registry::load(conn)?;
    let counted = Counted::load(conn)?;
    let selection = selecting::stored(conn)?;
    let names = WireNames::in_use(conn, None)?;
    let (mut candidates, unsynced) = sorted_out(read_tables(conn, &selection)?);
    let (hash, version, wire_selection) = (schema_hash(conn)?, schema_version(conn)?, names.selection(&selection));
    let mut schema = Schema { hash, version, tables: Vec::new(), unsynced, selection, wire_selection };
    schema.unsynced.extend(names.give(&mut candidates));
    for mut table in candidates {
        counted.mark(&mut table);
        if registry.complete(&mut table) {
            schema.tables.push(table);
        } else {
            schema.unsynced.push(unregistered(conn, table)?);
        }
    }
    sort(&mut schema.tables, &mut schema.unsynced);
    Ok(schema)
}

fn unregistered(conn: &Connection, table: Table) -> Result<Unsynced, StoreError> {
    let refused = statement_check::refusal_of_writes(conn, &table)?;
    Ok(Unsynced {
        table: table.name,
        reason: refused.unwrap_or_else(|| "has not been attached yet".to_owned()),
        remedy: "attach the database again".to_owned(),
        intended: false,
    })
}

/// `PRAGMA schema_version`. It moves with every change of the schema, and also with VACUUM, the first ANALYZE and
/// applications that set it: where it is another than before, compare [`schema_hash`].
///
/// # Errors
/// SQLite's own.
pub fn schema_version(conn: &Connection) -> Result<i64, StoreError> {
    Ok(conn.prepare_cached("PRAGMA main.schema_version")?.query_row([], |row| row.get(0))?)
}

/// A hash of the text of the whole schema except for ANALYZE's tables. Our own tables and triggers count: a migration
/// that rebuilds a table to the same text still loses the triggers, and must be noticed.
///
/// # Errors
/// SQLite's own.
pub fn schema_hash(conn: &Connection) -> Result<u64, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM main.sqlite_schema \
         WHERE name NOT GLOB 'sqlite_stat[1-4]' ORDER BY type, name",
    )?;
    let mut rows = statement.query([])?;
    // FNV-1a: the same in every version of the program, unlike the standard library's hashers.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    while let Some(row) = rows.next()? {
        for place in 0..4 {
            let text = row.get_ref(place)?.as_bytes().unwrap_or_default();
            // 0xff occurs in no UTF-8 text: it keeps ("a", "bc") and ("ab", "c") apart.
            for byte in text.iter().copied().chain([0xff]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    Ok(hash)
}

/// The tables that can be synced for all that their definition says, and the others.
fn sorted_out(found: Vec<Found>) -> (Vec<Table>, Vec<Unsynced>) {
    let (mut candidates, mut unsynced) = (Vec::new(), Vec::new());
    for table in found {
        match table {
            Ok(table) => candidates.push(table),
            Err(refused) => unsynced.push(refused),
        }
    }
    (candidates, unsynced)
}

/// The tables that could be synced, with all their columns, whatever is chosen.
fn everything(conn: &Connection, names: &WireNames) -> Result<Vec<Table>, StoreError> {
    let (mut tables, _) = sorted_out(read_tables(conn, &Selection::default())?);
    names.give(&mut tables);
    Ok(tables)
}

fn sort(tables: &mut [Table], unsynced: &mut [Unsynced]) {
    tables.sort_by_key(|table| table.number);
    unsynced.sort_by(|a, b| a.table.cmp(&b.table));
}
