//! A report for people: at most 100 columns, colour only where the terminal has it.

use std::fmt::{self, Write as _};

use anstyle::{AnsiColor, Style};

use crate::explain::{Explanation, Kind};
use crate::finding::{Concern, Severity};
use crate::report::{Report, Verdict};

/// Widest line in columns.
pub const COLUMNS_MAX: usize = 100;

pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const CARE: Style = AnsiColor::Yellow.on_default().bold();

/// A number with its noun, in the plural where it needs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Many(pub(crate) u64, pub(crate) &'static str);

impl fmt::Display for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, noun) = self;
        match (number, noun.strip_suffix("ry")) {
            (1, _) => write!(f, "1 {noun}"),
            (_, Some(stem)) => write!(f, "{number} {stem}ries"),
            _ => write!(f, "{number} {noun}s"),
        }
    }
}

/// The whole report, with colours as escape sequences; `anstream` takes them out where they do not belong.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut page = Page(String::new());
    page.verdict(report);
    page.findings(report);
    page.verified(report);
    page.unchecked(report);
    page.counts(report);
    page.0
}

/// The verdict, the findings, and the codes of what was not checked.
#[must_use]
pub fn render_brief(report: &Report) -> String {
    let mut page = Page(String::new());
    page.verdict(report);
    page.findings(report);
    let mut codes: Vec<&str> = report.unchecked().iter().map(|gap| gap.code.code()).collect();
    codes.dedup();
    if !codes.is_empty() {
        page.wrap("  ", &format!("not checked: {}", codes.join(", ")));
    }
    page.0
}

/// The findings alone.
#[must_use]
pub fn render_findings(report: &Report) -> String {
    let mut page = Page(String::new());
    page.findings(report);
    page.0
}

/// What a code means.
#[must_use]
pub fn render_explanation(explanation: &Explanation) -> String {
    let mut page = Page(String::new());
    let (style, [what, innocent, takes]) = match explanation.kind {
        Kind::Finding => {
            (BAD, ["found to be wrong", "What could cause it innocently", "What it would take to forge"])
        }
        Kind::Unchecked => (CARE, ["could not be checked", "Why", "What would check it"]),
    };
    page.item(style, explanation.code, what);
    page.wrap("  ", explanation.meaning);
    for (heading, text) in [(innocent, explanation.innocent), (takes, explanation.takes)] {
        page.wrap("  ", &format!("{heading}:"));
        page.wrap("      ", text);
    }
    page.0
}

/// A message in lines that fit.
#[must_use]
pub fn message(text: &str) -> String {
    let mut page = Page(String::new());
    page.wrap("", text);
    page.0
}

/// Lines of text that fit.
pub(crate) struct Page(pub(crate) String);

impl Page {
    fn verdict(&mut self, report: &Report) {
        let style = match report.verdict() {
            Verdict::Verified => GOOD,
            Verdict::Rejected => BAD,
        };
        let verdict = report.verdict().to_string().to_uppercase();
        self.item(style, &verdict, report.subject());
    }

    pub(crate) fn findings(&mut self, report: &Report) {
        if report.findings().is_empty() {
            return;
        }
        self.heading("What is wrong");
        let mut explained = Vec::new();
        for finding in report.findings() {
            let style = match finding.severity {
                Severity::Rejects => BAD,
                Severity::Warns => CARE,
            };
            self.item(style, &format!("  {}", finding.code), &place(&finding.concern));
            self.wrap("      ", &finding.detail);
            // The meaning of a code is said once.
            if !explained.contains(&finding.code) {
                explained.push(finding.code);
                self.wrap("      ", finding.code.meaning());
            }
        }
        self.unlisted(report.findings_unlisted(), "finding");
        self.wrap(
            "  ",
            "sift-verify explain CODE says what could cause it innocently, and what it would take to forge.",
        );
    }

    fn verified(&mut self, report: &Report) {
        if report.verified().is_empty() {
            return;
        }
        self.heading("What was verified");
        for claim in report.verified() {
            self.item(GOOD, &format!("  {}", claim.what), "");
            self.wrap("      ", &claim.detail);
        }
    }

    pub(crate) fn unchecked(&mut self, report: &Report) {
        if report.unchecked().is_empty() {
            return;
        }
        self.heading("What was not checked");
        let mut explained = Vec::new();
        for gap in report.unchecked() {
            self.item(CARE, &format!("  {}", gap.code), &place(&gap.concern));
            self.wrap("      ", &gap.detail);
            if !explained.contains(&gap.code) {
                explained.push(gap.code);
                self.wrap("      ", gap.code.meaning());
            }
        }
        self.unlisted(report.unchecked_unlisted(), "item");
    }

    fn counts(&mut self, report: &Report) {
        if report.counts().is_empty() {
            return;
        }
        self.heading("In numbers");
        let counts: Vec<String> = report
            .counts()
            .iter()
            .map(|(name, number)| format!("{} {number}", name.replace('_', " ")))
            .collect();
        self.wrap("  ", &counts.join(", "));
    }

    fn unlisted(&mut self, number: u64, noun: &'static str) {
        if number > 0 {
            self.wrap("  ", &format!("and {} more", Many(number, noun)));
        }
    }

    pub(crate) fn heading(&mut self, text: &str) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.0, "\n{text}");
    }

    /// A styled word, then plain text after it where it fits, else below.
    pub(crate) fn item(&mut self, style: Style, word: &str, rest: &str) {
        let _ = write!(self.0, "{style}{word}{style:#}");
        if rest.is_empty() {
            self.0.push('\n');
        } else if word.len() + 2 + rest.chars().count() <= COLUMNS_MAX {
            let _ = writeln!(self.0, "  {}", printable(rest));
        } else {
            self.0.push('\n');
            self.wrap("      ", rest);
        }
    }

    /// Words filled into lines; a word that is longer than a line is cut into pieces.
    pub(crate) fn wrap(&mut self, indent: &str, text: &str) {
        let width = COLUMNS_MAX - indent.len();
        let mut line = String::new();
        let mut used = 0;
        for word in printable(text).split_whitespace() {
            let mut word: Vec<char> = word.chars().collect();
            if used > 0 && used + 1 + word.len() > width {
                let _ = writeln!(self.0, "{indent}{line}");
                (line, used) = (String::new(), 0);
            }
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            while word.len() > width {
                let piece: String = word.drain(..width).collect();
                let _ = writeln!(self.0, "{indent}{piece}");
            }
            used += word.len();
            line.extend(word);
        }
        if used > 0 {
            let _ = writeln!(self.0, "{indent}{line}");
        }
    }
}

fn place(concern: &Concern) -> String {
    concern.to_string()
}

/// Evidence is written by others: nothing of it may steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Code, Gap};
    use crate::report::Verb;

    #[test]
    fn lines_fit_and_cannot_steer_the_terminal() {
        let mut report = Report::new(Verb::Run, "a/very/long/path/".repeat(12));
        let detail = format!("\u{1b}[2Jword {} {}", "x".repeat(250), "some words ".repeat(40));
        report.reject(Code::ChainGap, Concern::whole(), &detail);
        report.leave(Gap::RunOpen, Concern::path("p".repeat(99)), &detail);
        report.count("entries", 7);
        let text = anstream::adapter::strip_str(&render(&report)).to_string();
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS_MAX), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(text.starts_with("REJECTED"));
    }

    #[test]
    fn plurals() {
        assert_eq!(Many(1, "entry").to_string(), "1 entry");
        assert_eq!(Many(0, "entry").to_string(), "0 entries");
        assert_eq!(Many(2, "key").to_string(), "2 keys");
    }
}
