//! What was replayed, for people and for programs.

use std::collections::BTreeMap;

use anstyle::Style;
use serde::Serialize;
use sift_rules::HoldFor;
use sift_rules::simulate::Change;
use sift_rules::words::word;
use sift_spec::types::{LeafIndex, RunId, Seq};

use super::{Again, Call, Decided, Replayed, Said, Sums};
use crate::report::Report;
use crate::run;
use crate::text::{BAD, CARE, GOOD, Many, Page};

/// First field of each line of JSON: its format and version.
pub const REPLAY_FORMAT: &str = "sift/replay@v1";

const PLAIN: Style = Style::new();

type Rules = BTreeMap<(String, String), u64>;

/// A pack for people.
#[must_use]
pub fn render(replayed: &Replayed) -> String {
    let mut page = Page(String::new());
    let subject = replayed.report.subject();
    match &replayed.again {
        Again::Rejected => {
            page.item(BAD, "REJECTED", &format!("{subject}: not replayed"));
            page.findings(&replayed.report);
            page.unchecked(&replayed.report);
            page.0.push('\n');
        }
        Again::Twice(run) => {
            page.item(CARE, "SKIPPED", &format!("{subject}: run {run} was replayed from an earlier pack"));
        }
        Again::Decided(decided) => {
            let Sums { calls, unknown, .. } = decided.sums;
            let changed = decided.sums.changed();
            let (style, what) = match (changed, unknown) {
                (0, 0) => (GOOD, "THE SAME"),
                (0, _) => (CARE, "UNKNOWN"),
                _ => (CARE, "CHANGES"),
            };
            page.item(style, what, subject);
            let mut detail = Many(calls, "decision").to_string();
            if changed > 0 {
                detail += &format!(", {changed} of them different");
            }
            if unknown > 0 {
                detail += &format!(", {unknown} of them not made again");
            }
            page.wrap("  ", &format!("run {}: {detail}", decided.run));
            decided.calls.iter().for_each(|call| page.call(call));
        }
    }
    page.0
}

/// Sums for people.
#[must_use]
pub fn render_sums(sums: &Sums) -> String {
    let mut page = Page(String::new());
    page.heading("In all");
    let mut packs = Many(sums.packs, "pack").to_string();
    for (number, what) in
        [(sums.rejected, "rejected"), (sums.twice, "of a run seen before"), (sums.unread, "unreadable")]
    {
        if number > 0 {
            packs += &format!(", {number} {what}");
        }
    }
    let (runs, calls) = (Many(sums.runs, "run"), Many(sums.calls, "decision"));
    page.wrap("  ", &format!("{packs}; {calls} in {runs}"));
    for ((old, new), count) in &sums.effects {
        let moved = if old == new { old.clone() } else { format!("{old} -> {new}") };
        page.row(*count, &moved);
    }
    for (change, count) in sums.changes.iter().filter(|(change, _)| **change != Change::Effect) {
        page.row(*count, &format!("the same with other {}", kind(*change)));
    }
    page.rules("By the rule or limit that decides", &sums.rules);
    page.rules("What changes, by the rule or limit that would decide", &sums.changed_by);
    page.heading("Rate");
    let (verified, alone) = (sums.per_second(), sums.per_second_deciding());
    page.wrap("  ", &format!("{verified:.0} decisions/s with every pack read and verified"));
    let threads = Many(sums.workers, "thread");
    page.wrap("  ", &format!("{alone:.0} decisions/s for deciding alone, on {threads}"));
    page.0
}

impl Page {
    fn call(&mut self, call: &Call) {
        let at = format!("seq {} at index {}", call.seq, call.index);
        let effect = |said: &Said| word(&said.effect);
        let old = effect(&call.before);
        match (&call.after, call.change) {
            (Err(why), _) => {
                self.item(CARE, &format!("  ? {}", call.name), &at);
                self.said("before", &call.before);
                self.wrap("      ", &format!("now: not made again: {why}"));
            }
            (Ok(after), None) => {
                let names = after.names().join(", ");
                self.item(PLAIN, &format!("  = {}", call.name), &format!("{at}: {old} by {names}"));
            }
            (Ok(after), Some(change)) => {
                let moved = match change {
                    Change::Effect => format!("{old} -> {}", effect(after)),
                    change => format!("{old}, with other {}", kind(change)),
                };
                self.item(CARE, &format!("  ! {}", call.name), &format!("{at}: {moved}"));
                self.said("before", &call.before);
                self.said("now", after);
            }
        }
    }

    fn said(&mut self, when: &str, said: &Said) {
        let mut words = format!("{when}: {} by {}", word(&said.effect), said.names().join(", "));
        match &said.refusal {
            Some(refusal) => words += &format!(": {}", run::words(refusal)),
            None if said.reasons.is_empty() => {}
            None => words += &format!(": {}", said.reasons.join("; ")),
        }
        if let Some(hold) = &said.hold {
            words += &format!("; {}", hold_words(hold));
        }
        self.wrap("      ", &words);
    }

    fn row(&mut self, count: u64, what: &str) {
        self.item(PLAIN, &format!("{count:>8}"), what);
    }

