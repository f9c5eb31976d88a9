//! Simulation: recorded calls, decided again under another bundle.
//!
//! What is compared is decision by decision. A run's counters and facts follow what was recorded, so each call is decided
//! on the history that it had: after a call that the new bundle would have denied, the recorded rest is what happened
//! because it was not, and the agent might have gone another way. With [`Follow::New`] the run follows the new decisions
//! instead, and what was not let through has no result.
//!
//! The ledger always follows the new decisions, in the order of the history: what the new bundle lets through is held at
//! the new prices' worst case and settled with what was billed. A call that was not made, or not answered, and is now let
//! through has no recorded cost: its whole worst case is settled, as for every call whose outcome nobody knows.
//!
//! A call cannot be decided again where its arguments, or a result that the new `facts.toml` remembers, are withheld or
//! erased, or where the start of its run is not in the history. Such calls are counted and said, and never guessed; the
//! ledger does not know of them, so limits may be met a little later here than they would have been. Nor does it know of
//! limits that a delegation set besides the bundle's.

use std::collections::BTreeMap;

use sift_spec::meter::Amounts;
use sift_spec::record::{Effect, Refusal, Scope, Status};
use sift_spec::types::{Hash, RunId, Seq, UnixMillis};

use crate::bundle::PolicyBundle;
use crate::history::{Came, Decided, Event, Happened, Proposed};
use crate::input::CallInput;
use crate::stage::{Opened, Ruling, Stage};
use crate::words::word;

/// What the state of a run follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Follow {
    /// What was recorded.
    #[default]
    Record,
    /// What the new bundle decides.
    New,
}

/// A recorded call, decided again.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulated {
    /// The run.
    pub run: RunId,
    /// Seq of the call.
    pub seq: Seq,
    /// The tool, model or agent.
    pub name: String,
    /// The recorded decision; `None` where nobody decided, and the call was made.
    pub old: Option<Decided>,
    /// What the new bundle says, or why it cannot be asked.
    pub new: Result<Ruling, Unknown>,
}

/// Why a call cannot be decided again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Its arguments are withheld or erased.
    #[error("its arguments are withheld or erased")]
    Arguments,
    /// A result that the policy remembers is withheld or erased.
    #[error("a result that facts.toml remembers is withheld or erased, of call {0}")]
    Result(Seq),
    /// The history does not hold the start of its run.
    #[error("the start of its run is not in the history")]
    Start,
    /// The bundle does not let its run open.
    #[error("its run does not open under this bundle: {0}")]
    NotOpen(String),
    /// What other runs used refused it, and they are not in the history.
    #[error("a limit over several runs refused it, and the other runs are not here")]
    OtherRuns,
    /// The ledger cannot take it.
    #[error("{0}")]
    Ledger(String),
}

/// How a call would be decided differently. Of several ways the first is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Something else would become of it.
    Effect,
    /// Other people would have to approve it, or within another time.
    Hold,
    /// The same would become of it by other rules, or by another limit.
    Rules,
    /// The same rules would give other reasons.
    Reasons,
}

impl Simulated {
    /// What became of the call as it was recorded. Where nobody decided, it was made.
    #[must_use]
    pub fn old_effect(&self) -> Effect {
        self.old.as_ref().map_or(Effect::Allow, |old| old.effect)
    }

    /// How it would be decided differently; `None` where it would not, where that cannot be told, or where nobody decided.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        let (Ok(new), Some(old)) = (&self.new, &self.old) else { return None };
        let reasons = || new.verdict.reasons.iter().map(|reason| reason.as_str());
        let ways = [
            (self.changes(), Change::Effect),
            (new.effect() == Effect::Hold && new.verdict.hold != old.hold, Change::Hold),
            (self.differs(), Change::Rules),
            (
                new.refusal != old.refusal || !reasons().eq(old.reasons.iter().map(String::as_str)),
                Change::Reasons,
            ),
        ];
        ways.into_iter().find_map(|(differs, change)| differs.then_some(change))
    }

    /// Whether something else would become of the call.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.new.as_ref().is_ok_and(|new| new.effect() != self.old_effect())
    }

    /// Whether other rules, or another limit, would decide the same.
    #[must_use]
    pub fn differs(&self) -> bool {
        let old = self.old.as_ref();
        self.new.as_ref().is_ok_and(|new| {
            old.is_some_and(|old| old.names() != new.names()) && new.effect() == self.old_effect()
        })
    }
}

/// Sums over a simulation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals {
    /// Runs.
    pub runs: u64,
    /// Calls.
    pub calls: u64,
    /// Calls that could not be decided again.
    pub unknown: u64,
    /// Calls by recorded effect and new effect.
    pub effects: BTreeMap<(String, String), u64>,
    /// Calls of which the effect changes, by the new rule or limit and its effect.
    pub by_rule: BTreeMap<(String, String), u64>,
    /// Calls with the same effect by other rules.
    pub other_rules: u64,
    /// Money that was settled, in micro-dollars, as far as it is recorded.
    pub settled_old: u64,
    /// Money that would have been settled, in micro-dollars.
    pub settled_new: u64,
    /// Of it, worst cases of calls that have no recorded cost.
    pub assumed: u64,
    /// Money that was settled for calls that the new bundle does not let through.
    pub spared: u64,
    /// Bundles that decided in the history.
    pub bundles: BTreeMap<Hash, u64>,
}

