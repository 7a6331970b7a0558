//! `sync-engine run`: the daemon.

use std::process::ExitCode;

use anyhow::Context as _;
use sync_engine::config::{Overrides, Settings};
use sync_engine::{SyncEngine, telemetry};

use crate::cli::Run;
use crate::commands::reload::{Reloader, Sources};
use crate::commands::say;
use crate::commands::service::ServiceManager;
use crate::commands::signals::{HangUp, Signals};

/// Runs until a signal.
pub(crate) async fn run(arguments: Run) -> anyhow::Result<ExitCode> {
    let signals = Signals::register(HangUp::Reloads)?;
    let manager = ServiceManager::of_this_process()?;
    let overrides = Overrides {
        databases: arguments.databases,
        node: arguments.node,
        listen: arguments.listen,
        peers: arguments.peers,
        token_file: arguments.token_file,
    };
    let sources = Sources { file: arguments.config, overrides };
    let (present, access) = sources.read()?;
    let log = telemetry::start(&present.log)?;
    let engine = tokio::select! {
        biased;
        () = signals.stop() => return Ok(ExitCode::SUCCESS),
        engine = SyncEngine::builder().configured(&present).access(access).build() => engine?,
    };
    // The log goes on until it is dropped, at the very end.
    let mut reloader = Reloader { sources, present, log, manager: manager.clone() };
    let outcome = serve(&engine, &signals, &mut reloader).await;
    manager.stop(engine, reloader.present.shutdown_grace).await?;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Serves until somebody asks to stop.
async fn serve(engine: &SyncEngine, signals: &Signals, reloader: &mut Reloader) -> anyhow::Result<()> {
    tokio::select! {
        biased;
        () = signals.stop() => return Ok(()),
        begun = begin(engine, &reloader.present) => begun?,
    }
    reloader.manager.ready();
    let manager = reloader.manager.clone();
    tokio::select! {
        biased;
        () = until_stopped(engine, signals, reloader) => Ok(()),
        never = manager.attend(engine) => match never {},
    }
}

/// Reads the configuration again whenever somebody asks for it.
async fn until_stopped(engine: &SyncEngine, signals: &Signals, reloader: &mut Reloader) {
    loop {
        tokio::select! {
            biased;
            () = signals.stop() => return,
            () = signals.reload() => {}
        }
        // What it has not come to is left undone; the next start does all of it.
        tokio::select! {
            biased;
            () = signals.stop() => return,
            () = reloader.reload(engine) => {}
        }
    }
}

/// Listens and dials.
async fn begin(engine: &SyncEngine, settings: &Settings) -> anyhow::Result<()> {
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
    Ok(())
}
