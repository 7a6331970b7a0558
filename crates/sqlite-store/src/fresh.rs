//! What was captured or published last, step by step, kept at hand for peers that are not far behind: they are led through the same
//! states as this database, without another look at the file and without a stage.
//!
//! Owns the batches, how much memory they may take, and which peer can be sent which. A batch is packed as it goes over links once:
//! when the first peer comes for it, or when nobody has and it takes too much as it is. Packed it takes a fraction of that, and is what
//! all peers are sent. Whoever falls behind what is kept reads the file.

mod held;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use replication::codec::PackedBatch;
use replication::{Batch, Origin, VersionVector};

use self::held::{Budget, Held, Open, Packed};
use crate::batch_read::BatchLimits;

/// Bytes of rows that are kept whatever becomes of older ones, of one database: some steps of publishing. None are where those of all
/// databases take more than they may.
const OPEN: usize = 1 << 20;

/// Bytes of rows that the newest one may have and be kept as it is all the same.
const NEWEST: usize = 4 << 20;

/// Captures that are kept although everybody has them who ever came: another peer may be about to come for its first.
const GRACE: usize = 16;

/// Bytes that packed batches of one database may take, and beyond which none is kept that a peer has taken already: most peers are
/// about as far as each other.
const PACKED: usize = 24 << 20;
const PACKED_AND_TAKEN: usize = 4 << 20;

/// Bytes that they may take where nobody has taken anything yet: who comes for changes may be somebody who is not led on by them.
const PACKED_AT_FIRST: usize = 8 << 20;

/// Rows and bytes that are few: a peer that lacks fewer, of more than one capture, had better read the file, which has them as one batch.
const FEW_ROWS: usize = 500;
const FEW_BYTES: usize = 64 << 10;

/// What the databases of this process keep.
static OF_PROCESS: Budget = Budget::new();

/// What captures found one after the other, each leading on from where the one before it ends. The thread of the database adds to it
/// and takes from it; sessions look, and leave what they have packed in place of what it was.
#[derive(Debug)]
pub struct FreshChanges {
    chain: Mutex<Chain>,
    /// Whether somebody has taken something since that was last asked.
    taken: AtomicBool,
    budget: &'static Budget,
}

impl Default for FreshChanges {
    fn default() -> Self {
        Self::within(&OF_PROCESS)
    }
}

#[derive(Debug, Default)]
struct Chain {
    links: VecDeque<Link>,
    /// How many peers have taken the same: so many are expected to come for each.
    takers: u32,
    /// Bytes of those that are packed.
    packed: usize,
    /// When something was last taken, and the sequence of the database's own changes up to which that leads.
    last_taken: Option<(Instant, u64)>,
}

/// What one capture found.
#[derive(Debug)]
struct Link {
    source: Origin,
    from: VersionVector,
    to: VersionVector,
    rows: usize,
    bytes: usize,
    held: Held,
    taken: u32,
}

impl FreshChanges {
    /// Nothing, of what may take so much.
    fn within(budget: &'static Budget) -> Self {
        Self { chain: Mutex::default(), taken: AtomicBool::new(false), budget }
    }

    /// What leads on from `from`, in the database that has that origin and knows `have`; see
    /// [`DatabaseState::fresh_after`](crate::DatabaseState::fresh_after).
    pub(crate) fn after(
        &self,
        from: &VersionVector,
        (source, have): (Option<Origin>, &VersionVector),
        whole: bool,
        limits: BatchLimits,
    ) -> Option<Arc<PackedBatch>> {
        let held = {
            let mut chain = self.chain();
            let Chain { links, takers, last_taken, .. } = &mut *chain;
            let place = links.iter().rposition(|link| link.from == *from)?;
            if place + 1 < links.len() && are_few(links.range(place..)) {
                return None;
            }
            let link = &mut links[place];
            let fits = link.rows <= limits.rows && link.bytes <= limits.bytes;
            let leads_there = source == Some(link.source) && have.covers_all(&link.to);
            if !fits || !leads_there || !(whole || link.to == *have) {
                return None;
            }
            link.taken += 1;
            *takers = link.taken.max(*takers);
            let upto = last_taken.map_or(0, |(_, upto)| upto).max(link.to.get(link.source));
            *last_taken = Some((Instant::now(), upto));
            self.taken.store(true, Ordering::Relaxed);
            link.held.clone()
        };
        let open = match held {
            Held::Open(open) => open,
            Held::Packed(packed) => return Some(Arc::clone(&packed.batch)),
        };
        // Who comes for others is not kept waiting for it.
        let packed = open.packed()?;
        let batch = Arc::clone(&packed.batch);
        self.chain().keep_packed(&open, packed);
        Some(batch)
    }

