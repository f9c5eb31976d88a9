//! `sift-figures`: the table of what good measures (DESIGN section 8), as it is on this machine.

mod growth;
mod overshoot;
mod peers;
mod reads;
mod stages;
mod table;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use sift_benches::decisions::{self, Interpreter, time_each, time_threads};
use sift_benches::load::{Latency, Plan, Prepared, Sent};
use sift_benches::log::{ServedLog, enrol};
use sift_benches::machine::{CpuTime, Machine, Others};
use sift_benches::packs::Packs;
use sift_benches::records::{Subject, kernel_keys};
use sift_benches::rules::{self, Language};
use sift_benches::{AnyError, engines, kernel, percentile, store};
use sift_rules::PolicyBundle;
use sift_spec::record::Effect;

use crate::table::{Table, Target};

/// As in `sift-kernel`, whose library is measured here.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Prints the table of figures, measured here and now. Nothing is judged: figures stand beside their targets.
///
/// The load generator, the log and the kernel share this machine's cores. Run it on a quiet machine.
#[derive(Debug, Parser)]
#[command(name = "sift-figures", version)]
struct Args {
    /// A tenth of the work: for a first look.
    #[arg(long)]
    quick: bool,
    /// Folder for the scratch directory; it should be on the disk that is to be measured.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Measure only this; may be given several times.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Entries that the log grows to in `--only growth`.
    #[arg(long, default_value_t = 10_000_000)]
    entries: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Make the calls of one cell of `--only overshoot`; the program starts itself with this.
    #[arg(long, hide = true, value_name = "PLAN")]
    callers: Option<PathBuf>,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Decisions alone.
    Decisions,
    /// Recorded decisions, made again from evidence packs.
    Replay,
    /// What the kernel adds to a call.
    Kernel,
    /// Single records into the log.
    Single,
    /// Batches into the log, its memory and disk.
    Batches,
    /// The verifier: a whole log, beside plain verification and Tessera's fsck; a long run; a receipt.
    Verify,
    /// Tiles, checkpoints, entries, receipts and proofs out of the log.
    Reads,
    /// The log as it grows to --entries, start-up after kill -9, disk after compaction. Only when asked for.
    Growth,
    /// Money over the cap: the kernel under 1 to 256 callers, errors and crashes, with LiteLLM beside it. Only when asked
    /// for; exits with 1 if a cell of Sift's is above 0.00.
    Overshoot,
    /// What governing a call costs: the kernel, and agent-governance-toolkit's Python package beside it. Only when asked
    /// for.
    Peers,
}

impl Part {
    /// What takes many minutes or other people's packages is measured only when asked for.
    const fn only_if_asked(self) -> bool {
        matches!(self, Self::Growth | Self::Overshoot | Self::Peers)
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sift-figures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), AnyError> {
    if let Some(plan) = &args.callers {
        return overshoot::callers(plan);
    }
    let scratch = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let machine = Machine::look(scratch.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let divisor = if args.quick { 10 } else { 1 };
    let mut table = Table::default();
    let asked_for = |part: &&Part| match args.only.as_slice() {
        [] => !part.only_if_asked(),
        only => only.contains(part),
    };
    for part in Part::value_variants().iter().filter(asked_for) {
        eprintln!("measuring {part:?} ...");
        let dir = tempfile::tempdir_in(scratch.path())?;
        let bench = Bench { runtime: &runtime, dir: dir.path(), divisor };
        let others = Others::watch()?;
        match part {
            Part::Decisions => decide(&bench, &mut table)?,
            Part::Replay => replays(&bench, &mut table)?,
            Part::Kernel => kernels(&bench, &mut table)?,
            Part::Single => single(&bench, &mut table)?,
            Part::Batches => batches(&bench, &mut table)?,
            Part::Verify => verify::measure(&bench, &mut table)?,
            Part::Reads => reads::measure(&bench, &mut table)?,
            Part::Growth => growth::measure(&bench, args.entries / divisor, &mut table)?,
            Part::Overshoot => overshoot::measure(&bench, &mut table)?,
            Part::Peers => peers::measure(&bench, &mut table)?,
        }
        let share = 100.0 * others.share()?;
        table.notes.push(format!("{part:?}: other programs took {share:.0} % of the cores meanwhile"));
    }
    if args.json {
        let all = serde_json::json!({ "machine": machine, "quick": args.quick, "table": table });
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        table.print(&machine, args.quick);
    }
    if table.failures.is_empty() { Ok(()) } else { Err(table.failures.join("\n").into()) }
}

/// What a measurement works with.
struct Bench<'a> {
    runtime: &'a tokio::runtime::Runtime,
    /// An empty folder.
    dir: &'a Path,
    /// The work is divided by this.
    divisor: usize,
}

impl Bench<'_> {
    /// A new log with a bundle published and `kernels` keys granted, and load for it, signed.
    fn loaded(&self, plan: Plan, kernels: usize) -> Result<(ServedLog, Prepared), AnyError> {
        let bundle = PolicyBundle::compile(&rules::airline(Language::Rego)?)?;
        let log = ServedLog::start(&self.dir.join("log"))?;
        let keys = kernel_keys(kernels)?;
        let published = (bundle.digest(), bundle.encoding().len());
        self.runtime.block_on(enrol(&log.url(), &log.operator, &log.trust, &keys, published))?;
        let prepared = Prepared::sign(plan, &Subject::new(log.origin(), &bundle)?, &keys, &log.host)?;
        Ok((log, prepared))
    }
}

