//! While backups are made and restored: a backup is whole or not there, and a restore leaves the old file or the new one, neither with the
//! other's journal.

use std::path::{Path, PathBuf};

use system_tests::{
    Crash, Crasher, Failure, Result, Scene, check, check_equal, check_integrity, python_code, query_text, run_to_end,
    scenario, shell, sync_engine,
};

pub(crate) const POINTS: [&str; 9] = [
    "backup-copied",
    "backup-named",
    "backup-pruned",
    "backup-summed",
    "file-restore-kept",
    "file-restore-prepared",
    "file-restore-replaced",
    "file-restore-set-aside",
    "file-restore-settled",
];

/// How many rows a file has before the backup, and how many it has when that is restored.
const ROWS: [usize; 2] = [3000, 10];

struct Bench<'s> {
    scene: &'s Scene,
    crasher: Crasher,
    file: PathBuf,
}

impl<'s> Bench<'s> {
    fn new(scene: &'s Scene, journal: &str) -> Result<Self> {
        let file = scene.path("note.db");
        let rows = format!("WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < {})", ROWS[0]);
        let table = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT)";
        shell(
            &file,
            &format!(
                "PRAGMA journal_mode = {journal}; {table}; {rows} INSERT INTO note SELECT i, printf('%0200d', i) FROM i"
            ),
        )?;
        Ok(Self { scene, crasher: Crasher::new(scene), file })
    }

    fn run(&self, words: &[&str], crash: Option<&Crash>) -> Result<system_tests::Finished> {
        let variables = crash.map(|crash| self.crasher.variables(crash)).transpose()?.unwrap_or_default();
        let mut command = std::process::Command::new(sync_engine()?);
        command.current_dir(self.scene.path("")).env("SYNC_ENGINE_BACKUP_ROOT", self.scene.path("root"));
        run_to_end(command.envs(variables).args(words))
    }

    fn dies(&self, words: &[&str], crash: &Crash) -> Result {
        let died = self.run(words, Some(crash))?;
        check_equal!(died.signal, Some(crash.signal()), "{crash:?}: {}{}", died.stdout, died.stderr);
        Ok(())
    }

    /// The files of finished backups.
    fn backups(&self) -> Result<Vec<PathBuf>> {
        let list = self.run(&["backup", "--list", "--check", "--json"], None)?.success()?;
        let list: serde_json::Value = serde_json::from_str(&list)?;
        let files = list.as_array().into_iter().flatten().filter_map(|one| one["backup"].as_str());
        Ok(files.map(PathBuf::from).collect())
    }
}

fn rows(file: &Path) -> Result<usize> {
    Ok(query_text(file, "SELECT count(*) FROM note")?.parse()?)
}

#[test]
fn a_backup_that_is_killed_is_whole_or_not_there() {
    scenario(|scene| {
        for journal in ["WAL", "DELETE"] {
            let bench = Bench::new(scene, journal)?;
            let points = ["backup-copied", "backup-summed", "backup-named"].map(|name| Crash::Point(name, 1));
            let calls = [("partial", 1), ("partial", 3), (".b3$", 1), ("Z.db$", 1), ("Z-2.db$", 1)];
            let calls = calls.map(|(part, times)| Crash::Call(part, times));
            for crash in points.iter().chain(&calls) {
                bench.run(&["backup", "note.db"], None)?.success()?;
                let died = bench.run(&["backup", "note.db"], Some(crash))?;
                // The second of a second bears another name than the first of the next.
                let named = matches!(crash, Crash::Call(part, _) if part.starts_with('Z')) && died.code == Some(0);
                check!(named || died.signal == Some(crash.signal()), "{crash:?}: {}{}", died.stdout, died.stderr);
                // The list takes only what has the right checksum.
                let after = bench.backups()?;
                let made = usize::from(named || *crash == points[2]);
                check_equal!(after.len(), 1 + made, "{crash:?}");
                after.iter().try_for_each(|file| check_integrity(file))?;
                bench.run(&["backup", "note.db"], None)?.success()?;
                let (left, backups) = (std::fs::read_dir(scene.path("root/note"))?.count(), bench.backups()?.len());
                check_equal!((left, backups), (1 + 2 * backups, 2 + made), "{crash:?}: something is left over");
                std::fs::remove_dir_all(scene.path("root"))?;
            }
            bench.run(&["backup", "note.db"], None)?.success()?;
            bench.dies(&["backup", "note.db", "--keep", "1"], &Crash::Point("backup-pruned", 1))?;
            check_equal!(bench.backups()?.len(), 1);
            bench.run(&["backup", "note.db", "--keep", "1"], None)?.success()?;
            check_equal!(std::fs::read_dir(scene.path("root/note"))?.count(), 3);
            clear(scene)?;
        }
        Ok(())
    });
}

