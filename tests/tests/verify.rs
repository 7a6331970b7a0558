//! `verify` tells what differs between two files, or between a database and a peer's, and makes it equal.

use std::path::Path;
use std::process::Command;

use serde_json::{Value as Json, json};
use system_tests::{
    Cluster, Finished, Result, Scene, Topology, check, check_equal, post_json, query_text, run_to_end, scenario, shell,
    sync_engine,
};

const SCHEMA: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, qty);
    CREATE TABLE word (word TEXT PRIMARY KEY COLLATE NOCASE, n REAL) WITHOUT ROWID;";
const FILL: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
    INSERT INTO item SELECT i, 'n' || i, i % 7 FROM n; INSERT INTO word VALUES ('Alpha', 1.5), ('beta', 2)";

/// What nobody is told of: the triggers of the connection are off, as a tool may have them that is told to.
fn unseen(file: &Path, sql: &str) -> Result<String> {
    run_to_end(Command::new("sqlite3").arg(file).args([
        "-cmd",
        ".timeout 20000",
        "-cmd",
        ".dbconfig enable_trigger off",
        sql,
    ]))?
    .success()
}

const DAMAGE: &str = "UPDATE item SET qty = 99 WHERE id IN (5, 7000); DELETE FROM item WHERE id = 10;
    INSERT INTO item VALUES (30000, 'unseen', 1); UPDATE word SET n = 2.25 WHERE word = 'BETA'";

fn verify(arguments: &[&str]) -> Result<Finished> {
    run_to_end(Command::new(sync_engine()?).arg("verify").args(arguments))
}

fn answer(finished: &Finished) -> Result<Json> {
    Ok(serde_json::from_str(&finished.stdout)?)
}

fn filled(scene: &Scene, count: usize) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "shop", count, Topology::Mesh)?;
    cluster.create(SCHEMA)?;
    shell(cluster.file(0), FILL)?;
    cluster.start()?;
    check_equal!(cluster.settled()?.count("item"), 9000);
    Ok(cluster)
}

#[test]
fn what_nobody_was_told_of_is_found_and_made_equal_on_all_nodes() {
    scenario(|scene| {
        let cluster = filled(scene, 3)?;
        let (url, peer) = (cluster.nodes[0].url().replace("ws://", "http://"), cluster.nodes[1].url());
        let places = ["shop", "--url", &url, "--peer", &peer];
        let equal = verify(&places)?;
        check_equal!(equal.code, Some(0));
        check!(equal.stdout.contains("table item: 9000 rows, equal"), "{}", equal.stdout);
        unseen(cluster.file(1), DAMAGE)?;
        // What is on its way is no difference.
        shell(cluster.file(2), "INSERT INTO item VALUES (40000, 'on its way', 1)")?;
        let found = verify(&[&places[..], &["--json"]].concat())?;
        check_equal!(found.code, Some(1));
        let told = answer(&found)?;
        check_equal!(told["settled"], json!(true));
        let item = &told["tables"][0];
        check_equal!(
            [&item["only_first"], &item["only_second"], &item["differ"]],
            [1, 1, 2].map(|n| json!(n)).each_ref()
        );
        let mut keys: Vec<i64> =
            item["keys"].as_array().into_iter().flatten().filter_map(|row| row["key"]["id"].as_i64()).collect();
        keys.sort_unstable();
        check_equal!(keys, [5, 10, 7000, 30000]);
        check_equal!(told["tables"][1]["differ"], json!(1));
        let repaired = verify(&[&places[..], &["--repair"]].concat())?;
        check_equal!((repaired.code, repaired.stderr.as_str()), (Some(0), ""));
        check!(repaired.stdout.contains("are equal now; 5 rows repaired"), "{}", repaired.stdout);
        // The third node is told as well, and what was there twice is as it was written last.
        check_equal!(cluster.settled()?.count("item"), 9002);
        for file in cluster.files() {
            let rows = "SELECT group_concat(id || name || qty, ' ') FROM item WHERE id IN (5, 10, 7000, 30000)";
            check_equal!(query_text(file, rows)?, "5n55 10n103 7000n70000 30000unseen1");
            check_equal!(query_text(file, "SELECT n FROM word WHERE word = 'beta'")?, "2.0");
        }
        check_equal!(verify(&places)?.code, Some(0));
        for node in &cluster.nodes {
            check_equal!(node.database_status("shop")?["conflicts"], json!(0));
        }
        Ok(())
    });
}

