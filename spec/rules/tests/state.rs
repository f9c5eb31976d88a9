//! The state of a run: counters and facts, and the document made of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::compile;
use sift_rules::json::DEPTH_MAX;
use sift_rules::{CallInput, PolicyBundle, PolicyInput, RunState, decide};
use sift_spec::record::{Effect, Status};
use sift_spec::types::{RunId, Seq, UnixMillis};

const FACTS: &str = "[[fact]]\nname = \"user\"\ntool = \"get_user\"\nkey = \"user_id\"\nlatest = true\n\
    [[fact]]\nname = \"order\"\ntool = \"get_order\"\nkey = \"order_id\"\n\
    [[fact]]\nname = \"order\"\ntool = \"make_order\"\nkey = \"order_id\"\n";

fn bundle() -> PolicyBundle {
    compile(&[("p.rego", "package sift\nallow contains {\"rule\": \"all\"}\n"), ("facts.toml", FACTS)])
        .unwrap()
}

fn state() -> RunState {
    let started = UnixMillis::new(1_764_000_000_000).unwrap();
    let run = RunId::from_parts(started, &[1; 10]);
    RunState::new("a/b".parse().unwrap(), run, 0, started, BTreeMap::new(), bundle().facts())
}

fn call(name: &str, args: &str) -> CallInput {
    CallInput::tool(name.parse().unwrap(), args.as_bytes())
}

fn document(state: &RunState, call: CallInput) -> PolicyInput {
    state.input(call, Seq::new(1).unwrap(), UnixMillis::new(1_764_000_000_001).unwrap())
}

fn learn(state: &mut RunState, tool: &str, args: &str, result: &str) {
    let call = call(tool, args);
    state.on_intent(&call, Effect::Allow);
    state.on_outcome(&call, Status::Ok, result.as_bytes());
}

fn sees(state: &RunState, args: &str) -> String {
    serde_json::to_string(&document(state, call("change", args)).facts).unwrap()
}

