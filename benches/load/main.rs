//! `sift-load`: sends signed records to a log and says how it bore that.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use serde::Serialize;
use sift_benches::AnyError;
use sift_benches::load::{Plan, Prepared, Sent};
use sift_benches::log::{ServedLog, enrol, serve_if_asked};
use sift_benches::machine::{Machine, Memory, profile};
use sift_benches::records::{Subject, kernel_keys};
use sift_benches::rules::{Language, airline};
use sift_rules::PolicyBundle;
use sift_server::key_file::read_key;
use sift_spec::hash::object_digest;
use sift_spec::trust::TrustPolicy;

/// Sends signed records to a log: signs them beforehand, sends them over connections that each wait for their answers,
/// and verifies a sample of the receipts.
///
/// Without --url it makes a log in a scratch directory and serves it from a second process on this machine.
#[derive(Debug, Parser)]
#[command(name = "sift-load", version)]
struct Args {
    /// How records are sent.
    #[arg(long, value_enum, default_value_t = Mode::Batch)]
    mode: Mode,
    /// Connections, each with one request under way; default 16 for batches, 64 for single records.
    #[arg(long)]
    connections: Option<usize>,
    /// Records in a batch.
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Records to sign and send; default 200,000 in batches, 50,000 single.
    #[arg(long)]
    records: Option<usize>,
    /// Stop after so many seconds, even if records are left.
    #[arg(long)]
    seconds: Option<f64>,
    /// Kernels, each with a key of its own; connections take them in turn.
    #[arg(long, default_value_t = 1)]
    kernels: usize,
    /// Runs under way at the same time on each connection.
    #[arg(long, default_value_t = 8)]
    runs: u64,
    /// Calls in each run; a run has two records for each, and two more.
    #[arg(long, default_value_t = 10)]
    calls: u64,
    /// Folder for the scratch directory; it should be on the disk that is to be measured.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// Another log, http only. Needs --operator-key and --trust, to enrol kernels and to verify receipts.
    #[arg(long, requires_all = ["operator_key", "trust"])]
    url: Option<String>,
    /// File of that log's operator key.
    #[arg(long)]
    operator_key: Option<std::path::PathBuf>,
    /// Trust file of that log.
    #[arg(long)]
    trust: Option<std::path::PathBuf>,
    /// Process of that log, if it runs on this machine: its processor time and memory are shown.
    #[arg(long)]
    pid: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Batch,
    Single,
}

#[derive(Serialize)]
struct Outcome {
    plan: Plan,
    sent: Sent,
    log_memory_before: Option<Memory>,
    machine: Machine,
}

fn main() -> ExitCode {
    match serve_if_asked().and_then(|served| if served { Ok(()) } else { run(&Args::parse()) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sift-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), AnyError> {
    let single = args.mode == Mode::Single;
    let plan = Plan {
        connections: args.connections.unwrap_or(if single { 64 } else { 16 }),
        batch: if single { 1 } else { args.batch },
        records: args.records.unwrap_or(if single { 50_000 } else { 200_000 }),
        calls: args.calls,
        runs: args.runs,
        seconds: args.seconds,
    };
    let scratch = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let machine = Machine::look(scratch.path())?;
    let own = match args.url {
        None => Some(ServedLog::start(&scratch.path().join("log"))?),
        Some(_) => None,
    };
    let bundle = PolicyBundle::compile(&airline(Language::Rego)?)?;
    let keys = kernel_keys(args.kernels)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (host, trust, subject, pid) = match (&own, &args.url, &args.operator_key, &args.trust) {
        (Some(log), ..) => {
            let published = (bundle.digest(), bundle.encoding().len());
            runtime.block_on(enrol(&log.url(), &log.operator, &log.trust, &keys, published))?;
            (log.host.clone(), log.trust.clone(), Subject::new(log.origin(), &bundle)?, Some(log.pid()))
        }
        (None, Some(url), Some(operator), Some(trust)) => {
            let host =
                url.trim_end_matches('/').strip_prefix("http://").ok_or("--url: only http://host:port")?;
            let trust = TrustPolicy::parse(&std::fs::read_to_string(trust)?)?;
            let [log] = trust.logs() else { return Err("--trust must list exactly one log".into()) };
            let subject = Subject::new(log.key.name().clone(), &bundle)?;
            // A bundle is published once, and this one may have been: one of a random name will do for the log.
            let mut random = [0; 32];
            getrandom::fill(&mut random)?;
            let policy = object_digest(&random);
            runtime.block_on(enrol(url, &read_key(operator)?, &trust, &keys, (policy, 1)))?;
            (host.to_owned(), trust, subject.under(policy), args.pid)
        }
        _ => return Err("--url needs --operator-key and --trust".into()),
    };
    eprintln!("signing {} records ...", plan.records);
    let prepared = Prepared::sign(plan, &subject, &keys, &host)?;
    let log_memory_before = pid.map(Memory::of).transpose()?;
    eprintln!("sending to {host} ...");
    let sent = prepared.send(&host, &trust, pid)?;
    let result = Outcome { plan, sent, log_memory_before, machine };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&result)?);
    } else {
        print(&result);
    }
    Ok(())
}

fn print(result: &Outcome) {
    let Outcome { plan, sent, log_memory_before, machine } = result;
    println!("{}, {} cores; {}", machine.cpu, machine.cores, profile());
    println!(
        "{} on {}, 4 KiB fdatasync {} us; load average before {:.2}",
        machine.kernel, machine.filesystem, machine.fsync_us, machine.load
    );
    println!();
    println!("records    {:>12}   of {:.0} bytes, {} a request", sent.records, sent.entry_bytes, plan.batch);
    println!("seconds    {:>12.3}   over {} connections", sent.seconds, plan.connections);
    println!("rate       {:>12.0}   records/s", sent.rate);
    let ms = |us: u64| us as f64 / 1000.0;
    let latency = sent.latency_us;
    println!("p50        {:>12.3}   ms from request to proof", ms(latency.p50));
    println!("p99        {:>12.3}   ms", ms(latency.p99));
    println!("p99.9      {:>12.3}   ms", ms(latency.p999));
    println!("max        {:>12.3}   ms", ms(latency.max));
    println!("verified   {:>12}   answers: checkpoint signature and inclusion", sent.verified);
    if let (Some(cpu), Some(memory)) = (&sent.log_cpu, sent.log_memory) {
        let before = log_memory_before.map_or(0, |before| before.resident_mib);
        println!("log        {:>12.2}   s of processor time ({})", cpu.seconds, cpu.by_thread());
        println!(
            "           {:>12}   MiB resident ({before} before, {} at most)",
            memory.resident_mib, memory.peak_mib
        );
    }
    println!("load       {:>12.2}   s of processor time", sent.load_cpu.seconds);
}
