//! The log as it grows: the same measurements at 10 thousand entries, at 10 million, and between.
//!
//! Records are signed in chunks between the timed stretches, so that the generator needs little memory and takes no
//! time from the log while the clock runs. Rates are over all chunks of a stretch; the log's processor time is all of
//! it, what it does while chunks are signed (compaction) included.

use std::time::{Duration, Instant};

use serde::Serialize;
use sift_benches::load::{Latency, Plan, Prepared};
use sift_benches::log::{ServedLog, enrol};
use sift_benches::machine::{CpuTime, Memory};
use sift_benches::reads::{self, Ask};
use sift_benches::records::{Subject, kernel_keys};
use sift_benches::rules::{self, Language};
use sift_benches::{AnyError, store};
use sift_rules::PolicyBundle;
use sift_spec::note::SignerKey;

use crate::Bench;
use crate::table::{Table, Target};

/// Records that are signed at a time.
const CHUNK: usize = 250_000;

/// Sizes at which everything is measured, and the given one.
const STOPS: [usize; 5] = [10_000, 100_000, 1_000_000, 3_000_000, 10_000_000];

/// Single records that are timed at each size; fewer in a small log.
const SINGLES: usize = 40_000;

/// How long each kind of answer is asked for, in seconds.
const READ_SECONDS: f64 = 2.0;

/// Records that are written before each kill. What a start has to read again differs with it, as the write-ahead log
/// grows and is cut.
const BEFORE_KILLS: [usize; 3] = [10_000, 30_000, 50_000];

/// A size, and what was measured there.
#[derive(Debug, Serialize)]
pub(crate) struct Point {
    entries: usize,
    /// Over the stretch that led here, in records a second.
    batch_rate: f64,
    /// The log's processor time for each record of the stretch.
    batch_cpu_us: f64,
    single_rate: f64,
    single_latency_us: Latency,
    /// Receipts of random entries.
    receipt_rate: f64,
    receipt_latency_us: Latency,
    receipt_cpu_us: f64,
    /// A point read, to compare with.
    entry_cpu_us: f64,
    memory: Memory,
    disk_bytes: u64,
}

pub(crate) fn measure(bench: &Bench<'_>, entries: usize, table: &mut Table) -> Result<(), AnyError> {
    let log = ServedLog::start(&bench.dir.join("log"))?;
    let mut grower = Grower::enrol(bench, &log)?;
    // What is sent one by one at a stop belongs to the next stretch, which is longer.
    let stops = STOPS.into_iter().filter(|stop| 3 * *stop <= entries).chain([entries]);
    for stop in stops {
        let start = grower.entries;
        let cpu = CpuTime::of(log.pid())?;
        let mut sending = Duration::ZERO;
        while grower.entries < stop {
            let plan = Plan { records: CHUNK.min(stop - grower.entries), samples: 4, ..Plan::default() };
            sending += grower.send(&log, plan)?.1;
        }
        let records = (grower.entries - start) as f64;
        let batch_cpu_us = CpuTime::of(log.pid())?.since(&cpu).seconds * 1e6 / records;
        let singles = SINGLES.min(stop);
        let (single, elapsed) = grower.send(&log, Plan::single(singles))?;
        let read = |ask| {
            let plan = reads::Plan {
                connections: 64,
                asks: vec![ask],
                seconds: READ_SECONDS,
                rate: None,
                samples: 16,
                seed: 1,
            };
            let done = reads::read(&log.host, &plan, Some(&log.trust), Some(log.pid()))?;
            let cpu_us = done.log_cpu.as_ref().map_or(0.0, |cpu| cpu.seconds) * 1e6 / done.requests as f64;
            Ok::<_, AnyError>((done, cpu_us))
        };
        let ((receipts, receipt_cpu_us), (_, entry_cpu_us)) = (read(Ask::Receipt)?, read(Ask::Entry)?);
        let point = Point {
            entries: stop,
            batch_rate: records / sending.as_secs_f64(),
            batch_cpu_us,
            single_rate: singles as f64 / elapsed.as_secs_f64(),
            single_latency_us: single,
            receipt_rate: receipts.rate,
            receipt_latency_us: receipts.latency_us,
            receipt_cpu_us,
            entry_cpu_us,
            memory: Memory::of(log.pid())?,
            disk_bytes: store::bytes_below(&log.data())?,
        };
        eprintln!("  {}", line(&point));
        table.curve.push(point);
    }
    summarise(table);
    let started = kill_and_start(log, &mut grower, table)?;
    weigh(started, &grower, table)
}

/// Signs and sends, and remembers how much.
struct Grower {
    subject: Subject,
    keys: Vec<SignerKey>,
    entries: usize,
    entry_bytes: u64,
    /// Runs that each connection has signed, at most.
    runs: u64,
}

impl Grower {
    fn enrol(bench: &Bench<'_>, log: &ServedLog) -> Result<Self, AnyError> {
        let bundle = PolicyBundle::compile(&rules::airline(Language::Rego)?)?;
        let keys = kernel_keys(4)?;
        let published = (bundle.digest(), bundle.encoding().len());
        bench.runtime.block_on(enrol(&log.url(), &log.operator, &log.trust, &keys, published))?;
        let subject = Subject::new(log.origin(), &bundle)?;
        Ok(Self { subject, keys, entries: 0, entry_bytes: 0, runs: 0 })
    }

