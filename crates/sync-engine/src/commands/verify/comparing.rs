//! Comparing two databases range by range: what is equal costs a fingerprint, what differs is looked at row by row.
//!
//! Both sides go on meanwhile. Rows that differ are looked at again until both know the same changes and have captured all: what was
//! on its way has arrived then. Where that does not come about in time, what still differs is told, and that it may be on its way.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use sync_engine::verification::{Key, Part, Range, Row, Table};

use super::report::{Difference, Differing, Progress, Report, TableReport};
use super::side::Side;

/// Rows to a fingerprint.
const FIRST_ROWS: u32 = 4_096;

/// Rows of a side that are held at once.
const LISTED: usize = 50_000;

/// Keys in one question.
const KEYS: usize = 500;

/// How long all that is on its way is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Two databases at work.
pub(super) struct Comparison<'a> {
    sides: &'a [Side; 2],
    limit: usize,
    repair: bool,
    /// Until when it is waited.
    until: Instant,
    /// Whether all that differs does so for good.
    settled: bool,
}

/// The same rows on both sides.
struct Looked {
    keys: Vec<Key>,
    rows: [Vec<Row>; 2],
    /// Whether both sides knew the same, and had captured all.
    settled: bool,
}

impl Looked {
    fn differs(&self, place: usize) -> Option<Difference> {
        let [ours, theirs] = &self.rows;
        match (&ours[place].content, &theirs[place].content) {
            (ours, theirs) if ours == theirs => None,
            (Some(_), None) => Some(Difference::OnlyFirst),
            (None, Some(_)) => Some(Difference::OnlySecond),
            _ => Some(Difference::Differs),
        }
    }

    fn differing(&self) -> Vec<Key> {
        (0..self.keys.len())
            .filter(|place| self.differs(*place).is_some())
            .map(|place| self.keys[place].clone())
            .collect()
    }

    /// The side whose row was written last. A row wins over nothing at all.
    fn winner(&self, place: usize) -> usize {
        let [ours, theirs] = &self.rows;
        let written = |row: &Row| (row.newest, row.content.is_some());
        usize::from(written(&theirs[place]) > written(&ours[place]))
    }
}

impl<'a> Comparison<'a> {
    pub(super) fn new(sides: &'a [Side; 2], limit: usize, repair: bool) -> Self {
        Self { sides, limit, repair, until: Instant::now() + PATIENCE, settled: true }
    }

    /// Compares all tables.
    pub(super) fn run(&mut self, progress: &mut Progress) -> anyhow::Result<Report> {
        let [(first, ours), (second, theirs)] = [self.sides[0].tables()?, self.sides[1].tables()?];
        let find = |tables: &[Table], name: &str| tables.iter().find(|table| table.name == name).cloned();
        let mut report = Report::new(format!("node {first}"), format!("node {second}"));
        for table in &ours {
            match find(&theirs, &table.name) {
                None => report.leave_out(&table.name, format!("it is not synced at node {second}"), false),
                Some(other) if other != *table => report.leave_out(&table.name, unlike(table, &other, &second), false),
                Some(_) => report.tables.push(self.table(table, progress)?),
            }
        }
        for table in theirs.iter().filter(|table| find(&ours, &table.name).is_none()) {
            report.leave_out(&table.name, format!("it is not synced at node {first}"), false);
        }
        report.settled = self.settled;
        Ok(report)
    }

    fn table(&mut self, table: &Table, progress: &mut Progress) -> anyhow::Result<TableReport> {
        let mut report = TableReport::new(&table.name, &table.key);
        let mut todo = VecDeque::from([Range::default()]);
        while let Some(range) = todo.pop_front() {
            let (parts, rest) = self.sides[0].ranges(&table.name, FIRST_ROWS, vec![range])?;
            rest.into_iter().rev().for_each(|range| todo.push_front(range));
            let theirs = self.same_parts(&table.name, &parts)?;
            for part in parts {
                let other = theirs.iter().find(|other| other.range == part.range);
                if other.is_some_and(|other| other.rows == part.rows && other.content == part.content) {
                    report.rows.iter_mut().for_each(|rows| *rows += part.rows);
                } else {
                    self.look_closer(&mut report, part.range)?;
                }
            }
            progress.tell(&table.name, report.rows[0]);
        }
        Ok(report)
    }

    /// What the second side has in the same ranges as the first. A range of which an answer holds a part only has more rows there.
    fn same_parts(&self, table: &str, ours: &[Part]) -> anyhow::Result<Vec<Part>> {
        let mut asked: Vec<Range> = ours.iter().map(|part| part.range.clone()).collect();
        let mut found = Vec::new();
        while !asked.is_empty() {
            let (parts, rest) = self.sides[1].ranges(table, u32::MAX, asked)?;
            found.extend(parts);
            asked = rest.into_iter().filter(|range| ours.iter().any(|part| part.range == *range)).collect();
        }
        Ok(found)
    }

