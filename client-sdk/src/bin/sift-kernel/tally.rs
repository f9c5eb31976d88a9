//! What a replay counts, and how it is printed.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sift_client::policy::refusal_name;
use sift_client::{Denial, Done, Status};
use sift_spec::meter::{Amounts, Meter};

/// Counts over the calls of a conversation, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) conversations: u64,
    pub(crate) model_calls: u64,
    pub(crate) tool_calls: u64,
    /// Let through, with or without an approval.
    pub(crate) allowed: u64,
    /// By policy or budget.
    pub(crate) denied: u64,
    /// For an approval, whatever the answer.
    pub(crate) held: u64,
    /// Of those held.
    pub(crate) approved: u64,
    /// Outcomes that are not `ok`.
    pub(crate) failed: u64,
    /// Sum of what was held before each call.
    pub(crate) reserved: Amounts,
    /// Sum of what was settled after each call.
    pub(crate) settled: Amounts,
    /// How often each rule decided, by effect.
    pub(crate) rules: BTreeMap<(String, &'static str), u64>,
    /// Runs that were halted, with why.
    pub(crate) halted: Vec<String>,
}

impl Tally {
    pub(crate) fn allow(&mut self, reserved: Amounts) {
        self.allowed += 1;
        self.reserve(reserved);
    }

    pub(crate) fn reserve(&mut self, reserved: Amounts) {
        self.reserved = self.reserved.checked_add(&reserved).unwrap_or(self.reserved);
    }

    pub(crate) fn deny(&mut self, denial: &Denial) {
        self.denied += 1;
        match &denial.refusal {
            Some(refusal) => self.fired(refusal_name(refusal), "budget"),
            None => self.decided(denial, "deny"),
        }
    }

    pub(crate) fn hold(&mut self, policy: &Denial, reserved: Amounts) {
        self.held += 1;
        self.reserve(reserved);
        self.decided(policy, "hold");
    }

    pub(crate) fn done(&mut self, done: &Done) {
        self.settled = self.settled.checked_add(&done.settled).unwrap_or(self.settled);
        self.failed += u64::from(done.report.status() != Status::Ok);
    }

    fn decided(&mut self, denial: &Denial, effect: &'static str) {
        for rule in &denial.rules {
            self.fired(rule.as_str().to_owned(), effect);
        }
    }

    fn fired(&mut self, rule: String, effect: &'static str) {
        *self.rules.entry((rule, effect)).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.conversations += other.conversations;
        self.model_calls += other.model_calls;
        self.tool_calls += other.tool_calls;
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.held += other.held;
        self.approved += other.approved;
        self.failed += other.failed;
        self.reserve(other.reserved);
        self.settled = self.settled.checked_add(&other.settled).unwrap_or(self.settled);
        for ((rule, effect), count) in &other.rules {
            *self.rules.entry((rule.clone(), effect)).or_default() += count;
        }
        self.halted.extend(other.halted.iter().cloned());
    }

    pub(crate) fn json(&self) -> Value {
        let rules: Vec<_> = self
            .rules
            .iter()
            .map(|((rule, effect), count)| json!({ "rule": rule, "effect": effect, "count": count }))
            .collect();
        json!({
            "conversations": self.conversations,
            "model_calls": self.model_calls, "tool_calls": self.tool_calls,
            "allowed": self.allowed, "denied": self.denied, "held": self.held, "approved": self.approved,
            "failed": self.failed, "reserved": self.reserved, "settled": self.settled,
            "rules": rules, "halted": self.halted,
        })
    }

    /// One row of the table.
    pub(crate) fn row(&self, name: &str) -> String {
        format!(
            "{name:<36}  {:>6}  {:>5}  {:>7}  {:>6}  {:>4}  {:>8}  {:>9}  {:>9}  {:>9}  {:>9}",
            self.model_calls,
            self.tool_calls,
            self.allowed,
            self.denied,
            self.held,
            self.approved,
            self.reserved.money().dollars(),
            self.settled.money().dollars(),
            self.reserved.get(Meter::Tokens),
            self.settled.get(Meter::Tokens),
        )
    }

    /// The head of the table.
    pub(crate) fn head() -> String {
        format!(
            "{:<36}  {:>6}  {:>5}  {:>7}  {:>6}  {:>4}  {:>8}  {:>9}  {:>9}  {:>9}  {:>9}",
            "run",
            "models",
            "tools",
            "allowed",
            "denied",
            "held",
            "approved",
            "$ held",
            "$ settled",
            "tok held",
            "tok used"
        )
    }

    /// The rules that fired, the most frequent first.
    pub(crate) fn rule_lines(&self) -> Vec<String> {
        let mut rules: Vec<_> = self.rules.iter().collect();
        rules.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        rules.into_iter().map(|((rule, effect), count)| format!("{count:>6}  {effect:<6}  {rule}")).collect()
    }
}
