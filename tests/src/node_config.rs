//! The configuration file of a node under test.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What a node's configuration file says.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeConfig {
    /// Whether it looks at its files as seldom as one does of which nothing is said.
    pub(crate) as_installed: bool,
    pub(crate) peers: Vec<String>,
    pub(crate) settings: Vec<String>,
    pub(crate) log_settings: Vec<String>,
    pub(crate) databases: Vec<DatabaseConfig>,
}

/// One `[[database]]`.
#[derive(Debug, Clone)]
pub(crate) struct DatabaseConfig {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) settings: Vec<String>,
}

impl NodeConfig {
    /// The file's text.
    pub(crate) fn render(&self, node: &str, port: u16, folder: &Path) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "node = {node:?}");
        let _ = writeln!(text, "listen = \"127.0.0.1:{port}\"");
        if !self.peers.is_empty() {
            let _ = writeln!(text, "peers = {:?}", self.peers);
        }
        let _ = writeln!(text, "state_dir = {:?}", folder.join("state"));
        if !self.as_installed {
            let _ = writeln!(text, "poll_interval = \"200ms\"");
        }
        for setting in &self.settings {
            let _ = writeln!(text, "{setting}");
        }
        let _ = writeln!(text, "\n[log]\ndirectory = {:?}", folder.join("logs"));
        for setting in &self.log_settings {
            let _ = writeln!(text, "{setting}");
        }
        for database in &self.databases {
            let _ = writeln!(text, "\n[[database]]\nname = {:?}\npath = {:?}", database.name, database.path);
            for setting in &database.settings {
                let _ = writeln!(text, "{setting}");
            }
        }
        text
    }
}
