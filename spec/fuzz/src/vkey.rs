//! Keys as text: vkeys and signer keys (SPEC §2.2).

use sift_spec::note::{KeyType, SignerKey, VerifierKey};
use signed_note::{Signer as _, Verifier as _};

pub(crate) fn vkey(bytes: &[u8]) {
    // Type, 32 bytes of key, a name: a key that can be made reads back as itself.
    if let Some((public, name)) = bytes.get(1..).and_then(|bytes| bytes.split_first_chunk::<32>())
        && let Ok(Ok(name)) = std::str::from_utf8(name).map(str::parse)
    {
        let key_type = if bytes[0].is_multiple_of(2) { KeyType::Ed25519 } else { KeyType::Cosignature };
        if let Ok(key) = VerifierKey::new(name, key_type, public) {
            assert_eq!(key.public(), *public);
            let text = key.to_string();
            assert_eq!(text.parse(), Ok(key));
            check(&text);
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        check(text);
    }
}

fn check(text: &str) {
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text, "one key has one text");
        if key.key_type() == KeyType::Ed25519 {
            let theirs = signed_note::StandardVerifier::new(text).expect("signed_note reads what we read");
            assert_eq!((theirs.name(), theirs.key_id()), (key.name().as_str(), key.id().0));
        }
    }
    if let Ok(key) = SignerKey::from_secret_text(text) {
        assert_eq!(*key.to_secret_text(), text, "one key has one text");
        let secret = text.rsplit('+').next().unwrap_or_default();
        assert!(!format!("{key:?}").contains(secret), "a private key is not to be found in a log");
        if key.verifier().key_type() == KeyType::Ed25519 {
            let theirs = signed_note::StandardSigner::new(text).expect("signed_note reads what we read");
            assert_eq!(theirs.key_id(), key.verifier().id().0);
        }
    }
}
