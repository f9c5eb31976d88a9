//! Multi-inclusion proofs (SPEC §7.3): what verifies is true of a real tree, and is the one proof of it.

use std::collections::BTreeMap;

use sift_spec::hash::node_hash;
use sift_spec::proof::{Proof, ProofError, TreeHead, prove_multi_inclusion, verify_multi_inclusion};
use sift_spec::tree::MemoryTree;
use sift_spec::types::{Hash, LeafIndex, TreeSize};

use super::input::{Input, flipped};

/// Largest tree that is built leaf by leaf.
const BUILT_MAX: u64 = 300;

pub(crate) fn multi_inclusion(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.byte().is_multiple_of(2) { built(input) } else { folded(input) }
}

/// Claims about a tree that exists: proven when they are true, and never when they are not.
fn built(mut input: Input<'_>) {
    let size = input.below(BUILT_MAX);
    let salt = input.byte();
    // A few leaves are alike.
    let leaf = |n: u64| sift_spec::hash::leaf_hash(&[(n as u8).wrapping_mul(salt), salt]);
    let leaves: Vec<Hash> = (0..size).map(leaf).collect();
    let tree = MemoryTree::new(leaves.iter().copied());
    let size = tree.size();
    let head = TreeHead { size, root: tree.root(size).unwrap() };
    let mut claims: BTreeMap<LeafIndex, Hash> = BTreeMap::new();
    for _ in 0..input.below(16) {
        let index = input.below(size.get().max(1));
        if let Some(leaf) = leaves.get(index as usize) {
            claims.insert(LeafIndex::new(index).unwrap(), *leaf);
        }
    }
    let indices: Vec<LeafIndex> = claims.keys().copied().collect();
    let honest = prove_multi_inclusion(&indices, size, &tree).unwrap();
    let mut claims: Vec<(LeafIndex, Hash)> = claims.into_iter().collect();
    assert_eq!(verify_multi_inclusion(&claims, &head, &honest), Ok(()));

    let mut proof = honest;
    while !input.is_empty() {
        let (kind, at, hash) = (input.byte(), usize::from(input.byte()), input.hash());
        let hashes = &mut proof.0;
        match kind % 8 {
            0 => hashes.insert(at % (hashes.len() + 1), hash),
            1 if at < hashes.len() => drop(hashes.remove(at)),
            2 if at < hashes.len() => hashes[at] = flipped(hashes[at]),
            3 if at + 1 < hashes.len() => hashes.swap(at, at + 1),
            4 if at < claims.len() => drop(claims.remove(at)),
            5 if at < claims.len() => claims[at].1 = hash,
            6 if at < claims.len() => claims[at].0 = LeafIndex::new(input.integer()).unwrap(),
            7 => claims.insert(at % (claims.len() + 1), (LeafIndex::new(input.below(300)).unwrap(), hash)),
            _ => {}
        }
    }
    if verify_multi_inclusion(&claims, &head, &proof).is_ok() {
        assert!(claims.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(claims.iter().all(|(index, leaf)| leaves.get(index.get() as usize) == Some(leaf)));
        let indices: Vec<LeafIndex> = claims.iter().map(|(index, _)| *index).collect();
        assert_eq!(prove_multi_inclusion(&indices, size, &tree).unwrap(), proof);
    }
}

/// Trees too large to build: what verifies folds to the root by the definition.
fn folded(mut input: Input<'_>) {
    let size = input.integer();
    let mut claims = BTreeMap::new();
    for _ in 0..input.byte() % 16 {
        let index = input.below(size.max(1));
        claims.insert(index, input.hash());
    }
    let other = input.hash();
    let proof = Proof(input.hashes());
    let listed: Vec<(LeafIndex, Hash)> =
        claims.iter().map(|(index, leaf)| (LeafIndex::new(*index).unwrap(), *leaf)).collect();
    let verify = |root| {
        verify_multi_inclusion(&listed, &TreeHead { size: TreeSize::new(size).unwrap(), root }, &proof)
    };
    if size == 0 {
        assert!(verify(other).is_err());
        return;
    }
    let mut rest = proof.0.as_slice();
    match fold(&claims, 0, size, &mut rest).filter(|_| rest.is_empty()) {
        Some(root) => {
            assert_eq!(verify(root), Ok(()));
            assert_eq!(verify(flipped(root)), Err(ProofError::Root));
        }
        None => assert_eq!(verify(other), Err(ProofError::Length)),
    }
}

/// MTH(D[start..end]) of RFC 6962 §2.1, where a subtree without claims is the next hash.
fn fold(claims: &BTreeMap<u64, Hash>, start: u64, end: u64, proof: &mut &[Hash]) -> Option<Hash> {
    if claims.range(start..end).next().is_none() {
        let (next, rest) = proof.split_first()?;
        *proof = rest;
        return Some(*next);
    }
    if end - start == 1 {
        return claims.get(&start).copied();
    }
    let middle = start + (1 << (end - start - 1).ilog2());
    let left = fold(claims, start, middle, proof)?;
    let right = fold(claims, middle, end, proof)?;
    Some(node_hash(&left, &right))
}
