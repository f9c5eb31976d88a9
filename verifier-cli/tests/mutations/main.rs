//! Every way to change a rich pack, counted: `cargo test --workspace --test mutations -- --nocapture` prints the table.
//! `SIFT_FAULTS=all` tries every byte where the usual run tries some; `SIFT_MUTATIONS=FOLDER` keeps every pack there, for
//! another verifier to judge (spec/second-opinion/README.md).
//!
//! What a mutation may do is be refused, or verify with other claims where that is no lie: each such place is listed with
//! its reason, and a mutation that verifies anywhere else fails the test. None verifies with the claims of the honest pack.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod resigned;
mod rich;
mod table;

use std::collections::BTreeMap;

use common::{Sealed, index, log_key};
use rich::{rich, rich_pack};
use sift_spec::evidence::Pack;
use sift_spec::proof::{TreeHead, prove_inclusion, prove_multi_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, TreeSize};
use sift_verify::{Verdict, proof};
use table::{Table, all, judge};

#[test]
fn the_rich_pack_has_something_of_everything() {
    let report = judge(&rich_pack().write().unwrap());
    assert_eq!(report.verdict(), Verdict::Verified, "{}", sift_verify::text::render(&report));
    let claims: Vec<&str> = report.verified().iter().map(|claim| claim.what).collect();
    let every = [
        "checkpoint",
        "inclusion",
        "authority",
        "signatures",
        "chain",
        "payloads",
        "bundle",
        "decisions",
        "approvals",
        "budget",
        "outcomes",
        "delegations",
    ];
    assert_eq!(claims, every);
}

/// Who holds the file alone.
#[test]
fn the_file() {
    let bytes = rich_pack().write().unwrap();
    let mut table = Table::new("the file, by whoever holds it");
    let masks: &[u8] = if all() { &[0x01, 0x20, 0x80, 0xff] } else { &[0x01] };
    let flips = (0..bytes.len()).flat_map(|at| masks.iter().map(move |mask| (at, *mask)));
    table.try_packs("a byte is flipped", flips, |(at, mask)| {
        let mut changed = bytes.clone();
        changed[at] ^= mask;
        Some(changed)
    });
    table.try_packs("it ends early", 0..bytes.len(), |length| Some(bytes[..length].to_vec()));
    table.try_packs("bytes follow", 0..=255_u8, |byte| Some([&bytes[..], &[byte]].concat()));
    table.try_packs("it stands twice", 0..1, |_| Some(bytes.repeat(2)));
    table.done(&[]);
}

/// Who writes the archive anew around a change.
#[test]
fn the_members() {
    let pack = rich_pack();
    let mut table = Table::new("members, with the archive written anew");
    let step = if all() { 1 } else { 29 };
    let indices: Vec<_> = pack.entries.keys().copied().collect();
    let bytes = indices.iter().flat_map(|at| (0..pack.entries[at].len()).map(move |byte| (*at, byte)));
    table.try_packs("a byte of an entry is flipped", bytes.step_by(step), |(at, byte)| {
        let mut changed = pack.clone();
        changed.entries.get_mut(&at)?[byte] ^= 1;
        changed.write().ok()
    });
    table.try_packs("an entry is dropped", &indices, |at| {
        let mut changed = pack.clone();
        changed.entries.remove(at);
        changed.write().ok()
    });
    let pairs = indices.iter().enumerate().flat_map(|(n, a)| indices[n + 1..].iter().map(move |b| (*a, *b)));
    table.try_packs(
        "two entries change places",
        pairs.clone().step_by(if all() { 1 } else { 5 }),
        |(a, b)| {
            let mut changed = pack.clone();
            let (first, second) = (pack.entries[&a].clone(), pack.entries[&b].clone());
            changed.entries.insert(a, second);
            changed.entries.insert(b, first);
            changed.write().ok()
        },
    );
    table.try_packs(
        "an entry stands at another's place",
        pairs.step_by(if all() { 1 } else { 5 }),
        |(a, b)| {
            let mut changed = pack.clone();
            changed.entries.insert(b, pack.entries[&a].clone());
            changed.write().ok()
        },
    );
    table.try_packs("a byte of the checkpoint is flipped", 0..pack.checkpoint.len(), |at| {
        let mut note = pack.checkpoint.clone().into_bytes();
        note[at] ^= 1;
        Pack { checkpoint: String::from_utf8(note).ok()?, ..pack.clone() }.write().ok()
    });
    table.try_packs("a hash of the proof is dropped", 0..pack.proof.0.len(), |at| {
        let mut changed = pack.clone();
        changed.proof.0.remove(at);
        changed.write().ok()
    });
    table.try_packs("a hash of the proof stands twice", 0..pack.proof.0.len(), |at| {
        let mut changed = pack.clone();
        changed.proof.0.insert(at, pack.proof.0[at]);
        changed.write().ok()
    });
    table.try_packs("a hash of the proof is another", 0..pack.proof.0.len(), |at| {
        let mut changed = pack.clone();
        changed.proof.0[at] = Hash::from_bytes([at as u8; 32]);
        changed.write().ok()
    });
    let objects: Vec<Hash> = pack.objects.keys().copied().collect();
    table.try_packs("a payload is changed", &objects, |digest| {
        let mut changed = pack.clone();
        *changed.objects.get_mut(digest)?.last_mut()? ^= 1;
        changed.write().ok()
    });
    let pairs = objects.iter().enumerate().flat_map(|(n, a)| objects[n + 1..].iter().map(move |b| (*a, *b)));
    table.try_packs("two payloads change places", pairs.step_by(if all() { 1 } else { 7 }), |(a, b)| {
        let mut changed = pack.clone();
        let (first, second) = (pack.objects[&a].clone(), pack.objects[&b].clone());
        changed.objects.insert(a, second);
        changed.objects.insert(b, first);
        changed.write().ok()
    });
    table.try_packs("a payload is withheld", &objects, |digest| {
        let mut changed = pack.clone();
        changed.objects.remove(digest);
        changed.write().ok()
    });
    let bundle = *pack.bundles.keys().next().unwrap();
    table.try_packs("the bundle is withheld", 0..1, |_| {
        Pack { bundles: BTreeMap::new(), ..pack.clone() }.write().ok()
    });
    let bytes = (0..pack.bundles[&bundle].len()).step_by(if all() { 1 } else { 7 });
    table.try_packs("a byte of the bundle is flipped", bytes, |at| {
        let mut changed = pack.clone();
        changed.bundles.get_mut(&bundle)?[at] ^= 1;
        changed.write().ok()
    });
    table.done(&[
        ("a payload is withheld", "what is withheld is said, and what rests on it is not claimed"),
        ("the bundle is withheld", "that is said, and neither decisions nor budget are claimed"),
    ]);
}

