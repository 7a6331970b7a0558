//! What a comparison found, for people and for scripts.

use serde::Serialize;
use serde_json::{Map, Value as Json};
use sync_engine::verification::Key;

use crate::commands::say;

/// All that was compared.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// Whether nothing differs, or nothing does any more.
    equal: bool,
    first: String,
    second: String,
    /// Whether what differs does so for good: not while either side learns of changes that the other knows.
    pub(super) settled: bool,
    pub(super) tables: Vec<TableReport>,
    /// Tables that were not compared, and why.
    not_compared: Vec<NotCompared>,
    /// Whether what differs was to be repaired.
    #[serde(skip)]
    repair: bool,
}

/// A table that was not compared.
#[derive(Debug, Clone, Serialize)]
struct NotCompared {
    table: String,
    reason: String,
    /// Whether this is a difference in itself.
    differs: bool,
}

/// One table.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TableReport {
    pub(super) table: String,
    /// Rows on both sides.
    pub(super) rows: [u64; 2],
    pub(super) only_first: u64,
    pub(super) only_second: u64,
    pub(super) differ: u64,
    /// How many of these are equal now.
    pub(super) repaired: u64,
    keys: Vec<Json>,
    #[serde(skip)]
    key: Vec<String>,
}

/// A row that differs.
#[derive(Debug, Clone)]
pub(super) struct Differing {
    pub(super) key: Key,
    pub(super) difference: Difference,
    pub(super) repaired: bool,
}

/// How it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Difference {
    OnlyFirst,
    OnlySecond,
    Differs,
}

impl Difference {
    const fn as_str(self) -> &'static str {
        match self {
            Self::OnlyFirst => "only_first",
            Self::OnlySecond => "only_second",
            Self::Differs => "differs",
        }
    }
}

impl TableReport {
    pub(super) fn new(table: &str, key: &[String]) -> Self {
        let (table, key) = (table.to_owned(), key.to_vec());
        Self { table, rows: [0; 2], only_first: 0, only_second: 0, differ: 0, repaired: 0, keys: Vec::new(), key }
    }

    /// Notes a row; its key too, while there are fewer than `limit`.
    pub(super) fn note(&mut self, row: Differing, limit: usize) {
        match row.difference {
            Difference::OnlyFirst => self.only_first += 1,
            Difference::OnlySecond => self.only_second += 1,
            Difference::Differs => self.differ += 1,
        }
        self.repaired += u64::from(row.repaired);
        if self.keys.len() < limit {
            let key: Map<String, Json> = self.key.iter().cloned().zip(row.key).collect();
            self.keys.push(serde_json::json!({
                "key": key, "difference": row.difference.as_str(), "repaired": row.repaired
            }));
        }
    }

    const fn differences(&self) -> u64 {
        self.only_first + self.only_second + self.differ
    }
}

impl Report {
    pub(super) fn new(first: String, second: String, repair: bool) -> Self {
        let (tables, not_compared) = (Vec::new(), Vec::new());
        Self { equal: false, first, second, settled: true, tables, not_compared, repair }
    }

    /// Notes that a table is not compared, and whether that is a difference in itself.
    pub(super) fn leave_out(&mut self, table: &str, reason: String, differs: bool) {
        self.not_compared.push(NotCompared { table: table.to_owned(), reason, differs });
    }

    /// Whether nothing differs, or nothing does any more.
    pub(super) fn is_equal(&self) -> bool {
        let left: u64 = self.tables.iter().map(|table| table.differences() - table.repaired).sum();
        left == 0 && !self.not_compared.iter().any(|table| table.differs)
    }

    /// The report of what differed before a repair, where this one is of what the files hold after it; this one where they still
    /// differ.
    pub(super) fn after(self, before: Self) -> Self {
        if !self.is_equal() {
            return self;
        }
        let mut report = before;
        for table in &mut report.tables {
            table.repaired = table.differences();
            let now = self.tables.iter().find(|after| after.table == table.table);
            table.rows = now.map_or(table.rows, |now| now.rows);
            table.keys.iter_mut().for_each(|key| key["repaired"] = Json::Bool(true));
        }
        report
    }

    pub(super) fn print(&mut self, json: bool) {
        self.equal = self.is_equal();
        if json {
            // All of it has a form in JSON.
            serde_json::to_string(&self).iter().for_each(|text| say(text));
            return;
        }
        for table in &self.tables {
            table.print();
        }
        for NotCompared { table, reason, .. } in &self.not_compared {
            say(&format!("table {table}: not compared: {reason}"));
        }
        let (first, second) = (&self.first, &self.second);
        let found: u64 = self.tables.iter().map(TableReport::differences).sum();
        let repaired: u64 = self.tables.iter().map(|table| table.repaired).sum();
        let what = match (self.equal, found) {
            (true, 0) => format!("{first} and {second} are equal"),
            (false, 0) => format!("{first} and {second} do not have the same tables"),
            (true, _) => format!("{first} and {second} are equal now; {repaired} rows repaired"),
            (false, _) if found == repaired => {
                format!(
                    "{first} and {second} do not have the same tables; {repaired} rows of those that both have were repaired"
                )
            }
            (false, _) if self.repair => format!(
                "{first} and {second} still differ in {} rows, {repaired} were repaired; see that both are connected, and what \
                 sync_error in their logs says, and run it again",
                found - repaired
            ),
            (false, _) => format!("{first} and {second} differ in {found} rows; --repair makes them equal"),
        };
        say(&what);
        if !self.settled {
            say("some of this may be on its way: the two did not come to know the same changes in time");
        }
    }
}

impl TableReport {
    fn print(&self) {
        let [ours, theirs] = self.rows;
        if self.differences() == 0 {
            say(&format!("table {}: {ours} rows, equal", self.table));
            return;
        }
        let counts =
            [(self.only_first, "only in the first"), (self.only_second, "only in the second"), (self.differ, "differ")];
        let counts: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        say(&format!("table {}: {ours} and {theirs} rows: {}", self.table, counts.join(", ")));
        for row in &self.keys {
            let what = match row["difference"].as_str() {
                Some("only_first") => "only in the first",
                Some("only_second") => "only in the second",
                _ => "differs",
            };
            let repaired = if row["repaired"] == Json::Bool(true) { ", repaired" } else { "" };
            say(&format!("  {} {what}{repaired}", row["key"]));
        }
        let listed = self.keys.len() as u64;
        if self.differences() > listed {
            say(&format!("  and {} more; --limit lists more of them", self.differences() - listed));
        }
    }
}
