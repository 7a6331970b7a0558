//! The settings of the node: what is wrong, peers, cluster, address, log.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use system_tests::{
    Cluster, Node, Result, Running, Scene, Signal, Topology, check, check_equal, get, query_text, scenario, shell,
    sync_engine,
};

use crate::{SCHEMA, changed, links_stand, running, still_in_step, told};

/// A daemon answers on a port, and is well.
fn answers(port: u16) -> Result {
    check_equal!(get(port, "/healthz")?.status, 200);
    Ok(())
}

#[test]
fn a_wrong_configuration_is_told_in_full_and_changes_nothing() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        let node = &cluster.nodes[1];
        let sound = std::fs::read_to_string(node.config_file())?;
        let wrong = format!("cluster = \"other\"\npol_interval = \"1s\"\n{sound}granularity = \"cell\"\n");
        std::fs::write(node.config_file(), &wrong)?;
        let line = node.read_again()?;
        check!(line.contains("outcome=refused errors=2"), "{line}");
        let log = node.log();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("sync_error kind=config")).collect();
        check_equal!(errors.len(), 2);
        let file = node.config_file();
        let last = wrong.lines().count();
        for (error, texts) in errors.iter().zip([
            [
                "key=pol_interval",
                &format!("at={}:2:1", file.display()),
                "remedy=\"did you mean \\\"poll_interval\\\"?\"",
            ],
            ["key=database[0].granularity", &format!("at={}:{last}:", file.display()), "remedy="],
        ]) {
            check!(texts.iter().all(|text| error.contains(text)), "{error} lacks one of {texts:?}");
        }
        still_in_step(&cluster, 1)?;
        links_stand(&cluster)?;
        std::fs::remove_file(node.config_file())?;
        let line = node.read_again()?;
        check!(line.contains("outcome=refused errors=1"), "{line}");
        check_equal!(told(node, "does not exist\" remedy="), 1);
        // It is put right, and works.
        cluster.nodes[1].setting("max_clock_skew = \"30s\"");
        changed(&cluster.nodes[1].reload()?, "max_clock_skew")?;
        still_in_step(&cluster, 3)?;
        links_stand(&cluster)
    });
}

#[test]
fn a_configuration_that_did_not_change_changes_nothing() {
    scenario(|scene| {
        let cluster = running(scene)?;
        let line = cluster.nodes[1].reload()?;
        check!(line.contains("outcome=unchanged file="), "{line}");
        still_in_step(&cluster, 1)?;
        links_stand(&cluster)?;
        check_equal!(told(&cluster.nodes[1], "sync_start database=notes tables=1"), 1);
        Ok(())
    });
}

#[test]
fn a_daemon_without_a_configuration_file_says_so_and_goes_on() {
    scenario(|scene| {
        let file = scene.path("notes.db");
        shell(&file, SCHEMA)?;
        let port = Node::new(scene, "unused")?.port();
        let mut command = Command::new(sync_engine()?);
        command.current_dir(scene.path("unused")).arg("run").arg(&file);
        command.args(["--node", "alone", "--listen", &format!("127.0.0.1:{port}")]);
        let daemon = Running::start(&mut command, &scene.path("daemon"))?;
        scene.eventually("it answers", || answers(port))?;
        daemon.signal(Signal::HangUp)?;
        let log = scene.path("unused/logs/synchronization.log");
        scene.eventually("it is told", || {
            let log = std::fs::read_to_string(&log)?;
            check!(log.contains("config_reload outcome=unchanged reason=\"there is no configuration file"), "{log}");
            Ok(())
        })?;
        check_equal!(daemon.end_with(Signal::Terminate)?.code, Some(0));
        Ok(())
    });
}

#[test]
fn peers_that_are_added_are_dialed_and_those_that_are_removed_are_left() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 3, Topology::Apart)?;
        cluster.create(SCHEMA)?;
        let [a, b, _] = &mut cluster.nodes[..] else { unreachable!() };
        a.peer(b);
        cluster.start()?;
        let [a, _, c] = &mut cluster.nodes[..] else { unreachable!() };
        scene.eventually("b is met", || {
            check_equal!(told(a, "peer_connected node=b"), 1);
            Ok(())
        })?;
        a.peer(c);
        changed(&a.reload()?, "peers")?;
        shell(c.file(), "INSERT INTO note VALUES (1, 'from c')")?;
        cluster.settled()?;
        let [a, b, c] = &mut cluster.nodes[..] else { unreachable!() };
        a.without_peer(c);
        changed(&a.reload()?, "peers")?;
        scene.eventually("c is left", || {
            check_equal!((told(a, "peer_lost node=c"), told(c, "peer_lost node=a")), (1, 1));
            check!(!a.status()?.to_string().contains(&c.url()), "{}", a.status()?);
            Ok(())
        })?;
        shell(a.file(), "INSERT INTO note VALUES (2, 'from a')")?;
        scene.eventually("b has it", || {
            check_equal!(query_text(b.file(), "SELECT count(*) FROM note")?, "2");
            Ok(())
        })?;
        check_equal!(query_text(c.file(), "SELECT count(*) FROM note")?, "1");
        check_equal!((told(a, "peer_connected node=b"), told(a, "peer_lost node=b")), (1, 0));
        Ok(())
    });
}

