//! The file watch: one notify watcher for all folders that hold databases. An event means "look again" and carries no
//! data; whoever is woken looks at the database itself.
//!
//! Folders are watched, never files: a watch on a file goes deaf when the file is replaced. Network and overlay file
//! systems may give no events at all, which the slow poll of each database makes up for; where a database is at rest, the
//! [`Patrol`] polls for it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::error::StoreError;
use crate::patrol::{Patrol, Post};
use crate::pause;
use crate::worker::Command;

/// How long nothing is listened to after an event. A commit writes its pages one by one, and each makes an event, which would wake this
/// thread and take the processor from the one that writes. The system keeps events meanwhile, and the same one only once.
const DEAF: Duration = Duration::from_micros(60);

/// What comes within this time came together.
const AT_ONCE: Duration = Duration::from_micros(20);

/// Wakes one database's thread.
#[derive(Debug, Clone)]
pub(crate) struct Wake {
    raised: Arc<AtomicBool>,
    /// Whether it is to be woken by file events.
    listens: Arc<AtomicBool>,
    /// It was to be listened to, and that could not be done.
    unheard: Arc<AtomicBool>,
    /// Weak: a watched folder does not keep a database's thread alive.
    commands: flume::WeakSender<Command>,
}

impl Wake {
    pub(crate) fn new(commands: &flume::Sender<Command>) -> Self {
        Self {
            raised: Arc::default(),
            listens: Arc::default(),
            unheard: Arc::default(),
            commands: commands.downgrade(),
        }
    }

    /// Asks for a look. Never blocks: where the queue is full the thread is busy, and looks at the flag afterwards.
    pub(crate) fn raise(&self) {
        if !self.raised.swap(true, Ordering::AcqRel)
            && let Some(commands) = self.commands.upgrade()
        {
            // A full or closed queue needs no message: the flag is up.
            let _ = commands.try_send(Command::Look);
        }
    }

    /// Takes the flag down; true if it was up.
    pub(crate) fn take(&self) -> bool {
        self.raised.swap(false, Ordering::AcqRel)
    }

    /// Whether it was to be listened to and is not, since this was last asked.
    pub(crate) fn is_unheard(&self) -> bool {
        self.unheard.swap(false, Ordering::AcqRel)
    }

    /// Whether it wakes the same thread.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.raised, &other.raised)
    }

    /// Whether nobody is left to be woken.
    pub(crate) fn is_gone(&self) -> bool {
        self.commands.upgrade().is_none()
    }
}

/// Folders and who is to be woken by which file names in them.
type Folders = HashMap<PathBuf, Vec<(Vec<OsString>, Wake)>>;

/// Databases that wait to be listened to, or no longer to be, at most.
const ORDERS: usize = 1_024;

/// What is done aside: notify answers when it has read all events that there are, which it may not come to for as long as
/// files in the folders are written without a pause.
#[derive(Debug)]
enum Order {
    Leave(PathBuf, Wake),
    Listen(PathBuf, Wake),
}

/// Watches the folders of databases.
#[derive(Debug)]
pub struct FileWatch {
    watches: Arc<Watches>,
    orders: flume::Sender<Order>,
    patrol: Patrol,
}

/// The watcher, and who is woken by it.
#[derive(Debug)]
struct Watches {
    watcher: Mutex<RecommendedWatcher>,
    folders: Arc<Mutex<Folders>>,
}

