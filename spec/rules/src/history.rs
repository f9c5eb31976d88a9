//! What happened in runs, as far as decisions rest on it: what was proposed, decided and done, in order.

use std::collections::BTreeMap;

use sift_spec::meter::{Amounts, Usage};
use sift_spec::payload::Commitment;
use sift_spec::record::{Body, Call, Effect, Intent, Outcome, Record, Refusal, Status};
use sift_spec::types::{AgentName, Hash, RunId, Seq, Text, UnixMillis, Word};

use crate::input::CallInput;
use crate::need::identity;
use crate::verdict::HoldFor;
use crate::words::refusal_name;

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Happened {
    /// The run.
    pub run: RunId,
    /// Its place in the run.
    pub seq: Seq,
    /// When.
    pub time: UnixMillis,
    /// What.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The run started.
    Open {
        /// Its agent.
        agent: AgentName,
        /// Nesting depth: 0 for a run without parent.
        depth: u32,
        /// Its labels.
        labels: BTreeMap<Word, Text<256>>,
        /// The run above it.
        parent: Option<RunId>,
        /// The bundle that decided, where one did.
        policy: Option<Hash>,
        /// What it is called, where it has a name besides its identifier.
        name: Option<String>,
    },
    /// A call was proposed.
    Call(Box<Proposed>),
    /// It came back.
    Outcome(Box<Came>),
    /// The run ended.
    Close,
}

/// A call as it was proposed and decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposed {
    /// The tool, model or agent.
    pub name: String,
    /// The call as a policy sees it; `None` where its arguments are withheld or erased.
    pub call: Option<CallInput>,
    /// What identical tool calls share.
    pub identity: Option<Hash>,
    /// What was decided; `None` where nobody decided.
    pub decided: Option<Decided>,
}

/// A recorded decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// What became of the call; a refusal by the budget is a denial.
    pub effect: Effect,
    /// The policy's rules that decided.
    pub rules: Vec<String>,
    /// Its reasons.
    pub reasons: Vec<String>,
    /// Whose approvals the call waited for, where the policy asked for some.
    pub hold: Option<HoldFor>,
    /// Why the budget refused.
    pub refusal: Option<Refusal>,
    /// What was held.
    pub reserved: Amounts,
    /// The policy's input as it was stated; `None` where it is withheld or erased.
    pub input: Option<Vec<u8>>,
}

impl Decided {
    /// The rules that decided; the limit, where the budget did.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.refusal.as_ref().map_or_else(|| self.rules.clone(), |refusal| vec![refusal_name(refusal)])
    }
}

/// What came back from a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    /// Seq of the call.
    pub intent: Seq,
    /// How it ended.
    pub status: Status,
    /// The exact bytes of the result, empty where there is none; `None` where they are withheld or erased.
    pub result: Option<Vec<u8>>,
    /// What the provider billed.
    pub usage: Option<Usage>,
    /// What was settled; `None` where nobody settled.
    pub settled: Option<Amounts>,
}

impl Happened {
    /// A record as history; `None` for kinds that no decision rests on. `content` gives what a commitment commits to, where
    /// it is at hand.
    #[must_use]
    pub fn of(record: &Record, content: impl Fn(&Commitment) -> Option<Vec<u8>>) -> Option<Self> {
        let event = match &record.body {
            Body::Open(open) => Event::Open {
                agent: record.agent.clone(),
                depth: open.parent.as_ref().map_or(0, |parent| parent.depth),
                labels: open.labels.clone(),
                parent: open.parent.as_ref().map(|parent| parent.run),
                policy: Some(open.policy),
                name: None,
            },
            Body::Intent(intent) => Event::Call(Box::new(proposed(intent, record.time, content))),
            Body::Outcome(outcome) => Event::Outcome(Box::new(came(outcome, content))),
            Body::Close(_) => Event::Close,
            Body::Approval(_) | Body::Beat(_) | Body::Halt(_) => return None,
        };
        Some(Self { run: record.run, seq: record.seq, time: record.time, event })
    }
}

fn proposed(intent: &Intent, time: UnixMillis, content: impl Fn(&Commitment) -> Option<Vec<u8>>) -> Proposed {
    let (name, args) = match &intent.call {
        Call::Agent(call) => (call.agent.to_string(), Some(Vec::new())),
        Call::Model(call) => (call.model.to_string(), Some(Vec::new())),
        Call::Tool(call) => (call.name.to_string(), content(&call.args)),
    };
    let is_tool = matches!(intent.call, Call::Tool(_));
    let decided = Decided {
        effect: intent.effect(),
        rules: intent.decision.rules.iter().map(ToString::to_string).collect(),
        reasons: intent.decision.reasons.iter().map(ToString::to_string).collect(),
        hold: intent.decision.hold.as_ref().map(|hold| HoldFor {
            approvals: hold.approvals.clone(),
            seconds: hold.deadline.get().saturating_sub(time.get()) / 1000,
        }),
        refusal: intent.refusal.clone(),
        reserved: intent.reserved,
        input: content(&intent.decision.input),
    };
    Proposed {
        identity: args.as_ref().filter(|_| is_tool).map(|args| identity(&name, args)),
        call: args.map(|args| CallInput::of(&intent.call, &args)),
        name,
        decided: Some(decided),
    }
}

fn came(outcome: &Outcome, content: impl Fn(&Commitment) -> Option<Vec<u8>>) -> Came {
    Came {
        intent: outcome.intent,
        status: outcome.status,
        result: outcome.result.as_ref().map_or(Some(Vec::new()), content),
        usage: outcome.model.as_ref().map(|model| model.usage),
        settled: Some(outcome.settled),
    }
}
