//! Two engines in one process keep two files at the same rows; one of them decides conflicts by a function of its own.
//!
//! Run with `cargo run -p sync-engine --example two_nodes`.

use std::time::Duration;

use sqlite_store::sample::{self, Application};
use sync_engine::{ApplyDecision, Database, Resolution, ResolverPolicy, Side, SyncEngine};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("sync-engine-example-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let (here, there) = (folder.join("here.db"), folder.join("there.db"));
    sample::create(&here, true)?;
    sample::create(&there, false)?;

    // Of two concurrent versions of a row, the longer one stands; both nodes must say the same.
    let policy = || {
        ResolverPolicy::new(|conflict| {
            let size = |side: Side<'_>| side.values.map_or(0, |row| format!("{row:?}").len());
            if size(conflict.remote) > size(conflict.local) { Resolution::TakeRemote } else { Resolution::KeepLocal }
        })
    };

    let server = SyncEngine::builder()
        .node("here")
        .state_dir(folder.join("here-state"))
        .database(Database::open(&here).name("shop").table("stock", policy()))
        .log_hook(|event| println!("here: {event}"))
        .build()
        .await?;
    let address = server.listen("127.0.0.1:0").await?;

    let client = SyncEngine::builder()
        .node("there")
        .state_dir(folder.join("there-state"))
        .database(Database::open(&there).name("shop").table("stock", policy()))
        .build()
        .await?;
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(64);
    client
        .open_websocket(&format!("ws://{address}"), move |change| {
            println!("there <- {} {} {}", change.op, change.table, change.key);
            // The callback must not wait; what does not fit is simply not counted.
            let _ = arrived.try_send(());
            ApplyDecision::Apply
        })
        .await?;

    let mut application = Application::open(&here, "here")?;
    println!("the application {}", application.step()?);
    for _ in 0..8 {
        tokio::time::timeout(Duration::from_secs(10), arrivals.recv()).await?;
    }

    client.stop_realtime_sync().await?;
    server.stop_realtime_sync().await?;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
