//! What a database and the state folder hold in encoded form.

use std::fmt::Debug;

use bolero::check;
use replication::codec::{decode_row, decode_rows, decode_values, encode_row, encode_rows, encode_values};
use replication::selection::matches;
use replication::{NodeSchemas, Selection, TableShape, VersionVector};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::alteration::{Script, script};
use crate::corpora::named;

/// The corpora of rows, of values by themselves, and of what is kept as JSON.
pub(crate) const ROW: &str = "stored__rows_that_read_back_can_be_kept_again";
pub(crate) const VALUES: &str = "stored__values_that_read_back_can_be_kept_again";
pub(crate) const JSON: &str = "stored__json_that_reads_back_can_be_kept_again";

/// The shape of the rows in the corpus.
pub(crate) fn shape() -> TableShape {
    let columns = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
    TableShape { name: "t".to_owned(), columns, key: vec![2, 0] }
}

pub(crate) fn row(bytes: &[u8]) -> Result<(), String> {
    let row = decode_row(bytes, &shape()).map_err(|error| error.to_string())?;
    let again = decode_row(&encode_row(&row).unwrap(), &shape());
    assert_eq!(again, Ok(row));
    Ok(())
}

/// Rows that are kept together.
fn rows(bytes: &[u8]) -> Result<(), String> {
    let rows = decode_rows(bytes, &shape()).map_err(|error| error.to_string())?;
    let again = decode_rows(&encode_rows(&rows).unwrap(), &shape());
    assert_eq!(again, Ok(rows));
    Ok(())
}

/// The first byte says how many values follow.
pub(crate) fn values(bytes: &[u8]) -> Result<(), String> {
    let (count, bytes) = bytes.split_first().ok_or("empty")?;
    let count = usize::from(*count);
    let values = decode_values(bytes, count).map_err(|error| error.to_string())?;
    let again = encode_values(&values).unwrap();
    assert_eq!(decode_values(&again, count), Ok(values));
    Ok(())
}

/// The first byte says what it is.
pub(crate) fn json(bytes: &[u8]) -> Result<(), String> {
    let (kind, bytes) = bytes.split_first().ok_or("empty")?;
    match kind {
        b'v' => kept_again::<VersionVector>(bytes).map(drop),
        b'n' => kept_again::<NodeSchemas>(bytes).map(drop),
        b'p' => kept_again::<TableShape>(bytes).map(drop),
        _ => {
            let selection: Selection = kept_again(bytes)?;
            for pattern in selection.patterns() {
                assert!(matches(pattern, pattern), "{pattern:?} is a name that it matches itself");
            }
            Ok(())
        }
    }
}

fn kept_again<T>(bytes: &[u8]) -> Result<T, String>
where
    T: DeserializeOwned + Serialize + PartialEq + Debug,
{
    let value: T = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let again = serde_json::from_str::<T>(&serde_json::to_string(&value).unwrap()).unwrap();
    assert_eq!(again, value);
    Ok(value)
}

#[test]
fn rows_that_read_back_can_be_kept_again() {
    check!().with_iterations(5_000).for_each(|bytes: &[u8]| drop(row(bytes)));
}

#[test]
fn values_that_read_back_can_be_kept_again() {
    check!().with_iterations(5_000).for_each(|bytes: &[u8]| drop(values(bytes)));
}

#[test]
fn json_that_reads_back_can_be_kept_again() {
    check!().with_iterations(2_000).for_each(|bytes: &[u8]| drop(json(bytes)));
}

#[test]
fn rows_with_errors_are_refused_or_are_other_rows() {
    let whole = named(ROW, "real");
    check!().with_iterations(10_000).with_generator(script(64)).for_each(|script| {
        drop(row(&Script(script).altered(&whole)));
    });
}

#[test]
fn rows_that_are_kept_together_read_back_as_they_were_and_with_errors_are_refused_or_are_others() {
    let each: Vec<_> = named(ROW, "real").iter().filter_map(|bytes| decode_row(bytes, &shape()).ok()).collect();
    assert!(each.len() > 1);
    let whole: Vec<Vec<u8>> = (0..=each.len()).map(|count| encode_rows(&each[..count]).unwrap()).collect();
    for (count, bytes) in whole.iter().enumerate() {
        assert_eq!(decode_rows(bytes, &shape()).unwrap(), each[..count]);
        for end in 0..bytes.len() {
            assert!(decode_rows(&bytes[..end], &shape()).is_err());
        }
    }
    check!().with_iterations(5_000).for_each(|bytes: &[u8]| drop(rows(bytes)));
    check!().with_iterations(10_000).with_generator(script(64)).for_each(|script| {
        drop(rows(&Script(script).altered(&whole)));
    });
}

#[test]
fn json_with_errors_is_refused_or_is_something_else() {
    let whole = named(JSON, "real");
    check!().with_iterations(5_000).with_generator(script(64)).for_each(|script| {
        drop(json(&Script(script).altered(&whole)));
    });
}
