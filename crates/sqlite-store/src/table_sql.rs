//! The statements that capture, apply and batch reads use on one table and its clock table, as text.
//!
//! Built once per schema from the introspected table; names come from the local schema only, never from a peer.

mod many;

use replication::{EntryFlags, Timestamp};

pub(crate) use many::{AT_ONCE, ManySql};

use crate::identifier::quote;
use crate::row_clock::REST_PLACE;
use crate::schema::{Affinity, Column, IndexPart, Table, UniqueIndex};
use crate::triggers::default_value;

/// Statement texts of one table. Parameters `?1..` are the key columns in the key's order, unless said otherwise.
#[derive(Debug, Clone)]
pub(crate) struct TableSql {
    /// Entries of a key: (col, ts, origin, seq, flags), the row entry first.
    pub(crate) clock_entries: String,
    /// Writes one entry, unless it is there: the key, then col, ts, origin, seq, flags, more.
    pub(crate) clock_put: String,
    /// One line if a key has a row entry.
    pub(crate) clock_exists: String,
    /// Deletes all entries of a key.
    pub(crate) clock_drop: String,
    /// Removes a key's column entries.
    pub(crate) clock_drop_columns: String,
    /// The same, and what speaks for all other columns.
    pub(crate) clock_drop_parts: String,
    /// Removes one of a key's entries: the key, then col.
    pub(crate) clock_drop_place: String,
    /// Removes all entries.
    pub(crate) clock_clear: String,
    /// Removes the entries of column number `?1`, and those of its counters from `?2` to `?3`.
    pub(crate) clock_drop_column: String,
    /// The keys of all rows that have a row entry.
    pub(crate) clock_keys: String,
    /// All entries by their dots: (origin, seq, key columns…).
    pub(crate) clock_dots: String,
    /// Gives the row entry of a key another dot, if it is the baseline's and has the dot that is expected: the key, then the numbers of
    /// the origins as they are expected and as they are to be, and the sequences.
    pub(crate) clock_exchange: String,
    /// One line if a row has the key.
    pub(crate) exists: String,
    /// All synced columns of the row with a key.
    pub(crate) row: String,
    /// The rowid of the row with a key; tables with a rowid only.
    pub(crate) rowid: Option<String>,
    /// For each unique index of plain columns: finds the keys of the rows with the same values, perhaps more where the index
    /// is partial; and the columns, as indices, that are its parameters. None where an index is of another kind.
    pub(crate) same_unique: Option<Vec<(String, Vec<usize>)>>,
    /// Rows by their rowids, in tables whose key is not the rowid.
    pub(crate) by_rowid: Option<ByRowid>,
    /// Inserts a row: all synced columns.
    pub(crate) insert: String,
    /// The same, and takes out the rows that stand in its way: only to find out which they are.
    pub(crate) replace: String,
    /// Inserts a row under a given rowid: the rowid, then all synced columns.
    pub(crate) insert_with_rowid: Option<String>,
    /// Deletes the row with a key.
    pub(crate) delete: String,
    /// Reads and writes what the row with a key holds in columns that are excluded; none where none is.
    pub(crate) excluded: Option<Excluded>,
    /// Keys of rows with a row entry, a tombstone included, in key order, at most `?1`.
    pub(crate) clocked: String,
    /// The same after a key: the key, then the limit.
    pub(crate) clocked_after: String,
    /// Keys of tombstones, in key order, at most `?1`.
    pub(crate) buried: String,
    /// The same after a key: the key, then the limit.
    pub(crate) buried_after: String,
    /// Keys of living rows by the clock that have no row in the table, at most `?1`.
    pub(crate) rowless: String,
    key_match: String,
    /// See [`or_abort`].
    or_abort: &'static str,
    table: String,
    clock: String,
    columns: Vec<String>,
    key: Vec<String>,
    key_list: String,
    /// "The row `t` has a key, and": rows with NULL in the key cannot be named.
    named: String,
}

/// Statements on rows that are known by their rowid only, which is `?1`.
#[derive(Debug, Clone)]
pub(crate) struct ByRowid {
    /// A name that means the rowid.
    pub(crate) name: &'static str,
    /// All synced columns of the row.
    pub(crate) row: String,
    /// Deletes the row.
    pub(crate) delete: String,
}

