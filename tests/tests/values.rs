//! Values arrive bit for bit, in their storage class.

use system_tests::{Cell, Cluster, Result, Topology, check_equal, python_code, query, scenario};

const SCHEMA: &str = "CREATE TABLE untyped (id INTEGER PRIMARY KEY, v); \
    CREATE TABLE typed (id INTEGER PRIMARY KEY, i INTEGER, r REAL, t TEXT, b BLOB, n NUMERIC);";

/// Each in a column without affinity, which keeps it as it is.
const UNTYPED: &str = "(1, 9223372036854775807), (2, -9223372036854775808), (3, 0), (4, 1), (5, 1.0), \
    (6, 9e999), (7, -9e999), (9, 5e-324), (10, 1.7976931348623157e308), (11, 0.1), (12, ''), (13, NULL), (14, x''), \
    (15, CAST(x'ff' AS TEXT)), (16, CAST(x'610062' AS TEXT)), (17, x'610062'), (18, 'Ångström 日本語'), (19, '1'), \
    (20, 9007199254740993), (21, 9007199254740993.0), (22, CAST(x'eda080' AS TEXT)), (23, CAST(x'00' AS TEXT))";

const TEN_MEGABYTES: usize = 10_000_000;

/// Two nodes with the tables, in step.
fn pair(scene: &system_tests::Scene) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "values", 2, Topology::Line)?;
    cluster.create(SCHEMA)?;
    cluster.start()?;
    cluster.settled()?;
    Ok(cluster)
}

/// The only cell of a query.
fn cell(file: &std::path::Path, sql: &str) -> Result<Cell> {
    let rows = query(file, sql)?;
    match rows.into_iter().next().and_then(|row| row.into_iter().next()) {
        Some(cell) => Ok(cell),
        None => system_tests::fail!("{sql} finds nothing"),
    }
}

fn untyped(id: i64) -> String {
    format!("SELECT v FROM untyped WHERE id = {id}")
}

#[test]
fn every_storage_class_keeps_its_bits() {
    scenario(|scene| {
        let cluster = pair(scene)?;
        python_code(cluster.file(0), &format!("db.execute(\"INSERT INTO untyped VALUES {UNTYPED}\")"))?;
        // SQL text cannot say minus zero: SQLite reads `-0.0` as 0.0.
        python_code(cluster.file(0), "db.execute('INSERT INTO untyped VALUES (8, ?)', (-0.0,))")?;
        cluster.settled()?;
        let there = cluster.file(1);
        check_equal!(cell(there, &untyped(1))?, Cell::Integer(i64::MAX));
        check_equal!(cell(there, &untyped(2))?, Cell::Integer(i64::MIN));
        check_equal!(cell(there, &untyped(4))?, Cell::Integer(1));
        check_equal!(cell(there, &untyped(5))?, Cell::Real(1.0_f64.to_bits()));
        check_equal!(cell(there, &untyped(6))?, Cell::Real(f64::INFINITY.to_bits()));
        check_equal!(cell(there, &untyped(7))?, Cell::Real(f64::NEG_INFINITY.to_bits()));
        check_equal!(cell(there, &untyped(8))?, cell(cluster.file(0), &untyped(8))?);
        check_equal!(cell(there, &untyped(12))?, Cell::Text(Vec::new()));
        check_equal!(cell(there, &untyped(13))?, Cell::Null);
        check_equal!(cell(there, &untyped(14))?, Cell::Blob(Vec::new()));
        check_equal!(cell(there, &untyped(15))?, Cell::Text(vec![0xff]));
        check_equal!(cell(there, &untyped(16))?, Cell::Text(b"a\0b".to_vec()));
        check_equal!(cell(there, &untyped(17))?, Cell::Blob(b"a\0b".to_vec()));
        check_equal!(cell(there, &untyped(20))?, Cell::Integer(9_007_199_254_740_993));
        Ok(())
    });
}

#[test]
fn changes_that_only_bytes_tell_arrive() {
    scenario(|scene| {
        let cluster = pair(scene)?;
        let change = |sql: &str| python_code(cluster.file(0), &format!("db.execute(\"{sql}\")"));
        change("INSERT INTO untyped VALUES (1, 1), (2, 'a'), (3, ''), (4, x''), (5, NULL), (6, 0.0)")?;
        cluster.settled()?;
        change("UPDATE untyped SET v = 1.0 WHERE id = 1")?;
        change("UPDATE untyped SET v = x'61' WHERE id = 2")?;
        change("UPDATE untyped SET v = NULL WHERE id = 3")?;
        change("UPDATE untyped SET v = '' WHERE id = 4")?;
        change("UPDATE untyped SET v = x'' WHERE id = 5")?;
        python_code(cluster.file(0), "db.execute('UPDATE untyped SET v = ? WHERE id = 6', (-0.0,))")?;
        cluster.settled()?;
        let there = cluster.file(1);
        check_equal!(cell(there, &untyped(1))?, Cell::Real(1.0_f64.to_bits()));
        check_equal!(cell(there, &untyped(2))?, Cell::Blob(b"a".to_vec()));
        check_equal!(cell(there, &untyped(3))?, Cell::Null);
        check_equal!(cell(there, &untyped(4))?, Cell::Text(Vec::new()));
        check_equal!(cell(there, &untyped(5))?, Cell::Blob(Vec::new()));
        check_equal!(cell(there, &untyped(6))?, Cell::Real((-0.0_f64).to_bits()));
        Ok(())
    });
}

#[test]
fn typed_columns_keep_what_their_affinity_made() {
    scenario(|scene| {
        let cluster = pair(scene)?;
        let rows = "(1, '7', 7, 7, '7', '7.0'), (2, 'seven', 'seven', x'37', 7.5, 'seven'), (3, 1.5, -0.0, NULL, x'00', 1e400)";
        python_code(cluster.file(0), &format!("db.execute(\"INSERT INTO typed VALUES {rows}\")"))?;
        let rows = cluster.settled()?;
        check_equal!(rows.count("typed"), 3);
        let types =
            "SELECT group_concat(typeof(i) || typeof(r) || typeof(t) || typeof(b) || typeof(n), ' ') FROM typed";
        check_equal!(cell(cluster.file(1), types)?, cell(cluster.file(0), types)?);
        Ok(())
    });
}

#[test]
fn a_large_blob_arrives_whole() {
    scenario(|scene| {
        let cluster = pair(scene)?;
        let code = format!(
            "import random\ndb.execute('INSERT INTO untyped VALUES (1, ?)', (random.Random(1).randbytes({TEN_MEGABYTES}),))"
        );
        python_code(cluster.file(0), &code)?;
        cluster.settled()?;
        let Cell::Blob(bytes) = cell(cluster.file(1), &untyped(1))? else { system_tests::fail!("it is no BLOB") };
        check_equal!(bytes.len(), TEN_MEGABYTES);
        Ok(())
    });
}
