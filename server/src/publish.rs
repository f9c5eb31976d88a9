//! Publishing: which of the trees that were committed readers are told about.
//!
//! ```text
//!  sequencer ──committed──▶ round: the newest checkpoint ──▶ every witness, each at its own pace
//!                             │                                      │
//!                             └── quorum met ◀── cosignatures ◀──────┘
//!                                    │
//!                    durable (store), and only then `published`
//! ```
//!
//! A round is one checkpoint. It stays until its quorum is met, because witnesses that each cosign the newest one they
//! hear of would rarely cosign the same; a round that finds no quorum is given up for a newer checkpoint after a while.
//! What was committed meanwhile is skipped: the next round takes the newest. A witness that does not answer is tried
//! again after a pause that grows; the others do not wait for it longer than the quorum does.
//!
//! INVARIANT: in mode `quorum` every checkpoint that was served is durable and cosigned by the quorum, and no later one
//! is smaller, over any restart. The one exception is the checkpoint that stood when witnesses were first configured.
//!
//! Without witnesses nothing here runs: what is committed is published.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sift_spec::api::Publish;
use sift_spec::checkpoint::Checkpoint;
use sift_spec::hash::EMPTY_ROOT;
use sift_spec::keys::KeyRing;
use sift_spec::note::{NOTE_BYTES_MAX, Note, SignerKey, VerifierKey};
use sift_spec::proof::TreeHead;
use sift_spec::trust::TrustedWitness;
use sift_spec::types::{TreeSize, UnixMillis};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::recovery::{RecoveryError, check_extends, recover_operator};
use crate::store::{Store, StoreError};
use crate::view::View;
use crate::witness::{Cosignature, Witness, WitnessError, WitnessLag, WitnessStop, Witnesses};

/// Shortest and longest pause before a witness that gave no cosignature is asked again.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 200..=30_000;

/// A round that has no quorum after this is given up, once there is a newer checkpoint.
const ROUND_MAX: Duration = Duration::from_secs(10);

/// Why publishing ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stop(#[from] WitnessStop),
    #[error("a task failed")]
    Panicked,
}

/// What others in this process may know: handlers, `/metrics`, the feed.
pub(crate) struct PublishStatus {
    mode: Publish,
    witnesses: Vec<Arc<Witness>>,
    committed: watch::Receiver<Arc<View>>,
    /// How long a request may wait to be witnessed.
    pub(crate) wait: Duration,
}

impl PublishStatus {
    /// When checkpoints are published.
    pub(crate) const fn mode(&self) -> Publish {
        self.mode
    }

    /// How far each witness is behind, in the order of the policy.
    pub(crate) fn lags(&self) -> Vec<WitnessLag> {
        let committed = self.committed.borrow().head.size;
        self.witnesses.iter().map(|witness| witness.lag(committed)).collect()
    }
}

/// The trees that readers are told about.
pub(crate) struct Outlets {
    /// The tree of the published checkpoint, with the cosignatures it has.
    pub(crate) published: watch::Receiver<Arc<View>>,
    /// The newest tree whose checkpoint the quorum has cosigned. In mode `signed` the published one is ahead of it.
    pub(crate) witnessed: watch::Receiver<Arc<View>>,
    pub(crate) status: Arc<PublishStatus>,
}

impl Outlets {
    /// Those of a log without witnesses: what is committed is published, and nothing is to be waited for.
    pub(crate) fn unwitnessed(committed: &watch::Receiver<Arc<View>>) -> Self {
        let status = PublishStatus {
            mode: Publish::Signed,
            witnesses: Vec::new(),
            committed: committed.clone(),
            wait: Duration::ZERO,
        };
        Self { published: committed.clone(), witnessed: committed.clone(), status: Arc::new(status) }
    }
}

/// A published checkpoint that is being restored or gathered: the log's note and what witnesses added.
struct Gathering {
    /// The committed tree. Its note has the log's own signatures.
    view: Arc<View>,
    /// One place for each witness, in the order of the policy.
    lines: Vec<Option<Cosignature>>,
}

impl Gathering {
    fn new(view: Arc<View>, witnesses: &Witnesses) -> Self {
        Self { view, lines: vec![None; witnesses.all.len()] }
    }

    fn size(&self) -> TreeSize {
        self.view.head.size
    }