fn decide(bench: &Bench<'_>, table: &mut Table) -> Result<(), AnyError> {
    let inputs = decisions::hundred()?;
    let rounds = 2000 / bench.divisor;
    let us = |times: &[u64]| percentile(times, 0.5) as f64 / 1000.0;
    for (language, what) in [
        (Language::Rego, "decision, 100 rules, Rego, p50"),
        (Language::Cedar, "decision, 100 rules, Cedar, p50"),
    ] {
        let bundle = rules::hundred_compiled(language)?;
        let (times, _) = time_threads(&bundle, &inputs, rounds, 1)?;
        table.row(what, "us", Target::AtMost(15.0), us(&times));
        let p99 = percentile(&times, 0.99) as f64 / 1000.0;
        let mut note =
            format!("decision, 100 rules, {}: p99 {p99:.1} us, from the input's bytes;", language.name());
        for threads in [1, 2, 4, 8] {
            let (times, rate) = time_threads(&bundle, &inputs, rounds / threads, threads)?;
            note += &format!(" {threads} threads: p50 {:.1} us, {rate:.0}/s in all;", us(&times));
        }
        table.notes.push(note.trim_end_matches(';').to_owned());
        let mut whole = bundle.decider_unsliced();
        let mut times = time_each(&inputs, rounds / 4, |input| Ok(whole.decide(input).effect))?;
        times.sort_unstable();
        table.row("  the same with all rules run, p50", "us", None, us(&times));
    }
    let allows = |allowed: bool| if allowed { Effect::Allow } else { Effect::Deny };
    let mut row = |what: &str, decide: &mut dyn FnMut(&[u8]) -> Result<Effect, AnyError>| {
        let mut times = time_each(&inputs, rounds / 4, decide)?;
        times.sort_unstable();
        table.row(what, "us", None, us(&times));
        Ok::<_, AnyError>(())
    };
    let policy = rules::hundred(Language::Rego);
    let (mut interpreter, mut machine) =
        (Interpreter::new(policy.clone())?, engines::Machine::new(policy, "{}")?);
    let cedar = engines::Cedar::new(&rules::hundred(Language::Cedar))?;
    row("  the same by regorus's interpreter, p50", &mut |input| {
        Ok(allows(interpreter.decide(input)? == [1, 0, 0]))
    })?;
    row("  the same by regorus's machine, p50", &mut |input| {
        Ok(allows(machine.decide(input)? == [1, 0, 0]))
    })?;
    row("  the same by cedar-policy, p50", &mut |input| Ok(allows(cedar.decide(input)?)))?;
    Ok(())
}

