//! `sync` merges one file into another, or makes it equal, in one pass, attached or not.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value as Json, json};
use system_tests::{
    Finished, Node, Result, Scene, check, check_equal, check_integrity, contents, data_file, python_code, query_text,
    run_to_end, same_contents, scenario, shell, sync_engine, while_locked,
};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, ean UNIQUE, qty INTEGER, updated_at TEXT);
    CREATE TABLE orders (id INTEGER PRIMARY KEY, sku REFERENCES stock (sku), n INTEGER);";

fn sync(scene: &Scene, arguments: &[&str]) -> Result<Finished> {
    run_to_end(Command::new(sync_engine()?).current_dir(scene.path("")).arg("sync").args(arguments))
}

fn told(finished: &Finished) -> Result<Json> {
    Ok(serde_json::from_str(&finished.stdout)?)
}

fn counts(told: &Json) -> [i64; 4] {
    ["inserts", "updates", "deletes", "conflict_skips"].map(|what| told[what].as_i64().unwrap_or(-1))
}

/// SOURCE and TARGET with these rows.
fn files(scene: &Scene, source: &str, target: &str) -> Result<[PathBuf; 2]> {
    let files = ["source.db", "target.db"].map(|name| scene.path(name));
    for (file, rows) in files.iter().zip([source, target]) {
        shell(file, &format!("{SCHEMA} {rows}"))?;
    }
    Ok(files)
}

fn stock(file: &Path) -> Result<String> {
    let sql = "SELECT group_concat(sku || ':' || ean || ':' || qty, ' ') FROM (SELECT * FROM stock ORDER BY sku)";
    query_text(file, sql)
}

const SOURCE_ROWS: &str =
    "INSERT INTO stock VALUES ('A', 1, 10, '2026-01-01'), ('B', 2, 20, '2026-01-03'), ('C', 3, 30, NULL);
    INSERT INTO orders VALUES (1, 'A', 1), (2, 'C', 1)";
const TARGET_ROWS: &str =
    "INSERT INTO stock VALUES ('A', 1, 11, '2026-02-01'), ('B', 2, 21, '2026-01-02'), ('Z', 3, 99, NULL);
    INSERT INTO orders VALUES (1, 'A', 1), (7, 'Z', 1)";

#[test]
fn rows_of_the_source_come_in_the_later_one_stands_and_rows_of_the_target_stay() {
    scenario(|scene| {
        let [source, target] = files(scene, SOURCE_ROWS, TARGET_ROWS)?;
        let before = [contents(&source)?, contents(&target)?];
        let dry = sync(scene, &["source.db", "target.db", "--dry-run", "--json"])?;
        check!(before == [contents(&source)?, contents(&target)?], "a dry run changes nothing");
        let done = sync(scene, &["source.db", "target.db", "--json"])?;
        check_equal!(counts(&told(&dry)?), counts(&told(&done)?));
        // A is newer there, Z has the unique value of C; and so the order of C lacks its parent.
        check_equal!((counts(&told(&done)?), done.code), ([1, 1, 0, 2], Some(1)));
        check_equal!(stock(&target)?, "A:1:11 B:2:20 Z:3:99");
        let report = told(&done)?;
        check_equal!(report["tables"][0]["skipped"][0], json!({ "key": { "sku": "A" }, "kind": "insert_exists" }));
        check_equal!(report["tables"][0]["skipped"][1]["kind"], json!("unique_exists"));
        check_equal!(report["foreign_key_missing"], json!([{ "table": "orders", "parent": "stock", "rows": 1 }]));
        check!(before[0] == contents(&source)?, "the source is only read");
        let again = sync(scene, &["source.db", "target.db"])?;
        check_equal!(again.code, Some(0));
        check!(again.stdout.contains("0 inserts, 0 updates, 0 deletes, 2 conflict_skips"), "{}", again.stdout);
        let policies = [
            ("first-write-wins", "11"),
            ("origin-priority", "10"),
            ("max", "11"),
            ("min", "10"),
            ("last-write-wins", "11"),
        ];
        for (policy, expected) in policies {
            std::fs::remove_file(&target)?;
            shell(&target, &format!("{SCHEMA} {TARGET_ROWS}"))?;
            sync(scene, &["source.db", "target.db", "--policy", policy])?;
            check_equal!(query_text(&target, "SELECT qty FROM stock WHERE sku = 'A'")?, expected, "{policy}");
        }
        Ok(())
    });
}

