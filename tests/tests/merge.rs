//! What becomes of rows that two nodes change while they are apart.

use system_tests::{Cluster, Result, Scene, Topology, check_equal, query_text, scenario, shell};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, place TEXT, note TEXT); \
    INSERT INTO stock VALUES ('A', 1, 'shelf', 'old'), ('B', 2, 'floor', 'old');";
const ROWS: &str = "SELECT group_concat(sku || ' ' || qty || ' ' || place || ' ' || note, ', ') \
    FROM (SELECT * FROM stock ORDER BY sku)";

/// Two nodes in step, then apart; each writes, the first before the second; the rows that both end with.
fn apart(scene: &Scene, setting: &str, first: &str, second: &str) -> Result<String> {
    let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
    for node in &mut cluster.nodes {
        node.database_setting(setting);
    }
    cluster.create(SCHEMA)?;
    cluster.start()?;
    cluster.settled()?;
    cluster.nodes[1].stop()?;
    shell(cluster.file(0), first)?;
    // The stamp of a change is its commit's time to the millisecond; "before" has to be seen in it.
    let begun = std::time::SystemTime::now();
    Scene::within(system_tests::DEADLINE, "a later time", || {
        system_tests::check!(begun.elapsed().is_ok_and(|passed| passed.as_millis() > 2), "the clock stands");
        Ok(())
    })?;
    shell(cluster.file(1), second)?;
    cluster.start()?;
    cluster.settled()?;
    query_text(cluster.file(0), ROWS)
}

const COLUMN: &str = "granularity = \"column\"";
const ROW: &str = "granularity = \"row\"";

#[test]
fn changes_of_different_columns_both_stand() {
    scenario(|scene| {
        let rows = apart(
            scene,
            COLUMN,
            "UPDATE stock SET qty = 10, note = 'first' WHERE sku = 'A'",
            "UPDATE stock SET place = 'yard', note = 'second' WHERE sku = 'A'",
        )?;
        check_equal!(rows, "A 10 yard second, B 2 floor old");
        Ok(())
    });
}

#[test]
fn with_row_granularity_the_newer_row_stands_whole() {
    scenario(|scene| {
        let rows = apart(
            scene,
            ROW,
            "UPDATE stock SET qty = 10, note = 'first' WHERE sku = 'A'",
            "UPDATE stock SET place = 'yard', note = 'second' WHERE sku = 'A'",
        )?;
        check_equal!(rows, "A 1 yard second, B 2 floor old");
        Ok(())
    });
}

#[test]
fn a_later_update_revives_a_deleted_row_with_all_columns() {
    scenario(|scene| {
        let rows =
            apart(scene, COLUMN, "DELETE FROM stock WHERE sku = 'A'", "UPDATE stock SET qty = 11 WHERE sku = 'A'")?;
        check_equal!(rows, "A 11 shelf old, B 2 floor old");
        Ok(())
    });
}

#[test]
fn a_later_delete_stands_against_an_update() {
    scenario(|scene| {
        let rows =
            apart(scene, COLUMN, "UPDATE stock SET qty = 11 WHERE sku = 'A'", "DELETE FROM stock WHERE sku = 'A'")?;
        check_equal!(rows, "B 2 floor old");
        Ok(())
    });
}

#[test]
fn of_two_rows_of_one_new_key_the_later_stands() {
    scenario(|scene| {
        let rows = apart(
            scene,
            COLUMN,
            "INSERT INTO stock VALUES ('C', 1, 'here', 'first')",
            "INSERT INTO stock VALUES ('C', 2, 'there', 'second')",
        )?;
        check_equal!(rows, "A 1 shelf old, B 2 floor old, C 2 there second");
        Ok(())
    });
}
