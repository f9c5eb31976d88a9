//! The payload store: objects that records commit to (SPEC §5), kept beside the log and erasable.
//!
//! ```text
//! DIR/objects/ab/abcd…   one file an object, named by the SHA-256 of what is in it
//! DIR/part/…             objects that are arriving; emptied on start
//! ```
//!
//! An object appears by renaming a whole, checked and synced file, so that no crash leaves a part of one under its
//! name. It is checked again before every answer, because disks forget. Nothing in the log depends on what is here:
//! without an object every proof still holds, and its content is withheld.
//!
//! One thing at a time happens to names (`Store::names`): an object that is put while the operator erases it is gone
//! afterwards, whichever came first.
//!
//! Out of scope: encryption at rest, which is the disk's; deciding what may be erased, which is the operator's.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sift_spec::payload::{CONTENT_BYTES_MAX, SALT_BYTES};
use sift_spec::types::Hash;
use tokio::sync::Semaphore;

use crate::access::{Tokens, TokensFrom};
use crate::config::{ConfigError, content, file};

/// Shortest and longest object in bytes (SPEC §5).
pub(crate) const OBJECT_BYTES: std::ops::RangeInclusive<u64> =
    SALT_BYTES as u64..=(SALT_BYTES + CONTENT_BYTES_MAX) as u64;

/// How often old and erased objects are looked for.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);

/// Objects that are read at a time to see that they are whole.
const READS_MAX: usize = 4;

/// Memory for reading one object, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// `[payloads]` of the configuration. Without tokens for something, nobody may do it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayloadsConfig {
    /// Folder of the store. One log, one folder.
    pub dir: PathBuf,
    /// Tokens of those who may put objects: kernels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put_tokens: Option<TokensFrom>,
    /// Tokens of those who may get objects: auditors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub get_tokens: Option<TokensFrom>,
    /// Tokens of those who may delete what the operator has erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_tokens: Option<TokensFrom>,
    /// Largest object in bytes, its 16 random ones included.
    #[serde(default = "default_bytes_max")]
    pub bytes_max: u64,
    /// Most bytes of all objects.
    #[serde(default = "default_total_bytes_max")]
    pub total_bytes_max: u64,
    /// Objects that were last put so many days ago are deleted; none are where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
}

const fn default_bytes_max() -> u64 {
    *OBJECT_BYTES.end()
}

/// 64 GiB.
const fn default_total_bytes_max() -> u64 {
    64 << 30
}

impl PayloadsConfig {
    /// Takes paths as relative to `folder`.
    pub(crate) fn rebase(&mut self, folder: &Path) {
        self.dir = folder.join(&self.dir);
        for tokens in
            [&mut self.put_tokens, &mut self.get_tokens, &mut self.delete_tokens].into_iter().flatten()
        {
            tokens.rebase(folder);
        }
    }

    /// Reads the tokens, once the numbers are found to make sense.
    pub(crate) fn tokens(&self) -> Result<PayloadTokens, ConfigError> {
        if !OBJECT_BYTES.contains(&self.bytes_max) {
            let (least, most) = (OBJECT_BYTES.start(), OBJECT_BYTES.end());
            return Err(content(&self.dir, format!("payloads.bytes_max must be from {least} to {most}")));
        }
        if self.retention_days == Some(0) {
            let why = "payloads.retention_days must be at least 1, or absent to keep everything".to_owned();
            return Err(content(&self.dir, why));
        }
        let read = |from: &Option<TokensFrom>| from.as_ref().map(Tokens::read).transpose();
        Ok(PayloadTokens {
            put: read(&self.put_tokens)?,
            get: read(&self.get_tokens)?,
            delete: read(&self.delete_tokens)?,
        })
    }
}

/// Who may do what with payloads.
pub(crate) struct PayloadTokens {
    pub(crate) put: Option<Tokens>,
    pub(crate) get: Option<Tokens>,
    pub(crate) delete: Option<Tokens>,
}

