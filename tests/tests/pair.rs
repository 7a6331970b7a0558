//! `pair` keeps files on one machine in step, by passes or for as long as it runs, whoever writes them and whatever ends it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value as Json, json};
use system_tests::{
    Crash, Crasher, DEADLINE, Finished, Node, Result, Running, Scene, Signal, check, check_equal, check_integrity,
    data_file, fail, log_is_drained, python_script, query_text, run_to_end, same_contents, scenario, shell,
    sync_engine, while_locked,
};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, ean UNIQUE, qty INTEGER);
    CREATE TABLE note (id TEXT PRIMARY KEY, text); CREATE TABLE nameless (x);";

/// `pair` with what it remembers in the test's folder.
fn command(scene: &Scene, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(sync_engine()?);
    command.current_dir(scene.path("")).env("XDG_STATE_HOME", scene.path("state")).env_remove("STATE_DIRECTORY");
    command.arg("pair").args(arguments);
    Ok(command)
}

fn pair(scene: &Scene, arguments: &[&str]) -> Result<Finished> {
    run_to_end(&mut command(scene, arguments)?)
}

/// One pass over `a.db` and `b.db` that ends well; what it tells.
#[track_caller]
fn pass(scene: &Scene) -> Result<Json> {
    let finished = pair(scene, &["--once", "--json", "a.db:b.db"])?;
    check_equal!(finished.code, Some(0), "{finished:?}");
    let told: Json = serde_json::from_str(&finished.stdout)?;
    check_equal!(told["equal"], json!(true));
    Ok(told)
}

fn files(scene: &Scene) -> [PathBuf; 2] {
    ["a.db", "b.db"].map(|name| scene.path(name))
}

fn rows(told: &Json, side: &str) -> [i64; 3] {
    ["inserted", "updated", "deleted"].map(|what| told[side][what].as_i64().unwrap_or(-1))
}

#[test]
fn a_pass_exchanges_what_was_written_and_deleted_since_the_one_before() {
    scenario(|scene| {
        let [a, b] = files(scene);
        for file in [&a, &b] {
            shell(file, SCHEMA)?;
        }
        shell(&a, "PRAGMA journal_mode = WAL; INSERT INTO stock VALUES ('A', 1, 10), ('B', 2, 20), ('C', 3, 30)")?;
        shell(&b, "INSERT INTO stock VALUES ('A', 1, 11), ('D', 4, 40); INSERT INTO nameless VALUES (1)")?;
        let first = pair(scene, &["--once", "a.db:b.db"])?;
        check_equal!(first.code, Some(0));
        check!(first.stdout.contains("in a.db 1 inserted; in b.db 2 inserted, 1 updated; 1 conflict"), "{first:?}");
        check!(first.stdout.contains("not synced  nameless: has no primary key"), "{first:?}");
        // Of rows that differed before they met, those of the first stand; what is discarded is told.
        check!(first.stderr.contains("discarded {\"sku\":\"A\",\"ean\":1,\"qty\":11}"), "{first:?}");
        check_equal!(query_text(&b, "SELECT qty FROM stock WHERE sku = 'A'")?, "10");
        for file in [&a, &b] {
            log_is_drained(file)?;
        }
        // Deletions, unique values that rows swap, and rows that both write.
        shell(
            &a,
            "DELETE FROM stock WHERE sku = 'D';
            UPDATE stock SET ean = -ean; UPDATE stock SET ean = CASE sku WHEN 'A' THEN 2 WHEN 'B' THEN 1 ELSE 3 END",
        )?;
        shell(&b, "UPDATE stock SET qty = 99 WHERE sku = 'C'; INSERT INTO note VALUES ('n', 'new')")?;
        let told = pass(scene)?;
        check_equal!((rows(&told, "first"), rows(&told, "second")), ([1, 1, 0], [0, 2, 1]));
        check_equal!(told["conflicts"], json!([]));
        check_equal!(
            query_text(
                &b,
                "SELECT group_concat(sku || ean || ':' || qty, ' ') FROM (SELECT * FROM stock ORDER BY sku)"
            )?,
            "A2:10 B1:20 C3:99"
        );
        let told = pass(scene)?;
        check_equal!((rows(&told, "first"), rows(&told, "second")), ([0; 3], [0; 3]));
        // The later one stands; both are told.
        shell(&a, "UPDATE stock SET qty = 1 WHERE sku = 'A'")?;
        shell(&b, "UPDATE stock SET qty = 2 WHERE sku = 'A'")?;
        let told = pass(scene)?;
        check_equal!(told["conflicts"][0]["loser"]["row"]["qty"], json!(1));
        check_equal!(
            (
                query_text(&a, "SELECT qty FROM stock WHERE sku = 'A'")?.as_str(),
                told["conflicts"].as_array().map(Vec::len)
            ),
            ("2", Some(1))
        );
        shell(&a, "DELETE FROM nameless")?;
        shell(&b, "DELETE FROM nameless")?;
        same_contents(&[&a, &b]).map(drop)
    });
}

