//! The worked examples of SPEC.md: each block is what the code prints, and is parsed and verified again from the
//! text of SPEC.md alone. `SIFT_WRITE=1 cargo test -p sift-spec --test examples` writes them anew.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::honest::{
    Honest, approver_key, bundle, delegation, kernel_key, log_key, objects, p, run, stranger_key, trust_text,
};
use common::index;
use sift_spec::bundle::Bundle;
use sift_spec::chain::{OperatorHead, RunHead};
use sift_spec::checkpoint::Checkpoint;
use sift_spec::entry::{Content, Entry};
use sift_spec::evidence::Pack;
use sift_spec::keys::KeyRing;
use sift_spec::note::{NOTE_BYTES_MAX, Note, VerifierKey};
use sift_spec::payload::{Commitment, Object};
use sift_spec::receipt::Receipt;
use sift_spec::record::{Body, Kind, OperatorBody, SignedDelegation, Statement};
use sift_spec::trust::TrustPolicy;

const SPEC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/SPEC.md");

/// What stands between the fences of each marked block, in the order of SPEC.md.
fn blocks(spec: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    for part in spec.split("```text example-").skip(1) {
        let (name, rest) = part.split_once('\n').unwrap();
        let end = if rest.starts_with("```") { 0 } else { rest.find("\n```").unwrap() + 1 };
        blocks.push((name.to_owned(), rest[..end].to_owned()));
    }
    blocks
}

/// What the code prints.
fn printed() -> BTreeMap<&'static str, String> {
    let log = Honest::new();
    let entry = |at: usize| String::from_utf8(log.entries[at].bytes().to_vec()).unwrap();
    let record = |seq: usize| entry(log.run_start + seq);
    let pack = log.pack().write().unwrap();
    let member = |name: &str| {
        let mut archive = zip::ZipArchive::new(std::io::Cursor::new(&pack)).unwrap();
        std::io::read_to_string(archive.by_name(name).unwrap()).unwrap()
    };
    let held = log.record(3).record().unwrap();
    let Body::Intent(intent) = &held.body else { panic!("seq 3 is the held intent") };
    let action =
        serde_json::json!({"agent": held.agent, "call": intent.call, "run": held.run, "seq": held.seq});
    let action = canonical(&action);
    let digest = sift_spec::hash::action_digest(&action);
    assert_eq!(held.action(), Some(digest));
    BTreeMap::from([
        ("note", kernel_key().sign_note("An example of two paragraphs.\n\nThe second one.\n")),
        ("vkey", format!("{}\n", kernel_key().verifier())),
        ("record-open", record(0)),
        ("record-intent", record(1)),
        ("record-outcome", record(2)),
        ("record-intent-held", record(3)),
        ("record-approval", record(4)),
        ("record-intent-denied", record(6)),
        ("record-intent-refused", record(7)),
        ("record-beat", record(8)),
        ("record-halt", record(9)),
        ("record-close", record(10)),
        ("action", format!("{action}\n")),
        ("approval", log.approval.clone()),
        ("delegation", kernel_key().sign_note(&delegation().text().unwrap())),
        ("operator-grant", entry(0)),
        ("operator-grant-approver", entry(1)),
        ("operator-policy", entry(2)),
        ("operator-erase", entry(log.entries.len() - 2)),
        ("operator-revoke", entry(log.entries.len() - 1)),
        ("commitment", format!("{}\n", serde_json::to_string(&objects()[2].1).unwrap())),
        ("bundle", String::from_utf8(bundle().encode()).unwrap()),
        ("receipt", log.receipt(log.run_start).to_string()),
        ("checkpoint", log.cosigned()),
        ("cosignature-message", format!("cosignature/v1\ntime 1764000011\n{}", log.checkpoint().text())),
        ("trust", trust_text()),
        ("manifest", member("manifest")),
        ("readme", member("README.txt")),
    ])
}

