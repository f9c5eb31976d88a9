//! The state of a run: what happened in it, folded into the counters and facts that policies see.
//!
//! Kernel and auditor fold the same records and payloads in the same order and so get the same inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sift_spec::record::{Effect, Status};
use sift_spec::types::{AgentName, RunId, Seq, Text, UnixMillis, Word};

use crate::fact::{self, Fact, FactRules, Facts};
use crate::input::{CallCounts, CallInput, PolicyInput, RunInput, ToolCounts};
use crate::seen::{self, MarkOn, Report, Seen};

/// Most tools listed in a run's counts that never had a call let through: names come from the model.
pub const DENIED_TOOLS_MAX: usize = 64;

/// A tool's result as far as a bundle's rules over results concern it, read once. Reading takes much longer than taking
/// in what was read, so whoever keeps the states of many runs in one place reads elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultRead {
    /// What is remembered of it.
    fact: Option<Arc<Fact>>,
    /// All of it, where a rule concerns the tool.
    document: Option<Report>,
}

impl ResultRead {
    /// Reads the exact bytes of a result of `tool`; empty where there are none.
    #[must_use]
    pub fn of(rules: &FactRules, tool: &str, result: &[u8]) -> Self {
        let remembers = fact::remembers(&rules.facts, tool, result.len());
        let reads = remembers || seen::reads_results_of(&rules.seen, tool);
        let document = reads.then(|| Report::read(result));
        let members = document.as_ref().and_then(Report::object).filter(|_| remembers);
        Self { fact: members.map(|members| Arc::new(Fact::of(members))), document }
    }
}

/// What happened in a run. What is behind an `Arc` is shared with the inputs that were made of it, until it changes.
#[derive(Debug, Clone, PartialEq)]
pub struct RunState {
    agent: AgentName,
    calls: CallCounts,
    depth: u32,
    facts: Facts,
    labels: Arc<BTreeMap<Word, Text<256>>>,
    last_tool: Option<Text<128>>,
    marks: Arc<BTreeSet<String>>,
    rules: Arc<FactRules>,
    run: RunId,
    seen: Seen,
    started: UnixMillis,
    tools: Arc<BTreeMap<Text<128>, ToolCounts>>,
}

impl RunState {
    /// The state after a run's `open` record: its agent, run, depth (0 without parent), time and labels, and what the
    /// bundle that decides remembers.
    #[must_use]
    pub fn new(
        agent: AgentName,
        run: RunId,
        depth: u32,
        started: UnixMillis,
        labels: BTreeMap<Word, Text<256>>,
        rules: &FactRules,
    ) -> Self {
        Self {
            agent,
            calls: CallCounts::default(),
            depth,
            facts: Facts::default(),
            labels: Arc::new(labels),
            last_tool: None,
            marks: Arc::default(),
            rules: Arc::new(rules.clone()),
            run,
            seen: Seen::default(),
            started,
            tools: Arc::default(),
        }
    }

    /// What a policy sees of a call that is proposed now. `seq` is the position that its intent will have.
    #[must_use]
    pub fn input(&self, call: CallInput, seq: Seq, time: UnixMillis) -> PolicyInput {
        let tool = call.as_tool();
        let args = tool.and_then(|(_, args)| args);
        let rules = &self.rules;
        PolicyInput {
            agent: self.agent.clone(),
            facts: self.facts.seen_by(&rules.facts, args),
            run: RunInput {
                calls: self.calls,
                depth: self.depth,
                id: self.run,
                labels: Arc::clone(&self.labels),
                last_tool: self.last_tool.clone(),
                marks: (!rules.marks.is_empty()).then(|| Arc::clone(&self.marks)),
                seen: self.seen.seen_by(&rules.seen, args, tool.is_some()),
                seq,
                started: self.started,
                tools: Arc::clone(&self.tools),
            },
            time,
            call,
        }
    }

    /// Takes in an `intent` record; `effect` is [`sift_spec::record::Intent::effect`], which knows of budget refusals.
    pub fn on_intent(&mut self, call: &CallInput, effect: Effect) {
        let passed = effect != Effect::Deny;
        let count = match (passed, call) {
            (false, _) => &mut self.calls.denied,
            (true, CallInput::Agent { .. }) => &mut self.calls.agent,
            (true, CallInput::Model { .. }) => &mut self.calls.model,
            (true, CallInput::Tool { .. }) => &mut self.calls.tool,
        };
        add_one(count);
        if effect == Effect::Hold {
            add_one(&mut self.calls.held);
        }
        let CallInput::Tool { name, .. } = call else { return };
        if passed {
            self.last_tool = Some(name.clone());
            add_one(&mut Arc::make_mut(&mut self.tools).entry(name.clone()).or_default().allowed);
            self.mark(name.as_str(), MarkOn::Started);
        } else if let Some(counts) = Arc::make_mut(&mut self.tools).get_mut(name) {
            add_one(&mut counts.denied);
        } else if self.tools.values().filter(|counts| counts.allowed == 0).count() < DENIED_TOOLS_MAX {
            Arc::make_mut(&mut self.tools)
                .insert(name.clone(), ToolCounts { denied: 1, ..ToolCounts::default() });
        }
    }

    /// Takes in the `outcome` record of a call, with the exact bytes of its result; empty where there are none.
    pub fn on_outcome(&mut self, call: &CallInput, status: Status, result: &[u8]) {
        if let (CallInput::Tool { name, .. }, Status::Ok) = (call, status) {
            let read = ResultRead::of(&self.rules, name.as_str(), result);
            self.on_result(call, status, read);
        }
    }

    /// The same with a result that was read before, by the rules of this run's bundle.
    pub fn on_result(&mut self, call: &CallInput, status: Status, result: ResultRead) {
        let CallInput::Tool { name, args, .. } = call else { return };
        if status != Status::Ok {
            return;
        }
        if let Some(counts) = Arc::make_mut(&mut self.tools).get_mut(name) {
            add_one(&mut counts.ok);
        }
        self.mark(name.as_str(), MarkOn::Ok);
        let (args, document) = (args.as_ref(), result.document.as_ref());
        let report = result.fact.as_ref().zip(document.and_then(Report::object));
        self.facts.learn(&self.rules.facts, name.as_str(), args, report);
        self.seen.learn(&self.rules.seen, name.as_str(), args, document);
    }

    fn mark(&mut self, tool: &str, on: MarkOn) {
        let left = self.rules.marks.iter().filter(|rule| rule.on == on);
        let left = left.filter(|rule| rule.tools.iter().any(|name| name == tool));
        for rule in left {
            if !self.marks.contains(&rule.name) {
                Arc::make_mut(&mut self.marks).insert(rule.name.clone());
            }
        }
    }
}

/// A run has fewer than 2^53 records, so a count cannot overflow; it would stand still rather than wrap.
const fn add_one(count: &mut u64) {
    *count = count.saturating_add(1);
}
