//! Tables that a node and a peer have in common: made and compared once, and copied for each run.

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use system_tests::{Node, Result, Scene, check};

use super::group::Group;
use crate::application::{self, Work};
use crate::nodes::{await_quiet, await_that};

/// The pause between two looks at how far the nodes are with the comparison.
const PAUSE: Duration = Duration::from_millis(50);

/// The folder of the tables, once there is one. It goes with this.
#[derive(Default)]
pub(crate) struct Kept(RefCell<Option<Scene>>);

/// The files of one table.
pub(super) struct Files {
    /// That is not synced.
    pub(super) plain: PathBuf,
    pub(super) writer: PathBuf,
    pub(super) peer: PathBuf,
}

impl Kept {
    /// The files of a table with so many rows.
    pub(super) fn files(&self, rows: u64) -> Result<Files> {
        let mut kept = self.0.borrow_mut();
        let scene = match &mut *kept {
            Some(scene) => scene,
            none => none.insert(Scene::new()?),
        };
        let file = |what: &str| scene.path(format!("{rows}-{what}.db"));
        let files = Files { plain: file("plain"), writer: file("writer"), peer: file("peer") };
        if !files.peer.exists() {
            files.make(&scene.room()?, rows)?;
        }
        Ok(files)
    }
}

impl Files {
    /// Both nodes begin with a copy of the same file, and so they have nothing to send: they find out by fingerprints.
    fn make(&self, scene: &Scene, rows: u64) -> Result {
        application::create(&self.plain)?;
        Work::Insert.on(&self.plain, 1, rows)?;
        let mut group = Group::new(scene, 1, 1)?;
        for node in [&group.writer, &group.peers[0]] {
            copy(&self.plain, node.file())?;
        }
        group.start()?;
        let database = |node: &Node| node.database_status("shop-0");
        await_that(PAUSE, || {
            let (ours, theirs) = (database(&group.writer)?, database(&group.peers[0])?);
            // Each gives all rows a number of its own before they compare.
            let numbered = |status: &serde_json::Value| status["sequence"].as_u64().is_some_and(|last| last >= rows);
            Ok(numbered(&ours) && numbered(&theirs) && ours["have"] == theirs["have"])
        })?;
        await_quiet(&[&group.writer, &group.peers[0]])?;
        let made = [group.writer.file().to_owned(), group.peers[0].file().to_owned()];
        group.finish()?;
        for (made, kept) in made.iter().zip([&self.writer, &self.peer]) {
            check!(
                !made.with_extension("db-wal").exists(),
                "{} has a log that it would be kept without",
                made.display()
            );
            std::fs::rename(made, kept)?;
        }
        Ok(())
    }
}

/// Copies a file onto the disk: what is measured then does not wait until the disk has taken it.
pub(super) fn copy(from: &Path, to: &Path) -> Result {
    std::fs::copy(from, to)?;
    Ok(File::open(to)?.sync_all()?)
}
