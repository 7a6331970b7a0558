//! What is said of one database that an engine keeps in sync.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use replication::{ColumnRule, ConflictPolicy, Granularity, Selection};
use sqlite_store::app_triggers::{TriggerRule, TriggerRules};
use sqlite_store::attach::AttachRules;
use sqlite_store::attach::naming::{SameName, WireNames, same_remote_names};
use sqlite_store::key_ranges::KeyRanges;
use sqlite_store::{DatabaseRules, MergeRules};

use crate::config::{DatabaseSettings, Policy};
use crate::engine::EngineError;

/// One SQLite file to keep in sync. What is said of the database counts for every table of which nothing else is said, in
/// whatever order it is said.
#[derive(Clone)]
pub struct Database {
    pub(super) name: String,
    pub(super) path: PathBuf,
    granularity: Granularity,
    policy: Arc<dyn ConflictPolicy>,
    tables: HashMap<String, TableRules>,
    key_ranges: Option<u16>,
    triggers: TriggerRules,
    selection: Selection,
}

/// What is said of one table.
#[derive(Clone, Default)]
struct TableRules {
    granularity: Option<Granularity>,
    policy: Option<Arc<dyn ConflictPolicy>>,
    columns: HashMap<String, ColumnRule>,
    remote_name: Option<String>,
    remote_columns: BTreeMap<String, String>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Database");
        shown.field("name", &self.name).field("path", &self.path).field("rules", &self.rules()).finish()
    }
}

