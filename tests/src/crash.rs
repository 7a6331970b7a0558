//! Killing a process at a chosen place.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, Scene, run_to_end};

/// Where a process is to be killed. It is not asked, and does nothing any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Crash {
    /// At a fail point of the program, when it comes to it for so many times.
    Point(&'static str, u32),
    /// In the middle of a call that changes a file whose path holds a text, or ends with it where the text ends with `$`, when there were
    /// so many.
    Call(&'static str, u32),
}

/// What has processes killed.
pub struct Crasher {
    library: PathBuf,
}

impl Crasher {
    /// What has processes of a test killed.
    #[must_use]
    pub fn new(scene: &Scene) -> Self {
        Self { library: scene.path("crash_at_call.so") }
    }

    /// The variables of the environment that have a process killed there.
    ///
    /// # Errors
    /// What is loaded into a process that is to be killed in a call cannot be compiled: there is no C compiler, or it fails.
    pub fn variables(&self, crash: &Crash) -> Result<Vec<(&'static str, String)>> {
        match crash {
            Crash::Point(name, times) => Ok(vec![("SYNC_ENGINE_FAIL_POINT", format!("{name}:{times}"))]),
            Crash::Call(part, times) => {
                self.compile()?;
                Ok(vec![
                    ("SYNC_ENGINE_CRASH_CALL", format!("{part}:{times}")),
                    ("LD_PRELOAD", self.library.display().to_string()),
                ])
            }
        }
    }

    fn compile(&self) -> Result {
        if self.library.exists() {
            return Ok(());
        }
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&self.library).arg(crate::data_file("crash_at_call.c"));
        run_to_end(&mut compiler)?.success().map(drop)
    }
}

impl Crash {
    /// The signal that ends the process.
    #[must_use]
    pub fn signal(&self) -> i32 {
        match self {
            Self::Point(..) => 6,
            Self::Call(..) => 9,
        }
    }
}

/// The names of all fail points in the sources under a folder.
///
/// # Errors
/// A file cannot be read.
pub fn fail_points(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.is_dir() {
            found.extend(fail_points(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path)?;
            for call in text.split("fail_point(").skip(1) {
                let arguments = call.split(';').next().unwrap_or_default();
                found.extend(arguments.split('"').skip(1).step_by(2).map(str::to_owned));
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}
