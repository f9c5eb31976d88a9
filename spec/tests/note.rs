//! Signed notes and keys: known answers, the grammar, what is ignored and what rejects, ZIP 215, and the crate
//! `signed_note` as a second opinion.
#![allow(clippy::unwrap_used)]

mod common;

use common::Random;
use common::honest::{kernel_key, log_key, p, stranger_key, witness_key};
use sift_spec::note::{
    BatchItem, KeyError, KeyType, NOTE_BYTES_MAX, Note, NoteError, SIGNATURES_MAX, SignerKey, VerifierKey,
    verify_batch,
};

const KNOWN_VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const KNOWN_NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

fn parse(note: &str) -> Result<Note<'_>, NoteError> {
    Note::parse(note.as_bytes(), NOTE_BYTES_MAX)
}

/// `signed_note` over the same bytes with the same keys.
fn second_opinion(note: &[u8], keys: &[&VerifierKey]) -> bool {
    let keys = keys.iter().map(|key| {
        let key = signed_note::StandardVerifier::new(&key.to_string()).unwrap();
        Box::new(key) as Box<dyn signed_note::Verifier>
    });
    let keys = signed_note::VerifierList::new(keys.collect());
    signed_note::Note::from_bytes(note).is_ok_and(|note| note.verify(&keys).is_ok())
}

#[test]
fn known_answer_of_the_specification() {
    let key: VerifierKey = p(KNOWN_VKEY);
    assert_eq!(key.to_string(), KNOWN_VKEY);
    assert_eq!(key.id().to_string(), "530d903a");
    let note = parse(KNOWN_NOTE).unwrap();
    assert_eq!(note.text, "This is an example message.\n");
    assert_eq!(note.verify(std::slice::from_ref(&key)).unwrap(), [&key]);
    let cosigner = VerifierKey::new(p("example.com/foo"), KeyType::Cosignature, &key.public()).unwrap();
    assert_eq!(cosigner.id().to_string(), "7c264079");
    // A cosigner's key does not verify plain notes.
    assert_eq!(note.verify(&[cosigner]), Err(NoteError::NoKnownSignature));
}

#[test]
fn signed_note_verifies_ours_and_we_verify_theirs() {
    let key = kernel_key();
    let note = key.sign_note("several\n\nparagraphs\nof text\n");
    assert!(second_opinion(note.as_bytes(), &[key.verifier()]));
    assert_eq!(parse(&note).unwrap().text, "several\n\nparagraphs\nof text\n");

    let signer = signed_note::StandardSigner::new(&key.to_secret_text()).unwrap();
    let mut theirs = signed_note::Note::new(b"theirs\n", &[]).unwrap();
    theirs.add_sigs(&[&signer]).unwrap();
    let bytes = theirs.to_bytes();
    let note = Note::parse(&bytes, NOTE_BYTES_MAX).unwrap();
    assert_eq!(note.verify(std::slice::from_ref(key.verifier())).unwrap(), [key.verifier()]);
    assert_eq!(bytes, key.sign_note("theirs\n").into_bytes());
}

