//! A node: one daemon with its folder, configuration and databases.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::node_config::{DatabaseConfig, NodeConfig};
use crate::{Failure, Finished, HttpAnswer, Result, Running, Scene, Signal, sync_engine};

/// Below the range from which the system takes the ports of outgoing connections: a node that is down must find its
/// port free when it comes back.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;

/// A daemon that can be started and stopped again, with what stays between its lives.
pub struct Node {
    name: String,
    port: u16,
    folder: PathBuf,
    config: NodeConfig,
    environment: Vec<(String, String)>,
    running: Option<Running>,
    scheme: &'static str,
    /// Whether its status is asked for with its own command, which shows what the daemon asks for.
    guarded: bool,
}

impl Node {
    /// A node with its own folder and port, not yet started.
    ///
    /// # Errors
    /// Its folder cannot be made, or no port is free.
    pub fn new(scene: &Scene, name: &str) -> Result<Self> {
        let folder = scene.path(name);
        std::fs::create_dir_all(&folder)?;
        Ok(Self {
            name: name.to_owned(),
            port: free_port()?,
            folder,
            config: NodeConfig::default(),
            environment: Vec::new(),
            running: None,
            scheme: "ws",
            guarded: false,
        })
    }

    /// Its configuration asks for a token or a certificate: its status is asked for with its own command.
    pub fn guarded(&mut self) {
        self.guarded = true;
    }

    /// The same, and it is dialed with TLS.
    pub fn encrypted(&mut self) {
        (self.scheme, self.guarded) = ("wss", true);
    }

    /// Leaves what tests set for all nodes as it is by default.
    pub fn as_installed(&mut self) {
        self.config.as_installed = true;
    }

    /// Adds a database by its shared name; the file is `<node>/<name>.db`, which is returned.
    pub fn database(&mut self, name: &str) -> PathBuf {
        let path = self.folder.join(format!("{name}.db"));
        self.database_at(name, &path);
        path
    }

    /// Adds a database at a path.
    pub fn database_at(&mut self, name: &str, path: &Path) {
        self.config.databases.push(DatabaseConfig {
            name: name.to_owned(),
            path: path.to_owned(),
            settings: Vec::new(),
        });
    }

    /// Removes the last database from the configuration.
    pub fn without_database(&mut self) {
        self.config.databases.pop();
    }

    /// Adds a line to the last database's part of the configuration.
    pub fn database_setting(&mut self, line: &str) {
        if let Some(database) = self.config.databases.last_mut() {
            database.settings.push(line.to_owned());
        }
    }

    /// Removes a line from the last database's part of the configuration.
    pub fn without_database_setting(&mut self, line: &str) {
        if let Some(database) = self.config.databases.last_mut() {
            database.settings.retain(|known| known != line);
        }
    }

    /// Adds a peer that this node dials.
    pub fn peer(&mut self, other: &Self) {
        self.peer_url(&other.url());
    }

    /// Adds a peer by its URL.
    pub fn peer_url(&mut self, url: &str) {
        self.config.peers.push(url.to_owned());
    }

    /// Removes a peer from the configuration.
    pub fn without_peer(&mut self, other: &Self) {
        let url = other.url();
        self.config.peers.retain(|known| *known != url);
    }

    /// Removes all peers that this node dials.
    pub fn without_peers(&mut self) {
        self.config.peers.clear();
    }

    /// Adds a line to the top of the configuration.
    pub fn setting(&mut self, line: &str) {
        self.config.settings.push(line.to_owned());
    }

    /// Removes a line from the top of the configuration.
    pub fn without_setting(&mut self, line: &str) {
        self.config.settings.retain(|known| known != line);
    }

    /// Adds a line to the configuration's part about the log.
    pub fn log_setting(&mut self, line: &str) {
        self.config.log_settings.push(line.to_owned());
    }

