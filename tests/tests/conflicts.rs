//! Conflict records of running daemons: listed, shown, restored and dismissed, over HTTP and with the real command.

use serde_json::Value as Json;
use system_tests::{
    Cluster, Failure, Finished, Node, Result, Scene, Topology, check, check_equal, fail, query_text, run_to_end,
    scenario, shell,
};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, note TEXT);";
const ROWS: &str = "INSERT INTO stock VALUES ('A-1', 1, 'old'), ('A-2', 2, 'old'), ('A-3', 3, 'old')";

/// Nodes of which the first and the last have written apart, the first before the last, and have met again.
fn apart(scene: &Scene, count: usize, schema: &str, first: &str, last: &str, setting: &str) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "shop", count, Topology::Mesh)?;
    cluster.nodes.iter_mut().for_each(|node| node.setting(setting));
    cluster.create(schema)?;
    cluster.start()?;
    // Written on one node only: the rows are there for the other ones once they have heard of them.
    if schema.contains("stock") {
        shell(cluster.file(0), ROWS)?;
    }
    cluster.settled()?;
    write_apart(&mut cluster, first, last)?;
    Ok(cluster)
}

fn write_apart(cluster: &mut Cluster, first: &str, last: &str) -> Result {
    let other = cluster.nodes.len() - 1;
    cluster.nodes[other].stop()?;
    shell(cluster.file(0), first)?;
    // The stamp of a change is its commit's time to the millisecond; "before" has to be seen in it.
    let begun = std::time::SystemTime::now();
    Scene::within(system_tests::DEADLINE, "a later time", || {
        check!(begun.elapsed().is_ok_and(|passed| passed.as_millis() > 2), "the clock stands");
        Ok(())
    })?;
    shell(cluster.file(other), last)?;
    cluster.start()?;
    cluster.settled().map(drop)
}

/// Runs `sync-engine conflicts` in the node's folder, whose configuration tells where the daemon is.
fn conflicts(node: &Node, arguments: &[&str]) -> Result<Finished> {
    run_to_end(node.command()?.arg("conflicts").args(arguments))
}

fn json(node: &Node, arguments: &[&str]) -> Result<Json> {
    let printed = conflicts(node, &[arguments, &["--json"]].concat())?.success()?;
    serde_json::from_str(&printed).map_err(|error| Failure::new(format!("{error}: {printed}")))
}

/// The ids of what is listed.
fn ids(list: &Json) -> Vec<String> {
    let records = list.as_array().map(Vec::as_slice).unwrap_or_default();
    records.iter().filter_map(|record| Some(record["id"].as_str()?.to_owned())).collect()
}

/// The nodes that decided a conflict, with what they list. Each node that meets both sides on its own has a record.
fn deciders(cluster: &Cluster) -> Result<Vec<(usize, Json)>> {
    let mut found = Vec::new();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let list = json(node, &["list"])?;
        check_equal!(node.database_status("shop")?["conflicts"], ids(&list).len());
        if !ids(&list).is_empty() {
            found.push((index, list));
        }
    }
    check!(!found.is_empty(), "nobody has a record");
    Ok(found)
}

fn open_count(node: &Node) -> Result<Json> {
    Ok(node.database_status("shop")?["conflicts"].clone())
}

