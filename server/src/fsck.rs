//! fsck: a store checked from its bytes, without the server and without changing anything.
//!
//! 1. The store is one of this log, and no server has it open.
//! 2. The operator's chain, and the keys and bundles that it makes (`rows`).
//! 3. Every entry in order: it parses, its leaf hash is the one in its tile and in its row of the chain column, its
//!    signature verifies under a key that counts at its index, and it continues its run (`entries`).
//! 4. Every tile of every level is that of the entries, and every checkpoint that was kept has the root of its size.
//! 5. The newest checkpoint is signed by the log and has the root of the whole tree; so has the high-water mark, and
//!    every checkpoint that others hold, for its size.
//! 6. No column has rows beyond those: chain, tiles, checkpoints, entries; and each row of equivocations is evidence.
//!
//! A hash that is stored three times (computed from the entry, in its tile, in its chain row) is taken as the two that
//! agree, so that one damaged row is one finding and not every root above it. Memory does not grow with the store, but
//! for two bits an entry and the heads of runs that are open at a time, of which so many are kept.
//!
//! Out of scope: what records say about each other beyond their chain (`sift-verify log`), and repairing anything.

mod entries;
mod rows;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use sift_spec::keys::KeyRing;
use sift_spec::note::VerifierKey;
use sift_spec::proof::TreeHead;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, TreeSize};

use crate::mark::HighWaterMark;
use crate::recovery::every_key;
use crate::store::{Store, StoreError};

/// Findings of one kind that are told one by one; the rest is counted.
const FINDINGS_MAX: usize = 100;

/// What a check found. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The store does not open, because RocksDB's own checksums fail.
    StoreUnreadable,
    /// RocksDB's own checksums do not let a row through.
    Unreadable,
    /// A named value is missing or is not what it should be.
    MetaInvalid,
    /// No entry at an index below the tree's size.
    EntryMissing,
    /// The bytes are not an entry.
    EntryMalformed,
    /// An entry at or beyond the tree's size.
    EntryExtra,
    /// An entry's bytes are not those that were hashed.
    LeafDiffers,
    /// An entry's signature does not verify.
    SignatureInvalid,
    /// An entry's key does not count at its index.
    KeyNotGranted,
    /// A run opens under a bundle that was not published before it.
    PolicyNotPublished,
    /// A record does not continue its run.
    ChainBroken,
    /// The operator's chain is not whole, or a record of it cannot be applied.
    OperatorChain,
    /// An entry has no row in the chain column.
    ChainRowMissing,
    /// An entry's row in the chain column says something else.
    ChainRowDiffers,
    /// A row of the chain column is that of no entry.
    ChainRowExtra,
    /// A tile is not there.
    TileMissing,
    /// A tile's hashes are not those of the entries.
    TileDiffers,
    /// A tile that the tree does not have.
    TileExtra,
    /// A stored checkpoint is not signed by the log, or is not that of its size.
    CheckpointInvalid,
    /// The tree has another root than a checkpoint that was signed.
    RootDiffers,
    /// The log signed more than the store holds.
    Behind,
    /// A row of the equivocations column proves nothing.
    EquivocationInvalid,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The name has one source: serde's.
        self.serialize(f)
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub code: Code,
    /// The row that it concerns: `entry 17`, `tile 0/3`, `chain <run>/4`.
    pub row: String,
    /// Index of the entry that it concerns, where it concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// What was seen, and what it means.
    pub detail: String,
}

/// What was checked and what was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Origin of the log.
    pub log: String,
    /// Size of the newest checkpoint.
    pub size: TreeSize,
    /// Root of the tree that the entries make; absent where a hash is lost.
    pub root: Option<Hash>,
    /// Entries that were read.
    pub entries: u64,
    /// How much was checked.
    pub depth: Depth,
    /// Tiles that were compared.
    pub tiles: u64,
    /// Rows of the chain column that were compared.
    pub chain_rows: u64,
    /// Checkpoints whose signature and root were compared.
    pub checkpoints: u64,
    /// Rows of the equivocations column that were checked.
    pub equivocations: u64,
    /// What is not as it should be, at most 100 of each code.
    pub findings: Vec<Finding>,
    /// Findings beyond those, by code.
    pub more: BTreeMap<Code, u64>,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}

