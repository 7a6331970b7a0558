//! Another choice of what is synced: nothing that was known is lost, and what is included again ends equal.

use replication::Selection;
use tempfile::TempDir;

use crate::replica::{Replica, Setup};
use crate::selection::{kept, line, settle_line, without_notes, without_sessions, write};
use crate::{Random, seeds, settle};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, note TEXT DEFAULT 'none', ean); \
    CREATE TABLE session_data (id INTEGER PRIMARY KEY, v)";

const SESSIONS: &str =
    "SELECT coalesce(group_concat(id || ':' || v, ' '), '') FROM (SELECT * FROM session_data ORDER BY id)";
const STOCK: &str = "SELECT coalesce(group_concat(sku || ':' || qty || ':' || coalesce(note, '-'), ' '), '') FROM \
    (SELECT * FROM stock ORDER BY sku)";

/// Names of our triggers on a table.
fn triggers(replica: &Replica, table: &str) -> String {
    replica.text(&format!(
        "SELECT count(*) || '' FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = '{table}' AND name GLOB '_sync_*'"
    ))
}

#[tokio::test]
async fn what_is_known_of_a_newly_excluded_table_still_reaches_who_lacks_it() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = line(&folder, Selection::default, Setup::of(SCHEMA)).await;
    a.write("INSERT INTO session_data VALUES (1, 'a'), (2, 'a'), (3, 'a')");
    b.pull(&a, 100).await;
    c.pull(&b, 100).await;
    a.write("UPDATE session_data SET v = 'b' WHERE id = 1; DELETE FROM session_data WHERE id = 2");
    b.pull(&a, 100).await;
    b.write("INSERT INTO session_data VALUES (4, 'b')");
    b.until(|state| state.backlog == 0).await;
    b.database.close().await;
    // What was written before the choice took effect is still said.
    b.write("INSERT INTO session_data VALUES (5, 'while it was down')");
    let b = b.reselect(without_sessions).await;
    assert_eq!((kept(&b), triggers(&b, "session_data")), ((0, 5), "0".to_owned()));
    b.write("UPDATE session_data SET v = 'own'; INSERT INTO session_data VALUES (6, 'own')");
    let nodes = [a, b, c];
    settle_line(&nodes).await;
    for node in [&nodes[0], &nodes[2]] {
        assert_eq!(node.text(SESSIONS), "1:b 3:a 4:b 5:while it was down");
    }
    assert_eq!(nodes[1].text(SESSIONS), "1:own 3:own 4:own 5:own 6:own");
}

#[tokio::test]
async fn a_newly_included_table_merges_what_passed_through_and_a_row_that_differs_is_recorded() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = line(&folder, without_sessions, Setup::of(SCHEMA)).await;
    b.write("INSERT INTO session_data VALUES (1, 'own'), (2, 'same'), (9, 'own')");
    a.write("INSERT INTO session_data VALUES (1, 'a'), (2, 'same'), (3, 'a'), (4, 'a')");
    let nodes = [a, b, c];
    settle_line(&nodes).await;
    nodes[0].write("DELETE FROM session_data WHERE id = 4");
    settle_line(&nodes).await;
    let [a, b, c] = nodes;
    let b = b.reselect(Selection::default).await;
    b.until(|state| state.parked == 0 && state.passed_on == 0 && state.conflicts == 1).await;
    let record: String = b.text("SELECT record FROM _sync_conflict");
    assert!(record.contains("own"), "what lost is kept: {record}");
    let nodes = [a, b, c];
    settle_line(&nodes).await;
    for node in &nodes {
        assert_eq!(node.text(SESSIONS), "1:a 2:same 3:a 9:own");
    }
    nodes[1].write("UPDATE session_data SET v = 'b' WHERE id = 3");
    settle_line(&nodes).await;
    assert_eq!(nodes[2].text(SESSIONS), "1:a 2:same 3:b 9:own");
}

#[tokio::test]
async fn values_of_a_newly_excluded_column_still_reach_who_lacks_them() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = line(&folder, Selection::default, Setup::of(SCHEMA)).await;
    a.write("INSERT INTO stock VALUES ('A', 1, 'a', 1), ('B', 1, 'b', 2)");
    b.pull(&a, 100).await;
    b.write("UPDATE stock SET note = 'of b' WHERE sku = 'B'");
    b.until(|state| state.backlog == 0).await;
    let b = b.reselect(without_notes).await;
    assert_eq!(kept(&b), (0, 2));
    b.write("UPDATE stock SET note = 'own'; UPDATE stock SET qty = 2 WHERE sku = 'A'");
    let nodes = [a, b, c];
    settle_line(&nodes).await;
    for node in [&nodes[0], &nodes[2]] {
        assert_eq!(node.text(STOCK), "A:2:a B:1:of b");
    }
    assert_eq!(nodes[1].text(STOCK), "A:2:own B:1:own");
}

