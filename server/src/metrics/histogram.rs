//! A histogram without a lock: two atomic additions an observation.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::MetricEncoder;

use super::NoLabels;

/// Nanoseconds in a second, which is the unit that times are told in.
const NANOS: f64 = 1e9;

/// Upper bounds for latencies, in nanoseconds: 0.25 ms to 10 s.
const LATENCIES: &[u64] = &[
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// Counts of observations by upper bound, and their sum.
#[derive(Debug)]
pub(super) struct Histogram {
    /// Upper bounds, ascending, in the unit of the observations.
    bounds: &'static [u64],
    /// One for each bound, and one for what is larger than all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// Observations are divided by this to be told in a base unit.
    scale: f64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [u64], scale: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0), scale }
    }

    /// A histogram of durations, told in seconds.
    pub(super) fn of_latency() -> Self {
        Self::new(LATENCIES, NANOS)
    }

    pub(super) fn observe(&self, value: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
            self.sum.fetch_add(value, Ordering::Relaxed);
        }
    }

    pub(super) fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Tells it. The count is the sum of the buckets, so that the two always agree.
    pub(super) fn encode(&self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / self.scale).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum.load(Ordering::Relaxed) as f64 / self.scale;
        encoder.encode_histogram::<NoLabels>(sum, count, &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_is_below_it() {
        let histogram = Histogram::new(&[1, 10], 1.0);
        [0, 1, 2, 10, 11, u64::MAX >> 1].iter().for_each(|value| histogram.observe(*value));
        let counts: Vec<u64> = histogram.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(counts, [2, 2, 2]);
    }
}
