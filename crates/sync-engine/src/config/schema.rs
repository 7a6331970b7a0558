//! The keys of `sync-engine.toml`: their names and their types. Owns no values.

use sqlite_store::nearest::nearest;

/// What a key holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    Integer,
    /// A list of texts; comma-separated in the environment.
    Texts,
    /// Texts under names that are not ours.
    TextsByName,
    /// `[name]`.
    Table(&'static [Key]),
    /// `[[name]]`.
    Tables(&'static [Key]),
    /// `[name]`, whose keys are names that the owner chose; each holds a table.
    Named(&'static [Key]),
}

impl Kind {
    /// How the type is called in an error.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text in quotes",
            Self::Integer => "a whole number",
            Self::Texts => "a list of texts",
            Self::TextsByName => "a table of texts",
            Self::Table(_) => "a table",
            Self::Tables(_) => "a list of tables",
            Self::Named(_) => "a table of names, each with a table",
        }
    }
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

/// The top level.
pub(super) const ROOT: &[Key] = &[
    key("node", Kind::Text),
    key("listen", Kind::Text),
    key("peers", Kind::Texts),
    key("cluster", Kind::Text),
    key("state_dir", Kind::Text),
    key("poll_interval", Kind::Text),
    key("max_clock_skew", Kind::Text),
    key("tombstone_horizon", Kind::Text),
    key("upkeep_interval", Kind::Text),
    key("close_after", Kind::Text),
    key("shutdown_grace", Kind::Text),
    key("max_batch_rows", Kind::Integer),
    key("auth", Kind::Table(AUTH)),
    key("tls", Kind::Table(TLS)),
    key("log", Kind::Table(LOG)),
    key("backup", Kind::Table(BACKUP)),
    key("conflicts", Kind::Table(CONFLICTS)),
    key("health", Kind::Table(HEALTH)),
    key("database", Kind::Tables(DATABASE)),
];

const AUTH: &[Key] = &[
    key("token_file", Kind::Text),
    key("peer_token_file", Kind::Text),
    key("others", Kind::Text),
    key("peer", Kind::Tables(PEER)),
];

const PEER: &[Key] = &[
    key("name", Kind::Text),
    key("token_file", Kind::Text),
    key("certificate", Kind::Text),
    key("role", Kind::Text),
    key("databases", Kind::Texts),
];

const TLS: &[Key] =
    &[key("certificate", Kind::Text), key("key", Kind::Text), key("client_ca", Kind::Text), key("ca", Kind::Text)];

const LOG: &[Key] = &[
    key("directory", Kind::Text),
    key("level", Kind::Text),
    key("format", Kind::Text),
    key("rotation", Kind::Text),
    key("keep", Kind::Integer),
    key("hook", Kind::Texts),
];

const BACKUP: &[Key] = &[key("root", Kind::Text), key("keep", Kind::Integer)];

const CONFLICTS: &[Key] = &[key("keep", Kind::Integer), key("keep_days", Kind::Integer)];

const HEALTH: &[Key] =
    &[key("max_lag", Kind::Text), key("max_backlog", Kind::Integer), key("min_peers", Kind::Integer)];

const DATABASE: &[Key] = &[
    key("name", Kind::Text),
    key("path", Kind::Text),
    key("policy", Kind::Text),
    key("priority", Kind::Texts),
    key("timestamp_column", Kind::Text),
    key("granularity", Kind::Text),
    key("include", Kind::Texts),
    key("exclude", Kind::Texts),
    key("key_ranges", Kind::Integer),
    key("triggers", Kind::TextsByName),
    key("table", Kind::Tables(TABLE)),
];

const TABLE: &[Key] = &[
    key("name", Kind::Text),
    key("policy", Kind::Text),
    key("priority", Kind::Texts),
    key("timestamp_column", Kind::Text),
    key("granularity", Kind::Text),
    key("remote_name", Kind::Text),
    key("exclude_columns", Kind::Texts),
    key("columns", Kind::Named(COLUMN)),
];

const COLUMN: &[Key] = &[
    key("policy", Kind::Text),
    key("priority", Kind::Texts),
    key("merge", Kind::Text),
    key("remote_name", Kind::Text),
];

/// The key of this name.
pub(super) fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name == name)
}

/// What to do about a name that is no key of this table: the nearest name, or where the key belongs, or what there is.
pub(super) fn advice(keys: &'static [Key], name: &str) -> String {
    if let Some(near) = nearest(keys.iter().map(|key| key.name), name) {
        return format!("did you mean {near:?}?");
    }
    if let Some(path) = elsewhere(ROOT, "", name) {
        return format!("that key belongs to {path}");
    }
    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
    format!("the keys here are {}", names.join(", "))
}

/// The table that has a key of this name.
fn elsewhere(keys: &'static [Key], path: &str, name: &str) -> Option<String> {
    keys.iter()
        .find_map(|key| {
            let (inner, header) = match key.kind {
                Kind::Table(inner) => (inner, format!("[{path}{}]", key.name)),
                Kind::Tables(inner) => (inner, format!("[[{path}{}]]", key.name)),
                Kind::Named(inner) => (inner, format!("[{path}{}.NAME]", key.name)),
                _ => return None,
            };
            if find(inner, name).is_some() {
                return Some(header);
            }
            elsewhere(inner, &format!("{path}{}.", key.name), name)
        })
        .or_else(|| {
            (path.is_empty() && find(ROOT, name).is_some())
                .then(|| "the top of the file, before the first [table]".to_owned())
        })
}

#[cfg(test)]
mod tests {
    use super::{ROOT, advice};

    #[test]
    fn a_name_is_advised_upon() {
        assert_eq!(advice(ROOT, "pol_interval"), "did you mean \"poll_interval\"?");
        assert_eq!(advice(ROOT, "Node"), "did you mean \"node\"?");
        assert_eq!(advice(ROOT, "granularity"), "that key belongs to [[database]]");
        assert_eq!(advice(ROOT, "remote_name"), "that key belongs to [[database.table]]");
        assert_eq!(advice(ROOT, "merge"), "that key belongs to [database.table.columns.NAME]");
        assert!(advice(ROOT, "frobnicate").starts_with("the keys here are node, listen"));
    }
}
