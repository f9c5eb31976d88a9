//! Explanations: one call, taken apart.

use sift_rules::explain::{Ended, RuleReport};
use sift_rules::verdict::{DEFAULT_DENY, EVALUATION_ERROR};
use sift_rules::{CallInput, PolicyBundle, PolicyInput, Verdict};
use sift_spec::meter::Amounts;
use sift_spec::record::{Effect, Refusal};

/// What a policy says about one call, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// The input, if the bytes are one.
    pub input: Option<PolicyInput>,
    /// What the policy says.
    pub verdict: Verdict,
    /// What became of every rule; none where the bytes are no input.
    pub rules: Vec<RuleReport>,
    /// What the budget holds for such a call at most, or why it has no bound; `None` where the input is none.
    pub need: Option<Result<Amounts, Refusal>>,
}

/// Decides about exactly these bytes, and says why.
#[must_use]
pub fn explain(compiled: &PolicyBundle, input: &[u8]) -> Explained {
    let explanation = compiled.explain(input);
    let input = PolicyInput::from_bytes(input).ok();
    let need = input.as_ref().map(|input| compiled.need(&input.call));
    Explained { input, verdict: explanation.verdict, rules: explanation.rules, need }
}

/// The names under which a rule fired: one, unless its name is computed.
#[must_use]
pub fn fired(report: &RuleReport) -> Vec<String> {
    match &report.ended {
        Ended::Fired(fired) => fired.iter().map(|fired| fired.rule.to_string()).collect(),
        Ended::Failed(_) | Ended::False | Ended::OutOfScope => Vec::new(),
    }
}

impl Explained {
    /// Whether a rule that fired is one of those that decided.
    #[must_use]
    pub fn decides(&self, report: &RuleReport) -> bool {
        fired(report).iter().any(|name| self.verdict.rules.iter().any(|rule| rule.as_str() == name))
    }

    /// Why this set of rules won, in words.
    #[must_use]
    pub fn because(&self) -> &'static str {
        let only = |name: &str| matches!(&self.verdict.rules[..], [rule] if rule.as_str() == name);
        match self.verdict.effect {
            _ if only(DEFAULT_DENY) => {
                "no rule denies, holds or allows the call, and what nothing allows is denied"
            }
            _ if only(EVALUATION_ERROR) => {
                "a rule could not be evaluated, and what cannot be evaluated is denied"
            }
            Effect::Deny => "any denial wins, whatever else fires",
            Effect::Hold => "no rule denies, and any hold wins over permissions",
            Effect::Allow => "no rule denies or holds, and these allow",
        }
    }
}

/// A call in a few words: `tool read`, `model gpt-4o of openai`, `agent airline/helper`.
#[must_use]
pub fn named(call: &CallInput) -> String {
    match call {
        CallInput::Agent { name, .. } => format!("agent {name}"),
        CallInput::Model { model, provider, .. } => format!("model {model} of {provider}"),
        CallInput::Tool { name, .. } => format!("tool {name}"),
    }
}
