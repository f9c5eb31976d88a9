//! Tiles that are proven from the root down: each hashes to its place in the one above, and those along the right edge
//! give the root that the log signed.

use std::collections::BTreeMap;

use sift_spec::proof::TreeHead;
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath, parse_hashes};
use sift_spec::tree::{NodeId, RightEdge};
use sift_spec::types::Hash;

use super::{Expected, Failure, Folders, bytes_of, partial_tiles, tile_root};
use crate::consistency::not_its_tiles;
use crate::finding::{Code, Concern, Finding};
use crate::source::{Directory, Source, TILE_BYTES_MAX, tile_bytes};

/// The proven tiles of a tree, as far as they are needed now.
pub(super) struct Proven<'a> {
    source: &'a dyn Source,
    copy: &'a Directory,
    folders: &'a Folders<'a>,
    head: TreeHead,
    /// The partial tile of each level that has one.
    edge: BTreeMap<u8, (u64, Vec<Hash>)>,
    /// The full tile of each level that was needed last.
    full: BTreeMap<u8, (u64, Vec<Hash>)>,
}

impl<'a> Proven<'a> {
    /// Reads the right edge of a tree, and checks that it gives the root.
    pub(super) fn read(
        source: &'a dyn Source,
        copy: &'a Directory,
        folders: &'a Folders<'a>,
        head: TreeHead,
    ) -> Result<Self, Failure> {
        let mut edge = BTreeMap::new();
        for (tile, width) in partial_tiles(head.size) {
            let bytes = tile_bytes(source, TilePath::Hashes { tile, width })?;
            let hashes =
                parse_hashes(&bytes).and_then(|hashes| Some(hashes.get(..usize::from(width))?.to_vec()));
            let hashes = hashes.ok_or_else(|| differs(tile, width, "fewer hashes than the tree has here"))?;
            edge.insert(tile.level, (tile.index, hashes));
        }
        // Every node of the right edge lies in a partial tile, and every hash of those in one of these nodes.
        let node = |node: &NodeId| {
            let tile = TileId::of(*node);
            let (index, hashes) = edge.get(&tile.level)?;
            tile.node(*node, hashes).filter(|_| *index == tile.index)
        };
        let row: Option<Vec<Hash>> = RightEdge::nodes(head.size).iter().map(node).collect();
        let root = row.and_then(|row| RightEdge::from_row(head.size, row)).map(|edge| edge.root());
        if root != Some(head.root) {
            let detail = not_its_tiles(source, &head);
            return Err(Failure::Wrong(Box::new(Finding::rejects(
                Code::TileDiffers,
                Concern::whole(),
                detail,
            ))));
        }
        Ok(Self { source, copy, folders, head, edge, full: BTreeMap::new() })
    }

    /// What the bundles of this tile of level 1 must be, as many as the tree has.
    pub(super) fn bundles_of(&mut self, group: u64) -> Result<Vec<Expected>, Failure> {
        let tile = TileId { level: 1, index: group };
        let mut expected = Vec::new();
        if tile.width(self.head.size) > 0 {
            expected.extend(self.tile(tile)?.into_iter().map(Expected::Root));
        }
        if let Some((index, leaves)) = self.edge.get(&0)
            && index / TILE_WIDTH == group
        {
            expected.push(Expected::Leaves(leaves.clone()));
        }
        Ok(expected)
    }

    /// The partial tiles, proven.
    pub(super) fn edge(&self) -> impl Iterator<Item = (TilePath, &[Hash])> {
        self.edge.iter().map(|(level, (index, hashes))| {
            let tile = TileId { level: *level, index: *index };
            (TilePath::Hashes { tile, width: hashes.len() as u16 }, hashes.as_slice())
        })
    }

    /// A tile, proven; a full one is kept in the copy.
    fn tile(&mut self, tile: TileId) -> Result<Vec<Hash>, Failure> {
        for known in [&self.edge, &self.full] {
            if let Some((index, hashes)) = known.get(&tile.level)
                && *index == tile.index
            {
                return Ok(hashes.clone());
            }
        }
        let width = TILE_WIDTH as u16;
        let above = self.tile(TileId { level: tile.level + 1, index: tile.index / TILE_WIDTH })?;
        let root = above.get((tile.index % TILE_WIDTH) as usize);
        let root = *root.ok_or_else(|| differs(tile, width, "the tree has no such tile"))?;
        let path = TilePath::Hashes { tile, width };
        let is_it = |bytes: &[u8]| parse_hashes(bytes).filter(|hashes| tile_root(hashes) == Some(root));
        let kept = self.copy.fetch(&path.to_string(), TILE_BYTES_MAX)?;
        let hashes = match kept.as_deref().and_then(is_it) {
            Some(hashes) => hashes,
            None => {
                let hashes = is_it(&tile_bytes(self.source, path)?);
                let hashes =
                    hashes.ok_or_else(|| differs(tile, width, "it is not what the tile above has for it"))?;
                self.folders.put(path, &bytes_of(&hashes))?;
                hashes
            }
        };
        self.full.insert(tile.level, (tile.index, hashes.clone()));
        Ok(hashes)
    }
}

fn differs(tile: TileId, width: u16, detail: &str) -> Failure {
    let concern = Concern::path(TilePath::Hashes { tile, width });
    Failure::Wrong(Box::new(Finding::rejects(Code::TileDiffers, concern, detail)))
}
