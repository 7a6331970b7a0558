//! A machine that fails: its disk, the permissions of its files, its clock.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{Node, Result, Scene, run_to_end};

/// The bytes that name files, in what is shared with processes.
const PART: usize = 504;

/// What may be wrong with files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// They cannot grow.
    Full,
    /// They can neither be read nor written.
    Broken,
    /// They may not be opened for writing.
    ReadOnly,
    /// They may not be opened.
    Denied,
}

/// A machine on which a test's processes run, and what is wrong with it: at first, nothing.
pub struct Machine {
    library: PathBuf,
    shared: PathBuf,
}

impl Machine {
    /// A machine that is in order.
    ///
    /// # Errors
    /// What is loaded into its processes cannot be compiled: there is no C compiler, or it fails.
    pub fn new(scene: &Scene, name: &str) -> Result<Self> {
        let machine =
            Self { library: scene.path("machine_faults.so"), shared: scene.path(format!("machine of {name}")) };
        std::fs::write(&machine.shared, vec![0; 8 + 4 * PART])?;
        if !machine.library.exists() {
            let mut compiler = Command::new("cc");
            compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&machine.library);
            run_to_end(compiler.arg(crate::data_file("machine_faults.c")))?.success()?;
        }
        Ok(machine)
    }

    /// The variables of the environment that put a process on the machine.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.library.display().to_string()), ("SYNC_ENGINE_MACHINE", self.shared.display().to_string())]
    }

    /// Has a node's daemon run on the machine from its next start on.
    pub fn carries(&self, node: &mut Node) {
        self.variables().into_iter().for_each(|(name, value)| node.environment(name, &value));
    }

    /// Runs SQL in a `sqlite3` shell on the machine.
    ///
    /// # Errors
    /// It fails.
    #[track_caller]
    pub fn shell(&self, file: &Path, sql: &str) -> Result<String> {
        let mut command = Command::new("sqlite3");
        command.args(["-batch", "-bail", "-init", "/dev/null", "-cmd", ".timeout 30000"]).arg(file).arg(sql);
        run_to_end(command.envs(self.variables()))?.success()
    }

    /// From now on the files whose path holds a text have this fault; with an empty text no file has it.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn disk(&self, fault: DiskFault, part: &str) -> Result {
        let mut bytes = part.as_bytes().to_vec();
        bytes.resize(PART, 0);
        self.write(8 + fault as usize * PART, &bytes)
    }

    /// From now on the machine's clock is ahead of this one's.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn clock_ahead(&self, by: Duration) -> Result {
        self.clock(i64::try_from(by.as_millis())?)
    }

    /// From now on the machine's clock is behind this one's.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn clock_behind(&self, by: Duration) -> Result {
        self.clock(-i64::try_from(by.as_millis())?)
    }

    fn clock(&self, millis: i64) -> Result {
        self.write(0, &millis.to_ne_bytes())
    }

    fn write(&self, place: usize, bytes: &[u8]) -> Result {
        let mut shared = std::fs::OpenOptions::new().write(true).open(&self.shared)?;
        shared.seek(SeekFrom::Start(place as u64))?;
        shared.write_all(bytes)?;
        Ok(())
    }
}
