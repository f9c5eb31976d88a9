//! Honest evidence, built in memory with the specification's own types, and handles to falsify it.
//!
//! A [`Scenario`] is what a kernel means to say: drafts of records, payload objects, a policy. [`Scenario::seal`] chains
//! and signs it into a log. A test changes one thing on the way, so that everything after the change is still properly
//! chained, signed and included, and only the thing itself is wrong.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part
#![allow(clippy::unwrap_used)]

pub mod bad_logs;
pub mod bad_runs;
pub mod delegated;
pub mod follower;
pub mod http;
pub mod kernel;
pub mod lying;
pub mod schema;
pub mod tiles;

use std::collections::BTreeMap;

use sift_spec::bundle::Bundle;
use sift_spec::checkpoint::Checkpoint;
use sift_spec::entry::Entry;
use sift_spec::evidence::Pack;
use sift_spec::hash::leaf_hash;
use sift_spec::meter::Amounts;
use sift_spec::note::{KeyType, SignerKey};
use sift_spec::payload::Object;
use sift_spec::proof::{TreeHead, prove_multi_inclusion};
use sift_spec::record::{
    Body, Close, CloseReason, Grant, KeyChange, KeyRole, Kind, OperatorBody, OperatorRecord, Policy, Record,
};
use sift_spec::tree::MemoryTree;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{AgentName, Hash, LeafIndex, RunId, Seq, Text, UnixMillis};

pub const LOG: &str = "log.example/sift";
pub const START_MS: u64 = 1_764_000_000_000;

pub fn key(name: &str, key_type: KeyType, seed: u8) -> SignerKey {
    SignerKey::from_seed(name.parse().unwrap(), key_type, &[seed; 32]).unwrap()
}
pub fn log_key() -> SignerKey {
    key(LOG, KeyType::Ed25519, 1)
}
pub fn operator_key() -> SignerKey {
    key("operator.example", KeyType::Ed25519, 2)
}
pub fn kernel_key() -> SignerKey {
    key("acme.example/kernel", KeyType::Ed25519, 3)
}
pub fn approver_key() -> SignerKey {
    key("acme.example/ann", KeyType::Ed25519, 4)
}
/// Another supervisor.
pub fn second_key() -> SignerKey {
    key("acme.example/bob", KeyType::Ed25519, 7)
}
pub fn auditor_key() -> SignerKey {
    key("acme.example/cid", KeyType::Ed25519, 8)
}
pub fn witness_key() -> SignerKey {
    key("witness.example", KeyType::Cosignature, 5)
}
/// The key of another kernel.
pub fn other_kernel_key() -> SignerKey {
    key("acme.example/other", KeyType::Ed25519, 7)
}
/// Named like the kernel's key, and never granted.
pub fn stranger_key() -> SignerKey {
    key("acme.example/kernel", KeyType::Ed25519, 6)
}

pub fn trust_text() -> String {
    format!("log {}\n#sift:operator {}\nquorum none\n", log_key().verifier(), operator_key().verifier())
}
pub fn trust() -> TrustPolicy {
    TrustPolicy::parse(&trust_text()).unwrap()
}
pub fn witnessed_trust() -> TrustPolicy {
    let text = trust_text();
    let text = text.replace("quorum none", &format!("witness w {}\nquorum w", witness_key().verifier()));
    TrustPolicy::parse(&text).unwrap()
}

pub fn millis(ms: u64) -> UnixMillis {
    UnixMillis::new(ms).unwrap()
}
pub fn seq(n: u64) -> Seq {
    Seq::new(n).unwrap()
}
pub fn index(n: usize) -> LeafIndex {
    LeafIndex::new(n as u64).unwrap()
}
pub fn agent() -> AgentName {
    "airline/gpt-4o".parse().unwrap()
}
pub fn run_id(n: u8) -> RunId {
    RunId::from_parts(millis(START_MS), &[n; 10])
}
pub fn bytes_hash(n: u8) -> Hash {
    Hash::from_bytes([n; 32])
}

/// A record before it has a place in a chain.
#[derive(Clone)]
pub struct Draft {
    pub body: Body,
    pub time: UnixMillis,
    pub agent: AgentName,
    /// Signed by the stranger instead of the kernel.
    pub stranger: bool,
    /// Signed for real, but with a signature that is then spoilt.
    pub spoilt: bool,
    pub prev: Option<Hash>,
    pub seq: Option<u64>,
    /// In the log, but kept out of the pack.
    pub dropped: bool,
}

impl Draft {
    pub fn new(body: Body, time: UnixMillis) -> Self {
        Self {
            body,
            time,
            agent: agent(),
            stranger: false,
            spoilt: false,
            prev: None,
            seq: None,
            dropped: false,
        }
    }
}

impl Draft {
    /// Digests of the objects that the record will commit to.
    pub fn commitments(&self) -> Vec<Hash> {
        let (agent, body, time) = (self.agent.clone(), self.body.clone(), self.time);
        let record = Record { agent, body, prev: None, run: run_id(1), seq: seq(0), time };
        record.commitments().into_iter().map(|commitment| commitment.digest).collect()
    }
}

/// What is to be logged.
#[derive(Clone)]
pub struct Scenario {
    pub run: RunId,
    pub operator_before: Vec<OperatorBody>,
    pub drafts: Vec<Draft>,
    pub operator_after: Vec<OperatorBody>,
    pub bundle: Bundle,
    pub objects: BTreeMap<Hash, Object>,
    /// Whether the close states the census and sums of what precedes it, whatever was changed.
    pub true_close: bool,
    /// Entries between the operator's and the run's, not in the pack.
    pub left_out: Vec<Vec<u8>>,
    /// Entries of other runs, after this one's, not in the pack.
    pub other_entries: Vec<Vec<u8>>,
}

