//! The files of pairs: which they are, who has them, and where it is remembered what they were. One process at a time has a file.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use sqlite_store::{FileIdentity, attach, connection};

use crate::commands::Misuse;
use crate::commands::databases::OneShot;

/// A file that this process has.
#[derive(Debug)]
pub(super) struct PairFile {
    /// As it was named.
    pub(super) shown: PathBuf,
    /// Where it really is: its name among its peers, by which it is remembered.
    pub(super) real: PathBuf,
    /// What the engine remembers of it.
    pub(super) state: PathBuf,
    /// Held as long as the process works on the file.
    _lock: File,
}

impl PairFile {
    /// The node that the file's engine is.
    pub(super) fn node(&self) -> String {
        node(&self.real)
    }
}

/// A node's name: paths are told from names that people give.
pub(super) fn node(real: &Path) -> String {
    real.to_string_lossy().into_owned()
}

/// Where a file really is, and which one it is.
pub(super) fn find(path: &Path) -> anyhow::Result<(PathBuf, FileIdentity)> {
    let found = path.canonicalize().and_then(|real| Ok((FileIdentity::of(&real)?, real)));
    let (identity, real) = found.with_context(|| {
        format!(
            "cannot find {}; to begin with a copy: sqlite3 FILE \".backup {}\", where FILE is the other one",
            path.display(),
            path.display()
        )
    })?;
    Ok((real, identity))
}

/// Takes a file: nobody else may pair it at the same time, and no daemon may have it.
pub(super) fn take(shown: &Path, real: &Path, root: &Path) -> anyhow::Result<PairFile> {
    let state = folder(root, real);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .with_context(|| format!("cannot create the folder {}; choose another with --state-dir", state.display()))?;
    let lock = lock(&state.join("lock"), shown)?;
    check_owner(shown, real)?;
    Ok(PairFile { shown: shown.to_owned(), real: real.to_owned(), state, _lock: lock })
}

/// The folder of one file: its name, and a number that tells files of one name apart (FNV-1a).
fn folder(root: &Path, real: &Path) -> PathBuf {
    let bytes = real.as_os_str().as_encoded_bytes();
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let name = real.file_stem().unwrap_or_default().to_string_lossy();
    root.join(format!("{name}-{hash:016x}"))
}

fn lock(path: &Path, shown: &Path) -> anyhow::Result<File> {
    let failed = || format!("cannot use {}; choose another folder with --state-dir", path.display());
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(path).with_context(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // Who it is helps, and is not needed.
            let _ = file.read_to_string(&mut owner);
            let owner = if owner.is_empty() { String::new() } else { format!(" (process {owner})") };
            bail!(
                "{} is being paired by another sync-engine pair{owner}; wait for its end, or stop it",
                shown.display()
            );
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "{}", std::process::id()))
        .with_context(failed)?;
    Ok(file)
}

/// A file that is attached under another name than a path is a daemon's.
fn check_owner(shown: &Path, real: &Path) -> anyhow::Result<()> {
    let opened = connection::open(real).and_then(|conn| {
        let owner = attach::attached_as(&conn)?;
        // Else it is found out when the first row is to be written.
        let writable = !conn.is_readonly("main")?;
        Ok((owner, writable))
    });
    let (owner, writable) = opened.map_err(OneShot).with_context(|| format!("cannot open {}", shown.display()))?;
    if !writable {
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        return Err(denied)
            .with_context(|| format!("cannot write {}; let this user write the file and its folder", shown.display()));
    }
    match owner.filter(|node| !node.starts_with('/')) {
        None => Ok(()),
        Some(node) if node.is_empty() => bail!(
            "{} has sync-engine's tables without what is in them, as a copy of an attached file's schema has; remove them with: sync-engine \
             detach {}",
            shown.display(),
            shown.display()
        ),
        Some(node) => bail!(
            "{} is attached by node {node}: a daemon syncs it, or will. Have that daemon sync the other file as well, or detach the file \
             when it has stopped: sync-engine detach {}",
            shown.display(),
            shown.display()
        ),
    }
}

/// Where it is remembered what files were.
pub(super) fn state_root(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || Some(variable("HOME")?.join(".local/state"));
    let found = given.map(Path::to_owned).or_else(|| variable("STATE_DIRECTORY")).or_else(|| {
        let base = variable("XDG_STATE_HOME").or_else(home)?;
        Some(base.join("sync-engine/pair"))
    });
    let Some(root) = found else {
        return Err(Misuse(
            "there is no home folder to remember in which files these are; name a folder with --state-dir".to_owned(),
        )
        .into());
    };
    std::path::absolute(&root).with_context(|| format!("cannot use the folder {}", root.display()))
}
