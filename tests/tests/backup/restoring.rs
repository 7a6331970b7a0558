//! Restoring: what is refused, and what becomes of the file that was there.

use std::path::Path;

use system_tests::{
    Cluster, DiskFault, Machine, Result, Running, Scene, Topology, check, check_equal, check_integrity, python_code,
    query_text, run_to_end, scenario, shell,
};

use super::super::{back_up, command, names, run};

const NOTE: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);
    WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 4000) INSERT INTO note SELECT i, printf('note %08d', i) FROM i";

fn count(file: &Path) -> Result<String> {
    query_text(file, "SELECT count(*) FROM note")
}

/// A file that was kept beside the database; the last of them.
fn kept(scene: &Scene) -> Result<std::path::PathBuf> {
    let names = names(&scene.path(""))?;
    let last = names.iter().rfind(|name| {
        name.starts_with("notes.db.before-restore-") && !name.ends_with("-wal") && !name.ends_with("-journal")
    });
    Ok(scene.path(last.cloned().unwrap_or_default()))
}

#[test]
fn a_backup_takes_the_place_of_a_database_which_is_kept() {
    scenario(|scene| {
        for journal in ["WAL", "DELETE", "PERSIST", "TRUNCATE"] {
            let file = scene.path("notes.db");
            shell(&file, &format!("PRAGMA journal_mode = {journal}; {NOTE}"))?;
            let backup = back_up(scene, &file)?;
            // A program that was killed: its write-ahead log, or its journal, is not folded.
            let hot = "import os\ndb.execute('DELETE FROM note WHERE id > 10')\ndb.execute('PRAGMA cache_size = 5')\ndb.execute('BEGIN')\n\
                       db.execute(\"UPDATE note SET body = body || 'half'\")\nos._exit(0)";
            python_code(&file, hot)?;
            let told = run(scene, &["restore", "notes.db", &backup.display().to_string()])?.success()?;
            check_equal!(
                (count(&file)?.as_str(), query_text(&file, "PRAGMA journal_mode")?),
                ("4000", query_text(&backup, "PRAGMA journal_mode")?)
            );
            check_integrity(&file)?;
            let kept = kept(scene)?;
            check!(told.contains(&kept.display().to_string()), "{told}");
            check_equal!(
                query_text(&kept, "SELECT count(*) || min(body) || max(body) FROM note")?,
                "10note 00000001note 00000010"
            );
            check_integrity(&kept)?;
            for name in names(&scene.path(""))? {
                if name.starts_with("notes.db") {
                    std::fs::remove_file(scene.path(name))?;
                }
            }
            std::fs::remove_dir_all(scene.path("root"))?;
        }
        Ok(())
    });
}

#[test]
fn the_owner_and_the_permissions_of_the_file_are_kept_also_through_a_link() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
    scenario(|scene| {
        let file = scene.path("notes.db");
        shell(&file, NOTE)?;
        let backup = back_up(scene, &file)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640))?;
        // Only root may give a file away; others keep their own.
        let given = chown(&file, Some(12_345), Some(12_346)).is_ok();
        symlink(&file, scene.path("link.db"))?;
        run(scene, &["restore", "link.db", &backup.display().to_string()])?.success()?;
        let now = std::fs::metadata(&file)?;
        check_equal!(now.mode() & 0o7777, 0o640);
        check!(!given || (now.uid(), now.gid()) == (12_345, 12_346), "{now:?}");
        check!(scene.path("link.db").is_symlink(), "the link is gone");
        // A file that was not there is as a program would make it.
        run(scene, &["restore", "new.db", &backup.display().to_string()])?.success()?;
        shell(&scene.path("made.db"), NOTE)?;
        let mode = |name: &str| -> Result<u32> { Ok(std::fs::metadata(scene.path(name))?.mode()) };
        check_equal!(mode("new.db")?, mode("made.db")?);
        Ok(())
    });
}

#[test]
fn which_backup_is_meant_is_said_in_several_ways() {
    scenario(|scene| {
        let file = scene.path("notes.db");
        shell(&file, NOTE)?;
        let first = back_up(scene, &file)?;
        shell(&file, "DELETE FROM note WHERE id > 100")?;
        let second = back_up(scene, &file)?;
        shell(&file, "DELETE FROM note WHERE id > 10")?;
        let name = |backup: &Path| backup.file_name().unwrap_or_default().to_string_lossy().into_owned();
        run(scene, &["restore", "notes.db", "latest"])?.success()?;
        check_equal!(count(&file)?, "100");
        run(scene, &["restore", "notes.db", &name(&first)])?.success()?;
        check_equal!(count(&file)?, "4000");
        let stamp = name(&second).replace("notes-", "").replace(".db", "");
        run(scene, &["restore", "notes.db", &stamp])?.success()?;
        check_equal!(count(&file)?, "100");
        for (word, reason) in
            [("yesterday", "there are:"), ("1999-01-01", "there are:"), ("no/such.db", "there is no file")]
        {
            let refused = run(scene, &["restore", "notes.db", word])?;
            check!(refused.code == Some(1) && refused.stderr.contains(reason), "{word}: {}", refused.stderr);
        }
        let other = run(scene, &["restore", "other.db", "latest"])?;
        check!(other.code == Some(1) && other.stderr.contains("there is no backup of other"), "{}", other.stderr);
        let named = run(scene, &["restore", "other.db", &first.display().to_string(), "--json"])?;
        check!(named.stderr.contains("is by its name a backup of notes, not of other"), "{}", named.stderr);
        let told: serde_json::Value = serde_json::from_str(&named.success()?)?;
        check_equal!((&told["kept"], &told["new_origin"]), (&serde_json::Value::Null, &serde_json::Value::Bool(false)));
        Ok(())
    });
}

