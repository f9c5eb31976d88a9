//! Cosignatures (SPEC §8.2; C2SP tlog-cosignature): what comes back from witnesses, behind an honest checkpoint.

use std::sync::LazyLock;

use sift_spec::checkpoint::{cosign, verify_cosignature};
use sift_spec::note::{NOTE_BYTES_MAX, Note};

use super::honest::{Honest, LOG_KEY, TRUST, WITNESSES};
use super::input::Input;

struct Signed {
    /// The checkpoint's text.
    text: String,
    /// The note with the log's signature alone.
    note: String,
}

static SIGNED: LazyLock<Signed> = LazyLock::new(|| {
    let checkpoint = Honest::new().checkpoint();
    let (text, note) = (checkpoint.text(), checkpoint.sign(&LOG_KEY));
    Signed { text, note }
});

pub(crate) fn cosignature(bytes: &[u8]) {
    any_lines(bytes);
    any_times(bytes);
}

/// Whatever lines a witness sends, they count only if its own key made them.
fn any_lines(lines: &[u8]) {
    let Signed { text, note } = &*SIGNED;
    let cosigned = [note.as_bytes(), lines].concat();
    let Ok(parsed) = Note::parse(&cosigned, NOTE_BYTES_MAX) else {
        assert!(TRUST.verify(&cosigned).is_err());
        return;
    };
    if parsed.text != text {
        // Whoever adds an empty line makes the lines above it a part of the text, which nobody signed.
        assert!(TRUST.verify(&cosigned).is_err());
        return;
    }
    let mut valid = 0;
    for line in &parsed.signatures {
        for witness in &WITNESSES[..2] {
            let Some(time) = verify_cosignature(text, witness.verifier(), line) else { continue };
            // Ed25519 is deterministic: who has no key can only repeat the one line there is for this time.
            let honest = cosign(text, witness, time).expect("a cosigner's key");
            assert!(String::from_utf8_lossy(lines).contains(&honest));
            valid += 1;
        }
    }
    match TRUST.verify(&cosigned) {
        Ok(verified) => {
            assert_eq!(verified.checkpoint().text(), *text);
            assert_eq!(verified.witnesses().len(), valid);
            assert!(valid > 0, "the trust file asks for one");
        }
        Err(_) => assert!(valid < 2, "both witnesses signed"),
    }
}

/// A witness's own line is believed at any time that the format can say.
fn any_times(bytes: &[u8]) {
    let Signed { text, note } = &*SIGNED;
    let mut input = Input::new(bytes);
    let mut cosigned = note.clone();
    let mut expected = Vec::new();
    for (witness, name) in WITNESSES.iter().zip(["one", "two"]) {
        if input.byte().is_multiple_of(2) {
            let mut time = [0; 8];
            let taken = input.take(8);
            time[..taken.len()].copy_from_slice(taken);
            let time_seconds = u64::from_be_bytes(time);
            cosigned += &cosign(text, witness, time_seconds).expect("a cosigner's key");
            expected.push((name.to_owned(), time_seconds));
        }
    }
    let in_bounds = expected.iter().all(|(_, time)| i64::try_from(*time).is_ok());
    match TRUST.verify(cosigned.as_bytes()) {
        Ok(verified) => assert!(in_bounds && verified.witnesses() == expected),
        Err(_) => assert!(expected.is_empty() || !in_bounds),
    }
}
