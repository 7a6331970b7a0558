//! What the daemon tells the service manager: a socket stands in for systemd's.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use system_tests::{
    Cluster, DEADLINE, Failure, Node, Result, Scene, Signal, Topology, check, check_equal, query_text, scenario, shell,
    while_locked,
};

const SCHEMA: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT);";

/// Where the daemon tells what it has to tell.
struct Manager {
    told: Receiver<Told>,
    path: PathBuf,
}

/// What was told in one message.
#[derive(Debug, Clone)]
struct Told(String);

impl Manager {
    fn new(scene: &Scene) -> Result<Self> {
        let path = scene.path("notify");
        let socket = UnixDatagram::bind(&path)?;
        let (sender, told) = std::sync::mpsc::channel();
        // It takes at once what comes, as systemd does, and ends with the test.
        std::thread::spawn(move || {
            let mut text = [0; 4096];
            while let Ok(size) = socket.recv(&mut text) {
                if sender.send(Told(String::from_utf8_lossy(&text[..size]).into_owned())).is_err() {
                    return;
                }
            }
        });
        Ok(Self { told, path })
    }

    /// Has a node talk to it, under a watchdog of so many microseconds.
    fn of(&self, node: &mut Node, watchdog: &str) {
        node.environment("NOTIFY_SOCKET", &self.path.display().to_string());
        node.environment("WATCHDOG_USEC", watchdog);
    }

    fn next(&self) -> Result<Told> {
        Ok(self.told.recv_timeout(DEADLINE)?)
    }

    /// The next message of which this holds, and those before it.
    fn until(&self, what: &str, holds: impl Fn(&Told) -> bool) -> Result<(Told, Vec<Told>)> {
        let begun = Instant::now();
        let mut others = Vec::new();
        while begun.elapsed() < DEADLINE {
            let told = self.next()?;
            if holds(&told) {
                return Ok((told, others));
            }
            others.push(told);
        }
        Err(Failure::new(format!("{what} was not told, but {others:?}")))
    }

    /// Awaits that the watchdog is fed so many times.
    fn fed(&self, times: usize) -> Result {
        (0..times).try_for_each(|_| self.until("that it is alive", Told::is_alive).map(drop))
    }
}

impl Told {
    fn has(&self, line: &str) -> bool {
        self.0.lines().any(|told| told == line)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }

    fn is_alive(&self) -> bool {
        self.has("WATCHDOG=1")
    }

    fn complains_of(&self, part: &str) -> bool {
        self.value("STATUS").is_some_and(|line| line.starts_with(&format!("no sign of life from {part}")))
    }
}

#[test]
fn its_life_is_told_from_the_start_to_the_end() {
    scenario(|scene| {
        let manager = Manager::new(scene)?;
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        manager.of(&mut cluster.nodes[0], "2000000");
        cluster.nodes[0].setting("shutdown_grace = \"15s\"");
        cluster.start()?;
        let (_, before) = manager.until("that it is ready", |told| told.has("READY=1"))?;
        check!(before.is_empty(), "{before:?}");
        manager.fed(3)?;
        let peers = "1 database; 1 of 1 peers connected; worst lag 0 ms";
        manager.until("how it does", |told| told.value("STATUS") == Some(peers))?;

        cluster.nodes[0].signal(Signal::HangUp)?;
        let (told, _) = manager.until("that it reads its configuration", |told| told.has("RELOADING=1"))?;
        let at = told.value("MONOTONIC_USEC").and_then(|at| at.parse::<u64>().ok());
        check!(at > Some(0), "{told:?}");
        manager.until("that this is over", |told| told.has("READY=1"))?;

        cluster.nodes[0].stop()?;
        let (told, _) = manager.until("that it stops", |told| told.has("STOPPING=1"))?;
        check_equal!(told.value("EXTEND_TIMEOUT_USEC"), Some("25000000"), "{told:?}");
        Ok(())
    });
}

