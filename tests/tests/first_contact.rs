//! Files that meet for the first time: one empty, both filled, interrupted.

use std::path::Path;

use serde_json::json;
use system_tests::{
    Cell, Cluster, Node, Result, Scene, Topology, check, check_equal, contents, python_code, query_text, scenario,
    shell,
};

const ROWS: usize = 5_000;
const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY NOT NULL, name TEXT, qty INTEGER);";

/// Fills a file with rows numbered from `first`, before any daemon has seen it.
fn fill(file: &Path, first: usize, rows: usize, name: &str) -> Result {
    let code = format!(
        "db.execute('BEGIN')\n\
         db.executemany('INSERT INTO stock VALUES (?, ?, ?)', ((f'A-{{n:06}}', '{name}', n) for n in range({first}, {})))\n\
         db.execute('COMMIT')",
        first + rows
    );
    python_code(file, &code).map(drop)
}

/// Two nodes with the table; the first has the rows.
fn one_full(scene: &Scene) -> Result<Cluster> {
    let cluster = Cluster::new(scene, "stock", 2, Topology::Line)?;
    cluster.create(SCHEMA)?;
    fill(cluster.file(0), 0, ROWS, "from a")?;
    Ok(cluster)
}

#[test]
fn an_empty_peer_receives_everything() {
    scenario(|scene| {
        let mut cluster = one_full(scene)?;
        cluster.start()?;
        let rows = cluster.settled()?;
        check_equal!(rows.count("stock"), ROWS);
        Ok(())
    });
}

#[test]
fn rows_written_during_the_first_transfer_arrive_as_well() {
    scenario(|scene| {
        let mut cluster = one_full(scene)?;
        cluster.start()?;
        fill(cluster.file(0), ROWS, 500, "later a")?;
        fill(cluster.file(1), 2 * ROWS, 500, "later b")?;
        python_code(cluster.file(0), "db.execute(\"DELETE FROM stock WHERE qty % 10 = 3 AND qty < 5000\")")?;
        let rows = cluster.settled()?;
        check_equal!(rows.count("stock"), ROWS - ROWS / 10 + 1000);
        Ok(())
    });
}

#[test]
fn files_with_different_rows_become_their_union() {
    scenario(|scene| {
        let mut cluster = one_full(scene)?;
        // The second half of these is not in the first file; of the first half, the names differ.
        fill(cluster.file(1), ROWS - 200, 400, "from b")?;
        cluster.start()?;
        let rows = cluster.settled()?;
        check_equal!(rows.count("stock"), ROWS + 200);
        let names = "SELECT count(*) FROM stock WHERE name NOT IN ('from a', 'from b')";
        check_equal!(query_text(cluster.file(0), names)?, "0");
        // Rows that only one file had are unchanged.
        let own =
            "SELECT count(*) FROM stock WHERE (qty < 4800 AND name = 'from a') OR (qty >= 5000 AND name = 'from b')";
        check_equal!(query_text(cluster.file(1), own)?, "5000");
        Ok(())
    });
}

/// What went over the link in both directions, seen from one end.
fn traffic(node: &Node) -> Result<u64> {
    let status = node.status()?;
    let peer = &status["peers"][0];
    Ok(peer["bytes_in"].as_u64().unwrap_or(0) + peer["bytes_out"].as_u64().unwrap_or(0))
}

#[test]
fn files_that_differ_in_a_few_rows_exchange_little_more_than_these() {
    scenario(|scene| {
        let mut cluster = one_full(scene)?;
        fill(cluster.file(1), 0, ROWS, "from a")?;
        shell(cluster.file(1), "UPDATE stock SET name = 'other' WHERE qty = 77; DELETE FROM stock WHERE qty = 4000")?;
        cluster.start()?;
        let rows = cluster.settled()?;
        check_equal!(rows.count("stock"), ROWS);
        let bytes = traffic(&cluster.nodes[0])?;
        // The rows are about 150,000 bytes.
        check!(bytes < 20_000, "{bytes} bytes were exchanged");
        Ok(())
    });
}

