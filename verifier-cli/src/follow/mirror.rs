//! A full copy of a log, laid out as C2SP tlog-tiles: `sift-verify log` audits it with no network, and any file server
//! serves it.
//!
//! Nothing is kept that is not proven to be part of the signed tree: the tiles along its right edge give its root, each
//! tile below hashes to its place in the one above, and entries hash to their tile. A file has its name once all of it
//! is on the disk; the checkpoint comes last. So whenever the process ends, what has a name is right, and the next pass
//! goes on from there.
//!
//! Memory holds a tile for each level and a bundle for each worker, however large the log.

mod edge;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sift_spec::hash::{leaf_hash, node_hash};
use sift_spec::proof::TreeHead;
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath, parse_entries};
use sift_spec::types::{Hash, TreeSize};

use super::judge::claims;
use crate::error::CannotCheck;
use crate::files::{make_dir, sync_dir, unfinished, write_durably, write_whole};
use crate::finding::{Code, Concern, Finding};
use crate::log::Progress;
use crate::source::{BUNDLE_BYTES_MAX, Directory, Source, tile_bytes};

use edge::Proven;

/// Requests at a time.
const WORKERS: usize = 4;

/// Which sizes may have partial tiles in the copy; beside it, as it is ours and no reader's.
const SIZES_FILE: &str = "mirror-sizes";

/// Why a copy was not extended.
#[derive(Debug)]
pub(super) enum Failure {
    /// What was served is not what the log signed.
    Wrong(Box<Finding>),
    /// It could not be read or written.
    CannotCheck(CannotCheck),
}

impl From<CannotCheck> for Failure {
    fn from(error: CannotCheck) -> Self {
        Self::CannotCheck(error)
    }
}

/// The copy.
pub(super) struct Mirror {
    dir: PathBuf,
    sizes: PathBuf,
}

