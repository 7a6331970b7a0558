//! The file `synchronization.log`: what is written last is always under this name, and older lines are in files of the same
//! name with the date behind it. Owns these files and nothing else in their folder; must not log itself.
//!
//! tracing-appender's own rotation is not used: it puts the date into the current name, links `synchronization.log` to it by
//! a path that dangles when the folder is relative, deletes a file of that name, and counts the current file as an old one
//! when it makes room at the start.
//!
//! A line that the disk does not take is lost, and counted: whoever logs is not held up, and once there is space again the log says how
//! many are missing.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sqlite_store::FileIdentity;

use crate::config::Rotation;
use crate::telemetry::rfc3339;

/// The name of the current log file.
pub(crate) const NAME: &str = "synchronization.log";

/// The pause between two looks whether the file is still under its name.
const LOOK: Duration = Duration::from_secs(1);

/// Makes a line that says how many are missing.
pub(crate) type Gap = dyn Fn(u64) -> String + Send;

/// Lines that could not be written: a process has one log.
pub(super) static LOST_LINES: AtomicU64 = AtomicU64::new(0);

/// When a file is set aside, and how many stay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) rotation: Rotation,
    pub(crate) keep: usize,
}

/// The current file, and when it is set aside.
pub(crate) struct LogFile {
    folder: PathBuf,
    /// Whoever holds it too may change it while the file is written.
    retention: Arc<Mutex<Retention>>,
    file: File,
    /// A time in the day or hour whose lines the file holds.
    since: SystemTime,
    gap: Box<Gap>,
    /// Lines that were lost since one was written.
    lost: u64,
    /// Whether the file ends within a line.
    cut: bool,
    looked: Instant,
}

impl LogFile {
    /// Opens the current file in `folder`, of which as many files stay as are to be kept, the current one included.
    pub(crate) fn open(folder: &Path, retention: Arc<Mutex<Retention>>, gap: Box<Gap>) -> io::Result<Self> {
        Self::open_at(folder, retention, gap, SystemTime::now())
    }

    fn open_at(folder: &Path, retention: Arc<Mutex<Retention>>, gap: Box<Gap>, now: SystemTime) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let file = append(folder)?;
        let found = file.metadata()?;
        // Lines of an earlier run belong to the day or hour in which the last of them was written.
        let since = if found.len() == 0 { now } else { found.modified().unwrap_or(now) };
        let cut = ends_within_a_line(folder, found.len());
        let folder = folder.to_owned();
        let mut log = Self { folder, retention, file, since, gap, lost: 0, cut, looked: Instant::now() };
        log.rotate(now);
        log.prune();
        Ok(log)
    }

    /// Sets the file aside if its day or hour is over. A clock that goes back changes nothing. Where that fails, lines go on
    /// into the file as it is: the log must not end, and it is tried again when the next day or hour is over.
    fn rotate(&mut self, now: SystemTime) {
        if self.period(now) <= self.period(self.since) {
            return;
        }
        let aside = self.free_name();
        self.since = now;
        let renewed = self.file.flush().and_then(|()| fs::rename(self.folder.join(NAME), &aside));
        match renewed.and_then(|()| append(&self.folder)) {
            Ok(file) => {
                (self.file, self.cut) = (file, false);
                self.prune();
            }
            Err(error) => complain(&format!("cannot begin a new log file: {error}")),
        }
    }

    /// Begins a new file if somebody has moved or removed this one, as tools do that put logs away.
    fn follow(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let path = self.folder.join(NAME);
        let named = FileIdentity::of(&path).ok();
        if named.is_some() && named == identity(&self.file) {
            return;
        }
        match fs::create_dir_all(&self.folder).and_then(|()| append(&self.folder)) {
            Ok(file) => (self.file, self.cut) = (file, false),
            Err(error) => complain(&format!("cannot begin a new log file: {error}")),
        }
    }

    /// Appends a line as a whole; before it, what tells of lines that are missing.
    fn append_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.cut {
            self.append_bytes(b"\n")?;
        }
        if self.lost > 0 {
            let gap = (self.gap)(self.lost);
            self.append_bytes(gap.as_bytes())?;
            self.lost = 0;
        }
        self.append_bytes(line)
    }

    fn append_bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.cut = bytes[written - 1] != b'\n';
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn retention(&self) -> Retention {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a time's day or hour.
    fn period(&self, time: SystemTime) -> u64 {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match self.retention().rotation {
            Rotation::Daily => seconds / 86_400,
            Rotation::Hourly => seconds / 3_600,
            Rotation::Never => 0,
        }
    }

    /// Where the file goes: `synchronization.log.2026-11-23`, by the hour `synchronization.log.2026-11-23T10`; with a number
    /// behind it if that is taken, as after a clock that went back.
    fn free_name(&self) -> PathBuf {
        let time = rfc3339(self.since);
        let length = if self.retention().rotation == Rotation::Hourly { 13 } else { 10 };
        let name = format!("{NAME}.{}", time.get(..length).unwrap_or(&time));
        let plain = self.folder.join(&name);
        if !plain.exists() {
            return plain;
        }
        let numbered = (1..1000).map(|number| self.folder.join(format!("{name}.{number:03}")));
        numbered.into_iter().find(|path| !path.exists()).unwrap_or(plain)
    }

    /// Deletes the oldest files that were set aside. Without rotation all stay: they are not this process's then.
    fn prune(&self) {
        if self.retention().rotation == Rotation::Never {
            return;
        }
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut aside: Vec<OsString> =
            entries.filter_map(|entry| Some(entry.ok()?.file_name())).filter(is_aside).collect();
        // Dates sort as text.
        aside.sort();
        let surplus = aside.len().saturating_sub(self.retention().keep.saturating_sub(1));
        for name in &aside[..surplus] {
            // A file that somebody else deleted, or that cannot be: the next time tries again.
            let _ = fs::remove_file(self.folder.join(name));
        }
    }
}

