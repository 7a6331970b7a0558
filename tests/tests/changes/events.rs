//! What an event tells, and what is refused.

use serde_json::{Value as Json, json};
use system_tests::{Cluster, Follower, Node, Result, Scene, Topology, check, check_equal, scenario, shell};

use super::{check_shown, until_followed};

/// Some fields of events.
fn fields(events: &[Json], names: &[&str]) -> Vec<Vec<Json>> {
    events.iter().map(|event| names.iter().map(|name| event[*name].clone()).collect()).collect()
}

fn until_shown(scene: &Scene, follower: &Follower, count: usize) -> Result {
    scene.eventually("the changes are shown", || {
        check!(follower.log().events.len() >= count, "{:?}", follower.log().events);
        Ok(())
    })
}

#[test]
fn an_event_tells_what_was_done_to_a_row_and_by_whom() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
        cluster.create("CREATE TABLE stock (sku TEXT PRIMARY KEY, title TEXT, qty INT, at BLOB); CREATE TABLE other (id INTEGER PRIMARY KEY)")?;
        // Here the table and a column bear other names.
        shell(cluster.file(1), "ALTER TABLE stock RENAME TO goods; ALTER TABLE goods RENAME COLUMN qty TO amount")?;
        cluster.nodes[1].database_setting(
            "[[database.table]]\nname = \"goods\"\nremote_name = \"stock\"\ncolumns.amount = { remote_name = \"qty\" }",
        );
        shell(cluster.file(0), "INSERT INTO stock VALUES ('old', 'Old', 1, NULL)")?;
        cluster.start()?;
        scene.eventually("the row has arrived", || {
            check_equal!(system_tests::query_text(cluster.file(1), "SELECT amount FROM goods")?, "1");
            Ok(())
        })?;
        let here = Follower::curl(&format!("{}/v1/changes", cluster.nodes[0].http_url()));
        let there = Follower::socket(&format!("{}/v1/changes", cluster.nodes[1].http_url()), None)?;
        let only = Follower::curl(&format!("{}/v1/changes?database=shop&table=OTHER", cluster.nodes[0].http_url()));
        let all = Follower::curl(&format!("{}/v1/changes?since=begin", cluster.nodes[1].http_url()));
        until_shown(scene, &all, 1)?;
        cluster.nodes.iter().try_for_each(|node| until_followed(scene, node, 2))?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 'Cup', 3, x'00ff')")?;
        until_shown(scene, &here, 1)?;
        until_shown(scene, &there, 1)?;
        shell(cluster.file(0), "UPDATE stock SET qty = 4 WHERE sku = 'A'")?;
        until_shown(scene, &there, 2)?;
        shell(cluster.file(1), "DELETE FROM goods WHERE sku = 'old'")?;
        until_shown(scene, &here, 3)?;
        shell(
            cluster.file(1),
            "UPDATE goods SET title = 'Mug', amount = 5 WHERE sku = 'A'; INSERT INTO other VALUES (7)",
        )?;
        until_shown(scene, &here, 5)?;
        until_shown(scene, &there, 5)?;
        until_shown(scene, &only, 1)?;

        let names = ["op", "table", "key", "row", "changed", "node", "local"];
        let at = json!({"$blob": "00ff"});
        let shown = |table: &str, qty: &str, [first, second]: [bool; 2]| {
            let row = |title: &str, n: i64| json!({"sku": "A", "title": title, qty: n, "at": at});
            let all = json!(["sku", "title", qty, "at"]);
            vec![
                vec![json!("insert"), json!(table), json!({"sku": "A"}), row("Cup", 3), all, json!("a"), json!(first)],
                vec![
                    json!("update"),
                    json!(table),
                    json!({"sku": "A"}),
                    row("Cup", 4),
                    json!([qty]),
                    json!("a"),
                    json!(first),
                ],
                vec![
                    json!("delete"),
                    json!(table),
                    json!({"sku": "old"}),
                    Json::Null,
                    json!([]),
                    json!("b"),
                    json!(second),
                ],
                vec![
                    json!("update"),
                    json!(table),
                    json!({"sku": "A"}),
                    row("Mug", 5),
                    json!(["title", qty]),
                    json!("b"),
                    json!(second),
                ],
                vec![
                    json!("insert"),
                    json!("other"),
                    json!({"id": 7}),
                    json!({"id": 7}),
                    json!(["id"]),
                    json!("b"),
                    json!(second),
                ],
            ]
        };
        check_equal!(fields(&here.log().events, &names), shown("stock", "qty", [true, false]));
        check_equal!(fields(&there.log().events, &names), shown("goods", "amount", [false, true]));
        check_equal!(only.log().ops(), ["insert other {\"id\":7}"]);
        // Both tell a change by the same name.
        check_equal!(
            fields(&here.log().events, &["id", "timestamp"]),
            fields(&there.log().events, &["id", "timestamp"])
        );
        let [first, second] = [&here, &there].map(|follower| follower.log().events[0].clone());
        check_equal!((&first["database"], &second["database"]), (&json!("shop"), &json!("shop")));
        check_equal!(all.log().ops()[0], "insert goods {\"sku\":\"old\"}");
        Ok(())
    });
}

