//! The high-water mark: the newest checkpoint that was written, kept beside the store.
//!
//! A store that lost its end (a damaged write-ahead log, a folder restored from an old copy) is consistent in itself,
//! and a log that went on from it would sign a fork. The mark remembers what was signed. It is written after each
//! commit and not synced: the commit already is, and the mark only has to outlive the process. After a power failure
//! it may be older than the store, which is fine, or torn, which is said and passed over.
//!
//! It is no defence against whoever restores the mark together with the store: witnesses are. `--seen` takes any
//! checkpoint that others hold.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use sift_spec::proof::TreeHead;
use sift_spec::trust::TrustPolicy;

/// The file beside a store's folder.
#[derive(Debug)]
pub(crate) struct HighWaterMark {
    path: PathBuf,
    file: File,
    length: u64,
}

impl HighWaterMark {
    /// The mark of the store in `data`: a file of the folder's name with the ending `.head`.
    pub(crate) fn path(data: &Path) -> PathBuf {
        let mut name = data.file_name().unwrap_or_default().to_owned();
        name.push(".head");
        data.with_file_name(name)
    }

    /// What the mark says, where there is one that this log signed.
    pub(crate) fn read(data: &Path, trust: &TrustPolicy) -> io::Result<Option<TreeHead>> {
        let path = Self::path(data);
        let note = match std::fs::read(&path) {
            Ok(note) => note,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match trust.verify(&note) {
            Ok(verified) => Ok(Some(verified.checkpoint().head)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the high-water mark is torn or not of this log: passed over");
                Ok(None)
            }
        }
    }

    /// Opens the mark for writing.
    pub(crate) fn open(data: &Path) -> io::Result<Self> {
        let path = Self::path(data);
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        let length = file.metadata()?.len();
        Ok(Self { path, file, length })
    }

    /// Writes the newest checkpoint. A failure is said and does no harm: the commit is durable without it.
    pub(crate) fn set(&mut self, note: &str) {
        use std::os::unix::fs::FileExt as _;
        let length = note.len() as u64;
        let mut written = self.file.write_all_at(note.as_bytes(), 0);
        if length < self.length {
            written = written.and_then(|()| self.file.set_len(length));
        }
        match written {
            Ok(()) => self.length = length,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the high-water mark was not written")
            }
        }
    }
}
