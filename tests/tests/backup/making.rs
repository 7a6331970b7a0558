//! Making backups, keeping the newest, and listing them.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use system_tests::{
    DEADLINE, DiskFault, Machine, Result, Running, check, check_equal, check_integrity, python_code, python_script,
    query_text, run_to_end, scenario, shell,
};

use super::super::{back_up, command, listed, names, run};

const PAIR: &str = "CREATE TABLE one (id INTEGER PRIMARY KEY, n, filling BLOB); CREATE TABLE two (id INTEGER PRIMARY KEY, n, filling BLOB);
    CREATE TABLE nameless (v);
    WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 15000) INSERT INTO one SELECT i, 0, randomblob(300) FROM i;
    INSERT INTO two SELECT id, n, randomblob(300) FROM one; INSERT INTO nameless (rowid, v) VALUES (3, 'c'), (70, 'x'), (9000, 'z')";
const NOTE: &str =
    "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT); INSERT INTO note VALUES (1, 'one'), (2, 'two')";

fn sum(file: &Path, table: &str) -> Result<u64> {
    Ok(query_text(file, &format!("SELECT sum(n) + count(*) FROM {table}"))?.parse()?)
}

/// Backups while a program writes without a pause, each of one moment.
fn while_written(journal: &'static str) {
    scenario(|scene| {
        let (file, stop) = (scene.path("pair.db"), scene.path("stop"));
        shell(&file, &format!("PRAGMA journal_mode = {journal}; {PAIR}"))?;
        let mut writer = python_script("pair_writer.py");
        let writer = Running::start(writer.arg(&file).arg(&stop), &scene.path("writer"))?;
        let mut before = sum(&file, "one")?;
        for round in 0..5 {
            scene.eventually("the writer writes", || {
                check!(sum(&file, "one")? > before, "it does not");
                Ok(())
            })?;
            let backup = back_up(scene, &file)?;
            check_integrity(&backup)?;
            let now = sum(&backup, "one")?;
            check_equal!(now, sum(&backup, "two")?, "round {round}: a transaction is there in half");
            check!(now > before, "round {round}: {now} after {before}");
            check_equal!(query_text(&backup, "SELECT group_concat(rowid || v) FROM nameless")?, "3c,70x,9000z");
            check_equal!(query_text(&backup, "PRAGMA journal_mode")?, journal.to_lowercase());
            before = now;
        }
        std::fs::write(&stop, "")?;
        writer.finish(DEADLINE)?.success()?;
        check!(sum(&file, "one")? >= before, "the file lacks what a backup has");
        check_integrity(&file)
    });
}

#[test]
fn a_copy_is_of_one_moment_while_a_program_writes_with_a_write_ahead_log() {
    while_written("WAL");
}

#[test]
fn a_copy_is_of_one_moment_while_a_program_writes_with_a_rollback_journal() {
    while_written("DELETE");
}

#[test]
fn the_newest_are_kept_and_nothing_else_is_touched() {
    scenario(|scene| {
        let file = scene.path("notes.db");
        shell(&file, NOTE)?;
        let folder = scene.path("root/notes");
        back_up(scene, &file)?;
        let foreign = ["notes.db", "notes-20200101T000000Z.db.old", "other-20200101T000000Z.db", "README"];
        foreign.iter().try_for_each(|name| std::fs::write(folder.join(name), "keep me"))?;
        // What killed runs have left.
        std::fs::write(folder.join(".notes.partial"), "half")?;
        std::fs::write(folder.join("notes-20200101T000000Z.db.b3"), "sum")?;
        // From a time at which the clock was wrong.
        let ahead = folder.join("notes-20990101T000000Z.db");
        std::fs::copy(&file, &ahead)?;
        let mut made = Vec::new();
        for id in 10..16 {
            shell(&file, &format!("INSERT INTO note VALUES ({id}, 'new')"))?;
            let one = run(scene, &["backup", "notes.db", "--keep", "3", "--json"])?.success()?;
            made.push(
                serde_json::from_str::<serde_json::Value>(&one)?[0]["backup"].as_str().unwrap_or_default().to_owned(),
            );
        }
        let backups = listed(scene, &["notes.db", "--check"])?;
        let paths: Vec<&str> = backups.iter().filter_map(|one| one["backup"].as_str()).collect();
        check_equal!(paths, [ahead.display().to_string().as_str(), &made[5], &made[4]]);
        let sums: Vec<_> = backups.iter().map(|one| one["checksum"].as_str().unwrap_or_default()).collect();
        check_equal!(sums, ["missing", "right", "right"]);
        let left = names(&folder)?;
        check!(foreign.iter().all(|name| left.contains(&(*name).to_owned())), "{left:?}");
        // The owner's note, three backups, two checksums.
        check_equal!(left.len(), foreign.len() + 1 + 3 + 2, "{left:?}");
        check_equal!(query_text(Path::new(&made[5]), "SELECT count(*) FROM note")?, "8");
        Ok(())
    });
}

