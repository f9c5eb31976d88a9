//! Bytes as a supply of choices, for targets whose inputs are not bytes: numbers, hashes, edits. When the bytes run
//! out, every further choice is zero.

use sift_spec::hash::leaf_hash;
use sift_spec::types::{Hash, INTEGER_MAX};

pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// At most `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A number below `bound`, small ones being as easy to choose as large ones.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let scale = u32::from(self.byte()) % u64::BITS;
        let mut bytes = [0; 8];
        let taken = self.take(scale.div_ceil(8) as usize);
        bytes[..taken.len()].copy_from_slice(taken);
        (u64::from_le_bytes(bytes) & ((1 << scale) - 1)) % bound
    }

    /// A number that a record, an index or a size may have.
    pub(crate) fn integer(&mut self) -> u64 {
        self.below(INTEGER_MAX + 1)
    }

    /// One of 256 hashes.
    pub(crate) fn hash(&mut self) -> Hash {
        leaf_hash(&[self.byte()])
    }

    /// One hash for each byte that is left.
    pub(crate) fn hashes(self) -> Vec<Hash> {
        self.0.iter().map(|byte| leaf_hash(&[*byte])).collect()
    }
}

/// The same hash with one bit changed.
pub(crate) fn flipped(hash: Hash) -> Hash {
    super::common::flipped(&hash, 0)
}
