//! Inclusion, consistency and multi-inclusion proofs: prove, and strictly verify (SPEC §7).
//!
//! Verification follows RFC 9162 §2.1.3.2 and §2.1.4.2. It is strict: a proof has exactly the hashes it
//! needs, an index is below the size, and a tree of size 0 has the empty root.

use crate::hash::{EMPTY_ROOT, node_hash};
use crate::tree::{NodeId, Nodes, Span, fold};
use crate::types::{Hash, LeafIndex, TreeSize};

/// Most hashes in an inclusion or consistency proof: one a level, and one more for consistency.
pub const PROOF_HASHES_MAX: usize = 64;

/// Size and root of a tree: neither means anything without the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeHead {
    /// Number of entries.
    pub size: TreeSize,
    /// Root hash.
    pub root: Hash,
}

/// The hashes of a proof, in the order of their use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proof(pub Vec<Hash>);

/// Why a proof does not prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The index is not in the tree.
    #[error("index {index} is not in a tree of {size}")]
    IndexOutside {
        /// The index.
        index: LeafIndex,
        /// The size.
        size: TreeSize,
    },
    /// The later tree is smaller than the earlier.
    #[error("a tree of {new} cannot extend one of {old}")]
    Shrinks {
        /// Size of the earlier tree.
        old: TreeSize,
        /// Size of the later tree.
        new: TreeSize,
    },
    /// Too few or too many hashes for these sizes.
    #[error("the proof has too few or too many hashes")]
    Length,
    /// Leaves are not in ascending order, each once.
    #[error("leaves must ascend, each index once")]
    Order,
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
    /// A tree of size 0 has another root than the empty one.
    #[error("a tree of size 0 has the empty root")]
    EmptyRoot,
}

/// Why a proof could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError<E> {
    /// The request makes no sense for the tree.
    #[error(transparent)]
    Request(ProofError),
    /// Stored nodes could not be read.
    #[error(transparent)]
    Read(E),
}

/// Stored nodes of several subtrees, read in one call and folded each into one hash.
fn read_spans<N: Nodes>(nodes: &N, spans: &[Span]) -> Result<Vec<Hash>, N::Error> {
    let needed: Vec<NodeId> = spans.iter().flat_map(|span| span.nodes()).collect();
    let hashes = nodes.read(&needed)?;
    let mut rest = hashes.as_slice();
    Ok(spans
        .iter()
        .map(|span| {
            let (row, tail) = rest.split_at(span.len().count_ones() as usize);
            rest = tail;
            fold(row)
        })
        .collect())
}

/// Proves that the leaf at `index` is in the tree of `size` (RFC 6962 §2.1.1).
///
/// # Errors
/// When the index is not in the tree, or nodes cannot be read.
pub fn prove_inclusion<N: Nodes>(
    index: LeafIndex,
    size: TreeSize,
    nodes: &N,
) -> Result<Proof, ProveError<N::Error>> {
    if !index.is_in(size) {
        return Err(ProveError::Request(ProofError::IndexOutside { index, size }));
    }
    let mut siblings = Vec::new();
    let mut span = Span::whole(size);
    while let Some((left, right)) = span.split() {
        if index.get() < right.start {
            siblings.push(right);
            span = left;
        } else {
            siblings.push(left);
            span = right;
        }
    }
    siblings.reverse();
    read_spans(nodes, &siblings).map(Proof).map_err(ProveError::Read)
}