    fn is_met(&self, witnesses: &Witnesses) -> bool {
        let place = |witness: &TrustedWitness| {
            witnesses.all.iter().position(|other| other.trusted.name == witness.name)
        };
        let cosigned = |witness: &TrustedWitness| {
            place(witness).and_then(|place| self.lines.get(place)).is_some_and(Option::is_some)
        };
        witnesses.policy.is_satisfied(cosigned)
    }

    /// The tree under the note with all cosignatures.
    fn cosigned(&self) -> View {
        let lines: String =
            self.lines.iter().flatten().map(|cosignature| cosignature.line.as_str()).collect();
        View { checkpoint: format!("{}{lines}", self.view.checkpoint), ..View::clone(&self.view) }
    }
}

/// Publishing, before it runs.
pub(crate) struct Publishing {
    store: Arc<Store>,
    witnesses: Witnesses,
    committed: watch::Receiver<Arc<View>>,
    /// What was published last, cosignatures included.
    published: Gathering,
    /// The newest committed checkpoint, with what witnesses said about it at the start.
    asked: Option<Gathering>,
}

impl Publishing {
    /// Restores what was published last. Nothing that readers were told is ever taken back.
    pub(crate) fn restore(
        witnesses: Witnesses,
        store: Arc<Store>,
        committed: watch::Receiver<Arc<View>>,
        keys: &[SignerKey],
        operator: &VerifierKey,
    ) -> Result<Self, RecoveryError> {
        let newest = Arc::clone(&committed.borrow());
        let published = match (witnesses.config.publish, store.published()?) {
            (Publish::Signed, stored) => {
                if stored.is_some() {
                    store.forget_published()?;
                }
                Gathering::new(newest, &witnesses)
            }
            (Publish::Quorum, None) => {
                // What was published until now stays so, cosigned or not.
                store.publish(newest.head.size, &newest.checkpoint, true)?;
                Gathering::new(newest, &witnesses)
            }
            (Publish::Quorum, Some(note)) => {
                restore_published(&note, &store, &newest, keys, operator, &witnesses)?
            }
        };
        Ok(Self { store, witnesses, committed, published, asked: None })
    }

    /// Asks every witness for the last tree it cosigned, by offering it the newest: none may have cosigned more than
    /// this store holds, or anything else.
    ///
    /// # Errors
    /// When one has, or one that must answer does not.
    pub(crate) async fn ask(&mut self) -> Result<(), WitnessStop> {
        if self.asked.is_some() {
            return Ok(());
        }
        let newest = Arc::clone(&self.committed.borrow());
        let mut asked = Gathering::new(Arc::clone(&newest), &self.witnesses);
        if newest.head.size == self.published.size() {
            asked.lines.clone_from(&self.published.lines);
        }
        // Asking from size 0 has a witness that knows the log state what it cosigned last.
        let ask = |witness: &Arc<Witness>| {
            let (witness, newest, store) =
                (Arc::clone(witness), Arc::clone(&newest), Arc::clone(&self.store));
            async move { witness.add_checkpoint(&newest, &store, TreeSize::ZERO).await }
        };
        let answers = futures_util::future::join_all(self.witnesses.all.iter().map(ask)).await;
        for ((witness, answer), line) in self.witnesses.all.iter().zip(answers).zip(&mut asked.lines) {
            match answer {
                Ok(cosignature) => {
                    witness.succeeded(newest.head.size, now());
                    *line = Some(cosignature);
                }
                Err(error) => {
                    if let Some(stop) = witness.stop(&error, newest.head.size) {
                        return Err(stop);
                    }
                    let name = witness.trusted.name.clone();
                    if self.witnesses.config.require_at_start {
                        return Err(WitnessStop::Required { witness: name, why: error.to_string() });
                    }
                    tracing::warn!(
                        witness = name, %error,
                        "a witness did not cosign at the start: whether it has seen more than this store is not known"
                    );
                    witness.failed();
                }
            }
        }
        self.asked = Some(asked);
        Ok(())
    }

