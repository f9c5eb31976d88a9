//! The verifier as auditors run it: a whole log, a long run, one receipt.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sift_benches::audit::{self, Took, run};
use sift_benches::load::Plan;
use sift_benches::log::{ServedLog, enrol, program};
use sift_benches::machine::timed;
use sift_benches::records::kernel_keys;
use sift_benches::rules::{self, Language};
use sift_benches::{AnyError, kernel, percentile};
use sift_client::CloseReason;
use sift_server::init::TRUST_FILE;
use sift_spec::types::RunId;

use crate::Bench;
use crate::table::{Table, Target};

/// Tessera's checker of whole logs.
const FSCK: &str = "github.com/transparency-dev/tessera/cmd/fsck@v1.0.4";

pub(crate) fn measure(bench: &Bench<'_>, table: &mut Table) -> Result<(), AnyError> {
    logs(bench, table)?;
    steps(bench, table)
}

fn logs(bench: &Bench<'_>, table: &mut Table) -> Result<(), AnyError> {
    let records = 500_000 / bench.divisor;
    let (log, prepared) = bench.loaded(Plan { records, ..Plan::default() }, 4)?;
    prepared.send(&log.host, &log.trust, None)?;
    drop(prepared);
    let copy = bench.dir.join("copy");
    let size = bench.runtime.block_on(audit::mirror(&log.host, &copy))?;
    let [entry, receipt] = ["entry.note", "entry.tlog-proof"].map(|name| bench.dir.join(name));
    let index = size.get() / 2;
    let wanted =
        [(&entry, format!("/v1/records/{index}")), (&receipt, format!("/v1/records/{index}.tlog-proof"))];
    for (file, path) in wanted {
        std::fs::write(file, bench.runtime.block_on(audit::fetch(&log.host, &path))?)?;
    }
    let trust = log.dir.join(TRUST_FILE);
    let vkey = log.trust.logs().first().ok_or("a log without a key")?.key.to_string();
    let policy = log.trust.clone();
    log.stop()?;

    let whole = |threads: Option<u32>| {
        let mut verify = Command::new(program("sift-verify")?);
        verify.args(["log", "--quiet", "--trust"]).arg(&trust).arg(&copy);
        verify.args(threads.map(|threads| format!("--threads={threads}")));
        run(&mut verify)
    };
    let rate = |elapsed: Duration| size.get() as f64 / elapsed.as_secs_f64();
    // In turn, so that what else goes on meets all of them.
    let rounds = if bench.divisor == 1 { 3 } else { 1 };
    let (mut all, mut one, mut plain, mut fsck) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let stranger = installed(bench.dir);
    settled()?;
    for _ in 0..rounds {
        all.push(whole(None)?);
        one.push(whole(Some(1))?.elapsed);
        let (done, elapsed) = timed(|| audit::verify_plainly(&copy, &policy));
        done?;
        plain.push(elapsed);
        if let Ok(stranger) = &stranger {
            fsck.push(checked_by(stranger, &copy, &vkey, bench.dir)?);
        }
    }
    let best = |times: &[Duration]| times.iter().min().copied().unwrap_or_default();
    let elapsed: Vec<Duration> = all.iter().map(|took: &Took| took.elapsed).collect();
    let what = "full-log audit, from tiles on disk, all cores";
    table.row(what, "entries/s", Target::AtLeast(200_000.0), rate(best(&elapsed)));
    table.row("  the same with --threads 1", "entries/s", None, rate(best(&one)));
    let what = "  one thread, each signature by itself, no tiles";
    table.row(what, "entries/s", None, rate(best(&plain)));
    match &stranger {
        Ok(_) => table.row("  Tessera's fsck: hashes and tiles alone", "entries/s", None, rate(best(&fsck))),
        Err(why) => table.notes.push(format!("audit: without Tessera's fsck: {why}")),
    }
    let peak = all.iter().map(|took| took.peak_mib).max().unwrap_or_default();
    table.row("  memory of the audit, resident", "MiB", None, peak as f64);
    table.notes.push(format!("audit: {} entries, the best of {rounds} runs of each, in turn", size));
    receipts(bench, table, &trust, &entry, &receipt)
}

