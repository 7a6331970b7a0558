//! What one attached database knows, in memory: schema, origins, version vector and hybrid clock.
//!
//! Invariant: between transactions it equals what the file holds. A write transaction changes both; when one is rolled
//! back, the replica is loaded again. Nothing else in the process writes `_sync_*` tables.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use replication::{
    ColumnRule, ConflictPolicy, Dot, DotSet, Granularity, HybridClock, LastWriteWins, NodeSchemas, Origin, Selection,
    TableShape, Timestamp, Value, VersionVector,
};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::attach::born_key;
use crate::bind::value_at;
use crate::dot_index::DotIndex;
use crate::error::StoreError;
use crate::foreign_keys;
use crate::meta;
use crate::node_schemas;
use crate::parked::{Places, Waiting};
use crate::schema::{Column, Schema, Table};
use crate::staging;
use crate::table_sql::{ManySql, TableSql};
use crate::triggers::default_value;

/// How one table is merged.
#[derive(Clone)]
pub struct MergeRules {
    /// How finely.
    pub granularity: Granularity,
    /// Who decides conflicts.
    pub policy: Arc<dyn ConflictPolicy>,
    /// Rules of single columns, by name.
    pub columns: HashMap<String, ColumnRule>,
}

impl Default for MergeRules {
    fn default() -> Self {
        Self { granularity: Granularity::default(), policy: Arc::new(LastWriteWins), columns: HashMap::new() }
    }
}

impl MergeRules {
    /// The rules in words, which are equal where the rules are; none for the default rules. `named` tells what a column is called
    /// where the words are compared.
    pub fn describe(&self, named: &dyn Fn(&str) -> String) -> Option<String> {
        let granularity = match self.granularity {
            Granularity::Column => "column",
            Granularity::Row => "row",
        };
        let policy = self.policy.describe(named);
        let mut text = format!("{granularity}: {policy}");
        let rules = self.columns.iter().map(|(name, rule)| (named(name), rule.describe(named)));
        for (name, rule) in rules.filter(|(_, rule)| *rule != policy).collect::<BTreeMap<_, _>>() {
            text.push_str(&format!("; {name}: {rule}"));
        }
        (text != "column: last-write-wins").then_some(text)
    }

    /// The rule of a column.
    pub fn column(&self, name: &str) -> Option<&ColumnRule> {
        // SQLite does not tell the case of ASCII letters apart in names.
        self.columns.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, rule)| rule)
    }
}

impl fmt::Debug for MergeRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} by {}", self.granularity, self.policy.name())?;
        let mut columns: Vec<_> = self.columns.iter().collect();
        columns.sort_unstable_by_key(|(name, _)| *name);
        columns.into_iter().try_for_each(|(name, rule)| write!(f, ", {name} by {rule:?}"))
    }
}

/// The merge rules of a database: a default, and tables that differ, by name.
#[derive(Debug, Clone, Default)]
pub struct DatabaseRules {
    /// What tables follow that are not named.
    pub default: MergeRules,
    /// Tables of their own.
    pub tables: HashMap<String, MergeRules>,
}

impl DatabaseRules {
    /// The rules of one table.
    pub fn of(&self, table: &str) -> &MergeRules {
        let same = |(name, _): &(&String, &MergeRules)| name.eq_ignore_ascii_case(table);
        self.tables.iter().find(same).map_or(&self.default, |(_, rules)| rules)
    }

    /// Whether a column is a counter.
    pub(crate) fn is_counter(&self, table: &str, column: &str) -> bool {
        matches!(self.of(table).column(column), Some(ColumnRule::Counter))
    }
}

/// One synced table with its statements.
#[derive(Debug)]
pub(crate) struct ReplicaTable {
    pub(crate) table: Table,
    pub(crate) sql: TableSql,
    pub(crate) many: ManySql,
    /// What the table is called here: for SQL, for policies and for people.
    pub(crate) shape: TableShape,
    /// What it is called on the wire, of the same order and key: for all that comes from peers, goes to them, or waits.
    pub(crate) wire: TableShape,
    pub(crate) rules: MergeRules,
    /// What the columns hold where nothing is said, in the table's order.
    pub(crate) defaults: Vec<Value>,
    /// The rules of the columns, in the table's order.
    pub(crate) columns: Vec<Option<ColumnRule>>,
    /// Columns that came later than the table, by their places, and what this database knew then: of rows that were written
    /// before, nobody here has written them.
    pub(crate) born: Vec<(u16, VersionVector)>,
}

