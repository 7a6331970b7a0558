//! Migrations as Alembic runs them on SQLite, in batch mode: a new table `_alembic_tmp_<name>` is filled from the old one and
//! takes its place. Plain SQL by a Python process beside the daemons, on one node after the other.

use std::path::Path;

use system_tests::{Cluster, Result, Scene, Topology, check_equal, python_code, query_text, scenario, shell};

const SCHEMA: &str = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, \
        CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)); \
    INSERT INTO alembic_version VALUES ('ae1027a6acf'); \
    CREATE TABLE account (id VARCHAR(36) NOT NULL, name VARCHAR(50) NOT NULL, credit INTEGER, PRIMARY KEY (id), \
        CONSTRAINT uq_account_name UNIQUE (name)); \
    CREATE INDEX ix_account_credit ON account (credit); \
    CREATE TABLE entry (id VARCHAR(36) NOT NULL, account_id VARCHAR(36), PRIMARY KEY (id), \
        FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE);";

/// `batch_alter_table('account')` with a type, a NOT NULL, a new column, a dropped index and a new unique constraint.
const UPGRADE: &str = "
upgrade = [
    '''CREATE TABLE _alembic_tmp_account (id VARCHAR(36) NOT NULL, name VARCHAR(80) NOT NULL,
        credit NUMERIC(10, 2) DEFAULT '0' NOT NULL, region VARCHAR(8) DEFAULT 'eu' NOT NULL, PRIMARY KEY (id),
        CONSTRAINT uq_account_name_region UNIQUE (name, region))''',
    '''INSERT INTO _alembic_tmp_account (id, name, credit)
        SELECT account.id, account.name, coalesce(CAST(account.credit AS NUMERIC(10, 2)), 0) AS credit FROM account''',
    'DROP TABLE account',
    'ALTER TABLE _alembic_tmp_account RENAME TO account',
    'CREATE INDEX ix_account_region ON account (region)',
    \"UPDATE alembic_version SET version_num='27c6a30d7c24' WHERE alembic_version.version_num = 'ae1027a6acf'\",
]
at, = db.execute('SELECT version_num FROM alembic_version').fetchone()
if at != 'ae1027a6acf':
    sys.exit(f'the file is at {at} already')
";

/// One transaction around all, or each statement for itself: which it is depends on the settings and on Python's version.
const WAYS: [&str; 2] = [
    "db.execute('BEGIN')\nfor statement in upgrade: db.execute(statement)\ndb.execute('COMMIT')",
    "for statement in upgrade: db.execute(statement)",
];

/// Runs the migration and awaits that the daemon has seen it: what is written before cannot be told from what it wrote.
fn upgrade(scene: &Scene, file: &Path, way: &str) -> Result {
    python_code(file, &format!("{UPGRADE}{way}"))?;
    scene.eventually("the daemon has seen the new table", || {
        let triggers = "SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'account'";
        check_equal!(query_text(file, triggers)?, "1");
        Ok(())
    })
}

fn upgrade_in_turn(scene: &Scene, order: [usize; 2], way: &str) -> Result {
    let mut cluster = Cluster::new(scene, "books", 2, Topology::Line)?;
    cluster.own_table("alembic_version");
    cluster.create(SCHEMA)?;
    cluster.start()?;
    shell(
        cluster.file(0),
        "INSERT INTO account VALUES ('1', 'ann', 5), ('2', 'bob', NULL), ('3', 'cem', 7), ('4', 'dan', 1); \
         INSERT INTO entry VALUES ('x', '1'), ('y', '3')",
    )?;
    cluster.settled()?;
    let [first, second] = order.map(|node| cluster.file(node));
    upgrade(scene, first, way)?;
    // The other node goes on with the old table, this one with the new.
    shell(second, "INSERT INTO account VALUES ('5', 'eva', 3); UPDATE account SET credit = 50 WHERE id = '1'")?;
    shell(second, "PRAGMA foreign_keys = ON; DELETE FROM account WHERE id = '3'; INSERT INTO entry VALUES ('z', '5')")?;
    shell(
        first,
        "INSERT INTO account VALUES ('6', 'fay', 2.5, 'us'); UPDATE account SET region = 'uk' WHERE id = '4'",
    )?;
    upgrade(scene, second, way)?;
    shell(second, "UPDATE account SET name = 'Bob' WHERE id = '2'")?;
    cluster.settled()?;
    let rows = "SELECT group_concat(id || name || credit || region, ' ') FROM (SELECT * FROM account ORDER BY id)";
    for file in [first, second] {
        check_equal!(query_text(file, rows)?, "1ann50eu 2Bob0eu 4dan1uk 5eva3eu 6fay2.5us");
        check_equal!(query_text(file, "SELECT group_concat(id) FROM (SELECT id FROM entry ORDER BY id)")?, "x,z");
        check_equal!(query_text(file, "SELECT version_num FROM alembic_version")?, "27c6a30d7c24");
        check_equal!(query_text(file, "PRAGMA foreign_key_check")?, "");
    }
    Ok(())
}

#[test]
fn a_table_is_altered_in_one_transaction_on_the_first_node_and_then_on_the_second() {
    scenario(|scene| upgrade_in_turn(scene, [0, 1], WAYS[0]));
}

#[test]
fn a_table_is_altered_in_one_transaction_on_the_second_node_and_then_on_the_first() {
    scenario(|scene| upgrade_in_turn(scene, [1, 0], WAYS[0]));
}

#[test]
fn a_table_is_altered_statement_by_statement_on_the_first_node_and_then_on_the_second() {
    scenario(|scene| upgrade_in_turn(scene, [0, 1], WAYS[1]));
}

#[test]
fn a_table_is_altered_statement_by_statement_on_the_second_node_and_then_on_the_first() {
    scenario(|scene| upgrade_in_turn(scene, [1, 0], WAYS[1]));
}
