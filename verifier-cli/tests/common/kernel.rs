//! A kernel in miniature: makes honest drafts with the rules that the real one uses.

use std::collections::BTreeMap;

use sift_rules::ledger::{Ledger, Open as LedgerOpen, Reserve, Settle};
use sift_rules::{CallInput, Decider, PolicyBundle, RunState, identity};
use sift_spec::bundle::Bundle;
use sift_spec::entry::Entry;
use sift_spec::meter::{Amounts, Usage};
use sift_spec::note::SignerKey;
use sift_spec::payload::{Commitment, Object};
use sift_spec::record::{
    AgentCall, Answer, Approval, Beat, Body, Call, Close, CloseReason, Decision, Delegate, Delegation,
    Effect, Erase, Hold, InputBound, Intent, KeyRole, ModelAnswer, ModelCall, Open, OperatorBody, Outcome,
    Parent, Record, Refusal, Statement, Status, ToolCall, action_of,
};
use sift_spec::types::{Hash, Seq, Text, UnixMillis};

use super::{
    Draft, LOG, START_MS, Scenario, agent, approver_key, auditor_key, bytes_hash, grant, kernel_key, millis,
    publish, run_id, second_key, seq,
};

pub const POLICY: &str = r#"package sift

allow contains {"rule": "models"} if input.call.kind == "model"

allow contains {"rule": "agents"} if input.call.kind == "agent"

allow contains {"rule": "lookup"} if {
    input.call.kind == "tool"
    input.call.name == "lookup"
}

hold contains {"rule": "refund", "reason": "a person decides", "role": "supervisor", "seconds": 600} if {
    input.call.kind == "tool"
    input.call.name == "refund"
}

hold contains {"rule": "two", "reason": "two of them", "role": "supervisor", "seconds": 600, "count": 2} if {
    input.call.kind == "tool"
    input.call.name == "wire"
}

hold contains {"rule": "books", "reason": "and the books", "role": "auditor", "seconds": 900} if {
    input.call.kind == "tool"
    input.call.name == "wire"
}

deny contains {"rule": "delete", "reason": "accounts stay"} if {
    input.call.kind == "tool"
    input.call.name == "delete"
}
"#;

pub const BUDGET: &str = "[run]\ntool_calls = 6\nidentical_calls = 2\nmicro_usd = 1_000_000\n\
    wall_clock_seconds = 3600\ndepth = 1\n[model]\ndefault_max_output = 100\n";
pub const PRICES: &str = "[[model]]\nname = \"gpt-4o\"\ninput = 2_500_000\noutput = 10_000_000\n";
pub const FACTS: &str = "[[fact]]\nname = \"reservation\"\ntool = \"lookup\"\nkey = \"id\"\nlatest = true\n";

pub fn bundle(budget: &str) -> Bundle {
    let file = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
    let files = [
        file("policy.rego", POLICY),
        file("budget.toml", budget),
        file("prices.toml", PRICES),
        file("facts.toml", FACTS),
    ];
    Bundle::new(files).unwrap()
}

pub struct Kernel {
    files: Bundle,
    policy: PolicyBundle,
    decider: Decider,
    state: RunState,
    ledger: Ledger,
    calls: BTreeMap<Seq, (CallInput, Intent)>,
    pub drafts: Vec<Draft>,
    pub objects: BTreeMap<Hash, Object>,
    salt: u8,
    /// Output limit of model calls.
    pub max_output: u64,
    /// The model call that is said to propose tool calls.
    pub proposer: Option<Seq>,
    /// Why the next call is refused, by what other runs used.
    pub elsewhere: Option<Refusal>,
}

impl Kernel {
    pub fn open(budget: &str) -> Self {
        Self::opened(budget, None, None)
    }

    /// Opened below a run of the same kernel.
    pub fn below(budget: &str) -> Self {
        Self::opened(budget, Some(Parent { depth: 1, run: run_id(5), seq: seq(3) }), None)
    }

    /// Opened by a delegation, and a note that says to be it.
    pub fn delegated(budget: &str, delegation: &Delegation, note: &str) -> Self {
        let parent =
            Parent { depth: delegation.depth, run: delegation.parent.run, seq: delegation.parent.seq };
        Self::opened(budget, Some(parent), Some((delegation, note)))
    }

