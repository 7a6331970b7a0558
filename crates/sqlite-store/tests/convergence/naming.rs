//! Tables and columns that bear another name on each node, and names that change.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use replication::{ColumnRule, Granularity, TimestampColumn};
use sqlite_store::attach::naming::WireNames;
use sqlite_store::{ConflictAction, ConflictQuery, DatabaseEvent, DatabaseRules, MergeRules, SqlPolicy};
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::schemas::numbers_only;
use crate::{Random, seeds, settle};

/// What a node calls its tables and columns.
#[derive(Clone, Copy)]
struct Dialect {
    schema: &'static str,
    names: fn() -> WireNames,
    rules: fn() -> DatabaseRules,
    /// Names on the wire, in statements between braces, and what they are called here where that is not the same.
    words: &'static [(&'static str, &'static str)],
}

const PLAIN: Dialect = Dialect {
    schema:
        "CREATE TABLE stock (sku TEXT PRIMARY KEY, ean INTEGER UNIQUE, qty INTEGER NOT NULL DEFAULT 0, title TEXT, \
             at TEXT);
             CREATE TABLE place (item TEXT REFERENCES stock (sku) ON UPDATE CASCADE ON DELETE CASCADE, shelf INTEGER, note, \
             PRIMARY KEY (item, shelf)); CREATE INDEX place_item ON place (item);",
    names: WireNames::default,
    rules: || rules("stock", "qty", "title", "at"),
    words: &[],
};

/// Everything is called otherwise, in another order, and one table is called what the other is on the wire.
const GERMAN: Dialect = Dialect {
    schema: "CREATE TABLE stock (fach INTEGER, ware TEXT REFERENCES Ware (nummer) ON UPDATE CASCADE ON DELETE CASCADE, note, \
             PRIMARY KEY (ware, fach)); CREATE INDEX lager ON stock (ware);
             CREATE TABLE Ware (titel TEXT, zeit TEXT, anzahl INTEGER NOT NULL DEFAULT 0, nummer TEXT PRIMARY KEY, \
             code INTEGER UNIQUE);",
    names: || {
        let mut names = WireNames::default();
        names.name_table("ware", "stock");
        names.name_table("stock", "place");
        for (column, remote_name) in
            [("titel", "title"), ("anzahl", "qty"), ("nummer", "sku"), ("code", "ean"), ("zeit", "at")]
        {
            names.name_column("ware", column, remote_name);
        }
        names.name_column("stock", "fach", "shelf");
        names.name_column("stock", "ware", "item");
        names
    },
    rules: || rules("ware", "anzahl", "titel", "zeit"),
    words: &[
        ("stock", "Ware"),
        ("place", "stock"),
        ("title", "titel"),
        ("qty", "anzahl"),
        ("sku", "nummer"),
        ("ean", "code"),
        ("at", "zeit"),
        ("shelf", "fach"),
        ("item", "ware"),
    ],
};

/// Two columns are called what the respective other is on the wire.
const SWAPPED: Dialect = Dialect {
    schema:
        "CREATE TABLE goods (sku TEXT PRIMARY KEY, ean INTEGER NOT NULL DEFAULT 0, qty INTEGER UNIQUE, title TEXT, \
             at TEXT);
             CREATE TABLE place (item TEXT REFERENCES goods (sku) ON UPDATE CASCADE ON DELETE CASCADE, shelf INTEGER, note, \
             PRIMARY KEY (item, shelf)); CREATE INDEX place_item ON place (item);",
    names: || {
        let mut names = WireNames::default();
        names.name_table("goods", "Stock");
        names.name_column("goods", "ean", "QTY");
        names.name_column("goods", "qty", "ean");
        names
    },
    rules: || rules("goods", "ean", "title", "at"),
    words: &[("stock", "goods"), ("ean", "qty"), ("qty", "ean")],
};

/// Quantities are counted, titles are joined, of everything else what is newer by the row's own time stands.
fn rules(table: &str, counter: &str, joined: &str, time: &str) -> DatabaseRules {
    let join = SqlPolicy::new(&format!("max(local.{joined}, remote.{joined})")).unwrap();
    let columns = HashMap::from([
        (counter.to_owned(), ColumnRule::Counter),
        (joined.to_owned(), ColumnRule::Policy(Arc::new(join))),
    ]);
    let rules = MergeRules { policy: Arc::new(TimestampColumn::new(time)), columns, ..MergeRules::default() };
    DatabaseRules { tables: HashMap::from([(table.to_owned(), rules)]), ..DatabaseRules::default() }
}

impl Dialect {
    /// A statement in this node's words.
    fn say(&self, statement: &str) -> String {
        let mut parts = statement.split(['{', '}']);
        let mut said = parts.next().unwrap_or_default().to_owned();
        while let (Some(name), Some(rest)) = (parts.next(), parts.next()) {
            let here = self.words.iter().find(|(wire, _)| *wire == name).map_or(name, |(_, here)| here);
            said += &format!("{here}{rest}");
        }
        said
    }

