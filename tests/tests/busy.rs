//! Applications that are at work on the file while the daemon is.

use system_tests::{Cluster, Topology, check, check_equal, python_code, query_text, scenario};

/// As frameworks do: BEGIN, look, then write. SQLite refuses such a transaction at once where somebody else has the write
/// lock, and no busy timeout helps it.
const LOOK_THEN_WRITE: &str = "
import random, time
refused = 0
for n in range(300):
    try:
        db.execute('BEGIN')
        qty, = db.execute('SELECT qty FROM stock WHERE sku = ?', (name,)).fetchone()
        time.sleep(random.random() / 1000)
        db.execute('UPDATE stock SET qty = ? WHERE sku = ?', (qty + 1, name))
        db.execute('COMMIT')
    except sqlite3.OperationalError:
        refused += 1
        if db.in_transaction: db.execute('ROLLBACK')
    time.sleep(random.random() / 500)
print(refused)
";

#[test]
fn with_a_rollback_journal_transactions_that_read_first_are_not_refused() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
        cluster
            .create("CREATE TABLE stock (sku TEXT PRIMARY KEY, qty); INSERT INTO stock VALUES ('A', 0), ('B', 0)")?;
        cluster.start()?;
        cluster.settled()?;
        // Each daemon captures what its application writes, and applies what the other's does.
        let refused: Vec<u32> = std::thread::scope(|scope| {
            let start = |(index, name)| {
                let file = cluster.file(index);
                scope.spawn(move || python_code(file, &format!("name = '{name}'\n{LOOK_THEN_WRITE}")))
            };
            let running = [(0, "A"), (1, "B")].map(start);
            running
                .into_iter()
                .map(|writer| Ok(writer.join().map_err(|_| system_tests::Failure::new("panic"))??.trim().parse()?))
                .collect::<system_tests::Result<_>>()
        })?;
        // Between two of its tries the daemon holds nothing; during one, for some microseconds.
        check!(refused.iter().all(|refused| *refused <= 3), "{refused:?} of 300 were refused");
        cluster.settled()?;
        let counted = query_text(cluster.file(0), "SELECT sum(qty) FROM stock")?;
        check_equal!(counted, (600 - refused.iter().sum::<u32>()).to_string());
        Ok(())
    });
}