    fn opened(budget: &str, parent: Option<Parent>, delegation: Option<(&Delegation, &str)>) -> Self {
        let files = bundle(budget);
        let policy = PolicyBundle::compile(&files).unwrap();
        let (run, time) = (run_id(1), millis(START_MS));
        let limits = policy.budget().limits().clone();
        let narrowed = delegation.map(|(delegation, _)| delegation.limits(&limits, time).unwrap());
        let limits = narrowed.unwrap_or(limits);
        let depth = parent.map_or(0, |parent| parent.depth);
        let mut ledger = Ledger::default();
        ledger
            .open(&LedgerOpen { agent: agent(), depth, limits: limits.clone(), parent: None, run, time })
            .unwrap();
        let labels = BTreeMap::from([("env".parse().unwrap(), Text::cut("test"))]);
        let open = Open {
            build: Text::cut("test"),
            engine: Text::cut(policy.engine()),
            labels: labels.clone(),
            limits,
            log: LOG.parse().unwrap(),
            delegation: delegation.map(|(_, note)| Text::cut(note)),
            parent,
            policy: policy.digest(),
        };
        Self {
            decider: policy.decider(),
            state: RunState::new(agent(), run, depth, time, labels, policy.facts()),
            files,
            policy,
            ledger,
            calls: BTreeMap::new(),
            drafts: vec![Draft::new(Body::Open(Box::new(open)), time)],
            objects: BTreeMap::new(),
            salt: 0,
            max_output: 100,
            proposer: None,
            elsewhere: None,
        }
    }

    fn next(&self) -> Seq {
        seq(self.drafts.len() as u64)
    }

    /// One second passes between records.
    fn now(&self) -> UnixMillis {
        millis(START_MS + 1000 * self.drafts.len() as u64)
    }

    pub fn commit(&mut self, name: &str, content: &[u8]) -> Commitment {
        self.salt += 1;
        let object = Object::new([self.salt; 16], content).unwrap();
        let commitment = object.commit(Text::cut(name), Text::cut("application/json"));
        self.objects.insert(commitment.digest, object);
        commitment
    }

    pub fn tool(&mut self, name: &str, args: &[u8]) -> Seq {
        let input = CallInput::tool(Text::cut(name), args);
        let shared = identity(name, args);
        let args = self.commit("arguments", args);
        let call =
            ToolCall { args, id: Text::cut("call"), name: Text::cut(name), proposed_by: self.proposer };
        self.propose(Call::Tool(call), input, Some(shared))
    }

    pub fn model(&mut self, request: &[u8]) -> Seq {
        let request = self.commit("request", request);
        let (model, provider) = (Text::cut("gpt-4o"), Text::cut("openai"));
        let input = InputBound { method: Text::cut("utf8-bytes"), tokens: request.size };
        let seen = CallInput::Model {
            input_tokens: input.tokens,
            max_output: self.max_output,
            model: model.clone(),
            provider: provider.clone(),
        };
        let call = ModelCall { input, max_output: self.max_output, model, provider, request };
        self.propose(Call::Model(call), seen, None)
    }

    pub fn agent(&mut self) -> Seq {
        let task = self.commit("task", b"help");
        let call = AgentCall { agent: agent(), delegate: None, run: run_id(9), task };
        self.propose(Call::Agent(call), CallInput::Agent { delegate: None, name: agent() }, None)
    }

    pub fn delegate(&mut self, delegate: &Delegate) -> Seq {
        let task = self.commit("task", b"help");
        let call = AgentCall { agent: agent(), delegate: Some(delegate.clone()), run: run_id(9), task };
        let call = Call::Agent(call);
        let input = CallInput::of(&call, b"");
        self.propose(call, input, None)
    }

