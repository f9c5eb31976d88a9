//! A kernel in a scratch directory, and a log to go with it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sift_client::{Approver, Config, Kernel, ManualClock, OpenError, OpenRun, Run, ToolCall};
use sift_spec::api::{
    BatchAnswer, BatchResult, ConsistencyAnswer, OperatorAnswer, OperatorRecordsAnswer, PolicyAnswer,
    Problem, ProblemKind,
};
use sift_spec::bundle::Bundle;
use sift_spec::checkpoint::Checkpoint;
use sift_spec::entry::{Content, Entry};
use sift_spec::hash::leaf_hash;
use sift_spec::note::{KeyType, SignerKey};
use sift_spec::payload::Commitment;
use sift_spec::proof::{TreeHead, prove_consistency, prove_inclusion, prove_multi_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::record::{
    Body, Grant, KeyChange, KeyRole, OperatorBody, OperatorRecord, Policy, Record, Revoke,
};
use sift_spec::tile::parse_entries;
use sift_spec::tree::MemoryTree;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, LeafIndex, RunId, Seq, Text, TreeSize, UnixMillis};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const NOW: u64 = 1_764_000_000_000;

pub(crate) const POLICY: &str = r#"
package sift

allow contains {"rule": "models"} if input.call.kind == "model"
allow contains {"rule": "agents"} if input.call.kind == "agent"
allow contains {"rule": "read"} if input.call.name in {"read", "write"}
deny contains {"rule": "two-writes", "reason": "at most two writes"} if {
    input.call.name == "write"
    input.run.tools.write.allowed >= 2
}
hold contains {"rule": "pay", "reason": "a person decides", "role": "supervisor", "seconds": 60} if {
    input.call.name == "pay"
}
"#;

/// The same, and a tool that two supervisors and an auditor must approve.
pub(crate) fn wire_policy() -> String {
    let hold = r#"
hold contains {"rule": "wire", "reason": "r", "role": "supervisor", "seconds": 60, "count": 2} if input.call.name == "wire"
hold contains {"rule": "books", "reason": "r", "role": "auditor", "seconds": 90} if input.call.name == "wire"
"#;
    format!("{POLICY}{hold}")
}

pub(crate) const PRICES: &str = "[[model]]\nname = \"gpt-4o\"\ninput = 2_500_000\noutput = 10_000_000\n";

pub(crate) fn at(ms: u64) -> UnixMillis {
    UnixMillis::new(ms).unwrap()
}

pub(crate) fn key(name: &str, seed: u8) -> SignerKey {
    SignerKey::from_seed(name.parse().unwrap(), KeyType::Ed25519, &[seed; 32]).unwrap()
}

pub(crate) fn kernel_key() -> SignerKey {
    key("acme.example/kernel", 1)
}

pub(crate) fn log_key() -> SignerKey {
    key("log.example", 2)
}

pub(crate) fn operator() -> SignerKey {
    key("operator.example", 4)
}

pub(crate) fn boss() -> SignerKey {
    key("boss@acme.example", 3)
}

pub(crate) fn second_boss() -> SignerKey {
    key("second@acme.example", 4)
}

pub(crate) fn auditor() -> SignerKey {
    key("auditor@acme.example", 5)
}

pub(crate) fn bundle(budget: &str) -> Bundle {
    bundle_of(POLICY, budget)
}

pub(crate) fn bundle_of(policy: &str, budget: &str) -> Bundle {
    Bundle::new([
        ("policy.rego".to_owned(), policy.as_bytes().to_vec()),
        ("budget.toml".to_owned(), budget.as_bytes().to_vec()),
        ("prices.toml".to_owned(), PRICES.as_bytes().to_vec()),
    ])
    .unwrap()
}

pub(crate) fn tool(name: &str, args: &str) -> ToolCall {
    ToolCall {
        name: name.to_owned(),
        id: "call_1".to_owned(),
        args: args.as_bytes().to_vec(),
        proposed_by: None,
    }
}

/// Everything a kernel needs; kernels can be opened on it one after the other.
pub(crate) struct House {
    pub(crate) dir: TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) log: FakeLog,
    pub(crate) config: Config,
}

impl House {
    pub(crate) async fn new(budget: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = FakeLog::start().await;
        let trust = TrustPolicy::of_log(log_key().verifier().clone(), Some(operator().verifier().clone()));
        let mut config = Config::new(dir.path(), &log.url, trust, bundle(budget));
        config.beat = None;
        config.poll = Duration::from_millis(5);
        let key = boss().verifier().clone();
        config.approvers = vec![Approver { role: "supervisor".parse().unwrap(), key, agents: Vec::new() }];
        Self { dir, clock: Arc::new(ManualClock::new(at(NOW))), log, config }
    }

