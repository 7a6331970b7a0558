//! What differs between two configurations, by the keys that people know.

use serde_json::{Map, Value as Json};

use super::Settings;

impl Settings {
    /// The keys whose values differ, in the order of the file: `peers`, `log.level`, `database.shop.policy`. Databases go by their
    /// names; one that is in only one of the two is `database.shop`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        let (mut here, mut there) = (self.to_map(), other.to_map());
        for map in [&mut here, &mut there] {
            map.remove("file");
            if let Some(Json::Array(databases)) = map.remove("database") {
                map.insert("database".to_owned(), Json::Object(by_name(databases)));
            }
        }
        collect("", &here, &there, 0, &mut keys);
        keys
    }
}

fn by_name(databases: Vec<Json>) -> Map<String, Json> {
    let named = |database: Json| Some((database["name"].as_str()?.to_owned(), database));
    databases.into_iter().filter_map(named).collect()
}

/// How deep keys are told: `database.NAME.KEY`.
const DEPTH: usize = 2;

fn collect(path: &str, here: &Map<String, Json>, there: &Map<String, Json>, depth: usize, keys: &mut Vec<String>) {
    let mut names: Vec<&String> = here.keys().collect();
    names.extend(there.keys().filter(|name| !here.contains_key(*name)));
    for name in names {
        let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (here.get(name), there.get(name)) {
            (Some(Json::Object(here)), Some(Json::Object(there))) if depth < DEPTH => {
                collect(&key, here, there, depth + 1, keys);
            }
            (here, there) if here != there => keys.push(key),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;
    use crate::config::{Environment, Overrides, load};

    fn settings(text: &str) -> Settings {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sync-engine.toml");
        std::fs::write(&file, text).unwrap();
        load(Some(&file), &Overrides::default(), &Environment::new()).unwrap()
    }

    #[test]
    fn what_differs_is_told_by_its_keys() {
        let before = settings(
            "node = \"a\"\npeers = [\"ws://x:1\"]\n[[database]]\npath = \"one.db\"\n[[database]]\npath = \"two.db\"\n",
        );
        // In another order, from another file.
        let same = settings(
            "peers = [\"ws://x:1\"]\nnode = \"a\"\n[[database]]\npath = \"two.db\"\n[[database]]\npath = \"one.db\"\n",
        );
        assert_eq!(before.differences(&same), [""; 0]);
        let after = settings(
            "node = \"a\"\npeers = [\"ws://x:2\"]\n[log]\nlevel = \"warn\"\nkeep = 3\n[[database]]\npath = \"one.db\"\nkey_ranges = 7\n\
             [[database.table]]\nname = \"t\"\npolicy = \"max\"\n[[database]]\npath = \"three.db\"\n",
        );
        let keys = [
            "peers",
            "log.level",
            "log.keep",
            "database.one.table",
            "database.one.key_ranges",
            "database.two",
            "database.three",
        ];
        assert_eq!(before.differences(&after), keys);
    }
}
