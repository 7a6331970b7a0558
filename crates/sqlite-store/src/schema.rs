//! What the daemon knows of an application's schema: the synced tables, their columns, keys and unique indexes, and the
//! tables that are not synced, with the reason.
//!
//! Owns the types; `introspection` fills them from a connection, which it only reads. Numbers come from the registry
//! that `attach` keeps.

pub(crate) mod index_text;
pub(crate) mod introspection;
mod migration_history;
pub(crate) mod tokens;

use replication::{Selection, TableShape};

use index_text::mentioned_names;

/// The schema of one attached database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    /// The synced tables, by number.
    pub tables: Vec<Table>,
    /// Tables that are not synced, by name.
    pub unsynced: Vec<Unsynced>,
    /// What was chosen to be synced.
    pub selection: Selection,
    /// The same by names on the wire.
    pub wire_selection: Selection,
    /// A hash of the text of the application's schema; see [`crate::attach::schema_hash`].
    pub hash: u64,
    /// `PRAGMA schema_version` as of the introspection. Compare with `!=`: applications can set it back.
    pub version: i64,
}

/// One synced table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The number that stands for the table in `_sync_log` and in the names of our triggers. It survives a rename.
    pub number: i64,
    /// The table's name.
    pub name: String,
    /// Its name on the wire, if that is another.
    pub remote_name: Option<String>,
    /// The name of its clock table.
    pub clock: String,
    /// The columns that are synced, in the table's order: all but the generated and the excluded ones.
    pub columns: Vec<Column>,
    /// The names of the generated columns, virtual and stored.
    pub generated: Vec<String>,
    /// The names of the columns that were chosen not to be synced, in the table's order.
    pub excluded: Vec<String>,
    /// The key columns as indices into `columns`, in the key's order.
    pub key: Vec<usize>,
    /// Whether rows have a rowid, that is, the table is not WITHOUT ROWID.
    pub has_rowid: bool,
    /// The INTEGER PRIMARY KEY column, which is the rowid, as an index into `columns`.
    pub rowid_alias: Option<usize>,
    /// Whether SQLite gives out keys by AUTOINCREMENT, never the same again.
    pub autoincrement: bool,
    /// Whether constraints may say ON CONFLICT what SQLite is to do where they are broken.
    pub has_conflict_clauses: bool,
    /// Unique indexes other than the key's. An INSERT OR REPLACE can displace rows through them.
    pub unique: Vec<UniqueIndex>,
    /// Whether the rows that were there before attach have been given clock entries.
    pub baseline_published: bool,
}

impl Table {
    /// The table as it is called here.
    pub fn shape(&self) -> TableShape {
        self.shape_named(&self.name, |column| &column.name)
    }

    /// The table as it is described to peers: of the same order and key as [`Self::shape`].
    pub fn wire_shape(&self) -> TableShape {
        self.shape_named(self.wire_name(), Column::wire_name)
    }

    fn shape_named<'a>(&'a self, name: &str, of_column: impl Fn(&'a Column) -> &'a str) -> TableShape {
        // SQLite allows at most 32,767 columns.
        let key = self.key.iter().map(|index| u16::try_from(*index).unwrap_or(u16::MAX)).collect();
        let columns = self.columns.iter().map(|column| of_column(column).to_owned()).collect();
        TableShape { name: name.to_owned(), columns, key }
    }

    /// The table's name on the wire.
    pub fn wire_name(&self) -> &str {
        self.remote_name.as_deref().unwrap_or(&self.name)
    }

    /// The columns whose values decide whether two rows clash on a unique index, as indices: those that it indexes, and
    /// those that its expressions and its WHERE mention. None where a generated column is involved, of which it is not told
    /// what it is made of, or one that is not synced.
    pub fn deciding_columns(&self, index: &UniqueIndex) -> Option<Vec<usize>> {
        let texts = index.partial.iter().chain(index.columns.iter().filter_map(|part| match part {
            IndexPart::Expression { text, .. } => Some(text),
            _ => None,
        }));
        let mentioned: Vec<String> = texts.flat_map(|text| mentioned_names(text)).collect();
        let mentions = |name: &String| mentioned.iter().any(|mentioned| mentioned.eq_ignore_ascii_case(name));
        let unsynced = |part: &IndexPart| matches!(part, IndexPart::Unsynced { .. });
        if self.unsynced_columns().any(mentions) || index.columns.iter().any(unsynced) {
            return None;
        }
        let indexed = |place: usize| {
            index.columns.iter().any(|part| matches!(part, IndexPart::Column { index, .. } if *index == place))
        };
        let columns = self.columns.iter().enumerate();
        Some(
            columns
                .filter(|(place, column)| indexed(*place) || mentions(&column.name))
                .map(|(place, _)| place)
                .collect(),
        )
    }