/// The payload store.
pub(crate) struct Payloads {
    pub(crate) tokens: PayloadTokens,
    pub(crate) bytes_max: u64,
    total_bytes_max: u64,
    retention: Option<Duration>,
    objects: PathBuf,
    parts: PathBuf,
    /// Bytes of all objects, and of those that are arriving.
    used: AtomicU64,
    /// Names the files of objects that are arriving.
    next_part: AtomicU64,
    /// Objects deleted by sweeps of this process: for their age, and because the operator erased them.
    swept: [AtomicU64; 2],
    /// Held while a name comes or goes.
    names: Mutex<()>,
    /// Objects that are read at a time to see that they are whole.
    pub(crate) turns: Semaphore,
}

/// Why an object was not stored or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("the operator has erased this object")]
    Erased,
    #[error("the SHA-256 of what was sent is another: {0}")]
    Differs(String),
    #[error("there is no room for this object: the store is full")]
    Full,
    #[error(
        "the stored object is damaged: it is not what its name says; put it again from where it is whole"
    )]
    Damaged,
    #[error(
        "the operator has not erased this object: sift-server operator erase --digest {0} --reason … records that it \
         may be deleted, and why"
    )]
    NotErased(String),
    #[error("the payload store could not be used: {0}")]
    Io(#[from] io::Error),
}

impl Payloads {
    /// Opens the store in the configured folder and makes it where it is missing. What was arriving when an earlier
    /// process ended is removed.
    pub(crate) fn open(config: &PayloadsConfig) -> Result<Self, ConfigError> {
        let tokens = config.tokens()?;
        let day = Duration::from_secs(24 * 60 * 60);
        let store = Self {
            tokens,
            bytes_max: config.bytes_max,
            total_bytes_max: config.total_bytes_max,
            retention: config.retention_days.map(|days| day * days),
            objects: config.dir.join("objects"),
            parts: config.dir.join("part"),
            used: AtomicU64::new(0),
            next_part: AtomicU64::new(0),
            swept: [AtomicU64::new(0), AtomicU64::new(0)],
            names: Mutex::new(()),
            turns: Semaphore::new(READS_MAX),
        };
        let used = store.prepare().map_err(|error| file(&config.dir, error))?;
        store.used.store(used, Ordering::Relaxed);
        tracing::info!(dir = %config.dir.display(), bytes = used, "payload store");
        Ok(store)
    }

