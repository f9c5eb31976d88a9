//! Sealing: the records of a round are chained and signed when all of them are known, those of one run in their order and
//! those of different runs on all cores.
//!
//! What does not take longer than waking a thread, such as the one record of a kernel with one caller, is signed where it
//! is made. Else helpers take runs from the same queue as the writer, which never waits for a run that nobody has taken.
//!
//! The first record that cannot be signed ends the round: what is not signed by then is not tried, because a key that hangs
//! would hang for each.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use sift_spec::chain::RunHead;
use sift_spec::entry::{Draft, EntryError};
use sift_spec::record::RecordError;
use sift_spec::types::{KeyName, RunId};

use crate::failpoint;
use crate::signer::{SignError, Signer};
use crate::store::NewRecord;

/// Fewer records than this are signed by the writer alone: waking a thread takes as long as a signature or two.
const SHARED_RECORDS_MIN: usize = 4;

/// Most threads that help. What else a call takes grows with the cores as well.
const HELPERS_MAX: usize = 3;

/// Why a record was not signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("a record has no encoding: {0}")]
    Entry(#[from] EntryError),
    #[error("what signs records panicked")]
    Panic,
    #[error("another record of the round was not signed")]
    GivenUp,
}

impl From<RecordError> for SealError {
    fn from(error: RecordError) -> Self {
        Self::Entry(error.into())
    }
}

/// Records of one run that are not signed yet.
#[derive(Debug)]
pub(super) struct Chain {
    /// The end of the run before them; `None` for one that they open.
    pub(super) head: Option<RunHead>,
    /// In their order. Their `prev` need not be right.
    pub(super) drafts: Vec<Unsigned>,
}

impl Chain {
    /// Position of its first record.
    pub(super) fn first(&self) -> Option<u64> {
        self.drafts.first().map(|unsigned| unsigned.position)
    }
}

/// A record that is not signed yet.
#[derive(Debug)]
pub(super) struct Unsigned {
    pub(super) position: u64,
    /// Position of the run's record before.
    pub(super) before: Option<u64>,
    pub(super) draft: Draft,
}

/// The same records, signed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) run: RunId,
    pub(super) head: Option<RunHead>,
    pub(super) records: Vec<NewRecord>,
}

/// What is done to every record.
struct Seal {
    signer: Arc<dyn Signer>,
    log: KeyName,
}

impl Seal {
    /// Signs a run's records, unless another's were not: then `failed` is set. A panic of the signer is caught, whichever
    /// thread it is on, because the kernel halts for it and does not just end.
    fn chain(&self, run: RunId, chain: Chain, failed: &AtomicBool) -> Result<Sealed, SealError> {
        let sign = AssertUnwindSafe(|| self.try_chain(run, chain, failed));
        std::panic::catch_unwind(sign).unwrap_or(Err(SealError::Panic))
    }

    fn try_chain(&self, run: RunId, chain: Chain, failed: &AtomicBool) -> Result<Sealed, SealError> {
        let Chain { mut head, drafts } = chain;
        let key = self.signer.verifier();
        let mut records = Vec::with_capacity(drafts.len());
        for Unsigned { position, before, draft } in drafts {
            if failed.load(Ordering::Relaxed) {
                return Err(SealError::GivenUp);
            }
            let draft = match &head {
                Some(head) => draft.chained(head.leaf())?,
                None => draft,
            };
            failpoint::pass("before-sign");
            let entry = draft.sign_with(key, |text| self.signer.sign(text).map_err(SealError::from))?;
            failpoint::pass("after-sign");
            let record = entry.record().ok_or(EntryError::Header)?;
            // The same rules as the log's: what it would refuse is not kept.
            let followed = match &mut head {
                Some(head) => head.extend(record, key.name(), entry.leaf()),
                None => {
                    RunHead::open(record, key.name(), entry.leaf(), &self.log).map(|new| head = Some(new))
                }
            };
            followed.map_err(|error| RecordError::Json { why: error.to_string(), at: None })?;
            records.push(NewRecord { position, before, run, entry: entry.into_bytes() });
        }
        Ok(Sealed { run, head, records })
    }
}

/// A run's records on their way, and where they are given back.
struct Job {
    run: RunId,
    chain: Chain,
    done: mpsc::Sender<Result<Sealed, SealError>>,
    /// Whether a record of the round could not be signed.
    failed: Arc<AtomicBool>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    over: bool,
}

/// What writer and helpers share.
struct Desk {
    seal: Seal,
    queue: Mutex<Queue>,
    filled: Condvar,
}

