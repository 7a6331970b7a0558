//! `A:B` on the command line: which two files are meant. Owns the syntax; only looks whether files exist where that decides.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// The two files of a pair.
///
/// # Errors
/// It does not name two files, or it cannot be told which; in words.
pub(super) fn files(text: &OsStr) -> Result<[PathBuf; 2], String> {
    files_where(text, |path| path.exists())
}

fn files_where(text: &OsStr, exists: impl Fn(&Path) -> bool) -> Result<[PathBuf; 2], String> {
    let shown = text.display();
    let splits: Vec<[PathBuf; 2]> = splits(text.as_bytes());
    let named: Vec<&[PathBuf; 2]> =
        splits.iter().filter(|pair| pair.iter().all(|path| !path.as_os_str().is_empty())).collect();
    let present: Vec<&[PathBuf; 2]> =
        named.iter().copied().filter(|pair| pair.iter().all(|path| exists(path))).collect();
    match (named.as_slice(), present.as_slice()) {
        ([], _) => Err(format!("{shown:?} does not name two files; write A:B")),
        ([pair], _) | (_, [pair]) => Ok((*pair).clone()),
        (_, _) => Err(format!(
            "{shown:?} has several colons, and it cannot be told which is between the files; write \\: for those within a path"
        )),
    }
}

/// What is before and after each colon that no backslash is before.
fn splits(text: &[u8]) -> Vec<[PathBuf; 2]> {
    let is_split = |place: &usize| text[*place] == b':' && (*place == 0 || text[*place - 1] != b'\\');
    let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(unescaped(bytes)));
    (0..text.len()).filter(is_split).map(|place| [path(&text[..place]), path(&text[place + 1..])]).collect()
}

fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    for byte in bytes {
        if *byte == b':' && plain.last() == Some(&b'\\') {
            plain.pop();
        }
        plain.push(*byte);
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::path::Path;

    use super::files_where;

    fn named(text: &str, present: &[&str]) -> Result<[String; 2], String> {
        let exists = |path: &Path| present.iter().any(|known| Path::new(known) == path);
        let pair = files_where(OsStr::new(text), exists)?;
        Ok(pair.map(|path| path.display().to_string()))
    }

    fn pair(first: &str, second: &str) -> Result<[String; 2], String> {
        Ok([first, second].map(str::to_owned))
    }

    #[test]
    fn a_colon_is_between_two_files() {
        assert_eq!(named("a.db:/x/b.db", &[]), pair("a.db", "/x/b.db"));
        assert!(named("a.db", &["a.db"]).unwrap_err().contains("write A:B"));
        assert!(named("a.db:", &["a.db"]).unwrap_err().contains("write A:B"));
        assert!(named(":a.db", &["a.db"]).unwrap_err().contains("write A:B"));
    }

    #[test]
    fn a_colon_within_a_path_is_told_by_what_exists_or_a_backslash() {
        assert_eq!(named("a:1.db:b.db", &["a:1.db", "b.db", "1.db"]), pair("a:1.db", "b.db"));
        assert_eq!(named("a\\:1.db:b\\:2.db", &[]), pair("a:1.db", "b:2.db"));
        assert!(named("a:b:c", &[]).unwrap_err().contains("several colons"));
        assert!(named("a:b:c", &["a", "b:c", "a:b", "c"]).unwrap_err().contains("several colons"));
    }
}