impl ReplicaTable {
    /// The table for people who may know it by either of its names.
    pub(crate) fn named(&self) -> String {
        if self.wire.name.eq_ignore_ascii_case(&self.shape.name) {
            format!("table {:?}", self.shape.name)
        } else {
            format!("table {:?}, {:?} to peers,", self.shape.name, self.wire.name)
        }
    }

    /// Whether columns of it are left out on purpose.
    pub(crate) fn is_limited(&self) -> bool {
        !self.table.excluded.is_empty()
    }
}

/// A catch-up that is under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Received {
    /// The position after the last batch that is staged.
    pub(crate) position: VersionVector,
    /// Whether all of it is here, to be merged.
    pub(crate) complete: bool,
    /// Whether some of it is merged.
    pub(crate) merged: bool,
    /// Dots that are not sent with it: the same rows are here, and take these at its end.
    pub(crate) held: DotSet,
    /// What its source knew when it began, and up to where tombstones may have been gone there.
    pub(crate) began: Option<(VersionVector, VersionVector)>,
    /// Up to where tombstones were gone there at the last batch.
    pub(crate) dropped: VersionVector,
}

/// Tombstones that are gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dropped {
    /// Up to where: some of the changes up to here may have been deletions of which nothing is here any more.
    pub(crate) upto: VersionVector,
    /// The stamp of the newest.
    pub(crate) until: Timestamp,
}

impl Dropped {
    const KEY: &str = "dropped";

    /// Up to which stamp a row that is not here, and comes from who knows `context`, may have been deleted; none if it was not.
    pub(crate) fn doubts(&self, context: &VersionVector) -> Option<Timestamp> {
        (!context.covers_all(&self.upto)).then_some(self.until)
    }

    /// Takes over what is gone elsewhere; which stamps it had is not known, but that they were not later than `latest`.
    pub(crate) fn inherit(&mut self, upto: &VersionVector, latest: Timestamp) {
        if !self.upto.covers_all(upto) {
            self.upto.join(upto);
            self.until = self.until.max(latest);
        }
    }

    pub(crate) fn save(&self, conn: &Connection) -> Result<(), StoreError> {
        meta::write(conn, Self::KEY, self)
    }
}

/// The state of one attached database.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) schema_version: i64,
    pub(crate) schema_hash: u64,
    /// What was chosen to be synced.
    pub(crate) selection: Selection,
    /// The same by names on the wire.
    pub(crate) wire_selection: Selection,
    pub(crate) tables: Vec<ReplicaTable>,
    /// The tables' indices, each after those that its foreign keys refer to, as far as these do not run in circles.
    pub(crate) parents_first: Vec<usize>,
    pub(crate) own: Origin,
    pub(crate) clock: HybridClock,
    pub(crate) have: VersionVector,
    /// Catch-ups that are under way, by the origin they are read from.
    pub(crate) received: BTreeMap<Origin, Received>,
    /// What has to be known before the tables are what the vector says: a merge was cut off by a migration, and its rows are
    /// asked for again.
    pub(crate) owed: VersionVector,
    /// Tombstones that are gone.
    pub(crate) dropped: Dropped,
    /// Which rows bear which dots.
    pub(crate) dots: DotIndex,
    /// Rows of peers that could not be taken in.
    pub(crate) waiting: Waiting,
    /// Numbers of tables in which rows have changed since it was last tried to merge what waits.
    pub(crate) touched: BTreeSet<i64>,
    /// The tables of each node, as far as they are known.
    pub(crate) schemas: Arc<NodeSchemas>,
    /// What follows from them, if that has been asked for.
    places: Option<Arc<Places>>,
    ids: HashMap<Origin, i64>,
    /// The one that was asked for last: many entries in a row have the same.
    last_id: Option<(Origin, i64)>,
    origins: HashMap<i64, Origin>,
    names: Arc<BTreeMap<Origin, String>>,
}

