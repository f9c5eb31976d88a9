//! The sequencer: the one writer, and the one commit point.
//!
//! It takes everything that waits, decides about each entry in turn, appends what it admits to the tree,
//! signs the new head, and makes all of it durable in one write. Only then does anybody hear of it. There is
//! no timer: while one round is being written the next one gathers.
//!
//! After a failed write the sequencer stops. It does not know what the disk holds, so it does not go on. Only
//! [`crate::recovery`] finds out, at the next start or, where the disk was full, in [`crate::running`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sift_spec::chain::{ChainError, OperatorHead, RunHead};
use sift_spec::checkpoint::Checkpoint;
use sift_spec::entry::{Content, Entry};
use sift_spec::keys::KeyRing;
use sift_spec::note::SignerKey;
use sift_spec::proof::TreeHead;
use sift_spec::record::{Body, OperatorRecord, Record};
use sift_spec::tree::RightEdge;
use sift_spec::types::{Hash, LeafIndex, RunId, Seq, TreeSize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::disk::Disk;
use crate::error::Refusal;
use crate::limits::KeyLimits;
use crate::mark::HighWaterMark;
use crate::metrics::CommitMetrics;
use crate::store::{ChainId, Commit, Row, Store, StoreError};
use crate::tile::{EdgeTiles, Tile};
use crate::view::View;

/// Entries that one commit takes at most, so that nobody waits for ever behind others.
const COMMIT_ENTRIES_MAX: usize = 8192;

/// Bytes that one commit takes at most, give or take one request.
const COMMIT_BYTES_MAX: usize = 32 << 20;

/// Heads of runs that are kept in memory; the others are read again when they are needed. Tests have few runs.
const HEADS_MAX: usize = if cfg!(test) { 3 } else { 65_536 };

/// A checkpoint is kept for good whenever the tree has grown past a multiple of this.
const CHECKPOINT_EVERY: u64 = 256;

/// What the sequencer is told.
pub(crate) enum Message {
    /// Decide about these.
    Submit(Submission),
    /// Finish what came before this, and end.
    Stop,
}

/// Entries of one request, signatures checked.
pub(crate) struct Submission {
    pub(crate) entries: Vec<Result<Entry, Refusal>>,
    pub(crate) reply: oneshot::Sender<Answer>,
}

impl Submission {
    fn bytes(&self) -> usize {
        self.entries.iter().flatten().map(|entry| entry.bytes().len()).sum()
    }
}

/// Why the sequencer ended without having been told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody can submit any more: the admission threads are gone.
    #[error("admission ended")]
    Orphaned,
}

/// What was decided about the entries of one request, in their order.
pub(crate) type Results = Vec<Result<LeafIndex, Refusal>>;

/// What became of a request, and the tree in which it did. No answer at all means: not written.
pub(crate) struct Answer {
    pub(crate) results: Results,
    pub(crate) view: Arc<View>,
}

/// Everything the sequencer knows, rebuilt by [`crate::recovery`] on start.
pub(crate) struct Sequencer {
    pub(crate) store: Arc<Store>,
    /// The log's own keys: several while it changes from one to the next. Each signs.
    pub(crate) log_keys: Vec<SignerKey>,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) operator: OperatorHead,
    pub(crate) edge: RightEdge,
    pub(crate) tiles: EdgeTiles,
    pub(crate) heads: HashMap<RunId, RunHead>,
    pub(crate) views: watch::Sender<Arc<View>>,
    pub(crate) mark: HighWaterMark,
    pub(crate) metrics: Arc<CommitMetrics>,
    /// Whether some of its checkpoints are kept for good: not where those that witnesses cosigned are kept instead.
    pub(crate) keeps_checkpoints: bool,
    pub(crate) limits: Arc<KeyLimits>,
}

/// What waited for a round.
struct Gathered {
    submissions: Vec<Submission>,
    /// Whether the sequencer was told to stop after them.
    stop: bool,
}