#[test]
fn backups_at_the_same_time_all_come_about() {
    scenario(|scene| {
        let file = scene.path("notes.db");
        shell(&file, NOTE)?;
        let start = |number: usize| -> Result<Running> {
            Running::start(command(scene, "backup")?.arg(&file), &scene.path(format!("run{number}")))
        };
        let running = (0..6).map(start).collect::<Result<Vec<_>>>()?;
        for one in running {
            one.finish(DEADLINE)?.success()?;
        }
        let backups = listed(scene, &["--check"])?;
        check_equal!(backups.len(), 6);
        check!(backups.iter().all(|one| one["checksum"] == "right"), "{backups:?}");
        Ok(())
    });
}

#[test]
fn all_databases_of_the_configuration_are_backed_up_also_after_one_that_fails() {
    scenario(|scene| {
        for name in ["a", "c"] {
            shell(&scene.path(format!("{name}.db")), NOTE)?;
        }
        let database = |name: &str, file: &str| format!("[[database]]\nname = \"{name}\"\npath = \"{file}\"\n");
        let config = ["backup", "first name", "b/c"].iter().zip(["a.db", "b.db", "c.db"]);
        let config: String = config.map(|(name, file)| database(name, file)).collect();
        std::fs::write(scene.path("sync-engine.toml"), format!("[backup]\nroot = \"here\"\nkeep = 2\n{config}"))?;
        for _ in 0..3 {
            let ended = run(scene, &["backup"])?;
            check_equal!(ended.code, Some(74), "{}", ended.stderr);
            check!(ended.stderr.contains("no backup of first name is made: cannot find"), "{}", ended.stderr);
        }
        let all = listed(scene, &[])?;
        let of = |name: &str| all.iter().filter(|one| one["database"] == name).count();
        check_equal!([of("backup"), of("b/c"), of("first name")], [2, 2, 0]);
        check_equal!(listed(scene, &["b/c"])?.len(), 2);
        check_equal!(listed(scene, &["a.db"])?.len(), 2);
        let mode = |path: &Path| -> Result<u32> {
            use std::os::unix::fs::PermissionsExt as _;
            Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
        };
        for (path, expected) in [("here", 0o700), ("here/backup", 0o700)] {
            check_equal!(mode(&scene.path(path))?, expected, "{path}");
        }
        for name in names(&scene.path("here/b%2Fc"))? {
            check_equal!(mode(&scene.path("here/b%2Fc").join(&name))?, 0o600, "{name}");
        }
        Ok(())
    });
}

#[test]
fn what_a_backup_cannot_be_made_of_is_said_and_older_ones_stay() {
    scenario(|scene| {
        let file = scene.path("notes.db");
        shell(
            &file,
            &format!(
                "{NOTE}; CREATE INDEX body ON note (body); CREATE TABLE more (v); INSERT INTO more VALUES (randomblob(9000))"
            ),
        )?;
        back_up(scene, &file)?;
        let before = names(&scene.path("root/notes"))?;
        // The index says another value than the row: the page itself is in order.
        let sound = std::fs::read(&file)?;
        let place = sound.windows(3).rposition(|bytes| bytes == b"two").unwrap_or_default();
        let mut damaged = sound.clone();
        damaged[place] = b'T';
        std::fs::write(&file, &damaged)?;
        let empty = scene.path("empty.db");
        std::fs::write(&empty, "")?;
        std::fs::write(
            scene.path("text.db"),
            "this is no database, but it is long enough to be taken for one. ".repeat(20),
        )?;
        std::fs::create_dir(scene.path("folder.db"))?;
        let cases = [
            ("notes.db", 1, "is damaged: "),
            ("empty.db", 1, "holds no database: it is empty"),
            ("text.db", 1, "is no SQLite database, or it is encrypted"),
            ("folder.db", 1, "is no file"),
            ("missing.db", 74, "No such file or directory"),
        ];
        for (name, code, words) in cases {
            let refused = run(scene, &["backup", name, "--keep", "1"])?;
            check_equal!(refused.code, Some(code), "{name}: {}", refused.stderr);
            check!(refused.stderr.contains(words), "{name}: {}", refused.stderr);
        }
        check_equal!(names(&scene.path("root/notes"))?, before);
        let none = run_to_end(
            Command::new(system_tests::sync_engine()?)
                .current_dir(scene.path(""))
                .env_remove("GH_COPILOT_BACKUP_ROOT")
                .args(["backup", "notes.db"]),
        )?;
        check_equal!(none.code, Some(78));
        check!(none.stderr.contains("--root DIR") && none.stderr.contains("GH_COPILOT_BACKUP_ROOT"), "{}", none.stderr);
        // Two databases of one name would push out each other's backups.
        std::fs::create_dir(scene.path("other"))?;
        shell(&scene.path("other/notes.db"), NOTE)?;
        let refused = run(scene, &["backup", "other/notes.db"])?;
        check_equal!(refused.code, Some(1));
        check!(refused.stderr.contains("which is another database of the same name"), "{}", refused.stderr);
        std::fs::remove_file(&file)?;
        run(scene, &["backup", "other/notes.db"])?.success().map(drop)
    });
}

