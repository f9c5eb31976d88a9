//! Files that other people and programs look at, or put there: requests, answers, packs.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Ending of a file that is being written.
pub(crate) const PART_SUFFIX: &str = ".part";

/// Writes a file that only its owner may read, so that no reader ever sees a part of it.
///
/// # Errors
/// When it cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let part = write_part(path, PART_SUFFIX.to_owned(), bytes)?;
    std::fs::rename(&part, path)
}

/// The same for a file that does not exist yet, whoever else is about to make it.
///
/// # Errors
/// `AlreadyExists` when it exists, or when it cannot be written.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    // Several may try at a time, so each has a part of its own.
    let part = write_part(path, format!(".{}{PART_SUFFIX}", std::process::id()), bytes)?;
    let linked = std::fs::hard_link(&part, path);
    std::fs::remove_file(&part)?;
    linked
}

fn write_part(path: &Path, suffix: String, bytes: &[u8]) -> Result<PathBuf, Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    let part = path.with_file_name(name);
    // What lies there was left by a process that died, or by somebody who wants it written through a link.
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(part)
}

/// Reads a regular file of at most `bytes_max` bytes. Follows no link, and waits for no pipe.
///
/// # Errors
/// When it is something else, is longer, or cannot be read.
pub fn read_plain(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let refused = |why: &str| Error::new(ErrorKind::InvalidInput, why);
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(refused("not a regular file"));
    }
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(refused("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(refused("longer than it may be"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn only_plain_files_are_read_and_nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("secret"), "secret").unwrap();
        symlink(at("secret"), at("a.part")).unwrap();
        write_whole(&at("a"), b"text").unwrap();
        assert_eq!(std::fs::read(at("secret")).unwrap(), b"secret");
        assert_eq!(std::fs::metadata(at("a")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_plain(&at("a"), 4).unwrap(), b"text");
        assert_eq!(write_new(&at("a"), b"more").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(read_plain(&at("a"), 4).unwrap(), b"text");
        write_new(&at("new"), b"more").unwrap();
        assert_eq!(std::fs::read(at("new")).unwrap(), b"more");
        assert!(read_plain(&at("a"), 3).is_err());
        symlink(at("secret"), at("link")).unwrap();
        assert!(read_plain(&at("link"), 100).is_err());
        assert!(read_plain(dir.path(), 100).is_err());
        assert!(read_plain(&at("nothing"), 100).is_err());
    }
}
