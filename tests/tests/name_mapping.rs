//! Tables and columns that the nodes call otherwise, by `remote_name` in the configuration.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use system_tests::{
    Cluster, Result, Scene, Topology, check, check_equal, check_integrity, log_is_drained, python_code, query_text,
    run_to_end, scenario, shell,
};

const HERE: &str = "CREATE TABLE inventory_stock (sku TEXT PRIMARY KEY, qty INTEGER, title TEXT)";
const THERE: &str = "CREATE TABLE stock (label TEXT, number INTEGER, code TEXT PRIMARY KEY)";

/// The rows in the words of either node.
const ROWS: [&str; 2] =
    ["SELECT sku, qty, title FROM inventory_stock ORDER BY sku", "SELECT code, number, label FROM stock ORDER BY code"];

/// What the second node's configuration says of its table, and of one that it does not have.
const NAMES: &str = "[[database.table]]\nname = \"stock\"\nremote_name = \"inventory_stock\"\n\
    columns.label = { remote_name = \"title\" }\ncolumns.number = { remote_name = \"qty\" }\n\
    columns.code = { remote_name = \"sku\" }";
const WRONG: &str = "[[database.table]]\nname = \"stok\"\nremote_name = \"elsewhere\"";

/// What both say where neither calls the table what it is on the wire.
const GOODS: [&str; 2] = [
    "[[database.table]]\nname = \"inventory_stock\"\nremote_name = \"goods\"\ncolumns.qty = { remote_name = \"amount\" }",
    "[[database.table]]\nname = \"Stock\"\nremote_name = \"goods\"\ncolumns.label = { remote_name = \"title\" }\n\
     columns.number = { remote_name = \"amount\" }\ncolumns.CODE = { remote_name = \"sku\" }",
];

fn two(scene: &Scene, here: &[&str], settings: &[&str]) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
    here.iter().for_each(|setting| cluster.nodes[0].database_setting(setting));
    shell(cluster.file(0), HERE)?;
    shell(cluster.file(1), THERE)?;
    settings.iter().for_each(|setting| cluster.nodes[1].database_setting(setting));
    cluster.start()?;
    Ok(cluster)
}

/// Awaits that both files hold these rows and nothing waits.
fn settled(scene: &Scene, cluster: &Cluster, rows: &str) -> Result {
    scene.eventually("both files hold the same, each in its own words", || {
        for (file, select) in cluster.files().into_iter().zip(ROWS) {
            log_is_drained(file)?;
            check_equal!(query_text(file, select)?, rows);
        }
        let [first, second] = [known(cluster, 0)?, known(cluster, 1)?];
        check_equal!(first, second);
        Ok(())
    })?;
    cluster.files().into_iter().try_for_each(check_integrity)
}

/// The version vector of a node.
fn known(cluster: &Cluster, node: usize) -> Result<BTreeMap<String, u64>> {
    let status = cluster.nodes[node].database_status("shop")?;
    let have = status["have"].as_object().into_iter().flatten();
    Ok(have
        .filter_map(|(origin, sequence)| Some((origin.clone(), sequence.as_u64().filter(|seq| *seq > 0)?)))
        .collect())
}

