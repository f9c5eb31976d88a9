//! A view: the tree as of one commit, with the tiles that commit touched at hand.

use std::collections::HashMap;
use std::sync::Arc;

use sift_spec::keys::KeyRing;
use sift_spec::proof::{
    Proof, ProveError, TreeHead, prove_consistency, prove_inclusion, prove_multi_inclusion,
};
use sift_spec::receipt::Receipt;
use sift_spec::tile::{TILE_WIDTH, TileError, TileId, Tiles as _};
use sift_spec::tree::{NodeId, Nodes};
use sift_spec::types::{Hash, LeafIndex, TreeSize};

use crate::store::{Store, StoreError};
use crate::tile::Tile;

/// Everything a reader may be told, as of one commit. Views are never changed, only replaced.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) head: TreeHead,
    /// The checkpoint's signed note.
    pub(crate) checkpoint: String,
    pub(crate) keys: Arc<KeyRing>,
    /// The right edge's tiles, and those the commit completed.
    pub(crate) tiles: HashMap<TileId, Arc<Tile>>,
}

/// Nodes of a view's tree: from its own tiles, and from the store's where they are older.
struct ViewNodes<'a> {
    view: &'a View,
    store: &'a Store,
}

impl Nodes for ViewNodes<'_> {
    type Error = TileError<StoreError>;

    fn read(&self, nodes: &[NodeId]) -> Result<Vec<Hash>, Self::Error> {
        let size = self.view.head.size;
        let hash = |node: &NodeId| {
            let id = TileId::of(*node);
            let hash = match self.view.tiles.get(&id) {
                Some(tile) => tile.node(*node),
                None if u64::from(id.width(size)) == TILE_WIDTH => {
                    self.store.full_tile(id).map_err(TileError::Read)?.node(*node)
                }
                // A view of a commit has its partial tiles at hand; one that was restored on a start may not.
                None => {
                    let hashes = self.store.tile(id, id.width(size)).map_err(TileError::Read)?;
                    Tile::new(&hashes).and_then(|tile| tile.node(*node))
                }
            };
            hash.ok_or(TileError::Narrow(id))
        };
        nodes.iter().map(hash).collect()
    }
}

/// Why a view cannot give a proof.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    /// The request makes no sense for this tree.
    #[error(transparent)]
    Request(sift_spec::proof::ProofError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ProveError<TileError<StoreError>>> for ViewError {
    fn from(error: ProveError<TileError<StoreError>>) -> Self {
        match error {
            ProveError::Request(error) => Self::Request(error),
            ProveError::Read(TileError::Read(error)) => Self::Store(error),
            ProveError::Read(error @ TileError::Narrow(_)) => {
                Self::Store(StoreError::Damaged(error.to_string()))
            }
        }
    }
}

impl View {
    fn nodes<'a>(&'a self, store: &'a Store) -> ViewNodes<'a> {
        ViewNodes { view: self, store }
    }

    /// The receipt of an entry under this view's checkpoint.
    pub(crate) fn receipt(&self, store: &Store, index: LeafIndex) -> Result<Receipt, ViewError> {
        let proof = prove_inclusion(index, self.head.size, &self.nodes(store))?;
        Ok(Receipt { extra: None, index, proof, checkpoint: self.checkpoint.clone() })
    }

    /// Inclusion in the tree of `size`, which is at most this view's.
    pub(crate) fn inclusion(
        &self,
        store: &Store,
        index: LeafIndex,
        size: TreeSize,
    ) -> Result<Proof, ViewError> {
        Ok(prove_inclusion(index, size, &self.nodes(store))?)
    }

    /// One proof for several entries, ascending.
    pub(crate) fn multi_inclusion(&self, store: &Store, indices: &[LeafIndex]) -> Result<Proof, ViewError> {
        Ok(prove_multi_inclusion(indices, self.head.size, &self.nodes(store))?)
    }

    /// Consistency of two trees, the later at most this view's.
    pub(crate) fn consistency(
        &self,
        store: &Store,
        old: TreeSize,
        new: TreeSize,
    ) -> Result<Proof, ViewError> {
        Ok(prove_consistency(old, new, &self.nodes(store))?)
    }
}
