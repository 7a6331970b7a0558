//! `sync-engine config check` and `config show`.

use std::process::ExitCode;

use sync_engine::config::{self, Overrides};

use crate::cli::Config;
use crate::commands::{environment, say};

/// Checks or shows.
pub(crate) fn run(command: &Config) -> anyhow::Result<ExitCode> {
    let (Config::Check(arguments) | Config::Show(arguments)) = command;
    let (file, overrides) = (arguments.config.as_deref(), Overrides::default());
    let settings = match command {
        // What it names is looked at too.
        Config::Check(_) => config::load_with_access(file, &overrides, &environment())?.0,
        Config::Show(_) => config::load(file, &overrides, &environment())?,
    };
    match command {
        Config::Show(_) if arguments.json => say(&settings.to_json()),
        Config::Show(_) => say(settings.to_toml().trim_end()),
        Config::Check(_) if arguments.json => say(r#"{"ok": true}"#),
        Config::Check(_) => {
            let file = settings.file.as_ref().map_or_else(|| "defaults".to_owned(), |file| file.display().to_string());
            let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
            let (databases, peers) = (settings.databases.len(), settings.peers.len());
            say(&format!("ok: {file}, {}, {}", counted(databases, "database"), counted(peers, "peer")));
        }
    }
    Ok(ExitCode::SUCCESS)
}