    /// Sets a variable of the daemon's environment.
    pub fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Gives the node another port, in the configuration.
    ///
    /// # Errors
    /// No port is free.
    pub fn move_port(&mut self) -> Result<u16> {
        self.port = free_port()?;
        Ok(self.port)
    }

    /// Gives the node another name than its folder has.
    pub fn rename(&mut self, name: &str) {
        name.clone_into(&mut self.name);
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL under which peers dial it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// The URL under which clients reach it.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A path in the node's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file of its first database.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self.config.databases.first() {
            Some(database) => &database.path,
            None => panic!("node {} has no database", self.name),
        }
    }

    /// Starts the daemon and awaits that it answers.
    ///
    /// # Errors
    /// It ends, or does not answer in time.
    pub fn start(&mut self) -> Result {
        self.launch()?;
        let Some(mut running) = self.running.take() else { crate::fail!("not launched") };
        let mut end = None;
        let answered = Scene::within(crate::DEADLINE, "the daemon answers", || {
            if let Some(status) = running.ended()? {
                end = Some(status);
                return Ok(());
            }
            self.status().map(drop)
        });
        match end {
            Some(status) => {
                let complaints = running.complaints();
                Err(Failure::new(format!("node {} ended with {status}: {complaints}", self.name)))
            }
            None => {
                self.running = Some(running);
                answered
            }
        }
    }

    /// Starts the daemon without awaiting anything.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn launch(&mut self) -> Result {
        self.launch_with(&[])
    }

    /// The same with more variables in its environment.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn launch_with(&mut self, variables: &[(&'static str, String)]) -> Result {
        if self.running.is_some() {
            crate::fail!("node {} runs already", self.name);
        }
        self.write_config()?;
        let mut command = self.command()?;
        command.arg("run").arg("--config").arg(self.config_file());
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        self.running = Some(Running::start(&mut command, &self.folder.join("daemon"))?);
        Ok(())
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("sync-engine.toml")
    }

    /// Writes what was said of the node into its configuration file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_config(&self) -> Result {
        Ok(std::fs::write(self.config_file(), self.config.render(&self.name, self.port, &self.folder))?)
    }

    /// Writes the configuration file and has the daemon read it again; the line of the log in which it says what became of it.
    ///
    /// # Errors
    /// It does not run, or says nothing.
    pub fn reload(&self) -> Result<String> {
        self.write_config()?;
        self.read_again()
    }

    /// Has the daemon read its configuration file again as it stands.
    ///
    /// # Errors
    /// It does not run, or says nothing.
    pub fn read_again(&self) -> Result<String> {
        let before = self.reloads().len();
        self.signal(Signal::HangUp)?;
        Scene::within(crate::DEADLINE, "the daemon has read its configuration", || {
            self.reloads().into_iter().nth(before).ok_or_else(|| Failure::new("it has not"))
        })
    }

    fn reloads(&self) -> Vec<String> {
        self.log().lines().filter(|line| line.contains("config_reload")).map(str::to_owned).collect()
    }

    /// Sends the daemon a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result {
        match &self.running {
            Some(running) => running.signal(signal),
            None => Err(Failure::new(format!("node {} does not run", self.name))),
        }
    }

    /// A `sync-engine` command in the node's folder and environment.
    ///
    /// # Errors
    /// The binary cannot be built.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(sync_engine()?);
        command.current_dir(&self.folder).envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Whether the daemon was started and not stopped since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The daemon's process.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        let running = self.running.as_ref();
        running.map(Running::pid).ok_or_else(|| Failure::new(format!("node {} does not run", self.name)))
    }

    /// Whether it has a file open now.
    ///
    /// # Errors
    /// It is not running.
    pub fn has_open(&self, file: &Path) -> Result<bool> {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid()?))?.flatten();
        Ok(open.filter_map(|open| std::fs::read_link(open.path()).ok()).any(|open| open == file))
    }

    /// How many bytes of memory the daemon has taken at most since it was started.
    ///
    /// # Errors
    /// It does not run.
    pub fn peak_memory(&self) -> Result<u64> {
        match &self.running {
            Some(running) => running.peak_memory(),
            None => crate::fail!("node {} does not run", self.name),
        }
    }

    /// Stops the daemon with SIGTERM, and takes nothing but exit code 0.
    ///
    /// # Errors
    /// It did not run, does not end, or ends otherwise.
    pub fn stop(&mut self) -> Result {
        let finished = self.end(Signal::Terminate)?;
        finished.success().map(drop).map_err(|failure| Failure::new(format!("node {}: {failure}", self.name)))
    }

    /// Ends the daemon with a signal.
    ///
    /// # Errors
    /// It did not run or does not end.
    pub fn end(&mut self, signal: Signal) -> Result<Finished> {
        self.take()?.end_with(signal)
    }

    /// Kills the daemon with SIGKILL.
    ///
    /// # Errors
    /// It did not run.
    pub fn kill(&mut self) -> Result {
        self.take()?.kill()
    }

    /// Whether the daemon has ended by itself.
    ///
    /// # Errors
    /// It was not started, or the system cannot tell.
    pub fn has_ended(&mut self) -> Result<bool> {
        let Some(running) = &mut self.running else { crate::fail!("node {} does not run", self.name) };
        Ok(running.ended()?.is_some())
    }

    /// Awaits that the daemon ends by itself.
    ///
    /// # Errors
    /// It did not run or does not end.
    pub fn finish(&mut self) -> Result<Finished> {
        self.take()?.finish(crate::DEADLINE)
    }

    fn take(&mut self) -> Result<Running> {
        self.running.take().ok_or_else(|| Failure::new(format!("node {} does not run", self.name)))
    }

    /// Gets a path over HTTP.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn get(&self, path: &str) -> Result<HttpAnswer> {
        crate::get(self.port, path)
    }

    /// Posts nothing to a path over HTTP.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn post(&self, path: &str) -> Result<HttpAnswer> {
        crate::post(self.port, path)
    }

    /// What `/v1/status` says.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        if !self.guarded {
            return self.get("/v1/status")?.json();
        }
        let mut command = self.command()?;
        command.args(["status", "--json", "--config"]).arg(self.config_file());
        let finished = crate::run_to_end(&mut command)?;
        serde_json::from_str(&finished.stdout).map_err(|_| Failure::new(finished.stderr))
    }

    /// What `/v1/status` says of a database.
    ///
    /// # Errors
    /// The daemon does not answer, or does not know it.
    pub fn database_status(&self, name: &str) -> Result<serde_json::Value> {
        let status = self.status()?;
        let databases = status["databases"].as_array().cloned().unwrap_or_default();
        databases
            .into_iter()
            .find(|database| database["name"] == name)
            .ok_or_else(|| Failure::new(format!("node {} does not know database {name}: {status}", self.name)))
    }

    /// The bytes of catch-ups that it has received and not merged.
    ///
    /// # Errors
    /// Its state folder cannot be read.
    pub fn staged(&self) -> Result<u64> {
        let mut bytes = 0;
        for file in std::fs::read_dir(self.folder.join("state"))? {
            let file = file?;
            if file.file_name().to_string_lossy().starts_with("staged-") {
                bytes += file.metadata()?.len();
            }
        }
        Ok(bytes)
    }

    /// The text of its log.
    #[must_use]
    pub fn log(&self) -> String {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.folder.join("logs"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        files
            .iter()
            .map(|file| String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned())
            .collect()
    }
}

/// A port that nobody listens on; no other node of this process is given it.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % u32::from(PORTS / 100)).unwrap_or(0) * 100;
    for _ in 0..PORTS {
        let offset = (process + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS) % PORTS;
        let port = FIRST_PORT + offset;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Failure::new("no free port"))
}
