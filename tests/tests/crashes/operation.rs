//! While people operate a daemon: it is stopped, its configuration is read again, conflict records are acted on; and while it tidies up.

use system_tests::{
    Cluster, Crash, Crasher, Result, Scene, Signal, Topology, check, check_equal, fail, query_text, run_to_end,
    scenario, shell,
};

use super::load::{self, Load};
use crate::{crash_after, is_sound, nothing_went_wrong, origins_are_kept, seed};

pub(crate) const POINTS: [&str; 14] = [
    "detach-before-commit",
    "fold-begun",
    "folded",
    "prune-before-commit",
    "reload-begun",
    "reload-closed",
    "reload-done",
    "reselect-before-commit",
    "rest-committed",
    "restore-before-commit",
    "restore-committed",
    "stop-begun",
    "stop-databases-closed",
    "stop-links-closed",
];

/// Two nodes in step, each with another journal.
fn in_step(scene: &Scene) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "crash", 2, Topology::Mesh)?;
    cluster.create(&format!("{} CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);", load::SCHEMA))?;
    shell(cluster.file(0), "PRAGMA journal_mode = WAL")?;
    cluster.start()?;
    shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one'), (2, 'two')")?;
    cluster.settled()?;
    Ok(cluster)
}

fn at(name: &'static str) -> Crash {
    Crash::Point(name, 1)
}

