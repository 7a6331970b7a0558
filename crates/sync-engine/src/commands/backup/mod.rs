//! `sync-engine backup`: copies databases into a folder of their own under the backup root, keeps the newest, and lists them.

pub(super) mod folder;
mod listing;
pub(super) mod making;
pub(super) mod name;
pub(super) mod subject;
pub(super) mod told;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use sync_engine::config::{self, Overrides, Settings};

use crate::cli::{Backup, Root};
use crate::commands::environment;

/// Makes backups, or lists them.
pub(crate) fn run(arguments: &Backup) -> anyhow::Result<ExitCode> {
    let settings = settings(&arguments.place)?;
    if arguments.list { listing::run(arguments, &settings) } else { making::run(arguments, &settings) }
}

/// The configuration, with the root that the command line names.
pub(super) fn settings(place: &Root) -> anyhow::Result<Settings> {
    let mut settings = config::load(place.config.as_deref(), &Overrides::default(), &environment())?;
    if let Some(root) = place.root.clone() {
        settings.backup.root = Some(root);
    }
    Ok(settings)
}

/// The folder of the backups, by its whole path: what is printed is used elsewhere.
fn root(settings: &Settings) -> anyhow::Result<PathBuf> {
    let root = settings.require_backup_root()?;
    std::path::absolute(root).with_context(|| format!("cannot find {}", root.display()))
}

/// A number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit / (unit / 10)),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_cut_not_rounded() {
        let all = [0, 999, 1_000, 1_999_999, 2_000_000_000, 15_550_000_000].map(size);
        assert_eq!(all, ["0 B", "999 B", "1.0 kB", "1.9 MB", "2.0 GB", "15.5 GB"]);
    }
}
