//! Which tables are synced, and what is said of the others.

use sqlite_store::connection;
use sqlite_store::error::StoreError;

use crate::support::{Sample, Writer, with_both};

fn unsynced(db: &Sample) -> Vec<(String, String)> {
    db.schema().unsynced.into_iter().map(|table| (table.table, table.reason)).collect()
}

#[test]
fn a_table_without_a_key_is_named_and_the_others_work() {
    let schema = "CREATE TABLE bare(a, b); CREATE TABLE nullable(a UNIQUE); CREATE TABLE t(id INTEGER PRIMARY KEY); \
                  CREATE TABLE part(a NOT NULL); CREATE UNIQUE INDEX i ON part(a) WHERE a > 1; \
                  CREATE TABLE gen(a, g AS (a) STORED NOT NULL UNIQUE); CREATE VIEW v AS SELECT * FROM t; \
                  CREATE TABLE mixed(a TEXT, PRIMARY KEY (a COLLATE NOCASE))";
    with_both(schema, |db| {
        let named: Vec<_> = unsynced(db).into_iter().map(|(table, _)| table).collect();
        assert_eq!(named, ["bare", "gen", "mixed", "nullable", "part"]);
        assert_eq!(unsynced(db)[0].1, "has no primary key");
        assert!(db.schema().unsynced[0].remedy.contains("UNIQUE"));
        let log =
            db.logged("INSERT INTO bare VALUES (1, 2); INSERT INTO t VALUES (1); INSERT INTO nullable VALUES (1)");
        assert_eq!(log, ["insert t 1"]);
    });
}

#[test]
fn virtual_tables_are_named_and_their_shadows_left_out() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE VIRTUAL TABLE f USING fts5(x); \
                  CREATE VIRTUAL TABLE r USING rtree(id, a, b)";
    with_both(schema, |db| {
        let named: Vec<_> = unsynced(db);
        assert_eq!(named, ["f", "r"].map(|table| (table.to_owned(), "is a virtual table".to_owned())));
        assert_eq!(db.schema().tables.len(), 1);
    });
}

#[test]
fn what_migration_tools_note_of_a_file_stays_in_it() {
    let schema = "CREATE TABLE alembic_version(version_num TEXT PRIMARY KEY); \
                  CREATE TABLE migrations(id INTEGER PRIMARY KEY, species TEXT); \
                  CREATE TABLE django_migrations(id INTEGER PRIMARY KEY AUTOINCREMENT, app TEXT, name TEXT, applied TEXT)";
    with_both(schema, |db| {
        let reason = |tool| format!("is where {tool} notes which migrations this file has had");
        let named = [("alembic_version", reason("Alembic")), ("django_migrations", reason("Django"))];
        assert_eq!(unsynced(db), named.map(|(table, reason)| (table.to_owned(), reason)));
        assert!(db.schema().unsynced.iter().all(|table| table.intended));
        let log = db.logged("INSERT INTO alembic_version VALUES ('a1'); INSERT INTO migrations VALUES (1, 'crane')");
        assert_eq!(log, ["insert migrations 1"]);
    });
}

#[test]
fn shadows_of_a_module_that_is_not_here_are_left_out() {
    let mut db = Sample::new(
        Writer::Shell,
        "CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE TABLE vec_chunks(id INTEGER PRIMARY KEY); \
         PRAGMA writable_schema = ON; \
         INSERT INTO sqlite_schema VALUES ('table', 'vec', 'vec', 0, 'CREATE VIRTUAL TABLE vec USING vec0(a)');",
    );
    db.conn = connection::open(&db.path()).unwrap();
    let attached = db.attach();
    assert_eq!(attached.schema.tables.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["t"]);
    assert_eq!(unsynced(&db).iter().map(|(table, _)| table.as_str()).collect::<Vec<_>>(), ["vec"]);
}

#[test]
fn collations_and_functions_of_the_application_refuse_the_table_by_name() {
    let mut db = Sample::new(Writer::Python, "");
    db.write_with_own_functions(
        "CREATE TABLE plain(id INTEGER PRIMARY KEY, a TEXT COLLATE mine);
         CREATE TABLE c_key(k TEXT COLLATE mine PRIMARY KEY);
         CREATE TABLE c_unique(id INTEGER PRIMARY KEY, u TEXT COLLATE mine UNIQUE);
         CREATE TABLE c_index(id INTEGER PRIMARY KEY, u TEXT COLLATE mine); CREATE INDEX i ON c_index(u);
         CREATE TABLE f_check(id INTEGER PRIMARY KEY, a CHECK (twice(a) > 0));
         CREATE TABLE f_index(id INTEGER PRIMARY KEY, a); CREATE INDEX j ON f_index(twice(a));
         CREATE TABLE f_unique(id INTEGER PRIMARY KEY, a); CREATE UNIQUE INDEX k ON f_unique(twice(a));
         CREATE TABLE f_generated(id INTEGER PRIMARY KEY, a, g AS (twice(a)));
         CREATE TABLE f_trigger(id INTEGER PRIMARY KEY, a);
         CREATE TRIGGER own AFTER INSERT ON f_trigger BEGIN
           UPDATE f_trigger SET a = twice(NEW.a) WHERE id = NEW.id; END",
    );
    let attached = db.attach();
    let synced: Vec<_> = attached.schema.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(synced, ["plain", "f_trigger"]);
    for refused in &attached.schema.unsynced {
        let expected = if refused.table.starts_with('c') { "no such collation sequence: mine" } else { "function" };
        assert!(refused.reason.contains(expected), "{refused:?}");
    }
    assert_eq!(attached.schema.unsynced.len(), 7);
    db.write_with_own_functions("INSERT INTO plain VALUES (1, 'x'); UPDATE plain SET a = 'X'");
    assert_eq!(db.take_log(), ["insert plain 1", "update plain 1 [a]"]);
    assert!(db.rows("SELECT name FROM sqlite_schema WHERE name GLOB '_sync_clock_[cf]_[^t]*'").is_empty());
    db.write_with_own_functions("INSERT INTO f_trigger VALUES (1, 4)");
    assert_eq!(db.take_log(), ["insert f_trigger 1", "update f_trigger 1 [a]"]);
    let again = db.schema();
    assert!(again.unsynced.iter().all(|table| !table.reason.is_empty()));
    assert_eq!(again.tables, attached.schema.tables);
}

#[test]
fn only_existing_databases_are_opened() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("none.db");
    let error = connection::open(&path).unwrap_err();
    assert_eq!((error.kind(), path.exists()), ("missing", false));
    std::fs::write(&path, "this is not a database, however long it may be".repeat(100)).unwrap();
    assert_eq!(connection::open(&path).unwrap_err().kind(), "not_a_database");
    let uri = folder.path().join("file:x.db?mode=memory");
    rusqlite::Connection::open_with_flags(
        &uri,
        rusqlite::OpenFlags::SQLITE_OPEN_CREATE | rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE,
    )
    .unwrap();
    assert!(connection::open(&uri).is_ok());
}

#[test]
fn a_locked_database_is_busy() {
    let mut db = Sample::new(Writer::Python, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let other = connection::open(&db.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    db.conn.busy_timeout(std::time::Duration::ZERO).unwrap();
    let refused =
        sqlite_store::attach::attach(&mut db.conn, replication::Origin::from_bytes([1; 16]), "n").unwrap_err();
    assert!(refused.is_busy());
    assert!(matches!(sqlite_store::attach::introspect(&db.conn), Err(StoreError::NotAttached)));
}
