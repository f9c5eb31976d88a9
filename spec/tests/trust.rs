//! Whom to believe: checkpoints, cosignatures, trust files and receipts; `signed_note` and `tlog_tiles` as second
//! opinions on checkpoints.
#![allow(clippy::unwrap_used)]

mod common;

use common::honest::{Honest, LOG, log_key, operator_key, p, stranger_key, trust, trust_text, witness_key};
use common::{index, tampered};
use sift_spec::checkpoint::{Checkpoint, CheckpointError, cosign, parse_size, verify_cosignature};
use sift_spec::hash::EMPTY_ROOT;
use sift_spec::note::{KeyType, NOTE_BYTES_MAX, Note, NoteError, SignerKey};
use sift_spec::proof::{ProofError, TreeHead};
use sift_spec::receipt::{Receipt, ReceiptError};
use sift_spec::trust::{PolicyError, TrustError, TrustPolicy};
use sift_spec::types::TreeSize;

const ROOT: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

#[test]
fn checkpoint_grammar() {
    use CheckpointError as E;
    let other = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for good in [
        format!("log.example\n0\n{ROOT}\n"),
        format!("log.example\n1\n{other}\n"),
        format!("log.example\n9007199254740991\n{other}\nextension\n\u{2014} not a signature\n"),
    ] {
        assert_eq!(Checkpoint::parse(&good).unwrap().text(), good);
    }
    for (bad, error) in [
        (format!("log.example\n0\n{ROOT}"), E::Lines),
        ("log.example\n0\n".to_owned(), E::Lines),
        (String::new(), E::Lines),
        (format!("\n0\n{ROOT}\n"), E::Lines),
        (format!("log.example\n0\n{ROOT}\n\n"), E::Lines),
        (format!("log.example\n\n0\n{ROOT}\n"), E::Lines),
        (format!("log.example\n1\n{other}\nx\n\ny\n"), E::Lines),
        (format!("log example\n0\n{ROOT}\n"), E::Origin),
        (format!("log+example\n0\n{ROOT}\n"), E::Origin),
        (format!("sift/record@v1\n0\n{ROOT}\n"), E::Origin),
        (format!("log.example\n00\n{ROOT}\n"), E::Size),
        (format!("log.example\n01\n{other}\n"), E::Size),
        (format!("log.example\n+1\n{other}\n"), E::Size),
        (format!("log.example\n-1\n{other}\n"), E::Size),
        (format!("log.example\n1 \n{other}\n"), E::Size),
        (format!("log.example\n9007199254740992\n{other}\n"), E::Size),
        (format!("log.example\n99999999999999999999\n{other}\n"), E::Size),
        (format!("log.example\n1\n{}\n", &other[..43]), E::Root),
        (format!("log.example\n1\n{other} \n"), E::Root),
        (format!("log.example\n1\n{}\n", other.replace("A=", "B=")), E::Root),
        (format!("log.example\n1\n{}\n", &other[4..]), E::Root),
        (format!("log.example\n0\n{other}\n"), E::EmptyRoot),
        (format!("log.example\n1\n{other}\n{}\n", "x".repeat(8192)), E::TooLong),
    ] {
        assert_eq!(Checkpoint::parse(&bad), Err(error), "{bad:?}");
    }
    assert_eq!(
        Checkpoint::new(p("sift/x"), TreeHead { size: TreeSize::ZERO, root: EMPTY_ROOT }),
        Err(E::Origin)
    );
    for bad in ["", " 1", "1 ", "0x1", "1_0", "\u{661}"] {
        assert_eq!(parse_size(bad), None);
    }
}

