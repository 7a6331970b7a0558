//! What a batch claims, before anything of it is believed.
//!
//! Peers pass on each other's changes, and nothing in a change proves who wrote it: a peer that is let in can write whatever an
//! application here can. What is checked is what cannot be true, whoever says so. A vector that claims too much would keep the real
//! changes from being taken, and be told to others; a row under a name that its sender does not claim to know would stand
//! in the place of the real change, and nobody would find out.

use crate::origin::{MAX_ORIGINS, Origin};
use crate::row::Batch;
use crate::version_vector::VersionVector;

/// Changes that an origin can issue in a millisecond at most; no disk writes as many rows.
const A_MILLISECOND: u64 = 1_000;

/// Beside the allowed skew, how far the clocks of two machines may be apart, in milliseconds.
const CLOCKS: i64 = 60_000;

/// Why a batch cannot be what its sender has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// The table, if it is about one's rows, by its name on the wire.
    pub table: Option<String>,
    /// What cannot be.
    pub reason: String,
}

/// Why a batch cannot be what its sender has, if it cannot. `have` is known here, `now` is the wall clock, `skew` how far ahead of it
/// another's may be, both in milliseconds; `name` tells to which node an origin belongs.
pub fn contradiction(
    have: &VersionVector,
    batch: &Batch,
    (now, skew): (i64, i64),
    name: impl Fn(Origin) -> String,
) -> Option<Contradiction> {
    let of_none = |reason| Some(Contradiction { table: None, reason });
    let claims = [(&batch.context, "to know"), (&batch.dropped, "to have forgotten")];
    for (vector, claim) in claims {
        if let Some((origin, sequence)) = impossible(vector, (now, skew)) {
            let node = name(origin);
            return of_none(format!(
                "it claims {claim} change {sequence} of node {node}, which cannot have written as many"
            ));
        }
    }
    let unknown = batch.context.iter().filter(|(origin, _)| have.get(*origin) == 0).count();
    if unknown > 0 && have.len() + unknown > MAX_ORIGINS {
        let known = have.len() + unknown;
        return of_none(format!("with what it sends {known} origins would be known, and {MAX_ORIGINS} can be"));
    }
    for table in &batch.tables {
        let of_table = |reason| Some(Contradiction { table: Some(table.shape.name.clone()), reason });
        if table.context.as_ref().is_some_and(|context| !batch.context.covers_all(context)) {
            return of_table("it passes on rows that have taken more into account than it claims to know".to_owned());
        }
        let mut dots =
            table.rows.iter().flat_map(|row| row.clock.entries().chain(&row.clock.rest)).map(|entry| entry.dot);
        if let Some(dot) = dots.find(|dot| !batch.context.covers(*dot)) {
            return of_table(format!("it sends change {dot}, and does not claim to know it"));
        }
    }
    None
}

/// A sequence that cannot have been issued, if a vector holds one; `now` and `skew` are those of [`contradiction`].
pub fn impossible(vector: &VersionVector, (now, skew): (i64, i64)) -> Option<(Origin, u64)> {
    let skew = skew.saturating_add(CLOCKS);
    vector.iter().find(|(origin, sequence)| *sequence > most_issued(*origin, now, skew))
}

/// How many changes an origin can have issued: it tells itself when it was made. Of one that tells nothing, or the future, as many as
/// can have been issued since clocks count.
fn most_issued(origin: Origin, now: i64, skew: i64) -> u64 {
    let made = origin.made_at().filter(|made| *made <= now.saturating_add(skew)).unwrap_or(0);
    let since = now.saturating_sub(made).saturating_add(skew);
    u64::try_from(since).unwrap_or(0).saturating_mul(A_MILLISECOND)
}

#[cfg(test)]
mod tests {
    use super::{contradiction, most_issued};
    use crate::hybrid_clock::Timestamp;
    use crate::origin::{Dot, MAX_ORIGINS, Origin};
    use crate::row::{Batch, Entry, EntryFlags, RowClock, RowImage, TableRows, TableShape};
    use crate::value::Value;
    use crate::version_vector::VersionVector;

    /// 2026-11-28.
    const NOW: i64 = 1_795_824_000_000;

    fn origin(number: u32) -> Origin {
        let mut bytes = [0x5a; 16];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Origin::from_bytes(bytes)
    }