    fn setup(&self, granularity: Granularity) -> Setup {
        Setup { granularity, names: self.names, rules: self.rules, ..Setup::of(self.schema) }
    }
}

/// A node and what it calls things.
struct Speaker(Dialect, Replica);

impl Speaker {
    async fn create(folder: &TempDir, name: &str, dialect: Dialect, setup: Setup) -> Self {
        let replica = Replica::create(folder.path(), name, setup).await;
        replica.database.publish().await;
        Self(dialect, replica)
    }

    fn write(&self, statement: &str) {
        self.1.write(&self.0.say(statement));
    }

    /// All rows, whatever they are called here.
    fn rows(&self) -> String {
        let stock = "SELECT 'stock', {sku}, {ean}, {qty}, {title}, {at} FROM {stock}";
        let place = "SELECT 'place', {item}, {shelf}, {note}, typeof({note}), NULL FROM {place}";
        let row = "coalesce(group_concat(concat_ws('|', a, b, c, d, e, f), ' '), '')";
        let all =
            format!("WITH r (a, b, c, d, e, f) AS ({stock} UNION ALL {place} ORDER BY 1, 2, 3) SELECT {row} FROM r");
        self.1.text(&self.0.say(&all))
    }
}

/// All three, each in its own words.
async fn three(folder: &TempDir, granularity: Granularity) -> Vec<Speaker> {
    let mut nodes = Vec::new();
    for (name, dialect) in [("a", PLAIN), ("b", GERMAN), ("c", SWAPPED)] {
        nodes.push(Speaker::create(folder, name, dialect, dialect.setup(granularity)).await);
    }
    nodes
}

async fn settle_all(nodes: Vec<Speaker>, random: &mut Random) -> Vec<Speaker> {
    let (dialects, replicas): (Vec<_>, Vec<_>) =
        nodes.into_iter().map(|Speaker(dialect, replica)| (dialect, replica)).unzip();
    settle(&replicas, || 1 + usize::try_from(random.below(40)).unwrap()).await;
    dialects.into_iter().zip(replicas).map(|(dialect, replica)| Speaker(dialect, replica)).collect()
}

fn assert_same(nodes: &[Speaker], what: &str) {
    for node in nodes {
        assert_eq!(node.rows(), nodes[0].rows(), "{what}: {}", node.1.path.display());
        assert_eq!(node.1.database.state().borrow().parked, 0, "{what}: {}", node.1.path.display());
    }
}

