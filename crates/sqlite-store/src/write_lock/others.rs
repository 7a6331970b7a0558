//! Who holds SQLite's locks on a file, asked without touching them: the system's list of locks is read.
//!
//! Trying for a lock tells as much, but a try holds for a moment what others then cannot have.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// Where in a file SQLite places its locks, as `os.h` of its sources says: a byte for whoever keeps new readers out, the byte of the one
/// who writes, and those of who reads.
const PENDING: u64 = 0x4000_0000;
const RESERVED: u64 = PENDING + 1;
const LAST: u64 = PENDING + 2 + 509;

/// Where Linux lists the locks that this process may know of.
const LIST: &str = "/proc/locks";

/// Those who hold locks on a file with a rollback journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// Nobody, as far as it can be known: other systems have no such list, containers do not show all of it, and some file systems
    /// number their files in another way there.
    Unseen,
    /// Somebody reads, and nobody has begun to write.
    Read,
    /// Somebody writes. Whoever has read and wants to write is refused anyhow.
    Write,
}

impl Others {
    /// Those who hold locks on the file of this number, of whatever device: that is named differently in different places, and whoever
    /// is taken for another is waited for in vain for some time.
    pub(super) fn of(inode: u64) -> Self {
        File::open(LIST).map_or(Self::Unseen, |list| Self::listed(BufReader::new(list), inode))
    }

    /// The same of a list as Linux writes it: number, kind, strictness, `READ` or `WRITE`, process, device and inode, first and last byte.
    fn listed(list: impl BufRead, inode: u64) -> Self {
        let mut seen = Self::Unseen;
        for line in list.lines().map_while(Result::ok) {
            match bytes_of(&line, inode) {
                Some((first, last)) if first <= RESERVED && RESERVED <= last => return Self::Write,
                Some(_) => seen = Self::Read,
                None => {}
            }
        }
        seen
    }
}

/// The first and the last byte of a lock of SQLite's on a file.
fn bytes_of(line: &str, inode: u64) -> Option<(u64, u64)> {
    // Whoever waits for a lock has `->` before the kind.
    let mut fields = line.split_ascii_whitespace().rev();
    let (last, first, file) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?, fields.next()?);
    let same = file.rsplit(':').next()?.parse() == Ok(inode);
    (same && first >= PENDING && last <= LAST).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use rusqlite::Connection;

    use super::*;

    #[test]
    fn who_reads_and_who_writes_is_told_from_the_list() {
        let listed = |lines: &str| Others::listed(lines.as_bytes(), 77);
        let reads = "2: POSIX  ADVISORY  READ 6326 fe:00:77 1073741826 1073742335\n";
        let writes = "1: POSIX  ADVISORY  WRITE 6326 fe:00:77 1073741825 1073741825\n";
        let commits = "1: POSIX  ADVISORY  WRITE 6326 fe:00:77 1073741824 1073742335\n";
        assert_eq!(listed(""), Others::Unseen);
        assert_eq!(listed(reads), Others::Read);
        assert_eq!(listed(&[reads, writes].concat()), Others::Write);
        assert_eq!(listed(&[writes, reads].concat()), Others::Write);
        assert_eq!(listed(commits), Others::Write);
        assert_eq!(listed(&reads.replace("POSIX", "-> POSIX")), Others::Read);
    }

    #[test]
    fn locks_of_other_files_and_other_programs_are_not_taken_for_sqlites() {
        let lines = "1: FLOCK  ADVISORY  WRITE 1809 fe:00:77 0 EOF\n\
            2: POSIX  ADVISORY  READ 6326 fe:00:78 1073741826 1073742335\n\
            3: POSIX  ADVISORY  WRITE 6326 fe:00:77 0 9\n\
            4: OFDLCK ADVISORY  READ -1 77 1073741826\n\
            \n\
            5: ?\n";
        assert_eq!(Others::listed(lines.as_bytes(), 77), Others::Unseen);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_is_read_or_written_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locked.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = DELETE; CREATE TABLE t (n)").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        assert_eq!(Others::of(inode), Others::Unseen);
        conn.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        assert_eq!(Others::of(inode), Others::Read);
        conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(Others::of(inode), Others::Write);
        conn.execute_batch("COMMIT; BEGIN EXCLUSIVE").unwrap();
        assert_eq!(Others::of(inode), Others::Write);
        conn.execute_batch("ROLLBACK").unwrap();
        assert_eq!(Others::of(inode), Others::Unseen);
    }
}
