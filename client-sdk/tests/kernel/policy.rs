//! `sift-kernel policy`: bundles checked, tried, explained and simulated by the program that an author runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use sift_client::bundle_dir;
use sift_client::policy::{case, trial};
use sift_rules::PolicyBundle;
use tempfile::TempDir;

/// A folder with a bundle, and the program.
pub(crate) struct Bench {
    dir: TempDir,
}

const POLICY: &str = "package sift

allow contains {\"rule\": \"read\"} if input.call.name == \"read\"

deny contains {\"rule\": \"twice\", \"reason\": \"once is enough\"} if {
	input.call.name == \"read\"
	input.run.tools.read.allowed >= 2
}

hold contains {\"rule\": \"pay\", \"reason\": \"a person decides\", \"role\": \"boss\", \"seconds\": 60} if {
	input.call.name == \"pay\"
}
";

impl Bench {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        files.iter().for_each(|(path, text)| bench.write(path, text));
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sift-kernel"));
        command.arg("policy").args(args).current_dir(self.dir.path()).output().unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> (i32, Value) {
        let output = self.run(&[&["--json"], args].concat());
        let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        (output.status.code().unwrap(), value)
    }
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn airline(engine: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/airline").join(engine)
}

/// Both bundles of the airline pass their own cases, which reach every rule that can decide a call.
#[test]
fn the_airlines_cases_pass_in_both_engines() {
    let files = ["rego", "cedar"].map(|engine| {
        let bundle = bundle_dir::read(&airline(engine)).unwrap();
        let compiled = PolicyBundle::compile(&bundle).unwrap();
        let (cases, wrong) = case::read(&bundle);
        assert_eq!(wrong, []);
        let trial = trial::run(&bundle, &compiled, &cases);
        let failed: Vec<_> = trial.tried.iter().filter(|tried| !tried.differences.is_empty()).collect();
        assert!(failed.is_empty() && trial.tried.len() >= 60, "{engine}: {failed:#?}");
        let unfired: Vec<&str> = trial.unfired.iter().map(|rule| rule.name.as_str()).collect();
        assert!(unfired.is_empty(), "{engine}: {unfired:?}");
        bundle.files()["tests/airline.json"].clone()
    });
    assert_eq!(files[0], files[1], "the cases that both engines share");
}

#[test]
fn check_prints_all_problems_with_their_places() {
    let bench = Bench::new(&[
        ("b/policy.rego", "package sift\n\nallow contains {\"rule\": \"read\" if true\n"),
        ("b/budget.toml", "[run]\ntool_cals = 5\n"),
        (
            "b/tests/a.json",
            "[{\"name\": \"x\", \"call\": {\"tool\": \"t\"}, \"expect\": {\"effect\": \"no\"}}]",
        ),
    ]);
    let output = bench.run(&["check", "b"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in
        ["error: policy.rego:3: ", "error: budget.toml:2: unknown key", "error: tests/a.json: case \"x\""]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(stderr(&output).contains("b: 3 errors"), "{output:?}");

    bench.write("b/policy.rego", POLICY);
    bench.write("b/budget.toml", "[run]\ntool_calls = 5\nwall_clock_seconds = 60\n");
    bench.write("b/tests/a.json", "[]");
    let (code, report) = bench.json(&["check", "b"]);
    assert_eq!((code, &report["errors"], &report["warnings"]), (0, &json!(0), &json!(0)), "{report}");
    assert_eq!(report["bundle"]["tools"], json!(["pay", "read"]));
    let rule = |n: usize| {
        (
            report["bundle"]["rules"][n]["rule"].as_str().unwrap(),
            report["bundle"]["rules"][n]["line"].as_u64().unwrap(),
        )
    };
    assert_eq!((rule(0), rule(1), rule(2)), (("read", 3), ("twice", 5), ("pay", 10)));
    let text = stdout(&bench.run(&["check", "b"]));
    assert!(text.contains("tool_calls") && text.contains("60 s"), "{text}");
    let digest: Value = serde_json::from_slice(&bench.run(&["--json", "digest", "b"]).stdout).unwrap();
    assert_eq!(digest["digest"], report["bundle"]["digest"]);

    std::fs::remove_file(bench.path("b/budget.toml")).unwrap();
    assert_eq!(bench.run(&["check", "b"]).status.code(), Some(0));
    let strict = bench.run(&["check", "b", "--strict"]);
    assert_eq!(strict.status.code(), Some(1));
    assert!(stdout(&strict).contains("warning: no limits"), "{strict:?}");
    assert_eq!(bench.run(&["check", "nowhere"]).status.code(), Some(2));
}

const CASES: &str = r#"[
  { "name": "reads", "call": { "tool": "read" }, "expect": { "effect": "allow", "rules": ["read"] } },
  { "name": "reads thrice",
    "given": [{ "call": { "tool": "read" }, "result": { "a": 1 }, "repeat": 2 }],
    "call": { "tool": "read" },
    "expect": { "effect": "deny", "rules": ["twice"], "reasons": ["once is enough"] } }
]"#;

#[test]
fn test_says_what_differs_and_what_no_case_reaches() {
    let bench = Bench::new(&[("b/policy.rego", POLICY), ("b/tests/a.json", CASES)]);
    let output = bench.run(&["test", "b"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    assert!(
        text.contains("2 passed, 0 failed")
            && text.contains("2 of 3 rules")
            && text.contains("policy.rego:10: hold pay"),
        "{text}"
    );
    assert_eq!(bench.run(&["test", "b", "--cover"]).status.code(), Some(1));

    bench.write(
        "b/tests/wrong.json",
        r#"[{ "name": "pays", "call": { "tool": "pay" }, "expect": { "effect": "allow" } },
            { "name": "history", "given": [{ "call": { "tool": "pay" } }], "call": { "tool": "read" }, "expect": { "effect": "allow" } },
            { "name": "held", "given": [{ "call": { "tool": "pay" }, "effect": "hold", "result": null }], "call": { "tool": "pay" },
              "expect": { "effect": "hold", "hold": { "approvals": [{ "count": 1, "role": "boss" }], "seconds": 61 } } }]"#,
    );
    let (code, report) = bench.json(&["test", "b"]);
    assert_eq!((code, &report["passed"], &report["failed"]), (1, &json!(2), &json!(3)), "{report}");
    let differs = |n: usize| report["cases"][n]["differences"][0].clone();
    assert_eq!(
        differs(2),
        json!({ "what": "effect", "expected": "allow", "found": "hold by pay (a person decides)" })
    );
    assert_eq!(
        differs(3),
        json!({ "what": "given[0]", "expected": "allow", "found": "hold by pay (a person decides)" })
    );
    assert_eq!(
        differs(4),
        json!({ "what": "hold", "expected": "boss within 61 seconds", "found": "boss within 60 seconds" })
    );
    let text = stdout(&bench.run(&["test", "b", "--filter", "pays"]));
    assert!(
        text.contains("FAIL") && text.contains("expected  allow") && text.contains("4 left out"),
        "{text}"
    );
    assert_eq!(bench.run(&["test", "b", "--filter", "reads"]).status.code(), Some(0));
    assert_eq!(bench.run(&["test", "b", "--filter", "nothing"]).status.code(), Some(2));
}

#[test]
fn cases_that_cannot_be_read_are_refused_by_name() {
    let bench = Bench::new(&[("b/policy.rego", POLICY)]);
    let call = r#""call": { "tool": "read" }, "expect": { "effect": "allow" }"#;
    for (cases, part) in [
        (format!("[{{ \"name\": \"a\", \"colour\": 1, {call} }}]"), "case \"a\": unknown field `colour`"),
        (format!("[{{ \"name\": \"a\", {call} }}, {{ \"name\": \"a\", {call} }}]"), "used twice"),
        (format!("[{{ \"name\": \"a\", \"name\": \"b\", {call} }}]"), "twice"),
        (r#"[{ "name": "a", "call": { "tool": "t", "model": "m" }, "expect": { "effect": "allow" } }]"#.to_owned(), "a call is"),
        (r#"[{ "name": "a", "call": { "tool": "t" }, "expect": { "effect": "allow", "hold": { "approvals": [{ "count": 1, "role": "x" }], "seconds": 1 } } }]"#.to_owned(), "hold belongs"),
        (format!("[{{ \"name\": \"a\", \"depth\": 65, {call} }}]"), "depth"),
        (format!("[{{ \"name\": \"a\", \"given\": [{{ \"call\": {{ \"tool\": \"t\" }}, \"repeat\": 0 }}], {call} }}]"), "given[0]: repeat"),
        ("{}".to_owned(), "not a list"),
    ] {
        bench.write("b/tests/a.json", &cases);
        let output = bench.run(&["test", "b"]);
        assert_eq!(output.status.code(), Some(2), "{cases}");
        assert!(stderr(&output).contains(part), "{cases}: {}", stderr(&output));
        let check = bench.run(&["check", "b"]);
        assert!(stdout(&check).contains(part) && check.status.code() == Some(1), "{cases}: {check:?}");
    }
    let none = bench.run(&["test", "b"]);
    assert_eq!(none.status.code(), Some(2));
}