/// Takes everything that waits, within the bounds of one commit.
fn gather(queue: &mut mpsc::Receiver<Message>) -> Result<Gathered, Ended> {
    let mut gathered = Gathered { submissions: Vec::new(), stop: false };
    let mut next = queue.blocking_recv().ok_or(Ended::Orphaned)?;
    let (mut entries, mut bytes) = (0, 0);
    loop {
        match next {
            Message::Stop => gathered.stop = true,
            Message::Submit(submission) => {
                entries += submission.entries.len();
                bytes += submission.bytes();
                gathered.submissions.push(submission);
            }
        }
        if gathered.stop || entries >= COMMIT_ENTRIES_MAX || bytes >= COMMIT_BYTES_MAX {
            return Ok(gathered);
        }
        next = match queue.try_recv() {
            Ok(message) => message,
            Err(_) => return Ok(gathered),
        };
    }
}

/// Answers requests, once their round is durable.
fn answer(submissions: Vec<Submission>, results: Vec<Results>, view: &Arc<View>) {
    for (Submission { reply, .. }, results) in submissions.into_iter().zip(results) {
        // A client that went away has its records all the same.
        let _ = reply.send(Answer { results, view: Arc::clone(view) });
    }
}

/// One round: what will be written, and what was decided on top of the store.
#[derive(Default)]
pub(crate) struct Round {
    commit: Commit,
    complete: Vec<(sift_spec::tile::TileId, Arc<Tile>)>,
    /// Records of this round by place, for duplicates within it.
    places: HashMap<(ChainId, Seq), Row>,
    /// One instant for the whole round: a key that is refused once is refused until the round ends, so that no record
    /// is said to break its chain only because the one before came too fast.
    now: Option<Instant>,
}

impl Sequencer {
    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// When a write or read of the store failed, or nobody is left who could submit. Nobody was answered who should
    /// not have been.
    pub(crate) fn run(
        mut self,
        mut queue: mpsc::Receiver<Message>,
        disk: &Disk,
        stopping: &AtomicBool,
    ) -> Result<(), Ended> {
        loop {
            let Gathered { mut submissions, stop } = gather(&mut queue)?;
            // On a full disk who waits is let go without an answer: nothing was written.
            if !submissions.is_empty() && !disk.is_full() {
                // Still there after a failure, so that who waits finds out why before there is no answer.
                if let Err(error) = self.round(&mut submissions) {
                    if error.is_no_space() {
                        disk.set_failed();
                    }
                    stopping.store(true, Ordering::Relaxed);
                    return Err(error.into());
                }
            }
            if stop {
                return Ok(());
            }
        }
    }

    /// Decides, writes, and then answers. After an error the sequencer is of no use any more.
    pub(crate) fn round(&mut self, submissions: &mut Vec<Submission>) -> Result<(), StoreError> {
        let (round, results) = self.decide(submissions)?;
        let view = self.write(round)?;
        answer(std::mem::take(submissions), results, &view);
        Ok(())
    }

    /// Decides about everything that was gathered, each entry on top of those before it, and takes the entries out of
    /// their submissions. Nobody may hear of it before the round is written.
    pub(crate) fn decide(
        &mut self,
        submissions: &mut [Submission],
    ) -> Result<(Round, Vec<Results>), StoreError> {
        // Only between rounds: a head that a round moves is not in the store until it is written.
        if self.heads.len() > HEADS_MAX {
            self.heads.clear();
        }
        let mut round = Round::default();
        let mut all = Vec::with_capacity(submissions.len());
        for submission in submissions {
            let decide = |entry: Result<Entry, Refusal>| match entry {
                Ok(entry) => self.admit(entry, &mut round),
                Err(refusal) => Ok(Err(refusal)),
            };
            let entries = std::mem::take(&mut submission.entries);
            all.push(entries.into_iter().map(decide).collect::<Result<_, StoreError>>()?);
        }
        let answered = all.iter().flatten().filter(|result: &&Result<_, _>| result.is_ok()).count();
        self.metrics.repeated(answered.saturating_sub(round.commit.entries.len()));
        self.metrics.heads(self.heads.len());
        Ok((round, all))
    }