impl Database {
    /// The file at `path`, under its file name without extension. It need not exist yet.
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let MergeRules { granularity, policy, .. } = MergeRules::default();
        Self {
            name,
            path,
            granularity,
            policy,
            tables: HashMap::new(),
            key_ranges: None,
            triggers: TriggerRules::default(),
            selection: Selection::default(),
        }
    }

    /// The database that a configuration describes.
    pub fn configured(settings: &DatabaseSettings) -> Self {
        let mut database = Self::open(&settings.path).name(&settings.name).granularity(settings.granularity);
        database.policy = settings.policy.policy();
        database.key_ranges = settings.key_ranges.map(KeyRanges::number);
        database.triggers = settings.triggers.clone();
        database.selection = settings.selection.clone();
        for table in &settings.tables {
            let columns = table.columns.iter().map(|(name, policy)| (name.clone(), policy.column_rule()));
            let rules = TableRules {
                granularity: table.granularity,
                policy: table.policy.as_ref().map(Policy::policy),
                columns: columns.collect(),
                remote_name: table.remote_name.clone(),
                remote_columns: table.remote_columns.clone(),
            };
            database.tables.insert(table.name.clone(), rules);
        }
        database
    }

    /// The name that peers know the database by.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How finely tables are merged. All nodes must say the same.
    #[must_use]
    pub fn granularity(mut self, granularity: Granularity) -> Self {
        self.granularity = granularity;
        self
    }

    /// Who decides conflicts.
    #[must_use]
    pub fn policy(mut self, policy: impl ConflictPolicy + 'static) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Who decides conflicts, as a configuration says it.
    #[must_use]
    pub fn configured_policy(mut self, policy: &Policy) -> Self {
        self.policy = policy.policy();
        self
    }

    /// Who decides the conflicts of one table.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>, policy: impl ConflictPolicy + 'static) -> Self {
        self.tables.entry(table.into()).or_default().policy = Some(Arc::new(policy));
        self
    }

    /// How finely one table is merged. All nodes must say the same.
    #[must_use]
    pub fn table_granularity(mut self, table: impl Into<String>, granularity: Granularity) -> Self {
        self.tables.entry(table.into()).or_default().granularity = Some(granularity);
        self
    }

    /// Who decides the conflicts of one column.
    #[must_use]
    pub fn column(
        self,
        table: impl Into<String>,
        column: impl Into<String>,
        policy: impl ConflictPolicy + 'static,
    ) -> Self {
        self.column_rule(table, column, ColumnRule::Policy(Arc::new(policy)))
    }

    /// Makes a column a counter: concurrent increments and decrements add up. All nodes must say the same.
    #[must_use]
    pub fn counter(self, table: impl Into<String>, column: impl Into<String>) -> Self {
        self.column_rule(table, column, ColumnRule::Counter)
    }

    /// How the conflicts of one column are decided.
    #[must_use]
    pub fn column_rule(mut self, table: impl Into<String>, column: impl Into<String>, rule: ColumnRule) -> Self {
        self.tables.entry(table.into()).or_default().columns.insert(column.into(), rule);
        self
    }

    /// The name that peers know a table by, if that is another than in this file. Everything else that is said of the table,
    /// and everything that is told of it, goes by its name here.
    #[must_use]
    pub fn remote_name(mut self, table: impl Into<String>, remote_name: impl Into<String>) -> Self {
        self.tables.entry(table.into()).or_default().remote_name = Some(remote_name.into());
        self
    }

    /// The name that peers know a column by, if that is another than in this file.
    #[must_use]
    pub fn remote_column(
        mut self,
        table: impl Into<String>,
        column: impl Into<String>,
        remote_name: impl Into<String>,
    ) -> Self {
        self.tables.entry(table.into()).or_default().remote_columns.insert(column.into(), remote_name.into());
        self
    }

    /// Has AUTOINCREMENT keys of this node come from blocks of numbers that no other node uses. `number`, from 1 to
    /// [`KeyRanges::MAX`], is another one on each node; a node that inserts without one gives out the others' keys.
    #[must_use]
    pub fn key_ranges(mut self, number: u16) -> Self {
        self.key_ranges = Some(number);
        self
    }

    /// Decides whether one of the application's triggers runs when changes are applied, in place of what it does deciding
    /// it. [`TriggerRule::Run`] cannot be followed for all; the log and the status tell if it cannot.
    #[must_use]
    pub fn trigger(mut self, trigger: impl AsRef<str>, rule: TriggerRule) -> Self {
        self.triggers.insert(trigger.as_ref(), rule);
        self
    }

    /// Syncs only tables that one of these patterns matches, in which `*` stands for any text and `?` for one character; ASCII
    /// case does not count. Until it is said, all are synced. What peers send of other tables is kept, and passed on to
    /// others.
    #[must_use]
    pub fn include<P: Into<String>>(mut self, patterns: impl IntoIterator<Item = P>) -> Self {
        self.selection.set_include(patterns.into_iter().map(Into::into));
        self
    }

    /// Does not sync tables that one of these patterns matches, also if they are included.
    #[must_use]
    pub fn exclude<P: Into<String>>(mut self, patterns: impl IntoIterator<Item = P>) -> Self {
        self.selection.set_exclude(patterns.into_iter().map(Into::into));
        self
    }

    /// Does not sync these columns of a table, in place of those that were said before: what is in them stays on this node. Key
    /// columns, and columns that are NOT NULL without a default, cannot be left out; the table is not synced then.
    #[must_use]
    pub fn exclude_columns<C: Into<String>>(
        mut self,
        table: impl Into<String>,
        columns: impl IntoIterator<Item = C>,
    ) -> Self {
        self.selection.set_excluded_columns(table, columns.into_iter().map(Into::into));
        self
    }

    pub(super) fn attach_rules(&self) -> Result<AttachRules, EngineError> {
        let of_node = |number| {
            KeyRanges::of_node(number).ok_or_else(|| EngineError::KeyRanges { name: self.name.clone(), number })
        };
        Ok(AttachRules {
            key_ranges: self.key_ranges.map(of_node).transpose()?,
            triggers: self.triggers.clone(),
            names: Some(self.wire_names()?),
            selection: Some(self.selection.clone()),
        })
    }

    /// The names on the wire that are others than here, if no two are the same for all that is said.
    fn wire_names(&self) -> Result<WireNames, EngineError> {
        let mut names = WireNames::default();
        let tables: BTreeMap<&str, &TableRules> =
            self.tables.iter().map(|(name, rules)| (name.as_str(), rules)).collect();
        for (table, rules) in &tables {
            if let Some(remote_name) = &rules.remote_name {
                names.name_table(table, remote_name);
            }
            for (column, remote_name) in &rules.remote_columns {
                names.name_column(table, column, remote_name);
            }
            let columns: BTreeSet<&String> = rules.columns.keys().chain(rules.remote_columns.keys()).collect();
            let on_the_wire = |name| rules.remote_columns.get(name).unwrap_or(name).as_str();
            self.check_same(columns.into_iter().map(|name| (name.as_str(), on_the_wire(name))))?;
        }
        let tables = tables.into_iter();
        self.check_same(tables.map(|(name, rules)| (name, rules.remote_name.as_deref().unwrap_or(name))))?;
        Ok(names)
    }

    fn check_same<'a>(&self, names: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), EngineError> {
        let Some(SameName { remote_name, first, second }) = same_remote_names(names).first().copied() else {
            return Ok(());
        };
        Err(EngineError::SameRemoteName {
            name: self.name.clone(),
            remote_name: remote_name.to_owned(),
            first: first.to_owned(),
            second: second.to_owned(),
        })
    }

    /// How each table is merged.
    pub fn rules(&self) -> DatabaseRules {
        let tables = self.tables.iter().map(|(name, rules)| {
            let rules = MergeRules {
                granularity: rules.granularity.unwrap_or(self.granularity),
                policy: rules.policy.as_ref().unwrap_or(&self.policy).clone(),
                columns: rules.columns.clone(),
            };
            (name.clone(), rules)
        });
        let policy = Arc::clone(&self.policy);
        let default = MergeRules { granularity: self.granularity, policy, columns: HashMap::new() };
        DatabaseRules { default, tables: tables.collect() }
    }
}

