//! The corpora that are kept: what is real is understood, and what is hostile is refused.

use std::path::PathBuf;

use crate::{merge, stored, wire};

/// The files of a target's corpus, by name.
pub(crate) fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/__fuzz__").join(target).join("corpus");
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<(String, Vec<u8>)> = files
        .map(|file| file.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    found.sort();
    found
}

/// The contents of those whose names begin so.
pub(crate) fn named(target: &str, prefix: &str) -> Vec<Vec<u8>> {
    let files = corpus(target).into_iter().filter(|(name, _)| name.starts_with(prefix));
    files.map(|(_, bytes)| bytes).collect()
}

fn judged(target: &str, decodes: impl Fn(&[u8]) -> Result<(), String>) {
    for (name, bytes) in corpus(target) {
        match (name.split_once('-').map(|(kind, _)| kind), decodes(&bytes)) {
            (Some("real"), Err(reason)) => panic!("{target}: {name} is refused: {reason}"),
            (Some("hostile"), Ok(())) => panic!("{target}: {name} is taken"),
            (Some("real" | "hostile"), _) => {}
            _ => panic!("{target}: {name} says neither that it is real nor that it is hostile"),
        }
    }
}

#[test]
fn what_is_real_is_understood_and_what_is_hostile_is_refused() {
    judged(wire::ROWS, wire::rows);
    judged(wire::CONTROL, wire::control);
    judged(stored::ROW, stored::row);
    judged(stored::VALUES, stored::values);
    judged(stored::JSON, stored::json);
    assert!(!merge::rows().is_empty());
}
