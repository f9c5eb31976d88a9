//! Backups: a whole copy of a log as of one commit, made while the log runs, and what keeps a copy from forking it.
//!
//! A backup is a folder like the log's own, with a manifest that names every file, its size and its digest. It is made
//! under another name and gets its own by a rename, after everything in it is on the disk: a folder of that name is
//! whole, and one that ends in `.partial` is not. On the store's own file system the store's files are hard links that
//! cost nothing until the log rewrites them; elsewhere they are copies.
//!
//! The danger of a backup is its restoration. A log that goes on from an old copy signs a second history, and nothing in
//! the copy can tell. So a copied store carries a file that says that it is one, from before it is complete, wherever it
//! is moved to; and a log does not start from it before somebody has shown the newest checkpoint that is known outside
//! (`check_fresh`).
//!
//! Out of scope: sending backups elsewhere, and keeping many. A backup is files; any tool for files does that.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sift_spec::note::VerifierKey;
use sift_spec::proof::TreeHead;
use sift_spec::types::{Hash, TreeSize};

use crate::admin::{self, Answer, Question};
use crate::config::{CONFIG_FILE, Config, ConfigError};
use crate::fsck::{Depth, Fsck, FsckError, Report};
use crate::init::TRUST_FILE;
use crate::store::{Store, StoreError};

/// The manifest of a backup.
pub const MANIFEST_FILE: &str = "backup.json";

/// In a folder that is being made: whatever is in it is not whole.
const PARTIAL_FILE: &str = "INCOMPLETE";

/// In a store's folder: this is a copy, and nobody has shown yet that nothing was signed after it.
const COPY_FILE: &str = "IS-A-COPY.json";

/// Folder of the store, and name of the key, within a backup.
const DATA: &str = "data";
const LOG_KEY: &str = "log.key";
/// The witnesses' policy in a backup.
const WITNESS_POLICY: &str = "witness.policy";

const FORMAT: &str = "sift-server backup 1";

/// Largest manifest that is read: a hundred thousand files.
const MANIFEST_BYTES_MAX: u64 = 32 << 20;

/// Why there is no backup, or none that can be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file could not be read or written.
    #[error("{path}: {error}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is something where the result should be.
    #[error("{path}: there is something already; a backup or a restored log gets a folder of its own", path = .0.display())]
    Exists(PathBuf),
    /// The running server could not copy its store.
    #[error("the running server did not copy its store: {0}")]
    Server(String),
    /// The store could not be opened or copied.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The copy could not be checked.
    #[error("the copy could not be checked: {0}")]
    NotChecked(#[from] FsckError),
    /// The copy is damaged, and so is the store.
    #[error("the copy is damaged, and was thrown away: {0}; run sift-server fsck on the log itself")]
    Damaged(String),
    /// It is no backup, or not the one that was made.
    #[error("{path}: {why}", path = .path.display())]
    NotWhole {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    /// When it was made, in milliseconds since 1970.
    pub made: u64,
    /// The log's vkey.
    pub log: String,
    /// Size of the tree.
    pub size: TreeSize,
    /// Its root.
    pub root: Hash,
    /// Every file, by its path.
    pub files: Vec<FileDigest>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Path within the backup.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Reads a backup's manifest.
    ///
    /// # Errors
    /// When there is none, or it is of another format.
    pub fn read(backup: &Path) -> Result<Self, BackupError> {
        let path = backup.join(MANIFEST_FILE);
        let mut text = String::new();
        File::open(&path)
            .and_then(|file| file.take(MANIFEST_BYTES_MAX).read_to_string(&mut text))
            .map_err(|error| file_error(&path, error))?;
        let manifest: Self = serde_json::from_str(&text)
            .map_err(|error| BackupError::NotWhole { path: path.clone(), why: error.to_string() })?;
        if manifest.format == FORMAT {
            Ok(manifest)
        } else {
            Err(BackupError::NotWhole { path, why: format!("this is no \"{FORMAT}\"") })
        }
    }
}

/// What to back up, and where to.
#[derive(Debug)]
pub struct Backup<'a> {
    /// The log's configuration.
    pub config: &'a Config,
    /// Its file.
    pub config_file: &'a Path,
    /// The log's key.
    pub log: &'a VerifierKey,
    /// The folder to be made.
    pub to: &'a Path,
    /// Whether the log's private key goes with it.
    pub with_keys: bool,
    /// How thoroughly the copy is checked.
    pub depth: Depth,
}

