//! Backups are made while programs write, are whole or not there, and the newest are kept; a restore puts one in the place of a database
//! that nobody has open, and refuses what is damaged.

mod backup {
    mod converging;
    mod making;
    mod restoring;
}

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;
use system_tests::{Finished, Result, Scene, run_to_end, sync_engine};

/// A command of the binary with a root for backups, in the test's folder.
fn command(scene: &Scene, word: &str) -> Result<Command> {
    let mut command = Command::new(sync_engine()?);
    command.current_dir(scene.path("")).env("GH_COPILOT_BACKUP_ROOT", scene.path("root")).arg(word);
    Ok(command)
}

fn run(scene: &Scene, arguments: &[&str]) -> Result<Finished> {
    let (word, rest) = arguments.split_first().unwrap_or((&"--help", &[]));
    run_to_end(command(scene, word)?.args(rest))
}

/// Makes a backup of one database; its file.
fn back_up(scene: &Scene, database: &Path) -> Result<PathBuf> {
    let made = run_to_end(command(scene, "backup")?.arg(database).arg("--json"))?.success()?;
    let made: Json = serde_json::from_str(&made)?;
    Ok(made[0]["backup"].as_str().unwrap_or_default().into())
}

/// The names in a folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// What lists of backups say.
fn listed(scene: &Scene, arguments: &[&str]) -> Result<Vec<Json>> {
    let list = run(scene, &[&["backup", "--list", "--json"], arguments].concat())?;
    Ok(serde_json::from_str(&list.stdout)?)
}