/// RFC 8785 for values without fractions, by other code than the records' own: members sorted by UTF-16.
fn canonical(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| name.encode_utf16().collect::<Vec<_>>());
            let members = sorted
                .into_iter()
                .map(|(name, value)| format!("{}:{}", canonical(&name.as_str().into()), canonical(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        Value::String(text) => {
            let mut out = String::from("\"");
            for c in text.chars() {
                match c {
                    '"' => out += "\\\"",
                    '\\' => out += "\\\\",
                    '\u{8}' => out += "\\b",
                    '\t' => out += "\\t",
                    '\n' => out += "\\n",
                    '\u{c}' => out += "\\f",
                    '\r' => out += "\\r",
                    c if c < ' ' => out += &format!("\\u{:04x}", c as u32),
                    c => out.push(c),
                }
            }
            out + "\""
        }
        other => other.to_string(),
    }
}

#[test]
fn examples_are_what_the_code_prints() {
    let spec = std::fs::read_to_string(SPEC).unwrap();
    let printed = printed();
    if std::env::var_os("SIFT_WRITE").is_some() {
        let mut written = String::new();
        let mut parts = spec.split("```text example-");
        written += parts.next().unwrap();
        for part in parts {
            let (name, rest) = part.split_once('\n').unwrap();
            let end = if rest.starts_with("```") { 0 } else { rest.find("\n```").unwrap() + 1 };
            written += &format!("```text example-{name}\n{}{}", printed[name], &rest[end..]);
        }
        std::fs::write(SPEC, written).unwrap();
        return;
    }
    let blocks = blocks(&spec);
    for (name, block) in &blocks {
        assert_eq!(Some(block), printed.get(name.as_str()), "example {name}");
    }
    let names: std::collections::BTreeSet<&str> = blocks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), blocks.len(), "no example stands twice");
    assert_eq!(names, printed.keys().copied().collect(), "every example stands in SPEC.md");
    println!("{} examples", blocks.len());
}