impl Backup<'_> {
    /// Makes the backup: through the server where one runs, and from the store where none does.
    ///
    /// # Errors
    /// When something could not be copied, or the copy is not what was signed. Then there is no folder of that name.
    pub fn run(&self, progress: &dyn Fn(u64, u64)) -> Result<Manifest, BackupError> {
        // The server has another working directory.
        let to = std::path::absolute(self.to).map_err(|error| file_error(self.to, error))?;
        let partial = begin(&to)?;
        let data = partial.join(DATA);
        match admin::ask(&self.config.data, &Question::Copy(data.clone())) {
            Ok(Some(Answer::Done)) => {}
            Ok(Some(Answer::Failed(why))) => return Err(BackupError::Server(why)),
            Ok(None) => copy_store(&Store::open(&self.config.data, &self.config.store, false)?, &data)?,
            Err(error) => return Err(file_error(&admin::path(&self.config.data), error)),
        }
        self.copy_settings(&partial)?;
        let report = self.check(&data, progress)?;
        let Some(root) = report.root.filter(|_| report.is_clean()) else {
            let why = report.findings.first().map(|found| format!("{}: {}", found.row, found.detail));
            let _ = std::fs::remove_dir_all(&partial);
            return Err(BackupError::Damaged(why.unwrap_or_default()));
        };
        let mut files = Vec::new();
        for path in list(&partial)? {
            if path != Path::new(PARTIAL_FILE) {
                let (bytes, sha256) = digest(&partial.join(&path), &mut io::sink())?;
                files.push(FileDigest { path: path.display().to_string(), bytes, sha256 });
            }
        }
        let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            made: u64::try_from(made).unwrap_or_default(),
            log: self.log.to_string(),
            size: report.size,
            root,
            files,
        };
        write_json(&partial.join(MANIFEST_FILE), &manifest)?;
        finish(&partial, &to)?;
        Ok(manifest)
    }

    fn check(&self, data: &Path, progress: &dyn Fn(u64, u64)) -> Result<Report, BackupError> {
        let operator = self.config.operator()?;
        let check = Fsck { data, log: self.log, operator: &operator, seen: &[], depth: self.depth };
        Ok(check.run(progress)?)
    }

    /// Configuration and trust file, and where it is wanted, the key.
    fn copy_settings(&self, partial: &Path) -> Result<(), BackupError> {
        let text = crate::config::read(self.config_file)?;
        let mut table: toml::Table =
            text.parse().map_err(|error| not_whole(self.config_file, format!("{error}")))?;
        // What else the configuration names lies beside it in a backup.
        let also = (1..).map(|n| format!("log-also-{n}.key")).take(self.config.log_keys_also.len());
        let also: Vec<String> = also.collect();
        let policy = self.config.witnesses.as_ref().map(|witnesses| &witnesses.policy);
        if let Some(policy) = policy {
            copy_durably(policy, &partial.join(WITNESS_POLICY))?;
        }
        let same = |key: &str, is: &str| table.get(key).and_then(toml::Value::as_str) == Some(is);
        let text = if same("data", DATA) && same("log_key", LOG_KEY) && also.is_empty() && policy.is_none() {
            text
        } else {
            // A restored log must not open the store that it was copied from.
            table.insert("data".to_owned(), DATA.into());
            table.insert("log_key".to_owned(), LOG_KEY.into());
            if !also.is_empty() {
                table.insert("log_keys_also".to_owned(), also.clone().into());
            }
            if let Some(toml::Value::Table(witnesses)) = table.get_mut("witnesses") {
                witnesses.insert("policy".to_owned(), WITNESS_POLICY.into());
            }
            toml::to_string(&table).map_err(|error| not_whole(self.config_file, error.to_string()))?
        };
        write(&partial.join(CONFIG_FILE), text.as_bytes())?;
        let trust = self.config_file.with_file_name(TRUST_FILE);
        if trust.exists() {
            copy_durably(&trust, &partial.join(TRUST_FILE))?;
        }
        if self.with_keys {
            // A copy has the mode of its original, which is 0600 or was refused.
            copy_durably(&self.config.log_key, &partial.join(LOG_KEY))?;
            for (key, name) in self.config.log_keys_also.iter().zip(&also) {
                copy_durably(key, &partial.join(name))?;
            }
        }
        Ok(())
    }
}

