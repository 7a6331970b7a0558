//! SIGTERM, whatever the daemon is at: it ends within its grace time with 0, what it was at is done or undone, and the next start
//! goes on with it.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use system_tests::{
    Cluster, Node, Result, Scene, Signal, Topology, check, check_equal, check_integrity, contents, query_text,
    scenario, shell, while_locked,
};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);";
const DEADLINE: Duration = Duration::from_secs(180);

/// The daemons' grace time. A clean end within it is told as such in the log.
const GRACE: &str = "shutdown_grace = \"15s\"";

/// Two nodes with the table; the first has rows, more than one transaction takes. The second dials it.
fn one_full(scene: &Scene, rows: usize) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "notes", 2, Topology::Star)?;
    for node in &mut cluster.nodes {
        node.setting(GRACE);
    }
    cluster.create(SCHEMA)?;
    fill(&cluster, 1..=rows)?;
    Ok(cluster)
}

/// Writes rows into the first node's file.
fn fill(cluster: &Cluster, rows: RangeInclusive<usize>) -> Result {
    let (first, last) = (rows.start(), rows.end());
    let series = format!("generate_series({first}, {last})");
    shell(cluster.file(0), &format!("INSERT INTO note SELECT value, printf('%0100d', value) FROM {series}")).map(drop)
}

/// Stops a node and checks that it ended in order.
fn stop_in_order(node: &mut Node) -> Result {
    let ends = |node: &Node, text: &str| node.log().matches(text).count();
    let before = ends(node, "clean=true");
    let finished = node.end(Signal::Terminate)?;
    check_equal!(finished.code, Some(0), "{}", finished.stderr);
    check_equal!((ends(node, "clean=true"), ends(node, "clean=false")), (before + 1, 0));
    check_integrity(node.file())
}

/// Starts what was stopped and awaits that both files hold all rows.
fn goes_on(cluster: &mut Cluster, rows: usize) -> Result {
    cluster.start()?;
    check_equal!(cluster.settled_within(DEADLINE)?.count("note"), rows);
    Ok(())
}

fn number(file: &Path, sql: &str) -> Result<usize> {
    Ok(query_text(file, sql)?.parse()?)
}

#[test]
fn while_the_rows_of_before_are_made_known() {
    scenario(|scene| {
        const ROWS: usize = 120_000;
        let mut cluster = one_full(scene, ROWS)?;
        cluster.start()?;
        let known = "SELECT count(*) FROM _sync_clock_note";
        scene.eventually("some are", || {
            check!(number(cluster.file(0), known)? > 0, "none is");
            Ok(())
        })?;
        stop_in_order(&mut cluster.nodes[0])?;
        let done = number(cluster.file(0), known)?;
        // Where it is seen late, all of them may be.
        check!((1..=ROWS).contains(&done), "{done} of {ROWS}");
        goes_on(&mut cluster, ROWS)
    });
}

/// Stops one of the two while a long catch-up is on its way: of rows that were written while the other one was down.
fn stop_during_catch_up(scene: &Scene, stopped: usize) -> Result {
    const ROWS: usize = 120_000;
    const MET: usize = 10;
    let mut cluster = one_full(scene, MET)?;
    for node in &mut cluster.nodes {
        // So many batches that the first ones are met long before the last.
        node.setting("max_batch_rows = 2000");
    }
    cluster.start()?;
    check_equal!(cluster.settled_within(DEADLINE)?.count("note"), MET);
    stop_in_order(&mut cluster.nodes[1])?;
    fill(&cluster, MET + 1..=ROWS)?;
    cluster.start()?;
    scene.eventually("a part of it is staged", || {
        check!(cluster.nodes[1].staged()? > 1 << 17, "nothing yet");
        Ok(())
    })?;
    stop_in_order(&mut cluster.nodes[stopped])?;
    check_equal!(number(cluster.file(1), "SELECT count(*) FROM note")?, MET);
    goes_on(&mut cluster, ROWS)
}

#[test]
fn while_a_long_catch_up_is_sent() {
    scenario(|scene| stop_during_catch_up(scene, 0));
}

#[test]
fn while_a_long_catch_up_is_received() {
    scenario(|scene| stop_during_catch_up(scene, 1));
}

