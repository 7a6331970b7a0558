//! Two files of any schema, each written at random: what one pass from one to the other leaves.

use std::collections::BTreeSet;
use std::path::Path;

use bolero::check;
use rusqlite::Connection;
use sqlite_store::attach::attach;
use sqlite_store::connection;
use sqlite_store::file_comparison::compare_files;
use sqlite_store::file_merge::{FileMerge, FileMergeOptions, merge_files};
use sqlite_store::new_origin;
use tempfile::TempDir;

use crate::choices::{Choices, bytes, each_seed};
use crate::generated_schema::{Asked, schema};
use crate::generated_writes::write;
use crate::replica::{application, execute, rows};

/// An application writes for a while, without foreign keys: what a pass does to them is another matter.
fn write_at_random(path: &Path, choices: &mut Choices<'_>, asked: &[Asked], times: usize) -> Vec<String> {
    let conn = application(path);
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    let done: Vec<String> =
        (0..times).map(|_| write(choices, asked)).filter(|sql| execute(&conn, sql).is_ok()).collect();
    if !conn.is_autocommit() && execute(&conn, "COMMIT").is_err() {
        conn.execute_batch("ROLLBACK").unwrap();
    }
    done
}

fn changes(merge: &FileMerge) -> u64 {
    merge.tables.iter().map(|table| table.inserts + table.updates + table.deletes).sum()
}

fn pass(source: &Path, target: &Path, options: &FileMergeOptions) -> FileMerge {
    merge_files(source, target, options, &mut |_| {}).unwrap()
}

/// The rows of all tables that were merged, table by table.
fn contents(path: &Path, merge: &FileMerge) -> Vec<Vec<String>> {
    let conn = Connection::open(path).unwrap();
    merge.tables.iter().map(|table| rows(&conn, &table.table)).collect()
}

/// How many changes are logged.
fn logged(path: &Path) -> i64 {
    let conn = Connection::open(path).unwrap();
    conn.query_row("SELECT count(*) FROM _sync_log WHERE op <> 4", [], |row| row.get(0)).unwrap()
}

/// Whether a row of SOURCE was not taken over.
fn refuses(merge: &FileMerge) -> bool {
    merge.tables.iter().any(|table| table.refused > 0 || table.conflict_skips > 0)
}

fn run(choices: &mut Choices<'_>) {
    let folder = TempDir::new().unwrap();
    let [source, target, copy] = ["source.db", "target.db", "copy.db"].map(|name| folder.path().join(name));
    let (statements, asked) = schema(choices);
    let made = application(&source);
    let mut told: Vec<String> = statements.into_iter().filter(|sql| made.execute_batch(sql).is_ok()).collect();
    drop(made);
    told.extend(write_at_random(&source, choices, &asked, 12));
    std::fs::copy(&source, &target).unwrap();
    let attached = choices.one_in(2);
    if attached {
        attach(&mut connection::open(&target).unwrap(), new_origin(), "target").unwrap();
    }
    told.push("-- TARGET alone".to_owned());
    told.extend(write_at_random(&target, choices, &asked, 8));
    told.push("-- SOURCE alone".to_owned());
    told.extend(write_at_random(&source, choices, &asked, 8));
    let told = told.join(";\n");
    std::fs::copy(&target, &copy).unwrap();
    mirrored(&source, &target, attached, &told);
    merged(&source, &copy, &told);
}

fn mirrored(source: &Path, target: &Path, attached: bool, told: &str) {
    let options = FileMergeOptions { mirror: true, ..FileMergeOptions::default() };
    let before = if attached { logged(target) } else { 0 };
    let dry = pass(source, target, &FileMergeOptions { dry_run: true, ..options.clone() });
    let untouched = compare_files(source, target, 10).unwrap();
    let done = pass(source, target, &options);
    assert_eq!(dry, done, "a dry run tells the same\n{told}");
    let differed: u64 = untouched.tables.iter().map(|table| table.only_first + table.only_second + table.differ).sum();
    let told_of: u64 = done.tables.iter().map(|table| table.conflict_skips + table.refused).sum();
    assert_eq!(changes(&done) + told_of, differed, "each row that differs is told of once\n{told}");
    if attached && changes(&done) > 0 {
        assert!(logged(target) > before, "what is written is captured\n{told}");
    }
    let found = compare_files(source, target, 10).unwrap();
    // Rows of the copy that have no name stay there, and may hold unique values. What a trigger does besides may be refused.
    let in_the_way = done.tables.iter().any(|table| table.nameless[1] > 0) || told.contains("CREATE TRIGGER");
    for table in &found.tables {
        let left = table.only_first + table.only_second + table.differ;
        assert!(left == 0 || (in_the_way && refuses(&done)), "{table:?}\n{done:?}\n{told}");
    }
    let again = pass(source, target, &options);
    assert_eq!(changes(&again), 0, "a second pass does nothing\n{told}");
}

fn merged(source: &Path, target: &Path, told: &str) {
    let options = FileMergeOptions::default();
    let before = compare_files(source, target, usize::MAX).unwrap();
    let only_there = |found: &sqlite_store::file_comparison::FileComparison| -> Vec<(String, BTreeSet<String>)> {
        let keys = |table: &sqlite_store::file_comparison::TableComparison| {
            let only = table
                .differing
                .iter()
                .filter(|(_, how)| *how == sqlite_store::file_comparison::RowDifference::OnlySecond);
            only.map(|(key, _)| format!("{key:?}")).collect()
        };
        found.tables.iter().map(|table| (table.table.clone(), keys(table))).collect()
    };
    let done = pass(source, target, &options);
    let after = compare_files(source, target, usize::MAX).unwrap();
    assert_eq!(only_there(&before), only_there(&after), "rows of TARGET alone stay\n{told}");
    for (table, merged) in after.tables.iter().zip(&done.tables) {
        assert_eq!(table.table, merged.table);
        let told_of = merged.conflict_skips + merged.refused;
        // No timestamp tells: of rows that differ SOURCE's stands.
        assert_eq!(table.only_first + table.differ, told_of, "what lacks is told of\n{table:?}\n{merged:?}\n{told}");
        assert_eq!(merged.deletes, 0);
    }
    let stands = contents(target, &done);
    let again = pass(source, target, &options);
    assert_eq!(changes(&again), 0, "a second pass does nothing\n{told}");
    assert_eq!(contents(target, &done), stands);
    let ok: String =
        Connection::open(target).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(ok, "ok", "{told}");
}

#[test]
fn one_pass_makes_a_mirror_or_leaves_what_is_there() {
    each_seed(150, |bytes| run(&mut Choices(bytes)));
}

/// The same for inputs that a search led by coverage comes upon.
#[test]
fn one_pass_makes_a_mirror_whatever_is_searched_for() {
    let target = check!().with_shrink_time(std::time::Duration::ZERO).with_iterations(0);
    target.with_generator(bytes(500)).for_each(|bytes| run(&mut Choices(bytes)));
}
