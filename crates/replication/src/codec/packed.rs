//! Batches as bytes before it is known to whom they go: packed once, for whichever peers, and put into a message for each.
//!
//! What of a message is meant for one peer comes before the rows, and is short. Compressed bodies are zstd frames one after the other
//! (RFC 8878, section 3), so that what comes first is a frame of its own, and the rows' frame follows it as it is.

use std::sync::Arc;

use crate::codec::changes::{Marks, decode_part, encode_head, encode_rows_of};
use crate::codec::frame::{Body, Kind};
use crate::codec::{CodecError, Limits};
use crate::message::PackedChanges;
use crate::origin::Origin;
use crate::row::Batch;
use crate::version_vector::VersionVector;

/// A [`Batch`] in the form in which it goes over links, in parts that each fit a message. It is for receivers for which nothing is left
/// out: [`Batch::held`] is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    /// As [`Batch::source`].
    pub source: Origin,
    /// As [`Batch::from`].
    pub from: VersionVector,
    /// As [`Batch::to`].
    pub to: VersionVector,
    /// As [`Batch::context`].
    pub context: VersionVector,
    pub(crate) parts: Vec<PackedPart>,
    size: usize,
    largest_row: usize,
}

/// Some rows of a batch, with the whole batch's source and vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedPart {
    body: Body<Arc<[u8]>>,
    is_dropped: bool,
    size: usize,
}

impl PackedBatch {
    /// Packs a batch in parts of at most so many bytes, to within a row.
    ///
    /// # Errors
    /// [`CodecError::Unencodable`] for a value that the format cannot hold.
    pub fn of(batch: &Batch, part_bytes: usize) -> Result<Self, CodecError> {
        let parts = batch.parts(part_bytes);
        let largest_row = parts.iter().map(|part| part.largest).max().unwrap_or(0);
        let is_dropped = !batch.dropped.is_empty();
        let packed = parts.into_iter().map(|part| {
            let body = Body::of(encode_rows_of(batch, &part)?).shared();
            Ok(PackedPart { body, is_dropped, size: part.bytes })
        });
        Ok(Self {
            source: batch.source,
            from: batch.from.clone(),
            to: batch.to.clone(),
            context: batch.context.clone(),
            parts: packed.collect::<Result<_, _>>()?,
            size: batch.size(),
            largest_row,
        })
    }

    /// The batch again.
    ///
    /// # Errors
    /// It would take more memory than a message may.
    pub fn unpack(&self) -> Result<Batch, CodecError> {
        let mut whole: Option<Batch> = None;
        for part in &self.parts {
            let part = part.unpack()?;
            match &mut whole {
                Some(whole) => whole.extend(part),
                None => whole = Some(part),
            }
        }
        whole.ok_or(CodecError::Truncated)
    }

    /// As [`Batch::size`]: what it takes once it is unpacked.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Bytes that its rows take as they are.
    pub fn packed_size(&self) -> usize {
        self.parts.iter().map(|part| part.body.len()).sum()
    }

    /// As [`RowImage::wire_size`](crate::RowImage::wire_size), of the largest row.
    pub const fn largest_row(&self) -> usize {
        self.largest_row
    }
}

impl PackedPart {
    /// The rows again, as in [`Changes`](crate::message::Changes).
    ///
    /// # Errors
    /// They would take more memory than a message may.
    pub fn unpack(&self) -> Result<Batch, CodecError> {
        let limits = Limits::default();
        let marks = Marks { is_dropped: self.is_dropped, ..Marks::default() };
        decode_part(&self.body.unpack(&limits)?, marks, &limits)
    }

    /// About how many bytes its rows take once they are unpacked.
    pub const fn size(&self) -> usize {
        self.size
    }
}

/// What [`encode`](super::encode) makes of the same rows unpacked.
pub(super) fn encode(from: &str, to: Option<&str>, changes: &PackedChanges) -> Result<Vec<u8>, CodecError> {
    let marks = Marks { is_last: changes.last, held: 0, is_dropped: changes.rows.is_dropped };
    let head = encode_head((from, to), (&changes.database, changes.batch, changes.part), marks)?;
    changes.rows.body.message(Kind::Changes, &head)
}
