//! The status page in a browser, against running daemons. With a folder in `SYNC_ENGINE_SCREENSHOTS` it leaves pictures there.

mod page {
    mod access;
    mod looks;
    mod restoring;
}

use serde_json::Value as Json;
use system_tests::{Browser, Cluster, Node, Result, Scene, Topology, check, check_equal, fail, query_text, shell};

const SCHEMA: &str =
    "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, note TEXT); CREATE TABLE scratch (text TEXT);";
const ROWS: &str = "INSERT INTO stock VALUES ('A-1', 1, 'old'), ('A-2', 2, 'old')";

/// Nodes with these settings that have written one row apart and have met again; the number of one that has the record.
fn in_conflict(scene: &Scene, settings: &[&str], writes: [&str; 2]) -> Result<(Cluster, usize)> {
    let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
    for node in &mut cluster.nodes {
        settings.iter().for_each(|line| node.setting(line));
        if settings.iter().any(|line| line.contains("auth")) {
            node.guarded();
        }
    }
    cluster.own_table("scratch");
    cluster.create(SCHEMA)?;
    cluster.start()?;
    shell(cluster.file(0), ROWS)?;
    cluster.settled()?;
    cluster.nodes[1].stop()?;
    shell(cluster.file(0), writes[0])?;
    shell(cluster.file(1), writes[1])?;
    cluster.start()?;
    cluster.settled()?;
    for (index, node) in cluster.nodes.iter().enumerate() {
        if node.database_status("shop")?["conflicts"] != 0 {
            return Ok((cluster, index));
        }
    }
    fail!("nobody has a record")
}

/// A browser that shows the page of a node.
fn visit(scene: &Scene, node: &Node) -> Result<Browser> {
    let browser = Browser::start(scene)?;
    browser.open(node.port())?;
    Ok(browser)
}

/// Awaits that the page shows something.
#[track_caller]
fn shows(scene: &Scene, browser: &Browser, text: &str) -> Result {
    scene.eventually(&format!("the page shows {text:?}"), || browser.shows(text))
}

/// The only record of a node.
fn record(node: &Node) -> Result<Json> {
    let records = node.get("/v1/conflicts?state=all")?.json()?;
    check_equal!(records.as_array().map(Vec::len), Some(1), "{records}");
    Ok(records[0].clone())
}

/// Checks that all files hold this quantity of A-1, and nothing else differs.
fn quantity(cluster: &Cluster, expected: &Json) -> Result {
    cluster.settled()?;
    for file in cluster.files() {
        check_equal!(query_text(file, "SELECT qty FROM stock WHERE sku = 'A-1'")?, expected.to_string());
    }
    Ok(())
}

/// Checks that the page has complained of nothing, and has asked nobody but its node.
fn behaved(browser: &Browser, node: &Node) -> Result {
    check_equal!(browser.complaints()?, [""; 0]);
    let own = format!("http://127.0.0.1:{}/", node.port());
    let requests = browser.requests()?;
    check!(requests.len() > 2, "{requests:?}");
    match requests.iter().find(|url| !url.starts_with(&own) && !url.starts_with("data:")) {
        Some(foreign) => fail!("the page asked for {foreign}"),
        None => Ok(()),
    }
}
