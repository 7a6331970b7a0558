//! Making two files equal: both are kept in step by engines of this process until they are, and what differs all the same is settled.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use sqlite_store::{attach, connection};
use sync_engine::config::{self, Overrides, Settings};
use sync_engine::{Database, SyncEngine};

use super::comparing::Comparison;
use super::side::Side;
use crate::cli::Verify;
use crate::commands::databases::{self, OneShot};
use crate::commands::environment;
use crate::commands::in_step::{Couple, Standing};
use crate::commands::progress::Progress;
use crate::commands::signals::{HangUp, Signals};

/// What both call the database.
const NAME: &str = "verify";

/// How long nothing has to move until no more is waited for.
const STALLED: Duration = Duration::from_secs(15);

/// A folder for what the engines remember while they run.
struct Folder(PathBuf);

impl Folder {
    fn create() -> anyhow::Result<Self> {
        let name = format!("sync-engine-verify-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        // Rows that are on their way are kept in it.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create the folder {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left there is of no use to anybody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes two files equal. Neither is attached afterwards.
///
/// # Errors
/// One is attached: then a daemon syncs it, or will, and is to do this under the name that it has among its peers.
pub(super) async fn repair(first: &Path, second: &Path, arguments: &Verify) -> anyhow::Result<()> {
    let settings = config::load(arguments.place.config.as_deref(), &Overrides::default(), &environment())?;
    let files = [first, second];
    for file in files {
        let conn = connection::open(file).map_err(OneShot)?;
        if attach::is_attached(&conn).map_err(OneShot)? {
            bail!(
                "{} is attached: a daemon is to sync it. Let that make it equal, with: sync-engine verify NAME --peer URL --repair; \
                 or detach the file first, with: sync-engine detach {}",
                file.display(),
                file.display()
            );
        }
    }
    let signals = Signals::register(HangUp::Stops)?;
    let folder = Folder::create()?;
    let outcome = keep_in_step(files, &settings, &folder, arguments.limit, &signals).await;
    let detached = files.map(detach_one);
    outcome?;
    detached.into_iter().collect()
}

fn detach_one(file: &Path) -> anyhow::Result<()> {
    databases::detach_one(file)
        .map(drop)
        .with_context(|| format!("do it by hand: sync-engine detach {}", file.display()))
}

/// No engine runs any more when this ends, whatever comes of it: one that did would attach its file again.
async fn keep_in_step(
    files: [&Path; 2],
    settings: &Settings,
    folder: &Folder,
    limit: usize,
    signals: &Signals,
) -> anyhow::Result<()> {
    let first = engine(files[0], settings, &folder.0.join("first")).await?;
    let outcome = match engine(files[1], settings, &folder.0.join("second")).await {
        Ok(second) => {
            let outcome = tokio::select! {
                outcome = settle(&first, &second, limit) => outcome,
                () = signals.stop() => Err(anyhow::anyhow!("interrupted; the files may not be equal yet")),
            };
            outcome.and(second.stop_realtime_sync().await.map_err(Into::into))
        }
        Err(error) => Err(error),
    };
    outcome.and(first.stop_realtime_sync().await.map_err(Into::into))
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
    let couple = Couple::link([first, second], NAME)?;
    match couple.settle(STALLED).await {
        Standing::Failed(error) => bail!("{error}"),
        // What hinders them is found when the rows are compared.
        Standing::Equal | Standing::Written | Standing::Stalled(_) => {}
    }
    let runtime = tokio::runtime::Handle::current();
    let sides = couple.sides().map(|verifier| Side::here(verifier, runtime.clone()));
    let repaired =
        tokio::task::spawn_blocking(move || Comparison::new(&sides, limit, true).run(&mut Progress::new()).map(drop));
    repaired.await?
}
