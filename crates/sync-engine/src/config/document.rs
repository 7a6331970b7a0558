//! The configuration file: read, and held against the table of keys with line and column. Owns the way from TOML text to
//! the part of it that makes sense. serde would stop at the first error; this goes on to the last.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::Check;
use super::error::{ConfigErrors, ErrorKind, Place, one_error};
use super::schema::{self, Key, Kind};

/// A file's content.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// What is of the right shape.
    pub(super) table: toml::Table,
    /// What is not, and where everything is.
    pub(super) check: Check,
}

/// Reads a file.
pub(super) fn read(file: &Path) -> Result<Document, ConfigErrors> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let what = format!("cannot read {}: {error}", file.display());
        let remedy = "make it a text file in UTF-8 that this user may read";
        one_error(Place::Unset, "", ErrorKind::Unreadable, what, remedy)
    })?;
    let mut walk = Walk { file: file.to_owned(), text: &text, check: Check::default() };
    let (root, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        // What was recovered is a guess: errors found in it would mislead.
        for error in errors {
            let place = walk.place(error.span().map_or(0, |span| span.start));
            let what = format!("not valid TOML: {}", error.message());
            walk.check.complain_at(
                place,
                "",
                ErrorKind::Syntax,
                what,
                "correct the line; the format is at https://toml.io",
            );
        }
        return match walk.check.finish() {
            Err(errors) => Err(errors),
            Ok(_) => Ok(Document::default()),
        };
    }
    let table = walk.table(root.get_ref(), schema::ROOT, "");
    Ok(Document { table, check: walk.check })
}

struct Walk<'t> {
    file: PathBuf,
    text: &'t str,
    check: Check,
}

impl Walk<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = before.matches('\n').count() + 1;
        Place::File { file: self.file.clone(), line, column: before[start..].chars().count() + 1 }
    }

    /// The entries that are known and of the right type.
    fn table(&mut self, table: &DeTable<'_>, keys: &'static [Key], path: &str) -> toml::Table {
        let mut kept = toml::Table::new();
        for (name, value) in table {
            let written = name.get_ref().as_ref();
            let path = if path.is_empty() { written.to_owned() } else { format!("{path}.{written}") };
            let Some(key) = schema::find(keys, written) else {
                let place = self.place(name.span().start);
                let advice = schema::advice(keys, written);
                self.check.complain_at(place, &path, ErrorKind::UnknownKey, "there is no such key", advice);
                continue;
            };
            // A table's own span begins with its header, or with the value after `=`.
            let place = self.place(value.span().start);
            self.check.given(&path, place);
            if let Some(value) = self.value(value, key, &path) {
                kept.insert(written.to_owned(), value);
            }
        }
        kept
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, key: &'static Key, path: &str) -> Option<toml::Value> {
        match (key.kind, value.get_ref()) {
            (Kind::Text, DeValue::String(text)) => Some(toml::Value::String(text.clone().into_owned())),
            (Kind::Integer, DeValue::Integer(number)) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Some(toml::Value::Integer(number)),
                Err(error) => {
                    self.check.bad_value(path, format!("{number} is no usable number: {error}"), "use a smaller one");
                    None
                }
            },
            (Kind::Texts, DeValue::Array(items)) => Some(self.texts(items.iter(), path)),
            (Kind::TextsByName, DeValue::Table(table)) => Some(toml::Value::Table(self.texts_by_name(table, path))),
            (Kind::Table(keys), DeValue::Table(table)) => Some(toml::Value::Table(self.table(table, keys, path))),
            (Kind::Named(keys), DeValue::Table(names)) => Some(toml::Value::Table(self.named(names, keys, path))),
            (Kind::Tables(keys), DeValue::Array(items)) => {
                let mut tables = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    let place = self.place(item.span().start);
                    self.check.given(&path, place);
                    let table = match item.get_ref() {
                        DeValue::Table(table) => self.table(table, keys, &path),
                        other => {
                            self.wrong_type(&path, "a table", other);
                            // The others keep their numbers.
                            toml::Table::new()
                        }
                    };
                    tables.push(toml::Value::Table(table));
                }
                Some(toml::Value::Array(tables))
            }
            (Kind::Tables(_), other @ DeValue::Table(_)) => {
                let what = format!("a list of tables is expected, not {}", type_name(other));
                self.check.complain(
                    path,
                    ErrorKind::WrongType,
                    what,
                    format!("write [[{}]] with two brackets", key.name),
                );
                None
            }
            (kind, other) => {
                self.wrong_type(path, kind.expected(), other);
                None
            }
        }
    }

    /// Tables under names that the owner chose.
    fn named(&mut self, names: &DeTable<'_>, keys: &'static [Key], path: &str) -> toml::Table {
        let mut tables = toml::Table::new();
        for (name, value) in names {
            let name = name.get_ref().as_ref();
            let path = format!("{path}.{name}");
            let place = self.place(value.span().start);
            self.check.given(&path, place);
            match value.get_ref() {
                DeValue::Table(table) => {
                    let table = self.table(table, keys, &path);
                    tables.insert(name.to_owned(), toml::Value::Table(table));
                }
                other => self.wrong_type(&path, "a table", other),
            }
        }
        tables
    }

    fn texts<'v>(&mut self, items: impl Iterator<Item = &'v Spanned<DeValue<'v>>>, path: &str) -> toml::Value {
        let mut texts = Vec::new();
        for (index, item) in items.enumerate() {
            let path = format!("{path}[{index}]");
            let place = self.place(item.span().start);
            self.check.given(&path, place);
            match item.get_ref() {
                DeValue::String(text) => texts.push(text.clone().into_owned()),
                other => {
                    self.wrong_type(&path, Kind::Text.expected(), other);
                    // The others keep their numbers.
                    texts.push(String::new());
                }
            }
        }
        texts.into()
    }

    fn texts_by_name(&mut self, table: &DeTable<'_>, path: &str) -> toml::Table {
        let mut kept = toml::Table::new();
        for (name, value) in table {
            let path = format!("{path}.{}", name.get_ref());
            let place = self.place(value.span().start);
            self.check.given(&path, place);
            match value.get_ref() {
                DeValue::String(text) => {
                    kept.insert(name.get_ref().to_string(), toml::Value::String(text.clone().into_owned()));
                }
                other => self.wrong_type(&path, Kind::Text.expected(), other),
            }
        }
        kept
    }

    fn wrong_type(&mut self, path: &str, expected: &str, found: &DeValue<'_>) {
        let what = format!("{expected} is expected, not {}", type_name(found));
        let remedy = match found {
            DeValue::Integer(number) if expected == Kind::Text.expected() && super::values::is_duration_key(path) => {
                format!("write it with its unit, as \"{number}s\"")
            }
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_)
                if expected == Kind::Text.expected() =>
            {
                "put it into quotes".to_owned()
            }
            DeValue::String(_) if expected == Kind::Integer.expected() => "leave the quotes out".to_owned(),
            DeValue::String(text) if expected == Kind::Texts.expected() => format!("write [{text:?}]"),
            _ => format!("give it {expected}"),
        };
        self.check.complain(path, ErrorKind::WrongType, what, remedy);
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
