//! Receipts (SPEC §7.2; C2SP tlog-proof).

use std::sync::LazyLock;

use sift_spec::receipt::{Receipt, ReceiptError};
use sift_spec::types::{Hash, LeafIndex};

use super::honest::{Honest, TRUST};

struct Log {
    leaves: Vec<Hash>,
    receipts: Vec<Receipt>,
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let honest = Honest::new();
    let leaves: Vec<Hash> = honest.entries.iter().map(sift_spec::entry::Entry::leaf).collect();
    let receipts = (0..leaves.len()).map(|index| honest.receipt(index)).collect();
    Log { leaves, receipts }
});

pub(crate) fn receipt(bytes: &[u8]) {
    let Ok(receipt) = Receipt::parse(bytes) else { return };
    assert_eq!(receipt.to_string().as_bytes(), bytes, "exactly one encoding");
    assert!(receipt.proof.0.len() <= sift_spec::proof::PROOF_HASHES_MAX);
    // The honest log has one proof for each of its entries, and nobody can make another.
    for (index, leaf) in (0..).map(|n| LeafIndex::new(n).unwrap()).zip(&LOG.leaves) {
        match receipt.verify(*leaf, &TRUST) {
            Ok(verified) => {
                assert_eq!((receipt.index, verified.index(), verified.leaf()), (index, index, *leaf));
                assert_eq!(receipt.proof, LOG.receipts[index.get() as usize].proof);
            }
            // Whether the checkpoint is believed does not depend on the entry.
            Err(ReceiptError::Checkpoint(_)) => break,
            Err(ReceiptError::Inclusion(_) | ReceiptError::Grammar { .. }) => {}
        }
    }
}