impl Desk {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that can panic is done under it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, job: Job) {
        let Job { run, chain, done, failed } = job;
        let sealed = self.seal.chain(run, chain, &failed);
        let fails = sealed.is_err();
        // Who waits may have seen another failure. The reason comes before what was given up for it.
        let _ = done.send(sealed);
        failed.fetch_or(fails, Ordering::Relaxed);
    }

    fn help(&self) {
        loop {
            let mut queue = self.queue();
            let job = loop {
                if queue.over {
                    return;
                }
                match queue.jobs.pop_front() {
                    Some(job) => break job,
                    None => queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(queue);
            self.work(job);
        }
    }
}

/// Signs the records of rounds.
pub(super) struct Sealer {
    desk: Arc<Desk>,
    helpers: Vec<JoinHandle<()>>,
}

impl Sealer {
    /// One that has a helper for each core but one.
    ///
    /// # Errors
    /// When a thread does not start.
    pub(super) fn new(signer: Arc<dyn Signer>, log: KeyName) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with(signer, log, (cores - 1).min(HELPERS_MAX))
    }

    fn with(signer: Arc<dyn Signer>, log: KeyName, helpers: usize) -> io::Result<Self> {
        let seal = Seal { signer, log };
        let desk = Arc::new(Desk { seal, queue: Mutex::default(), filled: Condvar::new() });
        let mut sealer = Self { desk, helpers: Vec::new() };
        for number in 0..helpers {
            let desk = Arc::clone(&sealer.desk);
            let thread = std::thread::Builder::new().name(format!("sift-sign-{number}"));
            sealer.helpers.push(thread.spawn(move || desk.help())?);
        }
        Ok(sealer)
    }

    /// Signs the records of a round; returns them by run.
    ///
    /// # Errors
    /// When one of them cannot be signed or does not follow the one before.
    pub(super) fn seal(&self, chains: BTreeMap<RunId, Chain>) -> Result<Vec<Sealed>, SealError> {
        let records: usize = chains.values().map(|chain| chain.drafts.len()).sum();
        if self.helpers.is_empty() || chains.len() == 1 || records < SHARED_RECORDS_MIN {
            let failed = AtomicBool::new(false);
            return chains
                .into_iter()
                .map(|(run, chain)| self.desk.seal.chain(run, chain, &failed))
                .collect();
        }
        let (done, sealed) = mpsc::channel();
        let failed = Arc::new(AtomicBool::new(false));
        let job = |(run, chain)| Job { run, chain, done: done.clone(), failed: Arc::clone(&failed) };
        let jobs: Vec<Job> = chains.into_iter().map(job).collect();
        self.desk.queue().jobs.extend(jobs);
        self.desk.filled.notify_all();
        drop(done);
        loop {
            // Let go of the queue before the work.
            let job = self.desk.queue().jobs.pop_front();
            let Some(job) = job else { break };
            self.desk.work(job);
        }
        sealed.into_iter().collect()
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.desk.queue().over = true;
        self.desk.filled.notify_all();
        for helper in self.helpers.drain(..) {
            // A panic of what it did was caught.
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::{Duration, Instant};

    use sift_spec::entry::Entry;
    use sift_spec::note::{KeyType, SignerKey, VerifierKey};
    use sift_spec::record::{Beat, Body, Halt, HaltCause, Record};
    use sift_spec::types::{Hash, Seq, Text, UnixMillis};

    use super::*;

    /// Signs, and fails or panics when told to.
    struct Faulty {
        key: SignerKey,
        signed: AtomicUsize,
        fails_at: usize,
        panics: bool,
        /// How long each signature takes from the one that fails on.
        hangs: Duration,
    }

    impl Signer for Faulty {
        fn verifier(&self) -> &VerifierKey {
            self.key.verifier()
        }
        fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
            if self.signed.fetch_add(1, Ordering::SeqCst) >= self.fails_at {
                assert!(!self.panics, "told to");
                std::thread::sleep(self.hangs);
                return Err(SignError("told to".to_owned()));
            }
            Ok(self.key.sign_bytes(message))
        }
    }

    fn faulty(fails_at: usize, panics: bool) -> Arc<Faulty> {
        let key = SignerKey::from_seed("test/kernel".parse().unwrap(), KeyType::Ed25519, &[3; 32]).unwrap();
        Arc::new(Faulty { key, signed: AtomicUsize::new(0), fails_at, panics, hangs: Duration::ZERO })
    }

    fn record(run: RunId, seq: u64) -> Record {
        // Words that look like the member that is written over.
        let detail = Text::cut(&format!("\"prev\":\"{}\",\"run\":\"", Hash::from_bytes([9; 32])));
        let body = match seq {
            5 => Body::Halt(Halt { cause: HaltCause::Operator, detail }),
            _ => Body::Beat(Beat { records: seq }),
        };
        let prev = Some(Hash::from_bytes([0; 32]));
        let (seq, time) = (Seq::new(seq).unwrap(), UnixMillis::new(1_764_000_000_000 + seq).unwrap());
        Record { agent: "test/agent".parse().unwrap(), body, prev, run, seq, time }
    }

    /// Runs that have `seq` 0 to 3 and go on with three records each.
    fn chains(runs: u8) -> BTreeMap<RunId, Chain> {
        let chain = |number: u8| {
            let run = RunId::from_parts(UnixMillis::new(1_764_000_000_000).unwrap(), &[number; 10]);
            let head = RunHead::of_last(
                &record(run, 3),
                &"test/kernel".parse().unwrap(),
                Hash::from_bytes([number; 32]),
            );
            let unsigned = |seq| {
                let draft = Draft::new(record(run, seq)).unwrap();
                Unsigned { position: u64::from(number) + seq, before: Some(seq), draft }
            };
            let drafts = [4, 5, 6].map(unsigned);
            (run, Chain { head: Some(head), drafts: drafts.into() })
        };
        (1..=runs).map(chain).collect()
    }

    #[test]
    fn whoever_signs_the_chains_are_the_same() {
        let alone = Sealer::with(faulty(usize::MAX, false), "log.example".parse().unwrap(), 0).unwrap();
        let helped = Sealer::with(faulty(usize::MAX, false), "log.example".parse().unwrap(), 3).unwrap();
        for runs in [1, 2, 64] {
            let mut sealed = [&alone, &helped].map(|sealer| sealer.seal(chains(runs)).unwrap());
            sealed.iter_mut().for_each(|sealed| sealed.sort_by_key(|sealed| sealed.run));
            let [alone, helped] = sealed;
            assert_eq!(alone.len(), usize::from(runs));
            for (one, other) in alone.iter().zip(&helped) {
                assert_eq!(one, other);
                let mut prev = Hash::from_bytes([one.run.as_bytes()[15]; 32]);
                for sealed in &one.records {
                    let entry = Entry::parse(sealed.entry.clone()).unwrap();
                    entry.verify(faulty(0, false).verifier()).unwrap();
                    assert_eq!(entry.record().unwrap().prev, Some(prev));
                    prev = entry.leaf();
                }
                assert_eq!(one.head.as_ref().map(RunHead::leaf), Some(prev));
            }
        }
    }

    #[test]
    fn a_signer_that_fails_or_panics_ends_the_round_and_hangs_nobody() {
        for (at, helpers) in (0..24).flat_map(|at| [(at, 0), (at, 2)]) {
            let log = || "log.example".parse().unwrap();
            let sealer = Sealer::with(faulty(at, false), log(), helpers).unwrap();
            assert!(matches!(sealer.seal(chains(8)), Err(SealError::Sign(_))), "{at}");
            let sealer = Sealer::with(faulty(at, true), log(), helpers).unwrap();
            assert!(matches!(sealer.seal(chains(8)), Err(SealError::Panic)), "{at}");
            assert!(matches!(sealer.seal(chains(1)), Err(SealError::Panic)), "{at}");
        }
    }

    #[test]
    fn a_signer_that_hangs_is_waited_for_once() {
        let hangs = Duration::from_millis(300);
        let signer = Arc::new(Faulty { hangs, ..Arc::into_inner(faulty(5, false)).unwrap() });
        let sealer = Sealer::with(signer.clone(), "log.example".parse().unwrap(), 3).unwrap();
        let start = Instant::now();
        assert!(matches!(sealer.seal(chains(64)), Err(SealError::Sign(_))));
        // Each thread may have been at one when the first failed.
        assert!(start.elapsed() < 8 * hangs, "{:?}", start.elapsed());
        assert!(signer.signed.load(Ordering::SeqCst) <= 5 + 4);
    }

    #[test]
    fn what_does_not_follow_is_refused() {
        let sealer = Sealer::with(faulty(usize::MAX, false), "log.example".parse().unwrap(), 1).unwrap();
        for broken in 0..3 {
            let mut chains = chains(4);
            chains.values_mut().nth(2).unwrap().drafts.remove(broken);
            let sealed = sealer.seal(chains);
            // The last of three may be missing: what is there follows.
            assert_eq!(sealed.is_ok(), broken == 2, "{sealed:?}");
        }
    }
}
