//! What the tables of each node of a cluster look like, as far as it is known.
//!
//! Each node says of itself which tables it has, under a version that it alone raises, and passes on what others said: the
//! newest version counts. So it can be told whether anybody has a place for what waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::origin::Origin;
use crate::row::TableShape;

/// Nodes that one message speaks of at most.
const MAX_NODES: usize = 4_096;

/// Bytes of a table's or column's name at most.
const MAX_IDENTIFIER: usize = 1_024;

/// Columns of a table at most.
const MAX_COLUMNS: usize = 65_535;

/// The tables of one database on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSchema {
    /// Rises with each change of the tables.
    pub version: u64,
    /// The tables that are synced, or could be if the node chose so. None: their names are too many or too long to be told, and
    /// they may be any.
    pub tables: Option<Arc<Vec<TableShape>>>,
}

impl NodeSchema {
    /// These tables under a version.
    pub fn new(version: u64, tables: Vec<TableShape>) -> Self {
        let fits = tables.iter().all(|table| unfit(table).is_none());
        Self { version, tables: fits.then(|| Arc::new(tables)) }
    }
}

/// What is known of the tables of each node, by the origin of the node's database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<Alike>", try_from = "Vec<Alike>")]
pub struct NodeSchemas(BTreeMap<Origin, NodeSchema>);

/// Nodes with the same tables. They are named once, however many nodes have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Alike {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tables: Option<Vec<TableShape>>,
    versions: BTreeMap<Origin, u64>,
}

impl NodeSchemas {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is known of the node whose database has this origin.
    pub fn get(&self, origin: Origin) -> Option<&NodeSchema> {
        self.0.get(&origin)
    }

    /// Origins and what is known of them.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, &NodeSchema)> {
        self.0.iter().map(|(origin, schema)| (*origin, schema))
    }

    /// Takes note of a node's tables, unless as much or more is known. Of more nodes than a message may speak of nothing is
    /// noted: what they have stays unknown.
    pub fn learn(&mut self, origin: Origin, schema: NodeSchema) {
        let room = self.0.len() < MAX_NODES || self.0.contains_key(&origin);
        if room && self.lacks(origin, &schema) {
            self.0.insert(origin, schema);
        }
    }

    /// Whether this would be news.
    pub fn lacks(&self, origin: Origin, schema: &NodeSchema) -> bool {
        self.0
            .get(&origin)
            .is_none_or(|known| (known.version, known.tables.is_some()) < (schema.version, schema.tables.is_some()))
    }

    /// The tables of all nodes: of each the newest that is known under any of its origins. `origins` are all that are known,
    /// `names` the nodes that they belong to. None if a node's tables are not known: they may be any.
    pub fn of_all(
        &self,
        origins: impl IntoIterator<Item = Origin>,
        names: &BTreeMap<Origin, String>,
    ) -> Option<Vec<Arc<Vec<TableShape>>>> {
        let mut nodes: BTreeMap<Node<'_>, Option<&NodeSchema>> = BTreeMap::new();
        for origin in origins.into_iter().chain(names.keys().copied()).chain(self.0.keys().copied()) {
            let node = names.get(&origin).map_or(Node::Unnamed(origin), |name| Node::Named(name));
            let newest = nodes.entry(node).or_default();
            let schema = self.0.get(&origin);
            if schema.map(|schema| schema.version) > newest.map(|newest| newest.version) {
                *newest = schema;
            }
        }
        let mut all: Vec<Arc<Vec<TableShape>>> = Vec::new();
        for schema in nodes.into_values() {
            let tables = schema?.tables.as_ref()?;
            if !all.contains(tables) {
                all.push(Arc::clone(tables));
            }
        }
        Some(all)
    }

    /// The same with the tables of as many nodes as take `bytes`, of `first` before others; of the rest it says that they may
    /// be any. Tells how many bytes are left.
    #[must_use]
    pub fn within(&self, first: Origin, mut bytes: usize) -> (Self, usize) {
        let mut told: BTreeSet<&Arc<Vec<TableShape>>> = BTreeSet::new();
        let mut within = Self::default();
        let own = self.0.get_key_value(&first);
        let others = self.0.iter().filter(|(origin, _)| **origin != first);
        for (origin, schema) in own.into_iter().chain(others) {
            let fits = schema.tables.as_ref().filter(|tables| {
                if told.contains(*tables) {
                    return true;
                }
                let size = size(tables);
                let fits = size <= bytes;
                if fits {
                    bytes -= size;
                    told.insert(*tables);
                }
                fits
            });
            within.0.insert(*origin, NodeSchema { version: schema.version, tables: fits.cloned() });
        }
        (within, bytes)
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Node<'a> {
    Named(&'a str),
    Unnamed(Origin),
}

/// About how many bytes the names of tables take in a message.
fn size(tables: &[TableShape]) -> usize {
    let names = |table: &TableShape| {
        // JSON may take six bytes for one of a name.
        let columns = table.columns.iter().map(|name| 6 * name.len() + 4).sum::<usize>();
        6 * table.name.len() + columns + 6 * table.key.len() + 40
    };
    tables.iter().map(names).sum()
}

/// Why a table cannot be told of, if it cannot.
fn unfit(table: &TableShape) -> Option<&'static str> {
    let mut names = table.columns.iter().chain([&table.name]);
    if names.any(|name| name.len() > MAX_IDENTIFIER) {
        Some("a table or column has too long a name")
    } else if table.columns.len() > MAX_COLUMNS || table.key.len() > table.columns.len() {
        Some("a table has too many columns")
    } else if table.key.iter().any(|column| usize::from(*column) >= table.columns.len()) {
        Some("a table's key has a column that the table does not have")
    } else {
        None
    }
}

