//! Deterministic simulation: the real sequencer over the real store and the real recovery, driven by one seed.
//!
//! A schedule is a few dozen rounds. In each, kernels and an operator send what honest and hostile ones send, retries
//! and duplicates included; a plain model says what must be answered; and the round is written, or ends in one of the
//! ways in which a process, a write or the power can fail. After each failure the log is recovered and compared with
//! the model, and at the end everything that it ever said is held against what it then holds.
//!
//! `SIFT_SIM_SEED=n` runs one schedule and tells each step; `SIFT_SIM_SCHEDULES=n` runs so many.

mod actors;
mod model;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use sift_spec::entry::Entry;
use sift_spec::hash::leaf_hash;
use sift_spec::proof::{TreeHead, verify_consistency, verify_inclusion};
use sift_spec::tree::MemoryTree;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, LeafIndex, Seq, TreeSize};
use tempfile::TempDir;
use tokio::sync::oneshot;

use self::actors::{Actors, ORIGIN, Rng, key};
use self::model::{Model, Verdict};
use crate::error::Refusal;
use crate::recovery::{self, RecoveryError};
use crate::sequencer::{Answer, Sequencer, Submission};
use crate::store::{ChainId, StoreConfig, StoreError};
use crate::view::View;

/// Schedules of one test run, unless told otherwise.
const SCHEDULES: u64 = 1000;

/// Rounds of one schedule.
const ROUNDS: u64 = 24;

/// Makes a store's next write fail.
#[derive(Default)]
pub(crate) struct Fault(AtomicU8);

const BEFORE: u8 = 1;
const AFTER: u8 = 2;

impl Fault {
    fn set(&self, fault: u8) {
        self.0.store(fault, Ordering::Relaxed);
    }

    fn take(&self, fault: u8) -> Result<(), StoreError> {
        let injected = self.0.compare_exchange(fault, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if injected { Err(StoreError::Damaged("a simulated failure".to_owned())) } else { Ok(()) }
    }

    pub(crate) fn before_write(&self) -> Result<(), StoreError> {
        self.take(BEFORE)
    }

    pub(crate) fn after_write(&self) -> Result<(), StoreError> {
        self.take(AFTER)
    }
}

/// How a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// Written and answered.
    Answered,
    /// The process dies before the write.
    KilledBefore,
    /// The process dies after the write and before any answer.
    KilledAfter,
    /// The write fails, and nothing of it is on the disk.
    FailedBefore,
    /// The write fails, and all of it is on the disk.
    FailedAfter,
    /// The power fails during the write: of what was not synced a part is on the disk, and the high-water mark is any
    /// that there ever was.
    PowerLost,
}

impl End {
    fn draw(rng: &mut Rng) -> Self {
        match rng.below(50) {
            0 => Self::KilledBefore,
            1 => Self::KilledAfter,
            2 => Self::FailedBefore,
            3 => Self::FailedAfter,
            4 | 5 => Self::PowerLost,
            _ => Self::Answered,
        }
    }
}

/// One log, everybody who uses it, and what it must say.
struct World {
    rng: Rng,
    dir: TempDir,
    actors: Actors,
    model: Model,
    /// None while the process is down.
    sequencer: Option<Sequencer>,
    trust: TrustPolicy,
    /// Index of each entry that was acknowledged.
    told: BTreeMap<Vec<u8>, u64>,
    /// Root of each size that a checkpoint was signed for and shown, answered with, or found on the disk.
    heads: BTreeMap<u64, Hash>,
    /// Everything that ever was in the high-water mark.
    marks: Vec<Vec<u8>>,
    /// Views that readers still hold.
    views: Vec<Arc<View>>,
    /// Rounds written since the store was opened: the write-ahead log holds them.
    written: u64,
    ends: BTreeMap<End, u64>,
    /// Starts that were refused because of damage.
    refused: u64,
    loud: bool,
}

fn data(dir: &TempDir) -> PathBuf {
    dir.path().join("data")
}

