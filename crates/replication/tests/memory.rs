//! How much memory bytes from elsewhere take: so much for each byte that came, whatever they claim.
//!
//! One test alone in its process: the memory of all threads is counted together.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

use std::path::PathBuf;

use peak_alloc::PeakAlloc;
use replication::TableShape;
use replication::codec::{Limits, decode_binary, decode_row, decode_text, decode_values};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes of memory for one that came. An empty row takes seven bytes in a message, and as a row some 200; a list of them
/// that grows is there twice for a moment.
const FOR_ONE: usize = 128;

/// What may be taken whatever came: zstd's own tables, and what is read of compressed rows before they turn out to be none.
const ALWAYS: usize = 512 << 10;

/// What the memory of this process was at its highest during some work, beyond what it was before.
fn peak(work: impl FnOnce()) -> usize {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    work();
    MEMORY.peak_usage().saturating_sub(before)
}

fn bounded(what: &str, bytes: usize, work: impl FnOnce()) {
    bounded_with(what, bytes, 0, work);
}

/// The same with so much more.
fn bounded_with(what: &str, bytes: usize, more: usize, work: impl FnOnce()) {
    let taken = peak(work);
    assert!(taken <= ALWAYS + more + FOR_ONE * bytes, "{what}: {bytes} bytes take {taken} of memory");
}

/// What zstd can make of a message at most: its blocks of four bytes hold 128 KiB.
fn unpacked(bytes: &[u8]) -> usize {
    if bytes.get(1) == Some(&1) { bytes.len() / 4 * (128 << 10) } else { 0 }
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/__fuzz__").join(target).join("corpus");
    let paths = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    paths.map(|path| (path.display().to_string(), std::fs::read(path).unwrap())).collect()
}

/// A message up to its tables, of which there is one, up to its columns.
const HEAD: &[u8] = b"\x01\x00\xa1a\xc0\xa1d\x01\x00\x01\x01\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x00\x00\x00\x00\x01\xa1t";

/// Messages of many small things.
fn many() -> Vec<(&'static str, Vec<u8>)> {
    const COUNT: usize = 60_000;
    let count = [0xce, 0, 0, 0xea, 0x60];
    let after = |head: &[u8], thing: &[u8]| [HEAD, head, &count, &thing.repeat(COUNT)].concat();
    let key = b"\x01\xa1k\x01\x00\x00";
    vec![
        ("columns", after(b"", b"\xa0")),
        ("rows", after(key, b"\x01\x05\x00\x03\x00\x00\x01")),
        (
            "NULLs",
            [
                HEAD,
                &count,
                &b"\xa0".repeat(COUNT),
                b"\x01\x00\x00\x01\x01\x05\x00\x03\x00\x00\x01",
                &b"\xc0".repeat(COUNT),
            ]
            .concat(),
        ),
        (
            "tallies",
            after(
                &[key.as_slice(), b"\x01\x01\x05\x00\x03\x00\x01\x00\x01\x05\x00\x03\x01"].concat(),
                b"\x00\x05\x00\x03\x01\x01\x00",
            ),
        ),
    ]
}

fn text(start: &str, thing: &str) -> String {
    format!("{{\"from\":\"a\",\"type\":\"hello\",{start}{}", thing.repeat(100_000))
}

#[test]
fn memory_is_bounded_by_what_came_and_not_by_what_it_claims() {
    let (limits, control) = (Limits::default(), "wire__control_messages_that_are_understood_can_be_said_again");
    for (name, bytes) in corpus("wire__rows_that_are_understood_can_be_said_again") {
        bounded_with(&name, bytes.len(), unpacked(&bytes), || drop(decode_binary(&bytes, &limits)));
    }
    for (name, bytes) in corpus(control) {
        let text = String::from_utf8_lossy(&bytes);
        bounded(&name, bytes.len(), || drop(decode_text(&text, &limits)));
    }
    let columns = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
    let shape = TableShape { name: "t".to_owned(), columns, key: vec![2, 0] };
    for (name, bytes) in corpus("stored__rows_that_read_back_can_be_kept_again") {
        bounded(&name, bytes.len(), || drop(decode_row(&bytes, &shape)));
    }
    for (name, bytes) in corpus("stored__values_that_read_back_can_be_kept_again") {
        bounded(&name, bytes.len(), || drop(decode_values(&bytes[bytes.len().min(1)..], 255)));
    }
    for (what, bytes) in many() {
        bounded(what, bytes.len(), || drop(decode_binary(&bytes, &limits)));
    }
    for (start, thing) in
        [("\"x\":[", "0,"), ("\"x\":[", "[],"), ("\"x\":[", "{\"\":0},"), ("", "\"\":0,"), ("\"x\":\"", "\\n")]
    {
        let text = text(start, thing);
        bounded(thing, text.len(), || drop(decode_text(&text, &limits)));
    }
}
