//! The slow poll of databases at rest: one thread looks by `stat` whether any of their files was written since, and wakes the
//! threads of those that were. So a hundred databases that nobody uses cost some system calls a second, not a hundred threads that wake.
//!
//! A file's times tell of a write only where the file system keeps them exactly and they have grown old: a second write within the same
//! tick of the clock, which is up to two seconds long, leaves them as they are. So only files that have been left alone for longer
//! than that are watched over, and only on file systems of this machine. A write that is not committed when its file is looked at may be
//! committed without another write, in memory that writers share; whoever posts a database sees to it that no write is under way.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::watch::Wake;

/// How old the times of a file must be to tell of the next write: more than the coarsest tick, which is FAT's.
const TICK: Duration = Duration::from_secs(3);

/// Where a file's times and sizes are known to tell of every write at once, by the numbers that Linux gives file systems: ext2 to ext4,
/// XFS, Btrfs, tmpfs, F2FS, ZFS, bcachefs, overlayfs. Those of other machines may be told late.
const LOCAL: [u32; 8] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010, 0x2FC1_2FC1, 0xCA45_1A4E, 0x794C_7630];

/// A database's file and its write-ahead log. A rollback journal tells nothing: whoever commits with one has written to the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files([PathBuf; 2]);

/// What the files of a database were like at some moment; none for those that were not there, and for a log that is empty: whoever reads
/// makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen([Option<Traces>; 2]);

/// What tells whether a file was written since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Traces {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Files {
    /// Those of the database at `path`. SQLite has the log beside the file that a link leads to.
    pub(crate) fn of(path: &Path) -> Self {
        let mut log = path.canonicalize().unwrap_or_else(|_| path.to_owned()).into_os_string();
        log.push("-wal");
        Self([path.to_owned(), log.into()])
    }

    /// What they are like now, by `stat` alone.
    pub(crate) fn seen(&self) -> Seen {
        let [file, log] = self.0.each_ref().map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some(Traces {
                file: (metadata.dev(), metadata.ino()),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            })
        });
        Seen([file, log.filter(|log| log.size > 0)])
    }

    /// Whether they are where their times can be relied on.
    pub(crate) fn are_local(&self) -> bool {
        is_local(&self.0[0])
    }
}

impl Seen {
    /// Whether nothing but the database's closing lies between: whoever is the last to close it removes the log, which is empty.
    pub(crate) fn is_after_closing(&self, before: &Self) -> bool {
        let Self([file, log]) = self;
        *file == before.0[0] && (log.is_none() || *log == before.0[1])
    }

    /// Whether a write from now on would show. Not where a time is ahead of the clock: who knows which comes next.
    pub(crate) fn is_old(&self, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(SystemTime::UNIX_EPOCH) else { return false };
        let latest = self.0.iter().flatten().map(|traces| traces.modified.0.max(traces.changed.0)).max();
        // The parts of a second are left out on both sides, which takes a second more.
        latest.is_some_and(|latest| now.as_secs().cast_signed().saturating_sub(latest) > TICK.as_secs().cast_signed())
    }
}

#[cfg(target_os = "linux")]
fn is_local(file: &Path) -> bool {
    rustix::fs::statfs(file).is_ok_and(|system| u32::try_from(system.f_type).is_ok_and(|kind| LOCAL.contains(&kind)))
}

#[cfg(not(target_os = "linux"))]
fn is_local(_file: &Path) -> bool {
    // What its numbers mean is not known here.
    LOCAL.is_empty()
}

/// A database at rest.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) files: Files,
    /// What they were like when everything in them had been looked at.
    pub(crate) seen: Seen,
    /// How late a write may be noticed.
    pub(crate) every: Duration,
    pub(crate) wake: Wake,
}

/// Watches over databases at rest. Its thread starts with the first of them, and ends when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Patrol(Arc<Rounds>);