#[test]
fn passes_make_files_equal_that_are_written_at_random_and_none_of_it_comes_back() {
    scenario(|scene| {
        let [a, b] = files(scene);
        for file in [&a, &b] {
            shell(file, &std::fs::read_to_string(data_file("random_schema.sql"))?)?;
        }
        shell(&a, "PRAGMA journal_mode = WAL")?;
        for round in 0..6 {
            let writers =
                [write_at_random(scene, &a, &format!("a{round}"))?, write_at_random(scene, &b, &format!("b{round}"))?];
            for writer in writers {
                writer.finish(DEADLINE)?.success()?;
            }
            // Who wrote what is no matter here: conflicts are told on standard output.
            pass(scene)?;
            let rows = same_contents(&[&a, &b])?;
            check!(rows.count("account") + rows.count("label") > 0, "nothing was written");
            for file in [&a, &b] {
                check_integrity(file)?;
                log_is_drained(file)?;
            }
        }
        check_equal!(rows(&pass(scene)?, "first"), [0; 3]);
        Ok(())
    });
}

/// A program that makes so many operations of all kinds.
fn write_at_random(scene: &Scene, file: &Path, seed: &str) -> Result<Running> {
    let place = |what: &str| scene.path(format!("writer-{seed}.{what}"));
    std::fs::write(place("limit"), "300")?;
    let mut command = python_script("random_writer.py");
    command.arg(file).arg(seed).arg("300").args([place("progress"), place("limit")]);
    Running::start(&mut command, &place("process"))
}

#[test]
fn a_pass_that_is_killed_loses_nothing() {
    scenario(|scene| {
        let [a, b] = files(scene);
        for file in [&a, &b] {
            shell(file, SCHEMA)?;
        }
        let crasher = Crasher::new(scene);
        let mut random = fastrand::Rng::with_seed(20_261_129);
        let (mut killed, rounds) = (0, 25);
        for round in 0..rounds {
            for (file, name) in [(&a, "a"), (&b, "b")] {
                shell(
                    file,
                    &format!(
                        "INSERT INTO note VALUES ('{name}{round}', hex(randomblob(2000)));
                         INSERT INTO stock VALUES ('{name}{round}', {round} * 10 + {}, 0);
                         DELETE FROM note WHERE id = '{name}' || ({round} - 3);
                         UPDATE stock SET qty = qty + 1",
                        i32::from(name == "b")
                    ),
                )?;
            }
            // In the middle of a call that changes one of the files, of which a pass makes some dozens.
            let crash = Crash::Call(random.choice([".db", "a.db", "b.db"]).unwrap_or(".db"), random.u32(1..40));
            let mut pass = command(scene, &["--once", "-q", "a.db:b.db"])?;
            let finished = run_to_end(pass.envs(crasher.variables(&crash)?))?;
            check!(finished.signal == Some(crash.signal()) || finished.code == Some(0), "{crash:?}: {finished:?}");
            killed += usize::from(finished.signal.is_some());
        }
        check!(killed > rounds / 5, "only {killed} of {rounds} passes were killed: they make fewer calls than that");
        let finished = pair(scene, &["--once", "--json", "a.db:b.db"])?;
        check_equal!(finished.code, Some(0), "{finished:?}");
        same_contents(&[&a, &b])?;
        for file in [&a, &b] {
            check_integrity(file)?;
            // What was inserted is there, and what was deleted is not.
            check_equal!(query_text(file, "SELECT count(*) FROM stock")?, (2 * rounds).to_string());
            check_equal!(query_text(file, "SELECT count(*) FROM note")?, "6");
        }
        Ok(())
    });
}