/// Stops it, and has it read another configuration.
fn under_load(crasher: &Crasher, cluster: &mut Cluster) -> Result {
    for (round, name) in
        ["stop-begun", "stop-links-closed", "rest-committed", "stop-databases-closed"].into_iter().enumerate()
    {
        let index = round % 2;
        crash_after(crasher, cluster, index, &at(name), |cluster| cluster.nodes[index].signal(Signal::Terminate))?;
    }
    let exclude = "exclude = [\"note\"]";
    for (round, name) in
        ["reload-begun", "reload-closed", "reselect-before-commit", "reload-done"].into_iter().enumerate()
    {
        let index = round % 2;
        crash_after(crasher, cluster, index, &at(name), |cluster| {
            let node = &mut cluster.nodes[index];
            if name == "reload-done" {
                node.without_database_setting(exclude)
            } else {
                node.database_setting(exclude)
            }
            node.write_config()?;
            node.signal(Signal::HangUp)
        })?;
        if name != "reload-closed" {
            cluster.nodes[index].without_database_setting(exclude);
            cluster.nodes[index].reload()?;
            Scene::within(system_tests::DEADLINE, "the database is attached again", || {
                check_equal!(cluster.nodes[index].database_status("crash")?["state"], "attached");
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn a_daemon_is_killed_while_it_stops_or_reads_its_configuration() {
    scenario(|scene| {
        let crasher = Crasher::new(scene);
        let mut cluster = in_step(scene)?;
        let writers = Load::start(scene, &cluster.nodes, seed()?)?;
        under_load(&crasher, &mut cluster)?;
        let written = writers.end()?;
        check_equal!(cluster.settled()?.count("note"), 2);
        cluster.files().into_iter().try_for_each(|file| written.is_in(file))?;
        load::nothing_is_recorded(&cluster)?;
        nothing_went_wrong(&cluster, &[])?;
        origins_are_kept(&cluster)?;
        cluster.stop()
    });
}

/// A program has just written, and does so no more.
#[test]
fn a_daemon_is_killed_while_it_folds_the_write_ahead_log() {
    scenario(|scene| {
        let crasher = Crasher::new(scene);
        let mut cluster = in_step(scene)?;
        // The file itself is written in no other case.
        let places = [at("fold-begun"), at("folded"), Crash::Call("/crash.db$", 1), Crash::Call("/crash.db$", 2)];
        for (round, place) in places.iter().enumerate() {
            crash_after(&crasher, &mut cluster, 0, place, |cluster| {
                let id = 10 + round;
                shell(cluster.file(0), &format!("INSERT INTO note VALUES ({id}, 'new')")).map(drop)
            })?;
        }
        check_equal!(cluster.settled()?.count("note"), 6);
        load::nothing_is_recorded(&cluster)?;
        nothing_went_wrong(&cluster, &[])?;
        cluster.stop()
    });
}

/// Both write a row while they do not know of each other. A node with a record of it that is open, and the record's name.
fn conflict(cluster: &mut Cluster, id: usize, text: &str) -> Result<(usize, String)> {
    cluster.stop()?;
    for index in [0, 1] {
        shell(cluster.file(index), &format!("UPDATE note SET body = '{text} of {index}' WHERE id = {id}"))?;
    }
    cluster.start()?;
    cluster.settled()?;
    for index in [0, 1] {
        let records = cluster.nodes[index].get("/v1/conflicts?state=open&table=note&limit=1")?.json()?;
        if let Some(name) = records[0]["id"].as_str().filter(|_| records[0]["key"]["id"] == id) {
            return Ok((index, name.to_owned()));
        }
    }
    fail!("nobody has a record")
}

/// A record is acted on as a whole or not at all; `acted` tells which.
fn restore(crasher: &Crasher, cluster: &mut Cluster, id: usize, name: &'static str, acted: bool) -> Result {
    let (index, record) = conflict(cluster, id, name)?;
    let body =
        |cluster: &Cluster| query_text(cluster.file(1 - index), &format!("SELECT body FROM note WHERE id = {id}"));
    let before = body(cluster)?;
    let act = format!("/v1/conflicts/{record}/restore");
    crash_after(crasher, cluster, index, &at(name), |cluster| {
        check!(cluster.nodes[index].post(&act).is_err(), "it is answered");
        Ok(())
    })?;
    cluster.settled()?;
    let state = cluster.nodes[index].get(&format!("/v1/conflicts/{record}"))?.json()?["state"].clone();
    check_equal!(state, if acted { "restored" } else { "open" });
    check_equal!(body(cluster)? != before, acted, "what is in the row");
    let again = cluster.nodes[index].post(&act)?.status;
    check_equal!(again, if acted { 409 } else { 200 });
    cluster.settled()?;
    check!(body(cluster)? != before, "it is not restored");
    Ok(())
}

#[test]
fn a_daemon_is_killed_while_a_conflict_is_restored_or_records_are_removed() {
    scenario(|scene| {
        let crasher = Crasher::new(scene);
        let mut cluster = in_step(scene)?;
        restore(&crasher, &mut cluster, 1, "restore-before-commit", false)?;
        restore(&crasher, &mut cluster, 2, "restore-committed", true)?;
        conflict(&mut cluster, 1, "third")?;
        let records = "SELECT count(*) FROM _sync_conflict";
        let several =
            |index: &usize| query_text(cluster.file(*index), records).is_ok_and(|count| count != "0" && count != "1");
        let Some(index) = [0, 1].into_iter().find(several) else { fail!("nobody has more than one record") };
        cluster.nodes[index].setting("[conflicts]\nkeep = 1");
        crash_after(&crasher, &mut cluster, index, &at("prune-before-commit"), |_| Ok(()))?;
        scene.eventually("one record is left", || {
            check_equal!(query_text(cluster.file(index), records)?, "1");
            Ok(())
        })?;
        cluster.settled()?;
        nothing_went_wrong(&cluster, &[])?;
        cluster.stop()
    });
}

#[test]
fn a_file_of_which_a_detach_was_killed_is_attached() {
    scenario(|scene| {
        let crasher = Crasher::new(scene);
        let mut cluster = in_step(scene)?;
        cluster.nodes[0].stop()?;
        let node = &cluster.nodes[0];
        let mut detach = node.command()?;
        detach.envs(crasher.variables(&at("detach-before-commit"))?).arg("detach").arg(node.file());
        check_equal!(run_to_end(&mut detach)?.signal, Some(at("detach-before-commit").signal()));
        is_sound(node.file())?;
        shell(node.file(), "INSERT INTO note VALUES (3, 'three'); DELETE FROM note WHERE id = 1")?;
        cluster.start()?;
        check_equal!(cluster.settled()?.count("note"), 2);
        load::nothing_is_recorded(&cluster)?;
        nothing_went_wrong(&cluster, &[])?;
        origins_are_kept(&cluster)?;
        cluster.stop()
    });
}