/// Whether a file is one that was set aside, by its date: `synchronization.log.gz` and others are none of ours.
fn is_aside(name: &OsString) -> bool {
    let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(NAME)?.strip_prefix('.')) else { return false };
    let pattern = b"dddd-dd-ddTdd";
    let (date, number) = rest.split_once('.').unwrap_or((rest, ""));
    let dated = matches!(date.len(), 10 | 13)
        && date
            .bytes()
            .zip(pattern)
            .all(|(byte, kind)| if *kind == b'd' { byte.is_ascii_digit() } else { byte == *kind });
    dated && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// The log cannot tell of itself; where standard error is gone there is nobody to tell.
fn complain(what: &str) {
    drop(writeln!(io::stderr(), "sync-engine: {what}"));
}

fn identity(file: &File) -> Option<FileIdentity> {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().ok().map(|found| FileIdentity { device: found.dev(), inode: found.ino() })
}

/// Whether an earlier run was cut off in the middle of a line.
fn ends_within_a_line(folder: &Path, length: u64) -> bool {
    use std::os::unix::fs::FileExt as _;
    let mut last = [b'\n'];
    // What cannot be read is taken to be in order.
    let read = length.checked_sub(1).map(|place| File::open(folder.join(NAME))?.read_at(&mut last, place));
    read.is_some_and(|read| read.is_ok()) && last != [b'\n']
}

