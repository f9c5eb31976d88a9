//! The budget ledger: plain data and pure functions.
//!
//! Before a call, [`Ledger::reserve`] holds its worst case in every scope or in none; after it, [`Ledger::settle`]
//! replaces the hold with what was billed. A call counts in its run and in every run above it, under its agent's
//! name, and in the kernel. What is held counts in every window until it is settled; what is settled counts from the
//! time of the settlement on. So `held + settled` never passes a limit, however many calls are under way, unless a
//! call is billed more than was held for it, and that [`Settled::over`] reports.
//!
//! An operation that returns an error has changed nothing. Size is bounded by the live runs, what they hold, and one
//! bucket a minute for each window.
//!
//! A run that another kernel delegated is opened without a run above it, at its depth and under its narrowed limits:
//! what it may spend is held in the ledger of the kernel that delegated it.
//!
//! Out of scope: prices ([`crate::price`]), and who may open a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sift_spec::meter::{Amounts, Meter};
use sift_spec::record::{
    DepthRefusal, Identical, LimitRefusal, Limits, MeterLimit, Refusal, Scope, WallClock, Window,
};
use sift_spec::types::{AgentName, Hash, RunId, Seq, UnixMillis};

use crate::window::{DAY_BUCKETS, HOUR_BUCKETS, Trailing};

/// Why an operation does not fit the ledger. The caller is at fault, or an auditor has found a contradiction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The time is before an earlier operation's.
    #[error("time {time} is before {latest}, the time of an earlier operation")]
    TimeBackwards {
        /// Time of the operation.
        time: UnixMillis,
        /// Latest time so far.
        latest: UnixMillis,
    },
    /// The run is open already.
    #[error("run {0} is open already")]
    RunExists(RunId),
    /// The run is not open.
    #[error("run {0} is not open")]
    RunUnknown(RunId),
    /// The run is nested deeper than its limits, or those of a run above it, allow.
    #[error("run at depth {depth} where at most {limit} is allowed")]
    Depth {
        /// Depth of the run.
        depth: u32,
        /// The limit.
        limit: u32,
    },
    /// The seq is not after that of the run's last reservation: a duplicate, or out of order.
    #[error("seq {seq} is not after {last}, the last reservation of the run")]
    SeqNotAfter {
        /// Seq of the operation.
        seq: Seq,
        /// Seq of the last reservation.
        last: Seq,
    },
    /// Nothing is held under this seq: never reserved, or settled already.
    #[error("run {run} holds nothing under seq {seq}")]
    NoHold {
        /// The run.
        run: RunId,
        /// The seq.
        seq: Seq,
    },
    /// A run cannot be closed while it holds something.
    #[error("the run still holds {0} reservations")]
    HoldsOpen(usize),
    /// A sum would pass 2^53 − 1. On a reservation, the call is to be denied.
    #[error("a sum would pass 2^53 - 1")]
    Overflow,
}

/// An operation on the ledger, as a store may keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// A run ends.
    Close(Close),
    /// A run starts.
    Open(Open),
    /// A call needs its worst case.
    Reserve(Reserve),
    /// A call was billed.
    Settle(Settle),
}

/// A run starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// The agent.
    pub agent: AgentName,
    /// Depth of a run that another kernel delegated; not looked at where there is a run above it here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u32,
    /// The run's limits, those of scope agent and kernel included.
    pub limits: Limits,
    /// The run above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<RunId>,
    /// The run.
    pub run: RunId,
    /// Time of the `open` record.
    pub time: UnixMillis,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde asks for
const fn is_zero(depth: &u32) -> bool {
    *depth == 0
}

/// A call needs its worst case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    /// The worst case of the call.
    pub amounts: Amounts,
    /// What identical calls share: a digest over tool and argument bytes. `None` for calls that are not counted so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Hash>,
    /// The run.
    pub run: RunId,
    /// Seq of the intent; greater than that of every earlier reservation of the run.
    pub seq: Seq,
    /// Time of the intent.
    pub time: UnixMillis,
}