    /// Keeps what was captured; none where that is not at hand. What it does not lead on from is let go of.
    pub(crate) fn push(&self, batch: Option<Batch>) {
        let Some(batch) = batch else { return self.clear() };
        if self.chain().links.back().is_some_and(|last| last.to != batch.from || last.source != batch.source) {
            self.clear();
        }
        self.pack();
        let (from, to) = (batch.from.clone(), batch.to.clone());
        let (source, rows, bytes) = (batch.source, batch.row_count(), batch.size());
        let held = Held::open(batch, bytes, self.budget);
        self.chain().links.push_back(Link { source, from, to, rows, bytes, held, taken: 0 });
        if bytes > NEWEST || self.budget.is_open_too_much() || self.budget.is_packed_too_much() {
            self.pack();
        }
    }

    /// Packs what is too much to be kept as it is, and lets go of what is too much even so.
    fn pack(&self) {
        let opened = self.chain().let_go(self.budget);
        if opened.is_empty() {
            return;
        }
        for open in opened {
            // Sessions that come for others are not kept waiting for it.
            match open.packed() {
                Some(packed) => self.chain().keep_packed(&open, packed),
                None => return self.clear(),
            }
        }
        self.chain().let_go(self.budget);
    }

    /// Whether somebody has taken something since this was last asked.
    pub(crate) fn was_taken(&self) -> bool {
        self.taken.swap(false, Ordering::Relaxed)
    }

    /// When something was last taken, and the sequence of the database's own changes up to which that led.
    pub(crate) fn last_taken(&self) -> Option<(Instant, u64)> {
        self.chain().last_taken
    }

    /// Whether somebody is still to come for some of it, as far as can be told.
    pub(crate) fn is_wanted(&self) -> bool {
        let chain = self.chain();
        chain.links.iter().any(|link| link.taken < chain.takers.max(1))
    }

    /// Lets go of all.
    pub(crate) fn clear(&self) {
        self.chain().clear();
    }

    /// Whether nothing is at hand.
    pub(crate) fn is_empty(&self) -> bool {
        self.chain().links.is_empty()
    }

    fn chain(&self) -> MutexGuard<'_, Chain> {
        // Nothing in here panics halfway through a change.
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what these captures found is little.
fn are_few<'a>(links: impl Iterator<Item = &'a Link>) -> bool {
    let (mut rows, mut bytes) = (0, 0);
    for link in links {
        (rows, bytes) = (rows + link.rows.max(1), bytes + link.bytes);
        if rows >= FEW_ROWS || bytes >= FEW_BYTES {
            return false;
        }
    }
    true
}

impl Chain {
    fn clear(&mut self) {
        *self = Self { last_taken: self.last_taken, ..Self::default() };
    }

