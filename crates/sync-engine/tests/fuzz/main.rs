//! Configuration and queries: text of people, of services and of programs, whatever it is.
//!
//! Each target runs its corpus (`__fuzz__/NAME/corpus`) and then random inputs. A failure prints the input and the seed:
//! `BOLERO_RANDOM_SEED=… cargo test …` runs it again. `.ci/fuzz` searches for longer, led by coverage.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

use std::path::PathBuf;

use bolero::{ValueGenerator, check, produce_with};
use sync_engine::ConflictFilter;
use sync_engine::config::{ConfigErrors, Environment, Overrides, Settings, load};
use tempfile::TempDir;

/// Pieces of a configuration, that stand for others of their kind.
const PIECES: [&str; 40] = [
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "\n",
    "#",
    "[[database]]",
    "[[database.table]]",
    "[log]",
    "columns.c",
    "policy",
    "\"sql\"",
    "merge",
    "\"counter\"",
    "remote_name",
    "\"\"",
    "-1",
    "0",
    "18446744073709551616",
    "1e400",
    "1979-05-27",
    "true",
    "\"1s\"",
    "\"9999999999999d\"",
    "\"*\"",
    "\"\\u0000\"",
    "\"ä\"",
    "\u{feff}",
    "\r",
    "nan",
    "\"max(local.c, remote.c)\"",
    "\"local.c; DROP TABLE t\"",
    "\"local.\"",
    "\"max(\"",
    "path",
];

/// Ends of variables' names.
const VARIABLES: [&str; 24] = [
    "LISTEN",
    "NODE",
    "PEERS",
    "DATABASE__0__PATH",
    "DATABASE__1__PATH",
    "DATABASE__65535__PATH",
    "DATABASE",
    "DATABASE__",
    "DATABASE__X__PATH",
    "DATABASE__0__TABLE__0__NAME",
    "DATABASE__0__TABLE__0__COLUMNS__C__POLICY",
    "LOG__LEVEL",
    "DATABASE__0__TABLE__0__COLUMNS__A.B[0]__POLICY",
    "DATABASE__0__TABLE__0__COLUMNS____POLICY",
    "LOG__KEEP",
    "LOG",
    "DATABASE__0__TRIGGERS__A B",
    "DATABASE__0__TRIGGERS__",
    "",
    "__",
    "NODE__X",
    "POLL_INTERVAL",
    "ÄÖ",
    "AUTH__TOKEN_FILE",
];

fn bytes(most: usize) -> impl ValueGenerator<Output = Vec<u8>> {
    produce_with::<Vec<u8>>().len(most / 2..=most)
}

struct Choices<'a>(std::slice::Iter<'a, u8>);

impl<'a> Choices<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.iter())
    }

    fn below(&mut self, bound: usize) -> usize {
        let mut byte = || usize::from(self.0.next().copied().unwrap_or(0));
        ((byte() << 8) + byte()) % bound.max(1)
    }

    fn choose(&mut self, from: &[&'static str]) -> &'static str {
        from[self.below(from.len())]
    }
}

fn load_bytes(bytes: &[u8], environment: &Environment) -> Result<Settings, ConfigErrors> {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("sync-engine.toml");
    std::fs::write(&file, bytes).unwrap();
    load(Some(&file), &Overrides::default(), environment)
}

/// What it says apart from where it comes from.
fn said(settings: &Settings) -> String {
    let mut said: serde_json::Value = serde_json::from_str(&settings.to_json()).unwrap();
    for place in ["file", "sources"] {
        said.as_object_mut().unwrap().remove(place);
    }
    said.to_string()
}

/// What loads is printed so that the same loads again; what does not is told in words.
fn holds(loaded: Result<Settings, ConfigErrors>) -> bool {
    match loaded {
        Ok(settings) => {
            let printed = settings.to_toml();
            let again = load_bytes(printed.as_bytes(), &Environment::new());
            let again = again.unwrap_or_else(|errors| panic!("{errors}\n{printed}"));
            assert_eq!(said(&again), said(&settings), "{printed}");
            true
        }
        Err(errors) => {
            assert!(!errors.errors().is_empty());
            for error in errors.errors() {
                assert!(!error.what.is_empty() && !error.remedy.is_empty(), "{error:?}");
                assert_ne!(error.remedy, "report this error", "{error}");
            }
            false
        }
    }
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = "tests/fuzz/__fuzz__/a_file_that_loads_is_printed_as_it_loads/corpus";
    let files = std::fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let mut all: Vec<(String, Vec<u8>)> =
        paths.map(|path| (path.display().to_string(), std::fs::read(path).unwrap())).collect();
    all.sort();
    all
}

#[test]
fn what_is_real_loads_and_what_is_hostile_is_refused() {
    for (name, bytes) in corpus() {
        assert_eq!(holds(load_bytes(&bytes, &Environment::new())), name.contains("real-"), "{name}");
    }
}

#[test]
fn a_file_that_loads_is_printed_as_it_loads() {
    check!().with_iterations(200).for_each(|bytes: &[u8]| {
        holds(load_bytes(bytes, &Environment::new()));
    });
}

#[test]
fn files_with_errors_are_refused_or_say_something_else() {
    let whole: Vec<String> = corpus().into_iter().filter_map(|(_, bytes)| String::from_utf8(bytes).ok()).collect();
    check!().with_iterations(300).with_generator(bytes(24)).for_each(|bytes| {
        let mut choices = Choices::new(bytes);
        let mut text: Vec<char> = whole[choices.below(whole.len())].chars().collect();
        for _ in 0..1 + choices.below(3) {
            let start = choices.below(text.len() + 1);
            let end = (start + choices.below(12)).min(text.len());
            drop(text.splice(start..end, choices.choose(&PIECES).chars()));
        }
        holds(load_bytes(text.into_iter().collect::<String>().as_bytes(), &Environment::new()));
    });
}

#[test]
fn variables_are_refused_or_understood_whatever_they_are() {
    let full = corpus().into_iter().find(|(name, _)| name.ends_with("real-full.toml")).unwrap().1;
    check!().with_iterations(150).with_generator(bytes(32)).for_each(|bytes| {
        let mut choices = Choices::new(bytes);
        let mut environment = Environment::new();
        for _ in 0..1 + choices.below(3) {
            let name = format!("SYNC_ENGINE__{}", choices.choose(&VARIABLES));
            environment.insert(name, choices.choose(&PIECES).trim_matches('"').to_owned());
        }
        let file: &[u8] = if choices.below(2) == 0 { &full } else { b"" };
        holds(load_bytes(file, &environment));
    });
}

#[test]
fn a_query_that_is_understood_can_be_asked_again() {
    check!().with_iterations(5_000).for_each(|bytes: &[u8]| {
        let query = String::from_utf8_lossy(bytes);
        if let Ok(filter) = ConflictFilter::from_query(&query) {
            let again = ConflictFilter::from_query(&filter.to_query()).unwrap();
            assert_eq!(again.to_query(), filter.to_query(), "{query}");
        }
    });
}
