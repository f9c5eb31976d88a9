//! An independent model of the tree: the crate `rs_merkle` with our own hasher (SPEC §1).
//!
//! It pairs nodes level by level and promotes a lone one, which gives RFC 6962's roots and audit paths by
//! other code than [`crate::tree`]. For tests and benches only: its own verification is not strict (it
//! accepts trailing hashes and some indices outside the tree), so nothing here verifies.

use rs_merkle::{Hasher, MerkleTree};

use crate::hash::{EMPTY_ROOT, leaf_hash, node_hash};
use crate::proof::Proof;
use crate::types::{Hash, LeafIndex};

/// The hashing of RFC 6962 §2.1 as `rs_merkle` asks for it.
#[derive(Debug, Clone)]
pub struct Rfc6962;

impl Hasher for Rfc6962 {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        *leaf_hash(data).as_bytes()
    }

    fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
        match right {
            Some(right) => *node_hash(&Hash::from_bytes(*left), &Hash::from_bytes(*right)).as_bytes(),
            None => *left,
        }
    }
}

/// A tree over leaf hashes.
pub struct ModelTree(MerkleTree<Rfc6962>);

impl ModelTree {
    /// A tree over the given leaf hashes.
    #[must_use]
    pub fn new(leaves: &[Hash]) -> Self {
        let leaves: Vec<[u8; 32]> = leaves.iter().map(|leaf| *leaf.as_bytes()).collect();
        Self(MerkleTree::from_leaves(&leaves))
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.0.root().map_or(EMPTY_ROOT, Hash::from_bytes)
    }

    /// The hashes that prove the leaves at `indices`; for one leaf in the order of RFC 6962 §2.1.1, for
    /// several in an order of the crate's own.
    #[must_use]
    pub fn proof(&self, indices: &[LeafIndex]) -> Proof {
        let indices: Vec<usize> =
            indices.iter().filter_map(|index| usize::try_from(index.get()).ok()).collect();
        Proof(self.0.proof(&indices).proof_hashes().iter().copied().map(Hash::from_bytes).collect())
    }
}

impl std::fmt::Debug for ModelTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelTree({})", self.root())
    }
}