impl Mirror {
    /// The copy in the directory of a follower.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.join(super::MIRROR_DIR), sizes: dir.join(SIZES_FILE) }
    }

    /// How many entries it holds, all of them proven.
    pub(super) fn size(&self) -> TreeSize {
        let note = fs::read(self.dir.join("checkpoint")).unwrap_or_default();
        claims(&note).map_or(TreeSize::ZERO, |(_, head)| head.size)
    }

    /// Copies what the tree of `head` has more than the copy. Gives how many entries that was.
    pub(super) fn extend(
        &self,
        source: &dyn Source,
        head: &TreeHead,
        note: &str,
        progress: &dyn Progress,
    ) -> Result<u64, Failure> {
        let (held, size) = (self.size().get(), head.size.get());
        if held >= size && self.dir.join("checkpoint").exists() {
            return Ok(0);
        }
        let copy = Directory::new(&self.dir);
        let folders = Folders::new(&self.dir);
        let mut proven = Proven::read(source, &copy, &folders, *head)?;
        self.note_size(head.size)?;
        // Everything in one tile of level 1 at a time: 65,536 entries.
        let (first, bundles) = (held / TILE_WIDTH, size.div_ceil(TILE_WIDTH));
        for group in first / TILE_WIDTH..bundles.div_ceil(TILE_WIDTH) {
            let expected = proven.bundles_of(group)?;
            let start = first.max(group * TILE_WIDTH);
            let end = bundles.min((group + 1) * TILE_WIDTH);
            let advance = |done: u64| progress.advance(done.min(size), size);
            self.copy_bundles(source, &folders, start..end, &expected, advance)?;
        }
        for (path, hashes) in proven.edge() {
            folders.put(path, &bytes_of(hashes))?;
        }
        folders.sync()?;
        let path = self.dir.join("checkpoint");
        write_durably(&path, note.as_bytes()).map_err(|source| CannotCheck::Write { path, source })?;
        self.tidy(TreeSize::new(held).unwrap_or_default(), head.size)?;
        Ok(size - held)
    }

    /// Copies bundles with several workers; the first failure ends it.
    fn copy_bundles(
        &self,
        source: &dyn Source,
        folders: &Folders<'_>,
        bundles: std::ops::Range<u64>,
        expected: &[Expected],
        advance: impl Fn(u64) + Sync,
    ) -> Result<(), Failure> {
        let (next, done) = (AtomicU64::new(bundles.start), AtomicU64::new(bundles.start));
        let failure: Mutex<Option<Failure>> = Mutex::default();
        let failed = || failure.lock().unwrap_or_else(PoisonError::into_inner);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(expected) = expected.get((index % TILE_WIDTH) as usize) else { return };
                        if index >= bundles.end || failed().is_some() {
                            return;
                        }
                        if let Err(error) = self.copy_bundle(source, folders, index, expected) {
                            failed().get_or_insert(error);
                            return;
                        }
                        advance((done.fetch_add(1, Ordering::Relaxed) + 1) * TILE_WIDTH);
                    }
                });
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn copy_bundle(
        &self,
        source: &dyn Source,
        folders: &Folders<'_>,
        index: u64,
        expected: &Expected,
    ) -> Result<(), Failure> {
        let width = expected.width();
        let path = TilePath::Entries { index, width };
        let hashes = TilePath::Hashes { tile: TileId { level: 0, index }, width };
        let copy = Directory::new(&self.dir);
        // What a pass before this one has kept is read again: a disk may have lost it since.
        if let Some(bytes) = copy.fetch(&path.to_string(), BUNDLE_BYTES_MAX)?
            && let Ok((_, leaves)) = read_bundle(&bytes, width, path)
            && expected.is(&leaves)
            && copy.fetch(&hashes.to_string(), BUNDLE_BYTES_MAX)? == Some(bytes_of(&leaves))
        {
            return Ok(());
        }
        let bytes = tile_bytes(source, path)?;
        let (length, leaves) = read_bundle(&bytes, width, path)?;
        if !expected.is(&leaves) {
            let detail = "its entries are not those that the log's tree has here".to_owned();
            let concern = Concern::path(path);
            return Err(Failure::Wrong(Box::new(Finding::rejects(Code::BundleMalformed, concern, detail))));
        }
        folders.put(hashes, &bytes_of(&leaves))?;
        folders.put(path, bytes.get(..length).unwrap_or_default())
    }

    /// Remembers that partial tiles of this size may come to be, so that they can be taken away after a crash.
    fn note_size(&self, size: TreeSize) -> Result<(), CannotCheck> {
        let mut sizes = self.noted_sizes();
        if !sizes.contains(&size) {
            sizes.push(size);
        }
        self.write_sizes(&sizes)
    }

    fn noted_sizes(&self) -> Vec<TreeSize> {
        let text = fs::read_to_string(&self.sizes).unwrap_or_default();
        text.lines().filter_map(|line| TreeSize::new(line.parse().ok()?).ok()).collect()
    }

    fn write_sizes(&self, sizes: &[TreeSize]) -> Result<(), CannotCheck> {
        let text: String = sizes.iter().map(|size| format!("{size}\n")).collect();
        write_durably(&self.sizes, text.as_bytes())
            .map_err(|source| CannotCheck::Write { path: self.sizes.clone(), source })
    }

    /// Takes away the partial tiles of sizes that are past, but for the one before: somebody may be reading it.
    fn tidy(&self, before: TreeSize, now: TreeSize) -> Result<(), CannotCheck> {
        let kept: Vec<String> = partial_paths(before).chain(partial_paths(now)).collect();
        for size in self.noted_sizes() {
            for path in partial_paths(size).filter(|path| !kept.contains(path)) {
                let path = self.dir.join(path);
                // What is gone already is fine, and so is a folder that holds others still.
                let _ = fs::remove_file(unfinished(&path));
                let _ = fs::remove_file(&path);
                let _ = path.parent().map(fs::remove_dir);
            }
        }
        self.write_sizes(&[before, now])
    }
}