fn append(folder: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(folder.join(NAME))
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.rotate(SystemTime::now());
        self.follow();
        if let Err(error) = self.append_line(line) {
            if self.lost == 0 {
                complain(&format!("lines of the log are lost until it can be written again: {error}"));
            }
            self.lost += 1;
            LOST_LINES.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::{LogFile, NAME, Retention};
    use crate::config::Rotation;

    /// 2026-11-23 00:00 and some hours.
    fn hour(hours: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_392_000 + hours * 3_600)
    }

    fn open(folder: &Path, rotation: Rotation, keep: usize, now: SystemTime) -> std::io::Result<LogFile> {
        LogFile::open_at(folder, Arc::new(Mutex::new(Retention { rotation, keep })), Box::new(gap), now)
    }

    fn gap(lost: u64) -> String {
        format!("({lost} lost)\n")
    }

    fn write(log: &mut LogFile, now: SystemTime, line: &str) {
        log.rotate(now);
        log.file.write_all(line.as_bytes()).unwrap();
    }

    fn files(folder: &Path) -> BTreeMap<String, String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        entries.map(|e| (e.file_name().into_string().unwrap(), fs::read_to_string(e.path()).unwrap())).collect()
    }

    fn expected(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(suffix, text)| (format!("{NAME}{suffix}"), (*text).to_owned())).collect()
    }

    #[test]
    fn the_last_lines_are_always_under_the_one_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), Rotation::Daily, 14, hour(0)).unwrap();
        write(&mut log, hour(0), "a");
        write(&mut log, hour(23), "b");
        assert_eq!(files(folder.path()), expected(&[("", "ab")]));
        write(&mut log, hour(24), "c");
        write(&mut log, hour(23), "d");
        assert_eq!(files(folder.path()), expected(&[("", "cd"), (".2026-11-23", "ab")]));
        write(&mut log, hour(100), "e");
        assert_eq!(files(folder.path()), expected(&[("", "e"), (".2026-11-23", "ab"), (".2026-11-24", "cd")]));
    }

    #[test]
    fn by_the_hour_and_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), Rotation::Hourly, 14, hour(9)).unwrap();
        write(&mut log, hour(9), "a");
        write(&mut log, hour(10), "b");
        assert_eq!(files(folder.path()), expected(&[("", "b"), (".2026-11-23T09", "a")]));
        let mut log = open(folder.path(), Rotation::Never, 1, hour(500)).unwrap();
        write(&mut log, hour(500), "c");
        assert_eq!(files(folder.path()), expected(&[("", "bc"), (".2026-11-23T09", "a")]));
    }

    #[test]
    fn another_rotation_counts_from_the_next_line_on() {
        let folder = tempfile::tempdir().unwrap();
        let retention = Arc::new(Mutex::new(Retention { rotation: Rotation::Never, keep: 14 }));
        let mut log = LogFile::open_at(folder.path(), Arc::clone(&retention), Box::new(gap), hour(0)).unwrap();
        write(&mut log, hour(30), "a");
        retention.lock().unwrap().rotation = Rotation::Hourly;
        write(&mut log, hour(31), "b");
        assert_eq!(files(folder.path()), expected(&[("", "b"), (".2026-11-23T00", "a")]));
    }

    #[test]
    fn a_start_goes_on_in_the_file_of_its_day_and_sets_an_older_one_aside() {
        let folder = tempfile::tempdir().unwrap();
        let current = folder.path().join(NAME);
        fs::write(&current, "earlier ").unwrap();
        fs::File::options().append(true).open(&current).unwrap().set_modified(hour(1)).unwrap();
        let mut log = open(folder.path(), Rotation::Daily, 1, hour(2)).unwrap();
        write(&mut log, hour(2), "a");
        drop(log);
        assert_eq!(files(folder.path()), expected(&[("", "earlier a")]), "one file to keep is the current one");
        fs::File::options().append(true).open(&current).unwrap().set_modified(hour(2)).unwrap();
        let mut log = open(folder.path(), Rotation::Daily, 2, hour(30)).unwrap();
        write(&mut log, hour(30), "b");
        assert_eq!(files(folder.path()), expected(&[("", "b"), (".2026-11-23", "earlier a")]));
    }

    #[test]
    fn the_oldest_go_and_what_is_not_ours_stays() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["synchronization.log.gz", "synchronization.log.2026-11-2x", "synchronization.log.bak", "notes"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let mut log = open(folder.path(), Rotation::Daily, 3, hour(0)).unwrap();
        for day in 0..6 {
            write(&mut log, hour(day * 24), "x");
        }
        let names: Vec<String> = files(folder.path()).into_keys().collect();
        assert_eq!(
            names,
            [
                "notes",
                "synchronization.log",
                "synchronization.log.2026-11-26",
                "synchronization.log.2026-11-27",
                "synchronization.log.2026-11-2x",
                "synchronization.log.bak",
                "synchronization.log.gz",
            ]
        );
    }

    #[test]
    fn a_name_that_is_taken_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("synchronization.log.2026-11-23"), "before").unwrap();
        let mut log = open(folder.path(), Rotation::Daily, 14, hour(0)).unwrap();
        write(&mut log, hour(0), "a");
        write(&mut log, hour(24), "b");
        assert_eq!(files(folder.path()), expected(&[("", "b"), (".2026-11-23", "before"), (".2026-11-23.001", "a")]));
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_spoil_the_next_and_what_is_missing_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), "whole\nhal").unwrap();
        let mut log = open(folder.path(), Rotation::Never, 14, hour(0)).unwrap();
        log.write_all(b"next\n").unwrap();
        // Nothing can be written through this.
        let works = std::mem::replace(&mut log.file, fs::File::open(folder.path().join(NAME)).unwrap());
        log.write_all(b"lost\n").unwrap();
        log.write_all(b"lost too\n").unwrap();
        log.file = works;
        log.write_all(b"last\n").unwrap();
        assert_eq!(files(folder.path()), expected(&[("", "whole\nhal\nnext\n(2 lost)\nlast\n")]));
    }
}
