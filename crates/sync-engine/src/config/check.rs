//! Collects errors while a configuration is looked through, and knows where each key was given. Owns no rules.

use std::collections::BTreeMap;

use super::error::{ConfigError, ConfigErrors, ErrorKind, Place, collected};

/// Errors so far, and the places of keys.
#[derive(Debug, Default)]
pub(super) struct Check {
    errors: Vec<ConfigError>,
    places: BTreeMap<String, Place>,
}

impl Check {
    /// Notes where a key is given; a later source hides an earlier one.
    pub(super) fn given(&mut self, key: &str, place: Place) {
        self.places.insert(key.to_owned(), place);
    }

    /// Whether a key is given anywhere, be its value right or wrong.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.places.contains_key(key)
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