    /// An origin that tells when it was made.
    fn made(at: i64) -> Origin {
        let mut bytes = [0x70; 16];
        bytes[..6].copy_from_slice(&at.to_be_bytes()[2..]);
        bytes[8] = 0x80;
        Origin::from_bytes(bytes)
    }

    fn reason(have: &VersionVector, context: VersionVector, tables: Vec<TableRows>) -> Option<String> {
        let (from, dropped) = (VersionVector::new(), VersionVector::new());
        let batch = Batch { source: origin(1), from, to: context.clone(), context, held: 0, dropped, tables };
        contradiction(have, &batch, (NOW, 1_000), |origin| origin.to_string()).map(|found| found.reason)
    }

    fn row(number: u32, sequence: u64) -> TableRows {
        let dot = Dot { origin: origin(number), sequence };
        let clock = RowClock::whole(Entry::new(Timestamp::from_millis(NOW), dot, EntryFlags::empty()));
        let shape = TableShape { name: "t".to_owned(), columns: vec!["k".to_owned()], key: vec![0] };
        TableRows::new(shape, vec![RowImage { values: vec![Value::Integer(1)], clock }])
    }

    fn vector(entries: &[(u32, u64)]) -> VersionVector {
        entries.iter().map(|(number, sequence)| (origin(*number), *sequence)).collect()
    }

    #[test]
    fn an_origin_has_issued_what_fits_the_time_since_it_was_made() {
        assert_eq!(made(NOW).made_at(), Some(NOW));
        assert_eq!(most_issued(made(NOW), NOW, 1_000), 1_000_000);
        assert_eq!(most_issued(made(NOW - 86_400_000), NOW, 0), 86_400_000_000);
        // One whose clock was ahead, and one that tells nothing.
        assert!(most_issued(made(NOW + 86_400_000), NOW, 1_000) > 1 << 50);
        assert!(most_issued(origin(1), NOW, 0) > 1 << 50);
        let nothing = VersionVector::new();
        assert_eq!(reason(&nothing, [(made(NOW), 50_000_000)].into_iter().collect(), vec![]), None);
        assert!(reason(&nothing, [(made(NOW), 1_000_000_000)].into_iter().collect(), vec![]).is_some());
    }

    #[test]
    fn nobody_has_forgotten_what_cannot_have_been_written() {
        let vector = |sequence| -> VersionVector { [(made(NOW), sequence)].into_iter().collect() };
        let (from, context) = (VersionVector::new(), vector(1));
        let batch = |dropped| Batch {
            source: origin(1),
            from: from.clone(),
            to: context.clone(),
            context: context.clone(),
            held: 0,
            dropped,
            tables: Vec::new(),
        };
        let found = |dropped| contradiction(&from, &batch(dropped), (NOW, 1_000), |origin| origin.to_string());
        assert_eq!(found(vector(50_000_000)), None);
        assert!(found(vector(1_000_000_000)).is_some_and(|found| found.reason.contains("to have forgotten change")));
    }

    #[test]
    fn no_more_origins_are_known_than_can_be() {
        let have: VersionVector = (0..).map(origin).take(MAX_ORIGINS).map(|origin| (origin, 1)).collect();
        assert_eq!(reason(&have, vector(&[(3, 9)]), vec![]), None);
        assert!(reason(&have, vector(&[(1 << 20, 1)]), vec![]).is_some());
    }

    #[test]
    fn rows_are_of_changes_that_their_sender_claims_to_know() {
        let nothing = VersionVector::new();
        assert_eq!(reason(&nothing, vector(&[(2, 5)]), vec![row(2, 5)]), None);
        assert!(reason(&nothing, vector(&[(2, 5)]), vec![row(2, 6)]).is_some());
        assert!(reason(&nothing, vector(&[(2, 5)]), vec![row(3, 1)]).is_some());
        let within = TableRows { context: Some(vector(&[(2, 5)])), ..row(2, 5) };
        assert_eq!(reason(&nothing, vector(&[(2, 5)]), vec![within]), None);
        let beyond = TableRows { context: Some(vector(&[(2, 6)])), ..row(2, 5) };
        assert!(reason(&nothing, vector(&[(2, 5)]), vec![beyond]).is_some());
    }
}
