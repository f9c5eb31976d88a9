//! Records: what a kernel, and an operator, put into the log (SPEC §3 and §4).
//!
//! A record is the text of a signed note: a first line that says which kind of note it is, and one line
//! of canonical JSON. The types here are written in the order of their JSON names, serde refuses unknown
//! and duplicate fields, and a text is taken only if it is what its value prints as: there is exactly one
//! encoding, and everything else is refused.
//!
//! Out of scope: signatures ([`crate::note`]) and what a record owes to the records before it
//! ([`crate::chain`]).

mod canonical;
mod delegation;
mod hold;
mod operator;
mod statement;
mod strict;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use canonical::{Canonical, only, parse_text, present, print_text, write_json};
pub use delegation::{DELEGATION_BYTES_MAX, Delegation, DelegationError, Delegator, SignedDelegation};
pub use hold::{
    Approvals, CountError, Counted, HOLD_COUNT_MAX, HOLD_ROLES_MAX, Hold, HoldProgress, Needed, NeededError,
};
pub use operator::{Erase, Grant, KeyChange, KeyRole, OperatorBody, OperatorRecord, Policy, Revoke};
pub use statement::{Answer, Statement};

use crate::hash::action_digest;
use crate::meter::{Amounts, Meter, Usage};
use crate::payload::Commitment;
use crate::types::{AgentName, Hash, KeyName, RunId, Seq, Text, UnixMillis, Word};

/// First line of a run's record.
pub const RECORD_HEADER: &str = "sift/record@v1";
/// First line of an operator's record.
pub const OPERATOR_HEADER: &str = "sift/operator@v1";
/// First line of an approver's statement.
pub const APPROVAL_HEADER: &str = "sift/approval@v1";
/// First line of a kernel's delegation.
pub const DELEGATION_HEADER: &str = "sift/delegation@v1";

/// An entry, and so a whole note, is at most this long: C2SP tlog-tiles prefixes it with 16 bits.
pub const ENTRY_BYTES_MAX: usize = 65_535;

/// Longest `close` entry in bytes that an outcome can hold; every one is shorter.
pub const CLOSE_BYTES_MAX: usize = 8192;

/// Most rules, reasons, labels or scopes that one record lists.
pub const LIST_MAX: usize = 64;

/// Why bytes are not a record, or a record has no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The text does not start with the expected line.
    #[error("the first line is not \"{0}\"")]
    Header(&'static str),
    /// The text is not exactly two lines.
    #[error("the text is not two lines: the header and one line of JSON")]
    Lines,
    /// Not JSON, a field is missing, unknown or given twice, or a value is out of bounds.
    #[error("{why}")]
    Json {
        /// What is wrong.
        why: String,
        /// Offset in the text at which reading stopped, where it was read.
        at: Option<usize>,
    },
    /// The JSON is well-formed but not in its one canonical form, from this offset in the text on.
    #[error("the JSON is not canonical: white space, order of fields, escapes or numbers differ")]
    NotCanonical(usize),
    /// `kind` does not name the one body that is present.
    #[error("\"kind\" must name the one body that is present")]
    Kind,
    /// `prev` must be absent at seq 0 and present after it.
    #[error("\"prev\" must be absent at seq 0 and present after it")]
    Prev,
    /// Two fields of a body contradict each other.
    #[error("{0}")]
    Inconsistent(&'static str),
    /// The text is longer than an entry may be.
    #[error("{0} bytes: an entry holds at most {ENTRY_BYTES_MAX}")]
    TooLong(usize),
}

impl RecordError {
    /// Offset in the text of the first byte that is wrong, where that is known. An entry begins with its text.
    #[must_use]
    pub const fn offset(&self) -> Option<usize> {
        match self {
            Self::Header(_) => Some(0),
            Self::Json { at, .. } => *at,
            Self::NotCanonical(at) => Some(*at),
            Self::Lines | Self::Kind | Self::Prev | Self::Inconsistent(_) | Self::TooLong(_) => None,
        }
    }
}

/// One record of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The agent that acts.
    pub agent: AgentName,
    /// What happened.
    pub body: Body,
    /// Leaf hash of the run's previous entry; absent at seq 0.
    pub prev: Option<Hash>,
    /// The run.
    pub run: RunId,
    /// Position in the run.
    pub seq: Seq,
    /// The kernel's clock; never less than the record before.
    pub time: UnixMillis,
}