/// Statements on columns that are not synced: a row that makes way for another and comes back keeps what is in them.
#[derive(Debug, Clone)]
pub(crate) struct Excluded {
    /// How many there are.
    pub(crate) count: usize,
    /// Reads them: `?1..` is the key.
    pub(crate) read: String,
    /// Writes them: the key, then the values.
    pub(crate) write: String,
}

impl TableSql {
    pub(crate) fn new(table: &Table) -> Self {
        let name = format!("main.{}", quote(&table.name));
        let clock = format!("main.{}", quote(&table.clock));
        let columns: Vec<String> = table.columns.iter().map(|column| quote(&column.name)).collect();
        let key: Vec<&str> = table.key.iter().map(|index| columns[*index].as_str()).collect();
        let width = key.len();
        let clock_key: Vec<String> = (0..width).map(|n| format!("k{n}")).collect();
        let conjunction = |names: &[String]| -> String {
            let parts: Vec<String> = names.iter().enumerate().map(|(n, name)| format!("{name} = ?{}", n + 1)).collect();
            parts.join(" AND ")
        };
        let key_names: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
        let key_match = conjunction(&key_names);
        let clock_match = conjunction(&clock_key);
        let clock_list = clock_key.join(", ");
        let joined = |left: &str, right: &str| -> String {
            let parts: Vec<String> =
                key.iter().enumerate().map(|(n, name)| format!("{right}.k{n} = {left}.{name}")).collect();
            parts.join(" AND ")
        };
        let list = columns.join(", ");
        let key_list = key.iter().map(|name| format!("t.{name}")).collect::<Vec<_>>().join(", ");
        let named: String = key.iter().map(|name| format!("t.{name} IS NOT NULL AND ")).collect();
        let entry = format!("EXISTS (SELECT 1 FROM {clock} AS c WHERE {} AND c.col = 0)", joined("t", "c"));
        let first = |condition: &str| {
            format!("SELECT {key_list} FROM {name} AS t WHERE {named}{condition} ORDER BY {key_list} LIMIT ?1")
        };
        let next = |condition: &str| {
            format!(
                "SELECT {key_list} FROM {name} AS t WHERE {named}{condition} AND ({key_list}) > ({}) \
                 ORDER BY {key_list} LIMIT ?{}",
                parameters(1, width),
                width + 1
            )
        };
        let plain = rowid_name(table);
        let deleted = EntryFlags::DELETED.bits();
        let tombstones = format!("SELECT {clock_list} FROM {clock} WHERE col = 0 AND (flags & {deleted}) <> 0");
        Self {
            clock_entries: format!(
                "SELECT col, ts, origin, seq, flags, more FROM {clock} WHERE {clock_match} ORDER BY col"
            ),
            clock_put: format!(
                "INSERT INTO {clock} ({clock_list}, col, ts, origin, seq, flags, more) VALUES ({}) \
                 ON CONFLICT DO UPDATE SET ts = excluded.ts, origin = excluded.origin, seq = excluded.seq, \
                 flags = excluded.flags, more = excluded.more \
                 WHERE (ts, origin, seq, flags, more) IS NOT \
                 (excluded.ts, excluded.origin, excluded.seq, excluded.flags, excluded.more)",
                parameters(1, width + 6)
            ),
            clock_exists: format!("SELECT 1 FROM {clock} WHERE {clock_match} AND col = 0"),
            clock_drop: format!("DELETE FROM {clock} WHERE {clock_match}"),
            clock_drop_columns: format!("DELETE FROM {clock} WHERE {clock_match} AND col > 0"),
            clock_drop_parts: format!("DELETE FROM {clock} WHERE {clock_match} AND (col > 0 OR col = {REST_PLACE})"),
            clock_drop_place: format!("DELETE FROM {clock} WHERE {clock_match} AND col = ?{}", width + 1),
            clock_clear: format!("DELETE FROM {clock}"),
            clock_drop_column: format!("DELETE FROM {clock} WHERE col = ?1 OR col BETWEEN ?2 AND ?3"),
            clock_keys: format!("SELECT {clock_list} FROM {clock} WHERE col = 0"),
            clock_dots: format!("SELECT origin, seq, {clock_list} FROM {clock} ORDER BY origin, seq"),
            clock_exchange: format!(
                "UPDATE {clock} SET origin = ?{}, seq = ?{} \
                 WHERE {clock_match} AND col = 0 AND origin = ?{} AND seq = ?{} AND ts = {}",
                width + 2,
                width + 4,
                width + 1,
                width + 3,
                Timestamp::BASELINE.raw()
            ),
            exists: format!("SELECT 1 FROM {name} WHERE {key_match}"),
            row: format!("SELECT {list} FROM {name} WHERE {key_match}"),
            rowid: plain.map(|rowid| format!("SELECT {rowid} FROM {name} WHERE {key_match}")),
            same_unique: table.unique.iter().map(|index| same_unique(table, index, &name, &key_list)).collect(),
            by_rowid: plain.map(|rowid| ByRowid {
                name: rowid,
                row: format!("SELECT {list} FROM {name} WHERE {rowid} = ?1"),
                delete: format!("DELETE FROM {name} WHERE {rowid} = ?1"),
            }),
            insert: format!("INSERT{} INTO {name} ({list}) VALUES ({})", or_abort(table), parameters(1, columns.len())),
            replace: format!("INSERT OR REPLACE INTO {name} ({list}) VALUES ({})", parameters(1, columns.len())),
            insert_with_rowid: plain.map(|rowid| {
                let values = parameters(1, columns.len() + 1);
                format!("INSERT{} INTO {name} ({rowid}, {list}) VALUES ({values})", or_abort(table))
            }),
            delete: format!("DELETE FROM {name} WHERE {key_match}"),
            excluded: excluded(table, &name, &key_match),
            clocked: first(&entry),
            clocked_after: next(&entry),
            buried: format!("{tombstones} ORDER BY {clock_list} LIMIT ?1"),
            buried_after: format!(
                "{tombstones} AND ({clock_list}) > ({}) ORDER BY {clock_list} LIMIT ?{}",
                parameters(1, width),
                width + 1
            ),
            rowless: format!(
                "SELECT {clock_list} FROM {clock} AS c WHERE c.col = 0 AND (c.flags & {deleted}) = 0 AND NOT EXISTS \
                 (SELECT 1 FROM {name} AS t WHERE {}) LIMIT ?1",
                joined("t", "c")
            ),
            key_match,
            or_abort: or_abort(table),
            table: name,
            clock,
            key: key_names,
            columns,
            key_list,
            named,
        }
    }

