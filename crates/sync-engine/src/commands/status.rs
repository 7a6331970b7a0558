//! `sync-engine status`: asks the running daemon.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sync_engine::config::{self, Overrides};
use sync_engine::status::Status as Report;

use crate::cli::Status;
use crate::commands::{NO, environment, say};

/// How long the daemon may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Prints what the daemon says of itself.
pub(crate) fn run(arguments: &Status) -> anyhow::Result<ExitCode> {
    let authority = authority(arguments)?;
    let body = match get(&authority, "/v1/status") {
        Ok(body) => body,
        Err(error) => {
            // Where standard error is gone there is nobody to tell.
            let _ = writeln!(
                std::io::stderr(),
                "sync-engine: no daemon answers at http://{authority} ({error:#}); start one with: sync-engine run DB"
            );
            return Ok(NO.into());
        }
    };
    let report: Report = serde_json::from_str(&body).context("the daemon's answer is of another version")?;
    if arguments.json {
        say(body.trim_end());
    } else {
        show(&report);
    }
    Ok(if report.healthy { ExitCode::SUCCESS } else { NO.into() })
}

fn authority(arguments: &Status) -> anyhow::Result<String> {
    if let Some(url) = &arguments.url {
        let Some(rest) = url.strip_prefix("http://") else { bail!("{url:?} is not of the form http://HOST:PORT") };
        return Ok(rest.trim_end_matches('/').to_owned());
    }
    Ok(config::load(arguments.config.as_deref(), &Overrides::default(), &environment())?.listen.to_string())
}

fn get(authority: &str, path: &str) -> anyhow::Result<String> {
    let address = authority.to_socket_addrs()?.next().context("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer).context("the answer is not text")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("it answered: {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

fn show(report: &Report) {
    say(&format!("node {}, version {}, up {} s", report.node, report.version, report.uptime_seconds));
    for database in &report.databases {
        say(&format!(
            "database {} ({}): {}, sequence {}, {} tables, backlog {}, conflicts {}",
            database.name,
            database.path,
            database.state,
            database.sequence,
            database.tables.len(),
            database.backlog,
            database.conflicts
        ));
        for error in &database.errors {
            say(&format!("  error: {error}"));
        }
        for table in &database.unsynced {
            say(&format!("  not synced: {} ({})", table.table, table.reason));
        }
    }
    for peer in &report.peers {
        let name = peer.node.as_deref().unwrap_or("?");
        say(&format!("peer {name} ({}): {}, in {} B, out {} B", peer.url, peer.state, peer.bytes_in, peer.bytes_out));
        for database in &peer.databases {
            say(&format!("  {}: behind {}, for {} ms", database.name, database.behind, database.lag_ms));
        }
        if let Some(error) = &peer.last_error {
            say(&format!("  last error: {error}"));
        }
    }
}