    /// Gives the latencies and how long the sending alone took.
    fn send(&mut self, log: &ServedLog, plan: Plan) -> Result<(Latency, Duration), AnyError> {
        let subject = self.subject.clone().after(self.runs);
        let prepared = Prepared::sign(plan, &subject, &self.keys, &log.host)?;
        let sent = prepared.send(&log.host, &log.trust, None)?;
        // A run has an entry or more, so that no stream has signed more runs than it has records.
        self.runs += plan.records.div_ceil(plan.connections) as u64 + plan.runs;
        self.entries += prepared.entries();
        self.entry_bytes += prepared.entry_bytes();
        Ok((sent.latency_us, Duration::from_secs_f64(sent.seconds)))
    }
}

fn summarise(table: &mut Table) {
    let (Some(first), Some(last)) = (table.curve.first(), table.curve.last()) else { return };
    let ms = |us: u64| us as f64 / 1000.0;
    let figures = [
        ("ingest, batches, last stretch", "records/s", Some(Target::AtLeast(100_000.0)), last.batch_rate),
        ("  processor time a record, first stretch", "us", None, first.batch_cpu_us),
        ("  processor time a record, last stretch", "us", None, last.batch_cpu_us),
        ("ingest, single, at the end", "records/s", Some(Target::AtLeast(15_000.0)), last.single_rate),
        (
            "ingest, single, p99 to a proof, at the end",
            "ms",
            Some(Target::AtMost(10.0)),
            ms(last.single_latency_us.p99),
        ),
        ("receipts of random entries, at the end", "/s", Some(Target::AtLeast(20_000.0)), last.receipt_rate),
        (
            "  processor time, against a point read's",
            "x",
            Some(Target::AtMost(4.0)),
            last.receipt_cpu_us / last.entry_cpu_us,
        ),
        (
            "server memory at the end, at most",
            "MiB",
            Some(Target::AtMost(512.0)),
            last.memory.peak_mib as f64,
        ),
    ];
    for (what, unit, target, measured) in figures {
        table.row(what, unit, target, measured);
    }
}

/// Kills the log in the middle of its work, several times, and starts it again.
fn kill_and_start(mut log: ServedLog, grower: &mut Grower, table: &mut Table) -> Result<ServedLog, AnyError> {
    let mut slowest = Duration::ZERO;
    let mut starts = Vec::new();
    for records in BEFORE_KILLS {
        grower.send(&log, Plan { records, ..Plan::default() })?;
        let before = store::bytes_of_wal(&log.data())?;
        let dir = log.kill()?;
        let start = Instant::now();
        log = ServedLog::again(&dir)?;
        let elapsed = start.elapsed();
        starts.push(format!("{:.2} s for {} MiB of write-ahead log", elapsed.as_secs_f64(), before >> 20));
        slowest = slowest.max(elapsed);
        // It goes on where it was: the next records are admitted, and proven.
        grower.send(&log, Plan { records: 1000, samples: usize::MAX, ..Plan::default() })?;
    }
    let slowest = slowest.as_secs_f64();
    table.row("start-up after kill -9, slowest of three", "s", Target::AtMost(2.0), slowest);
    table.notes.push(format!("start-up after kill -9: {}", starts.join(", ")));
    Ok(log)
}

fn weigh(log: ServedLog, grower: &Grower, table: &mut Table) -> Result<(), AnyError> {
    let data = log.stop()?.join("data");
    let before = store::bytes_below(&data)?;
    let start = Instant::now();
    store::compact(&data)?;
    let (bytes, seconds) = (store::bytes_below(&data)?, start.elapsed().as_secs_f64());
    let least = (grower.entry_bytes + 32 * grower.entries as u64) as f64;
    table.row("disk, against entries + 32 B x leaves", "x", Target::AtMost(1.2), bytes as f64 / least);
    table.notes.push(format!(
        "disk: {:.2} x before compaction, which took {seconds:.0} s; {} entries of {:.0} bytes",
        before as f64 / least,
        grower.entries,
        grower.entry_bytes as f64 / grower.entries as f64
    ));
    Ok(())
}

/// The curve, a line a size.
pub(crate) fn print(curve: &[Point]) {
    if curve.is_empty() {
        return;
    }
    println!("{HEAD}");
    curve.iter().for_each(|point| println!("{}", line(point)));
    println!();
}

const HEAD: &str = "   entries   batches/s  us/rec   single/s    p50    p99 ms   receipts/s  p99 ms  us/req  (entry)    MiB  \
                    disk MiB";

fn line(point: &Point) -> String {
    let ms = |us: u64| us as f64 / 1000.0;
    format!(
        "{:>10} {:>11.0} {:>7.1} {:>10.0} {:>6.2} {:>9.2} {:>12.0} {:>7.2} {:>7.1} {:>8.1} {:>6} {:>9}",
        point.entries,
        point.batch_rate,
        point.batch_cpu_us,
        point.single_rate,
        ms(point.single_latency_us.p50),
        ms(point.single_latency_us.p99),
        point.receipt_rate,
        ms(point.receipt_latency_us.p99),
        point.receipt_cpu_us,
        point.entry_cpu_us,
        point.memory.resident_mib,
        point.disk_bytes >> 20,
    )
}
