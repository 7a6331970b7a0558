//! What `/metrics` counts. Owns the names, help texts and labels of metrics, and keeps their number bounded; must not know where what
//! is counted comes from.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use sqlite_store::RowOperation;

use crate::event::{Event, EventName, FieldValue};
use crate::status::{DatabaseStatus, PeerStatus, Status};

/// The type of what [`Metrics::text`] answers.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Names of nodes that have metrics of their own: nodes may come under ever new ones.
const PEERS: usize = 500;

/// The node that stands for all others.
const OTHERS: &str = "(others)";

/// Bounds of lags, in seconds: a row on a network of one's own takes milliseconds, one of a node that was away takes days.
const LAG: [f64; 17] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0, 21_600.0, 86_400.0];

/// Bounds of what a transaction takes, in seconds.
const APPLY: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The states that a database can be in.
const STATES: [&str; 5] = ["opening", "missing", "attached", "migrating", "failed"];

type Labels = Vec<(&'static str, String)>;

type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// What is counted while an engine runs.
pub(crate) struct Metrics {
    registry: Registry,
    peers: Mutex<BTreeSet<String>>,
    lag: Histograms,
    apply: Histograms,
    rows: Family<Labels, Counter>,
    received: Family<Labels, Counter>,
    sent: Family<Labels, Counter>,
    conflicts: Family<Labels, Counter>,
    errors: Family<Labels, Counter>,
    retries: Family<Labels, Counter>,
    missed: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sync_engine");
        let lag: Histograms = Family::new_with_constructor(|| Histogram::new(LAG));
        let apply: Histograms = Family::new_with_constructor(|| Histogram::new(APPLY));
        let help = "From a change's commit at its writer to its being applied here, by the peer that it came from";
        registry.register_with_unit("lag", help, Unit::Seconds, lag.clone());
        let help = "What applying a batch took, waiting for the database included";
        registry.register_with_unit("apply", help, Unit::Seconds, apply.clone());
        let mut family = |name: &str, help: &str| {
            let family = Family::<Labels, Counter>::default();
            registry.register(name, help, family.clone());
            family
        };
        let rows = family("rows_applied", "Rows of peers' changes that were taken in, by what their writers did");
        let conflicts =
            family("conflicts", "Conflicts that were decided here, by kind and outcome (skip, apply, merge)");
        let errors = family("errors", "sync_error lines of the log, by kind");
        let retries = family("retries", "sync_retry lines of the log: what did not succeed and is tried again");
        let mut bytes = |name: &str, help: &str| {
            let family = Family::<Labels, Counter>::default();
            registry.register_with_unit(name, help, Unit::Bytes, family.clone());
            family
        };
        let received = bytes("peer_received", "Bytes of messages that came from a peer");
        let sent = bytes("peer_sent", "Bytes of messages that were sent to a peer");
        let missed = Counter::default();
        registry.register("hook_events_missed", "Events that the log hook was too slow for", missed.clone());
        let peers = Mutex::default();
        Self { registry, peers, lag, apply, rows, received, sent, conflicts, errors, retries, missed }
    }
}

impl Metrics {
    /// A peer as a label.
    fn peer(&self, node: &str) -> (&'static str, String) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = peers.contains(node) || (peers.len() < PEERS && peers.insert(node.to_owned()));
        ("peer", if known { node } else { OTHERS }.to_owned())
    }

    /// Counts what an event tells.
    pub(crate) fn count(&self, event: &Event) {
        let text = |key: &str| match event.get(key) {
            Some(FieldValue::Text(text)) => text.clone(),
            _ => String::new(),
        };
        let outcome = match event.name {
            EventName::ConflictSkip => "skip",
            EventName::ConflictApply => "apply",
            EventName::ConflictMerge => "merge",
            EventName::SyncError => {
                self.errors.get_or_create(&vec![("kind", text("kind"))]).inc();
                return;
            }
            EventName::SyncRetry => {
                let peer = [text("node"), text("url")].into_iter().find(|name| !name.is_empty()).unwrap_or_default();
                self.retries.get_or_create(&vec![("database", text("database")), self.peer(&peer)]).inc();
                return;
            }
            _ => return,
        };
        let labels = vec![("database", text("database")), ("kind", text("kind")), ("outcome", outcome.to_owned())];
        self.conflicts.get_or_create(&labels).inc();
    }