    fn propose(&mut self, call: Call, input: CallInput, identity: Option<Hash>) -> Seq {
        let (seq, time) = (self.next(), self.now());
        let bytes = self.state.input(input.clone(), seq, time).to_bytes();
        let verdict = self.decider.decide(&bytes);
        let commitment = self.commit("policy-input", &bytes);
        let hold = verdict.hold.as_ref().map(|hold| Hold {
            approvals: hold.approvals.clone(),
            deadline: millis(time.get() + hold.seconds * 1000),
        });
        let (mut reserved, mut refusal) = (Amounts::ZERO, None);
        if verdict.effect != Effect::Deny {
            match self.policy.need(&input) {
                _ if self.elsewhere.is_some() => refusal = self.elsewhere.take(),
                Err(why) => refusal = Some(why),
                Ok(amounts) => {
                    match self.ledger.reserve(&Reserve { amounts, identity, run: run_id(1), seq, time }) {
                        // A kernel without a ledger lets everything through, even what no sum holds.
                        Ok(Ok(())) | Err(_) => reserved = amounts,
                        Ok(Err(why)) => refusal = Some(why),
                    }
                }
            }
        }
        let decision = Decision {
            effect: verdict.effect,
            hold,
            input: commitment,
            reasons: verdict.reasons,
            rules: verdict.rules,
        };
        let intent = Intent { call, decision, refusal, reserved };
        self.state.on_intent(&input, intent.effect());
        self.calls.insert(seq, (input, intent.clone()));
        self.drafts.push(Draft::new(Body::Intent(Box::new(intent)), time));
        seq
    }

    pub fn finish(&mut self, intent: Seq, status: Status, result: &[u8], usage: Option<Usage>) {
        let time = self.now();
        let (input, what) = self.calls.remove(&intent).unwrap();
        let settled = match (status, usage) {
            (Status::Cancelled, _) => Amounts::ZERO,
            (Status::Ok, Some(usage)) => self.policy.billed("openai", "gpt-4o", &usage),
            _ => what.reserved,
        };
        let _ = self.ledger.settle(&Settle { run: run_id(1), seq: intent, settled, time });
        let model = usage.map(|usage| ModelAnswer {
            id: None,
            method: Text::cut("provider"),
            served: Text::cut("gpt-4o-2024-08-06"),
            usage,
        });
        self.state.on_outcome(&input, status, result);
        let error = (status != Status::Ok).then(|| Text::cut("it did not go well"));
        let result = (status == Status::Ok).then(|| self.commit("result", result));
        let outcome = Outcome { close: None, error, intent, model, result, settled, status };
        self.drafts.push(Draft::new(Body::Outcome(Box::new(outcome)), time));
    }

    /// An answer by the supervisor, who alone counts for most calls.
    pub fn answer(&mut self, intent: Seq, answer: Answer) {
        self.answer_as(intent, answer, &approver_key(), "supervisor");
    }

    pub fn answer_as(&mut self, intent: Seq, answer: Answer, key: &SignerKey, role: &str) {
        let (_, held) = &self.calls[&intent];
        let hold = held.decision.hold.clone().unwrap();
        let statement = Statement {
            action: action_of(&agent(), &held.call, run_id(1), intent).unwrap(),
            answer,
            deadline: hold.deadline,
            intent,
            log: LOG.parse().unwrap(),
            role: role.parse().unwrap(),
            run: run_id(1),
            shown: bytes_hash(7),
        };
        let time = self.now();
        self.drafts.push(Draft::new(approval_by(intent, &statement, key), time));
    }

    pub fn beat(&mut self) {
        let time = self.now();
        self.drafts.push(Draft::new(beat(self.drafts.len() as u64), time));
    }

    pub fn close(mut self) -> Scenario {
        let close = Close {
            below: Amounts::ZERO,
            census: BTreeMap::new(),
            reason: CloseReason::Done,
            settled: Amounts::ZERO,
        };
        self.drafts.push(Draft::new(Body::Close(close.into()), self.now()));
        let Self { drafts, objects, files, .. } = self;
        let other = other_run(&drafts[0]);
        Scenario {
            run: run_id(1),
            operator_before: vec![
                grant(&kernel_key(), KeyRole::Kernel),
                grant(&approver_key(), KeyRole::Approver("supervisor".parse().unwrap())),
                publish(&files),
            ],
            drafts,
            // After it, the operator's chain tells that no key was revoked during the run.
            operator_after: vec![OperatorBody::Erase(Erase {
                digest: bytes_hash(8),
                reason: Text::cut("test"),
            })],
            bundle: files,
            objects,
            true_close: true,
            left_out: Vec::new(),
            other_entries: vec![other],
        }
    }
}

