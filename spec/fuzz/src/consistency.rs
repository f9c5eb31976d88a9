//! Consistency proofs (SPEC §7.1): the walk of RFC 9162 §2.1.4.2 against the definition of RFC 6962 §2.1.2, and
//! against `tlog_tiles`.

use sift_spec::hash::{EMPTY_ROOT, node_hash};
use sift_spec::proof::{Proof, ProofError, TreeHead, verify_consistency};
use sift_spec::types::{Hash, TreeSize};
use tlog_tiles::tlog;

use super::input::{Input, flipped};

pub(crate) fn consistency(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (new, old) = (input.integer(), input.integer());
    // As often as not, the old tree is smaller.
    let old = if input.byte().is_multiple_of(2) { old % (new + 1) } else { old };
    let (seed, other) = (input.hash(), input.hash());
    let proof = Proof(input.hashes());
    let [old, new] = [old, new].map(|size| TreeSize::new(size).unwrap());
    let verify = |old_root, new_root| check(old, old_root, new, new_root, &proof);
    if old > new {
        assert_eq!(verify(seed, other), Err(ProofError::Shrinks { old, new }));
    } else if old == TreeSize::ZERO {
        // The empty tree is the beginning of every tree, which needs no proof.
        let root = if new == TreeSize::ZERO { EMPTY_ROOT } else { other };
        let expected = if proof.0.is_empty() { Ok(()) } else { Err(ProofError::Length) };
        assert_eq!(verify(EMPTY_ROOT, root), expected);
        assert_eq!(verify(seed, root), Err(ProofError::EmptyRoot));
    } else {
        match roots_of(old.get(), new.get(), true, seed, &proof.0) {
            Some((old_root, new_root)) => {
                assert_eq!(verify(old_root, new_root), Ok(()));
                assert_eq!(verify(old_root, flipped(new_root)), Err(ProofError::Root));
                assert_eq!(verify(flipped(old_root), new_root), Err(ProofError::Root));
            }
            None => assert_eq!(verify(seed, other), Err(ProofError::Length)),
        }
    }
}

fn check(
    old: TreeSize,
    old_root: Hash,
    new: TreeSize,
    new_root: Hash,
    proof: &Proof,
) -> Result<(), ProofError> {
    let [earlier, later] = [(old, old_root), (new, new_root)].map(|(size, root)| TreeHead { size, root });
    let ours = verify_consistency(&earlier, &later, proof);
    // Go's check knows nothing of the empty tree.
    if old > TreeSize::ZERO {
        let theirs = proof.0.iter().map(|hash| tlog::Hash(*hash.as_bytes())).collect();
        let [earlier, later] = [old_root, new_root].map(|hash| tlog::Hash(*hash.as_bytes()));
        let theirs = tlog::check_tree(&theirs, new.get(), later, old.get(), earlier);
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{ours:?}, but tlog_tiles: {theirs:?}");
    }
    ours
}

/// The roots, old and new, to which SUBPROOF(m, D[n], complete) leads; `None` when it is of another length. Where
/// the old tree is a whole subtree of the new one its root is not in the proof: it is `seed`.
fn roots_of(m: u64, n: u64, complete: bool, seed: Hash, proof: &[Hash]) -> Option<(Hash, Hash)> {
    if m == n {
        return match (complete, proof) {
            (true, []) => Some((seed, seed)),
            (false, [hash]) => Some((*hash, *hash)),
            _ => None,
        };
    }
    let k = 1 << (n - 1).ilog2();
    let (last, proof) = proof.split_last()?;
    if m <= k {
        let (old, new) = roots_of(m, k, complete, seed, proof)?;
        Some((old, node_hash(&new, last)))
    } else {
        let (old, new) = roots_of(m - k, n - k, false, seed, proof)?;
        Some((node_hash(last, &old), node_hash(last, &new)))
    }
}
