//! The names of backups: `inventory/inventory-20261129T035500Z.db`, and `inventory-20261129T035500Z-2.db` for a second one of that second.
//! Times are UTC. Only what bears such a name is ever taken for a backup, and only such files are ever removed.

use std::fmt::Write as _;
use std::time::SystemTime;

use sync_engine::telemetry::rfc3339;

/// What follows a backup's name in that of its checksum, which `b3sum --check` reads.
pub(super) const SUM: &str = ".b3";

/// What follows a name while the file is written.
pub(super) const PARTIAL: &str = ".partial";

/// When a backup was made, and which it was of that second. The later is the greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    stamp: String,
    number: u32,
}

impl Moment {
    /// The second that a time lies in.
    pub(crate) fn of(time: SystemTime) -> Self {
        let stamp = rfc3339(time).chars().take(19).filter(|it| !matches!(it, '-' | ':')).chain(['Z']).collect();
        Self { stamp, number: 1 }
    }

    /// The next one of the same second.
    pub(super) fn next(&self) -> Self {
        Self { stamp: self.stamp.clone(), number: self.number + 1 }
    }

    /// As in a file's name.
    fn parse(text: &str) -> Option<Self> {
        let (stamp, number) = match text.split_once("Z-") {
            Some((stamp, number)) => (stamp, number),
            None => (text.strip_suffix('Z')?, "1"),
        };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let (day, time) = stamp.split_once('T')?;
        let is_stamp = day.len() == 8 && time.len() == 6 && digits(day) && digits(time);
        let moment = Self { stamp: format!("{stamp}Z"), number: number.parse().ok().filter(|number| *number > 0)? };
        (is_stamp && moment.to_string() == text).then_some(moment)
    }

    /// In RFC 3339.
    pub(crate) fn rfc3339(&self) -> String {
        let part = |from, to| self.stamp.get(from..to).unwrap_or_default();
        let day = format!("{}-{}-{}", part(0, 4), part(4, 6), part(6, 8));
        format!("{day}T{}:{}:{}Z", part(9, 11), part(11, 13), part(13, 15))
    }

    /// Whether both were made in one second.
    pub(crate) fn is_within_second_of(&self, other: &Self) -> bool {
        self.stamp == other.stamp
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.stamp)?;
        if self.number > 1 { write!(f, "-{}", self.number) } else { Ok(()) }
    }
}

/// A database's name as that of a file. Names may hold what names of files may not.
pub(super) fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for (place, character) in name.char_indices() {
        if matches!(character, '/' | '%') || (place == 0 && character == '.') {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{:02X}", u32::from(character));
        } else {
            text.push(character);
        }
    }
    text
}

/// The database's name that is encoded in a folder's. None for a folder that is not named so.
pub(super) fn decoded(folder: &str) -> Option<String> {
    let name = folder.replace("%2F", "/").replace("%2E", ".").replace("%25", "%");
    (encoded(&name) == folder).then_some(name)
}

/// The name of a backup's file.
pub(super) fn file(folder: &str, moment: &Moment) -> String {
    format!("{folder}-{moment}.db")
}

/// The moment that a backup's file name tells.
pub(super) fn moment(folder: &str, file: &str) -> Option<Moment> {
    Moment::parse(file.strip_prefix(folder)?.strip_prefix('-')?.strip_suffix(".db")?)
}

/// The database's name and the moment that a backup's file name tells, whatever folder it lies in.
pub(crate) fn told_by(file: &str) -> Option<(String, Moment)> {
    let ends = file.match_indices('-').map(|(end, _)| end);
    let mut found = ends.filter_map(|end| Some((decoded(&file[..end])?, moment(&file[..end], file)?)));
    found.next()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_name_tells_the_database_and_the_moment() {
        let moment = Moment::of(UNIX_EPOCH + Duration::from_millis(1_795_924_500_999));
        assert_eq!(moment.to_string(), "20261129T035500Z");
        assert_eq!(moment.rfc3339(), "2026-11-29T03:55:00Z");
        for name in ["inventory", "a-b", "20261129T035500Z", "../up/..", ".hidden", "50%", "%2F", "ü ñ", "a-1"] {
            let folder = encoded(name);
            assert!(!folder.contains('/') && !folder.starts_with('.'), "{folder}");
            assert_eq!(decoded(&folder).as_deref(), Some(name));
            for moment in [moment.clone(), moment.next(), moment.next().next()] {
                let file = file(&folder, &moment);
                assert_eq!(super::moment(&folder, &file), Some(moment.clone()), "{file}");
                assert_eq!(told_by(&file), Some((name.to_owned(), moment)), "{file}");
            }
        }
    }

    #[test]
    fn the_later_is_the_greater() {
        let [first, later] = [0, 1_000_000].map(|seconds| Moment::of(UNIX_EPOCH + Duration::from_secs(seconds)));
        let tenth = (0..9).fold(first.clone(), |moment, _| moment.next());
        assert!(first < first.next() && first.next() < tenth && tenth < later);
        assert!(first.is_within_second_of(&tenth) && !first.is_within_second_of(&later));
    }

    #[test]
    fn what_is_named_otherwise_is_no_backup() {
        for file in [
            "inventory.db",
            "inventory-.db",
            "inventory-20261129T035500.db",
            "inventory-20261129T035500Z.db.b3",
            "inventory-20261129T035500Z.sqlite",
            "inventory-20261129T03550Z.db",
            "inventory-20261129T035500Z-.db",
            "inventory-20261129T035500Z-0.db",
            "inventory-20261129T035500Z-1.db",
            "inventory-20261129T035500Z-02.db",
            "inventory-20261129T035500Z-+2.db",
            "inventory-２0261129T035500Z.db",
            "other-20261129T035500Z.db",
            ".inventory-20261129T035500Z.db.partial",
        ] {
            assert_eq!(moment("inventory", file), None, "{file}");
        }
        assert_eq!(decoded("%2f"), None);
        assert_eq!(decoded("."), None);
    }
}
