//! Kernels over a test log: one bundle that allows, denies and holds, and the shortest way to call a tool.

use std::path::Path;
use std::time::Duration;

use sift_client::{Config, Payload, Permit, Report, Run, ToolCall, Verdict};
use sift_spec::bundle::Bundle;
use sift_spec::trust::TrustPolicy;

/// Files of the bundle that test kernels decide by.
pub const BUNDLE: [(&str, &str); 3] = [
    (
        "policy.rego",
        r#"package sift

allow contains {"rule": "act"} if input.call.name == "act"

allow contains {"rule": "model"} if input.call.kind == "model"

hold contains {"rule": "ask", "reason": "somebody must look", "role": "supervisor", "seconds": 60} if {
	input.call.name == "ask"
}

deny contains {"rule": "three", "reason": "three acts are enough"} if {
	input.call.name == "act"
	input.agent == "test/three"
	input.run.tools.act.allowed >= 3
}
"#,
    ),
    ("budget.toml", "[run]\nmicro_usd = 1_000_000\ntool_calls = 1000\n\n[model]\ndefault_max_output = 100\n"),
    ("prices.toml", "[[model]]\nname = \"m\"\ninput = 1_000_000\noutput = 2_000_000\n"),
];

/// The bundle itself.
///
/// # Panics
/// Never: its files are fixed.
#[must_use]
pub fn bundle() -> Bundle {
    Bundle::new(BUNDLE.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))).expect("a bundle")
}

/// A kernel's configuration for a test: quick to look, and silent otherwise.
#[must_use]
pub fn config(dir: &Path, url: &str, trust: TrustPolicy) -> Config {
    let mut config = Config::new(dir, url, trust, bundle());
    config.poll = Duration::from_millis(10);
    config.beat = None;
    config
}

/// Proposes a tool call that must be permitted.
///
/// # Panics
/// When it is not.
pub async fn tool(run: &Run, name: &str, id: &str) -> Permit {
    let (name, id, args) = (name.to_owned(), id.to_owned(), format!("{{\"id\":\"{id}\"}}").into_bytes());
    match run.propose(ToolCall { name, id, args, proposed_by: None }).await.expect("a verdict") {
        Verdict::Permitted(permit) => permit,
        other => panic!("{other:?}"),
    }
}

/// What every test tool answers.
#[must_use]
pub fn done() -> Report {
    Report::ok(Payload::text("done"))
}
