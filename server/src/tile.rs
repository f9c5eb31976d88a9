//! Tiles while they grow: every node within, so that a proof is a few look-ups.

use std::sync::Arc;

use sift_spec::hash::node_hash;
use sift_spec::tile::{TILE_WIDTH, TileId};
use sift_spec::tree::NodeId;
use sift_spec::types::Hash;

/// Levels of nodes within a tile, its root included.
const ROWS: usize = 9;

/// A tile with all of its complete nodes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tile {
    /// INVARIANT: `rows[r][i]` is the node over the hashes `i·2^r .. (i+1)·2^r`, where those are all present.
    rows: [Vec<Hash>; ROWS],
}

impl Tile {
    /// A tile of the given hashes; `None` when there are more than 256.
    pub(crate) fn new(hashes: &[Hash]) -> Option<Self> {
        let mut tile = Self::default();
        if hashes.len() as u64 > TILE_WIDTH {
            return None;
        }
        hashes.iter().for_each(|hash| tile.push(*hash));
        Some(tile)
    }

    /// Appends a hash. The caller takes a full tile away before it pushes again.
    fn push(&mut self, hash: Hash) {
        let mut node = hash;
        for row in &mut self.rows {
            row.push(node);
            match row.as_slice() {
                [.., left, right] if row.len().is_multiple_of(2) => node = node_hash(left, right),
                _ => return,
            }
        }
    }

    /// The hashes that are stored and served.
    pub(crate) fn hashes(&self) -> &[Hash] {
        &self.rows[0]
    }

    /// The root, once all 256 hashes are present.
    fn root(&self) -> Option<Hash> {
        self.rows[ROWS - 1].first().copied()
    }

    /// The hash of a node that lies in this tile and is complete.
    pub(crate) fn node(&self, node: NodeId) -> Option<Hash> {
        let within = usize::from(node.level % 8);
        let row = &self.rows[within];
        row.get(usize::try_from(node.index % (TILE_WIDTH >> within)).ok()?).copied()
    }
}

/// The right edge of the tree as its partial tiles, one a level.
///
/// Its tiles are shared with whoever reads the tree as of a commit, and copied when they change after that.
#[derive(Debug, Clone, Default)]
pub(crate) struct EdgeTiles {
    size: u64,
    levels: Vec<Arc<Tile>>,
}

impl EdgeTiles {
    /// The tiles that hold the right edge of a tree of `size`, lowest level first: what [`Self::restore`] takes.
    pub(crate) fn ids(size: u64) -> Vec<TileId> {
        let mut ids = Vec::new();
        let mut hashes = size;
        for level in 0.. {
            if hashes == 0 {
                break;
            }
            ids.push(TileId { level, index: hashes / TILE_WIDTH });
            hashes /= TILE_WIDTH;
        }
        ids
    }

    /// Rebuilds the edge from the hashes of its tiles; `None` when their widths do not fit the size.
    pub(crate) fn restore(size: u64, tiles: &[Vec<Hash>]) -> Option<Self> {
        let ids = Self::ids(size);
        let tree = sift_spec::types::TreeSize::new(size).ok()?;
        let fits = ids.len() == tiles.len()
            && ids.iter().zip(tiles).all(|(id, tile)| usize::from(id.width(tree)) == tile.len());
        let levels =
            tiles.iter().map(|hashes| Tile::new(hashes).map(Arc::new)).collect::<Option<Vec<_>>>()?;
        fits.then_some(Self { size, levels })
    }

    /// Appends a leaf hash; tiles that it completes are appended to `complete`.
    pub(crate) fn push(&mut self, leaf: Hash, complete: &mut Vec<(TileId, Arc<Tile>)>) {
        let mut hash = leaf;
        let mut index = self.size / TILE_WIDTH;
        for level in 0_u8.. {
            let position = usize::from(level);
            if self.levels.len() == position {
                self.levels.push(Arc::default());
            }
            let tile = &mut self.levels[position];
            Arc::make_mut(tile).push(hash);
            let Some(root) = tile.root() else { break };
            complete.push((TileId { level, index }, std::mem::take(tile)));
            hash = root;
            index /= TILE_WIDTH;
        }
        self.size += 1;
    }