    /// Keys of rows that hold something besides its default in a column, in key order: after a key of `after` columns (0:
    /// from the first), at most as many as the last parameter says.
    pub(crate) fn written(&self, column: &Column, after: usize) -> String {
        let value = format!("t.{}", quote(&column.name));
        let default = default_value(column.default.as_deref().unwrap_or("NULL"));
        let mut differs = format!("{value} IS NOT {default} COLLATE BINARY");
        if column.affinity == Affinity::Blob {
            // Nothing converts these: 1 is not 1.0.
            differs = format!("({differs} OR typeof({value}) <> typeof({default}))");
        }
        let start =
            if after == 0 { String::new() } else { format!(" AND ({}) > ({})", self.key_list, parameters(1, after)) };
        format!(
            "SELECT {keys} FROM {} AS t WHERE {}{differs}{start} ORDER BY {keys} LIMIT ?{}",
            self.table,
            self.named,
            after + 1,
            keys = self.key_list
        )
    }

    /// The rows in a range of keys, in key order: all synced columns, then the origin and the sequence of the row's entry if it is a
    /// baseline row and has no other. Parameters: the key after which the range begins, if there is one, and that with which it ends.
    pub(crate) fn in_range(&self, after: bool, until: bool) -> String {
        let alone = format!(
            "CASE WHEN c.ts = {} AND c.flags = {} AND c.more IS NULL \
             AND NOT EXISTS (SELECT 1 FROM {} AS o WHERE {} AND o.col <> 0) THEN",
            Timestamp::BASELINE.raw(),
            EntryFlags::INSERTED.bits(),
            self.clock,
            self.joined("t", "o")
        );
        let columns: Vec<String> = self.columns.iter().map(|column| format!("t.{column}")).collect();
        self.ranged(&format!("{}, {alone} c.origin END, c.seq", columns.join(", ")), after, until)
    }