#[test]
fn what_is_not_synced_on_both_sides_is_a_difference_unless_it_is_meant() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        shell(
            cluster.file(0),
            "CREATE TABLE extra (id INTEGER PRIMARY KEY); CREATE TABLE scratch (id INTEGER PRIMARY KEY)",
        )?;
        shell(
            cluster.file(1),
            "ALTER TABLE item RENAME TO ITEM2; ALTER TABLE ITEM2 RENAME TO Item; ALTER TABLE Item RENAME COLUMN qty TO Qty",
        )?;
        cluster.nodes[0].database_setting("exclude = [\"scratch\"]");
        cluster.start()?;
        shell(cluster.file(0), FILL)?;
        scene.eventually("the rows have arrived", || {
            check_equal!(query_text(cluster.file(1), "SELECT count(*) FROM Item")?, "9000");
            Ok(())
        })?;
        let (url, peer) = (cluster.nodes[0].url().replace("ws://", "http://"), cluster.nodes[1].url());
        let found = verify(&["shop", "--url", &url, "--peer", &peer])?;
        check_equal!(found.code, Some(1));
        check!(found.stdout.contains("table item: 9000 rows, equal"), "{}", found.stdout);
        check!(found.stdout.contains("table extra: not compared: it is not synced at node b"), "{}", found.stdout);
        shell(
            cluster.file(1),
            "CREATE TABLE extra (id INTEGER PRIMARY KEY); CREATE TABLE scratch (id INTEGER PRIMARY KEY)",
        )?;
        scene.eventually("both have the table", || {
            let equal = verify(&["shop", "--url", &url, "--peer", &peer])?;
            check_equal!((equal.code, equal.stdout.contains("table scratch: not compared")), (Some(0), true));
            Ok(())
        })
    });
}

#[test]
fn a_row_that_was_deleted_last_is_deleted_on_both_sides() {
    scenario(|scene| {
        let cluster = filled(scene, 2)?;
        shell(cluster.file(0), "DELETE FROM item WHERE id <= 3")?;
        check_equal!(cluster.settled()?.count("item"), 8997);
        // As if the deletion had not been taken there.
        let old = "UPDATE _sync_clock_item SET flags = 1, ts = 0 WHERE k0 = 2; INSERT INTO item VALUES (2, 'n2', 2)";
        // A row that came back unseen is one that somebody wrote.
        unseen(cluster.file(1), &format!("{old}; INSERT INTO item VALUES (3, 'came back', 0)"))?;
        let (url, peer) = (cluster.nodes[1].url().replace("ws://", "http://"), cluster.nodes[0].url());
        let file = cluster.file(1).display().to_string();
        let repaired = verify(&[&file, "--url", &url, "--peer", &peer, "--repair"])?;
        check_equal!((repaired.code, repaired.stderr.as_str()), (Some(0), ""));
        check_equal!(cluster.settled()?.count("item"), 8998);
        check_equal!(query_text(cluster.file(0), "SELECT id || name FROM item WHERE id <= 3")?, "3came back");
        Ok(())
    });
}