#[test]
fn a_mirror_is_equal_also_where_rows_swap_their_unique_values() {
    scenario(|scene| {
        let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
            INSERT INTO stock SELECT 's' || i, i, i, NULL FROM n;";
        let [source, target] = files(scene, rows, rows)?;
        // Circles, a long chain, new rows in the place of others, and rows that only one has.
        shell(
            &source,
            "UPDATE stock SET ean = -ean;
             UPDATE stock SET ean = CASE WHEN qty <= 1000 AND qty % 2 THEN qty + 1 WHEN qty <= 1000 THEN qty - 1
                 WHEN qty < 2000 THEN qty + 1 WHEN qty = 2000 THEN 1001 ELSE qty END;
             DELETE FROM stock WHERE qty > 2900; INSERT INTO stock VALUES ('new', 2950, 1, 'x')",
        )?;
        shell(&target, "INSERT INTO stock VALUES ('gone', 5000, 1, NULL), ('gone too', 5001, 1, NULL)")?;
        let done = sync(scene, &["source.db", "target.db", "--mirror", "--json"])?;
        check_equal!((done.code, counts(&told(&done)?)), (Some(0), [1, 2000, 102, 0]), "{done:?}");
        same_contents(&[&source, &target])?;
        check_integrity(&target)?;
        let again = sync(scene, &["source.db", "target.db", "--mirror", "--json"])?;
        check_equal!(counts(&told(&again)?), [0; 4]);
        Ok(())
    });
}

#[test]
fn values_and_keys_of_all_kinds_arrive_bit_for_bit() {
    scenario(|scene| {
        let schema = std::fs::read_to_string(data_file("random_schema.sql"))?;
        let [source, target] = ["source.db", "target.db"].map(|name| scene.path(name));
        for (file, seed) in [(&source, "s"), (&target, "t")] {
            shell(file, &schema)?;
            std::fs::write(scene.path("limit"), "1500")?;
            let mut writer = system_tests::python_script("random_writer.py");
            writer.arg(file).arg(seed).arg("1500").args([scene.path("progress"), scene.path("limit")]);
            run_to_end(&mut writer)?.success()?;
        }
        shell(&target, "PRAGMA journal_mode = WAL")?;
        check_equal!(sync(scene, &["source.db", "target.db", "--mirror"])?.code, Some(0));
        let rows = same_contents(&[&source, &target])?;
        check!(rows.count("item") > 50 && rows.count("label") > 20, "few rows were written");
        check_integrity(&target)
    });
}

#[test]
fn a_daemon_takes_what_is_synced_into_its_file_for_an_applications_writes() {
    scenario(|scene| {
        let source = scene.path("source.db");
        shell(&source, &format!("{SCHEMA} {SOURCE_ROWS}"))?;
        let mut nodes = [Node::new(scene, "a")?, Node::new(scene, "b")?];
        for node in &mut nodes {
            shell(
                &node.database("shop"),
                &format!("{SCHEMA} INSERT INTO stock VALUES ('A', 2, 5, NULL), ('old', 9, 9, NULL)"),
            )?;
        }
        let [a, mut b] = nodes;
        let mut a = a;
        b.peer(&a);
        a.start()?;
        b.start()?;
        scene.eventually("they have met", || {
            check_equal!(a.status()?["peers"][0]["databases"][0]["behind"], json!(0));
            Ok(())
        })?;
        let target = a.file().display().to_string();
        let done = sync(scene, &["source.db", &target, "--mirror", "--json"])?;
        let report = told(&done)?;
        check_equal!((done.code, &report["captured"]), (Some(0), &json!(true)), "{done:?}");
        scene.eventually("the other node has it", || same_contents(&[&source, a.file(), b.file()]).map(drop))?;
        // The other way: what is in the file besides is not the application's.
        let copy = scene.path("copy.db");
        shell(&copy, SCHEMA)?;
        check_equal!(sync(scene, &[&target, "copy.db", "--mirror"])?.code, Some(0));
        check_equal!(query_text(&copy, "SELECT count(*) FROM sqlite_schema WHERE name GLOB '_sync*'")?, "0");
        a.stop()?;
        b.stop()
    });
}