#[cfg(test)]
mod tests {
    use replication::{Granularity, LastWriteWins, Resolution, ResolverPolicy};

    use super::Database;
    use crate::engine::EngineError;

    #[test]
    fn two_names_that_are_the_same_on_the_wire_are_refused() {
        let refused = |database: Database| match database.attach_rules() {
            Err(EngineError::SameRemoteName { remote_name, first, second, .. }) => Some([remote_name, first, second]),
            _ => None,
        };
        let same = |names: [&str; 3]| Some(names.map(str::to_owned));
        let tables = Database::open("x").remote_name("a", "B").table("b", LastWriteWins);
        assert_eq!(refused(tables.clone()), same(["b", "a", "b"]));
        assert_eq!(refused(tables.remote_name("b", "a")), None);
        let columns = Database::open("x").remote_column("t", "label", "QTY").counter("t", "qty");
        assert_eq!(refused(columns.clone()), same(["qty", "label", "qty"]));
        assert_eq!(refused(columns.remote_column("t", "qty", "amount")), None);
    }

    #[test]
    fn what_is_said_of_a_table_stands_whatever_is_said_of_the_database_and_when() {
        let own = || ResolverPolicy::new(|_| Resolution::KeepLocal);
        let database = Database::open("shop.db")
            .table("stock", own())
            .table_granularity("orders", Granularity::Column)
            .granularity(Granularity::Row)
            .policy(own().named("house"));
        let rules = database.rules();
        let shown = |table: &str| format!("{:?}", rules.of(table));
        assert_eq!(shown("stock"), "Row by custom");
        assert_eq!(shown("orders"), "Column by house");
        assert_eq!(shown("other"), "Row by house");
        assert_eq!(
            format!("{:?}", Database::open("x").table("t", LastWriteWins).rules().of("t")),
            "Column by last-write-wins"
        );
    }
}
