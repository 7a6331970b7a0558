//! Unique columns besides the key: values that are swapped, handed on, and claimed twice.

use std::path::Path;

use system_tests::{Cluster, Result, Scene, Topology, check, check_equal, python_code, query_text, scenario, shell};

const SCHEMA: &str = "CREATE TABLE account (id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT);";
/// Written on one node only: equal files from the start would count as settled before the nodes have compared them.
const ROWS: &str = "INSERT INTO account VALUES (1, 'one', 'first'), (2, 'two', 'second'), (3, 'three', 'third')";
const EMAILS: &str =
    "SELECT group_concat(id || '=' || coalesce(email, '-'), ' ') FROM (SELECT * FROM account ORDER BY id)";

/// Two nodes with three accounts, in step.
fn pair(scene: &Scene) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "accounts", 2, Topology::Mesh)?;
    cluster.create(SCHEMA)?;
    cluster.start()?;
    shell(cluster.file(0), ROWS)?;
    cluster.settled()?;
    Ok(cluster)
}

/// Runs statements as one transaction.
fn transaction(file: &Path, statements: &[&str]) -> Result {
    let mut code = String::from("db.execute('BEGIN IMMEDIATE')\n");
    for statement in statements {
        code.push_str(&format!("db.execute(\"{statement}\")\n"));
    }
    python_code(file, &(code + "db.execute('COMMIT')")).map(drop)
}

fn conflicts(cluster: &Cluster) -> Result<u64> {
    cluster
        .nodes
        .iter()
        .map(|node| Ok(node.database_status("accounts")?["conflicts"].as_u64().unwrap_or_default()))
        .sum()
}

#[test]
fn swapped_values_arrive_without_a_conflict() {
    scenario(|scene| {
        let cluster = pair(scene)?;
        transaction(
            cluster.file(0),
            &[
                "UPDATE account SET email = NULL WHERE id = 1",
                "UPDATE account SET email = 'one' WHERE id = 2",
                "UPDATE account SET email = 'two' WHERE id = 1",
            ],
        )?;
        cluster.settled()?;
        check_equal!(query_text(cluster.file(1), EMAILS)?, "1=two 2=one 3=three");
        check_equal!(conflicts(&cluster)?, 0);
        Ok(())
    });
}

#[test]
fn values_passed_around_a_ring_arrive_without_a_conflict() {
    scenario(|scene| {
        let cluster = pair(scene)?;
        transaction(
            cluster.file(0),
            &[
                "UPDATE account SET email = 'x' || email",
                "UPDATE account SET email = CASE id WHEN 1 THEN 'two' WHEN 2 THEN 'three' ELSE 'one' END",
            ],
        )?;
        cluster.settled()?;
        check_equal!(query_text(cluster.file(1), EMAILS)?, "1=two 2=three 3=one");
        check_equal!(conflicts(&cluster)?, 0);
        Ok(())
    });
}

#[test]
fn a_value_freed_by_a_delete_is_free_on_the_other_node() {
    scenario(|scene| {
        let cluster = pair(scene)?;
        transaction(
            cluster.file(0),
            &["DELETE FROM account WHERE id = 1", "INSERT INTO account VALUES (9, 'one', 'ninth')"],
        )?;
        cluster.settled()?;
        check_equal!(query_text(cluster.file(1), EMAILS)?, "2=two 3=three 9=one");
        check_equal!(conflicts(&cluster)?, 0);
        Ok(())
    });
}

#[test]
fn a_replacement_deletes_the_row_that_held_the_value() {
    scenario(|scene| {
        let cluster = pair(scene)?;
        transaction(cluster.file(0), &["INSERT OR REPLACE INTO account VALUES (9, 'two', 'ninth')"])?;
        cluster.settled()?;
        check_equal!(query_text(cluster.file(1), EMAILS)?, "1=one 3=three 9=two");
        transaction(cluster.file(1), &["UPDATE OR REPLACE account SET email = 'three' WHERE id = 1"])?;
        cluster.settled()?;
        check_equal!(query_text(cluster.file(0), EMAILS)?, "1=three 9=two");
        Ok(())
    });
}

#[test]
fn a_value_claimed_on_two_nodes_ends_with_one_of_them() {
    scenario(|scene| {
        let mut cluster = pair(scene)?;
        cluster.nodes[1].stop()?;
        transaction(cluster.file(0), &["INSERT INTO account VALUES (10, 'same', 'from a')"])?;
        transaction(cluster.file(1), &["INSERT INTO account VALUES (11, 'same', 'from b')"])?;
        cluster.start()?;
        let rows = cluster.settled()?;
        check_equal!(rows.count("account"), 4);
        let kept = query_text(cluster.file(0), "SELECT name FROM account WHERE email = 'same'")?;
        check!(["from a", "from b"].contains(&kept.as_str()), "neither is kept: {kept}");
        check!(conflicts(&cluster)? > 0, "no conflict is recorded");
        Ok(())
    });
}

#[test]
fn claims_on_three_nodes_end_equal() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "accounts", 3, Topology::Mesh)?;
        cluster.create(SCHEMA)?;
        cluster.start()?;
        shell(cluster.file(0), ROWS)?;
        cluster.settled()?;
        cluster.stop()?;
        for (index, id) in [(0, 20), (1, 21), (2, 22)] {
            let insert = format!("INSERT INTO account VALUES ({id}, 'same', 'new')");
            let update = format!("UPDATE account SET email = 'taken' WHERE id = {}", index + 1);
            transaction(cluster.file(index), &[&insert, &update])?;
        }
        cluster.start()?;
        cluster.settled()?;
        check_equal!(query_text(cluster.file(2), "SELECT count(*) FROM account WHERE email = 'same'")?, "1");
        check_equal!(query_text(cluster.file(2), "SELECT count(*) FROM account WHERE email = 'taken'")?, "1");
        Ok(())
    });
}