/// A call was billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settle {
    /// The run.
    pub run: RunId,
    /// Seq of the intent.
    pub seq: Seq,
    /// What was billed; for an unknown outcome the whole hold.
    pub settled: Amounts,
    /// Time of the outcome.
    pub time: UnixMillis,
}

/// A run ends. It may hold nothing any more; it is forgotten once the runs below it have ended too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// The run.
    pub run: RunId,
    /// Time of the `close` record.
    pub time: UnixMillis,
}

/// What an [`Event`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The run is closed.
    Closed,
    /// The run is open.
    Opened,
    /// The worst case is held in every scope.
    Reserved,
    /// Nothing is held: a limit would be passed.
    Refused(Refusal),
    /// The hold is replaced with what was billed.
    Settled(Settled),
}

/// What a settlement found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The first meter of which more was billed than held; recorded in full all the same.
    pub over: Option<Meter>,
}

/// What is held and settled, for every live run, every agent name and the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    agents: BTreeMap<AgentName, Account>,
    kernel: Account,
    runs: BTreeMap<RunId, Run>,
    time: UnixMillis,
}

/// Sums of one scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Account {
    day: Trailing,
    held: Amounts,
    hour: Trailing,
    settled: Amounts,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    account: Account,
    agent: AgentName,
    children: u32,
    closed: bool,
    depth: u32,
    holds: BTreeMap<Seq, Amounts>,
    identical: BTreeMap<Hash, u32>,
    last: Option<Seq>,
    limits: Limits,
    opened: UnixMillis,
    parent: Option<RunId>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            agents: BTreeMap::new(),
            kernel: Account::new(),
            runs: BTreeMap::new(),
            time: UnixMillis::ZERO,
        }
    }
}

impl Ledger {
    /// Applies one operation.
    ///
    /// # Errors
    /// When the operation does not fit; the ledger is then unchanged. A refusal is no error.
    pub fn apply(&mut self, event: &Event) -> Result<Applied, LedgerError> {
        match event {
            Event::Close(close) => self.close(close).map(|()| Applied::Closed),
            Event::Open(open) => self.open(open).map(|()| Applied::Opened),
            Event::Reserve(reserve) => {
                Ok(self.reserve(reserve)?.map_or_else(Applied::Refused, |()| Applied::Reserved))
            }
            Event::Settle(settle) => self.settle(settle).map(Applied::Settled),
        }
    }

    /// Opens a run, below its parent's if it has one.
    ///
    /// # Errors
    /// When the run is open already, the parent is not open, or the run is nested too deeply.
    pub fn open(&mut self, open: &Open) -> Result<(), LedgerError> {
        self.check_time(open.time)?;
        if self.runs.contains_key(&open.run) {
            return Err(LedgerError::RunExists(open.run));
        }
        let mut depth = open.depth;
        if let Some(parent) = open.parent {
            let above = self.live(parent)?;
            depth = above.depth.checked_add(1).ok_or(LedgerError::Overflow)?;
            above.children.checked_add(1).ok_or(LedgerError::Overflow)?;
        }
        let of_above = open.parent.and_then(|parent| self.depth_limit(parent));
        if let Some(limit) =
            open.limits.depth.into_iter().chain(of_above).min().filter(|limit| depth > *limit)
        {
            return Err(LedgerError::Depth { depth, limit });
        }
        if let Some(above) = open.parent.and_then(|parent| self.runs.get_mut(&parent)) {
            above.children += 1;
        }
        self.time = open.time;
        self.agents.entry(open.agent.clone()).or_insert_with(Account::new);
        self.runs.insert(
            open.run,
            Run {
                account: Account::new(),
                agent: open.agent.clone(),
                children: 0,
                closed: false,
                depth,
                holds: BTreeMap::new(),
                identical: BTreeMap::new(),
                last: None,
                limits: open.limits.clone(),
                opened: open.time,
                parent: open.parent,
            },
        );
        Ok(())
    }

