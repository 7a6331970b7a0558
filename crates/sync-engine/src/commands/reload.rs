//! SIGHUP: reads the configuration again and has the running daemon go over to it.

use std::path::PathBuf;

use sync_engine::config::{self, ConfigErrors, Overrides, Settings};
use sync_engine::event::{Event, EventName};
use sync_engine::telemetry::Log;
use sync_engine::{Access, Reconfigured, SyncEngine};

use crate::commands::environment;
use crate::commands::service::ServiceManager;

/// Where the configuration comes from, as the command line said.
pub(super) struct Sources {
    pub(super) file: Option<PathBuf>,
    pub(super) overrides: Overrides,
}

impl Sources {
    /// Reads all of it, and checks it as `config check` does.
    pub(super) fn read(&self) -> Result<(Settings, Access), ConfigErrors> {
        let (settings, access) = config::load_with_access(self.file.as_deref(), &self.overrides, &environment())?;
        settings.require_databases()?;
        Ok((settings, access))
    }
}

/// What the daemon runs under.
pub(super) struct Reloader {
    pub(super) sources: Sources,
    pub(super) present: Settings,
    pub(super) log: Log,
    pub(super) manager: ServiceManager,
}

impl Reloader {
    /// Goes over to what the sources say now; to none of it if something is wrong, which the log tells.
    pub(super) async fn reload(&mut self, engine: &SyncEngine) {
        self.manager.reloading();
        let event = match self.sources.read() {
            Ok((wanted, access)) => self.go_over(engine, wanted, access).await,
            Err(errors) => {
                for error in errors.errors() {
                    engine.log(
                        Event::new(EventName::SyncError)
                            .field("kind", "config")
                            .field("key", error.key.as_str())
                            .field("at", error.place.to_string())
                            .field("reason", error.what.as_str())
                            .field("remedy", error.remedy.as_str()),
                    );
                }
                refused(errors.errors().len())
            }
        };
        engine.log(event);
        self.manager.ready();
    }

    async fn go_over(&mut self, engine: &SyncEngine, wanted: Settings, access: Access) -> Event {
        let file = wanted.file.clone();
        let log = wanted.log.clone();
        // First, so that what follows is logged as it is wanted now. What keeps the level from being one was told by the check.
        let outcome = match self.log.reconfigure(&log) {
            Ok(()) => {
                let done = engine.reconfigure(&mut self.present, wanted, access).await;
                done.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match outcome {
            Ok(done) => told(file, &done),
            Err(reason) => {
                // This one was taken before.
                let _ = self.log.reconfigure(&self.present.log);
                engine.log(
                    Event::new(EventName::SyncError)
                        .field("kind", "config")
                        .field("reason", reason)
                        .field("remedy", "correct it and send SIGHUP again"),
                );
                refused(1)
            }
        }
    }
}

fn refused(errors: usize) -> Event {
    Event::new(EventName::ConfigReload)
        .field("outcome", "refused")
        .field("errors", errors)
        .field("reason", "the configuration is wrong; everything goes on as it was")
}

/// The line that says what was applied.
fn told(file: Option<PathBuf>, done: &Reconfigured) -> Event {
    let Reconfigured { applied, at_next_start, failed, .. } = done;
    let outcome = match (applied.is_empty(), at_next_start.is_empty() && failed.is_empty()) {
        (true, true) => "unchanged",
        (_, true) => "applied",
        _ => "partly",
    };
    let mut event = Event::new(EventName::ConfigReload).field("outcome", outcome);
    for (field, keys) in [("changed", applied), ("failed", failed), ("at_next_start", at_next_start)] {
        if !keys.is_empty() {
            event = event.field(field, keys.join(","));
        }
    }
    if !at_next_start.is_empty() {
        event = event.field("remedy", "restart the daemon for what takes effect at the next start");
    }
    match file {
        Some(file) => event.field("file", file.display().to_string()),
        None => event
            .field("reason", "there is no configuration file; the command line and the environment are as they were"),
    }
}
