//! What an implementation says to a vector of each folder: accepted, or refused with the code in its name.

use std::collections::BTreeMap;

use crate::common::honest::{Honest, LOG, kernel_key, log_key, objects, operator_key, p, trust};
use crate::common::index;
use sift_spec::bundle::Bundle;
use sift_spec::chain::{OperatorHead, RunHead};
use sift_spec::entry::{Content, Entry};
use sift_spec::evidence::Pack;
use sift_spec::keys::KeyRing;
use sift_spec::note::{NOTE_BYTES_MAX, Note, VerifierKey};
use sift_spec::payload::Object;
use sift_spec::proof::{Proof, TreeHead, verify_consistency, verify_inclusion, verify_multi_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::record::{Body, Delegation, OperatorRecord, Record, Statement};
use sift_spec::tile::{TilePath, parse_entries};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, LeafIndex, TreeSize};

// What an implementation does with a vector of each folder: `Err` is the refusal's code.

/// `SignatureInvalid("x")` is `signature-invalid`, `Note(Control(4))` is `note-control`.
fn code(error: &impl std::fmt::Debug) -> String {
    let debug = format!("{error:?}");
    let mut words = Vec::new();
    for part in debug.split(['(', ' ', '{']) {
        let name = part.trim_end_matches(')');
        let value = ["KeyName", "AgentName", "LeafIndex", "TreeSize", "Seq", "UnixMillis"].contains(&name);
        if value
            || !name.starts_with(|c: char| c.is_ascii_uppercase())
            || !name.chars().all(char::is_alphanumeric)
        {
            break;
        }
        for (at, c) in name.char_indices() {
            if c.is_ascii_uppercase() && (at > 0 || !words.is_empty()) {
                words.push('-');
            }
            words.push(c.to_ascii_lowercase());
        }
    }
    words.into_iter().collect()
}

pub(crate) fn check(object: &str, bytes: &[u8]) -> Result<(), String> {
    let text = || std::str::from_utf8(bytes).map_err(|_| "not-utf8".to_owned());
    let line = || text()?.strip_suffix('\n').ok_or_else(|| "no-line-feed".to_owned());
    match object {
        "note" => {
            let note = Note::parse(bytes, NOTE_BYTES_MAX).map_err(|e| code(&e))?;
            note.verify(&[kernel_key().verifier().clone()]).map_err(|e| code(&e)).map(drop)
        }
        "vkey" => line()?.parse::<VerifierKey>().map_err(|e| code(&e)).map(drop),
        "record" => Record::parse(text()?).map_err(|e| code(&e)).map(drop),
        "operator" => OperatorRecord::parse(text()?).map_err(|e| code(&e)).map(drop),
        "delegation" => Delegation::parse(text()?).map_err(|e| code(&e)).map(drop),
        "approval" => Statement::parse(text()?).map_err(|e| code(&e)).map(drop),
        "entry" => {
            let entry = Entry::parse(bytes.to_vec()).map_err(|e| code(&e))?;
            let key = match entry.content() {
                Content::Run(_) => kernel_key(),
                Content::Operator(_) => operator_key(),
            };
            entry.verify(key.verifier()).map_err(|e| code(&e))
        }
        "object" => {
            let object = Object::from_bytes(bytes.to_vec()).map_err(|e| code(&e))?;
            object.check(&objects()[2].1).map_err(|e| code(&e))
        }
        "checkpoint" => {
            let policy = TrustPolicy::of_log(log_key().verifier().clone(), None);
            policy.verify(bytes).map_err(|e| code(&e)).map(drop)
        }
        "cosignature" => trust().verify(bytes).map_err(|e| code(&e)).map(drop),
        "receipt" => {
            let receipt = Receipt::parse(bytes).map_err(|e| code(&e))?;
            receipt.verify(Honest::new().record(0).leaf(), &trust()).map_err(|e| code(&e)).map(drop)
        }
        "trust" => TrustPolicy::parse(text()?).map_err(|e| code(&e)).map(drop),
        "pack" => Pack::read(bytes).map_err(|e| code(&e)).map(drop),
        "bundle" => Bundle::decode(bytes).map_err(|e| code(&e)).map(drop),
        "tile-path" => TilePath::parse(line()?).map(drop).ok_or_else(|| "grammar".to_owned()),
        "inclusion" | "consistency" | "multi-inclusion" => check_proof(object, bytes),
        "log" => check_log(bytes),
        other => panic!("no check for {other}"),
    }
}

