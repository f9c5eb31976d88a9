//! The reader: asks the log for the operator's records, and believes what is proven.
//!
//! The log says where the operator's chain ends (`GET /v1/operator`). One record more than is known is fetched by its
//! index. Several are looked for in the entry bundles from where the last look ended: nothing names the index of a record
//! in the middle, and the chain itself shows whether one is missing. So a new kernel reads the log's entries once up to the
//! operator's last record, in parts, and later only what came between two looks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sift_spec::hash::leaf_hash;
use sift_spec::receipt::Receipt;
use sift_spec::record::OPERATOR_HEADER;
use sift_spec::tile::{TILE_WIDTH, TilePath, parse_entries};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{KeyName, LeafIndex, TreeSize};
use tokio::sync::oneshot;

use super::{Chain, Revoked};
use crate::config::{Approver, Peer};
use crate::error::Stop;
use crate::log::{LogClient, LogError};
use crate::shared::Shared;
use crate::store::OperatorEntry;
use crate::writer::{Learnt, Op};

/// Every so many polls the log is asked: every five seconds, as kernels poll by default.
const POLLS_PER_LOOK: u32 = 25;

/// How many times the pause doubles while the log does not answer, or not to be believed.
const DOUBLINGS_MAX: u32 = 4;

/// Longest pause, whatever the log asks for.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Most entry bundles that one look reads: 16,384 entries.
const BUNDLES_PER_LOOK: u64 = 64;

/// Most records of the operator that one look takes: each takes a receipt of its own.
const RECORDS_PER_LOOK: usize = 256;

/// Asks the log for the operator's records.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    client: LogClient,
    trust: TrustPolicy,
    chain: Chain,
    /// Entries below this index were looked through. Only a hint where to go on: the chain shows what is missing.
    read: u64,
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
    /// The kernel has ended, or its disk has failed.
    #[error(transparent)]
    Stopped(#[from] Stop),
}

