//! Deleting what tombstones deleted that are gone at a peer: this database was away for longer than they are kept.
//!
//! Of what the peer knows, rows that it does not have were deleted. They go here too, without a trace, as if their tombstones had
//! come and gone. A row in which something was written since that the peer does not know is deleted anew, and recorded: its
//! writer did not know of the deletion. What the peer knows nothing of stays.

use replication::reconcile::{Answer, Compared};
use replication::{Origin, VersionVector, impossible};

use super::Attachment;
use crate::apply::{ApplyOutcome, sweep_rows};
use crate::error::StoreError;
use crate::fingerprints::compare_keys;
use crate::replica::{latest_stamp, wall_millis};
use crate::staging;

/// Rows deleted in one transaction.
const STEP_ROWS: usize = 1_000;

impl Attachment {
    /// Deletes the rows in the ranges of an answer that its sender does not have; tells where more is to be asked.
    pub(crate) fn sweep(&mut self, source: Origin, answer: &Answer) -> Result<Compared, StoreError> {
        let differing = self.in_snapshot(|conn, replica| compare_keys(conn, replica, answer))?;
        let observer = self.options.observer.clone();
        self.give_up_exchanges(differing.missing_there.is_empty())?;
        for (index, keys) in differing.missing_there {
            for keys in keys.chunks(STEP_ROWS) {
                let have = &answer.have;
                let outcome = self.transact(observer.as_ref(), |conn, replica, rules| {
                    sweep_rows(conn, replica, rules, (index, keys), (source, have))
                })?;
                match outcome {
                    ApplyOutcome::Applied(_) => {}
                    ApplyOutcome::Failed { reason } => return Err(StoreError::Unmerged { reason }),
                    ApplyOutcome::Held(held) => return Err(StoreError::Unmerged { reason: held.reason }),
                    ApplyOutcome::Known | ApplyOutcome::Gap => return Err(StoreError::Migrating),
                }
            }
        }
        Ok(Compared { differing: differing.ranges, ..Compared::default() })
    }

    /// Rows that are swept away may be among those that are to be exchanged: these catch-ups begin anew.
    fn give_up_exchanges(&mut self, needless: bool) -> Result<(), StoreError> {
        let held: Vec<Origin> = self.replica.held().into_keys().filter(|_| !needless).collect();
        for source in held {
            self.in_write(|conn, replica| staging::begin_anew(conn, replica, source).map(|()| ((), true)))?;
        }
        Ok(())
    }

    /// All that tombstones up to here deleted is deleted.
    pub(crate) fn swept(&mut self, dropped: &VersionVector) -> Result<(), StoreError> {
        let (now, skew) = (wall_millis(), self.max_skew());
        if let Some((origin, sequence)) = impossible(dropped, (now, skew)) {
            let node = self.replica.node_name(origin);
            let reason = format!(
                "a peer claims to have forgotten change {sequence} of node {node}, which cannot have written as many; nothing is exchanged with it"
            );
            return Err(StoreError::Unmerged { reason });
        }
        let latest = latest_stamp(now, skew);
        self.in_write(|conn, replica| {
            replica.dropped.inherit(dropped, latest);
            replica.dropped.save(conn)?;
            Ok(((), true))
        })
    }
}
