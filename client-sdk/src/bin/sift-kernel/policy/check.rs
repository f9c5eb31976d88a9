//! `policy check`.

use serde_json::{Value, json};
use sift_client::policy::check::{Checked, Found, Severity, Summary, check as check_bundle};
use sift_client::policy::source::Asks;
use sift_client::policy::word;
use sift_spec::meter::Meter;
use sift_spec::record::Limits;
use sift_spec::types::MicroUsd;

use super::CheckArgs;
use crate::exit::{Failure, print_json};

/// Checks a bundle and prints what was found.
pub(super) fn check(args: &CheckArgs, json: bool) -> Result<(), Failure> {
    let checked = check_bundle(&super::read(&args.dir)?);
    let (errors, warnings) = (checked.count(Severity::Error), checked.count(Severity::Warning));
    if json {
        print_json(&as_json(&checked));
    } else {
        checked.found.iter().for_each(print_found);
        checked.summary.iter().for_each(print_summary);
    }
    if errors > 0 || (args.strict && warnings > 0) {
        let counted =
            |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        return Err(Failure::Refused(format!(
            "{}: {}, {}",
            args.dir.display(),
            counted(errors, "error"),
            counted(warnings, "warning")
        )));
    }
    Ok(())
}

fn print_found(found: &Found) {
    let colour = match found.severity {
        Severity::Error => anstyle::AnsiColor::Red,
        Severity::Warning => anstyle::AnsiColor::Yellow,
        Severity::Note => anstyle::AnsiColor::Cyan,
    };
    let style = colour.on_default().bold();
    let place = match (&found.file, found.line) {
        (Some(file), Some(line)) => format!("{file}:{line}: "),
        (Some(file), None) => format!("{file}: "),
        (None, _) => String::new(),
    };
    anstream::println!("{style}{}{style:#}: {place}{}", found.severity.name(), found.what);
}

fn print_summary(summary: &Summary) {
    let row = |name: &str, value: String| anstream::println!("{name:<8}  {value}");
    let count = |asks| summary.rules.iter().filter(|rule| rule.asks == asks).count();
    row("digest", summary.digest.hex());
    row("engine", summary.engine.to_owned());
    row("size", format!("{} bytes", summary.size));
    let (allow, deny, hold) = (count(Asks::Allow), count(Asks::Deny), count(Asks::Hold));
    row("rules", format!("{} ({allow} allow, {deny} deny, {hold} hold)", summary.rules.len()));
    row("cases", summary.cases.to_string());
    let tools: Vec<&str> = summary.tools.iter().map(String::as_str).collect();
    row("tools", if tools.is_empty() { "none named".to_owned() } else { tools.join(", ") });
    for (position, line) in limit_lines(&summary.limits).into_iter().enumerate() {
        row(if position == 0 { "limits" } else { "" }, line);
    }
}

/// One line for each limit in force.
fn limit_lines(limits: &Limits) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for limit in &limits.meters {
        let amount = match (limit.meter, MicroUsd::new(limit.limit)) {
            (Meter::MicroUsd, Ok(money)) => format!("{} USD", money.dollars()),
            _ => limit.limit.to_string(),
        };
        let (scope, window) = (word(&limit.scope), word(&limit.window));
        lines.push(format!("{scope:<6}  {:<19}  {window:<4}  {amount:>14}", limit.meter.to_string()));
    }
    let mut other = |name: &str, amount: Option<String>| {
        lines.extend(amount.map(|amount| format!("run     {name:<19}  {:<4}  {amount:>14}", "run")));
    };
    other("identical calls", limits.identical_calls.map(|limit| limit.to_string()));
    other("nesting depth", limits.depth.map(|limit| limit.to_string()));
    other("wall clock", limits.wall_clock_ms.map(|limit| format!("{} s", limit.get() / 1000)));
    if lines.is_empty() {
        lines.push("none".to_owned());
    }
    lines
}

fn as_json(checked: &Checked) -> Value {
    let found = checked.found.iter().map(|found| {
        json!({ "severity": found.severity.name(), "file": found.file, "line": found.line, "what": found.what })
    });
    let bundle = checked.summary.as_ref().map(|summary| {
        let rules = summary.rules.iter().map(|rule| {
            json!({ "rule": rule.name, "asks": rule.asks.name(), "file": rule.place.file, "line": rule.place.line })
        });
        json!({
            "digest": summary.digest, "hex": summary.digest.hex(), "engine": summary.engine,
            "size": summary.size, "rules": rules.collect::<Vec<_>>(), "tools": summary.tools,
            "limits": summary.limits, "cases": summary.cases,
        })
    });
    json!({
        "bundle": bundle, "found": found.collect::<Vec<_>>(),
        "errors": checked.count(Severity::Error), "warnings": checked.count(Severity::Warning),
    })
}