    /// Holds the worst case of a call in every scope, or refuses and holds it in none.
    ///
    /// Checked in this order, and the first failure is the refusal: wall clock, identical calls, depth, limits over
    /// meters as sorted; each for the run first and then for the runs above it. Limits of scope agent and kernel are
    /// those of the run that asks. A meter of which the call needs nothing is not checked.
    ///
    /// # Errors
    /// When the run is not open, or the seq is not after that of the run's last reservation, or time goes backwards.
    /// [`LedgerError::Overflow`] when a sum would pass 2^53 − 1, whether it has a limit or not: no limit refuses such a
    /// call, but the caller must deny it.
    pub fn reserve(&mut self, reserve: &Reserve) -> Result<Result<(), Refusal>, LedgerError> {
        self.check_time(reserve.time)?;
        let run = self.live(reserve.run)?;
        if let Some(last) = run.last.filter(|last| *last >= reserve.seq) {
            return Err(LedgerError::SeqNotAfter { seq: reserve.seq, last });
        }
        if let Some(refusal) = self.refusal(run, reserve)? {
            self.time = reserve.time;
            return Ok(Err(refusal));
        }
        let agent = run.agent.clone();
        let lineage = self.lineage(reserve.run);
        // Every sum is checked before any is changed.
        for account in self.accounts(&lineage, &agent) {
            account.held.checked_add(&reserve.amounts).ok_or(LedgerError::Overflow)?;
        }
        self.time = reserve.time;
        self.for_each_account(&lineage, &agent, |account| {
            if let Some(held) = account.held.checked_add(&reserve.amounts) {
                account.held = held;
            }
        });
        if let Some(run) = self.runs.get_mut(&reserve.run) {
            run.last = Some(reserve.seq);
            run.holds.insert(reserve.seq, reserve.amounts);
            if let (Some(identity), Some(_)) = (reserve.identity, run.limits.identical_calls) {
                let count = run.identical.entry(identity).or_default();
                *count = count.saturating_add(1);
            }
        }
        Ok(Ok(()))
    }

    /// Replaces a hold with what was billed, in every scope.
    ///
    /// # Errors
    /// When nothing is held under this run and seq, or time goes backwards.
    pub fn settle(&mut self, settle: &Settle) -> Result<Settled, LedgerError> {
        self.check_time(settle.time)?;
        let no_hold = LedgerError::NoHold { run: settle.run, seq: settle.seq };
        let run = self.runs.get(&settle.run).ok_or(LedgerError::RunUnknown(settle.run))?;
        let hold = *run.holds.get(&settle.seq).ok_or(no_hold)?;
        let agent = run.agent.clone();
        let lineage = self.lineage(settle.run);
        for account in self.accounts(&lineage, &agent) {
            account.held.checked_sub(&hold).ok_or(LedgerError::Overflow)?;
            // A window holds no more than all that was settled, so this bounds its sum too.
            account.settled.checked_add(&settle.settled).ok_or(LedgerError::Overflow)?;
        }
        self.time = settle.time;
        self.for_each_account(&lineage, &agent, |account| {
            account.settle(&hold, &settle.settled, settle.time)
        });
        if let Some(run) = self.runs.get_mut(&settle.run) {
            run.holds.remove(&settle.seq);
        }
        Ok(Settled { over: settle.settled.first_above(&hold) })
    }

