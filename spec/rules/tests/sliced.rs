//! A decider that runs only what concerns a call gives the verdict of one that runs everything: rules, reasons, errors.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;

use common::{compile, names};
use proptest::prelude::*;
use sift_rules::verdict::EVALUATION_ERROR;
use sift_rules::{PolicyBundle, Verdict};
use sift_spec::record::Effect;

/// What generated rules are made of: helpers and conditions, which test names in every way, err, or both.
const HELPERS: &str = r#"package sift



tool := input.call.name if input.call.kind == "tool"
mine := {"t0", "t1"}
is_t0 if input.call.name == "t0"
is_t1(n) if n == "t1"
named(n) := n if n in mine
kind_of := "tool" if {
    input.call.kind == "tool"
} else := "model" if {
    input.call.kind == "model"
} else := "other"
partial contains "t0"
partial contains input.call.name if input.call.args.flag
constant contains "t1" if true
constant contains "t2"
default default_flag := false
default_flag if input.call.name == "t2"
errs_for_t0 if {
    input.call.name == "t0"
    input.call.args.amount > 100
}
errs_first if {
    input.call.args.amount > 5
    input.call.name == "t1"
}
never if {
    tool == "t1"
    is_t0
}
either if tool == "t0"
either if tool == "t2"
every_list if every item in data.lists[tool] { item > 0 }
whole := input
known := whole.facts if input.call.kind != "other"
"#;

const LIBRARY: &str = "package lib\n\nis_t2 if input.call.name == \"t2\"\nnames := {\"t0\": 1, \"t2\": 2}\n";

const DATA: &str = r#"{"lists":{"none":[],"t0":[1,2],"t1":[],"t2":7},"names":["t0","t3"],"tools":{"t0":true,"t1":{"on":true},"t2":false,"t4":null},"word":"t1"}"#;

const CONDITIONS: &[&str] = &[
    r#"input.call.name == "t0""#,
    r#""t1" == input.call.name"#,
    r#"input.call.name != "t2""#,
    r#"input.call.name in {"t0", "t2"}"#,
    r#"input.call.name in ["t1"]"#,
    r#"not input.call.name == "t0""#,
    r#"not input.call.name in {"t1", "t2"}"#,
    r#"input.call.kind == "tool""#,
    r#"input.call.kind == "model""#,
    r#"input["call"].kind == "agent""#,
    r#"not input.call.kind == "tool""#,
    r#"input.call["name"] == "t1""#,
    r#"tool == "t0""#,
    r#"not tool == "t0""#,
    "tool in mine",
    "not tool in mine",
    "not tool",
    "is_t0",
    "not is_t0",
    "is_t1(input.call.name)",
    "not is_t1(tool)",
    r#"named(tool) == "t1""#,
    r#"kind_of == "tool""#,
    r#"kind_of != "other""#,
    r#""t0" in partial"#,
    "input.call.name in partial",
    "input.call.name in constant",
    "not input.call.name in constant",
    "default_flag",
    "not default_flag",
    "default_flag == false",
    "errs_for_t0",
    "not errs_for_t0",
    "errs_first",
    "never",
    "not never",
    "either",
    "not either",
    "data.lib.is_t2",
    "not data.lib.is_t2",
    "data.lib.names[input.call.name] == 1",
    "input.call.name in object.keys(data.lib.names)",
    "data.tools[input.call.name]",
    "data.tools[tool].on",
    "not data.tools[tool]",
    "input.call.name in data.names",
    "input.call.name == data.word",
    "some VAR in data.names\n    VAR == input.call.name",
    "VAR := input.call.name\n    VAR == \"t1\"",
    "{\"t0\": true}[input.call.name]",
    "[input.call.name, 1] == [\"t0\", 1]",
    r#"input.call.name == concat("", ["t", "0"])"#,
    r#"startswith(input.call.name, "t")"#,
    r#"not startswith(tool, "t")"#,
    r#"count(input.call.name) == 2"#,
    r#"lower(input.call.name) == "t1""#,
    // Loops without turns for some names, or for all.
    "some VAR in data.lists[tool]\n    VAR > 1",
    "some VAR in data.lists[input.call.name]\n    VAR > input.call.args.amount",
    "every item in data.lists[tool] { item > 0 }",
    "some VAR in data.lists.none\n    VAR == input.call.name",
    "every item in data.lists.none { item > 0 }",
    "not every_list",
    // What looks at more than the call.
    "input.facts.x.n == 1",
    "not input.facts.x",
    "input.run.depth == 0",
    "known.x",
    "not whole.facts.x",
    "count(input) > 3",
    "some VAR, _ in input\n    VAR == \"facts\"",
    // What errs for some arguments.
    "input.call.args.amount > 100",
    "not input.call.args.amount > 100",
    "input.call.args.amount + 1 == 8",
    "1 / input.call.args.amount > 0",
    r#"startswith(input.call.args.to, "x")"#,
    "some VAR in input.call.args.list\n    VAR > 1",
    "every item in input.call.args.list { item > 0 }",
    "count([item | some item in input.call.args.list; item > 1]) > 0",
    // What does not.
    r#"input.call.args.to == "x""#,
    "input.call.args.flag",
    "not input.call.args.flag",
    "input.run.tools.t0.allowed >= 1",
    "input.run.tools[tool]",
    "input.call",
    "input",
    "true",
    "false",
];