#[test]
fn what_is_no_question_is_refused_with_the_reason() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        let file = node.database("notes");
        shell(&file, super::SCHEMA)?;
        node.start()?;
        scene.eventually("it is open", || {
            check_equal!(node.database_status("notes")?["state"], "attached");
            Ok(())
        })?;
        let nobody = "01a22587-f504-764e-9633-e5ed8dcd60bb";
        for (query, status, words) in [
            ("since=yesterday", 400, "ORIGIN:SEQUENCE, or begin"),
            ("sinse=begin", 400, "use database, table or since"),
            ("database=shop", 404, "there is no database \\\"shop\\\" here, but notes"),
            ("table=stock", 404, "no table \\\"stock\\\" is synced here"),
            (&format!("since={nobody}:5"), 410, "begin anew: since=begin"),
        ] {
            let answer = node.get(&format!("/v1/changes?{query}"))?;
            check_equal!(answer.status, status, "{query}: {}", answer.body);
            check!(answer.body.contains(words), "{query}: {}", answer.body);
        }
        let refused = Follower::socket(&format!("{}/v1/changes", node.http_url()), Some(&format!("{nobody}:5")))?;
        scene.eventually("it is refused", || {
            check_equal!(refused.log().refused, ["HTTP 410"]);
            Ok(())
        })?;
        check_equal!(node.post("/v1/changes")?.status, 405);
        Ok(())
    });
}

#[test]
fn a_client_that_takes_nothing_holds_up_nobody_and_stopping_waits_for_none() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        let file = node.database("notes");
        shell(&file, super::SCHEMA)?;
        node.start()?;
        let url = format!("{}/v1/changes?since=begin", node.http_url());
        let [slow, quick] = [&url; 2].map(|url| Follower::curl(url));
        let socket = Follower::socket(&url.replace("?since=begin", ""), Some("begin"))?;
        shell(&file, "INSERT INTO note VALUES ('first', 1, '')")?;
        for follower in [&slow, &quick, &socket] {
            until_shown(scene, follower, 1)?;
        }
        slow.signal(system_tests::Signal::Pause)?;
        socket.signal(system_tests::Signal::Pause)?;
        let before = node.peak_memory()?;
        for part in 0..8 {
            let rows = format!(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                 INSERT INTO note SELECT {part} || '-' || i, i, hex(randomblob(8000)) FROM n"
            );
            shell(&file, &rows)?;
        }
        until_shown(scene, &quick, 4_001)?;
        let grown = node.peak_memory()?.saturating_sub(before);
        println!("{grown} bytes more");
        check!(grown < 48 << 20, "{grown} bytes for what two clients do not take");
        slow.signal(system_tests::Signal::Continue)?;
        scene.eventually("it was shown all", || check_shown(&slow.log(), "notes", &file))?;
        // One of them stands still to the end.
        node.stop()?;
        check!(node.log().lines().last().is_some_and(|line| line.contains("clean=true")), "{}", node.log());
        socket.signal(system_tests::Signal::Continue)?;
        node.start()?;
        scene.eventually("it was shown all", || check_shown(&socket.log(), "notes", &file))
    });
}

#[test]
fn a_deletion_is_shown_to_who_was_away_or_it_is_told_that_it_was_missed() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Line)?;
        cluster.create(super::SCHEMA)?;
        cluster.nodes.iter_mut().for_each(|node| node.setting("upkeep_interval = \"100ms\""));
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO note VALUES ('a', 1, ''), ('b', 1, ''), ('c', 1, '')")?;
        cluster.settled()?;
        let url = format!("{}/v1/changes", cluster.nodes[0].http_url());
        let follower = Follower::curl(&format!("{url}?since=begin"));
        until_shown(scene, &follower, 3)?;
        let last = |follower: &Follower| {
            follower.log().events.last().map(|event| event["id"].as_str().unwrap_or("").to_owned())
        };
        let seen = last(&follower).unwrap_or_default();
        drop(follower);
        // Everybody knows of it, and the other node forgets it.
        shell(cluster.file(1), "DELETE FROM note WHERE id = 'b'")?;
        cluster.settled()?;
        let kept = |node: usize| {
            Ok::<_, system_tests::Failure>(cluster.nodes[node].database_status("notes")?["tombstones"].clone())
        };
        scene.eventually("only the node forgets it that nobody follows", || {
            check_equal!(kept(1)?["kept"], 0);
            check_equal!(kept(0)?, json!({"kept": 1, "waiting_for": ["(who follows changes)"]}));
            Ok(())
        })?;
        cluster.nodes[0].stop()?;
        cluster.nodes[0].start()?;
        let back = Follower::curl(&format!("{url}?since={seen}"));
        until_shown(scene, &back, 1)?;
        check_equal!(back.log().ops(), ["delete note {\"id\":\"b\"}"]);
        let seen = last(&back).unwrap_or_default();
        drop(back);
        // It is forgotten because of its age.
        cluster.nodes[0].stop()?;
        cluster.nodes[0].setting("tombstone_horizon = \"1s\"");
        cluster.nodes[0].start()?;
        shell(cluster.file(0), "DELETE FROM note WHERE id = 'c'")?;
        scene.eventually("it is forgotten", || {
            let status = cluster.nodes[0].database_status("notes")?;
            check!(status["sequence"].as_u64() >= Some(4) && status["tombstones"]["kept"] == 0, "{status}");
            Ok(())
        })?;
        let back = Follower::curl(&format!("{url}?since={seen}"));
        scene.eventually("it is told", || {
            let refused = back.log().refused.clone();
            check!(
                refused.first().is_some_and(|it| it.contains("deletions were forgotten") && it.contains("since=begin")),
                "{refused:?}"
            );
            Ok(())
        })?;
        let anew = Follower::curl(&format!("{url}?since=begin"));
        until_shown(scene, &anew, 1)?;
        scene.eventually("it was shown all", || check_shown(&anew.log(), "notes", cluster.file(0)))
    });
}
