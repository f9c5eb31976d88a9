//! Receipts, and the consistency of two heads.
#![allow(clippy::unwrap_used)]

mod common;

use common::kernel::honest;
use common::{Sealed, checkpoint, index, log_key, tiles, trust};
use sift_spec::proof::{Proof, TreeHead, prove_consistency, prove_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::types::{Hash, TreeSize};
use sift_verify::consistency::{self, Basis};
use sift_verify::source::Directory;
use sift_verify::{CannotCheck, Code, Gap, Report, Verdict, proof};
use tempfile::TempDir;

fn codes(report: &Report) -> Vec<Code> {
    report.findings().iter().map(|finding| finding.code).collect()
}

fn receipt(sealed: &Sealed, at: usize) -> Receipt {
    let tree = sealed.tree();
    let proof = prove_inclusion(index(at), tree.size(), &tree).unwrap();
    Receipt { extra: None, index: index(at), proof, checkpoint: sealed.checkpoint() }
}

fn verify(entry: &[u8], receipt: &Receipt) -> Report {
    proof::verify(entry, receipt.to_string().as_bytes(), &trust())
}

#[test]
fn every_entry_of_a_log_has_a_receipt() {
    let sealed = honest().seal();
    for (at, entry) in sealed.entries.iter().enumerate() {
        let report = verify(entry, &receipt(&sealed, at));
        assert_eq!(report.verdict(), Verdict::Verified);
        let operator = report.verified().len() == 3;
        let expected = if operator { vec![] } else { vec![Gap::GrantUnchecked] };
        assert_eq!(report.unchecked().iter().map(|gap| gap.code).collect::<Vec<_>>(), expected);
        // Of another entry, it proves nothing.
        let other = &sealed.entries[(at + 1) % sealed.entries.len()];
        assert_eq!(codes(&verify(other, &receipt(&sealed, at))), [Code::NotIncluded]);
    }
}

#[test]
fn receipts_are_refused_with_their_own_finding() {
    let sealed = honest().seal();
    let entry = &sealed.entries[0];
    let honest_receipt = receipt(&sealed, 0);
    assert_eq!(codes(&proof::verify(entry, b"c2sp.org/tlog-proof@v2\n", &trust())), [Code::ReceiptMalformed]);
    let mut forged = honest_receipt.clone();
    forged.checkpoint =
        checkpoint(sealed.head(), &common::key(common::LOG, sift_spec::note::KeyType::Ed25519, 77));
    assert_eq!(codes(&verify(entry, &forged)), [Code::CheckpointInvalid]);
    let witnessed = common::witnessed_trust();
    let report = proof::verify(entry, honest_receipt.to_string().as_bytes(), &witnessed);
    assert_eq!(codes(&report), [Code::NotWitnessed]);
    for at in 0..honest_receipt.proof.0.len() {
        let mut changed = honest_receipt.clone();
        changed.proof.0[at] = Hash::from_bytes([9; 32]);
        assert_eq!(codes(&verify(entry, &changed)), [Code::NotIncluded]);
        let mut shorter = honest_receipt.clone();
        shorter.proof.0.remove(at);
        assert_eq!(codes(&verify(entry, &shorter)), [Code::NotIncluded]);
    }
    // No log holds an entry so large, whatever is said about it.
    let large = Sealed { entries: vec![vec![b'x'; 65_536]], in_pack: Vec::new() };
    assert_eq!(codes(&verify(&large.entries[0], &receipt(&large, 0))), [Code::RecordMalformed]);
    let bytes = honest_receipt.to_string().into_bytes();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert_eq!(proof::verify(entry, &flipped, &trust()).verdict(), Verdict::Rejected, "byte {at}");
    }
}

#[test]
fn entries_that_are_not_records() {
    // Of some other log: included is all that can be said.
    let foreign =
        Sealed { entries: vec![b"hello".to_vec(), b"sift/record@v1\n{}".to_vec()], in_pack: Vec::new() };
    let report = verify(&foreign.entries[0], &receipt(&foreign, 0));
    assert_eq!((report.verdict(), report.unchecked()[0].code), (Verdict::Verified, Gap::ContentUnread));
    assert_eq!(codes(&verify(&foreign.entries[1], &receipt(&foreign, 1))), [Code::RecordMalformed]);
    // An operator's entry that the operator did not sign.
    let mut sealed = honest().seal();
    common::spoil_signature(&mut sealed.entries[0]);
    assert_eq!(codes(&verify(&sealed.entries[0], &receipt(&sealed, 0))), [Code::SignatureInvalid]);
}

