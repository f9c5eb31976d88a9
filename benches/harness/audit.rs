//! Whole logs as directories of tiles, and their verification.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use sift_spec::chain::{OperatorHead, RunHead};
use sift_spec::checkpoint::Checkpoint;
use sift_spec::entry::{Content, Entry};
use sift_spec::keys::KeyRing;
use sift_spec::note::{NOTE_BYTES_MAX, Note};
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath, parse_entries};
use sift_spec::tree::RightEdge;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{LeafIndex, RunId, TreeSize};
use sift_verify::log::{self, Options};
use sift_verify::source::Directory;
use sift_verify::{Report, Verdict};

use crate::AnyError;
use crate::http::Connection;
use crate::machine::Memory;

/// Copies the log at `host` into `dir`: checkpoint, hash tiles, entry bundles. Gives the size of its tree.
///
/// # Errors
/// When the log does not serve all of it.
pub async fn mirror(host: &str, dir: &Path) -> Result<TreeSize, AnyError> {
    let mut connection = Connection::open(host).await?;
    let checkpoint = connection.get(host, "/checkpoint").await?;
    let size = Checkpoint::parse(Note::parse(&checkpoint, NOTE_BYTES_MAX)?.text)?.head.size;
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("checkpoint"), checkpoint)?;
    for path in paths(size) {
        let path = path.to_string();
        let bytes = connection.get(host, &format!("/{path}")).await?;
        let file = dir.join(&path);
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(file, bytes)?;
    }
    Ok(size)
}

/// What the log at `host` answers at a path.
///
/// # Errors
/// When it does not.
pub async fn fetch(host: &str, path: &str) -> Result<Vec<u8>, AnyError> {
    Connection::open(host).await?.get(host, path).await
}

/// Everything that a log of this size serves below `/tile`.
pub fn paths(size: TreeSize) -> impl Iterator<Item = TilePath> {
    let tiles = (0_u8..8).flat_map(move |level| {
        let ids = (0_u64..).map(move |index| TileId { level, index });
        ids.map(move |tile| (tile, tile.width(size))).take_while(|(_, width)| *width > 0)
    });
    let hashes = tiles.map(|(tile, width)| TilePath::Hashes { tile, width });
    let bundles = (0..size.get().div_ceil(TILE_WIDTH)).map(move |index| {
        let width = TileId { level: 0, index }.width(size);
        TilePath::Entries { index, width }
    });
    hashes.chain(bundles)
}

/// Verifies every hash, signature and chain of a log in a directory.
///
/// # Errors
/// When it cannot be read or is not verified to its last entry.
pub fn verify(dir: &Path, trust: &TrustPolicy, size: TreeSize) -> Result<Report, AnyError> {
    let report = log::verify(&Directory::new(dir), None, trust, &Options::default())?;
    let signed = report.verified().iter().find(|claim| claim.what == "signatures").map(|claim| claim.count);
    if report.verdict() == Verdict::Verified && signed == Some(size.get()) {
        return Ok(report);
    }
    Err(format!("the log was not verified: {}", report.to_json()?).into())
}

/// The same, as one writes it down first: one thread, one entry after the other, each signature by itself; the root, the
/// operator's grants and every run's chain. Tiles above the leaves are not looked at.
///
/// # Errors
/// When anything is not as it must be.
pub fn verify_plainly(dir: &Path, trust: &TrustPolicy) -> Result<(), AnyError> {
    let checkpoint = trust.verify(&std::fs::read(dir.join("checkpoint"))?)?;
    let (origin, head) = (checkpoint.checkpoint().origin.clone(), checkpoint.checkpoint().head);
    let mut ring = KeyRing::new(origin.clone(), trust.operator().ok_or("no operator")?.clone());
    let (mut operator, mut runs) = (OperatorHead::default(), HashMap::<RunId, RunHead>::new());
    let (mut edge, mut next) = (RightEdge::default(), 0_u64);
    for path in paths(head.size).filter(|path| matches!(path, TilePath::Entries { .. })) {
        let bundle = std::fs::read(dir.join(path.to_string()))?;
        for bytes in parse_entries(&bundle, TILE_WIDTH as usize)? {
            let (entry, index) = (Entry::parse(bytes.to_vec())?, LeafIndex::new(next)?);
            next += 1;
            edge.push(entry.leaf());
            match entry.content() {
                Content::Operator(record) => {
                    entry.verify(ring.operator())?;
                    operator.extend(record, entry.leaf(), &origin)?;
                    ring.apply(index, &record.body)?;
                }
                Content::Run(record) => {
                    entry.verify(ring.kernel(entry.signer(), entry.key_id(), &record.agent, index)?)?;
                    match runs.get_mut(&record.run) {
                        Some(head) => head.extend(record, entry.signer(), entry.leaf())?,
                        None => {
                            let opened = RunHead::open(record, entry.signer(), entry.leaf(), &origin)?;
                            runs.insert(record.run, opened);
                        }
                    }
                }
            }
        }
    }
    if next == head.size.get() && edge.root() == head.root {
        return Ok(());
    }
    Err("the entries do not give the root".into())
}

/// What a program took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// From its start to its end.
    pub elapsed: Duration,
    /// Most memory that was resident, as far as it was seen: the system's own mark is looked at, last at most
    /// [`Took::LOOK`] before the end.
    pub peak_mib: u64,
}

impl Took {
    /// Longest time between two looks at the memory of a program that runs.
    pub const LOOK: Duration = Duration::from_millis(20);
}

/// Runs a program that must succeed.
///
/// # Errors
/// When it does not.
pub fn run(program: &mut Command) -> Result<Took, AnyError> {
    let start = Instant::now();
    let mut child = program.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let pid = child.id();
    let (running, ended) = channel::<()>();
    // By a thread that mostly sleeps: whoever asked often would take time from what is measured.
    let watcher = std::thread::spawn(move || {
        let (mut peak_mib, mut pause) = (0, Duration::from_millis(1));
        // Soon and then seldom: what is over soon has a peak, too.
        while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            peak_mib = Memory::of(pid).map_or(peak_mib, |memory| memory.peak_mib.max(peak_mib));
            pause = (pause * 2).min(Took::LOOK);
        }
        peak_mib
    });
    let status = child.wait()?;
    let elapsed = start.elapsed();
    drop(running);
    let peak_mib = watcher.join().map_err(|_| "nobody looked at the memory")?;
    if status.success() {
        Ok(Took { elapsed, peak_mib })
    } else {
        Err(format!("{program:?}: {status}").into())
    }
}