fn clear(scene: &Scene) -> Result {
    std::fs::remove_dir_all(scene.path("root"))?;
    for entry in std::fs::read_dir(scene.path(""))? {
        let path = entry?.path();
        if path.is_file() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("note.db")) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// What a program leaves that is killed: the newest rows stand in the write-ahead log alone, or a journal is to be rolled back.
fn leave_unfinished(file: &Path) -> Result {
    let keep = ROWS[1];
    python_code(
        file,
        &format!(
            "import os\ndb.execute('DELETE FROM note WHERE id > {keep}')\ndb.execute('PRAGMA cache_size = 5')\ndb.execute('BEGIN')\n\
             db.execute('INSERT INTO note SELECT id + 100, hex(randomblob(2000)) FROM note')\nos._exit(0)"
        ),
    )
    .map(drop)
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_file_or_the_new_one() {
    scenario(|scene| {
        for journal in ["WAL", "DELETE"] {
            let points = [
                ("file-restore-prepared", false),
                ("file-restore-settled", false),
                ("file-restore-kept", false),
                ("file-restore-set-aside", false),
                ("file-restore-replaced", true),
            ];
            let points = points.map(|(name, new)| (Crash::Point(name, 1), new));
            let calls = [("restoring", 1), ("restoring", 2), ("note.db-wal$", 1), ("note.db$", 1), ("note.db$", 2)];
            let calls = calls.map(|(part, times)| (Crash::Call(part, times), false));
            for (crash, new) in points.iter().chain(&calls) {
                let bench = Bench::new(scene, journal)?;
                bench.run(&["backup", "note.db"], None)?.success()?;
                leave_unfinished(&bench.file)?;
                let died = bench.run(&["restore", "note.db", "latest"], Some(crash))?;
                if died.code == Some(0) && matches!(crash, Crash::Call(..)) {
                    // There was no such call: nothing lies in a log, or nothing is to be rolled back.
                    check_equal!(rows(&bench.file)?, ROWS[0]);
                    clear(scene)?;
                    continue;
                }
                check_equal!(died.signal, Some(crash.signal()), "{journal} {crash:?}: {}", died.stderr);
                let now = rows(&bench.file)?;
                check_equal!(now, ROWS[usize::from(!new)], "{journal} {crash:?}");
                check_integrity(&bench.file)?;
                if *new {
                    let kept = kept(scene)?;
                    let [one] = kept.as_slice() else { return Err(Failure::new(format!("{kept:?}"))) };
                    check_equal!(rows(one)?, ROWS[1]);
                }
                bench.run(&["restore", "note.db", "latest"], None)?.success()?;
                check_equal!(rows(&bench.file)?, ROWS[0], "{journal} {crash:?}");
                check_integrity(&bench.file)?;
                let kept = kept(scene)?;
                check_equal!(kept.len(), 1 + usize::from(*new), "{journal} {crash:?}: {kept:?}");
                kept.iter().try_for_each(|file| check_integrity(file))?;
                let left = std::fs::read_dir(scene.path(""))?.flatten();
                let left = left.filter(|entry| entry.file_name().to_string_lossy().contains("restoring")).count();
                check_equal!(left, 0, "{journal} {crash:?}");
                clear(scene)?;
            }
        }
        Ok(())
    });
}

/// The files that were kept.
fn kept(scene: &Scene) -> Result<Vec<PathBuf>> {
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(scene.path(""))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        check!(!name.ends_with("-wal-wal"), "{name}");
        if name.starts_with("note.db.before-restore-")
            && !name.ends_with("-wal")
            && !name.ends_with("-journal")
            && !name.ends_with("-shm")
        {
            kept.push(path);
        }
    }
    Ok(kept)
}
