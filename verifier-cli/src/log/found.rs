//! The findings of a log, of which a hostile one may have as many as entries.

use std::collections::BTreeSet;

use crate::finding::{Code, Finding};
use crate::report::Report;

/// Most findings kept; further ones are counted, and their codes remembered.
const KEPT_MAX: usize = 100_000;

/// Findings, in no order until they are told.
#[derive(Debug, Default)]
pub(super) struct Found {
    kept: Vec<Finding>,
    dropped: u64,
    /// INVARIANT: the codes of all findings, kept or not.
    codes: BTreeSet<Code>,
}

impl Found {
    pub(super) fn push(&mut self, finding: Finding) {
        self.codes.insert(finding.code);
        if self.kept.len() < KEPT_MAX {
            self.kept.push(finding);
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        findings.into_iter().for_each(|finding| self.push(finding));
    }

    /// Whether there is no finding with any of these codes.
    pub(super) fn clean_of(&self, codes: &[Code]) -> bool {
        !codes.iter().any(|code| self.codes.contains(code))
    }

    /// Tells the report, in the order of the log.
    pub(super) fn tell(mut self, report: &mut Report) {
        self.kept.sort_by(|a, b| (&a.concern.index, a.code).cmp(&(&b.concern.index, b.code)));
        self.kept.into_iter().for_each(|finding| report.find(finding));
        report.find_unlisted(self.dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Concern;
    use crate::report::Verb;

    #[test]
    fn what_is_not_kept_still_counts() {
        let mut found = Found::default();
        let finding = |code| Finding::rejects(code, Concern::whole(), "");
        found.extend((0..KEPT_MAX).map(|_| finding(Code::KeyNotGranted)));
        assert!(found.clean_of(&[Code::ChainGap]));
        found.push(finding(Code::ChainGap));
        assert!(!found.clean_of(&[Code::ChainGap]));
        let mut report = Report::new(Verb::Log, "log");
        found.tell(&mut report);
        assert_eq!(report.findings().len() as u64 + report.findings_unlisted(), KEPT_MAX as u64 + 1);
    }
}
