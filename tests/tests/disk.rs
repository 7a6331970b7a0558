//! The disk under a daemon's files is full, broken, or not to be written: the database that is on it stops and says why, with a
//! remedy, once; other databases and other nodes go on; and when the cause is gone it goes on by itself, with nothing lost.

use std::path::PathBuf;

use system_tests::{
    DiskFault, Machine, Node, Result, Scene, check, check_equal, check_integrity, query_text, same_contents, scenario,
    shell,
};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);";
const AGAIN: &str = "the database works again";

/// Two nodes, the second on a machine that may fail, with the databases "here" and "beside".
struct Scenery<'s> {
    scene: &'s Scene,
    machine: Machine,
    nodes: [Node; 2],
    here: [PathBuf; 2],
    beside: [PathBuf; 2],
}

impl<'s> Scenery<'s> {
    fn new(scene: &'s Scene, journal: &str) -> Result<Self> {
        let mut nodes = [Node::new(scene, "a")?, Node::new(scene, "b")?];
        let here = nodes.each_mut().map(|node| node.database("here"));
        let beside = nodes.each_mut().map(|node| node.database("beside"));
        for file in here.iter().chain(&beside) {
            shell(file, &format!("PRAGMA journal_mode = {journal}; {SCHEMA}"))?;
        }
        let url = nodes[0].url();
        nodes[1].peer_url(&url);
        let machine = Machine::new(scene, "b")?;
        machine.carries(&mut nodes[1]);
        Ok(Self { scene, machine, nodes, here, beside })
    }

    fn start(&mut self) -> Result {
        self.nodes.iter_mut().try_for_each(Node::start)
    }

    fn told(&self, text: &str) -> usize {
        self.nodes[1].log().matches(text).count()
    }

    /// Awaits that the second node shows why its database stands still.
    fn stands_still(&self, kind: &str) -> Result {
        self.scene.eventually("it is told", || {
            let status = self.nodes[1].database_status("here")?;
            check!(status["errors"][0].as_str().is_some_and(|it| it.starts_with(&format!("{kind}: "))), "{status}");
            check_equal!(status["state"].as_str(), Some("failed"));
            check_equal!(self.told(&format!("kind={kind} ")), 1, "{}", self.nodes[1].log());
            Ok(())
        })
    }

    /// Rows that arrive in the other database of both nodes.
    fn others_go_on(&self, id: u32) -> Result {
        shell(&self.beside[0], &format!("INSERT INTO note VALUES ({id}, 'there')"))?;
        shell(&self.beside[1], &format!("INSERT INTO note VALUES ({}, 'here')", id + 1))?;
        let beside = self.beside.each_ref().map(PathBuf::as_path);
        self.scene.eventually("the other database is equal", || {
            check!(same_contents(&beside)?.count("note") > id as usize, "rows are missing");
            Ok(())
        })
    }

    fn write_much(&self, node: usize, from: u32) -> Result {
        let rows = format!("generate_series({from}, {})", from + 499);
        shell(&self.here[node], &format!("INSERT INTO note SELECT value, printf('%02000d', value) FROM {rows}"))
            .map(drop)
    }

    /// Awaits that all is well, and both files hold so many rows.
    fn is_over(&self, rows: usize) -> Result {
        self.scene.eventually("it works again", || {
            check_equal!(self.told(AGAIN), 1);
            let here = self.here.each_ref().map(PathBuf::as_path);
            check_equal!(same_contents(&here)?.count("note"), rows);
            let status = self.nodes[1].status()?;
            check_equal!(status["healthy"].as_bool(), Some(true), "{status}");
            Ok(())
        })?;
        self.here.iter().chain(&self.beside).try_for_each(|file| check_integrity(file))
    }
}

fn fails_and_recovers(journal: &str, fault: DiskFault, kind: &str, remedy: &str) {
    scenario(|scene| {
        let mut it = Scenery::new(scene, journal)?;
        it.start()?;
        it.write_much(0, 1)?;
        it.others_go_on(1)?;
        it.scene.eventually("the rows arrive", || {
            check_equal!(query_text(&it.here[1], "SELECT count(*) FROM note")?, "500");
            Ok(())
        })?;
        it.machine.disk(fault, "here.db")?;
        // From a peer, and from an application on the spot that comes through.
        it.write_much(0, 1_001)?;
        it.write_much(1, 2_001)?;
        it.stands_still(kind)?;
        check!(it.nodes[1].log().contains(remedy), "{}", it.nodes[1].log());
        it.others_go_on(3)?;
        it.machine.disk(fault, "")?;
        it.is_over(1_500)
    });
}

