//! Keys that SQLite gives out: with `key_ranges` no two nodes give out the same; without, people are warned.

use std::path::Path;

use system_tests::{
    Cluster, Node, Result, Scene, Topology, check, check_equal, python_code, run_to_end, scenario, shell,
};

const SCHEMA: &str = "
    CREATE TABLE message (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT);
    INSERT INTO message (body) VALUES ('the same on all nodes');";

/// Nodes numbered from 1, in step.
fn numbered(scene: &Scene, count: usize) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "chat", count, Topology::Mesh)?;
    cluster.create(SCHEMA)?;
    for (node, number) in cluster.nodes.iter_mut().zip(1..) {
        node.database_setting(&format!("key_ranges = {number}"));
    }
    cluster.start()?;
    cluster.settled()?;
    Ok(cluster)
}

/// Inserts rows one by one and in one statement, and returns the keys that the application was told.
fn insert(file: &Path, count: usize) -> Result<Vec<i64>> {
    let code = format!(
        "for n in range({count}):\n\
         \x20   print(db.execute('INSERT INTO message (body) VALUES (?)', (str(n),)).lastrowid)\n\
         last = db.execute(\"INSERT INTO message (body) VALUES ('x'), ('y'), ('z')\").lastrowid\n\
         print(last - 2, last - 1, last, sep='\\n')"
    );
    let told = python_code(file, &code)?;
    told.lines().map(|line| line.parse().map_err(|_| system_tests::Failure::new(format!("no key: {line}")))).collect()
}

#[test]
fn nodes_that_insert_at_once_never_give_out_the_same_key() {
    scenario(|scene| {
        let mut cluster = numbered(scene, 3)?;
        let mut given = insert(cluster.file(0), 1)?;
        let writers: Vec<_> = cluster
            .files()
            .into_iter()
            .map(|file| {
                let file = file.to_owned();
                std::thread::spawn(move || insert(&file, 60))
            })
            .collect();
        for writer in writers {
            match writer.join() {
                Ok(keys) => given.extend(keys?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        cluster.settled()?;
        // Apart from each other, with a restart between.
        cluster.stop()?;
        for index in 0..3 {
            given.extend(insert(cluster.file(index), 5)?);
        }
        cluster.start()?;
        cluster.settled()?;
        for index in 0..3 {
            given.extend(insert(cluster.file(index), 2)?);
            cluster.settled()?;
        }
        let count = given.len();
        given.sort_unstable();
        given.dedup();
        check_equal!(given.len(), count, "a key was given out twice");
        check!(given.iter().all(|key| *key < 1 << 53), "{given:?}");
        check_equal!(cluster.settled()?.count("message"), count + 1);
        for node in &cluster.nodes {
            check_equal!(node.database_status("chat")?["conflicts"], 0);
            check_equal!(node.database_status("chat")?["warnings"], serde_json::json!([]));
        }
        Ok(())
    });
}

#[test]
fn an_application_goes_on_with_its_keys_after_detach() {
    scenario(|scene| {
        let mut cluster = numbered(scene, 2)?;
        let before = insert(cluster.file(0), 3)?;
        cluster.settled()?;
        cluster.stop()?;
        let file = cluster.file(0).to_owned();
        run_to_end(cluster.nodes[0].command()?.arg("detach").arg(&file))?.success()?;
        shell(&file, "VACUUM")?;
        let after = insert(&file, 1)?;
        check_equal!(Some(after[0]), before.last().map(|last| last + 1));
        // Attaching by hand, with the configuration that the daemon had, comes to this node's keys too.
        shell(&file, "DELETE FROM sqlite_sequence; DELETE FROM message")?;
        let attached =
            run_to_end(cluster.nodes[0].command()?.args(["attach", "--config", "sync-engine.toml"]).arg(&file))?;
        check!(!attached.success()?.contains("warning"), "there is nothing to warn of");
        check_equal!(insert(&file, 1)?[0], before[0]);
        Ok(())
    });
}

#[test]
fn tables_whose_keys_will_clash_are_named_with_the_remedy() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        let file = node.database("chat");
        shell(
            &file,
            &format!("{SCHEMA} CREATE TABLE tag (id INTEGER PRIMARY KEY, t); CREATE TABLE word (w TEXT PRIMARY KEY)"),
        )?;
        let attached = run_to_end(node.command()?.arg("attach").arg(&file))?.success()?;
        let below = |table: &str| {
            let mut lines = attached.lines().skip_while(|line| !line.contains(&format!("synced      {table} ")));
            lines.nth(1).unwrap_or_default().to_owned()
        };
        check!(below("message").contains("warning") && below("message").contains("key_ranges"), "{attached}");
        check!(below("tag").contains("AUTOINCREMENT") && below("tag").contains("UUID"), "{attached}");
        check!(!below("word").contains("warning"), "{attached}");
        let json = run_to_end(node.command()?.args(["attach", "--json"]).arg(&file))?.success()?;
        let json: serde_json::Value = serde_json::from_str(&json)?;
        let tables = |warnings: &serde_json::Value| -> Vec<serde_json::Value> {
            warnings.as_array().into_iter().flatten().map(|warning| warning["table"].clone()).collect()
        };
        check_equal!(tables(&json[0]["warnings"]), ["message", "tag"]);
        run_to_end(node.command()?.arg("detach").arg(&file))?.success()?;
        node.start()?;
        scene.eventually("the status and the log warn", || {
            check_equal!(tables(&node.database_status("chat")?["warnings"]), ["message", "tag"]);
            check_equal!(node.log().matches("kind=key_clash").count(), 2);
            Ok(())
        })?;
        node.stop()?;
        node.start()?;
        scene.eventually("the status warns again", || {
            check_equal!(tables(&node.database_status("chat")?["warnings"]), ["message", "tag"]);
            Ok(())
        })?;
        check_equal!(
            node.log().matches("kind=key_clash").count(),
            2,
            "the log says it when the file is attached first"
        );
        Ok(())
    });
}
