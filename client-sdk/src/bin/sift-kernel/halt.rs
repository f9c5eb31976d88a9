//! `halt` and `status`: commands to a running kernel.

use std::path::Path;

use serde_json::json;
use sift_client::HaltScope;
use sift_client::control::{Answer, KernelStatus, Question, ask};

use crate::args::{Halt, InDir};
use crate::exit::{Failure, environment, print_json};

/// Stops something in a running kernel.
pub(crate) fn halt(args: &Halt, json: bool) -> Result<(), Failure> {
    let scope = match (&args.run, &args.agent) {
        (Some(run), _) => HaltScope::Run(*run),
        (None, Some(agents)) => HaltScope::Agent(agents.clone()),
        (None, None) => HaltScope::All,
    };
    let question = Question::Halt { scope: scope.clone(), detail: args.detail.clone() };
    let Answer::Halted(halted) = asked(&args.dir, &question)? else { return Err(unexpected()) };
    if json {
        print_json(&json!({ "scope": scope, "recorded": halted.recorded, "runs": halted.runs }));
    } else {
        for run in &halted.runs {
            anstream::println!("halted  {run}");
        }
        match scope {
            HaltScope::Agent(agents) => {
                anstream::println!("{agents} opens no run until the kernel is started again");
            }
            HaltScope::All => anstream::println!("the kernel does nothing until it is started again"),
            HaltScope::Run(_) => {}
        }
    }
    if let (Some(run), true) = (args.run, halted.runs.is_empty()) {
        let why = format!("run {run} is not open in this kernel; sift-kernel status lists those that are");
        return Err(Failure::Refused(why));
    }
    if !halted.recorded {
        let why =
            "halted, but no halt record is on the disk: look at the disk and at what the kernel printed";
        return Err(Failure::Refused(why.to_owned()));
    }
    Ok(())
}

/// Shows a running kernel.
pub(crate) fn status(args: &InDir, json: bool) -> Result<(), Failure> {
    let Answer::Status(status) = asked(&args.dir, &Question::Status)? else { return Err(unexpected()) };
    if json {
        print_json(&json!(*status));
        return Ok(());
    }
    print(&status);
    Ok(())
}

fn print(status: &KernelStatus) {
    let KernelStatus {
        bundle,
        halted,
        mode,
        oldest_unlogged_ms,
        operator,
        runs,
        unlogged,
        unlogged_bytes,
        ..
    } = status;
    anstream::println!("state     {}", halted.as_deref().unwrap_or("running"));
    for agents in &status.agents_halted {
        anstream::println!("halted    {agents}: opens no run until the kernel is started again");
    }
    anstream::println!("bundle    {}", bundle.hex());
    let age = oldest_unlogged_ms.map(|ms| format!(", the oldest for {}.{:03} s", ms / 1000, ms % 1000));
    let mode = format!("{mode:?}").to_lowercase();
    anstream::println!(
        "log       mode {mode}; {unlogged} records not in it ({unlogged_bytes} bytes){}",
        age.unwrap_or_default()
    );
    let asked = operator
        .asked
        .map_or("not proven to be all of them".to_owned(), |at| format!("all of them at {}", at.utc()));
    anstream::println!("operator  {} records known, {asked}", operator.records);
    for key in &operator.revoked {
        anstream::println!("revoked   {key}: what it signs does not count");
    }
    for key in &operator.ungranted {
        anstream::println!("ungranted {key}: counts here, as kernel.toml lists it, and not for an auditor");
    }
    if let Some(trouble) = &operator.trouble {
        anstream::println!("trouble   {trouble}");
    }
    anstream::println!(
        "\n{:<36}  {:<24}  {:<24}  {:>7}  {:>9}  state",
        "run",
        "agent",
        "opened",
        "records",
        "under way"
    );
    for run in runs {
        anstream::println!(
            "{}  {:<24}  {:<24}  {:>7}  {:>9}  {}",
            run.run,
            run.agent.to_string(),
            run.opened.utc(),
            run.records,
            run.under_way,
            run.halted.as_deref().unwrap_or("open")
        );
    }
}

fn asked(dir: &Path, question: &Question) -> Result<Answer, Failure> {
    let failed = |error: std::io::Error| environment(format!("{}: {error}", dir.display()));
    match ask(dir, question).map_err(failed)? {
        Some(Answer::Failed(why)) => Err(environment(format!("{}: {why}", dir.display()))),
        Some(answer) => Ok(answer),
        None => Err(environment(format!(
            "{}: no kernel runs here, so nothing of it is dispatched. What a killed kernel left open is closed by its \
             next start; to keep it from recording at all, revoke its key: sift-server operator revoke",
            dir.display()
        ))),
    }
}

fn unexpected() -> Failure {
    environment("the kernel answered another question; is it of another version than this program?")
}
