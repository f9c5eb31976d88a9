//! Runs of records as a kernel signs them: real formats, real chains, payloads as commitments only.

use std::collections::BTreeMap;

use sift_rules::PolicyBundle;
use sift_spec::entry::Entry;
use sift_spec::hash::object_digest;
use sift_spec::meter::{Amounts, Meter, Usage};
use sift_spec::note::{KeyType, SignerKey};
use sift_spec::payload::Commitment;
use sift_spec::record::{
    Body, Call, Close, CloseReason, Decision, Effect, InputBound, Intent, Kind, Limits, ModelAnswer,
    ModelCall, Open, Outcome, Record, Status, ToolCall,
};
use sift_spec::types::{AgentName, Hash, KeyName, RunId, Seq, Text, UnixMillis};

use crate::AnyError;

/// Time of the first record of every run, in milliseconds since 1970.
pub const STARTED: u64 = 1_764_000_000_000;

/// What all generated runs have in common.
#[derive(Debug, Clone)]
pub struct Subject {
    agent: AgentName,
    limits: Limits,
    log: KeyName,
    policy: Hash,
    engine: Text<64>,
    /// Makes the runs of this process different from those of any other that used the same log.
    salt: [u8; 2],
    /// Runs that each stream has signed before.
    runs_before: u64,
    /// Whether identifiers of runs are in no order of time.
    scattered: bool,
}

impl Subject {
    /// Runs for the log with this origin, under this bundle.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn new(log: KeyName, bundle: &PolicyBundle) -> Result<Self, AnyError> {
        let mut salt = [0; 2];
        getrandom::fill(&mut salt)?;
        Ok(Self {
            agent: "airline/gpt-4o".parse()?,
            limits: bundle.budget().limits().clone(),
            log,
            policy: bundle.digest(),
            engine: Text::cut(bundle.engine()),
            salt,
            runs_before: 0,
            scattered: false,
        })
    }

    /// The same for runs of another agent.
    #[must_use]
    pub fn of_agent(mut self, agent: AgentName) -> Self {
        self.agent = agent;
        self
    }

    /// The same with other runs: each stream goes on after the `runs` that it has signed so far.
    #[must_use]
    pub const fn after(mut self, runs: u64) -> Self {
        self.runs_before = runs;
        self
    }

    /// The same with identifiers of runs in no order of time: what the store likes least.
    #[must_use]
    pub const fn scattered(mut self) -> Self {
        self.scattered = true;
        self
    }

    /// Run `number` of stream `stream`. A UUID of version 7 starts with the time at which the run was opened, so that
    /// runs that are under way together are neighbours.
    fn run(&self, stream: u64, number: u64) -> Result<RunId, AnyError> {
        /// Spreads numbers over 36 bits of milliseconds, each to a place of its own.
        const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut random = [0; 10];
        random[..2].copy_from_slice(&self.salt);
        random[2..].copy_from_slice(&(stream << 40 | number).to_be_bytes());
        let after_ms = if self.scattered { number.wrapping_mul(SCATTER) >> 28 } else { number };
        Ok(RunId::from_parts(UnixMillis::new(STARTED + after_ms)?, &random))
    }

    /// The same under a bundle of another digest.
    #[must_use]
    pub const fn under(mut self, policy: Hash) -> Self {
        self.policy = policy;
        self
    }
}

/// Keys of kernels, from fresh randomness: a log grants a key once.
///
/// # Errors
/// When the operating system gives no randomness.
pub fn kernel_keys(count: usize) -> Result<Vec<SignerKey>, AnyError> {
    let key = |number| -> Result<SignerKey, AnyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(SignerKey::from_seed(format!("bench.example/kernel/{number}").parse()?, KeyType::Ed25519, &seed)?)
    };
    (0..count).map(key).collect()
}

/// How records of several runs follow each other in one stream.
#[derive(Debug, Clone, Copy)]
pub struct Weave {
    /// Calls of each run. A run has two records for each, an `open` and a `close`.
    pub calls: u64,
    /// Runs under way at the same time, their records in turn.
    pub at_once: u64,
}

/// Signs at least `records` entries and cuts there. Each stream has runs of its own.
///
/// # Errors
/// When a record has no encoding.
pub fn sign_stream(
    subject: &Subject,
    key: &SignerKey,
    stream: u64,
    weave: Weave,
    records: usize,
) -> Result<Vec<Vec<u8>>, AnyError> {
    let mut entries = Vec::with_capacity(records);
    let mut number = subject.runs_before;
    while entries.len() < records {
        let runs = (number..number + weave.at_once.max(1))
            .map(|number| sign_run(subject, key, (stream, number), weave.calls).map(IntoIterator::into_iter))
            .collect::<Result<Vec<_>, _>>()?;
        number += runs.len() as u64;
        let mut runs = runs;
        loop {
            let before = entries.len();
            entries.extend(runs.iter_mut().filter_map(Iterator::next).map(Entry::into_bytes));
            if entries.len() == before {
                break;
            }
        }
    }
    entries.truncate(records);
    Ok(entries)
}

