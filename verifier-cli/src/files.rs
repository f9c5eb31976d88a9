//! Reading files whose size is bounded before they are read.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

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
