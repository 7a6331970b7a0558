//! What commands about backups need beyond a configuration without errors.

use std::path::Path;

use super::error::{ConfigErrors, ErrorKind, Place, one_error};
use super::{DatabaseSettings, Settings};

impl Settings {
    /// The folder of the backups.
    ///
    /// # Errors
    /// Nobody said where it is.
    pub fn require_backup_root(&self) -> Result<&Path, ConfigErrors> {
        let what = "nobody said where backups are kept";
        let remedy = "name a folder: --root DIR, or the variable GH_COPILOT_BACKUP_ROOT or SYNC_ENGINE_BACKUP_ROOT, or \
                      root = \"DIR\" under [backup] in sync-engine.toml";
        let root = self.backup.root.as_deref();
        root.ok_or_else(|| one_error(Place::Unset, "backup.root", ErrorKind::Missing, what, remedy))
    }

    /// The databases of the configuration.
    ///
    /// # Errors
    /// There are none.
    pub fn require_configured(&self) -> Result<&[DatabaseSettings], ConfigErrors> {
        if !self.databases.is_empty() {
            return Ok(&self.databases);
        }
        let what = match &self.file {
            Some(file) => format!("{} names no database", file.display()),
            None => "there is neither a configuration file nor a database on the command line".to_owned(),
        };
        let remedy = "name database files on the command line, or the file with their configuration with --config";
        Err(one_error(Place::Unset, "database", ErrorKind::Missing, what, remedy))
    }
}