#[test]
fn grammar() {
    let good = kernel_key().sign_note("text\n");
    let (text, line) = good.split_once("\n\n").unwrap();
    let line = line.trim_end();
    let blob = line.rsplit_once(' ').unwrap().1;
    let name = kernel_key().verifier().name().to_string();
    let loose = {
        // The last character before one '=' carries two bits that must be zero.
        let mut bytes = blob.as_bytes().to_vec();
        let at = bytes.len() - 2;
        assert_eq!(&blob[at + 1..], "=");
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let value = alphabet.iter().position(|c| *c == bytes[at]).unwrap();
        bytes[at] = alphabet[value | 1];
        String::from_utf8(bytes).unwrap()
    };
    let bad_line = NoteError::SignatureLine(1);
    for (what, note, error) in [
        ("tab in the text", format!("te\txt\n\n{line}\n"), NoteError::Control(2)),
        ("nul", format!("text\0\n\n{line}\n"), NoteError::Control(4)),
        ("escape", format!("\x1b[0m\n\n{line}\n"), NoteError::Control(0)),
        ("carriage return", format!("text\r\n\r\n{line}\r\n"), NoteError::Control(4)),
        ("carriage return at the end", format!("text\n\n{line}\r\n"), NoteError::Control(good.len() - 1)),
        ("no line feed at the end", format!("{text}\n\n{line}"), NoteError::Structure),
        ("empty line at the end", format!("{text}\n\n{line}\n\n"), NoteError::Structure),
        ("two empty lines at the end", format!("{text}\n\n{line}\n\n\n"), NoteError::Structure),
        ("no empty line", format!("{text}\n{line}\n"), NoteError::Structure),
        ("no signature", format!("{text}\n\n"), NoteError::Structure),
        ("nothing", String::new(), NoteError::Structure),
        ("only line feeds", "\n\n\n".to_owned(), NoteError::Structure),
        ("en dash", format!("text\n\n\u{2013}{}\n", &line[3..]), bad_line.clone()),
        ("horizontal bar", format!("text\n\n\u{2015}{}\n", &line[3..]), bad_line.clone()),
        ("two hyphens", format!("text\n\n--{}\n", &line[3..]), bad_line.clone()),
        ("no-break space", format!("text\n\n\u{2014}\u{a0}{}\n", &line[4..]), bad_line.clone()),
        ("no space", format!("text\n\n\u{2014}{}\n", &line[4..]), bad_line.clone()),
        ("two spaces before the name", format!("text\n\n\u{2014}  {name} {blob}\n"), bad_line.clone()),
        ("two spaces after the name", format!("text\n\n\u{2014} {name}  {blob}\n"), bad_line.clone()),
        ("a fourth word", format!("text\n\n\u{2014} {name} {blob} x\n"), bad_line.clone()),
        ("space at the end", format!("text\n\n\u{2014} {name} {blob} \n"), bad_line.clone()),
        ("plus in the name", format!("text\n\n\u{2014} {name}+1 {blob}\n"), bad_line.clone()),
        ("no name", format!("text\n\n\u{2014} {blob}\n"), bad_line.clone()),
        ("ideographic space in the name", format!("text\n\n\u{2014} a\u{3000}b {blob}\n"), bad_line.clone()),
        ("no padding", format!("text\n\n\u{2014} {name} {}\n", blob.trim_end_matches('=')), bad_line.clone()),
        ("too much padding", format!("text\n\n\u{2014} {name} {blob}=\n"), bad_line.clone()),
        ("trailing bits", format!("text\n\n\u{2014} {name} {loose}\n"), bad_line.clone()),
        ("URL alphabet", format!("text\n\n\u{2014} {name} {}\n", "__--".repeat(23)), bad_line.clone()),
        ("a key id alone", format!("text\n\n\u{2014} {name} AAAAAA==\n"), bad_line.clone()),
        ("less than a key id", format!("text\n\n\u{2014} {name} AAAA\n"), bad_line.clone()),
        ("no signature bytes", format!("text\n\n\u{2014} {name} \n"), bad_line.clone()),
        ("a word between lines", format!("text\n\n{line}\nword\n"), NoteError::SignatureLine(2)),
        (
            "the same line twice",
            format!("text\n\n{line}\n{line}\n"),
            NoteError::DuplicateSignature(name.clone()),
        ),
    ] {
        assert_eq!(parse(&note).map(|note| note.signatures.len()), Err(error), "{what}");
    }
    // An empty line before the last separates nothing: the text may hold some.
    assert_eq!(parse(&format!("text\n\n\n{line}\n")).unwrap().text, "text\n\n");
    // U+007F and what lies above are no ASCII control characters below U+0020.
    assert_eq!(parse(&format!("t\u{7f}\u{85}\u{2028}\n\n{line}\n")).unwrap().text, "t\u{7f}\u{85}\u{2028}\n");
    let mut latin1 = good.clone().into_bytes();
    latin1[1] = 0xe9;
    assert_eq!(Note::parse(&latin1, NOTE_BYTES_MAX), Err(NoteError::NotUtf8(1)));
    assert_eq!(Note::parse(good.as_bytes(), good.len() - 1), Err(NoteError::TooLong(good.len() - 1)));
}

#[test]
fn every_change_of_a_note_is_refused_here_and_there() {
    let key = kernel_key();
    let keys = std::slice::from_ref(key.verifier());
    let good = key.sign_note("an honest text\nof two lines\n").into_bytes();
    let verify =
        |bytes: &[u8]| Note::parse(bytes, NOTE_BYTES_MAX).and_then(|note| Ok(note.verify(keys)?.len()));
    assert_eq!(verify(&good), Ok(1));
    let mut tried = 0;
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            assert!(verify(&bytes).is_err(), "bit {bit} of byte {at}");
            assert!(!second_opinion(&bytes, &[key.verifier()]), "bit {bit} of byte {at}");
            tried += 1;
        }
        assert!(verify(&good[..at]).is_err(), "cut at {at}");
        assert!(verify(&[&good[..at], &good[at + 1..]].concat()).is_err(), "without byte {at}");
        tried += 2;
    }
    for tail in [&b"x"[..], b"\n", b" ", b"\0"] {
        assert!(verify(&[&good, tail].concat()).is_err());
        assert!(verify(&[tail, &good].concat()).is_err());
    }
    println!("{tried} changes of a note refused");
}