/// `sift-verify replay` over the packs of recorded conversations.
fn replays(bench: &Bench<'_>, table: &mut Table) -> Result<(), AnyError> {
    let rounds = (30 / bench.divisor).max(1);
    for (language, what) in [
        (Language::Rego, "replayed decisions, airline, Rego, all cores"),
        (Language::Cedar, "replayed decisions, airline, Cedar, all cores"),
    ] {
        let dir = bench.dir.join(language.name());
        std::fs::create_dir_all(&dir)?;
        let packs = Packs::airline(language, &dir)?;
        table.row(packs.played_as(), "calls/s", Target::AtLeast(2000.0), packs.played());
        let rates = packs.replay(rounds, None)?;
        table.row(what, "/s", Target::AtLeast(100_000.0), rates.deciding());
        table.row("  the same with every pack read and verified", "/s", None, rates.all());
        let again = packs.replay(rounds, Some(&PolicyBundle::compile(&rules::airline(language)?)?))?;
        table.row("  the same with --bundle, deciding", "/s", None, again.deciding());
        if language == Language::Rego {
            let (calls, packs) = (rates.decisions / rounds as u64, rates.packs);
            table.notes.push(format!("replayed: {calls} decisions in {packs} packs, {rounds} times"));
            let bundle = rules::airline(language)?;
            let recorded = decisions::airline(&PolicyBundle::compile(&bundle)?)?;
            let inputs: Vec<_> = recorded.decisions.into_iter().map(|decision| decision.input).collect();
            let plain = engines::machine_rate(&bundle, &inputs, rounds.div_ceil(5))?;
            table.row("  regorus's machine alone on such inputs", "/s", None, plain);
        }
    }
    Ok(())
}

fn kernels(bench: &Bench<'_>, table: &mut Table) -> Result<(), AnyError> {
    let bundle = rules::airline_unlimited(Language::Rego)?;
    let log = ServedLog::start(&bench.dir.join("log"))?;
    let keys = kernel_keys(2)?;
    let published = (bundle.digest(), bundle.encode().len());
    bench.runtime.block_on(enrol(&log.url(), &log.operator, &log.trust, &keys, published))?;
    let (few, many) = (3000 / bench.divisor as u64, 30_000 / bench.divisor as u64);
    for ((url, logged), key) in [(kernel::NO_LOG.to_owned(), false), (log.url(), true)].into_iter().zip(keys)
    {
        let dir = bench.dir.join(if logged { "logged" } else { "unlogged" });
        std::fs::create_dir_all(&dir)?;
        let (alone, together, elapsed, cpu, split) = bench.runtime.block_on(async {
            let kernel = kernel::open(&dir, &url, &log.trust, &bundle, key).await?;
            kernel::alone(&kernel, 100).await?;
            let start = kernel.timings();
            let alone = kernel::alone(&kernel, few).await?;
            let middle = kernel.timings();
            let before = CpuTime::of(std::process::id())?;
            let (together, elapsed) = kernel::at_once(&kernel, many, 64).await?;
            let cpu = CpuTime::of(std::process::id())?.since(&before);
            let split = (middle.since(&start), kernel.timings().since(&middle));
            // Whatever the kernel made is in the log in the end, and so was admitted.
            if logged && !kernel.drain(Duration::from_secs(300)).await {
                return Err(format!("{} records did not reach the log", kernel.unlogged()).into());
            }
            kernel.close().await;
            Ok::<_, AnyError>((alone, together, elapsed, cpu, split))
        })?;
        let rate = together.len() as f64 / elapsed.as_secs_f64();
        let (alone, together) = (Latency::of(alone), Latency::of(together));
        let ms = |us: u64| us as f64 / 1000.0;
        let [p50, p99, all] = if logged {
            ["  the same, uploading to a log here, p50", "  the same, p99", "  the same, 64-way"]
        } else {
            ["kernel, added per call, alone, p50", "kernel, added per call, alone, p99", "kernel, 64-way"]
        };
        table.row(p50, "ms", Target::AtMost(0.6), ms(alone.p50));
        table.row(p99, "ms", Target::AtMost(3.0), ms(alone.p99));
        table.row(all, "calls/s", Target::AtLeast(10_000.0), rate);
        let [of_alone, of_many] =
            if logged { ["alone, log here", "64-way, log here"] } else { ["alone", "64-way"] };
        table.stages.push(stages::Split::of(of_alone, few, &split.0));
        table.stages.push(stages::Split::of(of_many, many, &split.1));
        let what = if logged { "log here" } else { "log elsewhere" };
        let (p50, p99, seconds) = (ms(together.p50), ms(together.p99), elapsed.as_secs_f64());
        table.notes.push(format!(
            "kernel, 64-way, {what}: {many} calls in {seconds:.2} s, p50 {p50:.2} ms, p99 {p99:.2} ms, spool mode, \
             Rego; processor time {:.2} s ({})",
            cpu.seconds,
            cpu.by_thread()
        ));
    }
    log.stop()?;
    Ok(())
}