/// A log, and which of its entries belong to the pack.
#[derive(Clone)]
pub struct Sealed {
    pub entries: Vec<Vec<u8>>,
    pub in_pack: Vec<usize>,
}

pub fn grant(key: &SignerKey, role: KeyRole) -> OperatorBody {
    OperatorBody::Key(KeyChange::Grant(Grant {
        agents: vec!["airline/*".parse().unwrap()],
        role,
        vkey: Text::cut(&key.verifier().to_string()),
    }))
}

pub fn publish(bundle: &Bundle) -> OperatorBody {
    let size = bundle.encode().len() as u64;
    OperatorBody::Policy(Policy { bundle: bundle.digest(), name: Text::cut("test"), size })
}

/// The operator's chain.
#[derive(Default)]
pub struct OperatorChain {
    next: u64,
    prev: Option<Hash>,
}

impl OperatorChain {
    pub fn sign(&mut self, body: &OperatorBody) -> Vec<u8> {
        let record = OperatorRecord {
            body: body.clone(),
            log: LOG.parse().unwrap(),
            prev: self.prev,
            seq: seq(self.next),
            time: millis(START_MS - 1_000_000 + self.next),
        };
        let entry = Entry::sign_operator(&record, &operator_key()).unwrap();
        self.next += 1;
        self.prev = Some(entry.leaf());
        entry.into_bytes()
    }
}

impl Scenario {
    /// Chains, signs and logs everything.
    pub fn seal(&self) -> Sealed {
        let mut sealed = Sealed { entries: Vec::new(), in_pack: Vec::new() };
        let mut operator = OperatorChain::default();
        for body in &self.operator_before {
            sealed.push(operator.sign(body), true);
        }
        for entry in &self.left_out {
            sealed.push(entry.clone(), false);
        }
        let mut prev = None;
        let mut census: BTreeMap<Kind, u64> = BTreeMap::new();
        let (mut settled, mut halted) = (Amounts::ZERO, false);
        for (position, draft) in self.drafts.iter().enumerate() {
            let mut body = draft.body.clone();
            if let (Body::Close(close), true) = (&mut body, self.true_close) {
                **close =
                    Close { below: close.below, census: census.clone(), settled, reason: CloseReason::Done };
                close.reason = if halted { CloseReason::Halted } else { CloseReason::Done };
            }
            *census.entry(body.kind()).or_default() += 1;
            halted |= matches!(body, Body::Halt(_));
            if let Body::Outcome(outcome) = &body {
                settled = settled.checked_add(&outcome.settled).unwrap();
            }
            let record = Record {
                agent: draft.agent.clone(),
                body,
                prev: draft.prev.or(prev),
                run: self.run,
                seq: seq(draft.seq.unwrap_or(position as u64)),
                time: draft.time,
            };
            let signer = if draft.stranger { stranger_key() } else { kernel_key() };
            let mut entry = Entry::sign(&record, &signer).unwrap().into_bytes();
            if draft.spoilt {
                spoil_signature(&mut entry);
            }
            prev = Some(leaf_hash(&entry));
            sealed.push(entry, !draft.dropped);
        }
        for entry in &self.other_entries {
            sealed.push(entry.clone(), false);
        }
        for body in &self.operator_after {
            sealed.push(operator.sign(body), true);
        }
        sealed
    }

    /// The honest pack.
    pub fn pack(&self) -> Pack {
        self.seal().pack(self)
    }
}

/// Changes the signature and nothing else: note and base64 stay well-formed.
pub fn spoil_signature(entry: &mut [u8]) {
    let at = entry.len() - 20;
    entry[at] = if entry[at] == b'A' { b'B' } else { b'A' };
}

impl Sealed {
    fn push(&mut self, entry: Vec<u8>, in_pack: bool) {
        if in_pack {
            self.in_pack.push(self.entries.len());
        }
        self.entries.push(entry);
    }

    pub fn leaves(&self) -> Vec<Hash> {
        self.entries.iter().map(|entry| leaf_hash(entry)).collect()
    }

    pub fn tree(&self) -> MemoryTree {
        MemoryTree::of_entries(self.entries.iter().map(Vec::as_slice))
    }

    pub fn head(&self) -> TreeHead {
        let tree = self.tree();
        TreeHead { size: tree.size(), root: tree.root(tree.size()).unwrap() }
    }

    pub fn checkpoint(&self) -> String {
        checkpoint(self.head(), &log_key())
    }

    pub fn pack(&self, scenario: &Scenario) -> Pack {
        let tree = self.tree();
        let indices: Vec<LeafIndex> = self.in_pack.iter().map(|at| index(*at)).collect();
        Pack {
            run: scenario.run,
            checkpoint: self.checkpoint(),
            entries: self.in_pack.iter().map(|at| (index(*at), self.entries[*at].clone())).collect(),
            proof: prove_multi_inclusion(&indices, tree.size(), &tree).unwrap(),
            bundles: [(scenario.bundle.digest(), scenario.bundle.encode())].into(),
            objects: scenario
                .objects
                .iter()
                .map(|(digest, object)| (*digest, object.as_bytes().to_vec()))
                .collect(),
        }
    }
}

pub fn checkpoint(head: TreeHead, key: &SignerKey) -> String {
    Checkpoint::new(LOG.parse().unwrap(), head).unwrap().sign(key)
}