    pub(crate) async fn open(&self) -> Kernel {
        self.try_open().await.unwrap()
    }

    pub(crate) async fn try_open(&self) -> Result<Kernel, OpenError> {
        Kernel::open(self.config.clone(), kernel_key(), Arc::clone(&self.clock)).await
    }
}

pub(crate) async fn open_run(kernel: &Kernel) -> Run {
    kernel.open_run(OpenRun::of("airline/gpt-4o".parse().unwrap())).await.unwrap()
}

/// The records of a run, as the store of any kernel has them.
pub(crate) fn parsed(kernel: &Kernel, run: RunId) -> Vec<Record> {
    let stored = kernel.store().run(run).unwrap().into_iter();
    stored.map(|stored| Entry::parse(stored.entry).unwrap().record().unwrap().clone()).collect()
}

/// The records of a run, as the store has them.
pub(crate) fn records(kernel: &Kernel, run: RunId) -> Vec<Record> {
    let stored = kernel.store().run(run).unwrap();
    let entries = stored.into_iter().map(|stored| Entry::parse(stored.entry).unwrap());
    entries
        .map(|entry| {
            entry.verify(kernel_key().verifier()).unwrap();
            entry.record().unwrap().clone()
        })
        .collect()
}

/// The payload object that a commitment of a run names, salt first.
pub(crate) fn object(kernel: &Kernel, run: RunId, commitment: &Commitment) -> Vec<u8> {
    let stored = kernel.store().run(run).unwrap().into_iter();
    let mut objects = stored.flat_map(|stored| kernel.store().objects(stored.position).unwrap());
    objects.find(|(digest, _)| *digest == commitment.digest).unwrap().1
}

/// The kinds of a run's records, for a look at the whole.
pub(crate) fn kinds(kernel: &Kernel, run: RunId) -> Vec<&'static str> {
    records(kernel, run).iter().map(|record| record.body.kind().name()).collect()
}

/// The last outcome of a run, once it is on the disk.
pub(crate) async fn last_outcome(kernel: &Kernel, run: RunId) -> sift_spec::record::Outcome {
    // A kernel that has stopped for good is read as it is.
    let _ = kernel.sync().await;
    let outcome = parsed(kernel, run).into_iter().rev().find_map(|record| match record.body {
        Body::Outcome(outcome) => Some(*outcome),
        _ => None,
    });
    outcome.unwrap()
}

/// Waits until something holds, which must not take long.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// What is wrong with an answer of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// The connection ends without an answer.
    Unreachable,
    /// The answer is right and late.
    Slow(u64),
    /// A status and no problem that the log knows.
    Status(u16),
    /// 429 as the log says it.
    Busy,
    /// Bytes that are nothing.
    Garbage,
    /// More bytes than any answer has.
    Huge,
    /// A proof with a hash that is not of it.
    WrongProof,
    /// The proof of another leaf, for the right index.
    OtherLeaf,
    /// The place and the proof of another run's record.
    OtherRun,
    /// A right answer, signed by another log.
    OtherLog,
    /// Consistency proofs with a hash that is not of them: what somebody on the way can do.
    ForgedConsistency,
    /// Another history of the size that was signed before.
    SameSize,
}

/// How the log behaves.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// Answers 503.
    pub(crate) down: AtomicBool,
    /// Refuses every record.
    pub(crate) refuse: AtomicBool,
    /// Changes an entry that it has admitted.
    pub(crate) rewrite: AtomicBool,
    /// Forgets everything but the first entries.
    pub(crate) roll_back: AtomicBool,
    /// Spoils so many answers to records.
    pub(crate) spoil: std::sync::atomic::AtomicU64,
    /// Answers 503 to whoever asks for consistency.
    pub(crate) mute: AtomicBool,
    /// Puts every record off.
    pub(crate) put_off: AtomicBool,
    /// What is wrong with its answers.
    pub(crate) lie: Mutex<Option<Lie>>,
    /// How many requests with records it has seen.
    pub(crate) requests: std::sync::atomic::AtomicU64,
    /// How many of the operator's records it shows; all of them without.
    pub(crate) shows: Mutex<Option<usize>>,
    /// Records of the operator that it does not name.
    pub(crate) hidden: Mutex<HashSet<usize>>,
    /// What it serves instead of the entry at an index, whatever its tree has there.
    pub(crate) disguise: Mutex<HashMap<usize, Vec<u8>>>,
}

