//! The tiles along the right edge of a growing tree: one unfinished tile for each level.

use sift_spec::hash::{EMPTY_ROOT, node_hash};
use sift_spec::tile::{TILE_WIDTH, TileId};
use sift_spec::tree::{NodeId, RightEdge};
use sift_spec::types::{Hash, TreeSize};

use super::bundle::{Bundle, compare_tile};
use crate::error::CannotCheck;
use crate::finding::Finding;
use crate::source::Source;

/// Computes every tile above the leaves and compares it with the served one. Level 0 is the workers'.
pub(super) struct EdgeTiles<'a> {
    source: &'a dyn Source,
    size: TreeSize,
    /// INVARIANT: at each level fewer than 256 hashes, after [`EdgeTiles::push`] has returned.
    levels: Vec<Level>,
    compared: u64,
}

#[derive(Default)]
struct Level {
    /// Position of the unfinished tile.
    index: u64,
    hashes: Vec<Hash>,
}

impl<'a> EdgeTiles<'a> {
    pub(super) fn new(source: &'a dyn Source, size: TreeSize) -> Self {
        Self { source, size, levels: Vec::new(), compared: 0 }
    }

    /// Appends the leaves of the next bundle; gives the tiles that differ.
    pub(super) fn push(&mut self, bundle: &Bundle) -> Result<Vec<Finding>, CannotCheck> {
        let mut findings = Vec::new();
        let mut hashes = bundle.leaves.clone();
        self.compared += 1;
        for level in 0_u8.. {
            let at = usize::from(level);
            if self.levels.len() == at {
                self.levels.push(Level::default());
            }
            let Some(row) = self.levels.get_mut(at) else { break };
            row.hashes.append(&mut hashes);
            if (row.hashes.len() as u64) < TILE_WIDTH {
                break;
            }
            let tile = TileId { level, index: row.index };
            row.index += 1;
            let full = std::mem::take(&mut row.hashes);
            if level > 0 {
                self.compared += 1;
                findings.extend(compare_tile(self.source, tile, &full)?);
            }
            hashes = vec![tile_root(full)];
        }
        Ok(findings)
    }

    /// Compares the unfinished tiles and gives the root; `None` when leaves were missing.
    pub(super) fn finish(&mut self) -> Result<(Option<Hash>, Vec<Finding>), CannotCheck> {
        let mut findings = Vec::new();
        for (level, row) in (0_u8..).zip(&self.levels) {
            if level > 0 && !row.hashes.is_empty() {
                self.compared += 1;
                let tile = TileId { level, index: row.index };
                findings.extend(compare_tile(self.source, tile, &row.hashes)?);
            }
        }
        if self.size == TreeSize::ZERO {
            return Ok((Some(EMPTY_ROOT), findings));
        }
        // Every node of the right edge lies in the unfinished tile of its level.
        let node = |node: &NodeId| {
            let tile = TileId::of(*node);
            let row = self.levels.get(usize::from(tile.level)).filter(|row| row.index == tile.index)?;
            tile.node(*node, &row.hashes)
        };
        let row: Option<Vec<Hash>> = RightEdge::nodes(self.size).iter().map(node).collect();
        let root = row.and_then(|row| RightEdge::from_row(self.size, row)).map(|edge| edge.root());
        Ok((root, findings))
    }

    /// How many tiles were compared, entry bundles' own included.
    pub(super) const fn tiles(&self) -> u64 {
        self.compared
    }
}

/// Root of a full tile.
fn tile_root(mut hashes: Vec<Hash>) -> Hash {
    while hashes.len() > 1 {
        hashes = hashes
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => node_hash(left, right),
                single => single.first().copied().unwrap_or(EMPTY_ROOT),
            })
            .collect();
    }
    hashes.first().copied().unwrap_or(EMPTY_ROOT)
}
