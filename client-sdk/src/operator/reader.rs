//! The reader: asks the log for the operator's records, and believes what is proven.
//!
//! The log says where the operator's chain ends (`GET /v1/operator`), and where the records stand that are not known yet
//! (`GET /v1/operator/records`). Whether one is missing, the chain itself shows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sift_spec::hash::leaf_hash;
use sift_spec::proof::{Proof, TreeHead};
use sift_spec::receipt::Receipt;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{KeyName, LeafIndex};
use tokio::sync::oneshot;

use super::{Chain, Revoked};
use crate::config::{Approver, Peer};
use crate::error::Stop;
use crate::follow::{between, head_of, verify_either_way};
use crate::log::{LogClient, LogError};
use crate::shared::Shared;
use crate::store::{Fork, OperatorEntry, Store, StoreError};
use crate::writer::{Learnt, Op};

/// Every so many polls the log is asked: every five seconds, as kernels poll by default.
const POLLS_PER_LOOK: u32 = 25;

/// How many times the pause doubles while the log does not answer, or not to be believed.
const DOUBLINGS_MAX: u32 = 4;

/// Longest pause, whatever the log asks for.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Most records of the operator that one look takes: each takes a receipt of its own.
const RECORDS_PER_LOOK: usize = 256;

/// How long a look goes on before what it has proven is kept.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Asks the log for the operator's records.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    store: Arc<Store>,
    client: LogClient,
    trust: TrustPolicy,
    chain: Chain,
    /// The last head under which a record was proven, with its note.
    seen: Option<(String, TreeHead)>,
}