    /// Lets go of what everybody has, and of what is too much, the oldest first; says what is to be packed.
    fn let_go(&mut self, budget: &Budget) -> Vec<Arc<Open>> {
        // What is little is not why all keep too much.
        let is_too_much = budget.is_open_too_much() || budget.is_packed_too_much() && self.packed > FEW_BYTES;
        let open_from = self.open_from(if is_too_much { 0 } else { OPEN });
        let (mut gone, in_all) = (0, budget.packed());
        let before = self.packed;
        let most = if self.last_taken.is_some() { PACKED } else { PACKED_AT_FIRST };
        // Whoever has taken it has all before it, from here or from the file.
        let everybody_has_it = |link: &Link| link.taken > 0 && link.taken >= self.takers;
        let beyond_grace = open_from.max(self.links.len().saturating_sub(GRACE));
        let had = self.links.range(..beyond_grace).rposition(everybody_has_it).map_or(0, |last| last + 1);
        for link in self.links.range(..beyond_grace) {
            let too_much = self.packed > most
                || self.packed > PACKED_AND_TAKEN && link.taken > 0
                || self.packed > 0 && in_all > Budget::PACKED + (before - self.packed);
            if gone >= had && !too_much {
                break;
            }
            gone += 1;
            self.packed -= link.held.packed_bytes();
        }
        self.links.drain(..gone);
        let open = self.links.range(..open_from.saturating_sub(gone)).filter_map(|link| match &link.held {
            Held::Open(open) => Some(Arc::clone(open)),
            Held::Packed(_) => None,
        });
        open.collect()
    }

    /// Keeps a batch packed in place of as it was, if it still is there.
    fn keep_packed(&mut self, open: &Arc<Open>, packed: Arc<Packed>) {
        let is_it = |link: &&mut Link| matches!(&link.held, Held::Open(other) if Arc::ptr_eq(other, open));
        if let Some(link) = self.links.iter_mut().rev().find(is_it) {
            link.held = Held::Packed(packed);
            self.packed += link.held.packed_bytes();
        }
    }

    /// From where on links are kept as they are, of so many bytes.
    fn open_from(&self, most: usize) -> usize {
        let (mut bytes, mut newest) = (0, self.links.iter().rev());
        let open = newest.by_ref().take_while(|link| {
            bytes += link.bytes;
            bytes <= most
        });
        self.links.len() - open.count()
    }
}

#[cfg(test)]
mod tests {
    use replication::{Dot, Entry, EntryFlags, Origin, RowClock, RowImage, TableRows, TableShape, Timestamp, Value};

    use super::*;

    const ORIGIN: Origin = Origin::from_bytes([7; 16]);
    const LIMITS: BatchLimits = BatchLimits { rows: 10, bytes: 64 << 20, passed_on: true };

    fn at(sequence: u64) -> VersionVector {
        let mut vector = VersionVector::new();
        vector.raise(ORIGIN, sequence);
        vector
    }

    /// The change with this sequence, of a row of so many bytes that do not get smaller.
    fn change(sequence: u64, bytes: usize) -> Batch {
        let mut random = sequence;
        let noise = (0..bytes).map(|_| {
            random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            random.to_be_bytes()[0]
        });
        let shape = TableShape { name: "t".to_owned(), columns: vec!["id".to_owned(), "n".to_owned()], key: vec![0] };
        let dot = Dot { origin: ORIGIN, sequence };
        let clock = RowClock::whole(Entry::new(Timestamp::from_millis(1), dot, EntryFlags::default()));
        let values = vec![Value::Integer(sequence.cast_signed()), Value::Blob(noise.collect())];
        Batch {
            source: ORIGIN,
            from: at(sequence - 1),
            to: at(sequence),
            context: at(sequence),
            held: 0,
            dropped: VersionVector::new(),
            tables: vec![TableRows::new(shape, vec![RowImage { values, clock }])],
        }
    }

    impl FreshChanges {
        /// What is at hand, as it was.
        fn unpacked_after(
            &self,
            from: &VersionVector,
            state: (Option<Origin>, &VersionVector),
            whole: bool,
            limits: BatchLimits,
        ) -> Option<Batch> {
            self.after(from, state, whole, limits).map(|packed| packed.unpack().unwrap())
        }
    }

    /// How many captures are at hand.
    fn kept(fresh: &FreshChanges) -> usize {
        fresh.chain().links.len()
    }