impl FileWatch {
    /// A watch on nothing yet.
    ///
    /// # Errors
    /// The system gives no watcher, for example because its limit of inotify instances is reached.
    pub fn new() -> Result<Self, StoreError> {
        let folders: Arc<Mutex<Folders>> = Arc::default();
        let shared = Arc::clone(&folders);
        let mut listened = None;
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            {
                let folders = shared.lock().unwrap_or_else(PoisonError::into_inner);
                match event {
                    Ok(event) => dispatch(&folders, &event),
                    // Something was missed: everybody looks.
                    Err(_) => wake_all(&folders),
                }
            }
            let since = listened.get_or_insert_with(|| {
                pause::keep_short();
                Instant::now()
            });
            if since.elapsed() > AT_ONCE {
                std::thread::sleep(DEAF);
                listened = Some(Instant::now());
            }
        })?;
        let watches = Arc::new(Watches { watcher: Mutex::new(watcher), folders });
        let (orders, ordered) = flume::bounded(ORDERS);
        let aside = Arc::clone(&watches);
        std::thread::Builder::new()
            .name("file watch".to_owned())
            .spawn(move || ordered.into_iter().for_each(|order| aside.follow(order)))
            .map_err(|source| StoreError::Thread { source })?;
        Ok(Self { watches, orders, patrol: Patrol::default() })
    }

    /// Wakes `wake` from now on when the database file at `path` or its journals change.
    ///
    /// # Errors
    /// The folder does not exist or cannot be watched; nothing is changed, and a later call may succeed.
    pub(crate) fn watch(&self, path: &Path, wake: &Wake) -> Result<(), StoreError> {
        wake.listens.store(true, Ordering::Release);
        self.watches.watch(path, wake)
    }

    /// Wakes it no more, soon: events of a file that is looked at anyway cost whoever writes it. The folder is not watched where nobody is
    /// left who listens. False if that cannot be done now.
    pub(crate) fn leave(&self, path: &Path, wake: &Wake) -> bool {
        wake.listens.store(false, Ordering::Release);
        self.orders.try_send(Order::Leave(path.to_owned(), wake.clone())).is_ok()
    }

    /// The same as [`Self::watch`], soon; `wake` is woken once it is done. False if that cannot be done now. What fails is told by
    /// [`Wake::is_unheard`].
    pub(crate) fn listen(&self, path: &Path, wake: &Wake) -> bool {
        wake.listens.store(true, Ordering::Release);
        self.orders.try_send(Order::Listen(path.to_owned(), wake.clone())).is_ok()
    }

    /// Watches over a database at rest, whatever the system tells of its files; see [`Patrol::post`].
    pub(crate) fn rest(&self, post: Post) -> bool {
        self.patrol.post(post)
    }
}

impl Watches {
    fn follow(&self, order: Order) {
        match order {
            // Its database was closed meanwhile.
            Order::Listen(_, wake) if wake.is_gone() => {}
            Order::Leave(path, wake) => self.leave(&path, &wake),
            Order::Listen(path, wake) => {
                if self.watch(&path, &wake).is_err() {
                    wake.unheard.store(true, Ordering::Release);
                }
                wake.raise();
            }
        }
    }

    fn watch(&self, path: &Path, wake: &Wake) -> Result<(), StoreError> {
        let (Some(folder), Some(name)) = (folder_of(path), path.file_name()) else { return Ok(()) };
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = folders.entry(folder).or_default();
        // Asked again where the folder may have been another one. Databases that were closed are not to be woken any more.
        watched.retain(|(_, known)| !known.is_of(wake) && !known.is_gone());
        watched.push((watched_names(name), wake.clone()));
        Ok(())
    }

    fn leave(&self, path: &Path, wake: &Wake) {
        let Some(folder) = folder_of(path) else { return };
        // Held until the end: whoever comes meanwhile watches the folder afterwards.
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever wants to be woken again meanwhile is not to lose that by an order that was late.
        let leaves = !wake.listens.load(Ordering::Acquire);
        if leaves && self.nobody_else_listens(&folder, wake) {
            // A folder that is gone is not watched anyhow.
            let _ = watcher.unwatch(&folder);
        }
    }

    /// Takes `wake` off those who listen to a folder; true if it was the last.
    fn nobody_else_listens(&self, folder: &Path, wake: &Wake) -> bool {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(watched) = folders.get_mut(folder) else { return false };
        watched.retain(|(_, known)| !known.is_of(wake) && !known.is_gone());
        let nobody = watched.is_empty();
        if nobody {
            folders.remove(folder);
        }
        nobody
    }
}