impl Replica {
    /// Reads the state of a database that is attached with this schema, and of its catch-ups.
    pub(crate) fn load(conn: &Connection, schema: &Schema, rules: &DatabaseRules) -> Result<Self, StoreError> {
        let mut replica = Self::load_file(conn, schema, rules)?;
        staging::load(conn, &mut replica)?;
        Ok(replica)
    }

    /// The same without catch-ups, which are not in the file.
    pub(crate) fn load_file(conn: &Connection, schema: &Schema, rules: &DatabaseRules) -> Result<Self, StoreError> {
        let own_id: i64 =
            conn.query_row("SELECT value FROM main._sync_meta WHERE key = 'origin_id'", [], |r| r.get(0))?;
        let clock: i64 = conn
            .query_row("SELECT value FROM main._sync_meta WHERE key = 'clock'", [], |r| r.get(0))
            .optional()?
            .unwrap_or(0);
        let mut replica = Self {
            schema_version: schema.version,
            schema_hash: schema.hash,
            selection: schema.selection.clone(),
            wire_selection: schema.wire_selection.clone(),
            tables: Vec::new(),
            parents_first: foreign_keys::parents_first(conn, &schema.tables)?,
            own: Origin::from_bytes([0; 16]),
            clock: HybridClock::new(Timestamp::from_raw(clock).unwrap_or_default()),
            have: VersionVector::new(),
            received: BTreeMap::new(),
            owed: VersionVector::new(),
            dropped: meta::read(conn, Dropped::KEY)?.unwrap_or_default(),
            dots: DotIndex::load(conn)?,
            waiting: Waiting::default(),
            touched: BTreeSet::new(),
            schemas: Arc::new(node_schemas::load(conn)?),
            places: None,
            ids: HashMap::new(),
            last_id: None,
            origins: HashMap::new(),
            names: Arc::default(),
        };
        replica.load_origins(conn, own_id)?;
        for table in &schema.tables {
            let sql = TableSql::new(table);
            let rules = rules.of(&table.name).clone();
            let columns = table.columns.iter().map(|column| rules.column(&column.name).cloned()).collect();
            let defaults = table.columns.iter().map(|column| default_of(conn, column)).collect();
            let born = born(conn, table)?;
            let (shape, wire, table) = (table.shape(), table.wire_shape(), table.clone());
            let many = ManySql::new(&sql);
            replica.tables.push(ReplicaTable { table, sql, many, shape, wire, rules, defaults, columns, born });
        }
        replica.waiting = Waiting::load(conn)?;
        Ok(replica)
    }

