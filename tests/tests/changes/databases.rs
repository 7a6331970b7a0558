//! Several databases at once; databases that come, go, and are not what they were.

use system_tests::{Cluster, Follower, Node, Result, Scene, Topology, check, check_equal, scenario, shell};

use super::{SCHEMA, check_shown, until_followed};

fn insert(file: &std::path::Path, id: &str) -> Result<String> {
    shell(file, &format!("INSERT INTO note VALUES ('{id}', 1, '')"))
}

fn until_shown(scene: &Scene, follower: &Follower, keys: &[&str]) -> Result {
    scene.eventually("the changes are shown", || {
        let log = follower.log();
        let shown: Vec<&str> = log.events.iter().filter_map(|event| event["key"]["id"].as_str()).collect();
        check_equal!(shown, keys);
        Ok(())
    })
}

fn node(scene: &Scene, databases: &[&str]) -> Result<Node> {
    let mut node = Node::new(scene, "n")?;
    for name in databases {
        let file = node.database(name);
        shell(&file, SCHEMA)?;
    }
    Ok(node)
}

#[test]
fn one_id_says_of_all_databases_what_was_seen() {
    scenario(|scene| {
        let mut node = node(scene, &["one", "two"])?;
        let [one, two] = ["one", "two"].map(|name| node.path(&format!("{name}.db")));
        insert(&one, "before")?;
        node.start()?;
        let url = format!("{}/v1/changes", node.http_url());
        let all = Follower::curl(&url);
        let begin = Follower::curl(&format!("{url}?since=begin"));
        until_shown(scene, &begin, &["before"])?;
        until_followed(scene, &node, 2)?;
        insert(&two, "a")?;
        until_shown(scene, &all, &["a"])?;
        insert(&one, "b")?;
        until_shown(scene, &all, &["a", "b"])?;
        insert(&two, "c")?;
        until_shown(scene, &all, &["a", "b", "c"])?;
        let ids: Vec<String> =
            all.log().events.iter().map(|event| event["id"].as_str().unwrap_or_default().to_owned()).collect();
        // Nobody follows, and the daemon is another one.
        drop((all, begin));
        node.stop()?;
        insert(&one, "d")?;
        insert(&two, "e")?;
        node.start()?;
        // Else it is chance which of the two is noticed first.
        scene.eventually("both are noticed", || {
            for name in ["one", "two"] {
                check_equal!(node.database_status(name)?["sequence"], 3, "{name}");
            }
            Ok(())
        })?;
        let after = |id: &str, more: &str| Follower::curl(&format!("{url}?since={id}{more}"));
        until_shown(scene, &after(&ids[2], ""), &["d", "e"])?;
        let of_both = after(&ids[0], "");
        until_shown(scene, &of_both, &["b", "c", "d", "e"])?;
        until_shown(scene, &after(&ids[1], "&database=one"), &["d"])?;
        until_shown(scene, &after(&ids[0], "&database=two"), &["c", "e"])?;
        until_shown(scene, &after("begin", "&database=two"), &["a", "c", "e"])?;
        until_shown(scene, &after("begin", ""), &["before", "a", "b", "c", "d", "e"])?;
        Ok(())
    });
}

#[test]
fn databases_that_come_and_go_while_they_are_followed() {
    scenario(|scene| {
        let mut node = node(scene, &["one"])?;
        let [one, two] = ["one", "two"].map(|name| node.path(&format!("{name}.db")));
        shell(&two, SCHEMA)?;
        insert(&two, "not shown")?;
        node.start()?;
        let url = format!("{}/v1/changes", node.http_url());
        let all = Follower::curl(&url);
        until_followed(scene, &node, 1)?;
        insert(&one, "a")?;
        until_shown(scene, &all, &["a"])?;
        // It comes, is shown from then on, and is gone again and comes back.
        node.database("two");
        node.reload()?;
        scene.eventually("it is there", || {
            check_equal!(node.database_status("two")?["state"], "attached");
            Ok(())
        })?;
        scene.eventually("its rows have their names", || {
            insert(&two, &format!("n{}", node.database_status("two")?["sequence"]))?;
            let log = all.log();
            check!(log.ops().iter().any(|op| op.contains("{\"id\":\"n")), "{:?}", log.ops());
            Ok(())
        })?;
        node.without_database();
        node.reload()?;
        insert(&two, "while it is gone")?;
        insert(&one, "b")?;
        scene.eventually("the other goes on", || {
            check!(all.log().ops().iter().any(|op| op.contains("\"b\"")), "{:?}", all.log().ops());
            Ok(())
        })?;
        node.database("two");
        node.reload()?;
        scene.eventually("nothing is missing", || {
            let ops = all.log().ops();
            check_equal!(ops.iter().filter(|op| op.contains("while it is gone")).count(), 1, "{ops:?}");
            Ok(())
        })?;
        check_equal!(all.log().repeated, [""; 0]);
        check_equal!(all.log().cuts, 0);
        Ok(())
    });
}

