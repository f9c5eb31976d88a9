//! Runs in memory: the state, the ledger and the rules of the kernel, without its records.

use std::collections::BTreeMap;

use sift_spec::meter::Amounts;
use sift_spec::record::{Effect, Refusal, Status};
use sift_spec::types::{AgentName, Hash, RunId, Seq, Text, UnixMillis, Word};

use crate::bundle::PolicyBundle;
use crate::decide::Decider;
use crate::input::CallInput;
use crate::ledger::{Close, Ledger, LedgerError, Open, Reserve, Settle};
use crate::state::RunState;
use crate::verdict::Verdict;
use crate::words::refusal_name;

/// What policy and budget say about one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// What the policy says.
    pub verdict: Verdict,
    /// Why the budget refuses what the policy lets through.
    pub refusal: Option<Refusal>,
    /// What is held for the call; nothing where it is denied.
    pub reserved: Amounts,
    /// The exact bytes that were decided on.
    pub input: Vec<u8>,
}

impl Ruling {
    /// What becomes of the call, as its intent would say it.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        if self.refusal.is_some() { Effect::Deny } else { self.verdict.effect }
    }

    /// The rules that decided; the limit, where the budget did.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        match &self.refusal {
            Some(refusal) => vec![refusal_name(refusal)],
            None => self.verdict.rules.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A run as its `open` record states it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The run.
    pub run: RunId,
    /// Its agent.
    pub agent: AgentName,
    /// The run above it, if that is on this stage.
    pub parent: Option<RunId>,
    /// Nesting depth: 0 for a run without parent.
    pub depth: u32,
    /// Time of the record.
    pub time: UnixMillis,
    /// Its labels.
    pub labels: BTreeMap<Word, Text<256>>,
}

/// Runs under one bundle.
#[derive(Debug)]
pub struct Stage<'a> {
    bundle: &'a PolicyBundle,
    decider: Decider,
    ledger: Ledger,
    states: BTreeMap<RunId, RunState>,
    /// Latest time so far: the ledger takes none before it.
    time: UnixMillis,
}

impl<'a> Stage<'a> {
    /// An empty stage.
    #[must_use]
    pub fn new(bundle: &'a PolicyBundle) -> Self {
        let (decider, ledger) = (bundle.decider(), Ledger::default());
        Self { bundle, decider, ledger, states: BTreeMap::new(), time: UnixMillis::ZERO }
    }

    /// The same with a decider of its own ([`PolicyBundle::own_decider`]).
    #[must_use]
    pub fn with_own_decider(self) -> Self {
        Self { decider: self.bundle.own_decider(), ..self }
    }

    /// The bundle that decides.
    #[must_use]
    pub const fn bundle(&self) -> &'a PolicyBundle {
        self.bundle
    }

    /// Forgets all runs and sums.
    pub fn clear(&mut self) {
        self.ledger = Ledger::default();
        self.states.clear();
        self.time = UnixMillis::ZERO;
    }

    /// The sums.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Opens a run.
    ///
    /// # Errors
    /// When it is nested too deeply, is open already, or its parent is not on the stage.
    pub fn open(&mut self, opened: Opened) -> Result<(), LedgerError> {
        let Opened { run, agent, parent, depth, time, labels } = opened;
        let limits = self.bundle.budget().limits().clone();
        let open = Open { agent: agent.clone(), depth, limits, parent, run, time: self.at(time) };
        self.ledger.open(&open)?;
        let state = RunState::new(agent, run, depth, time, labels, self.bundle.facts());
        self.states.insert(run, state);
        Ok(())
    }

    /// Decides a call and holds its worst case. The state of the run learns of it by [`Stage::on_intent`] alone.
    ///
    /// # Errors
    /// When the run is not open, or `seq` is not after its last one.
    pub fn propose(
        &mut self,
        run: RunId,
        seq: Seq,
        time: UnixMillis,
        call: &CallInput,
        identity: Option<Hash>,
    ) -> Result<Ruling, LedgerError> {
        let state = self.states.get(&run).ok_or(LedgerError::RunUnknown(run))?;
        let input = state.input(call.clone(), seq, time).to_bytes();
        let verdict = self.decider.decide(&input);
        if verdict.effect == Effect::Deny {
            return Ok(Ruling { verdict, refusal: None, reserved: Amounts::ZERO, input });
        }
        let refused = |refusal| (Some(refusal), Amounts::ZERO);
        let (refusal, reserved) = match self.bundle.need(call) {
            Err(refusal) => refused(refusal),
            Ok(amounts) => {
                let reserve = Reserve { amounts, identity, run, seq, time: self.at(time) };
                match self.ledger.reserve(&reserve)? {
                    Ok(()) => (None, amounts),
                    Err(refusal) => refused(refusal),
                }
            }
        };
        Ok(Ruling { verdict, refusal, reserved, input })
    }

    /// The run learns that a call was proposed, and what became of it.
    pub fn on_intent(&mut self, run: RunId, call: &CallInput, effect: Effect) {
        if let Some(state) = self.states.get_mut(&run) {
            state.on_intent(call, effect);
        }
    }

    /// The run learns what came back, with the exact bytes of the result.
    pub fn on_outcome(&mut self, run: RunId, call: &CallInput, status: Status, result: &[u8]) {
        if let Some(state) = self.states.get_mut(&run) {
            state.on_outcome(call, status, result);
        }
    }

    /// Replaces what is held for a call with what it cost.
    ///
    /// # Errors
    /// When nothing is held for it.
    pub fn settle(
        &mut self,
        run: RunId,
        seq: Seq,
        time: UnixMillis,
        settled: Amounts,
    ) -> Result<(), LedgerError> {
        let time = self.at(time);
        self.ledger.settle(&Settle { run, seq, settled, time }).map(drop)
    }

    /// Ends a run. What it still holds is settled in full, as the kernel does where an outcome is unknown.
    ///
    /// # Errors
    /// When the run is not open.
    pub fn close(&mut self, run: RunId, time: UnixMillis) -> Result<(), LedgerError> {
        let time = self.at(time);
        let holds: Vec<(Seq, Amounts)> = self.ledger.holds(run).collect();
        for (seq, settled) in holds {
            self.ledger.settle(&Settle { run, seq, settled, time })?;
        }
        self.states.remove(&run);
        self.ledger.close(&Close { run, time })
    }

    /// Times never run backwards in a ledger.
    fn at(&mut self, time: UnixMillis) -> UnixMillis {
        self.time = self.time.max(time);
        self.time
    }
}
