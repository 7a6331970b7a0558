//! The comparison sees what the other tests rely on it to see.

use system_tests::{
    Failure, Result, Running, Scene, Signal, check, check_equal, contents, data_file, differences, python_code,
    scenario, shell,
};

/// How many differences there are between files made by two scripts.
fn apart(scene: &Scene, left: &str, right: &str) -> Result<usize> {
    let files = ["left.db", "right.db"].map(|name| scene.path(name));
    for (file, sql) in files.iter().zip([left, right]) {
        shell(file, sql)?;
    }
    let found = differences(&contents(&files[0])?, &contents(&files[1])?);
    files.iter().try_for_each(std::fs::remove_file)?;
    Ok(found.len())
}

#[test]
fn storage_classes_and_bytes_make_a_difference() {
    scenario(|scene| {
        let row = |value: &str| format!("CREATE TABLE t (k INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, {value})");
        for (left, right) in [("1", "1.0"), ("''", "x''"), ("''", "NULL"), ("'a'", "x'61'"), ("'a'", "'A'")] {
            check_equal!(apart(scene, &row(left), &row(right))?, 1, "{left} and {right}");
            check_equal!(apart(scene, &row(left), &row(left))?, 0, "{left}");
        }
        Ok(())
    });
}

#[test]
fn missing_rows_and_tables_make_a_difference() {
    scenario(|scene| {
        let table = "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, v) WITHOUT ROWID;";
        check_equal!(apart(scene, table, &format!("{table} INSERT INTO t VALUES ('a', 1)"))?, 1);
        check_equal!(apart(scene, table, "")?, 1);
        let key = |key: &str| format!("{table} INSERT INTO t VALUES ('{key}', 1)");
        check_equal!(apart(scene, &key("a"), &key("A"))?, 2);
        Ok(())
    });
}

#[test]
fn what_is_not_synced_makes_none() {
    scenario(|scene| {
        let more = "CREATE TABLE _sync_log (seq INTEGER PRIMARY KEY); CREATE VIRTUAL TABLE f USING fts5(w); \
            CREATE VIEW v AS SELECT 1; INSERT INTO f VALUES ('word'); INSERT INTO _sync_log VALUES (1)";
        check_equal!(apart(scene, more, "CREATE TABLE _sync_meta (k PRIMARY KEY)")?, 0);
        Ok(())
    });
}

#[test]
fn the_published_file_is_read_whole() {
    scenario(|scene| {
        let file = scene.path("chinook.db");
        std::fs::copy(data_file("chinook.sqlite"), &file)?;
        let rows = contents(&file)?;
        check_equal!(rows.rows(), 15_607);
        check_equal!(rows.count("PlaylistTrack"), 8_715);
        Ok(())
    });
}

#[test]
fn a_failure_names_its_line_and_reason() {
    scenario(|scene| {
        let failed = || -> Result { python_code(&scene.path("a.db"), "raise ValueError('told')").map(drop) };
        let Err(failure) = failed() else { system_tests::fail!("it did not fail") };
        let text = failure.to_string();
        check!(text.contains("told") && text.contains("harness.rs"), "{text}");
        let Err(failure) =
            Scene::within(std::time::Duration::ZERO, "nothing", || -> Result { Err(Failure::new("the last reason")) })
        else {
            system_tests::fail!("it did not fail")
        };
        check!(failure.to_string().contains("the last reason"), "{failure}");
        Ok(())
    });
}

#[test]
fn a_process_ends_as_it_was_asked_to() {
    scenario(|scene| {
        let mut sleeper = std::process::Command::new("sh");
        sleeper.args(["-c", "trap 'echo bye; exit 3' TERM; echo ready; while :; do read line < /dev/null; done"]);
        let running = Running::start(&mut sleeper, &scene.path("sleeper"))?;
        scene.eventually("it is ready", || {
            check!(running.output().contains("ready"), "not yet");
            Ok(())
        })?;
        let finished = running.end_with(Signal::Terminate)?;
        check_equal!((finished.code, finished.stdout.as_str()), (Some(3), "ready\nbye\n"));
        Ok(())
    });
}