#[test]
fn while_a_long_catch_up_is_merged() {
    scenario(|scene| {
        const ROWS: usize = 120_000;
        let mut cluster = one_full(scene, ROWS)?;
        // Else the reader below may wait until all is merged.
        shell(cluster.file(1), "PRAGMA journal_mode = WAL")?;
        cluster.start()?;
        let merged = "SELECT count(*) FROM note";
        Scene::within(DEADLINE, "some rows are merged", || {
            check!(number(cluster.file(1), merged)? > 0, "none is");
            Ok(())
        })?;
        stop_in_order(&mut cluster.nodes[1])?;
        let done = number(cluster.file(1), merged)?;
        // Where it is seen late, all of them may be.
        check!((1..=ROWS).contains(&done), "{done} of {ROWS}");
        goes_on(&mut cluster, ROWS)
    });
}

#[test]
fn while_a_peer_is_dialed_that_is_not_there() {
    scenario(|scene| {
        let mut cluster = one_full(scene, 10)?;
        cluster.nodes[1].start()?;
        scene.eventually("it waits before it dials again", || {
            let status = cluster.nodes[1].status()?;
            check_equal!(status["peers"][0]["state"], "waiting");
            Ok(())
        })?;
        stop_in_order(&mut cluster.nodes[1])?;
        goes_on(&mut cluster, 10)
    });
}

/// It cannot attach the file yet. The grace time is shorter than its patience with a lock.
#[test]
fn while_it_starts_and_another_program_holds_the_lock() {
    scenario(|scene| {
        let mut cluster = one_full(scene, 10)?;
        for node in &mut cluster.nodes {
            node.without_setting(GRACE);
            node.setting("shutdown_grace = \"2s\"");
        }
        let file = cluster.file(0).to_owned();
        while_locked(scene, &file, "INSERT INTO note VALUES (2001, 'held')", || {
            let node = &mut cluster.nodes[0];
            node.start()?;
            check_equal!(node.database_status("notes")?["state"], "opening");
            check_equal!(node.end(Signal::Terminate)?.code, Some(0));
            check_equal!(node.log().matches("clean=true").count(), 1);
            Ok(())
        })?;
        goes_on(&mut cluster, 11)
    });
}

/// From the moment on at which it minds signals, which is before it opens its log.
#[test]
fn before_it_is_ready() {
    scenario(|scene| {
        let mut cluster = one_full(scene, 10)?;
        for _ in 0..10 {
            cluster.nodes[0].launch()?;
            let folder = cluster.nodes[0].path("logs");
            scene.eventually("the log is there", || Ok(std::fs::metadata(&folder).map(drop)?))?;
            check_equal!(cluster.nodes[0].end(Signal::Terminate)?.code, Some(0));
            check_equal!(cluster.nodes[0].log().matches("clean=false").count(), 0);
            check_integrity(cluster.file(0))?;
            std::fs::rename(&folder, folder.with_extension("old")).or_else(|_| std::fs::remove_dir_all(&folder))?;
        }
        goes_on(&mut cluster, 10)
    });
}

/// The hook holds up the end for two seconds.
#[test]
fn a_second_signal_ends_it_at_once_and_nothing_is_lost() {
    scenario(|scene| {
        let mut cluster = one_full(scene, 10)?;
        let hook = "hook = [\"sleep\", \"30\"]";
        cluster.nodes[0].log_setting(hook);
        cluster.start()?;
        cluster.settled()?;
        shell(cluster.file(0), "INSERT INTO note VALUES (11, 'last')")?;
        cluster.nodes[0].signal(Signal::Terminate)?;
        scene.eventually("it is about to end", || {
            check!(cluster.nodes[0].log().contains("clean=true"), "{}", cluster.nodes[0].log());
            Ok(())
        })?;
        check_equal!(cluster.nodes[0].end(Signal::Interrupt)?.code, Some(130));
        check_integrity(cluster.file(0))?;
        check_equal!(contents(cluster.file(0))?.count("note"), 11);
        cluster.start()?;
        check_equal!(cluster.settled()?.count("note"), 11);
        Ok(())
    });
}