impl Report {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn add(&mut self, finding: Finding) {
        let same = self.findings.iter().filter(|other| other.code == finding.code).count();
        if same < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            *self.more.entry(finding.code).or_default() += 1;
        }
    }

    fn find(&mut self, code: Code, row: impl Into<String>, index: Option<u64>, detail: impl Into<String>) {
        self.add(Finding { code, row: row.into(), index, detail: detail.into() });
    }
}

/// Why a store was not checked. It may be in order.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// A file could not be read.
    #[error("{path}: {error}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A server writes to it.
    #[error(
        "a server has this store open, and what it writes meanwhile cannot be told from damage: stop it, or check a \
         backup of it (sift-server backup)"
    )]
    InUse,
    /// It cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is another log's.
    #[error("this is the store of {found}, not of {expected}")]
    OtherLog {
        /// The log that was asked for.
        expected: String,
        /// What the store says.
        found: String,
    },
    /// A checkpoint that somebody else holds is none of this log.
    #[error("the checkpoint to compare with is not one of this log: {0}")]
    Seen(#[from] sift_spec::trust::TrustError),
    /// No thread, no randomness.
    #[error("the operating system refused: {0}")]
    System(String),
}

/// What to check against what.
#[derive(Debug)]
pub struct Fsck<'a> {
    /// Folder of the store.
    pub data: &'a Path,
    /// The log's key.
    pub log: &'a VerifierKey,
    /// The operator's key.
    pub operator: &'a VerifierKey,
    /// Checkpoints of this log that others hold.
    pub seen: &'a [Vec<u8>],
    /// How much of it.
    pub depth: Depth,
}

/// How thorough a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// What every start of a log checks: the newest checkpoint, the right edge below it, the operator's chain.
    Edge,
    /// Every row, every hash, every chain; no signatures but those of checkpoints and the operator.
    Hashes,
    /// Every signature too, which takes most of the time.
    Signatures,
}

/// A check that is under way.
struct Check<'a> {
    store: &'a Store,
    trust: TrustPolicy,
    keys: KeyRing,
    size: u64,
    depth: Depth,
    /// Bit i: entry i has its row in the chain column.
    has_row: Bits,
    /// Heads of the sizes at which roots are compared besides those of the kept checkpoints.
    known: Vec<(TreeHead, &'static str)>,
    report: Report,
}

