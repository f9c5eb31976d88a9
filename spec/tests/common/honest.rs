//! A small honest log from fixed seeds: the operator's entries, one run with every kind of record, what it
//! rests on. The worked examples of SPEC.md and the vectors are taken from here.

use std::collections::BTreeMap;

use sift_spec::bundle::Bundle;
use sift_spec::checkpoint::{Checkpoint, cosign};
use sift_spec::entry::Entry;
use sift_spec::evidence::Pack;
use sift_spec::hash::shown_digest;
use sift_spec::meter::{Amounts, Meter, Usage};
use sift_spec::note::{KeyType, SignerKey};
use sift_spec::payload::{Commitment, Object};
use sift_spec::proof::{Proof, TreeHead, prove_inclusion, prove_multi_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::record::{
    AgentCall, Answer, Approval, Beat, Body, Call, Close, CloseReason, Decision, Delegate, Delegation,
    Delegator, Effect, Erase, Grant, Halt, HaltCause, Hold, InputBound, Intent, KeyChange, KeyRole, Kind,
    LimitRefusal, Limits, MeterLimit, ModelAnswer, ModelCall, Needed, Open, OperatorBody, OperatorRecord,
    Outcome, Parent, Policy, Record, Refusal, Revoke, Scope, Statement, Status, ToolCall, Window,
};
use sift_spec::tree::MemoryTree;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{AgentName, Hash, LeafIndex, RunId, Seq, TreeSize, UnixMillis};

/// The log's origin.
pub(crate) const LOG: &str = "log.example/sift";

/// Time of the first entry.
const START: u64 = 1_764_000_000_000;

/// Parses a literal that is known to be fine.
pub(crate) fn p<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn key(name: &str, key_type: KeyType, seed: u8) -> SignerKey {
    SignerKey::from_seed(p(name), key_type, &[seed; 32]).unwrap()
}

pub(crate) fn log_key() -> SignerKey {
    key(LOG, KeyType::Ed25519, 1)
}
pub(crate) fn operator_key() -> SignerKey {
    key("operator.example/root", KeyType::Ed25519, 2)
}
pub(crate) fn kernel_key() -> SignerKey {
    key("acme.example/kernel/1", KeyType::Ed25519, 3)
}
pub(crate) fn approver_key() -> SignerKey {
    key("acme.example/people/ann", KeyType::Ed25519, 4)
}
pub(crate) fn witness_key(number: u8) -> SignerKey {
    key(&format!("witness.example/w{number}"), KeyType::Cosignature, 4 + number)
}
/// A key that nobody granted.
pub(crate) fn stranger_key() -> SignerKey {
    key("stranger.example/key", KeyType::Ed25519, 9)
}

pub(crate) fn agent() -> AgentName {
    p("airline/gpt-4o")
}

pub(crate) fn run() -> RunId {
    RunId::from_parts(UnixMillis::new(START).unwrap(), &[0x5a; 10])
}

pub(crate) fn seq(value: u64) -> Seq {
    Seq::new(value).unwrap()
}

pub(crate) fn at_ms(offset: u64) -> UnixMillis {
    UnixMillis::new(START + offset).unwrap()
}

/// The trust file of the examples.
pub(crate) fn trust_text() -> String {
    format!(
        "# Whom we believe.\n\
         log {log} https://log.example/\n\
         #sift:operator {operator}\n\n\
         witness one {one}\n\
         witness two {two}\n\
         group both-or-one any one two\n\
         quorum both-or-one\n",
        log = log_key().verifier(),
        operator = operator_key().verifier(),
        one = witness_key(1).verifier(),
        two = witness_key(2).verifier(),
    )
}

/// The policy bundle of the examples. Its rules are stand-ins; this crate does not read them.
pub(crate) fn bundle() -> Bundle {
    Bundle::new([
        ("budget.toml".to_owned(), b"[run]\ntool_calls = 40\n".to_vec()),
        ("policy.rego".to_owned(), b"package sift\n".to_vec()),
    ])
    .unwrap()
}

/// Objects by the order of their making: salts are fixed here, random everywhere else.
fn object(number: u8, content: &str) -> Object {
    Object::new([number; 16], content.as_bytes()).unwrap()
}

fn commit(object: &Object, name: &str, media: &str) -> Commitment {
    object.commit(p(name), p(media))
}

/// The payload objects of the run.
pub(crate) fn objects() -> Vec<(Object, Commitment)> {
    [
        (r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Cancel my flight."}],"max_tokens":256}"#, "request"),
        (r#"{"id":"resp-1","choices":[]}"#, "response"),
        (r#"{"reservation":"ABC123"}"#, "arguments"),
        (r#"{"refunded":true}"#, "result"),
        (r#"{"call":"model"}"#, "policy-input"),
        (r#"{"call":"tool"}"#, "policy-input"),
    ]
    .into_iter()
    .enumerate()
    .map(|(number, (content, name))| {
        let object = object(0xa0 + number as u8, content);
        let commitment = commit(&object, name, "application/json");
        (object, commitment)
    })
    .collect()
}

fn decision(effect: Effect, input: &Commitment, rule: &str, reason: &str) -> Decision {
    let hold = (effect == Effect::Hold).then(|| Hold {
        approvals: vec![Needed { count: 1, role: p("supervisor") }],
        deadline: at_ms(600_000),
    });
    let reasons = if reason.is_empty() { vec![] } else { vec![p(reason)] };
    Decision { effect, hold, input: input.clone(), reasons, rules: vec![p(rule)] }
}

/// Bodies of the example run by seq; `action` is that of the held intent at seq 3.
fn bodies() -> Vec<Body> {
    let objects = objects();
    let commitment = |at: usize| objects[at].1.clone();
    let tool = |id: &str, name: &str| {
        Call::Tool(ToolCall { args: commitment(2), id: p(id), name: p(name), proposed_by: Some(seq(1)) })
    };
    let one_tool_call = Amounts::ZERO.with(Meter::ToolCalls, 1);
    let limits = Limits {
        depth: Some(2),
        identical_calls: Some(3),
        meters: vec![
            MeterLimit { limit: 5_000_000, meter: Meter::MicroUsd, scope: Scope::Agent, window: Window::Day },
            MeterLimit { limit: 1_000_000, meter: Meter::MicroUsd, scope: Scope::Run, window: Window::Run },
            MeterLimit { limit: 40, meter: Meter::ToolCalls, scope: Scope::Run, window: Window::Run },
        ],
        wall_clock_ms: Some(UnixMillis::new(3_600_000).unwrap()),
    };
    let open = Open {
        build: p("sift-kernel 0.1.0"),
        engine: p("rego/regorus-0.14.1"),
        labels: BTreeMap::from([
            (p("environment"), p("test")),
            (p("ticket"), p("T-1 \u{e9}\u{1f6eb}\n\"x\"")),
        ]),
        limits,
        log: p(LOG),
        delegation: None,
        parent: None,
        policy: bundle().digest(),
    };
    let model_call = ModelCall {
        input: InputBound { method: p("utf8-bytes"), tokens: 97 },
        max_output: 256,
        model: p("gpt-4o"),
        provider: p("openai"),
        request: commitment(0),
    };
    // 97 tokens of input at 2.5 micro-dollars, 256 of output at 10: 2802.5, rounded up.
    let hold = Amounts::ZERO
        .with(Meter::CacheReadTokens, 97)
        .with(Meter::CacheWriteTokens, 97)
        .with(Meter::InputTokens, 97)
        .with(Meter::MicroUsd, 2803)
        .with(Meter::ModelCalls, 1)
        .with(Meter::OutputTokens, 256)
        .with(Meter::ReasoningTokens, 256)
        .with(Meter::Tokens, 353);
    let usage = Usage { input: 21, output: 8, ..Usage::default() };
    let billed = usage.amounts().with(Meter::MicroUsd, 133).with(Meter::ModelCalls, 1);
    let answer =
        ModelAnswer { id: Some(p("resp-1")), method: p("provider"), served: p("gpt-4o-2024-08-06"), usage };
    vec![
        Body::Open(Box::new(open)),
        Body::Intent(Box::new(Intent {
            call: Call::Model(model_call),
            decision: decision(Effect::Allow, &commitment(4), "models.listed", ""),
            refusal: None,
            reserved: hold,
        })),
        Body::Outcome(Box::new(Outcome {
            close: None,
            error: None,
            intent: seq(1),
            model: Some(answer),
            result: Some(commitment(1)),
            settled: billed,
            status: Status::Ok,
        })),
        Body::Intent(Box::new(Intent {
            call: tool("call-1", "cancel_reservation"),
            decision: decision(
                Effect::Hold,
                &commitment(5),
                "refunds.need-approval",
                "a refund needs a supervisor",
            ),
            refusal: None,
            reserved: one_tool_call,
        })),
        Body::Approval(Approval { intent: seq(3), statement: p("") }),
        Body::Outcome(Box::new(Outcome {
            close: None,
            error: None,
            intent: seq(3),
            model: None,
            result: Some(commitment(3)),
            settled: one_tool_call,
            status: Status::Ok,
        })),
        Body::Intent(Box::new(Intent {
            call: tool("call-2", "delete_account"),
            decision: decision(Effect::Deny, &commitment(5), "tools.unlisted", "no rule allows this tool"),
            refusal: None,
            reserved: Amounts::ZERO,
        })),
        Body::Intent(Box::new(Intent {
            call: tool("call-3", "cancel_reservation"),
            decision: decision(Effect::Allow, &commitment(5), "tools.listed", ""),
            refusal: Some(Refusal::Limit(LimitRefusal {
                have: 40,
                limit: 40,
                meter: Meter::ToolCalls,
                need: 1,
                scope: Scope::Run,
                window: Window::Run,
            })),
            reserved: Amounts::ZERO,
        })),
        Body::Beat(Beat { records: 8 }),
        Body::Halt(Halt { cause: HaltCause::Operator, detail: p("stopped from the console") }),
        Body::Close(Box::new(Close {
            below: Amounts::ZERO,
            census: BTreeMap::from([
                (Kind::Approval, 1),
                (Kind::Beat, 1),
                (Kind::Halt, 1),
                (Kind::Intent, 4),
                (Kind::Open, 1),
                (Kind::Outcome, 2),
            ]),
            reason: CloseReason::Halted,
            settled: billed.checked_add(&one_tool_call).unwrap(),
        })),
    ]
}

/// What Ann signed about the held call.
pub(crate) fn statement(action: Hash) -> Statement {
    Statement {
        action,
        answer: Answer::Approve,
        deadline: at_ms(600_000),
        intent: seq(3),
        log: p(LOG),
        role: p("supervisor"),
        run: run(),
        shown: shown_digest("cancel_reservation {\"reservation\":\"ABC123\"}\n"),
    }
}

/// A sub-agent's run that the example run lets another kernel open.
pub(crate) fn delegation() -> Delegation {
    Delegation {
        agent: p("airline/helper"),
        budget: Amounts::ZERO
            .with(Meter::MicroUsd, 200_000)
            .with(Meter::ModelCalls, 4)
            .with(Meter::OutputTokens, 4096)
            .with(Meter::Tokens, 20_000)
            .with(Meter::ToolCalls, 10),
        deadline: at_ms(900_000),
        depth: 1,
        depth_limit: Some(2),
        kernel: p("acme.example/kernel/2"),
        log: p(LOG),
        parent: Delegator { agent: agent(), run: run(), seq: seq(5) },
        run: RunId::from_parts(at_ms(2_000), &[0x6b; 10]),
    }
}

/// The example log.
pub(crate) struct Honest {
    /// All entries, operator's and run's, in the order of the log.
    pub(crate) entries: Vec<Entry>,
    /// Index of the run's first entry; the rest follow it.
    pub(crate) run_start: usize,
    /// Ann's note.
    pub(crate) approval: String,
}

impl Honest {
    pub(crate) fn new() -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        let grant = |key: &SignerKey, role| {
            let agents = vec![p("airline/*")];
            OperatorBody::Key(KeyChange::Grant(Grant { agents, role, vkey: p(&key.verifier().to_string()) }))
        };
        let policy =
            Policy { bundle: bundle().digest(), name: p("airline"), size: bundle().encode().len() as u64 };
        let operator = vec![
            grant(&kernel_key(), KeyRole::Kernel),
            grant(&approver_key(), KeyRole::Approver(p("supervisor"))),
            OperatorBody::Policy(policy),
        ];
        let mut prev = None;
        for (number, body) in operator.into_iter().enumerate() {
            let entry = sign_operator(body, number as u64, prev);
            prev = Some(entry.leaf());
            entries.push(entry);
        }
        let operator_prev = prev;
        let run_start = entries.len();
        let mut approval = String::new();
        let mut action = None;
        let mut prev = None;
        for (number, mut body) in bodies().into_iter().enumerate() {
            if let Body::Approval(body) = &mut body {
                approval = approver_key().sign_note(&statement(action.unwrap()).text().unwrap());
                body.statement = p(&approval);
            }
            let number = number as u64;
            let time = at_ms(1000 + 250 * number);
            let record = Record { agent: agent(), body, prev, run: run(), seq: seq(number), time };
            if number == 3 {
                action = record.action();
            }
            let entry = Entry::sign(&record, &kernel_key()).unwrap();
            prev = Some(entry.leaf());
            entries.push(entry);
        }
        // After the run: an erased payload and a revoked key.
        let erase = Erase { digest: objects()[0].1.digest, reason: p("request 17 of the data subject") };
        let erase = sign_operator(OperatorBody::Erase(erase), 3, operator_prev);
        let vkey = p(&kernel_key().verifier().to_string());
        let revoke = OperatorBody::Key(KeyChange::Revoke(Revoke { reason: p("rotated"), vkey }));
        let revoke = sign_operator(revoke, 4, Some(erase.leaf()));
        entries.extend([erase, revoke]);
        Self { entries, run_start, approval }
    }

    /// The record of the run at a seq.
    pub(crate) fn record(&self, seq: usize) -> &Entry {
        &self.entries[self.run_start + seq]
    }

    pub(crate) fn tree(&self) -> MemoryTree {
        MemoryTree::new(self.entries.iter().map(Entry::leaf))
    }

    pub(crate) fn size(&self) -> TreeSize {
        self.tree().size()
    }

    pub(crate) fn head(&self) -> TreeHead {
        TreeHead { size: self.size(), root: self.tree().root(self.size()).unwrap() }
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(p(LOG), self.head()).unwrap()
    }

    /// The checkpoint as the log signed it and two witnesses cosigned it.
    pub(crate) fn cosigned(&self) -> String {
        let checkpoint = self.checkpoint();
        let mut note = checkpoint.sign(&log_key());
        for number in [1, 2] {
            let time = START / 1000 + 10 + u64::from(number);
            note += &cosign(&checkpoint.text(), &witness_key(number), time).unwrap();
        }
        note
    }

    pub(crate) fn receipt(&self, index: usize) -> Receipt {
        let index = LeafIndex::new(index as u64).unwrap();
        let proof = prove_inclusion(index, self.size(), &self.tree()).unwrap();
        Receipt { extra: None, index, proof, checkpoint: self.cosigned() }
    }

    pub(crate) fn multi_proof(&self, indices: &[LeafIndex]) -> Proof {
        prove_multi_inclusion(indices, self.size(), &self.tree()).unwrap()
    }

    /// The evidence of the run; two of its objects are disclosed.
    pub(crate) fn pack(&self) -> Pack {
        // The operator's entries before the run, and the run; not the erasure and revocation after it.
        let indices: Vec<LeafIndex> =
            (0..self.entries.len() as u64 - 2).map(|at| LeafIndex::new(at).unwrap()).collect();
        let entries = indices.iter().zip(&self.entries).map(|(at, entry)| (*at, entry.bytes().to_vec()));
        let disclosed = objects().into_iter().skip(1).take(2);
        Pack {
            run: run(),
            checkpoint: self.cosigned(),
            entries: entries.collect(),
            proof: self.multi_proof(&indices),
            bundles: BTreeMap::from([(bundle().digest(), bundle().encode())]),
            objects: disclosed
                .map(|(object, commitment)| (commitment.digest, object.as_bytes().to_vec()))
                .collect(),
        }
    }
}

pub(crate) fn sign_operator(body: OperatorBody, number: u64, prev: Option<Hash>) -> Entry {
    let record = OperatorRecord { body, log: p(LOG), prev, seq: seq(number), time: at_ms(10 * number) };
    Entry::sign_operator(&record, &operator_key()).unwrap()
}

pub(crate) fn trust() -> TrustPolicy {
    TrustPolicy::parse(&trust_text()).unwrap()
}

/// Further honest records that the example run has no place for: a child run's `open`, a sub-agent call, every
/// refusal, every end of a call.
pub(crate) fn more_records() -> Vec<(String, Record)> {
    let objects = objects();
    let prev = Some(Hash::from_bytes([0x11; 32]));
    let base = |body, at: u64| Record {
        agent: agent(),
        body,
        prev: prev.filter(|_| at > 0),
        run: run(),
        seq: seq(at),
        time: at_ms(at.min(1000)),
    };
    let mut all = Vec::new();
    let [Body::Open(open), ..] = &bodies()[..] else { unreachable!() };
    let mut child = open.clone();
    child.parent = Some(Parent { depth: 1, run: run(), seq: seq(4) });
    child.labels.clear();
    child.limits = Limits::default();
    let delegation = delegation();
    let mut delegated = child.clone();
    delegated.parent = Some(Parent { depth: 1, run: delegation.parent.run, seq: delegation.parent.seq });
    delegated.delegation = Some(p(&kernel_key().sign_note(&delegation.text().unwrap())));
    delegated.limits = delegation.limits(&open.limits, at_ms(0)).unwrap();
    let opened =
        Record { agent: delegation.agent.clone(), run: delegation.run, ..base(Body::Open(delegated), 0) };
    all.push(("open-child".to_owned(), base(Body::Open(child), 0)));
    all.push(("open-delegated".to_owned(), opened));
    let mut call =
        AgentCall { agent: delegation.agent.clone(), delegate: None, run: run(), task: objects[0].1.clone() };
    let allow = decision(Effect::Allow, &objects[4].1, "agents.listed", "");
    let reserved = Amounts::ZERO.with(Meter::Agents, 1);
    let intent = Intent { call: Call::Agent(call.clone()), decision: allow.clone(), refusal: None, reserved };
    all.push(("intent-agent".to_owned(), base(Body::Intent(Box::new(intent.clone())), 5)));
    let Delegation { budget, deadline, kernel, .. } = delegation.clone();
    call.run = delegation.run;
    call.delegate = Some(Delegate { budget, deadline, kernel });
    let reserved = budget.with(Meter::Agents, 1);
    let intent_delegate = Intent { call: Call::Agent(call), reserved, ..intent.clone() };
    all.push(("intent-delegate".to_owned(), base(Body::Intent(Box::new(intent_delegate)), 5)));
    // What the other kernel closed the run with, and what is settled for it here.
    let (own, below) = (Amounts::ZERO.with(Meter::ModelCalls, 2), Amounts::ZERO.with(Meter::ToolCalls, 3));
    let close = Record {
        agent: delegation.agent,
        run: delegation.run,
        ..base(
            Body::Close(Box::new(Close {
                below,
                census: BTreeMap::from([(Kind::Intent, 2), (Kind::Open, 1), (Kind::Outcome, 2)]),
                reason: CloseReason::Done,
                settled: own,
            })),
            5,
        )
    };
    let entry = Entry::sign(&close, &kernel_key()).unwrap();
    all.push(("close-delegated".to_owned(), close));
    let outcome = Outcome {
        close: Some(p(std::str::from_utf8(entry.bytes()).unwrap())),
        error: None,
        intent: seq(5),
        model: None,
        result: None,
        settled: own.checked_add(&below).unwrap().with(Meter::Agents, 1),
        status: Status::Ok,
    };
    all.push(("outcome-delegate".to_owned(), base(Body::Outcome(Box::new(outcome)), 6)));
    let refusals = [
        ("depth", Refusal::Depth(sift_spec::record::DepthRefusal { have: 2, limit: 2 })),
        ("identical", Refusal::Identical(sift_spec::record::Identical { have: 3, limit: 3 })),
        ("unpriced", Refusal::Unpriced(sift_spec::record::Unpriced { model: p("gpt-9") })),
        (
            "wall-clock",
            Refusal::WallClock(sift_spec::record::WallClock {
                have_ms: UnixMillis::new(3_600_001).unwrap(),
                limit_ms: UnixMillis::new(3_600_000).unwrap(),
            }),
        ),
    ];
    for (name, refusal) in refusals {
        let refused = Intent { refusal: Some(refusal), reserved: Amounts::ZERO, ..intent.clone() };
        all.push((format!("intent-refused-{name}"), base(Body::Intent(Box::new(refused)), 5)));
    }
    for status in [Status::Cancelled, Status::Error, Status::Timeout, Status::Unknown] {
        let outcome = Outcome {
            close: None,
            error: Some(p("the tool did not answer")),
            intent: seq(5),
            model: None,
            result: None,
            settled: Amounts::ZERO,
            status,
        };
        let name = serde_json::to_string(&status).unwrap().replace('"', "");
        all.push((format!("outcome-{name}"), base(Body::Outcome(Box::new(outcome)), 6)));
    }
    let beat = Beat { records: (1 << 53) - 1 };
    all.push(("beat-largest-integer".to_owned(), base(Body::Beat(beat), (1 << 53) - 1)));
    all
}
