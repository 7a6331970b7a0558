//! The folder of one database's backups under the root: what is in it, who writes to it, what is removed from it.
//!
//! Only one process writes to it at a time. A backup gets its name as the last step, after its checksum has got one: what bears a
//! backup's name is complete, and has a checksum beside it.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use sqlite_store::fail_point;

use super::name::{self, Moment, PARTIAL, SUM};
use super::subject::{Subject, absolute};
use super::told::{Outside, outside};

/// Tells whose backups a folder holds, and is locked by whoever writes to it.
const OWNER: &str = ".database";

/// The longest name of a file that all file systems take, in bytes, less what follows the database's name in it.
const LONGEST: usize = 255 - ".-20261129T035500Z-9999.db.b3.partial".len();

/// How long another backup of the same database is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of backups.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The database's name as that of a file.
    stem: String,
}

/// A backup in it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) moment: Moment,
    pub(crate) path: PathBuf,
    pub(super) bytes: u64,
}

impl Stored {
    /// The file of its checksum.
    pub(crate) fn sum(&self) -> PathBuf {
        sum_of(&self.path)
    }
}

/// The file that holds the checksum of a backup.
pub(crate) fn sum_of(backup: &Path) -> PathBuf {
    let mut path = backup.as_os_str().to_owned();
    path.push(SUM);
    path.into()
}

/// The checksum that was noted beside a backup; none where there is no note.
pub(crate) fn noted_sum(backup: &Path) -> anyhow::Result<Option<String>> {
    let path = sum_of(backup);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(outside("read", &path)(error).into()),
    };
    let text = String::from_utf8_lossy(&bytes);
    let sum = text.split_whitespace().next().unwrap_or_default();
    if sum.len() != 64 || !sum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("{} is damaged: it holds no BLAKE3 checksum", path.display());
    }
    Ok(Some(sum.to_lowercase()))
}

impl Folder {
    /// The folder of a database.
    pub(crate) fn of(root: &Path, database: &str) -> anyhow::Result<Self> {
        let stem = name::encoded(database);
        if stem.len() > LONGEST {
            bail!("{database:?} is too long for the name of a file; give the database another one in sync-engine.toml");
        }
        Ok(Self { path: root.join(&stem), stem })
    }

    /// All folders of backups under a root, with the names of their databases.
    pub(super) fn all(root: &Path) -> Result<Vec<(String, Self)>, Outside> {
        let entries = match std::fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(outside("read", root)(error)),
        };
        let mut folders = Vec::new();
        for entry in entries {
            let path = entry.map_err(outside("read", root))?.path();
            let Some(stem) = path.file_name().and_then(OsStr::to_str).map(str::to_owned) else { continue };
            if let Some(database) = name::decoded(&stem).filter(|_| path.is_dir()) {
                folders.push((database, Self { path, stem }));
            }
        }
        folders.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(folders)
    }

    /// The file whose backups it holds, if that is noted.
    pub(crate) fn source(&self) -> Option<PathBuf> {
        let bytes = std::fs::read(self.path.join(OWNER)).ok()?;
        (!bytes.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(&bytes)))
    }

    /// The backups, the newest first. Whatever else lies in the folder is none.
    pub(crate) fn list(&self) -> Result<Vec<Stored>, Outside> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(outside("read", &self.path)(error)),
        };
        let mut stored = Vec::new();
        for entry in entries {
            let path = entry.map_err(outside("read", &self.path))?.path();
            let moment = path.file_name().and_then(OsStr::to_str).and_then(|file| name::moment(&self.stem, file));
            // What has just been removed is none any more; a folder or a link of that name never was one.
            let metadata = std::fs::symlink_metadata(&path).ok().filter(std::fs::Metadata::is_file);
            if let (Some(moment), Some(metadata)) = (moment, metadata) {
                stored.push(Stored { moment, path, bytes: metadata.len() });
            }
        }
        stored.sort_by(|one, other| other.moment.cmp(&one.moment));
        Ok(stored)
    }

    /// Makes the folder if it is missing, and takes it for one database. What a backup that was killed has left is removed.
    pub(super) fn take(self, subject: &Subject) -> anyhow::Result<Taken> {
        let mut folders = DirBuilder::new();
        folders.recursive(true).mode(0o700).create(&self.path).map_err(outside("create the folder", &self.path))?;
        let path = self.path.join(OWNER);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut owner = options.open(&path).map_err(outside("write", &path))?;
        lock(&owner, &path)?;
        let (source, known) = (absolute(&subject.path), self.source());
        if let Some(other) = known.as_ref().filter(|known| **known != source && known.exists()) {
            bail!(
                "{} holds the backups of {}, which is another database of the same name; choose another root with --root, or give one of \
                 them another name in sync-engine.toml",
                self.path.display(),
                other.display()
            );
        }
        if known.as_ref() != Some(&source) {
            let noted = owner.set_len(0).and_then(|()| owner.write_all(source.as_os_str().as_bytes()));
            noted.map_err(outside("write", &path))?;
        }
        let taken = Taken { folder: self, owner };
        taken.remove_leftovers()?;
        Ok(taken)
    }
}