    fn load_origins(&mut self, conn: &Connection, own_id: i64) -> Result<(), StoreError> {
        let mut statement = conn.prepare("SELECT id, origin, seq, node FROM main._sync_origin")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, bytes, sequence): (i64, [u8; 16], i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let origin = Origin::from_bytes(bytes);
            if id == own_id {
                self.own = origin;
            }
            self.ids.insert(origin, id);
            self.origins.insert(id, origin);
            // Nobody issues so many: a number without a next one was not written by a daemon.
            if !(0..i64::MAX).contains(&sequence) {
                return Err(StoreError::Damaged { what: format!("_sync_origin: sequence {sequence} of {origin}") });
            }
            self.have.raise(origin, sequence.cast_unsigned());
            if let Some(name) = row.get::<_, Option<String>>(3)? {
                Arc::make_mut(&mut self.names).insert(origin, name);
            }
        }
        Ok(())
    }

    /// Positions in catch-ups, by the origin they are read from.
    pub(crate) fn positions(&self) -> BTreeMap<Origin, VersionVector> {
        self.received.iter().map(|(source, received)| (*source, received.position.clone())).collect()
    }

    /// Dots that are not to be sent, by the origin of the database that has them.
    pub(crate) fn held(&self) -> BTreeMap<Origin, DotSet> {
        let held = self.received.iter().filter(|(_, received)| !received.held.is_empty());
        held.map(|(source, received)| (*source, received.held.clone())).collect()
    }

    /// Whether rows that were there before attach are still to be made known.
    pub(crate) fn is_publishing(&self) -> bool {
        self.tables.iter().any(|table| !table.table.baseline_published)
    }

    /// The names on the wire of tables in which this database's origin has issued something.
    pub(crate) fn issued(&self) -> BTreeSet<String> {
        let issued = self.known_id(self.own).into_iter().flat_map(|id| self.dots.issued_by(id));
        issued
            .filter_map(|number| self.table_by_number(number))
            .map(|index| self.tables[index].wire.name.clone())
            .collect()
    }

    /// The source of the catch-up whose rows are all here and are to be merged.
    pub(crate) fn merging(&self) -> Option<Origin> {
        self.received.iter().find(|(_, received)| received.complete).map(|(source, _)| *source)
    }

    /// The next dot of this database's own origin.
    pub(crate) fn next_dot(&mut self) -> Dot {
        let sequence = self.have.get(self.own) + 1;
        self.have.raise(self.own, sequence);
        Dot { origin: self.own, sequence }
    }

    /// Issues `count` dots of this database's own origin; the sequence before the first of them.
    pub(crate) fn next_dots(&mut self, count: u64) -> u64 {
        let before = self.have.get(self.own);
        self.have.raise(self.own, before + count);
        before
    }

    /// The small number that stands for an origin in clock tables; a new origin gets one.
    pub(crate) fn origin_id(&mut self, conn: &Connection, origin: Origin) -> Result<i64, StoreError> {
        if let Some((_, id)) = self.last_id.filter(|(last, _)| *last == origin) {
            return Ok(id);
        }
        if let Some(id) = self.ids.get(&origin) {
            self.last_id = Some((origin, *id));
            return Ok(*id);
        }
        let sql = "INSERT INTO main._sync_origin (origin, seq) VALUES (?1, 0) ON CONFLICT DO UPDATE SET seq = seq RETURNING id";
        let id = conn.query_row(sql, [origin.as_bytes()], |row| row.get(0))?;
        self.ids.insert(origin, id);
        self.origins.insert(id, origin);
        self.places = None;
        Ok(id)
    }

    /// How many origins the file has a number for.
    pub(crate) fn origins_known(&self) -> usize {
        self.ids.len()
    }

    /// The origin that a small number stands for.
    pub(crate) fn origin(&self, id: i64) -> Result<Origin, StoreError> {
        self.origins.get(&id).copied().ok_or(StoreError::UnknownOrigin { id })
    }

    /// The small number of a known origin.
    pub(crate) fn known_id(&self, origin: Origin) -> Option<i64> {
        self.ids.get(&origin).copied()
    }

    /// The node name that an origin is known by; the origin itself where none is known.
    pub(crate) fn node_name(&self, origin: Origin) -> String {
        self.names.get(&origin).cloned().unwrap_or_else(|| origin.to_string())
    }

    /// The node names of origins, as far as they are known.
    pub(crate) fn names(&self) -> &Arc<BTreeMap<Origin, String>> {
        &self.names
    }

    /// Remembers which node an origin belongs to.
    pub(crate) fn learn_name(&mut self, conn: &Connection, origin: Origin, node: &str) -> Result<(), StoreError> {
        if self.names.get(&origin).is_some_and(|known| known == node) {
            return Ok(());
        }
        let id = self.origin_id(conn, origin)?;
        conn.execute("UPDATE main._sync_origin SET node = ?2 WHERE id = ?1", params![id, node])?;
        Arc::make_mut(&mut self.names).insert(origin, node.to_owned());
        self.places = None;
        Ok(())
    }

    /// Takes note of what nodes' tables are.
    pub(crate) fn learn_schemas(&mut self, conn: &Connection, heard: &NodeSchemas) -> Result<(), StoreError> {
        let schemas = Arc::make_mut(&mut self.schemas);
        for (origin, schema) in heard.iter().filter(|(origin, _)| *origin != self.own) {
            schemas.learn(origin, schema.clone());
        }
        self.places = None;
        node_schemas::save(conn, schemas)
    }

    /// Whether any of it is news.
    pub(crate) fn lacks_schemas(&self, heard: &NodeSchemas) -> bool {
        heard.iter().any(|(origin, schema)| origin != self.own && self.schemas.lacks(origin, schema))
    }

    /// Where rows have their places, on all nodes.
    pub(crate) fn places(&mut self) -> Arc<Places> {
        let places = self.places.take().unwrap_or_else(|| Arc::new(Places::of(self)));
        Arc::clone(self.places.insert(places))
    }

    /// Writes clock and version vector as they now are; `before` is the vector that the file holds.
    pub(crate) fn save(&mut self, conn: &Connection, before: &VersionVector) -> Result<(), StoreError> {
        let raised: Vec<(Origin, u64)> = self.have.iter().filter(|(origin, seq)| before.get(*origin) < *seq).collect();
        for (origin, sequence) in raised {
            let id = self.origin_id(conn, origin)?;
            conn.prepare_cached("UPDATE main._sync_origin SET seq = ?2 WHERE id = ?1")?
                .execute(params![id, sequence.cast_signed()])?;
        }
        conn.prepare_cached("INSERT INTO main._sync_meta (key, value) VALUES ('clock', ?1) ON CONFLICT DO UPDATE SET value = excluded.value")?
            .execute([self.clock.last().raw()])?;
        self.save_dots(conn)
    }

    /// Takes note that a row of the table with this index bears a dot.
    pub(crate) fn add_dot(&mut self, index: usize, dot: Dot, key: &[Value]) -> Result<(), StoreError> {
        self.dots.add(dot, self.tables[index].table.number, key)
    }

    /// Writes which rows bear which dots, as far as that is news.
    pub(crate) fn save_dots(&mut self, conn: &Connection) -> Result<(), StoreError> {
        if !self.dots.is_dirty() {
            return Ok(());
        }
        let mut dots = std::mem::take(&mut self.dots);
        let saved = dots.save(conn, |origin| self.origin_id(conn, origin));
        self.dots = dots;
        saved
    }

    /// The index of the table of this number.
    pub(crate) fn table_by_number(&self, number: i64) -> Option<usize> {
        self.tables.iter().position(|table| table.table.number == number)
    }

    /// The index of the table of this name in the file.
    pub(crate) fn table_by_name(&self, name: &str) -> Option<usize> {
        // SQLite does not tell the case of ASCII letters apart in names.
        self.tables.iter().position(|table| table.shape.name.eq_ignore_ascii_case(name))
    }

    /// The index of the table of this name on the wire.
    pub(crate) fn table_by_wire_name(&self, name: &str) -> Option<usize> {
        self.tables.iter().position(|table| table.wire.name.eq_ignore_ascii_case(name))
    }
}

/// The columns of a table that came later than itself, by their places, and what was known then.
fn born(conn: &Connection, table: &Table) -> Result<Vec<(u16, VersionVector)>, StoreError> {
    let mut born = Vec::new();
    for (place, column) in (0..).zip(&table.columns) {
        born.extend(meta::read(conn, &born_key(table.number, column.number))?.map(|known| (place, known)));
    }
    Ok(born)
}

/// What a column holds where nothing is said. One that says what cannot be evaluated here holds nothing.
fn default_of(conn: &Connection, column: &Column) -> Value {
    let Some(default) = &column.default else { return Value::Null };
    let sql = format!("SELECT {}", default_value(default));
    conn.query_row(&sql, [], |row| value_at(row, 0)).unwrap_or(Value::Null)
}

/// No change has a later stamp than this: others would not have taken it.
pub(crate) fn latest_stamp(now: i64, max_skew: i64) -> Timestamp {
    Timestamp::from_millis(now.saturating_add(max_skew))
}

/// Milliseconds since 1970 by the wall clock.
pub(crate) fn wall_millis() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