#[test]
fn examples_parse_and_verify_from_the_text_alone() {
    let spec = std::fs::read_to_string(SPEC).unwrap();
    let blocks: BTreeMap<String, String> = blocks(&spec).into_iter().collect();
    let get = |name: &str| blocks[name].as_str();
    let line = |name: &str| blocks[name].strip_suffix('\n').unwrap();

    // Keys, trust, notes.
    let kernel: VerifierKey = p(line("vkey"));
    let note = Note::parse(get("note").as_bytes(), NOTE_BYTES_MAX).unwrap();
    assert_eq!(note.verify(std::slice::from_ref(&kernel)).unwrap().len(), 1);
    let trust = TrustPolicy::parse(get("trust")).unwrap();
    let operator = trust.operator().unwrap().clone();

    // The checkpoint with its cosignatures, and the message of the first.
    let verified = trust.verify(get("checkpoint").as_bytes()).unwrap();
    assert_eq!(verified.witnesses().len(), 2);
    let checkpoint = Note::parse(get("checkpoint").as_bytes(), NOTE_BYTES_MAX).unwrap();
    assert_eq!(Checkpoint::parse(checkpoint.text).unwrap(), *verified.checkpoint());
    let cosignature = &checkpoint.signatures[1];
    let signature: [u8; 64] = cosignature.signature[8..].try_into().unwrap();
    let cosigner = common::honest::witness_key(1);
    assert!(cosigner.verifier().matches(cosignature));
    assert!(cosigner.verifier().verify(get("cosignature-message").as_bytes(), &signature));

    // The receipt is that of the first record.
    let open = Entry::parse(get("record-open").as_bytes().to_vec()).unwrap();
    let receipt = Receipt::parse(get("receipt").as_bytes()).unwrap();
    assert_eq!(receipt.to_string(), get("receipt"));
    let inclusion = receipt.verify(open.leaf(), &trust).unwrap();
    assert_eq!(inclusion.index(), index(3));

    // The operator's entries in their order make the key ring; all records follow it and one another.
    let log: sift_spec::types::KeyName = p(common::honest::LOG);
    let mut ring = KeyRing::new(log.clone(), operator.clone());
    let mut head = OperatorHead::default();
    for (at, name) in [
        (0, "operator-grant"),
        (1, "operator-grant-approver"),
        (2, "operator-policy"),
        (14, "operator-erase"),
        (15, "operator-revoke"),
    ] {
        let entry = Entry::parse(get(name).as_bytes().to_vec()).unwrap();
        entry.verify(&operator).unwrap();
        let Content::Operator(record) = entry.content() else { panic!("{name}") };
        head.extend(record, entry.leaf(), &log).unwrap();
        ring.apply(index(at), &record.body).unwrap();
        if let OperatorBody::Policy(policy) = &record.body {
            let bundle = Bundle::decode(get("bundle").as_bytes()).unwrap();
            assert_eq!((bundle.digest(), get("bundle").len() as u64), (policy.bundle, policy.size));
        }
    }
    let order = [
        "record-open",
        "record-intent",
        "record-outcome",
        "record-intent-held",
        "record-approval",
        "",
        "record-intent-denied",
        "record-intent-refused",
        "record-beat",
        "record-halt",
        "record-close",
    ];
    let unprinted = Honest::new().record(5).bytes().to_vec();
    let mut run_head: Option<RunHead> = None;
    let mut kinds = std::collections::BTreeSet::new();
    let mut action = None;
    for (seq, name) in order.into_iter().enumerate() {
        let bytes = if name.is_empty() { unprinted.clone() } else { get(name).as_bytes().to_vec() };
        let entry = Entry::parse(bytes).unwrap();
        let record = entry.record().unwrap();
        let at = index(3 + seq as u64);
        entry.verify(ring.kernel(entry.signer(), entry.key_id(), &record.agent, at).unwrap()).unwrap();
        match &mut run_head {
            None => run_head = Some(RunHead::open(record, entry.signer(), entry.leaf(), &log).unwrap()),
            Some(head) => head.extend(record, entry.signer(), entry.leaf()).unwrap(),
        }
        kinds.insert(record.body.kind());
        if seq == 3 {
            action = record.action();
        }
        if let Body::Approval(approval) = &record.body {
            assert_eq!(approval.statement.as_str(), get("approval"));
            let note = Note::parse(get("approval").as_bytes(), 8192).unwrap();
            let statement = Statement::parse(note.text).unwrap();
            let line = &note.signatures[0];
            let key = ring.approver(&p(line.name), line.id, &statement.role, &record.agent, at).unwrap();
            assert_eq!(key, approver_key().verifier());
            note.verify(std::slice::from_ref(key)).unwrap();
            assert_eq!(Some(statement.action), action);
        }
    }
    let delegated = SignedDelegation::parse(get("delegation")).unwrap();
    assert!(delegated.is_signed_by(&kernel));
    assert_eq!(delegated.delegation, delegation());
    assert!(run_head.unwrap().is_closed());
    assert_eq!(kinds, Kind::ALL.into_iter().collect(), "an example of every kind");
    assert_eq!(Some(sift_spec::hash::action_digest(line("action"))), action);

    // A commitment and the object that answers it.
    let commitment: Commitment = serde_json::from_str(line("commitment")).unwrap();
    let object = Object::new([0xa2; 16], br#"{"reservation":"ABC123"}"#).unwrap();
    object.check(&commitment).unwrap();

    // A pack with this manifest and this README is the pack of the example run.
    let bytes = Honest::new().pack().write().unwrap();
    let pack = Pack::read(&bytes).unwrap();
    assert_eq!((pack.run, pack.checkpoint.as_str()), (run(), get("checkpoint")));
    let hashes: String = pack.proof.0.iter().map(|hash| format!("{hash}\n")).collect();
    assert_eq!(get("manifest"), format!("sift/evidence@v1\n{}\n{hashes}", pack.run));
    for name in ["manifest", "readme"] {
        let found = bytes.windows(get(name).len()).any(|window| window == get(name).as_bytes());
        assert!(found, "{name} stands in the pack as it is, stored");
    }
    // Nobody else's keys are in the examples.
    assert!(note.verify(&[stranger_key().verifier().clone(), log_key().verifier().clone()]).is_err());
}

#[test]
fn tables_name_everything_that_the_code_knows() {
    use sift_spec::api::ProblemKind;
    use sift_spec::meter::Meter;
    use sift_spec::record::{Answer, CloseReason, Effect, HaltCause, Status};
    let spec = std::fs::read_to_string(SPEC).unwrap();
    let names = |text: &str| assert!(spec.contains(text), "SPEC.md does not say {text}");
    for kind in ProblemKind::ALL {
        let name = kind.urn().strip_prefix("urn:sift:problem:").unwrap();
        names(&format!("| `{name}` | {} |", kind.status()));
    }
    for meter in Meter::ALL {
        names(&format!("| `{meter}` |"));
    }
    for kind in Kind::ALL {
        names(&format!("\n### {kind}\n"));
    }
    fn word(value: impl serde::Serialize) -> String {
        serde_json::to_string(&value).unwrap().replace('"', "`")
    }
    use HaltCause as H;
    for cause in [
        H::Clock,
        H::LogFork,
        H::LogBehind,
        H::LogRefused,
        H::Operator,
        H::Overspend,
        H::Policy,
        H::Spool,
        H::WallClock,
    ] {
        names(&format!("| {} |", word(cause)));
    }
    for status in [Status::Cancelled, Status::Error, Status::Ok, Status::Timeout, Status::Unknown] {
        names(&format!("| {} |", word(status)));
    }
    for reason in [CloseReason::Abandoned, CloseReason::Done, CloseReason::Failed, CloseReason::Halted] {
        names(&word(reason));
    }
    for word in [
        word(Effect::Allow),
        word(Effect::Deny),
        word(Effect::Hold),
        word(Answer::Approve),
        word(Answer::Refuse),
    ] {
        names(&word);
    }
}
