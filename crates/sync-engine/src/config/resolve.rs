//! From what is written to what takes effect: defaults, values in their types, limits. Owns the defaults.

use std::path::PathBuf;
use std::time::Duration;

use super::check::Check;
use super::error::ErrorKind;
use super::layers::Layers;
use super::raw::{Raw, RawBackup, RawConflicts, RawHealth, RawLog};
use super::values::{self, Wrong};
use super::{
    BackupSettings, ConflictSettings, Environment, HealthSettings, LogFormat, LogSettings, Overrides, Rotation,
    Settings, databases, known_host_name, security,
};

/// Peers for when none are configured.
const PEERS_VARIABLE: &str = "SYNC_ENGINE_WS_URL";

/// The settings, and what is wrong with them.
pub(super) fn settings(
    file: Option<PathBuf>,
    layers: Layers,
    overrides: &Overrides,
    environment: &Environment,
) -> (Settings, Check) {
    let Layers { raw, check } = layers;
    let mut resolver = Resolver { check, environment };
    let r = &mut resolver;
    let Raw {
        node,
        listen,
        peers,
        cluster,
        state_dir,
        poll_interval,
        max_clock_skew,
        shutdown_grace,
        tombstone_horizon,
        upkeep_interval,
        close_after,
        ..
    } = raw;
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    let settings = Settings {
        file,
        node: r.node(node),
        listen: r.listen(listen),
        peers: r.peers(peers),
        cluster: r.value("cluster", Some(cluster.unwrap_or_else(|| "default".to_owned())), String::new(), values::name),
        state_dir: r.folder("state_dir", state_dir, &["STATE_DIRECTORY"], ".sync-engine"),
        poll_interval: r.duration("poll_interval", poll_interval, s(1), ms(10), s(3_600)),
        max_clock_skew: r.duration("max_clock_skew", max_clock_skew, s(60), ms(1), s(86_400)),
        tombstone_horizon: r.duration("tombstone_horizon", tombstone_horizon, s(30 * 86_400), s(1), s(3_650 * 86_400)),
        upkeep_interval: r.duration("upkeep_interval", upkeep_interval, s(60), ms(10), s(86_400)),
        close_after: r.duration("close_after", close_after, s(30), s(1), s(3_650 * 86_400)),
        shutdown_grace: r.duration("shutdown_grace", shutdown_grace, s(10), ms(100), s(600)),
        max_batch_rows: r.count("max_batch_rows", raw.max_batch_rows, 50_000, 1_000_000),
        auth: security::auth(raw.auth, &mut r.check),
        tls: security::tls(raw.tls, &mut r.check),
        log: r.log(raw.log),
        backup: r.backup(raw.backup),
        conflicts: r.conflicts(&raw.conflicts),
        health: r.health(raw.health),
        databases: databases::resolve(raw.database, &overrides.databases, &mut r.check),
        sources: std::collections::BTreeMap::new(),
    };
    // Which databases there are, the command line may say otherwise.
    let names: Vec<&str> = settings.databases.iter().map(|database| database.name.as_str()).collect();
    let names = overrides.databases.is_empty().then_some(names.as_slice());
    security::together(settings.listen, (&settings.auth, &settings.tls), names, &mut r.check);
    (settings, resolver.check)
}

/// Turns single values into their types; what is wrong goes to `check`, and a default takes its place meanwhile.
struct Resolver<'e> {
    check: Check,
    environment: &'e Environment,
}