#[derive(Debug, Default)]
struct Rounds {
    state: Mutex<State>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct State {
    posts: Vec<Arc<Post>>,
    walks: bool,
    over: bool,
}

impl Patrol {
    /// Watches over a database from now on, in place of what was said of it before, until one of its files is not what it was: then
    /// it is woken, once. False if that cannot be done.
    pub(crate) fn post(&self, post: Post) -> bool {
        let mut state = self.0.lock();
        if !state.walks {
            let rounds = Arc::clone(&self.0);
            let walk = move || rounds.walk();
            if std::thread::Builder::new().name("file patrol".to_owned()).spawn(walk).is_err() {
                return false;
            }
            state.walks = true;
        }
        state.posts.retain(|known| !known.wake.is_of(&post.wake));
        state.posts.push(Arc::new(post));
        self.0.called.notify_one();
        true
    }
}

#[cfg(test)]
impl Patrol {
    /// How many are watched over.
    pub(crate) fn posts(&self) -> usize {
        self.0.lock().posts.len()
    }
}

impl Drop for Patrol {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.called.notify_one();
    }
}

impl Rounds {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn walk(&self) {
        let mut state = self.lock();
        while !state.over {
            // All in one round, as often as the most impatient wants it: many short sleeps would cost more than the looks.
            let Some(every) = state.posts.iter().map(|post| post.every).min() else {
                state = self.called.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let enough = |state: &mut State| !state.over && state.posts.iter().all(|post| post.every >= every);
            let waited = self.called.wait_timeout_while(state, every, enough);
            let (waited, _) = waited.unwrap_or_else(PoisonError::into_inner);
            // A look may take long, and nobody is to wait for it.
            let posts = waited.posts.clone();
            drop(waited);
            for post in posts.iter().filter(|post| post.wake.is_gone() || post.files.seen() != post.seen) {
                self.lock().posts.retain(|known| !Arc::ptr_eq(known, post));
                post.wake.raise();
            }
            state = self.lock();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{Files, Patrol, Post, TICK};
    use crate::watch::Wake;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn times_that_are_recent_or_ahead_of_the_clock_do_not_tell_of_the_next_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let files = Files::of(&path);
        let now = SystemTime::now();
        assert!(!files.seen().is_old(now), "there is no file");
        std::fs::write(&path, "1").unwrap();
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        let seen = files.seen();
        assert!(!seen.is_old(written));
        assert!(!seen.is_old(written + TICK - SECOND), "a write in the same tick would leave them as they are");
        assert!(!seen.is_old(written - 3_600 * SECOND), "the clock was put back");
        assert!(seen.is_old(written + TICK + 2 * SECOND));
        // The log's count as well.
        std::fs::write(folder.path().join("shop.db-wal"), "1").unwrap();
        std::fs::File::open(&path).unwrap().set_modified(written - 3_600 * SECOND).unwrap();
        assert!(!files.seen().is_old(written + TICK - SECOND));
    }

    #[test]
    fn whoever_rests_is_woken_once_when_a_file_is_written_replaced_or_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let (sender, commands) = flume::bounded(8);
        let wake = Wake::new(&sender);
        let patrol = Patrol::default();
        let rest = || {
            let files = Files::of(&path);
            let (seen, every) = (files.seen(), Duration::from_millis(1));
            assert!(patrol.post(Post { files, seen, every, wake: wake.clone() }));
        };
        let log = folder.path().join("shop.db-wal");
        let steps: [&dyn Fn(); 6] = [
            &|| std::fs::write(&path, "1").unwrap(),
            &|| std::fs::write(&path, "23").unwrap(),
            &|| std::fs::write(&log, "1").unwrap(),
            &|| std::fs::remove_file(&log).unwrap(),
            &|| {
                std::fs::write(&log, "45").unwrap();
                std::fs::rename(&log, &path).unwrap();
            },
            &|| std::fs::remove_file(&path).unwrap(),
        ];
        for step in steps {
            rest();
            step();
            commands.recv_timeout(Duration::from_secs(60)).unwrap();
            assert!(wake.take());
            assert_eq!(patrol.posts(), 0, "it rests no more");
        }
    }
}
