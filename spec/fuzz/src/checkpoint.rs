//! Checkpoints (SPEC §8.1; C2SP tlog-checkpoint).

use sift_spec::checkpoint::{CHECKPOINT_TEXT_BYTES_MAX, Checkpoint};
use sift_spec::note::{KeyType, SignerKey};
use sift_spec::trust::{TrustError, TrustPolicy};

use super::honest::{LOG, STRANGER, TRUST};

pub(crate) fn checkpoint(bytes: &[u8]) {
    // As a note: only the honest log's signature makes it a checkpoint of that log.
    if let Ok(verified) = TRUST.verify(bytes) {
        assert_eq!(verified.checkpoint().origin.as_str(), LOG);
        assert!(!verified.witnesses().is_empty());
    }
    // As the text of one.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(checkpoint) = Checkpoint::parse(text) else { return };
    assert_eq!(checkpoint.text(), text, "exactly one encoding");
    assert!(text.len() <= CHECKPOINT_TEXT_BYTES_MAX);
    let theirs = tlog_tiles::Checkpoint::from_bytes(bytes).expect("tlog_tiles reads what we read");
    assert_eq!(theirs.origin(), checkpoint.origin.as_str());
    assert_eq!(theirs.size(), checkpoint.head.size.get());
    assert_eq!(theirs.hash().0, *checkpoint.head.root.as_bytes());
    assert_eq!(theirs.to_bytes(), bytes);
    // Signed by the log that it names, it is believed of that log and of no other.
    let key = SignerKey::from_seed(checkpoint.origin.clone(), KeyType::Ed25519, &[7; 32]).unwrap();
    let note = checkpoint.sign(&key);
    let policy = TrustPolicy::of_log(key.verifier().clone(), None);
    match policy.verify(note.as_bytes()) {
        Ok(verified) => assert_eq!(*verified.checkpoint(), checkpoint),
        // A text of control characters is that of no note.
        Err(TrustError::Note(_)) => assert!(text.bytes().any(|byte| byte < 0x20 && byte != b'\n')),
        Err(error) => panic!("{error}"),
    }
    let other = TrustPolicy::of_log(STRANGER.verifier().clone(), None);
    assert!(other.verify(note.as_bytes()).is_err());
}