    /// Nothing yet, beside no other database.
    fn alone() -> FreshChanges {
        FreshChanges::within(Box::leak(Box::new(Budget::new())))
    }

    fn filled(changes: u64, bytes: usize) -> FreshChanges {
        let fresh = alone();
        (1..=changes).for_each(|sequence| fresh.push(Some(change(sequence, bytes))));
        fresh
    }

    #[test]
    fn what_nobody_has_taken_is_kept_and_is_what_it_was() {
        const BYTES: usize = 200 << 10;
        let fresh = filled(20, BYTES);
        let taken: Vec<_> =
            (1..=20).map(|n| fresh.unpacked_after(&at(n - 1), (Some(ORIGIN), &at(20)), true, LIMITS)).collect();
        assert!(taken.into_iter().zip(1..).all(|(batch, n)| batch == Some(change(n, BYTES))));
        assert!(fresh.chain().packed > 2 << 20, "the older ones were packed");
        assert_eq!(
            fresh.unpacked_after(&at(3), (Some(ORIGIN), &at(20)), false, LIMITS),
            None,
            "the rest of it was read later"
        );
        // Everybody has it.
        fresh.push(Some(change(21, BYTES)));
        assert!(kept(&fresh) <= 1 + OPEN / BYTES, "{}", kept(&fresh));
        let packed = fresh.chain().packed;
        assert!(packed < (1 + kept(&fresh)) * BYTES, "{packed} bytes");
    }

    #[test]
    fn little_that_everybody_has_is_kept_for_a_while() {
        let fresh = alone();
        for n in 1..=100 {
            fresh.push(Some(change(n, 10)));
            assert_eq!(fresh.unpacked_after(&at(n - 1), (Some(ORIGIN), &at(n)), true, LIMITS), Some(change(n, 10)));
        }
        assert_eq!(kept(&fresh), GRACE + 1);
        assert!(!fresh.is_wanted());
    }

    #[test]
    fn a_second_peer_is_waited_for_where_there_was_one() {
        let fresh = filled(1, 100 << 10);
        (0..2).for_each(|_| drop(fresh.unpacked_after(&at(0), (Some(ORIGIN), &at(1)), true, LIMITS)));
        (2..=20).for_each(|sequence| fresh.push(Some(change(sequence, 100 << 10))));
        (2..=20).for_each(|n| drop(fresh.unpacked_after(&at(n - 1), (Some(ORIGIN), &at(20)), true, LIMITS)));
        fresh.push(Some(change(21, 100 << 10)));
        assert_eq!(fresh.unpacked_after(&at(1), (Some(ORIGIN), &at(21)), true, LIMITS), Some(change(2, 100 << 10)));
        // But not for ever.
        (22..=80).for_each(|sequence| fresh.push(Some(change(sequence, 100 << 10))));
        assert_eq!(fresh.unpacked_after(&at(1), (Some(ORIGIN), &at(80)), true, LIMITS), None);
    }

    #[test]
    fn what_is_too_much_is_let_go_of_the_oldest_first() {
        let fresh = filled(20, 1 << 20);
        assert!(fresh.chain().packed <= PACKED_AT_FIRST + (2 << 20));
        assert!(fresh.unpacked_after(&at(19), (Some(ORIGIN), &at(20)), true, LIMITS).is_some());
        (21..=60).for_each(|sequence| fresh.push(Some(change(sequence, 1 << 20))));
        assert_eq!(fresh.unpacked_after(&at(20), (Some(ORIGIN), &at(60)), true, LIMITS), None);
        assert_eq!(fresh.unpacked_after(&at(50), (Some(ORIGIN), &at(60)), true, LIMITS), Some(change(51, 1 << 20)));
        assert!(fresh.chain().packed > PACKED / 2 && fresh.chain().packed <= PACKED + (2 << 20));
        // Nobody has come for what was before it.
        drop(fresh.unpacked_after(&at(59), (Some(ORIGIN), &at(60)), true, LIMITS));
        fresh.push(Some(change(61, 1 << 20)));
        assert_eq!(kept(&fresh), 1);
        fresh.clear();
        assert!(fresh.is_empty());
        assert_eq!(fresh.chain().packed, 0);
    }

