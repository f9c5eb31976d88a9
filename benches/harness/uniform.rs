//! Trees of any size for next to no memory: every leaf is the same, so every level has one hash.
//!
//! Proofs over such a tree take the same reads, hashes and comparisons as over any other.

use std::convert::Infallible;

use sift_spec::hash::{leaf_hash, node_hash};
use sift_spec::proof::TreeHead;
use sift_spec::tile::{TileId, Tiles};
use sift_spec::tree::RightEdge;
use sift_spec::types::{Hash, TreeSize};

/// Levels that are enough for every size up to 2^53.
const LEVELS: usize = 64;

/// A tree whose leaves are all the same.
#[derive(Debug, Clone)]
pub struct UniformTree {
    /// INVARIANT: `levels[l]` is the hash of every complete node at level `l`; there are [`LEVELS`] of them.
    levels: Vec<Hash>,
}

impl Default for UniformTree {
    fn default() -> Self {
        let first = leaf_hash(b"the one entry");
        let levels = std::iter::successors(Some(first), |hash| Some(node_hash(hash, hash)));
        Self { levels: levels.take(LEVELS).collect() }
    }
}

impl UniformTree {
    /// The hash of every leaf.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        self.level(0)
    }

    /// Size and root.
    #[must_use]
    pub fn head(&self, size: TreeSize) -> TreeHead {
        let row = RightEdge::nodes(size).iter().map(|node| self.level(node.level)).collect();
        let root = RightEdge::from_row(size, row).unwrap_or_default().root();
        TreeHead { size, root }
    }

    fn level(&self, level: u8) -> Hash {
        self.levels[usize::from(level).min(LEVELS - 1)]
    }
}

impl Tiles for UniformTree {
    type Error = Infallible;

    fn tile(&self, tile: TileId, width: u16) -> Result<Vec<Hash>, Infallible> {
        Ok(vec![self.level(tile.level.saturating_mul(8)); usize::from(width)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sift_spec::tree::MemoryTree;

    #[test]
    fn roots_are_those_of_a_tree_in_memory() {
        let uniform = UniformTree::default();
        let model = MemoryTree::new(std::iter::repeat_n(uniform.leaf(), 1000));
        for size in (0..1000).filter_map(|size| TreeSize::new(size).ok()) {
            assert_eq!(Some(uniform.head(size).root), model.root(size), "{size}");
        }
    }
}
