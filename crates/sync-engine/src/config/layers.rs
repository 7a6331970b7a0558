//! Lays the sources over each other: file, environment, command line. Owns their order.

use config::{Config, FileFormat};

use super::check::Check;
use super::document::Document;
use super::error::{ConfigErrors, ErrorKind, Place, one_error};
use super::raw::Raw;
use super::{Environment, Overrides, environment};

/// What the sources say together, and what is wrong with them so far.
pub(super) struct Layers {
    pub(super) raw: Raw,
    pub(super) check: Check,
}

/// Stacks them.
pub(super) fn stack(
    document: Document,
    environment: &Environment,
    overrides: &Overrides,
) -> Result<Layers, ConfigErrors> {
    let Document { table, mut check } = document;
    let mut given = environment::read(environment, &table, &mut check);
    given.extend(arguments(overrides, &mut check));
    let raw = deserialize(&table, given)
        // Only what fits the table of keys comes this far: this is an error of the program, told as well as can be.
        .map_err(|error| one_error(Place::Unset, "", ErrorKind::BadValue, error, "report this error"))?;
    Ok(Layers { raw, check })
}

fn deserialize(file: &toml::Table, given: Vec<environment::Given>) -> Result<Raw, String> {
    let text = toml::to_string(file).map_err(|error| error.to_string())?;
    let mut builder = Config::builder().add_source(config::File::from_str(&text, FileFormat::Toml));
    for (key, value) in given {
        builder = builder.set_override(&key, value).map_err(|error| error.to_string())?;
    }
    builder.build().and_then(Config::try_deserialize).map_err(|error| error.to_string())
}

/// The flags that stand for keys. Database files are no keys: see the module `databases`.
fn arguments(overrides: &Overrides, check: &mut Check) -> Vec<environment::Given> {
    let mut given = Vec::new();
    for (key, flag, value) in [("node", "--node", &overrides.node), ("listen", "--listen", &overrides.listen)] {
        if let Some(value) = value {
            check.given(key, Place::Argument(flag));
            given.push((key.to_owned(), value.as_str().into()));
        }
    }
    if !overrides.peers.is_empty() {
        check.given("peers", Place::Argument("--peer"));
        for index in 0..overrides.peers.len() {
            check.given(&format!("peers[{index}]"), Place::Argument("--peer"));
        }
        given.push(("peers".to_owned(), overrides.peers.clone().into()));
    }
    if let Some(file) = &overrides.token_file {
        check.given("auth.token_file", Place::Argument("--token-file"));
        given.push(("auth.token_file".to_owned(), file.display().to_string().into()));
    }
    given
}