    /// Compares the rows of a range one by one.
    fn look_closer(&mut self, report: &mut TableReport, range: Range) -> anyhow::Result<()> {
        let mut todo = Some(range);
        while let Some(range) = todo.take() {
            // Where there are very many rows on the second side, they are compared in portions.
            let (theirs, cut) = self.list(1, &report.table, range.clone(), LISTED)?;
            let portion = Range { after: range.after, until: cut.clone().or_else(|| range.until.clone()) };
            let (ours, _) = self.list(0, &report.table, portion, usize::MAX)?;
            todo = cut.map(|cut| Range { after: Some(cut), until: range.until });
            report.rows[0] += ours.len() as u64;
            report.rows[1] += theirs.len() as u64;
            let not_there = |(last, (_, content)): &(&String, &(Key, String))| {
                theirs.get(*last).is_none_or(|(_, other)| other != content)
            };
            let not_here = theirs.iter().filter(|(last, _)| !ours.contains_key(*last));
            let keys: Vec<Key> =
                ours.iter().filter(not_there).chain(not_here).map(|(_, (key, _))| key.clone()).collect();
            for keys in keys.chunks(KEYS) {
                self.judge(report, keys.to_vec())?;
            }
        }
        Ok(())
    }

    /// The rows of a range on one side, by their keys in the form that both have in common, and where it was cut off because
    /// there were more than `limit`.
    fn list(&self, side: usize, table: &str, range: Range, limit: usize) -> anyhow::Result<(Listed, Option<Key>)> {
        let mut listed = Listed::new();
        let mut todo = vec![range];
        while !todo.is_empty() {
            let (parts, rest) = self.sides[side].ranges(table, 1, todo)?;
            for Part { range, content, last, .. } in parts.into_iter().filter(|part| part.rows > 0) {
                if let (Some(key), Some(last)) = (range.until, last) {
                    listed.insert(serde_json::to_string(&last)?, (key, content));
                }
            }
            if let Some(Range { after: Some(cut), .. }) = rest.first()
                && listed.len() >= limit
            {
                return Ok((listed, Some(cut.clone())));
            }
            todo = rest;
        }
        Ok((listed, None))
    }

    /// Looks at rows that differed until it is known whether they do, and repairs them if that is wanted.
    fn judge(&mut self, report: &mut TableReport, keys: Vec<Key>) -> anyhow::Result<()> {
        let mut looked = self.look(&report.table, keys)?;
        while !looked.settled && !looked.differing().is_empty() && Instant::now() < self.until {
            std::thread::sleep(PAUSE);
            looked = self.look(&report.table, looked.differing())?;
        }
        let differing = looked.differing();
        self.settled &= looked.settled || differing.is_empty();
        let left = if self.repair { self.repair(&report.table, &looked)? } else { differing };
        for (place, key) in looked.keys.iter().enumerate() {
            if let Some(difference) = looked.differs(place) {
                let repaired = !left.contains(key);
                report.note(Differing { key: key.clone(), difference, repaired }, self.limit);
            }
        }
        Ok(())
    }

    /// Has the side issue each row anew where it was written last; the keys of those that differ all the same in the end.
    fn repair(&self, table: &str, looked: &Looked) -> anyhow::Result<Vec<Key>> {
        let mut issued: [Vec<Key>; 2] = Default::default();
        for (place, key) in looked.keys.iter().enumerate().filter(|(place, _)| looked.differs(*place).is_some()) {
            issued[looked.winner(place)].push(key.clone());
        }
        for (side, keys) in self.sides.iter().zip(issued).filter(|(_, keys)| !keys.is_empty()) {
            side.reissue(table, keys)?;
        }
        let mut left = looked.differing();
        loop {
            left = self.look(table, left)?.differing();
            if left.is_empty() || Instant::now() >= self.until {
                return Ok(left);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn look(&self, table: &str, keys: Vec<Key>) -> anyhow::Result<Looked> {
        let [first, second] = self.sides;
        let ((ours, known), (theirs, other)) = (first.rows(table, &keys)?, second.rows(table, &keys)?);
        let settled = known.captured && other.captured && known.have == other.have;
        Ok(Looked { keys, rows: [ours, theirs], settled })
    }
}

/// Rows by their keys: the key as it is spelled, and what they hold.
type Listed = BTreeMap<String, (Key, String)>;

/// How a table differs from another of its name.
fn unlike(table: &Table, other: &Table, node: &str) -> String {
    let lacking = |have: &[String], of: &[String]| -> Vec<String> {
        of.iter().filter(|column| !have.contains(column)).cloned().collect()
    };
    let mut reasons = Vec::new();
    let (here, there) = (lacking(&table.columns, &other.columns), lacking(&other.columns, &table.columns));
    if !there.is_empty() {
        reasons.push(format!("column {} is not synced at node {node}", there.join(", ")));
    }
    if !here.is_empty() {
        reasons.push(format!("column {} is synced at node {node} only", here.join(", ")));
    }
    if table.key != other.key {
        reasons.push(format!("its key at node {node} is {}", other.key.join(", ")));
    }
    reasons.join("; ")
}