    /// The publisher that runs from here on, and what it tells others.
    pub(crate) fn start(self) -> (Publisher, Outlets) {
        let Self { store, witnesses, committed, published, asked } = self;
        let round = asked.unwrap_or_else(|| Gathering::new(Arc::clone(&committed.borrow()), &witnesses));
        let (last, met) = (Arc::new(published.cosigned()), published.is_met(&witnesses));
        let (published, published_views) = watch::channel(Arc::clone(&last));
        // A checkpoint that was published before there were witnesses covers nothing for those who ask for them.
        let empty = TreeHead { size: TreeSize::ZERO, root: EMPTY_ROOT };
        let witnessed = if met { last } else { Arc::new(View { head: empty, ..View::clone(&last) }) };
        let (witnessed, witnessed_views) = watch::channel(witnessed);
        let status = Arc::new(PublishStatus {
            mode: witnesses.config.publish,
            witnesses: witnesses.all.clone(),
            committed: committed.clone(),
            wait: Duration::from_secs(witnesses.config.wait_seconds),
        });
        let publisher = Publisher {
            store,
            witnesses,
            committed,
            published,
            witnessed,
            round,
            met: false,
            started: Instant::now(),
        };
        (publisher, Outlets { published: published_views, witnessed: witnessed_views, status })
    }
}

/// Publishes what the sequencer commits.
pub(crate) struct Publisher {
    store: Arc<Store>,
    witnesses: Witnesses,
    committed: watch::Receiver<Arc<View>>,
    published: watch::Sender<Arc<View>>,
    witnessed: watch::Sender<Arc<View>>,
    round: Gathering,
    /// Whether the round has its quorum.
    met: bool,
    started: Instant,
}

/// What the task of a witness has to say: its place in the policy, the tree's size, and the cosignature or the end.
type Word = Result<(usize, TreeSize, Cosignature), WitnessStop>;

impl Publisher {
    /// Runs until it is told to stop, the sequencer is gone, the store fails, or a witness gives reason to stop the log.
    /// When it ends, nothing of it holds the store any more.
    pub(crate) async fn run(mut self, stop: oneshot::Receiver<()>) -> Result<(), PublishError> {
        let mut tasks = JoinSet::new();
        let ended = self.publish(&mut tasks, stop).await;
        tasks.shutdown().await;
        ended
    }

    async fn publish(
        &mut self,
        tasks: &mut JoinSet<()>,
        mut stop: oneshot::Receiver<()>,
    ) -> Result<(), PublishError> {
        let (targets, _) = watch::channel(Arc::clone(&self.round.view));
        let (words, mut heard) = mpsc::channel(self.witnesses.all.len().max(1));
        for (place, witness) in self.witnesses.all.iter().enumerate() {
            let attendant = Attendant {
                place,
                witness: Arc::clone(witness),
                store: Arc::clone(&self.store),
                committed: self.committed.clone(),
                words: words.clone(),
            };
            tasks.spawn(attendant.run(targets.subscribe()));
        }
        // What witnesses said at the start may be a quorum already.
        self.tell().await?;
        loop {
            let due = self.due();
            tokio::select! {
                _ = &mut stop => return Ok(()),
                changed = self.committed.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.follow();
                }
                word = heard.recv() => {
                    let Some(word) = word else { return Err(PublishError::Panicked) };
                    let mut news = self.take(word?);
                    // Those that answered together are told together.
                    while let Ok(word) = heard.try_recv() {
                        news |= self.take(word?);
                    }
                    if news {
                        self.tell().await?;
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or(self.started)), if due.is_some() => {
                    let newest = Arc::clone(&self.committed.borrow());
                    targets.send_replace(Arc::clone(&newest));
                    self.round = Gathering::new(newest, &self.witnesses);
                    (self.met, self.started) = (false, Instant::now());
                }
            }
        }
    }

    /// When the next round begins: never while there is nothing newer than this one's checkpoint.
    fn due(&self) -> Option<Instant> {
        let newer = self.committed.borrow().head.size > self.round.size();
        let interval = Duration::from_millis(self.witnesses.config.interval_ms);
        newer.then(|| self.started + if self.met { interval } else { interval.max(ROUND_MAX) })
    }

    /// In mode `signed`, what is committed is published.
    fn follow(&self) {
        let newest = Arc::clone(&self.committed.borrow());
        if self.witnesses.config.publish == Publish::Signed
            && newest.head.size > self.published.borrow().head.size
        {
            self.published.send_replace(newest);
        }
    }

    /// Takes a cosignature; `false` when it is of an earlier round.
    fn take(&mut self, (place, size, cosignature): (usize, TreeSize, Cosignature)) -> bool {
        let current = size == self.round.size();
        if let Some(line) = self.round.lines.get_mut(place).filter(|_| current) {
            *line = Some(cosignature);
        }
        current
    }

