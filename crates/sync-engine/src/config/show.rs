//! The settings as TOML and as JSON. Owns how they are printed; what is printed as TOML loads as the same settings.

use std::collections::BTreeMap;
use std::path::Path;

use replication::Granularity;
use serde_json::{Map, Value as Json, json};
use sqlite_store::app_triggers::TriggerRule;

use super::error::Place;
use super::values::duration_text;
use super::{
    AuthSettings, DatabaseSettings, LogFormat, PeerSettings, Policy, Rotation, Settings, TableSettings, TlsSettings,
};
use crate::access::Role;

/// Where values come from, in a few words.
pub(super) fn sources(places: BTreeMap<String, Place>) -> BTreeMap<String, String> {
    let name = |place| match place {
        Place::File { file, line, .. } => Some(format!("{}:{line}", file.display())),
        Place::Variable(name) => Some(format!("${name}")),
        Place::Argument(name) => Some(name.to_owned()),
        Place::Unset => None,
    };
    places.into_iter().filter_map(|(key, place)| Some((key, name(place)?))).collect()
}

impl Settings {
    /// The settings as TOML, with where each value comes from. It is a valid configuration.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut tables = Vec::new();
        for (key, value) in self.to_map() {
            match value {
                Json::Object(table) => tables.push((key, table)),
                Json::Array(items) if key == "database" => self.databases_toml(&mut tables, items),
                Json::Null => {}
                value if key != "file" => self.line(&mut text, "", &key, &value),
                _ => {}
            }
        }
        for (path, table) in tables {
            let header = path.replace(|c: char| c.is_ascii_digit(), "");
            let header =
                if header.contains("[]") { format!("[[{}]]", header.replace("[]", "")) } else { format!("[{path}]") };
            text.push_str(&format!("\n{header}\n"));
            for (key, value) in table {
                self.line(&mut text, &path, &key, &value);
            }
        }
        text
    }

    /// Each database, and each of its tables, as a TOML table of its own under its path.
    fn databases_toml(&self, tables: &mut Vec<(String, Map<String, Json>)>, items: Vec<Json>) {
        for (index, item) in items.into_iter().enumerate() {
            let Json::Object(mut database) = item else { continue };
            let inner = database.remove("table");
            let path = format!("database[{index}]");
            tables.push((path.clone(), database));
            let Some(Json::Array(inner)) = inner else { continue };
            for (index, item) in inner.into_iter().enumerate() {
                if let Json::Object(table) = item {
                    tables.push((format!("{path}.table[{index}]"), table));
                }
            }
        }
    }

    fn line(&self, text: &mut String, path: &str, key: &str, value: &Json) {
        let Ok(shown) = toml::Value::try_from(value) else { return };
        if value.is_null() {
            return;
        }
        let full = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        let source = self.sources.get(&full).map_or("default", String::as_str);
        text.push_str(&format!("{key} = {shown}  # {source}\n"));
    }

    /// The settings as JSON, with the keys of the file, the file that was read, and under `sources` where each value comes
    /// from that is no default.
    pub fn to_json(&self) -> String {
        let mut map = self.to_map();
        map.insert("sources".to_owned(), json!(self.sources));
        format!("{:#}", Json::Object(map))
    }

    pub(super) fn to_map(&self) -> Map<String, Json> {
        let format = match self.log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let rotation = match self.log.rotation {
            Rotation::Daily => "daily",
            Rotation::Hourly => "hourly",
            Rotation::Never => "never",
        };
        let settings = json!({
            "file": self.file.as_deref().map(path),
            "node": self.node,
            "listen": self.listen.to_string(),
            "peers": self.peers,
            "cluster": self.cluster,
            "state_dir": path(&self.state_dir),
            "poll_interval": duration_text(self.poll_interval),
            "max_clock_skew": duration_text(self.max_clock_skew),
            "tombstone_horizon": duration_text(self.tombstone_horizon),
            "upkeep_interval": duration_text(self.upkeep_interval),
            "close_after": duration_text(self.close_after),
            "shutdown_grace": duration_text(self.shutdown_grace),
            "max_batch_rows": self.max_batch_rows,
            "auth": auth(&self.auth, self.tls.client_ca.is_some()),
            "tls": tls(&self.tls),
            "log": {
                "directory": path(&self.log.directory),
                "level": self.log.level,
                "format": format,
                "rotation": rotation,
                "keep": self.log.keep,
                "hook": self.log.hook,
            },
            "backup": { "root": self.backup.root.as_deref().map(path), "keep": self.backup.keep },
            "conflicts": { "keep": self.conflicts.keep, "keep_days": self.conflicts.keep_days },
            "health": {
                "max_lag": self.health.max_lag.map(duration_text),
                "max_backlog": self.health.max_backlog,
                "min_peers": self.health.min_peers,
            },
            "database": self.databases.iter().map(database).collect::<Vec<_>>(),
        });
        match settings {
            Json::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// Files are named; what they hold is not shown.
fn auth(auth: &AuthSettings, mutual: bool) -> Json {
    let peers: Vec<Json> = auth.peers.iter().map(peer).collect();
    json!({
        "token_file": auth.token_file.as_deref().map(path),
        "peer_token_file": auth.peer_token_file.as_deref().map(path),
        // It says something only where certificates are asked for.
        "others": mutual.then(|| auth.others.map_or("refuse", Role::as_str)),
        "peer": peers,
    })
}

fn peer(peer: &PeerSettings) -> Json {
    let mut shown = Map::new();
    shown.insert("name".to_owned(), peer.name.as_str().into());
    let files = [("token_file", peer.token_file.as_deref().map(path)), ("certificate", peer.certificate.clone())];
    shown.extend(files.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?.into()))));
    shown.insert("role".to_owned(), peer.role.as_str().into());
    shown.insert("databases".to_owned(), peer.databases.as_slice().into());
    Json::Object(shown)
}