/// Why a look did not end well. What is known stays in force.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// Nobody's fault, or that of whoever is on the way.
    #[error("the operator's records could not be asked for: {0}; the log is asked again")]
    Unasked(#[from] LogError),
    /// The log has a record that no published tree has. It will.
    #[error("the operator's newest record is in no published tree yet; the log is asked again")]
    Unpublished,
    /// The log is at fault.
    #[error(
        "what the log says of the operator's records is not believed: {0}; what is known stays in force, ask the log's \
         operator"
    )]
    Wrong(String),
    /// Nothing could be believed.
    #[error(
        "the trust file names no operator, so that whoever runs the log could revoke what they like: revocations are not \
         followed; add the line #sift:operator"
    )]
    Nameless,
    /// The kernel has ended, or its disk has failed.
    #[error(transparent)]
    Stopped(#[from] Stop),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The chain with what was proven of that, and why it is not all.
struct Proven {
    chain: Chain,
    entries: Vec<OperatorEntry>,
    revoked: Vec<Revoked>,
    unproven: Option<Trouble>,
}

impl Reader {
    pub(crate) const fn new(
        shared: Arc<Shared>,
        store: Arc<Store>,
        client: LogClient,
        trust: TrustPolicy,
        chain: Chain,
    ) -> Self {
        Self { shared, store, client, trust, chain, seen: None }
    }

    /// Asks until the kernel stops.
    pub(crate) async fn run(mut self) {
        if self.trust.operator().is_none() {
            return self.say(Err(Trouble::Nameless));
        }
        let usual = self.shared.poll * POLLS_PER_LOOK;
        let mut failures = 0;
        while self.shared.stopped().is_none() {
            let looked = self.look().await;
            let pause = match &looked {
                Ok(true) => usual,
                // There is more to read.
                Ok(false) => self.shared.poll,
                Err(trouble) => {
                    failures = (failures + 1).min(DOUBLINGS_MAX);
                    let asked = match trouble {
                        Trouble::Unasked(error) => error.retry_after().unwrap_or_default(),
                        _ => Duration::ZERO,
                    };
                    asked.max(usual * (1 << failures))
                }
            };
            if looked.is_ok() {
                failures = 0;
            }
            self.say(looked);
            tokio::time::sleep(pause.min(PAUSE_MAX)).await;
        }
    }

    /// Puts into the status how the look ended, and into the trace what is new about it.
    fn say(&self, looked: Result<bool, Trouble>) {
        let records = self.chain.next_seq().get();
        let now = self.shared.clock.now();
        let ungranted = self.ungranted();
        self.shared.revocations.say(|status| {
            status.records = records;
            let complete = matches!(looked, Ok(true));
            match looked {
                Ok(_) => status.trouble = None,
                Err(trouble) => {
                    let why = trouble.to_string();
                    if status.trouble.as_ref() != Some(&why) {
                        match trouble {
                            Trouble::Wrong(_) => tracing::error!(why, "the operator's records"),
                            _ => tracing::warn!(why, "the operator's records"),
                        }
                        status.trouble = Some(why);
                    }
                }
            }
            if complete {
                status.asked = Some(now);
                if status.ungranted != ungranted && !ungranted.is_empty() {
                    let keys = ungranted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    tracing::warn!(keys, "kernel.toml lists keys that the operator has not granted");
                }
                status.ungranted = ungranted;
            }
        });
    }

    /// Keys of the configuration that the operator has not granted.
    fn ungranted(&self) -> Vec<KeyName> {
        let approvers = self.shared.approvers.iter().map(|Approver { key, .. }| key);
        let kernels = self.shared.kernels.iter().map(|Peer { key, .. }| key);
        let missing = approvers.chain(kernels).filter(|key| !self.chain.is_granted(key));
        missing.map(|key| key.name().clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Asks once; `false` when there is more to read.
    async fn look(&mut self) -> Result<bool, Trouble> {
        // 1. Where the log says that the operator's chain ends: never before what it has proven.
        let end = self.client.operator().await?;
        if end.log != *self.chain.log() {
            return Err(Trouble::Wrong(format!("it says that it is the log {}", end.log)));
        }
        let known = self.chain.next_seq();
        if end.next_seq < known {
            let (shown, known) = (end.next_seq, known.get());
            let why =
                format!("it shows {shown} of them and has proven {known}: it was rolled back, or hides some");
            return Err(Trouble::Wrong(why));
        }
        if end.next_seq == known {
            let is_same = end.prev == self.chain.leaf();
            let why = || Trouble::Wrong("its last one is not the one that it has proven".to_owned());
            return is_same.then_some(true).ok_or_else(why);
        }
        // 2. Where the records stand that are not known. One that was just written may be in no published tree yet.
        let places = self.client.operator_records(known, RECORDS_PER_LOOK).await?;
        if places.from != known || places.indices.len() > RECORDS_PER_LOOK {
            return Err(Trouble::Wrong("it names other records than it was asked for".to_owned()));
        }
        if places.indices.is_empty() {
            return Err(Trouble::Unpublished);
        }
        // 3. Each of them, proven. What was proven before one that is not counts.
        let Proven { chain, entries, revoked, unproven } = self.prove(places.indices).await;
        self.keep(chain, entries, revoked).await?;
        if let Some(trouble) = unproven {
            return Err(trouble);
        }
        // More may have come meanwhile; the next look tells.
        let is_whole = self.chain.next_seq() == end.next_seq;
        if is_whole && end.prev != self.chain.leaf() {
            return Err(Trouble::Wrong("its last one is not the one that it names".to_owned()));
        }
        Ok(is_whole)
    }

    /// Continues the chain with the entries at these places, up to the first that is not proven.
    ///
    /// A revocation counts as soon as it is proven: it does not wait for what comes after it, which a log may answer slowly.
    async fn prove(&mut self, places: Vec<LeafIndex>) -> Proven {
        let (entries, revoked) = (Vec::new(), Vec::new());
        let mut proven = Proven { chain: self.chain.clone(), entries, revoked, unproven: None };
        let start = Instant::now();
        for index in places {
            if let Err(trouble) = self.prove_one(&mut proven, index).await {
                proven.unproven = Some(trouble);
                break;
            }
            if !proven.revoked.is_empty() || start.elapsed() > LOOK_MAX {
                break;
            }
        }
        proven
    }

    async fn prove_one(&mut self, proven: &mut Proven, index: LeafIndex) -> Result<(), Trouble> {
        let asked = tokio::try_join!(self.client.record(index), self.client.receipt(index));
        let (entry, receipt) = asked?;
        let at = |error: &dyn std::fmt::Display| Trouble::Wrong(format!("entry {index}: {error}"));
        // 1. It is in a tree that is believed, there.
        let receipt = Receipt::parse(&receipt).map_err(|error| at(&error))?;
        if receipt.index != index {
            return Err(at(&format!("the receipt is of entry {}", receipt.index)));
        }
        receipt.verify(leaf_hash(&entry), &self.trust).map_err(|error| at(&error))?;
        self.reconcile(&receipt.checkpoint).await?;
        // 2. It is the operator's next record.
        let (seq, revoked) = proven.chain.extend(index, entry.clone()).map_err(|error| at(&error))?;
        proven.revoked.extend(revoked);
        proven.entries.push(OperatorEntry { seq, index, entry });
        Ok(())
    }

    /// Checks that a head which the log signed is of the one tree that it has shown before.
    async fn reconcile(&mut self, note: &str) -> Result<(), Trouble> {
        let head = head_of(note).map_err(Trouble::Wrong)?;
        if self.seen.as_ref().is_some_and(|(_, seen)| *seen == head) {
            return Ok(());
        }
        let kept = self.store.checkpoint()?;
        let kept =
            kept.map(|note| head_of(&note).map(|head| (note, head))).transpose().map_err(Trouble::Wrong)?;
        for (before, seen) in kept.iter().chain(&self.seen) {
            if seen.size == head.size && *seen != head {
                // Both are signed: that is evidence, whoever is on the way.
                let why = "a record of the operator is proven under another tree of the same size".to_owned();
                let fork = Fork { seen: before.clone(), shown: note.to_owned(), why: why.clone() };
                self.shared.send(Op::Fork(fork))?;
                return Err(Trouble::Wrong(why));
            }
            let proof = match between(seen, &head) {
                Some((old, new)) => Proof(self.client.consistency(old, new).await?.hashes),
                None => Proof(Vec::new()),
            };
            verify_either_way(seen, &head, &proof).map_err(|error| {
                Trouble::Wrong(format!("its tree is not proven to be the one seen before: {error}"))
            })?;
        }
        self.seen = Some((note.to_owned(), head));
        Ok(())
    }

    /// Makes durable what was proven; from then on it counts.
    async fn keep(
        &mut self,
        chain: Chain,
        entries: Vec<OperatorEntry>,
        revoked: Vec<Revoked>,
    ) -> Result<(), Trouble> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Op::Learnt(Learnt { entries, revoked, reply }))?;
        self.shared.answer(answer).await?;
        self.chain = chain;
        Ok(())
    }
}
