//! Tables and columns that a node leaves out: nothing of them reaches its rows, and everything passes through it.

use replication::{Granularity, Selection};
use sqlite_store::attach::naming::WireNames;
use sqlite_store::{ConflictAction, DatabaseEvent};
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::{Random, seeds, settle};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, note TEXT DEFAULT 'none', ean UNIQUE); \
    CREATE TABLE session_data (id INTEGER PRIMARY KEY, v)";

pub(crate) fn without_sessions() -> Selection {
    let mut selection = Selection::default();
    selection.set_exclude(["session_*".to_owned()]);
    selection
}

pub(crate) fn without_notes() -> Selection {
    let mut selection = Selection::default();
    selection.set_excluded_columns("stock", ["note".to_owned()]);
    selection
}

/// Nodes in a line, of which the second leaves something out.
pub(crate) async fn line(folder: &TempDir, middle: fn() -> Selection, setup: Setup) -> [Replica; 3] {
    let limited = Setup { selection: middle, ..setup };
    let nodes = [
        Replica::create(folder.path(), "a", setup).await,
        Replica::create(folder.path(), "b", limited).await,
        Replica::create(folder.path(), "c", setup).await,
    ];
    for node in &nodes {
        node.database.publish().await;
    }
    nodes
}

/// Neighbours take from each other until all know the same.
pub(crate) async fn settle_line(nodes: &[Replica; 3]) {
    for _ in 0..20 {
        for (to, from) in [(1, 0), (2, 1), (1, 2), (0, 1)] {
            nodes[to].pull(&nodes[from], 100).await;
        }
        let have = |node: &Replica| node.database.state().borrow().have.clone();
        if have(&nodes[0]) == have(&nodes[1]) && have(&nodes[1]) == have(&nodes[2]) {
            return;
        }
    }
    panic!("not quiet after 20 rounds");
}

pub(crate) fn kept(replica: &Replica) -> (u64, u64) {
    let state = replica.database.state();
    let state = state.borrow();
    (state.parked, state.passed_on)
}

const SESSIONS: &str =
    "SELECT coalesce(group_concat(id || ':' || v, ' '), '') FROM (SELECT * FROM session_data ORDER BY id)";
const STOCK: &str = "SELECT coalesce(group_concat(sku || ':' || qty || ':' || coalesce(note, '-'), ' '), '') FROM \
    (SELECT * FROM stock ORDER BY sku)";

#[tokio::test]
async fn rows_of_an_excluded_table_pass_through_and_leave_the_table_here_alone() {
    let folder = TempDir::new().unwrap();
    let mut nodes = line(&folder, without_sessions, Setup::of(SCHEMA)).await;
    nodes[1].write("INSERT INTO session_data VALUES (1, 'own')");
    nodes[0].write(
        "INSERT INTO session_data VALUES (1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO stock VALUES ('A', 1, 'x', 1)",
    );
    settle_line(&nodes).await;
    assert_eq!(kept(&nodes[1]), (0, 3));
    assert_eq!(nodes[2].text(SESSIONS), "1:a 2:b 3:c");
    nodes[0].write("UPDATE session_data SET v = 'new' WHERE id = 1; DELETE FROM session_data WHERE id = 2");
    nodes[2].write("UPDATE session_data SET v = 'C' WHERE id = 3; INSERT INTO session_data VALUES (4, 'd')");
    nodes[1].write("INSERT INTO session_data VALUES (5, 'own'); UPDATE stock SET qty = 2");
    settle_line(&nodes).await;
    assert_eq!(nodes[1].text(SESSIONS), "1:own 5:own");
    for node in [&nodes[0], &nodes[2]] {
        assert_eq!((node.text(SESSIONS), node.text(STOCK)), ("1:new 3:C 4:d".to_owned(), "A:2:x".to_owned()));
    }
    // One state of each row is kept: the older ones are superseded.
    assert_eq!(kept(&nodes[1]), (0, 4));
    nodes[1].database.close().await;
    while let Some((_, event)) = nodes[1].events.recv().await {
        assert!(!matches!(event, DatabaseEvent::Parked(_)), "{event:?}");
    }
}