fn call_names() -> impl Iterator<Item = String> {
    let long = format!("{:?}", "t".repeat(300));
    let names = [
        r#""t0""#,
        r#""t1""#,
        r#""t2""#,
        r#""t3""#,
        r#""t4""#,
        r#""unknown""#,
        r#""""#,
        r#""\u0000""#,
        "5",
        "null",
    ];
    names.into_iter().map(str::to_owned).chain([long])
}

/// Inputs about every name, with arguments on which conditions hold, fail and err.
fn inputs() -> Vec<Vec<u8>> {
    let mut calls = Vec::new();
    for args in [
        "{}",
        r#"{"amount":7,"flag":true,"list":[1,2],"to":"x"}"#,
        r#"{"amount":"7","list":["a"],"to":7}"#,
        r#"{"amount":0,"flag":false,"list":[],"to":"y"}"#,
        r#"{"amount":101,"flag":1,"list":{"a":2},"to":["x"]}"#,
    ] {
        for name in call_names() {
            calls.push(format!(r#"{{"args":{args},"kind":"tool","name":{name}}}"#));
        }
    }
    for call in [
        r#"{"args_error":"no object","kind":"tool","name":"t0"}"#,
        r#"{"input_tokens":1,"kind":"model","max_output":1,"model":"m","provider":"p"}"#,
        r#"{"args":{"amount":"7"},"kind":"model","name":"t0"}"#,
        r#"{"args":{"amount":"7"},"kind":"model"}"#,
        r#"{"kind":"agent","name":"t0"}"#,
        r#"{"args":{"amount":"7"},"kind":"agent","name":"a/b"}"#,
        r#"{"kind":"agent"}"#,
        r#"{"kind":"other","name":"t0"}"#,
        r#"{"args":{"amount":"7"},"name":"t1"}"#,
        r#"{"args":{"amount":101},"kind":["tool"],"name":"t1"}"#,
        "{}",
        "[]",
        r#""tool""#,
        "null",
    ] {
        calls.push(call.to_owned());
    }
    let mut inputs: Vec<Vec<u8>> = calls.iter().map(|call| common::input(call)).collect();
    let known = |input: &Vec<u8>| {
        let text = String::from_utf8(input.clone()).unwrap();
        text.replacen(r#""facts":{}"#, r#""facts":{"x":{"n":1,"price":0.5}}"#, 1).into_bytes()
    };
    let with_facts: Vec<_> = inputs.iter().rev().take(14).map(known).collect();
    inputs.extend(with_facts);
    let run = |tools: &str, call: &str| {
        let text = String::from_utf8(common::input(call)).unwrap();
        text.replace(r#""tools":{}"#, &format!(r#""tools":{tools}"#)).into_bytes()
    };
    for tools in [r#"{"t0":{"allowed":1,"denied":0,"ok":0}}"#, r#"{"t0":{"allowed":"1"},"t1":true}"#] {
        inputs.push(run(tools, r#"{"args":{"amount":7},"kind":"tool","name":"t0"}"#));
        inputs.push(run(tools, r#"{"args":{"amount":7},"kind":"tool","name":"t1"}"#));
    }
    inputs.extend(
        [&b"{}"[..], b"[]", b"no", b"", br#"{"call":{"kind":"tool","name":"t0"},"call":1}"#]
            .map(<[u8]>::to_vec),
    );
    inputs
}

/// Compares the ways to decide on all inputs; gives the verdicts.
fn compare(bundle: &PolicyBundle, inputs: &[Vec<u8>], what: &str) -> Vec<Verdict> {
    let (mut sliced, mut whole, mut own) =
        (bundle.decider(), bundle.decider_unsliced(), bundle.own_decider());
    let mut decide = |input: &Vec<u8>| {
        let verdict = whole.decide(input);
        for other in [&mut sliced, &mut own] {
            assert_eq!(other.decide(input), verdict, "{}\n{what}", String::from_utf8_lossy(input));
        }
        verdict
    };
    inputs.iter().map(&mut decide).collect()
}

fn rego(rules: &[(usize, Vec<usize>)]) -> String {
    let mut text = HELPERS.to_owned();
    for (number, (set, conditions)) in rules.iter().enumerate() {
        let (set, members) = [
            ("allow", ""),
            ("deny", r#", "reason": "because""#),
            ("hold", r#", "reason": "because", "role": "boss", "seconds": 9"#),
        ][*set % 3];
        let condition = |(at, index): (usize, &usize)| CONDITIONS[*index].replace("VAR", &format!("var{at}"));
        let conditions: Vec<String> = conditions.iter().enumerate().map(condition).collect();
        let body = conditions.join("\n    ");
        let _ = write!(text, "\n{set} contains {{\"rule\": \"r{number}\"{members}}} if {{\n    {body}\n}}\n");
    }
    text
}

fn compile_rego(policy: &str) -> PolicyBundle {
    compile(&[("p.rego", policy), ("lib.rego", LIBRARY), ("data.json", DATA)])
        .unwrap_or_else(|error| panic!("{error}\n{policy}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn any_rego_policy(rules in proptest::collection::vec(
        (0..3_usize, proptest::collection::vec(0..CONDITIONS.len(), 1..5)), 1..9,
    )) {
        let policy = rego(&rules);
        compare(&compile_rego(&policy), &inputs(), &policy);
    }

    #[test]
    fn any_cedar_policy(rules in proptest::collection::vec(
        (0..3_usize, 0..SCOPES.len(), 0..3_usize, proptest::collection::vec(0..CEDAR.len(), 0..4)), 1..9,
    )) {
        let policy = cedar(&rules);
        let bundle = compile(&[("p.cedar", &policy), ("data.json", DATA)]);
        let bundle = bundle.unwrap_or_else(|error| panic!("{error}\n{policy}"));
        compare(&bundle, &inputs(), &policy);
    }
}

/// Each condition alone, before and after each of a few others: what the generator might miss.
#[test]
fn every_rego_condition_before_and_after_a_test_of_the_name() {
    let inputs = inputs();
    let mut rules = Vec::new();
    let at = |text: &str| CONDITIONS.iter().position(|condition| *condition == text).unwrap();
    let tests = [at(r#"input.call.name == "t0""#), at("tool in mine"), at("input.call.args.amount > 100")];
    for (number, _) in CONDITIONS.iter().enumerate() {
        for test in tests {
            rules.push((1, vec![number, test]));
            rules.push((0, vec![test, number]));
        }
    }
    let mut errors = 0;
    for rules in rules.chunks(6) {
        let policy = rego(rules);
        let verdicts = compare(&compile_rego(&policy), &inputs, &policy);
        errors += verdicts.iter().filter(|verdict| names(verdict) == [EVALUATION_ERROR]).count();
    }
    assert!(errors > 100, "errors are compared, too: {errors}");
}

const SCOPES: &[&str] = &[
    "principal, action, resource",
    r#"principal, action == Tool::Action::"t0", resource"#,
    r#"principal, action == Tool::Action::"t1", resource"#,
    r#"principal, action in [Tool::Action::"t0", Tool::Action::"t2"], resource"#,
    r#"principal, action in [], resource"#,
    r#"principal, action == Model::Action::"call", resource"#,
    r#"principal, action == SubAgent::Action::"start", resource"#,
    r#"principal == Agent::"airline/gpt-4o", action, resource"#,
    r#"principal is Agent, action == Tool::Action::"t2", resource is Run"#,
];

const CEDAR: &[&str] = &[
    r#"when { action == Tool::Action::"t0" }"#,
    r#"unless { action == Tool::Action::"t0" }"#,
    r#"when { context.call.name == "t1" }"#,
    r#"unless { context.call.name == "t1" }"#,
    "when { context.args.amount > 100 }",
    "unless { context.args.amount > 100 }",
    "when { context.args.amount + 9223372036854775807 > 0 }",
    r#"when { context.args.to like "x*" }"#,
    "when { context.args has flag && context.args.flag }",
    "when { context has args && context.args has amount && context.args.amount == 7 }",
    "when { context.data.names.contains(context.call.name) }",
    r#"when { context.keys["data.tools"].contains(context.call.name) }"#,
    r#"when { context.count["args.list"] == 2 }"#,
    r#"when { context.items has "args.list[0]" && context.items["args.list[0]"] == 1 }"#,
    r#"when { context.columns has "args.list.a" }"#,
    r#"when { context.run.tools has t0 && context.run.tools.t0.allowed >= 1 }"#,
    r#"when { context.run has tools.t0.allowed }"#,
    "when { context == context }",
    "when { context.args == {amount: 101} }",
    "when { (if context has args then context else {args: {amount: 1}}).args.amount == 7 }",
    "when { {a: context}.a.args has to }",
    r#"when { context["args"]["to"] == "x" }"#,
    "when { context.facts == {} }",
    "when { context.run.labels == {} && context.time > 0 }",
    r#"when { principal == Agent::"airline/gpt-4o" }"#,
    "when { true }",
    "when { false }",
];

fn cedar(rules: &[(usize, usize, usize, Vec<usize>)]) -> String {
    let mut text = String::new();
    for (number, (effect, scope, hold, conditions)) in rules.iter().enumerate() {
        let (effect, hold) = match (effect, hold) {
            (0, _) => ("permit", ""),
            (_, 0) => ("forbid", " @hold(\"boss\") @seconds(\"9\")"),
            _ => ("forbid", ""),
        };
        let conditions: Vec<&str> = conditions.iter().map(|index| CEDAR[*index]).collect();
        let (scope, conditions) = (SCOPES[*scope], conditions.join(" "));
        let _ =
            writeln!(text, "@id(\"r{number}\") @reason(\"because\"){hold}\n{effect} ({scope}) {conditions};");
    }
    text
}

/// With a schema an action is in groups, which a list of a scope may name beside the action itself.
#[test]
fn scopes_that_name_groups_of_actions() {
    const SCHEMA: &str = r#"
entity Agent; entity Run;
namespace Tool {
  action "safe";
  action "read" in [Action::"safe"];
  action "t0" in [Action::"read"] appliesTo { principal: [Agent], resource: [Run], context: { args: { amount?: Long } } };
  action "t1" in [Action::"safe"] appliesTo { principal: [Agent], resource: [Run], context: { args: { amount?: Long } } };
  action "t2" appliesTo { principal: [Agent], resource: [Run], context: { args: { amount?: Long } } };
}"#;
    let lists = [
        r#"== Tool::Action::"t0""#,
        r#"in [Tool::Action::"read"]"#,
        r#"in [Tool::Action::"safe"]"#,
        r#"in [Tool::Action::"t1", Tool::Action::"read"]"#,
        r#"in [Tool::Action::"t2", Tool::Action::"t0"]"#,
        r#"== Tool::Action::"t2""#,
    ];
    let heads = [("", "permit"), ("", "forbid"), ("@hold(\"boss\") @seconds(\"9\")", "forbid")];
    let conditions =
        ["when { true }", "when { context.args has amount && context.args.amount > 100 }", "when { false }"];
    let inputs = inputs();
    let mut effects = std::collections::BTreeSet::new();
    for allowed in lists {
        for other in lists {
            for (annotations, effect) in heads {
                for condition in conditions {
                    let policy = format!(
                        "@id(\"a\") permit (principal, action {allowed}, resource);\n\
                        @id(\"b\") {annotations} {effect} (principal, action {other}, resource) {condition};"
                    );
                    let bundle = compile(&[("p.cedar", &policy), ("schema.cedarschema", SCHEMA)]).unwrap();
                    let verdicts = compare(&bundle, &inputs, &policy);
                    effects.extend(verdicts.iter().map(|verdict| (verdict.effect, names(verdict).join(" "))));
                }
            }
        }
    }
    // Every way that a verdict of these two can come about, but for errors.
    for expected in [
        (Effect::Allow, "a"),
        (Effect::Allow, "a b"),
        (Effect::Allow, "b"),
        (Effect::Deny, "b"),
        (Effect::Hold, "b"),
    ] {
        assert!(effects.contains(&(expected.0, expected.1.to_owned())), "{expected:?}: {effects:?}");
    }
}

/// More policies for each of more actions than slices are made of.
#[test]
fn a_bundle_that_is_too_wide_for_slices_is_decided_whole() {
    let mut policy = String::new();
    for number in 0..520 {
        let _ = writeln!(
            policy,
            "@id(\"own-{number}\") permit (principal, action == Tool::Action::\"t{number}\", resource);\n\
            @id(\"all-{number}\") forbid (principal, action, resource) when {{ \
            context.args.amount == {} && context.run.depth == 0 }};",
            number * 100
        );
    }
    let bundle = compile(&[("p.cedar", &policy)]).unwrap();
    let verdicts = compare(&bundle, &inputs(), "wide");
    for effect in [Effect::Allow, Effect::Deny] {
        assert!(verdicts.iter().any(|verdict| verdict.effect == effect), "{effect}");
    }
}

/// Whoever compiles a policy, or copies it for a worker, may be a thread with the usual stack.
#[test]
fn the_deepest_cedar_policies_fit_a_small_stack() {
    let conditions = [
        format!("1{} > 0", " + 1".repeat(990)),
        format!("1{} > 0", " - 1".repeat(990)),
        format!("1{} > 0", " * 1".repeat(990)),
        format!("context has {}", vec!["a"; 990].join(".")),
        format!("context{} == 1", ".args".repeat(990)),
        vec!["true"; 490].join(" && "),
        vec!["false"; 490].join(" || "),
        format!("{} true {}", "if true then ".repeat(900), "else false ".repeat(900)),
        format!("{} true {}", "if false then true else ".repeat(900), ""),
        format!("{}1{} == 1", "[".repeat(31), "]".repeat(31)),
        format!("{}1{} == 1", "{a: (-(".repeat(10), "))}".repeat(10)),
    ];
    let inputs = inputs();
    let deepest = move || {
        for condition in conditions {
            for scope in [r#"== Tool::Action::"t0""#, ""] {
                let policy = format!(
                    "@id(\"a\") forbid (principal, action {scope}, resource) when {{ {condition} }};"
                );
                let bundle = compile(&[("p.cedar", &policy)]).unwrap_or_else(|error| panic!("{error}"));
                compare(&bundle, &inputs, &policy);
            }
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(deepest).unwrap().join().unwrap();
}

#[test]
fn the_limit_of_instructions_is_reached_by_the_same_inputs() {
    let mut policy = "package sift\n\nallow contains {\"rule\": \"all\"}\n\
        deny contains {\"rule\": \"pairs\", \"reason\": \"x\"} if {\n    input.call.name == \"t0\"\n    \
        some a in input.call.args.list\n    some b in input.call.args.list\n    a + b < 0\n}\n\
        deny contains {\"rule\": \"pad\", \"reason\": \"x\"} if {\n    input.call.name == \"t0\"\n    \
        some c in input.call.args.pad\n    c < 0\n}\n"
        .to_owned();
    for number in 0..150 {
        let _ = writeln!(
            policy,
            "deny contains {{\"rule\": \"other-{number}\", \"reason\": \"x\"}} if input.call.name == \"o{number}\""
        );
    }
    let bundle = common::rego(&policy);
    let input = |list: usize, pad: usize| {
        let zeros = |n: usize| vec!["0"; n].join(",");
        common::tool("t0", &format!(r#"{{"list":[{}],"pad":[{}]}}"#, zeros(list), zeros(pad)))
    };
    let mut whole = bundle.decider_unsliced();
    let mut fits = |list: usize, pad: usize| whole.decide(&input(list, pad)).effect == Effect::Allow;
    // The longest list that the limit lets through, and then the longest other one with it.
    let longest = |max: usize, fits: &mut dyn FnMut(usize) -> bool| {
        let (mut low, mut high) = (0, max);
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if fits(middle) { low = middle } else { high = middle }
        }
        low
    };
    let list = longest(1000, &mut |list| fits(list, 0));
    let pad = longest(10_000, &mut |pad| fits(list, pad));
    let inputs: Vec<_> = (pad.saturating_sub(4)..pad + 5).map(|pad| input(list, pad)).collect();
    let verdicts = compare(&bundle, &inputs, "limit");
    let denied = verdicts.iter().filter(|verdict| verdict.effect == Effect::Deny).count();
    assert_eq!(denied, 4, "of {}", inputs.len());
    assert!(verdicts.last().unwrap().reasons[0].as_str().contains("500000"));
}