#[test]
fn a_killed_receiver_resumes() {
    scenario(|scene| {
        let mut cluster = one_full(scene)?;
        for node in &mut cluster.nodes {
            node.setting("max_batch_rows = 50");
        }
        cluster.start()?;
        let receiver = cluster.file(1).to_owned();
        for part in [1, 1_000, 3_000] {
            scene.eventually("a part has arrived", || {
                let rows = contents(&receiver)?.count("stock");
                check!(rows >= part, "{rows} rows of {part}");
                Ok(())
            })?;
            cluster.nodes[1].kill()?;
            cluster.nodes[1].start()?;
        }
        let rows = cluster.settled()?;
        check_equal!(rows.count("stock"), ROWS);
        Ok(())
    });
}

#[test]
fn a_killed_sender_resumes() {
    scenario(|scene| {
        let mut cluster = one_full(scene)?;
        for node in &mut cluster.nodes {
            node.setting("max_batch_rows = 50");
        }
        cluster.start()?;
        scene.eventually("a part has arrived", || {
            check!(contents(cluster.file(1))?.count("stock") > 0, "nothing yet");
            Ok(())
        })?;
        cluster.nodes[0].kill()?;
        fill(cluster.file(0), ROWS, 10, "while down")?;
        cluster.nodes[0].start()?;
        let rows = cluster.settled()?;
        check_equal!(rows.count("stock"), ROWS + 10);
        Ok(())
    });
}

/// What comes while the other side still makes its rows known is applied as it comes.
#[test]
fn a_large_file_is_streamed_to_an_empty_peer_whatever_happens_meanwhile() {
    const MANY: usize = 60_000;
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "stock", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        fill(cluster.file(0), 0, MANY, "from a")?;
        cluster.start()?;
        let arrived = |receiver: &Path, part: usize| {
            scene.eventually("a part has arrived", || {
                let rows: usize = query_text(receiver, "SELECT count(*) FROM stock")?.parse()?;
                check!(rows >= part, "{rows} rows of {part}");
                Ok(())
            })
        };
        for (part, killed) in [(1, 1), (MANY / 3, 0), (MANY * 2 / 3, 1)] {
            arrived(cluster.file(1), part)?;
            cluster.nodes[killed].kill()?;
            shell(cluster.file(0), &format!("UPDATE stock SET qty = -1 WHERE sku = 'A-{:06}'", MANY - 1 - part))?;
            shell(cluster.file(1), &format!("INSERT INTO stock VALUES ('B-{part}', 'from b', {part})"))?;
            cluster.nodes[killed].start()?;
        }
        let rows = cluster.settled()?;
        check_equal!(rows.count("stock"), MANY + 3);
        check_equal!(query_text(cluster.file(1), "SELECT count(*) FROM stock WHERE qty = -1")?, "3");
        for node in &cluster.nodes {
            check_equal!(node.database_status("stock")?["conflicts"], json!(0));
        }
        Ok(())
    });
}

#[test]
fn a_row_that_was_written_since_attach_beats_one_that_was_not() {
    scenario(|scene| {
        let mut cluster = one_full(scene)?;
        fill(cluster.file(1), 0, 10, "from b")?;
        cluster.nodes[1].start()?;
        python_code(cluster.file(1), "db.execute(\"UPDATE stock SET name = 'edited' WHERE sku = 'A-000003'\")")?;
        scene.eventually("the change is captured", || system_tests::log_is_drained(cluster.file(1)))?;
        cluster.start()?;
        cluster.settled()?;
        let name = system_tests::query(cluster.file(0), "SELECT name FROM stock WHERE sku = 'A-000003'")?;
        check_equal!(name, [[Cell::Text(b"edited".to_vec())]]);
        Ok(())
    });
}