/// The folder of backups is on a disk that is full, broken or cannot be written.
#[test]
fn a_disk_that_takes_no_backup_is_said_and_older_ones_stay() {
    scenario(|scene| {
        let machine = Machine::new(scene, "it")?;
        let cases = [
            (DiskFault::Full, "No space left on device", "free space there"),
            (DiskFault::Broken, "Input/output error", "check the disk"),
            (DiskFault::ReadOnly, "Permission denied", "run this as a user who may"),
        ];
        for journal in ["WAL", "DELETE"] {
            let file = scene.path(format!("{journal}.db"));
            shell(&file, &format!("PRAGMA journal_mode = {journal}; {PAIR}"))?;
            back_up(scene, &file)?;
            let folder = scene.path("root").join(journal);
            let before = names(&folder)?;
            for (fault, reason, remedy) in &cases {
                machine.disk(*fault, "partial")?;
                let mut backup = command(scene, "backup")?;
                let refused = run_to_end(backup.arg(&file).args(["--keep", "1"]).envs(machine.variables()))?;
                machine.disk(*fault, "")?;
                let told = &refused.stderr;
                check_equal!(refused.code, Some(74), "{told}");
                check!(told.contains(remedy), "{journal} {fault:?}: {told}");
                // SQLite has words of its own.
                check!(told.contains(reason) || told.contains("disk I/O error"), "{journal} {fault:?}: {told}");
                check_equal!(names(&folder)?, before, "{journal} {fault:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_table_that_only_its_application_can_check_is_copied_and_told() {
    scenario(|scene| {
        let file = scene.path("words.db");
        python_code(
            &file,
            "db.create_collation('own', lambda a, b: (a > b) - (a < b))\n\
             db.create_function('own', 1, lambda v: 1, deterministic=True)\n\
             db.execute('CREATE TABLE word (word TEXT PRIMARY KEY COLLATE own)')\n\
             db.execute('CREATE TABLE plain (id INTEGER PRIMARY KEY, v CHECK (own(v)))')\n\
             db.execute(\"INSERT INTO word VALUES ('a'), ('b')\")",
        )?;
        let made = run(scene, &["backup", "words.db", "--json"])?;
        let report: serde_json::Value = serde_json::from_str(&made.success()?)?;
        check_equal!(report[0]["unchecked"], json!([{ "table": "word", "reason": "no such collation sequence: own" }]));
        Ok(())
    });
}

/// A listing does not mind what is wrong with a backup, and tells it.
#[test]
fn a_list_tells_which_backups_are_not_what_was_written() {
    scenario(|scene| {
        let file = scene.path("notes.db");
        shell(&file, NOTE)?;
        let backups = (0..3).map(|_| back_up(scene, &file)).collect::<Result<Vec<_>>>()?;
        check_equal!(run(scene, &["backup", "--list"])?.success()?.lines().count(), 3);
        let mut bytes = std::fs::read(&backups[1])?;
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&backups[1], bytes)?;
        std::fs::write(backups[2].with_extension("db.b3"), "nonsense")?;
        let found = run(scene, &["backup", "--list", "--check", "--json"])?;
        check_equal!(found.code, Some(1));
        let list: serde_json::Value = serde_json::from_str(&found.stdout)?;
        let sums: Vec<_> = (0..3).map(|index| list[index]["checksum"].as_str().unwrap_or_default()).collect();
        check_equal!(sums, ["unreadable", "wrong", "right"]);
        let nothing = run(scene, &["backup", "--list", "--root", "elsewhere"])?;
        check!(nothing.code == Some(0) && nothing.stdout.starts_with("no backups under /"), "{}", nothing.stdout);
        check_equal!(listed(scene, &["--root", "elsewhere"])?.len(), 0);
        check_equal!(run(scene, &["backup", "--check"])?.code, Some(2));
        Ok(())
    });
}