/// Copies a store that is open, as of its last commit, into a folder that does not exist yet.
///
/// # Errors
/// When it cannot be written, or the copy cannot be marked as one.
pub(crate) fn copy_store(store: &Store, to: &Path) -> Result<(), BackupError> {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".unmarked");
    let unmarked = to.with_file_name(name);
    store.copy_to(&unmarked)?;
    // Only then does it get the name under which a configuration finds it.
    let marker = CopyOf { note: "a copy of a log's store; see OPERATING.md, Backup and restore".to_owned() };
    write_json(&unmarked.join(COPY_FILE), &marker)?;
    sync(&unmarked)?;
    std::fs::rename(&unmarked, to).map_err(|error| file_error(to, error))?;
    to.parent().map_or(Ok(()), sync)
}

/// What the marker of a copy says.
#[derive(Debug, Serialize)]
struct CopyOf {
    note: String,
}

/// Why a log does not go on from a copy.
#[derive(Debug, thiserror::Error)]
pub enum StaleError {
    /// Nobody has shown anything.
    #[error(
        "this store is a copy from a backup, of {0} entries; if the log signed more after it was made, going on from it \
         would show two histories. Start it with --seen FILE, the newest checkpoint that anybody else holds: kernels \
         (sift-kernel's newest receipt), witnesses, auditors. If you know that nobody holds any: --seen-none-newer"
    )]
    NothingSeen(TreeSize),
    /// What was shown is older than the copy.
    #[error(
        "this store is a copy from a backup, of {stored} entries, and the newest checkpoint that was shown is of {seen}: \
         whoever holds it has not seen the end of this store, and cannot know whether more was signed. Show the newest \
         that anybody holds; if you know that nobody holds a newer one: --seen-none-newer"
    )]
    SeenOlder {
        /// Entries in the store.
        stored: TreeSize,
        /// Size of the newest that was shown.
        seen: TreeSize,
    },
    /// The marker could not be removed.
    #[error("{path}: {error}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Lets a log go on from its store: at once where it is no copy, and where it is one, when a checkpoint of exactly its
/// size was shown, or somebody vouched that there is no newer one. Recovery has refused all that do not fit already.
///
/// # Errors
/// When the store is a copy of which nobody knows whether it is the newest.
pub(crate) fn check_fresh(
    data: &Path,
    stored: TreeHead,
    seen: &[TreeHead],
    none_newer: bool,
) -> Result<(), StaleError> {
    let path = data.join(COPY_FILE);
    if !path.exists() {
        return Ok(());
    }
    if none_newer {
        tracing::warn!(size = %stored.size, "going on from a copy on the operator's word that nothing newer was signed");
    } else {
        match seen.iter().map(|head| head.size).max() {
            None => return Err(StaleError::NothingSeen(stored.size)),
            Some(seen) if seen < stored.size => {
                return Err(StaleError::SeenOlder { stored: stored.size, seen });
            }
            Some(_) => {
                tracing::info!(size = %stored.size, "going on from a copy: the newest checkpoint seen is its own");
            }
        }
    }
    let removed = std::fs::remove_file(&path).and_then(|()| File::open(data)?.sync_all());
    removed.map_err(|error| StaleError::File { path, error })
}

/// Restores a backup into a new folder. Every file is compared with the manifest while it is copied.
///
/// # Errors
/// When the backup is not whole, or the folder cannot be made. Then there is no folder of that name.
pub fn restore(from: &Path, dir: &Path, progress: &dyn Fn(u64, u64)) -> Result<Manifest, BackupError> {
    let manifest = Manifest::read(from)?;
    let listed: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    for path in list(from)? {
        let name = path.display().to_string();
        if name != MANIFEST_FILE && !listed.contains(&name.as_str()) {
            let why = "this file is not in the manifest: the backup was changed after it was made".to_owned();
            return Err(not_whole(&from.join(path), why));
        }
    }
    if !listed.contains(&format!("{DATA}/{COPY_FILE}").as_str()) {
        return Err(not_whole(from, "its store is not marked as a copy".to_owned()));
    }
    let partial = begin(dir)?;
    let (mut done, all) = (0, manifest.bytes());
    for FileDigest { path, bytes, sha256 } in &manifest.files {
        let relative = Path::new(path);
        if !relative.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
            return Err(not_whole(from, format!("the manifest names {path}, which is outside")));
        }
        let (source, target) = (from.join(relative), partial.join(relative));
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(|error| file_error(folder, error))?;
        }
        let mut copy = File::create_new(&target).map_err(|error| file_error(&target, error))?;
        let found = digest(&source, &mut copy)?;
        if found != (*bytes, sha256.clone()) {
            let why = format!("it is not the file that was backed up: {} bytes, sha256 {}", found.0, found.1);
            return Err(not_whole(&source, why));
        }
        let mode = std::fs::metadata(&source).map(|source| source.permissions());
        mode.and_then(|mode| copy.set_permissions(mode))
            .and_then(|()| copy.sync_all())
            .map_err(|error| file_error(&target, error))?;
        done += bytes;
        progress(done, all);
    }
    sync(&partial.join(DATA))?;
    finish(&partial, dir)?;
    Ok(manifest)
}