    /// Makes the folders, removes parts, and adds up what is there.
    fn prepare(&self) -> io::Result<u64> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.parts)?;
        for shard in 0..=u8::MAX {
            builder.create(self.objects.join(format!("{shard:02x}")))?;
        }
        // The folders are there before the first object is said to be.
        sync_folder(&self.objects)?;
        self.objects.parent().map_or(Ok(()), sync_folder)?;
        let mut parts = 0;
        for part in std::fs::read_dir(&self.parts)? {
            std::fs::remove_file(part?.path())?;
            parts += 1;
        }
        if parts > 0 {
            tracing::info!(parts, "payloads that were arriving when the log ended were removed");
        }
        let mut used = 0;
        self.each(|_, metadata| {
            used += metadata.len();
            Ok(())
        })?;
        Ok(used)
    }

    /// Bytes of all objects and of those that are arriving, and objects swept by this process: old ones, erased ones.
    pub(crate) fn told(&self) -> (u64, [u64; 2]) {
        (self.used.load(Ordering::Relaxed), self.swept.each_ref().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Begins an object of at most `bytes` bytes, for which room is set aside.
    pub(crate) fn begin(self: &Arc<Self>, digest: Hash, bytes: u64) -> Result<Part, PayloadError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let within = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.total_bytes_max);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within)
            .map_err(|_| PayloadError::Full)?;
        let path = self.parts.join(self.next_part.fetch_add(1, Ordering::Relaxed).to_string());
        let mut part = Part {
            store: Arc::clone(self),
            digest,
            room: bytes,
            file: None,
            path,
            hasher: Sha256::new(),
            length: 0,
        };
        // The room is given back with the part, should there be no file.
        part.file = Some(OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part.path)?);
        Ok(part)
    }

    /// Opens an object that is whole, and says how long it is.
    pub(crate) fn read(&self, digest: &Hash) -> Result<Option<(File, u64)>, PayloadError> {
        let mut file = match File::open(self.path(digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (mut hasher, mut length, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK_BYTES]);
        loop {
            let read = file.read(&mut chunk)?;
            let Some(bytes @ [_, ..]) = chunk.get(..read) else { break };
            hasher.update(bytes);
            length += read as u64;
            if length > *OBJECT_BYTES.end() {
                return Err(PayloadError::Damaged);
            }
        }
        if Hash::from_bytes(hasher.finalize().into()) != *digest {
            return Err(PayloadError::Damaged);
        }
        file.rewind()?;
        Ok(Some((file, length)))
    }

    /// Deletes an object that the operator has erased; says whether it was there.
    pub(crate) fn delete(
        &self,
        digest: &Hash,
        is_erased: impl Fn(&Hash) -> bool,
    ) -> Result<bool, PayloadError> {
        if !is_erased(digest) {
            return Err(PayloadError::NotErased(digest.hex()));
        }
        let _names = self.names();
        Ok(self.remove(digest)?)
    }

    /// Deletes what is older than it may be, and what the operator has erased.
    pub(crate) fn sweep(&self, now: SystemTime, is_erased: impl Fn(&Hash) -> bool) -> io::Result<Swept> {
        let mut due = Vec::new();
        let mut swept = Swept::default();
        self.each(|digest, metadata| {
            let age = now.duration_since(metadata.modified()?).unwrap_or_default();
            let old = self.retention.is_some_and(|retention| age >= retention);
            if old || is_erased(&digest) {
                due.push((digest, old));
            }
            Ok(())
        })?;
        for (digest, old) in due {
            let _names = self.names();
            // It may have been put again meanwhile.
            let metadata = match std::fs::metadata(self.path(&digest)) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let age = now.duration_since(metadata.modified()?).unwrap_or_default();
            let still = !old || self.retention.is_some_and(|retention| age >= retention);
            if still && self.remove(&digest)? {
                if old {
                    swept.old += 1
                } else {
                    swept.erased += 1
                }
                swept.bytes += metadata.len();
            }
        }
        self.swept[0].fetch_add(swept.old, Ordering::Relaxed);
        self.swept[1].fetch_add(swept.erased, Ordering::Relaxed);
        Ok(swept)
    }

    /// Removes an object, durably. The names are held.
    fn remove(&self, digest: &Hash) -> io::Result<bool> {
        let path = self.path(digest);
        let length = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        std::fs::remove_file(&path)?;
        path.parent().map_or(Ok(()), sync_folder)?;
        self.release(length);
        Ok(true)
    }

    /// Visits every object.
    fn each(&self, mut visit: impl FnMut(Hash, std::fs::Metadata) -> io::Result<()>) -> io::Result<()> {
        for shard in 0..=u8::MAX {
            for object in std::fs::read_dir(self.objects.join(format!("{shard:02x}")))? {
                let object = object?;
                let digest = object.file_name().to_str().and_then(|name| Hash::from_hex(name).ok());
                match (digest, object.metadata()) {
                    (Some(digest), Ok(metadata)) => visit(digest, metadata)?,
                    // Deleted since the folder was read.
                    (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                    (_, Err(error)) => return Err(error),
                    (None, _) => {
                        tracing::warn!(path = %object.path().display(), "no payload object: left alone");
                    }
                }
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Hash) -> PathBuf {
        let name = digest.hex();
        self.objects.join(name.get(..2).unwrap_or_default()).join(name)
    }

    fn release(&self, bytes: u64) {
        let _ = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(bytes)));
    }

    /// There is nothing behind this lock that a panic could leave half done.
    fn names(&self) -> MutexGuard<'_, ()> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a sweep deleted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Objects that were older than they may be.
    pub(crate) old: u64,
    /// Objects that the operator has erased.
    pub(crate) erased: u64,
    /// Bytes of both.
    pub(crate) bytes: u64,
}

/// An object that is arriving. It leaves nothing behind unless it is finished.
pub(crate) struct Part {
    store: Arc<Payloads>,
    digest: Hash,
    /// Bytes that are set aside for it.
    room: u64,
    file: Option<File>,
    path: PathBuf,
    hasher: Sha256,
    length: u64,
}

impl Part {
    /// Takes the next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), PayloadError> {
        use std::io::Write as _;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(bytes).map_err(from_disk)
    }

    /// Checks the whole, makes it durable, and gives it its name; says whether it was new. Nothing of it is left
    /// where that fails, or where the operator has erased it meanwhile.
    pub(crate) fn finish(mut self, is_erased: impl Fn(&Hash) -> bool) -> Result<bool, PayloadError> {
        let found = Hash::from_bytes(std::mem::take(&mut self.hasher).finalize().into());
        if found != self.digest {
            return Err(PayloadError::Differs(found.hex()));
        }
        if let Some(file) = self.file.take() {
            file.sync_all().map_err(from_disk)?;
        }
        let store = Arc::clone(&self.store);
        let _names = store.names();
        if is_erased(&self.digest) {
            return Err(PayloadError::Erased);
        }
        let path = store.path(&self.digest);
        // One that is there is replaced: by the same, or, if it was damaged, by a whole one.
        let before = std::fs::metadata(&path).map(|metadata| metadata.len()).ok();
        std::fs::rename(&self.path, &path)?;
        path.parent().map_or(Ok(()), sync_folder)?;
        store.release(before.unwrap_or(0));
        // What was set aside for it is used now, but for what it did not need.
        self.room = self.room.saturating_sub(self.length);
        Ok(before.is_none())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.store.release(self.room);
        // Renamed already, where it was finished.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A disk that is full is no failure of the server's.
fn from_disk(error: io::Error) -> PayloadError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => PayloadError::Full,
        _ => error.into(),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path, total_bytes_max: u64) -> Arc<Payloads> {
        let config = PayloadsConfig {
            dir: dir.to_owned(),
            put_tokens: None,
            get_tokens: None,
            delete_tokens: None,
            bytes_max: default_bytes_max(),
            total_bytes_max,
            retention_days: Some(2),
        };
        Arc::new(Payloads::open(&config).unwrap())
    }

    fn used(store: &Payloads) -> u64 {
        store.told().0
    }

    fn object(n: u8) -> (Hash, Vec<u8>) {
        let bytes = vec![n; 1000];
        (sift_spec::hash::object_digest(&bytes), bytes)
    }

    fn put(store: &Arc<Payloads>, digest: Hash, bytes: &[u8]) -> Result<bool, PayloadError> {
        let mut part = store.begin(digest, bytes.len() as u64)?;
        bytes.chunks(300).try_for_each(|chunk| part.write(chunk))?;
        part.finish(|_| false)
    }

    fn files(dir: &Path) -> usize {
        let folders = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        folders.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
    }

    #[test]
    fn whole_objects_appear_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (object(1), object(2));
        let store = store(dir.path(), 2500);
        assert!(put(&store, one.0, &one.1).unwrap());
        assert!(!put(&store, one.0, &one.1).unwrap(), "there already");
        assert_eq!(used(&store), 1000);
        assert!(matches!(put(&store, two.0, &one.1), Err(PayloadError::Differs(_))));
        // Given up half way, as by a client that goes away.
        let mut part = store.begin(two.0, 1000).unwrap();
        part.write(&two.1[..500]).unwrap();
        assert!(store.read(&two.0).unwrap().is_none());
        assert!(matches!(put(&store, two.0, &two.1), Err(PayloadError::Full)), "the part has its room");
        drop(part);
        assert!(put(&store, two.0, &two.1).unwrap());
        assert_eq!((used(&store), files(dir.path())), (2000, 2));
        assert!(matches!(store.begin(object(3).0, 501), Err(PayloadError::Full)));
        let (mut file, length) = store.read(&one.0).unwrap().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!((bytes, length), (one.1, 1000));
    }

    #[test]
    fn every_damage_is_seen_and_put_right_by_a_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let (store, (digest, bytes)) = (store(dir.path(), 10_000), object(7));
        put(&store, digest, &bytes).unwrap();
        let path = store.path(&digest);
        let mut flipped = bytes.clone();
        flipped[999] ^= 1;
        for damaged in [flipped, bytes[..999].to_vec(), Vec::new(), [bytes.clone(), vec![0]].concat()] {
            std::fs::write(&path, &damaged).unwrap();
            assert!(matches!(store.read(&digest), Err(PayloadError::Damaged)));
            // As after a start, what is there counts.
            store.used.store(damaged.len() as u64, Ordering::Relaxed);
            assert!(!put(&store, digest, &bytes).unwrap());
            assert_eq!(store.read(&digest).unwrap().unwrap().1, 1000);
            assert_eq!(used(&store), 1000);
        }
    }

    #[test]
    fn an_erased_object_never_appears_again() {
        let dir = tempfile::tempdir().unwrap();
        let (store, (digest, bytes)) = (store(dir.path(), 10_000), object(7));
        put(&store, digest, &bytes).unwrap();
        assert!(matches!(store.delete(&digest, |_| false), Err(PayloadError::NotErased(_))));
        let mut part = store.begin(digest, 1000).unwrap();
        part.write(&bytes).unwrap();
        // The operator's entry comes while the object is arriving.
        assert!(store.delete(&digest, |erased| *erased == digest).unwrap());
        assert!(matches!(part.finish(|erased| *erased == digest), Err(PayloadError::Erased)));
        assert!(!store.delete(&digest, |_| true).unwrap(), "gone already");
        assert_eq!((used(&store), files(dir.path())), (0, 0));
    }

    #[test]
    fn a_start_removes_parts_and_adds_up_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let (digest, bytes) = object(7);
        let first = store(dir.path(), 10_000);
        put(&first, digest, &bytes).unwrap();
        let mut part = first.begin(object(8).0, 1000).unwrap();
        part.write(&bytes).unwrap();
        // As a kill leaves it: the part is there and nobody removes it.
        std::mem::forget(part);
        assert_eq!(files(dir.path()), 2);
        let second = store(dir.path(), 10_000);
        assert_eq!((used(&second), files(dir.path())), (1000, 1));
    }

    #[test]
    fn a_sweep_takes_the_old_and_the_erased() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), 10_000);
        let objects: Vec<_> = (0..4).map(object).collect();
        for (digest, bytes) in &objects {
            put(&store, *digest, bytes).unwrap();
        }
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 60 * 60);
        let age = |n: usize, age: Duration| {
            File::options()
                .write(true)
                .open(store.path(&objects[n].0))
                .unwrap()
                .set_modified(now - age)
                .unwrap();
        };
        age(0, day * 3);
        age(1, day * 2 - Duration::from_secs(60));
        let swept = store.sweep(now, |digest| *digest == objects[2].0).unwrap();
        assert_eq!(swept, Swept { old: 1, erased: 1, bytes: 2000 });
        assert_eq!((used(&store), files(dir.path())), (2000, 2));
        assert_eq!(store.sweep(now, |_| false).unwrap(), Swept::default());
        let swept = store.sweep(now + Duration::from_secs(60), |_| false).unwrap();
        assert_eq!(swept, Swept { old: 1, erased: 0, bytes: 1000 });
        assert_eq!(store.told(), (1000, [2, 1]));
    }
}