#[tokio::test]
async fn values_of_an_excluded_column_pass_through_and_leave_the_column_here_alone() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let folder = TempDir::new().unwrap();
        let nodes = line(&folder, without_notes, Setup { granularity, ..Setup::of(SCHEMA) }).await;
        nodes[0].write("INSERT INTO stock VALUES ('A', 1, 'a', 1), ('B', 1, 'b', 2), ('C', 1, 'c', 3)");
        settle_line(&nodes).await;
        assert_eq!(nodes[1].text(STOCK), "A:1:none B:1:none C:1:none", "rows are inserted with the default");
        assert_eq!(nodes[2].text(STOCK), "A:1:a B:1:b C:1:c");
        assert_eq!(kept(&nodes[1]), (0, 3));
        // Its own stay, whatever comes, and go nowhere.
        nodes[1].write("UPDATE stock SET note = 'own'");
        nodes[1].write("UPDATE stock SET qty = 2 WHERE sku = 'A'; INSERT INTO stock VALUES ('D', 1, 'own', 4)");
        settle_line(&nodes).await;
        nodes[0].write(
            "UPDATE stock SET note = 'new' WHERE sku = 'A'; UPDATE stock SET qty = 3, note = 'n' WHERE sku = 'B'",
        );
        nodes[2].write("DELETE FROM stock WHERE sku = 'C'; UPDATE stock SET note = NULL, qty = 5 WHERE sku = 'D'");
        settle_line(&nodes).await;
        assert_eq!(nodes[1].text(STOCK), "A:2:own B:3:own D:5:own", "{granularity:?}");
        for node in [&nodes[0], &nodes[2]] {
            assert_eq!(node.text(STOCK), "A:2:new B:3:n D:5:-", "{granularity:?}");
        }
    }
}

#[tokio::test]
async fn a_conflict_leaves_an_excluded_column_alone_and_so_does_what_is_restored_of_it() {
    let folder = TempDir::new().unwrap();
    let nodes = line(&folder, without_notes, Setup::of(SCHEMA)).await;
    nodes[0].write("INSERT INTO stock VALUES ('A', 1, 'a', 1)");
    settle_line(&nodes).await;
    nodes[1].write("UPDATE stock SET note = 'own'; UPDATE stock SET qty = 10");
    // Later, by more than the clocks' grain.
    nodes[1].until(|state| state.backlog == 0).await;
    nodes[0].write("UPDATE stock SET qty = 20, note = 'b'");
    nodes[1].pull(&nodes[0], 100).await;
    assert_eq!(nodes[1].conflicts(), 1);
    let qty = nodes[1].text("SELECT qty || '' FROM stock");
    assert_eq!(nodes[1].text("SELECT note FROM stock"), "own");
    let record: String = nodes[1].text("SELECT record FROM _sync_conflict");
    assert!(!record.contains("note") && !record.contains("own"), "{record}");
    nodes[1].database.act(1, ConflictAction::Restore).await.unwrap().unwrap();
    assert_ne!(nodes[1].text("SELECT qty || '' FROM stock"), qty, "what lost is back");
    assert_eq!(nodes[1].text("SELECT note FROM stock"), "own");
    settle_line(&nodes).await;
    let restored = nodes[1].text("SELECT qty || '' FROM stock");
    for node in [&nodes[0], &nodes[2]] {
        assert_eq!(node.text(STOCK), format!("A:{restored}:b"));
    }
}

#[tokio::test]
async fn a_row_that_comes_back_after_its_deletion_has_nothing_of_the_one_before() {
    let folder = TempDir::new().unwrap();
    let nodes = line(&folder, without_notes, Setup::of(SCHEMA)).await;
    nodes[0].write("INSERT INTO stock VALUES ('A', 1, 'old', 1), ('B', 1, 'old', 2)");
    settle_line(&nodes).await;
    nodes[1].write("DELETE FROM stock WHERE sku = 'A'");
    settle_line(&nodes).await;
    nodes[1].write("INSERT INTO stock VALUES ('A', 2, 'own', 1)");
    nodes[1].write("DELETE FROM stock WHERE sku = 'B'; INSERT INTO stock VALUES ('B', 2, 'own', 2)");
    settle_line(&nodes).await;
    for node in [&nodes[0], &nodes[2]] {
        assert_eq!(node.text(STOCK), "A:2:none B:2:none");
    }
    assert_eq!(kept(&nodes[1]), (0, 0), "what was said of the rows before went with them");
}