#[test]
fn a_file_that_was_restored_is_followed_from_its_beginning() {
    scenario(|scene| {
        let mut node = node(scene, &["notes", "other"])?;
        let [file, other] = ["notes", "other"].map(|name| node.path(&format!("{name}.db")));
        node.start()?;
        let url = format!("{}/v1/changes", node.http_url());
        let [live, away] =
            [Follower::curl(&format!("{url}?since=begin")), Follower::curl(&format!("{url}?database=other"))];
        insert(&file, "kept")?;
        until_shown(scene, &live, &["kept"])?;
        shell(&file, &format!("VACUUM INTO '{}'", scene.path("copy.db").display()))?;
        insert(&file, "lost")?;
        until_shown(scene, &live, &["kept", "lost"])?;
        insert(&other, "o")?;
        until_shown(scene, &live, &["kept", "lost", "o"])?;
        until_shown(scene, &away, &["o"])?;
        let last = live.log().events[1]["id"].as_str().unwrap_or_default().to_owned();
        node.stop()?;
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
        }
        std::fs::copy(scene.path("copy.db"), &file)?;
        node.start()?;
        insert(&file, "new")?;
        scene.eventually("it is told to begin anew", || {
            let refused = live.log().refused.clone();
            check!(refused.first().is_some_and(|it| it.contains("begin anew: since=begin")), "{refused:?}");
            Ok(())
        })?;
        check_equal!(node.get(&format!("/v1/changes?since={last}"))?.status, 410);
        // Who follows another database is not concerned.
        insert(&other, "p")?;
        until_shown(scene, &away, &["o", "p"])?;
        let anew = Follower::curl(&format!("{url}?since=begin&database=notes"));
        until_shown(scene, &anew, &["kept", "new"])?;
        check_shown(&anew.log(), "notes", &file)
    });
}

#[test]
fn who_follows_begins_anew_when_rows_are_merged_that_had_waited() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Line)?;
        shell(cluster.file(0), SCHEMA)?;
        shell(cluster.file(1), "CREATE TABLE other (id INTEGER PRIMARY KEY)")?;
        cluster.start()?;
        insert(cluster.file(0), "waits")?;
        let url = format!("{}/v1/changes", cluster.nodes[1].http_url());
        scene.eventually("the row waits", || {
            check_equal!(cluster.nodes[1].database_status("notes")?["parked"], 1);
            Ok(())
        })?;
        let follower = Follower::curl(&format!("{url}?since=begin"));
        shell(cluster.file(1), "INSERT INTO other VALUES (1)")?;
        scene.eventually("another is shown, and it is not", || {
            check_equal!(follower.log().ops(), ["insert other {\"id\":1}"]);
            Ok(())
        })?;
        shell(cluster.file(1), SCHEMA)?;
        scene.eventually("it is told", || {
            let refused = follower.log().refused.clone();
            check!(refused.first().is_some_and(|it| it.contains("rows that had waited were merged")), "{refused:?}");
            Ok(())
        })?;
        let anew = Follower::curl(&format!("{url}?since=begin"));
        scene.eventually("the row is shown", || check_shown(&anew.log(), "notes", cluster.file(1)))?;
        check_equal!(anew.log().rows("notes", "note").len(), 1);
        Ok(())
    });
}