#[test]
fn a_full_disk_under_a_write_ahead_log() {
    fails_and_recovers("WAL", DiskFault::Full, "full", "free space on the disk");
}

#[test]
fn a_full_disk_under_a_rollback_journal() {
    fails_and_recovers("DELETE", DiskFault::Full, "full", "free space on the disk");
}

#[test]
fn a_broken_disk_under_a_write_ahead_log() {
    fails_and_recovers("WAL", DiskFault::Broken, "io", "check the disk and the file system");
}

#[test]
fn a_broken_disk_under_a_rollback_journal() {
    fails_and_recovers("DELETE", DiskFault::Broken, "io", "check the disk and the file system");
}

/// The files are there at the start, and may not be used.
fn cannot_be_used(fault: DiskFault, kind: &str, remedy: &str) {
    scenario(|scene| {
        let mut it = Scenery::new(scene, "WAL")?;
        it.write_much(1, 1)?;
        it.machine.disk(fault, "here.db")?;
        it.start()?;
        it.write_much(0, 1_001)?;
        it.stands_still(kind)?;
        check!(it.nodes[1].log().contains(remedy), "{}", it.nodes[1].log());
        it.others_go_on(1)?;
        it.machine.disk(fault, "")?;
        it.is_over(1_000)
    });
}

#[test]
fn a_file_that_may_not_be_written() {
    cannot_be_used(DiskFault::ReadOnly, "read_only", "let the daemon's user write the file and its folder");
}

#[test]
fn a_file_that_may_not_be_opened() {
    cannot_be_used(DiskFault::Denied, "missing", "the daemon needs to read and write the file and its folder");
}

/// The state folder is what a later start needs; sync does not.
#[test]
fn a_full_disk_under_the_state_folder_does_not_stop_sync() {
    scenario(|scene| {
        let mut it = Scenery::new(scene, "WAL")?;
        it.start()?;
        it.others_go_on(1)?;
        // To attach a file the daemon needs the folder.
        it.scene.eventually("both are attached", || {
            it.nodes.iter().try_for_each(|node| {
                check_equal!(node.database_status("here")?["state"].as_str(), Some("attached"));
                Ok(())
            })
        })?;
        it.machine.disk(DiskFault::Full, "/state/")?;
        it.write_much(0, 1)?;
        it.write_much(1, 1_001)?;
        it.others_go_on(3)?;
        let here = it.here.each_ref().map(PathBuf::as_path);
        it.scene.eventually("all arrives", || {
            check_equal!(same_contents(&here)?.count("note"), 1_000);
            Ok(())
        })?;
        it.machine.disk(DiskFault::Full, "")?;
        it.nodes[1].stop()?;
        it.nodes[1].start()?;
        it.write_much(0, 2_001)?;
        it.scene.eventually("all arrives", || {
            check_equal!(same_contents(&here)?.count("note"), 1_500);
            Ok(())
        })
    });
}

#[test]
fn a_file_that_is_deleted_under_the_daemon_is_waited_for() {
    scenario(|scene| {
        let mut it = Scenery::new(scene, "DELETE")?;
        it.start()?;
        it.write_much(0, 1)?;
        it.scene.eventually("the rows arrive", || {
            check_equal!(query_text(&it.here[1], "SELECT count(*) FROM note")?, "500");
            Ok(())
        })?;
        std::fs::remove_file(&it.here[1])?;
        it.scene.eventually("it is told", || {
            check_equal!(it.nodes[1].database_status("here")?["state"].as_str(), Some("missing"));
            Ok(())
        })?;
        it.write_much(0, 1_001)?;
        it.others_go_on(1)?;
        check!(!it.here[1].exists(), "the daemon made a file");
        // The application starts over.
        shell(&it.here[1], SCHEMA)?;
        it.write_much(1, 2_001)?;
        let here = it.here.each_ref().map(PathBuf::as_path);
        it.scene.eventually("it is given everything", || {
            check_equal!(same_contents(&here)?.count("note"), 1_500);
            Ok(())
        })
    });
}