    /// Events passed the hook by.
    pub(crate) fn hook_missed(&self) {
        self.missed.inc();
    }

    /// What passed over a peer's link.
    pub(crate) fn traffic(&self, node: &str, received: u64, sent: u64) {
        let labels = vec![self.peer(node)];
        self.received.get_or_create(&labels).inc_by(received);
        self.sent.get_or_create(&labels).inc_by(sent);
    }

    /// A batch was applied.
    pub(crate) fn applied(&self, database: &str, took: Duration) {
        self.apply.get_or_create(&vec![("database", database.to_owned())]).observe(took.as_secs_f64());
    }

    /// Rows were applied, of each operation so many.
    pub(crate) fn rows(&self, database: &str, operation: RowOperation, count: u64) {
        let labels = vec![("database", database.to_owned()), ("op", operation.as_str().to_owned())];
        self.rows.get_or_create(&labels).inc_by(count);
    }

    /// Changes were applied so long after they were committed, in milliseconds.
    pub(crate) fn lags(&self, node: &str, database: &str, lags: impl Iterator<Item = i64>) {
        let labels = vec![self.peer(node), ("database", database.to_owned())];
        let histogram = self.lag.get_or_create_owned(&labels);
        for millis in lags {
            // Clocks differ: what seems to come from the future took no time.
            let millis = u64::try_from(millis).unwrap_or(0);
            histogram.observe(Duration::from_millis(millis).as_secs_f64());
        }
    }

    /// All metrics in OpenMetrics' text form, with what `status` tells as gauges.
    pub(crate) fn text(&self, status: &Status, followers: usize) -> String {
        let mut gauges = Registry::with_prefix("sync_engine");
        tell_node(&mut gauges, status, followers);
        tell_databases(&mut gauges, &status.databases);
        self.tell_peers(&mut gauges, &status.peers);
        let mut text = String::new();
        let told = [&gauges, &self.registry].into_iter().try_for_each(|registry| encode_registry(&mut text, registry));
        // Writing to a String cannot fail.
        let _ = told.and_then(|()| encode_eof(&mut text));
        text
    }

    fn tell_peers(&self, registry: &mut Registry, peers: &[PeerStatus]) {
        let connected: Family<Labels, Gauge> = Family::default();
        let behind: Family<Labels, Gauge> = Family::default();
        let lag: Family<Labels, Gauge<f64, AtomicU64>> = Family::default();
        let is_there = |peer: &&PeerStatus| peer.state == "connected";
        let count = Gauge::<i64>::default();
        count.set(gauge(peers.iter().filter(is_there).count() as u64));
        for peer in peers {
            let name = self.peer(peer.node.as_deref().unwrap_or(&peer.url));
            connected.get_or_create(&vec![name.clone()]).set(i64::from(is_there(&peer)));
            for database in &peer.databases {
                let labels = vec![name.clone(), ("database", database.name.clone())];
                behind.get_or_create(&labels).set(gauge(database.behind));
                lag.get_or_create(&labels).set(Duration::from_millis(database.lag_ms).as_secs_f64());
            }
        }
        registry.register("peers_connected", "Peers that there is a session with", count);
        registry.register("peer_connected", "Whether there is a session with a peer", connected);
        registry.register("peer_behind_changes", "Changes that a peer has not acknowledged, at most", behind);
        let help = "For how long a peer has lacked the oldest change that it has not acknowledged";
        registry.register_with_unit("peer_behind", help, Unit::Seconds, lag);
    }
}