    /// Closes a run; it takes no reservations any more.
    ///
    /// # Errors
    /// When the run is not open, still holds something, or time goes backwards.
    pub fn close(&mut self, close: &Close) -> Result<(), LedgerError> {
        self.check_time(close.time)?;
        let holds = self.live(close.run)?.holds.len();
        if holds > 0 {
            return Err(LedgerError::HoldsOpen(holds));
        }
        self.time = close.time;
        if let Some(run) = self.runs.get_mut(&close.run) {
            run.closed = true;
        }
        let mut next = Some(close.run);
        while let Some(id) = next {
            if !self.runs.get(&id).is_some_and(|run| run.closed && run.children == 0) {
                break;
            }
            next = self.runs.remove(&id).and_then(|run| run.parent);
            if let Some(above) = next.and_then(|parent| self.runs.get_mut(&parent)) {
                above.children = above.children.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// What a live run and the runs below it hold now. `None` when the run is not in the ledger.
    #[must_use]
    pub fn held(&self, run: RunId) -> Option<Amounts> {
        self.runs.get(&run).map(|run| run.account.held)
    }

    /// What a live run and the runs below it have settled. `None` when the run is not in the ledger.
    #[must_use]
    pub fn settled(&self, run: RunId) -> Option<Amounts> {
        self.runs.get(&run).map(|run| run.account.settled)
    }

    /// Whether runs below this one are not closed yet.
    #[must_use]
    pub fn has_below(&self, run: RunId) -> bool {
        self.runs.get(&run).is_some_and(|run| run.children > 0)
    }

    /// The strictest limit on depth of a run and the runs above it.
    #[must_use]
    pub fn depth_limit(&self, run: RunId) -> Option<u32> {
        let runs = self.lineage(run).into_iter();
        runs.filter_map(|id| self.runs.get(&id).and_then(|run| run.limits.depth)).min()
    }

    /// The last time at which the wall clocks of a run and the runs above it let a call through.
    #[must_use]
    pub fn lasts_until(&self, run: RunId) -> Option<UnixMillis> {
        let runs = self.lineage(run).into_iter().filter_map(|id| self.runs.get(&id));
        let ends =
            runs.filter_map(|run| Some(run.opened.get().saturating_add(run.limits.wall_clock_ms?.get())));
        ends.min().and_then(|end| UnixMillis::new(end).ok())
    }

    /// Seqs of a live run that hold something, with what they hold, in their order.
    pub fn holds(&self, run: RunId) -> impl Iterator<Item = (Seq, Amounts)> + '_ {
        self.runs.get(&run).into_iter().flat_map(|run| run.holds.iter().map(|(seq, held)| (*seq, *held)))
    }

    /// Runs that the ledger still holds, in the order of their identifiers.
    pub fn runs(&self) -> impl Iterator<Item = RunId> + '_ {
        self.runs.keys().copied()
    }

    /// What counts against limits of the scope agent at `time`: held and settled within the window.
    #[must_use]
    pub fn agent_total(&self, agent: &AgentName, window: Window, time: UnixMillis) -> Amounts {
        self.agents.get(agent).and_then(|account| account.total(window, time)).unwrap_or_default()
    }

    /// What counts against limits of the scope kernel at `time`: held and settled within the window.
    #[must_use]
    pub fn kernel_total(&self, window: Window, time: UnixMillis) -> Amounts {
        self.kernel.total(window, time).unwrap_or_default()
    }

    /// Time of the latest operation.
    #[must_use]
    pub const fn time(&self) -> UnixMillis {
        self.time
    }

    fn check_time(&self, time: UnixMillis) -> Result<(), LedgerError> {
        if time < self.time {
            return Err(LedgerError::TimeBackwards { time, latest: self.time });
        }
        Ok(())
    }

    fn live(&self, run: RunId) -> Result<&Run, LedgerError> {
        self.runs.get(&run).filter(|run| !run.closed).ok_or(LedgerError::RunUnknown(run))
    }

    /// The run and the runs above it, nearest first. INVARIANT: a run outlives the runs below it, so none is missing.
    fn lineage(&self, run: RunId) -> Vec<RunId> {
        let above = |id: &RunId| self.runs.get(id).and_then(|run| run.parent);
        std::iter::successors(Some(run), above).collect()
    }

    fn accounts<'a>(&'a self, lineage: &'a [RunId], agent: &AgentName) -> impl Iterator<Item = &'a Account> {
        let runs = lineage.iter().filter_map(|id| self.runs.get(id)).map(|run| &run.account);
        runs.chain(self.agents.get(agent)).chain([&self.kernel])
    }

    fn for_each_account(
        &mut self,
        lineage: &[RunId],
        agent: &AgentName,
        mut change: impl FnMut(&mut Account),
    ) {
        for id in lineage {
            if let Some(run) = self.runs.get_mut(id) {
                change(&mut run.account);
            }
        }
        if let Some(account) = self.agents.get_mut(agent) {
            change(account);
        }
        change(&mut self.kernel);
    }

    fn refusal(&self, asking: &Run, reserve: &Reserve) -> Result<Option<Refusal>, LedgerError> {
        let lineage = self.lineage(reserve.run);
        let runs = || lineage.iter().filter_map(|id| self.runs.get(id));
        for run in runs() {
            let since = reserve.time.get().saturating_sub(run.opened.get());
            if let Some(limit_ms) = run.limits.wall_clock_ms.filter(|limit| since > limit.get()) {
                let have_ms = UnixMillis::new(since).map_err(|_| LedgerError::Overflow)?;
                return Ok(Some(Refusal::WallClock(WallClock { have_ms, limit_ms })));
            }
        }
        if let (Some(identity), Some(limit)) = (reserve.identity, asking.limits.identical_calls) {
            let have = asking.identical.get(&identity).copied().unwrap_or(0);
            if have >= limit {
                return Ok(Some(Refusal::Identical(Identical { have, limit })));
            }
        }
        let agents = reserve.amounts.get(Meter::Agents);
        if let Some(limit) =
            self.depth_limit(reserve.run).filter(|limit| agents > 0 && asking.depth >= *limit)
        {
            return Ok(Some(Refusal::Depth(DepthRefusal { have: asking.depth, limit })));
        }
        let agent = self.agents.get(&asking.agent);
        for (run, own) in runs().zip(std::iter::once(true).chain(std::iter::repeat(false))) {
            for limit in &run.limits.meters {
                let account = match limit.scope {
                    Scope::Run => &run.account,
                    // Those of the runs above bound what the runs above do under their own names.
                    Scope::Agent | Scope::Kernel if !own => continue,
                    Scope::Agent => agent.ok_or(LedgerError::RunUnknown(reserve.run))?,
                    Scope::Kernel => &self.kernel,
                };
                if let Some(refusal) = account.refusal(limit, reserve)? {
                    return Ok(Some(Refusal::Limit(refusal)));
                }
            }
        }
        Ok(None)
    }
}

impl Account {
    const fn new() -> Self {
        Self {
            day: Trailing::new(DAY_BUCKETS),
            held: Amounts::ZERO,
            hour: Trailing::new(HOUR_BUCKETS),
            settled: Amounts::ZERO,
        }
    }

