//! `sync-engine forget`: a node will not come back.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::Forget;
use crate::commands::daemon::Daemon;
use crate::commands::say;

/// Tells the daemon, which tells the other nodes.
pub(crate) fn run(arguments: &Forget) -> anyhow::Result<ExitCode> {
    let path = format!("/v1/nodes/{}/forget", percent_encoded(&arguments.node));
    let answer = Daemon::find(&arguments.place)?.post(&path)?.expect_done()?;
    if arguments.json {
        say(answer.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let told: serde_json::Value = serde_json::from_str(&answer).context("the daemon's answer is of another version")?;
    let databases = told["databases"].as_array().map_or(0, Vec::len);
    let plural = if databases == 1 { "database does" } else { "databases do" };
    say(&format!("{databases} {plural} not wait for {} any more", arguments.node));
    Ok(ExitCode::SUCCESS)
}

/// A name as one segment of a path.
fn percent_encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