/// What a record of a run says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// An approver's answer to a held call.
    Approval(Approval),
    /// The run is still alive.
    Beat(Beat),
    /// The run has ended.
    Close(Box<Close>),
    /// The run was stopped; no call is dispatched after this.
    Halt(Halt),
    /// A call was proposed and decided.
    Intent(Box<Intent>),
    /// The run starts: always at seq 0.
    Open(Box<Open>),
    /// What became of a call.
    Outcome(Box<Outcome>),
}

/// The name of a [`Body`], as in the field `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the kinds are described at [`Body`]
pub enum Kind {
    Approval,
    Beat,
    Close,
    Halt,
    Intent,
    Open,
    Outcome,
}

impl Kind {
    /// All kinds, in the order of their names.
    pub const ALL: [Self; 7] =
        [Self::Approval, Self::Beat, Self::Close, Self::Halt, Self::Intent, Self::Open, Self::Outcome];

    /// The name in the field `kind`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Approval => "approval",
            Self::Beat => "beat",
            Self::Close => "close",
            Self::Halt => "halt",
            Self::Intent => "intent",
            Self::Open => "open",
            Self::Outcome => "outcome",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A run starts. Asserted by the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Build of the kernel: name, version and digest of its program where known.
    pub build: Text<256>,
    /// The whole note `sift/delegation@v1` by which another kernel started this run.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub delegation: Option<Text<DELEGATION_BYTES_MAX>>,
    /// Policy engine and version that decides, such as `rego/regorus-0.14.1`.
    pub engine: Text<64>,
    /// Free labels of the operator: environment, ticket, tenant.
    pub labels: BTreeMap<Word, Text<256>>,
    /// The limits in force.
    pub limits: Limits,
    /// Origin of the log this run belongs to: no other log accepts it.
    pub log: KeyName,
    /// The run that started this one.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub parent: Option<Parent>,
    /// Digest of the policy bundle that decides, for the whole run.
    pub policy: Hash,
}

/// The intent of another run that started this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// Nesting depth of this run: its parent's plus one, where a run without parent has 0.
    pub depth: u32,
    /// The parent run.
    pub run: RunId,
    /// The parent's intent.
    pub seq: Seq,
}

/// Limits of a run, copied from the bundle's `budget.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Deepest nesting of runs.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub depth: Option<u32>,
    /// Most calls of one run with the same tool and the same argument bytes.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub identical_calls: Option<u32>,
    /// Limits over meters, sorted by scope, window and meter, each at most once.
    pub meters: Vec<MeterLimit>,
    /// Longest duration of a run in milliseconds of the kernel's clock.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub wall_clock_ms: Option<UnixMillis>,
}

impl Limits {
    /// Whether any limit is on money, so that models need a price.
    #[must_use]
    pub fn limits_money(&self) -> bool {
        self.meters.iter().any(|limit| limit.meter == Meter::MicroUsd)
    }
}

/// At most `limit` of `meter` in `scope` within `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeterLimit {
    /// The bound, in units of the meter; the amount may reach it and never pass it.
    pub limit: u64,
    /// What is counted.
    pub meter: Meter,
    /// Over whom it is counted.
    pub scope: Scope,
    /// Over which time it is counted.
    pub window: Window,
}

impl MeterLimit {
    /// What [`Limits::meters`] is sorted by.
    #[must_use]
    pub const fn key(&self) -> (Scope, Window, Meter) {
        (self.scope, self.window, self.meter)
    }
}

/// Over whom a meter is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All runs of one agent name at this kernel.
    Agent,
    /// All runs of this kernel.
    Kernel,
    /// One run and every run below it.
    Run,
}

/// Over which time a meter is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// The 24 hours before the call.
    Day,
    /// The hour before the call.
    Hour,
    /// As long as the scope exists: the run, or all that the kernel's ledger holds.
    Run,
}

