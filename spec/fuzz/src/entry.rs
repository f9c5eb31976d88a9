//! Entries, the leaves of the log (SPEC §2.4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sift_spec::entry::{Content, Entry};
use sift_spec::hash::leaf_hash;
use sift_spec::note::SignerKey;
use sift_spec::record::{ENTRY_BYTES_MAX, OPERATOR_HEADER, OperatorRecord, RECORD_HEADER, Record};

use super::honest::{KERNEL, OPERATOR};
use super::json::check_text;

pub(crate) fn entry(bytes: &[u8]) {
    if let Ok(entry) = Entry::parse(bytes.to_vec()) {
        check(&entry, bytes);
    }
    // The text of a record, signed, is an entry of that record.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(record) = Record::parse(text) {
        signed(Entry::sign(&record, &KERNEL), &KERNEL, &Content::Run(record));
    }
    if let Ok(record) = OperatorRecord::parse(text) {
        signed(Entry::sign_operator(&record, &OPERATOR), &OPERATOR, &Content::Operator(record));
    }
}

fn signed(entry: Result<Entry, sift_spec::entry::EntryError>, key: &SignerKey, content: &Content) {
    // A record may fit an entry by itself and not with its signature.
    let Ok(entry) = entry else { return };
    let bytes = entry.bytes().to_vec();
    let read = Entry::parse(bytes.clone()).expect("what is signed reads back");
    assert_eq!(read, entry);
    assert_eq!(read.content(), content);
    assert_eq!(read.verify(key.verifier()), Ok(()));
    check(&read, &bytes);
}

/// Everything that was read, printed again, is the entry: so no two byte strings read as the same.
fn check(entry: &Entry, bytes: &[u8]) {
    assert_eq!(entry.bytes(), bytes);
    assert!(bytes.len() <= ENTRY_BYTES_MAX);
    assert_eq!(entry.leaf(), leaf_hash(bytes));
    let (header, text) = match entry.content() {
        Content::Run(record) => (RECORD_HEADER, record.text()),
        Content::Operator(record) => (OPERATOR_HEADER, record.text()),
    };
    let text = text.expect("what was read can be printed");
    check_text(header, &text);
    let blob = [&entry.key_id().0.to_be_bytes()[..], entry.batch_item(KERNEL.verifier()).signature].concat();
    let printed = format!("{text}\n\u{2014} {} {}\n", entry.signer(), STANDARD.encode(blob));
    assert_eq!(printed.as_bytes(), bytes);
    let theirs = signed_note::Note::from_bytes(bytes).expect("signed_note reads what we read");
    assert_eq!(theirs.text(), text.as_bytes());
}
