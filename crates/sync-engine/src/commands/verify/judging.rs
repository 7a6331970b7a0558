//! Rows that differed when ranges were compared: whether they do for good, and making them equal.
//!
//! Both sides go on meanwhile. A row differs for good where both know the same changes and have captured all; or where each has come
//! to know what either knew before, and the row is still what it was.

use std::time::{Duration, Instant};

use replication::VersionVector;
use sync_engine::verification::{Key, Row};

use super::report::Difference;
use super::side::Side;

/// Keys in one question, and about how many bytes they may have.
const KEYS: usize = 500;
const KEY_BYTES: usize = 512 << 10;

/// How long what is on its way is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Who looks, and makes equal.
pub(super) struct Judge<'a> {
    sides: &'a [Side; 2],
    /// It was waited in vain: what is on its way does not come.
    given_up: bool,
}

/// The same rows on both sides.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) keys: Vec<Key>,
    rows: [Vec<Row>; 2],
    /// What was known then.
    have: [VersionVector; 2],
    /// Whether both had captured all.
    captured: bool,
}

impl Looked {
    pub(super) fn difference(&self, place: usize) -> Option<Difference> {
        let [ours, theirs] = &self.rows;
        match (&ours[place].content, &theirs[place].content) {
            (ours, theirs) if ours == theirs => None,
            (Some(_), None) => Some(Difference::OnlyFirst),
            (None, Some(_)) => Some(Difference::OnlySecond),
            _ => Some(Difference::Differs),
        }
    }

    /// The rows at these places.
    fn only(&self, wanted: impl Fn(usize) -> bool) -> Self {
        let places: Vec<usize> = (0..self.keys.len()).filter(|place| wanted(*place)).collect();
        let rows = self.rows.each_ref().map(|rows| places.iter().map(|place| rows[*place].clone()).collect());
        let keys = places.iter().map(|place| self.keys[*place].clone()).collect();
        Self { keys, rows, have: self.have.clone(), captured: self.captured }
    }

    fn differing(&self) -> Self {
        self.only(|place| self.difference(place).is_some())
    }

    fn add(&mut self, other: Self) {
        self.keys.extend(other.keys);
        for (rows, others) in self.rows.iter_mut().zip(other.rows) {
            rows.extend(others);
        }
    }

    /// Whether both sides knew the same.
    fn agrees(&self) -> bool {
        self.captured && self.have[0] == self.have[1]
    }

    /// Whether both sides know what either knew then.
    fn knows(&self, before: &Self) -> bool {
        self.captured && self.have.iter().all(|have| before.have.iter().all(|known| have.covers_all(known)))
    }

    /// The side whose row was written last. A row wins over nothing at all.
    fn winner(&self, place: usize) -> usize {
        let [ours, theirs] = &self.rows;
        let written = |row: &Row| (row.newest, row.content.is_some());
        usize::from(written(&theirs[place]) > written(&ours[place]))
    }
}

impl<'a> Judge<'a> {
    pub(super) const fn new(sides: &'a [Side; 2]) -> Self {
        Self { sides, given_up: false }
    }

    /// Looks at rows until it is known of each whether it differs for good; those that do, and those that may not.
    pub(super) fn settle(&mut self, table: &str, keys: Vec<Key>) -> anyhow::Result<(Looked, Looked)> {
        let since = Instant::now();
        let mut settled = Looked::default();
        let mut before = self.look(table, keys)?.differing();
        while !before.keys.is_empty() && !before.agrees() {
            if self.given_up || since.elapsed() >= PATIENCE {
                self.given_up = true;
                return Ok((settled, before));
            }
            std::thread::sleep(PAUSE);
            let now = self.look(table, before.keys.clone())?;
            if now.agrees() {
                before = now.differing();
            } else if now.knows(&before) {
                let stays = |place| (0..2).all(|side: usize| now.rows[side][place] == before.rows[side][place]);
                settled.add(now.only(|place| now.difference(place).is_some() && stays(place)));
                before = now.only(|place| now.difference(place).is_some() && !stays(place));
            } else {
                before = before.only(|place| now.difference(place).is_some());
            }
        }
        settled.add(before);
        Ok((settled, Looked::default()))
    }

    /// Has the side issue each row anew where it was written last; the keys of those that differ all the same in the end.
    pub(super) fn repair(&mut self, table: &str, looked: &Looked) -> anyhow::Result<Vec<Key>> {
        let mut issued: [Vec<Key>; 2] = Default::default();
        for (place, key) in looked.keys.iter().enumerate() {
            issued[looked.winner(place)].push(key.clone());
        }
        for (side, keys) in self.sides.iter().zip(issued).filter(|(_, keys)| !keys.is_empty()) {
            side.reissue(table, keys)?;
        }
        let (mut left, mut since) = (looked.keys.clone(), Instant::now());
        loop {
            let before = left.len();
            left = self.look(table, left)?.differing().keys;
            if left.len() < before {
                since = Instant::now();
            }
            if left.is_empty() || self.given_up || since.elapsed() >= PATIENCE {
                self.given_up |= !left.is_empty();
                return Ok(left);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn look(&self, table: &str, keys: Vec<Key>) -> anyhow::Result<Looked> {
        let [first, second] = self.sides;
        let ((ours, known), (theirs, other)) = (first.rows(table, &keys)?, second.rows(table, &keys)?);
        let captured = known.captured && other.captured;
        Ok(Looked { keys, rows: [ours, theirs], have: [known.have, other.have], captured })
    }
}

/// Keys in portions that fit a question.
pub(super) fn portions(keys: Vec<Key>) -> Vec<Vec<Key>> {
    let mut portions: Vec<Vec<Key>> = Vec::new();
    let mut bytes = 0;
    for key in keys {
        let size = key.iter().map(|value| value.to_string().len() + 1).sum::<usize>();
        bytes += size;
        match portions.last_mut().filter(|portion| portion.len() < KEYS && bytes <= KEY_BYTES) {
            Some(portion) => portion.push(key),
            None => {
                bytes = size;
                portions.push(vec![key]);
            }
        }
    }
    portions
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{KEY_BYTES, KEYS, portions};

    #[test]
    fn portions_hold_all_keys_and_no_more_than_fit() {
        let short: Vec<_> = (0..2 * KEYS + 1).map(|n| vec![json!(n)]).collect();
        assert_eq!(portions(short.clone()).iter().map(Vec::len).collect::<Vec<_>>(), [KEYS, KEYS, 1]);
        assert_eq!(portions(short.clone()).concat(), short);
        let long: Vec<_> = (0..3).map(|n| vec![json!(n), json!("x".repeat(KEY_BYTES * 2 / 3))]).collect();
        assert_eq!(portions(long).iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    }
}