/// A call was proposed and decided. Asserted by the kernel; the call itself is the agent's proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// What the agent proposed.
    pub call: Call,
    /// What the policy said.
    pub decision: Decision,
    /// Present when the budget refused what the policy would have let through.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub refusal: Option<Refusal>,
    /// What is held in every scope until the outcome; nothing for a denied call.
    pub reserved: Amounts,
}

impl Intent {
    /// What happens to the call: the policy's effect, unless the budget refused.
    #[must_use]
    pub fn effect(&self) -> Effect {
        if self.refusal.is_some() { Effect::Deny } else { self.decision.effect }
    }
}

/// A proposed call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// Start a sub-agent in a run of its own.
    Agent(AgentCall),
    /// Ask a model.
    Model(ModelCall),
    /// Use a tool.
    Tool(ToolCall),
}

/// A sub-agent to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentCall {
    /// Name of the sub-agent.
    pub agent: AgentName,
    /// Present when the sub-agent runs under another kernel.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub delegate: Option<Delegate>,
    /// The run it will have.
    pub run: RunId,
    /// What it is told to do.
    pub task: Commitment,
}

/// To whom a sub-agent's run is delegated, and with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegate {
    /// The most that the sub-agent and everything below it may use; held as part of the call's worst case.
    pub budget: Amounts,
    /// Until when the run may open, and let calls through.
    pub deadline: UnixMillis,
    /// Name of the key of the one kernel that may open the run.
    pub kernel: KeyName,
}

/// A request to a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCall {
    /// Upper bound of the input.
    pub input: InputBound,
    /// Most output tokens, reasoning included, that the request allows.
    pub max_output: u64,
    /// Model asked for (`gen_ai.request.model`).
    pub model: Text<128>,
    /// Provider (`gen_ai.provider.name`).
    pub provider: Text<64>,
    /// The exact request bytes: prompt, model and every parameter.
    pub request: Commitment,
}

/// How many input tokens a request can be billed for at most, and how that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputBound {
    /// The method, such as `utf8-bytes`: one token is at least one byte.
    pub method: Text<64>,
    /// The bound.
    pub tokens: u64,
}

/// A tool call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// The exact argument bytes.
    pub args: Commitment,
    /// Identifier given by the model (`gen_ai.tool.call.id`).
    pub id: Text<128>,
    /// Name of the tool (`gen_ai.tool.name`).
    pub name: Text<128>,
    /// The model call whose answer proposed this call.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub proposed_by: Option<Seq>,
}

/// What the policy said about a call, re-derivable from bundle and input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Allow, deny or hold.
    pub effect: Effect,
    /// Who must approve and until when; present exactly when the effect is `hold`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub hold: Option<Hold>,
    /// The exact input of the policy.
    pub input: Commitment,
    /// Why, in words for people: reasons of the rules, or the evaluation error.
    pub reasons: Vec<Text<512>>,
    /// Identifiers of the rules that decided, sorted, each once.
    pub rules: Vec<Text<128>>,
}

/// What a policy may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Go ahead.
    Allow,
    /// Do not.
    Deny,
    /// Wait for an approval.
    Hold,
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Hold => "hold",
        })
    }
}

/// Why the budget refused a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Refusal {
    /// A sub-agent would be nested too deeply.
    Depth(DepthRefusal),
    /// Too many calls of this run with the same tool and arguments.
    Identical(Identical),
    /// A limit over a meter would be passed.
    Limit(LimitRefusal),
    /// A limit on money is set and the model has no price.
    Unpriced(Unpriced),
    /// The run has lasted too long.
    WallClock(WallClock),
}

impl Refusal {
    /// Whether the numbers that it states are a reason to refuse.
    #[must_use]
    pub const fn refuses(&self) -> bool {
        match self {
            Self::Depth(DepthRefusal { have, limit }) | Self::Identical(Identical { have, limit }) => {
                *have >= *limit
            }
            Self::Limit(LimitRefusal { have, limit, need, .. }) => {
                *need > 0 && have.saturating_add(*need) > *limit
            }
            Self::Unpriced(_) => true,
            Self::WallClock(WallClock { have_ms, limit_ms }) => have_ms.get() > limit_ms.get(),
        }
    }
}

/// A sub-agent of a run at the deepest nesting that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepthRefusal {
    /// Depth of the run that asks.
    pub have: u32,
    /// Deepest nesting that it, or a run above it, allows.
    pub limit: u32,
}