fn check_proof(object: &str, bytes: &[u8]) -> Result<(), String> {
    let case: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    let number = |value: &serde_json::Value| value.as_u64().ok_or_else(|| "not-an-integer".to_owned());
    let hash = |value: &serde_json::Value| value.as_str().unwrap_or("").parse::<Hash>().map_err(|e| code(&e));
    let head = |size: &str, root: &str| {
        let size = TreeSize::new(number(&case[size])?).map_err(|e| code(&e))?;
        Ok::<_, String>(TreeHead { size, root: hash(&case[root])? })
    };
    let leaf_index = |value: &serde_json::Value| LeafIndex::new(number(value)?).map_err(|e| code(&e));
    let proof = case["proof"].as_array().unwrap().iter().map(hash).collect::<Result<_, _>>()?;
    let proof = Proof(proof);
    match object {
        "inclusion" => {
            let (leaf, at) = (hash(&case["leaf"])?, leaf_index(&case["index"])?);
            verify_inclusion(&leaf, at, &head("size", "root")?, &proof).map_err(|e| code(&e))
        }
        "consistency" => {
            let (old, new) = (head("old_size", "old_root")?, head("new_size", "new_root")?);
            verify_consistency(&old, &new, &proof).map_err(|e| code(&e))
        }
        _ => {
            let leaves = case["leaves"].as_array().unwrap().iter();
            let leaves = leaves.map(|leaf| Ok((leaf_index(&leaf["index"])?, hash(&leaf["leaf"])?)));
            let leaves = leaves.collect::<Result<Vec<_>, String>>()?;
            verify_multi_inclusion(&leaves, &head("size", "root")?, &proof).map_err(|e| code(&e))
        }
    }
}

/// Entries of a log from index 0, as SPEC §11.3 checks them: grammar, keys, signatures, chains.
fn check_log(bytes: &[u8]) -> Result<(), String> {
    let log = p(LOG);
    let mut ring = KeyRing::new(p(LOG), operator_key().verifier().clone());
    let mut operator = OperatorHead::default();
    let mut runs = BTreeMap::new();
    for (at, bytes) in parse_entries(bytes, 256).map_err(|e| code(&e))?.into_iter().enumerate() {
        let at = index(at as u64);
        let entry = Entry::parse(bytes.to_vec()).map_err(|e| code(&e))?;
        match entry.content() {
            Content::Operator(record) => {
                entry.verify(ring.operator()).map_err(|e| code(&e))?;
                operator.extend(record, entry.leaf(), &log).map_err(|e| code(&e))?;
                ring.apply(at, &record.body).map_err(|e| code(&e))?;
            }
            Content::Run(record) => {
                let key = ring.kernel(entry.signer(), entry.key_id(), &record.agent, at);
                entry.verify(key.map_err(|e| code(&e))?).map_err(|e| code(&e))?;
                match runs.get_mut(&record.run) {
                    None => {
                        let head = RunHead::open(record, entry.signer(), entry.leaf(), &log);
                        runs.insert(record.run, head.map_err(|e| code(&e))?);
                        if let Body::Open(open) = &record.body {
                            ring.published(&open.policy).ok_or("policy-not-published")?;
                        }
                    }
                    Some(head) => {
                        let head: &mut RunHead = head;
                        head.extend(record, entry.signer(), entry.leaf()).map_err(|e| code(&e))?;
                    }
                }
            }
        }
    }
    Ok(())
}