/// The operator grants a key for all agents.
pub(crate) fn grant(key: &SignerKey, role: KeyRole) -> OperatorBody {
    let vkey = key.verifier().to_string().parse().unwrap();
    OperatorBody::Key(KeyChange::Grant(Grant { agents: vec!["*".parse().unwrap()], role, vkey }))
}

/// The operator grants a key that answers as supervisor.
pub(crate) fn grant_supervisor(key: &SignerKey) -> OperatorBody {
    grant(key, KeyRole::Approver("supervisor".parse().unwrap()))
}

/// The operator revokes a key.
pub(crate) fn revoke(key: &SignerKey) -> OperatorBody {
    let vkey = key.verifier().to_string().parse().unwrap();
    OperatorBody::Key(KeyChange::Revoke(Revoke { reason: Text::cut("test"), vkey }))
}

/// A log: one tree in memory, answers as the real one gives them, no admission rules.
#[derive(Clone)]
pub(crate) struct FakeLog {
    pub(crate) url: String,
    pub(crate) behaviour: Arc<Behaviour>,
    entries: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Where the operator's records are.
    operator: Arc<Mutex<Vec<usize>>>,
    /// Where bundles are published, by digest.
    published: Arc<Mutex<HashMap<String, usize>>>,
}

impl FakeLog {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (behaviour, entries) = (Arc::default(), Arc::default());
        let (operator, published) = (Arc::default(), Arc::default());
        let log = Self { url, behaviour, entries, operator, published };
        let server = log.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        log
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.lock().unwrap().len()
    }

    /// Publishes a bundle, as the operator or as somebody else.
    pub(crate) fn publish(&self, bundle: &Bundle, signer: &SignerKey) {
        let policy = Policy { bundle: bundle.digest(), name: Text::cut("test"), size: 1 };
        let index = self.operate(OperatorBody::Policy(policy), signer);
        self.published.lock().unwrap().insert(bundle.digest().hex(), index);
    }

    /// Adds the operator's next record, by the operator or by somebody else. Returns its index.
    pub(crate) fn operate(&self, body: OperatorBody, signer: &SignerKey) -> usize {
        let record = self.next_record(body);
        self.admit(Entry::sign_operator(&record, signer).unwrap().into_bytes())
    }

    /// What the operator's next record must say.
    pub(crate) fn next_record(&self, body: OperatorBody) -> OperatorRecord {
        let (entries, operator) = (self.entries.lock().unwrap(), self.operator.lock().unwrap());
        let prev = operator.last().map(|index| leaf_hash(&entries[*index]));
        let (log, seq) = ("log.example".parse().unwrap(), Seq::new(operator.len() as u64).unwrap());
        OperatorRecord { body, log, prev, seq, time: at(NOW) }
    }

    /// Adds an entry as the operator's, whatever it is. Returns its index.
    pub(crate) fn admit(&self, entry: Vec<u8>) -> usize {
        let mut entries = self.entries.lock().unwrap();
        self.operator.lock().unwrap().push(entries.len());
        entries.push(entry);
        entries.len() - 1
    }

    /// Changes the first entry, and with it the tree.
    pub(crate) fn rewrite_first(&self) {
        self.entries.lock().unwrap()[0] = b"rewritten".to_vec();
    }

    /// Adds entries that are nobody's.
    pub(crate) fn pad(&self, count: usize) {
        let mut entries = self.entries.lock().unwrap();
        let from = entries.len();
        entries.extend((from..from + count).map(|n| format!("entry {n}").into_bytes()));
    }

    /// Says that a bundle is published where another is.
    pub(crate) fn name_as(&self, bundle: &Bundle, other: &Bundle) {
        let mut published = self.published.lock().unwrap();
        let index = published[&other.digest().hex()];
        published.insert(bundle.digest().hex(), index);
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut bytes = Vec::new();
        loop {
            let head = loop {
                if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                    break end;
                }
                if stream.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
            };
            let text = String::from_utf8(bytes[..head].to_vec()).unwrap().to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            while bytes.len() < head + 4 + length {
                stream.read_buf(&mut bytes).await.ok()?;
            }
            let body: Vec<u8> = bytes.drain(..head + 4 + length).skip(head + 4).collect();
            let target = text.split(' ').nth(1).unwrap().to_owned();
            let lie = *self.behaviour.lie.lock().unwrap();
            match lie {
                Some(Lie::Unreachable) => return None,
                Some(Lie::Slow(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
                _ => {}
            }
            let (status, answer) = match lie {
                Some(Lie::Status(status)) => (status, b"<html>sorry</html>".to_vec()),
                Some(Lie::Busy) => {
                    (429, serde_json::to_vec(&Problem::new(ProblemKind::RateLimited, "for a test")).unwrap())
                }
                Some(Lie::Garbage) => (200, vec![0xfe; 1000]),
                Some(Lie::Huge) => (200, vec![b' '; 6 << 20]),
                _ => self.answer(&target, &body),
            };
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", answer.len());
            stream.write_all(head.as_bytes()).await.ok()?;
            stream.write_all(&answer).await.ok()?;
        }
    }

    /// Where the operator's chain ends, as far as it is shown.
    fn end_of_chain(&self, served: impl Fn(usize) -> Vec<u8>) -> OperatorAnswer {
        let operator = self.operator.lock().unwrap();
        let shown = self.behaviour.shows.lock().unwrap().unwrap_or(operator.len());
        let last = operator[..shown].last().map(|index| (*index, served(*index)));
        let record = last.as_ref().and_then(|(_, entry)| Entry::parse(entry.clone()).ok());
        let time = match record.as_ref().map(Entry::content) {
            Some(Content::Operator(record)) => record.time,
            _ => UnixMillis::ZERO,
        };
        OperatorAnswer {
            log: "log.example".parse().unwrap(),
            next_seq: Seq::new(shown as u64).unwrap(),
            index: last.as_ref().map(|(index, _)| LeafIndex::new(*index as u64).unwrap()),
            prev: last.as_ref().map(|(_, entry)| leaf_hash(entry)),
            time,
        }
    }

    fn answer(&self, target: &str, body: &[u8]) -> (u16, Vec<u8>) {
        if target == "/v1/records" {
            self.behaviour.requests.fetch_add(1, Ordering::SeqCst);
        }
        let is = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
        if is(&self.behaviour.down) {
            let problem = Problem::new(ProblemKind::NotWriting, "down for a test");
            return (503, serde_json::to_vec(&problem).unwrap());
        }
        let mut entries = self.entries.lock().unwrap();
        if let Some(query) = target.strip_prefix("/v1/proof/consistency?") {
            let query: HashMap<&str, &str> =
                query.split('&').filter_map(|pair| pair.split_once('=')).collect();
            let size = |name: &str| TreeSize::new(query[name].parse().unwrap()).unwrap();
            let tree = MemoryTree::of_entries(entries.iter().map(Vec::as_slice));
            let (old, new) = (size("old"), size("new"));
            if is(&self.behaviour.mute) {
                let problem = Problem::new(ProblemKind::NotWriting, "mute for a test");
                return (503, serde_json::to_vec(&problem).unwrap());
            }
            if new > tree.size() {
                let problem = Problem::new(ProblemKind::NotFound, "no such tree");
                return (404, serde_json::to_vec(&problem).unwrap());
            }
            let mut hashes = prove_consistency(old, new, &tree).unwrap().0;
            if *self.behaviour.lie.lock().unwrap() == Some(Lie::ForgedConsistency) {
                hashes.push(sift_spec::hash::leaf_hash(b"forged"));
            }
            return (200, serde_json::to_vec(&ConsistencyAnswer { old, new, hashes }).unwrap());
        }
        if let Some(digest) = target.strip_prefix("/v1/policies/") {
            let Some(index) = self.published.lock().unwrap().get(digest).copied() else {
                let problem = Problem::new(ProblemKind::NotFound, "not published");
                return (404, serde_json::to_vec(&problem).unwrap());
            };
            let index = LeafIndex::new(index as u64).unwrap();
            let answer = PolicyAnswer { bundle: Hash::from_hex(digest).unwrap(), index };
            return (200, serde_json::to_vec(&answer).unwrap());
        }
        let served = |index: usize| {
            let disguise = self.behaviour.disguise.lock().unwrap().get(&index).cloned();
            disguise.or_else(|| entries.get(index).cloned()).unwrap_or_default()
        };
        if target == "/v1/operator" {
            return (200, serde_json::to_vec(&self.end_of_chain(served)).unwrap());
        }
        if let Some(query) = target.strip_prefix("/v1/operator/records?from=") {
            let (from, limit) = query.split_once("&limit=").unwrap();
            let (from, limit): (usize, usize) = (from.parse().unwrap(), limit.parse().unwrap());
            let operator = self.operator.lock().unwrap();
            let hidden = self.behaviour.hidden.lock().unwrap();
            let known = operator.iter().skip(from).filter(|index| !hidden.contains(*index));
            let indices = known.take(limit).map(|index| LeafIndex::new(*index as u64).unwrap()).collect();
            let answer = OperatorRecordsAnswer { from: Seq::new(from as u64).unwrap(), indices };
            return (200, serde_json::to_vec(&answer).unwrap());
        }
        if let Some(name) = target.strip_prefix("/v1/records/") {
            let number: u64 = name.trim_end_matches(".tlog-proof").parse().unwrap();
            if number >= entries.len() as u64 {
                let problem = Problem::new(ProblemKind::NotFound, "no such entry");
                return (404, serde_json::to_vec(&problem).unwrap());
            }
            if !name.ends_with(".tlog-proof") {
                return (200, served(number as usize));
            }
            let tree = MemoryTree::of_entries(entries.iter().map(Vec::as_slice));
            let head = TreeHead { size: tree.size(), root: tree.root(tree.size()).unwrap() };
            let index = LeafIndex::new(number).unwrap();
            let proof = prove_inclusion(index, tree.size(), &tree).unwrap();
            let other = *self.behaviour.lie.lock().unwrap() == Some(Lie::OtherLog);
            let signer = if other { key("log.example", 77) } else { log_key() };
            let checkpoint = Checkpoint::new("log.example".parse().unwrap(), head).unwrap().sign(&signer);
            return (200, Receipt { extra: None, index, proof, checkpoint }.to_string().into_bytes());
        }
        assert_eq!(target, "/v1/records");
        let sent = parse_entries(body, 1024).unwrap();
        if is(&self.behaviour.rewrite) && !entries.is_empty() {
            entries[0] = b"rewritten".to_vec();
        }
        if is(&self.behaviour.roll_back) {
            entries.clear();
        }
        let lie = *self.behaviour.lie.lock().unwrap();
        if lie == Some(Lie::SameSize) {
            // As long as the tree before once these are in it, and not the same.
            let keep = entries.len().saturating_sub(sent.len());
            entries.truncate(keep);
            entries[0] = b"rewritten".to_vec();
        }
        let mut results = Vec::new();
        for entry in sent {
            if is(&self.behaviour.refuse) || is(&self.behaviour.put_off) {
                let kind =
                    if is(&self.behaviour.refuse) { ProblemKind::KeyNotGranted } else { ProblemKind::Busy };
                let problem = Problem::new(kind, "refused for a test");
                results.push(BatchResult::Problem(Box::new(problem)));
                continue;
            }
            let known = entries.iter().position(|known| known == entry);
            let index = known.unwrap_or_else(|| {
                entries.push(entry.to_vec());
                entries.len() - 1
            });
            results.push(BatchResult::Index(LeafIndex::new(index as u64).unwrap()));
        }
        let tree = MemoryTree::of_entries(entries.iter().map(Vec::as_slice));
        let mut indices: Vec<LeafIndex> = results
            .iter()
            .filter_map(|result| match result {
                BatchResult::Index(index) => Some(*index),
                BatchResult::Problem(_) => None,
            })
            .collect();
        indices.sort_unstable();
        let head = TreeHead { size: tree.size(), root: tree.root(tree.size()).unwrap() };
        let origin = if lie == Some(Lie::OtherLog) { "other.example" } else { "log.example" };
        let signer = if lie == Some(Lie::OtherLog) { key("other.example", 77) } else { log_key() };
        let checkpoint = Checkpoint::new(origin.parse().unwrap(), head).unwrap().sign(&signer);
        // The first record of the tree is another run's, or another leaf altogether.
        let first = LeafIndex::new(0).unwrap();
        if matches!(lie, Some(Lie::OtherLeaf | Lie::OtherRun)) {
            indices = vec![first];
        }
        if lie == Some(Lie::OtherRun) {
            results.iter_mut().for_each(|result| *result = BatchResult::Index(first));
        }
        let mut proof = prove_multi_inclusion(&indices, tree.size(), &tree).unwrap().0;
        let spoil = &self.behaviour.spoil;
        if lie == Some(Lie::WrongProof) {
            proof.push(sift_spec::hash::leaf_hash(b"wrong"));
        }
        if spoil.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            proof.push(sift_spec::hash::leaf_hash(b"spoilt"));
        }
        (200, serde_json::to_vec(&BatchAnswer { checkpoint, proof, results }).unwrap())
    }
}