/// Small buffers, because space for a write-ahead log is set aside whenever one is begun; and large enough for all that
/// a schedule writes, so that it stays in one.
const fn store_config() -> StoreConfig {
    StoreConfig { write_buffer_kib: 512 }
}

fn open(dir: &TempDir) -> Result<Sequencer, RecoveryError> {
    let operator = key(&format!("{ORIGIN}/operator"), 2).verifier().clone();
    recovery::open(&data(dir), &store_config(), vec![key(ORIGIN, 1)], operator, &[])
        .map(|(sequencer, _)| sequencer)
}

impl World {
    fn new(seed: u64, loud: bool) -> Self {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("sift-sim").tempdir_in(base).unwrap();
        let log = key(ORIGIN, 1);
        recovery::create(&data(&dir), &store_config(), &log, log.verifier().name()).unwrap();
        let sequencer = Some(open(&dir).unwrap());
        let operator = key(&format!("{ORIGIN}/operator"), 2);
        let trust = TrustPolicy::of_log(log.verifier().clone(), Some(operator.verifier().clone()));
        let (told, heads, ends) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            rng: Rng(seed),
            dir,
            actors: Actors::new(operator),
            model: Model::default(),
            sequencer,
            trust,
            told,
            heads,
            marks: Vec::new(),
            views: Vec::new(),
            written: 0,
            ends,
            refused: 0,
            loud,
        }
    }

    /// The requests of one round.
    fn requests(&mut self, round: u64) -> Vec<Vec<Vec<u8>>> {
        if round == 0 {
            return vec![self.actors.enrol(&self.model)];
        }
        // Now and then a log that is about to fill its first tile, or has.
        if round == 1 && self.rng.once_in(6) {
            let beats = 235 + self.rng.below(30);
            return vec![self.actors.long_run(&mut self.rng, beats)];
        }
        let count = 1 + self.rng.below(5);
        let mut requests: Vec<_> =
            (0..count).map(|_| self.actors.request(&mut self.rng, &self.model)).collect();
        // A whole request twice in one round, as by two proxies.
        if self.rng.once_in(6) {
            requests.push(requests[0].clone());
        }
        requests
    }

    fn round(&mut self, round: u64) {
        let requests = self.requests(round);
        let end = if round == 0 { End::Answered } else { End::draw(&mut self.rng) };
        *self.ends.entry(end).or_default() += 1;
        // What must be answered, and what must be there afterwards if it is written.
        let mut after = self.model.clone();
        let mut expected = Vec::new();
        let (mut submissions, mut answers) = (Vec::new(), Vec::new());
        for request in &requests {
            let entries: Vec<Entry> =
                request.iter().map(|bytes| Entry::parse(bytes.clone()).unwrap()).collect();
            expected.push(entries.iter().map(|entry| after.admit(entry)).collect::<Vec<_>>());
            let (reply, answer) = oneshot::channel();
            submissions.push(Submission { entries: entries.into_iter().map(Ok).collect(), reply });
            answers.push(answer);
        }
        if self.loud {
            println!("round {round}: {end:?} at size {}: {expected:?}", self.model.entries.len());
        }
        let wal = newest_wal(&data(&self.dir));
        let synced = fs::metadata(&wal).unwrap().len();
        let fault = match end {
            End::FailedBefore => BEFORE,
            End::FailedAfter | End::PowerLost => AFTER,
            _ => 0,
        };
        if matches!(end, End::KilledBefore | End::KilledAfter) {
            let (decided, _) = self.sequencer().decide(&mut submissions).unwrap();
            if end == End::KilledBefore {
                return self.restart(end, None);
            }
            self.sequencer().write(decided).unwrap();
            self.look();
            return self.restart(end, Some(after));
        }
        self.sequencer().store.fault.set(fault);
        let written = self.sequencer().round(&mut submissions);
        self.look();
        match written {
            Err(_) if fault != 0 => {
                assert!(
                    answers.iter_mut().all(|answer| answer.try_recv().is_err()),
                    "answered before the write"
                );
                return match end {
                    End::FailedBefore => self.restart(end, None),
                    End::PowerLost => self.lose_power(&wal, synced, after),
                    _ => self.restart(end, Some(after)),
                };
            }
            Err(error) => panic!("{error}"),
            // A round that changes nothing is not written, and cannot fail.
            Ok(()) => self.sequencer().store.fault.set(0),
        }
        self.written += 1;
        self.model = after;
        for ((mut answer, expected), request) in answers.into_iter().zip(expected).zip(requests) {
            let Answer { results, view } = answer.try_recv().expect("an answer");
            assert_eq!(results.len(), expected.len());
            for ((result, expected), bytes) in results.into_iter().zip(expected).zip(request) {
                self.judge(result, expected, bytes, &view);
            }
        }
        self.mark();
        if self.rng.once_in(24) {
            let model = self.model.clone();
            self.restart(end, Some(model));
        }
    }

    /// One answer, against the model and against everything that was answered before.
    fn judge(
        &mut self,
        result: Result<LeafIndex, Refusal>,
        expected: Verdict,
        bytes: Vec<u8>,
        view: &Arc<View>,
    ) {
        match (&result, expected) {
            (Ok(index), Verdict::Index(expected)) if index.get() == expected => {
                assert!(index.is_in(view.head.size), "acknowledged outside of the tree it was answered with");
                let before = *self.told.entry(bytes).or_insert(expected);
                assert_eq!(before, expected, "an entry with two indices");
                if self.rng.once_in(20) {
                    self.views.push(Arc::clone(view));
                }
            }
            (Err(Refusal::Equivocation { index, .. }), Verdict::Equivocation(expected))
                if index.get() == expected => {}
            (Err(refusal), Verdict::Refused) if !matches!(refusal, Refusal::Equivocation { .. }) => {}
            _ => panic!("{expected:?} was expected, and {result:?} came"),
        }
    }

    /// What a reader sees, whether or not anybody was answered: the published view.
    fn look(&mut self) {
        let view = self.view();
        self.hear(view.checkpoint.as_bytes());
    }

    fn hear(&mut self, note: &[u8]) {
        let TreeHead { size, root } = self.trust.verify(note).unwrap().checkpoint().head;
        let before = *self.heads.entry(size.get()).or_insert(root);
        assert_eq!(before, root, "two signed checkpoints of size {size}");
        let newest = self.heads.keys().next_back().copied().unwrap_or_default();
        assert_eq!(newest, size.get(), "the published checkpoint went back");
    }

    fn mark(&mut self) {
        let mark = fs::read(self.dir.path().join("data.head")).unwrap_or_default();
        if self.marks.last() != Some(&mark) {
            self.marks.push(mark);
        }
    }

    /// Drops the process and starts it again. The log must hold the model from before the round, or `after`, and
    /// where it is known which, that.
    fn restart(&mut self, end: End, after: Option<Model>) {
        let expected = after.unwrap_or_else(|| self.model.clone());
        self.reopen(end, &[expected]);
    }

    fn reopen(&mut self, end: End, possible: &[Model]) {
        self.close();
        self.sequencer = Some(open(&self.dir).unwrap_or_else(|error| panic!("after {end:?}: {error}")));
        self.written = 0;
        let size = self.view().head.size.get();
        let found = possible.iter().find(|model| model.entries.len() as u64 == size);
        self.model = found.unwrap_or_else(|| panic!("{size} entries after {end:?}")).clone();
        self.look();
        self.mark();
        self.compare();
    }

    /// Closes the store, as the end of a process does.
    fn close(&mut self) {
        self.views.clear();
        self.sequencer = None;
    }

    fn sequencer(&mut self) -> &mut Sequencer {
        self.sequencer.as_mut().expect("an open log")
    }

    fn view(&mut self) -> Arc<View> {
        Arc::clone(&self.sequencer().views.borrow())
    }

    /// Of the write-ahead log's last write, some part is there: nothing, a piece, a piece and zeros, or all.
    fn lose_power(&mut self, wal: &Path, synced: u64, after: Model) {
        self.close();
        let whole = fs::read(wal).unwrap();
        let kept = synced + self.rng.below(whole.len() as u64 - synced + 1);
        let left = &whole[..kept as usize];
        fs::write(wal, left).unwrap();
        if self.rng.once_in(3) {
            self.lose_blocks(wal, left, whole.len());
        }
        // The mark is not synced: any that was written may be what is left, or a piece, or none.
        let mark = self.dir.path().join("data.head");
        match self.rng.below(4) {
            0 => fs::remove_file(&mark).unwrap_or_default(),
            1 => fs::write(&mark, &whole[..self.rng.below(100) as usize]).unwrap(),
            2 if !self.marks.is_empty() => {
                let old = &self.marks[self.rng.below(self.marks.len() as u64) as usize];
                fs::write(&mark, old).unwrap();
            }
            _ => {}
        }
        let possible = [self.model.clone(), after];
        let possible = if kept == whole.len() as u64 { &possible[1..] } else { &possible[..] };
        self.reopen(End::PowerLost, possible);
    }

    /// The file has its length, and its end reads as zeros. This looks like damage to what was synced, so the log may
    /// refuse to start; if it starts, it lost nothing. The operator then cuts the zeros off.
    fn lose_blocks(&mut self, wal: &Path, left: &[u8], length: usize) {
        let mut zeros = left.to_vec();
        zeros.resize(length, 0);
        let copy = tempfile::tempdir_in(self.dir.path()).unwrap();
        fs::create_dir(data(&copy)).unwrap();
        for file in fs::read_dir(data(&self.dir)).unwrap().map(|file| file.unwrap()) {
            fs::copy(file.path(), data(&copy).join(file.file_name())).unwrap();
        }
        fs::write(data(&copy).join(wal.file_name().unwrap()), zeros).unwrap();
        match open(&copy) {
            Ok(opened) => {
                let size = opened.views.borrow().head.size.get();
                assert!(size >= self.model.entries.len() as u64, "lost what was synced");
            }
            Err(RecoveryError::Store(refused)) if refused.to_string().contains("orruption") => {
                self.refused += 1
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The recovered log against the model: every entry, every place, all evidence, the tree, and proofs of it.
    fn compare(&mut self) {
        let (store, view) = (Arc::clone(&self.sequencer().store), self.view());
        let Model { entries, places, evidence, .. } = &self.model;
        let tree = MemoryTree::of_entries(entries.iter().map(Vec::as_slice));
        assert_eq!(tree.root(view.head.size), Some(view.head.root), "the recovered root");
        for (index, entry) in (0..).map(|n| LeafIndex::new(n).unwrap()).zip(entries) {
            assert_eq!(store.entry(index).unwrap().as_deref(), Some(entry.as_slice()), "entry {index}");
        }
        for ((run, seq), index) in places {
            let row = store.row(chain(*run), Seq::new(*seq).unwrap()).unwrap().expect("a row");
            assert_eq!((row.index.get(), row.leaf), (*index, leaf_hash(&entries[*index as usize])));
        }
        for ((run, seq), entry) in evidence {
            let kept = store.equivocation(chain(*run), Seq::new(*seq).unwrap()).unwrap();
            assert_eq!(kept.as_deref(), Some(entry.as_slice()), "evidence for seq {seq}");
        }
        for (entry, index) in &self.told {
            assert_eq!(entries.get(*index as usize), Some(entry), "acknowledged at {index}");
        }
        self.prove(&view, &tree);
    }

    /// Proofs of a view, by the log and checked by the specification: some entries, some earlier heads.
    fn prove(&mut self, view: &View, tree: &MemoryTree) {
        let store = Arc::clone(&self.sequencer().store);
        let TreeHead { size, .. } = view.head;
        for _ in 0..3.min(size.get()) {
            let index = LeafIndex::new(self.rng.below(size.get())).unwrap();
            let proof = view.inclusion(&store, index, size).unwrap();
            let leaf = leaf_hash(&self.model.entries[index.get() as usize]);
            verify_inclusion(&leaf, index, &view.head, &proof).unwrap();
        }
        for (old, root) in self.heads.iter().filter(|(old, _)| (1..=size.get()).contains(*old)) {
            let old = TreeSize::new(*old).unwrap();
            assert_eq!(tree.root(old), Some(*root), "a signed checkpoint of size {old} is not of this tree");
            if self.rng.once_in(8) {
                let proof = view.consistency(&store, old, size).unwrap();
                verify_consistency(&TreeHead { size: old, root: *root }, &view.head, &proof).unwrap();
            }
        }
    }

    /// Everything that was ever said, against what is there at the end.
    fn finish(&mut self) {
        let tree = MemoryTree::of_entries(self.model.entries.iter().map(Vec::as_slice));
        for view in std::mem::take(&mut self.views) {
            self.prove(&view, &tree);
        }
        self.compare();
        for (size, root) in &self.heads {
            let found = tree.root(TreeSize::new(*size).unwrap());
            assert_eq!(found, Some(*root), "a signed checkpoint of size {size} is not of this tree");
        }
        self.lose_what_was_synced();
    }

    /// A disk that lied: what it said it had synced is gone. The log must not start, because going on from there
    /// would be a fork.
    fn lose_what_was_synced(&mut self) {
        if self.written == 0 || !self.rng.once_in(2) {
            return;
        }
        self.close();
        let wal = newest_wal(&data(&self.dir));
        let whole = fs::read(&wal).unwrap();
        // The last commit that grew the tree may not be the last write; half of the file is before any of them.
        fs::write(&wal, &whole[..self.rng.below(whole.len() as u64 / 2 + 1) as usize]).unwrap();
        let mark = self.trust.verify(&fs::read(self.dir.path().join("data.head")).unwrap()).unwrap();
        let signed = mark.checkpoint().head;
        match open(&self.dir) {
            Err(refused) => {
                self.refused += 1;
                if self.loud {
                    println!("a lost write-ahead log: {refused}");
                }
            }
            Ok(opened) => {
                let head = opened.views.borrow().head;
                assert_eq!(head, signed, "started on a tree that lost what was signed");
            }
        }
    }
}

fn chain(run: Option<sift_spec::types::RunId>) -> ChainId {
    run.map_or(ChainId::Operator, ChainId::Run)
}

/// The write-ahead log that is being written.
fn newest_wal(data: &Path) -> PathBuf {
    let files = fs::read_dir(data).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|ending| ending == "log"))
        .max()
        .expect("a write-ahead log")
}