/// What a search found, and up to where it has looked.
struct Found {
    entries: Vec<(LeafIndex, Vec<u8>)>,
    read: u64,
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
        client: LogClient,
        trust: TrustPolicy,
        chain: Chain,
        read: u64,
    ) -> Self {
        Self { shared, client, trust, chain, read }
    }

    /// Asks until the kernel stops.
    pub(crate) async fn run(mut self) {
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
        // 1. A tree that the trust file believes. It comes first, so that the end of the chain is no older than it.
        let note = self.client.checkpoint().await?;
        let checkpoint = self.trust.verify(note.as_bytes()).map_err(|error| wrong(&error))?;
        let size = checkpoint.checkpoint().head.size;
        // 2. Where the log says that the operator's chain ends: never before what it has proven.
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
            if end.prev != self.chain.leaf() {
                return Err(Trouble::Wrong("its last one is not the one that it has proven".to_owned()));
            }
            self.read = self.read.max(size.get());
            return Ok(true);
        }
        let last =
            end.index.ok_or_else(|| Trouble::Wrong("it does not say where the last one is".to_owned()))?;
        // 3. The records that are not known.
        let found = if known.next() == Some(end.next_seq) {
            if !last.is_in(size) {
                return Err(Trouble::Unpublished);
            }
            Found { entries: vec![(last, self.client.record(last).await?)], read: last.get() + 1 }
        } else {
            self.find(last.get().saturating_add(1).min(size.get()), size).await?
        };
        // 4. Each of them, proven. What was proven before one that is not counts.
        let read = found.read;
        let Proven { chain, entries, revoked, unproven } = self.prove(found).await;
        let is_whole = chain.next_seq() == end.next_seq;
        let is_end = read > last.get();
        // A record that is missing among what was looked through is looked for again.
        let missed = unproven.is_some() || (is_end && !is_whole);
        self.read = if missed { chain.next_index() } else { read };
        self.keep(chain, entries, revoked).await?;
        if let Some(trouble) = unproven {
            return Err(trouble);
        }
        match (is_whole, is_end) {
            (true, _) if end.prev != self.chain.leaf() => {
                Err(Trouble::Wrong("its last one is not the one that it names".to_owned()))
            }
            (true, _) => Ok(true),
            (false, true) => {
                let (shown, named) = (self.chain.next_seq(), end.next_seq);
                let why =
                    format!("it says that there are {named}, and its entries up to the last have {shown}");
                Err(Trouble::Wrong(why))
            }
            (false, false) if read >= size.get() => Err(Trouble::Unpublished),
            (false, false) => Ok(false),
        }
    }

    /// Looks through the entries from where the last look ended up to an index, in a published tree of `size`. Nothing of
    /// it is believed yet.
    async fn find(&self, until: u64, size: TreeSize) -> Result<Found, Trouble> {
        let mut found = Found { entries: Vec::new(), read: self.read.max(self.chain.next_index()) };
        for _ in 0..BUNDLES_PER_LOOK {
            if found.read >= until {
                break;
            }
            let bundle = found.read / TILE_WIDTH;
            let first = bundle * TILE_WIDTH;
            let width = size.get().saturating_sub(first).min(TILE_WIDTH);
            let path = TilePath::Entries { index: bundle, width: u16::try_from(width).unwrap_or_default() };
            let bytes = self.client.entries(&path).await?;
            let entries = parse_entries(&bytes, TILE_WIDTH as usize).map_err(|error| wrong(&error))?;
            if entries.len() as u64 != width {
                let why = format!("{path} has {} entries and not {width}", entries.len());
                return Err(Trouble::Wrong(why));
            }
            for (index, entry) in (first..until).zip(entries).filter(|(index, _)| *index >= found.read) {
                let rest = entry.strip_prefix(OPERATOR_HEADER.as_bytes());
                if rest.is_some_and(|rest| rest.first() == Some(&b'\n')) {
                    let index = LeafIndex::new(index).map_err(|error| wrong(&error))?;
                    found.entries.push((index, entry.to_vec()));
                    if found.entries.len() == RECORDS_PER_LOOK {
                        found.read = index.get() + 1;
                        return Ok(found);
                    }
                }
            }
            found.read = (first + width).min(until);
        }
        Ok(found)
    }

    /// Continues the chain with what was found, up to the first entry that is not proven.
    async fn prove(&self, found: Found) -> Proven {
        let (entries, revoked) = (Vec::new(), Vec::new());
        let mut proven = Proven { chain: self.chain.clone(), entries, revoked, unproven: None };
        for (index, entry) in found.entries {
            if let Err(trouble) = self.prove_one(&mut proven, index, entry).await {
                proven.unproven = Some(trouble);
                break;
            }
        }
        proven
    }

    async fn prove_one(&self, proven: &mut Proven, index: LeafIndex, entry: Vec<u8>) -> Result<(), Trouble> {
        let at = |error: &dyn std::fmt::Display| Trouble::Wrong(format!("entry {index}: {error}"));
        // 1. It is in a tree that is believed, there.
        let receipt = Receipt::parse(&self.client.receipt(index).await?).map_err(|error| at(&error))?;
        if receipt.index != index {
            return Err(at(&format!("the receipt is of entry {}", receipt.index)));
        }
        receipt.verify(leaf_hash(&entry), &self.trust).map_err(|error| at(&error))?;
        // 2. It is the operator's next record.
        let (seq, revoked) = proven.chain.extend(index, entry.clone()).map_err(|error| at(&error))?;
        proven.revoked.extend(revoked);
        proven.entries.push(OperatorEntry { seq, index, entry });
        Ok(())
    }

    /// Makes durable what was proven and how far was read; from then on it counts.
    async fn keep(
        &mut self,
        chain: Chain,
        entries: Vec<OperatorEntry>,
        revoked: Vec<Revoked>,
    ) -> Result<(), Trouble> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Op::Learnt(Learnt { entries, revoked, read: self.read, reply }))?;
        self.shared.answer(answer).await?;
        self.chain = chain;
        Ok(())
    }
}

fn wrong(error: &dyn std::fmt::Display) -> Trouble {
    Trouble::Wrong(error.to_string())
}
