//! Packs made to hurt whoever reads them: what they cost is bounded by their size, and each ends in a report.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::time::Instant;

use common::kernel::honest;
use common::{Scenario, trust};
use peak_alloc::PeakAlloc;
use sift_spec::bundle::Bundle;
use sift_spec::evidence::Pack;
use sift_spec::payload::{CONTENT_BYTES_MAX, Object};
use sift_spec::record::{Body, OperatorBody};
use sift_spec::types::{Hash, LeafIndex};
use sift_verify::run::{self, Options};
use sift_verify::{Code, Verdict};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// Most bytes of heap for each byte of a pack, beside [`REST_MAX`].
const BYTES_PER_BYTE: usize = 2;

/// Heap that no pack has to pay for: compiling a policy takes what it takes.
const REST_MAX: usize = 64 * MIB;

/// No report takes longer, in seconds; a tenth of it is usual.
const SECONDS_MAX: u64 = 60;

fn verified(name: &str, pack: &[u8]) -> (Verdict, Vec<Code>) {
    HEAP.reset_peak_usage();
    let (before, started) = (HEAP.current_usage(), Instant::now());
    let report = run::verify(pack, &trust(), &Options::default());
    let (peak, took) = (HEAP.peak_usage() - before, started.elapsed());
    let codes: Vec<Code> = report.findings().iter().map(|finding| finding.code).collect();
    let [size, peak_mib] = [pack.len(), peak].map(|bytes| bytes as f64 / MIB as f64);
    let (number, first) = (codes.len() as u64 + report.findings_unlisted(), codes.first());
    println!(
        "{name:42} {size:6.1} MiB  peak {peak_mib:6.1} MiB  {took:8.1?}  {number} findings, first {first:?}"
    );
    assert!(peak <= BYTES_PER_BYTE * pack.len() + REST_MAX, "{name}: {peak} bytes for {}", pack.len());
    assert!(took.as_secs() < SECONDS_MAX, "{name}: {took:?}");
    (report.verdict(), codes)
}

/// Members of a ZIP archive by their local headers only.
fn local_headers(members: impl Iterator<Item = String>, size: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for name in members {
        out.extend_from_slice(b"PK\x03\x04");
        out.extend_from_slice(&[0; 14]);
        out.extend_from_slice(&[size.to_le_bytes(), size.to_le_bytes()].concat());
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(name.as_bytes());
    }
    out
}

fn empty_pack() -> Pack {
    Pack { bundles: BTreeMap::new(), objects: BTreeMap::new(), entries: BTreeMap::new(), ..honest().pack() }
}

fn many_entries(number: u64, entry: &[u8]) -> Vec<u8> {
    let entries = (0..number).map(|index| (LeafIndex::new(index).unwrap(), entry.to_vec())).collect();
    Pack { entries, ..honest().pack() }.write().unwrap()
}

/// An otherwise honest run whose policy is this file.
fn with_policy(path: &str, source: &str) -> Vec<u8> {
    let mut scenario: Scenario = honest();
    let rego = b"package sift\nallow contains {\"rule\": \"all\"} if true\n".to_vec();
    let mut files = vec![(path.to_owned(), source.as_bytes().to_vec())];
    if !path.contains("policy.") && !path.contains("cedar") {
        files.push(("policy.rego".to_owned(), rego));
    }
    scenario.bundle = Bundle::new(files).unwrap();
    if let Body::Open(open) = &mut scenario.drafts[0].body {
        open.policy = scenario.bundle.digest();
    }
    for body in &mut scenario.operator_before {
        if let OperatorBody::Policy(policy) = body {
            policy.bundle = scenario.bundle.digest();
            policy.size = scenario.bundle.encode().len() as u64;
        }
    }
    scenario.pack().write().unwrap()
}

