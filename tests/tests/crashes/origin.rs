//! While a file leaves its origin, because it is another one or an older state of itself.

use std::path::PathBuf;

use system_tests::{Cluster, Crash, Crasher, Result, Scene, Topology, check, check_equal, query_text, scenario, shell};

use super::load::{self, Load};
use crate::{crash, crash_after, nothing_went_wrong, seed};

pub(crate) const POINTS: [&str; 4] =
    ["origin-before-commit", "origin-committed", "outrun-before-commit", "origin-left"];

/// Two nodes in step, each with another journal.
fn in_step(scene: &Scene) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "crash", 2, Topology::Mesh)?;
    cluster.create(&format!("{} CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);", load::SCHEMA))?;
    shell(cluster.file(0), "PRAGMA journal_mode = WAL")?;
    cluster.start()?;
    shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one')")?;
    cluster.settled()?;
    Ok(cluster)
}

fn origins(cluster: &Cluster, index: usize) -> usize {
    cluster.nodes[index].log().lines().filter(|line| line.contains(" origin=")).count()
}

/// Both hold these notes, and all that programs wrote.
fn ends_with(cluster: &Cluster, notes: &str) -> Result {
    cluster.settled()?;
    check_equal!(query_text(cluster.file(1), "SELECT group_concat(id) FROM (SELECT id FROM note ORDER BY id)")?, notes);
    load::nothing_is_recorded(cluster)?;
    nothing_went_wrong(cluster, &[])
}

#[test]
fn a_daemon_is_killed_while_a_file_in_the_place_of_another_gets_its_origin() {
    scenario(|scene| {
        let crasher = Crasher::new(scene);
        let mut cluster = in_step(scene)?;
        let mut notes = "1".to_owned();
        for (round, (index, name)) in [(0, "origin-before-commit"), (1, "origin-committed")].into_iter().enumerate() {
            let writers = Load::start(scene, &cluster.nodes[1 - index..=1 - index], seed()? + round as u64)?;
            cluster.nodes[index].stop()?;
            let copy = scene.path("copy.db");
            std::fs::copy(cluster.file(index), &copy)?;
            std::fs::rename(&copy, cluster.file(index))?;
            shell(cluster.file(index), &format!("INSERT INTO note VALUES ({}, 'new')", round + 2))?;
            notes.push_str(&format!(",{}", round + 2));
            crash(&crasher, &mut cluster.nodes[index], &Crash::Point(name, 1))?;
            cluster.start()?;
            let written = writers.end()?;
            ends_with(&cluster, &notes)?;
            check!(origins(&cluster, index) > 0, "node {} goes on under its origin", cluster.nodes[index].name());
            check!(written.rows() > 0, "nothing was written");
        }
        cluster.stop()
    });
}

#[test]
fn a_daemon_is_killed_while_a_file_that_is_an_older_one_leaves_its_origin() {
    scenario(|scene| {
        let crasher = Crasher::new(scene);
        let mut cluster = in_step(scene)?;
        for (round, (index, name)) in [(0, "outrun-before-commit"), (1, "origin-left")].into_iter().enumerate() {
            let first = 10 * (round + 1);
            cluster.stop()?;
            let state = std::fs::read_dir(cluster.nodes[index].path("state"))?.map(|file| Ok(file?.path()));
            let files: Vec<PathBuf> = state.chain([Ok(cluster.file(index).to_owned())]).collect::<Result<_>>()?;
            let snapshot: Vec<Vec<u8>> = files.iter().map(std::fs::read).collect::<std::io::Result<_>>()?;
            cluster.start()?;
            let lost =
                format!("INSERT INTO note SELECT value, 'lost here' FROM generate_series({first}, {})", first + 4);
            shell(cluster.file(index), &lost)?;
            cluster.settled()?;
            cluster.stop()?;
            files.iter().zip(&snapshot).try_for_each(|(file, bytes)| std::fs::write(file, bytes))?;
            crash_after(&crasher, &mut cluster, index, &Crash::Point(name, 1), |cluster| {
                shell(cluster.file(index), &format!("INSERT INTO note VALUES ({}, 'new')", first + 5))?;
                scene.eventually("it is captured", || system_tests::log_is_drained(cluster.file(index)))?;
                cluster.nodes[1 - index].start()
            })?;
            let notes: Vec<String> =
                (1..=round + 1).flat_map(|it| 10 * it..10 * it + 6).map(|id| id.to_string()).collect();
            ends_with(&cluster, &format!("1,{}", notes.join(",")))?;
            check!(origins(&cluster, index) <= 1, "it has left its origin more than once");
        }
        cluster.stop()
    });
}
