//! Which tables and columns a node keeps in sync, by their names. In names ASCII case does not count, as in SQLite's own.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What is kept in sync: tables by patterns in which `*` stands for any text and `?` for one character, less single columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    include: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    columns: BTreeMap<String, Vec<String>>,
}

impl Default for Selection {
    /// Everything.
    fn default() -> Self {
        Self { include: vec!["*".to_owned()], exclude: Vec::new(), columns: BTreeMap::new() }
    }
}

/// Why a table is not in a selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion<'a> {
    /// This pattern excludes it.
    Excluded(&'a str),
    /// No pattern includes it.
    NotIncluded,
}

impl fmt::Display for Exclusion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Excluded(pattern) => write!(f, "excluded by configuration: pattern {pattern:?}"),
            Self::NotIncluded => write!(f, "excluded by configuration: no pattern of include matches it"),
        }
    }
}

impl Selection {
    /// Tables that none of these patterns matches are not synced.
    pub fn set_include(&mut self, patterns: impl IntoIterator<Item = String>) {
        self.include = patterns.into_iter().collect();
    }

    /// Tables that one of these patterns matches are not synced, also if they are included.
    pub fn set_exclude(&mut self, patterns: impl IntoIterator<Item = String>) {
        self.exclude = patterns.into_iter().collect();
    }

    /// Leaves out columns of a table, in place of those that were left out before.
    pub fn set_excluded_columns(&mut self, table: impl Into<String>, columns: impl IntoIterator<Item = String>) {
        let table = table.into();
        self.columns.retain(|known, _| !known.eq_ignore_ascii_case(&table));
        let columns: Vec<String> = columns.into_iter().collect();
        if !columns.is_empty() {
            self.columns.insert(table, columns);
        }
    }

    /// Why a table is not synced; none if it is.
    pub fn exclusion(&self, table: &str) -> Option<Exclusion<'_>> {
        if let Some(pattern) = self.exclude.iter().find(|pattern| matches(pattern, table)) {
            return Some(Exclusion::Excluded(pattern));
        }
        (!self.include.iter().any(|pattern| matches(pattern, table))).then_some(Exclusion::NotIncluded)
    }

    /// Whether a column of a table is left out, as far as the table is not.
    pub fn excludes_column(&self, table: &str, column: &str) -> bool {
        self.excluded_columns(table).iter().any(|excluded| excluded.eq_ignore_ascii_case(column))
    }

    /// The columns of a table that are left out.
    pub fn excluded_columns(&self, table: &str) -> &[String] {
        let found = self.columns.iter().find(|(known, _)| known.eq_ignore_ascii_case(table));
        found.map_or(&[], |(_, columns)| columns)
    }

    /// Whether a table, or a part of it, is left out.
    pub fn limits(&self, table: &str) -> bool {
        !self.excluded_columns(table).is_empty() || self.exclusion(table).is_some()
    }

    /// The patterns, those that include first.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.include.iter().chain(&self.exclude).map(String::as_str)
    }

    /// The patterns of tables that are synced.
    pub fn included(&self) -> &[String] {
        &self.include
    }

    /// The patterns of tables that are not synced.
    pub fn excluded(&self) -> &[String] {
        &self.exclude
    }

    /// The columns that are left out, by table.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.columns.iter().map(|(table, columns)| (table.as_str(), columns.as_slice()))
    }

    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a pattern matches a name as a whole.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut from) = (0, 0);
    // Where the last asterisk stands, and how much of the name it has taken.
    let mut asterisk: Option<(usize, usize)> = None;
    while from < name.len() {
        match pattern.get(at) {
            Some('*') => {
                asterisk = Some((at, from));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || wanted.eq_ignore_ascii_case(&name[from]) => {
                at += 1;
                from += 1;
            }
            _ => {
                // The last asterisk takes one more. Those before it need not: what follows them has been matched.
                let Some((place, taken)) = asterisk else { return false };
                asterisk = Some((place, taken + 1));
                (at, from) = (place + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|left| *left == '*')
}

#[cfg(test)]
mod tests {
    use super::{Exclusion, Selection, matches};

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn patterns_match_whole_names_without_ascii_case() {
        let matching = [
            ("*", ""),
            ("*", "stock"),
            ("stock", "STOCK"),
            ("session_*", "Session_"),
            ("session_*", "session_data"),
            ("*_log", "a_log_log"),
            ("a*b*c", "aXbbYbc"),
            ("t?", "t1"),
            ("?*", "x"),
            ("*äö*", "xäöy"),
            ("t?", "tä"),
            ("a**", "a"),
            ("50%*", "50% off"),
            ("[ab]", "[AB]"),
        ];
        for (pattern, name) in matching {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        let others = [
            ("", "a"),
            ("stock", "stocks"),
            ("stock", "a stock"),
            ("session_*", "sessions"),
            ("t?", "t"),
            ("t?", "t12"),
            ("?", ""),
            ("*_log", "log"),
            ("a*b*c", "acb"),
            ("Ä", "ä"),
            ("a%", "ab"),
            ("a_", "ab"),
            ("[ab]", "a"),
        ];
        for (pattern, name) in others {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_with_many_asterisks_ends_soon() {
        let (pattern, name) = ("*a".repeat(500), "a".repeat(20_000));
        assert!(matches(&pattern, &name));
        assert!(!matches(&format!("{pattern}b"), &name));
    }

    #[test]
    fn an_excluded_name_wins_over_an_included_one() {
        let mut selection = Selection::default();
        assert!(selection.is_everything());
        assert_eq!(selection.exclusion("anything"), None);
        selection.set_include(texts(&["shop_*", "stock"]));
        selection.set_exclude(texts(&["*_cache"]));
        assert_eq!(selection.exclusion("shop_items"), None);
        assert_eq!(selection.exclusion("Stock"), None);
        assert_eq!(selection.exclusion("other"), Some(Exclusion::NotIncluded));
        assert_eq!(selection.exclusion("shop_cache"), Some(Exclusion::Excluded("*_cache")));
        assert_eq!(
            selection.exclusion("SHOP_CACHE").unwrap().to_string(),
            "excluded by configuration: pattern \"*_cache\""
        );
    }

    #[test]
    fn columns_go_by_names_without_ascii_case() {
        let mut selection = Selection::default();
        selection.set_excluded_columns("Stock", texts(&["local_note"]));
        assert!(selection.excludes_column("stock", "LOCAL_NOTE") && selection.limits("STOCK"));
        assert!(!selection.excludes_column("stock", "qty") && !selection.limits("other"));
        selection.set_excluded_columns("stock", texts(&["place"]));
        assert_eq!(selection.excluded_columns("Stock"), ["place"]);
        selection.set_excluded_columns("STOCK", []);
        assert!(selection.is_everything());
    }

    #[test]
    fn a_selection_is_read_back_from_json() {
        let mut selection = Selection::default();
        assert_eq!(serde_json::to_string(&selection).unwrap(), r#"{"include":["*"]}"#);
        selection.set_exclude(texts(&["s*"]));
        selection.set_excluded_columns("stock", texts(&["note"]));
        let text = r#"{"include":["*"],"exclude":["s*"],"columns":{"stock":["note"]}}"#;
        assert_eq!(serde_json::to_string(&selection).unwrap(), text);
        assert_eq!(serde_json::from_str::<Selection>(text).unwrap(), selection);
        assert_eq!(serde_json::from_str::<Selection>("{}").unwrap(), Selection::default());
    }
}
