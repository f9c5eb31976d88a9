//! Rates: how many records a key may add, and how many bad ones an address may send, in a second.
//!
//! **Per key, drawn by the sequencer.** A record names its key before anybody has checked that it is signed
//! with it. A budget that is drawn by what a record *claims* is a gift to strangers: keys are public, so anybody could
//! use up another's. A budget drawn after the signature was checked is not enough either: entries are public too, and
//! sending a key's old entries again would use up its budget. So the sequencer draws, for records that are signed and
//! known to be new: only the holder of the key can make those.
//!
//! **Looked at, not drawn, before signatures are checked.** A key whose budget is used up is refused at the door, so
//! that it costs no more signature checks. Nobody but the key's holder can bring a key to that point.
//!
//! **Per address, drawn by failures.** What is left is the cost of records that turn out to be nobody's: bad
//! signatures, unknown keys, no records at all. Whoever sends them runs out of a budget of failures, and is then
//! refused before anything is parsed. Honest writers send none. The address is that of the connection; behind a proxy
//! everybody has the proxy's, so there the proxy has to do this.
//!
//! Each budget is a generic cell rate algorithm: one instant, at which the budget will be full again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sift_spec::types::LeafIndex;

/// Most addresses that are remembered at a time. When there are more, those that come then are not limited: what they
/// cost is bounded by the queue.
const ADDRESSES_MAX: usize = 65_536;

/// Longest time that an address is refused after its last failure.
const REFUSED_MAX: Duration = Duration::from_secs(60);

/// `[limits]` of the configuration. Zero is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// New records that one key may add in a second, over time.
    pub records_per_second_per_key: u32,
    /// Records that it may add at once after a pause.
    pub records_burst_per_key: u32,
    /// Records that are nobody's, which one address may send in a second, over time.
    pub failures_per_second_per_address: u32,
    /// Such records that it may send at once after a pause.
    pub failures_burst_per_address: u32,
}

impl Default for LimitsConfig {
    /// No limits; bursts of one whole batch.
    fn default() -> Self {
        Self {
            records_per_second_per_key: 0,
            records_burst_per_key: 1024,
            failures_per_second_per_address: 0,
            failures_burst_per_address: 1024,
        }
    }
}

/// A rate and what may be used of it at once.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// Time that brings back one unit.
    each: Duration,
    /// Time that brings back all.
    all: Duration,
}

impl Rate {
    fn new(per_second: u32, burst: u32) -> Option<Self> {
        let each = Duration::from_secs(1).checked_div(per_second)?;
        Some(Self { each, all: each * burst.max(1) })
    }

    /// How long until one unit is there again, where the budget is full at `full`; `None` where one is there now.
    fn wait(&self, full: Instant, now: Instant) -> Option<Duration> {
        let used = full.saturating_duration_since(now) + self.each;
        used.checked_sub(self.all).filter(|wait| !wait.is_zero())
    }
}

/// Budgets of keys. A key is named by the index of its grant, so there are no more than were enrolled.
#[derive(Default)]
pub(crate) struct KeyLimits {
    rate: Option<Rate>,
    full: Mutex<HashMap<LeafIndex, Instant>>,
}

impl KeyLimits {
    pub(crate) fn new(config: &LimitsConfig) -> Self {
        let rate = Rate::new(config.records_per_second_per_key, config.records_burst_per_key);
        Self { rate, full: Mutex::default() }
    }

    /// Whether there are limits at all.
    pub(crate) const fn any(&self) -> bool {
        self.rate.is_some()
    }

    /// Whether a key could add a record now; otherwise, how long it has to wait.
    pub(crate) fn look(&self, key: LeafIndex, now: Instant) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        let full = lock(&self.full).get(&key).copied();
        full.and_then(|full| rate.wait(full, now)).map_or(Ok(()), Err)
    }

    /// Draws one record from a key's budget.
    pub(crate) fn draw(&self, key: LeafIndex, now: Instant) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        let mut all = lock(&self.full);
        let full = all.entry(key).or_insert(now);
        if let Some(wait) = rate.wait(*full, now) {
            return Err(wait);
        }
        *full = (*full).max(now) + rate.each;
        Ok(())
    }
}

/// Budgets of failures, by address.
#[derive(Default)]
pub(crate) struct AddressLimits {
    rate: Option<Rate>,
    full: Mutex<HashMap<IpAddr, Instant>>,
}

impl AddressLimits {
    pub(crate) fn new(config: &LimitsConfig) -> Self {
        let rate = Rate::new(config.failures_per_second_per_address, config.failures_burst_per_address);
        Self { rate, full: Mutex::default() }
    }