/// Makes the folder in which `to` grows. One that an earlier attempt left is thrown away.
fn begin(to: &Path) -> Result<PathBuf, BackupError> {
    // An empty folder is as good as none.
    match std::fs::read_dir(to).map(|mut items| items.next().is_none()) {
        Ok(true) => std::fs::remove_dir(to).map_err(|error| file_error(to, error))?,
        Ok(false) => return Err(BackupError::Exists(to.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(file_error(to, error)),
    }
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = to.with_file_name(name);
    if partial.exists() {
        // Or all of it, but for the name.
        let ours = [PARTIAL_FILE.to_owned(), MANIFEST_FILE.to_owned(), format!("{DATA}/{COPY_FILE}")];
        if !ours.iter().any(|file| partial.join(file).exists()) {
            return Err(BackupError::Exists(partial));
        }
        std::fs::remove_dir_all(&partial).map_err(|error| file_error(&partial, error))?;
    }
    std::fs::create_dir(&partial).map_err(|error| file_error(&partial, error))?;
    // The copy of a key may come here.
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&partial, private).map_err(|error| file_error(&partial, error))?;
    write(&partial.join(PARTIAL_FILE), b"not whole: made again by the same command\n")?;
    Ok(partial)
}

/// Gives a folder its name, once all of it is on the disk.
fn finish(partial: &Path, to: &Path) -> Result<(), BackupError> {
    let unmark = partial.join(PARTIAL_FILE);
    std::fs::remove_file(&unmark).map_err(|error| file_error(&unmark, error))?;
    sync(partial)?;
    std::fs::rename(partial, to).map_err(|error| file_error(to, error))?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync(parent.unwrap_or(Path::new(".")))
}

/// All files below a folder, by their paths within it, sorted.
fn list(folder: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(within) = folders.pop() {
        let here = folder.join(&within);
        for item in std::fs::read_dir(&here).map_err(|error| file_error(&here, error))? {
            let item = item.map_err(|error| file_error(&here, error))?;
            let path = within.join(item.file_name());
            let kind = item.file_type().map_err(|error| file_error(&here, error))?;
            if kind.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// Length and digest of a file, which is copied to `to` meanwhile.
fn digest(path: &Path, to: &mut impl io::Write) -> Result<(u64, String), BackupError> {
    let mut file = File::open(path).map_err(|error| file_error(path, error))?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0_u64, vec![0; 1 << 20]);
    loop {
        let count = file.read(&mut buffer).map_err(|error| file_error(path, error))?;
        let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else { break };
        hash.update(part);
        to.write_all(part).map_err(|error| file_error(path, error))?;
        bytes += count as u64;
    }
    Ok((bytes, Hash::from_bytes(hash.finalize().into()).hex()))
}

fn copy_durably(from: &Path, to: &Path) -> Result<(), BackupError> {
    std::fs::copy(from, to).map_err(|error| file_error(from, error))?;
    sync(to)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), BackupError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| not_whole(path, error.to_string()))?;
    text.push(b'\n');
    write(path, &text)
}

fn write(path: &Path, text: &[u8]) -> Result<(), BackupError> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()
    });
    written.map_err(|error| file_error(path, error))
}

fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| file_error(path, error))
}

fn file_error(path: &Path, error: io::Error) -> BackupError {
    BackupError::File { path: path.to_owned(), error }
}

fn not_whole(path: &Path, why: String) -> BackupError {
    BackupError::NotWhole { path: path.to_owned(), why }
}
