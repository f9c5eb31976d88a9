//! Whole logs as directories of tiles, and their verification.

use std::path::Path;

use sift_spec::checkpoint::Checkpoint;
use sift_spec::note::{NOTE_BYTES_MAX, Note};
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::TreeSize;
use sift_verify::log::{self, Options};
use sift_verify::source::Directory;
use sift_verify::{Report, Verdict};

use crate::AnyError;
use crate::http::Connection;

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