/// Checks that `leaf` is at `index` of the tree with this head (RFC 9162 §2.1.3.2).
///
/// # Errors
/// When it is not proven.
pub fn verify_inclusion(
    leaf: &Hash,
    index: LeafIndex,
    head: &TreeHead,
    proof: &Proof,
) -> Result<(), ProofError> {
    // 1. The leaf's index is below the tree's size.
    if !index.is_in(head.size) {
        return Err(ProofError::IndexOutside { index, size: head.size });
    }
    // 2. to 4. Walk up from leaf (fn) and last leaf (sn).
    let (mut fnode, mut snode) = (index.get(), head.size.get() - 1);
    let mut hash = *leaf;
    for sibling in &proof.0 {
        if snode == 0 {
            return Err(ProofError::Length);
        }
        if fnode & 1 == 1 || fnode == snode {
            hash = node_hash(sibling, &hash);
            while fnode & 1 == 0 && fnode != 0 {
                fnode >>= 1;
                snode >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        fnode >>= 1;
        snode >>= 1;
    }
    // 5. The walk ended at the root, and the root is the given one.
    if snode != 0 {
        return Err(ProofError::Length);
    }
    if hash == head.root { Ok(()) } else { Err(ProofError::Root) }
}

/// Proves that the tree of `new` entries extends that of `old` (RFC 6962 §2.1.2).
///
/// # Errors
/// When `new` is smaller than `old`, or nodes cannot be read.
pub fn prove_consistency<N: Nodes>(
    old: TreeSize,
    new: TreeSize,
    nodes: &N,
) -> Result<Proof, ProveError<N::Error>> {
    if new < old {
        return Err(ProveError::Request(ProofError::Shrinks { old, new }));
    }
    if old == TreeSize::ZERO || old == new {
        return Ok(Proof::default());
    }
    let mut spans = Vec::new();
    let mut span = Span::whole(new);
    // SUBPROOF(m, D, b): walk down to where the old tree ends, keeping what lies beside the way.
    while span.end > old.get() {
        let Some((left, right)) = span.split() else { break };
        if old.get() <= left.end {
            spans.push(right);
            span = left;
        } else {
            spans.push(left);
            span = right;
        }
    }
    if span.start > 0 {
        // The old tree's last subtree is not the whole old tree: the verifier cannot know it.
        spans.push(span);
    }
    spans.reverse();
    read_spans(nodes, &spans).map(Proof).map_err(ProveError::Read)
}

/// Checks that the tree of `new` extends that of `old` (RFC 9162 §2.1.4.2).
///
/// # Errors
/// When it is not proven.
pub fn verify_consistency(old: &TreeHead, new: &TreeHead, proof: &Proof) -> Result<(), ProofError> {
    // 1. Sizes and trivial cases.
    if new.size < old.size {
        return Err(ProofError::Shrinks { old: old.size, new: new.size });
    }
    for head in [old, new] {
        if head.size == TreeSize::ZERO && head.root != EMPTY_ROOT {
            return Err(ProofError::EmptyRoot);
        }
    }
    if old.size == TreeSize::ZERO || old.size == new.size {
        return match proof.0.as_slice() {
            [] if old.size == TreeSize::ZERO || old.root == new.root => Ok(()),
            [] => Err(ProofError::Root),
            _ => Err(ProofError::Length),
        };
    }
    // 2. Where the old tree is perfect its root starts the path; else the first hash does.
    let (seed, path) = if old.size.get().is_power_of_two() {
        (&old.root, proof.0.as_slice())
    } else {
        proof.0.split_first().ok_or(ProofError::Length)?
    };
    let (mut fnode, mut snode) = (old.size.get() - 1, new.size.get() - 1);
    // 3. Skip the levels on which the old tree is complete.
    while fnode & 1 == 1 {
        fnode >>= 1;
        snode >>= 1;
    }
    // 4. Walk up, folding both roots.
    let (mut old_root, mut new_root) = (*seed, *seed);
    for hash in path {
        if snode == 0 {
            return Err(ProofError::Length);
        }
        if fnode & 1 == 1 || fnode == snode {
            old_root = node_hash(hash, &old_root);
            new_root = node_hash(hash, &new_root);
            while fnode & 1 == 0 && fnode != 0 {
                fnode >>= 1;
                snode >>= 1;
            }
        } else {
            new_root = node_hash(&new_root, hash);
        }
        fnode >>= 1;
        snode >>= 1;
    }
    // 5. Both roots come out, and the walk ended at the root.
    if snode != 0 {
        return Err(ProofError::Length);
    }
    if old_root == old.root && new_root == new.root { Ok(()) } else { Err(ProofError::Root) }
}

/// Proves several leaves of one tree at once (SPEC §7.3): the roots of the largest subtrees that hold none
/// of them, from left to right. `indices` must ascend, each once.
///
/// # Errors
/// When an index is out of order or not in the tree, or nodes cannot be read.
pub fn prove_multi_inclusion<N: Nodes>(
    indices: &[LeafIndex],
    size: TreeSize,
    nodes: &N,
) -> Result<Proof, ProveError<N::Error>> {
    check_indices(indices.iter().copied(), size).map_err(ProveError::Request)?;
    let mut spans = Vec::new();
    if size > TreeSize::ZERO {
        gather(indices, Span::whole(size), &mut spans);
    }
    read_spans(nodes, &spans).map(Proof).map_err(ProveError::Read)
}

fn gather(indices: &[LeafIndex], span: Span, spans: &mut Vec<Span>) {
    if indices.is_empty() {
        spans.push(span);
    } else if let Some((left, right)) = span.split() {
        let middle = indices.partition_point(|index| index.get() < right.start);
        gather(&indices[..middle], left, spans);
        gather(&indices[middle..], right, spans);
    }
}

/// Checks that each leaf hash stands at its index in the tree with this head (SPEC §7.3).
///
/// # Errors
/// When it is not proven. The empty list is proven by the root itself.
pub fn verify_multi_inclusion(
    leaves: &[(LeafIndex, Hash)],
    head: &TreeHead,
    proof: &Proof,
) -> Result<(), ProofError> {
    // 1. Indices ascend and are in the tree.
    check_indices(leaves.iter().map(|(index, _)| *index), head.size)?;
    // 2. The empty tree has the empty root and nothing to prove.
    if head.size == TreeSize::ZERO {
        return match (proof.0.is_empty(), head.root == EMPTY_ROOT) {
            (true, true) => Ok(()),
            (false, _) => Err(ProofError::Length),
            (true, false) => Err(ProofError::EmptyRoot),
        };
    }
    // 3. Fold leaves and hashes in the order of the tree; every hash is used.
    let mut rest = proof.0.iter();
    let root = fold_multi(leaves, Span::whole(head.size), &mut rest).ok_or(ProofError::Length)?;
    if rest.next().is_some() {
        return Err(ProofError::Length);
    }
    if root == head.root { Ok(()) } else { Err(ProofError::Root) }
}

fn fold_multi<'a>(
    leaves: &[(LeafIndex, Hash)],
    span: Span,
    proof: &mut impl Iterator<Item = &'a Hash>,
) -> Option<Hash> {
    let Some((_, leaf)) = leaves.first() else { return proof.next().copied() };
    let Some((left, right)) = span.split() else { return Some(*leaf) };
    let middle = leaves.partition_point(|(index, _)| index.get() < right.start);
    let left = fold_multi(&leaves[..middle], left, proof)?;
    let right = fold_multi(&leaves[middle..], right, proof)?;
    Some(node_hash(&left, &right))
}

fn check_indices(indices: impl Iterator<Item = LeafIndex>, size: TreeSize) -> Result<(), ProofError> {
    let mut last = None;
    for index in indices {
        if !index.is_in(size) {
            return Err(ProofError::IndexOutside { index, size });
        }
        if last.is_some_and(|last| last >= index) {
            return Err(ProofError::Order);
        }
        last = Some(index);
    }
    Ok(())
}
