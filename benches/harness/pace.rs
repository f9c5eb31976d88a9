//! When requests are sent: each as soon as the one before is answered, or at a rate that does not wait for answers.
//!
//! At a rate, a request that could not be sent when it was due, because the one before was not answered yet, counts
//! from when it was due. Otherwise a log that stalls for a second would be charged with one slow answer, and not with
//! the thousand that its callers had to wait for (coordinated omission).

use std::time::{Duration, Instant};

/// The requests of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    begin: Instant,
    /// From the beginning to the first request, and from each to the next; none without a rate.
    at_rate: Option<(Duration, Duration)>,
}

/// A request that is to be sent now.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// When its time starts to count.
    pub since: Instant,
    /// How much later than due it is sent though the connection was free: the generator's own fault.
    pub late: Duration,
}

impl Pace {
    /// Connection `number` of `connections` that together send `rate` requests a second, evenly.
    #[must_use]
    pub fn of(rate: Option<f64>, number: usize, connections: usize) -> Self {
        let at_rate = rate.map(|rate| {
            let between = Duration::from_secs_f64(1.0 / rate);
            (between.mul_f64(number as f64), between.mul_f64(connections as f64))
        });
        Self { begin: Instant::now(), at_rate }
    }

    /// Waits until request `position` is due.
    pub async fn turn(&self, position: usize) -> Turn {
        let now = Instant::now();
        let Some((first, each)) = self.at_rate else { return Turn { since: now, late: Duration::ZERO } };
        let due = self.begin + first + each.mul_f64(position as f64);
        if now >= due {
            return Turn { since: due, late: Duration::ZERO };
        }
        tokio::time::sleep_until(due.into()).await;
        let since = Instant::now();
        Turn { since, late: since - due }
    }

    /// Whether so many seconds have passed since the beginning.
    #[must_use]
    pub fn is_over(&self, seconds: Option<f64>) -> bool {
        seconds.is_some_and(|seconds| self.begin.elapsed().as_secs_f64() >= seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What waits for the answer before it counts from when it was due.
    #[test]
    fn a_stall_is_charged_to_every_request_that_waited() -> Result<(), std::io::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let begin = Instant::now().checked_sub(Duration::from_secs(1)).ok_or(std::io::ErrorKind::Other)?;
        let between = Duration::from_millis(10);
        let pace = Pace { begin, at_rate: Some((Duration::ZERO, between)) };
        for position in 0..100 {
            let turn = runtime.block_on(pace.turn(position));
            assert_eq!(turn.since, begin + between * position as u32);
        }
        // The next one is still to come: it counts from when it is sent.
        let turn = runtime.block_on(pace.turn(110));
        assert!(turn.since >= begin + between * 110);
        Ok(())
    }
}
