//! What a batch claims, before anything of it is believed.
//!
//! Peers pass on each other's changes, and nothing in a change proves who wrote it: a peer that is let in can write whatever an
//! application here can. What is checked is what cannot be true, whoever says so. A vector that claims too much would keep the real
//! changes from being taken, and be told to others; a row under a name that its sender does not claim to know would stand
//! in the place of the real change, and nobody would find out.

use replication::{Batch, MAX_ORIGINS, Origin};

use super::{Held, HeldKind};
use crate::replica::Replica;

/// Changes that an origin can issue in a millisecond at most; no disk writes as many rows.
const A_MILLISECOND: u64 = 1_000;

/// Beside the allowed skew, how far the clocks of two machines may be apart, in milliseconds.
const CLOCKS: i64 = 60_000;

const REMEDY: &str = "see what that peer is: a program that is no sync-engine, or a state of one that is damaged; remove it from the network";

/// Why a batch cannot be what its sender has, if it cannot.
pub(crate) fn contradiction(replica: &Replica, batch: &Batch, now: i64, max_skew: i64) -> Option<Held> {
    let held = |table: Option<&str>, reason| Held {
        kind: HeldKind::Claim,
        table: table.map(str::to_owned),
        reason,
        remedy: REMEDY.to_owned(),
    };
    let skew = max_skew.saturating_add(CLOCKS);
    let impossible = |(origin, sequence): &(Origin, u64)| *sequence > most_issued(*origin, now, skew);
    if let Some((origin, sequence)) = batch.context.iter().find(impossible) {
        let name = replica.node_name(origin);
        return Some(held(
            None,
            format!("it claims to know change {sequence} of node {name}, which cannot have written as many"),
        ));
    }
    let unknown = batch.context.iter().filter(|(origin, _)| replica.have.get(*origin) == 0).count();
    if unknown > 0 && replica.have.len() + unknown > MAX_ORIGINS {
        let reason =
            format!("with it {} origins would be known, and {MAX_ORIGINS} can be", replica.have.len() + unknown);
        return Some(held(None, reason));
    }
    for table in &batch.tables {
        if table.context.as_ref().is_some_and(|context| !batch.context.covers_all(context)) {
            let reason = "it passes on rows that have taken more into account than it claims to know".to_owned();
            return Some(held(Some(&table.shape.name), reason));
        }
        let mut dots =
            table.rows.iter().flat_map(|row| row.clock.entries().chain(&row.clock.rest)).map(|entry| entry.dot);
        if let Some(dot) = dots.find(|dot| !batch.context.covers(*dot)) {
            let reason = format!("it sends change {dot}, and does not claim to know it");
            return Some(held(Some(&table.shape.name), reason));
        }
    }
    None
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
    use super::most_issued;
    use crate::attached::new_origin;
    use crate::replica::wall_millis;
    use replication::Origin;

    #[test]
    fn an_origin_has_issued_what_fits_the_time_since_it_was_made() {
        let (origin, now) = (new_origin(), wall_millis());
        assert!(most_issued(origin, now, 1_000) <= 2_000_000);
        assert!(most_issued(origin, now + 86_400_000, 0) >= 86_400_000_000);
        // One whose clock was ahead, and one that tells nothing.
        assert!(most_issued(origin, now - 86_400_000, 1_000) > 1 << 50);
        assert!(most_issued(Origin::from_bytes([0x5a; 16]), now, 0) > 1 << 50);
    }
}
