//! A vector for every code: evidence on disk that gives exactly it. They are in `spec/vectors/finding`, so that another
//! verifier can be asked the same; `SIFT_WRITE=1 cargo test --workspace --test findings` writes them anew.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod maker;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use maker::{Case, made};
use serde_json::Value;
use sift_verify::{Code, Gap};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec/vectors/finding");

/// Codes that none of the verbs `run`, `proof`, `log` and `consistency` gives, and the test that has their vectors.
const ELSEWHERE: &[(&str, &str)] = &[
    ("head-older", "--test follow"),
    ("head-stale", "--test follow"),
    ("copies-differ", "--test diff"),
    ("only-in-one", "--test diff"),
    ("heads-uncompared", "--test diff"),
];

fn on_disk(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for item in fs::read_dir(folder).unwrap() {
        let item = item.unwrap();
        let name = format!("{prefix}{}", item.file_name().to_str().unwrap());
        if item.path().is_dir() {
            on_disk(&item.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, fs::read(item.path()).unwrap());
        }
    }
}

#[test]
fn the_folder_is_what_is_made() {
    let made = made().files;
    let folder = Path::new(FOLDER);
    if std::env::var_os("SIFT_WRITE").is_some() {
        let _ = fs::remove_dir_all(folder);
        for (path, bytes) in &made {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
    let mut files = BTreeMap::new();
    on_disk(folder, "", &mut files);
    assert_eq!(files.keys().collect::<Vec<_>>(), made.keys().collect::<Vec<_>>(), "files and maker");
    for (path, bytes) in &made {
        assert!(files[path] == *bytes, "{path} is not what is made");
    }
    let bytes: usize = files.values().map(Vec::len).sum();
    println!("{} files, {bytes} bytes", files.len());
    assert!(bytes < 2 << 20, "vectors are small");
}

#[test]
fn every_code_has_a_vector() {
    let with: BTreeSet<&str> = made().cases.iter().map(|case| case.code).collect();
    let codes = Code::ALL.iter().map(|code| code.code()).chain(Gap::ALL.iter().map(|gap| gap.code()));
    for code in codes {
        let elsewhere = ELSEWHERE.iter().any(|(other, _)| *other == code);
        assert!(with.contains(code) != elsewhere, "{code} has no vector, or is said to have it elsewhere");
    }
}

struct Ran {
    exit: i32,
    report: Value,
}

fn ran(case: &Case, more: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_sift-verify"))
        .args(&case.arguments)
        .arg("--json")
        .args(more)
        .current_dir(FOLDER)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(printed.lines().count(), 1, "{:?}", case.arguments);
    Ran { exit: output.status.code().unwrap(), report: serde_json::from_str(&printed).unwrap() }
}

fn codes<'a>(report: &'a Value, member: &str) -> Vec<&'a str> {
    let list = report[member].as_array().unwrap();
    let mut codes: Vec<&str> = list.iter().map(|item| item["code"].as_str().unwrap()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[test]
fn each_vector_gives_exactly_its_codes() {
    let mut failures = String::new();
    for case in made().cases {
        let Ran { exit, report } = ran(&case, &[]);
        let mut unchecked: Vec<&str> = case.unchecked.iter().map(|gap| gap.code()).collect();
        unchecked.sort_unstable();
        let findings: Vec<&str> = case.findings.iter().map(|code| code.code()).collect();
        let right = codes(&report, "findings") == findings
            && report["findings"].as_array().unwrap().len() == findings.len()
            && codes(&report, "unchecked") == unchecked
            && exit == i32::from(!findings.is_empty());
        if !right {
            failures += &format!(
                "\n== {:?}: expected {findings:?} {unchecked:?}, exit {exit}\n{report:#}",
                case.arguments
            );
        }
        println!("{:22} {:9} {}", case.code, exit, case.arguments.join(" "));
    }
    assert!(failures.is_empty(), "{failures}");
}

/// Nothing that could not be checked passes strictly, but for what no evidence could show.
#[test]
fn strictly_every_gap_is_a_failure() {
    for case in made().cases {
        let strict = ran(&case, &["--strict"]);
        let lacking = case.unchecked.iter().any(|gap| !gap.is_out_of_scope());
        let expected = i32::from(lacking || !case.findings.is_empty());
        assert_eq!(strict.exit, expected, "{:?}", case.arguments);
        assert_eq!(strict.report["verdict"] == "rejected", expected == 1);
    }
}

/// SPEC §13 is this list, in this order.
#[test]
fn the_specification_lists_every_code() {
    const SPEC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec/SPEC.md");
    let rows = |codes: Vec<(&str, &str)>| -> String {
        codes.iter().map(|(code, meaning)| format!("| `{code}` | {meaning} |\n")).collect()
    };
    let findings = rows(Code::ALL.iter().map(|code| (code.code(), code.meaning())).collect());
    let gaps = rows(Gap::ALL.iter().map(|gap| (gap.code(), gap.meaning())).collect());
    let tables = format!(
        "| found to be wrong | |\n| --- | --- |\n{findings}\n| could not be checked | |\n| --- | --- |\n{gaps}"
    );
    let spec = fs::read_to_string(SPEC).unwrap();
    let start = spec.find("| found to be wrong |").unwrap();
    if std::env::var_os("SIFT_WRITE").is_some() {
        fs::write(SPEC, format!("{}{tables}", &spec[..start])).unwrap();
    } else {
        assert_eq!(spec[start..], tables, "SIFT_WRITE=1 writes the tables anew");
    }
}

/// A finding says what it concerns, unless that is all of the evidence; it says how grave it is, and what was found.
#[test]
fn each_finding_says_where_and_what() {
    let of_all =
        ["consistency-unproven", "heads-inconsistent", "not-included", "root-differs", "tile-differs"];
    let mut somewhere = 0;
    for case in made().cases {
        let report = ran(&case, &[]).report;
        for finding in report["findings"].as_array().unwrap() {
            let text = |name: &str| finding[name].as_str().unwrap().to_owned();
            assert!(text("detail").len() > 10 && ["rejects", "warns"].contains(&text("severity").as_str()));
            let places = ["index", "run", "seq", "object", "path", "offset"];
            let told = places.iter().any(|place| finding.get(place).is_some());
            somewhere += u32::from(told);
            assert!(told || of_all.contains(&text("code").as_str()), "{:?}: {finding}", case.arguments);
        }
    }
    assert!(somewhere > 50);
}

#[test]
fn what_is_malformed_is_told_by_its_first_wrong_byte() {
    for (code, verb) in [
        ("pack-malformed", "run"),
        ("receipt-malformed", "proof"),
        ("record-malformed", "run"),
        ("record-malformed", "proof"),
    ] {
        let case = made().cases.into_iter().find(|case| case.code == code && case.arguments[0] == verb);
        let report = ran(&case.unwrap(), &[]).report;
        assert!(report["findings"][0]["offset"].is_u64(), "{code} of {verb}: {report:#}");
    }
}