/// One test, because all share one heap.
#[test]
fn what_a_pack_costs_is_bounded_by_its_size() {
    let refused = |name: &str, pack: &[u8], code: Code| {
        assert_eq!(verified(name, pack), (Verdict::Rejected, vec![code]), "{name}");
    };
    let rejected = |name: &str, pack: &[u8], code: Code| {
        let (verdict, codes) = verified(name, pack);
        assert!(verdict == Verdict::Rejected && codes.contains(&code), "{name}: {codes:?}");
    };
    let honest_pack = honest().pack().write().unwrap();
    assert_eq!(verified("honest", &honest_pack).0, Verdict::Verified);

    // Archives.
    refused("nothing", b"", Code::PackMalformed);
    refused("zeros", &vec![0; 64 * MIB], Code::PackMalformed);
    refused("half of a pack", &honest_pack[..honest_pack.len() / 2], Code::PackMalformed);
    refused("a pack twice", &honest_pack.repeat(2), Code::PackMalformed);
    let headers = local_headers((0..1_000_000).map(|n| format!("entries/{n:016}.note")), 0);
    refused("a million members, no directory", &headers, Code::PackMalformed);
    let headers = local_headers((0..500_000).map(|_| String::new()), 0);
    refused("half a million members without name", &headers, Code::PackMalformed);
    let huge = local_headers(["manifest".to_owned()].into_iter(), u32::MAX);
    refused("a member of 4 GiB that is not there", &huge, Code::PackMalformed);
    for name in
        ["../../etc/passwd", "/etc/passwd", "entries/../manifest", "objects\\x", "C:\\x", "manifest\0"]
    {
        let header = local_headers([name.to_owned()].into_iter(), 0);
        // With what could be a directory.
        let pack = [header.as_slice(), b"PK\x01\x02", &[0; 100]].concat();
        refused(&name.escape_default().to_string(), &pack, Code::PackMalformed);
    }
    let header = local_headers(["a/".repeat(30_000)].into_iter(), 0);
    let pack = [header.as_slice(), b"PK\x01\x02", &[0; 70_000]].concat();
    refused("a path of 60,000 bytes", &pack, Code::PackMalformed);

    // Entries, payloads and bundles that nothing asks for.
    rejected("400,000 entries of nothing", &many_entries(400_000, b""), Code::NotIncluded);
    rejected("200,000 entries of one byte", &many_entries(200_000, b"x"), Code::RecordMalformed);
    let deep = format!("sift/record@v1\n{}\n\n", "[".repeat(60_000));
    rejected("500 entries of deep JSON", &many_entries(500, deep.as_bytes()), Code::RecordMalformed);
    let signatures = format!("sift/record@v1\n{{}}\n\n{}", "— a AAAAAAAA\n".repeat(4_000));
    rejected(
        "500 entries of 4,000 signatures",
        &many_entries(500, signatures.as_bytes()),
        Code::RecordMalformed,
    );
    let objects = (0..4_u8).map(|salt| Object::new([salt; 16], &vec![0; CONTENT_BYTES_MAX]).unwrap());
    let objects = objects.map(|object| (object.digest(), object.as_bytes().to_vec())).collect();
    let pack = Pack { objects, ..honest().pack() }.write().unwrap();
    rejected("four payloads of 16 MiB for nobody", &pack, Code::PayloadUnknown);
    let objects = (0..300_000_u32).map(|n| (hash_of(n), Vec::new())).collect();
    let pack = Pack { objects, ..honest().pack() }.write().unwrap();
    rejected("300,000 payloads of nothing", &pack, Code::PayloadUnknown);
    let bundles = (0..300_000_u32).map(|n| (hash_of(n), Vec::new())).collect();
    let pack = Pack { bundles, ..empty_pack() }.write().unwrap();
    rejected("300,000 bundles of nothing", &pack, Code::NotIncluded);
    let checkpoint = "x\n".repeat(10 * MIB);
    let pack = Pack { checkpoint, ..honest().pack() }.write().unwrap();
    rejected("a checkpoint of 20 MiB", &pack, Code::CheckpointInvalid);

    // Policies.
    let rego = |body: &str| format!("package sift\nallow contains {{\"rule\": \"all\"}} if true\n{body}\n");
    let cedar = |when: &str| format!("@id(\"all\") permit (principal, action, resource) when {{ {when} }};");
    let around =
        |open: &str, times: usize, close: &str| format!("{}1{}", open.repeat(times), close.repeat(times));
    let policies = [
        ("policy.rego", rego(&format!("x := {}", around("[", 31, "]")))),
        ("policy.rego", rego(&format!("x := {}", around("{", 31, "}")))),
        ("policy.rego", rego(&format!("x := {}", around("(", 100_000, ")")))),
        ("policy.rego", rego(&format!("x if {{\n{}}}", "true\n".repeat(19_000)))),
        ("policy.rego", "x".repeat(7 * MIB)),
        ("policy.cedar", cedar(&around("(", 100_000, ")"))),
        ("policy.cedar", cedar(&format!("{}true", "true && ".repeat(100_000)))),
        ("policy.cedar", cedar(&format!("context{} == 1", ".a".repeat(100_000)))),
        ("policy.cedar", cedar(&"if true then ".repeat(100_000))),
        ("schema.cedarschema", format!("type A = {}Long{};", "Set<".repeat(100_000), ">".repeat(100_000))),
        ("data.json", format!("{{\"a\":{}}}", around("[", 100_000, "]"))),
        ("budget.toml", format!("a = {}", around("[", 100_000, "]"))),
        ("budget.toml", format!("a{} = 1", ".a".repeat(100_000))),
        ("facts.toml", "[[fact]]\n".repeat(100_000)),
        ("prices.toml", "[[model]]\n".repeat(100_000)),
    ];
    for (number, (path, source)) in policies.iter().enumerate() {
        rejected(&format!("{path} {number}"), &with_policy(path, source), Code::BundleDiffers);
    }
}

fn hash_of(n: u32) -> Hash {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    Hash::from_bytes(bytes)
}
