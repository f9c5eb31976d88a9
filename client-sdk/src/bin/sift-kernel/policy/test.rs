//! `policy test`.

use serde_json::{Value, json};
use sift_client::policy::case;
use sift_client::policy::trial::{self, Trial, Tried};
use sift_client::policy::word;

use super::TestArgs;
use crate::exit::{Failure, environment, print_json};

/// Runs a bundle's cases and prints what came of them.
pub(super) fn test(args: &TestArgs, json: bool) -> Result<(), Failure> {
    let (bundle, compiled) = super::compile(&args.dir)?;
    let (mut cases, wrong) = case::read(&bundle);
    if !wrong.is_empty() {
        let lines: Vec<String> = wrong.iter().map(|(file, why)| format!("{file}: {why}")).collect();
        return Err(environment(lines.join("\n")));
    }
    let all = cases.len();
    if let Some(filter) = &args.filter {
        cases.retain(|case| case.name.contains(filter.as_str()) || case.file.contains(filter.as_str()));
    }
    if cases.is_empty() {
        return Err(environment(match &args.filter {
            Some(filter) => format!("none of the {all} cases contains {filter:?} in its file or name"),
            None => "the bundle has no cases: put some into tests/*.json (--help has the format)".to_owned(),
        }));
    }
    let trial = trial::run(&bundle, &compiled, &cases);
    if json {
        print_json(&as_json(&trial, compiled.digest().hex(), all));
    } else {
        trial.tried.iter().for_each(print);
        summary(&trial, all);
    }
    if trial.failed() > 0 {
        return Err(Failure::Refused(format!("{} of {} cases fail", trial.failed(), trial.tried.len())));
    }
    if args.cover && !trial.unfired.is_empty() {
        return Err(Failure::Refused(format!("{} rules fired in no case", trial.unfired.len())));
    }
    Ok(())
}

fn print(tried: &Tried) {
    let passed = tried.differences.is_empty();
    let colour = if passed { anstyle::AnsiColor::Green } else { anstyle::AnsiColor::Red };
    let (style, sign) = (colour.on_default().bold(), if passed { "ok  " } else { "FAIL" });
    anstream::println!("{style}{sign}{style:#}  {}: {}", tried.file, tried.name);
    for difference in &tried.differences {
        anstream::println!("      {:<10}  expected  {}", difference.what, difference.expected);
        anstream::println!("      {:<10}  is        {}", "", difference.found);
    }
}

fn summary(trial: &Trial, all: usize) {
    let (failed, run) = (trial.failed(), trial.tried.len());
    let left_out = if run < all { format!(", {} left out", all - run) } else { String::new() };
    anstream::println!("\n{} passed, {failed} failed{left_out}", run - failed);
    if run < all {
        return;
    }
    let fired = trial.rules - trial.unfired.len();
    anstream::println!("{fired} of {} rules fired in a case", trial.rules);
    for rule in &trial.unfired {
        anstream::println!(
            "      {}:{}: {} {}",
            rule.place.file,
            rule.place.line,
            rule.asks.name(),
            rule.name
        );
    }
}

fn as_json(trial: &Trial, digest: String, all: usize) -> Value {
    let cases = trial.tried.iter().map(|tried| {
        let differences = tried.differences.iter().map(|difference| {
            json!({ "what": difference.what, "expected": difference.expected, "found": difference.found })
        });
        let ruling = tried.ruling.as_ref().map(|ruling| {
            json!({ "effect": word(&ruling.effect()), "rules": ruling.names(), "reasons": ruling.verdict.reasons,
                "hold": ruling.verdict.hold })
        });
        json!({ "file": tried.file, "name": tried.name, "passed": tried.differences.is_empty(),
            "differences": differences.collect::<Vec<_>>(), "ruling": ruling })
    });
    let unfired = trial.unfired.iter().map(|rule| {
        json!({ "rule": rule.name, "asks": rule.asks.name(), "file": rule.place.file, "line": rule.place.line })
    });
    json!({
        "bundle": digest, "cases": cases.collect::<Vec<_>>(), "passed": trial.tried.len() - trial.failed(),
        "failed": trial.failed(), "left_out": all - trial.tried.len(), "rules": trial.rules,
        "unfired": unfired.collect::<Vec<_>>(),
    })
}