/// Too many identical calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identical {
    /// Identical calls already made.
    pub have: u32,
    /// Most that the run may make.
    pub limit: u32,
}

/// A limit that a call would have passed: `have + need > limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitRefusal {
    /// Settled and held before the call.
    pub have: u64,
    /// The limit.
    pub limit: u64,
    /// The meter.
    pub meter: Meter,
    /// The worst case of the call.
    pub need: u64,
    /// The scope.
    pub scope: Scope,
    /// The window.
    pub window: Window,
}

/// A model without a price under a limit on money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unpriced {
    /// The model.
    pub model: Text<128>,
}

/// A run that has lasted too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WallClock {
    /// Milliseconds since the run's `open`.
    pub have_ms: UnixMillis,
    /// The limit in milliseconds.
    pub limit_ms: UnixMillis,
}

/// What became of a call that was allowed or held. Asserted by the kernel; result and usage by tool or provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The whole `close` entry of the sub-agent's run, as its kernel signed it; for a call that delegates.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub close: Option<Text<CLOSE_BYTES_MAX>>,
    /// What went wrong; present unless the status is `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub error: Option<Text<512>>,
    /// The intent this answers.
    pub intent: Seq,
    /// What the provider said about a model call.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub model: Option<ModelAnswer>,
    /// The exact bytes of the answer or result, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub result: Option<Commitment>,
    /// What the hold is replaced with; for `unknown` it is the whole hold.
    pub settled: Amounts,
    /// How the call ended.
    pub status: Status,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not dispatched: approval was refused or came too late, the run was halted first, or the call was given up
    /// before it started.
    Cancelled,
    /// It answered with an error.
    Error,
    /// It answered.
    Ok,
    /// It did not answer in time; it may have acted.
    Timeout,
    /// Nobody knows whether it acted: the kernel stopped, or the permit was dropped.
    Unknown,
}

/// What the provider said about a model call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelAnswer {
    /// Identifier of the response (`gen_ai.response.id`).
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub id: Option<Text<128>>,
    /// How the usage was found: `provider`, or the name of the method that counted it.
    pub method: Text<64>,
    /// Model that answered (`gen_ai.response.model`).
    pub served: Text<128>,
    /// Tokens billed, by class.
    pub usage: Usage,
}

/// An approver's answer to a held call; the statement is a signed note of the approver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// The held intent.
    pub intent: Seq,
    /// The approver's whole note, `sift/approval@v1`.
    pub statement: Text<8192>,
}

/// The run was stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halt {
    /// Which limit or switch tripped.
    pub cause: HaltCause,
    /// The same in words.
    pub detail: Text<512>,
}

/// Which limit or switch stopped a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HaltCause {
    /// The kernel's clock went backwards.
    Clock,
    /// The log showed two histories, or a receipt that does not verify.
    LogFork,
    /// More records, or older ones, are unlogged than the configuration allows.
    LogBehind,
    /// The log refused a record.
    LogRefused,
    /// A person, or a program on their behalf, pulled the switch.
    Operator,
    /// A call was billed more than was held for it.
    Overspend,
    /// The policy bundle or its engine failed or changed.
    Policy,
    /// Spool, ledger or payload store could not be written.
    Spool,
    /// The run has lasted too long.
    WallClock,
}

/// The run is still alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beat {
    /// Records of this run before this one: equal to `seq`.
    pub records: u64,
}

/// The run has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// What the runs below this one at the same kernel have settled; only in a run that was delegated.
    #[serde(default, skip_serializing_if = "Amounts::is_zero")]
    pub below: Amounts,
    /// How many records of each kind precede this one; kinds that do not occur are left out.
    pub census: BTreeMap<Kind, u64>,
    /// Why it ended.
    pub reason: CloseReason,
    /// Sum of all `settled` of the run.
    pub settled: Amounts,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// The kernel stopped without closing the run, and closed it when it came back.
    Abandoned,
    /// The agent finished.
    Done,
    /// The agent failed.
    Failed,
    /// The run was halted.
    Halted,
}

