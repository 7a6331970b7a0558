//! Which rows of one table only one file has, and which differ: found by SQLite in three statements, and kept in TEMP tables by their keys.

use rusqlite::Connection;

use crate::error::StoreError;
use crate::identifier::quote;
use crate::schema::Table;

/// What is to be done to one table.
#[derive(Debug)]
pub(super) struct Plan {
    /// The TEMP tables of keys.
    pub(super) gone: Keys,
    pub(super) differ: Keys,
    pub(super) new: Keys,
    /// Rows of SOURCE and TARGET with NULL in their key.
    pub(super) nameless: [u64; 2],
}

/// A TEMP table that holds keys.
#[derive(Debug)]
pub(super) struct Keys {
    /// Its name, to be put into SQL.
    pub(super) name: String,
    /// How many keys. Their rowids count from 1.
    pub(super) rows: u64,
}

impl Plan {
    /// Compares the rows of a table. Rows that only TARGET has are looked for where it is to be a `mirror`.
    pub(super) fn make(conn: &Connection, number: usize, table: &Table, mirror: bool) -> Result<Self, StoreError> {
        let (name, columns) = (quote(&table.name), table.columns.iter().map(|column| quote(&column.name)));
        let key: Vec<String> = table.key_columns().map(|column| quote(&column.name)).collect();
        let of = |side: &str, joined: &str, end: &str| {
            key.iter().map(|column| format!("{side}.{column}{end}")).collect::<Vec<_>>().join(joined)
        };
        let named = |side: &str| of(side, " AND ", " IS NOT NULL");
        let same = key.iter().map(|column| format!("a.{column} = b.{column}")).collect::<Vec<_>>().join(" AND ");
        let differs: Vec<String> = columns
            .map(|column| {
                format!("a.{column} IS NOT b.{column} COLLATE BINARY OR typeof(a.{column}) <> typeof(b.{column})")
            })
            .collect();
        let only = |side: &str, schema: &str, other: &str, there: &str| {
            format!(
                "SELECT {} FROM {schema}.{name} AS {side} WHERE {} \
                 AND NOT EXISTS (SELECT 1 FROM {there}.{name} AS {other} WHERE {same})",
                of(side, ", ", ""),
                named(side)
            )
        };
        let both = format!(
            "SELECT {} FROM main.{name} AS a JOIN source.{name} AS b ON {same} WHERE {}",
            of("a", ", ", ""),
            differs.join(" OR ")
        );
        let keys =
            |what: &str, select: Option<&str>| Keys::find(conn, &format!("_sync_{what}_{number}"), key.len(), select);
        let nameless = |schema: &str| -> Result<u64, StoreError> {
            if table.key_columns().all(|column| column.not_null) || table.rowid_alias.is_some() {
                return Ok(0);
            }
            let sql = format!("SELECT count(*) FROM {schema}.{name} AS a WHERE NOT ({})", named("a"));
            Ok(conn.query_row(&sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs())
        };
        Ok(Self {
            gone: keys("gone", mirror.then(|| only("a", "main", "b", "source")).as_deref())?,
            differ: keys("differ", Some(&both))?,
            new: keys("new", Some(&only("b", "source", "a", "main")))?,
            nameless: [nameless("source")?, nameless("main")?],
        })
    }

    /// How many rows are to be looked at or written.
    pub(super) fn rows(&self) -> u64 {
        self.gone.rows + self.differ.rows + self.new.rows
    }
}

impl Keys {
    fn find(conn: &Connection, name: &str, width: usize, select: Option<&str>) -> Result<Self, StoreError> {
        let name = format!("temp.{}", quote(name));
        // Without types, so that no value is converted.
        let columns = (0..width).map(|place| format!("k{place}")).collect::<Vec<_>>().join(", ");
        conn.execute_batch(&format!("CREATE TEMP TABLE {} ({columns})", &name["temp.".len()..]))?;
        let rows = match select {
            Some(select) => conn.execute(&format!("INSERT INTO {name} {select}"), [])? as u64,
            None => 0,
        };
        Ok(Self { name, rows })
    }
}