    /// Makes what the round has durable, and tells it.
    async fn tell(&mut self) -> Result<(), PublishError> {
        self.met = self.round.is_met(&self.witnesses);
        let mode = self.witnesses.config.publish;
        let view = Arc::new(self.round.cosigned());
        if self.met {
            let (store, kept) = (Arc::clone(&self.store), Arc::clone(&view));
            let durable = move || store.publish(kept.head.size, &kept.checkpoint, mode == Publish::Quorum);
            tokio::task::spawn_blocking(durable).await.map_err(|_| PublishError::Panicked)??;
            self.witnessed.send_replace(Arc::clone(&view));
        }
        let published = self.published.borrow().head.size;
        let tells = match mode {
            Publish::Quorum => self.met && view.head.size >= published,
            Publish::Signed => view.head.size == published,
        };
        if tells {
            self.published.send_replace(view);
        }
        Ok(())
    }
}

/// Attends to one witness: offers it the round's checkpoint until it has cosigned it.
struct Attendant {
    place: usize,
    witness: Arc<Witness>,
    store: Arc<Store>,
    committed: watch::Receiver<Arc<View>>,
    words: mpsc::Sender<Word>,
}

impl Attendant {
    async fn run(self, mut targets: watch::Receiver<Arc<View>>) {
        let mut pause_ms = *PAUSE_MS.start();
        loop {
            let done = self.witness.cosigned();
            let target = match targets.wait_for(|view| Some(view.head.size) != done).await {
                Ok(view) => Arc::clone(&view),
                Err(_) => return,
            };
            let size = target.head.size;
            match self.witness.add_checkpoint(&target, &self.store, done.unwrap_or_default()).await {
                Ok(cosignature) => {
                    pause_ms = *PAUSE_MS.start();
                    self.witness.succeeded(size, now());
                    if self.words.send(Ok((self.place, size, cosignature))).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let stored = self.committed.borrow().head.size;
                    if let Some(stop) = self.witness.stop(&error, stored) {
                        let _ = self.words.send(Err(stop)).await;
                        return;
                    }
                    self.failed(&error, pause_ms);
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    pause_ms = (pause_ms * 2).min(*PAUSE_MS.end());
                }
            }
        }
    }

    fn failed(&self, error: &WitnessError, pause_ms: u64) {
        let witness = &self.witness.trusted.name;
        tracing::warn!(witness, %error, pause_ms, "a witness gave no cosignature; asking again");
        self.witness.failed();
    }
}

/// Reads the checkpoint that was published last: it must be of this log, and the stored tree must extend it.
fn restore_published(
    stored: &str,
    store: &Store,
    newest: &Arc<View>,
    keys: &[SignerKey],
    operator: &VerifierKey,
    witnesses: &Witnesses,
) -> Result<Gathering, RecoveryError> {
    let differs = |why: String| RecoveryError::TreeDiffers(format!("the published checkpoint: {why}"));
    let note = Note::parse(stored.as_bytes(), NOTE_BYTES_MAX).map_err(|error| differs(error.to_string()))?;
    let checkpoint = Checkpoint::parse(note.text).map_err(|error| differs(error.to_string()))?;
    let log = newest.keys.log();
    if checkpoint.origin != *log {
        return Err(differs(format!("it is that of {}", checkpoint.origin)));
    }
    check_extends(store, &newest.head, &checkpoint.head)?;
    // Only what verifies is served again. The tree is the log's own, so it is signed with the keys of today.
    let (_, lines) = stored.rsplit_once("\n\n").unwrap_or_default();
    let lines = witnesses
        .all
        .iter()
        .map(|witness| Cosignature::find(note.text, &witness.trusted.key, lines.lines()))
        .collect();
    // Readers of this tree must not be told of grants that came later.
    let mut ring = KeyRing::new(log.clone(), operator.clone());
    recover_operator(store, operator, &mut ring, checkpoint.head.size)?;
    let view = View {
        head: checkpoint.head,
        checkpoint: checkpoint.sign_all(keys),
        keys: Arc::new(ring),
        tiles: std::collections::HashMap::new(),
    };
    Ok(Gathering { view: Arc::new(view), lines })
}

/// The wall clock, for people; `None` when it is not to be believed.
fn now() -> Option<UnixMillis> {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis();
    UnixMillis::new(u64::try_from(millis).ok()?).ok()
}
