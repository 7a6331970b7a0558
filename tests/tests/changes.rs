//! Who follows `/v1/changes` is shown every change, once, however often it is cut off.

#[path = "changes/databases.rs"]
mod databases;
#[path = "changes/events.rs"]
mod events;
#[path = "changes/tail.rs"]
mod tail;

use std::path::Path;

use serde_json::Value as Json;
use system_tests::{
    ChangeLog, Cluster, Failure, Follower, Node, Proxy, Result, Scene, Topology, check, check_equal, python_code,
    query_text, scenario,
};

const SCHEMA: &str = "CREATE TABLE note (id TEXT PRIMARY KEY, n INTEGER, body TEXT);";

/// Inserts, updates of one column and of all, and deletions of rows that the other node writes as well.
const WRITE: &str = "
import random, time
random.seed(node)
for step in range(400):
    db.execute('BEGIN IMMEDIATE')
    for _ in range(random.choice([1, 1, 1, 2, 30])):
        key = random.choice([node, 'x']) + str(random.randrange(80))
        body = 'b' * random.choice([1, 10, 300, 5000])
        how = random.randrange(6)
        if how == 0:
            db.execute('DELETE FROM note WHERE id = ?', (key,))
        elif how == 1:
            db.execute('UPDATE note SET n = n + 1 WHERE id = ?', (key,))
        else:
            db.execute('INSERT INTO note VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = excluded.n, body = excluded.body',
                       (key, random.randrange(1000), body))
    db.execute('COMMIT')
    time.sleep(random.choice([0, 0, 0.01, 0.03]))
";

/// Awaits that so many clients follow a node.
pub(crate) fn until_followed(scene: &Scene, node: &Node, count: usize) -> Result {
    let line = format!("sync_engine_change_followers {count}");
    scene.eventually("clients follow", || {
        let metrics = node.get("/metrics")?.body;
        check!(metrics.lines().any(|found| found == line), "{metrics}");
        Ok(())
    })
}

/// The rows of `note`, as events have them.
pub(crate) fn notes(file: &Path) -> Result<Vec<Json>> {
    let sql = "SELECT json_object('id', id, 'n', n, 'body', body) FROM note ORDER BY json_object('id', id)";
    query_text(file, sql)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Checks that what a client was shown is what stands in the file.
pub(crate) fn check_shown(log: &ChangeLog, database: &str, file: &Path) -> Result {
    check_equal!(log.repeated, [""; 0], "shown twice");
    check_equal!(log.refused, [""; 0], "refused");
    let (shown, stands) = (log.rows(database, "note"), notes(file)?);
    check_equal!(shown.len(), stands.len(), "after {} events", log.events.len());
    for (shown, stands) in shown.iter().zip(&stands) {
        check_equal!(shown, stands);
    }
    Ok(())
}

#[test]
fn whatever_is_cut_everybody_is_shown_every_change_once() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        python_code(
            cluster.file(0),
            "for i in range(300): db.execute('INSERT INTO note VALUES (?, 0, ?)', (f'x{i}', 'first'))",
        )?;
        cluster.start()?;
        let proxies = [0, 1].map(|node| Proxy::before(cluster.nodes[node].port(), 71 + node as u64));
        let [near, far] = proxies;
        let (near, far) = (near?, far?);
        let url = |proxy: &Proxy| format!("{}/v1/changes", proxy.url().replace("ws://", "http://"));
        let mut tail = cluster.nodes[0].command()?;
        tail.args(["tail", "--since", "begin", "--url", &cluster.nodes[0].http_url()]);
        let followers = [
            (0, Follower::curl(&format!("{}?since=begin", url(&near)))),
            (1, Follower::curl(&format!("{}?since=begin&database=notes", url(&far)))),
            (1, Follower::socket(&url(&far), Some("begin"))?),
            (0, Follower::socket(&url(&near), Some("begin"))?),
            (0, Follower::lines(tail)),
        ];
        let files = [0, 1].map(|node| cluster.file(node).to_owned());
        std::thread::scope(|scope| -> Result {
            let write =
                |(file, node): (_, &'static str)| move || python_code(file, &format!("node = '{node}'\n{WRITE}"));
            let writers =
                [(files[0].as_path(), "a"), (files[1].as_path(), "b")].map(|writer| scope.spawn(write(writer)));
            scene.eventually("much was shown", || {
                let shown: Vec<usize> = followers.iter().map(|(_, it)| it.log().events.len()).collect();
                check!(shown.iter().all(|count| *count > 500), "{shown:?}");
                Ok(())
            })?;
            // Once in good order and once without.
            cluster.nodes[0].stop()?;
            cluster.nodes[0].start()?;
            cluster.nodes[1].kill()?;
            cluster.nodes[1].start()?;
            for writer in writers {
                writer.join().map_err(|_| Failure::new("a writer panicked"))??;
            }
            Ok(())
        })?;
        scene.eventually("both networks have broken links", || {
            check!(near.cuts() >= 4 && far.cuts() >= 4, "{} {}", near.cuts(), far.cuts());
            Ok(())
        })?;
        near.calm();
        far.calm();
        cluster.settled()?;
        for (place, (node, follower)) in followers.iter().enumerate() {
            scene
                .eventually("it was shown all", || check_shown(&follower.log(), "notes", cluster.file(*node)))
                .map_err(|failure| Failure::new(format!("follower {place}: {failure}")))?;
        }
        Ok(())
    });
}
