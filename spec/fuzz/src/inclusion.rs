//! Inclusion proofs (SPEC §7.1): the walk of RFC 9162 §2.1.3.2 against the definition of RFC 6962 §2.1.1, and
//! against `tlog_tiles`.

use sift_spec::hash::node_hash;
use sift_spec::proof::{Proof, ProofError, TreeHead, verify_inclusion};
use sift_spec::types::{Hash, LeafIndex, TreeSize};
use tlog_tiles::tlog;

use super::input::{Input, flipped};

pub(crate) fn inclusion(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (size, index) = (input.integer(), input.integer());
    // As often as not, an index in the tree.
    let index = if input.byte().is_multiple_of(2) && size > 0 { index % size } else { index };
    let (leaf, other) = (input.hash(), input.hash());
    let proof = Proof(input.hashes());
    let (size, at) = (TreeSize::new(size).unwrap(), LeafIndex::new(index).unwrap());
    let verify = |root| {
        let ours = verify_inclusion(&leaf, at, &TreeHead { size, root }, &proof);
        let theirs = proof.0.iter().map(|hash| tlog::Hash(*hash.as_bytes())).collect();
        let [root, leaf] = [root, leaf].map(|hash| tlog::Hash(*hash.as_bytes()));
        let theirs = tlog::check_record(&theirs, size.get(), root, index, leaf);
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{ours:?}, but tlog_tiles: {theirs:?}");
        ours
    };
    if index >= size.get() {
        assert_eq!(verify(other), Err(ProofError::IndexOutside { index: at, size }));
        return;
    }
    match root_of(leaf, index, size.get(), &proof.0) {
        Some(root) => {
            assert_eq!(verify(root), Ok(()));
            assert_eq!(verify(flipped(root)), Err(ProofError::Root));
        }
        None => assert_eq!(verify(other), Err(ProofError::Length)),
    }
}

/// The root to which PATH(m, D[n]) leads from its leaf; `None` when the path is of another length.
fn root_of(leaf: Hash, m: u64, n: u64, path: &[Hash]) -> Option<Hash> {
    if n == 1 {
        return path.is_empty().then_some(leaf);
    }
    // The largest power of two smaller than n.
    let k = 1 << (n - 1).ilog2();
    let (last, path) = path.split_last()?;
    if m < k {
        Some(node_hash(&root_of(leaf, m, k, path)?, last))
    } else {
        Some(node_hash(last, &root_of(leaf, m - k, n - k, path)?))
    }
}
