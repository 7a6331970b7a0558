//! Statements on many rows at a time: SQLite then opens its cursors once, and the next row is mostly where the last one was.

use super::{TableSql, parameters};

/// Rows that one statement writes.
pub(crate) const AT_ONCE: usize = 32;

/// Parameters that one statement may have, well below SQLite's own limit of 32,766.
const PARAMETERS: usize = 8_192;

/// Their texts.
#[derive(Debug, Clone)]
pub(crate) struct ManySql {
    /// See [`Self::unpublished`].
    unpublished: [[String; 2]; 2],
    /// Writes the row entries of [`AT_ONCE`] rows that have none: for each its key, ts, origin, seq, flags.
    pub(crate) put_entries: String,
    /// Inserts [`AT_ONCE`] rows: all synced columns of each. None where they have too many.
    pub(crate) insert: Option<String>,
    /// Writes [`AT_ONCE`] entries in place of what was there: for each its key, col, ts, origin, seq, flags.
    pub(crate) upsert_entries: String,
    /// Removes the entries of columns of [`AT_ONCE`] keys. None where keys have several columns, for which SQLite finds no way to use
    /// their index. (What is in the application's own table is deleted key by key: where the statistics say that it is small, SQLite
    /// would read all of it instead.)
    pub(crate) drop_columns: Option<String>,
    /// See [`Self::states`].
    states: [[String; 2]; 2],
}

impl ManySql {
    pub(crate) fn new(sql: &TableSql) -> Self {
        let width = sql.key.len();
        let clock_keys: Vec<String> = (0..width).map(|n| format!("k{n}")).collect();
        let clock_list = clock_keys.join(", ");
        let columns = sql.columns.len();
        Self {
            unpublished: [false, true].map(|content| [false, true].map(|after| sql.unpublished(content, after))),
            put_entries: format!(
                "INSERT INTO {} ({clock_list}, ts, origin, seq, flags, col) VALUES {}",
                sql.clock,
                tuples(width + 4, ", 0")
            ),
            insert: (columns.max(width + 4) * AT_ONCE <= PARAMETERS).then(|| {
                let list = sql.columns.join(", ");
                format!("INSERT{} INTO {} ({list}) VALUES {}", sql.or_abort, sql.table, tuples(columns, ""))
            }),
            upsert_entries: format!(
                "INSERT INTO {} ({clock_list}, col, ts, origin, seq, flags) VALUES {} \
                 ON CONFLICT DO UPDATE SET ts = excluded.ts, origin = excluded.origin, seq = excluded.seq, \
                 flags = excluded.flags, more = NULL",
                sql.clock,
                tuples(width + 5, "")
            ),
            drop_columns: (width == 1)
                .then(|| format!("DELETE FROM {} WHERE k0 IN ({}) AND col > 0", sql.clock, parameters(1, AT_ONCE))),
            states: [1, AT_ONCE].map(|rows| [false, true].map(|content| sql.states(rows, content))),
        }
    }

    /// The rows without a row entry, in the order of their keys: all columns, if their content is wanted, or those of the key; of all,
    /// or `after` a key. As many as the last parameter says, at most.
    pub(crate) fn unpublished(&self, content: bool, after: bool) -> &str {
        &self.unpublished[usize::from(content)][usize::from(after)]
    }

    /// How the rows with [`AT_ONCE`] keys stand, or with one: a line for each entry of each, or a line without one: (the key's place,
    /// whether the row is there, col, ts, origin, seq, flags, more), and the row's content if that is wanted.
    pub(crate) fn states(&self, together: bool, content: bool) -> &str {
        &self.states[usize::from(together)][usize::from(content)]
    }
}