#[test]
fn a_lost_update_is_listed_shown_and_restored_on_all_nodes() {
    scenario(|scene| {
        let first = "UPDATE stock SET qty = 10 WHERE sku = 'A-1'";
        let last = "UPDATE stock SET qty = 20 WHERE sku = 'A-1'";
        let cluster = apart(scene, 3, SCHEMA, first, last, "")?;
        let (index, list) = deciders(&cluster)?.remove(0);
        let node = &cluster.nodes[index];
        let record = &list[0];
        let id = ids(&list).remove(0);
        check!(id.strip_prefix("shop:").is_some_and(|number| number.parse::<u64>().is_ok()), "{record}");
        check_equal!((&record["database"], &record["table"]), (&"shop".into(), &"stock".into()));
        check_equal!(record["key"], serde_json::json!({ "sku": "A-1" }));
        check_equal!(record["columns"], serde_json::json!(["qty"]));
        check_equal!((&record["kind"], &record["state"]), (&"update_origin_differs".into(), &"open".into()));
        check_equal!((&record["winner"]["node"], &record["loser"]["node"]), (&"c".into(), &"a".into()));
        check_equal!((&record["winner"]["row"]["qty"], &record["loser"]["row"]["qty"]), (&20.into(), &10.into()));
        for time in [&record["at"], &record["winner"]["timestamp"], &record["loser"]["timestamp"]] {
            check!(time.as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{record}");
        }
        for side in ["winner", "loser"] {
            check!(record[side]["dot"].as_str().is_some_and(|dot| dot.contains(':')), "{record}");
        }
        check_equal!(&json(node, &["show", &id])?, record);
        let told = node.log();
        let line = told.lines().find(|line| line.contains(" conflict_") && line.contains(&format!("id={id}")));
        let Some(line) = line else { fail!("{id} is not in the log: {told}") };
        for field in ["kind=update_origin_differs", "database=shop", "table=stock", "policy=last-write-wins"] {
            check!(line.contains(field), "{field} is not in {line}");
        }
        let restored = json(node, &["restore", &id])?;
        check_equal!(restored["state"], "restored");
        check_equal!(restored["replaced"]["row"]["qty"], 20);
        check_equal!(ids(&json(node, &["list"])?), [""; 0]);
        check_equal!(open_count(node)?, 0);
        cluster.settled()?;
        for file in cluster.files() {
            check_equal!(query_text(file, "SELECT qty || note FROM stock WHERE sku = 'A-1'")?, "10old");
        }
        check!(node.log().contains(" conflict_restore "), "{}", node.log());
        Ok(())
    });
}

#[test]
fn a_lost_deletion_and_a_lost_row_are_restored() {
    scenario(|scene| {
        let first = "DELETE FROM stock WHERE sku = 'A-1'; UPDATE stock SET qty = 10 WHERE sku = 'A-2'";
        let last = "UPDATE stock SET qty = 20 WHERE sku = 'A-1'; DELETE FROM stock WHERE sku = 'A-2'";
        let cluster = apart(scene, 2, SCHEMA, first, last, "")?;
        check_equal!(query_text(cluster.file(0), "SELECT group_concat(sku) FROM stock")?, "A-1,A-3");
        let (index, list) = deciders(&cluster)?.remove(0);
        for id in ids(&list) {
            let said = conflicts(&cluster.nodes[index], &["restore", &id])?.success()?;
            check!(said.starts_with(&format!("restored {id}: the row ")), "{said}");
        }
        cluster.settled()?;
        for file in cluster.files() {
            check_equal!(
                query_text(file, "SELECT group_concat(sku || '=' || qty) FROM (SELECT * FROM stock ORDER BY sku)")?,
                "A-2=10,A-3=3"
            );
        }
        Ok(())
    });
}

#[test]
fn a_restore_that_a_unique_value_forbids_names_the_row_in_the_way() {
    scenario(|scene| {
        let schema = "CREATE TABLE account (id INTEGER PRIMARY KEY, email TEXT UNIQUE);";
        let (first, last) = ("INSERT INTO account VALUES (1, 'same')", "INSERT INTO account VALUES (2, 'same')");
        let cluster = apart(scene, 2, schema, first, last, "")?;
        let (index, list) = deciders(&cluster)?.remove(0);
        let (node, id) = (&cluster.nodes[index], ids(&list).remove(0));
        let refused = conflicts(node, &["restore", &id])?;
        check_equal!(refused.code, Some(1));
        for named in [&format!("conflict record {id}: row {{\"id\":2}} of table"), "account.email", "restore again"] {
            check!(refused.stderr.contains(named), "{named} is not in {}", refused.stderr);
        }
        let over_http = node.post(&format!("/v1/conflicts/{id}/restore"))?;
        check_equal!(over_http.status, 409);
        check!(over_http.body.starts_with("{\"error\":\"conflict record "), "{}", over_http.body);
        check_equal!(open_count(node)?, 1);
        shell(cluster.file(1 - index), "UPDATE account SET email = 'other' WHERE id = 2")?;
        cluster.settled()?;
        conflicts(node, &["restore", &id])?.success()?;
        cluster.settled()?;
        let rows = "SELECT group_concat(id || email) FROM (SELECT * FROM account ORDER BY id)";
        check_equal!(query_text(cluster.file(1 - index), rows)?, "1same,2other");
        Ok(())
    });
}

#[test]
fn a_dismissed_record_is_closed_and_changes_nothing() {
    scenario(|scene| {
        let (first, last) = ("UPDATE stock SET qty = 10", "UPDATE stock SET qty = 20");
        let mut cluster = apart(scene, 2, SCHEMA, first, last, "")?;
        let (index, list) = deciders(&cluster)?.remove(0);
        let id = ids(&list).remove(0);
        let node = &cluster.nodes[index];
        let answer = node.post(&format!("/v1/conflicts/{id}/dismiss"))?.json()?;
        check_equal!((&answer["id"], &answer["state"]), (&list[0]["id"], &"dismissed".into()));
        check_equal!(open_count(node)?, 2);
        check_equal!(query_text(node.file(), "SELECT group_concat(DISTINCT qty) FROM stock")?, "20");
        for action in ["dismiss", "restore"] {
            let again = conflicts(node, &[action, &id])?;
            check_equal!(again.code, Some(1));
            check!(again.stderr.contains("because it is dismissed already"), "{}", again.stderr);
            check_equal!(node.post(&format!("/v1/conflicts/{id}/{action}"))?.status, 409);
        }
        cluster.nodes[index].stop()?;
        cluster.nodes[index].start()?;
        let node = &cluster.nodes[index];
        scene.eventually("the count is there again", || {
            check_equal!(open_count(node)?, 2);
            Ok(())
        })?;
        check_equal!(ids(&json(node, &["list", "--state", "dismissed"])?), [id]);
        Ok(())
    });
}

#[test]
fn lists_are_filtered_and_shown_to_people() {
    scenario(|scene| {
        let schema = &format!("{SCHEMA} CREATE TABLE \"order item\" (id INTEGER PRIMARY KEY, n INTEGER);");
        let first = "UPDATE stock SET qty = 10 WHERE sku = 'A-1'; INSERT INTO \"order item\" VALUES (1, 1)";
        let last = "UPDATE stock SET qty = 20 WHERE sku = 'A-1'; INSERT INTO \"order item\" VALUES (1, 2)";
        let cluster = apart(scene, 2, schema, first, last, "")?;
        let (index, all) = deciders(&cluster)?.remove(0);
        let node = &cluster.nodes[index];
        let Some(records) = all.as_array().filter(|records| records.len() == 2) else { fail!("{all}") };
        check!(records[0]["at"].as_str() >= records[1]["at"].as_str(), "not the newest first: {all}");
        let id_of =
            |table: &str| records.iter().find(|record| record["table"] == table).map(|record| record["id"].clone());
        let listed = |arguments: &[&str]| json(node, &[&["list"], arguments].concat());
        for (arguments, wanted) in [
            (vec!["--table", "order item"], 1),
            (vec!["--kind", "insert_exists"], 1),
            (vec!["--kind", "unique_exists"], 0),
            (vec!["--database", "shop", "--node", "a"], 2),
            (vec!["--node", "nobody"], 0),
            (vec!["--state", "restored"], 0),
            (vec!["--state", "all", "--limit", "1"], 1),
            (vec!["--since", "2020-01-01"], 2),
            (vec!["--since", "2999-01-01T00:00:00+02:00"], 0),
        ] {
            check_equal!(ids(&listed(&arguments)?).len(), wanted, "{arguments:?}");
        }
        check_equal!(Some(listed(&["--table", "STOCK"])?[0]["id"].clone()), id_of("stock"));
        let over_http =
            node.get("/v1/conflicts?table=order+item&state=open&since=2020-01-01T00:00:00%2B00:00")?.json()?;
        check_equal!(Some(over_http[0]["id"].clone()), id_of("order item"));
        let people = conflicts(node, &["list"])?.success()?;
        check_equal!(people.lines().count(), 2, "{people}");
        check!(people.lines().all(|line| line.starts_with("shop:") && line.contains("  b over a  ")), "{people}");
        let id = ids(&listed(&["--table", "stock"])?).remove(0);
        let people = conflicts(node, &["show", &id])?.success()?;
        let qty: Vec<&str> = people.lines().filter(|line| line.starts_with('*')).collect();
        check_equal!(qty.len(), 1, "{people}");
        check_equal!(qty[0].split_whitespace().collect::<Vec<_>>(), ["*", "qty", "20", "10"]);
        check_equal!(conflicts(node, &["list", "--state", "restored"])?.success()?, "no conflict records (restored)\n");
        Ok(())
    });
}

#[test]
fn what_cannot_be_answered_is_refused_with_the_reason() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        shell(&node.database("shop"), SCHEMA)?;
        let absent = conflicts(&node, &["list", "--url", &format!("http://127.0.0.1:{}", node.port())])?;
        check_equal!(absent.code, Some(1));
        check!(
            absent.stderr.contains("no daemon answers") && absent.stderr.contains("sync-engine run"),
            "{}",
            absent.stderr
        );
        node.start()?;
        check_equal!(json(&node, &["list"])?, serde_json::json!([]));
        for (path, status, said) in [
            ("/v1/conflicts?stat=open", 400, "stat"),
            ("/v1/conflicts?state=closed", 400, "open, restored, dismissed or all"),
            ("/v1/conflicts?since=yesterday", 400, "2026-11-23T10:00:00Z"),
            ("/v1/conflicts?limit=0", 400, "1 to 1000"),
            ("/v1/conflicts?database=shops", 404, "it has shop"),
            ("/v1/conflicts?before=shop:7", 404, "no conflict record shop:7"),
            ("/v1/conflicts/shop:7", 404, "no conflict record shop:7"),
            ("/v1/conflicts/7", 404, "no conflict record 7"),
            ("/v1/conflicts/shops:7", 404, "no database \\\"shops\\\""),
            ("/v1/conflicts/seven", 400, "DATABASE:NUMBER"),
            ("/v1/conflicts/shop:-7", 400, "DATABASE:NUMBER"),
            ("/v1/conflicts/shop:99999999999999999999", 400, "DATABASE:NUMBER"),
        ] {
            let answer = node.get(path)?;
            check_equal!(answer.status, status, "{path}: {}", answer.body);
            check!(answer.body.starts_with("{\"error\":\"") && answer.body.contains(said), "{path}: {}", answer.body);
        }
        check_equal!(node.post("/v1/conflicts/shop:7/restore")?.status, 404);
        check_equal!(node.get("/v1/conflicts/shop:7/restore")?.status, 405);
        for command in ["show", "restore", "dismiss"] {
            let unknown = conflicts(&node, &[command, "shop:7"])?;
            check_equal!(unknown.code, Some(1));
            check!(unknown.stderr.contains("no conflict record shop:7"), "{}", unknown.stderr);
        }
        for wrong in [["--state", "closed"], ["--kind", "clash"], ["--since", "yesterday"], ["--limit", "0"]] {
            check_equal!(conflicts(&node, &[&["list"], wrong.as_slice()].concat())?.code, Some(2), "{wrong:?}");
        }
        for foreign in [system_tests::get_as, system_tests::post_as] {
            check_equal!(foreign(node.port(), "/v1/conflicts/shop:7/restore", "attacker.example")?.status, 403);
        }
        node.stop()
    });
}

