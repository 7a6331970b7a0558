//! Two files, whoever else has them open: only read.

use std::path::Path;

use anyhow::Context as _;
use sqlite_store::file_comparison::{FileComparison, NotCompared, RowDifference, compare_files};

use super::report::{Difference, Differing, Report, TableReport};

/// Compares two files, each as of one moment.
pub(super) fn compare(first: &Path, second: &Path, limit: usize, repair: bool) -> anyhow::Result<Report> {
    let compared = compare_files(first, second, limit)
        .map_err(crate::commands::databases::OneShot)
        .with_context(|| format!("cannot compare {} with {}", first.display(), second.display()))?;
    let report = Report::new(first.display().to_string(), second.display().to_string(), repair);
    Ok(filled(report, compared, limit))
}

fn filled(mut report: Report, compared: FileComparison, limit: usize) -> Report {
    for NotCompared { table, reason, differs } in compared.not_compared {
        report.leave_out(&table, reason, differs);
    }
    for table in compared.tables {
        let [ours, theirs] = table.nameless;
        if ours + theirs > 0 {
            let reason = format!("only in part: {ours} and {theirs} rows have NULL in their key and cannot be named");
            report.leave_out(&table.table, reason, ours != theirs);
        }
        let mut told = TableReport::new(&table.table, &table.key);
        for (key, difference) in table.differing {
            let difference = match difference {
                RowDifference::OnlyFirst => Difference::OnlyFirst,
                RowDifference::OnlySecond => Difference::OnlySecond,
                RowDifference::Differs => Difference::Differs,
            };
            told.note(Differing { key, difference, repaired: false }, limit);
        }
        // Only so many keys were listed.
        (told.rows, told.only_first) = (table.rows, table.only_first);
        (told.only_second, told.differ) = (table.only_second, table.differ);
        report.tables.push(told);
    }
    report
}
