//! AgentDojo, which others wrote: its environments, its tasks and its attacks, and its own judgement of what happened.
//! The whole of it is `make agentdojo`; here is the quick mode of one suite.

use std::process::Command;

use serde_json::Value;
use sift_tests::{program, python};

const HARNESS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/agentdojo");

#[test]
fn a_hijacked_agent_gets_nowhere_that_nobody_approves() {
    let requirements = format!("{HARNESS}/requirements.txt");
    let python = match python::environment("agentdojo-0.1.35", &["-r", &requirements]) {
        Ok(venv) => venv.join("bin/python"),
        Err(why) => return println!("skipped: agentdojo is not to be had: {why}"),
    };
    let dir = tempfile::tempdir().unwrap();
    let outcomes = dir.path().join("outcomes.json");
    let binaries = program("sift-kernel");
    let mut command = Command::new(python);
    command.current_dir(HARNESS).args([
        "-B",
        "-m",
        "sift_agentdojo",
        "--suite",
        "banking",
        "--limit",
        "10",
        "--verify",
        "5",
    ]);
    command.arg("--bin").arg(binaries.parent().unwrap()).arg("--json").arg(&outcomes);
    let output = command.output().unwrap();
    // It fails when Rego and Cedar differ in a verdict, or a pack does not verify.
    assert!(output.status.success(), "{output:?}");
    let cells: Vec<Value> = serde_json::from_slice(&std::fs::read(outcomes).unwrap()).unwrap();
    let attacked = |cell: &Value| {
        let outcomes = cell["outcomes"].as_array().unwrap().iter();
        outcomes.filter(|outcome| outcome["attacked"] == true).count()
    };
    assert_eq!(cells.len(), 7, "no boundary, and two engines with three approvers");
    for cell in &cells {
        let expected = match cell["approver"].as_str().unwrap() {
            "nobody" | "attentive" => 0,
            _ => 10,
        };
        assert_eq!(attacked(cell), expected, "{} {}", cell["engine"], cell["approver"]);
    }
}
