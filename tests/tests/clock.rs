//! A machine's clock is wrong, jumps, and is put right: nothing is lost and nothing comes back, and whoever is ahead is told.

use std::time::Duration;

use system_tests::{
    Cluster, Machine, Result, Scene, Topology, check, check_equal, query_text, same_contents, scenario, shell,
};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);";
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Two nodes, the second on a machine of its own.
fn cluster(scene: &Scene) -> Result<(Cluster, Machine)> {
    let mut cluster = Cluster::new(scene, "notes", 2, Topology::Line)?;
    let machine = Machine::new(scene, "b")?;
    machine.carries(&mut cluster.nodes[1]);
    cluster.create(SCHEMA)?;
    shell(cluster.file(0), "INSERT INTO note VALUES (1, 'first')")?;
    Ok((cluster, machine))
}

fn body(cluster: &Cluster, node: usize, id: u32) -> Result<String> {
    query_text(cluster.file(node), &format!("SELECT body FROM note WHERE id = {id}"))
}

#[test]
fn a_clock_that_jumps_back_loses_no_change() {
    scenario(|scene| {
        let (mut cluster, machine) = cluster(scene)?;
        cluster.start()?;
        machine.shell(cluster.file(1), "INSERT INTO note VALUES (2, 'before')")?;
        cluster.settled()?;
        machine.clock_behind(40 * DAY)?;
        scene.eventually("it is told", || {
            check!(cluster.nodes[1].log().contains("it is behind, or was ahead"), "{}", cluster.nodes[1].log());
            Ok(())
        })?;
        // What it writes later wins over what it knew.
        machine.shell(cluster.file(1), "UPDATE note SET body = 'after' WHERE id IN (1, 2)")?;
        machine.shell(cluster.file(1), "INSERT INTO note VALUES (3, 'after')")?;
        scene.eventually("the other node has it", || {
            check_equal!((body(&cluster, 0, 1)?, body(&cluster, 0, 3)?), ("after".to_owned(), "after".to_owned()));
            Ok(())
        })?;
        // What others write is from its future: it waits, and is told.
        shell(cluster.file(0), "UPDATE note SET body = 'other' WHERE id = 2")?;
        scene.eventually("it is told", || {
            check!(cluster.nodes[1].log().contains("kind=clock_skew"), "{}", cluster.nodes[1].log());
            Ok(())
        })?;
        check_equal!(body(&cluster, 1, 2)?, "after");
        machine.clock_behind(Duration::ZERO)?;
        check_equal!(cluster.settled()?.count("note"), 3);
        check_equal!(body(&cluster, 1, 2)?, "other");
        Ok(())
    });
}

#[test]
fn a_clock_that_is_a_little_ahead_is_nothing_to_speak_of() {
    scenario(|scene| {
        let (mut cluster, machine) = cluster(scene)?;
        machine.clock_ahead(Duration::from_secs(50))?;
        cluster.start()?;
        machine.shell(cluster.file(1), "INSERT INTO note VALUES (2, 'ahead')")?;
        cluster.settled()?;
        machine.clock_ahead(Duration::ZERO)?;
        for round in 0..3 {
            machine.shell(cluster.file(1), &format!("UPDATE note SET body = 'b {round}' WHERE id = 1"))?;
            cluster.settled()?;
            shell(cluster.file(0), &format!("UPDATE note SET body = 'a {round}' WHERE id = 1"))?;
            cluster.settled()?;
            check_equal!(body(&cluster, 1, 1)?, format!("a {round}"));
        }
        let conflicts = cluster.nodes[0].database_status("notes")?["conflicts"].clone();
        check_equal!(conflicts.as_u64(), Some(0));
        check!(!cluster.nodes[0].log().contains("clock_skew"), "{}", cluster.nodes[0].log());
        Ok(())
    });
}

#[test]
fn what_a_clock_far_ahead_stamped_arrives_when_the_clock_is_right_again() {
    scenario(|scene| {
        let (mut cluster, machine) = cluster(scene)?;
        cluster.start()?;
        cluster.settled()?;
        machine.clock_ahead(9 * HOUR)?;
        machine.shell(
            cluster.file(1),
            "INSERT INTO note VALUES (2, 'ahead'); UPDATE note SET body = 'ahead' WHERE id = 1",
        )?;
        scene.eventually("the other node refuses it, and says so", || {
            check!(cluster.nodes[0].log().contains("kind=clock_skew"), "{}", cluster.nodes[0].log());
            Ok(())
        })?;
        check_equal!(query_text(cluster.file(0), "SELECT count(*) FROM note")?, "1");
        shell(cluster.file(0), "INSERT INTO note VALUES (3, 'meanwhile')")?;
        scene.eventually("others' changes arrive at the node that is ahead", || {
            check_equal!(body(&cluster, 1, 3)?, "meanwhile");
            Ok(())
        })?;
        machine.clock_ahead(Duration::ZERO)?;
        check_equal!(cluster.settled()?.count("note"), 3);
        check_equal!(body(&cluster, 0, 1)?, "ahead");
        // And the node is one like others again: the later write wins.
        shell(cluster.file(0), "UPDATE note SET body = 'later' WHERE id IN (1, 2)")?;
        cluster.settled()?;
        machine.shell(cluster.file(1), "UPDATE note SET body = 'last' WHERE id = 2")?;
        cluster.settled()?;
        check_equal!((body(&cluster, 1, 1)?, body(&cluster, 0, 2)?), ("later".to_owned(), "last".to_owned()));
        Ok(())
    });
}

/// Deletions are forgotten after a time by the clock. A clock that jumps past it forgets them early, and who missed them is told all
/// the same.
#[test]
fn a_clock_that_jumps_past_the_horizon_brings_nothing_back() {
    scenario(|scene| {
        let (mut cluster, machine) = cluster(scene)?;
        for node in &mut cluster.nodes {
            node.setting("upkeep_interval = \"200ms\"");
        }
        cluster.start()?;
        cluster.settled()?;
        cluster.nodes[0].stop()?;
        machine.shell(cluster.file(1), "DELETE FROM note WHERE id = 1; INSERT INTO note VALUES (2, 'kept')")?;
        let kept = |cluster: &Cluster| -> Result<Option<u64>> {
            Ok(cluster.nodes[1].database_status("notes")?["tombstones"]["kept"].as_u64())
        };
        scene.eventually("the deletion is remembered", || {
            check_equal!(kept(&cluster)?, Some(1));
            Ok(())
        })?;
        // Without a restart it is a day by another clock until it is looked at.
        cluster.nodes[1].stop()?;
        machine.clock_ahead(40 * DAY)?;
        cluster.nodes[1].start()?;
        scene.eventually("and forgotten", || {
            check_equal!(kept(&cluster)?, Some(0));
            Ok(())
        })?;
        machine.clock_ahead(Duration::ZERO)?;
        shell(cluster.file(0), "INSERT INTO note VALUES (3, 'written while away')")?;
        cluster.nodes[0].start()?;
        check_equal!(cluster.settled()?.count("note"), 2);
        check_equal!(query_text(cluster.file(0), "SELECT group_concat(id) FROM note")?, "2,3");
        same_contents(&cluster.files()).map(drop)
    });
}
