//! The folder of a test, and the waiting in it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{Failure, Result};

/// How long a condition may take. Generous: it bounds a failure, it does not measure.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// How much of each log a failure shows.
const TAIL_LINES: usize = 25;

/// The folder in which a test happens; it goes when the test ends.
pub struct Scene {
    folder: tempfile::TempDir,
}

/// Runs a test in its own folder; a failure panics with its reason and the ends of the daemons' logs.
///
/// # Panics
/// When the test fails, or its folder cannot be made.
pub fn scenario(test: impl FnOnce(&Scene) -> Result) {
    let outcome = Scene::new()
        .and_then(|scene| test(&scene).map_err(|failure| Failure::new(format!("{failure}\n{}", scene.log_tails()))));
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

impl Scene {
    /// A folder of its own, for what several tests use.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::Builder::new().prefix("sync-engine-test-").tempdir()? })
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder of its own in this one, for a part of the test.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn room(&self) -> Result<Self> {
        Ok(Self { folder: tempfile::Builder::new().prefix("room-").tempdir_in(self.folder.path())? })
    }

    /// Awaits a condition; see [`Self::within`].
    ///
    /// # Errors
    /// The condition did not come about; the last reason is told.
    #[track_caller]
    pub fn eventually<T>(&self, what: &str, condition: impl FnMut() -> Result<T>) -> Result<T> {
        Self::within(DEADLINE, what, condition)
    }

    /// Tries a condition again, with growing pauses, until it holds or the deadline has passed.
    ///
    /// # Errors
    /// The condition did not come about; the last reason is told.
    #[track_caller]
    pub fn within<T>(deadline: Duration, what: &str, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            match condition() {
                Ok(value) => return Ok(value),
                Err(reason) if begin.elapsed() > deadline => {
                    return Err(Failure::new(format!("not within {deadline:?}: {what}\n  {reason}")));
                }
                Err(_) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(300));
                }
            }
        }
    }

    /// The ends of what the daemons of this test logged.
    fn log_tails(&self) -> String {
        let mut files = Vec::new();
        collect_logs(self.folder.path(), &mut files);
        files.sort();
        let mut text = String::new();
        for file in files {
            let bytes = std::fs::read(&file).unwrap_or_default();
            let content = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = content.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            if !tail.is_empty() {
                let _ = writeln!(text, "--- {}\n{}", file.display(), tail.join("\n"));
            }
        }
        text
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tails());
        }
    }
}

fn collect_logs(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            collect_logs(&path, files);
        } else if name.ends_with(".stderr") || name.starts_with("synchronization.log") {
            files.push(path);
        }
    }
}
