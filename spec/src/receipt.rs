//! Receipts (C2SP tlog-proof): everything needed to check one entry offline (SPEC §7.2).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::parse_size;
use crate::note::NOTE_BYTES_MAX;
use crate::proof::{PROOF_HASHES_MAX, Proof, ProofError, verify_inclusion};
use crate::trust::{TrustError, TrustPolicy, VerifiedCheckpoint};
use crate::types::{Hash, LeafIndex};

/// First line of a receipt.
pub const RECEIPT_HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Why bytes are not a receipt, or a receipt does not prove.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not the grammar of a tlog-proof.
    #[error("not a {RECEIPT_HEADER}: {why}")]
    Grammar {
        /// Offset of the line, or byte, that is wrong.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// The checkpoint is not believed.
    #[error("the checkpoint is not believed: {0}")]
    Checkpoint(#[from] TrustError),
    /// The entry is not in the tree.
    #[error("the entry is not in the tree: {0}")]
    Inclusion(#[from] ProofError),
}

/// A receipt, read but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Bytes that nobody vouches for; Sift writes none.
    pub extra: Option<Vec<u8>>,
    /// Index of the entry.
    pub index: LeafIndex,
    /// Inclusion proof, from the leaf's sibling up.
    pub proof: Proof,
    /// The checkpoint's note with all its signatures.
    pub checkpoint: String,
}

/// An entry that is proven to be in a tree whose checkpoint is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedInclusion {
    index: LeafIndex,
    leaf: Hash,
    checkpoint: VerifiedCheckpoint,
}

impl VerifiedInclusion {
    /// Index of the entry.
    #[must_use]
    pub const fn index(&self) -> LeafIndex {
        self.index
    }

    /// Leaf hash of the entry.
    #[must_use]
    pub const fn leaf(&self) -> Hash {
        self.leaf
    }

    /// The checkpoint under which it is proven.
    #[must_use]
    pub const fn checkpoint(&self) -> &VerifiedCheckpoint {
        &self.checkpoint
    }
}

impl Receipt {
    /// Reads a receipt.
    ///
    /// # Errors
    /// When the bytes are not the one encoding of a tlog-proof.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let fail = |at: usize, why| ReceiptError::Grammar { at, why };
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(fail(NOTE_BYTES_MAX, "longer than 1 MiB"));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| fail(error.valid_up_to(), "not UTF-8"))?;
        if text.split('\n').next() != Some(RECEIPT_HEADER) {
            return Err(fail(0, "another first line"));
        }
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or(fail(text.len(), "no empty line before the checkpoint"))?;
        let mut at = RECEIPT_HEADER.len() + 1;
        let mut lines = head.split('\n').skip(1).peekable();
        let extra = match lines.peek().and_then(|line| line.strip_prefix("extra ")) {
            None => None,
            Some(extra) => {
                lines.next();
                let decoded =
                    STANDARD.decode(extra).map_err(|_| fail(at, "\"extra\" is not canonical base64"))?;
                at += "extra ".len() + extra.len() + 1;
                Some(decoded)
            }
        };
        let line = lines.next();
        let index = line.and_then(|line| line.strip_prefix("index ")).and_then(parse_size);
        let index = index.and_then(|index| LeafIndex::new(index.get()).ok()).ok_or(fail(at, "no index"))?;
        at += line.map_or(0, str::len) + 1;
        let mut hashes = Vec::new();
        for line in lines {
            if hashes.len() == PROOF_HASHES_MAX {
                return Err(fail(at, "more than 64 hashes"));
            }
            hashes.push(line.parse().map_err(|_| fail(at, "a line of the proof is not a hash"))?);
            at += line.len() + 1;
        }
        Ok(Self { extra, index, proof: Proof(hashes), checkpoint: checkpoint.to_owned() })
    }

    /// Checks that the entry with this leaf hash is in a tree that `policy` believes in.
    ///
    /// # Errors
    /// When the checkpoint is not believed or the inclusion is not proven.
    pub fn verify(&self, leaf: Hash, policy: &TrustPolicy) -> Result<VerifiedInclusion, ReceiptError> {
        // 1. The checkpoint: origin, log signature, cosignature quorum.
        let checkpoint = policy.verify(self.checkpoint.as_bytes())?;
        // 2. The entry stands at the index of that tree.
        verify_inclusion(&leaf, self.index, &checkpoint.checkpoint().head, &self.proof)?;
        Ok(VerifiedInclusion { index: self.index, leaf, checkpoint })
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{RECEIPT_HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.proof.0 {
            writeln!(f, "{hash}")?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}
