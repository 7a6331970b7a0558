//! Making two files equal: both are kept in step by engines of this process until they are, and what differs all the same is settled.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use sqlite_store::{attach, connection, detach};
use sync_engine::config::{self, Overrides, Settings};
use sync_engine::status::Status;
use sync_engine::{Database, SyncEngine};

use super::comparing::Comparison;
use super::report::Progress;
use super::side::Side;
use crate::cli::Verify;
use crate::commands::daemon::Daemon;
use crate::commands::databases::OneShot;
use crate::commands::environment;

/// What both call the database.
const NAME: &str = "verify";

/// The pause between two looks at how far they are.
const PAUSE: Duration = Duration::from_millis(20);

/// A folder for what the engines remember while they run.
struct Folder(PathBuf);

impl Folder {
    fn create() -> anyhow::Result<Self> {
        let name = format!("sync-engine-verify-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot create the folder {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left there is of no use to anybody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes two files equal. Files that were not attached are not afterwards.
pub(super) async fn repair(first: &Path, second: &Path, arguments: &Verify) -> anyhow::Result<()> {
    let settings = config::load(arguments.place.config.as_deref(), &Overrides::default(), &environment())?;
    let files = [first, second];
    let attached = files.map(is_attached);
    let folder = Folder::create()?;
    let outcome = keep_in_step(files, &settings, &folder, arguments.limit).await;
    for (file, was_attached) in files.into_iter().zip(attached) {
        if !was_attached? {
            let mut conn = connection::open(file).map_err(OneShot)?;
            detach::detach(&mut conn).map_err(OneShot).with_context(|| format!("cannot detach {}", file.display()))?;
        }
    }
    outcome
}

fn is_attached(file: &Path) -> anyhow::Result<bool> {
    let conn = connection::open(file).map_err(OneShot)?;
    Ok(attach::is_attached(&conn).map_err(OneShot)?)
}

async fn keep_in_step(files: [&Path; 2], settings: &Settings, folder: &Folder, limit: usize) -> anyhow::Result<()> {
    let first = engine(files[0], settings, &folder.0.join("first")).await?;
    let second = engine(files[1], settings, &folder.0.join("second")).await?;
    let outcome = settle(&first, &second, limit).await;
    second.stop_realtime_sync().await?;
    first.stop_realtime_sync().await?;
    outcome
}

async fn engine(file: &Path, settings: &Settings, state: &Path) -> anyhow::Result<SyncEngine> {
    let real = file.canonicalize()?;
    let described =
        settings.databases.iter().find(|database| database.path.canonicalize().is_ok_and(|path| path == real));
    let database = described.map_or_else(|| Database::open(file), Database::configured).name(NAME);
    let builder = SyncEngine::builder().node(real.to_string_lossy()).cluster(NAME).state_dir(state);
    Ok(builder.database(database).build().await?)
}

async fn settle(first: &SyncEngine, second: &SyncEngine, limit: usize) -> anyhow::Result<()> {
    let addresses = [first.listen("127.0.0.1:0").await?, second.listen("127.0.0.1:0").await?];
    second.connect(&format!("ws://{}", addresses[0])).await?;
    while !are_in_step(&first.status(), &second.status())? {
        tokio::time::sleep(PAUSE).await;
    }
    let sides = addresses.map(|address| Side::new(Daemon::at(address), NAME));
    let repaired =
        tokio::task::spawn_blocking(move || Comparison::new(&sides, limit, true).run(&mut Progress::new()).map(drop));
    repaired.await?
}

/// Whether both know the same.
fn are_in_step(first: &Status, second: &Status) -> anyhow::Result<bool> {
    for status in [first, second] {
        if let Some(error) = status.databases.iter().flat_map(|database| &database.errors).next() {
            bail!("{}: {error}", status.node);
        }
    }
    let have = |status: &Status| status.databases.first().map(|database| database.have.clone());
    let behind = |status: &Status| status.peers.iter().flat_map(|peer| &peer.databases).any(|one| one.behind > 0);
    let met = first.peers.iter().any(|peer| !peer.databases.is_empty());
    let known = have(first).is_some_and(|have| !have.is_empty()) && have(first) == have(second);
    Ok(met && known && !behind(first) && !behind(second))
}