/// Takes the lock of a folder, which goes with the file.
fn lock(owner: &File, path: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        match owner.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                let folder = path.parent().unwrap_or(path).display();
                bail!(
                    "another backup into {folder} has been going on for {} s; try again when it is over",
                    PATIENCE.as_secs()
                )
            }
            Err(TryLockError::Error(error)) => return Err(outside("lock", path)(error).into()),
        }
    }
}

/// A folder that only this process writes to.
pub(super) struct Taken {
    folder: Folder,
    owner: File,
}

impl Taken {
    /// Where a backup is written before it has a name. Hidden, and removed by the next backup if it stays.
    pub(super) fn partial(&self) -> PathBuf {
        self.folder.path.join(format!(".{}{PARTIAL}", self.folder.stem))
    }

    fn partial_sum(&self) -> PathBuf {
        self.folder.path.join(format!(".{}{SUM}{PARTIAL}", self.folder.stem))
    }

    /// Gives a finished copy its name, and its checksum a place beside it.
    pub(super) fn publish(&self, moment: Moment, checksum: &str) -> Result<Stored, Outside> {
        // Whoever else writes here waits. Later ones of a second come after earlier ones, also where those were removed.
        let same = self.folder.list()?.into_iter().map(|stored| stored.moment);
        let mut moment =
            same.filter(|known| known.is_within_second_of(&moment)).max().map_or(moment, |newest| newest.next());
        let path = |moment: &Moment| self.folder.path.join(name::file(&self.folder.stem, moment));
        // What bears such a name and is no file of ours.
        while path(&moment).symlink_metadata().is_ok() {
            moment = moment.next();
        }
        let path = path(&moment);
        let (partial, sum) = (self.partial_sum(), sum_of(&path));
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let write = || {
            let mut options = OpenOptions::new();
            let mut noted = options.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
            writeln!(noted, "{checksum}  {file}")?;
            noted.sync_all()
        };
        write().map_err(outside("write", &partial))?;
        std::fs::rename(&partial, &sum).map_err(outside("write", &sum))?;
        fail_point("backup-summed");
        self.flush()?;
        std::fs::rename(self.partial(), &path).map_err(outside("write", &path))?;
        fail_point("backup-named");
        self.flush()?;
        let bytes = path.metadata().map_err(outside("read", &path))?.len();
        Ok(Stored { moment, path, bytes })
    }

    /// Removes all but the newest `keep` of this database. The one that has just been made is among those, whatever the clock says; what was made
    /// before the folder was taken for it may be all that there is of another, and stays.
    pub(super) fn prune(&self, made: &Stored, keep: usize) -> Result<Vec<Stored>, Outside> {
        let path = self.folder.path.join(OWNER);
        let taken = self.owner.metadata().and_then(|owner| owner.modified()).map_err(outside("read", &path))?;
        let since = Moment::of(taken);
        let of_this = |stored: &Stored| stored.moment != made.moment && stored.moment >= since;
        let others = self.folder.list()?.into_iter().filter(of_this);
        let removed: Vec<Stored> = others.skip(keep.saturating_sub(1)).collect();
        for stored in &removed {
            remove(&stored.path)?;
            fail_point("backup-pruned");
            remove(&stored.sum())?;
        }
        Ok(removed)
    }

    /// Removes what was written for a backup that did not come about.
    pub(super) fn discard(&self) {
        // What stays is removed by the next backup.
        let _ = remove(&self.partial());
        let _ = remove(&self.partial_sum());
    }

    /// What a backup that was killed has left: its parts, and a checksum without a backup.
    fn remove_leftovers(&self) -> Result<(), Outside> {
        remove(&self.partial())?;
        remove(&self.partial_sum())?;
        let folder = &self.folder.path;
        for entry in std::fs::read_dir(folder).map_err(outside("read", folder))? {
            let path = entry.map_err(outside("read", folder))?.path();
            let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let backup = file.strip_suffix(SUM).filter(|backup| name::moment(&self.folder.stem, backup).is_some());
            if backup.is_some_and(|backup| folder.join(backup).symlink_metadata().is_err()) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Outside> {
        let folder = &self.folder.path;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(outside("flush", folder))
    }
}

fn remove(path: &Path) -> Result<(), Outside> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(outside("remove", path)(error)),
        _ => Ok(()),
    }
}
