//! Programs that write the files: Python's `sqlite3` and the `sqlite3` shell, in processes of their own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run_with_input;
use crate::{Failure, Result, Scene, fail, run_to_end};

/// A file of `tests/data`.
#[must_use]
pub fn data_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)
}

/// A command that runs a Python script of `tests/data`.
#[must_use]
pub fn python_script(name: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg("-B").arg(data_file(name));
    command
}

/// A Python that has a module: the one on the path, or the system's own, which alone sees what came as a package of the
/// system.
///
/// # Errors
/// Neither has it; the remedy is told.
#[track_caller]
pub fn python_with(module: &str, remedy: &str) -> Result<&'static str> {
    for python in ["python3", "/usr/bin/python3"] {
        let found = run_to_end(Command::new(python).args(["-B", "-c", &format!("import {module}")]));
        if found.is_ok_and(|finished| finished.code == Some(0)) {
            return Ok(python);
        }
    }
    fail!("no Python here has the module {module}: {remedy}")
}

/// Runs a Python script of `tests/data` to its end and returns what it printed.
///
/// # Errors
/// It fails.
#[track_caller]
pub fn python(name: &str, arguments: &[&dyn AsRef<OsStr>]) -> Result<String> {
    let mut command = python_script(name);
    for argument in arguments {
        command.arg(argument);
    }
    run_to_end(&mut command)?.success()
}

/// Runs Python statements with `db`, a connection to the file in autocommit mode with a busy timeout.
///
/// # Errors
/// They fail.
#[track_caller]
pub fn python_code(file: &Path, code: &str) -> Result<String> {
    let program = format!(
        "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n{code}\ndb.close()\n"
    );
    run_to_end(Command::new("python3").arg("-B").arg("-c").arg(program).arg(file))?.success()
}

/// Runs SQL in the `sqlite3` shell and returns what it printed.
///
/// # Errors
/// It fails.
#[track_caller]
pub fn shell(file: &Path, sql: &str) -> Result<String> {
    // `-init` with nothing keeps the settings of whoever runs the tests out.
    let mut command = Command::new("sqlite3");
    command.args(["-batch", "-bail", "-init", "/dev/null", "-cmd", ".timeout 30000"]).arg(file);
    // The last statement may lack its semicolon.
    run_with_input(&mut command, &format!("{sql}\n;\n"))?.success()
}

/// Does something while another program holds a file's write lock, in a transaction that has run `sql` and commits afterwards.
///
/// # Errors
/// The lock cannot be had, or what is done meanwhile fails.
#[track_caller]
pub fn while_locked(scene: &Scene, file: &Path, sql: &str, act: impl FnOnce() -> Result) -> Result {
    let (locked, released) = (scene.path("locked"), scene.path("released"));
    let text = |path: &Path| path.display().to_string();
    let hold = format!(
        "import os, time\ndb.execute('BEGIN IMMEDIATE')\ndb.execute({sql:?})\nopen({:?}, 'w').close()\n\
         while not os.path.exists({:?}): time.sleep(0.01)\ndb.execute('COMMIT')",
        text(&locked),
        text(&released)
    );
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| python_code(file, &hold));
        let held = scene.eventually("the lock is held", || Ok(std::fs::metadata(&locked).map(drop)?));
        let outcome = held.and_then(|()| act());
        std::fs::write(&released, "")?;
        holder.join().map_err(|_| Failure::new("the holder panicked"))??;
        outcome
    })
}
