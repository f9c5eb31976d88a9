//! Reports: what was verified, what was found wrong, what was not checked, and so the verdict.
//!
//! What was verified can only be said with a `Proven` value, and every such value is made by the verify
//! function that checked it, and nowhere else.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::finding::{Code, Concern, Finding, Gap, Severity, Unchecked};

/// First field of a report's JSON: its format and version.
pub const REPORT_FORMAT: &str = "sift/report@v1";

/// Most findings, and most gaps, that a report lists; further ones are counted.
pub const LISTED_MAX: usize = 1000;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the verbs are described in the command line's help
pub enum Verb {
    Proof,
    Run,
    Log,
    Consistency,
    Diff,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No finding rejects the evidence.
    Verified,
    /// A finding does, or, when strict, something was not checked.
    Rejected,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verified => "verified",
            Self::Rejected => "rejected",
        })
    }
}

/// Something that was verified, in words, with how many of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// What was verified: the name of a step, stable.
    pub what: &'static str,
    /// How many of them.
    pub count: u64,
    /// Which, in words.
    pub detail: String,
}

/// Implemented by values that only a verify function makes.
pub(crate) trait Proven {
    /// What the value proves.
    fn claim(&self) -> Claim;
}

/// The result of a verification. Fields appear in JSON in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    format: &'static str,
    verb: Verb,
    /// The file, run or log that was checked.
    subject: String,
    verdict: Verdict,
    strict: bool,
    verified: Vec<Claim>,
    findings: Vec<Finding>,
    /// Findings beyond [`LISTED_MAX`].
    findings_unlisted: u64,
    unchecked: Vec<Unchecked>,
    /// Gaps beyond [`LISTED_MAX`].
    unchecked_unlisted: u64,
    /// Numbers that describe what was looked at; no judgement depends on them.
    counts: BTreeMap<&'static str, u64>,
    /// INVARIANT: true when any finding, listed or not, rejects.
    #[serde(skip)]
    rejects: bool,
    /// INVARIANT: true when any gap, listed or not, is one that better evidence could close.
    #[serde(skip)]
    lacks: bool,
}

impl Report {
    pub(crate) fn new(verb: Verb, subject: impl Into<String>) -> Self {
        Self {
            format: REPORT_FORMAT,
            verb,
            subject: subject.into(),
            verdict: Verdict::Verified,
            strict: false,
            verified: Vec::new(),
            findings: Vec::new(),
            findings_unlisted: 0,
            unchecked: Vec::new(),
            unchecked_unlisted: 0,
            counts: BTreeMap::new(),
            rejects: false,
            lacks: false,
        }
    }

    /// The same report, judged strictly or not: strictly, what better evidence could have shown rejects as well.
    #[must_use]
    pub fn judged(mut self, strict: bool) -> Self {
        self.strict = strict;
        self.judge();
        self
    }

    /// The same report about a subject that has a better name, such as that of its file.
    #[must_use]
    pub fn about(mut self, subject: impl fmt::Display) -> Self {
        self.rename(subject.to_string());
        self
    }

    pub(crate) fn rename(&mut self, subject: String) {
        self.subject = subject;
    }

    /// What was asked for.
    #[must_use]
    pub const fn verb(&self) -> Verb {
        self.verb
    }

    /// The file, run or log that was checked.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The answer.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What was verified, in the order of the steps.
    #[must_use]
    pub fn verified(&self) -> &[Claim] {
        &self.verified
    }

    /// What was found, in the order of the steps.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many findings there were beyond those listed.
    #[must_use]
    pub const fn findings_unlisted(&self) -> u64 {
        self.findings_unlisted
    }

    /// What was not checked.
    #[must_use]
    pub fn unchecked(&self) -> &[Unchecked] {
        &self.unchecked
    }

    /// How many gaps there were beyond those listed.
    #[must_use]
    pub const fn unchecked_unlisted(&self) -> u64 {
        self.unchecked_unlisted
    }

    /// Numbers that describe what was looked at.
    #[must_use]
    pub const fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// One line of JSON.
    ///
    /// # Errors
    /// When the report has no JSON, which does not happen.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// Says what a verify function has proven.
    pub(crate) fn claim(&mut self, proven: &impl Proven) {
        self.verified.push(proven.claim());
    }

    /// Adds a finding that rejects the evidence.
    pub(crate) fn reject(&mut self, code: Code, concern: Concern, detail: impl fmt::Display) {
        self.find(Finding::rejects(code, concern, detail));
    }

    /// Adds a finding that does not reject the evidence.
    pub(crate) fn warn(&mut self, code: Code, concern: Concern, detail: impl fmt::Display) {
        self.find(Finding { code, severity: Severity::Warns, concern, detail: detail.to_string() });
    }

    pub(crate) fn find(&mut self, finding: Finding) {
        self.rejects |= finding.severity == Severity::Rejects;
        if self.findings.len() < LISTED_MAX {
            self.findings.push(finding);
        } else {
            self.findings_unlisted += 1;
        }
        self.judge();
    }

    /// Counts rejecting findings that nobody listed.
    pub(crate) fn find_unlisted(&mut self, number: u64) {
        self.rejects |= number > 0;
        self.findings_unlisted += number;
        self.judge();
    }

    /// Says that something was not checked.
    pub(crate) fn leave(&mut self, code: Gap, concern: Concern, detail: impl fmt::Display) {
        self.lacks |= !code.is_out_of_scope();
        if self.unchecked.len() < LISTED_MAX {
            self.unchecked.push(Unchecked { code, concern, detail: detail.to_string() });
        } else {
            self.unchecked_unlisted += 1;
        }
        self.judge();
    }

    pub(crate) fn count(&mut self, name: &'static str, value: u64) {
        self.counts.insert(name, value);
    }

    /// How many findings there are: a step that adds none has proven its claim.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.findings.len() as u64 + self.findings_unlisted)
    }

    /// Whether nothing was found since `mark`.
    pub(crate) fn clean_since(&self, mark: Mark) -> bool {
        self.mark() == mark
    }

    fn judge(&mut self) {
        self.verdict =
            if self.rejects || (self.strict && self.lacks) { Verdict::Rejected } else { Verdict::Verified };
    }
}

/// A point in the list of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_counts_findings_that_are_not_listed() {
        let mut report = Report::new(Verb::Log, "log");
        for _ in 0..LISTED_MAX {
            report.warn(Code::Overspent, Concern::whole(), "");
        }
        assert_eq!(report.verdict(), Verdict::Verified);
        report.reject(Code::ChainGap, Concern::whole(), "");
        assert_eq!((report.verdict(), report.findings_unlisted()), (Verdict::Rejected, 1));
    }

    #[test]
    fn strict_counts_gaps_that_are_not_listed() {
        let mut report = Report::new(Verb::Run, "run");
        let out_of_scope = Gap::ALL.iter().copied().find(|gap| gap.is_out_of_scope()).unwrap();
        for _ in 0..LISTED_MAX {
            report.leave(out_of_scope, Concern::whole(), "");
        }
        report.leave(Gap::RunOpen, Concern::whole(), "");
        assert_eq!(report.unchecked_unlisted(), 1);
        assert_eq!(report.judged(true).verdict(), Verdict::Rejected);
    }

    #[test]
    fn strict_rejects_what_was_not_checked() {
        let mut report = Report::new(Verb::Run, "run");
        report.leave(Gap::RunOpen, Concern::whole(), "");
        assert_eq!(report.verdict(), Verdict::Verified);
        assert_eq!(report.judged(true).verdict(), Verdict::Rejected);
    }
}
