//! The generator: makes every vector, and the files that all of them refer to, from fixed seeds.

use std::collections::BTreeMap;

use crate::common::honest::{
    Honest, LOG, agent, at_ms, bundle, delegation, kernel_key, log_key, more_records, objects, operator_key,
    p, run, seq, sign_operator, stranger_key, trust_text, witness_key,
};
use crate::common::json::{Json, refused_changes};
use crate::common::{decimal_leaves, index, size, tampered};
use sift_spec::checkpoint::cosign;
use sift_spec::entry::{Content, Entry};
use sift_spec::evidence::Pack;
use sift_spec::hash::leaf_hash;
use sift_spec::note::{NOTE_BYTES_MAX, Note, SignerKey};
use sift_spec::proof::{Proof, prove_consistency, prove_inclusion, prove_multi_inclusion};
use sift_spec::record::{Beat, Body, Grant, KeyChange, KeyRole, OperatorBody, Record, Revoke};
use sift_spec::tile::push_entry;
use sift_spec::tree::MemoryTree;
use sift_spec::types::{Hash, LeafIndex};

use crate::judge::check;

/// The files that all vectors refer to.
fn context() -> BTreeMap<String, Vec<u8>> {
    let log = Honest::new();
    BTreeMap::from([
        ("context/trust.txt".to_owned(), trust_text().into_bytes()),
        ("context/kernel.vkey".to_owned(), format!("{}\n", kernel_key().verifier()).into_bytes()),
        ("context/receipt-entry.note".to_owned(), log.record(0).bytes().to_vec()),
        ("context/commitment.json".to_owned(), serde_json::to_vec(&objects()[2].1).unwrap()),
    ])
}

/// The vectors, by path.
#[derive(Default)]
struct Maker(BTreeMap<String, Vec<u8>>);

impl Maker {
    fn ending(object: &str) -> &'static str {
        match object {
            "pack" => "sift",
            "object" | "log" | "bundle" => "bin",
            "inclusion" | "consistency" | "multi-inclusion" => "json",
            "receipt" => "tlog-proof",
            "note" | "entry" | "checkpoint" | "cosignature" => "note",
            _ => "txt",
        }
    }

    fn add(&mut self, path: String, bytes: Vec<u8>) {
        assert!(self.0.insert(path.clone(), bytes).is_none(), "{path} is made twice");
    }

    fn ok(&mut self, object: &str, name: &str, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        assert_eq!(check(object, &bytes), Ok(()), "{object} {name}");
        self.add(format!("{object}/ok/{name}.{}", Self::ending(object)), bytes);
    }

    fn bad(&mut self, object: &str, name: &str, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        let refusal = check(object, &bytes);
        let Err(refusal) = refusal else { panic!("{object} {name} is accepted") };
        self.add(format!("{object}/bad/{refusal}--{name}.{}", Self::ending(object)), bytes);
    }
}

pub(crate) fn made() -> BTreeMap<String, Vec<u8>> {
    let mut maker = Maker(context());
    let log = Honest::new();
    notes(&mut maker);
    records(&mut maker, &log);
    entries(&mut maker, &log);
    heads(&mut maker, &log);
    trust_files(&mut maker);
    archives(&mut maker);
    proofs(&mut maker);
    logs(&mut maker);
    maker.0
}

fn notes(maker: &mut Maker) {
    let key = kernel_key();
    let note = key.sign_note("text\n");
    let (_, line) = note.split_once("\n\n").unwrap();
    let (head, blob) = line.trim_end().rsplit_once(' ').unwrap();
    let other = stranger_key().sign_text("text\n");
    maker.ok("note", "one-line", note.as_str());
    maker.ok("note", "paragraphs", key.sign_note("a\n\nb\n\n\nc\n"));
    maker.ok("note", "empty-line-last", key.sign_note("a\n\n"));
    maker.ok("note", "unknown-line-after", format!("{note}{other}"));
    maker.ok("note", "unknown-line-before", format!("text\n\n{other}{line}"));
    maker.ok(
        "note",
        "unknown-line-of-another-length",
        format!("{note}\u{2014} pq.example {}\n", "AAAA".repeat(600)),
    );
    let sixteen: String = (0..16)
        .map(|n| {
            let key =
                SignerKey::from_seed(p(&format!("k{n}")), sift_spec::note::KeyType::Ed25519, &[n + 50; 32]);
            key.unwrap().sign_text("text\n")
        })
        .collect();
    maker.ok("note", "seventeen-signatures", format!("{note}{sixteen}"));
    for (name, bytes) in [
        ("tab", key.sign_note("te\txt\n")),
        ("nul", key.sign_note("te\0xt\n")),
        ("carriage-return", note.replace('\n', "\r\n")),
        ("no-final-line-feed", note.trim_end().to_owned()),
        ("empty-line-at-the-end", format!("{note}\n")),
        ("no-signature", "text\n\n".to_owned()),
        ("no-empty-line", note.replacen("\n\n", "\n", 1)),
        ("nothing", String::new()),
        ("en-dash", note.replace('\u{2014}', "\u{2013}")),
        ("hyphens", note.replace('\u{2014}', "--")),
        ("horizontal-bar", note.replace('\u{2014}', "\u{2015}")),
        ("two-spaces", note.replace("kernel/1 ", "kernel/1  ")),
        ("space-at-the-end", format!("{} \n", note.trim_end())),
        ("plus-in-the-name", note.replace("kernel/1", "kernel+1")),
        ("no-break-space-in-the-name", note.replace("kernel/1", "kernel\u{a0}1")),
        ("no-name", note.replace("acme.example/kernel/1 ", "")),
        ("no-padding", note.replace("=\n", "\n")),
        ("key-id-alone", format!("text\n\n{head} pkcKAA==\n")),
        ("url-alphabet", format!("text\n\n{head} {}\n", blob.replace(['+', '/'], "_"))),
        ("line-twice", format!("{note}{line}")),
        ("unknown-line-twice", format!("{note}{other}{other}")),
        ("text-changed", note.replacen("text", "test", 1)),
        ("text-longer", note.replacen("text\n", "text\n\n", 1)),
        ("unknown-key-only", stranger_key().sign_note("text\n")),
        ("same-name-another-key", {
            let key = SignerKey::from_seed(
                p("acme.example/kernel/1"),
                sift_spec::note::KeyType::Ed25519,
                &[88; 32],
            );
            key.unwrap().sign_note("text\n")
        }),
        ("renamed", note.replace("kernel/1", "kernel/2")),
        ("known-line-fails-beside-unknown", format!("text\n\n{}{other}", key.sign_text("other\n"))),
        ("word-among-the-lines", format!("{note}word\n{other}")),
        ("cosignature-of-the-same-length", {
            let text = "text\n";
            format!("{text}\n{}", cosign(text, &witness_key(1), 1).unwrap())
        }),
    ] {
        maker.bad("note", name, bytes);
    }
    let many: String = (0..64).map(|n| other.replace("stranger.example", &format!("s{n}"))).collect();
    maker.bad("note", "sixty-five-signatures", format!("{note}{many}"));
    let mut latin1 = note.clone().into_bytes();
    latin1[1] = 0xe9;
    maker.bad("note", "latin-1", latin1);

    let vkey = key.verifier().to_string();
    let (front, base64) = vkey.rsplit_once('+').unwrap();
    let id = key.verifier().id().to_string();
    maker.ok("vkey", "ed25519", format!("{vkey}\n"));
    maker.ok("vkey", "cosigner", format!("{}\n", witness_key(1).verifier()));
    maker.ok(
        "vkey",
        "c2sp-example",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k\n",
    );
    for (name, text) in [
        ("upper-case-id", vkey.replace(&id, &id.to_uppercase())),
        ("short-id", vkey.replace(&id, &id[..7])),
        ("another-id", vkey.replace(&id, "00000000")),
        ("another-name", vkey.replace("kernel/1", "kernel/2")),
        ("another-type", format!("{front}+BO{}", &base64[2..])),
        ("unknown-type", format!("{front}+Ag{}", &base64[2..])),
        ("ml-dsa", format!("{front}+Bg{}", &base64[2..])),
        ("short-key", format!("{front}+{}", &base64[4..])),
        ("long-key", format!("{front}+AAAA{base64}")),
        ("no-key", front.to_owned()),
        ("no-name", vkey.replace("acme.example/kernel/1", "")),
        ("space-in-the-name", vkey.replace("kernel/1", "kernel 1")),
        ("space-at-the-end", format!("{vkey} ")),
        ("point-of-small-order", format!("a+00000000+{}", base64_of(&[&[1][..], &[0; 32]].concat()))),
        ("private-key", "PRIVATE+KEY+a+00000000+AAAA".to_owned()),
    ] {
        maker.bad("vkey", name, format!("{text}\n"));
    }
}