/// The log at `size`, as a checkpoint.
fn at_size(sealed: &Sealed, size: usize) -> (TreeHead, String) {
    let tree = sealed.tree();
    let size = TreeSize::new(size as u64).unwrap();
    let head = TreeHead { size, root: tree.root(size).unwrap() };
    (head, checkpoint(head, &log_key()))
}

#[test]
fn heads_of_one_log_are_consistent_in_any_order() {
    let sealed = honest().seal();
    let (tree, dir) = (sealed.tree(), TempDir::new().unwrap());
    tiles::write(&sealed, dir.path());
    let source = Directory::new(dir.path());
    let (_, new) = at_size(&sealed, sealed.entries.len());
    for size in 0..=sealed.entries.len() {
        let (head, old) = at_size(&sealed, size);
        let proof = prove_consistency(head.size, tree.size(), &tree).unwrap();
        for basis in [Basis::Proof(&proof), Basis::Log(&source)] {
            for (first, second) in [(&old, &new), (&new, &old)] {
                let report =
                    consistency::verify(first.as_bytes(), second.as_bytes(), basis, &trust()).unwrap();
                assert_eq!(report.verdict(), Verdict::Verified, "size {size}");
                assert_eq!(report.verified().last().unwrap().what, "consistency");
            }
        }
    }
}

#[test]
fn two_histories_are_found() {
    let honest_log = honest().seal();
    let mut fork = honest_log.clone();
    fork.entries[4] = b"another history".to_vec();
    let size = honest_log.entries.len();
    let dir = TempDir::new().unwrap();
    tiles::write(&honest_log, dir.path());
    let source = Directory::new(dir.path());
    let verify = |old: &str, new: &str, basis: Basis<'_>| {
        codes(&consistency::verify(old.as_bytes(), new.as_bytes(), basis, &trust()).unwrap())
    };
    // Equal sizes need nothing else.
    let (a, b) = (at_size(&honest_log, size).1, at_size(&fork, size).1);
    assert_eq!(verify(&a, &b, Basis::None), [Code::HeadsInconsistent]);
    // Other sizes, with the log's own tiles.
    let (_, forked) = at_size(&fork, 7);
    assert_eq!(verify(&forked, &a, Basis::Log(&source)), [Code::HeadsInconsistent]);
    // With a proof that someone handed over, it may be the proof.
    let tree = honest_log.tree();
    let proof = prove_consistency(TreeSize::new(7).unwrap(), tree.size(), &tree).unwrap();
    assert_eq!(verify(&forked, &a, Basis::Proof(&proof)), [Code::ConsistencyUnproven]);
    assert_eq!(
        verify(&at_size(&honest_log, 7).1, &a, Basis::Proof(&Proof::default())),
        [Code::ConsistencyUnproven]
    );
    // Tiles of another tree prove nothing about this one.
    assert_eq!(verify(&at_size(&fork, 7).1, &b, Basis::Log(&source)), [Code::TileDiffers]);
}

/// Where only the lower tiles are wrong, the larger root still comes out, and the smaller one does not.
#[test]
fn a_bad_copy_is_no_proof_against_the_log() {
    let entries: Vec<Vec<u8>> = (0..300_u32).map(|n| n.to_be_bytes().to_vec()).collect();
    let sealed = Sealed { entries, in_pack: Vec::new() };
    let dir = TempDir::new().unwrap();
    tiles::write(&sealed, dir.path());
    let (old, new) = (at_size(&sealed, 100).1, at_size(&sealed, 300).1);
    let verify = || {
        let source = Directory::new(dir.path());
        let basis = Basis::Log(&source);
        codes(&consistency::verify(old.as_bytes(), new.as_bytes(), basis, &trust()).unwrap())
    };
    assert_eq!(verify(), []);
    let path = dir.path().join("tile/0/000");
    let mut tile = std::fs::read(&path).unwrap();
    tile[3 * 32] ^= 1;
    std::fs::write(path, tile).unwrap();
    assert_eq!(verify(), [Code::TileDiffers]);
}

#[test]
fn what_is_needed_is_said() {
    let sealed = honest().seal();
    let (old, new) = (at_size(&sealed, 3).1, at_size(&sealed, 9).1);
    let error = consistency::verify(old.as_bytes(), new.as_bytes(), Basis::None, &trust()).unwrap_err();
    assert!(matches!(error, CannotCheck::NoProof(3, 9)));
    let report = consistency::verify(b"nothing", new.as_bytes(), Basis::None, &trust()).unwrap();
    assert_eq!(codes(&report), [Code::CheckpointInvalid]);
}
