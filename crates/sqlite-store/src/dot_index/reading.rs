//! Finding the dots of an origin in their order.

use std::collections::BinaryHeap;

use rusqlite::{Connection, params};

use super::segment::{DotRow, SegmentReader};
use crate::error::StoreError;

/// The first dots of an origin after a sequence.
#[derive(Debug)]
pub(crate) struct Found {
    /// Rows that bear them, or did, by their sequences. A row may be there more than once.
    pub(crate) rows: Vec<DotRow>,
    /// The sequence up to which these are all.
    pub(crate) upto: u64,
}

/// Rows by their sequences, the highest first.
struct BySequence(DotRow);

impl PartialEq for BySequence {
    fn eq(&self, other: &Self) -> bool {
        self.0.sequence == other.0.sequence
    }
}

impl Eq for BySequence {}

impl PartialOrd for BySequence {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BySequence {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.sequence.cmp(&other.0.sequence)
    }
}

/// Finds the rows with dots of the origin with a number, after a sequence up to another: `limit` of them or a few more, if there are so
/// many. Of segments that lie across each other no more rows are in memory at a time.
pub(crate) fn find(
    conn: &Connection,
    origin: i64,
    (after, until): (u64, u64),
    limit: usize,
) -> Result<Found, StoreError> {
    let mut limit = limit.max(1);
    loop {
        let found = find_within(conn, origin, (after, until), limit)?;
        // All of them have one dot, which has more rows than that.
        if found.upto > after || after >= until {
            return Ok(found);
        }
        limit = limit.saturating_mul(2);
    }
}

fn find_within(conn: &Connection, origin: i64, (after, until): (u64, u64), limit: usize) -> Result<Found, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT first, id FROM main._sync_dot WHERE origin = ?1 AND last > ?2 AND first <= ?3 ORDER BY first",
    )?;
    let segments = statement
        .query_map(params![origin, after.cast_signed(), until.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
    let mut lowest: BinaryHeap<BySequence> = BinaryHeap::new();
    // The lowest of those that there is no room for.
    let mut beyond: Option<u64> = None;
    for (first, id) in segments {
        if beyond.is_some_and(|beyond| beyond <= first.cast_unsigned()) {
            break;
        }
        let bytes: Vec<u8> =
            conn.prepare_cached("SELECT dots FROM main._sync_dot WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
        let mut reader = SegmentReader::new(&bytes);
        while let Some(row) = reader.next()? {
            let is_wanted = row.sequence > after && row.sequence <= until;
            if !is_wanted || beyond.is_some_and(|beyond| beyond <= row.sequence) {
                continue;
            }
            lowest.push(BySequence(row.unpacked()?));
            if lowest.len() > limit {
                let highest = lowest.pop().map(|BySequence(row)| row.sequence);
                beyond = beyond.into_iter().chain(highest).min();
            }
        }
    }
    let mut rows: Vec<DotRow> = lowest.into_sorted_vec().into_iter().map(|BySequence(row)| row).collect();
    let upto = match beyond {
        None => until,
        Some(beyond) => {
            // The dot that there was no room for in full comes with the next ones.
            rows.retain(|row| row.sequence < beyond);
            beyond - 1
        }
    };
    rows.dedup();
    Ok(Found { rows, upto })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use replication::{Dot, Origin, Value};

    use super::super::DotIndex;
    use super::*;

    const SCHEMA: &str = "
        CREATE TABLE _sync_meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
        CREATE TABLE _sync_dot (id INTEGER PRIMARY KEY, origin INTEGER, first INTEGER, last INTEGER, dots BLOB);
        CREATE INDEX _sync_dot_last ON _sync_dot (origin, last, first);";

    /// Rows by the numbers of origins and sequences, and whether a transaction ends after one.
    fn written(rows: &[(u8, u64, i64, bool)], width: usize) -> (Connection, Vec<(u8, u64, Vec<Value>)>) {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(SCHEMA).unwrap();
        let mut index = DotIndex::load(&conn).unwrap();
        let mut all = Vec::new();
        for (origin, sequence, number, ends) in rows {
            let key = vec![Value::Text(format!("{number:0width$}").into_bytes())];
            let dot = Dot { origin: Origin::from_bytes([*origin; 16]), sequence: *sequence };
            index.add(dot, 1, &key).unwrap();
            all.push((*origin, *sequence, key));
            if *ends {
                index.save(&conn, |origin| Ok(i64::from(origin.as_bytes()[0]))).unwrap();
            }
        }
        index.save(&conn, |origin| Ok(i64::from(origin.as_bytes()[0]))).unwrap();
        assert!(!index.is_dirty());
        (conn, all)
    }

    proptest! {
        #[test]
        fn all_are_found_in_their_order_however_few_at_a_time(
            rows in prop::collection::vec((0_u8..2, 1_u64..60, 0_i64..5, any::<bool>()), 0..120),
            // Small ones share a segment, large ones have one each.
            width in prop_oneof![Just(1), Just(1500)],
            (after, until, limit) in (0_u64..60, 0_u64..70, 1_usize..40),
        ) {
            let (conn, all) = written(&rows, width);
            for origin in 0..2 {
                let (mut reached, mut found) = (after, Vec::new());
                while reached < until {
                    let part = find(&conn, i64::from(origin), (reached, until), limit).unwrap();
                    prop_assert!(part.upto > reached && part.upto <= until);
                    prop_assert!(part.rows.iter().all(|row| row.sequence > reached && row.sequence <= part.upto));
                    prop_assert!(part.rows.is_sorted_by_key(|row| row.sequence));
                    found.extend(part.rows.into_iter().map(|row| (row.sequence, row.key)));
                    reached = part.upto;
                }
                let mut wanted: Vec<(u64, Vec<Value>)> = all
                    .iter()
                    .filter(|(of, sequence, _)| *of == origin && *sequence > after && *sequence <= until)
                    .map(|(_, sequence, key)| (*sequence, key.clone()))
                    .collect();
                let order = |rows: &mut Vec<(u64, Vec<Value>)>| {
                    rows.sort_by_key(|row| format!("{row:?}"));
                    rows.dedup();
                };
                order(&mut wanted);
                order(&mut found);
                prop_assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    fn small_transactions_share_a_line_and_large_ones_have_some() {
        let lines = |conn: &Connection| -> i64 {
            conn.query_row("SELECT count(*) FROM _sync_dot", [], |row| row.get(0)).unwrap()
        };
        let small: Vec<_> = (1..=100).map(|n| (0, n, 0, true)).collect();
        assert_eq!(lines(&written(&small, 1).0), 1);
        let large: Vec<_> = (1..=100).map(|n| (0, n, 0, n == 100)).collect();
        assert_eq!(lines(&written(&large, 1500).0), 10);
    }

    #[test]
    fn who_opens_the_file_goes_on_with_the_open_line() {
        let (conn, _) = written(&[(0, 5, 0, true)], 1);
        for sequence in [6, 7, 3, 8] {
            let mut index = DotIndex::load(&conn).unwrap();
            let dot = Dot { origin: Origin::from_bytes([0; 16]), sequence };
            index.add(dot, 1, &[Value::Integer(sequence.cast_signed())]).unwrap();
            index.save(&conn, |_| Ok(0)).unwrap();
        }
        let line = conn.query_row("SELECT count(*), min(first) FROM _sync_dot", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        assert_eq!(line.unwrap(), (1, 3));
        let found = find(&conn, 0, (0, 10), 10).unwrap();
        assert_eq!(found.rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [3, 5, 6, 7, 8]);
    }
}