impl Totals {
    /// Adds the sums over another history.
    pub fn add(&mut self, other: Self) {
        let Self { runs, calls, unknown, effects, by_rule, other_rules, bundles, .. } = other;
        for (sum, more) in [
            (&mut self.runs, runs),
            (&mut self.calls, calls),
            (&mut self.unknown, unknown),
            (&mut self.other_rules, other_rules),
            (&mut self.settled_old, other.settled_old),
            (&mut self.settled_new, other.settled_new),
            (&mut self.assumed, other.assumed),
            (&mut self.spared, other.spared),
        ] {
            *sum = sum.saturating_add(more);
        }
        effects.into_iter().for_each(|(key, count)| *self.effects.entry(key).or_default() += count);
        by_rule.into_iter().for_each(|(key, count)| *self.by_rule.entry(key).or_default() += count);
        bundles.into_iter().for_each(|(key, count)| *self.bundles.entry(key).or_default() += count);
    }
}

/// A simulation under way.
#[derive(Debug)]
pub struct Simulation<'a> {
    stage: Stage<'a>,
    follow: Follow,
    /// Whether the history is one run of many.
    alone: bool,
    runs: BTreeMap<RunId, Run>,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Run {
    calls: BTreeMap<Seq, Seen>,
    /// Why nothing more can be said about the run.
    unknown: Option<Unknown>,
    /// Whether runs above or below it, which are not in the history, count against its limits.
    nested: bool,
}

/// A call whose outcome is still to come.
#[derive(Debug)]
struct Seen {
    call: Option<CallInput>,
    name: String,
    old: Effect,
    /// What is held for it, where the new bundle lets it through.
    held: Option<Amounts>,
    /// Whether the new bundle makes it wait where the record does.
    new: Option<Effect>,
}

impl<'a> Simulation<'a> {
    /// A simulation of nothing yet.
    #[must_use]
    pub fn new(bundle: &'a PolicyBundle, follow: Follow) -> Self {
        let (stage, runs, totals) = (Stage::new(bundle), BTreeMap::new(), Totals::default());
        Self { stage, follow, alone: false, runs, totals }
    }

    /// The same for a worker beside others: with a decider of its own ([`PolicyBundle::own_decider`]).
    #[must_use]
    pub fn with_own_decider(self) -> Self {
        Self { stage: self.stage.with_own_decider(), ..self }
    }

    /// Forgets all runs, for a history of one run that follows; gives the sums so far. The decider is kept.
    pub fn restart(&mut self) -> Totals {
        self.stage.clear();
        self.runs.clear();
        self.alone = true;
        std::mem::take(&mut self.totals)
    }

    /// The sums so far.
    #[must_use]
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Takes in what happened; a call comes out decided again.
    pub fn take(&mut self, happened: Happened) -> Option<Simulated> {
        let Happened { run, seq, time, event } = happened;
        match event {
            Event::Open { agent, depth, labels, parent, policy, name: _ } => {
                self.totals.runs += 1;
                if let Some(policy) = policy {
                    *self.totals.bundles.entry(policy).or_default() += 1;
                }
                // A run whose parent is not in the history counts alone.
                let nested = parent.is_some();
                let parent = parent.filter(|parent| self.runs.contains_key(parent));
                let opened = self.stage.open(Opened { run, agent, parent, depth, time, labels });
                let unknown = opened.err().map(|error| Unknown::NotOpen(error.to_string()));
                self.runs.insert(run, Run { calls: BTreeMap::new(), unknown, nested });
                None
            }
            Event::Call(proposed) => Some(self.call(run, seq, time, *proposed)),
            Event::Outcome(came) => {
                self.outcome(run, time, &came);
                None
            }
            Event::Close => {
                // What it still holds is settled in full.
                let _ = self.stage.close(run, time);
                self.runs.remove(&run);
                None
            }
        }
    }

