//! What the sequencer counts: commits and what became of records.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::NoLabels;
use super::histogram::Histogram;

/// Upper bounds for the number of entries in a commit.
const ENTRIES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// A commit that takes longer is said in the server's log.
const SLOW: Duration = Duration::from_secs(1);

/// Numbers of the sequencer. It alone writes them.
#[derive(Debug)]
pub(crate) struct CommitMetrics {
    seconds: Histogram,
    entries: Histogram,
    admitted: AtomicU64,
    repeated: AtomicU64,
    equivocations: AtomicU64,
    heads: AtomicU64,
    last_millis: AtomicU64,
}

impl Default for CommitMetrics {
    fn default() -> Self {
        Self {
            seconds: Histogram::of_latency(),
            entries: Histogram::new(ENTRIES, 1.0),
            admitted: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            equivocations: AtomicU64::new(0),
            heads: AtomicU64::new(0),
            last_millis: AtomicU64::new(0),
        }
    }
}

impl CommitMetrics {
    /// A commit is durable: how long it took to write, and what it holds.
    pub(crate) fn committed(&self, took: Duration, entries: usize, equivocations: usize) {
        self.seconds.observe_duration(took);
        self.entries.observe(entries as u64);
        self.admitted.fetch_add(entries as u64, Ordering::Relaxed);
        self.equivocations.fetch_add(equivocations as u64, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_millis.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if took > SLOW {
            tracing::warn!(milliseconds = took.as_millis(), entries, "a commit was slow: look at the disk");
        }
    }

    /// Records that were in the log already, and were answered with the index that they have.
    pub(crate) fn repeated(&self, records: usize) {
        self.repeated.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Heads of runs that are kept in memory.
    pub(crate) fn heads(&self, heads: usize) {
        self.heads.store(heads as u64, Ordering::Relaxed);
    }
}

impl Collector for CommitMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut told = encoder.encode_descriptor(
            "commit",
            "Time that the synced write of a commit took.",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        self.seconds.encode(&mut told)?;
        let mut told = encoder.encode_descriptor(
            "commit_entries",
            "Entries in a commit.",
            None,
            MetricType::Histogram,
        )?;
        self.entries.encode(&mut told)?;
        for (name, help, counter) in [
            ("records_admitted", "Records that got an index.", &self.admitted),
            (
                "records_repeated",
                "Records that were in the log already and were answered again.",
                &self.repeated,
            ),
            (
                "equivocations",
                "Other records for a place that is taken, kept as evidence.",
                &self.equivocations,
            ),
        ] {
            let mut told = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            told.encode_counter::<NoLabels, _, f64>(&counter.load(Ordering::Relaxed), None)?;
        }
        let help = "Heads of runs that the sequencer keeps in memory.";
        let mut told = encoder.encode_descriptor("run_heads_cached", help, None, MetricType::Gauge)?;
        told.encode_gauge(&self.heads.load(Ordering::Relaxed))?;
        let help = "When the last commit was written, since 1970; 0 before the first of this process.";
        let mut told = encoder.encode_descriptor(
            "last_commit_timestamp",
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        told.encode_gauge(&(self.last_millis.load(Ordering::Relaxed) as f64 / 1000.0))
    }
}