    /// Decides about one entry. The outer error is the store's, the inner one the sender's.
    fn admit(&mut self, entry: Entry, round: &mut Round) -> Result<Result<LeafIndex, Refusal>, StoreError> {
        let leaf = entry.leaf();
        let (chain, seq) = match entry.content() {
            Content::Run(record) => (ChainId::Run(record.run), record.seq),
            Content::Operator(record) => (ChainId::Operator, record.seq),
        };
        let Ok(index) = LeafIndex::new(self.edge.size().get()) else {
            return Err(StoreError::Damaged("the log is full".to_owned()));
        };
        // 1. A place that is taken stays as it is: the same bytes have the same index for ever.
        if let Some(row) = self.taken(chain, seq, round)? {
            if row.leaf == leaf {
                return Ok(Ok(row.index));
            }
            return self.equivocation(entry, chain, seq, row, index, round).map(Err);
        }
        // 2. Not faster than its key may. Known entries are not counted, or anybody could send them again.
        if let Err(wait) = self.within_rate(&entry, round) {
            return Ok(Err(Refusal::RateLimited(wait)));
        }
        // 3. Authority and chain, at the index it would get.
        let admitted = match entry.content() {
            Content::Run(record) => self.admit_record(record, &entry, leaf, index)?,
            Content::Operator(record) => self.admit_operator(record, leaf, index),
        };
        if let Err(refusal) = admitted {
            return Ok(Err(refusal));
        }
        // 4. It is in the tree.
        self.edge.push(leaf);
        self.tiles.push(leaf, &mut round.complete);
        let row = Row { index, leaf };
        round.places.insert((chain, seq), row);
        round.commit.rows.push((chain, seq, row));
        round.commit.entries.push((index, entry.into_bytes()));
        Ok(Ok(index))
    }

    /// Draws from the budget of the entry's key. The operator has none: under attack, revoking must be possible.
    fn within_rate(&self, entry: &Entry, round: &mut Round) -> Result<(), Duration> {
        if !self.limits.any() || entry.record().is_none() {
            return Ok(());
        }
        // A key that was never granted is refused for that.
        let Some(known) = self.keys.get(entry.signer(), entry.key_id()) else { return Ok(()) };
        self.limits.draw(known.granted, *round.now.get_or_insert_with(Instant::now))
    }

    /// What to say to other bytes for a place that is taken. Evidence of equivocation is only what the run's own key
    /// name signed, with a key that counts: nobody can make it against somebody else.
    fn equivocation(
        &mut self,
        entry: Entry,
        chain: ChainId,
        seq: Seq,
        row: Row,
        index: LeafIndex,
        round: &mut Round,
    ) -> Result<Refusal, StoreError> {
        if let (Some(record), ChainId::Run(run)) = (entry.record(), chain) {
            if let Err(error) = self.keys.kernel(entry.signer(), entry.key_id(), &record.agent, index) {
                return Ok(error.into());
            }
            if let Some(head) = self.head(run)?
                && head.signer() != entry.signer()
            {
                return Ok(ChainError::Signer(head.signer().clone()).into());
            }
        }
        // The first other entry is kept; one is proof enough.
        let offered =
            round.commit.equivocations.iter().any(|(other, place, _)| (*other, *place) == (chain, seq));
        if !offered && self.store.equivocation(chain, seq)?.is_none() {
            round.commit.equivocations.push((chain, seq, entry.into_bytes()));
        }
        Ok(Refusal::Equivocation { seq, index: row.index })
    }

    /// The record that has this place, in this round or before.
    fn taken(&mut self, chain: ChainId, seq: Seq, round: &Round) -> Result<Option<Row>, StoreError> {
        if let Some(row) = round.places.get(&(chain, seq)) {
            return Ok(Some(*row));
        }
        let next = match chain {
            ChainId::Operator => self.operator.next_seq(),
            ChainId::Run(run) => match self.head(run)? {
                Some(head) => head.seq().next().unwrap_or(seq),
                None => Seq::ZERO,
            },
        };
        if seq < next { self.store.row(chain, seq) } else { Ok(None) }
    }