#[test]
fn triggers_run_that_write_what_is_not_synced_and_no_others() {
    scenario(|scene| {
        let schema = "CREATE TABLE doc (id INTEGER PRIMARY KEY, text); CREATE TABLE log (id INTEGER PRIMARY KEY, what);
            CREATE VIRTUAL TABLE doc_fts USING fts5 (text, content = 'doc', content_rowid = 'id');
            CREATE TRIGGER fts_i AFTER INSERT ON doc BEGIN INSERT INTO doc_fts (rowid, text) VALUES (NEW.id, NEW.text); END;
            CREATE TRIGGER fts_d AFTER DELETE ON doc BEGIN
                INSERT INTO doc_fts (doc_fts, rowid, text) VALUES ('delete', OLD.id, OLD.text); END;
            CREATE TRIGGER fts_u AFTER UPDATE ON doc BEGIN
                INSERT INTO doc_fts (doc_fts, rowid, text) VALUES ('delete', OLD.id, OLD.text);
                INSERT INTO doc_fts (rowid, text) VALUES (NEW.id, NEW.text); END;
            CREATE TRIGGER logs AFTER INSERT ON doc BEGIN INSERT INTO log (what) VALUES (NEW.text); END;";
        let [source, target] = ["source.db", "target.db"].map(|name| scene.path(name));
        shell(&source, &format!("{schema} INSERT INTO doc VALUES (1, 'one bird'), (2, 'two birds')"))?;
        shell(&target, &format!("{schema} INSERT INTO doc VALUES (2, 'two fish'), (3, 'three fish')"))?;
        let done = sync(scene, &["source.db", "target.db", "--mirror"])?;
        check_equal!(done.code, Some(0), "{done:?}");
        check_equal!(query_text(&target, "SELECT group_concat(what) FROM log")?, "one bird,two birds");
        let found = "SELECT group_concat(rowid) FROM doc_fts WHERE doc_fts MATCH 'bird OR birds OR fish'";
        check_equal!(query_text(&target, found)?, "1,2");
        shell(&target, "INSERT INTO doc_fts (doc_fts) VALUES ('integrity-check')")?;
        Ok(())
    });
}

#[test]
fn readers_see_all_of_it_or_nothing() {
    scenario(|scene| {
        let [source, target] = files(scene, "", "")?;
        let many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
            INSERT INTO orders SELECT i, NULL, i FROM n";
        shell(&source, many)?;
        shell(&target, "PRAGMA journal_mode = WAL")?;
        let watch = "seen = set()\nwhile 100000 not in seen:\n    seen.add(db.execute('SELECT count(*) FROM orders').fetchone()[0])\nprint(sorted(seen))";
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| python_code(&target, watch));
            let done = sync(scene, &["source.db", "target.db"])?;
            check_equal!((done.code, done.stderr.as_str()), (Some(0), ""));
            let seen = reader.join().map_err(|_| system_tests::Failure::new("the reader panicked"))??;
            check!(["[0, 100000]", "[100000]"].contains(&seen.trim()), "{seen}");
            Ok(())
        })
    });
}