    /// The names of the columns that are not synced: the generated and the excluded ones.
    pub fn unsynced_columns(&self) -> impl Iterator<Item = &String> {
        self.generated.iter().chain(&self.excluded)
    }

    /// The counter columns.
    pub fn counters(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.counter)
    }

    /// The key columns in the key's order.
    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().map(|index| &self.columns[*index])
    }
}

/// One synced column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The number that stands for the column in clock tables and masks, from 1. It is never given to another column of
    /// the table; a column that goes and comes back under its name has it again.
    pub number: u16,
    /// The column's name.
    pub name: String,
    /// Its name on the wire, if that is another.
    pub remote_name: Option<String>,
    /// What SQLite converts values to.
    pub affinity: Affinity,
    /// How SQLite compares its text.
    pub collation: Collation,
    /// Whether the column is declared NOT NULL. An INTEGER PRIMARY KEY refuses NULL without being declared so.
    pub not_null: bool,
    /// The text of the DEFAULT expression.
    pub default: Option<String>,
    /// Whether what is counted in it adds up: the triggers log what it held before.
    pub counter: bool,
}

impl Column {
    /// The column's name on the wire.
    pub fn wire_name(&self) -> &str {
        self.remote_name.as_deref().unwrap_or(&self.name)
    }
}

/// What SQLite converts the values of a column to, where it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Integers; integral reals and texts that are numbers become integers.
    Integer,
    /// Reals.
    Real,
    /// Numbers, where a text is one.
    Numeric,
    /// Text; numbers become text.
    Text,
    /// No conversion: a column without a type, of type BLOB, or `ANY` in a STRICT table.
    Blob,
}

impl Affinity {
    /// A declared type that gives a column of an ordinary table this affinity.
    pub(crate) const fn declaration(self) -> &'static str {
        match self {
            Self::Integer => "INTEGER",
            Self::Real => "REAL",
            Self::Numeric => "NUMERIC",
            Self::Text => "TEXT",
            Self::Blob => "",
        }
    }
}

/// How SQLite compares the text of a column. Only the built-in collations: others are the application's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collation {
    /// By bytes.
    Binary,
    /// By bytes, ASCII letters without their case.
    NoCase,
    /// By bytes, without trailing spaces.
    RTrim,
}

impl Collation {
    /// The built-in collation of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Binary, Self::NoCase, Self::RTrim].into_iter().find(|known| known.name().eq_ignore_ascii_case(name))
    }

    /// SQLite's name for it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Binary => "BINARY",
            Self::NoCase => "NOCASE",
            Self::RTrim => "RTRIM",
        }
    }
}

/// A unique index that is not the key's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UniqueIndex {
    /// The index's name.
    pub name: String,
    /// What is indexed, in the index's order.
    pub columns: Vec<IndexPart>,
    /// The text of its WHERE clause, if it is partial.
    pub partial: Option<String>,
}

impl UniqueIndex {
    /// The indexed columns as indices into [`Table::columns`]; none if something else than a synced column is indexed.
    pub fn plain_columns(&self) -> Option<Vec<usize>> {
        self.columns
            .iter()
            .map(|part| match part {
                IndexPart::Column { index, .. } => Some(*index),
                IndexPart::Unsynced { .. } | IndexPart::Expression { .. } => None,
            })
            .collect()
    }
}

/// One part of a unique index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexPart {
    /// A synced column.
    Column {
        /// The column, as an index into [`Table::columns`].
        index: usize,
        /// How the index compares it, which need not be how the column does.
        collation: Collation,
    },
    /// A column that is not synced: a generated one, or one that was chosen not to be.
    Unsynced {
        /// The column's name.
        name: String,
        /// How the index compares it.
        collation: Collation,
    },
    /// An expression.
    Expression {
        /// Its text as the application wrote it.
        text: String,
        /// How the index compares it.
        collation: Collation,
    },
}

/// A table that is not synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsynced {
    /// The table's name.
    pub table: String,
    /// Why it is not synced.
    pub reason: String,
    /// What would make it syncable.
    pub remedy: String,
    /// Whether it is meant to be so, and nothing need be done.
    pub intended: bool,
}