    fn rules(&mut self, heading: &str, rules: &Rules) {
        if rules.is_empty() {
            return;
        }
        self.heading(heading);
        let mut rules: Vec<_> = rules.iter().collect();
        rules.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        for ((rule, effect), count) in rules {
            self.row(*count, &format!("{effect:<5}  {rule}"));
        }
    }
}

fn hold_words(hold: &HoldFor) -> String {
    let approvals: Vec<String> =
        hold.approvals.iter().map(|needed| format!("{} {}", needed.count, needed.role)).collect();
    format!("needs {} within {} seconds", approvals.join(" and "), hold.seconds)
}

const fn kind(change: Change) -> &'static str {
    match change {
        Change::Effect => "effect",
        Change::Hold => "approvals",
        Change::Rules => "rules",
        Change::Reasons => "reasons",
    }
}

/// A pack. Fields appear in JSON in this order.
#[derive(Serialize)]
struct PackLine<'a> {
    format: &'static str,
    line: &'static str,
    /// What became of it: `replayed`, `skipped`, `rejected`.
    pack: &'static str,
    run: Option<RunId>,
    calls: u64,
    changed: u64,
    unknown: u64,
    report: &'a Report,
}

/// A call. Fields appear in JSON in this order.
#[derive(Serialize)]
struct CallLine<'a> {
    format: &'static str,
    line: &'static str,
    run: RunId,
    seq: Seq,
    index: LeafIndex,
    call: &'a str,
    change: Option<Change>,
    before: &'a Said,
    after: Option<&'a Said>,
    unknown: Option<&'a str>,
}

/// A pack for programs: a line for it, and one for each call that is told.
///
/// # Errors
/// When it has no JSON, which does not happen.
pub fn lines_json(replayed: &Replayed) -> serde_json::Result<String> {
    let (pack, decided) = match &replayed.again {
        Again::Rejected => ("rejected", None),
        Again::Twice(_) => ("skipped", None),
        Again::Decided(decided) => ("replayed", Some(decided)),
    };
    let run = match &replayed.again {
        Again::Rejected => None,
        Again::Twice(run) => Some(*run),
        Again::Decided(decided) => Some(decided.run),
    };
    let sums = decided.map(|decided| &decided.sums);
    let line = PackLine {
        format: REPLAY_FORMAT,
        line: "pack",
        pack,
        run,
        calls: sums.map_or(0, |sums| sums.calls),
        changed: sums.map_or(0, Sums::changed),
        unknown: sums.map_or(0, |sums| sums.unknown),
        report: &replayed.report,
    };
    let mut lines = serde_json::to_string(&line)? + "\n";
    for (run, call) in decided.into_iter().flat_map(|decided| of_run(decided)) {
        let line = CallLine {
            format: REPLAY_FORMAT,
            line: "call",
            run,
            seq: call.seq,
            index: call.index,
            call: &call.name,
            change: call.change,
            before: &call.before,
            after: call.after.as_ref().ok(),
            unknown: call.after.as_ref().err().map(String::as_str),
        };
        lines += &serde_json::to_string(&line)?;
        lines.push('\n');
    }
    Ok(lines)
}

fn of_run(decided: &Decided) -> impl Iterator<Item = (RunId, &Call)> {
    decided.calls.iter().map(|call| (decided.run, call))
}

/// Sums. Fields appear in JSON in this order.
#[derive(Serialize)]
struct TotalLine<'a> {
    format: &'static str,
    line: &'static str,
    packs: u64,
    rejected: u64,
    skipped: u64,
    unread: u64,
    runs: u64,
    calls: u64,
    changed: u64,
    unknown: u64,
    changes: &'a BTreeMap<Change, u64>,
    effects: Vec<EffectCount<'a>>,
    rules: Vec<RuleCount<'a>>,
    changed_by: Vec<RuleCount<'a>>,
    threads: u64,
    seconds: f64,
    per_second: f64,
    per_second_deciding: f64,
}

#[derive(Serialize)]
struct EffectCount<'a> {
    before: &'a str,
    after: &'a str,
    count: u64,
}

#[derive(Serialize)]
struct RuleCount<'a> {
    rule: &'a str,
    effect: &'a str,
    count: u64,
}

/// Sums for programs: one line.
///
/// # Errors
/// When they have no JSON, which does not happen.
pub fn sums_json(sums: &Sums) -> serde_json::Result<String> {
    let effects = sums.effects.iter();
    let line = TotalLine {
        format: REPLAY_FORMAT,
        line: "total",
        packs: sums.packs,
        rejected: sums.rejected,
        skipped: sums.twice,
        unread: sums.unread,
        runs: sums.runs,
        calls: sums.calls,
        changed: sums.changed(),
        unknown: sums.unknown,
        changes: &sums.changes,
        effects: effects
            .map(|((before, after), count)| EffectCount { before, after, count: *count })
            .collect(),
        rules: counts(&sums.rules),
        changed_by: counts(&sums.changed_by),
        threads: sums.workers,
        seconds: sums.took.as_secs_f64(),
        per_second: sums.per_second(),
        per_second_deciding: sums.per_second_deciding(),
    };
    Ok(serde_json::to_string(&line)? + "\n")
}

fn counts(rules: &Rules) -> Vec<RuleCount<'_>> {
    rules.iter().map(|((rule, effect), count)| RuleCount { rule, effect, count: *count }).collect()
}
