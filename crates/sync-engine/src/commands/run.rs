//! `sync-engine run`: the daemon.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use sync_engine::config::{self, Overrides, Settings};
use sync_engine::{Database, SyncEngine, telemetry};

use crate::cli::Run;
use crate::commands::{Signals, environment, say};

/// Runs until a signal.
pub(crate) async fn run(arguments: Run) -> anyhow::Result<ExitCode> {
    let signals = Signals::register(false)?;
    let overrides = Overrides {
        databases: arguments.databases,
        node: arguments.node,
        listen: arguments.listen,
        peers: arguments.peers,
        token_file: arguments.token_file,
    };
    let settings = config::load(arguments.config.as_deref(), &overrides, &environment())?;
    settings.require_databases()?;
    let _log = telemetry::start(&settings.log)?;
    let engine = build(&settings).await?;
    let address = engine.listen(&settings.listen.to_string()).await?;
    for peer in &settings.peers {
        engine.connect(peer).await.with_context(|| format!("peer {peer}"))?;
    }
    let names: Vec<&str> = settings.databases.iter().map(|database| database.name.as_str()).collect();
    say(&format!(
        "sync-engine {} on node {}: {} on {address}, log in {}",
        env!("CARGO_PKG_VERSION"),
        settings.node,
        names.join(", "),
        settings.log.directory.display()
    ));
    // A service manager that does not listen, or none at all, is no reason not to run.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    signals.stop().await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    engine.stop_realtime_sync().await?;
    Ok(ExitCode::SUCCESS)
}

async fn build(settings: &Settings) -> anyhow::Result<SyncEngine> {
    let mut builder = SyncEngine::builder()
        .node(settings.node.as_str())
        .cluster(settings.cluster.as_str())
        .state_dir(&settings.state_dir)
        .poll_interval(settings.poll_interval)
        .max_clock_skew(settings.max_clock_skew)
        .shutdown_grace(settings.shutdown_grace)
        .max_batch_rows(settings.max_batch_rows)
        .keep_conflicts(settings.conflicts.keep)
        .keep_conflicts_for(days(settings.conflicts.keep_days));
    if !settings.log.hook.is_empty() {
        builder = builder.log_hook_command(settings.log.hook.clone());
    }
    for database in &settings.databases {
        builder = builder.database(Database::configured(database));
    }
    Ok(builder.build().await?)
}

fn days(number: usize) -> Duration {
    Duration::from_secs(86_400).saturating_mul(u32::try_from(number).unwrap_or(u32::MAX))
}