fn schedule(seed: u64, loud: bool) -> World {
    let mut world = World::new(seed, loud);
    for round in 0..ROUNDS {
        world.round(round);
    }
    world.finish();
    world
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn thousands_of_schedules() {
    if let Some(seed) = number("SIFT_SIM_SEED") {
        schedule(seed, true);
        return;
    }
    let schedules = number("SIFT_SIM_SCHEDULES").unwrap_or(SCHEDULES);
    let next = AtomicU64::new(0);
    let totals = std::sync::Mutex::new((BTreeMap::<End, u64>::new(), [0_u64; 4]));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= schedules {
                return;
            }
            let run = std::panic::AssertUnwindSafe(|| schedule(seed, false));
            match std::panic::catch_unwind(run) {
                Ok(world) => {
                    let mut totals = totals.lock().unwrap();
                    world.ends.iter().for_each(|(end, count)| *totals.0.entry(*end).or_default() += count);
                    let (entries, evidence) = (world.model.entries.len(), world.model.evidence.len());
                    let sums = [entries as u64, evidence as u64, world.heads.len() as u64, world.refused];
                    totals.1.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
                }
                Err(panic) => {
                    eprintln!("schedule {seed} failed: SIFT_SIM_SEED={seed} tells its steps");
                    next.store(schedules, Ordering::Relaxed);
                    std::panic::resume_unwind(panic);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().for_each(|worker| worker.join().expect("every schedule holds"));
    });
    let (ends, [entries, evidence, heads, refused]) = totals.into_inner().unwrap();
    println!("{schedules} schedules: {entries} entries, {evidence} equivocations, {heads} checkpoints");
    println!("rounds: {ends:?}; {refused} damaged stores refused");
    assert!(entries > schedules && evidence > 0, "a simulation of nothing");
}