/// What was just written is on its way to the disk, which would go on beside what is measured next.
fn settled() -> Result<(), AnyError> {
    if Command::new("sync").status()?.success() { Ok(()) } else { Err("`sync` failed".into()) }
}

/// Tessera's checker, made by Go.
fn installed(dir: &Path) -> Result<PathBuf, AnyError> {
    let go = Command::new("go").args(["install", FSCK]).env("GOBIN", dir).stderr(Stdio::null()).status()?;
    if go.success() { Ok(dir.join("fsck")) } else { Err("`go install` failed".into()) }
}

fn checked_by(fsck: &Path, copy: &Path, vkey: &str, dir: &Path) -> Result<Duration, AnyError> {
    let key = dir.join("log.vkey");
    std::fs::write(&key, vkey)?;
    let cores = std::thread::available_parallelism()?;
    let start = Instant::now();
    let output = Command::new(fsck)
        .arg(format!("--storage_url=file://{}/", copy.display()))
        .arg(format!("--public_key={}", key.display()))
        .args([format!("-N={cores}"), "--ui=false".to_owned()])
        .output()?;
    let elapsed = start.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("Successfully fsck'd log") { Ok(elapsed) } else { Err(format!("fsck: {said}").into()) }
}

/// From the start of the process to its end.
fn receipts(
    bench: &Bench<'_>,
    table: &mut Table,
    trust: &Path,
    entry: &Path,
    receipt: &Path,
) -> Result<(), AnyError> {
    let mut times = Vec::new();
    for _ in 0..200 / bench.divisor {
        let mut verify = Command::new(program("sift-verify")?);
        verify.args(["proof", "--quiet", "--trust"]).arg(trust).arg("--entry").arg(entry);
        verify.arg("--receipt").arg(receipt);
        let (status, elapsed) = timed(|| verify.status());
        if !status?.success() {
            return Err("a receipt does not verify".into());
        }
        times.push(elapsed.as_micros() as u64);
    }
    times.sort_unstable();
    let ms = percentile(&times, 0.5) as f64 / 1000.0;
    table.row("proof, from start to verdict, p50", "ms", Target::AtMost(10.0), ms);
    Ok(())
}

/// A run of 10,000 records, by a real kernel into a real log.
fn steps(bench: &Bench<'_>, table: &mut Table) -> Result<(), AnyError> {
    let calls = 5000 / bench.divisor as u64;
    let dir = bench.dir.join("steps");
    let log = ServedLog::start(&dir.join("log"))?;
    let (bundle, keys) = (rules::airline_unlimited(Language::Rego)?, kernel_keys(1)?);
    let published = (bundle.digest(), bundle.encode().len());
    bench.runtime.block_on(enrol(&log.url(), &log.operator, &log.trust, &keys, published))?;
    let key = keys.into_iter().next().ok_or("no key")?;
    let pack = bench.runtime.block_on(async {
        let kernel = kernel::open(&dir, &log.url(), &log.trust, &bundle, key).await?;
        let run = kernel::open_run(&kernel).await?;
        for number in 0..calls {
            kernel::call(&run, number).await?;
        }
        let id: RunId = run.id();
        run.close(CloseReason::Done).await?;
        let pack = kernel::evidence(&kernel, &log.url(), &log.trust, id).await?;
        kernel.close().await;
        Ok::<_, AnyError>(pack)
    })?;
    let trust = log.dir.join(TRUST_FILE);
    let path = dir.join("run.sift");
    std::fs::write(&path, &pack)?;
    let mut took = Vec::new();
    for _ in 0..5 {
        let mut verify = Command::new(program("sift-verify")?);
        took.push(run(verify.args(["run", "--quiet", "--trust"]).arg(&trust).arg(&path))?);
    }
    let best = took.iter().map(|took| took.elapsed).min().unwrap_or_default();
    let peak = took.iter().map(|took| took.peak_mib).max().unwrap_or_default();
    let target = (bench.divisor == 1).then_some(Target::AtMost(1.0));
    table.row(format!("run, a pack of {} steps", 2 * calls), "s", target, best.as_secs_f64());
    let mib = pack.len() as f64 / f64::from(1 << 20);
    table.notes.push(format!("run: a pack of {mib:.1} MiB, {peak} MiB of memory at its peak; the best of 5"));
    log.stop()?;
    Ok(())
}
