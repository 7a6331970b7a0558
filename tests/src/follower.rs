//! Programs that follow `/v1/changes`: `curl -N`, a Python script with the `websockets` package, and `sync-engine tail`. Each is a
//! process of its own; what it was shown is gathered here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value as Json;

use crate::{DEADLINE, Failure, Result, Scene, Signal, data_file, fail, python_with};

/// What a client was shown.
#[derive(Debug, Default)]
pub struct ChangeLog {
    /// The events, in their order.
    pub events: Vec<Json>,
    /// Ids that came more than once.
    pub repeated: Vec<String>,
    /// How often the connection broke.
    pub cuts: usize,
    /// Why it got no more, in the server's words.
    pub refused: Vec<String>,
    ids: BTreeSet<String>,
    rows: BTreeMap<(String, String, String), Json>,
}

impl ChangeLog {
    fn take(&mut self, event: Json) {
        if let Some(reason) = event["error"].as_str() {
            return self.refused.push(reason.to_owned());
        }
        if event["cut"] == true {
            return self.cuts += 1;
        }
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        if !self.ids.insert(text("id")) {
            self.repeated.push(text("id"));
        }
        let place = (text("database"), text("table"), event["key"].to_string());
        match &event["row"] {
            Json::Null => drop(self.rows.remove(&place)),
            row => drop(self.rows.insert(place, row.clone())),
        }
        self.events.push(event);
    }

    /// The rows of a table as the events tell them, in the order of their keys as text.
    #[must_use]
    pub fn rows(&self, database: &str, table: &str) -> Vec<Json> {
        let of = |(place, _): &(&(String, String, String), &Json)| place.0 == database && place.1 == table;
        self.rows.iter().filter(of).map(|(_, row)| row.clone()).collect()
    }

    /// What the events did to rows: `op table key`.
    #[must_use]
    pub fn ops(&self) -> Vec<String> {
        let text = |event: &Json, name: &str| event[name].as_str().unwrap_or_default().to_owned();
        self.events
            .iter()
            .map(|event| format!("{} {} {}", text(event, "op"), text(event, "table"), event["key"]))
            .collect()
    }
}

/// A program that follows changes; dropping it ends it.
pub struct Follower {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    log: Mutex<ChangeLog>,
    over: AtomicBool,
    child: Mutex<Option<Child>>,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, ChangeLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a program and hands its lines on until it ends.
    fn run(&self, command: &mut Command, mut line: impl FnMut(&str)) -> Result {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let Some(output) = child.stdout.take() else { fail!("no output") };
        *self.child() = Some(child);
        if self.over.load(Ordering::SeqCst) {
            self.kill();
        }
        let mut output = BufReader::new(output);
        let mut text = String::new();
        // What has no end was cut off.
        while output.read_line(&mut text).is_ok_and(|read| read > 0) && text.ends_with('\n') {
            line(text.trim_end_matches(['\r', '\n']));
            text.clear();
        }
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            child.wait()?;
        }
        Ok(())
    }

    fn kill(&self) {
        if let Some(child) = self.child().as_mut() {
            let _ = child.kill();
        }
    }

    /// Awaits that somebody listens at a URL again, unless it is over.
    fn reachable(&self, url: &str) -> Result {
        let authority = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
        Scene::within(DEADLINE, "the daemon is back", || {
            if self.over.load(Ordering::SeqCst) { Ok(()) } else { Ok(TcpStream::connect(authority).map(drop)?) }
        })
    }

    /// One connection of `curl -N`; whether another is to follow.
    fn curl(&self, url: &str, last: &mut Option<String>) -> Result<bool> {
        let mut command = Command::new("curl");
        command.args(["-s", "-N", "-S", "--fail-with-body", "--no-buffer", "-w", "\nhttp %{http_code}\n"]);
        if let Some(last) = last {
            command.args(["-H", &format!("Last-Event-ID: {last}")]);
        }
        let (mut data, mut id, mut status, mut body) = (None, None, None, String::new());
        self.run(command.arg(url), |line| {
            if let Some(code) = line.strip_prefix("http ") {
                status = Some(code.to_owned());
            } else if let Some(json) = line.strip_prefix("data: ") {
                data = Some(json.to_owned());
            } else if let Some(text) = line.strip_prefix("id: ") {
                id = Some(text.to_owned());
            } else if line.is_empty() {
                if let Some(json) = data.take().and_then(|json| serde_json::from_str(&json).ok()) {
                    self.log().take(json);
                }
                *last = id.take().or(last.take());
            } else {
                body.push_str(line);
            }
        })?;
        let code = status.and_then(|status| status.parse::<u16>().ok()).unwrap_or_default();
        if (400..500).contains(&code) {
            let told: Json = serde_json::from_str(body.trim_start_matches(':')).unwrap_or_default();
            self.log().refused.push(format!("HTTP {code}: {}", told["error"].as_str().unwrap_or(&body)));
            return Ok(false);
        }
        Ok(self.log().refused.is_empty())
    }
}

impl Follower {
    /// `curl -N` on a URL of `/v1/changes`, run again with the last id whenever it ends.
    #[must_use]
    pub fn curl(url: &str) -> Self {
        let url = url.to_owned();
        Self::start(move |shared| {
            let mut last = None;
            while shared.curl(&url, &mut last)? && !shared.over.load(Ordering::SeqCst) {
                shared.log().cuts += 1;
                shared.reachable(&url)?;
            }
            Ok(())
        })
    }

    /// The Python script on a URL of `/v1/changes`, which comes back by itself.
    ///
    /// # Errors
    /// There is no Python with the package.
    pub fn socket(url: &str, since: Option<&str>) -> Result<Self> {
        let python = python_with("websockets", "install it, for example with `apt-get install python3-websockets`")?;
        let mut command = Command::new(python);
        command.arg("-B").arg(data_file("follow_socket.py")).arg(url.replace("http://", "ws://")).args(since);
        Ok(Self::lines(command))
    }

    /// A program that prints an event a line.
    #[must_use]
    pub fn lines(mut command: Command) -> Self {
        Self::start(move |shared| {
            shared.run(&mut command, |line| {
                if let Ok(json) = serde_json::from_str(line) {
                    shared.log().take(json);
                }
            })
        })
    }

    fn start(work: impl FnOnce(&Shared) -> Result + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let worker = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            if let Err(failure) = work(&worker) {
                worker.log().refused.push(failure.to_string());
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// What it was shown until now.
    pub fn log(&self) -> MutexGuard<'_, ChangeLog> {
        self.shared.log()
    }

    /// Sends the program a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result {
        match self.shared.child().as_ref() {
            Some(child) => crate::process::send(child.id(), signal),
            None => Err(Failure::new("it does not run")),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.kill();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
