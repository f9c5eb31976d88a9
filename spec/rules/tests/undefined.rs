//! What is undefined fails a body, wherever it stands: the compiled program says what regorus's interpreter says.
#![allow(clippy::unwrap_used)]

mod common;

use common::{compile, names, rego, tool};
use regorus::{Engine, Value};
use sift_rules::verdict::EVALUATION_ERROR;

/// Definitions that the bodies use.
const LIBRARY: &str = r#"
limits := {"refund": 5, "no": false, "list": [1, 2]}
limit_of(name) := limits[name]
doubled(n) := m if { m := n * 2 }
label(name) := l if { l := limits[name]; l } else := "other"
named contains name if { some name, _ in limits; l := limits[name]; l }
"#;

/// Bodies with something that is undefined for some of the inputs, or for all.
const BODIES: &[&str] = &[
    "x := input.call.args.amount",
    "x := input.call.args.amount; not input.call.args.blocked",
    "x := limits[input.call.name]",
    "x := limits[input.call.args.key]; not x == 5",
    "x := data.sift.limits[input.call.args.key]",
    "x := limit_of(input.call.args.key)",
    "x := limit_of(input.call.args.missing)",
    "x := doubled(input.call.args.amount); x > 2",
    "x := doubled(input.call.args.amount)",
    "x := [input.call.args.amount, 1]",
    "x := {input.call.args.amount}",
    "x := {\"a\": input.call.args.amount}",
    "x := input.call.args.nested.deep.deeper",
    "[a, b] := [input.call.args.amount, 1]",
    "[a, b] := input.call.args.list",
    "{\"deep\": d} := input.call.args.nested",
    "x := 1; y := x; z := input.call.args.amount; y == 1",
    "x := input.call.args.amount; y := x",
    "x = input.call.args.amount",
    "some x in input.call.args.list; y := limits[x]",
    "some x in [\"refund\", \"gone\"]; y := limits[x]; y == 5",
    "some x in [\"gone\"]; y := limits[x]",
    "every x in [\"refund\", \"gone\"] { y := limit_of(x) }",
    "every x in [\"refund\", \"no\"] { y := limit_of(x) }",
    "every x in [\"refund\", \"gone\"] { limit_of(x) }",
    "every x in [\"refund\", \"list\"] { limit_of(x) }",
    "every x in [] { y := limit_of(x) }",
    "every k, v in input.call.args.nested { k == \"deep\"; w := v }",
    "some x in [\"gone\", \"refund\"]; limits[x] == 5",
    "some x in [\"gone\", \"no\"]; limits[x]",
    "xs := [x | some x in [\"gone\", \"refund\"]; limits[x]]; count(xs) == 1",
    "x := limits[_]; x == 5",
    "limits[k] == 5; k == \"refund\"",
    "k := \"gone\"; limits[k]",
    "k := input.call.args.key; limits[k]",
    "k = input.call.args.key; limits[k]",
    "every x in input.call.args.list { y := x; y > 0 }",
    "xs := [y | some x in [\"refund\", \"gone\"]; y := limits[x]]; count(xs) == 1",
    "xs := {y | some x in [\"gone\"]; y := limits[x]}; count(xs) == 0",
    "xs := [y | y := input.call.args.amount]; count(xs) == 0",
    "xs := [1 | y := input.call.args.amount]; count(xs) == 1",
    "label(input.call.args.key) == \"other\"",
    "x := label(input.call.args.key)",
    "x := named; count(x) == 2",
    "x := limits.no; not x",
    "x := limits.no",
    "x := input.call.args.blocked",
    "x := input.call.args.amount == 7",
    "x := count(input.call.args.list)",
    "x := sprintf(\"%v\", [input.call.args.amount])",
    "input.call.args.amount in {7, 8}",
    "x := (input.call.args.amount in {7, 8})",
    "not limits[input.call.args.key]",
    "not input.call.args.amount == 7",
    "x := {k | some k, _ in limits}[input.call.args.key]",
    "i := 1; x := limits.list[i]; x == 2",
    "i := 9; x := limits.list[i]",
];

const ARGUMENTS: &[&str] = &[
    "{}",
    r#"{"amount":7,"key":"refund","list":["refund",3],"nested":{"deep":{"deeper":1}},"blocked":false}"#,
    r#"{"amount":1,"key":"no","list":[1,2],"nested":{},"blocked":true}"#,
    r#"{"key":"gone","list":[],"nested":null}"#,
    r#"{"amount":null,"key":7,"list":{"a":1},"nested":{"deep":7}}"#,
];

#[test]
fn bodies_fail_as_in_the_interpreter() {
    let (mut held, mut failed) = (0, 0);
    for body in BODIES {
        let policy = format!("package sift\n{LIBRARY}\nallow contains {{\"rule\": \"r\"}} if {{ {body} }}\n");
        let bundle = rego(&policy);
        let mut interpreter = Engine::new();
        interpreter.add_policy("p.rego".to_owned(), policy.clone()).unwrap();
        for args in ARGUMENTS {
            let input = tool("refund", args);
            interpreter.set_input(Value::from_json_str(std::str::from_utf8(&input).unwrap()).unwrap());
            let expected = interpreter.eval_rule("data.sift.allow".to_owned());
            for mut decider in [bundle.decider(), bundle.decider_unsliced()] {
                let verdict = decider.decide(&input);
                // What errs here is undefined there, or an error.
                if names(&verdict) == [EVALUATION_ERROR] {
                    continue;
                }
                let expected = expected.as_ref().unwrap_or_else(|error| panic!("{body}, {args}: {error}"));
                let allows = !expected.as_set().unwrap().is_empty();
                assert_eq!(names(&verdict) == ["r"], allows, "{body}\n{args}\n{verdict:?}");
                *(if allows { &mut held } else { &mut failed }) += 1;
            }
        }
    }
    println!("{held} bodies held and {failed} failed, as in the interpreter");
    assert!(held > 100 && failed > 100, "{held} {failed}");
}

#[test]
fn every_is_no_search() {
    for body in [
        "every x in [\"refund\", \"gone\"] { limits[x] }",
        "every x in [\"refund\", \"gone\"] { y := limits[x] }",
        "every x in [\"refund\", \"gone\"] { some y in [1]; limits[x] == y }",
        "every x in [\"refund\", \"gone\"] { count([1 | limits[x]]) == 1 }",
    ] {
        let policy = format!("package sift\n{LIBRARY}\nallow contains {{\"rule\": \"r\"}} if {{ {body} }}\n");
        let error = compile(&[("p.rego", &policy)]).unwrap_err().to_string();
        assert!(error.contains("body of every"), "{body}: {error}");
    }
}

#[test]
fn an_unknown_limit_allows_nothing_and_denies_nothing() {
    let policy = "package sift\nlimits := {\"pay\": 9}\n\
        allow contains {\"rule\": \"a\"} if { limit := limits[input.call.name]; not input.call.args.amount > 9 }\n\
        deny contains {\"rule\": \"d\", \"reason\": \"r\"} if { limit := limits[input.call.name]; input.call.args.never }\n";
    let bundle = rego(policy);
    assert_eq!(names(&bundle.decider().decide(&tool("pay", "{\"amount\":1}"))), ["a"]);
    assert_eq!(names(&bundle.decider().decide(&tool("refund", "{\"amount\":1}"))), ["sift.default-deny"]);
    assert_eq!(names(&bundle.decider().decide(&tool("pay", "{\"amount\":1,\"never\":true}"))), ["d"]);
    assert_eq!(names(&bundle.decider().decide(&tool("refund", "{\"never\":true}"))), ["sift.default-deny"]);
}