#[test]
fn nodes_go_over_to_another_cluster_one_after_the_other() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        for node in &mut cluster.nodes {
            node.setting("cluster = \"blue\"");
        }
        changed(&cluster.nodes[1].reload()?, "cluster")?;
        scene.eventually("they are parted", || {
            check!(told(&cluster.nodes[0], "is of cluster") > 0, "{}", cluster.nodes[0].log());
            check!(told(&cluster.nodes[1], "peer_lost node=a reason=\"the configuration of this node") == 1, "not yet");
            Ok(())
        })?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'a')")?;
        changed(&cluster.nodes[0].reload()?, "cluster")?;
        still_in_step(&cluster, 2)
    });
}

#[test]
fn another_address_is_listened_on_and_links_that_came_by_the_old_one_stay() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        let node = &mut cluster.nodes[0];
        let first = node.port();
        let second = node.move_port()?;
        let taken = TcpListener::bind(("127.0.0.1", second))?;
        node.write_config()?;
        let line = node.read_again()?;
        check!(line.contains("outcome=partly failed=listen"), "{line}");
        check!(
            node.log().contains(&format!("kind=listen reason=\"cannot listen on 127.0.0.1:{second}")),
            "{}",
            node.log()
        );
        answers(first)?;
        drop(taken);
        changed(&node.read_again()?, "listen")?;
        answers(second)?;
        scene.eventually("the old address is free", || Ok(TcpListener::bind(("127.0.0.1", first)).map(drop)?))?;
        still_in_step(&cluster, 1)?;
        links_stand(&cluster)
    });
}

#[test]
fn level_format_and_hook_of_the_log_change_while_it_is_written() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'before')")?;
        cluster.settled()?;
        let seen = scene.path("seen");
        let node = &mut cluster.nodes[1];
        check_equal!(told(node, "insert database=notes"), 0);
        node.log_setting("level = \"debug\"");
        node.log_setting("format = \"json\"");
        node.log_setting(&format!("hook = [\"sh\", \"-c\", \"cat >> '{}'\"]", seen.display()));
        let line = node.reload()?;
        let line: serde_json::Value = serde_json::from_str(&line)?;
        check_equal!(line["changed"], "log.level,log.format,log.hook");
        shell(cluster.file(0), "INSERT INTO note VALUES (2, 'after')")?;
        scene.eventually("the row is in the log and at the hook", || {
            for text in [cluster.nodes[1].log(), std::fs::read_to_string(&seen)?] {
                check!(text.contains("\"event\":\"insert\",\"database\":\"notes\""), "{text}");
            }
            Ok(())
        })?;
        links_stand(&cluster)
    });
}

#[test]
fn what_a_running_node_cannot_change_is_told_and_the_rest_is_applied() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        let node = &mut cluster.nodes[1];
        node.rename("bergen");
        node.setting("shutdown_grace = \"5s\"");
        for _ in 0..2 {
            let line = node.reload()?;
            check!(line.contains("outcome=partly ") && line.contains("at_next_start=node "), "{line}");
        }
        check_equal!(told(node, "changed=shutdown_grace"), 1);
        check_equal!(node.status()?["node"], "b");
        node.stop()?;
        node.start()?;
        check_equal!(node.status()?["node"], "bergen");
        Ok(())
    });
}

#[test]
fn the_service_manager_is_told_when_a_reload_begins_and_ends() {
    scenario(|scene| {
        let path = scene.path("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut node = Node::new(scene, "a")?;
        shell(&node.database("notes"), SCHEMA)?;
        node.environment("NOTIFY_SOCKET", &path.display().to_string());
        node.start()?;
        let mut message = [0; 512];
        // How it does is told in between.
        let mut next = || -> Result<String> {
            loop {
                let length = socket.recv(&mut message)?;
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                if !text.starts_with("STATUS=") {
                    return Ok(text);
                }
            }
        };
        check_equal!(next()?.trim(), "READY=1");
        node.read_again()?;
        let begun = next()?;
        let lines: Vec<&str> = begun.lines().collect();
        check!(lines.first() == Some(&"RELOADING=1"), "{begun}");
        let stamp = lines.get(1).and_then(|line| line.strip_prefix("MONOTONIC_USEC="));
        check!(stamp.is_some_and(|stamp| stamp.parse::<u64>().is_ok()), "{begun}");
        check_equal!(next()?.trim(), "READY=1");
        node.stop()?;
        check!(next()?.starts_with("STOPPING=1\n"), "it does not say that it stops");
        Ok(())
    });
}

/// However often it is asked for while one is at work, there is one more, and the daemon stops when it is to.
#[test]
fn a_daemon_that_is_asked_to_stop_while_it_reloads_stops() {
    scenario(|scene: &Scene| {
        let mut cluster = running(scene)?;
        for round in 0..4 {
            let node = &mut cluster.nodes[1];
            node.without_setting(&format!("max_batch_rows = {}", 99 + round));
            node.setting(&format!("max_batch_rows = {}", 100 + round));
            node.write_config()?;
            for _ in 0..=round {
                node.signal(Signal::HangUp)?;
            }
            node.stop()?;
            check_equal!(told(node, "clean=true"), round + 1);
            node.start()?;
            still_in_step(&cluster, 10 * round)?;
        }
        Ok(())
    });
}
