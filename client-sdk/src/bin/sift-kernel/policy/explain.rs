//! `policy explain`.

use std::path::Path;

use serde_json::{Value, json};
use sift_client::policy::case::{self, CaseCall};
use sift_client::policy::explain::{Explained, explain as explain_call, fired, named};
use sift_client::policy::history::{Decided, Event, Happened, store};
use sift_client::policy::simulate::{Follow, Simulation};
use sift_client::policy::stage::{Opened, Ruling, Stage};
use sift_client::policy::{hold_words, refusal_name, trial, word};
use sift_rules::PolicyBundle;
use sift_rules::explain::Ended;
use sift_spec::bundle::Bundle;
use sift_spec::record::Effect;
use sift_spec::types::{RunId, Seq, UnixMillis};

use super::ExplainArgs;
use crate::exit::{Failure, environment, print_json};
use crate::runs::open_store;

/// A call to explain.
struct Asked {
    /// The exact bytes to decide about.
    input: Vec<u8>,
    /// What policy and budget say on its history; `None` where only the input is known.
    ruling: Option<Ruling>,
    /// The recorded decision.
    recorded: Option<Decided>,
}

/// Explains one call.
pub(super) fn explain(args: &ExplainArgs, json: bool) -> Result<(), Failure> {
    let (bundle, compiled) = super::compile(&args.dir)?;
    let asked = ask(args, &bundle, &compiled)?;
    let explained = explain_call(&compiled, &asked.input);
    let agrees = asked.recorded.as_ref().map(|recorded| agrees(recorded, &asked, &explained));
    if json {
        print_json(&as_json(&asked, &explained, agrees, args.show_input));
    } else {
        print(&asked, &explained, agrees, args);
    }
    match agrees {
        Some(false) => Err(Failure::Refused("the recorded decision is another one".to_owned())),
        _ => Ok(()),
    }
}

fn ask(args: &ExplainArgs, bundle: &Bundle, compiled: &PolicyBundle) -> Result<Asked, Failure> {
    let what = &args.what;
    if let Some(path) = &what.input {
        let input = std::fs::read(path).map_err(|error| super::history::at(path, &error))?;
        // A file may be laid out for people; what is decided about is its one encoding.
        let input = sift_rules::json::read(&input)
            .map_or(input, |value| sift_rules::json::print(&value).into_bytes());
        return Ok(Asked { input, ruling: None, recorded: None });
    }
    if let Some(call) = &what.call {
        let ruling = alone(compiled, call, args).map_err(environment)?;
        return Ok(Asked { input: ruling.input.clone(), ruling: Some(ruling), recorded: None });
    }
    if let Some(name) = &what.case {
        return of_case(bundle, compiled, name);
    }
    let seq = args.seq.ok_or_else(|| environment("say which call: --seq"))?;
    let seq = Seq::new(seq).map_err(environment)?;
    if let Some(pack) = &what.pack {
        let happened = super::history::packs(std::slice::from_ref(pack))?;
        let run = happened.first().map(|happened| happened.run);
        let run = run.ok_or_else(|| environment(format!("{}: no records", pack.display())))?;
        return recorded(compiled, run, seq, |each| {
            happened.iter().cloned().for_each(each);
            Ok(())
        });
    }
    let dir: &Path = what.dir.as_deref().ok_or_else(|| environment("say what to explain"))?;
    let run = args.run.ok_or_else(|| environment("say which run: --run"))?;
    let opened = open_store(dir)?;
    recorded(compiled, run, seq, |each| store(&opened, each).map_err(environment))
}

/// A call as the first of a run.
fn alone(compiled: &PolicyBundle, call: &str, args: &ExplainArgs) -> Result<Ruling, String> {
    let (call, identity) = CaseCall::parse(call).map_err(|why| format!("--call: {why}"))?;
    let time = UnixMillis::new(case::TIME_MS).map_err(|error| error.to_string())?;
    let run = RunId::from_parts(time, &[0; 10]);
    let mut stage = Stage::new(compiled);
    let (agent, labels) = (args.agent.clone(), Default::default());
    stage
        .open(Opened { run, agent, parent: None, depth: 0, time, labels })
        .map_err(|error| error.to_string())?;
    let seq = Seq::new(1).map_err(|error| error.to_string())?;
    stage.propose(run, seq, time, &call, identity).map_err(|error| error.to_string())
}