#[tokio::test]
async fn a_newly_included_column_takes_what_passed_through_and_a_value_that_differs_is_recorded() {
    let folder = TempDir::new().unwrap();
    let nodes = line(&folder, without_notes, Setup::of(SCHEMA)).await;
    nodes[0].write("INSERT INTO stock VALUES ('A', 1, 'a', 1), ('B', 1, 'b', 2), ('C', 1, 'same', 3)");
    settle_line(&nodes).await;
    nodes[1].write("UPDATE stock SET note = 'own' WHERE sku = 'A'; UPDATE stock SET note = 'same' WHERE sku = 'C'");
    nodes[1].write("INSERT INTO stock VALUES ('D', 1, 'only here', 4), ('E', 1, 'none', 5)");
    settle_line(&nodes).await;
    assert_eq!(nodes[2].text(STOCK), "A:1:a B:1:b C:1:same D:1:none E:1:none");
    let [a, b, c] = nodes;
    let b = b.reselect(Selection::default).await;
    b.until(|state| state.parked == 0 && state.passed_on == 0 && state.conflicts == 1).await;
    assert!(b.text("SELECT record FROM _sync_conflict").contains("own"));
    let nodes = [a, b, c];
    settle_line(&nodes).await;
    for node in &nodes {
        assert_eq!(node.text(STOCK), "A:1:a B:1:b C:1:same D:1:only here E:1:none");
    }
    nodes[1].write("UPDATE stock SET note = 'new'");
    settle_line(&nodes).await;
    assert_eq!(nodes[0].text(STOCK), "A:1:new B:1:new C:1:new D:1:new E:1:new");
}

#[tokio::test]
async fn a_column_that_is_excluded_and_included_again_has_no_clock_of_before() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = line(&folder, Selection::default, Setup::of(SCHEMA)).await;
    a.write("INSERT INTO stock VALUES ('A', 1, 'a', 1)");
    b.pull(&a, 100).await;
    b.write("UPDATE stock SET note = 'b'");
    let nodes = [a, b, c];
    settle_line(&nodes).await;
    let [a, b, c] = nodes;
    let b = b.reselect(without_notes).await;
    a.write("UPDATE stock SET note = 'later'");
    let nodes = [a, b, c];
    settle_line(&nodes).await;
    let [a, b, c] = nodes;
    let b = b.reselect(Selection::default).await;
    b.until(|state| state.parked == 0 && state.passed_on == 0).await;
    let nodes = [a, b, c];
    settle_line(&nodes).await;
    for node in &nodes {
        assert_eq!(node.text(STOCK), "A:1:later");
    }
}

/// Applications write at random while nodes choose now this and now that.
async fn converge(seed: u64) {
    let folder = TempDir::new().unwrap();
    let mut random = Random(seed);
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        let max_rows = 1 + usize::try_from(random.below(10)).unwrap();
        let replica = Replica::create(folder.path(), name, Setup { max_rows, ..Setup::of(SCHEMA) }).await;
        replica.database.publish().await;
        nodes.push(replica);
    }
    let choices: [fn() -> Selection; 3] = [Selection::default, without_sessions, without_notes];
    for _ in 0..20 {
        let pick = |random: &mut Random, count: u64| usize::try_from(random.below(count)).unwrap();
        let conn = nodes[pick(&mut random, 3)].application();
        (0..1 + random.below(5)).for_each(|_| write(&conn, &mut random));
        drop(conn);
        let (to, from) = (pick(&mut random, 3), pick(&mut random, 3));
        if to != from {
            nodes[to].pull(&nodes[from], 1 + pick(&mut random, 20)).await;
        }
        if random.below(3) == 0 {
            let node = nodes.swap_remove(pick(&mut random, 3));
            nodes.push(node.reselect(choices[pick(&mut random, 3)]).await);
        }
    }
    settle(&nodes, || 1 + usize::try_from(random.below(30)).unwrap()).await;
    let shared =
        "SELECT coalesce(group_concat(sku || '=' || quote(qty), ' '), '') FROM (SELECT * FROM stock ORDER BY sku)";
    for node in &nodes[1..] {
        assert_eq!(node.text(shared), nodes[0].text(shared), "seed {seed}: {}", node.path.display());
    }
    let mut all = Vec::new();
    for node in nodes {
        let node = node.reselect(Selection::default).await;
        node.until(|state| state.parked == 0 && state.passed_on == 0).await;
        all.push(node);
    }
    settle(&all, || 1 + usize::try_from(random.below(30)).unwrap()).await;
    for node in &all {
        assert_eq!(node.dump(), all[0].dump(), "seed {seed}: {}", node.path.display());
        assert_eq!(kept(node), (0, 0), "seed {seed}");
        let check: String = node.text("PRAGMA integrity_check");
        assert_eq!(check, "ok");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_choose_now_this_and_now_that_end_equal_in_what_all_include() {
    for seed in seeds(15) {
        converge(seed).await;
    }
}
