//! Tables and columns that bear other names on the wire: what the file remembers of it, and what is said anew.

use replication::Origin;
use sqlite_store::attach::naming::WireNames;
use sqlite_store::attach::{AttachRules, Attached, Misnamed, attach, settle_rewritten, settle_unwatched};
use sqlite_store::warning::WarningKind;

use crate::support::{Sample, Writer};

const SCHEMA: &str = "CREATE TABLE stock(sku TEXT PRIMARY KEY, label, qty); CREATE TABLE other(k PRIMARY KEY, v)";

fn sample() -> Sample {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    db.attach();
    db
}

fn under(db: &mut Sample, tables: &[(&str, &str)], columns: &[(&str, &str, &str)]) -> Attached {
    let mut names = WireNames::default();
    tables.iter().for_each(|(table, remote_name)| names.name_table(table, remote_name));
    columns.iter().for_each(|(table, column, remote_name)| names.name_column(table, column, remote_name));
    db.attach_under(&AttachRules { names: Some(names), ..AttachRules::default() })
}

/// What is said anew: tables, and columns as table and column.
fn anew(attached: &Attached) -> (Vec<i64>, Vec<(i64, u16)>) {
    (attached.rewritten.clone(), attached.unwatched.clone())
}

fn settle(db: &Sample, attached: &Attached) {
    attached.rewritten.iter().for_each(|table| settle_rewritten(&db.conn, *table).unwrap());
    attached.unwatched.iter().for_each(|(table, column)| settle_unwatched(&db.conn, *table, *column).unwrap());
}

#[test]
fn what_bears_another_name_on_the_wire_than_before_is_said_anew() {
    let mut db = sample();
    for (tables, columns, expected) in [
        (vec![("stock", "item")], vec![], (vec![1], vec![])),
        (vec![("stock", "ITEM")], vec![], (vec![], vec![])),
        (vec![("STOCK", "item")], vec![("stock", "label", "title")], (vec![], vec![(1, 2)])),
        (vec![], vec![("stock", "label", "title")], (vec![1], vec![])),
        // Under another key's name no row is known to peers.
        (vec![], vec![("stock", "label", "title"), ("stock", "sku", "id")], (vec![1], vec![(1, 1)])),
        (vec![("other", "other")], vec![], (vec![1], vec![(1, 1), (1, 2)])),
    ] {
        let attached = under(&mut db, &tables, &columns);
        assert_eq!(anew(&attached), expected, "{tables:?} {columns:?}");
        assert_eq!((attached.misnamed.tables, attached.misnamed.columns), expected.clone());
        let attached = under(&mut db, &tables, &columns);
        // Until it is done it is named at every attach.
        assert_eq!(anew(&under(&mut db, &tables, &columns)), expected);
        settle(&db, &attached);
        assert_eq!(anew(&under(&mut db, &tables, &columns)), (vec![], vec![]));
    }
}

#[test]
fn who_says_no_names_leaves_them_as_they_were() {
    let mut db = sample();
    let attached = under(&mut db, &[("stock", "item")], &[("other", "v", "value")]);
    settle(&db, &attached);
    let again = attach(&mut db.conn, Origin::from_bytes([9; 16]), "here").unwrap();
    assert_eq!(anew(&again), (vec![], vec![]));
    let names = |table: usize| again.schema.tables[table].wire_shape();
    assert_eq!((names(0).name, names(1).columns), ("item".to_owned(), vec!["k".to_owned(), "value".to_owned()]));
    assert_eq!(db.schema(), again.schema);
    db.write("DROP TABLE other; CREATE TABLE item(k PRIMARY KEY)");
    let unsynced = attach(&mut db.conn, Origin::from_bytes([9; 16]), "here").unwrap().schema.unsynced;
    assert_eq!(unsynced.iter().map(|unsynced| unsynced.table.as_str()).collect::<Vec<_>>(), ["item"]);
    assert_eq!(db.schema().unsynced, unsynced);
    db.detach();
    assert_eq!(db.rows("SELECT count(*) FROM sqlite_schema WHERE name GLOB '_sync_*'"), ["0"]);
}

#[test]
fn a_migration_that_renames_what_keeps_its_name_on_the_wire_says_nothing_anew() {
    let mut db = sample();
    db.write("ALTER TABLE stock RENAME TO ware; ALTER TABLE ware RENAME COLUMN label TO titel");
    let attached = under(&mut db, &[("ware", "stock")], &[("ware", "titel", "label")]);
    assert_eq!(anew(&attached), (vec![], vec![]));
    assert_eq!(attached.schema.tables[0].number, 1);
    // Peers that rename theirs know what it was called before.
    db.write("ALTER TABLE other RENAME TO others");
    let attached = under(&mut db, &[("ware", "stock")], &[("ware", "titel", "label")]);
    assert_eq!((anew(&attached), attached.misnamed), ((vec![2], vec![]), Misnamed::default()));
}

#[test]
fn a_file_that_was_attached_before_there_were_names_says_anew_what_is_named() {
    let mut db = sample();
    db.conn.execute("DELETE FROM _sync_meta WHERE key = 'said'", []).unwrap();
    db.write("ALTER TABLE other RENAME TO others");
    let attached = under(&mut db, &[("stock", "item")], &[("stock", "qty", "quantity")]);
    assert_eq!(anew(&attached), (vec![1, 2], vec![(1, 3)]));
}

#[test]
fn a_table_that_is_gone_is_retired_under_the_name_that_peers_know() {
    let mut db = sample();
    let attached = under(&mut db, &[("stock", "item")], &[]);
    settle(&db, &attached);
    db.conn.execute("INSERT INTO _sync_clock_stock VALUES ('a', 0, 1, 0, 1, 1, NULL)", []).unwrap();
    db.write("DROP TABLE stock");
    let attached = under(&mut db, &[], &[]);
    assert_eq!(attached.retired.into_iter().collect::<Vec<_>>(), ["item"]);
}

#[test]
fn a_name_that_nothing_has_is_a_warning() {
    let mut db = sample();
    let attached = under(&mut db, &[("stok", "item")], &[]);
    assert_eq!(attached.schema.tables.len(), 2);
    let told = attached.warnings.iter().filter(|warning| warning.kind == WarningKind::UnknownName);
    assert_eq!(told.map(|warning| warning.remedy.as_str()).collect::<Vec<_>>(), ["did you mean \"stock\"?"]);
}