impl From<NodeSchemas> for Vec<Alike> {
    fn from(schemas: NodeSchemas) -> Self {
        let mut alike: BTreeMap<Option<Arc<Vec<TableShape>>>, BTreeMap<Origin, u64>> = BTreeMap::new();
        for (origin, schema) in schemas.0 {
            alike.entry(schema.tables).or_default().insert(origin, schema.version);
        }
        let tables = |tables: Option<Arc<Vec<TableShape>>>| tables.map(Arc::unwrap_or_clone);
        alike.into_iter().map(|(alike, versions)| Alike { tables: tables(alike), versions }).collect()
    }
}

impl TryFrom<Vec<Alike>> for NodeSchemas {
    type Error = &'static str;

    fn try_from(alike: Vec<Alike>) -> Result<Self, Self::Error> {
        let mut schemas = Self::default();
        for Alike { tables, versions } in alike {
            if let Some(reason) = tables.iter().flat_map(|tables| tables.iter()).find_map(unfit) {
                return Err(reason);
            }
            if schemas.0.len().saturating_add(versions.len()) > MAX_NODES {
                return Err("too many nodes' tables are told of");
            }
            let tables = tables.map(Arc::new);
            for (origin, version) in versions {
                schemas.learn(origin, NodeSchema { version, tables: tables.clone() });
            }
        }
        Ok(schemas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(number: u8) -> Origin {
        Origin::from_bytes([number; 16])
    }

    fn tables(columns: &[&str]) -> Option<Arc<Vec<TableShape>>> {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Some(Arc::new(vec![TableShape { name: "t".to_owned(), columns, key: vec![0] }]))
    }

    #[test]
    fn the_newest_version_of_a_nodes_tables_counts() {
        let mut known = NodeSchemas::default();
        let schema = |version, columns| NodeSchema { version, tables: tables(columns) };
        known.learn(origin(1), schema(2, &["k", "b"]));
        known.learn(origin(1), schema(1, &["k", "a"]));
        assert_eq!(known.get(origin(1)), Some(&schema(2, &["k", "b"])));
        known.learn(origin(1), NodeSchema { version: 2, tables: None });
        assert_eq!(known.get(origin(1)), Some(&schema(2, &["k", "b"])), "who was not told all knows less");
        known.learn(origin(1), NodeSchema { version: 3, tables: None });
        assert_eq!(known.of_all([], &BTreeMap::new()), None, "what is not told may be anything");
        known.learn(origin(1), schema(3, &["k"]));
        assert_eq!(known.of_all([], &BTreeMap::new()), Some(vec![tables(&["k"]).unwrap()]));
    }

    #[test]
    fn a_node_counts_once_however_many_origins_it_had() {
        let mut known = NodeSchemas::default();
        known.learn(origin(1), NodeSchema { version: 5, tables: tables(&["k", "old"]) });
        known.learn(origin(2), NodeSchema { version: 6, tables: tables(&["k", "new"]) });
        known.learn(origin(3), NodeSchema { version: 1, tables: tables(&["k", "new"]) });
        let names = |third: &str| [(1, "a"), (2, "a"), (3, third)].map(|(n, name)| (origin(n), name.to_owned())).into();
        assert_eq!(known.of_all([origin(2)], &names("b")), Some(vec![tables(&["k", "new"]).unwrap()]));
        assert_eq!(known.of_all([origin(4)], &names("b")), None, "nobody has said what that node has");
        assert_eq!(known.of_all([], &BTreeMap::new()).map(|all| all.len()), Some(2));
    }

    #[test]
    fn tables_that_do_not_fit_a_message_may_be_any() {
        let mut known = NodeSchemas::default();
        known.learn(origin(1), NodeSchema { version: 1, tables: tables(&["k"]) });
        known.learn(origin(2), NodeSchema { version: 1, tables: tables(&["k", "v"]) });
        known.learn(origin(3), NodeSchema { version: 1, tables: tables(&["k", "v"]) });
        let long = tables(&[&"x".repeat(2_000)]).unwrap();
        known.learn(origin(4), NodeSchema::new(1, long.to_vec()));
        let (within, left) = known.within(origin(2), size(&tables(&["k", "v"]).unwrap()));
        let told: Vec<bool> = within.iter().map(|(_, schema)| schema.tables.is_some()).collect();
        assert_eq!((told, left), (vec![false, true, true, false], 0));
        let text = serde_json::to_string(&within).unwrap();
        assert_eq!(text.matches("columns").count(), 1, "{text}");
        assert_eq!(serde_json::from_str::<NodeSchemas>(&text).unwrap(), within);
        known.learn(origin(4), NodeSchema { version: 2, tables: Some(long) });
        assert!(serde_json::from_str::<NodeSchemas>(&serde_json::to_string(&known).unwrap()).is_err());
    }
}