#[test]
fn two_files_are_compared_and_made_equal_whether_they_are_attached_or_not() {
    scenario(|scene| {
        let [first, second] = ["first.db", "second.db"].map(|name| scene.path(name));
        shell(&first, &format!("{SCHEMA} CREATE TABLE nameless (x); {FILL}"))?;
        std::fs::copy(&first, &second)?;
        shell(&second, DAMAGE)?;
        let [one, other] = [&first, &second].map(|file| file.display().to_string());
        let found = verify(&[&one, &other, "--json", "--limit", "1"])?;
        check_equal!(found.code, Some(1));
        let told = answer(&found)?;
        let item = &told["tables"][0];
        check_equal!(
            [&item["only_first"], &item["only_second"], &item["differ"]],
            [1, 1, 2].map(|n| json!(n)).each_ref()
        );
        check_equal!(item["keys"], json!([{ "key": { "id": 10 }, "difference": "only_first", "repaired": false }]));
        check_equal!(told["not_compared"][0]["table"], json!("nameless"));
        let repaired = verify(&[&one, &other, "--repair"])?;
        check_equal!((repaired.code, repaired.stderr.as_str()), (Some(0), ""));
        check_equal!(verify(&[&one, &other])?.code, Some(0));
        for file in [&first, &second] {
            check_equal!(query_text(file, "SELECT count(*) FROM item")?, "9001");
            check_equal!(query_text(file, "SELECT count(*) FROM sqlite_schema WHERE name GLOB '_sync*'")?, "0");
            check_equal!(query_text(file, "PRAGMA integrity_check")?, "ok");
        }
        // A row that cannot be named is none that could differ.
        for file in [&first, &second] {
            shell(file, "CREATE TABLE named (k TEXT PRIMARY KEY, v); INSERT INTO named VALUES (NULL, 1), ('a', 2)")?;
        }
        let alike = verify(&[&one, &other])?;
        check_equal!(alike.code, Some(0));
        check!(alike.stdout.contains("1 and 1 rows have NULL in their key"), "{}", alike.stdout);
        run_to_end(Command::new(sync_engine()?).args(["attach", &one]))?.success()?;
        shell(&second, "DELETE FROM word")?;
        let refused = verify(&[&one, &other, "--repair"])?;
        check!(
            refused.code == Some(1) && refused.stderr.contains("is attached: a daemon is to sync it"),
            "{}",
            refused.stderr
        );
        shell(&second, "ALTER TABLE word ADD COLUMN more; CREATE TABLE newer (id INTEGER PRIMARY KEY)")?;
        let unlike = verify(&[&one, &other])?;
        check_equal!(unlike.code, Some(1));
        for reason in [
            "table word: not compared: only the second file has column more",
            "table newer: not compared: the first file has no such table",
        ] {
            check!(unlike.stdout.contains(reason), "{}", unlike.stdout);
        }
        Ok(())
    });
}

#[test]
fn what_cannot_be_compared_is_said_with_its_reason() {
    scenario(|scene| {
        let cluster = filled(scene, 1)?;
        let url = cluster.nodes[0].url().replace("ws://", "http://");
        let (file, text) = (cluster.file(0).display().to_string(), scene.path("text.db"));
        std::fs::write(&text, "this is no database, but it is long enough to be taken for one. ".repeat(20))?;
        let text = text.display().to_string();
        let cases: [(&[&str], i32, &str); 6] = [
            (&[&file, "missing.db"], 74, "cannot find missing.db"),
            (&[&file, &text], 74, "file is not a database"),
            (&[&file], 2, "<OTHER>"),
            (&["other", "--url", &url, "--peer", "ws://127.0.0.1:1"], 1, "has no database \"other\"; it has: shop"),
            (&["shop", "--url", &url, "--peer", "ws://127.0.0.1:1"], 1, "no daemon answers at http://127.0.0.1:1"),
            (&["shop", "--url", &url, "--peer", "oslo"], 2, "\"oslo\" is not of the form ws://HOST:PORT"),
        ];
        for (arguments, code, words) in cases {
            let refused = verify(arguments)?;
            check_equal!(refused.code, Some(code));
            check!(refused.stderr.contains(words), "{arguments:?}: {}", refused.stderr);
        }
        let ask = |body: &str| -> Result<(u16, String)> {
            let answer = post_json(cluster.nodes[0].port(), "/v1/databases/shop/verify", body)?;
            Ok((answer.status, answer.body))
        };
        let wrong = [
            ("{}", 400, "missing field"),
            ("[", 400, "JSON"),
            (
                r#"{"ask": "rows", "table": "item", "keys": [[1, 2]]}"#,
                404,
                "syncs no such table, or its key has another number",
            ),
            (r#"{"ask": "ranges", "table": "none", "rows": 5, "ranges": []}"#, 404, "syncs no such table"),
            (r#"{"ask": "rows", "table": "item", "keys": [[[1]]]}"#, 400, "what SQLite has no value for"),
        ];
        for (body, status, words) in wrong {
            let (answered, text) = ask(body)?;
            check!(answered == status && text.contains(words), "{body}: {answered} {text}");
        }
        Ok(())
    });
}
