//! Batches that are kept, as they are or packed, and the memory that those of all databases of a process may take.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use replication::codec::PackedBatch;
use replication::session::PART_BYTES;
use replication::{Batch, VersionVector};

/// About how many bytes a packed one takes beside its rows and vectors.
const AROUND: usize = 512;

/// Bytes of the batches of all databases of a process.
#[derive(Debug)]
pub(super) struct Budget {
    open: AtomicUsize,
    packed: AtomicUsize,
}

impl Budget {
    /// Bytes of rows that may be kept as they are.
    pub(super) const OPEN: usize = 16 << 20;

    /// Bytes that packed ones may take.
    pub(super) const PACKED: usize = 32 << 20;

    pub(super) const fn new() -> Self {
        Self { open: AtomicUsize::new(0), packed: AtomicUsize::new(0) }
    }

    /// Whether more is kept as it is than may be.
    pub(super) fn is_open_too_much(&self) -> bool {
        self.open.load(Ordering::Relaxed) > Self::OPEN
    }

    /// Whether more is kept packed than may be.
    pub(super) fn is_packed_too_much(&self) -> bool {
        self.packed() > Self::PACKED
    }

    /// Bytes that packed ones take.
    pub(super) fn packed(&self) -> usize {
        self.packed.load(Ordering::Relaxed)
    }
}

/// A batch that is kept.
#[derive(Debug, Clone)]
pub(super) enum Held {
    Open(Arc<Open>),
    Packed(Arc<Packed>),
}

impl Held {
    /// A batch of so many bytes, as it is.
    pub(super) fn open(batch: Batch, bytes: usize, budget: &'static Budget) -> Self {
        budget.open.fetch_add(bytes, Ordering::Relaxed);
        Self::Open(Arc::new(Open { batch, bytes, budget, packed: OnceLock::new() }))
    }

    /// Bytes that it takes, if it is packed.
    pub(super) fn packed_bytes(&self) -> usize {
        match self {
            Self::Open(_) => 0,
            Self::Packed(packed) => packed.bytes,
        }
    }
}

/// A batch as it is, whose bytes are counted.
#[derive(Debug)]
pub(super) struct Open {
    batch: Batch,
    bytes: usize,
    budget: &'static Budget,
    packed: OnceLock<Option<Arc<Packed>>>,
}

impl Open {
    /// The same as it goes over links, which is made once; none if it cannot be written, of which whoever is to send it tells.
    pub(super) fn packed(&self) -> Option<Arc<Packed>> {
        let pack = || {
            let batch = PackedBatch::of(&self.batch, PART_BYTES).ok()?;
            let vectors = [&batch.from, &batch.to, &batch.context].map(VersionVector::size);
            let bytes = batch.packed_size() + vectors.iter().sum::<usize>() + AROUND;
            self.budget.packed.fetch_add(bytes, Ordering::Relaxed);
            Some(Arc::new(Packed { batch: Arc::new(batch), bytes, budget: self.budget }))
        };
        self.packed.get_or_init(pack).clone()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.budget.open.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A batch as bytes, which are counted.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) batch: Arc<PackedBatch>,
    bytes: usize,
    budget: &'static Budget,
}

impl Drop for Packed {
    fn drop(&mut self) {
        self.budget.packed.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