/// Who has the log, and makes a pack of it as it suits them.
#[test]
fn the_log() {
    let scenario = rich();
    let sealed = scenario.seal();
    let mut table = Table::new("packs that anybody can make of the log");
    let made = |sealed: &Sealed, checkpoint: Option<String>| {
        let pack = sealed.pack(&scenario);
        Pack { checkpoint: checkpoint.unwrap_or(pack.checkpoint.clone()), ..pack }.write().ok()
    };
    table.try_packs("an entry is left out, with a proof for the others", 0..sealed.in_pack.len(), |at| {
        let mut changed = sealed.clone();
        changed.in_pack.remove(at);
        made(&changed, None)
    });
    table.try_packs("entries from one on are left out, with a proof", 1..sealed.in_pack.len(), |from| {
        let mut changed = sealed.clone();
        changed.in_pack.truncate(from);
        made(&changed, None)
    });
    let (honest_entries, tree) = (sealed.entries.len(), sealed.tree());
    table.try_packs("the checkpoint is one of another size", 0..honest_entries, |size| {
        let size = TreeSize::new(size as u64).unwrap();
        let head = TreeHead { size, root: tree.root(size).unwrap() };
        made(&sealed, Some(common::checkpoint(head, &log_key())))
    });
    table.try_packs("the checkpoint is that of another log of the same name", 0..1, |_| {
        made(&sealed, Some(common::kernel::honest().seal().checkpoint()))
    });
    table.try_packs("the log has grown, with a proof", 0..1, |_| {
        let mut changed = sealed.clone();
        changed.entries.push(b"somebody's".to_vec());
        made(&changed, None)
    });
    table.try_packs("entries of another run's pack, under this one's name", 0..1, |_| {
        let other = common::kernel::honest();
        Pack { run: common::run_id(3), ..other.pack() }.write().ok()
    });
    // The log's own key: another order of the same entries, or one of them twice, is a tree that it can sign.
    let moved = |from: usize, to: usize| {
        let mut changed = sealed.clone();
        let entry = changed.entries.remove(from);
        changed.entries.insert(to, entry);
        let entries: Vec<&Vec<u8>> = sealed.in_pack.iter().map(|at| &sealed.entries[*at]).collect();
        let is_in = |at: &usize| entries.contains(&&changed.entries[*at]);
        changed.in_pack = (0..changed.entries.len()).filter(is_in).collect();
        changed
    };
    table.try_packs("the log signs two neighbours the other way round", 1..honest_entries, |at| {
        made(&moved(at - 1, at), None)
    });
    table.try_packs("the log signs an entry at its end", 0..honest_entries - 1, |at| {
        made(&moved(at, honest_entries - 1), None)
    });
    table.try_packs("the log signs an entry twice", 0..honest_entries, |at| {
        let mut changed = sealed.clone();
        changed.entries.push(sealed.entries[at].clone());
        changed.in_pack.push(honest_entries);
        made(&changed, None)
    });
    let proof_of = |indices: &[usize]| {
        let indices: Vec<_> = indices.iter().map(|at| index(*at)).collect();
        prove_multi_inclusion(&indices, tree.size(), &tree).unwrap()
    };
    table.try_packs("the proof is one for other entries", 0..honest_entries, |at| {
        Pack { proof: proof_of(&[at]), ..rich_pack() }.write().ok()
    });
    table.done(&[
        (
            "an entry is left out, with a proof for the others",
            "of the operator's entries those that nothing rests on may be left out: that no key was revoked is then said to be unproven",
        ),
        (
            "entries from one on are left out, with a proof",
            "the operator's entries behind the run may be left out: that no key was revoked is then said to be unproven",
        ),
        (
            "the log signs two neighbours the other way round",
            "the run's records still stand in their order, and behind what they rest on",
        ),
        (
            "the log signs an entry at its end",
            "the close alone may come later, and an entry that is nobody's here",
        ),
        ("the log has grown, with a proof", "the same run under a later checkpoint of its log"),
    ]);
}

