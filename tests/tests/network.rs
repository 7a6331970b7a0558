//! Networks that cut links after any byte, stall, and leave links open on which nothing comes.

use std::time::Duration;

use system_tests::{Cluster, Failure, Node, Proxy, Result, Topology, check, check_equal, python_code, scenario};

const SCHEMA: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, n INTEGER, body BLOB);";
const DEADLINE: Duration = Duration::from_secs(120);

/// Small transactions and large ones, for longer than links last. Each row is one node's own, and counts its changes.
const WRITE: &str = "
import random, time
random.seed(node)
counts = {}
for step in range(250):
    db.execute('BEGIN IMMEDIATE')
    for _ in range(random.choice([1, 1, 1, 3, 40])):
        key = node + str(random.randrange(60))
        counts[key] = counts.get(key, 0) + 1
        body = random.randbytes(random.choice([10, 100, 2000, 30000]))
        db.execute('INSERT INTO note VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET n = n + 1, body = excluded.body', (key, body))
    db.execute('COMMIT')
    time.sleep(0.02)
print(sum(counts.values()))
";

#[test]
fn links_that_are_cut_anywhere_lose_and_double_nothing() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 3, Topology::Apart)?;
        let ports: Vec<u16> = cluster.nodes.iter().map(Node::port).collect();
        let proxies: Vec<Proxy> =
            ports.iter().zip(1..).map(|(port, seed)| Proxy::before(*port, seed)).collect::<Result<_>>()?;
        for (proxy, dials) in proxies.iter().zip([1, 2, 0]) {
            cluster.nodes[dials].peer_url(&proxy.url());
        }
        cluster.create(SCHEMA)?;
        cluster.start()?;
        let written: Vec<u64> = std::thread::scope(|scope| {
            let cluster = &cluster;
            let start = |(index, node)| {
                scope.spawn(move || python_code(cluster.file(index), &format!("node = '{node}'\n{WRITE}")))
            };
            let writers = [(0, "a"), (1, "b"), (2, "c")].map(start);
            let total = |writer: std::thread::ScopedJoinHandle<'_, Result<String>>| {
                Ok(writer.join().map_err(|_| Failure::new("a writer panicked"))??.trim().parse()?)
            };
            writers.into_iter().map(total).collect::<Result<_>>()
        })?;
        scene.eventually("every network has broken links", || {
            let cuts: Vec<u64> = proxies.iter().map(Proxy::cuts).collect();
            check!(cuts.iter().all(|cuts| *cuts >= 3), "{cuts:?}");
            Ok(())
        })?;
        proxies.iter().for_each(Proxy::calm);
        cluster.settled_within(DEADLINE)?;
        for (index, node) in ["a", "b", "c"].iter().enumerate() {
            let sum = system_tests::query_text(cluster.file(index), "SELECT sum(n) FROM note")?;
            check_equal!(sum, written.iter().sum::<u64>().to_string(), "node {node}");
            check_equal!(cluster.nodes[index].database_status("notes")?["conflicts"], 0, "node {node}");
        }
        Ok(())
    });
}