    /// Held, and settled within the window.
    fn total(&self, window: Window, time: UnixMillis) -> Option<Amounts> {
        let settled = match window {
            Window::Day => self.day.at(time),
            Window::Hour => self.hour.at(time),
            Window::Run => self.settled,
        };
        settled.checked_add(&self.held)
    }

    fn refusal(&self, limit: &MeterLimit, reserve: &Reserve) -> Result<Option<LimitRefusal>, LedgerError> {
        let need = reserve.amounts.get(limit.meter);
        if need == 0 {
            return Ok(None);
        }
        let total = self.total(limit.window, reserve.time).ok_or(LedgerError::Overflow)?;
        let have = total.get(limit.meter);
        if have.checked_add(need).is_some_and(|sum| sum <= limit.limit) {
            return Ok(None);
        }
        let MeterLimit { limit, meter, scope, window } = *limit;
        Ok(Some(LimitRefusal { have, limit, meter, need, scope, window }))
    }

    /// Precondition, checked by the caller for all accounts: no sum overflows and the hold is held.
    fn settle(&mut self, hold: &Amounts, settled: &Amounts, time: UnixMillis) {
        if let (Some(held), Some(sum)) = (self.held.checked_sub(hold), self.settled.checked_add(settled)) {
            self.held = held;
            self.settled = sum;
            self.hour.add(settled, time);
            self.day.add(settled, time);
        }
    }
}