#[cfg(test)]
impl FileWatch {
    /// How many databases are at rest.
    pub(crate) fn at_rest(&self) -> usize {
        self.patrol.posts()
    }

    /// How many databases are woken by file events.
    pub(crate) fn listening(&self) -> usize {
        self.watches.folders.lock().unwrap().values().map(Vec::len).sum()
    }
}

/// The folder of a path as notify reports it: an absolute path without links.
fn folder_of(path: &Path) -> Option<PathBuf> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    parent.canonicalize().ok()
}

/// The database file and the journals of both modes. The `-shm` file is left out: opening the database ourselves
/// changes it.
fn watched_names(name: &OsStr) -> Vec<OsString> {
    ["", "-wal", "-journal"]
        .iter()
        .map(|suffix| {
            let mut name = name.to_owned();
            name.push(suffix);
            name
        })
        .collect()
}

fn dispatch(folders: &Folders, event: &notify::Event) {
    // Before any look at the paths: a queue overflow has none.
    if event.need_rescan() {
        return wake_all(folders);
    }
    let says_nothing = matches!(event.kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)));
    if says_nothing {
        return;
    }
    for path in &event.paths {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let Some(databases) = folders.get(folder) else { continue };
        for (names, wake) in databases {
            if names.iter().any(|watched| watched == name) {
                wake.raise();
            }
        }
    }
}

fn wake_all(folders: &Folders) {
    folders.values().flatten().for_each(|(_, wake)| wake.raise());
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    /// A database's file and whoever is woken by it.
    struct Listener {
        path: PathBuf,
        wake: Wake,
        woken: flume::Receiver<Command>,
        _sender: flume::Sender<Command>,
    }

    impl Listener {
        fn of(folder: &Path, name: &str) -> Self {
            let (sender, woken) = flume::bounded(1);
            Self { path: folder.join(name), wake: Wake::new(&sender), woken, _sender: sender }
        }

        fn write(&self) {
            std::fs::write(&self.path, "x").unwrap();
        }

        /// Awaits that it was woken, and takes the flag down.
        fn await_wake(&self) {
            self.woken.recv_timeout(DEADLINE).unwrap();
            self.wake.take();
        }
    }

    fn await_listening(watch: &FileWatch, databases: usize) {
        let begun = Instant::now();
        while watch.listening() != databases {
            assert!(begun.elapsed() < DEADLINE, "{} listen", watch.listening());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn whoever_leaves_is_woken_no_more_until_it_listens_again() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Listener::of(folder.path(), "one.db"), Listener::of(folder.path(), "two.db"));
        let watch = FileWatch::new().unwrap();
        watch.watch(&one.path, &one.wake).unwrap();
        watch.watch(&two.path, &two.wake).unwrap();
        assert!(watch.leave(&one.path, &one.wake));
        await_listening(&watch, 1);
        one.write();
        // Events come in their order.
        two.write();
        two.await_wake();
        assert!(!one.wake.take(), "it had left");
        // Nobody is left in the folder.
        assert!(watch.leave(&two.path, &two.wake) && watch.leave(&two.path, &two.wake));
        await_listening(&watch, 0);
        // One write makes several events.
        two.wake.take();
        one.write();
        assert!(watch.listen(&one.path, &one.wake));
        one.await_wake();
        assert_eq!(watch.listening(), 1);
        one.write();
        one.await_wake();
        assert!(!one.wake.is_unheard() && !two.wake.take());
    }

    #[test]
    fn an_order_to_leave_that_comes_late_takes_nothing_from_who_listens_again() {
        let folder = tempfile::tempdir().unwrap();
        let one = Listener::of(folder.path(), "one.db");
        let watch = FileWatch::new().unwrap();
        watch.watch(&one.path, &one.wake).unwrap();
        watch.watches.follow(Order::Leave(one.path.clone(), one.wake.clone()));
        assert_eq!(watch.listening(), 1);
        one.write();
        one.await_wake();
    }
}
