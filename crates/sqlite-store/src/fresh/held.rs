//! Batches that are kept, as they are or packed, and the memory that those of all databases of a process may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use replication::Batch;
use replication::codec::{pack_batch, unpack_batch};

/// About how many bytes a packed one takes beside its rows.
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
        Self::Open(Arc::new(Open { batch, bytes, budget }))
    }

    /// Bytes that it takes, if it is packed.
    pub(super) fn packed_bytes(&self) -> usize {
        match self {
            Self::Open(_) => 0,
            Self::Packed(packed) => packed.weight(),
        }
    }

    pub(super) fn batch(&self) -> Option<Batch> {
        match self {
            Self::Open(open) => Some(open.batch.clone()),
            // It was packed here.
            Self::Packed(packed) => unpack_batch(&packed.bytes).ok(),
        }
    }
}

/// A batch as it is, whose bytes are counted.
#[derive(Debug)]
pub(super) struct Open {
    batch: Batch,
    bytes: usize,
    budget: &'static Budget,
}

impl Open {
    /// The same as bytes; none if it cannot be written, of which whoever is to send it tells.
    pub(super) fn pack(&self) -> Option<Held> {
        let bytes = pack_batch(&self.batch).ok()?.into_boxed_slice();
        let packed = Packed { bytes, budget: self.budget };
        self.budget.packed.fetch_add(packed.weight(), Ordering::Relaxed);
        Some(Held::Packed(Arc::new(packed)))
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
    bytes: Box<[u8]>,
    budget: &'static Budget,
}

impl Packed {
    fn weight(&self) -> usize {
        self.bytes.len() + AROUND
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        self.budget.packed.fetch_sub(self.weight(), Ordering::Relaxed);
    }
}
