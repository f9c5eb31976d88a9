//! Keys that sign by hand: what a kernel or an operator would send, and what neither ever should.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use sift_spec::bundle::Bundle;
use sift_spec::entry::Entry;
use sift_spec::meter::Amounts;
use sift_spec::note::{SignerKey, VerifierKey};
use sift_spec::payload::Commitment;
use sift_spec::record::{
    Body, Call, Close, CloseReason, Decision, Effect, Grant, Intent, KeyChange, KeyRole, Kind, Limits, Open,
    OperatorBody, Outcome, Policy, Record, Revoke, Status, ToolCall,
};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, LeafIndex, RunId, Seq, UnixMillis};

use crate::http::Http;

/// The wall clock.
///
/// # Panics
/// Before 1970.
#[must_use]
pub fn now() -> UnixMillis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    UnixMillis::new(u64::try_from(now).expect("in range")).expect("in range")
}

/// A bundle that exists only to be named.
fn bundle() -> Bundle {
    Bundle::new([("policy.rego".to_owned(), b"package sift\n".to_vec())]).expect("a bundle")
}

/// The operator, signing by hand.
pub struct Operator {
    key: SignerKey,
    trust: TrustPolicy,
    last: PathBuf,
    http: Http,
}

impl Operator {
    pub(crate) const fn new(key: SignerKey, trust: TrustPolicy, last: PathBuf, http: Http) -> Self {
        Self { key, trust, last, http }
    }

    /// The operator's key.
    #[must_use]
    pub const fn key(&self) -> &SignerKey {
        &self.key
    }

    /// Sends a record, as the operator's next.
    ///
    /// # Errors
    /// When the log refuses.
    pub async fn send(&self, body: OperatorBody) -> Result<LeafIndex, sift_server::operator::OperatorError> {
        let (key, trust, last) = (&self.key, &self.trust, self.last.clone());
        let connect = self.http.connect().clone();
        let operator = sift_server::operator::Operator { key, trust, last, connect };
        operator.submit(self.http.url(), body, now()).await
    }

    /// Grants a key for agents.
    ///
    /// # Panics
    /// When the log refuses.
    pub async fn grant(&self, key: &VerifierKey, role: KeyRole, agents: &str) -> LeafIndex {
        let agents = vec![agents.parse().expect("a scope")];
        let grant = Grant { agents, role, vkey: key.to_string().parse().expect("a vkey") };
        self.send(OperatorBody::Key(KeyChange::Grant(grant))).await.expect("granted")
    }

    /// Revokes a key.
    ///
    /// # Panics
    /// When the log refuses.
    pub async fn revoke(&self, key: &VerifierKey) -> LeafIndex {
        let revoke =
            Revoke { reason: "test".parse().expect("short"), vkey: key.to_string().parse().expect("a vkey") };
        self.send(OperatorBody::Key(KeyChange::Revoke(revoke))).await.expect("revoked")
    }

    /// Publishes a bundle.
    ///
    /// # Errors
    /// When the log refuses.
    pub async fn publish(&self, bundle: &Bundle) -> Result<LeafIndex, sift_server::operator::OperatorError> {
        let policy = Policy {
            bundle: bundle.digest(),
            name: "test".parse().expect("short"),
            size: bundle.encode().len() as u64,
        };
        self.send(OperatorBody::Policy(policy)).await
    }

    /// Grants a writer's key for all agents and makes sure that its bundle is published.
    pub async fn enrol(&self, writer: &Writer) {
        self.grant(writer.key.verifier(), KeyRole::Kernel, "*").await;
        // Another writer may have published it already.
        let _ = self.publish(&bundle()).await;
    }
}

/// A kernel's key, signing by hand.
pub struct Writer {
    /// The key.
    pub key: SignerKey,
    /// The log its runs name.
    pub log: String,
    runs: AtomicU64,
}

