//! Comparing two databases range by range: what is equal costs a fingerprint, what differs is looked at row by row.

use std::collections::{BTreeMap, VecDeque};

use sync_engine::Selection;
use sync_engine::verification::{Key, Part, Range, Table};

use super::judging::{Judge, portions};
use super::report::{Differing, Report, TableReport};
use super::side::Side;
use crate::commands::progress::Progress;

/// Rows to a fingerprint.
const FIRST_ROWS: u32 = 4_096;

/// Rows of a side that are held at once.
const LISTED: usize = 50_000;

/// Two databases at work.
pub(super) struct Comparison<'a> {
    sides: &'a [Side; 2],
    limit: usize,
    repair: bool,
    judge: Judge<'a>,
    /// Whether all that differs does so for good.
    settled: bool,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(sides: &'a [Side; 2], limit: usize, repair: bool) -> Self {
        Self { sides, limit, repair, judge: Judge::new(sides), settled: true }
    }

    /// Compares all tables.
    pub(super) fn run(&mut self, progress: &mut Progress) -> anyhow::Result<Report> {
        let [(first, ours, here), (second, theirs, there)] = [self.sides[0].tables()?, self.sides[1].tables()?];
        let find = |tables: &[Table], name: &str| {
            // SQLite does not tell the case of ASCII letters apart in names.
            tables.iter().find(|table| table.name.eq_ignore_ascii_case(name)).cloned()
        };
        // What is left out on purpose is no difference.
        let meant = |table: &str| [&here, &there].iter().any(|selection: &&Selection| selection.limits(table));
        let mut report = Report::new(format!("node {first}"), format!("node {second}"), self.repair);
        for table in &ours {
            let meant = meant(&table.name);
            match find(&theirs, &table.name) {
                None => report.leave_out(&table.name, format!("it is not synced at node {second}"), !meant),
                Some(other) if (&other.columns, &other.key) != (&table.columns, &table.key) => {
                    report.leave_out(&table.name, unlike(table, &other, &second), !meant);
                }
                Some(_) => report.tables.push(self.table(table, progress)?),
            }
        }
        for table in theirs.iter().filter(|table| find(&ours, &table.name).is_none()) {
            let reason = format!("it is not synced at node {first}");
            report.leave_out(&table.name, reason, !meant(&table.name));
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
            progress.tell(|| format!("table {}: {} rows compared", table.name, report.rows[0]));
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
            portions(keys).into_iter().try_for_each(|keys| self.judge(report, keys))?;
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

    /// Finds out whether rows differ for good, and repairs those that do if that is wanted.
    fn judge(&mut self, report: &mut TableReport, keys: Vec<Key>) -> anyhow::Result<()> {
        let (settled, unsettled) = self.judge.settle(&report.table, keys)?;
        self.settled &= unsettled.keys.is_empty();
        let left = match self.repair {
            true if !settled.keys.is_empty() => self.judge.repair(&report.table, &settled)?,
            _ => settled.keys.clone(),
        };
        for (looked, left) in [(&settled, &left), (&unsettled, &unsettled.keys)] {
            for (place, key) in looked.keys.iter().enumerate() {
                if let Some(difference) = looked.difference(place) {
                    let repaired = !left.contains(key);
                    report.note(Differing { key: key.clone(), difference, repaired }, self.limit);
                }
            }
        }
        Ok(())
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