#[test]
fn what_is_damaged_or_no_backup_is_refused_and_nothing_is_touched() {
    scenario(|scene| {
        let file = scene.path("notes.db");
        shell(&file, &format!("{NOTE}; CREATE INDEX body ON note (body)"))?;
        let backup = back_up(scene, &file)?;
        shell(&file, "DELETE FROM note WHERE id > 10")?;
        let (before, sound) = (std::fs::read(&file)?, std::fs::read(&backup)?);
        let in_row = sound.windows(13).position(|bytes| bytes == b"note 00002000").unwrap_or_default();
        check!(in_row > 0, "the row is not where it was");
        for place in [0, 30, 100, in_row + 7, sound.len() / 2, sound.len() - 1] {
            let mut damaged = sound.clone();
            damaged[place] ^= 0x10;
            std::fs::write(&backup, &damaged)?;
            let refused = run(scene, &["restore", "notes.db", "latest"])?;
            check_equal!(refused.code, Some(1), "{place}: {}", refused.stderr);
            check!(refused.stderr.contains("is damaged: its checksum is"), "{place}: {}", refused.stderr);
        }
        std::fs::write(&backup, &sound[..sound.len() / 2])?;
        check_equal!(run(scene, &["restore", "notes.db", "latest"])?.code, Some(1));
        // Without a checksum SQLite's own check is left.
        std::fs::write(&backup, &sound)?;
        std::fs::remove_file(backup.with_extension("db.b3"))?;
        let page = |from: usize| -> Vec<u8> { [&sound[..from], &[0x55; 4096][..], &sound[from + 4096..]].concat() };
        let cases: [(&[u8], &str); 5] = [
            (&sound[..sound.len() / 2], "is damaged"),
            (&page(sound.len() / 8192 * 4096), "is damaged"),
            (b"", "is empty"),
            (&[0x42; 9000], "is no SQLite database"),
            (&page(0), "is no SQLite database"),
        ];
        for (bytes, words) in cases {
            std::fs::write(&backup, bytes)?;
            let refused = run(scene, &["restore", "notes.db", "latest"])?;
            check_equal!(refused.code, Some(1), "{words}: {}", refused.stderr);
            check!(
                refused.stderr.contains(words) && refused.stderr.contains("has no checksum"),
                "{words}: {}",
                refused.stderr
            );
        }
        std::fs::write(&backup, &sound)?;
        std::fs::write(format!("{}-wal", backup.display()), "frames")?;
        let unfinished = run(scene, &["restore", "notes.db", "latest"])?;
        check!(
            unfinished.code == Some(1) && unfinished.stderr.contains("is no finished backup"),
            "{}",
            unfinished.stderr
        );
        let itself = run(scene, &["restore", "notes.db", "./notes.db"])?;
        check!(itself.code == Some(1) && itself.stderr.contains("is the database itself"), "{}", itself.stderr);
        check!(std::fs::read(&file)? == before, "the file was touched");
        let left: Vec<String> = names(&scene.path(""))?.into_iter().filter(|name| name.starts_with("notes")).collect();
        check_equal!(left, ["notes.db"]);
        Ok(())
    });
}

/// A program that has a file open, and at the end of a transaction no lock.
fn opener(scene: &Scene, file: &Path, name: &str, code: &str) -> Result<Running> {
    let ready = scene.path(format!("{name} ready"));
    let program = format!(
        "import sqlite3, sys, time\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\n{code}\nopen(sys.argv[2], 'w').close()\ntime.sleep(600)"
    );
    let mut python = std::process::Command::new("python3");
    let running = Running::start(python.args(["-B", "-c", &program]).arg(file).arg(&ready), &scene.path(name))?;
    scene.eventually("it has the file open", || Ok(std::fs::metadata(&ready).map(drop)?))?;
    Ok(running)
}