/// Whom the reader believes.
#[test]
fn the_trust() {
    let bytes = rich_pack().write().unwrap();
    let mut table = Table::new("other trust");
    let key =
        |name: &str, seed| common::key(name, sift_spec::note::KeyType::Ed25519, seed).verifier().to_string();
    let text = common::trust_text();
    let others = [
        text.replace(&log_key().verifier().to_string(), &key(common::LOG, 99)),
        text.replace(&log_key().verifier().to_string(), &key("other.example/log", 99)),
        text.replace(&common::operator_key().verifier().to_string(), &key("operator.example", 99)),
        text.replace(&common::operator_key().verifier().to_string(), &key("other.example", 99)),
        text.lines().filter(|line| !line.starts_with("#sift")).map(|line| format!("{line}\n")).collect(),
    ];
    let policies =
        others.iter().map(|text| TrustPolicy::parse(text).unwrap()).chain([common::witnessed_trust()]);
    let policies: Vec<TrustPolicy> = policies.collect();
    table.try_reports("another trust file", &policies, |trust| {
        Some(sift_verify::run::verify(&bytes, trust, &sift_verify::run::Options::default()))
    });
    table.done(&[]);
}

/// An entry and its receipt.
#[test]
fn the_receipts() {
    let sealed = rich().seal();
    let tree = sealed.tree();
    let receipt = |at: usize| {
        let proof = prove_inclusion(index(at), tree.size(), &tree).unwrap();
        Receipt { extra: None, index: index(at), proof, checkpoint: sealed.checkpoint() }
            .to_string()
            .into_bytes()
    };
    let trust = common::trust();
    let mut table = Table::new("an entry and its receipt");
    let (entry, honest) = (&sealed.entries[0], receipt(0));
    let report = |entry: &[u8], receipt: &[u8]| Some(proof::verify(entry, receipt, &trust));
    table.honest = proof::verify(entry, &honest, &trust).verified().to_vec();
    let step = if all() { 1 } else { 51 };
    let values = |bytes: &[u8]| {
        let values = (0..bytes.len()).flat_map(|at| (1..=255_u8).map(move |mask| (at, mask)));
        values.step_by(step).collect::<Vec<_>>()
    };
    let flip = |bytes: &[u8], at: usize, mask: u8| {
        let mut changed = bytes.to_vec();
        changed[at] ^= mask;
        changed
    };
    table.try_reports("a byte of the entry is another", values(entry), |(at, mask)| {
        report(&flip(entry, at, mask), &honest)
    });
    table.try_reports("a byte of the receipt is another", values(&honest), |(at, mask)| {
        report(entry, &flip(&honest, at, mask))
    });
    table.try_reports("the entry ends early", 0..entry.len(), |length| report(&entry[..length], &honest));
    table.try_reports("the receipt ends early", 0..honest.len(), |length| report(entry, &honest[..length]));
    table.try_reports("a byte follows the receipt", 0..=255_u8, |byte| {
        report(entry, &[&honest[..], &[byte]].concat())
    });
    let pairs = (0..sealed.entries.len()).flat_map(|a| (0..sealed.entries.len()).map(move |b| (a, b)));
    table.try_reports("the receipt of another entry", pairs.filter(|(a, b)| a != b), |(a, b)| {
        report(&sealed.entries[a], &receipt(b))
    });
    table.done(&[]);
}
