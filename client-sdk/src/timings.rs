//! Where the time of a call goes: counters that are always on, and cost a look at the clock for each stage.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Sums over the records of calls, intents and outcomes alike, since the kernel was opened. The difference of two of
/// them is what a span of time took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Intents and outcomes that were answered to whoever proposed or dispatched.
    pub records: u64,
    /// Commits that made records durable.
    pub commits: u64,
    /// Making the policy's input of the run's state, and committing to it.
    pub input: Duration,
    /// The policy's decision.
    pub decide: Duration,
    /// From being sent to the writer to its turn.
    pub queue: Duration,
    /// Ledger, encoding and what else the writer does for a record, without its signature.
    pub apply: Duration,
    /// From there to the round's signatures.
    pub round: Duration,
    /// The round's signatures.
    pub sign: Duration,
    /// Until the round is on the disk. Outcomes are answered before.
    pub commit: Duration,
    /// From being sent to the writer to being answered: the five above, and waking up who waits.
    pub turnaround: Duration,
}

impl Timings {
    /// Waking up who waits: what the other stages leave of the turnaround.
    #[must_use]
    pub fn answer(&self) -> Duration {
        let known = self.queue + self.apply + self.sign + self.round + self.commit;
        self.turnaround.saturating_sub(known)
    }

    /// What came after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            records: self.records.saturating_sub(before.records),
            commits: self.commits.saturating_sub(before.commits),
            input: self.input.saturating_sub(before.input),
            decide: self.decide.saturating_sub(before.decide),
            queue: self.queue.saturating_sub(before.queue),
            apply: self.apply.saturating_sub(before.apply),
            sign: self.sign.saturating_sub(before.sign),
            round: self.round.saturating_sub(before.round),
            commit: self.commit.saturating_sub(before.commit),
            turnaround: self.turnaround.saturating_sub(before.turnaround),
        }
    }
}

/// A sum of spans in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Sum(AtomicU64);

impl Sum {
    pub(crate) fn add(&self, span: Duration) {
        self.0.fetch_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Adds what has passed since `start`; returns the time now, from which the next stage counts.
    pub(crate) fn add_since(&self, start: Instant) -> Instant {
        let now = Instant::now();
        self.add(now - start);
        now
    }

    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// The counters of a kernel.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    pub(crate) records: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) input: Sum,
    pub(crate) decide: Sum,
    pub(crate) queue: Sum,
    pub(crate) apply: Sum,
    pub(crate) sign: Sum,
    pub(crate) round: Sum,
    pub(crate) commit: Sum,
    pub(crate) turnaround: Sum,
}

impl Stopwatch {
    pub(crate) fn read(&self) -> Timings {
        Timings {
            records: self.records.load(Ordering::Relaxed),
            commits: self.commits.load(Ordering::Relaxed),
            input: self.input.get(),
            decide: self.decide.get(),
            queue: self.queue.get(),
            apply: self.apply.get(),
            sign: self.sign.get(),
            round: self.round.get(),
            commit: self.commit.get(),
            turnaround: self.turnaround.get(),
        }
    }
}
