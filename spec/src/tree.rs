//! The shape of the tree: which perfect subtrees make up a range, and how they fold (RFC 6962 §2.1).
//!
//! Every operation on a stored tree is the same three steps: work out which nodes are needed, read them in
//! one call through [`Nodes`], fold. A tree of any size is a row of perfect subtrees, largest first; its
//! root is their fold from the right.

use crate::hash::{EMPTY_ROOT, leaf_hash, node_hash};
use crate::types::{Hash, LeafIndex, TreeSize};

/// A perfect subtree: node `index` at `level`, over the leaves `index·2^level .. (index+1)·2^level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// Height above the leaves; leaves are at level 0.
    pub level: u8,
    /// Position among the nodes of its level.
    pub index: u64,
}

/// The leaves `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Span {
    pub(crate) const fn whole(size: TreeSize) -> Self {
        Self { start: 0, end: size.get() }
    }

    pub(crate) const fn len(self) -> u64 {
        self.end - self.start
    }

    /// The two halves of RFC 6962 §2.1: the left one is the largest power of two strictly below the length.
    pub(crate) const fn split(self) -> Option<(Self, Self)> {
        if self.len() < 2 {
            return None;
        }
        let middle = self.start + (1 << (self.len() - 1).ilog2());
        Some((Self { start: self.start, end: middle }, Self { start: middle, end: self.end }))
    }

    /// The perfect subtrees of this range, largest first. The range comes from [`Span::split`], so its start
    /// is a multiple of every power of two within its length.
    pub(crate) fn nodes(self) -> impl Iterator<Item = NodeId> {
        let mut start = self.start;
        std::iter::from_fn(move || {
            let left = self.end.checked_sub(start).filter(|left| *left > 0)?;
            let level = left.ilog2();
            let node = NodeId { level: level as u8, index: start >> level };
            start += 1 << level;
            Some(node)
        })
    }
}

/// Root of a row of subtrees, largest first: the fold from the right. The empty row has the empty root.
pub(crate) fn fold(row: &[Hash]) -> Hash {
    match row.split_last() {
        Some((last, rest)) => rest.iter().rev().fold(*last, |right, left| node_hash(left, &right)),
        None => EMPTY_ROOT,
    }
}

/// Where stored nodes are read from.
pub trait Nodes {
    /// What can go wrong while reading.
    type Error;

    /// Reads the hashes of `nodes`, in their order. All of them are complete in the tree being read.
    ///
    /// # Errors
    /// When a node cannot be read.
    fn read(&self, nodes: &[NodeId]) -> Result<Vec<Hash>, Self::Error>;
}

/// The right edge of a growing tree: one perfect subtree for each bit of its size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RightEdge {
    size: TreeSize,
    /// INVARIANT: one hash for each set bit of `size`, largest subtree first.
    row: Vec<Hash>,
}

impl RightEdge {
    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> TreeSize {
        self.size
    }

    /// Root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        fold(&self.row)
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        // Each trailing one of the size is a subtree that the new leaf completes.
        let complete = self.size.get().trailing_ones() as usize;
        let keep = self.row.len() - complete;
        let node = self.row.drain(keep..).rev().fold(leaf, |right, left| node_hash(&left, &right));
        self.row.push(node);
        self.size = TreeSize::holding(LeafIndex::new(self.size.get()).unwrap_or_default());
    }

    /// The nodes that make up the right edge of a tree of `size`, to be read and given to [`RightEdge::from_row`].
    #[must_use]
    pub fn nodes(size: TreeSize) -> Vec<NodeId> {
        Span::whole(size).nodes().collect()
    }

    /// Rebuilds the edge from the hashes of [`RightEdge::nodes`]; `None` when their number is wrong.
    #[must_use]
    pub fn from_row(size: TreeSize, row: Vec<Hash>) -> Option<Self> {
        (row.len() == size.get().count_ones() as usize).then_some(Self { size, row })
    }
}

/// A tree held in memory as its leaf hashes: for evidence, small trees and tests.
#[derive(Debug, Clone, Default)]
pub struct MemoryTree {
    /// INVARIANT: `levels[l][i]` is node `i` of level `l`; every complete node is present.
    levels: Vec<Vec<Hash>>,
}

impl MemoryTree {
    /// A tree over the given leaf hashes.
    pub fn new(leaves: impl IntoIterator<Item = Hash>) -> Self {
        let mut tree = Self::default();
        leaves.into_iter().for_each(|leaf| tree.push(leaf));
        tree
    }

    /// A tree over the given entries.
    pub fn of_entries<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::new(entries.into_iter().map(leaf_hash))
    }

    /// Appends a leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let row = &mut self.levels[level];
            row.push(node);
            match row.as_slice() {
                [.., left, right] if row.len().is_multiple_of(2) => node = node_hash(left, right),
                _ => return,
            }
        }
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> TreeSize {
        let leaves = self.levels.first().map_or(0, Vec::len);
        TreeSize::new(leaves as u64).unwrap_or_default()
    }

    /// Root of the first `size` leaves; `None` when there are fewer.
    #[must_use]
    pub fn root(&self, size: TreeSize) -> Option<Hash> {
        self.read(&RightEdge::nodes(size)).ok().map(|row| fold(&row))
    }
}

/// A node that a tree does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("node {} of level {} is not in the tree", .0.index, .0.level)]
pub struct NoSuchNode(pub NodeId);

impl Nodes for MemoryTree {
    type Error = NoSuchNode;

    fn read(&self, nodes: &[NodeId]) -> Result<Vec<Hash>, NoSuchNode> {
        let hash = |node: &NodeId| {
            let row = self.levels.get(usize::from(node.level))?;
            row.get(usize::try_from(node.index).ok()?).copied()
        };
        nodes.iter().map(|node| hash(node).ok_or(NoSuchNode(*node))).collect()
    }
}
