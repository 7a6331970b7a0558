//! Triggers of the application: what they do is done once on each node, and people may decide otherwise.

use serde_json::json;
use system_tests::{Cluster, Node, Result, Topology, check, check_equal, query_text, run_to_end, scenario, shell};

const SCHEMA: &str = "
    CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER);
    CREATE TABLE audit (id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(8)))), line TEXT);
    CREATE TABLE journal (line TEXT);
    CREATE TABLE total (what TEXT PRIMARY KEY, n INTEGER);
    INSERT INTO total VALUES ('rows', 0);
    CREATE TRIGGER to_audit AFTER INSERT ON stock BEGIN INSERT INTO audit (line) VALUES ('new ' || NEW.sku); END;
    CREATE TRIGGER to_journal AFTER INSERT ON stock BEGIN INSERT INTO journal VALUES ('new ' || NEW.sku); END;
    CREATE TRIGGER to_both AFTER DELETE ON stock BEGIN
        INSERT INTO journal VALUES ('gone ' || OLD.sku); UPDATE total SET n = n + 1; END;
    CREATE TRIGGER no_debts BEFORE UPDATE ON stock WHEN NEW.qty < 0 BEGIN SELECT RAISE(ABORT, 'no debts'); END;";

/// What a node says of its triggers, by name: on_apply and why.
fn triggers(status: &serde_json::Value) -> Vec<String> {
    let list = status["triggers"].as_array().cloned().unwrap_or_default();
    list.iter().map(|t| format!("{} {} {}: {}", t["trigger"], t["table"], t["on_apply"], t["why"])).collect()
}

fn journal(node: &Node) -> Result<String> {
    query_text(node.file(), "SELECT coalesce(group_concat(line), '') FROM journal")
}

#[test]
fn what_a_trigger_writes_is_there_once_on_every_node() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 3, Topology::Line)?;
        cluster.create(SCHEMA)?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1)")?;
        shell(cluster.file(2), "INSERT INTO stock VALUES ('B', 1)")?;
        scene.eventually("both rows are everywhere", || {
            for file in cluster.files() {
                check_equal!(query_text(file, "SELECT count(*) FROM stock")?, "2");
                let audit = "SELECT group_concat(line) FROM (SELECT line FROM audit ORDER BY line)";
                check_equal!(query_text(file, audit)?, "new A,new B", "a synced audit has a line for each row");
                let journal = "SELECT group_concat(line) FROM (SELECT line FROM journal ORDER BY line)";
                check_equal!(query_text(file, journal)?, "new A,new B", "so has one that is not synced");
            }
            Ok(())
        })?;
        shell(cluster.file(0), "DELETE FROM stock WHERE sku = 'A'")?;
        scene.eventually("the deletion is counted once", || {
            for file in cluster.files() {
                check_equal!(query_text(file, "SELECT n FROM total")?, "1");
            }
            Ok(())
        })?;
        check_equal!(journal(&cluster.nodes[0])?, "new A,new B,gone A");
        check!(
            !journal(&cluster.nodes[1])?.contains("gone"),
            "a trigger that writes both does not run, as is said of it"
        );
        Ok(())
    });
}

#[test]
fn every_trigger_is_shown_with_what_becomes_of_it() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        let file = node.database("shop");
        shell(&file, SCHEMA)?;
        let expected = [
            r#""no_debts" "stock" "skip": "it can raise an error, and would refuse what other nodes have accepted""#,
            r#""to_audit" "stock" "skip": "its effects arrive as changes""#,
            r#""to_both" "stock" "skip": "it also writes what is not synced, which lags behind here: split it in two""#,
            r#""to_journal" "stock" "run": "it writes only what is not synced""#,
        ];
        let attached = run_to_end(node.command()?.args(["attach", "--json"]).arg(&file))?.success()?;
        let attached: serde_json::Value = serde_json::from_str(&attached)?;
        check_equal!(triggers(&attached[0]), expected);
        node.start()?;
        scene.eventually("the status shows them", || {
            check_equal!(triggers(&node.database_status("shop")?), expected);
            Ok(())
        })?;
        let shown = run_to_end(node.command()?.args(["status", "--config", "sync-engine.toml"]))?.success()?;
        let line = "trigger to_journal on stock: runs on applied changes: it writes only what is not synced";
        check!(shown.contains(line), "{shown}");
        let json = run_to_end(node.command()?.args(["status", "--json", "--config", "sync-engine.toml"]))?.success()?;
        let json: serde_json::Value = serde_json::from_str(&json)?;
        check_equal!(triggers(&json["databases"][0]), expected);
        Ok(())
    });
}

#[test]
fn a_trigger_runs_or_does_not_as_the_configuration_says() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Mesh)?;
        cluster.create(SCHEMA)?;
        cluster.create("CREATE TRIGGER strict_journal AFTER INSERT ON stock WHEN NEW.qty <> 0 BEGIN
            SELECT RAISE(ABORT, 'too much') WHERE NEW.qty > 1000; INSERT INTO journal VALUES ('strict ' || NEW.sku); END;")?;
        cluster.nodes[1].database_setting("triggers.to_journal = \"skip\"");
        cluster.nodes[1].database_setting("triggers.Strict_Journal = \"run\"");
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1)")?;
        scene.eventually("the row is there, with what was decided", || {
            check_equal!(journal(&cluster.nodes[1])?, "strict A");
            Ok(())
        })?;
        check_equal!(journal(&cluster.nodes[0])?.split(',').count(), 2);
        let status = cluster.nodes[1].database_status("shop")?;
        let shown = triggers(&status);
        check!(shown.contains(&r#""to_journal" "stock" "skip": "it is told to skip""#.to_owned()), "{shown:?}");
        check!(shown.contains(&r#""strict_journal" "stock" "run": "it is told to run""#.to_owned()), "{shown:?}");
        check_equal!(status["warnings"], json!([]));
        Ok(())
    });
}

#[test]
fn rules_that_cannot_be_followed_are_told() {
    scenario(|scene| {
        let mut node = Node::new(scene, "a")?;
        let file = node.database("shop");
        node.database_setting("triggers = { to_both = \"run\", to_jurnal = \"skip\" }");
        shell(&file, SCHEMA)?;
        node.start()?;
        scene.eventually("the status and the log tell", || {
            let status = node.database_status("shop")?;
            let kinds = [status["warnings"][0]["kind"].clone(), status["warnings"][1]["kind"].clone()];
            check_equal!(kinds, ["trigger_rule", "unknown_trigger"]);
            check_equal!(status["warnings"][1]["remedy"], "did you mean \"to_journal\"?");
            let refused = node.log();
            let refused = refused.lines().find(|line| line.contains("kind=trigger_rule"));
            let Some(refused) = refused else { system_tests::fail!("not in the log") };
            check!(
                refused.contains("sync_error") && refused.contains("to_both") && refused.contains("total"),
                "{refused}"
            );
            Ok(())
        })?;
        // The command reads the same configuration.
        let attached =
            run_to_end(node.command()?.args(["attach", "--config", "sync-engine.toml"]).arg(&file))?.success()?;
        check!(attached.contains("did you mean \"to_journal\"?"), "{attached}");
        check!(attached.contains("it is told to run, but it writes the synced total"), "{attached}");
        Ok(())
    });
}
