//! Rego bundles: conventions, and every way an evaluation can go wrong, which must all deny.
#![allow(clippy::unwrap_used)]

mod common;

use common::{compile, denied_by_error, input, names, needed, rego, tool};
use sift_rules::input::INPUT_BYTES_MAX;
use sift_rules::verdict::{DEFAULT_DENY, EVALUATION_ERROR};
use sift_rules::{Verdict, decide};
use sift_spec::record::Effect;

fn verdict(policy: &str, args: &str) -> Verdict {
    decide(&rego(policy), &tool("refund", args))
}

/// A policy that allows everything and denies where the body, given here, is satisfied.
fn deny_if(body: &str) -> String {
    format!(
        "package sift\nallow contains {{\"rule\": \"all\"}}\n\
         deny contains {{\"rule\": \"d\", \"reason\": \"r\"}} if {{\n{body}\n}}\n"
    )
}

#[test]
fn effects() {
    let policy = r#"
package sift
allow contains {"rule": "small"} if input.call.args.amount <= 100
deny contains {"rule": "large", "reason": sprintf("%d is above 500", [input.call.args.amount])} if input.call.args.amount > 500
hold contains {"rule": "middle", "reason": "ask", "role": "boss", "seconds": 60} if input.call.args.amount > 100
"#;
    let small = verdict(policy, r#"{"amount":100}"#);
    assert_eq!((small.effect, names(&small)), (Effect::Allow, vec!["small"]));
    let middle = verdict(policy, r#"{"amount":101}"#);
    assert_eq!((middle.effect, names(&middle)), (Effect::Hold, vec!["middle"]));
    assert_eq!(needed(&middle), ("1 boss".to_owned(), 60));
    let large = verdict(policy, r#"{"amount":501}"#);
    assert_eq!((large.effect, names(&large)), (Effect::Deny, vec!["large"]));
    assert_eq!(large.reasons[0].as_str(), "501 is above 500");
    let none = verdict(policy, r"{}");
    assert_eq!((none.effect, names(&none)), (Effect::Deny, vec![DEFAULT_DENY]));
}

#[test]
fn holds_of_several_roles_add_up() {
    let policy = r#"
package sift
hold contains {"rule": "a", "reason": "a", "role": "boss", "seconds": 60}
hold contains {"rule": "b", "reason": "b", "role": "auditor", "seconds": 60}
"#;
    assert_eq!(needed(&verdict(policy, "{}")), ("1 auditor, 1 boss".to_owned(), 60));
    let two = r#"hold contains {"rule": "c", "reason": "c", "role": "boss", "seconds": 30, "count": 2}"#;
    let verdict = verdict(&format!("{policy}{two}"), "{}");
    assert_eq!(
        (needed(&verdict), names(&verdict)),
        (("1 auditor, 2 boss".to_owned(), 30), vec!["a", "b", "c"])
    );
}

#[test]
fn every_error_in_a_rule_denies() {
    for (body, args, part) in [
        ("input.call.args.n / 0 > 1", r#"{"n":1}"#, "/"),
        ("input.call.args.n % 0 > 1", r#"{"n":1}"#, "%"),
        ("input.call.args.n + 1 > 5", r#"{"n":"9"}"#, "+"),
        ("input.call.args.n - 1 > 5", r#"{"n":"9"}"#, "-"),
        ("input.call.args.n * 2 > 5", r#"{"n":[9]}"#, "*"),
        ("input.call.args.n > 500", r#"{"n":"1000"}"#, ">"),
        ("input.call.args.n >= 500", r#"{"n":null}"#, ">="),
        ("input.call.args.n < 500", r#"{"n":"1000"}"#, "<"),
        ("input.call.args.n <= 500", r#"{"n":{}}"#, "<="),
        ("not input.call.args.n > 500", r#"{"n":"1000"}"#, ">"),
        ("startswith(input.call.args.n, \"a\")", r#"{"n":1}"#, "startswith"),
        ("not startswith(input.call.args.n, \"a\")", r#"{"n":1}"#, "startswith"),
        ("count(input.call.args.n) > 5", r#"{"n":1}"#, "count"),
        ("to_number(input.call.args.n) > 5", r#"{"n":"x"}"#, "to_number"),
        ("regex.match(input.call.args.n, \"x\")", r#"{"n":"("}"#, "regex.match"),
        ("json.unmarshal(input.call.args.n).x", r#"{"n":"{"}"#, "json.unmarshal"),
        ("sum(input.call.args.n) > 5", r#"{"n":["a"]}"#, "sum"),
        ("some x in input.call.args.n\nx > 5", r#"{"n":[1,"a",9]}"#, ">"),
        ("count([x | some x in input.call.args.n; x > 5]) > 0", r#"{"n":["a"]}"#, ">"),
        ("every x in input.call.args.n { x > 5 }", r#"{"n":[9,"a"]}"#, ">"),
        ("f(input.call.args.n) > 5", r#"{"n":"a"}"#, "+"),
        ("helper", r#"{"n":"a"}"#, "+"),
    ] {
        let policy = deny_if(body) + "f(x) := x + 1\nhelper if input.call.args.n + 1 == 2\n";
        let bundle = rego(&policy);
        let verdict = decide(&bundle, &tool("refund", args));
        assert!(denied_by_error(&verdict), "{body}: {verdict:?}");
        assert!(verdict.reasons[0].as_str().starts_with(&format!("{part} was")), "{body}: {verdict:?}");
        // The decider is as good as new afterwards.
        let mut decider = bundle.decider();
        let before = decider.decide(&tool("other", r#"{"m":1}"#));
        decider.decide(&tool("refund", args));
        assert_eq!(decider.decide(&tool("other", r#"{"m":1}"#)), before);
        let expected = if body.starts_with("not") { "d" } else { "all" };
        assert_eq!(names(&before), [expected], "{body}: {before:?}");
    }
}

#[test]
fn malformed_elements_deny() {
    for set in [
        r#"allow contains "rule""#,
        r#"allow contains {"reason": "no rule"}"#,
        r#"allow contains {"rule": 5}"#,
        r#"allow contains {"rule": ""}"#,
        r#"allow contains {"rule": "a", "extra": 1}"#,
        r#"allow contains {"rule": "a", "role": "boss", "seconds": 5}"#,
        r#"deny contains {"rule": "a"}"#,
        r#"deny contains {"rule": "a", "reason": 5}"#,
        r#"deny contains {"rule": "a", "reason": "r", "role": "boss", "seconds": 1}"#,
        r#"hold contains {"rule": "a", "reason": "r", "role": "boss"}"#,
        r#"hold contains {"rule": "a", "reason": "r", "seconds": 5}"#,
        r#"hold contains {"rule": "a", "reason": "r", "role": "Boss", "seconds": 5}"#,
        r#"hold contains {"rule": "a", "reason": "r", "role": "boss", "seconds": 0}"#,
        r#"hold contains {"rule": "a", "reason": "r", "role": "boss", "seconds": 604801}"#,
        r#"hold contains {"rule": "a", "reason": "r", "role": "boss", "seconds": 1.5}"#,
        r#"hold contains {"rule": "a", "role": "boss", "seconds": 5}"#,
        r#"hold contains {"rule": "a", "reason": "r", "role": "boss", "seconds": 5, "count": 0}"#,
        r#"hold contains {"rule": "a", "reason": "r", "role": "boss", "seconds": 5, "count": 17}"#,
        r#"hold contains {"rule": "a", "reason": "r", "role": "boss", "seconds": 5, "count": 1.5}"#,
        r#"hold contains {"rule": "a", "reason": "r", "role": "boss", "seconds": 5, "count": "2"}"#,
        r#"hold contains {"rule": "a", "reason": "r", "count": 2}"#,
        r#"deny contains {"rule": "a", "reason": "r", "count": 2}"#,
        r#"allow contains {"rule": "a", "count": 2}"#,
        r#"allow := true"#,
        r#"allow := {"rule": "a"}"#,
    ] {
        let verdict = verdict(&format!("package sift\n{set}\n"), "{}");
        assert!(denied_by_error(&verdict), "{set}: {verdict:?}");
    }
    let long = format!("package sift\nallow contains {{\"rule\": \"{}\"}}\n", "x".repeat(129));
    assert!(denied_by_error(&verdict(&long, "{}")));
}

#[test]
fn unreadable_inputs_deny() {
    let bundle = rego("package sift\nallow contains {\"rule\": \"all\"}\n");
    assert_eq!(decide(&bundle, &tool("t", "{}")).effect, Effect::Allow);
    for bad in [&b""[..], b"{", b"[]", b"null", b"{}x", b"\xff", b"{\"a\":\"\xff\"}", &vec![b' '; 5 << 20]] {
        assert!(denied_by_error(&decide(&bundle, bad)));
    }
}

#[test]
fn an_input_ends_at_256_kib() {
    let bundle = rego("package sift\nallow contains {\"rule\": \"all\"}\n");
    let of = |bytes: usize| {
        let rest = bytes - tool("t", r#"{"x":""}"#).len();
        tool("t", &format!("{{\"x\":\"{}\"}}", "y".repeat(rest)))
    };
    assert_eq!(decide(&bundle, &of(INPUT_BYTES_MAX)).effect, Effect::Allow);
    let verdict = decide(&bundle, &of(INPUT_BYTES_MAX + 1));
    assert!(denied_by_error(&verdict));
    assert_eq!(verdict.reasons[0].as_str(), "the policy input is longer than 256 KiB");
}

#[test]
fn a_policy_sees_the_decimal_that_the_tool_sees() {
    let policy = "package sift\nallow contains {\"rule\": \"all\"} if input.call.args.amount in {50, 100}\n";
    assert_eq!(verdict(policy, r#"{"amount":100.0}"#).effect, Effect::Allow);
    for amount in ["99.99999999999999", "100.00000000000001"] {
        let verdict = verdict(policy, &format!("{{\"amount\":{amount}}}"));
        assert_eq!(names(&verdict), [DEFAULT_DENY], "{amount}");
    }
}

#[test]
fn reasons_of_errors_quote_no_values() {
    for (body, args) in [
        ("input.call.args.n + 1 > 5", r#"{"n":"secret"}"#),
        ("to_number(input.call.args.n) > 5", r#"{"n":"secret"}"#),
        ("json.unmarshal(input.call.args.n).x", r#"{"n":"secret"}"#),
        ("regex.match(input.call.args.n, \"x\")", r#"{"n":"(secret"}"#),
        ("sum([x | some x in input.call.args.n]) > 5", r#"{"n":["secret"]}"#),
        ("input.call.args.n[input.call.args.m] > 5", r#"{"n":["secret"],"m":0}"#),
    ] {
        let verdict = verdict(&deny_if(body), args);
        assert!(denied_by_error(&verdict), "{body}: {verdict:?}");
        assert!(!verdict.reasons[0].as_str().contains("secret"), "{body}: {verdict:?}");
    }
    let role =
        "hold contains {\"rule\": \"h\", \"reason\": \"r\", \"role\": input.call.args.n, \"seconds\": 5}";
    let verdict = verdict(&format!("package sift\n{role}\n"), r#"{"n":"Secret"}"#);
    assert!(denied_by_error(&verdict) && !verdict.reasons[0].as_str().contains("Secret"), "{verdict:?}");
}

#[test]
fn what_cannot_be_made_strict_does_not_compile() {
    for (part, policy) in [
        (
            "contradict",
            "f(x) := 1 if x > 1\nf(x) := 2 if x > 2\nallow contains {\"rule\": \"a\"} if f(3) == 1",
        ),
        ("contradict", "v := 1 if input.a\nv := 2 if input.b\nallow contains {\"rule\": \"a\"} if v == 1"),
        ("object", "m[k] := v if some k, v in input.a\nallow contains {\"rule\": \"a\"} if m.x == 1"),
        ("twice", "allow contains {\"rule\": \"a\"} if {v: k | some k, v in input.a}.x == 1"),
    ] {
        let error = compile(&[("p.rego", &format!("package sift\n{policy}\n"))]).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("p.rego"), "{policy}: {error}");
    }
    let files = [
        ("a.rego", "package sift\nallow contains {\"rule\": \"a\"} if data.lib[input.a] == 1\n"),
        ("b.rego", "package lib\nx := 1\n"),
    ];
    let error = compile(&files).unwrap_err().to_string();
    assert!(error.contains("computed path"), "{error}");
    // Definitions that are one constant, and else, are fine.
    let fine = "package sift\nb if input.a\nb if input.call\nc := 1 if input.a else := 2\n\
                allow contains {\"rule\": \"a\"} if { b; c == 2 }\n";
    assert_eq!(verdict(fine, "{}").effect, Effect::Allow);
}

/// None of these may give an answer: a clock, randomness, the network, the environment, output, and what makes much
/// from little.
#[test]
fn builtins_with_effects_do_not_compile() {
    for call in [
        "time.now_ns() > 0",
        "time.clock(0)",
        "time.parse_rfc3339_ns(\"2024-01-01T00:00:00Z\") > 0",
        "rand.intn(\"x\", 10) >= 0",
        "http.send({\"method\": \"get\", \"url\": \"http://localhost\"})",
        "uuid.rfc4122(\"x\")",
        "uuid.parse(\"x\")",
        "opa.runtime()",
        "trace(\"x\")",
        "print(\"x\")",
        "net.lookup_ip_addr(\"localhost\")",
        "rego.metadata.rule()",
        "io.jwt.decode(\"x\")",
        "crypto.sha256(\"x\")",
        "numbers.range(1, 1000000000)",
        "numbers.range_step(1, 1000000000, 1)",
        "bits.lsh(1, 1000000000)",
        "walk(input, [_, _])",
        "yaml.unmarshal(\"x\")",
        "test.sleep(\"1s\")",
    ] {
        let result = compile(&[("p.rego", &deny_if(call))]);
        assert!(result.is_err(), "{call} compiles");
    }
}

#[test]
fn explosions_end() {
    let loops = "xs := [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]\n";
    let body =
        "some a in xs\nsome b in xs\nsome c in xs\nsome d in xs\nsome e in xs\na + b + c + d + e == 1000000";
    let verdict = verdict(&(deny_if(body) + loops), "{}");
    assert!(denied_by_error(&verdict), "{verdict:?}");
    assert!(verdict.reasons[0].as_str().contains("instruction limit"), "{verdict:?}");
}

#[test]
fn recursion_does_not_compile() {
    for rules in [
        "a if b\nb if a",
        "a if a",
        "a if b\nb if c\nc if { some x in [1]; y := [z | some z in [x]; b]; y }",
        "a if f(1)\nf(x) := g(x)\ng(x) := f(x)",
        "a if not b\nb if not a",
        "a if f(1)\nf(x) := y if { y := x + 1; a }",
    ] {
        let policy = format!("package sift\n{rules}\nallow contains {{\"rule\": \"x\"}} if a\n");
        assert!(compile(&[("p.rego", &policy)]).is_err(), "{rules}");
    }
    // A chain is fine until it is too deep for a thread's stack.
    let chain = |n: usize| {
        let rules: String = (0..n).map(|n| format!("r{n} if r{}\n", n + 1)).collect();
        format!("package sift\n{rules}r{n} if true\nallow contains {{\"rule\": \"x\"}} if r0\n")
    };
    assert_eq!(verdict(&chain(50), "{}").effect, Effect::Allow);
    assert!(compile(&[("p.rego", &chain(100))]).is_err());
}

#[test]
fn bundles_that_are_no_policy() {
    for policy in [
        "package other\nallow := 1\n",
        "package sift\nx := 1\n",
        "package sift",
        "",
        "package sift\nallow if",
    ] {
        assert!(compile(&[("p.rego", policy)]).is_err(), "{policy:?}");
    }
    let taken = "package sift_entry\nverdict := 1\n";
    let fine = "package sift\nallow contains {\"rule\": \"x\"}\n";
    assert!(compile(&[("a.rego", fine), ("b.rego", taken)]).is_err());
    let error = compile(&[("a.rego", fine), ("data.json", r#"{"sift":{"allow":1}}"#)]).unwrap_err();
    assert!(error.to_string().contains("data.json"), "{error}");
}

#[test]
fn libraries_and_data() {
    let files = [
        (
            "a.rego",
            "package sift\nimport data.lib\nallow contains {\"rule\": \"x\"} if lib.fine(input.call.name)\n",
        ),
        ("lib/b.rego", "package lib\nfine(name) if name in data.tools\n"),
        ("data.json", r#"{"tools":["search"]}"#),
    ];
    let bundle = compile(&files).unwrap();
    assert_eq!(decide(&bundle, &tool("search", "{}")).effect, Effect::Allow);
    assert_eq!(decide(&bundle, &tool("other", "{}")).effect, Effect::Deny);
}

#[test]
fn decisions_do_not_depend_on_the_compilation() {
    let policy = deny_if("input.call.args.n > 5")
        + "deny contains {\"rule\": \"e\", \"reason\": \"r\"} if input.run.depth == 0\n";
    let inputs =
        [tool("a", r#"{"n":9}"#), tool("a", r#"{"n":"x"}"#), input(r#"{"kind":"model"}"#), b"{}".to_vec()];
    let first: Vec<Verdict> = inputs.iter().map(|input| decide(&rego(&policy), input)).collect();
    for _ in 0..5 {
        let bundle = rego(&policy);
        let mut decider = bundle.decider();
        let again: Vec<Verdict> = inputs.iter().map(|input| decider.decide(input)).collect();
        assert_eq!(again, first);
    }
    assert_eq!(names(&first[0]), ["d", "e"]);
    assert_eq!(names(&first[1]), [EVALUATION_ERROR]);
}