/// Of a row that one node deletes while another updates it, every node that has a column holds the same in it, whichever
/// node leaves it out.
#[tokio::test]
async fn a_row_that_outlives_its_deletion_is_the_same_wherever_its_columns_are() {
    // Who deletes, who updates then, and in which direction news goes first.
    let cases = [(0, 1, true), (0, 1, false), (0, 2, true), (0, 2, false), (1, 2, true), (1, 0, false), (1, 0, true)];
    for granularity in [Granularity::Column, Granularity::Row] {
        for case @ (deletes, updates, from_a) in cases {
            let folder = TempDir::new().unwrap();
            let nodes = line(&folder, without_notes, Setup { granularity, ..Setup::of(SCHEMA) }).await;
            nodes[0].write("INSERT INTO stock VALUES ('A', 1, 'a', 1)");
            settle_line(&nodes).await;
            nodes[deletes].write("DELETE FROM stock");
            nodes[deletes].until(|state| state.backlog == 0).await;
            nodes[updates].write("UPDATE stock SET qty = 2");
            let [near, far] = if from_a { [0, 2] } else { [2, 0] };
            nodes[1].pull(&nodes[near], 100).await;
            nodes[1].pull(&nodes[far], 100).await;
            nodes[far].pull(&nodes[1], 100).await;
            settle_line(&nodes).await;
            let ends = nodes[0].text(STOCK);
            assert_eq!(nodes[2].text(STOCK), ends, "{granularity:?} {case:?}");
            assert!(ends.starts_with("A:2:"), "{granularity:?} {case:?}: {ends}");
            assert!(nodes[1].text(STOCK).starts_with("A:2:"), "{granularity:?} {case:?}");
        }
    }
}

/// Of a row that two nodes insert, what only one of them can say stands.
#[tokio::test]
async fn a_row_that_two_nodes_insert_has_what_one_of_them_left_out() {
    for granularity in [Granularity::Column, Granularity::Row] {
        for (limited_last, orders) in [true, false]
            .into_iter()
            .flat_map(|last| [[(0, 1), (2, 1)], [(2, 1), (2, 0)], [(1, 0), (2, 1)]].map(|orders| (last, orders)))
        {
            let folder = TempDir::new().unwrap();
            let nodes = line(&folder, without_notes, Setup { granularity, ..Setup::of(SCHEMA) }).await;
            let writes =
                [(0, "INSERT INTO stock VALUES ('A', 1, 'a', 1)"), (1, "INSERT INTO stock VALUES ('A', 2, 'own', 1)")];
            for (node, sql) in if limited_last { writes } else { [writes[1], writes[0]] } {
                nodes[node].write(sql);
                nodes[node].until(|state| state.backlog == 0).await;
            }
            for (to, from) in orders {
                nodes[to].pull(&nodes[from], 100).await;
            }
            settle(&nodes, || 100).await;
            let qty = if limited_last { 2 } else { 1 };
            let ends = [0, 2].map(|node| nodes[node].text(STOCK));
            assert_eq!(ends, [format!("A:{qty}:a"), format!("A:{qty}:a")], "{granularity:?} {limited_last} {orders:?}");
        }
    }
}

#[tokio::test]
async fn rows_that_make_way_for_each_other_keep_what_is_excluded() {
    let folder = TempDir::new().unwrap();
    let nodes = line(&folder, without_notes, Setup::of(SCHEMA)).await;
    nodes[0].write("INSERT INTO stock VALUES ('A', 1, 'a', 1), ('B', 1, 'b', 2)");
    settle_line(&nodes).await;
    nodes[1].write("UPDATE stock SET note = 'own ' || sku");
    nodes[0].write(
        "BEGIN; UPDATE stock SET ean = 3 WHERE sku = 'A'; UPDATE stock SET ean = 1 WHERE sku = 'B'; \
         UPDATE stock SET ean = 2 WHERE sku = 'A'; COMMIT",
    );
    settle_line(&nodes).await;
    assert_eq!(
        nodes[1].text("SELECT group_concat(ean || note, ' ') FROM (SELECT * FROM stock ORDER BY sku)"),
        "2own A 1own B"
    );
    assert_eq!(nodes[2].text("SELECT group_concat(ean || note, ' ') FROM (SELECT * FROM stock ORDER BY sku)"), "2a 1b");
}

