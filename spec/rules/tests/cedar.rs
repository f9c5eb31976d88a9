//! Cedar bundles: conventions, and every way an evaluation can go wrong, which must all deny.
#![allow(clippy::unwrap_used)]

mod common;

use common::{cedar, compile, denied_by_error, input, names, needed, tool};
use sift_rules::verdict::DEFAULT_DENY;
use sift_rules::{Verdict, decide};
use sift_spec::record::Effect;

const ALL: &str = "@id(\"all\") permit (principal, action, resource);\n";

fn verdict(policy: &str, args: &str) -> Verdict {
    decide(&cedar(policy), &tool("refund", args))
}

#[test]
fn effects() {
    let policy = r#"
@id("small") permit (principal == Agent::"airline/gpt-4o", action == Tool::Action::"refund", resource)
when { context.args.amount <= 500 };
@id("large") @reason("above 1000") forbid (principal, action, resource) when { context.args.amount > 1000 };
@id("middle") @reason("ask") @hold("boss") @seconds("60")
forbid (principal, action == Tool::Action::"refund", resource) when { context.args.amount > 100 };
"#;
    let small = verdict(policy, r#"{"amount":100}"#);
    assert_eq!((small.effect, names(&small)), (Effect::Allow, vec!["small"]));
    let middle = verdict(policy, r#"{"amount":101}"#);
    assert_eq!((middle.effect, names(&middle)), (Effect::Hold, vec!["middle"]));
    assert_eq!(needed(&middle), ("1 boss".to_owned(), 60));
    let large = verdict(policy, r#"{"amount":1001}"#);
    assert_eq!((large.effect, names(&large)), (Effect::Deny, vec!["large"]));
    assert_eq!(large.reasons[0].as_str(), "above 1000");
    // A hold is for what is otherwise allowed.
    let none = verdict(policy, r#"{"amount":501}"#);
    assert_eq!((none.effect, names(&none)), (Effect::Deny, vec![DEFAULT_DENY]));
}

#[test]
fn a_forbid_that_errs_denies() {
    // Cedar would skip the forbid and allow.
    let policy =
        ALL.to_owned() + "@id(\"f\") forbid (principal, action, resource) when { context.args.missing > 1 };";
    assert!(denied_by_error(&verdict(&policy, "{}")));
    assert_eq!(verdict(&policy, r#"{"missing":0}"#).effect, Effect::Allow);
}

#[test]
fn every_error_in_a_policy_denies() {
    for (condition, args) in [
        ("context.args.n > 1", r#"{"n":"x"}"#),
        ("context.args.n + 9223372036854775807 > 1", r#"{"n":1}"#),
        ("context.args.n.m == 1", r#"{"n":1}"#),
        ("decimal(context.args.n).lessThan(decimal(\"1.0\"))", r#"{"n":"x"}"#),
        ("datetime(context.args.n) < datetime(\"2024-01-01\")", r#"{"n":"x"}"#),
        ("ip(context.args.n).isLoopback()", r#"{"n":"x"}"#),
        ("context.args.n like \"x*\"", r#"{"n":1}"#),
        ("context.args.n.contains(1)", r#"{"n":1}"#),
        ("context.args.n", r#"{"n":1}"#),
        ("context.count[\"args.n\"] > 1", r#"{"n":1}"#),
        ("context.args.n > 1", r#"{"n":null}"#),
        ("context.args.n > 1", r#"{"n":1.5}"#),
    ] {
        for kind in ["forbid", "permit", "@hold(\"boss\") @seconds(\"5\") forbid"] {
            let (annotations, effect) = kind.rsplit_once(' ').unwrap_or(("", kind));
            let policy = format!(
                "{ALL}@id(\"f\") {annotations} {effect} (principal, action, resource) when {{ {condition} }};"
            );
            assert!(denied_by_error(&verdict(&policy, args)), "{policy}");
        }
    }
}

#[test]
fn reasons_of_errors_quote_no_values() {
    for (condition, args, expected) in [
        ("context.args.n > 1", r#"{"n":"4711"}"#, "f: a value is of the wrong type"),
        ("context.args.n + 9223372036854775807 > 1", r#"{"n":4711}"#, "f: a number passes 64 bits"),
        ("context.args.n.m == 1", r#"{"n":{"4711":1}}"#, "f: a member is not there"),
        (
            "decimal(context.args.n) == decimal(\"1.0\")",
            r#"{"n":"4711"}"#,
            "f: a function does not take its arguments",
        ),
        (
            "context.args.n > 1",
            r#"{"n":4711.00001}"#,
            "a number is neither a 64-bit integer nor a decimal of at most four decimals",
        ),
        (
            "context.args.n > 1",
            r#"{"n":18446744073709504711}"#,
            "a number is neither a 64-bit integer nor a decimal of at most four decimals",
        ),
    ] {
        let policy = format!("{ALL}@id(\"f\") forbid (principal, action, resource) when {{ {condition} }};");
        let verdict = verdict(&policy, args);
        assert!(denied_by_error(&verdict), "{policy}");
        assert_eq!(verdict.reasons[0].as_str(), expected, "{policy}");
    }
}

#[test]
fn values_that_cedar_lacks_deny() {
    for args in
        [r#"{"n":18446744073709551615}"#, r#"{"n":0.00001}"#, r#"{"n":[[1.23456]]}"#, r#"{"n":1,"n":1}"#]
    {
        assert!(denied_by_error(&verdict(ALL, args)), "{args}");
    }
    for args in [r#"{"n":null}"#, r#"{"n":[null,1.5,[],{}]}"#, r#"{"n":5.0,"":{"__proto__":1}}"#] {
        assert_eq!(verdict(ALL, args).effect, Effect::Allow, "{args}");
    }
}

#[test]
fn a_decimal_is_the_one_that_the_input_prints() {
    // Its double lies halfway between .12 and .13, which Rust would print.
    let policy = "@id(\"n\") permit (principal, action, resource)\n\
                  when { context.args.n == decimal(\"99999999999999.12\") };";
    assert_eq!(verdict(policy, r#"{"n":99999999999999.12}"#).effect, Effect::Allow);
}

#[test]
fn unreadable_inputs_deny() {
    let bundle = cedar(ALL);
    for bad in [&b""[..], b"{", b"[]", b"null", b"{}", b"{}x", b"\xff", &vec![b' '; 5 << 20]] {
        assert!(denied_by_error(&decide(&bundle, bad)));
    }
    assert!(denied_by_error(&decide(&bundle, &input(r#"{"kind":"other"}"#))));
    assert!(denied_by_error(&decide(&bundle, &input(r#"{"kind":"tool"}"#))));
    assert!(denied_by_error(&decide(&bundle, &input(r#"{"kind":"tool","name":5}"#))));
}

#[test]
fn a_tool_named_like_another_kind_is_a_tool() {
    let policy = "@id(\"m\") permit (principal, action == Model::Action::\"call\", resource);\n\
                  @id(\"s\") permit (principal, action == SubAgent::Action::\"start\", resource);";
    let bundle = cedar(policy);
    assert_eq!(names(&decide(&bundle, &input(r#"{"kind":"model"}"#))), ["m"]);
    assert_eq!(names(&decide(&bundle, &input(r#"{"kind":"agent","name":"a/b"}"#))), ["s"]);
    for name in ["call", "start", "Model::Action", "model", "agent", "call\\\"::"] {
        assert_eq!(decide(&bundle, &tool(name, "{}")).effect, Effect::Deny, "{name}");
    }
}

#[test]
fn arrays_and_objects_by_path() {
    let policy = r#"
@id("x") permit (principal, action, resource) when {
  context.count["args.list"] == 3 &&
  context.keys["args.map"].containsAll(["a", "b"]) &&
  context.columns["args.list.id"] == ["p", "q"] &&
  context.items["args.list[1]"].id == "q" &&
  context.data.limit == 5 && context.count["data.names"] == 2 &&
  !(context.count has "args.nested.inner.list")
};"#;
    let bundle = compile(&[("p.cedar", policy), ("data.json", r#"{"limit":5,"names":["a","b"]}"#)]).unwrap();
    let args = r#"{"list":[{"id":"p"},{"id":"q"},{"id":"p"}],"map":{"a":1,"b":null},"nested":[{"inner":{"list":[1]}}]}"#;
    assert_eq!(decide(&bundle, &tool("t", args)).effect, Effect::Allow);
}

#[test]
fn holds_of_several_roles_add_up() {
    let hold = |id: &str, role: &str, seconds: u32| {
        format!(
            "@id(\"{id}\") @hold(\"{role}\") @seconds(\"{seconds}\") forbid (principal, action, resource);\n"
        )
    };
    let same = verdict(&(ALL.to_owned() + &hold("a", "boss", 90) + &hold("b", "boss", 30)), "{}");
    assert_eq!(
        (same.effect, names(&same), same.hold.as_ref().unwrap().seconds),
        (Effect::Hold, vec!["a", "b"], 30)
    );
    let several = ALL.to_owned() + &hold("a", "boss", 90) + &hold("b", "auditor", 30);
    assert_eq!(needed(&verdict(&several, "{}")), ("1 auditor, 1 boss".to_owned(), 30));
    let two = hold("c", "boss", 60).replace("@seconds", "@count(\"2\") @seconds");
    let verdict = verdict(&(several + &two), "{}");
    assert_eq!(
        (needed(&verdict), names(&verdict)),
        (("1 auditor, 2 boss".to_owned(), 30), vec!["a", "b", "c"])
    );
}

#[test]
fn annotations_are_checked() {
    let scope = "(principal, action, resource);";
    for (part, policy) in [
        ("@id", format!("permit {scope}")),
        ("@id", format!("@id(\"\") permit {scope}")),
        ("twice", format!("@id(\"a\") permit {scope}\n@id(\"a\") forbid {scope}")),
        ("forbid", format!("@id(\"a\") @hold(\"boss\") @seconds(\"5\") permit {scope}")),
        ("together", format!("@id(\"a\") @hold(\"boss\") forbid {scope}")),
        ("together", format!("@id(\"a\") @seconds(\"5\") forbid {scope}")),
        ("@hold", format!("@id(\"a\") @hold(\"The Boss\") @seconds(\"5\") forbid {scope}")),
        ("@seconds", format!("@id(\"a\") @hold(\"boss\") @seconds(\"0\") forbid {scope}")),
        ("@seconds", format!("@id(\"a\") @hold(\"boss\") @seconds(\"x\") forbid {scope}")),
        ("@count", format!("@id(\"a\") @hold(\"boss\") @seconds(\"5\") @count(\"0\") forbid {scope}")),
        ("@count", format!("@id(\"a\") @hold(\"boss\") @seconds(\"5\") @count(\"17\") forbid {scope}")),
        ("@count", format!("@id(\"a\") @count(\"2\") forbid {scope}")),
        ("templates", "@id(\"a\") permit (principal == ?principal, action, resource);".to_owned()),
    ] {
        let error = compile(&[("p.cedar", &policy)]).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("p.cedar"), "{policy}: {error}");
    }
    assert!(compile(&[("p.cedar", "permit (")]).is_err());
    assert!(compile(&[("p.cedar", "// nothing")]).is_err());
    let twice = compile(&[("a.cedar", ALL), ("b.cedar", ALL)]).unwrap_err().to_string();
    assert!(twice.contains("b.cedar"), "{twice}");
}

#[test]
fn a_schema_validates() {
    let schema = r#"
entity Agent; entity Run;
namespace Tool {
  action "read"; action "get" in [Action::"read"]
    appliesTo { principal: [Agent], resource: [Run], context: { args: { n: Long } } };
}"#;
    let policy = |condition: &str| {
        format!(
            "@id(\"x\") permit (principal, action in [Tool::Action::\"read\"], resource) when {{ {condition} }};"
        )
    };
    let build = |text: &str| compile(&[("p.cedar", text), ("schema.cedarschema", schema)]);
    let bundle = build(&policy("context.args.n > 1")).unwrap();
    // The group of the schema counts.
    assert_eq!(decide(&bundle, &tool("get", r#"{"n":2}"#)).effect, Effect::Allow);
    assert_eq!(decide(&bundle, &tool("put", r#"{"n":2}"#)).effect, Effect::Deny);
    let error = build(&policy("context.args.m > 1")).unwrap_err().to_string();
    assert!(error.contains("schema.cedarschema"), "{error}");
    assert!(compile(&[("p.cedar", ALL), ("schema.cedarschema", "entity")]).is_err());
    assert!(
        compile(&[
            ("p.rego", "package sift\nallow contains {\"rule\": \"a\"}\n"),
            ("schema.cedarschema", schema)
        ])
        .is_err()
    );
}

#[test]
fn slicing_does_not_change_a_verdict() {
    // The same policies with their scopes as conditions cannot be sliced.
    let scoped = r#"
@id("a") permit (principal, action in [Tool::Action::"x", Tool::Action::"y"], resource);
@id("b") forbid (principal, action == Tool::Action::"x", resource) when { context.args.n == 1 };
@id("c") permit (principal, action, resource) when { context.run.depth == 1 };
@id("d") @hold("boss") @seconds("9") forbid (principal, action == Tool::Action::"y", resource) when { context.args.n == 2 };
"#;
    let unscoped = r#"
@id("a") permit (principal, action, resource) when { action in [Tool::Action::"x", Tool::Action::"y"] };
@id("b") forbid (principal, action, resource) when { action == Tool::Action::"x" && context.args.n == 1 };
@id("c") permit (principal, action, resource) when { context.run.depth == 1 };
@id("d") @hold("boss") @seconds("9") forbid (principal, action, resource) when { action == Tool::Action::"y" && context.args.n == 2 };
"#;
    let (scoped, unscoped) = (cedar(scoped), cedar(unscoped));
    for name in ["x", "y", "z"] {
        for args in ["{}", r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":"a"}"#] {
            for depth in ["0", "1"] {
                let input = String::from_utf8(tool(name, args)).unwrap();
                let input = input.replace("\"depth\":0", &format!("\"depth\":{depth}"));
                let (sliced, whole) =
                    (decide(&scoped, input.as_bytes()), decide(&unscoped, input.as_bytes()));
                assert_eq!(
                    (sliced.effect, &sliced.hold, &sliced.rules),
                    (whole.effect, &whole.hold, &whole.rules)
                );
            }
        }
    }
}