    #[test]
    fn many_databases_for_which_nobody_comes_keep_no_more_than_few() {
        const BYTES: usize = 1 << 20;
        static BUDGET: Budget = Budget::new();
        let databases: Vec<_> = (0..100).map(|_| FreshChanges::within(&BUDGET)).collect();
        let batch = change(1, BYTES);
        databases.iter().for_each(|fresh| fresh.push(Some(batch.clone())));
        assert!(!BUDGET.is_open_too_much());
        assert!(BUDGET.packed() <= Budget::PACKED);
        let taken = databases.iter().map(|fresh| fresh.unpacked_after(&at(0), (Some(ORIGIN), &at(1)), true, LIMITS));
        let taken: Vec<_> = taken.flatten().collect();
        assert!(taken.len() >= (Budget::OPEN + Budget::PACKED) / BYTES - 4, "{} are at hand", taken.len());
        assert!(taken.into_iter().all(|it| it == batch));
        drop(databases);
        assert_eq!(BUDGET.packed(), 0);
    }

    #[test]
    fn many_databases_whose_changes_are_taken_at_once_keep_no_more_than_few() {
        static BUDGET: Budget = Budget::new();
        let databases: Vec<_> = (0..100).map(|_| FreshChanges::within(&BUDGET)).collect();
        let mut taken = 0;
        for n in 1..=5 {
            for fresh in &databases {
                fresh.push(Some(change(n, 200 << 10)));
                let batch = fresh.unpacked_after(&at(n - 1), (Some(ORIGIN), &at(n)), true, LIMITS);
                taken += usize::from(batch.is_some());
                assert!(batch.is_none_or(|batch| batch == change(n, 200 << 10)));
                assert!(BUDGET.packed() <= Budget::PACKED + Budget::OPEN, "{} bytes", BUDGET.packed());
            }
        }
        assert!(taken > 100, "{taken} were at hand");
        // Who keeps little keeps it.
        let little = FreshChanges::within(&BUDGET);
        little.push(Some(change(1, 1_000)));
        little.push(Some(change(2, 1_000)));
        assert_eq!(little.unpacked_after(&at(1), (Some(ORIGIN), &at(2)), true, LIMITS), Some(change(2, 1_000)));
        drop((databases, little));
        assert_eq!(BUDGET.packed(), 0);
    }

    #[test]
    fn what_leads_elsewhere_is_not_sent() {
        let fresh = filled(3, 10);
        assert_eq!(
            fresh.unpacked_after(&at(1), (Some(ORIGIN), &at(1)), true, LIMITS),
            None,
            "the state that is shown does not know of it"
        );
        assert_eq!(
            fresh.unpacked_after(&at(1), (Some(ORIGIN), &at(3)), true, LIMITS),
            None,
            "the file has the two as one"
        );
        assert_eq!(fresh.unpacked_after(&at(2), (Some(ORIGIN), &at(3)), false, LIMITS), Some(change(3, 10)));
        assert_eq!(
            fresh.unpacked_after(&at(2), (Some(ORIGIN), &at(3)), true, BatchLimits { rows: 0, ..LIMITS }),
            None,
            "it is too large"
        );
        assert_eq!(fresh.unpacked_after(&at(2), (None, &at(3)), true, LIMITS), None, "it is of another origin");
        // Something came between.
        fresh.push(Some(change(9, 10)));
        assert_eq!((kept(&fresh), fresh.unpacked_after(&at(2), (Some(ORIGIN), &at(9)), true, LIMITS)), (1, None));
        assert_eq!(fresh.unpacked_after(&at(8), (Some(ORIGIN), &at(9)), true, LIMITS), Some(change(9, 10)));
        fresh.push(None);
        assert_eq!(kept(&fresh), 0);
    }
}
