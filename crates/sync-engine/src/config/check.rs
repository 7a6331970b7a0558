//! Collects errors while a configuration is looked through, and knows where each key was given. Owns no rules.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{ConfigError, ConfigErrors, ErrorKind, Place, collected};

/// Errors so far, and the places of keys.
#[derive(Debug, Default)]
pub(super) struct Check {
    errors: Vec<ConfigError>,
    places: BTreeMap<String, Place>,
    /// Keys that there is an error of already: what follows from it is not worth a second one.
    refused: BTreeSet<String>,
}

impl Check {
    /// Notes where a key is given; a later source hides an earlier one.
    pub(super) fn given(&mut self, key: &str, place: Place) {
        // The items of a list go with it.
        let items = format!("{key}[");
        self.places.retain(|other, _| !other.starts_with(&items));
        self.refused.retain(|other| other != key && !other.starts_with(&items));
        self.places.insert(key.to_owned(), place);
    }

    /// Whether a key is given anywhere, be its value right or wrong.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Whether there is an error of a key already.
    pub(super) fn is_refused(&self, key: &str) -> bool {
        self.refused.contains(key)
    }

    /// Where a key is given; for one that is not, where what it belongs to is.
    pub(super) fn place(&self, key: &str) -> Place {
        let mut path = key;
        loop {
            if let Some(place) = self.places.get(path) {
                return place.clone();
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return Place::Unset,
            }
        }
    }

    /// Adds an error at the place of its key.
    pub(super) fn complain(&mut self, key: &str, kind: ErrorKind, what: impl Into<String>, remedy: impl Into<String>) {
        let place = self.place(key);
        self.complain_at(place, key, kind, what, remedy);
    }

    /// Adds an error at a place.
    pub(super) fn complain_at(
        &mut self,
        place: Place,
        key: &str,
        kind: ErrorKind,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (what, remedy) = (what.into(), remedy.into());
        self.refused.insert(key.to_owned());
        self.errors.push(ConfigError { place, key: key.to_owned(), kind, what, remedy });
    }

    /// Adds the error of a value that is wrong.
    pub(super) fn bad_value(&mut self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.complain(key, ErrorKind::BadValue, what, remedy);
    }

    /// The errors, or where each key was given.
    pub(super) fn finish(self) -> Result<BTreeMap<String, Place>, ConfigErrors> {
        if self.errors.is_empty() { Ok(self.places) } else { Err(collected(self.errors)) }
    }
}