#[test]
fn it_runs_until_it_is_asked_to_stop_and_nobody_else_has_its_files_meanwhile() {
    scenario(|scene| {
        let names = ["a.db", "b.db", "c.db"];
        let files = names.map(|name| scene.path(name));
        for file in &files {
            shell(file, SCHEMA)?;
        }
        // One file with two others: what comes from one goes on to the other.
        let arguments = ["a.db:b.db", "a.db:c.db", "--interval", "0.2", "--log-dir", "logs"];
        let running = Running::start(&mut command(scene, &arguments)?, &scene.path("running"))?;
        shell(&files[1], "INSERT INTO note VALUES ('b', 'from b')")?;
        shell(&files[2], "INSERT INTO note VALUES ('c', 'from c')")?;
        let [a, b, c] = files.each_ref().map(PathBuf::as_path);
        scene.eventually("all have both rows", || {
            check_equal!(same_contents(&[a, b, c])?.count("note"), 2);
            Ok(())
        })?;
        let second = pair(scene, &["--once", "c.db:d.db"])?;
        check_equal!(second.code, Some(74));
        shell(&scene.path("d.db"), SCHEMA)?;
        let second = pair(scene, &["--once", "c.db:d.db"])?;
        check_equal!(second.code, Some(1));
        check!(second.stderr.contains("c.db is being paired by another sync-engine pair"), "{second:?}");
        shell(a, "DELETE FROM note WHERE id = 'b'")?;
        scene.eventually("the deletion has arrived", || {
            check_equal!(same_contents(&[a, b, c])?.count("note"), 1);
            Ok(())
        })?;
        scene.eventually("it is told", || {
            check!(running.output().contains("1 deleted"), "{}", running.output());
            Ok(())
        })?;
        let ended = running.end_with(Signal::Interrupt)?;
        check_equal!(ended.code, Some(0), "{ended:?}");
        check!(scene.path("logs/synchronization.log").exists(), "there is no log");
        // Nothing keeps the files, and what is written now is seen by the next pass.
        shell(c, "DELETE FROM note")?;
        let last = pair(scene, &["--once", "--detach", "a.db:b.db", "a.db:c.db"])?;
        check_equal!((last.code, last.stderr.as_str()), (Some(0), ""));
        check_equal!(same_contents(&[a, b, c])?.count("note"), 0);
        for file in [a, b, c] {
            check_equal!(query_text(file, "SELECT count(*) FROM sqlite_schema WHERE name GLOB '_sync*'")?, "0");
        }
        Ok(())
    });
}