    /// The partial tiles with at least one hash.
    pub(crate) fn partial(&self) -> impl Iterator<Item = (TileId, Arc<Tile>)> {
        let ids = (0_u8..).zip(&self.levels).scan(self.size, |hashes, (level, tile)| {
            *hashes /= TILE_WIDTH;
            Some((TileId { level, index: *hashes }, tile))
        });
        ids.filter(|(_, tile)| !tile.hashes().is_empty()).map(|(id, tile)| (id, Arc::clone(tile)))
    }

    /// Those of the partial tiles that changed since a commit, where `complete` are the tiles that were completed since:
    /// the lowest one takes every leaf, and each above it takes a hash whenever the one below is completed.
    pub(crate) fn changed(
        &self,
        complete: &[(TileId, Arc<Tile>)],
    ) -> impl Iterator<Item = (TileId, Arc<Tile>)> {
        let highest = complete.iter().map(|(id, _)| id.level + 1).max().unwrap_or(0);
        self.partial().filter(move |(id, _)| id.level <= highest)
    }
}

#[cfg(test)]
mod tests {
    use sift_spec::hash::leaf_hash;
    use sift_spec::tree::{MemoryTree, Nodes as _};
    use sift_spec::types::TreeSize;

    use super::*;

    #[test]
    fn edge_and_complete_tiles_hold_every_node() {
        let (mut edge, mut complete, mut model) = (EdgeTiles::default(), Vec::new(), MemoryTree::default());
        for n in 0..70_000_u64 {
            let leaf = leaf_hash(n.to_string().as_bytes());
            edge.push(leaf, &mut complete);
            model.push(leaf);
        }
        assert_eq!(complete.len(), 273 + 1);
        let size = TreeSize::new(70_000).unwrap();
        for (id, tile) in edge.partial() {
            assert_eq!(tile.hashes().len(), usize::from(id.width(size)), "{id:?}");
        }
        let restored: Vec<Vec<Hash>> = EdgeTiles::ids(70_000)
            .iter()
            .map(|id| {
                let (_, tile) = edge.partial().find(|(other, _)| other == id).unwrap();
                tile.hashes().to_vec()
            })
            .collect();
        assert!(EdgeTiles::restore(70_000, &restored).is_some());
        assert!(EdgeTiles::restore(70_001, &restored).is_none());
        // Every node of every tile is the model's.
        for (id, tile) in complete.iter().cloned().chain(edge.partial()) {
            for within in 0..8_u8 {
                let level = id.level * 8 + within;
                let first = id.index << (8 - within);
                for offset in 0..tile.rows[usize::from(within)].len() as u64 {
                    let node = NodeId { level, index: first + offset };
                    assert_eq!(tile.node(node), model.read(&[node]).ok().map(|row| row[0]), "{node:?}");
                }
            }
        }
    }
    /// What is stored after each commit is the tree, although unchanged tiles are not written again.
    #[test]
    fn changed_tiles_are_all_that_a_commit_must_write() {
        let (mut edge, mut stored) = (EdgeTiles::default(), std::collections::HashMap::new());
        let (mut size, mut written) = (0_u64, 0);
        for step in [1, 254, 1, 1, 255, 3, 65_000, 20, 1, 500, 66_000, 7, 256].into_iter().cycle().take(39) {
            let mut complete = Vec::new();
            for n in size..size + step {
                edge.push(leaf_hash(&n.to_be_bytes()), &mut complete);
            }
            size += step;
            let changed: Vec<_> = edge.changed(&complete).collect();
            written += changed.len();
            stored.extend(complete.into_iter().chain(changed).map(|(id, tile)| (id, tile.hashes().to_vec())));
            let tree = TreeSize::new(size).unwrap();
            for (id, tile) in edge.partial() {
                assert_eq!(stored.get(&id).map(Vec::as_slice), Some(tile.hashes()), "{id:?} at {size}");
            }
            let edge_of_store: Vec<Vec<Hash>> = EdgeTiles::ids(size)
                .iter()
                .map(|id| match id.width(tree) {
                    0 => Vec::new(),
                    width => stored[id][..usize::from(width)].to_vec(),
                })
                .collect();
            assert!(EdgeTiles::restore(size, &edge_of_store).is_some(), "at {size}");
        }
        println!("{written} partial tiles were written in 39 commits up to {size} entries");
        assert!(written < 39 * 3);
    }
}
