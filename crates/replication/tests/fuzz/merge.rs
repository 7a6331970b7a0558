//! Two states of a row, whatever a peer says that they are, under every policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use bolero::check;
use replication::codec::{decode_row, encode_row};
use replication::{
    ColumnRule, ConflictPolicy, Dot, FirstWriteWins, Granularity, LastWriteWins, Maximum, MergeContext, Minimum,
    Origin, OriginPriority, Outcome, RowImage, TableShape, Timestamp, TimestampColumn, Union, VersionVector, merge,
};

use crate::alteration::{Script, script};
use crate::corpora::named;
use crate::stored::{ROW, shape};

/// The whole rows that errors are made in.
pub(crate) fn rows() -> Vec<Vec<u8>> {
    named(ROW, "real")
}

fn policies() -> Vec<Arc<dyn ConflictPolicy>> {
    vec![
        Arc::new(LastWriteWins),
        Arc::new(FirstWriteWins),
        Arc::new(TimestampColumn::new("b")),
        Arc::new(OriginPriority::new(["one", "two"])),
        Arc::new(Maximum),
        Arc::new(Minimum),
        Arc::new(Union),
    ]
}

/// What a node knows: of some of the origins of both rows, up to some of their sequences.
fn vector(script: &mut Script<'_>, rows: &[&RowImage; 2]) -> VersionVector {
    let mut vector = VersionVector::new();
    for entry in rows.iter().flat_map(|row| row.clock.entries()) {
        match script.byte() % 4 {
            1 => vector.raise(entry.dot.origin, entry.dot.sequence),
            2 => vector.raise(entry.dot.origin, entry.dot.sequence.saturating_sub(1)),
            _ => {}
        }
    }
    vector
}

/// Two rows of one key.
fn two_rows(script: &mut Script<'_>, whole: &[Vec<u8>], shape: &TableShape) -> Option<[RowImage; 2]> {
    let local = decode_row(&script.altered(whole), shape).ok()?;
    let mut remote = decode_row(&script.altered(whole), shape).ok()?;
    let key: Vec<_> = local.key(shape).into_iter().cloned().collect();
    for (place, value) in key.into_iter().enumerate() {
        let at = if remote.clock.is_deleted() { place } else { usize::from(shape.key[place]) };
        remote.values[at] = value;
    }
    Some([local, remote])
}

#[test]
fn what_a_merge_makes_of_any_two_rows_is_a_row() {
    let (whole, shape) = (rows(), shape());
    let own = Origin::from_bytes([0xee; 16]);
    let nodes = BTreeMap::from([(Origin::from_bytes([1; 16]), "one".to_owned()), (own, "two".to_owned())]);
    check!().with_iterations(20_000).with_generator(script(128)).for_each(|script| {
        let (mut script, policies) = (Script(script), policies());
        let granularity = if script.byte().is_multiple_of(2) { Granularity::Column } else { Granularity::Row };
        let policy = script.choose(&policies).clone();
        let columns: Vec<Option<ColumnRule>> = (0..4)
            .map(|_| match script.byte() % 4 {
                0 => Some(ColumnRule::Counter),
                1 => Some(ColumnRule::Policy(script.choose(&policies).clone())),
                _ => None,
            })
            .collect();
        let Some([local, remote]) = two_rows(&mut script, &whole, &shape) else { return };
        let rows = [&local, &remote];
        let (known, context) = (vector(&mut script, &rows), vector(&mut script, &rows));
        let cx = MergeContext {
            shape: &shape,
            own: &known,
            context: &context,
            granularity,
            policy: &*policy,
            columns: &columns,
            nodes: &nodes,
            filled_in: &[],
            doubtful: None,
        };
        let merged = match merge(Some(&local), &remote, &cx) {
            Ok(merged) => merged,
            Err(undecided) => return assert_ne!(undecided.reason, "it panicked"),
        };
        let image = match merged.outcome {
            Outcome::Keep | Outcome::TakeRemote => return,
            Outcome::Store(image) => image,
            Outcome::Issue { image, fresh } => {
                image.issued(&fresh, Timestamp::from_millis(1), Dot { origin: own, sequence: 9 })
            }
        };
        assert_eq!(decode_row(&encode_row(&image).unwrap(), &shape), Ok(image));
    });
}