/// One random statement; constraint failures are the application's business.
fn random_statement(random: &mut Random) -> String {
    let sku = format!("'s{}'", random.below(8));
    let number = random.below(9);
    match random.below(10) {
        0 | 1 => format!(
            "INSERT OR IGNORE INTO {{stock}} ({{sku}}, {{ean}}, {{qty}}, {{title}}, {{at}}) \
             VALUES ({sku}, {number}, {number}, 't{number}', '{number}')"
        ),
        2 => format!("UPDATE {{stock}} SET {{qty}} = {{qty}} + {number} WHERE {{sku}} = {sku}"),
        3 => format!("UPDATE {{stock}} SET {{title}} = 't{number}' WHERE {{sku}} = {sku}"),
        4 => format!("UPDATE OR IGNORE {{stock}} SET {{ean}} = {number} WHERE {{sku}} = {sku}"),
        5 => format!("UPDATE {{stock}} SET {{at}} = '{number}', {{title}} = NULL WHERE {{sku}} = {sku}"),
        6 => format!("DELETE FROM {{stock}} WHERE {{sku}} = {sku}"),
        7 => format!("UPDATE OR IGNORE {{stock}} SET {{sku}} = 's{}' WHERE {{sku}} = {sku}", random.below(8)),
        8 => format!(
            "INSERT OR REPLACE INTO {{place}} ({{item}}, {{shelf}}, {{note}}) \
             SELECT min({{sku}}), {number}, {number}.5 FROM {{stock}} HAVING count(*) > 0"
        ),
        _ => format!("UPDATE {{place}} SET {{note}} = '{number}' WHERE {{shelf}} = {number}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_other_names_converge_whatever_applications_write() {
    for seed in seeds(12) {
        let mut random = Random(seed);
        let granularity = if seed.is_multiple_of(4) { Granularity::Row } else { Granularity::Column };
        let folder = TempDir::new().unwrap();
        let nodes = three(&folder, granularity).await;
        for _ in 0..12 {
            let writer = &nodes[usize::try_from(random.below(3)).unwrap()];
            (0..1 + random.below(6)).for_each(|_| writer.write(&random_statement(&mut random)));
            let to = &nodes[usize::try_from(random.below(3)).unwrap()];
            let from = &nodes[usize::try_from(random.below(3)).unwrap()];
            if to.1.path != from.1.path {
                to.1.pull(&from.1, 1 + usize::try_from(random.below(30)).unwrap()).await;
            }
        }
        let nodes = settle_all(nodes, &mut random).await;
        assert_same(&nodes, &format!("seed {seed}"));
        let tables = nodes.iter().map(|node| Arc::clone(&node.1.database.state().borrow().tables));
        // But for the case of letters, in which one of them is called otherwise.
        let names = tables.map(|tables| tables.keys().map(|name| name.to_lowercase()).collect::<BTreeSet<_>>());
        let expected = BTreeSet::from(["place".to_owned(), "stock".to_owned()]);
        assert!(names.into_iter().all(|names| names == expected), "seed {seed}");
    }
}

/// The fingerprints in `hello` are those of the names on the wire.
#[tokio::test]
async fn tables_that_only_have_other_names_are_the_same_to_peers() {
    let folder = TempDir::new().unwrap();
    let nodes = three(&folder, Granularity::Column).await;
    let tables = |node: usize| Arc::clone(&nodes[node].1.database.state().borrow().tables);
    assert_eq!(tables(0), tables(1));
    let names = Arc::clone(&nodes[1].1.database.state().borrow().names);
    let shown: Vec<String> = names
        .iter()
        .map(|table| format!("{} {:?} {}", table.name, table.remote_name.as_deref().unwrap(), table.columns.len()))
        .collect();
    assert_eq!(shown, ["Ware \"stock\" 5", "stock \"place\" 2"]);
}

#[tokio::test]
async fn a_conflict_is_decided_recorded_and_restored_by_the_names_here() {
    let folder = TempDir::new().unwrap();
    let nodes = three(&folder, Granularity::Column).await;
    nodes[0].write("INSERT INTO {stock} ({sku}, {ean}, {qty}, {title}, {at}) VALUES ('cup', 1, 10, 'x', '1')");
    let mut random = Random(1);
    let nodes = settle_all(nodes, &mut random).await;
    nodes[0].write("UPDATE {stock} SET {qty} = {qty} + 1, {title} = 'z', {ean} = 7, {at} = '9' WHERE {sku} = 'cup'");
    nodes[1].write("UPDATE {stock} SET {qty} = {qty} + 1, {title} = 'y', {ean} = 8, {at} = '8' WHERE {sku} = 'cup'");
    nodes[1].1.pull(&nodes[0].1, 100).await;
    let records = nodes[1].1.database.conflicts(&ConflictQuery { limit: 9, ..ConflictQuery::default() }).await.unwrap();
    let [record] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!((record.table.as_str(), record.key.to_string().as_str()), ("Ware", "{\"nummer\":\"cup\"}"));
    assert_eq!(record.sides.columns, ["titel", "zeit", "code"]);
    let lost = record.sides.loser.as_ref().and_then(|loser| loser.row.as_ref()).unwrap();
    assert_eq!((lost["titel"].as_str(), lost["code"].as_i64()), (Some("y"), Some(8)));
    let nodes = settle_all(nodes, &mut random).await;
    assert_same(&nodes, "decided");
    assert_eq!(nodes[0].rows(), "stock|cup|7|12|z|9");
    nodes[1].1.database.act(record.number, ConflictAction::Restore).await.unwrap().unwrap();
    let nodes = settle_all(nodes, &mut random).await;
    assert_same(&nodes, "restored");
    assert_eq!(nodes[0].rows(), "stock|cup|8|12|y|8");
}

/// What waits for a name here.
fn parked(node: &Speaker) -> u64 {
    node.1.database.state().borrow().parked
}

fn only_the_table() -> WireNames {
    let mut names = WireNames::default();
    names.name_table("ware", "stock");
    names.name_table("stock", "place");
    names.name_column("stock", "fach", "shelf");
    names.name_column("stock", "ware", "item");
    for (column, remote_name) in [("nummer", "sku"), ("anzahl", "qty"), ("code", "ean"), ("zeit", "at")] {
        names.name_column("ware", column, remote_name);
    }
    names
}

#[tokio::test]
async fn what_waits_for_a_name_merges_as_soon_as_it_is_given_and_is_passed_on_before() {
    let folder = TempDir::new().unwrap();
    let mut nodes = Vec::new();
    for (name, dialect) in [("a", PLAIN), ("b", GERMAN), ("c", SWAPPED)] {
        let names = if name == "b" { WireNames::default } else { dialect.names };
        let setup = Setup { names, ..dialect.setup(Granularity::Column) };
        nodes.push(Speaker::create(&folder, name, dialect, setup).await);
    }
    nodes[0].write("INSERT INTO {stock} ({sku}, {ean}, {qty}, {title}, {at}) VALUES ('cup', 1, 10, 'x', '1')");
    nodes[0].write("INSERT INTO {place} ({item}, {shelf}, {note}) VALUES ('cup', 1, 'n')");
    // The table that is called "stock" here has another key than that of the wire.
    nodes[1].1.pull(&nodes[0].1, 100).await;
    assert_eq!((nodes[1].rows().as_str(), parked(&nodes[1])), ("", 2));
    nodes[2].1.pull(&nodes[1].1, 100).await;
    assert_eq!(nodes[2].rows(), "place|cup|1|n|text stock|cup|1|10|x|1");
    let Speaker(dialect, replica) = nodes.remove(1);
    let replica = replica.renamed(only_the_table).await;
    replica.until(|state| state.parked == 1).await;
    let node = Speaker(dialect, replica);
    assert_eq!(node.rows(), "place|cup|1|n|text stock|cup|1|10|1", "all but the title has its place");
    let mut replica = node.1.renamed(GERMAN.names).await;
    replica.until(|state| state.parked == 0).await;
    let told = loop {
        if let DatabaseEvent::Unparked { table, .. } = replica.events.recv().await.unwrap().1 {
            break table;
        }
    };
    assert_eq!(told, "Ware", "by its name here");
    nodes.insert(1, Speaker(dialect, replica));
    let nodes = settle_all(nodes, &mut Random(3)).await;
    assert_same(&nodes, "named");
    assert_eq!(nodes[1].rows(), "place|cup|1|n|text stock|cup|1|10|x|1");
}

/// Rows that a node wrote before its tables had the right names reach the others once they have; nobody loses a write.
#[tokio::test]
async fn under_another_name_rows_are_said_anew() {
    let folder = TempDir::new().unwrap();
    let plain = Speaker::create(&folder, "a", PLAIN, PLAIN.setup(Granularity::Column)).await;
    let setup = Setup { names: WireNames::default, ..GERMAN.setup(Granularity::Column) };
    let german = Speaker::create(&folder, "b", GERMAN, setup).await;
    german.write("INSERT INTO {stock} ({sku}, {ean}, {qty}, {title}, {at}) VALUES ('pot', 2, 5, 'p', '2'), ('cup', 3, 1, 'c', '0')");
    plain.write("INSERT INTO {stock} ({sku}, {ean}, {qty}, {title}, {at}) VALUES ('cup', 1, 10, 'x', '1')");
    let nodes = [plain.1, german.1];
    settle(&nodes, || 100).await;
    let [plain, german] = nodes;
    assert_eq!(plain.text("SELECT group_concat(sku) FROM stock"), "cup");
    let german = german.renamed(GERMAN.names).await;
    german.until(|state| state.parked == 0).await;
    german.write("UPDATE ware SET anzahl = anzahl + 1");
    let nodes = [plain, german];
    settle(&nodes, || 100).await;
    let [plain, german] = nodes;
    let nodes = [Speaker(PLAIN, plain), Speaker(GERMAN, german)];
    assert_eq!(nodes[0].rows(), nodes[1].rows());
    assert_eq!(
        nodes[0].1.text("SELECT group_concat(sku || ':' || ean || title, ' ') FROM (SELECT * FROM stock ORDER BY 1)"),
        "cup:1x pot:2p"
    );
    // The newer row by its own time stands, the other is on record.
    assert_eq!(nodes[0].1.conflicts() + nodes[1].1.conflicts(), 1);
}

#[tokio::test]
async fn a_correction_here_decides_what_waits_under_the_name_on_the_wire() {
    let folder = TempDir::new().unwrap();
    let plain = Setup { rules: numbers_only, ..Setup::of("CREATE TABLE t (k INTEGER PRIMARY KEY, n)") };
    let mapped = Setup {
        rules: numbers_only,
        names: || {
            let mut names = WireNames::default();
            names.name_table("u", "t");
            names
        },
        ..Setup::of("CREATE TABLE u (k INTEGER PRIMARY KEY, n)")
    };
    let nodes =
        vec![Replica::create(folder.path(), "a", plain).await, Replica::create(folder.path(), "b", mapped).await];
    nodes[0].write("INSERT INTO t VALUES (1, 1)");
    settle(&nodes, || 100).await;
    nodes[0].write("UPDATE t SET n = 'uno'");
    nodes[0].until(|state| state.backlog == 0).await;
    nodes[1].write("UPDATE u SET n = 'two'");
    settle(&nodes, || 100).await;
    nodes[1].until(|state| state.parked == 1).await;
    nodes[1].write("UPDATE u SET n = 7");
    nodes[1].until(|state| state.parked == 0).await;
    settle(&nodes, || 100).await;
    assert_eq!(nodes[0].text("SELECT n || '' FROM t"), "7");
}
