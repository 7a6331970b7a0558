//! What the machine and other programs do to a file while the daemon is at work on it: each is told once, with a remedy, and is
//! over without a restart once its cause is.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use system_tests::{Cluster, Result, Scene, Signal, Topology, check, check_equal, query_text, scenario, shell};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);";
const FILL: &str = "INSERT INTO note SELECT value, printf('%0200d', value) FROM generate_series(1, 500)";
const AGAIN: &str = "the database works again";
const HELD: &str = "another program has held the lock";

fn running(scene: &Scene) -> Result<Cluster> {
    let mut cluster = Cluster::new(scene, "notes", 2, Topology::Mesh)?;
    cluster.create(SCHEMA)?;
    cluster.start()?;
    shell(cluster.file(0), FILL)?;
    cluster.settled()?;
    Ok(cluster)
}

/// How often a text stands in what the second node logged.
fn told(cluster: &Cluster, text: &str) -> usize {
    cluster.nodes[1].log().matches(text).count()
}

/// For a while, longer than the daemon's pauses, it does not claim that all is well.
fn stays_silent(cluster: &Cluster) -> Result {
    let claim = Scene::within(Duration::from_secs(2), "the claim", || {
        check!(told(cluster, AGAIN) > 0, "nothing is claimed");
        Ok(())
    });
    check!(claim.is_err(), "{}", cluster.nodes[1].log());
    Ok(())
}

/// Makes the first page of the table's tree nonsense, for all who read the file.
fn damage(file: &Path) -> Result {
    let root: u64 = query_text(file, "SELECT rootpage FROM sqlite_schema WHERE name = 'note'")?.parse()?;
    let size: u64 = query_text(file, "PRAGMA page_size")?.parse()?;
    let mut file = std::fs::OpenOptions::new().write(true).open(file)?;
    file.seek(SeekFrom::Start((root - 1) * size))?;
    file.write_all(&vec![0xA5; usize::try_from(size)?])?;
    // The file's change counter: nobody has the page in a cache.
    file.seek(SeekFrom::Start(24))?;
    file.write_all(&u32::MAX.to_be_bytes())?;
    Ok(())
}

#[test]
fn a_malformed_file_is_not_written_until_it_is_restored() {
    scenario(|scene| {
        let cluster = running(scene)?;
        damage(cluster.file(1))?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1001, 'while it is malformed')")?;
        scene.eventually("it is told", || {
            let status = cluster.nodes[1].database_status("notes")?;
            check!(status["errors"][0].as_str().is_some_and(|error| error.starts_with("corrupt: ")), "{status}");
            Ok(())
        })?;
        let malformed = std::fs::read(cluster.file(1))?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1002, 'while it is malformed')")?;
        stays_silent(&cluster)?;
        check!(std::fs::read(cluster.file(1))? == malformed, "the malformed file was written");
        check_equal!(told(&cluster, "kind=corrupt"), 1);
        // From a copy of the peer's, into the file itself.
        let backup = scene.path("backup.db");
        shell(cluster.file(0), &format!(".backup '{}'", backup.display()))?;
        std::fs::write(cluster.file(1), std::fs::read(&backup)?)?;
        scene.eventually("it is told", || {
            check_equal!(told(&cluster, AGAIN), 1);
            Ok(())
        })?;
        shell(cluster.file(1), "INSERT INTO note VALUES (1003, 'since')")?;
        check_equal!(cluster.settled()?.count("note"), 503);
        Ok(())
    });
}

/// Does something while a program holds the second node's write lock, and the daemon has said that it waits.
fn while_locked(scene: &Scene, cluster: &mut Cluster, act: impl FnOnce(&mut Cluster) -> Result) -> Result {
    let file = cluster.file(1).to_owned();
    system_tests::while_locked(scene, &file, "INSERT INTO note VALUES (2001, 'held')", || {
        shell(cluster.file(0), "INSERT INTO note VALUES (2002, 'meanwhile')")?;
        scene.eventually("it is told", || {
            check_equal!(told(cluster, HELD), 1);
            Ok(())
        })?;
        act(cluster)
    })
}

#[test]
fn a_lock_that_is_held_for_long_is_told_once_and_nothing_is_lost() {
    scenario(|scene| {
        let mut cluster = running(scene)?;
        while_locked(scene, &mut cluster, |cluster| stays_silent(cluster))?;
        check_equal!(cluster.settled()?.count("note"), 502);
        scene.eventually("it is told", || {
            check_equal!((told(&cluster, HELD), told(&cluster, AGAIN)), (1, 1));
            Ok(())
        })
    });
}

/// The grace time is shorter than the daemon's patience with a lock.
#[test]
fn a_daemon_that_waits_for_a_lock_stops_within_its_grace_time() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Mesh)?;
        cluster.nodes[1].setting("shutdown_grace = \"2s\"");
        cluster.create(SCHEMA)?;
        cluster.start()?;
        cluster.settled()?;
        while_locked(scene, &mut cluster, |cluster| {
            check_equal!(cluster.nodes[1].end(Signal::Terminate)?.code, Some(0));
            check_equal!(told(cluster, "clean=true"), 1);
            Ok(())
        })?;
        cluster.start()?;
        check_equal!(cluster.settled()?.count("note"), 2);
        Ok(())
    });
}
