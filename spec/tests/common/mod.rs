//! What several test binaries share: a seeded generator, honest objects, ways to damage them.
#![allow(dead_code)] // each binary uses a part

pub(crate) mod honest;
pub(crate) mod json;

use sift_spec::hash::leaf_hash;
use sift_spec::proof::Proof;
use sift_spec::types::{Hash, LeafIndex, TreeSize};

/// SplitMix64: small, seeded, the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    /// Starts from a seed and prints it, so that a failure can be repeated.
    pub(crate) fn seeded(name: &str, seed: u64) -> Self {
        println!("{name}: seed {seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

pub(crate) fn index(value: u64) -> LeafIndex {
    LeafIndex::new(value).unwrap()
}

pub(crate) fn size(value: u64) -> TreeSize {
    TreeSize::new(value).unwrap()
}

/// Leaf hashes of the entries "0", "1", "2" and so on.
pub(crate) fn decimal_leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|n| leaf_hash(n.to_string().as_bytes())).collect()
}

/// A hash with one bit changed.
pub(crate) fn flipped(hash: &Hash, bit: usize) -> Hash {
    let mut bytes = *hash.as_bytes();
    bytes[bit / 8 % 32] ^= 1 << (bit % 8);
    Hash::from_bytes(bytes)
}

/// Every proof that differs from `proof` by one hash flipped, dropped, doubled, added or swapped.
pub(crate) fn tampered(proof: &Proof) -> Vec<Proof> {
    let hashes = &proof.0;
    let mut all = Vec::new();
    let stranger = leaf_hash(b"a stranger");
    for at in 0..=hashes.len() {
        let mut added = hashes.clone();
        added.insert(at, stranger);
        all.push(added);
    }
    for at in 0..hashes.len() {
        let mut changed = hashes.clone();
        changed[at] = flipped(&hashes[at], at * 37 + hashes.len());
        all.push(changed);
        let mut dropped = hashes.clone();
        dropped.remove(at);
        all.push(dropped);
        let mut doubled = hashes.clone();
        doubled.insert(at, hashes[at]);
        all.push(doubled);
        for other in at + 1..hashes.len() {
            let mut swapped = hashes.clone();
            swapped.swap(at, other);
            all.push(swapped);
        }
    }
    all.into_iter().map(Proof).collect()
}