    fn call(&mut self, run: RunId, seq: Seq, time: UnixMillis, proposed: Proposed) -> Simulated {
        let Proposed { name, call, identity, decided: old } = proposed;
        let old_effect = old.as_ref().map_or(Effect::Allow, |old| old.effect);
        let unknown = match self.runs.get(&run) {
            None => Some(Unknown::Start),
            Some(of_run) => of_run.unknown.clone(),
        };
        let new = match (unknown, &call) {
            (Some(unknown), _) => Err(unknown),
            (None, None) => Err(Unknown::Arguments),
            (None, Some(call)) => {
                let ruling = self.stage.propose(run, seq, time, call, identity);
                ruling.map_err(|error| Unknown::Ledger(error.to_string()))
            }
        };
        let new = match new {
            Ok(ruling) if ruling.effect() != Effect::Deny && self.by_others(run, old.as_ref()) => {
                self.settle(run, seq, time, Amounts::ZERO, false);
                Err(Unknown::OtherRuns)
            }
            new => new,
        };
        let new_effect = new.as_ref().ok().map(Ruling::effect);
        let followed = match self.follow {
            Follow::Record => old_effect,
            Follow::New => new_effect.unwrap_or(old_effect),
        };
        match &call {
            Some(call) => self.stage.on_intent(run, call, followed),
            // A tool call counts whatever its arguments are.
            None => {
                if let Ok(name) = name.parse() {
                    self.stage.on_intent(run, &CallInput::tool(name, b"{}"), followed);
                }
            }
        }
        // A delegated call settles what its run used, and nothing else of it counts here.
        if let (Some(CallInput::Agent { delegate: None, .. }), Some(of_run)) =
            (&call, self.runs.get_mut(&run))
        {
            of_run.nested |= followed != Effect::Deny;
        }
        let held =
            new.as_ref().ok().filter(|ruling| ruling.effect() != Effect::Deny).map(|ruling| ruling.reserved);
        if let Some(held) = held.filter(|_| old_effect == Effect::Deny) {
            // It was not made, so nobody knows what it would have cost.
            self.settle(run, seq, time, held, true);
        }
        if old_effect != Effect::Deny
            && let Some(of_run) = self.runs.get_mut(&run)
        {
            let seen = Seen { call, name: name.clone(), old: old_effect, held, new: new_effect };
            of_run.calls.insert(seq, seen);
        }
        let simulated = Simulated { run, seq, name, old, new };
        self.count(&simulated);
        simulated
    }

    /// Whether what runs that are not in the history used may have refused the call.
    fn by_others(&self, run: RunId, old: Option<&Decided>) -> bool {
        let Some(Refusal::Limit(limit)) = old.and_then(|old| old.refusal.as_ref()) else { return false };
        let nested = self.runs.get(&run).is_some_and(|of_run| of_run.nested);
        self.alone && (nested || limit.scope != Scope::Run)
    }

    fn count(&mut self, simulated: &Simulated) {
        let totals = &mut self.totals;
        totals.calls += 1;
        let old = simulated.old.as_ref().map_or_else(|| "made".to_owned(), |old| word(&old.effect));
        let new = match &simulated.new {
            Ok(ruling) => word(&ruling.effect()),
            Err(_) => {
                totals.unknown += 1;
                "unknown".to_owned()
            }
        };
        *totals.effects.entry((old, new.clone())).or_default() += 1;
        totals.other_rules += u64::from(simulated.differs());
        if simulated.changes()
            && let Ok(ruling) = &simulated.new
        {
            for name in ruling.names() {
                *totals.by_rule.entry((name, new.clone())).or_default() += 1;
            }
        }
    }

    fn outcome(&mut self, run: RunId, time: UnixMillis, came: &Came) {
        let old_money = came.settled.map_or(0, |settled| settled.money().get());
        self.totals.settled_old = self.totals.settled_old.saturating_add(old_money);
        let Some(of_run) = self.runs.get_mut(&run) else { return };
        let Some(seen) = of_run.calls.remove(&came.intent) else { return };
        if seen.new == Some(Effect::Deny) {
            self.totals.spared = self.totals.spared.saturating_add(old_money);
        }
        let Seen { call, name, old, held, new } = seen;
        let followed = match self.follow {
            Follow::Record => true,
            Follow::New => new != Some(Effect::Deny),
        };
        if followed {
            let remembered = self.stage.bundle().facts().read_calls_of(&name);
            match (&call, &came.result) {
                (Some(call), Some(result)) => self.stage.on_outcome(run, call, came.status, result),
                _ if remembered && came.status == Status::Ok => {
                    of_run.unknown.get_or_insert(Unknown::Result(came.intent));
                }
                // Nothing is remembered of it besides that it went well.
                (Some(call), None) => self.stage.on_outcome(run, call, came.status, b""),
                (None, _) => {
                    if let Ok(name) = name.parse() {
                        self.stage.on_outcome(run, &CallInput::tool(name, b"{}"), came.status, b"");
                    }
                }
            }
        }
        let Some(held) = held else { return };
        // A call that nobody approved in time was not made; where it needs no approval now, it would have been.
        let not_made = came.status == Status::Cancelled;
        let billed = match (&call, &came.usage, came.status) {
            _ if not_made && old == Effect::Hold && new == Some(Effect::Allow) => None,
            (_, _, Status::Cancelled) => Some(Amounts::ZERO),
            (Some(CallInput::Model { model, provider, .. }), Some(usage), Status::Ok | Status::Error) => {
                Some(self.stage.bundle().billed(provider.as_str(), model.as_str(), usage))
            }
            _ => None,
        };
        let assumed = billed.is_none();
        self.settle(run, came.intent, time, billed.unwrap_or(held), assumed);
    }

    fn settle(&mut self, run: RunId, seq: Seq, time: UnixMillis, settled: Amounts, assumed: bool) {
        if self.stage.settle(run, seq, time, settled).is_ok() {
            let money = settled.money().get();
            self.totals.settled_new = self.totals.settled_new.saturating_add(money);
            if assumed {
                self.totals.assumed = self.totals.assumed.saturating_add(money);
            }
        }
    }
}