fn of_case(bundle: &Bundle, compiled: &PolicyBundle, name: &str) -> Result<Asked, Failure> {
    let (mut cases, _) = case::read(bundle);
    cases.retain(|case| case.name == name);
    let tried = trial::run(bundle, compiled, &cases).tried;
    let tried = tried.into_iter().next().ok_or_else(|| environment(format!("no case is named {name:?}")))?;
    match tried.ruling {
        Some(ruling) => Ok(Asked { input: ruling.input.clone(), ruling: Some(ruling), recorded: None }),
        None => {
            let why = tried.differences.first();
            let why = why.map(|difference| format!("{}: {}", difference.what, difference.found));
            Err(environment(format!("the case does not come to its call: {}", why.unwrap_or_default())))
        }
    }
}

/// A recorded call, decided again on the history that it had.
fn recorded(
    compiled: &PolicyBundle,
    run: RunId,
    seq: Seq,
    history: impl FnOnce(&mut dyn FnMut(Happened)) -> Result<(), Failure>,
) -> Result<Asked, Failure> {
    let mut simulation = Simulation::new(compiled, Follow::Record);
    let mut found = None;
    let mut stated = None;
    history(&mut |happened: Happened| {
        if found.is_some() {
            return;
        }
        if (happened.run, happened.seq) == (run, seq)
            && let Event::Call(call) = &happened.event
        {
            stated = call.decided.as_ref().and_then(|decided| decided.input.clone());
        }
        let simulated = simulation.take(happened);
        found = simulated.filter(|simulated| (simulated.run, simulated.seq) == (run, seq));
    })?;
    let found = found.ok_or_else(|| environment(format!("run {run} has no call at seq {seq}")))?;
    match found.new {
        Ok(ruling) => Ok(Asked { input: ruling.input.clone(), ruling: Some(ruling), recorded: found.old }),
        // Without what the input is derived from, the one that was stated is decided about.
        Err(unknown) => match stated {
            Some(input) => Ok(Asked { input, ruling: None, recorded: found.old }),
            None => {
                Err(Failure::Refused(format!("it cannot be decided again: {unknown}, and so is its input")))
            }
        },
    }
}

/// Whether the recorded decision is the one that comes out here.
fn agrees(recorded: &Decided, asked: &Asked, explained: &Explained) -> bool {
    let rules: Vec<String> = explained.verdict.rules.iter().map(ToString::to_string).collect();
    match &asked.ruling {
        Some(ruling) => (recorded.effect, recorded.names()) == (ruling.effect(), ruling.names()),
        // What the budget said is not known again.
        None => recorded.rules == rules,
    }
}

fn print(asked: &Asked, explained: &Explained, agrees: Option<bool>, args: &ExplainArgs) {
    let row = |name: &str, value: String| anstream::println!("{name:<10}  {value}");
    if let Some(input) = &explained.input {
        row("call", named(&input.call));
        row("run", format!("{} of agent {}, seq {}", input.run.id, input.agent, input.run.seq));
        let facts: Vec<&str> = input.facts.keys().map(String::as_str).collect();
        row("facts", if facts.is_empty() { "none".to_owned() } else { facts.join(", ") });
    } else {
        row("call", "the bytes are no policy input".to_owned());
    }
    let verdict = &explained.verdict;
    row("policy", format!("{}: {}", word(&verdict.effect), explained.because()));
    print_rules(explained, args.rules);
    for (position, reason) in verdict.reasons.iter().enumerate() {
        row(if position == 0 { "reasons" } else { "" }, reason.to_string());
    }
    if let Some(hold) = &verdict.hold {
        row("hold", hold_words(hold));
    }
    match &explained.need {
        Some(Ok(need)) => {
            let need: Vec<String> = need.iter().map(|(meter, amount)| format!("{amount} {meter}")).collect();
            row("needs", need.join(", "));
        }
        Some(Err(refusal)) => row("needs", refusal_name(refusal)),
        None => {}
    }
    if let Some(ruling) = &asked.ruling {
        let budget = match (&ruling.refusal, ruling.verdict.effect) {
            (_, Effect::Deny) => "not asked: the policy denies".to_owned(),
            (Some(refusal), _) => format!("refuses: {}", refusal_name(refusal)),
            (None, _) => "holds it".to_owned(),
        };
        row("budget", budget);
    }
    if let Some(recorded) = &asked.recorded {
        let same = if agrees == Some(true) { "the same" } else { "ANOTHER" };
        row("recorded", format!("{} by {}: {same}", word(&recorded.effect), recorded.names().join(", ")));
        row("input", input_words(asked, recorded).to_owned());
    }
    if args.show_input {
        anstream::println!("{}", String::from_utf8_lossy(&asked.input));
    }
}