#[test]
fn a_number_alone_is_enough_where_one_database_has_it() {
    scenario(|scene| {
        let mut cluster = apart(scene, 2, SCHEMA, "SELECT 1", "SELECT 1", "")?;
        for node in &mut cluster.nodes {
            node.stop()?;
            shell(&node.database("notes"), "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);")?;
        }
        cluster.start()?;
        cluster.settled()?;
        write_apart(&mut cluster, "UPDATE stock SET qty = 10", "UPDATE stock SET qty = 20")?;
        let (index, list) = deciders(&cluster)?.remove(0);
        let id = ids(&list).remove(0);
        let Some(number) = id.strip_prefix("shop:") else { fail!("{id}") };
        let node = &mut cluster.nodes[index];
        check_equal!(json(node, &["show", number])?["id"], id.as_str());
        // Another database gets a record of the same number.
        node.stop()?;
        let copy = format!(
            "ATTACH '{}' AS shop; INSERT INTO _sync_conflict SELECT * FROM shop._sync_conflict WHERE id = {number}",
            node.file().display()
        );
        shell(&node.path("notes.db"), &copy)?;
        node.start()?;
        let ambiguous = conflicts(node, &["restore", number])?;
        check_equal!(ambiguous.code, Some(1));
        for candidate in ["notes", "shop"] {
            check!(ambiguous.stderr.contains(&format!("{candidate}:{number}")), "{}", ambiguous.stderr);
        }
        check_equal!(node.get(&format!("/v1/conflicts/{number}"))?.status, 400);
        check_equal!(json(node, &["show", &format!("notes:{number}")])?["database"], "notes");
        // The newest of all databases first; ids stay apart.
        let both = json(node, &["list", "--table", "stock"])?;
        check_equal!(ids(&both).len(), 4);
        // Page by page they are the same, though two of them differ in their database alone.
        let mut paged = ids(&json(node, &["list", "--limit", "1"])?);
        while let Some(last) = paged.last().cloned() {
            let page = ids(&json(node, &["list", "--limit", "1", "--before", &last])?);
            check!(page.len() <= 1 && paged.len() < 5, "{paged:?} and then {page:?}");
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        check_equal!(paged, ids(&both));
        let people = conflicts(node, &["list", "--limit", "3"])?.success()?;
        check!(people.trim_end().ends_with(&format!("--before {}", paged[2])), "{people}");
        check_equal!(json(node, &["dismiss", &format!("notes:{number}")])?["state"], "dismissed");
        check_equal!(node.database_status("notes")?["conflicts"], 0);
        check_equal!(open_count(node)?, 3);
        Ok(())
    });
}

#[test]
fn so_many_records_are_kept_as_the_configuration_says() {
    scenario(|scene| {
        let (first, last) = ("UPDATE stock SET qty = 10", "UPDATE stock SET qty = 20");
        let cluster = apart(scene, 2, SCHEMA, first, last, "conflicts.keep = 2")?;
        scene.eventually("the oldest record is gone", || {
            let counts = cluster.nodes.iter().map(open_count).collect::<Result<Vec<_>>>()?;
            check!(counts.contains(&2.into()) && counts.iter().all(|count| *count == 0 || *count == 2), "{counts:?}");
            Ok(())
        })?;
        let (index, list) = deciders(&cluster)?.remove(0);
        check_equal!(ids(&list), ["shop:3", "shop:2"]);
        let mut cluster = cluster;
        write_apart(&mut cluster, "UPDATE stock SET note = 'a'", "UPDATE stock SET note = 'b'")?;
        let shown = conflicts(&cluster.nodes[index], &["show", "shop:2"])?;
        check!(shown.code == Some(0) || shown.stderr.contains("old ones are removed"), "{}", shown.stderr);
        let zero =
            run_to_end(cluster.nodes[0].command()?.args(["config", "check"]).env("SYNC_ENGINE__CONFLICTS__KEEP", "0"))?;
        check_equal!(zero.code, Some(78));
        check!(zero.stderr.contains("conflicts.keep"), "{}", zero.stderr);
        Ok(())
    });
}