/// What a bundle must hash to.
pub(super) enum Expected {
    /// Root of a full one.
    Root(Hash),
    /// Leaves of the last one.
    Leaves(Vec<Hash>),
}

impl Expected {
    fn width(&self) -> u16 {
        match self {
            Self::Root(_) => TILE_WIDTH as u16,
            Self::Leaves(leaves) => leaves.len() as u16,
        }
    }

    fn is(&self, leaves: &[Hash]) -> bool {
        match self {
            Self::Root(root) => leaves.len() as u64 == TILE_WIDTH && tile_root(leaves) == Some(*root),
            Self::Leaves(expected) => expected == leaves,
        }
    }
}

/// The first `width` entries of a bundle: how many bytes they are, and their leaf hashes.
fn read_bundle(bytes: &[u8], width: u16, path: TilePath) -> Result<(usize, Vec<Hash>), Failure> {
    let wrong = |detail: String| {
        Failure::Wrong(Box::new(Finding::rejects(Code::BundleMalformed, Concern::path(path), detail)))
    };
    let entries = parse_entries(bytes, TILE_WIDTH as usize).map_err(|error| wrong(error.to_string()))?;
    let entries = entries.get(..usize::from(width));
    let entries = entries.ok_or_else(|| wrong(format!("fewer than its {width} entries")))?;
    let length = entries.iter().map(|entry| entry.len() + 2).sum();
    Ok((length, entries.iter().map(|entry| leaf_hash(entry)).collect()))
}

/// Root of a full tile; `None` where it is not full.
pub(super) fn tile_root(hashes: &[Hash]) -> Option<Hash> {
    let mut row = (hashes.len() as u64 == TILE_WIDTH).then(|| hashes.to_vec())?;
    while row.len() > 1 {
        let pairs = row.chunks_exact(2);
        row = pairs
            .filter_map(|pair| <&[Hash; 2]>::try_from(pair).ok())
            .map(|[l, r]| node_hash(l, r))
            .collect();
    }
    row.first().copied()
}

/// A tile as it is served.
fn bytes_of(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

/// Folders that got files, to be synced before the checkpoint says that they are there.
pub(super) struct Folders<'a> {
    dir: &'a Path,
    written: Mutex<BTreeSet<PathBuf>>,
}

impl<'a> Folders<'a> {
    fn new(dir: &'a Path) -> Self {
        Self { dir, written: Mutex::default() }
    }

    /// Keeps a file: its content is on the disk before it has its name.
    pub(super) fn put(&self, path: TilePath, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.dir.join(path.to_string());
        let folder = path.parent().unwrap_or(self.dir);
        let written = make_dir(folder).and_then(|()| write_whole(&path, bytes));
        written.map_err(|source| CannotCheck::Write { path: path.clone(), source })?;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
        Ok(())
    }

    fn sync(&self) -> Result<(), Failure> {
        for path in std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner)) {
            sync_dir(&path).map_err(|source| CannotCheck::Write { path, source })?;
        }
        Ok(())
    }
}

/// The partial tile of each level of a tree, from the leaves up.
pub(super) fn partial_tiles(size: TreeSize) -> impl Iterator<Item = (TileId, u16)> {
    (0_u8..8).filter_map(move |level| {
        let hashes = size.get() >> (8 * u32::from(level));
        let width = (hashes % TILE_WIDTH) as u16;
        (width > 0).then_some((TileId { level, index: hashes / TILE_WIDTH }, width))
    })
}

/// Paths of the partial tiles and the partial bundle of a tree.
fn partial_paths(size: TreeSize) -> impl Iterator<Item = String> {
    partial_tiles(size).flat_map(|(tile, width)| {
        let bundle = TilePath::Entries { index: tile.index, width };
        let bundle = (tile.level == 0).then(|| bundle.to_string());
        std::iter::once(TilePath::Hashes { tile, width }.to_string()).chain(bundle)
    })
}