#[test]
fn nodes_with_other_names_hold_the_same_rows_and_each_tells_its_own_names() {
    scenario(|scene| {
        let mut cluster = two(scene, &GOODS[..1], &[GOODS[1], WRONG])?;
        python_code(
            cluster.file(0),
            "db.executemany('INSERT INTO inventory_stock VALUES (?, ?, ?)', [('a', 1, 'A'), ('b', 2, 'B'), ('c', 3, 'C')])",
        )?;
        settled(scene, &cluster, "a|1|A\nb|2|B\nc|3|C")?;
        python_code(
            cluster.file(1),
            "db.execute(\"UPDATE stock SET label = 'AA' WHERE code = 'a'\")\n\
             db.execute(\"DELETE FROM stock WHERE code = 'b'\")\n\
             db.execute(\"INSERT INTO stock (code, number) VALUES ('d', 4)\")",
        )?;
        settled(scene, &cluster, "a|1|AA\nc|3|C\nd|4|")?;

        cluster.nodes[0].stop()?;
        python_code(cluster.file(1), "db.execute(\"UPDATE stock SET number = 30, label = 'x' WHERE code = 'c'\")")?;
        log_becomes_empty(scene, &cluster)?;
        python_code(cluster.file(0), "db.execute(\"UPDATE inventory_stock SET qty = 31 WHERE sku = 'c'\")")?;
        cluster.start()?;
        settled(scene, &cluster, "a|1|AA\nc|31|x\nd|4|")?;
        // Each node that meets both sides has a record.
        let words = [["inventory_stock", "sku", "qty"], ["stock", "code", "number"]];
        let mut records = 0;
        for (node, [table, key, column]) in cluster.nodes.iter().zip(words) {
            let listed = run_to_end(node.command()?.args(["conflicts", "list", "--json"]))?.success()?;
            let listed: Json = serde_json::from_str(&listed)?;
            for record in listed.as_array().into_iter().flatten() {
                records += 1;
                check_equal!((&record["table"], &record["key"]), (&json!(table), &json!({ key: "c" })));
                check_equal!(record["loser"]["row"][column], 30);
                check_equal!(record["columns"], json!([column]));
                let log = node.log();
                let line = log.lines().find(|line| line.contains(" conflict_"));
                check!(line.is_some_and(|line| line.contains(&format!("table={table} "))), "{log}");
            }
        }
        check!(records > 0, "nobody has a record");

        let node = &cluster.nodes[1];
        let status = node.database_status("shop")?;
        check_equal!(status["tables"], json!(["stock"]));
        let columns = json!({ "code": "sku", "label": "title", "number": "amount" });
        let names = json!([{ "table": "stock", "remote_name": "goods", "columns": columns }]);
        check_equal!(status["remote_names"], names);
        check_equal!(status["parked"], 0);
        let log = node.log();
        check!(!log.contains("schema_mismatch"), "{log}");
        let told = log.lines().find(|line| line.contains("kind=unknown_name"));
        check!(
            told.is_some_and(|line| {
                line.contains(" sync_error ") && line.contains("table=stok") && line.contains("did you mean")
            }),
            "{log}"
        );
        Ok(())
    });
}

fn log_becomes_empty(scene: &Scene, cluster: &Cluster) -> Result {
    scene.eventually("what was written is captured", || log_is_drained(cluster.file(1)))
}

/// What came before the names were given waits, and merges once they are; what was written here is told under them.
#[test]
fn names_that_are_given_later_bring_both_sides_together() {
    scenario(|scene| {
        let mut cluster = two(scene, &[], &[])?;
        shell(cluster.file(0), "INSERT INTO inventory_stock VALUES ('a', 1, 'A')")?;
        shell(cluster.file(1), "INSERT INTO stock (code, number, label) VALUES ('b', 2, 'B')")?;
        scene.eventually("each keeps what it has no name for", || {
            for node in &cluster.nodes {
                check_equal!(node.database_status("shop")?["parked"], 1);
            }
            Ok(())
        })?;
        check!(cluster.nodes[1].log().contains("remote_name"), "the remedy: {}", cluster.nodes[1].log());
        cluster.nodes[1].stop()?;
        cluster.nodes[1].database_setting(NAMES);
        let config = cluster.nodes[1].path("sync-engine.toml");
        cluster.start()?;
        settled(scene, &cluster, "a|1|A\nb|2|B")?;
        check_equal!(cluster.nodes[1].database_status("shop")?["parked"], 0);
        cluster.nodes[1].stop()?;
        let mut attach = cluster.nodes[1].command()?;
        let printed = run_to_end(attach.arg("attach").arg("--config").arg(config).arg(cluster.file(1)))?.success()?;
        let line = "    named     inventory_stock to peers, with code as sku, label as title, number as qty";
        check!(printed.lines().any(|printed| printed == line), "{printed}");
        run_to_end(cluster.nodes[1].command()?.arg("detach").arg(cluster.file(1)))?.success()?;
        check_equal!(query_text(cluster.file(1), "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%sync%'")?, "0");
        Ok(())
    });
}