impl Fsck<'_> {
    /// Checks everything. `progress` is told entries that are done, and all.
    ///
    /// # Errors
    /// When the store cannot be checked. Damage is no error, but a finding.
    pub fn run(&self, progress: &dyn Fn(u64, u64)) -> Result<Report, FsckError> {
        let begun = Instant::now();
        let trust = TrustPolicy::of_log(self.log.clone(), Some(self.operator.clone()));
        let mut report = Report {
            log: self.log.name().to_string(),
            size: TreeSize::ZERO,
            root: None,
            entries: 0,
            depth: self.depth,
            tiles: 0,
            chain_rows: 0,
            checkpoints: 0,
            equivocations: 0,
            findings: Vec::new(),
            more: BTreeMap::new(),
            milliseconds: 0,
        };
        // Held until the end: no server starts meanwhile.
        let _lock = lock(self.data)?;
        let store = match Store::open_read_only(self.data) {
            Ok(store) => store,
            Err(StoreError::Rocks(error)) if error.kind() == rocksdb::ErrorKind::Corruption => {
                let detail = format!("RocksDB's own checksums fail before anything can be read: {error}");
                report.find(Code::StoreUnreadable, "store", None, detail);
                return Ok(report);
            }
            Err(error) => return Err(error.into()),
        };
        let found = store.meta("vkey")?.map(|vkey| String::from_utf8_lossy(&vkey).into_owned());
        let found = found.unwrap_or_default();
        if found != self.log.to_string() {
            return Err(FsckError::OtherLog { expected: self.log.to_string(), found });
        }
        // What was signed before the log changed its key is the log's own all the same.
        let ever = every_key(&store, std::slice::from_ref(self.log), self.log)?;
        let ever = TrustPolicy::of_keys(ever, Some(self.operator.clone()));
        let mut known = Vec::new();
        match trust.verify(&store.meta("checkpoint")?.unwrap_or_default()) {
            Ok(verified) => {
                report.size = verified.checkpoint().head.size;
                known.push((verified.checkpoint().head, "the newest checkpoint"));
            }
            Err(error) => {
                let detail =
                    format!("the newest checkpoint is not believed: {error}; all entries are checked");
                report.find(Code::CheckpointInvalid, "meta checkpoint", None, detail);
                let stored = store.last_index()?.map_or(0, |last| last + 1);
                report.size = TreeSize::new(stored).unwrap_or_default();
            }
        }
        let mark = HighWaterMark::read(self.data, &ever)
            .map_err(|error| FsckError::File { path: HighWaterMark::path(self.data), error })?;
        known.extend(mark.map(|head| (head, "the high-water mark")));
        for note in self.seen {
            known.push((ever.verify(note)?.checkpoint().head, "a checkpoint that somebody else holds"));
        }
        known.retain(|(head, whose)| {
            let behind = head.size > report.size;
            if behind {
                let detail = format!(
                    "{whose} is of {} entries, and this store has {}: it is an old or damaged copy",
                    head.size, report.size
                );
                report.find(Code::Behind, *whose, None, detail);
            }
            !behind
        });
        known.sort_by_key(|(head, _)| head.size);
        let keys = KeyRing::new(self.log.name().clone(), self.operator.clone());
        let size = report.size.get();
        let (depth, has_row) = (self.depth, Bits::new(size));
        let mut check = Check { store: &store, trust: ever, keys, size, depth, has_row, known, report };
        check.operator_chain()?;
        if depth == Depth::Edge {
            check.edge();
        } else {
            check.entries(progress)?;
            check.chain_rows()?;
            check.tile_rows()?;
            check.equivocations()?;
        }
        let Check { mut report, .. } = check;
        report.milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(report)
    }
}

/// Takes the lock that a server would take. A copy that no server ever opened has none.
fn lock(data: &Path) -> Result<Option<File>, FsckError> {
    use rustix::fs::{FlockOperation, fcntl_lock};
    use rustix::io::Errno;
    let path = data.join("LOCK");
    let file = match File::options().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        // Nobody writes to a medium that takes no writes.
        Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => return Ok(None),
        Err(error) => return Err(FsckError::File { path, error }),
    };
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(FsckError::InUse),
        Err(error) => Err(FsckError::File { path, error: error.into() }),
    }
}

/// One bit for each entry.
struct Bits(Vec<u64>);

impl Bits {
    fn new(size: u64) -> Self {
        Self(vec![0; usize::try_from(size.div_ceil(64)).unwrap_or(usize::MAX)])
    }

    /// Sets a bit and says whether it was set.
    fn set(&mut self, index: u64) -> bool {
        let word = usize::try_from(index / 64).ok().and_then(|word| self.0.get_mut(word));
        word.is_some_and(|word| {
            let was = *word & (1 << (index % 64)) != 0;
            *word |= 1 << (index % 64);
            was
        })
    }

    fn get(&self, index: u64) -> bool {
        let word = usize::try_from(index / 64).ok().and_then(|word| self.0.get(word));
        word.is_some_and(|word| word & (1 << (index % 64)) != 0)
    }
}

/// Distinct codes of a report, for those who only want to know what kinds of things were found.
impl Report {
    /// The kinds of findings.
    #[must_use]
    pub fn codes(&self) -> HashSet<Code> {
        self.findings.iter().map(|finding| finding.code).collect()
    }
}