#[test]
fn unknown_lines_are_ignored_and_failing_lines_reject() {
    let (key, other) = (kernel_key(), stranger_key());
    let keys = std::slice::from_ref(key.verifier());
    let note = key.sign_note("text\n");
    let with = |line: &str| format!("{note}{line}");
    let both = with(&other.sign_text("text\n"));
    assert_eq!(parse(&both).unwrap().verify(keys).unwrap(), [key.verifier()]);
    assert!(second_opinion(both.as_bytes(), &[key.verifier()]));
    // An unknown line may hold anything that is base64: post-quantum signatures are long.
    let unknown = with(&format!("\u{2014} pq.example/log {}\n", "AAAA".repeat(1080)));
    assert_eq!(parse(&unknown).unwrap().verify(keys).unwrap().len(), 1);
    // The same line rejects as soon as its key is known.
    let wrong = with(&other.sign_text("another text\n"));
    assert_eq!(parse(&wrong).unwrap().verify(keys).unwrap().len(), 1);
    let known = [key.verifier().clone(), other.verifier().clone()];
    let failing = NoteError::SignatureInvalid(other.verifier().name().to_string());
    assert_eq!(parse(&wrong).unwrap().verify(&known), Err(failing));
    assert!(!second_opinion(wrong.as_bytes(), &[key.verifier(), other.verifier()]));
    // The name or the id alone does not make a key known.
    let renamed = note.replace("kernel/1 ", "kernel/2 ");
    assert_eq!(parse(&renamed).unwrap().verify(keys), Err(NoteError::NoKnownSignature));
    // A signature of another length under a known (name, id).
    let line = key.sign_text("text\n");
    let blob = line.trim_end().rsplit_once(' ').unwrap().1;
    let long = note.replace(blob, &format!("{}AAAA", &blob[..blob.len() - 4]));
    assert!(matches!(parse(&long).unwrap().verify(keys), Err(NoteError::SignatureInvalid(_))));
    assert_eq!(parse(&note).unwrap().verify(&[]), Err(NoteError::NoKnownSignature));
}

#[test]
fn at_least_16_and_at_most_64_signatures() {
    let signers: Vec<SignerKey> = (0..=SIGNATURES_MAX as u8)
        .map(|n| SignerKey::from_seed(p(&format!("k{n}")), KeyType::Ed25519, &[n + 100; 32]).unwrap())
        .collect();
    let keys: Vec<VerifierKey> = signers.iter().map(|key| key.verifier().clone()).collect();
    let note = |count: usize| {
        let lines: String = signers[..count].iter().map(|key| key.sign_text("text\n")).collect();
        format!("text\n\n{lines}")
    };
    for count in [1, 16, 17, SIGNATURES_MAX] {
        assert_eq!(parse(&note(count)).unwrap().verify(&keys).unwrap().len(), count);
    }
    assert_eq!(parse(&note(SIGNATURES_MAX + 1)), Err(NoteError::TooManySignatures));
}

#[test]
fn vkeys() {
    let key = kernel_key();
    let vkey = key.verifier().to_string();
    assert_eq!(p::<VerifierKey>(&vkey), *key.verifier());
    let secret = key.to_secret_text();
    assert_eq!(SignerKey::from_secret_text(&secret).unwrap().verifier(), key.verifier());
    assert!(!format!("{key:?}").contains(&secret[secret.len() - 40..]), "Debug must not print the seed");
    let (name_id, base64) = vkey.rsplit_once('+').unwrap();
    let grammar = |error: &KeyError| matches!(error, KeyError::Grammar(_));
    for (what, text) in [
        ("nothing", String::new()),
        ("no plus", vkey.replace('+', "-")),
        ("no key", name_id.to_owned()),
        ("space", format!(" {vkey}")),
        ("line feed", format!("{vkey}\n")),
        ("no name", vkey.replacen("acme.example/kernel/1", "", 1)),
        ("short key", format!("{name_id}+{}", &base64[4..])),
        ("long key", format!("{name_id}+AAAA{base64}")),
    ] {
        assert!(text.parse::<VerifierKey>().is_err_and(|error| grammar(&error)), "{what}");
    }
    let id = key.verifier().id().to_string();
    for (what, text) in [
        ("another id", vkey.replacen(&id, "00000000", 1)),
        ("upper-case id", vkey.replacen(&id, &id.to_uppercase(), 1)),
        ("another name", vkey.replacen("kernel/1", "kernel/2", 1)),
        ("short id", vkey.replacen(&id, &id[1..], 1)),
    ] {
        assert_eq!(text.parse::<VerifierKey>(), Err(KeyError::KeyId), "{what}");
    }
    let ecdsa = format!("{name_id}+Ag{}", &base64[2..]);
    assert_eq!(ecdsa.parse::<VerifierKey>(), Err(KeyError::Type(2)));
}

// ZIP 215. `vectors/zip215` was computed with plain integers (see its README): points of small and mixed order,
// encodings that are not canonical, s at and above the order of the group.