    /// The keys of the same rows.
    pub(crate) fn keys_in_range(&self, after: bool, until: bool) -> String {
        self.ranged(&self.key_list, after, until)
    }

    /// The row entries of the same rows: (origin, ts, seq), NULL where a row has none.
    pub(crate) fn entries_in_range(&self, after: bool, until: bool) -> String {
        self.ranged("c.origin, c.ts, c.seq", after, until)
    }

    fn ranged(&self, what: &str, after: bool, until: bool) -> String {
        let (width, keys) = (self.key.len(), &self.key_list);
        let first = if after { format!(" AND ({keys}) > ({})", parameters(1, width)) } else { String::new() };
        let place = if after { width + 1 } else { 1 };
        let last = if until { format!(" AND ({keys}) <= ({})", parameters(place, width)) } else { String::new() };
        // A condition is needed, and `named` ends with AND.
        format!(
            "SELECT {what} FROM {} AS t LEFT JOIN {} AS c ON {} AND c.col = 0 WHERE {}1{first}{last} ORDER BY {keys}",
            self.table,
            self.clock,
            self.joined("t", "c"),
            self.named
        )
    }

    /// The condition that the line `right` of the clock table is of the row `left`.
    fn joined(&self, left: &str, right: &str) -> String {
        let parts = self.key.iter().enumerate().map(|(n, name)| format!("{right}.k{n} = {left}.{name}"));
        parts.collect::<Vec<_>>().join(" AND ")
    }

    /// Updates the columns at these indices: `?1..` is the key of the row as it stands, the new values follow.
    pub(crate) fn update(&self, changed: &[usize], key_width: usize) -> String {
        let sets: Vec<String> = changed
            .iter()
            .enumerate()
            .map(|(n, index)| format!("{} = ?{}", self.columns[*index], key_width + n + 1))
            .collect();
        format!("UPDATE{} {} SET {} WHERE {}", self.or_abort, self.table, sets.join(", "), self.key_match)
    }
}

/// Where constraints say what is to be done when they are broken, that is for the application's statements: a row that is not
/// written, or that takes others out, must not go unnoticed. Elsewhere nothing is said, because it would hold for the
/// statements of triggers too: INSERT OR REPLACE in one would fail.
const fn or_abort(table: &Table) -> &'static str {
    if table.has_conflict_clauses { " OR ABORT" } else { "" }
}

fn excluded(table: &Table, name: &str, key_match: &str) -> Option<Excluded> {
    if table.excluded.is_empty() {
        return None;
    }
    let columns: Vec<String> = table.excluded.iter().map(|column| quote(column)).collect();
    let width = table.key.len();
    let sets = columns.iter().enumerate().map(|(n, column)| format!("{column} = ?{}", width + n + 1));
    Some(Excluded {
        count: columns.len(),
        read: format!("SELECT {} FROM {name} WHERE {key_match}", columns.join(", ")),
        write: format!(
            "UPDATE{} {name} SET {} WHERE {key_match}",
            or_abort(table),
            sets.collect::<Vec<_>>().join(", ")
        ),
    })
}

fn same_unique(table: &Table, index: &UniqueIndex, name: &str, keys: &str) -> Option<(String, Vec<usize>)> {
    let columns = index.plain_columns()?;
    let equal = index.columns.iter().zip(&columns).enumerate().map(|(place, (part, column))| {
        let collation = match part {
            IndexPart::Column { collation, .. } => collation.name(),
            IndexPart::Unsynced { .. } | IndexPart::Expression { .. } => "BINARY",
        };
        format!("t.{} = ?{} COLLATE {collation}", quote(&table.columns[*column].name), place + 1)
    });
    let conditions: Vec<String> = equal.chain(index.partial.iter().map(|predicate| format!("({predicate})"))).collect();
    Some((format!("SELECT {keys} FROM {name} AS t WHERE {}", conditions.join(" AND ")), columns))
}

/// A name that means the rowid in this table and is no column's own; none where the rowid is a column already, or absent.
fn rowid_name(table: &Table) -> Option<&'static str> {
    if !table.has_rowid || table.rowid_alias.is_some() {
        return None;
    }
    ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|name| !table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name)))
}

fn parameters(first: usize, count: usize) -> String {
    (first..first + count).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ")
}
