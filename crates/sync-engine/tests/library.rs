//! The library: callbacks, hooks, policies, and engines without a database.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;
use sync_engine::verification::{Ask, Found};
use sync_engine::{
    ApplyDecision, ChangeEvent, ConflictError, ConflictFilter, Database, EngineError, EventName, Resolution,
    ResolverPolicy, SyncEngine, TriggerRule, VerifyError,
};
use tempfile::TempDir;

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, label TEXT)";

/// A folder with the files of two nodes.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn file(&self, node: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{node}.db"));
        if !path.exists() {
            open(&path).execute_batch(SCHEMA).unwrap();
        }
        path
    }

    fn builder(&self, node: &str) -> sync_engine::SyncEngineBuilder {
        SyncEngine::builder()
            .node(node)
            .state_dir(self.folder.path().join(format!("{node}-state")))
            .poll_interval(Duration::from_millis(100))
    }

    fn database(&self, node: &str) -> Database {
        Database::open(self.file(node)).name("shop")
    }
}

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::from_secs(20)).unwrap();
    conn
}

fn write(path: &Path, sql: &str) {
    open(path).execute_batch(sql).unwrap();
}

fn quantity(path: &Path, sku: &str) -> Option<i64> {
    open(path).query_row("SELECT qty FROM stock WHERE sku = ?1", [sku], |row| row.get(0)).ok()
}

