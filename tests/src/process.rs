//! Processes that a test starts, and only those.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::{Failure, Result, Scene};

/// How long a process may take to end when it was asked to.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// The signals that tests send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Please stop.
    Terminate,
    /// Ctrl-C.
    Interrupt,
    /// Read the configuration again.
    HangUp,
    /// Stand still.
    Pause,
    /// Go on.
    Continue,
}

/// A process that runs beside the test; dropping it kills it.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The number of the signal that ended it.
    pub signal: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

impl Running {
    /// Starts a command, its output going to `<outputs>.stdout` and `<outputs>.stderr`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command, outputs: &Path) -> Result<Self> {
        let stdout = outputs.with_extension("stdout");
        let stderr = outputs.with_extension("stderr");
        let append = |path: &Path| std::fs::OpenOptions::new().create(true).append(true).open(path);
        let child = command
            .stdin(Stdio::null())
            .stdout(append(&stdout)?)
            .stderr(append(&stderr)?)
            .spawn()
            .map_err(|error| Failure::new(format!("{}: {error}", command.get_program().display())))?;
        Ok(Self { child, stdout, stderr })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed until now.
    #[must_use]
    pub fn output(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it has complained until now.
    #[must_use]
    pub fn complaints(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// Its exit status, once it has ended.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended already.
    pub fn signal(&self, signal: Signal) -> Result {
        send(self.child.id(), signal)
    }

    /// How many bytes of memory it has taken at most so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|text| text.split_whitespace().next()).and_then(|text| text.parse::<u64>().ok());
        Ok(1024 * kib.ok_or_else(|| Failure::new(status.clone()))?)
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(mut self) -> Result {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Awaits its end.
    ///
    /// # Errors
    /// It does not end in time; it is killed then.
    pub fn finish(mut self, deadline: Duration) -> Result<Finished> {
        let status = Scene::within(deadline, "the process ends", || {
            self.child.try_wait()?.ok_or_else(|| Failure::new("it still runs"))
        })?;
        let (code, signal) = (status.code(), status.signal());
        Ok(Finished { code, signal, stdout: self.output(), stderr: self.complaints() })
    }

    /// Sends a signal and awaits the end.
    ///
    /// # Errors
    /// It does not end in time; it is killed then.
    pub fn end_with(self, signal: Signal) -> Result<Finished> {
        self.signal(signal)?;
        self.finish(END_DEADLINE)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started.
pub fn run_to_end(command: &mut Command) -> Result<Finished> {
    run_with_input(command, "")
}

/// Runs a command to its end with a text as its input, which must be small enough to be taken before it prints much.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> Result<Finished> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::new(format!("{}: {error}", command.get_program().display())))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command that ends without reading tells more by its exit code than by the broken pipe.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    Ok(Finished {
        code: output.status.code(),
        signal: output.status.signal(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

impl Finished {
    /// Its output, when it ended with 0.
    ///
    /// # Errors
    /// It ended otherwise.
    #[track_caller]
    pub fn success(self) -> Result<String> {
        if self.code == Some(0) {
            return Ok(self.stdout);
        }
        Err(Failure::new(format!("ended with {:?}\n{}\n{}", self.code, self.stdout, self.stderr)))
    }
}

/// Sends a process a signal.
pub(crate) fn send(process: u32, signal: Signal) -> Result {
    let name = match signal {
        Signal::Terminate => "-TERM",
        Signal::Interrupt => "-INT",
        Signal::HangUp => "-HUP",
        Signal::Pause => "-STOP",
        Signal::Continue => "-CONT",
    };
    let sent = Command::new("kill").args([name, &process.to_string()]).status()?;
    if !sent.success() {
        return Err(Failure::new(format!("kill {name}: {sent}")));
    }
    Ok(())
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
