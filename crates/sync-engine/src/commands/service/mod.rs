//! What the service manager is told: that the daemon is ready, reads its configuration again or stops, one line on how it does, and
//! that it is alive. Owns the talk with systemd; must not know what the parts of an engine do.
//!
//! A service manager that does not listen, or none at all, is no reason not to run: what cannot be told is not.

mod watchdog;

use std::convert::Infallible;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use sync_engine::status::Status;
use sync_engine::{Event, EventName, SyncEngine};
use tokio::time::MissedTickBehavior;

use watchdog::{Silent, Watchdog};

/// The longest pause between two lines on how the daemon does.
const STATUS: Duration = Duration::from_secs(10);

/// How long the end may take beyond the grace time: the log is written out, and the hook has had its last event.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Messages that may wait to be sent. More of them wait only where the service manager itself stands still.
const WAITING: usize = 8;

/// Sends messages to the service manager, from a thread of its own: where that does not take them, the daemon goes on.
#[derive(Debug, Clone)]
pub(super) struct ServiceManager {
    messages: SyncSender<String>,
    /// The watchdog's limit, if it has one.
    limit: Option<Duration>,
    /// Whether anybody is there to be told anything.
    listens: bool,
}

impl ServiceManager {
    /// The one that has started this process, if any has.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn of_this_process() -> std::io::Result<Self> {
        let (messages, waiting) = sync_channel::<String>(WAITING);
        std::thread::Builder::new().name("service manager".to_owned()).spawn(move || {
            while let Ok(message) = waiting.recv() {
                let _ = sd_notify::notify(&[NotifyState::Custom(&message)]);
            }
        })?;
        let listens = std::env::var_os("NOTIFY_SOCKET").is_some();
        let limit = sd_notify::watchdog_enabled().filter(|limit| listens && !limit.is_zero());
        Ok(Self { messages, limit, listens })
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        let message: Vec<String> = states.iter().map(ToString::to_string).collect();
        let _ = self.messages.try_send(message.join("\n"));
    }

    /// Tells that the daemon serves.
    pub(super) fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// Tells that the configuration is read again; [`Self::ready`] tells that this is over.
    pub(super) fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.tell(&[NotifyState::Reloading, now]);
        }
    }

    /// Tells how the daemon does, and that it is alive for as long as each of its parts has shown so lately.
    pub(super) async fn attend(&self, engine: &SyncEngine) -> Infallible {
        if !self.listens {
            return std::future::pending().await;
        }
        let limit = self.limit;
        let mut watchdog = limit.map(|limit| Watchdog::new(limit / 2));
        let mut looks = tokio::time::interval(limit.map_or(STATUS, |limit| (limit / 4).min(STATUS)));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let silent = match &mut watchdog {
                Some(watchdog) => {
                    let looked = watchdog.look(Instant::now(), &engine.signs_of_life());
                    looked.news.iter().for_each(|news| engine.log(event(news)));
                    looked.silent
                }
                None => Vec::new(),
            };
            let line = if silent.is_empty() { line(&engine.status()) } else { complaint(&silent) };
            let mut states = vec![NotifyState::Status(&line)];
            if limit.is_some() && silent.is_empty() {
                states.push(NotifyState::Watchdog);
            }
            self.tell(&states);
        }
    }

    /// Ends the engine within its grace time, and has the service manager wait for that.
    pub(super) async fn stop(&self, engine: SyncEngine, grace: Duration) -> anyhow::Result<()> {
        let deadline = grace + LAST_WORDS;
        let microseconds = u32::try_from(deadline.as_micros()).unwrap_or(u32::MAX);
        let line = format!("stopping, within {} s", deadline.as_secs());
        self.tell(&[NotifyState::Stopping, NotifyState::Status(&line), NotifyState::ExtendTimeoutUsec(microseconds)]);
        let begun = Instant::now();
        let feeding = async {
            // What is at work ends by its own deadline, so that nothing stands still for longer.
            let Some(limit) = self.limit else { return std::future::pending().await };
            while begun.elapsed() < deadline {
                self.tell(&[NotifyState::Watchdog]);
                tokio::time::sleep(limit / 4).await;
            }
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            stopped = engine.stop_realtime_sync() => Ok(stopped?),
            never = feeding => match never {},
        }
    }
}

/// One line on databases, peers and the worst lag.
fn line(status: &Status) -> String {
    let databases = &status.databases;
    let mut text = match databases.len() {
        1 => "1 database".to_owned(),
        count => format!("{count} databases"),
    };
    let others: Vec<String> = databases
        .iter()
        .filter(|database| database.state != "attached")
        .map(|database| format!("{} {}", database.name, database.state))
        .collect();
    if !others.is_empty() {
        text = format!("{text} ({})", others.join(", "));
    }
    let connected = status.peers.iter().filter(|peer| peer.state == "connected").count();
    let lag = status.peers.iter().flat_map(|peer| &peer.databases).map(|database| database.lag_ms).max();
    format!("{text}; {connected} of {} peers connected; worst lag {} ms", status.peers.len(), lag.unwrap_or(0))
}

fn complaint(silent: &[Silent]) -> String {
    let parts: Vec<String> =
        silent.iter().map(|silent| format!("{} for {} s", silent.part, silent.since.as_secs())).collect();
    format!("no sign of life from {}; restarted by the watchdog if that lasts", parts.join(", "))
}

/// The line of the log about a part that shows no life, or does so again.
fn event(news: &Silent) -> Event {
    if news.back {
        return Event::new(EventName::SyncComplete).field("kind", "watchdog").field("part", news.part.as_str());
    }
    Event::new(EventName::SyncError)
        .field("kind", "watchdog")
        .field("part", news.part.as_str())
        .field("reason", format!("it has shown no sign of life for {} s", news.since.as_secs()))
        .field(
            "remedy",
            "nothing: the service manager restarts the daemon if this lasts; if it comes again, check the disk and the file system",
        )
}

#[cfg(test)]
mod tests {
    use sync_engine::status::{PeerDatabaseStatus, PeerStatus, Status};

    use super::line;

    #[test]
    fn the_line_tells_what_is_not_well() {
        let text = serde_json::json!({
            "node": "berlin", "version": "1", "uptime_seconds": 1, "healthy": true, "peers": [],
            "databases": [database("shop", "attached")]
        });
        let mut status: Status = serde_json::from_value(text).unwrap();
        assert_eq!(line(&status), "1 database; 0 of 0 peers connected; worst lag 0 ms");
        status.databases.push(serde_json::from_value(database("till", "failed")).unwrap());
        let peer = |state: &str, lag_ms| PeerStatus {
            state: state.to_owned(),
            databases: vec![
                serde_json::from_value::<PeerDatabaseStatus>(
                    serde_json::json!({"name": "shop", "behind": 1, "lag_ms": lag_ms}),
                )
                .unwrap(),
            ],
            ..PeerStatus::default()
        };
        status.peers = vec![peer("connected", 12), peer("waiting", 40)];
        assert_eq!(line(&status), "2 databases (till failed); 1 of 2 peers connected; worst lag 40 ms");
    }

    fn database(name: &str, state: &str) -> serde_json::Value {
        serde_json::json!({
            "name": name, "path": "", "state": state, "origin": null, "sequence": 0, "have": {}, "tables": [],
            "unsynced": [], "backlog": 0, "conflicts": 0, "parked": 0, "errors": []
        })
    }
}
