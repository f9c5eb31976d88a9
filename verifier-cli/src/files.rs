//! Reading files whose size is bounded before they are read.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use sift_rules::PolicyBundle;
use sift_spec::bundle::{BUNDLE_BYTES_MAX, BUNDLE_FILES_MAX, Bundle};
use sift_spec::evidence::PACK_BYTES_MAX;
use sift_spec::note::NOTE_BYTES_MAX;
use sift_spec::record::ENTRY_BYTES_MAX;
use sift_spec::trust::{TRUST_BYTES_MAX, TrustPolicy};

use crate::error::CannotCheck;

/// A kind of file: its name in messages, and its largest size in bytes.
#[derive(Debug, Clone, Copy)]
pub struct FileKind {
    what: &'static str,
    bytes_max: u64,
}

/// A trust file.
pub const TRUST: FileKind = FileKind { what: "a trust file", bytes_max: TRUST_BYTES_MAX as u64 };
/// A checkpoint, a receipt or any other note.
pub const CHECKPOINT: FileKind = FileKind { what: "a checkpoint", bytes_max: NOTE_BYTES_MAX as u64 };
/// A receipt.
pub const RECEIPT: FileKind = FileKind { what: "a receipt", bytes_max: NOTE_BYTES_MAX as u64 };
/// An entry of a log.
pub const ENTRY: FileKind = FileKind { what: "an entry", bytes_max: ENTRY_BYTES_MAX as u64 };
/// An evidence pack.
pub const PACK: FileKind = FileKind { what: "an evidence pack", bytes_max: PACK_BYTES_MAX as u64 };
/// A consistency proof: at most 64 lines.
pub const PROOF: FileKind = FileKind { what: "a consistency proof", bytes_max: 64 * 64 };

/// Reads evidence. Of a file that is too large the first byte too many is the last that is read: enough for whoever
/// judges it to reject it, as being too large is the evidence's fault.
///
/// # Errors
/// When it cannot be read.
pub fn read_evidence(path: &Path, kind: FileKind) -> Result<Vec<u8>, CannotCheck> {
    let fail = |source| CannotCheck::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    let mut bytes = Vec::new();
    // The length that the file system states may be wrong or change: the reader is bounded as well.
    file.take(kind.bytes_max + 1).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// Reads a whole file of this kind that is no evidence.
///
/// # Errors
/// When it cannot be read or is too large.
pub fn read(path: &Path, kind: FileKind) -> Result<Vec<u8>, CannotCheck> {
    let bytes = read_evidence(path, kind)?;
    if bytes.len() as u64 > kind.bytes_max {
        let FileKind { what, bytes_max } = kind;
        return Err(CannotCheck::TooLarge { path: path.to_owned(), what, bytes_max });
    }
    Ok(bytes)
}

/// Packs that are named, and the files `*.sift` of folders that are, by name.
///
/// # Errors
/// When a folder cannot be read or holds none.
pub fn packs(named: &[PathBuf]) -> Result<Vec<PathBuf>, CannotCheck> {
    let mut packs = Vec::new();
    for path in named {
        if !path.is_dir() {
            packs.push(path.clone());
            continue;
        }
        let fail = |source| CannotCheck::File { path: path.clone(), source };
        let mut held = Vec::new();
        for item in std::fs::read_dir(path).map_err(fail)? {
            let file = item.map_err(fail)?.path();
            if file.extension().is_some_and(|ending| ending == "sift") {
                held.push(file);
            }
        }
        if held.is_empty() {
            return Err(CannotCheck::NoPacks(path.clone()));
        }
        held.sort();
        packs.extend(held);
    }
    Ok(packs)
}

/// Reads and compiles the policy bundle in a folder. Names that start with a dot are left out.
///
/// # Errors
/// When a file cannot be read, or the files are no bundle or no policy.
pub fn read_bundle(dir: &Path) -> Result<PolicyBundle, CannotCheck> {
    let wrong = |why: String| CannotCheck::Bundle { path: dir.to_owned(), why };
    let mut files = Vec::new();
    let mut named = 0;
    let mut left = BUNDLE_BYTES_MAX as u64;
    let mut folders = vec![(dir.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let fail = |source| CannotCheck::File { path: folder.clone(), source };
        for item in std::fs::read_dir(&folder).map_err(fail)? {
            let item = item.map_err(fail)?;
            let name =
                item.file_name().into_string().map_err(|_| wrong("a file name is not UTF-8".to_owned()))?;
            if name.starts_with('.') {
                continue;
            }
            let (file, path) = (item.path(), format!("{prefix}{name}"));
            // A link to a folder above would have no end.
            named += 1;
            if named > 2 * BUNDLE_FILES_MAX {
                return Err(wrong(format!("more than the {BUNDLE_FILES_MAX} files that a bundle may have")));
            }
            if file.is_dir() {
                folders.push((file, format!("{path}/")));
                continue;
            }
            let content = read(&file, FileKind { what: "what is left of a bundle", bytes_max: left })?;
            left -= content.len() as u64;
            files.push((path, content));
        }
    }
    let bundle = Bundle::new(files).map_err(|error| wrong(error.to_string()))?;
    PolicyBundle::compile(&bundle).map_err(|error| wrong(error.to_string()))
}

/// Reads a trust file.
///
/// # Errors
/// When it cannot be read or is not one.
pub fn read_trust(path: &Path) -> Result<TrustPolicy, CannotCheck> {
    let bytes = read(path, TRUST)?;
    let text = String::from_utf8(bytes).map_err(|error| CannotCheck::File {
        path: path.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
    })?;
    TrustPolicy::parse(&text).map_err(|source| CannotCheck::Trust { path: path.to_owned(), source })
}