/// Waits until `reached` holds; the deadline only ends a test that has failed.
async fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(tokio::time::Instant::now() < deadline, "not reached: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An engine on `a` that listens, with its address.
async fn listening(scene: &Scene) -> (SyncEngine, String) {
    let engine = scene.builder("a").database(scene.database("a")).build().await.unwrap();
    let address = engine.listen("127.0.0.1:0").await.unwrap();
    (engine, format!("ws://{address}"))
}

async fn stop(engines: [SyncEngine; 2]) {
    for engine in engines {
        engine.stop_realtime_sync().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_apply_callback_sees_each_change_once_and_with_its_particulars() {
    let scene = Scene::new();
    let (a, url) = listening(&scene).await;
    let b = scene.builder("b").database(scene.database("b")).build().await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::<ChangeEvent>::new()));
    let noted = Arc::clone(&seen);
    b.open_websocket(&url, move |change| {
        noted.lock().unwrap().push(change.clone());
        ApplyDecision::Apply
    })
    .await
    .unwrap();
    write(&scene.file("a"), "INSERT INTO stock VALUES ('A-1', 7, 'cup')");
    eventually("the insert arrives", || quantity(&scene.file("b"), "A-1") == Some(7)).await;
    write(&scene.file("a"), "UPDATE stock SET qty = 8 WHERE sku = 'A-1'");
    eventually("the update arrives", || quantity(&scene.file("b"), "A-1") == Some(8)).await;
    write(&scene.file("a"), "DELETE FROM stock");
    eventually("the deletion arrives", || quantity(&scene.file("b"), "A-1").is_none()).await;
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.iter().map(|change| change.op).collect::<Vec<_>>(), ["insert", "update", "delete"]);
    assert_eq!(seen[1].key, json!({ "sku": "A-1" }));
    assert_eq!(seen[1].changed, ["qty"]);
    assert_eq!(seen[1].row.as_ref().unwrap()["qty"], 8);
    assert_eq!((seen[1].database.as_str(), seen[1].table.as_str()), ("shop", "stock"));
    assert!(!seen[1].local && seen[2].row.is_none());
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_that_fails_or_panics_is_asked_again() {
    let scene = Scene::new();
    let (a, url) = listening(&scene).await;
    let b = scene.builder("b").database(scene.database("b")).build().await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    b.open_websocket(&url, move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => panic!("on purpose"),
        1 => ApplyDecision::Fail("not yet".to_owned()),
        _ => ApplyDecision::Apply,
    })
    .await
    .unwrap();
    write(&scene.file("a"), "INSERT INTO stock VALUES ('A-1', 7, 'cup')");
    eventually("the third answer lets it in", || quantity(&scene.file("b"), "A-1") == Some(7)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_callback_skips_or_replaces_ends_the_same_on_all_nodes() {
    let scene = Scene::new();
    let (a, url) = listening(&scene).await;
    let b = scene.builder("b").database(scene.database("b")).build().await.unwrap();
    write(&scene.file("b"), "INSERT INTO stock VALUES ('kept', 1, 'b')");
    b.open_websocket(&url, |change| {
        let quantity = change.row.as_ref().and_then(|row| row.get("qty")?.as_i64());
        match (change.key["sku"].as_str(), quantity) {
            (Some("kept"), Some(2)) => ApplyDecision::Skip,
            (Some("refused"), _) => ApplyDecision::Skip,
            (Some("capped"), Some(100)) => ApplyDecision::Replace(json!({ "qty": 10 }).as_object().unwrap().clone()),
            _ => ApplyDecision::Apply,
        }
    })
    .await
    .unwrap();
    eventually("the first row arrives", || quantity(&scene.file("a"), "kept") == Some(1)).await;
    write(
        &scene.file("a"),
        "UPDATE stock SET qty = 2 WHERE sku = 'kept';
         INSERT INTO stock VALUES ('refused', 3, 'a'), ('capped', 100, 'a')",
    );
    for node in ["a", "b"] {
        let file = scene.file(node);
        eventually("the skipped update is undone", || quantity(&file, "kept") == Some(1)).await;
        eventually("the refused row is gone", || quantity(&file, "refused").is_none()).await;
        eventually("the capped row is capped", || quantity(&file, "capped") == Some(10)).await;
    }
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_of_the_program_decides_conflicts_alike_on_both_nodes() {
    let scene = Scene::new();
    let larger = || {
        ResolverPolicy::new(|conflict| {
            let quantity = |side: sync_engine::Side<'_>| side.values.map(|row| row[1].clone());
            if quantity(conflict.remote) > quantity(conflict.local) {
                Resolution::TakeRemote
            } else {
                Resolution::KeepLocal
            }
        })
    };
    write(&scene.file("a"), "INSERT INTO stock VALUES ('A-1', 900, 'older and larger')");
    write(&scene.file("b"), "INSERT INTO stock VALUES ('A-1', 5, 'newer and smaller')");
    let conflicts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&conflicts);
    let a = scene.builder("a").database(scene.database("a").table("stock", larger())).build().await.unwrap();
    let b = scene
        .builder("b")
        .database(scene.database("b").table("stock", larger()))
        .log_hook(move |event| {
            if matches!(event.name, EventName::ConflictApply | EventName::ConflictSkip | EventName::ConflictMerge) {
                count.fetch_add(1, Ordering::SeqCst);
            }
            panic!("a hook that always panics");
        })
        .build()
        .await
        .unwrap();
    let address = a.listen("127.0.0.1:0").await.unwrap();
    b.connect(&format!("ws://{address}")).await.unwrap();
    for node in ["a", "b"] {
        let file = scene.file(node);
        eventually("the larger quantity stands", || quantity(&file, "A-1") == Some(900)).await;
    }
    eventually("both know the same", || {
        let vectors = [&a, &b].map(|engine| engine.status().databases[0].have.clone());
        vectors[0] == vectors[1]
    })
    .await;
    assert_eq!(quantity(&scene.file("a"), "A-1"), Some(900));
    assert_eq!(quantity(&scene.file("b"), "A-1"), Some(900));
    stop([a, b]).await;
    assert!(conflicts.load(Ordering::SeqCst) <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_acts_on_conflict_records_and_says_how_many_are_kept() {
    let scene = Scene::new();
    write(&scene.file("a"), "INSERT INTO stock VALUES ('A-1', 1, 'a'), ('A-2', 1, 'a'), ('A-3', 1, 'a')");
    write(&scene.file("b"), "INSERT INTO stock VALUES ('A-1', 2, 'b'), ('A-2', 2, 'b'), ('A-3', 2, 'b')");
    let keeping = |node: &str| scene.builder(node).database(scene.database(node)).keep_conflicts(2);
    let a = keeping("a").build().await.unwrap();
    let b = keeping("b").build().await.unwrap();
    let address = a.listen("127.0.0.1:0").await.unwrap();
    b.connect(&format!("ws://{address}")).await.unwrap();
    let open = |engine: &SyncEngine| engine.status().databases[0].conflicts;
    eventually("two records are kept", || open(&a) == 2 || open(&b) == 2).await;
    let decider = if open(&a) == 2 { &a } else { &b };
    let records = decider.conflicts(&ConflictFilter::default()).await.unwrap();
    assert_eq!(records.iter().map(|record| record.id.as_str()).collect::<Vec<_>>(), ["shop:3", "shop:2"]);
    let lost = records[0].loser.as_ref().unwrap().row.as_ref().unwrap()["qty"].as_i64();
    let restored = decider.restore_conflict("3").await.unwrap();
    assert_eq!((restored.state.as_str(), &restored.key), ("restored", &records[0].key));
    let sku = restored.key["sku"].as_str().unwrap();
    for node in ["a", "b"] {
        let file = scene.file(node);
        eventually("the lost row is back", || quantity(&file, sku) == lost).await;
    }
    decider.dismiss_conflict("shop:2").await.unwrap();
    assert_eq!(open(decider), 0);
    assert_eq!(decider.conflict("shop:2").await.unwrap().state, "dismissed");
    let again = decider.restore_conflict("shop:2").await.unwrap_err();
    assert!(matches!(again, ConflictError::Refused { .. }), "{again}");
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_without_a_database_sees_everything_and_goes_on_where_it_was() {
    let scene = Scene::new();
    let (a, url) = listening(&scene).await;
    write(&scene.file("a"), "INSERT INTO stock VALUES ('A-1', 1, 'x'), ('A-2', 2, 'y')");
    let seen = Arc::new(Mutex::new(Vec::new()));
    for round in 0..2 {
        let subscriber = scene.builder("listener").build().await.unwrap();
        let noted = Arc::clone(&seen);
        subscriber
            .open_websocket(&url, move |change| {
                noted.lock().unwrap().push((change.op, change.key["sku"].as_str().unwrap().to_owned()));
                ApplyDecision::Apply
            })
            .await
            .unwrap();
        if round == 1 {
            write(&scene.file("a"), "DELETE FROM stock WHERE sku = 'A-1'");
        }
        let wanted = 2 + round;
        eventually("the changes are seen", || seen.lock().unwrap().len() == wanted).await;
        eventually("the progress is kept", || {
            let (ours, theirs) = (subscriber.status(), a.status());
            ours.databases.first().is_some_and(|database| database.have == theirs.databases[0].have)
        })
        .await;
        subscriber.stop_realtime_sync().await.unwrap();
    }
    let mut seen = seen.lock().unwrap().clone();
    seen[..2].sort();
    let wanted = [("insert", "A-1"), ("insert", "A-2"), ("delete", "A-1")];
    assert_eq!(seen, wanted.map(|(op, sku)| (op, sku.to_owned())));
    a.stop_realtime_sync().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_refused_with_the_reason() {
    let scene = Scene::new();
    let twice = scene.builder("a").database(scene.database("a")).database(scene.database("b")).build().await;
    assert!(matches!(twice, Err(EngineError::DuplicateDatabase { .. })));
    let engine = scene.builder("a").database(scene.database("a")).build().await.unwrap();
    for url in ["", "oslo", "http://oslo:1", "ws://"] {
        let error = engine.connect(url).await.unwrap_err();
        assert!(matches!(error, EngineError::Url { .. }), "{url:?}: {error}");
    }
    assert!(matches!(engine.listen("0.0.0.0:0").await, Err(EngineError::NotLoopback { .. })));
    assert!(matches!(engine.listen("no address").await, Err(EngineError::Listen { .. })));
    engine.stop_realtime_sync().await.unwrap();
}

#[tokio::test]
async fn a_program_numbers_its_keys_and_decides_about_triggers() {
    let scene = Scene::new();
    let file = scene.file("a");
    write(
        &file,
        "CREATE TABLE note (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT); CREATE TABLE log (line TEXT);
         CREATE TRIGGER logs AFTER INSERT ON note BEGIN INSERT INTO log VALUES (NEW.body); END",
    );
    let database = || scene.database("a").trigger("LOGS", TriggerRule::Skip);
    let refused = scene.builder("a").database(database().key_ranges(0)).build().await.unwrap_err();
    assert!(matches!(refused, EngineError::KeyRanges { number: 0, .. }), "{refused}");
    let engine = scene.builder("a").database(database().key_ranges(2)).build().await.unwrap();
    eventually("it is attached", || !engine.status().databases[0].triggers.is_empty()).await;
    let shown = engine.status().databases[0].triggers[0].clone();
    assert_eq!((shown.trigger.as_str(), shown.on_apply.as_str()), ("logs", "skip"));
    let conn = open(&file);
    conn.execute("INSERT INTO note (body) VALUES ('x')", []).unwrap();
    assert_eq!(conn.last_insert_rowid(), 4 << 20 | 1);
    engine.stop_realtime_sync().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_and_peers_come_and_go_while_an_engine_runs() {
    let scene = Scene::new();
    let rows = |node: &str| -> u32 {
        open(&scene.file(node)).query_row("SELECT count(*) FROM stock", [], |row| row.get(0)).unwrap()
    };
    let berlin = scene.builder("berlin").database(scene.database("berlin")).build().await.unwrap();
    let address = berlin.listen("127.0.0.1:0").await.unwrap();
    let oslo = scene.builder("oslo").database(scene.database("oslo")).build().await.unwrap();
    let url = format!("ws://{address}");
    oslo.connect(&url).await.unwrap();
    write(&scene.file("berlin"), "INSERT INTO stock VALUES ('A', 1, 'one')");
    eventually("the row is there", || rows("oslo") == 1).await;

    assert!(matches!(oslo.add_database(scene.database("oslo")), Err(EngineError::DuplicateDatabase { .. })));
    assert!(oslo.remove_database("shop").await && !oslo.remove_database("shop").await);
    assert!(oslo.status().databases.is_empty());
    write(&scene.file("oslo"), "INSERT INTO stock VALUES ('B', 2, 'two')");
    write(&scene.file("berlin"), "INSERT INTO stock VALUES ('C', 3, 'three')");
    oslo.add_database(scene.database("oslo")).unwrap();
    for node in ["berlin", "oslo"] {
        eventually("all rows are there", || rows(node) == 3).await;
    }

    assert!(oslo.disconnect(&url) && !oslo.disconnect(&url));
    eventually("they are parted", || oslo.status().peers.is_empty() && berlin.status().peers.is_empty()).await;
    assert!(berlin.stop_listening(address) && !berlin.stop_listening(address));
    eventually("nobody listens", || std::net::TcpListener::bind(address).is_ok()).await;
    let subscriber = scene.builder("tail").build().await.unwrap();
    assert!(matches!(subscriber.add_database(scene.database("tail")), Err(EngineError::Subscriber { .. })));
    for engine in [berlin, oslo, subscriber] {
        engine.stop_realtime_sync().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_of_one_process_are_linked_without_a_network() {
    let scene = Scene::new();
    let [a, b] = ["a", "b"].map(|node| scene.file(node));
    write(&a, "INSERT INTO stock VALUES ('A-1', 7, 'cup')");
    let first = scene.builder("a").database(scene.database("a")).build().await.unwrap();
    let second = scene.builder("b").database(scene.database("b")).build().await.unwrap();
    first.link(&second).unwrap();
    eventually("the row is there", || quantity(&b, "A-1") == Some(7)).await;
    write(&b, "UPDATE stock SET qty = 8; INSERT INTO stock VALUES ('B-1', 1, NULL)");
    eventually("and back", || quantity(&a, "A-1") == Some(8) && quantity(&a, "B-1") == Some(1)).await;
    let known = || [&first, &second].map(|engine| engine.status().databases[0].have.clone());
    eventually("both know the same", || known()[0] == known()[1]).await;
    let status = first.status();
    assert_eq!((status.peers.len(), status.peers[0].node.as_deref()), (1, Some("b")));
    let written = status.databases[0].written;
    assert_eq!((written.inserted, written.updated, written.deleted), (1, 1, 0));
    let verifier = first.verifier("shop");
    let told = verifier.ask(Ask::Tables).await.unwrap();
    assert!(matches!(told.found, Found::Tables(tables) if tables[0].name == "stock"));
    assert!(matches!(first.verifier("none").ask(Ask::Tables).await, Err(VerifyError::NoDatabase(_))));
    // The one that goes on links again with nobody, and ends all the same.
    second.stop_realtime_sync().await.unwrap();
    eventually("the session is over", || first.status().peers.iter().all(|peer| peer.databases.is_empty())).await;
    write(&a, "DELETE FROM stock");
    first.stop_realtime_sync().await.unwrap();
    assert!(matches!(verifier.ask(Ask::Tables).await, Err(VerifyError::Store(_))));
}
