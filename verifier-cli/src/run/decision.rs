//! Decisions, made again: about the input that records and payloads give, not the one that the kernel states.
//!
//! A kernel could decide honestly about an invented input. So the run is folded from its records once more, the
//! policy input of each call is derived from that, and only then is the policy asked. Where payloads are withheld,
//! the parts that rest on them are taken from the stated input, and the report says so.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use sift_rules::{CallInput, Decider, PolicyBundle, PolicyInput, RunState, Verdict};
use sift_spec::record::{Body, Call, Decision, Effect, Intent, Outcome, Status};
use sift_spec::types::{Seq, UnixMillis};

use super::entries::RunEntry;
use super::payload::Payloads;
use super::record::Story;
use crate::finding::{Code, Concern, Gap};
use crate::report::{Claim, Proven, Report};
use crate::text::Many;

/// Decisions that came out again.
#[derive(Debug)]
pub(super) struct VerifiedDecisions {
    decisions: u64,
    /// Of them, those whose stated input was derived in full as well.
    inputs: u64,
    _assertion: (),
}

impl Proven for VerifiedDecisions {
    fn claim(&self) -> Claim {
        let (decisions, inputs) = (Many(self.decisions, "decision"), self.inputs);
        let detail =
            format!("{decisions} made again with the same result; {inputs} of the inputs derived in full");
        Claim { what: "decisions", count: self.decisions, detail }
    }
}

/// Derives every input and makes every decision again. `undecided` is given the calls of which that is not possible.
pub(super) fn verify(
    story: &Story<'_>,
    bundle: &PolicyBundle,
    decider: &mut Decider,
    payloads: &Payloads,
    undecided: &mut BTreeSet<Seq>,
    report: &mut Report,
) -> Option<VerifiedDecisions> {
    let mark = report.mark();
    let mut replay = Replay::new(story, bundle, decider, payloads);
    for record in story.records {
        match &record.record.body {
            Body::Intent(intent) => replay.intent(record, intent, report),
            Body::Outcome(outcome) => replay.outcome(outcome),
            Body::Approval(_) | Body::Beat(_) | Body::Close(_) | Body::Halt(_) | Body::Open(_) => {}
        }
    }
    let Replay { decisions, inputs, undecided: not_made, partial, .. } = replay;
    *undecided = not_made;
    if !undecided.is_empty() || partial > 0 {
        let undecided = undecided.len();
        let detail = format!("{undecided} not made again; {partial} about an input that was derived in part");
        report.leave(Gap::DecisionUnchecked, Concern::run(story.run), detail);
    }
    let verified = report.clean_since(mark) && decisions > 0;
    verified.then_some(VerifiedDecisions { decisions, inputs, _assertion: () })
}

struct Replay<'a> {
    bundle: &'a PolicyBundle,
    payloads: &'a Payloads,
    decider: &'a mut Decider,
    state: RunState,
    /// Calls by seq of their intent, for their outcomes.
    calls: BTreeMap<Seq, Seen>,
    /// Whether a withheld payload may have told the kernel a fact.
    facts_unknown: bool,
    decisions: u64,
    inputs: u64,
    undecided: BTreeSet<Seq>,
    partial: u64,
}

/// A call as the policy saw it.
struct Seen {
    call: CallInput,
    /// Whether its arguments come from the payload that the record commits to.
    args_known: bool,
}

impl<'a> Replay<'a> {
    fn new(
        story: &Story<'_>,
        bundle: &'a PolicyBundle,
        decider: &'a mut Decider,
        payloads: &'a Payloads,
    ) -> Self {
        let opened = &story.first.record;
        let (agent, labels) = (opened.agent.clone(), story.open.labels.clone());
        let state = RunState::new(agent, story.run, story.depth(), opened.time, labels, bundle.facts());
        Self {
            bundle,
            payloads,
            decider,
            state,
            calls: BTreeMap::new(),
            facts_unknown: false,
            decisions: 0,
            inputs: 0,
            undecided: BTreeSet::new(),
            partial: 0,
        }
    }

