//! Reading files whose size is bounded before they are read, and writing files that survive a crash.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sift_rules::PolicyBundle;
use sift_spec::bundle::{BUNDLE_BYTES_MAX, BUNDLE_FILES_MAX, Bundle};
use sift_spec::evidence::PACK_BYTES_MAX;
use sift_spec::note::{KeyType, NOTE_BYTES_MAX, SignerKey, VerifierKey};
use sift_spec::record::ENTRY_BYTES_MAX;
use sift_spec::trust::{TRUST_BYTES_MAX, TrustPolicy};
use sift_spec::types::KeyName;
use zeroize::Zeroizing;

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

/// Most room that is made for a file before any of it was read, in bytes.
const ROOM_BYTES_MAX: u64 = 64 << 20;

/// Longest key file in bytes.
const KEY_BYTES_MAX: u64 = 1024;

/// Name of a file that stands for standard input.
const STDIN: &str = "-";

/// Whether standard input was read.
static STDIN_TAKEN: AtomicBool = AtomicBool::new(false);

/// What a file is called in a report.
#[must_use]
pub fn name(path: &Path) -> String {
    if path == Path::new(STDIN) { "standard input".to_owned() } else { path.display().to_string() }
}

/// Reads evidence; `-` is standard input, which is there for one file. Of a file that is too large the first byte too
/// many is the last that is read: enough for whoever judges it to reject it, as being too large is the evidence's fault.
///
/// # Errors
/// When it cannot be read.
pub fn read_evidence(path: &Path, kind: FileKind) -> Result<Vec<u8>, CannotCheck> {
    let read = match path == Path::new(STDIN) {
        true if STDIN_TAKEN.swap(true, Ordering::Relaxed) => return Err(CannotCheck::StdinTwice),
        true => read_to(std::io::stdin().lock(), 0, kind.bytes_max),
        false => File::open(path).and_then(|file| read_file(file, kind.bytes_max)),
    };
    read.map_err(|source| CannotCheck::File { path: path.to_owned(), source })
}

/// Reads a file, to the first byte beyond `bytes_max`.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read_file(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let told = file.metadata().map_or(0, |metadata| metadata.len());
    read_to(file, told, bytes_max)
}

/// There is room at once for the length that is told, which may be wrong or change: the reader is bounded as well.
fn read_to(source: impl Read, told: u64, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(told.min(bytes_max).min(ROOM_BYTES_MAX) as usize + 1);
    source.take(bytes_max + 1).read_to_end(&mut bytes)?;
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
    let text = String::from_utf8(bytes).map_err(|error| CannotCheck::TrustNotText {
        path: path.to_owned(),
        at: error.utf8_error().valid_up_to(),
    })?;
    TrustPolicy::parse(&text).map_err(|source| CannotCheck::Trust { path: path.to_owned(), source })
}

/// Reads a private key from a file that only its owner may read.
///
/// # Errors
/// When it cannot be read, others may read it, or it is none. Errors never repeat what it holds.
pub fn read_key(path: &Path) -> Result<SignerKey, CannotCheck> {
    use std::os::unix::fs::PermissionsExt as _;
    let fail = |source| CannotCheck::File { path: path.to_owned(), source };
    let wrong = |why: String| fail(io::Error::other(why));
    let file = File::open(path).map_err(fail)?;
    let mode = file.metadata().map_err(fail)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.display();
        return Err(wrong(format!("others may read this secret (mode {mode:o}); run: chmod 600 {path}")));
    }
    let mut text = Zeroizing::new(String::with_capacity(KEY_BYTES_MAX as usize));
    file.take(KEY_BYTES_MAX).read_to_string(&mut text).map_err(fail)?;
    SignerKey::from_secret_text(text.trim_end()).map_err(|error| wrong(error.to_string()))
}

/// Makes a key for cosignatures and writes it to a file that is not there yet, readable by its owner alone.
///
/// # Errors
/// When there is no randomness, or the file is there or cannot be written.
pub fn make_witness_key(path: &Path, name: KeyName) -> Result<VerifierKey, CannotCheck> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let fail = |source| CannotCheck::Write { path: path.to_owned(), source };
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|error| CannotCheck::Random(error.to_string()))?;
    let key = SignerKey::from_seed(name, KeyType::Cosignature, &seed)
        .map_err(|error| fail(io::Error::other(error.to_string())))?;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
    let written = file.write_all(key.to_secret_text().as_bytes()).and_then(|()| file.write_all(b"\n"));
    written.and_then(|()| file.sync_all()).map_err(fail)?;
    sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(fail)?;
    Ok(key.verifier().clone())
}

/// Makes what is on the disk in this directory its content for good.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// Makes a directory and what is missing above it, durably.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(Path::new("."));
    make_dir(parent)?;
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_dir(parent),
    }
}

/// Writes a whole file, durably: whoever looks finds all of it or what was there before.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    make_dir(path.parent().unwrap_or(Path::new(".")))?;
    write_whole(path, bytes)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// The same, but for its name, which a crash of the machine may take away until its directory is synced.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    let written = File::create(&unfinished)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&unfinished, path));
    if written.is_err() {
        // A full disk is not to be filled with what is of no use.
        let _ = std::fs::remove_file(&unfinished);
    }
    written
}

/// Where a file is while it is written.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.unfinished"))
}