/// Whose approvals the example's held call needs.
const SUPERVISOR: &str = r#"[{"count":1,"role":"supervisor"}]"#;

fn needed(list: &[(u32, &str)]) -> String {
    let items = list.iter().map(|(count, role)| format!(r#"{{"count":{count},"role":"{role}"}}"#));
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

fn nine_roles() -> String {
    let names: Vec<String> = (0..9).map(|n| format!("r{n}")).collect();
    needed(&names.iter().map(|name| (1, name.as_str())).collect::<Vec<_>>())
}

fn records(maker: &mut Maker, log: &Honest) {
    let mut honest: Vec<(&str, String, String)> = Vec::new();
    for (at, entry) in log.entries.iter().enumerate() {
        match entry.content() {
            Content::Run(record) => {
                let name = format!("{:02}-{}", record.seq.get(), record.body.kind());
                honest.push(("record", name, record.text().unwrap()));
            }
            Content::Operator(record) => {
                honest.push(("operator", format!("{at:02}"), record.text().unwrap()))
            }
        }
    }
    honest.extend(more_records().into_iter().map(|(name, record)| ("record", name, record.text().unwrap())));
    let (statement, _) = log.approval.split_once("\n\n").unwrap();
    honest.push(("approval", "approve".to_owned(), format!("{statement}\n")));
    honest.push(("approval", "refuse".to_owned(), format!("{statement}\n").replace("approve", "refuse")));
    let held = log.record(3).record().unwrap().text().unwrap();
    for (name, list) in [
        ("held-for-several", needed(&[(1, "auditor"), (16, "supervisor")])),
        ("held-for-8-roles", needed(&(0..8).map(|n| (1, &"abcdefgh"[n..=n])).collect::<Vec<_>>())),
    ] {
        honest.push(("record", name.to_owned(), held.replace(SUPERVISOR, &list)));
    }
    honest.push(("delegation", "delegation".to_owned(), delegation().text().unwrap()));
    for (number, (object, name, text)) in honest.iter().enumerate() {
        maker.ok(object, name, text.as_str());
        let (header, json) = text.trim_end().split_once('\n').unwrap();
        let changes: Vec<_> = Json::of(json)
            .each(&refused_changes)
            .into_iter()
            .filter(|(_, changed)| changed.print() != json)
            .collect();
        // All changes of the smallest record of each object, a few of every other: each kind meets each change.
        let all = matches!(name.as_str(), "08-beat" | "03" | "approve" | "delegation");
        let step = if *object == "record" { 23 } else { 7 };
        for (at, (what, changed)) in changes.iter().enumerate() {
            if all && (!matches!(*object, "operator" | "delegation") || at % 3 == 0)
                || !all && (at + number) % step == 0
            {
                maker.bad(object, &format!("{name}.{what}"), format!("{header}\n{}\n", changed.print()));
            }
        }
        if all {
            for (what, changed) in [
                ("no-final-line-feed", text.trim_end().to_owned()),
                ("line-feed-more", format!("{text}\n")),
                ("carriage-return", text.replace('\n', "\r\n")),
                ("header-alone", format!("{header}\n")),
                ("two-lines-of-json", format!("{text}{json}\n")),
                ("space-before", format!("{header}\n {json}\n")),
                ("space-after", format!("{header}\n{json} \n")),
                ("byte-order-mark", format!("\u{feff}{text}")),
                ("version-2", text.replacen("@v1", "@v2", 1)),
                ("no-header", format!("{json}\n")),
                ("array-around", format!("{header}\n[{json}]\n")),
                ("truncated", format!("{header}\n{}\n", &json[..json.len() - 1])),
            ] {
                maker.bad(object, &format!("{name}.{what}"), changed);
            }
        }
    }
    // What a record must not say, in its right spelling.
    let cancelled = |text: &str, without: &str| {
        let mut record = Record::parse(text).unwrap();
        let Body::Outcome(outcome) = &mut record.body else { unreachable!() };
        (outcome.model, outcome.result) = match without {
            "model" => (None, outcome.result.take()),
            _ => (outcome.model.take(), None),
        };
        let ok = record.text().unwrap();
        ok.replace("\"status\":\"ok\"", "\"status\":\"cancelled\"")
            .replace("\"outcome\":{", "\"outcome\":{\"error\":\"not sent\",")
    };
    let text = |seq: usize| log.record(seq).record().unwrap().text().unwrap();
    let refused = |why: &str| {
        let name = format!("intent-refused-{why}");
        let found = more_records().into_iter().find(|(other, _)| *other == name);
        found.unwrap().1.text().unwrap()
    };
    for (name, changed) in [
        ("beat-of-another-seq", text(8).replace("\"records\":8", "\"records\":7")),
        ("close-census-too-small", text(10).replace("\"intent\":4", "\"intent\":3")),
        ("close-census-zero", text(10).replace("\"outcome\":2", "\"outcome\":0")),
        ("outcome-ok-with-error", text(2).replace("{\"intent\":1", "{\"error\":\"x\",\"intent\":1")),
        ("outcome-error-without-error", text(2).replace("\"status\":\"ok\"", "\"status\":\"error\"")),
        ("outcome-cancelled-with-model", cancelled(&text(2), "result")),
        ("outcome-cancelled-with-result", cancelled(&text(2), "model")),
        ("outcome-of-itself", text(2).replace("\"intent\":1", "\"intent\":2")),
        ("outcome-of-the-future", text(2).replace("\"intent\":1", "\"intent\":9")),
        ("approval-of-itself", text(4).replace("\"intent\":3,\"statement\"", "\"intent\":4,\"statement\"")),
        ("call-proposed-by-itself", text(3).replace("\"proposed_by\":1", "\"proposed_by\":3")),
        ("hold-for-nobody", text(3).replace(SUPERVISOR, "[]")),
        ("hold-for-none-of-a-role", text(3).replace(SUPERVISOR, &needed(&[(0, "supervisor")]))),
        ("hold-for-17-of-a-role", text(3).replace(SUPERVISOR, &needed(&[(17, "supervisor")]))),
        ("hold-for-a-role-twice", text(3).replace(SUPERVISOR, &needed(&[(1, "a"), (2, "a")]))),
        ("hold-not-sorted-by-role", text(3).replace(SUPERVISOR, &needed(&[(1, "b"), (1, "a")]))),
        ("hold-for-9-roles", text(3).replace(SUPERVISOR, &nine_roles())),
        ("allow-with-hold", text(3).replace("\"effect\":\"hold\"", "\"effect\":\"allow\"")),
        ("deny-with-reserve", text(1).replace("\"effect\":\"allow\"", "\"effect\":\"deny\"")),
        ("refused-with-reserve", text(7).replace("\"reserved\":{}", "\"reserved\":{\"tool_calls\":1}")),
        ("refused-below-the-limit", text(7).replace("\"have\":40", "\"have\":39")),
        ("refused-for-need-of-nothing", {
            text(7).replace("\"have\":40", "\"have\":41").replace("\"need\":1", "\"need\":0")
        }),
        ("refused-below-the-depth", refused("depth").replace("\"have\":2", "\"have\":1")),
        ("refused-for-few-identical-calls", refused("identical").replace("\"have\":3", "\"have\":2")),
        ("refused-while-there-is-time", refused("wall-clock").replace("3600001", "3600000")),
        ("deny-and-refused", text(7).replace("\"effect\":\"allow\"", "\"effect\":\"deny\"")),
        ("reserved-of-zero", text(6).replace("\"reserved\":{}", "\"reserved\":{\"tool_calls\":0}")),
        ("delegated-without-parent", {
            let (name, record) = &more_records()[1];
            assert_eq!(name, "open-delegated");
            let text = record.text().unwrap();
            let (from, rest) = (text.find("\"parent\":{").unwrap(), text.find("\"policy\"").unwrap());
            format!("{}{}", &text[..from], &text[rest..])
        }),
        ("two-calls", text(3).replace("\"call\":{", "\"call\":{\"model\":{},")),
        ("limits-not-sorted", text(0).replace("\"meter\":\"tool_calls\"", "\"meter\":\"agents\"")),
        ("limit-twice", text(0).replace("\"meter\":\"tool_calls\"", "\"meter\":\"micro_usd\"")),
        ("unknown-meter", text(0).replace("\"meter\":\"tool_calls\"", "\"meter\":\"coffee\"")),
        ("unknown-kind", text(8).replace("\"kind\":\"beat\"", "\"kind\":\"pulse\"")),
        ("kind-of-another-body", text(8).replace("\"kind\":\"beat\"", "\"kind\":\"halt\"")),
        ("no-body", text(8).replace("\"beat\":{\"records\":8},", "")),
        (
            "two-bodies",
            text(8).replace(",\"kind\"", ",\"halt\":{\"cause\":\"clock\",\"detail\":\"\"},\"kind\""),
        ),
        (
            "prev-at-seq-0",
            text(0).replace("\"run\":\"", &format!("\"prev\":\"{}\",\"run\":\"", log.record(0).leaf())),
        ),
        ("no-prev", text(8).replace(&format!("\"prev\":\"{}\",", log.record(7).leaf()), "")),
        ("run-in-upper-case", text(8).replace("019ab697-e800", "019AB697-E800")),
        ("run-of-version-4", text(8).replace("-7a5a-", "-4a5a-")),
        ("run-without-hyphens", text(8).replace("019ab697-e800-7a5a-9a5a-", "019ab697e8007a5a9a5a")),
        ("agent-with-space", text(8).replace("airline/gpt-4o", "airline/gpt 4o")),
        ("agent-with-empty-segment", text(8).replace("airline/gpt-4o", "airline//gpt-4o")),
        ("agent-empty", text(8).replace("airline/gpt-4o", "")),
        ("agent-not-ascii", text(8).replace("airline/gpt-4o", "\u{e4}irline/gpt-4o")),
        ("agent-too-long", text(8).replace("airline/gpt-4o", &"a".repeat(129))),
        ("label-in-upper-case", text(0).replace("\"ticket\":", "\"Ticket\":")),
        ("log-with-plus", text(0).replace("log.example/sift", "log.example+sift")),
        ("detail-too-long", text(9).replace("stopped from the console", &"x".repeat(513))),
        ("hash-with-loose-bits", text(0).replace("p8=", "p9=")),
        ("emoji-escaped", text(0).replace('\u{1f6eb}', "\\ud83d\\udeeb")),
        ("letter-escaped", text(0).replace('\u{e9}', "\\u00e9")),
        ("line-feed-as-u", text(0).replace("\\n", "\\u000a")),
    ] {
        assert_ne!(changed, text(0), "{name}");
        maker.bad("record", name, changed);
    }
    let text = delegation().text().unwrap();
    for (name, changed) in [
        ("depth-of-zero", text.replace("\"depth\":1,", "\"depth\":0,")),
        ("deeper-than-its-limit", text.replace("\"depth_limit\":2", "\"depth_limit\":0")),
        ("to-the-run-itself", {
            let (own, above) = (delegation().run.to_string(), delegation().parent.run.to_string());
            text.replace(&own, &above)
        }),
        ("budget-of-zero", text.replace("\"model_calls\":4", "\"model_calls\":0")),
        ("no-kernel", text.replace("\"kernel\":\"acme.example/kernel/2\",", "")),
    ] {
        assert_ne!(changed, text, "{name}");
        maker.bad("delegation", name, changed);
    }
    let grant = match log.entries[0].content() {
        Content::Operator(record) => record.text().unwrap(),
        Content::Run(_) => unreachable!(),
    };
    for (name, changed) in [
        ("grant-of-no-agents", grant.replace("[\"airline/*\"]", "[]")),
        ("grant-of-an-agent-twice", grant.replace("[\"airline/*\"]", "[\"a\",\"a\"]")),
        ("grant-not-sorted", grant.replace("[\"airline/*\"]", "[\"b\",\"a\"]")),
        ("scope-with-star-inside", grant.replace("airline/*", "*/airline")),
        ("scope-with-part-star", grant.replace("airline/*", "air*")),
        ("unknown-role", grant.replace("\"role\":\"kernel\"", "\"role\":\"root\"")),
        ("kernel-as-object", grant.replace("\"role\":\"kernel\"", "\"role\":{\"kernel\":null}")),
        ("approver-without-role", grant.replace("\"role\":\"kernel\"", "\"role\":\"approver\"")),
        ("approver-with-space", grant.replace("\"role\":\"kernel\"", "\"role\":{\"approver\":\"the boss\"}")),
        ("grant-and-revoke", grant.replace("\"key\":{", "\"key\":{\"revoke\":{},")),
    ] {
        maker.bad("operator", name, changed);
    }
}

fn entries(maker: &mut Maker, log: &Honest) {
    let entry = String::from_utf8(log.record(8).bytes().to_vec()).unwrap();
    let text = log.record(8).record().unwrap().text().unwrap();
    maker.ok("entry", "record", entry.as_str());
    maker.ok("entry", "operator", log.entries[0].bytes());
    let of = |key: &SignerKey| key.sign_note(&text);
    for (name, bytes) in [
        ("another-key", of(&stranger_key())),
        ("another-key-of-the-same-name", {
            let key = SignerKey::from_seed(
                p("acme.example/kernel/1"),
                sift_spec::note::KeyType::Ed25519,
                &[88; 32],
            );
            of(&key.unwrap())
        }),
        ("cosigners-key", of(&witness_key(1))),
        ("two-signatures", format!("{entry}{}", stranger_key().sign_text(&text))),
        ("timestamped", format!("{text}\n{}", cosign(&text, &witness_key(1), 1).unwrap())),
        ("seq-changed", entry.replace("\"seq\":8", "\"seq\":9").replace("\"records\":8", "\"records\":9")),
        ("time-changed", entry.replace("1764000003000", "1764000003001")),
        ("agent-changed", entry.replace("gpt-4o", "gpt-4p")),
        ("unsigned", format!("{text}\n")),
        ("statement", log.approval.clone()),
        ("checkpoint", log.checkpoint().sign(&kernel_key())),
        ("hello", kernel_key().sign_note("hello\n")),
        ("operators-record-by-a-kernel", {
            let (text, _) = std::str::from_utf8(log.entries[0].bytes()).unwrap().split_once("\n\n").unwrap();
            kernel_key().sign_note(&format!("{text}\n"))
        }),
        ("empty-line-in-the-text", kernel_key().sign_note(&format!("{text}\n"))),
    ] {
        maker.bad("entry", name, bytes);
    }
    let (object, _) = &objects()[2];
    maker.ok("object", "arguments", object.as_bytes());
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = object.as_bytes().to_vec();
        change(&mut bytes);
        bytes
    };
    maker.bad("object", "salt-changed", with(&|bytes| bytes[0] ^= 1));
    maker.bad("object", "content-changed", with(&|bytes| bytes[20] ^= 1));
    maker.bad("object", "longer", with(&|bytes| bytes.push(b'\n')));
    maker.bad("object", "without-salt", with(&|bytes| drop(bytes.drain(..16))));
    maker.bad("object", "shorter-than-a-salt", with(&|bytes| bytes.truncate(15)));
}

fn heads(maker: &mut Maker, log: &Honest) {
    let checkpoint = log.checkpoint();
    let text = checkpoint.text();
    let root = checkpoint.head.root.to_string();
    let signed = |text: &str| log_key().sign_note(text);
    maker.ok("checkpoint", "size-16", signed(&text));
    maker.ok("checkpoint", "with-an-extension", signed(&format!("{text}extension\n")));
    maker.ok("checkpoint", "size-0", signed(&format!("{LOG}\n0\n{}\n", sift_spec::hash::EMPTY_ROOT)));
    maker.ok("checkpoint", "with-unknown-cosignatures", log.cosigned());
    for (name, note) in [
        ("size-with-zero", signed(&text.replace("\n16\n", "\n016\n"))),
        ("size-with-plus", signed(&text.replace("\n16\n", "\n+16\n"))),
        ("size-negative", signed(&text.replace("\n16\n", "\n-16\n"))),
        ("size-with-space", signed(&text.replace("\n16\n", "\n16 \n"))),
        ("size-of-2-pow-53", signed(&text.replace("\n16\n", "\n9007199254740992\n"))),
        ("size-hexadecimal", signed(&text.replace("\n16\n", "\n0x10\n"))),
        ("size-0-of-another-root", signed(&text.replace("\n16\n", "\n0\n"))),
        ("root-short", signed(&text.replace(&root, &root[4..]))),
        ("root-without-padding", signed(&text.replace(&root, root.trim_end_matches('=')))),
        ("root-in-hexadecimal", signed(&text.replace(&root, &checkpoint.head.root.hex()))),
        ("root-missing", signed(&text.replace(&format!("{root}\n"), ""))),
        ("empty-line-at-the-end", signed(&format!("{text}\n"))),
        ("empty-line-inside", signed(&format!("{text}a\n\nb\n"))),
        ("origin-empty", signed(&text.replace(LOG, ""))),
        ("origin-with-space", signed(&text.replace(LOG, "log example"))),
        ("origin-of-a-record", signed(&text.replace(LOG, "sift/record@v1"))),
        ("another-origin", signed(&text.replace(LOG, "other.example"))),
        ("another-key", operator_key().sign_note(&text)),
        ("size-changed-after-signing", signed(&text).replace("\n16\n", "\n17\n")),
        ("root-changed-after-signing", signed(&text).replace(&root[..4], "AAAA")),
        ("unsigned", format!("{text}\n")),
        ("extension-after-signing", signed(&text).replacen("\n\n", "\nextension\n\n", 1)),
    ] {
        maker.bad("checkpoint", name, note);
    }

    let cosigned = |number: u8, text: &str| cosign(text, &witness_key(number), 1_764_000_011).unwrap();
    let base = signed(&text);
    maker.ok("cosignature", "both", log.cosigned());
    maker.ok("cosignature", "one", format!("{base}{}", cosigned(1, &text)));
    maker.ok("cosignature", "two", format!("{base}{}", cosigned(2, &text)));
    maker.ok("cosignature", "before-the-log", {
        let (_, line) = base.split_once("\n\n").unwrap();
        format!("{text}\n{}{line}", cosigned(1, &text))
    });
    maker.ok("cosignature", "time-0", format!("{base}{}", cosign(&text, &witness_key(1), 0).unwrap()));
    for (name, note) in [
        ("none", base.clone()),
        ("unknown-witness", format!("{base}{}", cosigned(3, &text))),
        ("of-another-text", format!("{base}{}", cosigned(1, &format!("{text}x\n")))),
        ("one-good-one-failing", format!("{base}{}{}", cosigned(1, &text), cosigned(2, "other\n"))),
        ("plain-signature", format!("{base}{}", witness_key(1).sign_text(&text))),
        ("time-beyond-2-pow-63", format!("{base}{}", cosign(&text, &witness_key(1), 1 << 63).unwrap())),
        ("without-the-log", format!("{text}\n{}", cosigned(1, &text))),
        ("twice", format!("{base}{}{}", cosigned(1, &text), cosigned(1, &text))),
        ("renamed", format!("{base}{}", cosigned(1, &text).replace("/w1", "/w9"))),
    ] {
        maker.bad("cosignature", name, note);
    }
    let later = cosign(&text, &witness_key(1), 1_764_000_012).unwrap();
    let (front, _) = later.trim_end().rsplit_once(' ').unwrap();
    let later_note = format!("{text}\n{later}");
    let mut blob = Note::parse(later_note.as_bytes(), NOTE_BYTES_MAX).unwrap().signatures[0].clone();
    blob.signature[7] ^= 1;
    let bytes = [&blob.id.0.to_be_bytes(), &blob.signature[..]].concat();
    maker.bad("cosignature", "time-changed", format!("{base}{front} {}\n", base64_of(&bytes)));

    let good = log.receipt(log.run_start).to_string();
    maker.ok("receipt", "open", good.as_str());
    maker.ok("receipt", "with-extra", good.replacen("\nindex", "\nextra aGVsbG8=\nindex", 1));
    let hash = log.receipt(log.run_start).proof.0[0].to_string();
    for (name, text) in [
        ("version-2", good.replacen("@v1", "@v2", 1)),
        ("no-index", good.replacen("index 3\n", "", 1)),
        ("index-with-zero", good.replacen("index 3", "index 03", 1)),
        ("index-of-another-entry", good.replacen("index 3", "index 2", 1)),
        ("index-outside", good.replacen("index 3", "index 16", 1)),
        ("index-of-2-pow-53", good.replacen("index 3", "index 9007199254740992", 1)),
        ("extra-after-the-index", good.replacen("index 3\n", "index 3\nextra aGVsbG8=\n", 1)),
        ("extra-with-loose-bits", good.replacen("\nindex", "\nextra aGVsbG9=\nindex", 1)),
        ("extra-twice", good.replacen("\nindex", "\nextra AAAA\nextra AAAA\nindex", 1)),
        ("hash-missing", good.replacen(&format!("{hash}\n"), "", 1)),
        ("hash-twice", good.replacen(&format!("{hash}\n"), &format!("{hash}\n{hash}\n"), 1)),
        ("hash-changed", good.replacen(&hash[..4], "AAAA", 1)),
        ("hash-more", good.replacen("\n\n", &format!("\n{hash}\n\n"), 1)),
        ("hashes-65", good.replacen("index 3\n", &format!("index 3\n{}", format!("{hash}\n").repeat(65)), 1)),
        ("word-among-the-hashes", good.replacen("\n\n", "\nword\n\n", 1)),
        ("carriage-returns", good.replace('\n', "\r\n")),
        ("no-checkpoint", good.split_once("\n\n").unwrap().0.to_owned()),
        (
            "not-witnessed",
            log.receipt(log.run_start).to_string().split("\u{2014} witness").next().unwrap().to_owned(),
        ),
        ("of-another-entry", log.receipt(log.run_start + 1).to_string()),
    ] {
        maker.bad("receipt", name, text);
    }
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn trust_files(maker: &mut Maker) {
    let vkey = |key: SignerKey| key.verifier().to_string();
    let (log, operator) = (vkey(log_key()), vkey(operator_key()));
    let (one, two) = (vkey(witness_key(1)), vkey(witness_key(2)));
    let witnesses = format!("witness a {one}\nwitness b {two}\n");
    maker.ok("trust", "example", trust_text());
    maker.ok("trust", "nothing-but-a-quorum", "quorum none");
    maker.ok("trust", "spaces-and-tabs", format!(" \tlog\t{log}  \t\n\t# x\nquorum\tnone\t\n"));
    maker.ok("trust", "groups", format!("{witnesses}group g 2 a b\ngroup h any g a\nquorum h\n"));
    for (name, text) in [
        ("empty", String::new()),
        ("no-quorum", format!("log {log}\n")),
        ("two-quorums", "quorum none\nquorum none\n".to_owned()),
        ("quorum-unknown", "quorum a\n".to_owned()),
        ("quorum-before-its-witness", format!("quorum a\n{witnesses}")),
        ("carriage-returns", "quorum none\r\n".to_owned()),
        ("control-character", "# \u{1}\nquorum none\n".to_owned()),
        ("delete", "# \u{7f}\nquorum none\n".to_owned()),
        ("unknown-word", "logs\nquorum none\n".to_owned()),
        ("comment-after-a-line", "quorum none # x\n".to_owned()),
        ("log-without-key", "log\nquorum none\n".to_owned()),
        ("log-of-a-cosigner", format!("log {one}\nquorum none\n")),
        ("witness-of-a-log", format!("witness a {log}\nquorum none\n")),
        ("key-twice", format!("witness a {one}\nwitness b {one}\nquorum none\n")),
        ("name-twice", format!("witness a {one}\nwitness a {two}\nquorum none\n")),
        ("named-none", format!("witness none {one}\nquorum none\n")),
        ("group-of-nobody", format!("{witnesses}group g all\nquorum g\n")),
        ("group-of-unknown", format!("{witnesses}group g all c\nquorum g\n")),
        ("group-of-itself", format!("{witnesses}group g any g\nquorum g\n")),
        ("member-twice", format!("{witnesses}group g 2 a a\nquorum g\n")),
        ("threshold-0", format!("{witnesses}group g 0 a b\nquorum g\n")),
        ("threshold-3-of-2", format!("{witnesses}group g 3 a b\nquorum g\n")),
        ("threshold-with-sign", format!("{witnesses}group g +2 a b\nquorum g\n")),
        ("threshold-with-zero", format!("{witnesses}group g 02 a b\nquorum g\n")),
        (
            "two-operators",
            format!("#sift:operator {operator}\n#sift:operator {}\nquorum none\n", vkey(stranger_key())),
        ),
        ("operator-is-the-log", format!("log {log}\n#sift:operator {log}\nquorum none\n")),
        ("operator-of-a-cosigner", format!("#sift:operator {one}\nquorum none\n")),
        ("operator-without-key", "#sift:operator\nquorum none\n".to_owned()),
        ("unknown-directive", format!("#sift:operators {operator}\nquorum none\n")),
    ] {
        maker.bad("trust", name, text);
    }
    let mut latin1 = b"# \xe9\nquorum none\n".to_vec();
    maker.bad("trust", "latin-1", latin1.clone());
    latin1.clear();

    for (name, path) in [
        ("full", "tile/0/000"),
        ("thousand", "tile/3/x001/000"),
        ("partial", "tile/0/x001/x234/067.p/255"),
        ("entries", "tile/entries/x010/999.p/1"),
        ("highest-level", "tile/63/000"),
    ] {
        maker.ok("tile-path", name, format!("{path}\n"));
    }
    for (name, path) in [
        ("short-group", "tile/0/5"),
        ("long-group", "tile/0/0005"),
        ("leading-zeros", "tile/0/x000/005"),
        ("no-x", "tile/0/001/000"),
        ("x-last", "tile/0/x001"),
        ("level-64", "tile/64/000"),
        ("level-00", "tile/00/000"),
        ("level-negative", "tile/-1/000"),
        ("width-0", "tile/0/000.p/0"),
        ("width-256", "tile/0/000.p/256"),
        ("width-01", "tile/0/000.p/01"),
        ("no-width", "tile/0/000.p/"),
        ("slash-first", "/tile/0/000"),
        ("slash-last", "tile/0/000/"),
        ("data", "tile/data/000"),
        ("no-level", "tile/000"),
        ("dots", "tile/0/../000"),
        ("number-above-2-pow-64", "tile/0/x999/x999/x999/x999/x999/x999/x999/999"),
        ("with-height", "tile/8/0/000"),
        ("letters", "tile/0/00a"),
        ("percent", "tile/0/%30%30%30"),
        ("space", "tile/0/000 "),
        ("nothing", ""),
        ("two-widths", "tile/0/000.p/1.p/1"),
        ("upper-case-x", "tile/0/X001/000"),
    ] {
        maker.bad("tile-path", name, format!("{path}\n"));
    }
}

fn archives(maker: &mut Maker) {
    let good = bundle().encode();
    let text = String::from_utf8(good.clone()).unwrap();
    maker.ok("bundle", "two-files", good.clone());
    maker.ok("bundle", "no-files", "sift/bundle@v1\n");
    maker.ok("bundle", "empty-file", "sift/bundle@v1\na/b-c_d.E 0\n\n");
    for (name, bytes) in [
        ("nothing", String::new()),
        ("version-2", text.replace("@v1", "@v2")),
        ("no-line-feed-after-the-header", "sift/bundle@v1".to_owned()),
        ("cut", text[..text.len() - 1].to_owned()),
        ("line-feed-more", format!("{text}\n")),
        ("not-sorted", "sift/bundle@v1\nb 0\n\na 0\n\n".to_owned()),
        ("path-twice", "sift/bundle@v1\na 0\n\na 0\n\n".to_owned()),
        ("length-too-small", "sift/bundle@v1\na 1\nxy\n".to_owned()),
        ("length-too-large", "sift/bundle@v1\na 3\nxy\n".to_owned()),
        ("length-huge", "sift/bundle@v1\na 18446744073709551615\nxy\n".to_owned()),
        ("length-with-zero", "sift/bundle@v1\na 02\nxy\n".to_owned()),
        ("length-with-plus", "sift/bundle@v1\na +2\nxy\n".to_owned()),
        ("no-length", "sift/bundle@v1\na\nxy\n".to_owned()),
        ("two-spaces", "sift/bundle@v1\na  2\nxy\n".to_owned()),
        ("carriage-return", "sift/bundle@v1\na 2\r\nxy\n".to_owned()),
        ("absolute", "sift/bundle@v1\n/a 0\n\n".to_owned()),
        ("parent", "sift/bundle@v1\n../a 0\n\n".to_owned()),
        ("parent-inside", "sift/bundle@v1\na/../b 0\n\n".to_owned()),
        ("hidden", "sift/bundle@v1\n.a 0\n\n".to_owned()),
        ("empty-segment", "sift/bundle@v1\na//b 0\n\n".to_owned()),
        ("no-path", "sift/bundle@v1\n 0\n\n".to_owned()),
        ("backslash", "sift/bundle@v1\na\\b 0\n\n".to_owned()),
        ("not-ascii", "sift/bundle@v1\n\u{e4} 0\n\n".to_owned()),
        ("path-of-201-bytes", format!("sift/bundle@v1\n{} 0\n\n", "a".repeat(201))),
    ] {
        maker.bad("bundle", name, bytes);
    }

    let log = Honest::new();
    let small = Pack {
        run: run(),
        checkpoint: log.checkpoint().sign(&log_key()),
        entries: BTreeMap::from([(index(11), log.record(8).bytes().to_vec())]),
        proof: log.multi_proof(&[index(11)]),
        bundles: BTreeMap::from([(bundle().digest(), bundle().encode())]),
        objects: BTreeMap::from([(objects()[2].1.digest, objects()[2].0.as_bytes().to_vec())]),
    };
    let bytes = small.write().unwrap();
    maker.ok("pack", "one-entry", bytes.clone());
    let empty =
        Pack { entries: BTreeMap::new(), bundles: BTreeMap::new(), objects: BTreeMap::new(), ..small };
    maker.ok("pack", "no-entries", empty.write().unwrap());
    let digest = objects()[2].1.digest.hex();
    let find = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        bytes
    };
    let (central, end) = (find(b"PK\x01\x02"), bytes.len() - 22);
    for (name, changed) in [
        ("cut", with(&|b| b.truncate(b.len() - 1))),
        ("byte-more", with(&|b| b.push(0))),
        ("byte-before", with(&|b| b.insert(0, 0))),
        (
            "comment",
            with(&|b| {
                b[end + 20] = 1;
                b.push(b'x');
            }),
        ),
        ("compressed", with(&|b| b[8] = 8)),
        ("encrypted", with(&|b| b[6] = 1)),
        ("with-a-date", with(&|b| b[12] = 0x22)),
        ("checksum-changed", with(&|b| b[14] ^= 1)),
        ("size-huge", with(&|b| b[18..22].copy_from_slice(&[0xff; 4]))),
        ("name-length-huge", with(&|b| b[26..28].copy_from_slice(&[0xff; 2]))),
        ("extra-length", with(&|b| b[28] = 1)),
        ("content-changed", with(&|b| b[find(b"sift/record@v1")] ^= 1)),
        ("central-size-changed", with(&|b| b[central + 20] ^= 1)),
        ("central-offset-changed", with(&|b| b[central + 42] ^= 1)),
        ("central-name-changed", with(&|b| b[central + 46] ^= 0x20)),
        ("central-mode-changed", with(&|b| b[central + 40] ^= 0x40)),
        ("count-changed", with(&|b| b[end + 8] ^= 1)),
        ("directory-offset-changed", with(&|b| b[end + 16] ^= 1)),
        ("no-directory", with(&|b| b.truncate(central))),
        ("directory-alone", with(&|b| drop(b.drain(..central)))),
        ("member-renamed", with(&|b| b[find(b"entries/00")] ^= 0x20)),
        ("index-with-plus", with(&|b| b[find(b"entries/00") + 8] = b'+')),
        (
            "digest-in-upper-case",
            with(&|b| {
                let at = find(digest.as_bytes());
                b[at..at + 64].make_ascii_uppercase();
            }),
        ),
        ("readme-changed", with(&|b| b[find(b"This is")] ^= 0x20)),
        ("manifest-of-another-run", with(&|b| b[find(b"@v1\n019a") + 4] = b'1')),
        ("not-an-archive", b"not an archive".to_vec()),
        ("nothing", Vec::new()),
    ] {
        maker.bad("pack", name, changed);
    }
}

fn proofs(maker: &mut Maker) {
    let leaves = decimal_leaves(11);
    let tree = MemoryTree::new(leaves.iter().copied());
    let root = |n: u64| tree.root(size(n)).unwrap();
    let print = |value: serde_json::Value| format!("{value}\n");
    let wrong = leaf_hash(b"wrong");
    let inclusion = |at: u64, n: u64, leaf: Hash, root: Hash, proof: &Proof| {
        print(serde_json::json!({"index": at, "leaf": leaf, "proof": proof.0, "root": root, "size": n}))
    };
    for (at, n) in [(0, 1), (0, 8), (6, 7), (10, 11), (4, 11)] {
        let proof = prove_inclusion(index(at), size(n), &tree).unwrap();
        let leaf = leaves[at as usize];
        let name = format!("{at}-of-{n}");
        maker.ok("inclusion", &name, inclusion(at, n, leaf, root(n), &proof));
        maker.bad("inclusion", &format!("{name}.wrong-leaf"), inclusion(at, n, wrong, root(n), &proof));
        maker.bad("inclusion", &format!("{name}.wrong-root"), inclusion(at, n, leaf, wrong, &proof));
        maker.bad("inclusion", &format!("{name}.index-is-size"), inclusion(n, n, leaf, root(n), &proof));
        maker.bad("inclusion", &format!("{name}.index-beyond"), inclusion(at + 16, n, leaf, root(n), &proof));
        if n > 1 {
            maker.bad(
                "inclusion",
                &format!("{name}.other-index"),
                inclusion((at + 1) % n, n, leaf, root(n), &proof),
            );
        }
        for (number, bad) in tampered(&proof).into_iter().enumerate().filter(|(number, _)| number % 2 == 0) {
            maker.bad("inclusion", &format!("{name}.proof-{number}"), inclusion(at, n, leaf, root(n), &bad));
        }
    }
    maker.bad(
        "inclusion",
        "empty-tree",
        inclusion(0, 0, sift_spec::hash::EMPTY_ROOT, sift_spec::hash::EMPTY_ROOT, &Proof::default()),
    );
    maker.bad(
        "inclusion",
        "size-of-2-pow-53",
        inclusion(0, 1 << 53, leaves[0], leaves[0], &Proof::default()),
    );
    let consistency = |old: (u64, Hash), new: (u64, Hash), proof: &Proof| {
        print(
            serde_json::json!({"new_root": new.1, "new_size": new.0, "old_root": old.1, "old_size": old.0, "proof": proof.0}),
        )
    };
    for (old, new) in [(0, 0), (0, 5), (1, 1), (1, 2), (4, 7), (6, 8), (7, 11), (8, 11), (11, 11)] {
        let proof = prove_consistency(size(old), size(new), &tree).unwrap();
        let name = format!("{old}-to-{new}");
        let (o, n) = ((old, root(old)), (new, root(new)));
        maker.ok("consistency", &name, consistency(o, n, &proof));
        maker.bad("consistency", &format!("{name}.wrong-old-root"), consistency((old, wrong), n, &proof));
        if old > 0 {
            maker.bad("consistency", &format!("{name}.wrong-new-root"), consistency(o, (new, wrong), &proof));
        }
        if old < new {
            maker.bad("consistency", &format!("{name}.swapped"), consistency(n, o, &proof));
        }
        for (number, bad) in tampered(&proof).into_iter().enumerate().filter(|(number, _)| number % 2 == 0) {
            maker.bad("consistency", &format!("{name}.proof-{number}"), consistency(o, n, &bad));
        }
    }
    let multi = |given: &[(u64, Hash)], n: u64, root: Hash, proof: &Proof| {
        let leaves: Vec<_> =
            given.iter().map(|(at, leaf)| serde_json::json!({"index": at, "leaf": leaf})).collect();
        print(serde_json::json!({"leaves": leaves, "proof": proof.0, "root": root, "size": n}))
    };
    for (name, wanted, n) in [
        ("none-of-11", &[][..], 11),
        ("one-of-1", &[0], 1),
        ("three-of-11", &[2, 3, 9], 11),
        ("ends-of-10", &[0, 9], 10),
        ("all-of-5", &[0, 1, 2, 3, 4], 5),
    ] {
        let indices: Vec<LeafIndex> = wanted.iter().map(|at| index(*at)).collect();
        let given: Vec<(u64, Hash)> = wanted.iter().map(|at| (*at, leaves[*at as usize])).collect();
        let proof = prove_multi_inclusion(&indices, size(n), &tree).unwrap();
        maker.ok("multi-inclusion", name, multi(&given, n, root(n), &proof));
        maker.bad("multi-inclusion", &format!("{name}.wrong-root"), multi(&given, n, wrong, &proof));
        for (number, bad) in tampered(&proof).into_iter().enumerate().filter(|(number, _)| number % 2 == 0) {
            maker.bad("multi-inclusion", &format!("{name}.proof-{number}"), multi(&given, n, root(n), &bad));
        }
        let more = [&given[..], &[(n, wrong)]].concat();
        maker.bad("multi-inclusion", &format!("{name}.index-outside"), multi(&more, n, root(n), &proof));
        if let [first, rest @ ..] = &given[..] {
            let twice = [&[*first], &given[..]].concat();
            maker.bad("multi-inclusion", &format!("{name}.index-twice"), multi(&twice, n, root(n), &proof));
            maker.bad("multi-inclusion", &format!("{name}.leaf-missing"), multi(rest, n, root(n), &proof));
            let changed = [&[(first.0, wrong)], rest].concat();
            maker.bad("multi-inclusion", &format!("{name}.wrong-leaf"), multi(&changed, n, root(n), &proof));
        }
        if given.len() > 1 {
            let reversed: Vec<_> = given.iter().rev().copied().collect();
            maker.bad("multi-inclusion", &format!("{name}.not-sorted"), multi(&reversed, n, root(n), &proof));
        }
    }
}

/// Short logs: grants, publications, one run of beats.
fn logs(maker: &mut Maker) {
    let honest = Honest::new();
    let grant = |key: &SignerKey, role, scope: &str| {
        let vkey = p(&key.verifier().to_string());
        OperatorBody::Key(KeyChange::Grant(Grant { agents: vec![p(scope)], role, vkey }))
    };
    let revoke = |key: &SignerKey| {
        let vkey = p(&key.verifier().to_string());
        OperatorBody::Key(KeyChange::Revoke(Revoke { reason: p("test"), vkey }))
    };
    // The operator's entries for these bodies, chained.
    let operator = |bodies: Vec<OperatorBody>| {
        let mut entries: Vec<Entry> = Vec::new();
        for (at, body) in bodies.into_iter().enumerate() {
            entries.push(sign_operator(body, at as u64, entries.last().map(Entry::leaf)));
        }
        entries
    };
    let policy = || match honest.entries[2].content() {
        Content::Operator(record) => record.body.clone(),
        Content::Run(_) => unreachable!(),
    };
    let open = honest.record(0).clone();
    let beat = |prev: &Entry, number: u64, key: &SignerKey, change: &dyn Fn(&mut Record)| {
        let mut record = Record {
            agent: agent(),
            body: Body::Beat(Beat { records: number }),
            prev: Some(prev.leaf()),
            run: run(),
            seq: seq(number),
            time: at_ms(1000 + number),
        };
        change(&mut record);
        Entry::sign(&record, key).unwrap()
    };
    let same = |_: &mut Record| {};
    let kernel = kernel_key();
    let base = operator(vec![grant(&kernel, KeyRole::Kernel, "airline/*"), policy()]);
    let (first, second) = (beat(&open, 1, &kernel, &same), beat(&open, 2, &kernel, &same));
    let second_after_first = beat(&first, 2, &kernel, &same);
    let join = |parts: &[&[Entry]]| {
        let mut bytes = Vec::new();
        for entry in parts.concat() {
            assert!(push_entry(&mut bytes, entry.bytes()));
        }
        bytes
    };
    let with = |after: &[Entry]| join(&[&base, after]);
    maker.ok("log", "empty", Vec::new());
    maker.ok("log", "operator-alone", join(&[&base]));
    maker.ok("log", "run-of-three", with(&[open.clone(), first.clone(), second_after_first.clone()]));
    let rotated =
        SignerKey::from_seed(p("acme.example/kernel/1"), sift_spec::note::KeyType::Ed25519, &[33; 32])
            .unwrap();
    let mut bodies =
        vec![grant(&kernel, KeyRole::Kernel, "airline/*"), policy(), grant(&rotated, KeyRole::Kernel, "*")];
    let granted = operator(bodies.clone());
    bodies.push(revoke(&kernel));
    let all = operator(bodies.clone());
    let by_new = beat(&open, 1, &rotated, &same);
    maker.ok(
        "log",
        "key-rotated-in-mid-run",
        join(&[&granted, std::slice::from_ref(&open), &all[3..], &[by_new]]),
    );
    for (name, after) in [
        ("no-open", vec![first.clone()]),
        ("gap", vec![open.clone(), second_after_first.clone()]),
        ("open-twice", vec![open.clone(), open.clone()]),
        ("record-twice", vec![open.clone(), first.clone(), first.clone()]),
        ("wrong-prev", vec![open.clone(), first.clone(), second.clone()]),
        ("time-backwards", vec![open.clone(), beat(&open, 1, &kernel, &|r| r.time = at_ms(0))]),
        ("another-agent", vec![open.clone(), beat(&open, 1, &kernel, &|r| r.agent = p("airline/x"))]),
        ("agent-out-of-scope", vec![open.clone(), beat(&open, 1, &kernel, &|r| r.agent = p("bank/x"))]),
        ("unknown-key", vec![open.clone(), beat(&open, 1, &stranger_key(), &same)]),
        ("signed-by-the-operator", vec![open.clone(), beat(&open, 1, &operator_key(), &same)]),
        ("operator-chain-anew", vec![operator(vec![revoke(&kernel)])[0].clone()]),
        ("operator-entry-twice", vec![base[1].clone()]),
        ("granted-twice", vec![sign_operator(grant(&kernel, KeyRole::Kernel, "*"), 2, Some(base[1].leaf()))]),
        ("published-twice", vec![sign_operator(policy(), 2, Some(base[1].leaf()))]),
        ("revoked-but-not-granted", vec![sign_operator(revoke(&stranger_key()), 2, Some(base[1].leaf()))]),
        (
            "log-key-granted",
            vec![sign_operator(grant(&log_key(), KeyRole::Kernel, "*"), 2, Some(base[1].leaf()))],
        ),
    ] {
        maker.bad("log", name, with(&after));
    }
    let only_policy = operator(vec![policy()]);
    maker.bad("log", "key-never-granted", join(&[&only_policy, std::slice::from_ref(&open)]));
    maker.bad("log", "key-granted-after", join(&[std::slice::from_ref(&open), &base]));
    let no_policy = operator(vec![grant(&kernel, KeyRole::Kernel, "airline/*")]);
    maker.bad("log", "policy-not-published", join(&[&no_policy, std::slice::from_ref(&open)]));
    maker.bad("log", "key-revoked", join(&[&all, std::slice::from_ref(&open)]));
    maker.bad(
        "log",
        "key-revoked-in-mid-run",
        join(&[&granted, std::slice::from_ref(&open), &all[3..], std::slice::from_ref(&first)]),
    );
    let approver = operator(vec![grant(&kernel, KeyRole::Approver(p("x")), "*"), policy()]);
    maker.bad("log", "granted-as-approver", join(&[&approver, std::slice::from_ref(&open)]));
    let regrant = sign_operator(grant(&kernel, KeyRole::Kernel, "*"), 4, Some(all[3].leaf()));
    maker.bad("log", "granted-again-after-revocation", join(&[&all, &[regrant]]));
    let renamed =
        SignerKey::from_seed(p("acme.example/kernel/2"), sift_spec::note::KeyType::Ed25519, &[34; 32])
            .unwrap();
    let two =
        operator(vec![grant(&kernel, KeyRole::Kernel, "*"), policy(), grant(&renamed, KeyRole::Kernel, "*")]);
    maker.bad("log", "another-key-name", join(&[&two, &[open.clone(), beat(&open, 1, &renamed, &same)]]));
    let forged = sign_forged(&base[0]);
    maker.bad("log", "operator-forged", join(&[&[forged]]));
    let whole = with(std::slice::from_ref(&open));
    maker.bad("log", "cut", whole[..whole.len() - 1].to_vec());
    maker.bad("log", "cut-in-a-length", [&whole[..], &[0]].concat());
}

/// The operator's record under another key.
fn sign_forged(entry: &Entry) -> Entry {
    match entry.content() {
        Content::Operator(record) => Entry::sign_operator(record, &stranger_key()).unwrap(),
        Content::Run(_) => unreachable!(),
    }
}