#[derive(Debug)]
struct Zip215 {
    name: String,
    key: [u8; 32],
    signature: [u8; 64],
    message: Vec<u8>,
    valid: bool,
}

fn hex<const N: usize>(text: &str) -> [u8; N] {
    let bytes: Vec<u8> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn zip215_cases() -> Vec<Zip215> {
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/zip215/signatures.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&file).unwrap();
    let text = |case: &serde_json::Value, name: &str| case[name].as_str().unwrap().to_owned();
    cases
        .iter()
        .map(|case| Zip215 {
            name: text(case, "name"),
            key: hex(&text(case, "key")),
            signature: hex(&text(case, "signature")),
            message: text(case, "message").into_bytes(),
            valid: case["valid"].as_bool().unwrap(),
        })
        .collect()
}

#[test]
fn zip215_single_and_batch_agree_on_every_case() {
    let cases = zip215_cases();
    let keys: Vec<VerifierKey> = cases
        .iter()
        .map(|case| VerifierKey::new(p("zip215"), KeyType::Ed25519, &case.key).unwrap())
        .collect();
    let items: Vec<BatchItem<'_>> = cases
        .iter()
        .zip(&keys)
        .map(|(case, key)| BatchItem::new(key, &case.message, &case.signature))
        .collect();
    let mut random = Random::seeded("zip215_single_and_batch_agree_on_every_case", 17);
    let mut entropy = || -> [u8; 32] { std::array::from_fn(|_| random.next() as u8) };
    let valid: Vec<BatchItem<'_>> =
        items.iter().zip(&cases).filter(|(_, case)| case.valid).map(|(item, _)| *item).collect();
    for (case, item) in cases.iter().zip(&items) {
        assert_eq!(item.key.verify(item.message, item.signature), case.valid, "{}", case.name);
        assert_eq!(verify_batch(&[*item], &entropy()), [case.valid], "{}", case.name);
        assert_eq!(verify_batch(&[*item, *item], &entropy()), [case.valid; 2], "{}", case.name);
        // One bad signature among good ones, at every place of the batch.
        if !case.valid {
            for place in 0..=valid.len() {
                let mut batch = valid.clone();
                batch.insert(place, *item);
                let mut expected = vec![true; batch.len()];
                expected[place] = false;
                assert_eq!(verify_batch(&batch, &entropy()), expected, "{} at {place}", case.name);
            }
        }
    }
    assert_eq!(verify_batch(&items, &entropy()), cases.iter().map(|case| case.valid).collect::<Vec<_>>());
    assert_eq!(verify_batch(&valid, &[0; 32]), vec![true; valid.len()]);
    assert_eq!(verify_batch(&[], &[0; 32]), Vec::<bool>::new());
    println!("{} ZIP 215 cases, {} valid", cases.len(), valid.len());
    assert!(valid.len() >= 20 && cases.len() - valid.len() >= 20);
}

#[test]
fn keys_of_small_order_and_loose_encodings_are_no_keys() {
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/zip215/bad-keys.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&file).unwrap();
    for case in &cases {
        let key = hex(case["key"].as_str().unwrap());
        let made = VerifierKey::new(p("zip215"), KeyType::Ed25519, &key);
        assert_eq!(made, Err(KeyError::Weak), "{}", case["name"]);
    }
    println!("{} encodings refused as keys", cases.len());
    assert!(cases.len() >= 20);
}

#[test]
fn random_batches_find_exactly_the_changed_ones() {
    let signers = [kernel_key(), log_key(), stranger_key(), witness_key(1)];
    let mut random = Random::seeded("random_batches_find_exactly_the_changed_ones", 19);
    for _ in 0..60 {
        let count = 1 + random.below(40) as usize;
        let signed: Vec<(usize, Vec<u8>, [u8; 64], bool)> = (0..count)
            .map(|_| {
                let signer = random.below(4) as usize;
                let message: Vec<u8> = (0..random.below(80)).map(|_| random.next() as u8).collect();
                let mut signature = signers[signer].sign_bytes(&message);
                let fine = random.below(6) > 0;
                if !fine {
                    signature[random.below(64) as usize] ^= 1 << random.below(8);
                }
                (signer, message, signature, fine)
            })
            .collect();
        let items: Vec<BatchItem<'_>> = signed
            .iter()
            .map(|(signer, message, signature, _)| {
                BatchItem::new(signers[*signer].verifier(), message, signature)
            })
            .collect();
        let singles: Vec<bool> =
            items.iter().map(|item| item.key.verify(item.message, item.signature)).collect();
        assert_eq!(singles, signed.iter().map(|item| item.3).collect::<Vec<_>>());
        assert_eq!(verify_batch(&items, &std::array::from_fn(|_| random.next() as u8)), singles);
    }
}