#[test]
fn what_does_not_go_together_is_left_out_and_told() {
    scenario(|scene| {
        let [source, target] = files(scene, SOURCE_ROWS, "INSERT INTO stock VALUES ('A', 1, 10, NULL)")?;
        shell(
            &source,
            "CREATE TABLE only (id INTEGER PRIMARY KEY); CREATE TABLE nameless (x); CREATE TABLE other (a PRIMARY KEY, b);
             ALTER TABLE orders ADD COLUMN more; CREATE TABLE checked (id INTEGER PRIMARY KEY, v); INSERT INTO checked VALUES (1, 5), (2, -5);
             CREATE TABLE typed (id INTEGER PRIMARY KEY, v TEXT, w); INSERT INTO typed VALUES (1, '01', 'w');
             CREATE TABLE nulls (k TEXT PRIMARY KEY, v); INSERT INTO nulls VALUES (NULL, 1), ('k', 2)",
        )?;
        shell(
            &target,
            "CREATE TABLE nameless (x); CREATE TABLE other (a, b PRIMARY KEY); ALTER TABLE stock ADD COLUMN mine DEFAULT 'kept';
             CREATE TABLE checked (id INTEGER PRIMARY KEY, v CHECK (v > 0));
             CREATE TABLE typed (id INTEGER PRIMARY KEY, v INTEGER, w);
             CREATE TABLE nulls (k TEXT PRIMARY KEY, v)",
        )?;
        let done = sync(scene, &["source.db", "target.db"])?;
        check_equal!(done.code, Some(1), "{done:?}");
        for line in [
            "table only: not synced: only SOURCE has it",
            "table nameless: not synced: has no primary key",
            "table other: not synced: its key in SOURCE is a, and in TARGET b",
            "table stock: not synced: its column mine is left out: only TARGET has it",
            "table orders: not synced: its column more is left out: only SOURCE has it",
            "table typed: not synced: its column v is left out: it has another type in SOURCE",
            "{\"id\":2} constraint: CHECK constraint failed",
            "1 rows of SOURCE and 0 of TARGET have NULL in their key",
        ] {
            check!(done.stdout.contains(line), "{line}\n{}", done.stdout);
        }
        check_equal!(query_text(&target, "SELECT group_concat(sku || mine, ' ') FROM stock")?, "Akept Bkept Ckept");
        check_equal!(query_text(&target, "SELECT id || ifnull(v, '-') || w FROM typed")?, "1-w");
        check_equal!(query_text(&target, "SELECT group_concat(id) FROM checked")?, "1");
        check_equal!(query_text(&target, "SELECT count(*) FROM orders")?, "2");
        // With --mirror that is a difference that is left.
        check_equal!(sync(scene, &["source.db", "target.db", "--mirror"])?.code, Some(1));
        Ok(())
    });
}

#[test]
fn what_cannot_be_done_is_said_with_a_remedy_and_changes_nothing() {
    scenario(|scene| {
        let [source, target] = files(scene, SOURCE_ROWS, TARGET_ROWS)?;
        std::fs::hard_link(&source, scene.path("hard.db"))?;
        std::fs::write(scene.path("text.db"), "no database at all, and long enough to be seen as none. ".repeat(20))?;
        std::fs::write(scene.path("empty.db"), "")?;
        shell(&scene.path("wide.db"), &format!("PRAGMA encoding = 'UTF-16'; {SCHEMA}"))?;
        let before = contents(&target)?;
        let cases: [(&[&str], i32, &str); 10] = [
            (&["source.db"], 2, "<TARGET>"),
            (&["source.db", "source.db"], 2, "are the same file; name two files"),
            (&["source.db", "hard.db"], 2, "are the same file; name two files"),
            (
                &["source.db", "missing.db"],
                74,
                "there is no TARGET missing.db; to begin with a copy: sqlite3 source.db \".backup missing.db\"",
            ),
            (&["missing.db", "target.db"], 74, "cannot find missing.db"),
            (&["text.db", "target.db"], 74, "file is not a database"),
            (&["source.db", "text.db"], 74, "file is not a database"),
            (&["source.db", "wide.db"], 1, "holds its text as UTF-8 and wide.db as UTF-16"),
            (&["source.db", "target.db", "--policy", "last-writer-wins"], 2, "did you mean \"last-write-wins\"?"),
            (&["source.db", "target.db", "--mirror", "--policy", "max"], 2, "cannot be used with"),
        ];
        for (arguments, code, words) in cases {
            let refused = sync(scene, arguments)?;
            check!(refused.code == Some(code) && refused.stderr.contains(words), "{arguments:?}: {refused:?}");
        }
        let nothing = sync(scene, &["source.db", "empty.db"])?;
        check!(nothing.code == Some(1) && nothing.stdout.contains("no table in common"), "{nothing:?}");
        while_locked(scene, &target, "DELETE FROM orders WHERE 0", || {
            let refused = sync(scene, &["source.db", "target.db"])?;
            check!(refused.code == Some(74) && refused.stderr.contains("try again when the program"), "{refused:?}");
            Ok(())
        })?;
        check!(before == contents(&target)?, "nothing is changed");
        Ok(())
    });
}