#[test]
fn other_crates_read_our_checkpoints_and_we_theirs() {
    let log = Honest::new();
    let signed = log.cosigned();
    let key = signed_note::StandardVerifier::new(&log_key().verifier().to_string()).unwrap();
    let keys = signed_note::VerifierList::new(vec![Box::new(key)]);
    let note = signed_note::Note::from_bytes(signed.as_bytes()).unwrap();
    let (verified, unverified) = note.verify(&keys).unwrap();
    assert_eq!((verified.len(), unverified.len()), (1, 2));

    let theirs = tlog_tiles::Checkpoint::from_bytes(log.checkpoint().text().as_bytes()).unwrap();
    assert_eq!((theirs.origin(), theirs.size()), (LOG, log.size().get()));
    assert_eq!(theirs.hash().0, *log.head().root.as_bytes());
    assert_eq!(theirs.to_bytes(), log.checkpoint().text().into_bytes());

    let signer = signed_note::StandardSigner::new(&log_key().to_secret_text()).unwrap();
    let mut note = signed_note::Note::new(&theirs.to_bytes(), &[]).unwrap();
    note.add_sigs(&[&signer]).unwrap();
    let policy = TrustPolicy::of_log(log_key().verifier().clone(), None);
    assert_eq!(*policy.verify(&note.to_bytes()).unwrap().checkpoint(), log.checkpoint());
}

#[test]
fn cosignatures() {
    let log = Honest::new();
    let text = log.checkpoint().text();
    let key = witness_key(1);
    let line_of = |line: &str, check: &dyn Fn(&sift_spec::note::SignatureLine<'_>)| {
        let note = format!("{text}\n{line}");
        check(&Note::parse(note.as_bytes(), NOTE_BYTES_MAX).unwrap().signatures[0]);
    };
    for time in [0, 1, 1_764_000_000, i64::MAX as u64] {
        line_of(&cosign(&text, &key, time).unwrap(), &|line| {
            assert_eq!(line.signature.len(), 72);
            assert_eq!(verify_cosignature(&text, key.verifier(), line), Some(time));
            assert_eq!(verify_cosignature(&format!("{text}x\n"), key.verifier(), line), None);
            assert_eq!(verify_cosignature(&text, witness_key(2).verifier(), line), None);
            for at in 0..72 {
                let mut changed = line.clone();
                changed.signature[at] ^= 1;
                assert_eq!(verify_cosignature(&text, key.verifier(), &changed), None, "byte {at}");
            }
            let mut long = line.clone();
            long.signature.push(0);
            assert_eq!(verify_cosignature(&text, key.verifier(), &long), None);
        });
    }
    line_of(&cosign(&text, &key, 1 << 63).unwrap(), &|line| {
        assert_eq!(verify_cosignature(&text, key.verifier(), line), None, "beyond 2^63 - 1");
    });
    assert_eq!(cosign(&text, &log_key(), 1), None, "a log's key does not cosign");
    // The known form of C2SP tlog-cosignature: the timestamped message, not the checkpoint alone.
    let plain = SignerKey::from_seed(p("witness.example/w1"), KeyType::Cosignature, &[5; 32]).unwrap();
    line_of(&plain.sign_text(&text), &|line| {
        assert_eq!(verify_cosignature(&text, plain.verifier(), line), None);
    });
}

fn vkey(key: &SignerKey) -> String {
    key.verifier().to_string()
}