/// A row comes twice from a node that leaves out a column, and another row holds its unique value until later in the batch.
#[tokio::test]
async fn a_row_that_comes_in_two_parts_waits_for_its_unique_value_as_one() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let folder = TempDir::new().unwrap();
        let nodes = line(&folder, without_notes, Setup { granularity, ..Setup::of(SCHEMA) }).await;
        nodes[0].write("INSERT INTO stock VALUES ('A', 1, 'a', 2), ('B', 1, 'b', 1), ('C', 1, 'c', 4)");
        settle_line(&nodes).await;
        nodes[0].write(
            "BEGIN; UPDATE stock SET ean = 3 WHERE sku = 'A'; UPDATE stock SET ean = 2, note = 'new' WHERE sku = 'B'; \
             INSERT INTO stock VALUES ('D', 1, 'd', 1); UPDATE stock SET note = 'old' WHERE sku = 'A'; COMMIT",
        );
        nodes[1].pull(&nodes[0], 100).await;
        nodes[1].write("UPDATE stock SET qty = 2");
        settle_line(&nodes).await;
        const ALL: &str = "SELECT group_concat(sku || qty || note || ean, ' ') FROM (SELECT * FROM stock ORDER BY sku)";
        for node in [&nodes[0], &nodes[2]] {
            assert_eq!(node.text(ALL), "A2old3 B2new2 C2c4 D2d1", "{granularity:?}");
            assert_eq!(node.text("SELECT coalesce(group_concat(kind||record),'0') FROM _sync_conflict"), "0");
        }
    }
}

/// A row loses its unique value at nodes that leave a column of it out.
#[tokio::test]
async fn what_a_displaced_row_held_in_a_column_that_others_leave_out_is_recorded() {
    for granularity in [Granularity::Column, Granularity::Row] {
        let folder = TempDir::new().unwrap();
        let full = Setup { granularity, ..Setup::of(SCHEMA) };
        let limited = Setup { selection: without_notes, ..full };
        let nodes = [
            Replica::create(folder.path(), "a", full).await,
            Replica::create(folder.path(), "b", limited).await,
            Replica::create(folder.path(), "c", limited).await,
        ];
        for node in &nodes {
            node.database.publish().await;
        }
        nodes[0].write("INSERT INTO stock VALUES ('A', 1, 'only here', 1)");
        nodes[0].until(|state| state.backlog == 0).await;
        nodes[2].write("INSERT INTO stock (sku, qty, ean) VALUES ('C', 2, 1)");
        settle_line(&nodes).await;
        for node in &nodes {
            assert_eq!(node.text("SELECT group_concat(sku) FROM stock"), "C", "{granularity:?}");
        }
        let record = nodes[0].text("SELECT coalesce(group_concat(kind || record), '') FROM _sync_conflict");
        assert!(record.starts_with("unique_exists") && record.contains("only here"), "{granularity:?}: {record}");
        nodes[2].write("DELETE FROM stock");
        settle_line(&nodes).await;
        nodes[0].database.act(1, ConflictAction::Restore).await.unwrap().unwrap();
        settle_line(&nodes).await;
        assert_eq!(nodes[0].text(STOCK), "A:1:only here");
    }
}

#[tokio::test]
async fn what_a_node_leaves_out_is_not_taken_for_dropped() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = line(&folder, without_notes, Setup::of(SCHEMA)).await;
    a.write("INSERT INTO stock VALUES ('A', 1, 'a', 1)");
    b.pull(&a, 100).await;
    assert_eq!(kept(&b), (0, 1));
    let a = a.reselect(without_notes).await;
    a.write("UPDATE stock SET qty = 2");
    b.pull(&a, 100).await;
    let nodes = [a, b, c];
    settle_line(&nodes).await;
    assert_eq!(nodes[2].text(STOCK), "A:2:a");
}

