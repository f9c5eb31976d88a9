//! Sums over a trailing hour or day, in whole-minute buckets.
//!
//! A bucket counts until its newest millisecond has left the window, so a sum is never too small: at most one minute
//! too much is counted. A window keeps at most one bucket a minute.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use sift_spec::meter::Amounts;
use sift_spec::types::UnixMillis;

/// Length of a bucket in milliseconds.
pub const BUCKET_MS: u64 = 60_000;

/// Buckets of the trailing hour that can count at one time.
pub const HOUR_BUCKETS: u64 = 60;

/// Buckets of the trailing day that can count at one time.
pub const DAY_BUCKETS: u64 = 24 * 60;

/// Amounts settled in a trailing span of minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trailing {
    minutes: u64,
    /// Number of the minute since 1970 and what was settled in it; ascending.
    buckets: VecDeque<(u64, Amounts)>,
    /// Sum of the buckets.
    sum: Amounts,
}

impl Trailing {
    /// An empty window over this many minutes.
    #[must_use]
    pub const fn new(minutes: u64) -> Self {
        Self { minutes, buckets: VecDeque::new(), sum: Amounts::ZERO }
    }

    /// What counts at `time`.
    #[must_use]
    pub fn at(&self, time: UnixMillis) -> Amounts {
        // Nothing is ever added at a later time, so what has left the window is a prefix.
        let gone = self.buckets.iter().take_while(|(minute, _)| self.is_out(*minute, time));
        gone.fold(self.sum, |sum, (_, amounts)| sum.checked_sub(amounts).unwrap_or(sum))
    }

    /// Adds `amounts` at `time`, which is not before any earlier one.
    ///
    /// INVARIANT: the caller keeps the sum of everything ever added within 2^53 − 1, so no sum here can pass it.
    pub fn add(&mut self, amounts: &Amounts, time: UnixMillis) {
        while self.buckets.front().is_some_and(|(minute, _)| self.is_out(*minute, time)) {
            if let Some((_, old)) = self.buckets.pop_front() {
                self.sum = self.sum.checked_sub(&old).unwrap_or(self.sum);
            }
        }
        if amounts.is_zero() {
            return;
        }
        self.sum = self.sum.checked_add(amounts).unwrap_or(self.sum);
        let minute = time.get() / BUCKET_MS;
        match self.buckets.back_mut() {
            Some((last, sum)) if *last >= minute => *sum = sum.checked_add(amounts).unwrap_or(*sum),
            _ => self.buckets.push_back((minute, *amounts)),
        }
    }

    /// Whether the newest millisecond of a minute is out of the window (time − length, time].
    fn is_out(&self, minute: u64, time: UnixMillis) -> bool {
        let newest = minute.saturating_mul(BUCKET_MS).saturating_add(BUCKET_MS - 1);
        newest.saturating_add(self.minutes.saturating_mul(BUCKET_MS)) <= time.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sift_spec::meter::Meter;

    fn at(ms: u64) -> UnixMillis {
        UnixMillis::new(ms).unwrap()
    }

    #[test]
    fn a_bucket_counts_until_its_newest_millisecond_is_out() {
        let mut hour = Trailing::new(HOUR_BUCKETS);
        let one = Amounts::ZERO.with(Meter::ToolCalls, 1);
        hour.add(&one, at(BUCKET_MS));
        let newest = 2 * BUCKET_MS - 1;
        assert_eq!(hour.at(at(newest + 3_600_000 - 1)), one);
        assert_eq!(hour.at(at(newest + 3_600_000)), Amounts::ZERO);
    }

    #[test]
    fn memory_is_bounded() {
        let mut day = Trailing::new(DAY_BUCKETS);
        let one = Amounts::ZERO.with(Meter::ToolCalls, 1);
        for n in 0..20_000 {
            day.add(&one, at(n * 10_000));
            assert!(day.buckets.len() as u64 <= DAY_BUCKETS + 1);
        }
        assert_eq!(day.at(at(20_000 * 10_000)).get(Meter::ToolCalls), day.sum.get(Meter::ToolCalls));
    }
}