/// Signs one whole run: `open`, then model calls and tool calls in turn with an intent and an outcome each, `close`.
///
/// # Errors
/// When a record has no encoding.
pub fn sign_run(
    subject: &Subject,
    key: &SignerKey,
    (stream, number): (u64, u64),
    calls: u64,
) -> Result<Vec<Entry>, AnyError> {
    let mut chain = Chain { subject, key, run: subject.run(stream, number)?, entries: Vec::new() };
    chain.push(Body::Open(Box::new(Open {
        build: Text::cut("sift-client/0.1.0"),
        engine: subject.engine.clone(),
        labels: BTreeMap::from([("env".parse()?, Text::cut("bench"))]),
        limits: subject.limits.clone(),
        log: subject.log.clone(),
        delegation: None,
        parent: None,
        policy: subject.policy,
    })))?;
    let mut settled = Amounts::ZERO;
    for call in 0..calls {
        let spent = if call % 2 == 0 { chain.model_call(call)? } else { chain.tool_call(call)? };
        settled = settled.checked_add(&spent).ok_or("amounts add up beyond 2^53")?;
    }
    let counts = [(Kind::Open, 1), (Kind::Intent, calls), (Kind::Outcome, calls)];
    let census = counts.into_iter().filter(|(_, count)| *count > 0).collect();
    chain.push(Body::Close(Box::new(Close {
        below: Amounts::ZERO,
        census,
        reason: CloseReason::Done,
        settled,
    })))?;
    Ok(chain.entries)
}

struct Chain<'a> {
    subject: &'a Subject,
    key: &'a SignerKey,
    run: RunId,
    entries: Vec<Entry>,
}

impl Chain<'_> {
    fn model_call(&mut self, call: u64) -> Result<Amounts, AnyError> {
        let (input, output) = (1200 + 150 * call, 80 + call);
        let proposed = Call::Model(ModelCall {
            input: InputBound { method: Text::cut("utf8-bytes"), tokens: 4 * input },
            max_output: 4096,
            model: Text::cut("gpt-4o"),
            provider: Text::cut("openai"),
            request: self.commit("request", "application/json", 4 * input),
        });
        let held = Amounts::ZERO
            .with(Meter::ModelCalls, 1)
            .with(Meter::InputTokens, 4 * input)
            .with(Meter::OutputTokens, 4096)
            .with(Meter::Tokens, 4 * input + 4096)
            .with(Meter::MicroUsd, 10 * input + 40_960);
        let usage = Usage { input, output, ..Usage::default() };
        let settled =
            usage.amounts().with(Meter::ModelCalls, 1).with(Meter::MicroUsd, 3 * input + 10 * output);
        let answer = ModelAnswer {
            id: Some(Text::cut(&format!("chatcmpl-9m3kXbQ{call:08}"))),
            method: Text::cut("provider"),
            served: Text::cut("gpt-4o-2024-08-06"),
            usage,
        };
        self.call(proposed, "model", held, settled, Some(answer))
    }

    fn tool_call(&mut self, call: u64) -> Result<Amounts, AnyError> {
        let proposed = Call::Tool(ToolCall {
            args: self.commit("arguments", "application/json", 29),
            id: Text::cut(&format!("call_Jq7ZsO1c{call:08}")),
            name: Text::cut("get_reservation_details"),
            proposed_by: self.seq().checked_sub(2).map(Seq::new).transpose()?,
        });
        let once = Amounts::ZERO.with(Meter::ToolCalls, 1);
        self.call(proposed, "lookup", once, once, None)
    }

    fn call(
        &mut self,
        call: Call,
        rule: &str,
        held: Amounts,
        settled: Amounts,
        model: Option<ModelAnswer>,
    ) -> Result<Amounts, AnyError> {
        let decision = Decision {
            effect: Effect::Allow,
            hold: None,
            input: self.commit("policy-input", "application/json", 611),
            reasons: Vec::new(),
            rules: vec![Text::cut(rule)],
        };
        let intent = Seq::new(self.seq())?;
        self.push(Body::Intent(Box::new(Intent { call, decision, refusal: None, reserved: held })))?;
        let result = Some(self.commit("result", "application/json", 803));
        let status = Status::Ok;
        self.push(Body::Outcome(Box::new(Outcome {
            close: None,
            error: None,
            intent,
            model,
            result,
            settled,
            status,
        })))?;
        Ok(settled)
    }

    /// A commitment to an object that nobody made: the digest is a real one, of the run and the place in it.
    fn commit(&self, name: &str, media: &str, size: u64) -> Commitment {
        let object = [&self.run.as_bytes()[..], &self.seq().to_be_bytes(), name.as_bytes()].concat();
        Commitment { digest: object_digest(&object), media: Text::cut(media), name: Text::cut(name), size }
    }

    fn seq(&self) -> u64 {
        self.entries.len() as u64
    }

    fn push(&mut self, body: Body) -> Result<(), AnyError> {
        let seq = self.seq();
        let record = Record {
            agent: self.subject.agent.clone(),
            body,
            prev: self.entries.last().map(Entry::leaf),
            run: self.run,
            seq: Seq::new(seq)?,
            time: UnixMillis::new(STARTED + 350 * seq)?,
        };
        self.entries.push(Entry::sign(&record, self.key)?);
        Ok(())
    }
}
