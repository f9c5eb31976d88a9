//! Signed notes (SPEC §2.1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sift_spec::note::{NOTE_BYTES_MAX, Note, NoteError, SIGNATURES_MAX, VerifierKey};

use super::honest::KERNEL;

/// Longest note that `signed_note` reads, in bytes: a little less than ours.
const THEIR_BYTES_MAX: usize = 1_000_000;

pub(crate) fn note(bytes: &[u8]) {
    let known = [KERNEL.verifier().clone()];
    if let Ok(note) = Note::parse(bytes, NOTE_BYTES_MAX) {
        assert_eq!(printed(&note), bytes, "what is read prints as the same bytes");
        assert!(note.signatures.len() <= SIGNATURES_MAX);
        second_opinion(bytes, &note, &known[0]);
    }
    // Every text that a note may have can be signed, reads back as itself, and no other text does.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if bytes.len() > NOTE_BYTES_MAX - 1024 {
        return;
    }
    let allowed = text.ends_with('\n') && !text.bytes().any(|byte| byte < 0x20 && byte != b'\n');
    let signed = KERNEL.sign_note(text);
    match Note::parse(signed.as_bytes(), NOTE_BYTES_MAX) {
        Ok(note) if allowed => {
            assert_eq!(note.text, text);
            assert_eq!(note.verify(&known), Ok(vec![&known[0]]));
        }
        // A text that ends in signature lines without an empty line before them makes a note of a shorter text.
        Ok(note) => assert_ne!(note.verify(&known), Ok(vec![&known[0]])),
        Err(error) => assert!(!allowed, "{error}"),
    }
}

/// The note as SPEC §2.1 says it is written.
pub(crate) fn printed(note: &Note<'_>) -> Vec<u8> {
    let mut printed = format!("{}\n", note.text);
    for line in &note.signatures {
        let blob = [&line.id.0.to_be_bytes(), line.signature.as_slice()].concat();
        printed += &format!("\u{2014} {} {}\n", line.name, STANDARD.encode(blob));
    }
    printed.into_bytes()
}

fn second_opinion(bytes: &[u8], ours: &Note<'_>, known: &VerifierKey) {
    if bytes.len() > THEIR_BYTES_MAX {
        return;
    }
    let theirs = signed_note::Note::from_bytes(bytes).expect("signed_note reads what we read");
    assert_eq!(theirs.text(), ours.text.as_bytes());
    assert_eq!(theirs.to_bytes(), bytes);
    let key = signed_note::StandardVerifier::new(&known.to_string()).expect("an honest key");
    let believed = theirs.verify(&signed_note::VerifierList::new(vec![Box::new(key)])).is_ok();
    // ZIP 215 takes a few signatures that others refuse, and refuses none that they take.
    match ours.verify(std::slice::from_ref(known)) {
        Ok(_) => {}
        Err(NoteError::NoKnownSignature | NoteError::SignatureInvalid(_)) => assert!(!believed),
        Err(error) => panic!("{error}"),
    }
}