impl Writer {
    /// A writer for the log with this origin.
    #[must_use]
    pub fn new(key: SignerKey, log: &str) -> Self {
        Self { key, log: log.to_owned(), runs: AtomicU64::new(0) }
    }

    /// The records of a new run: `open`, then pairs of intent and outcome, then `close`.
    ///
    /// # Panics
    /// When a record has no encoding.
    #[must_use]
    pub fn run(&self, calls: u64) -> Vec<Record> {
        let mut random = [0; 10];
        getrandom::fill(&mut random).expect("randomness");
        random[..2].copy_from_slice(&(self.runs.fetch_add(1, Ordering::Relaxed) as u16).to_be_bytes());
        let run = RunId::from_parts(now(), &random);
        let mut bodies = vec![Body::Open(Box::new(self.open()))];
        for call in 0..calls {
            let seq = Seq::new(1 + 2 * call).expect("small");
            bodies.push(Body::Intent(Box::new(intent(call, commitment("arguments", call)))));
            bodies.push(Body::Outcome(Box::new(outcome(seq))));
        }
        let census = [(Kind::Open, 1), (Kind::Intent, calls), (Kind::Outcome, calls)];
        let census: BTreeMap<Kind, u64> = census.into_iter().filter(|(_, n)| *n > 0).collect();
        bodies.push(Body::Close(Box::new(Close {
            below: Amounts::ZERO,
            census,
            reason: CloseReason::Done,
            settled: Amounts::ZERO,
        })));
        let mut records: Vec<Record> = Vec::new();
        for (seq, body) in (0..).zip(bodies) {
            let prev = records.last().map(|last| self.sign(last).leaf());
            let agent = "test/agent".parse().expect("a name");
            records.push(Record { agent, body, prev, run, seq: Seq::new(seq).expect("small"), time: now() });
        }
        records
    }

    /// Signs a record.
    ///
    /// # Panics
    /// When it has no encoding.
    #[must_use]
    pub fn sign(&self, record: &Record) -> Entry {
        Entry::sign(record, &self.key).expect("an entry")
    }

    /// Signs a run.
    #[must_use]
    pub fn entries(&self, records: &[Record]) -> Vec<Vec<u8>> {
        records.iter().map(|record| self.sign(record).into_bytes()).collect()
    }

    fn open(&self) -> Open {
        Open {
            build: "test".parse().expect("short"),
            engine: "rego/test".parse().expect("short"),
            labels: BTreeMap::new(),
            limits: Limits::default(),
            log: self.log.parse().expect("an origin"),
            delegation: None,
            parent: None,
            policy: bundle().digest(),
        }
    }
}

/// The body of an intent whose arguments are bytes of which only digest and length are told.
pub(crate) fn proposal(digest: Hash, size: u64) -> Body {
    Body::Intent(Box::new(intent(0, Commitment { digest, size, ..commitment("arguments", 0) })))
}

fn commitment(name: &str, n: u64) -> Commitment {
    let mut digest = [0x5a; 32];
    digest[..8].copy_from_slice(&n.to_be_bytes());
    Commitment {
        digest: Hash::from_bytes(digest),
        media: "application/json".parse().expect("short"),
        name: name.parse().expect("short"),
        size: n,
    }
}

fn intent(n: u64, args: Commitment) -> Intent {
    let call = ToolCall {
        args,
        id: format!("call_{n}").parse().expect("short"),
        name: "get_reservation_details".parse().expect("short"),
        proposed_by: None,
    };
    let decision = Decision {
        effect: Effect::Allow,
        hold: None,
        input: commitment("policy-input", n),
        reasons: vec![],
        rules: vec!["airline.read".parse().expect("short")],
    };
    Intent { call: Call::Tool(call), decision, refusal: None, reserved: Amounts::ZERO }
}

fn outcome(intent: Seq) -> Outcome {
    let result = Some(commitment("result", intent.get()));
    Outcome {
        close: None,
        error: None,
        intent,
        model: None,
        result,
        settled: Amounts::ZERO,
        status: Status::Ok,
    }
}
