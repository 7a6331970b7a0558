//! The binary under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::{Failure, Result};

/// The path of `sync-engine`, built in the profile of the running tests.
///
/// `SYNC_ENGINE_BINARY` names another one. Otherwise it is built once in a test process: cargo gives no path to the binary of another package and does not always build it for tests.
///
/// # Errors
/// The build failed, or the test does not run from a target folder. The answer stays for the life of the process.
pub fn sync_engine() -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| locate().map_err(|failure| failure.to_string())).clone().map_err(Failure::new)
}

fn locate() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SYNC_ENGINE_BINARY") {
        return Ok(path.into());
    }
    // target/<profile>/deps/<test>
    let test = std::env::current_exe()?;
    let profile_folder =
        test.ancestors().nth(2).ok_or_else(|| Failure::new(format!("{} is not in a target folder", test.display())))?;
    let binary = profile_folder.join(format!("sync-engine{}", std::env::consts::EXE_SUFFIX));
    // Where nothing changed this costs less than a second; comparing times would miss a source that changed meanwhile.
    build(profile_folder)?;
    Ok(binary)
}

fn build(profile_folder: &Path) -> Result {
    let name = profile_folder.file_name().and_then(|name| name.to_str()).unwrap_or("debug");
    let profile = if name == "debug" { "dev" } else { name };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The whole workspace with a test in it, so that features, those of development dependencies too, unify as they did
    // for the tests and nothing is compiled twice.
    let built = Command::new(cargo)
        .args(["build", "--workspace", "--bin", "sync-engine", "--test", "demo", "--locked", "--profile", profile])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    if !built.status.success() {
        return Err(Failure::new(format!("cargo build: {}", String::from_utf8_lossy(&built.stderr))));
    }
    Ok(())
}
