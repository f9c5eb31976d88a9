//! Everything that is hashed passes through here and gets its domain (SPEC §1).
//!
//! The tree is that of RFC 6962 §2.1: leaves under 0x00, nodes under 0x01, the empty tree is SHA-256 of
//! nothing. Sift's own digests start with a line that names them.

use sha2::{Digest as _, Sha256};

use crate::types::Hash;

/// Root of the empty tree: SHA-256 of the empty string (RFC 6962 §2.1).
pub const EMPTY_ROOT: Hash = Hash::from_bytes([
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
    0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
]);

/// Leaf hash of an entry: SHA-256(0x00 ‖ entry) (RFC 6962 §2.1).
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    sha256(&[&[0x00], entry])
}

/// Hash of an inner node: SHA-256(0x01 ‖ left ‖ right) (RFC 6962 §2.1).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[0x01], left.as_bytes(), right.as_bytes()])
}

/// Name of a payload object: SHA-256 of salt and content (SPEC §5).
#[must_use]
pub fn object_digest(object: &[u8]) -> Hash {
    sha256(&[object])
}

/// Name of a policy bundle: SHA-256 of its encoding, whose first line is its domain (SPEC §6).
#[must_use]
pub fn bundle_digest(encoding: &[u8]) -> Hash {
    sha256(&[encoding])
}

/// Digest of a proposed action over its canonical JSON (SPEC §3.6).
#[must_use]
pub fn action_digest(json: &str) -> Hash {
    sha256(&[b"sift/action@v1\n", json.as_bytes()])
}

/// Digest of what an approver was shown (SPEC §3.6).
#[must_use]
pub fn shown_digest(rendering: &str) -> Hash {
    sha256(&[b"sift/shown@v1\n", rendering.as_bytes()])
}

/// Name of a log on a witness: SHA-256 of its origin (C2SP tlog-witness).
#[must_use]
pub fn origin_digest(origin: &str) -> Hash {
    sha256(&[origin.as_bytes()])
}

/// Seals a line of a verifier's history: SHA-256 of a domain, the seal of the line before, and the line (SPEC §11.6).
#[must_use]
pub fn history_seal(before: &Hash, line: &[u8]) -> Hash {
    sha256(&[b"sift/history@v1\n", before.as_bytes(), line])
}

/// Key id of a note key: the first four bytes of SHA-256(name ‖ LF ‖ type ‖ public key) (C2SP signed-note).
#[must_use]
pub(crate) fn key_id(name: &str, key_type: u8, public_key: &[u8]) -> u32 {
    let hash = sha256(&[name.as_bytes(), b"\n", &[key_type], public_key]);
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// Fixes a signature and what it signs, for the transcript of a batch.
#[must_use]
pub(crate) fn signed_digest(signature: &[u8; 64], message: &[u8]) -> Hash {
    sha256(&[b"sift/signed@v1\n", signature, message])
}

/// SHA-256 over the parts, one after the other. Private: a caller chooses a domain, not bytes.
fn sha256(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    Hash::from_bytes(hasher.finalize().into())
}

/// Deterministic bytes for the coefficients of batch verification: SHA-256 in counter mode over a seed.
pub(crate) struct HashStream {
    seed: Hash,
    counter: u64,
}

impl HashStream {
    /// Starts the transcript of a batch from the caller's entropy.
    pub(crate) fn seed(entropy: &[u8; 32]) -> BatchTranscript {
        let mut hasher = Sha256::new();
        hasher.update(b"sift/batch@v1\n");
        hasher.update(entropy);
        BatchTranscript(hasher)
    }

    /// The next 32 bytes.
    pub(crate) fn block(&mut self) -> [u8; 32] {
        self.counter += 1;
        *sha256(&[self.seed.as_bytes(), &self.counter.to_be_bytes()]).as_bytes()
    }
}

/// All that is verified in one batch, before the first coefficient is drawn.
pub(crate) struct BatchTranscript(Sha256);

impl BatchTranscript {
    /// Adds one signature: its key, and a hash that fixes the signature and what it signs. Both lengths are fixed, so
    /// that no two batches have one transcript.
    pub(crate) fn item(&mut self, public_key: &[u8; 32], fixed: &Hash) {
        self.0.update(public_key);
        self.0.update(fixed.as_bytes());
    }

    /// The stream that the coefficients are drawn from.
    pub(crate) fn stream(self) -> HashStream {
        HashStream { seed: Hash::from_bytes(self.0.finalize().into()), counter: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_root_is_the_hash_of_nothing() {
        assert_eq!(sha256(&[]), EMPTY_ROOT);
    }
}