/// A part stands still, and goes on.
fn stands_still(place: &str, part: impl Fn(&Node) -> String) {
    scenario(|scene| {
        let manager = Manager::new(scene)?;
        let mut node = Node::new(scene, "a")?;
        shell(&node.database("notes"), SCHEMA)?;
        let hangs = scene.path("hangs");
        manager.of(&mut node, "1000000");
        node.environment("SYNC_ENGINE_HANG_POINT", &format!("{place}={}", hangs.display()));
        node.start()?;
        manager.fed(3)?;
        let part = part(&node);

        fs::write(&hangs, "")?;
        manager.until("that it stands still", |told| told.complains_of(&part))?;
        for _ in 0..5 {
            let told = manager.next()?;
            check!(told.complains_of(&part) && !told.is_alive(), "fed all the same: {told:?}");
        }
        let is_told = |event: &str| {
            let log = node.log();
            let told = log.lines().filter(|line| line.contains(event) && line.contains(" kind=watchdog "));
            check_equal!(told.filter(|line| line.contains(&part)).count(), 1, "{log}");
            Ok(())
        };
        scene.eventually("the log tells it once", || is_told(" sync_error "))?;

        fs::remove_file(&hangs)?;
        manager.fed(3)?;
        scene.eventually("the log tells that it is back", || is_told(" sync_complete "))?;
        node.stop()
    });
}

#[test]
fn a_database_whose_thread_stands_still_is_not_vouched_for() {
    stands_still("worker", |_| "database notes".to_owned());
}

#[test]
fn a_listener_that_stands_still_is_not_vouched_for() {
    stands_still("accept", |node| format!("listener 127.0.0.1:{}", node.port()));
}

/// For longer than the watchdog would wait for a sign of life.
#[test]
fn who_waits_for_an_applications_lock_is_alive() {
    scenario(|scene| {
        let manager = Manager::new(scene)?;
        let mut node = Node::new(scene, "a")?;
        let file = node.database("notes");
        shell(&file, SCHEMA)?;
        manager.of(&mut node, "2000000");
        node.start()?;
        scene.eventually("it is attached", || {
            check_equal!(node.database_status("notes")?["state"], "attached");
            Ok(())
        })?;
        shell(&file, "INSERT INTO note VALUES (1, 'one')")?;
        while_locked(scene, &file, "INSERT INTO note VALUES (2, 'two')", || {
            let begun = Instant::now();
            let mut fed = 0;
            while begun.elapsed() < Duration::from_secs(4) {
                let told = manager.next()?;
                check!(!told.0.contains("no sign of life"), "{told:?}");
                fed += usize::from(told.is_alive());
            }
            check!(fed > 0, "not fed at all");
            Ok(())
        })?;
        node.stop()
    });
}

/// One row's trigger takes longer than the watchdog would wait for a sign of life.
#[test]
fn a_long_statement_is_alive() {
    scenario(|scene| {
        let manager = Manager::new(scene)?;
        let mut cluster = Cluster::new(scene, "notes", 2, Topology::Line)?;
        cluster.create(SCHEMA)?;
        shell(
            cluster.file(1),
            "CREATE TABLE many (i); INSERT INTO many SELECT value FROM generate_series(1, 600); CREATE TABLE seen (id, count);
             CREATE TRIGGER takes_long AFTER INSERT ON note BEGIN
               INSERT INTO seen SELECT NEW.id, count(*) FROM many, many, many;
             END",
        )?;
        manager.of(&mut cluster.nodes[1], "2000000");
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO note VALUES (1, 'one')")?;
        scene.eventually("the trigger has run", || {
            check_equal!(query_text(cluster.file(1), "SELECT coalesce(max(count), 0) FROM seen")?, "216000000");
            Ok(())
        })?;
        cluster.nodes[1].stop()?;
        let (_, mut complaints) = manager.until("that it stops", |told| told.has("STOPPING=1"))?;
        complaints.retain(|told| told.0.contains("no sign of life"));
        check!(complaints.is_empty(), "{complaints:?}");
        Ok(())
    });
}

/// Whoever does not read what it is told does not hold the daemon up.
#[test]
fn a_service_manager_that_stands_still_holds_nothing_up() {
    scenario(|scene| {
        let path = scene.path("notify");
        let _unread = UnixDatagram::bind(&path)?;
        let mut node = Node::new(scene, "a")?;
        shell(&node.database("notes"), SCHEMA)?;
        node.environment("NOTIFY_SOCKET", &path.display().to_string());
        node.environment("WATCHDOG_USEC", "20000");
        node.start()?;
        scene.eventually("it has told more than is taken", || {
            check!(node.status()?["uptime_seconds"].as_u64() >= Some(2), "not yet");
            Ok(())
        })?;
        node.reload()?;
        node.stop()
    });
}