impl TableSql {
    fn states(&self, rows: usize, content: bool) -> String {
        let width = self.key.len();
        let names: Vec<String> = (0..width).map(|n| format!("k{n}")).collect();
        let keys: Vec<String> =
            (0..rows).map(|row| format!("({row}, {})", parameters(row * width + 1, width))).collect();
        let of = |table: &str, columns: &mut dyn Iterator<Item = &String>| {
            let parts: Vec<String> =
                columns.zip(&names).map(|(column, key)| format!("{table}.{column} = v.{key}")).collect();
            parts.join(" AND ")
        };
        let columns: String = self.columns.iter().filter(|_| content).map(|column| format!(", t.{column}")).collect();
        format!(
            "WITH v (n, {}) AS (VALUES {}) \
             SELECT v.n, t.{first} IS NOT NULL, c.col, c.ts, c.origin, c.seq, c.flags, c.more{columns} \
             FROM v LEFT JOIN {} AS t ON {} LEFT JOIN {} AS c ON {}",
            names.join(", "),
            keys.join(", "),
            self.table,
            of("t", &mut self.key.iter()),
            self.clock,
            of("c", &mut names.iter()),
            first = self.key.first().map_or("rowid", String::as_str),
        )
    }

    fn unpublished(&self, content: bool, after: bool) -> String {
        let width = self.key.len();
        let columns = if content { &self.columns } else { &self.key };
        let columns: Vec<String> = columns.iter().map(|column| format!("t.{column}")).collect();
        let later =
            if after { format!(" AND ({}) > ({})", self.key_list, parameters(1, width)) } else { String::new() };
        format!(
            "SELECT {columns} FROM {table} AS t WHERE {named}NOT EXISTS \
             (SELECT 1 FROM {clock} AS c WHERE {joined} AND c.col = 0){later} ORDER BY {key_list} LIMIT ?{limit}",
            columns = columns.join(", "),
            table = self.table,
            named = self.named,
            clock = self.clock,
            joined = self.joined("t", "c"),
            limit = if after { width + 1 } else { 1 },
            key_list = self.key_list,
        )
    }
}

/// [`AT_ONCE`] tuples of so many parameters, each with the same end.
fn tuples(width: usize, end: &str) -> String {
    let tuple = |row: usize| format!("({}{end})", parameters(row * width + 1, width));
    (0..AT_ONCE).map(tuple).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use replication::Origin;

    use super::{AT_ONCE, ManySql};
    use crate::attach::attach;
    use crate::connection::open;
    use crate::table_sql::TableSql;

    /// An application may have had the statistics taken when it had next to nothing.
    #[test]
    fn entries_are_found_by_their_keys_however_small_the_statistics_say_that_the_table_is() {
        let folder = tempfile::tempdir().unwrap();
        for (number, kind) in
            ["INTEGER PRIMARY KEY", "TEXT COLLATE NOCASE PRIMARY KEY", "PRIMARY KEY"].iter().enumerate()
        {
            let path = folder.path().join(format!("{number}.db"));
            rusqlite::Connection::open(&path)
                .unwrap()
                .execute_batch(&format!("CREATE TABLE t (id {kind}, n)"))
                .unwrap();
            let mut conn = open(&path).unwrap();
            let attached = attach(&mut conn, Origin::from_bytes([1; 16]), "a").unwrap();
            let sql = ManySql::new(&TableSql::new(&attached.schema.tables[0])).drop_columns.unwrap();
            let clock = &attached.schema.tables[0].clock;
            for rows in [0, 1, 5, 100] {
                let entries = format!(
                    "DELETE FROM {clock};
                     WITH RECURSIVE n(k) AS (SELECT 1 WHERE {rows} > 0 UNION ALL SELECT k + 1 FROM n WHERE k < {rows})
                     INSERT INTO {clock} SELECT k, 0, 1, 1, k, 0, NULL FROM n; ANALYZE"
                );
                conn.execute_batch(&entries).unwrap();
                // Who opens a file reads what was found out about it.
                let conn = open(&path).unwrap();
                let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
                let way: String = plan.query_row([0; AT_ONCE], |row| row.get(3)).unwrap();
                assert!(way.starts_with("SEARCH") && way.contains("k0=?"), "{kind}, {rows} rows: {way}");
            }
        }
    }
}
