//! Who does what: workers read and check signatures, the calling thread takes the bundles in order.
//!
//! Signatures come before reading: what is read but not done is what memory holds, and it is bounded. A signature
//! costs the less the more are checked at once, so bundles are gathered until there is a batch of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use sift_spec::tile::TILE_WIDTH;
use sift_spec::types::TreeSize;

use super::bundle::{Bundle, Signed, Signers, verify_signatures};
use super::found::Found;
use crate::error::CannotCheck;
use crate::finding::Finding;
use crate::source::Source;

/// Bundles read ahead of the chain step, for each worker.
const AHEAD: u64 = 4;

/// Bundles whose signatures are checked in one batch: 3,840 signatures. With up to 254 keys and the base point they are at
/// most 4,096 points; curve25519-dalek's list of them doubles as it grows, and one more would make it twice as long.
const BATCH_BUNDLES: usize = 15;

/// Length of entries in bytes that makes a batch, however few they are.
const BATCH_BYTES: usize = 16 << 20;

/// What the chain step gives for a bundle: what it found, and whose signatures to check.
pub(super) type Chained = (Vec<Finding>, Signers);

pub(super) struct Desk<'a> {
    source: &'a dyn Source,
    size: TreeSize,
    workers: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Next bundle to read.
    next: u64,
    /// Bundles that the chain step has taken.
    taken: u64,
    read: BTreeMap<u64, Bundle>,
    /// What the next batch is made of.
    gathered: Vec<Signed>,
    to_verify: VecDeque<Vec<Signed>>,
    found: Found,
    failure: Option<CannotCheck>,
    /// The calling thread has left, or a worker has panicked: nothing more is to be done.
    stop: bool,
}

impl State {
    fn gather(&mut self, signed: Signed) {
        self.gathered.push(signed);
        let bytes: usize = self.gathered.iter().map(|signed| signed.bundle.bytes).sum();
        if self.gathered.len() >= BATCH_BUNDLES || bytes >= BATCH_BYTES {
            self.to_verify.push_back(std::mem::take(&mut self.gathered));
        }
    }

    /// Nothing more will be gathered: what is there is shared out.
    fn divide(&mut self, workers: usize) {
        let mut rest = std::mem::take(&mut self.gathered);
        let share = rest.len().div_ceil(workers.max(1)).max(1);
        while !rest.is_empty() {
            let batch = rest.split_off(rest.len().saturating_sub(share));
            self.to_verify.push_back(batch);
        }
    }
}

enum Job {
    Read(u64),
    Verify(Vec<Signed>),
}

impl<'a> Desk<'a> {
    pub(super) fn new(source: &'a dyn Source, size: TreeSize, workers: usize) -> Self {
        Self { source, size, workers, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Does the work; `chain` is called for each bundle in order. Gives all that was found.
    pub(super) fn run(
        &self,
        entropy: &[u8; 32],
        mut chain: impl FnMut(&Bundle) -> Result<Chained, CannotCheck>,
    ) -> Result<Found, CannotCheck> {
        std::thread::scope(|scope| {
            for _ in 0..self.workers {
                scope.spawn(|| self.work(entropy));
            }
            let _leave = Leave(self);
            for _ in 0..self.bundles() {
                let Some(mut bundle) = self.take_next() else { break };
                let (mut found, signers) = match chain(&bundle) {
                    Ok(chained) => chained,
                    Err(error) => {
                        self.fail(error);
                        break;
                    }
                };
                found.append(&mut bundle.findings);
                let mut state = self.lock();
                state.found.extend(found);
                state.gather(Signed { bundle, signers });
                self.changed.notify_all();
            }
            self.drain(entropy);
        });
        let mut state = self.lock();
        match state.failure.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut state.found)),
        }
    }

    fn bundles(&self) -> u64 {
        self.size.get().div_ceil(TILE_WIDTH)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: CannotCheck) {
        let mut state = self.lock();
        state.failure.get_or_insert(error);
        state.stop = true;
        self.changed.notify_all();
    }

    /// The next bundle in order, as soon as it is read; `None` when something failed.
    fn take_next(&self) -> Option<Bundle> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return None;
            }
            let wanted = state.taken;
            if let Some(bundle) = state.read.remove(&wanted) {
                state.taken += 1;
                self.changed.notify_all();
                return Some(bundle);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The calling thread helps with the last signatures.
    fn drain(&self, entropy: &[u8; 32]) {
        self.lock().divide(self.workers);
        self.changed.notify_all();
        loop {
            let Some(signed) = self.lock().to_verify.pop_front() else { return };
            let found = verify_signatures(&signed, entropy);
            self.lock().found.extend(found);
        }
    }

    fn work(&self, entropy: &[u8; 32]) {
        let _leave = LeaveOnPanic(self);
        while let Some(job) = self.next_job() {
            match job {
                Job::Verify(signed) => {
                    let found = verify_signatures(&signed, entropy);
                    self.lock().found.extend(found);
                }
                Job::Read(index) => {
                    let rest = self.size.get() - index * TILE_WIDTH;
                    match Bundle::read(self.source, index, rest.min(TILE_WIDTH) as u16) {
                        Ok(bundle) => {
                            self.lock().read.insert(index, bundle);
                            self.changed.notify_all();
                        }
                        Err(error) => self.fail(error),
                    }
                }
            }
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(signed) = state.to_verify.pop_front() {
                return Some(Job::Verify(signed));
            }
            if state.stop {
                return None;
            }
            let ahead = AHEAD * self.workers as u64;
            if state.next < self.bundles() && state.next < state.taken + ahead {
                state.next += 1;
                return Some(Job::Read(state.next - 1));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Tells the workers that nothing more comes, however the calling thread leaves.
struct Leave<'a, 'b>(&'a Desk<'b>);

impl Drop for Leave<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.changed.notify_all();
    }
}

/// Tells everybody that a worker is gone, so that nobody waits for it; the scope passes the panic on.
struct LeaveOnPanic<'a, 'b>(&'a Desk<'b>);

impl Drop for LeaveOnPanic<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().stop = true;
            self.0.changed.notify_all();
        }
    }
}