    /// The head of a run, from memory or from its last entry.
    fn head(&mut self, run: RunId) -> Result<Option<&mut RunHead>, StoreError> {
        if !self.heads.contains_key(&run) {
            let Some((_, row)) = self.store.last_row(ChainId::Run(run))? else { return Ok(None) };
            let damaged = || StoreError::Damaged(format!("entry {} is not a record of run {run}", row.index));
            let entry =
                Entry::parse(self.store.entry(row.index)?.ok_or_else(damaged)?).map_err(|_| damaged())?;
            let record = entry.record().filter(|record| record.run == run).ok_or_else(damaged)?;
            self.heads.insert(run, RunHead::of_last(record, entry.signer(), row.leaf));
        }
        Ok(self.heads.get_mut(&run))
    }

    fn admit_record(
        &mut self,
        record: &Record,
        entry: &Entry,
        leaf: Hash,
        index: LeafIndex,
    ) -> Result<Result<(), Refusal>, StoreError> {
        if let Err(error) = self.keys.kernel(entry.signer(), entry.key_id(), &record.agent, index) {
            return Ok(Err(error.into()));
        }
        if let Some(head) = self.head(record.run)? {
            return Ok(head.extend(record, entry.signer(), leaf).map_err(Refusal::from));
        }
        let head = match RunHead::open(record, entry.signer(), leaf, self.keys.log()) {
            Ok(head) => head,
            Err(error) => return Ok(Err(error.into())),
        };
        if let Body::Open(open) = &record.body
            && self.keys.published(&open.policy).is_none()
        {
            return Ok(Err(Refusal::PolicyNotPublished(open.policy)));
        }
        self.heads.insert(record.run, head);
        Ok(Ok(()))
    }

    fn admit_operator(
        &mut self,
        record: &OperatorRecord,
        leaf: Hash,
        index: LeafIndex,
    ) -> Result<(), Refusal> {
        let mut head = self.operator.clone();
        head.extend(record, leaf, self.keys.log())?;
        Arc::make_mut(&mut self.keys).apply(index, &record.body)?;
        self.operator = head;
        Ok(())
    }

    /// Makes the round durable and publishes its view.
    pub(crate) fn write(&mut self, round: Round) -> Result<Arc<View>, StoreError> {
        let Round { mut commit, complete, .. } = round;
        let grown = !commit.entries.is_empty();
        if !grown && commit.equivocations.is_empty() {
            return Ok(Arc::clone(&self.views.borrow()));
        }
        if !grown {
            self.commit(&commit)?;
            return Ok(Arc::clone(&self.views.borrow()));
        }
        let head = TreeHead { size: self.edge.size(), root: self.edge.root() };
        let checkpoint = sign(&self.log_keys, self.keys.log(), head)?;
        let before = self.views.borrow().head.size;
        let keep = before.get() / CHECKPOINT_EVERY < head.size.get() / CHECKPOINT_EVERY;
        let keep = self.keeps_checkpoints && (keep || before == TreeSize::ZERO);
        commit.checkpoint = Some((head.size, checkpoint.clone(), keep));
        let changed: Vec<_> = self.tiles.changed(&complete).collect();
        commit.tiles = complete.into_iter().chain(changed).collect();
        let enrolled = commit.rows.iter().any(|(chain, ..)| *chain == ChainId::Operator);
        commit.operator_records = enrolled.then(|| self.operator.next_seq());
        self.commit(&commit)?;
        self.mark.set(&checkpoint);
        let tiles = commit.tiles.into_iter().chain(self.tiles.partial()).collect();
        let view = Arc::new(View { head, checkpoint, keys: Arc::clone(&self.keys), tiles });
        self.views.send_replace(Arc::clone(&view));
        Ok(view)
    }

    fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        let begun = Instant::now();
        self.store.commit(commit)?;
        self.metrics.committed(begun.elapsed(), commit.entries.len(), commit.equivocations.len());
        Ok(())
    }
}

/// Signs the checkpoint of a tree head with all keys of the log.
pub(crate) fn sign(
    keys: &[SignerKey],
    log: &sift_spec::types::KeyName,
    head: TreeHead,
) -> Result<String, StoreError> {
    let checkpoint =
        Checkpoint::new(log.clone(), head).map_err(|error| StoreError::Damaged(error.to_string()))?;
    Ok(checkpoint.sign_all(keys))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sift_spec::note::KeyType;
    use sift_spec::record::{Limits, Open};
    use sift_spec::types::UnixMillis;

    use super::*;

    /// An entry of some ten thousand bytes.
    fn large_entry() -> Entry {
        let labels: BTreeMap<_, _> = (0..40)
            .map(|n| (format!("label{n}").parse().unwrap(), "x".repeat(256).parse().unwrap()))
            .collect();
        let open = Open {
            build: "test".parse().unwrap(),
            engine: "rego/test".parse().unwrap(),
            labels,
            limits: Limits::default(),
            log: "test.example/log".parse().unwrap(),
            delegation: None,
            parent: None,
            policy: Hash::from_bytes([1; 32]),
        };
        let time = UnixMillis::new(1).unwrap();
        let run = RunId::from_parts(time, &[0; 10]);
        let (agent, body) = ("test/agent".parse().unwrap(), Body::Open(Box::new(open)));
        let record = Record { agent, body, prev: None, run, seq: Seq::ZERO, time };
        let key = SignerKey::from_seed("test".parse().unwrap(), KeyType::Ed25519, &[1; 32]).unwrap();
        Entry::sign(&record, &key).unwrap()
    }

    fn queue_of(
        submissions: impl IntoIterator<Item = Vec<Result<Entry, Refusal>>>,
    ) -> mpsc::Receiver<Message> {
        let (queue, receiver) = mpsc::channel(1000);
        for entries in submissions {
            let (reply, _) = oneshot::channel();
            queue.try_send(Message::Submit(Submission { entries, reply })).ok().unwrap();
        }
        queue.try_send(Message::Stop).ok().unwrap();
        receiver
    }

    #[test]
    fn a_round_has_a_bound_in_bytes_and_in_entries() {
        // Requests of a megabyte: a round takes the bound, give or take one, and the rest is for the next.
        let entry = large_entry();
        let request = (1 << 20) / entry.bytes().len();
        let mut queue = queue_of((0..80).map(|_| vec![Ok(entry.clone()); request]));
        let mut rounds = Vec::new();
        loop {
            let gathered = gather(&mut queue).ok().unwrap();
            rounds.push(gathered.submissions.iter().map(Submission::bytes).sum::<usize>());
            if gathered.stop {
                break;
            }
        }
        println!("rounds of {rounds:?} bytes");
        assert_eq!(rounds.len(), 3);
        assert!(rounds.iter().all(|bytes| *bytes < COMMIT_BYTES_MAX + (1 << 20)));
        assert!(rounds[..2].iter().all(|bytes| *bytes >= COMMIT_BYTES_MAX));
        // Requests that weigh nothing, because all of them are refused already, count by entries.
        let refused = || Err(Refusal::PolicyNotPublished(Hash::from_bytes([0; 32])));
        let mut queue = queue_of((0..20).map(|_| (0..1000).map(|_| refused()).collect()));
        let entries =
            |gathered: &Gathered| gathered.submissions.iter().map(|one| one.entries.len()).sum::<usize>();
        let first = gather(&mut queue).ok().unwrap();
        assert_eq!((entries(&first), first.stop), (9000, false));
        let second = gather(&mut queue).ok().unwrap();
        assert_eq!((entries(&second), second.stop), (9000, false));
        let third = gather(&mut queue).ok().unwrap();
        assert_eq!((entries(&third), third.stop), (2000, true));
        assert!(matches!(gather(&mut queue), Err(Ended::Orphaned)));
    }
}