fn tell_node(registry: &mut Registry, status: &Status, followers: usize) {
    let one = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let number = Gauge::<i64>::default();
        number.set(gauge(value));
        registry.register(name, help, number);
    };
    let info = Family::<Labels, Gauge>::default();
    info.get_or_create(&vec![("node", status.node.clone()), ("version", status.version.clone())]).set(1);
    registry.register("build", "The node's name and the software's version", info);
    one(registry, "healthy", "Whether /healthz answers 200", u64::from(status.healthy));
    one(registry, "change_followers", "Clients that follow /v1/changes", followers as u64);
    let uptime = Gauge::<i64>::default();
    uptime.set(gauge(status.uptime_seconds));
    registry.register_with_unit("uptime", "Since the engine was built", Unit::Seconds, uptime);
    let dropped = Counter::<u64>::default();
    dropped.inc_by(crate::telemetry::lost_lines());
    registry.register("log_lines_dropped", "Lines that could not be written into the log", dropped);
}

fn tell_databases(registry: &mut Registry, databases: &[DatabaseStatus]) {
    let state = Family::<Labels, Gauge>::default();
    for database in databases {
        for word in STATES {
            let labels = vec![("database", database.name.clone()), ("state", word.to_owned())];
            state.get_or_create(&labels).set(i64::from(database.state == word));
        }
    }
    registry.register("database_state", "1 for the state that a database is in", state);
    let mut each = |name: &str, help: &str, value: fn(&DatabaseStatus) -> u64| {
        let family = Family::<Labels, Gauge>::default();
        for database in databases {
            family.get_or_create(&vec![("database", database.name.clone())]).set(gauge(value(database)));
        }
        registry.register(name, help, family);
    };
    each("database_sequence", "The last sequence of the database's own changes", |it| it.sequence);
    each("backlog_changes", "Changes of applications that wait for capture", |it| it.backlog);
    each("parked_rows", "Rows of peers that wait until they can be taken in", |it| it.parked);
    each("passed_on_rows", "Rows that are kept only to be passed on", |it| it.passed_on);
    each("open_conflicts", "Conflict records that nobody has acted on", |it| it.conflicts);
    each("missing_parents", "Rows whose parents are not here", |it| it.foreign_key_missing.count);
    each("tombstones", "Deletions that are remembered", |it| it.tombstones.kept);
    each("unsynced_tables", "Tables that are not synced", |it| it.unsynced.len() as u64);
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Metrics, OTHERS, PEERS};
    use crate::event::{Event, EventName};
    use crate::status::Status;

    fn status() -> Status {
        serde_json::from_str(
            r#"{"node": "a", "version": "0", "uptime_seconds": 5, "healthy": true, "databases": [], "peers": []}"#,
        )
        .unwrap()
    }

    #[test]
    fn names_that_change_for_ever_take_no_memory_for_ever() {
        let metrics = Metrics::default();
        for number in 0..2 * PEERS {
            metrics.traffic(&format!("node {number}"), 1, 2);
        }
        let text = metrics.text(&status(), 0);
        let lines = text.lines().filter(|line| line.starts_with("sync_engine_peer_sent_bytes_total{")).count();
        assert_eq!(lines, PEERS + 1);
        let others = format!("sync_engine_peer_sent_bytes_total{{peer=\"{OTHERS}\"}} {}", 2 * PEERS);
        assert!(text.contains(&others), "{text}");
    }

    #[test]
    fn events_are_counted_by_what_they_tell() {
        let metrics = Metrics::default();
        let conflict =
            Event::new(EventName::ConflictSkip).field("kind", "update_deleted").field("database", "a\"b\\\n");
        (0..3).for_each(|_| metrics.count(&conflict));
        metrics.count(&Event::new(EventName::SyncRetry).field("url", "ws://x:1"));
        metrics.count(&Event::new(EventName::PeerLost).field("node", "x"));
        let text = metrics.text(&status(), 0);
        let conflicts = r#"sync_engine_conflicts_total{database="a\"b\\\n",kind="update_deleted",outcome="skip"} 3"#;
        assert!(text.contains(conflicts), "{text}");
        assert!(text.contains(r#"sync_engine_retries_total{database="",peer="ws://x:1"} 1"#), "{text}");
    }
}