#[tokio::test]
async fn a_parent_in_an_excluded_table_is_not_missed() {
    const FAMILY: &str = "CREATE TABLE session_parent (id INTEGER PRIMARY KEY); CREATE TABLE parent (id INTEGER PRIMARY KEY); \
        CREATE TABLE child (id INTEGER PRIMARY KEY, s REFERENCES session_parent, p REFERENCES parent)";
    let folder = TempDir::new().unwrap();
    let nodes = line(&folder, without_sessions, Setup::of(FAMILY)).await;
    nodes[0].write("INSERT INTO session_parent VALUES (1); INSERT INTO child VALUES (1, 1, NULL)");
    let conn = nodes[0].application();
    conn.pragma_update(None, "foreign_keys", false).unwrap();
    conn.execute_batch("INSERT INTO child VALUES (2, 1, 7)").unwrap();
    settle_line(&nodes).await;
    let orphans = nodes[1].until(|state| state.orphans.count > 0).await.orphans.clone();
    let parents: Vec<String> = orphans.first.iter().map(|orphan| orphan.parent.to_string()).collect();
    assert_eq!((orphans.count, parents), (1, vec![r#"{"parent":{"id":7}}"#.to_owned()]));
}

/// Applications write at random while each node leaves out something else; what all have ends equal.
async fn converge(seed: u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let granularity = if seed.is_multiple_of(3) { Granularity::Row } else { Granularity::Column };
    let full = Setup { granularity, max_rows: 5, ..Setup::of(SCHEMA) };
    let nodes = [
        Replica::create(folder.path(), "a", full).await,
        Replica::create(folder.path(), "b", Setup { selection: without_notes, ..full }).await,
        Replica::create(folder.path(), "c", Setup { selection: without_sessions, ..full }).await,
        Replica::create(folder.path(), "d", full).await,
        Replica::create(folder.path(), "e", Setup { selection: without_notes, ..full }).await,
    ];
    for node in &nodes {
        node.database.publish().await;
    }
    for _ in 0..15 {
        let pick = |random: &mut Random| usize::try_from(random.below(5)).unwrap();
        let conn = nodes[pick(&mut random)].application();
        (0..1 + random.below(5)).for_each(|_| write(&conn, &mut random));
        let (to, from) = (pick(&mut random), pick(&mut random));
        if to != from {
            nodes[to].pull(&nodes[from], 1 + usize::try_from(random.below(20)).unwrap()).await;
        }
    }
    settle(&nodes, || 1 + usize::try_from(random.below(30)).unwrap()).await;
    let shared = |node: &Replica| {
        node.text("SELECT coalesce(group_concat(sku || '=' || quote(qty) || quote(ean), ' '), '') FROM (SELECT * FROM stock ORDER BY sku)")
    };
    for node in &nodes[1..] {
        assert_eq!(shared(node), shared(&nodes[0]), "seed {seed}: {}", node.path.display());
    }
    for node in &nodes[2..4] {
        assert_eq!(node.text(STOCK), nodes[0].text(STOCK), "seed {seed}: {}", node.path.display());
    }
    for node in [&nodes[1], &nodes[3], &nodes[4]] {
        assert_eq!(node.text(SESSIONS), nodes[0].text(SESSIONS), "seed {seed}: {}", node.path.display());
    }
    assert!(nodes.iter().all(|node| kept(node).0 == 0), "seed {seed}: nothing waits");
}

pub(crate) fn write(conn: &rusqlite::Connection, random: &mut Random) {
    let (key, number) = (random.below(6), random.below(9));
    let sql = match random.below(10) {
        0 | 1 => format!("INSERT OR IGNORE INTO stock VALUES ('k{key}', {number}, 'n{number}', NULL)"),
        2 => format!("UPDATE stock SET qty = {number} WHERE sku = 'k{key}'"),
        3 => format!("UPDATE stock SET note = 'u{number}' WHERE sku = 'k{key}'"),
        4 => format!("UPDATE stock SET note = 'w{number}', qty = qty + 1 WHERE sku = 'k{key}'"),
        5 => format!("DELETE FROM stock WHERE sku = 'k{key}'"),
        6 => format!("INSERT OR REPLACE INTO stock (sku, qty, note) VALUES ('k{key}', {number}, 'r{number}')"),
        7 => format!("INSERT OR REPLACE INTO session_data VALUES ({key}, 's{number}')"),
        8 => format!("UPDATE session_data SET v = 'v{number}' WHERE id = {key}"),
        _ => format!("DELETE FROM session_data WHERE id = {key}"),
    };
    conn.execute_batch(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_end_equal_in_what_they_share_whatever_each_leaves_out() {
    for seed in seeds(15) {
        converge(seed).await;
    }
}

fn without_own_notes() -> Selection {
    let mut selection = Selection::default();
    selection.set_excluded_columns("stock", ["own_note".to_owned()]);
    selection
}

/// The choice that goes with a migration is there before the migration is seen.
#[tokio::test]
async fn an_excluded_column_that_is_renamed_while_nobody_watches_is_not_sent() {
    let folder = TempDir::new().unwrap();
    let [a, mut b, c] = line(&folder, without_notes, Setup::of(SCHEMA)).await;
    b.write("INSERT INTO stock VALUES ('B', 1, 'secret', 1)");
    b.setup.selection = without_own_notes;
    b.setup.names = || {
        let mut names = WireNames::default();
        names.name_column("stock", "own_note", "note");
        names
    };
    let rename = "ALTER TABLE stock RENAME COLUMN note TO own_note; UPDATE stock SET qty = 2";
    let b = b.restart(|conn| conn.execute_batch(rename).unwrap()).await;
    let nodes = [a, b, c];
    settle_line(&nodes).await;
    assert_eq!(nodes[1].text("SELECT own_note FROM stock"), "secret");
    for node in [&nodes[0], &nodes[2]] {
        assert_eq!(node.text(STOCK), "B:2:none");
    }
}
