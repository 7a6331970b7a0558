//! Going over to another configuration while the engine runs: what differs is changed, and nothing else is touched.

use std::net::SocketAddr;
use std::sync::PoisonError;

use sqlite_store::fail_point;

use crate::access::Access;
use crate::config::{DatabaseSettings, Settings};
use crate::engine::database::Database;
use crate::engine::databases::DatabaseLimits;
use crate::engine::{EngineError, SyncEngine, check_url};
use crate::event::{Event, EventName};

/// What takes effect only when a node is started: its name and its state are what peers and files know it by, and the log stays
/// in one place while it is read.
const AT_NEXT_START: [&str; 3] = ["node", "state_dir", "log.directory"];

/// What became of a configuration that an engine was to go over to. Everything is told by its keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconfigured {
    /// What has taken effect.
    pub applied: Vec<String>,
    /// What takes effect at the next start.
    pub at_next_start: Vec<String>,
    /// What could not be done; the log tells why. It stays as it was.
    pub failed: Vec<String>,
}

impl SyncEngine {
    /// Goes over from the settings that the engine runs under to others, and notes in `present` what it runs under then.
    ///
    /// Databases that are new or gone or of which something else is said now are closed and started, each for itself; so are all of them
    /// where `poll_interval`, `close_after`, `max_clock_skew`, `max_batch_rows` or `[conflicts]` change. Triggers log what applications
    /// write meanwhile. Links that are not concerned stay up; where others may do other things now, all are made anew. Dropped before it is done, it leaves the rest undone.
    ///
    /// # Errors
    /// What is said of a database, or a peer's URL, cannot be. Nothing was changed then.
    pub async fn reconfigure(
        &self,
        present: &mut Settings,
        wanted: Settings,
        access: Access,
    ) -> Result<Reconfigured, EngineError> {
        if self.shared.stop.is_cancelled() {
            return Err(EngineError::Stopped);
        }
        wanted.databases.iter().try_for_each(|it| Database::configured(it).attach_rules().map(drop))?;
        wanted.peers.iter().try_for_each(|url| check_url(url))?;
        let differences = present.differences(&wanted);
        let (at_next_start, mut applied): (Vec<String>, Vec<String>) =
            differences.into_iter().partition(|key| AT_NEXT_START.contains(&key.as_str()));
        let mut next = wanted;
        next.node.clone_from(&present.node);
        next.state_dir.clone_from(&present.state_dir);
        next.log.directory.clone_from(&present.log.directory);

        fail_point("reload-begun");
        let mut failed = Vec::new();
        if !access.is_closed() {
            // Nobody beyond this machine may come in without showing anything, not for a moment.
            for address in self.listened_on().into_iter().filter(|address| !address.ip().is_loopback()) {
                self.close_listener(address).await;
            }
        }
        for table in self.shared.change_access(access) {
            // A file may be another one under its name.
            if !applied.iter().any(|key| key.starts_with(&format!("{table}."))) {
                applied.push(table.to_owned());
            }
        }
        *self.shared.grace.lock().unwrap_or_else(PoisonError::into_inner) = next.shutdown_grace;
        *self.shared.health.lock().unwrap_or_else(PoisonError::into_inner) = next.health;
        if next.log.hook != present.log.hook {
            self.shared.events.replace_command(next.log.hook.clone()).await;
            present.log.hook.clone_from(&next.log.hook);
        }
        if next.listen != present.listen && !self.listen_instead(present, &next).await {
            next.listen = present.listen;
            failed.push("listen".to_owned());
        }
        self.change_peers(present, &next)?;
        failed.extend(self.change_databases(present, &mut next).await);
        applied.retain(|key| !failed.iter().any(|failed| key == failed || key.starts_with(&format!("{failed}."))));
        *present = next;
        fail_point("reload-done");
        Ok(Reconfigured { applied, at_next_start, failed })
    }

    /// Listens on the other address, and then no more on the one before. Where it cannot, that one stays, if it may.
    async fn listen_instead(&self, present: &mut Settings, next: &Settings) -> bool {
        let new = next.listen;
        // One port cannot be listened on twice, as by all addresses and by one of them.
        let clashes = |address: &SocketAddr| new.port() != 0 && address.port() == new.port();
        let (clashing, others): (Vec<_>, Vec<_>) = self.listened_on().into_iter().partition(clashes);
        for address in &clashing {
            self.close_listener(*address).await;
        }
        // Why not is in the log.
        if self.listen(&new.to_string()).await.is_err() {
            for address in clashing {
                let _ = self.listen(&address.to_string()).await;
            }
            return false;
        }
        for address in others {
            self.close_listener(address).await;
        }
        present.listen = new;
        true
    }

    /// Goes over to other peers, and to another cluster.
    fn change_peers(&self, present: &mut Settings, next: &Settings) -> Result<(), EngineError> {
        for url in present.peers.iter().filter(|url| !next.peers.contains(url)) {
            self.disconnect(url);
        }
        if next.cluster != present.cluster {
            self.shared.membership.change(&next.cluster);
            present.cluster.clone_from(&next.cluster);
        }
        for url in next.peers.iter().filter(|url| !present.peers.contains(url)) {
            self.dial(url, self.shared.callback.clone())?;
        }
        present.peers.clone_from(&next.peers);
        Ok(())
    }

    /// Closes and starts databases. Answers the keys of those that could not be started; they are taken from `next`, so that they
    /// are started when it is asked for again.
    async fn change_databases(&self, present: &mut Settings, next: &mut Settings) -> Vec<String> {
        let limits = DatabaseLimits::from(&*next);
        let others = limits != DatabaseLimits::from(&*present);
        let same = |database: &DatabaseSettings| !others && next.databases.contains(database);
        let (stay, go): (Vec<_>, Vec<_>) = std::mem::take(&mut present.databases).into_iter().partition(same);
        present.databases = stay;
        // Nobody may find two threads at work on one file: all are closed before the first is started.
        futures::future::join_all(go.iter().map(|database| self.remove_database(&database.name))).await;
        fail_point("reload-closed");
        for gone in go.iter().filter(|gone| !next.databases.iter().any(|it| it.name == gone.name)) {
            self.tell_removed(&gone.name);
        }
        self.shared.databases.set_limits(limits);
        let mut failed = Vec::new();
        next.databases.retain(|database| {
            if present.databases.contains(database) {
                return true;
            }
            let started = self.add_database(Database::configured(database));
            if let Err(error) = started {
                self.tell_not_started(&database.name, &error);
                failed.push(format!("database.{}", database.name));
                return false;
            }
            present.databases.push(database.clone());
            true
        });
        failed
    }

    fn tell_removed(&self, name: &str) {
        self.log(
            Event::new(EventName::SyncComplete).field("database", name).field(
                "reason",
                "it is not configured any more; its triggers log what is written, until it is detached",
            ),
        );
    }

    fn tell_not_started(&self, name: &str, error: &EngineError) {
        self.log(
            Event::new(EventName::SyncError)
                .field("kind", "io")
                .field("database", name)
                .field("reason", error.to_string())
                .field("remedy", "send SIGHUP again once the cause is gone"),
        );
    }
}
