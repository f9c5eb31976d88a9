//! A vector for every code: evidence on disk that gives exactly it, and for what only a follower sees what it had seen and
//! what the log serves then. They are in `spec/vectors/finding`, so that another verifier can be asked the same; `SIFT_WRITE=1 cargo test --workspace --test findings` writes them anew.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod copies;
mod maker;
mod schema;
mod watched;
mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use maker::{Case, Vectors, made};
use serde_json::Value;
use sift_verify::{Code, Gap};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec/vectors/finding");

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

/// A finding has evidence that gives it and no other; a gap has evidence that leaves it.
#[test]
fn every_code_has_a_vector() {
    let Vectors { cases, watches, .. } = made();
    for code in Code::ALL {
        let case = cases.iter().any(|case| case.code == code.code() && case.findings == [*code]);
        let watch = watches.iter().any(|watch| watch.code == code.code() && watch.finding == *code);
        assert!(case || watch, "{code} has no vector that gives exactly it");
    }
    for gap in Gap::ALL {
        let case = cases.iter().any(|case| case.code == gap.code() && case.unchecked.contains(gap));
        assert!(case, "{gap} has no vector");
    }
    let codes = Code::ALL.iter().map(|code| code.code()).chain(Gap::ALL.iter().map(|gap| gap.code()));
    let codes: BTreeSet<&str> = codes.collect();
    let of = cases.iter().map(|case| case.code).chain(watches.iter().map(|watch| watch.code));
    assert_eq!(of.collect::<BTreeSet<_>>(), codes, "and nothing else has one");
}

struct Ran {
    exit: i32,
    /// On each of two copies that are compared, then on what was asked for.
    reports: Vec<Value>,
}

impl Ran {
    fn report(&self) -> &Value {
        self.reports.last().unwrap()
    }
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
    let reports: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), case.sides.len() + 1, "{:?}", case.arguments);
    Ran { exit: output.status.code().unwrap(), reports }
}

fn codes<'a>(report: &'a Value, member: &str) -> Vec<&'a str> {
    let list = report[member].as_array().unwrap();
    let mut codes: Vec<&str> = list.iter().map(|item| item["code"].as_str().unwrap()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// Whether a report has these findings, each once, and these gaps.
fn says(report: &Value, findings: &[Code], unchecked: &[Gap]) -> bool {
    let mut findings: Vec<&str> = findings.iter().map(|code| code.code()).collect();
    findings.sort_unstable();
    let mut unchecked: Vec<&str> = unchecked.iter().map(|gap| gap.code()).collect();
    unchecked.sort_unstable();
    codes(report, "findings") == findings
        && report["findings"].as_array().unwrap().len() == findings.len()
        && codes(report, "unchecked") == unchecked
}

#[test]
fn each_vector_gives_exactly_its_codes() {
    let mut failures = String::new();
    for case in made().cases {
        let ran = ran(&case, &[]);
        let sides = case.sides.iter().map(|side| (&side.findings, &side.unchecked));
        let expected: Vec<_> = sides.chain([(&case.findings, &case.unchecked)]).collect();
        let mut right = ran.exit == case.exit();
        for (report, (findings, unchecked)) in ran.reports.iter().zip(&expected) {
            right &= says(report, findings, unchecked);
        }
        if !right {
            let exit = ran.exit;
            failures += &format!("\n== {:?}: expected {expected:?}, exit {exit}", case.arguments);
            ran.reports.iter().for_each(|report| failures += &format!("\n{report:#}"));
        }
        println!("{:22} {:9} {}", case.code, ran.exit, case.arguments.join(" "));
    }
    assert!(failures.is_empty(), "{failures}");
}

/// Nothing that could not be checked passes strictly, but for what no evidence could show.
#[test]
fn strictly_every_gap_is_a_failure() {
    for case in made().cases {
        let strict = ran(&case, &["--strict"]);
        assert_eq!(strict.exit, case.exit_strict(), "{:?}", case.arguments);
        let rejected = strict.reports.iter().any(|report| report["verdict"] == "rejected");
        assert_eq!(rejected, strict.exit == 1);
    }
}

/// `replay` gives no code of its own: what it says of a pack is what `run` says, and so is its exit code.
#[test]
fn a_replayed_pack_gives_the_codes_of_run() {
    let mut replayed = 0;
    for mut case in made().cases.into_iter().filter(|case| case.arguments[0] == "run") {
        for more in [&[][..], &["--strict"]] {
            let of_run = ran(&case, more);
            case.arguments[0] = "replay".to_owned();
            let output = Command::new(env!("CARGO_BIN_EXE_sift-verify"))
                .args(&case.arguments)
                .args(["--json"])
                .args(more)
                .current_dir(FOLDER)
                .output()
                .unwrap();
            case.arguments[0] = "run".to_owned();
            let printed = String::from_utf8(output.stdout).unwrap();
            common::schema::hold_all(&printed);
            let pack: Value = serde_json::from_str(printed.lines().next().unwrap()).unwrap();
            assert_eq!(pack["report"], *of_run.report(), "{:?}", case.arguments);
            let became = if of_run.exit == 0 { "replayed" } else { "rejected" };
            assert_eq!((output.status.code(), &pack["pack"]), (Some(of_run.exit), &Value::from(became)));
        }
        replayed += 1;
    }
    assert!(replayed > 50, "{replayed}");
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
        let ran = ran(&case, &[]);
        let report = ran.report();
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
        let ran = ran(&case.unwrap(), &[]);
        let report = ran.report();
        assert!(report["findings"][0]["offset"].is_u64(), "{code} of {verb}: {report:#}");
    }
}