impl Body {
    /// The name of this body.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Approval(_) => Kind::Approval,
            Self::Beat(_) => Kind::Beat,
            Self::Close(_) => Kind::Close,
            Self::Halt(_) => Kind::Halt,
            Self::Intent(_) => Kind::Intent,
            Self::Open(_) => Kind::Open,
            Self::Outcome(_) => Kind::Outcome,
        }
    }

    fn check(&self, seq: Seq) -> Result<(), RecordError> {
        let demand = |holds: bool, why| if holds { Ok(()) } else { Err(RecordError::Inconsistent(why)) };
        match self {
            Self::Open(open) => {
                demand(open.labels.len() <= LIST_MAX, "more than 64 labels")?;
                demand(open.limits.meters.len() <= LIST_MAX, "more than 64 limits")?;
                let sorted = open.limits.meters.windows(2).all(|pair| pair[0].key() < pair[1].key());
                demand(sorted, "limits are not sorted by scope, window and meter, each once")?;
                demand(open.parent.is_none_or(|parent| parent.depth > 0), "a parent's depth is at least 1")?;
                demand(open.delegation.is_none() || open.parent.is_some(), "a delegated run has a parent")
            }
            Self::Intent(intent) => {
                let decision = &intent.decision;
                if let Call::Tool(ToolCall { proposed_by: Some(model_call), .. }) = &intent.call {
                    demand(*model_call < seq, "a call is proposed by a model call before it")?;
                }
                demand(decision.rules.len() <= LIST_MAX, "more than 64 rules")?;
                demand(decision.reasons.len() <= LIST_MAX, "more than 64 reasons")?;
                demand(
                    decision.rules.windows(2).all(|pair| pair[0] < pair[1]),
                    "rules are not sorted, each once",
                )?;
                demand(
                    decision.hold.is_some() == (decision.effect == Effect::Hold),
                    "\"hold\" belongs to the effect hold, and only to it",
                )?;
                if let Some(hold) = &decision.hold {
                    hold.check().map_err(|error| RecordError::Inconsistent(error.0))?;
                }
                demand(
                    intent.refusal.is_none() || decision.effect != Effect::Deny,
                    "the budget cannot refuse what the policy denied",
                )?;
                demand(
                    intent.refusal.as_ref().is_none_or(Refusal::refuses),
                    "a refusal states numbers that pass no limit",
                )?;
                demand(
                    intent.effect() != Effect::Deny || intent.reserved.is_zero(),
                    "a denied call holds nothing",
                )
            }
            Self::Outcome(outcome) => {
                demand(outcome.intent < seq, "an outcome answers an intent before it")?;
                demand(
                    outcome.error.is_some() == (outcome.status != Status::Ok),
                    "\"error\" says what went wrong, unless the status is ok",
                )?;
                let answered = outcome.model.is_some() || outcome.result.is_some() || outcome.close.is_some();
                demand(
                    outcome.status != Status::Cancelled || !answered,
                    "a call that was not dispatched has no answer and no result",
                )
            }
            Self::Approval(approval) => {
                demand(approval.intent < seq, "an approval answers an intent before it")
            }
            Self::Beat(beat) => demand(beat.records == seq.get(), "\"records\" is not the seq"),
            Self::Close(close) => {
                demand(close.census.values().all(|n| *n > 0), "the census lists a kind that does not occur")?;
                demand(
                    close.census.values().try_fold(0_u64, |sum, n| sum.checked_add(*n)) == Some(seq.get()),
                    "the census does not add up to the seq",
                )
            }
            Self::Halt(_) => Ok(()),
        }
    }
}

/// The JSON of a record: every field in the order canonical JSON wants. What is read is owned, and what is printed is
/// borrowed from its record, so that nothing is copied for that.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordWire<'a> {
    agent: Cow<'a, AgentName>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    approval: Option<Cow<'a, Approval>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    beat: Option<Beat>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    close: Option<Cow<'a, Box<Close>>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    halt: Option<Cow<'a, Halt>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    intent: Option<Cow<'a, Box<Intent>>>,
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    open: Option<Cow<'a, Box<Open>>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    outcome: Option<Cow<'a, Box<Outcome>>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    prev: Option<Hash>,
    run: RunId,
    seq: Seq,
    time: UnixMillis,
}