#[test]
fn facts_are_found_by_key() {
    let mut state = state();
    learn(&mut state, "get_order", r#"{"order_id":"A"}"#, r#"{"n":1}"#);
    learn(&mut state, "get_order", r#"{"order_id":7}"#, r#"{"n":7}"#);
    assert_eq!(sees(&state, r#"{"order_id":"A"}"#), r#"{"order":{"n":1}}"#);
    assert_eq!(sees(&state, r#"{"order_id":7}"#), r#"{"order":{"n":7}}"#);
    assert_eq!(sees(&state, r#"{"order_id":"7"}"#), "{}", "a string is not a number");
    assert_eq!(sees(&state, r#"{"order_id":["A"]}"#), "{}");
    assert_eq!(sees(&state, "{}"), "{}", "only a fact with latest falls back");
    assert_eq!(sees(&state, "not json"), "{}");
    learn(&mut state, "get_order", r#"{"order_id":"A"}"#, r#"{"n":2}"#);
    assert_eq!(sees(&state, r#"{"order_id":"A"}"#), r#"{"order":{"n":2}}"#);
    // The key of a new thing is in its report.
    learn(&mut state, "make_order", r#"{"what":"x"}"#, r#"{"order_id":"B","n":3}"#);
    assert_eq!(sees(&state, r#"{"order_id":"B"}"#), r#"{"order":{"n":3,"order_id":"B"}}"#);
}

#[test]
fn latest_falls_back_only_without_the_key() {
    let mut state = state();
    learn(&mut state, "get_user", r#"{"user_id":"u"}"#, r#"{"n":1}"#);
    learn(&mut state, "get_user", r#"{"user_id":"v"}"#, r#"{"n":2}"#);
    assert_eq!(sees(&state, r#"{"other":1}"#), r#"{"user":{"n":2}}"#);
    assert_eq!(sees(&state, r#"{"user_id":"u"}"#), r#"{"user":{"n":1}}"#);
    assert_eq!(sees(&state, r#"{"user_id":"w"}"#), "{}");
}

#[test]
fn only_what_a_tool_reported_well_is_a_fact() {
    let mut state = state();
    let args = r#"{"order_id":"A"}"#;
    let of_a = call("get_order", args);
    for status in [Status::Error, Status::Timeout, Status::Unknown, Status::Cancelled] {
        state.on_outcome(&of_a, status, br#"{"n":1}"#);
        assert_eq!(sees(&state, args), "{}");
    }
    learn(&mut state, "get_order", args, r#"{"n":1}"#);
    // A report that cannot be remembered makes the old one out of date.
    for bad in ["not found", "[1]", r#"{"n":1,"n":2}"#, &format!("{{\"x\":\"{}\"}}", "y".repeat(64 << 10))] {
        learn(&mut state, "get_order", args, r#"{"n":1}"#);
        assert_ne!(sees(&state, args), "{}");
        learn(&mut state, "get_order", args, bad);
        assert_eq!(sees(&state, args), "{}");
    }
}

#[test]
fn the_oldest_fact_is_forgotten() {
    let mut state = state();
    for n in 0..65 {
        learn(&mut state, "get_order", &format!("{{\"order_id\":{n}}}"), "{}");
    }
    assert_eq!(sees(&state, r#"{"order_id":0}"#), "{}");
    assert_eq!(sees(&state, r#"{"order_id":1}"#), r#"{"order":{}}"#);
    assert_eq!(sees(&state, r#"{"order_id":64}"#), r#"{"order":{}}"#);
}

#[test]
fn counters() {
    let mut state = state();
    let tool = call("t", "{}");
    state.on_intent(&tool, Effect::Allow);
    state.on_outcome(&tool, Status::Ok, b"");
    state.on_intent(&tool, Effect::Hold);
    state.on_outcome(&tool, Status::Cancelled, b"");
    state.on_intent(&tool, Effect::Deny);
    for n in 0..100 {
        state.on_intent(&call(&format!("denied-{n}"), "{}"), Effect::Deny);
    }
    let agent = CallInput::Agent { delegate: None, name: "a/c".parse().unwrap() };
    state.on_intent(&agent, Effect::Allow);
    let run = document(&state, tool).run;
    assert_eq!((run.calls.tool, run.calls.agent, run.calls.denied, run.calls.held), (2, 1, 101, 1));
    let counts = run.tools[&"t".parse().unwrap()];
    assert_eq!((counts.allowed, counts.denied, counts.ok), (2, 1, 1));
    assert_eq!(run.tools.len(), 65, "names that were only ever denied are bounded");
    assert_eq!(run.last_tool.unwrap().as_str(), "t");
}

#[test]
fn one_encoding() {
    let mut state = state();
    learn(&mut state, "get_user", r#"{"user_id":"u"}"#, r#"{"z":1,"a":{"c":2,"b":[null,1.5]}}"#);
    let deepest = format!("{{\"a\":{}{}}}", "[".repeat(DEPTH_MAX - 1), "]".repeat(DEPTH_MAX - 1));
    assert!(matches!(call("t", &deepest), CallInput::Tool { args: Some(_), .. }));
    for args in [
        r#"{"b":{"y":1,"x":2},"a":1.5}"#,
        r#"{"a":1,"a":2}"#,
        r#"{"a":0.30000000000000004}"#,
        "[]",
        "",
        &deepest,
    ] {
        let input = document(&state, call("t", args));
        let bytes = input.to_bytes();
        assert_eq!(PolicyInput::from_bytes(&bytes).unwrap(), input);
        assert_eq!(decide(&bundle(), &bytes).effect, Effect::Allow);
        let text = String::from_utf8(bytes).unwrap();
        assert!(PolicyInput::from_bytes(format!("{text} ").as_bytes()).is_err());
    }
    let text =
        String::from_utf8(document(&state, call("t", r#"{"b":{"y":1,"x":2},"a":1.5}"#)).to_bytes()).unwrap();
    assert!(text.contains(r#""args":{"a":1.5,"b":{"x":2,"y":1}}"#), "{text}");
    assert!(text.contains(r#""facts":{"user":{"a":{"b":[null,1.5],"c":2},"z":1}}"#), "{text}");
}
