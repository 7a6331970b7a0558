//! Relays between daemons that lose, repeat and reorder whole messages, and cut links between two of them.

use std::path::Path;
use std::time::Duration;

use system_tests::{
    Cluster, Failure, MessageProxy, Node, Result, Topology, check, check_equal, python_code, query_text, scenario,
};

const SCHEMA: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, n INTEGER, body BLOB);
    CREATE TABLE stock (sku INTEGER PRIMARY KEY, qty INTEGER NOT NULL);";
const DEADLINE: Duration = Duration::from_secs(180);
/// Chooses what becomes of the messages.
const SEED_VARIABLE: &str = "SYNC_ENGINE_TEST_SEED";
const STOCK: &str = "INSERT INTO stock SELECT value, 0 FROM generate_series(1, 20)";

/// Rows of one's own, which count their changes, and counters that all nodes raise; goes on until the file `enough` is there.
const WRITE: &str = "
import os, random, time
random.seed(node)
notes, counts, steps = {}, 0, 0
while steps < 200 or not os.path.exists(enough):
    steps += 1
    db.execute('BEGIN IMMEDIATE')
    for _ in range(random.choice([1, 1, 1, 3, 30])):
        key = node + str(random.randrange(60))
        notes[key] = notes.get(key, 0) + 1
        body = random.randbytes(random.choice([10, 100, 2000, 20000]))
        db.execute('INSERT INTO note VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET n = n + 1, body = excluded.body', (key, body))
        if random.randrange(3) == 0:
            db.execute('UPDATE stock SET qty = qty + 1 WHERE sku = ?', (random.randrange(1, 21),))
            counts += 1
    db.execute('COMMIT')
    time.sleep(0.02)
print(sum(notes.values()), counts)
";

/// What one node's writer wrote: changes of its notes, and what it counted.
fn write(cluster: &Cluster, index: usize, enough: &Path) -> Result<(u64, u64)> {
    let node = cluster.nodes[index].name();
    let parameters = format!("node, enough = '{node}', '{}'", enough.display());
    let printed = python_code(cluster.file(index), &format!("{parameters}\n{WRITE}"))?;
    let (notes, counts) = printed.trim().split_once(' ').ok_or_else(|| Failure::new(printed.clone()))?;
    Ok((notes.parse()?, counts.parse()?))
}

#[test]
fn relays_that_lose_repeat_and_reorder_messages_lose_and_double_nothing() {
    scenario(|scene| {
        let seed = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_128);
        println!("{SEED_VARIABLE}={seed}");
        let mut cluster = Cluster::new(scene, "notes", 4, Topology::Apart)?;
        let ports: Vec<u16> = cluster.nodes.iter().map(Node::port).collect();
        let mut proxies = Vec::new();
        for (number, (dials, answers)) in (0..).zip([(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)]) {
            let proxy = MessageProxy::before(ports[answers], seed + number)?;
            cluster.nodes[dials].peer_url(&proxy.url());
            proxies.push(proxy);
        }
        for node in &mut cluster.nodes {
            node.database_setting("[[database.table]]\nname = \"stock\"\ncolumns.qty = { policy = \"counter\" }");
        }
        cluster.create(SCHEMA)?;
        system_tests::shell(cluster.file(0), STOCK)?;
        cluster.start()?;
        scene.eventually("all have the stock", || {
            for file in cluster.files() {
                check_equal!(query_text(file, "SELECT count(*) FROM stock")?, "20");
            }
            Ok(())
        })?;
        let enough = scene.path("enough");
        let written: Vec<(u64, u64)> = std::thread::scope(|scope| {
            let (cluster, enough) = (&cluster, &enough);
            let writers: Vec<_> =
                (0..cluster.nodes.len()).map(|index| scope.spawn(move || write(cluster, index, enough))).collect();
            // Links are cut by the messages that have passed, and how many pass depends on how many commits travel in one.
            let worst = scene.eventually("every relay has done its worst", || {
                let faults: Vec<[u64; 4]> = proxies.iter().map(MessageProxy::faults).collect();
                check!(faults.iter().flatten().all(|count| *count > 0), "{faults:?}");
                Ok(())
            });
            std::fs::write(enough, "")?;
            let ended = |writer: std::thread::ScopedJoinHandle<'_, _>| {
                writer.join().map_err(|_| Failure::new("a writer panicked"))?
            };
            let written = writers.into_iter().map(ended).collect::<Result<_>>();
            worst.and(written)
        })?;
        proxies.iter().for_each(MessageProxy::calm);
        cluster.settled_within(DEADLINE)?;
        let (notes, counts) = written.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        for node in &cluster.nodes {
            let name = node.name();
            check_equal!(query_text(node.file(), "SELECT sum(n) FROM note")?, notes.to_string(), "node {name}");
            check_equal!(query_text(node.file(), "SELECT sum(qty) FROM stock")?, counts.to_string(), "node {name}");
            check_equal!(node.database_status("notes")?["conflicts"], 0, "node {name}: {}", node.log());
        }
        Ok(())
    });
}