impl Record {
    /// Reads the text of a record's note: header, one line of canonical JSON.
    ///
    /// # Errors
    /// When the text is not the one encoding of a record (SPEC §3.1, §3.3).
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        parse_text(text)
    }

    /// The text of this record's note.
    ///
    /// # Errors
    /// When fields contradict one another or the text would not fit an entry.
    pub fn text(&self) -> Result<String, RecordError> {
        print_text(self)
    }

    /// All payloads that this record commits to.
    #[must_use]
    pub fn commitments(&self) -> Vec<&Commitment> {
        match &self.body {
            Body::Intent(intent) => {
                let payload = match &intent.call {
                    Call::Agent(call) => &call.task,
                    Call::Model(call) => &call.request,
                    Call::Tool(call) => &call.args,
                };
                vec![payload, &intent.decision.input]
            }
            Body::Outcome(outcome) => outcome.result.iter().collect(),
            Body::Approval(_) | Body::Beat(_) | Body::Close(_) | Body::Halt(_) | Body::Open(_) => Vec::new(),
        }
    }

    /// Digest of the action an intent proposes: what an approver signs (SPEC §3.6). `None` for other kinds.
    #[must_use]
    pub fn action(&self) -> Option<Hash> {
        let Body::Intent(intent) = &self.body else { return None };
        action_of(&self.agent, &intent.call, self.run, self.seq)
    }
}

impl Canonical for Record {
    const HEADER: &'static str = RECORD_HEADER;

    type Wire = RecordWire<'static>;

    fn build(wire: RecordWire<'static>) -> Result<Self, RecordError> {
        let RecordWire { agent, prev, run, seq, time, kind, .. } = wire;
        let bodies = [
            wire.approval.map(|body| Body::Approval(body.into_owned())),
            wire.beat.map(Body::Beat),
            wire.close.map(|body| Body::Close(body.into_owned())),
            wire.halt.map(|body| Body::Halt(body.into_owned())),
            wire.intent.map(|body| Body::Intent(body.into_owned())),
            wire.open.map(|body| Body::Open(body.into_owned())),
            wire.outcome.map(|body| Body::Outcome(body.into_owned())),
        ];
        let body = only(bodies).filter(|body| body.kind() == kind).ok_or(RecordError::Kind)?;
        Ok(Self { agent: agent.into_owned(), body, prev, run, seq, time })
    }

    fn check(&self) -> Result<(), RecordError> {
        if self.prev.is_none() != (self.seq == Seq::ZERO) {
            return Err(RecordError::Prev);
        }
        self.body.check(self.seq)
    }

    fn write(&self, target: &mut impl io::Write) -> Result<(), RecordError> {
        let mut wire = RecordWire {
            agent: Cow::Borrowed(&self.agent),
            approval: None,
            beat: None,
            close: None,
            halt: None,
            intent: None,
            kind: self.body.kind(),
            open: None,
            outcome: None,
            prev: self.prev,
            run: self.run,
            seq: self.seq,
            time: self.time,
        };
        match &self.body {
            Body::Approval(body) => wire.approval = Some(Cow::Borrowed(body)),
            Body::Beat(body) => wire.beat = Some(*body),
            Body::Close(body) => wire.close = Some(Cow::Borrowed(body)),
            Body::Halt(body) => wire.halt = Some(Cow::Borrowed(body)),
            Body::Intent(body) => wire.intent = Some(Cow::Borrowed(body)),
            Body::Open(body) => wire.open = Some(Cow::Borrowed(body)),
            Body::Outcome(body) => wire.outcome = Some(Cow::Borrowed(body)),
        }
        write_json(target, &wire)
    }
}

/// Digest of an action: SHA-256 over a domain line and the canonical JSON of agent, call, run and seq.
#[must_use]
pub fn action_of(agent: &AgentName, call: &Call, run: RunId, seq: Seq) -> Option<Hash> {
    #[derive(Serialize)]
    struct Action<'a> {
        agent: &'a AgentName,
        call: &'a Call,
        run: RunId,
        seq: Seq,
    }
    serde_json::to_string(&Action { agent, call, run, seq }).ok().map(|json| action_digest(&json))
}
