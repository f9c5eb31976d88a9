//! Reading: each thing a log can be asked for, over 64 connections.

use sift_benches::AnyError;
use sift_benches::load::Plan;
use sift_benches::reads::{self, Ask};

use crate::Bench;
use crate::table::{Table, Target};

/// Entries in the log that is read.
const ENTRIES: usize = 300_000;

pub(crate) fn measure(bench: &Bench<'_>, table: &mut Table) -> Result<(), AnyError> {
    let records = ENTRIES / bench.divisor;
    let (log, prepared) = bench.loaded(Plan { records, ..Plan::default() }, 1)?;
    prepared.send(&log.host, &log.trust, None)?;
    drop(prepared);
    for ask in Ask::ALL {
        let plan = reads::Plan {
            connections: 64,
            asks: vec![ask],
            seconds: 3.0 / bench.divisor as f64,
            rate: None,
            samples: 64,
            seed: 1,
        };
        let done = reads::read(&log.host, &plan, Some(&log.trust), Some(log.pid()))?;
        // A bundle is 256 entries: their rate is that of a follower of the log.
        let floor = (ask != Ask::Bundle).then_some(Target::AtLeast(20_000.0));
        table.row(format!("read: {}", ask.name()), "/s", floor, done.rate);
        let each = |seconds: f64| 1e6 * seconds / done.requests as f64;
        let latency = done.latency_us;
        table.notes.push(format!(
            "read: {}, in a tree of {}: p50 {:.2}, p99 {:.2} ms; {:.0} bytes; processor time log {:.1} us, generator \
             {:.1} us; {} answers verified",
            ask.name(),
            done.size,
            latency.p50 as f64 / 1000.0,
            latency.p99 as f64 / 1000.0,
            done.body_bytes as f64 / done.requests as f64,
            each(done.log_cpu.map_or(0.0, |cpu| cpu.seconds)),
            each(done.load_cpu.seconds),
            done.verified
        ));
    }
    log.stop()?;
    Ok(())
}
