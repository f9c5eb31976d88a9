//! Explanations: what became of every rule of a policy, for one call.
//!
//! A verdict names the rules that decided. An explanation also says what the others did: each rule is evaluated by itself,
//! so that it is known of each whether it fired, and if not, whether it was not about this call, its condition was false,
//! or it failed. It takes many times as long as a decision, and rests on the same program and the same bytes.

use serde::Serialize;
use sift_spec::record::Needed;
use sift_spec::types::Text;

use crate::verdict::{AskFor, Fired, FiredHold, Verdict};

/// What a policy says about one input, and what became of its rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What [`crate::Decider::decide`] says about the same bytes.
    pub verdict: Verdict,
    /// Every rule, in the order of sets and files; none where the bytes are no input.
    pub rules: Vec<RuleReport>,
}

/// What became of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleReport {
    /// Its name, where the source gives it as a constant.
    pub rule: Option<String>,
    /// What it does when it fires.
    pub set: RuleSet,
    /// The file that holds it.
    pub file: String,
    /// Where it starts in the file, from 1, where that is known.
    pub line: Option<u32>,
    /// How its evaluation ended.
    pub ended: Ended,
}

/// What a rule does when it fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names say it
pub enum RuleSet {
    Allow,
    Deny,
    Hold,
}

/// How the evaluation of a rule ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It fired; once for each of its results.
    Fired(Vec<RuleFired>),
    /// Its condition is false.
    False,
    /// It cannot concern this kind of call or this tool, whatever the arguments.
    OutOfScope,
    /// It failed, which denies the call.
    Failed(String),
}

/// A result of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleFired {
    /// The rule's name.
    pub rule: Text<128>,
    /// Its reason, if it gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text<512>>,
    /// Who must approve, and how soon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Asked>,
}

/// The approvals that a rule asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// By whom.
    pub needed: Needed,
    /// Seconds from the decision to the deadline.
    pub seconds: u64,
}

/// A rule as its source gives it.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) rule: Option<String>,
    pub(crate) file: String,
    pub(crate) line: Option<u32>,
}

impl Site {
    pub(crate) fn report(&self, set: RuleSet, ended: Ended) -> RuleReport {
        let Self { rule, file, line } = self.clone();
        RuleReport { rule, set, file, line, ended }
    }
}

impl From<Fired> for RuleFired {
    fn from(fired: Fired) -> Self {
        Self { rule: fired.rule, reason: fired.reason, hold: None }
    }
}

impl From<FiredHold> for RuleFired {
    fn from(held: FiredHold) -> Self {
        let AskFor { needed, seconds } = held.hold;
        Self { hold: Some(Asked { needed, seconds }), ..held.fired.into() }
    }
}