    /// Whether an address may send records; otherwise, how long it has to wait.
    pub(crate) fn look(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        let full = lock(&self.full).get(&holder(address)).copied();
        full.and_then(|full| rate.wait(full, now)).map_or(Ok(()), Err)
    }

    /// Counts failures of an address.
    pub(crate) fn failed(&self, address: IpAddr, failures: u32, now: Instant) {
        let (Some(rate), 1..) = (self.rate, failures) else { return };
        let mut all = lock(&self.full);
        if all.len() >= ADDRESSES_MAX {
            all.retain(|_, full| *full > now);
        }
        let address = holder(address);
        if all.len() < ADDRESSES_MAX || all.contains_key(&address) {
            let full = all.entry(address).or_insert(now);
            *full = ((*full).max(now) + rate.each * failures).min(now + rate.all + REFUSED_MAX);
        }
    }
}

/// Whoever has one IPv6 address has the 2^64 beside it.
fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// A panic elsewhere leaves instants that are as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(per_second: u32, burst: u32) -> LimitsConfig {
        LimitsConfig {
            records_per_second_per_key: per_second,
            records_burst_per_key: burst,
            failures_per_second_per_address: per_second,
            failures_burst_per_address: burst,
        }
    }

    #[test]
    fn a_key_has_its_burst_and_then_its_rate() {
        let (limits, start) = (KeyLimits::new(&config(10, 5)), Instant::now());
        let (one, two) = (LeafIndex::new(1).unwrap(), LeafIndex::new(2).unwrap());
        let at = |ms| start + Duration::from_millis(ms);
        for _ in 0..5 {
            limits.look(one, at(0)).unwrap();
            limits.draw(one, at(0)).unwrap();
        }
        assert_eq!(limits.draw(one, at(0)), Err(Duration::from_millis(100)));
        assert_eq!(limits.look(one, at(30)), Err(Duration::from_millis(70)));
        // Being refused costs nothing, and another key has its own.
        limits.draw(two, at(30)).unwrap();
        limits.draw(one, at(100)).unwrap();
        assert_eq!(limits.draw(one, at(199)), Err(Duration::from_millis(1)));
        // In ten seconds: a hundred, whatever the pattern.
        let taken = (200..10_200).filter(|ms| limits.draw(one, at(*ms)).is_ok()).count();
        assert_eq!(taken, 100);
        // After a pause the burst is whole, and no larger.
        let taken = (0..100).filter(|_| limits.draw(one, at(60_000)).is_ok()).count();
        assert_eq!(taken, 5);
    }

    #[test]
    fn an_address_is_refused_for_its_failures_alone() {
        let (limits, now) = (AddressLimits::new(&config(1, 10)), Instant::now());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        limits.failed(address("10.0.0.1"), 9, now);
        limits.look(address("10.0.0.1"), now).unwrap();
        limits.failed(address("10.0.0.1"), 1, now);
        assert_eq!(limits.look(address("10.0.0.1"), now), Err(Duration::from_secs(1)));
        limits.look(address("10.0.0.2"), now).unwrap();
        // Not for ever, whatever was sent.
        limits.failed(address("10.0.0.1"), u32::MAX, now);
        let wait = limits.look(address("::ffff:10.0.0.1"), now).unwrap_err();
        assert!(wait <= REFUSED_MAX + Duration::from_secs(1), "{wait:?}");
        limits.look(address("10.0.0.1"), now + wait).unwrap();
        // One household, one budget.
        limits.failed(address("2001:db8:1:2::1"), 10, now);
        limits.look(address("2001:db8:1:2:ffff::9"), now).unwrap_err();
        limits.look(address("2001:db8:1:3::1"), now).unwrap();
    }

    #[test]
    fn memory_for_addresses_is_bounded() {
        let (limits, now) = (AddressLimits::new(&config(1, 10)), Instant::now());
        for n in 0..ADDRESSES_MAX as u32 + 100 {
            limits.failed(IpAddr::V4(n.into()), 10, now);
        }
        assert_eq!(lock(&limits.full).len(), ADDRESSES_MAX);
        // They are forgotten when their budgets are full again.
        limits.failed(address_after(), 1, now + Duration::from_secs(3600));
        assert_eq!(lock(&limits.full).len(), 1);
    }

    fn address_after() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    #[test]
    fn zero_is_no_limit() {
        let (limits, now) = (KeyLimits::new(&LimitsConfig::default()), Instant::now());
        assert!(!limits.any());
        assert!((0..10_000).all(|_| limits.draw(LeafIndex::default(), now).is_ok()));
    }
}
