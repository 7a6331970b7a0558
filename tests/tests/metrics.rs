//! What services that watch the daemon are told: `/metrics`, `/healthz` with thresholds, `status`.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};
use system_tests::{
    Cluster, Failure, Node, Result, Running, Topology, check, check_equal, data_file, get, python_with, query_text,
    run_to_end, scenario, shell, while_locked,
};

const SCHEMA: &str = "CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INT);";

/// The values by name and labels, read by Prometheus' own parser.
struct Metrics(Vec<(String, BTreeMap<String, String>, f64)>);

impl Metrics {
    fn of(node: &Node) -> Result<Self> {
        let answer = node.get("/metrics")?;
        check_equal!(answer.status, 200);
        check!(
            answer.head.to_lowercase().contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{}",
            answer.head
        );
        let python =
            python_with("prometheus_client", "install it, as with `apt-get install python3-prometheus-client`")?;
        let mut parser = Command::new(python)
            .arg("-B")
            .arg(data_file("read_metrics.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        std::io::Write::write_all(
            &mut parser.stdin.take().ok_or_else(|| Failure::new("no input"))?,
            answer.body.as_bytes(),
        )?;
        let output = parser.wait_with_output()?;
        check!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), answer.body);
        let sample = |line: &str| {
            Ok::<_, Failure>(serde_json::from_str::<(String, String, BTreeMap<String, String>, f64)>(line)?)
        };
        let samples = String::from_utf8_lossy(&output.stdout).lines().map(sample).collect::<Result<Vec<_>>>()?;
        Ok(Self(samples.into_iter().map(|(_, name, labels, value)| (name, labels, value)).collect()))
    }

    /// The sum of the samples of this name that have these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let name = format!("sync_engine_{name}");
        let fits = |found: &BTreeMap<String, String>| {
            labels.iter().all(|(key, value)| found.get(*key).is_some_and(|found| found == value))
        };
        let values: Vec<f64> = self
            .0
            .iter()
            .filter(|(known, found, _)| *known == name && fits(found))
            .map(|(_, _, value)| *value)
            .collect();
        check!(!values.is_empty(), "there is no {name} with {labels:?}");
        Ok(values.into_iter().sum())
    }
}

#[test]
fn metrics_count_what_happens() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1), ('B', 1), ('C', 1)")?;
        cluster.settled()?;
        shell(cluster.file(0), "UPDATE stock SET qty = 2 WHERE sku = 'A'; DELETE FROM stock WHERE sku = 'B'")?;
        cluster.settled()?;
        let metrics = Metrics::of(&cluster.nodes[1])?;
        let shop = ("database", "shop");
        let op = |op| metrics.sum("rows_applied_total", &[shop, ("op", op)]);
        check_equal!((op("insert")?, op("update")?, op("delete")?), (3.0, 1.0, 1.0));
        let lagged = metrics.sum("lag_seconds_count", &[shop, ("peer", "a")])?;
        check_equal!(lagged, 5.0);
        check!(metrics.sum("lag_seconds_sum", &[shop, ("peer", "a")])? < 5.0 * 90.0, "lags are in seconds");
        check_equal!(metrics.sum("lag_seconds_bucket", &[shop, ("peer", "a"), ("le", "86400.0")])?, 5.0);
        check!(metrics.sum("apply_seconds_count", &[shop])? >= 2.0, "batches are timed");
        check_equal!(metrics.sum("peers_connected", &[])?, 1.0);
        check_equal!(metrics.sum("peer_connected", &[("peer", "a")])?, 1.0);
        check_equal!(metrics.sum("peer_behind_changes", &[shop, ("peer", "a")])?, 0.0);
        check_equal!(metrics.sum("database_state", &[shop, ("state", "attached")])?, 1.0);
        check_equal!(metrics.sum("database_state", &[shop])?, 1.0);
        check!(metrics.sum("peer_received_bytes_total", &[("peer", "a")])? > 100.0, "bytes are counted");
        check!(metrics.sum("peer_sent_bytes_total", &[("peer", "a")])? > 100.0, "bytes are counted");
        check_equal!(metrics.sum("build", &[("node", "b")])?, 1.0);
        check_equal!(metrics.sum("log_lines_dropped_total", &[])?, 0.0);
        // Apart they write the same row, and try to meet.
        cluster.nodes[1].stop()?;
        shell(cluster.file(1), "UPDATE stock SET qty = 10 WHERE sku = 'A'")?;
        shell(cluster.file(0), "UPDATE stock SET qty = 11 WHERE sku = 'A'")?;
        scene.eventually("a retry is counted", || {
            let url = cluster.nodes[1].url();
            check!(Metrics::of(&cluster.nodes[0])?.sum("retries_total", &[("peer", &url)])? >= 1.0, "it dials again");
            Ok(())
        })?;
        let sent = |node: &Node| Metrics::of(node)?.sum("peer_sent_bytes_total", &[("peer", "b")]);
        let before = sent(&cluster.nodes[0])?;
        cluster.start()?;
        cluster.settled()?;
        check!(sent(&cluster.nodes[0])? > before, "a new link goes on counting");
        let mut decided = 0.0;
        for node in &cluster.nodes {
            let metrics = Metrics::of(node)?;
            let labels = [shop, ("kind", "update_origin_differs")];
            decided += metrics.sum("conflicts_total", &labels).unwrap_or_default();
            check_equal!(
                metrics.sum("open_conflicts", &[shop])?,
                node.database_status("shop")?["conflicts"].as_f64().unwrap_or(-1.0)
            );
        }
        check!(decided >= 1.0, "the conflict is counted where it was decided");
        Ok(())
    });
}

