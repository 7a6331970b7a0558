//! What a clock table holds beside entries of rows and columns: counters, and the order of the change that a resolution
//! stands for.
//!
//! A counter takes several lines, so that each dot in it is found like any other. Their `col` is negative: minus the
//! column's number in the upper half, and in the lower half 0 for what the column was set to, else 1 more than the small
//! number of the origin that counted. What a counter was set to is there also where nothing was counted yet: it does not
//! travel, and is true for as long as its dot is that of the column's entry.

use std::collections::BTreeMap;

use replication::codec::{CodecError, decode_values, encode_values};
use replication::{Counter, Entry, Origin, Tally, Timestamp, Value};

use crate::error::StoreError;

/// Bits of `col` for the number of an origin.
pub(crate) const ORIGIN_BITS: u32 = 32;

/// The `col` of what speaks for columns that are not here: no column has the number 0, of which this would be a counter.
pub(crate) const REST_PLACE: i64 = -1;

/// The `col` of what a counter was set to.
pub(super) fn set_place(column: u16) -> i64 {
    -(i64::from(column) << ORIGIN_BITS)
}

/// The `col` of what the origin of a small number counted.
pub(super) fn tally_place(column: u16, origin: i64) -> i64 {
    set_place(column) - 1 - origin
}

/// Counters by their columns' places in the shape, ordered by them.
pub(crate) type Counters = Vec<(u16, Counter)>;

/// The first and the last `col` of a column's counter.
pub(crate) fn counter_places(column: u16) -> (i64, i64) {
    (set_place(column) - i64::from(u32::MAX), set_place(column))
}

/// The counters of one row, as its lines are read.
#[derive(Default)]
pub(super) struct StoredCounters {
    found: BTreeMap<i64, Lines>,
}

/// The lines of one counter.
#[derive(Default)]
struct Lines {
    set: Option<(Entry, Value)>,
    tallies: Vec<Tally>,
}

impl StoredCounters {
    /// Takes one line with a negative `col`.
    pub(super) fn note(&mut self, place: i64, entry: Entry, more: &[u8]) -> Result<(), StoreError> {
        let place = place.unsigned_abs();
        let column = (place >> ORIGIN_BITS).cast_signed();
        let counter = self.found.entry(column).or_default();
        if place & ((1 << ORIGIN_BITS) - 1) == 0 {
            counter.set = decode_values(more, 1).map_err(unusable)?.pop().map(|base| (entry, base));
        } else if let [sum, absorbed, Value::Integer(at)] = decode_values(more, 3).map_err(unusable)?.as_slice() {
            let (sum, absorbed) = (sum.clone(), absorbed.clone());
            counter.tallies.push(Tally { entry, sum, absorbed, absorbed_at: at.cast_unsigned() });
        }
        Ok(())
    }

    /// The counters by their columns' places in the shape: those in which something was counted, and what the others were set
    /// to. Those of columns that are gone count for nothing.
    pub(super) fn finish(self, place_of: impl Fn(i64) -> Option<u16>) -> (Counters, Counters) {
        let whole = self.found.into_iter().filter_map(|(column, Lines { set, mut tallies })| {
            let (entry, base) = set?;
            tallies.sort_unstable_by_key(|tally| tally.entry.dot.origin);
            Some((place_of(column)?, Counter { tallies, ..Counter::new(entry, base) }))
        });
        let mut counters: Counters = whole.collect();
        counters.sort_unstable_by_key(|(column, _)| *column);
        counters.into_iter().partition(|(_, counter)| !counter.tallies.is_empty())
    }
}

/// Values as a line's `more` holds them.
pub(super) fn encoded(values: &[Value]) -> Result<Vec<u8>, StoreError> {
    encode_values(values).map_err(unusable)
}

fn unusable(error: CodecError) -> StoreError {
    StoreError::Encoding { reason: error.to_string() }
}

/// The order of a change: eight bytes of timestamp, sixteen of origin.
pub(super) fn authored_bytes((timestamp, origin): (Timestamp, Origin)) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&timestamp.raw().to_be_bytes());
    bytes[8..].copy_from_slice(origin.as_bytes());
    bytes
}

/// What all orders of changes that are later than a stamp are greater than, by bytes.
pub(crate) fn order_bytes(raw: i64) -> [u8; 8] {
    raw.saturating_add(1).to_be_bytes()
}

pub(super) fn authored_from(bytes: &[u8]) -> Option<(Timestamp, Origin)> {
    let (timestamp, origin) = bytes.split_first_chunk::<8>()?;
    let timestamp = Timestamp::from_raw(i64::from_be_bytes(*timestamp))?;
    Some((timestamp, Origin::from_bytes(origin.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use replication::{Origin, Timestamp};

    use super::{authored_bytes, authored_from, counter_places, set_place, tally_place};

    #[test]
    fn places_of_counters_do_not_meet() {
        assert!(tally_place(1, i64::from(u32::MAX) - 2) > set_place(2));
        assert_ne!(tally_place(1, 0), set_place(1));
        let (first, last) = counter_places(1);
        assert!(first > set_place(2) && (first..=last).contains(&tally_place(1, 7)));
        assert!(set_place(u16::MAX) < 0);
    }

    #[test]
    fn the_order_of_a_change_reads_back() {
        let authored = (Timestamp::from_raw(i64::MAX).unwrap(), Origin::from_bytes([7; 16]));
        assert_eq!(authored_from(&authored_bytes(authored)), Some(authored));
        assert_eq!(authored_from(&[0; 23]), None);
    }
}
