//! `sift-load`: sends signed records to a log, or reads from one, and says how it bore that.

mod args;
mod report;

use std::process::ExitCode;

use args::{Args, Mode};
use clap::Parser as _;
use report::{Outcome, What};
use sift_benches::AnyError;
use sift_benches::load::{Plan, Prepared};
use sift_benches::log::{ServedLog, enrol};
use sift_benches::machine::{Machine, Memory};
use sift_benches::reads::{self, Ask};
use sift_benches::records::{Subject, kernel_keys};
use sift_benches::rules::{Language, airline};
use sift_rules::PolicyBundle;
use sift_server::key_file::read_key;
use sift_spec::hash::object_digest;
use sift_spec::note::SignerKey;
use sift_spec::trust::TrustPolicy;

/// Entries that a log of one's own has before it is read.
const READ_RECORDS: usize = 200_000;

/// How long is read, in seconds.
const READ_SECONDS: f64 = 5.0;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sift-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), AnyError> {
    let scratch = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir).map_err(|error| format!("{}: {error}", dir.display()))?,
        None => tempfile::tempdir()?,
    };
    let machine = Machine::look(scratch.path())?;
    let log = match &args.url {
        None => Target::own(ServedLog::start(&scratch.path().join("log"))?),
        Some(url) => Target::other(args, url)?,
    };
    let memory_before = log.pid.map(Memory::of).transpose()?;
    let what = if args.mode == Mode::Read { read(args, &log)? } else { write(args, &log)? };
    let outcome = Outcome { what, memory_before, machine };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        outcome.print();
    }
    Ok(())
}

/// The log under load.
struct Target {
    host: String,
    url: String,
    trust: Option<TrustPolicy>,
    pid: Option<u32>,
    /// Served until this ends.
    own: Option<ServedLog>,
}

impl Target {
    fn own(log: ServedLog) -> Self {
        let (host, url, trust, pid) = (log.host.clone(), log.url(), Some(log.trust.clone()), Some(log.pid()));
        Self { host, url, trust, pid, own: Some(log) }
    }

    fn other(args: &Args, url: &str) -> Result<Self, AnyError> {
        let url = url.trim_end_matches('/').to_owned();
        let host = url.strip_prefix("http://").filter(|host| host.contains(':') && !host.contains('/'));
        let host =
            host.ok_or("--url: http://host:port is needed, without TLS and without a path")?.to_owned();
        let read = |path: &std::path::PathBuf| -> Result<TrustPolicy, AnyError> {
            let wrong = |error: String| format!("--trust {}: {error}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            Ok(TrustPolicy::parse(&text).map_err(|error| wrong(error.to_string()))?)
        };
        Ok(Self { host, url, trust: args.trust.as_ref().map(read).transpose()?, pid: args.pid, own: None })
    }
}

fn write(args: &Args, log: &Target) -> Result<What, AnyError> {
    let single = args.mode == Mode::Single;
    let usual = if single { Plan::single(50_000) } else { Plan::default() };
    let plan = Plan {
        connections: args.connections(),
        batch: if single { 1 } else { args.batch },
        records: args.records.unwrap_or(usual.records),
        calls: args.calls,
        runs: args.runs.unwrap_or(usual.runs),
        seconds: args.seconds,
        rate: args.rate,
        samples: args.verify,
    };
    let trust = log.trust.as_ref().ok_or("--trust is needed: receipts are verified against it")?;
    let (subject, keys) = authorise(args, log, trust)?;
    eprintln!("signing {} records ...", plan.records);
    let prepared = Prepared::sign(plan, &subject, &keys, &log.host)?;
    eprintln!("sending to {} ...", log.host);
    let sent = prepared.send(&log.host, trust, log.pid)?;
    Ok(What::Write { plan, sent })
}

/// Who signs the records, and what they are about.
fn authorise(args: &Args, log: &Target, trust: &TrustPolicy) -> Result<(Subject, Vec<SignerKey>), AnyError> {
    let [only] = trust.logs() else { return Err("--trust: the file must list exactly one log".into()) };
    let bundle = PolicyBundle::compile(&airline(Language::Rego)?)?;
    let subject = Subject::new(only.key.name().clone(), &bundle)?.of_agent(args.agent.clone());
    let subject = if args.scatter_runs { subject.scattered() } else { subject };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let (Some(policy), [_, ..]) = (args.policy, args.kernel_key.as_slice()) {
        let keys = args.kernel_key.iter().map(|path| read_key(path));
        return Ok((subject.under(policy), keys.collect::<Result<_, _>>()?));
    }
    let keys = kernel_keys(args.kernels)?;
    if let Some(own) = &log.own {
        let published = (bundle.digest(), bundle.encoding().len());
        runtime.block_on(enrol(&log.url, &own.operator, trust, &keys, published))?;
        return Ok((subject, keys));
    }
    let operator = args.operator_key.as_ref();
    let operator = operator.ok_or(
        "records need a key that the log accepts: --operator-key to enrol kernels, or --kernel-key and --policy",
    )?;
    // A bundle is published once, and this one may have been: one of a random name will do for the log.
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    let policy = object_digest(&random);
    runtime.block_on(enrol(&log.url, &read_key(operator)?, trust, &keys, (policy, 1)))?;
    Ok((subject.under(policy), keys))
}

fn read(args: &Args, log: &Target) -> Result<What, AnyError> {
    if let (Some(_), Some(trust)) = (&log.own, &log.trust) {
        let plan = Plan { records: args.records.unwrap_or(READ_RECORDS), ..Plan::default() };
        let (subject, keys) = authorise(args, log, trust)?;
        eprintln!("writing {} records to read ...", plan.records);
        Prepared::sign(plan, &subject, &keys, &log.host)?.send(&log.host, trust, None)?;
    }
    let plan = reads::Plan {
        connections: args.connections(),
        asks: if args.ask.is_empty() { Ask::ALL.to_vec() } else { args.ask.clone() },
        seconds: args.seconds.unwrap_or(READ_SECONDS),
        rate: args.rate,
        samples: args.verify.min(READ_SAMPLES_MAX),
        seed: args.seed,
    };
    eprintln!("reading from {} ...", log.host);
    let done = reads::read(&log.host, &plan, log.trust.as_ref(), log.pid)?;
    Ok(What::Read { plan, done })
}

/// Most answers that reading keeps to verify them.
const READ_SAMPLES_MAX: usize = 10_000;