/// The rules that decided, those that were outdone or failed, and how many did nothing; or all of them.
fn print_rules(explained: &Explained, all: bool) {
    let (mut wrong, mut other) = (0, 0);
    for report in &explained.rules {
        let ended = match &report.ended {
            Ended::Fired(_) if explained.decides(report) => "decides",
            Ended::Fired(_) => "fires, outdone",
            Ended::Failed(_) => "fails",
            Ended::False => {
                wrong += 1;
                "condition is false"
            }
            Ended::OutOfScope => {
                other += 1;
                "not about this call"
            }
        };
        if !all && matches!(report.ended, Ended::False | Ended::OutOfScope) {
            continue;
        }
        let names = match fired(report) {
            names if names.is_empty() => report.rule.clone().unwrap_or_else(|| "(computed name)".to_owned()),
            names => names.join(", "),
        };
        let line = report.line.map(|line| format!(":{line}")).unwrap_or_default();
        let why = match &report.ended {
            Ended::Failed(why) => format!(": {why}"),
            _ => String::new(),
        };
        anstream::println!(
            "            {:<5}  {names}  {}{line}  {ended}{why}",
            word(&report.set),
            report.file
        );
    }
    if !all && wrong + other > 0 {
        anstream::println!(
            "            {wrong} more with a false condition, {other} not about this call (--rules lists them)"
        );
    }
}

fn input_words(asked: &Asked, recorded: &Decided) -> &'static str {
    match (&asked.ruling, &recorded.input) {
        (None, _) => "as it was recorded; it cannot be derived again",
        (Some(_), None) => "derived from the records; the recorded one is withheld or erased",
        (Some(ruling), Some(input)) if ruling.input == *input => {
            "derived from the records; the recorded one is the same"
        }
        (Some(_), Some(_)) => {
            "derived from the records; the recorded one differs, as it does where another facts.toml remembers"
        }
    }
}

fn as_json(asked: &Asked, explained: &Explained, agrees: Option<bool>, show_input: bool) -> Value {
    let verdict = &explained.verdict;
    let rules = explained.rules.iter().map(|report| {
        let mut rule = json!(report);
        rule["decides"] = json!(explained.decides(report));
        rule
    });
    let need = match &explained.need {
        Some(Ok(need)) => json!(need),
        Some(Err(refusal)) => json!({ "refusal": refusal }),
        None => Value::Null,
    };
    let recorded = asked.recorded.as_ref().map(|recorded| {
        json!({ "effect": recorded.effect, "rules": recorded.rules, "reasons": recorded.reasons,
            "refusal": recorded.refusal, "input": input_words(asked, recorded) })
    });
    json!({
        "call": explained.input.as_ref().map(|input| named(&input.call)),
        "effect": verdict.effect, "because": explained.because(), "decided_by": verdict.rules,
        "rules": rules.collect::<Vec<_>>(),
        "reasons": verdict.reasons, "hold": verdict.hold, "need": need,
        "refusal": asked.ruling.as_ref().and_then(|ruling| ruling.refusal.clone()),
        "recorded": recorded, "agrees": agrees,
        "input": show_input.then(|| serde_json::from_slice::<Value>(&asked.input).unwrap_or_default()),
    })
}
