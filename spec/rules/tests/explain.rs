//! Explanations: the same policy in both languages, rule by rule.
#![allow(clippy::unwrap_used)]

mod common;

use common::{cedar, rego, tool};
use sift_rules::PolicyBundle;
use sift_rules::explain::{Ended, RuleSet};

const REGO: &str = r#"package sift

allow contains {"rule": "tools"} if input.call.name in {"pay", "read"}

deny contains {"rule": "amount", "reason": "above 500"} if {
    input.call.name == "pay"
    input.call.args.amount > 500
}

deny contains {"rule": "secret", "reason": "no"} if input.call.name == "read_secret"

hold contains {"rule": "large", "reason": "ask", "role": "boss", "seconds": 9} if {
    input.call.name == "pay"
    input.call.args.amount > 100
}
"#;

const CEDAR: &str = r#"
@id("tools") permit (principal, action in [Tool::Action::"pay", Tool::Action::"read"], resource);
@id("amount") @reason("above 500")
forbid (principal, action == Tool::Action::"pay", resource) when { context.args.amount > 500 };
@id("secret") @reason("no") forbid (principal, action == Tool::Action::"read_secret", resource);
@id("large") @reason("ask") @hold("boss") @seconds("9")
forbid (principal, action == Tool::Action::"pay", resource) when { context.args.amount > 100 };
"#;

/// Each rule with its set and how it ended.
fn told(bundle: &PolicyBundle, input: &[u8]) -> Vec<String> {
    let explanation = bundle.explain(input);
    assert_eq!(explanation.verdict, bundle.decider().decide(input));
    let tell = |ended: &Ended| match ended {
        Ended::Fired(fired) => format!("fired {}", fired.len()),
        Ended::False => "false".to_owned(),
        Ended::OutOfScope => "out of scope".to_owned(),
        Ended::Failed(_) => "failed".to_owned(),
    };
    let rules = explanation.rules.iter();
    rules
        .map(|one| format!("{:?} {}: {}", one.set, one.rule.as_deref().unwrap_or("?"), tell(&one.ended)))
        .collect()
}

#[test]
fn every_rule_is_told() {
    for (args, amount, large) in [
        (r#"{"amount":5}"#, "false", "false"),
        (r#"{"amount":300}"#, "false", "fired 1"),
        (r#"{"amount":600}"#, "fired 1", "fired 1"),
        (r#"{"amount":"6"}"#, "failed", "failed"),
    ] {
        let expected = [
            "Allow tools: fired 1".to_owned(),
            format!("Deny amount: {amount}"),
            "Deny secret: out of scope".to_owned(),
            format!("Hold large: {large}"),
        ];
        for bundle in [rego(REGO), cedar(CEDAR)] {
            assert_eq!(told(&bundle, &tool("pay", args)), expected, "{}", bundle.engine());
        }
    }
    for bundle in [rego(REGO), cedar(CEDAR)] {
        let explanation = bundle.explain(&tool("pay", r#"{"amount":300}"#));
        let lines: Vec<_> = explanation.rules.iter().map(|rule| rule.line).collect();
        let expected = if bundle.engine().starts_with("rego") { [3, 5, 10, 12] } else { [2, 3, 5, 6] };
        assert_eq!(lines, expected.map(Some));
        let Ended::Fired(fired) = &explanation.rules[3].ended else { panic!() };
        assert_eq!((explanation.rules[3].set, fired[0].hold.as_ref().unwrap().seconds), (RuleSet::Hold, 9));
        assert_eq!(fired[0].reason.as_ref().unwrap().as_str(), "ask");
        for nothing in [&b"no input"[..], b"", &[b' '; 300 << 10]] {
            assert!(bundle.explain(nothing).rules.is_empty());
        }
    }
}

#[test]
fn a_computed_name_is_told_when_it_fires() {
    let policy = "package sift\nallow contains {\"rule\": input.call.name} if true\n";
    let explanation = rego(policy).explain(&tool("pay", "{}"));
    let Ended::Fired(fired) = &explanation.rules[0].ended else { panic!() };
    assert_eq!((explanation.rules[0].rule.as_ref(), fired[0].rule.as_str()), (None, "pay"));
    assert!(serde_json::to_string(&explanation).unwrap().contains(r#""ended":{"fired":[{"rule":"pay"}]}"#));
}
