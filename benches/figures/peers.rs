//! What governing a call costs, in a table: Sift's kernel, and agent-governance-toolkit beside it in the same run.

use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sift_benches::decisions::{self, time_each};
use sift_benches::records::kernel_keys;
use sift_benches::rules::{self, Language};
use sift_benches::{AnyError, kernel, percentile, python};
use sift_spec::trust::TrustPolicy;

use crate::Bench;
use crate::table::Table;

/// One way to govern a call that takes no time itself.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    system: &'static str,
    what: String,
    p50_us: f64,
    p99_us: f64,
    /// Calls a second, one after the other.
    alone_per_second: f64,
    /// Calls a second, 64 at once; none where it was not measured.
    together_per_second: Option<f64>,
    /// What is in it.
    signed: &'static str,
    disk: &'static str,
    budget: &'static str,
}

/// As `agt_overhead.py` prints it.
#[derive(Deserialize)]
struct Printed {
    what: String,
    p50_us: f64,
    p99_us: f64,
    alone_per_second: f64,
    together_per_second: f64,
}

pub(crate) fn measure(bench: &Bench<'_>, table: &mut Table) -> Result<(), AnyError> {
    table.costs.push(decision(bench)?);
    table.costs.push(kernel(bench)?);
    if let Err(error) = toolkit(bench, table) {
        table.notes.push(format!("agent-governance-toolkit was not run: {error}"));
    }
    Ok(())
}

/// A decision alone, which leaves nothing behind.
fn decision(bench: &Bench<'_>) -> Result<Cost, AnyError> {
    let inputs = decisions::hundred()?;
    let mut decider = rules::hundred_compiled(Language::Rego)?.decider();
    let mut times = time_each(&inputs, 2000 / bench.divisor, |input| Ok(decider.decide(input).effect))?;
    let seconds = times.iter().sum::<u64>() as f64 / 1e9;
    let alone_per_second = times.len() as f64 / seconds;
    times.sort_unstable();
    Ok(Cost {
        system: "Sift",
        what: "policy alone, 100 rules in Rego".to_owned(),
        p50_us: percentile(&times, 0.5) as f64 / 1000.0,
        p99_us: percentile(&times, 0.99) as f64 / 1000.0,
        alone_per_second,
        together_per_second: None,
        signed: "no",
        disk: "no",
        budget: "no",
    })
}

/// A whole call: `propose` to outcome.
fn kernel(bench: &Bench<'_>) -> Result<Cost, AnyError> {
    let bundle = rules::airline_unlimited(Language::Rego)?;
    let dir = bench.dir.join("kernel");
    std::fs::create_dir_all(&dir)?;
    let mut keys = kernel_keys(2)?.into_iter();
    let (Some(key), Some(log)) = (keys.next(), keys.next()) else { return Err("no keys".into()) };
    let trust = TrustPolicy::of_log(log.verifier().clone(), None);
    let (few, many) = (3000 / bench.divisor as u64, 30_000 / bench.divisor as u64);
    let (mut alone, together, elapsed) = bench.runtime.block_on(async {
        let opened = kernel::open(&dir, kernel::NO_LOG, &trust, &bundle, key).await?;
        kernel::alone(&opened, 100).await?;
        let alone = kernel::alone(&opened, few).await?;
        let (together, elapsed) = kernel::at_once(&opened, many, 64).await?;
        opened.close().await;
        Ok::<_, AnyError>((alone, together.len(), elapsed))
    })?;
    let seconds = Duration::from_micros(alone.iter().sum()).as_secs_f64();
    let alone_per_second = alone.len() as f64 / seconds;
    alone.sort_unstable();
    Ok(Cost {
        system: "Sift",
        what: "kernel: policy, budget, intent, outcome".to_owned(),
        p50_us: percentile(&alone, 0.5) as f64,
        p99_us: percentile(&alone, 0.99) as f64,
        alone_per_second,
        together_per_second: Some(together as f64 / elapsed.as_secs_f64()),
        signed: "Ed25519, 2 records",
        disk: "synced, before the call and after",
        budget: "held before, settled after",
    })
}

fn toolkit(bench: &Bench<'_>, table: &mut Table) -> Result<(), AnyError> {
    let peers = rules::project().join("benches/peers");
    let environment = python::environment(&peers.join("requirements-agt.txt"))?;
    let versions = python::versions(&environment, &["agent-governance-toolkit"])?;
    let calls = 20_000 / bench.divisor;
    let output = Command::new(environment.join("bin/python"))
        .args(["-W", "ignore"])
        .arg(peers.join("agt_overhead.py"))
        .arg(calls.to_string())
        .arg(bench.dir.join("audit.jsonl"))
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().last().unwrap_or("it failed").to_owned().into());
    }
    let printed: Vec<Printed> = serde_json::from_slice(&output.stdout)?;
    for (number, printed) in printed.into_iter().enumerate() {
        let (signed, disk, budget) = match number {
            0 => ("no", "no", "no"),
            1 => ("no, SHA-256 tree", "no", "no"),
            _ => ("HMAC, 1 record", "written, not synced", "compared, then added to"),
        };
        table.costs.push(Cost {
            system: "AGT",
            what: printed.what,
            p50_us: printed.p50_us,
            p99_us: printed.p99_us,
            alone_per_second: printed.alone_per_second,
            together_per_second: Some(printed.together_per_second),
            signed,
            disk,
            budget,
        });
    }
    let python = Command::new(environment.join("bin/python")).arg("--version").output()?;
    table.notes.push(format!("AGT is {versions}, on {}", String::from_utf8_lossy(&python.stdout).trim()));
    Ok(())
}

pub(crate) fn print(costs: &[Cost]) {
    if costs.is_empty() {
        return;
    }
    println!("what governing a call adds to it; everything runs in the process that asks\n");
    println!(
        "{:<5} {:<40} {:>9} {:>9} {:>9} {:>9} | {:<19} | {:<34} | budget",
        "", "", "p50 us", "p99 us", "alone /s", "64-way /s", "signed", "disk"
    );
    for cost in costs {
        let together = cost.together_per_second.map(|rate| format!("{rate:.0}")).unwrap_or_default();
        println!(
            "{:<5} {:<40} {:>9.1} {:>9.1} {:>9.0} {:>9} | {:<19} | {:<34} | {}",
            cost.system,
            cost.what,
            cost.p50_us,
            cost.p99_us,
            cost.alone_per_second,
            together,
            cost.signed,
            cost.disk,
            cost.budget
        );
    }
    println!();
}