#[test]
fn health_says_what_is_beyond_its_limits() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        cluster.start()?;
        cluster.settled()?;
        let limits = "[health]\nmin_peers = 2\n";
        let config = |text: &str| -> Result<String> {
            let node = &cluster.nodes[0];
            node.write_config()?;
            let written = std::fs::read_to_string(node.config_file())?;
            std::fs::write(node.config_file(), written + "\n" + text)?;
            node.read_again()
        };
        let port = cluster.nodes[0].port();
        let health = |query: &str| get(port, &format!("/healthz{query}"));
        check_equal!((health("")?.status, health("")?.body), (200, "ok\n".to_owned()));
        let reloaded = config(limits)?;
        check!(reloaded.contains("outcome=applied") && reloaded.contains("changed=health.min_peers"), "{reloaded}");
        let text = "peers: 1 connected, fewer than min_peers = 2";
        check_equal!((health("")?.status, health("")?.body), (503, format!("{text}\n")));
        let told: Json = serde_json::from_str(&health("?format=json")?.body)?;
        check_equal!(told, json!({"healthy": false, "problems": [text]}));
        check_equal!(health("?format=xml")?.status, 400);
        let status = run_to_end(cluster.nodes[0].command()?.args(["status", "--url", &cluster.nodes[0].http_url()]))?;
        check_equal!(status.code, Some(1));
        check!(status.stdout.contains(&format!("not healthy: {text}")), "{}", status.stdout);
        check_equal!(cluster.nodes[0].status()?["problems"], json!([text]));
        config("[health]\nmax_lag = \"1ms\"\nmax_backlog = 0\n")?;
        check_equal!(health("")?.status, 200);
        // The peer cannot take what it is sent, because an application there has the lock.
        while_locked(scene, cluster.file(1), "DELETE FROM stock", || {
            shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1)")?;
            scene.eventually("the peer lags", || {
                let answer = health("?format=json")?;
                check_equal!(answer.status, 503);
                check!(answer.body.contains("peer b: has lacked changes of database shop"), "{}", answer.body);
                check!(answer.body.contains("more than max_lag = \\\"1ms\\\""), "{}", answer.body);
                Ok(())
            })
        })?;
        cluster.settled()?;
        scene.eventually("all is well again", || {
            check_equal!(health("")?.body, "ok\n");
            Ok(())
        })?;
        let refused = config("[health]\nmax_lag = 5\nmin_peers = -1\nmax_backlok = 3\n")?;
        check!(refused.contains("outcome=refused"), "{refused}");
        check_equal!(health("")?.status, 200);
        check_equal!(query_text(cluster.file(1), "SELECT count(*) FROM stock")?, "1");
        Ok(())
    });
}

#[test]
fn status_is_shown_again_and_again() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        cluster.start()?;
        cluster.settled()?;
        let url = cluster.nodes[0].http_url();
        let mut command = cluster.nodes[0].command()?;
        command.args(["status", "--watch", "--json", "--url", &url]);
        let watching = Running::start(&mut command, &scene.path("watch"))?;
        let lines = || watching.output().lines().map(str::to_owned).collect::<Vec<_>>();
        scene.eventually("it is shown", || {
            check!(!lines().is_empty(), "nothing yet");
            Ok(())
        })?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A', 1)")?;
        cluster.settled()?;
        scene.eventually("it is shown as it is now", || {
            let last: Json = serde_json::from_str(lines().last().map_or("", String::as_str))?;
            check_equal!(last["databases"][0]["sequence"], 1);
            Ok(())
        })?;
        cluster.nodes[0].stop()?;
        scene.eventually("it says that the daemon is away", || {
            check!(lines().last().is_some_and(|line| line.contains("no daemon answers")), "{:?}", lines());
            Ok(())
        })?;
        let text = run_to_end(cluster.nodes[1].command()?.args(["status", "--url", &cluster.nodes[1].http_url()]))?;
        let file = cluster.file(1).display().to_string();
        let text = text.success()?;
        check!(text.lines().any(|line| line.starts_with("shop") && line.ends_with(&file)), "{text}");
        let nobody = run_to_end(cluster.nodes[0].command()?.args(["status", "--watch", "--url", &url]))?;
        check_equal!(nobody.code, Some(1));
        Ok(())
    });
}