    fn intent(&mut self, record: &RunEntry, intent: &Intent, report: &mut Report) {
        let stated = self.payloads.content(&intent.decision.input);
        let mut seen = self.see(&intent.call);
        let mut input = self.state.input(seen.call.clone(), record.record.seq, record.record.time);
        let derived = seen.args_known && !self.facts_unknown;
        // The input to decide about: derived where it can be, else stated, with every part that can be compared.
        let bytes = match (derived, stated) {
            (true, None) => Some(Cow::Owned(input.to_bytes())),
            (false, None) => None,
            (true, Some(stated)) => {
                self.inputs += 1;
                Some(Cow::Borrowed(stated))
            }
            (false, Some(stated)) => {
                self.partial += 1;
                if let Ok(stated) = PolicyInput::from_bytes(stated) {
                    // Which facts and known values a call sees depends on its arguments.
                    input.facts = stated.facts;
                    input.run.seen = stated.run.seen;
                    if !seen.args_known && same_tool(&stated.call, &seen.call) {
                        seen.call = stated.call.clone();
                        input.call = stated.call;
                    }
                }
                Some(Cow::Borrowed(stated))
            }
        };
        if let Some(stated) = stated
            && input.to_bytes() != stated
        {
            report.reject(Code::InputDiffers, record.concern(), difference(&input, stated));
        }
        match bytes {
            None => {
                self.undecided.insert(record.record.seq);
            }
            Some(bytes) => {
                self.decisions += 1;
                let verdict = self.decider.decide(&bytes);
                if let Some(detail) = contradiction(&intent.decision, verdict, record.record.time) {
                    report.reject(Code::DecisionDiffers, record.concern(), detail);
                }
            }
        }
        self.state.on_intent(&seen.call, intent.effect());
        if intent.effect() != Effect::Deny {
            self.calls.insert(record.record.seq, seen);
        }
    }

    fn outcome(&mut self, outcome: &Outcome) {
        let Some(seen) = self.calls.remove(&outcome.intent) else { return };
        let result = match &outcome.result {
            None => Some(&b""[..]),
            Some(commitment) => self.payloads.content(commitment),
        };
        let tells_facts = |(tool, _): (&str, _)| self.bundle.facts().read_calls_of(tool);
        if outcome.status == Status::Ok && seen.call.as_tool().is_some_and(tells_facts) {
            self.facts_unknown |= result.is_none() || !seen.args_known;
        }
        self.state.on_outcome(&seen.call, outcome.status, result.unwrap_or_default());
    }

    fn see(&self, call: &Call) -> Seen {
        let args = match call {
            Call::Agent(_) | Call::Model(_) => Some(&b""[..]),
            Call::Tool(call) => self.payloads.content(&call.args),
        };
        Seen { call: CallInput::of(call, args.unwrap_or_default()), args_known: args.is_some() }
    }
}

fn same_tool(a: &CallInput, b: &CallInput) -> bool {
    let name = |call: &CallInput| call.as_tool().map(|(name, _)| name.to_owned());
    name(a).is_some() && name(a) == name(b)
}

/// Where a stated input differs from the derived one.
fn difference(derived: &PolicyInput, stated: &[u8]) -> String {
    let stated = match PolicyInput::from_bytes(stated) {
        Ok(stated) => stated,
        Err(why) => return format!("the stated input is no policy input: {why}"),
    };
    let parts = [
        ("agent", stated.agent != derived.agent),
        ("call", stated.call != derived.call),
        ("facts", stated.facts != derived.facts),
        ("run", stated.run != derived.run),
        ("time", stated.time != derived.time),
    ];
    let parts: Vec<&str> = parts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    format!("the stated input differs from the one that records and payloads give in: {}", parts.join(", "))
}

/// Where the record contradicts the verdict.
fn contradiction(stated: &Decision, verdict: Verdict, time: UnixMillis) -> Option<&'static str> {
    let derived = verdict.into_decision(stated.input.clone(), time);
    let parts = [
        (stated.effect != derived.effect, "the policy says another effect than the record"),
        (stated.rules != derived.rules, "the record names other rules than the ones that fired"),
        (stated.reasons != derived.reasons, "the record gives other reasons than the policy"),
        (stated.hold != derived.hold, "the record names another approver or deadline than the policy"),
    ];
    parts.into_iter().find(|(differs, _)| *differs).map(|(_, what)| what)
}