#[test]
fn a_database_that_a_program_has_open_is_not_replaced() {
    scenario(|scene| {
        let read = "db.execute('SELECT count(*) FROM note').fetchone()";
        let cases = [
            ("WAL", read),
            ("DELETE", read),
            ("DELETE", "db.execute('BEGIN')\ndb.execute('SELECT * FROM note').fetchone()"),
            ("WAL", "db.execute('BEGIN IMMEDIATE')\ndb.execute('DELETE FROM note')"),
            ("DELETE", "db.execute('BEGIN EXCLUSIVE')\ndb.execute('DELETE FROM note')"),
        ];
        for (round, (journal, code)) in cases.into_iter().enumerate() {
            let name = format!("notes{round}");
            let file = scene.path(format!("{name}.db"));
            shell(&file, &format!("PRAGMA journal_mode = {journal}; {NOTE}"))?;
            back_up(scene, &file)?;
            let opener = opener(scene, &file, &name, code)?;
            let refused = run_to_end(command(scene, "restore")?.arg(&file).arg("latest"))?;
            check_equal!(refused.code, Some(1), "{journal}, {code}: {}", refused.stderr);
            let named = format!("pid {}, ", opener.pid());
            check!(refused.stderr.contains(&named) && refused.stderr.contains("stop that first"), "{}", refused.stderr);
            opener.kill()?;
            run_to_end(command(scene, "restore")?.arg(&file).arg("latest"))?.success()?;
            check_equal!(count(&file)?, "4000");
        }
        Ok(())
    });
}

/// What is damaged cannot be folded; it is kept as it is, with its write-ahead log.
#[test]
fn a_damaged_database_is_replaced_and_kept_with_all_that_lies_beside_it() {
    scenario(|scene| {
        let file = scene.path("notes.db");
        shell(&file, &format!("PRAGMA journal_mode = WAL; {NOTE}"))?;
        back_up(scene, &file)?;
        // Nothing of the first page, which tells that this is a database.
        python_code(&file, "import os\ndb.execute('UPDATE note SET body = id WHERE id < 10')\nos._exit(0)")?;
        let wal = scene.path("notes.db-wal");
        let log = std::fs::read(&wal)?;
        check!(!log.is_empty(), "there is no log");
        let garbage = vec![0x42_u8; 50_000];
        std::fs::write(&file, &garbage)?;
        run(scene, &["restore", "notes.db", "latest"])?.success()?;
        check!(!wal.exists(), "the log is beside another file");
        check_equal!(count(&file)?, "4000");
        check_integrity(&file)?;
        let kept = kept(scene)?;
        check!(std::fs::read(&kept)? == garbage, "the damaged file is another one");
        check!(std::fs::read(format!("{}-wal", kept.display()))? == log, "its log is another one");
        // Somebody removed the file, and not what lies beside it.
        python_code(&file, "import os\ndb.execute('DELETE FROM note WHERE id > 10')\nos._exit(0)")?;
        std::fs::remove_file(&file)?;
        check!(wal.exists(), "there is no log");
        run(scene, &["restore", "notes.db", "latest"])?.success()?;
        check_equal!(count(&file)?, "4000");
        check_integrity(&file)
    });
}

#[test]
fn a_disk_that_is_full_or_broken_leaves_the_database_as_it_was() {
    scenario(|scene| {
        let machine = Machine::new(scene, "it")?;
        let file = scene.path("notes.db");
        shell(&file, NOTE)?;
        back_up(scene, &file)?;
        shell(&file, "DELETE FROM note WHERE id > 10")?;
        let cases = [
            (DiskFault::Full, "restoring", "No space left on device", 74),
            (DiskFault::Broken, "restoring", "Input/output error", 74),
            (DiskFault::Denied, "Z.db", "Permission denied", 74),
            (DiskFault::ReadOnly, "notes.db", "Permission denied", 74),
        ];
        for (fault, part, reason, code) in cases {
            machine.disk(fault, part)?;
            let mut restore = command(scene, "restore")?;
            let refused = run_to_end(restore.arg(&file).arg("latest").envs(machine.variables()))?;
            machine.disk(fault, "")?;
            check_equal!(refused.code, Some(code), "{fault:?}: {}", refused.stderr);
            check!(refused.stderr.contains(reason), "{fault:?}: {}", refused.stderr);
            check_equal!(count(&file)?, "10", "{fault:?}");
            let left = names(&scene.path(""))?.into_iter().filter(|name| name.starts_with("notes")).count();
            check_equal!(left, 1, "{fault:?}: {:?}", names(&scene.path(""))?);
        }
        run(scene, &["restore", "notes.db", "latest"])?.success().map(drop)
    });
}

/// A daemon that waits for its file has nothing open, and takes what comes.
#[test]
fn a_daemon_that_waits_for_its_file_goes_on_with_the_restored_one() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Mesh)?;
        cluster.create("CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)")?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one')")?;
        cluster.settled()?;
        let backup = back_up(scene, cluster.file(0))?;
        shell(cluster.file(1), "INSERT INTO note VALUES (2, 'two'); DELETE FROM note WHERE id = 1")?;
        cluster.settled()?;
        std::fs::remove_file(cluster.file(0))?;
        scene.eventually("it is missed", || {
            check_equal!(cluster.nodes[0].database_status("notes")?["state"], "missing");
            Ok(())
        })?;
        run_to_end(command(scene, "restore")?.arg(cluster.file(0)).arg(&backup))?.success()?;
        let rows = cluster.settled()?;
        check_equal!(rows.count("note"), 1);
        check_equal!(query_text(cluster.file(0), "SELECT body FROM note")?, "two");
        Ok(())
    });
}