fn tls(tls: &TlsSettings) -> Json {
    json!({
        "certificate": tls.certificate.as_deref().map(path),
        "key": tls.key.as_deref().map(path),
        "client_ca": tls.client_ca.as_deref().map(path),
        "ca": tls.ca.as_deref().map(path),
    })
}

fn database(database: &DatabaseSettings) -> Json {
    let mut shown = Map::new();
    shown.insert("name".to_owned(), database.name.as_str().into());
    shown.insert("path".to_owned(), path(&database.path).into());
    shown.extend(policy(&database.policy));
    shown.insert("granularity".to_owned(), granularity(database.granularity).into());
    shown.insert("include".to_owned(), database.selection.included().into());
    if !database.selection.excluded().is_empty() {
        shown.insert("exclude".to_owned(), database.selection.excluded().into());
    }
    if let Some(ranges) = database.key_ranges {
        shown.insert("key_ranges".to_owned(), ranges.number().into());
    }
    let triggers: Map<String, Json> =
        database.triggers.iter().map(|(name, rule)| (name.to_owned(), trigger_rule(rule).into())).collect();
    if !triggers.is_empty() {
        shown.insert("triggers".to_owned(), Json::Object(triggers));
    }
    shown.insert("table".to_owned(), database.tables.iter().map(|own| table(own, database)).collect());
    Json::Object(shown)
}

fn trigger_rule(rule: TriggerRule) -> &'static str {
    match rule {
        TriggerRule::Run => "run",
        TriggerRule::Skip => "skip",
    }
}

fn table(table: &TableSettings, database: &DatabaseSettings) -> Json {
    let mut shown = Map::new();
    shown.insert("name".to_owned(), table.name.as_str().into());
    shown.extend(table.policy.iter().flat_map(policy));
    if let Some(own) = table.granularity {
        shown.insert("granularity".to_owned(), granularity(own).into());
    }
    let excluded = database.selection.excluded_columns(&table.name);
    if !excluded.is_empty() {
        shown.insert("exclude_columns".to_owned(), excluded.into());
    }
    if let Some(remote_name) = &table.remote_name {
        shown.insert("remote_name".to_owned(), remote_name.as_str().into());
    }
    let mut columns: BTreeMap<&String, Map<String, Json>> =
        table.columns.iter().map(|(name, own)| (name, policy(own))).collect();
    for (name, remote_name) in &table.remote_columns {
        columns.entry(name).or_default().insert("remote_name".to_owned(), remote_name.as_str().into());
    }
    if !columns.is_empty() {
        let columns = columns.into_iter().map(|(name, own)| (name.clone(), Json::Object(own)));
        shown.insert("columns".to_owned(), Json::Object(columns.collect()));
    }
    Json::Object(shown)
}

/// A policy's keys.
fn policy(policy: &Policy) -> Map<String, Json> {
    let mut shown = Map::new();
    shown.insert("policy".to_owned(), policy.name().into());
    match policy {
        Policy::TimestampColumn(column) => {
            shown.insert("timestamp_column".to_owned(), column.as_str().into());
        }
        Policy::OriginPriority(nodes) => {
            shown.insert("priority".to_owned(), nodes.as_slice().into());
        }
        Policy::Sql(expression) => {
            shown.insert("merge".to_owned(), expression.as_str().into());
        }
        _ => {}
    }
    shown
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn granularity(granularity: Granularity) -> &'static str {
    match granularity {
        Granularity::Column => "column",
        Granularity::Row => "row",
    }
}