impl Resolver<'_> {
    fn value<T>(
        &mut self,
        key: &str,
        text: Option<String>,
        default: T,
        read: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> T {
        let Some(text) = text else { return default };
        match read(&text) {
            Ok(value) => value,
            Err((what, remedy)) => {
                self.check.bad_value(key, what, remedy);
                default
            }
        }
    }

    fn duration(
        &mut self,
        key: &str,
        text: Option<String>,
        default: Duration,
        least: Duration,
        most: Duration,
    ) -> Duration {
        self.value(key, text, default, |text| values::duration(text, least, most))
    }

    fn count(&mut self, key: &str, number: Option<i64>, default: usize, most: usize) -> usize {
        match number.map(|number| values::count(number, 1, most)) {
            None => default,
            Some(Ok(number)) => number,
            Some(Err((what, remedy))) => {
                self.check.bad_value(key, what, remedy);
                default
            }
        }
    }

    /// A folder that is given, or the first of those that the service manager gives, or the default.
    fn folder(&mut self, key: &str, text: Option<String>, variables: &[&str], default: &str) -> PathBuf {
        if let Some(text) = text {
            return self.value(key, Some(text), PathBuf::new(), path);
        }
        self.variable_folder(key, variables).unwrap_or_else(|| PathBuf::from(default))
    }

    fn variable_folder(&mut self, key: &str, variables: &[&str]) -> Option<PathBuf> {
        let (name, value) = variables.iter().find_map(|name| {
            self.environment.get(*name).filter(|value| !value.is_empty()).map(|value| (*name, value))
        })?;
        self.check.given(key, super::Place::Variable(name.to_owned()));
        // systemd gives several folders with colons between them.
        let folder = if name.ends_with("_DIRECTORY") { value.split(':').next().unwrap_or_default() } else { value };
        Some(PathBuf::from(folder))
    }

    fn node(&mut self, node: Option<String>) -> String {
        let given = self.check.is_given("node");
        if node.is_some() || given {
            return self.value("node", node, String::new(), values::name);
        }
        known_host_name().unwrap_or_else(|| {
            let remedy = "set it, as node = \"berlin\" or --node berlin";
            self.check.complain("node", ErrorKind::Missing, "this machine does not tell its name", remedy);
            String::new()
        })
    }

    fn listen(&mut self, listen: Option<String>) -> std::net::SocketAddr {
        let default = std::net::SocketAddr::from(([127, 0, 0, 1], 7420));
        self.value("listen", listen, default, values::address)
    }

    fn peers(&mut self, mut peers: Vec<String>) -> Vec<String> {
        if peers.is_empty()
            && !self.check.is_refused("peers")
            && let Some(urls) = self.environment.get(PEERS_VARIABLE).filter(|urls| !urls.trim().is_empty())
        {
            peers = values::comma_separated(urls);
            self.check.given("peers", super::Place::Variable(PEERS_VARIABLE.to_owned()));
        }
        let mut urls: Vec<String> = Vec::with_capacity(peers.len());
        for (index, text) in peers.iter().enumerate() {
            let key = format!("peers[{index}]");
            if self.check.is_refused(&key) {
                continue;
            }
            let Some(url) = self.value(&key, Some(text.clone()), None, |text| values::peer_url(text).map(Some)) else {
                continue;
            };
            if urls.contains(&url) {
                self.check.complain(&key, ErrorKind::Duplicate, format!("{url:?} stands there twice"), "remove one");
            } else {
                urls.push(url);
            }
        }
        urls
    }

    fn log(&mut self, raw: RawLog) -> LogSettings {
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let rotations = [("daily", Rotation::Daily), ("hourly", Rotation::Hourly), ("never", Rotation::Never)];
        LogSettings {
            directory: self.folder("log.directory", raw.directory, &["LOGS_DIRECTORY"], "logs"),
            level: self.value("log.level", raw.level, "info".to_owned(), values::level),
            format: self.value("log.format", raw.format, LogFormat::Text, |text| values::choice(text, &formats)),
            rotation: self
                .value("log.rotation", raw.rotation, Rotation::Daily, |text| values::choice(text, &rotations)),
            keep: self.count("log.keep", raw.keep, 14, 10_000),
            hook: raw.hook,
        }
    }

    fn backup(&mut self, raw: RawBackup) -> BackupSettings {
        let root = match raw.root {
            Some(text) => self.value("backup.root", Some(text), None, |text| path(text).map(Some)),
            None => self.variable_folder("backup.root", &["GH_COPILOT_BACKUP_ROOT", "SYNC_ENGINE_BACKUP_ROOT"]),
        };
        BackupSettings { root, keep: self.count("backup.keep", raw.keep, 7, 10_000) }
    }

    fn health(&mut self, raw: RawHealth) -> HealthSettings {
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(365 * 86_400));
        let lag = |text: &str| values::duration(text, least, most).map(Some);
        let most = usize::try_from(i64::MAX).unwrap_or(usize::MAX);
        let backlog = raw.max_backlog.map(|number| self.number("health.max_backlog", number, 0, most));
        HealthSettings {
            max_lag: self.value("health.max_lag", raw.max_lag, None, lag),
            max_backlog: backlog.map(|number| number as u64),
            min_peers: raw.min_peers.map_or(0, |number| self.number("health.min_peers", number, 0, 10_000)),
        }
    }

    /// A number within limits; the least where it is not.
    fn number(&mut self, key: &str, number: i64, least: usize, most: usize) -> usize {
        values::count(number, least, most).unwrap_or_else(|(what, remedy)| {
            self.check.bad_value(key, what, remedy);
            least
        })
    }

    fn conflicts(&mut self, raw: &RawConflicts) -> ConflictSettings {
        ConflictSettings {
            keep: self.count("conflicts.keep", raw.keep, 10_000, 1_000_000),
            keep_days: self.count("conflicts.keep_days", raw.keep_days, 90, 36_500),
        }
    }
}

fn path(text: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() {
        return Err(("it is empty".to_owned(), "write the path of a folder, or remove the key".to_owned()));
    }
    Ok(PathBuf::from(text))
}