#[test]
fn trust_file_grammar() {
    let (log, operator) = (vkey(&log_key()), vkey(&operator_key()));
    let (one, two, three) = (vkey(&witness_key(1)), vkey(&witness_key(2)), vkey(&witness_key(3)));
    let witnesses = format!("witness a {one}\nwitness b {two}\nwitness c {three} https://w.example\n");
    let good = |text: String| {
        let parsed = TrustPolicy::parse(&text);
        assert!(parsed.is_ok(), "{text}\n{parsed:?}");
    };
    good(trust_text());
    good("quorum none\n".to_owned());
    good("quorum none".to_owned());
    good(format!("\t log\t{log}   https://log.example/ \t\n\n  # comment \u{1f6eb}\n\tquorum \t none\n"));
    good(format!("#sift:operator {operator}\nlog {log}\nquorum none\n"));
    good(format!("#sift:operator\t{operator}\t\nquorum none\n"));
    good(format!("# sift:operator nonsense\n#sift operator\n## x\nlog {log}\nquorum none\n"));
    good(format!("{witnesses}group g 2 a b c\ngroup h any g a\ngroup i all h g\nquorum i\n"));
    good(format!("quorum none\n{witnesses}"));
    good(format!("{witnesses}quorum a\n"));

    let other_name = format!("other{}", &log[log.find('+').unwrap()..]);
    for (what, text, line) in [
        ("carriage return", "quorum none\r\n".to_owned(), 1),
        ("carriage return in a comment", "# x\r\nquorum none\n".to_owned(), 1),
        ("form feed", "quorum\u{c}none\n".to_owned(), 1),
        ("nul", "# \0\nquorum none\n".to_owned(), 1),
        ("delete", "# \u{7f}\nquorum none\n".to_owned(), 1),
        ("two quorums", "quorum none\nquorum none\n".to_owned(), 2),
        ("two different quorums", format!("{witnesses}quorum a\nquorum none\n"), 5),
        ("quorum of nobody", "quorum a\n".to_owned(), 1),
        ("quorum before its witness", format!("quorum a\n{witnesses}"), 1),
        ("quorum of two", format!("{witnesses}quorum a b\n"), 4),
        ("quorum without a name", "quorum\n".to_owned(), 1),
        ("no-break space", format!("quorum\u{a0}none\nlog {log}\n"), 1),
        ("unknown word", "logs x\n".to_owned(), 1),
        ("upper case", format!("LOG {log}\nquorum none\n"), 1),
        ("a comment after a line", format!("log {log} https://x # y\nquorum none\n"), 1),
        ("log without a key", "log\nquorum none\n".to_owned(), 1),
        ("no vkey", "log log.example\nquorum none\n".to_owned(), 1),
        ("a witness's key for a log", format!("log {one}\nquorum none\n"), 1),
        ("a log's key for a witness", format!("witness a {log}\nquorum none\n"), 1),
        ("the same log twice", format!("log {log}\nlog {log}\nquorum none\n"), 2),
        ("witness twice", format!("witness a {one}\nwitness b {one}\nquorum none\n"), 2),
        ("name twice", format!("witness a {one}\nwitness a {two}\nquorum none\n"), 2),
        ("group by a witness's name", format!("{witnesses}group a any b\nquorum none\n"), 4),
        (
            "witness by a group's name",
            format!("witness a {one}\ngroup b any a\nwitness b {two}\nquorum none\n"),
            3,
        ),
        ("named none", format!("witness none {one}\nquorum none\n"), 1),
        ("group of nobody", format!("{witnesses}group g any\nquorum none\n"), 4),
        ("all of nobody", format!("{witnesses}group g all\nquorum none\n"), 4),
        ("group of unknown", format!("{witnesses}group g any d\nquorum none\n"), 4),
        ("group of itself", format!("{witnesses}group g any g\nquorum none\n"), 4),
        ("group of a later one", format!("group g any a\n{witnesses}quorum none\n"), 1),
        ("member twice", format!("{witnesses}group g 2 a a\nquorum none\n"), 4),
        ("threshold 0", format!("{witnesses}group g 0 a\nquorum none\n"), 4),
        ("threshold above", format!("{witnesses}group g 3 a b\nquorum none\n"), 4),
        ("threshold with sign", format!("{witnesses}group g +1 a b\nquorum none\n"), 4),
        ("threshold with zero", format!("{witnesses}group g 01 a b\nquorum none\n"), 4),
        ("threshold huge", format!("{witnesses}group g 99999999999999999999 a b\nquorum none\n"), 4),
        ("threshold word", format!("{witnesses}group g most a b\nquorum none\n"), 4),
        (
            "two operators",
            format!("#sift:operator {operator}\n#sift:operator {}\nquorum none\n", vkey(&stranger_key())),
            2,
        ),
        ("operator of type 0x04", format!("#sift:operator {one}\nquorum none\n"), 1),
        ("operator is the log", format!("log {log}\n#sift:operator {log}\nquorum none\n"), 2),
        ("log is the operator", format!("#sift:operator {log}\nlog {log}\nquorum none\n"), 2),
        ("operator without a key", "#sift:operator\nquorum none\n".to_owned(), 1),
        ("operator with more", format!("#sift:operator {operator} x\nquorum none\n"), 1),
        ("unknown directive", "#sift:opreator x\nquorum none\n".to_owned(), 1),
        ("directive in upper case", format!("#sift:OPERATOR {operator}\nquorum none\n"), 1),
    ] {
        match TrustPolicy::parse(&text) {
            Err(PolicyError::Line { line: at, .. }) => assert_eq!(at, line, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    // The same public key under another name has another key id, so it is not even a vkey.
    assert!(TrustPolicy::parse(&format!("log {other_name}\nquorum none\n")).is_err());
    let renamed = SignerKey::from_seed(p("other"), KeyType::Ed25519, &[1; 32]).unwrap();
    assert!(TrustPolicy::parse(&format!("log {log}\nlog {}\nquorum none\n", vkey(&renamed))).is_err());
    for text in ["", "# nothing\n", "log\n"] {
        assert!(TrustPolicy::parse(text).is_err());
    }
    assert_eq!(TrustPolicy::parse(&format!("log {log}\n")), Err(PolicyError::NoQuorum));
    // At least 32 of each kind; at most 256.
    let many = |count: u16| -> String {
        (0..count)
            .map(|n| {
                let mut seed = [77; 32];
                seed[..2].copy_from_slice(&n.to_be_bytes());
                let key = SignerKey::from_seed(p(&format!("w{n}")), KeyType::Cosignature, &seed).unwrap();
                format!("witness n{n} {}\n", vkey(&key))
            })
            .collect()
    };
    good(format!("{}quorum none\n", many(256)));
    assert!(TrustPolicy::parse(&format!("{}quorum none\n", many(257))).is_err());
}

/// A checkpoint signed by the log and by these witnesses.
fn signed_by(log: &Honest, witnesses: &[u8]) -> String {
    let text = log.checkpoint().text();
    let lines = witnesses.iter().map(|number| cosign(&text, &witness_key(*number), 1_764_000_000).unwrap());
    format!("{}{}", log.checkpoint().sign(&log_key()), lines.collect::<String>())
}

#[test]
fn quorums() {
    let log = Honest::new();
    let mut file = format!("log {}\n", vkey(&log_key()));
    for number in 1..=5 {
        file += &format!("witness w{number} {}\n", vkey(&witness_key(number)));
    }
    file += "group three 3 w1 w2 w3 w4 w5\ngroup pair all w1 w2\ngroup nested any pair w5\ngroup both all three nested\n";
    let mut checked = 0;
    for (quorum, holds) in [
        ("none", &(|_: &[u8]| true) as &dyn Fn(&[u8]) -> bool),
        ("w3", &|set| set.contains(&3)),
        ("three", &|set| set.len() >= 3),
        ("pair", &|set| set.contains(&1) && set.contains(&2)),
        ("nested", &|set| set.contains(&5) || (set.contains(&1) && set.contains(&2))),
        ("both", &|set| set.len() >= 3 && (set.contains(&5) || (set.contains(&1) && set.contains(&2)))),
    ] {
        let policy = TrustPolicy::parse(&format!("{file}quorum {quorum}\n")).unwrap();
        for set in 0_u8..32 {
            let set: Vec<u8> = (1..=5).filter(|n| set >> (n - 1) & 1 == 1).collect();
            let verdict = policy.verify(signed_by(&log, &set).as_bytes());
            if holds(&set) {
                assert_eq!(verdict.unwrap().witnesses().len(), set.len());
            } else {
                let expected = TrustError::NotWitnessed { quorum: quorum.to_owned(), have: set.len() };
                assert_eq!(verdict, Err(expected));
            }
            checked += 1;
        }
    }
    println!("{checked} quorums and sets of witnesses");
}

#[test]
fn a_checkpoint_is_believed_only_from_a_listed_log() {
    let log = Honest::new();
    let policy = trust();
    let believed = policy.verify(log.cosigned().as_bytes()).unwrap();
    assert_eq!(believed.log(), log_key().verifier());
    assert_eq!(believed.witnesses()[0], ("one".to_owned(), 1_764_000_011));

    // Another origin, signed by the listed log's key; the listed origin, signed by another key.
    let elsewhere = Checkpoint::new(p("other.example"), log.head()).unwrap();
    let unknown = |note: String| matches!(policy.verify(note.as_bytes()), Err(TrustError::UnknownLog(_)));
    assert!(unknown(elsewhere.sign(&log_key())));
    let same_name = SignerKey::from_seed(p(LOG), KeyType::Ed25519, &[99; 32]).unwrap();
    assert!(unknown(log.checkpoint().sign(&same_name)));
    assert!(unknown(log.checkpoint().sign(&operator_key())));
    // The listed key's line fails: rejected even when everything else is fine.
    let cosigned = log.cosigned();
    let (text, lines) = cosigned.split_once("\n\n").unwrap();
    let wrong = log_key().sign_text("another text\n");
    let rest: String = lines.split_inclusive('\n').skip(1).collect();
    let invalid = |note: String| {
        matches!(policy.verify(note.as_bytes()), Err(TrustError::Note(NoteError::SignatureInvalid(_))))
    };
    assert!(invalid(format!("{text}\n\n{wrong}{rest}")));
    // So does a known witness's, whether or not the quorum needs it.
    let good_one = cosign(&format!("{text}\n"), &witness_key(1), 5).unwrap();
    let bad_two = cosign("another text\n", &witness_key(2), 5).unwrap();
    let log_line = log_key().sign_text(&format!("{text}\n"));
    assert!(policy.verify(format!("{text}\n\n{log_line}{good_one}").as_bytes()).is_ok());
    assert!(invalid(format!("{text}\n\n{log_line}{good_one}{bad_two}")));
    // And another listed log's line, though that log has another origin.
    let second = SignerKey::from_seed(p("second.example"), KeyType::Ed25519, &[98; 32]).unwrap();
    let two_logs = format!("log {}\nlog {}\nquorum none\n", vkey(&log_key()), vkey(&second));
    let two_logs = TrustPolicy::parse(&two_logs).unwrap();
    let both = format!("{text}\n\n{log_line}{}", second.sign_text(&format!("{text}\n")));
    assert!(two_logs.verify(both.as_bytes()).is_ok());
    let failing = format!("{text}\n\n{log_line}{}", second.sign_text("another text\n"));
    assert!(two_logs.verify(failing.as_bytes()).is_err());
    assert!(
        two_logs.verify(format!("{text}\n\n{}", second.sign_text(&format!("{text}\n"))).as_bytes()).is_err()
    );
    // Not a checkpoint.
    let note = log_key().sign_note("hello\n");
    assert!(matches!(policy.verify(note.as_bytes()), Err(TrustError::Checkpoint(_))));

    let good = log.cosigned().into_bytes();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 7);
        // A change in a witness's name or id makes its line unknown; the other one still makes the quorum.
        if let Ok(believed) = policy.verify(&bytes) {
            assert_eq!(*believed.checkpoint(), log.checkpoint(), "byte {at}");
            assert_eq!(believed.witnesses().len(), 1, "byte {at}");
        }
        assert!(policy.verify(&good[..at]).is_err() || good[at - 1] == b'\n', "cut at {at}");
    }
}

#[test]
fn receipt_grammar() {
    let log = Honest::new();
    let good = log.receipt(4).to_string();
    assert_eq!(Receipt::parse(good.as_bytes()).unwrap().to_string(), good);
    let with_extra = good.replacen("\nindex", "\nextra aGVsbG8=\nindex", 1);
    let receipt = Receipt::parse(with_extra.as_bytes()).unwrap();
    assert_eq!((receipt.extra.as_deref(), receipt.to_string()), (Some(&b"hello"[..]), with_extra.clone()));
    receipt.verify(log.entries[4].leaf(), &trust()).unwrap();
    let hash = format!("{}\n", log.head().root);
    let header = "c2sp.org/tlog-proof@v1\n";
    let (_, rest) = good.split_once('\n').unwrap();
    let (_, checkpoint) = good.split_once("\n\n").unwrap();
    let largest = format!("{header}index 9007199254740991\n{}\n{checkpoint}", hash.repeat(64));
    assert!(Receipt::parse(largest.as_bytes()).is_ok());
    for (what, text) in [
        ("nothing", String::new()),
        ("another header", good.replacen("@v1", "@v2", 1)),
        ("no header", rest.to_owned()),
        ("space in the header", good.replacen("@v1", "@v1 ", 1)),
        ("no index", format!("{header}\n{checkpoint}")),
        ("index with zero", good.replacen("index 4", "index 04", 1)),
        ("index with sign", good.replacen("index 4", "index +4", 1)),
        ("index with two spaces", good.replacen("index 4", "index  4", 1)),
        ("index in upper case", good.replacen("index 4", "Index 4", 1)),
        ("index of 2^53", good.replacen("index 4", "index 9007199254740992", 1)),
        ("index twice", good.replacen("index 4", "index 4\nindex 4", 1)),
        ("extra after the index", good.replacen("index 4\n", "index 4\nextra aGVsbG8=\n", 1)),
        ("extra twice", with_extra.replacen("extra", "extra aGVsbG8=\nextra", 1)),
        ("extra not base64", with_extra.replacen("aGVsbG8=", "aGVsbG8", 1)),
        ("extra with loose bits", with_extra.replacen("aGVsbG8=", "aGVsbG9=", 1)),
        ("extra without a space", with_extra.replacen("extra ", "extra", 1)),
        ("65 hashes", format!("{header}index 4\n{}\n{checkpoint}", hash.repeat(65))),
        ("short hash", good.replacen("=\n", "\n", 1)),
        ("space after a hash", good.replacen("=\n", "= \n", 1)),
        ("carriage returns", good.replace('\n', "\r\n")),
        ("no empty line", format!("{header}index 4\n{checkpoint}")),
        ("a word among the hashes", format!("{header}index 4\nword\n\n{checkpoint}")),
        ("not a receipt", log.cosigned()),
    ] {
        assert!(matches!(Receipt::parse(text.as_bytes()), Err(ReceiptError::Grammar { .. })), "{what}");
    }
    let mut latin1 = good.into_bytes();
    latin1[3] = 0xe9;
    assert!(Receipt::parse(&latin1).is_err());
    assert!(Receipt::parse(&vec![b'x'; NOTE_BYTES_MAX + 1]).is_err());
}

#[test]
fn receipts_of_every_entry_and_every_change() {
    let log = Honest::new();
    let policy = trust();
    let mut refused = 0;
    for at in 0..log.entries.len() {
        let leaf = log.entries[at].leaf();
        let receipt = log.receipt(at);
        let inclusion = receipt.verify(leaf, &policy).unwrap();
        assert_eq!((inclusion.index(), inclusion.leaf()), (index(at as u64), leaf));
        for proof in tampered(&receipt.proof) {
            let verdict = Receipt { proof, ..receipt.clone() }.verify(leaf, &policy);
            assert!(matches!(verdict, Err(ReceiptError::Inclusion(_))));
            refused += 1;
        }
        for other in (0..log.entries.len() + 2).filter(|other| *other != at) {
            let moved = Receipt { index: index(other as u64), ..receipt.clone() };
            assert!(moved.verify(leaf, &policy).is_err());
            if let Some(entry) = log.entries.get(other) {
                assert_eq!(
                    receipt.verify(entry.leaf(), &policy),
                    Err(ReceiptError::Inclusion(ProofError::Root))
                );
            }
            refused += 2;
        }
        let text = receipt.to_string().into_bytes();
        for byte in 0..text.len() {
            let mut bytes = text.clone();
            bytes[byte] ^= 1 << (byte % 7);
            if let Ok(receipt) = Receipt::parse(&bytes)
                && let Ok(inclusion) = receipt.verify(leaf, &policy)
            {
                // Only a witness's name or id can have changed.
                assert_eq!(inclusion.checkpoint().witnesses().len(), 1, "byte {byte}");
            } else {
                refused += 1;
            }
        }
    }
    println!("{refused} changed receipts refused");
}

#[test]
fn a_trust_file_has_at_most_a_mebibyte() {
    let padded = |size: usize| {
        let text = "quorum none\n";
        format!("{text}#{}", "x".repeat(size - text.len() - 1))
    };
    let most = sift_spec::trust::TRUST_BYTES_MAX;
    assert!(TrustPolicy::parse(&padded(most)).is_ok());
    let error = TrustPolicy::parse(&padded(most + 1)).unwrap_err();
    assert_eq!(error, sift_spec::trust::PolicyError::TooLarge);
}