fn single(bench: &Bench<'_>, table: &mut Table) -> Result<(), AnyError> {
    let records = 100_000 / bench.divisor;
    let plan = Plan::single(records);
    let (log, prepared) = bench.loaded(plan, 1)?;
    let sent = prepared.send(&log.host, &log.trust, Some(log.pid()))?;
    let ms = |us: u64| us as f64 / 1000.0;
    table.row("ingest, single, 64 connections", "records/s", Target::AtLeast(15_000.0), sent.rate);
    table.row("ingest, single, p50 to a proof", "ms", None, ms(sent.latency_us.p50));
    table.row("ingest, single, p99 to a proof", "ms", Target::AtMost(10.0), ms(sent.latency_us.p99));
    table.notes.push(explain("ingest, single", &sent));
    log.stop()?;
    Ok(())
}

fn batches(bench: &Bench<'_>, table: &mut Table) -> Result<(), AnyError> {
    let records = 600_000 / bench.divisor;
    let plan = Plan { records, ..Plan::default() };
    let (log, prepared) = bench.loaded(plan, 1)?;
    let sent = prepared.send(&log.host, &log.trust, Some(log.pid()))?;
    let (entries, entry_bytes) = (prepared.entries() as u64, prepared.entry_bytes());
    drop(prepared);
    table.row("ingest, batches of 256, 16 connections", "records/s", Target::AtLeast(100_000.0), sent.rate);
    let memory = sent.log_memory.unwrap_or_default();
    table.row("server memory after that, resident", "MiB", Target::AtMost(512.0), memory.resident_mib as f64);
    table.notes.push(explain("ingest, batches", &sent));
    table.notes.push(format!(
        "server memory: at {entries} entries, {} MiB at most; the target is for 10,000,000",
        memory.peak_mib
    ));
    let data = log.stop()?.join("data");
    let before = store::bytes_below(&data)?;
    store::compact(&data)?;
    let bytes = store::bytes_below(&data)?;
    let least = entry_bytes + 32 * entries;
    table.row("disk, against entries + 32 B x leaves", "x", Target::AtMost(1.2), bytes as f64 / least as f64);
    let each = |bytes: u64| bytes as f64 / entries as f64;
    table.notes.push(format!(
        "disk: {:.0} bytes an entry after compaction, {:.0} before; entries are of {:.0} bytes",
        each(bytes),
        each(before),
        each(entry_bytes)
    ));
    Ok(())
}

/// Where the time went.
fn explain(what: &str, sent: &Sent) -> String {
    let ms = |us: u64| us as f64 / 1000.0;
    let latency = sent.latency_us;
    let cpu = sent.log_cpu.clone().unwrap_or_default();
    format!(
        "{what}: {} records of {:.0} bytes in {:.2} s; p50 {:.2}, p99 {:.2}, p99.9 {:.2} ms; {} answers verified; \
         processor time: load generator {:.2} s, log {:.2} s ({})",
        sent.records,
        sent.entry_bytes,
        sent.seconds,
        ms(latency.p50),
        ms(latency.p99),
        ms(latency.p999),
        sent.verified,
        sent.load_cpu.seconds,
        cpu.seconds,
        cpu.by_thread()
    )
}