#[test]
fn who_wins_is_what_the_policy_says() {
    scenario(|scene| {
        let cases: [(&[&str], &str); 5] = [
            (&["--policy", "last-write-wins"], "2"),
            (&["--policy", "first-write-wins"], "9"),
            (&["--policy", "origin-priority"], "9"),
            (&["--policy", "max"], "9"),
            (&["--timestamp-column", "ean"], "9"),
        ];
        for (number, (arguments, expected)) in cases.into_iter().enumerate() {
            let [a, b] = ["a", "b"].map(|name| format!("{name}{number}.db"));
            for file in [&a, &b] {
                shell(&scene.path(file), &format!("{SCHEMA} INSERT INTO stock VALUES ('A', 0, 0)"))?;
            }
            let named = format!("{a}:{b}");
            let once = [&["--once", &named], arguments].concat();
            check_equal!(pair(scene, &once)?.code, Some(0));
            shell(&scene.path(&a), "UPDATE stock SET qty = 9, ean = 5")?;
            shell(&scene.path(&b), "UPDATE stock SET qty = 2, ean = 4")?;
            let finished = pair(scene, &once)?;
            check_equal!(finished.code, Some(0), "{finished:?}");
            for file in [&a, &b] {
                check_equal!(query_text(&scene.path(file), "SELECT qty FROM stock")?, expected, "{arguments:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn what_cannot_be_kept_in_step_is_said_and_the_other_pairs_go_on() {
    scenario(|scene| {
        let [a, b] = files(scene);
        for file in [&a, &b] {
            shell(file, SCHEMA)?;
        }
        std::fs::write(scene.path("text.db"), "no database at all, and long enough to be seen as none. ".repeat(20))?;
        std::os::unix::fs::symlink(&a, scene.path("link.db"))?;
        let mut node = Node::new(scene, "berlin")?;
        shell(&node.database("c"), SCHEMA)?;
        node.start()?;
        let daemons = node.file().display().to_string();
        let cases: [(&[&str], i32, &str); 10] = [
            (&["a.db"], 2, "does not name two files; write A:B"),
            (&["a.db:a.db"], 2, "are the same file"),
            (&["a.db:link.db"], 2, "are the same file"),
            (&["a.db:b.db", "b.db:a.db"], 2, "are a pair already"),
            (&["a.db:b.db", "--policy", "newest"], 2, "there is no policy \"newest\""),
            (&["a.db:b.db", "--policy", "counter"], 2, "is a policy of single columns"),
            (&["a.db:missing.db"], 74, "cannot find missing.db; to begin with a copy"),
            (&["a.db:text.db"], 74, "file is not a database"),
            (&["a.db:x:y.db"], 2, "has several colons"),
            (&["a.db:b.db", "--state-dir", "a.db"], 74, "choose another with --state-dir"),
        ];
        for (arguments, code, words) in cases {
            let refused = pair(scene, &[&["--once"], arguments].concat())?;
            check!(refused.code == Some(code) && refused.stderr.contains(words), "{arguments:?}: {refused:?}");
        }
        let refused = pair(scene, &["--once", &format!("a.db:{daemons}")])?;
        check!(refused.code == Some(1) && refused.stderr.contains("is attached by node berlin"), "{refused:?}");
        shell(&a, "INSERT INTO note VALUES ('x', 'y')")?;
        let some = pair(scene, &["--once", "--json", "b.db:missing.db", "a.db:b.db"])?;
        check_equal!(some.code, Some(1), "{some:?}");
        let lines: Vec<Json> = some.stdout.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
        check_equal!((&lines[0]["equal"], &lines[1]["equal"]), (&json!(true), &json!(false)));
        check_equal!(same_contents(&[&a, &b])?.count("note"), 1);
        // A colon within a path.
        std::fs::copy(&b, scene.path("b:2.db"))?;
        for named in ["a.db:b:2.db", "a.db:b\\:2.db"] {
            check_equal!(pair(scene, &["--once", "-q", named])?.code, Some(0), "{named}");
        }
        Ok(())
    });
}

#[test]
fn tables_that_are_not_the_same_are_told_and_the_rest_goes_on() {
    scenario(|scene| {
        let [a, b] = files(scene);
        for file in [&a, &b] {
            shell(file, SCHEMA)?;
        }
        shell(
            &a,
            "CREATE TABLE extra (id TEXT PRIMARY KEY); INSERT INTO extra VALUES ('x'); INSERT INTO note VALUES (1, 'n')",
        )?;
        let differing = pair(scene, &["--once", "a.db:b.db"])?;
        check_equal!(differing.code, Some(1));
        check!(
            differing.stderr.contains("table extra: ") && differing.stdout.contains("there were errors"),
            "{differing:?}"
        );
        check_equal!(query_text(&b, "SELECT count(*) FROM note")?, "1");
        shell(&b, "CREATE TABLE extra (id TEXT PRIMARY KEY)")?;
        scene.eventually("what waited is there", || {
            let finished = pair(scene, &["--once", "a.db:b.db"])?;
            check_equal!(finished.code, Some(0), "{finished:?}");
            check_equal!(query_text(&b, "SELECT count(*) FROM extra")?, "1");
            Ok(())
        })
    });
}

#[test]
fn a_lock_that_another_program_holds_is_waited_for() {
    scenario(|scene| {
        let [a, b] = files(scene);
        for file in [&a, &b] {
            shell(file, SCHEMA)?;
        }
        pass_after_first(scene)?;
        shell(&a, "INSERT INTO note VALUES ('while', 'locked')")?;
        let mut running = None;
        while_locked(scene, &b, "INSERT INTO note VALUES ('holder', 1)", || {
            let mut started = Running::start(&mut command(scene, &["--once", "a.db:b.db"])?, &scene.path("waiting"))?;
            scene.eventually("it is told what it waits for", || {
                if let Some(status) = started.ended()? {
                    fail!("it ended with {status}");
                }
                check!(started.complaints().contains("held the lock"), "{}", started.complaints());
                Ok(())
            })?;
            running = Some(started);
            Ok(())
        })?;
        let Some(running) = running else { fail!("it was not started") };
        let finished = running.finish(DEADLINE)?;
        check_equal!(finished.code, Some(0), "{finished:?}");
        check_equal!(same_contents(&[&a, &b])?.count("note"), 2);
        Ok(())
    });
}

/// The first pass tells what is not synced.
fn pass_after_first(scene: &Scene) -> Result {
    pair(scene, &["--once", "-q", "a.db:b.db"])?.success().map(drop)
}