pub fn beat(records: u64) -> Body {
    Body::Beat(Beat { records })
}

pub fn approval(intent: Seq, statement: &Statement) -> Body {
    approval_by(intent, statement, &approver_key())
}

pub fn approval_by(intent: Seq, statement: &Statement, key: &SignerKey) -> Body {
    let note = key.sign_note(&statement.text().unwrap());
    Body::Approval(Approval { intent, statement: note.parse().unwrap() })
}

/// The open record of another run.
fn other_run(first: &Draft) -> Vec<u8> {
    let (agent, body, time) = (first.agent.clone(), first.body.clone(), first.time);
    let record = Record { agent, body, prev: None, run: run_id(2), seq: seq(0), time };
    Entry::sign(&record, &kernel_key()).unwrap().into_bytes()
}

/// A model's answer that proposes a call.
pub const PROPOSAL: &[u8] = br#"{"role":"assistant","tool_calls":[{"id":"call","type":"function",
    "function":{"name":"lookup","arguments":"{\"id\":\"R1\"}"}}]}"#;

/// A run with everything in it: allowed, denied, held and approved, held and refused, refused by the budget.
///
/// ```text
///  0 open             5 intent refund held   10 approval refuse    15 intent lookup: identical
///  1 intent model     6 approval approve     11 outcome cancelled  16 close
///  2 outcome          7 outcome              12 beat
///  3 intent lookup    8 intent delete denied 13 intent lookup
///  4 outcome          9 intent refund held   14 outcome
/// ```
pub fn honest() -> Scenario {
    let mut kernel = Kernel::open(BUDGET);
    let usage = Usage { input: 21, output: 8, ..Usage::default() };
    let call = kernel.model(br#"{"max_tokens":100,"messages":["please refund R1"],"model":"gpt-4o"}"#);
    kernel.finish(call, Status::Ok, PROPOSAL, Some(usage));
    kernel.proposer = Some(call);
    let call = kernel.tool("lookup", br#"{"id":"R1"}"#);
    kernel.proposer = None;
    kernel.finish(call, Status::Ok, br#"{"id":"R1","paid":900}"#, None);
    let call = kernel.tool("refund", br#"{"id":"R1"}"#);
    kernel.answer(call, Answer::Approve);
    kernel.finish(call, Status::Ok, br#"{"ok":true}"#, None);
    kernel.tool("delete", br#"{"id":"U1"}"#);
    let call = kernel.tool("refund", br#"{"id":"R2"}"#);
    kernel.answer(call, Answer::Refuse);
    kernel.finish(call, Status::Cancelled, b"", None);
    kernel.beat();
    let call = kernel.tool("lookup", br#"{"id":"R1"}"#);
    kernel.finish(call, Status::Ok, br#"{"id":"R1","paid":0}"#, None);
    kernel.tool("lookup", br#"{"id":"R1"}"#);
    kernel.close()
}

/// A run with a call that two supervisors and an auditor approve.
///
/// ```text
///  0 open   1 intent wire   2 approve ann   3 approve auditor   4 approve second   5 outcome   6 close
/// ```
pub fn wired() -> Scenario {
    let mut kernel = Kernel::open(BUDGET);
    let call = kernel.tool("wire", br#"{"amount":900}"#);
    kernel.answer(call, Answer::Approve);
    kernel.answer_as(call, Answer::Approve, &auditor_key(), "auditor");
    kernel.answer_as(call, Answer::Approve, &second_key(), "supervisor");
    kernel.finish(call, Status::Ok, br#"{"ok":true}"#, None);
    let mut scenario = kernel.close();
    let role = |word: &str| KeyRole::Approver(word.parse().unwrap());
    let more = [grant(&second_key(), role("supervisor")), grant(&auditor_key(), role("auditor"))];
    scenario.operator_before.extend(more);
    scenario
}

/// The shortest run.
pub fn tiny() -> Scenario {
    Kernel::open(BUDGET).close()
}
