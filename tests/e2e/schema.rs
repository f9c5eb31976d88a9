//! The published schema of `sift-verify --json`, read by a validator that others wrote: it accepts every line that the
//! vectors give, and no line with a member more or less.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;
use sift_tests::{program, python};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec/vectors/finding");

/// Reads the schema and then lines; says how many fit, and fails on the first that does not or that fits although changed.
const VALIDATE: &str = r#"
import json, sys
from jsonschema import Draft202012Validator
schema = json.loads(sys.stdin.readline())
Draft202012Validator.check_schema(schema)
validator, count = Draft202012Validator(schema), 0
for line in sys.stdin:
    value = json.loads(line)
    validator.validate(value)
    assert not validator.is_valid(value | {"more": 1}), line
    for name in value:
        assert not validator.is_valid({k: v for k, v in value.items() if k != name}), (name, line)
    count += 1
print(count)
"#;

fn printed(arguments: &[&str]) -> String {
    let output = Command::new(program("sift-verify")).args(arguments).current_dir(FOLDER).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_validator_by_others_reads_the_schema_the_same() {
    let venv = match python::environment("jsonschema", &["jsonschema==4.25.1"]) {
        Ok(venv) => venv,
        Err(why) if std::env::var_os("CI").is_none() => {
            return println!("skipped: Python's jsonschema is not to be had: {why}");
        }
        Err(why) => panic!("Python's jsonschema is not to be had: {why}"),
    };
    let schema: Value = serde_json::from_str(&printed(&["schema"])).unwrap();
    let mut input = format!("{schema}\n") + &printed(&["explain", "--json"]);
    let cases = std::fs::read_to_string(format!("{FOLDER}/cases.jsonl")).unwrap();
    for case in cases.lines() {
        let case: Value = serde_json::from_str(case).unwrap();
        let arguments = case["arguments"].as_array().unwrap().iter().filter_map(Value::as_str);
        input += &printed(&arguments.chain(["--json"]).collect::<Vec<_>>());
    }
    let lines = input.lines().count() - 1;
    let mut python = Command::new(venv.join("bin/python"))
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), lines.to_string(), "{said}");
    assert!(lines > 100);
}
