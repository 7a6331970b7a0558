//! `sync-engine demo`: two nodes on two sample files in one process, each with an application that writes to it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use sqlite_store::sample::{self, Application};

use crate::commands::say;
use crate::commands::signals::{HangUp, Signals};
use sync_engine::{ApplyDecision, ChangeEvent, Database, SyncEngine};

/// The two shops.
const SHOPS: [&str; 2] = ["berlin", "oslo"];

/// The pause between an application's transactions.
const PACE: Duration = Duration::from_millis(1500);

/// Runs until Ctrl-C.
pub(crate) async fn run(folder: &Path, listen: &str) -> anyhow::Result<ExitCode> {
    let signals = Signals::register(HangUp::Stops)?;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}; choose another with --dir", folder.display()))?;
    let files = SHOPS.map(|shop| folder.join(format!("{shop}.db")));
    sample::create(&files[0], true)?;
    sample::create(&files[1], false)?;
    let berlin = node(SHOPS[0], &files[0], folder).await?;
    let oslo = node(SHOPS[1], &files[1], folder).await?;
    let address = berlin.listen(listen).await?;
    oslo.connect(&format!("ws://{address}")).await?;
    explain(&files, &address.to_string());
    let mut applications = Vec::new();
    for (shop, file) in SHOPS.iter().zip(&files) {
        applications.push((*shop, Arc::new(Mutex::new(Application::open(file, shop)?))));
    }
    let mut turn = 0_usize;
    loop {
        tokio::select! {
            () = signals.stop() => break,
            () = tokio::time::sleep(PACE) => {}
        }
        let (shop, application) = &applications[turn % applications.len()];
        turn += 1;
        let application = Arc::clone(application);
        let done =
            tokio::task::spawn_blocking(move || application.lock().unwrap_or_else(PoisonError::into_inner).step());
        match done.await? {
            Ok(done) => say(&format!("{shop:>8} app   {done}")),
            Err(error) => say(&format!("{shop:>8} app   could not write: {error}")),
        }
    }
    say("stopping …");
    oslo.stop_realtime_sync().await?;
    berlin.stop_realtime_sync().await?;
    say(&format!("stopped; both files are in {}", folder.display()));
    Ok(ExitCode::SUCCESS)
}

async fn node(shop: &'static str, file: &Path, folder: &Path) -> anyhow::Result<SyncEngine> {
    let engine = SyncEngine::builder()
        .node(shop)
        .cluster("demo")
        .state_dir(folder.join(format!("{shop}-state")))
        .database(Database::open(file).name("shop"))
        .apply_callback(move |change| {
            say(&arrival(shop, change));
            ApplyDecision::Apply
        })
        .build()
        .await?;
    Ok(engine)
}

/// One line for a change that arrived at `shop`.
fn arrival(shop: &str, change: &ChangeEvent) -> String {
    let mut line = format!("{shop:>8} <-    {} {} {}", change.op, change.table, change.key);
    if let Some(row) = &change.row {
        for column in change.changed.iter().filter(|column| change.key.get(column).is_none()) {
            let value = row.get(column).unwrap_or(&serde_json::Value::Null);
            line.push_str(&format!(" {column}={value}"));
        }
    }
    line.push_str(&format!("  (from {})", change.node));
    line
}

fn explain(files: &[PathBuf; 2], address: &str) {
    say(&format!(
        "Two nodes, {} and {}, keep these files at the same rows:\n\n    {}\n    {}\n\n\
         An application writes to each now and then. Write to either yourself, and watch it arrive:\n\n    \
         sqlite3 {} \"UPDATE stock SET qty = 99 WHERE sku = 'A-1'\"\n    \
         sqlite3 {} \"SELECT * FROM stock\"\n\n\
         Status page: http://{address}/      Stop: Ctrl-C\n",
        SHOPS[0],
        SHOPS[1],
        files[0].display(),
        files[1].display(),
        for_shell(&files[1]),
        for_shell(&files[0]),
    ));
}

/// A path as a shell takes it for one word.
fn for_shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.chars().all(|c| c.is_alphanumeric() || "/._-+:@%".contains(c));
    if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
