//! `policy simulate`.

use serde_json::{Value, json};
use sift_client::policy::history::Event;
use sift_client::policy::simulate::{Follow, Simulated, Simulation, Totals};
use sift_client::policy::{trial, word};
use sift_spec::types::MicroUsd;

use super::SimulateArgs;
use crate::exit::{Failure, environment};

/// Decides a recorded history again and prints what would change.
pub(super) fn simulate(args: &SimulateArgs, json: bool) -> Result<(), Failure> {
    let (_, compiled) = super::compile(&args.dir)?;
    let follow = if args.cascade { Follow::New } else { Follow::Record };
    let mut simulation = Simulation::new(&compiled, follow);
    let mut name = String::new();
    let start = std::time::Instant::now();
    super::history::each(&args.history, &compiled, |happened| {
        if let Event::Open { name: Some(of_run), .. } = &happened.event {
            name.clone_from(of_run);
        }
        let Some(simulated) = simulation.take(happened) else { return };
        let worth = simulated.changes() || simulated.differs() || simulated.new.is_err();
        if args.only_changes && !worth {
            return;
        }
        if json {
            anstream::println!("{}", line_json(&simulated, &name));
        } else {
            print(&simulated, &name);
        }
    })?;
    let totals = simulation.totals();
    if totals.calls == 0 {
        return Err(environment("the history holds no calls"));
    }
    let changed = changed(totals);
    if json {
        anstream::println!(
            "{}",
            totals_json(totals, &compiled.digest().hex(), start.elapsed().as_secs_f64())
        );
    } else {
        summary(totals, follow, start.elapsed().as_secs_f64());
    }
    if totals.unknown > 0 {
        let what = format!("{} of {} calls could not be decided again", totals.unknown, totals.calls);
        return Err(Failure::Refused(what));
    }
    if args.expect_no_change && changed > 0 {
        return Err(Failure::Refused(format!("{changed} of {} calls would change", totals.calls)));
    }
    Ok(())
}

/// How many calls have another effect. Where nobody decided, a call was made.
fn changed(totals: &Totals) -> u64 {
    let same = |old: &str, new: &str| old == new || (old, new) == ("made", "allow") || new == "unknown";
    totals.effects.iter().filter(|((old, new), _)| !same(old, new)).map(|(_, count)| count).sum()
}

/// The recorded decision in a few words.
fn old_words(simulated: &Simulated) -> String {
    match &simulated.old {
        None => "made".to_owned(),
        Some(old) => format!("{} by {}", word(&old.effect), old.names().join(", ")),
    }
}

fn print(simulated: &Simulated, name: &str) {
    let (sign, colour) = match (&simulated.new, simulated.changes(), simulated.differs()) {
        (Err(_), _, _) => ("?", anstyle::AnsiColor::Magenta),
        (_, true, _) => ("!", anstyle::AnsiColor::Yellow),
        (_, _, true) => ("~", anstyle::AnsiColor::Cyan),
        _ => ("=", anstyle::AnsiColor::White),
    };
    let style = colour.on_default();
    let of = if name.is_empty() { String::new() } else { format!(" ({name})") };
    let new = match &simulated.new {
        Ok(ruling) => trial::described(ruling),
        Err(unknown) => format!("unknown: {unknown}"),
    };
    anstream::println!(
        "{style}{sign}{style:#} {} seq {}{of}  {}: {} -> {new}",
        simulated.run,
        simulated.seq,
        simulated.name,
        old_words(simulated),
    );
}

fn summary(totals: &Totals, follow: Follow, seconds: f64) {
    let bold = anstyle::Style::new().bold();
    let rate = totals.calls as f64 / seconds.max(1e-9);
    anstream::println!("\n{bold}{} calls in {} runs{bold:#}, {rate:.0} a second", totals.calls, totals.runs);
    for ((old, new), count) in &totals.effects {
        anstream::println!("{count:>8}  {old:<6} -> {new}");
    }
    if totals.other_rules > 0 {
        anstream::println!("{:>8}  of them the same by other rules", totals.other_rules);
    }
    if !totals.by_rule.is_empty() {
        anstream::println!("{bold}what changes, by the rule or limit that would decide{bold:#}");
        let mut rules: Vec<_> = totals.by_rule.iter().collect();
        rules.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        for ((rule, effect), count) in rules {
            anstream::println!("{count:>8}  {effect:<6}  {rule}");
        }
    }
    let dollars = |micro: u64| MicroUsd::new(micro).map(MicroUsd::dollars).unwrap_or_default();
    anstream::println!("{bold}money{bold:#}");
    let old = if totals.bundles.is_empty() { "not recorded".to_owned() } else { dollars(totals.settled_old) };
    anstream::println!("{old:>14}  settled as recorded");
    anstream::println!(
        "{:>14}  settled for what the new bundle lets through, at its prices",
        dollars(totals.settled_new)
    );
    anstream::println!("{:>14}  of it worst cases of calls without a recorded cost", dollars(totals.assumed));
    anstream::println!("{:>14}  settled for calls that it does not let through", dollars(totals.spared));
    if changed(totals) > 0 && follow == Follow::Record {
        anstream::println!(
            "\nEach call was decided on the history that was recorded. After a call that changes, the rest is what happened\n\
             without the change; the agent might have gone another way."
        );
    }
}

fn line_json(simulated: &Simulated, name: &str) -> Value {
    let old = simulated.old.as_ref().map(|old| {
        json!({ "effect": old.effect, "rules": old.rules, "reasons": old.reasons, "refusal": old.refusal })
    });
    let (new, unknown) = match &simulated.new {
        Ok(ruling) => (
            Some(json!({
                "effect": ruling.effect(), "rules": ruling.verdict.rules, "reasons": ruling.verdict.reasons,
                "refusal": ruling.refusal, "hold": ruling.verdict.hold, "reserved": ruling.reserved,
            })),
            None,
        ),
        Err(unknown) => (None, Some(unknown.to_string())),
    };
    json!({
        "run": simulated.run, "seq": simulated.seq, "recording": (!name.is_empty()).then_some(name),
        "call": simulated.name, "old": old, "new": new, "unknown": unknown,
        "changes": simulated.changes(), "other_rules": simulated.differs(),
    })
}

fn totals_json(totals: &Totals, digest: &str, seconds: f64) -> Value {
    let effects =
        totals.effects.iter().map(|((old, new), count)| json!({ "old": old, "new": new, "count": count }));
    let rules = totals
        .by_rule
        .iter()
        .map(|((rule, effect), count)| json!({ "rule": rule, "effect": effect, "count": count }));
    let bundles = totals.bundles.iter().map(|(digest, runs)| json!({ "bundle": digest.hex(), "runs": runs }));
    json!({ "total": {
        "bundle": digest, "recorded_bundles": bundles.collect::<Vec<_>>(), "runs": totals.runs, "calls": totals.calls,
        "changed": changed(totals), "other_rules": totals.other_rules, "unknown": totals.unknown,
        "effects": effects.collect::<Vec<_>>(), "by_rule": rules.collect::<Vec<_>>(),
        "settled_micro_usd": { "recorded": totals.settled_old, "new": totals.settled_new, "assumed": totals.assumed,
            "spared": totals.spared },
        "seconds": seconds,
    } })
}
