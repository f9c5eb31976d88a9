//! Sums, added again: what was held, what was settled, and every refusal, in the order of the run.
//!
//! The same ledger as the kernel's is fed with the run's reservations and settlements. It knows of this run alone,
//! so it can prove a limit of the run passed, and reproduce a refusal by one. Of limits over an agent or a kernel this
//! run's use is a lower bound; what other runs used, above or below this one or beside it, is beyond a pack.

use std::collections::BTreeMap;

use sift_rules::ledger::{Ledger, LedgerError, Open, Reserve, Settle};
use sift_rules::{CallInput, PolicyBundle};
use sift_spec::hash::object_digest;
use sift_spec::meter::{Amounts, Meter};
use sift_spec::record::{
    Body, Call, Effect, HaltCause, Identical, Intent, Limits, Outcome, Refusal, Scope, Status,
};
use sift_spec::types::{Hash, MicroUsd, Seq};

use super::delegation;
use super::entries::RunEntry;
use super::payload::Payloads;
use super::record::Story;
use crate::finding::{Code, Concern, Gap};
use crate::report::{Claim, Proven, Report};
use crate::text::Many;

/// How usage was found where the provider stated it.
const METHOD_PROVIDER: &str = "provider";

/// Sums of a run that came out again and pass no limit of the run.
#[derive(Debug)]
pub(super) struct VerifiedBudget {
    reservations: u64,
    refusals: u64,
    settled: MicroUsd,
    _assertion: (),
}

impl Proven for VerifiedBudget {
    fn claim(&self) -> Claim {
        let (reservations, refusals) =
            (Many(self.reservations, "reservation"), Many(self.refusals, "refusal"));
        let dollars = self.settled.dollars();
        let detail = format!("{reservations} and {refusals} added again; {dollars} USD settled");
        Claim { what: "budget", count: self.reservations, detail }
    }
}

/// Adds every sum again. Without a bundle, worst cases and costs are not computed; sums and limits are.
pub(super) fn verify(
    story: &Story<'_>,
    bundle: Option<&PolicyBundle>,
    payloads: &Payloads,
    report: &mut Report,
) -> Option<VerifiedBudget> {
    let mark = report.mark();
    let mut sums = match Sums::new(story, bundle, payloads) {
        Ok(sums) => sums,
        Err(error) => {
            report.reject(Code::BudgetExceeded, story.first.concern(), error);
            return None;
        }
    };
    for record in story.records {
        match &record.record.body {
            Body::Intent(intent) => sums.intent(record, intent, report),
            Body::Outcome(outcome) => sums.outcome(record, outcome, report),
            Body::Approval(_) | Body::Beat(_) | Body::Close(_) | Body::Halt(_) | Body::Open(_) => {}
        }
    }
    sums.gaps(report);
    let Sums { ledger, reservations, refusals, .. } = sums;
    let settled = ledger?.settled(story.run)?.money();
    report.count("settled_micro_usd", settled.get());
    let verified = report.clean_since(mark) && bundle.is_some();
    verified.then_some(VerifiedBudget { reservations, refusals, settled, _assertion: () })
}

struct Sums<'a> {
    story: &'a Story<'a>,
    bundle: Option<&'a PolicyBundle>,
    payloads: &'a Payloads,
    /// `None` once it contradicts the records, which rejects them: what follows would only repeat that.
    ledger: Option<Ledger>,
    /// Tool calls let through, by tool and digest of their arguments. Not left to the ledger, which could not take
    /// back a call that it would have let through and the record refuses.
    identical: BTreeMap<(&'a str, Hash), u32>,
    /// Digests of arguments by the digest of their object, each made once.
    args: BTreeMap<Hash, Hash>,
    /// Whether other runs count in this one's sums, or this one in theirs.
    nested: bool,
    /// Whether arguments are withheld, so that identical calls cannot be counted.
    args_unknown: bool,
    reservations: u64,
    refusals: u64,
    refusals_unchecked: u64,
}

/// What identical tool calls share.
type Identity<'a> = Option<(&'a str, Hash)>;

impl<'a> Sums<'a> {
    fn new(
        story: &'a Story<'a>,
        bundle: Option<&'a PolicyBundle>,
        payloads: &'a Payloads,
    ) -> Result<Self, LedgerError> {
        let mut ledger = Ledger::default();
        let limits = Limits { identical_calls: None, ..story.open.limits.clone() };
        let (agent, time) = (story.first.record.agent.clone(), story.first.record.time);
        ledger.open(&Open { agent, depth: story.depth(), limits, parent: None, run: story.run, time })?;
        Ok(Self {
            story,
            bundle,
            payloads,
            ledger: Some(ledger),
            identical: BTreeMap::new(),
            args: BTreeMap::new(),
            nested: story.open.parent.is_some(),
            args_unknown: false,
            reservations: 0,
            refusals: 0,
            refusals_unchecked: 0,
        })
    }

    fn intent(&mut self, record: &RunEntry, intent: &'a Intent, report: &mut Report) {
        if intent.decision.effect == Effect::Deny {
            return;
        }
        // 1. The worst case, from the bundle's prices; arguments cost nothing.
        let money = self.story.open.limits.limits_money();
        let need = self.bundle.map(|bundle| bundle.need_where(money, &CallInput::of(&intent.call, b"")));
        match (&need, &intent.refusal) {
            (Some(Err(refusal)), None) => {
                let detail = format!("let through where the budget refuses: {}", words(refusal));
                return report.reject(Code::BudgetExceeded, record.concern(), detail);
            }
            (Some(Ok(need)), None) if *need != intent.reserved => {
                let detail = format!("held {}, its worst case is {}", list(&intent.reserved), list(need));
                report.reject(Code::ReservationDiffers, record.concern(), detail);
            }
            _ => {}
        }
        // 2. The ledger holds it, or refuses it as the record says.
        let identity = self.identity(&intent.call);
        let amounts = match (&need, &intent.refusal) {
            (_, None) => intent.reserved,
            (Some(Ok(need)), Some(_)) => *need,
            (Some(Err(ours)), Some(stated)) => {
                self.refusals += u64::from(ours == stated);
                if ours != stated {
                    let detail = format!("stated {}; found {}", words(stated), words(ours));
                    report.reject(Code::RefusalDiffers, record.concern(), detail);
                }
                return;
            }
            (None, Some(_)) => {
                self.refusals_unchecked += 1;
                return;
            }
        };
        let (seq, time) = (record.record.seq, record.record.time);
        let reserve = Reserve { amounts, identity: None, run: self.story.run, seq, time };
        match &intent.refusal {
            None => self.reserve(record, &reserve, identity, report),
            Some(stated) => self.refuse(record, &reserve, identity, stated, report),
        }
        self.nested |= matches!(intent.call, Call::Agent(_)) && intent.effect() != Effect::Deny;
    }

    fn reserve(&mut self, record: &RunEntry, reserve: &Reserve, identity: Identity<'a>, report: &mut Report) {
        self.reservations += 1;
        match self.ask(reserve, identity) {
            None => {}
            Some(Ok(None)) => {
                if let Some(identity) = identity {
                    *self.identical.entry(identity).or_default() += 1;
                }
            }
            Some(Ok(Some(refusal))) => {
                let detail = format!("let through where the budget refuses: {}", words(&refusal));
                report.reject(Code::BudgetExceeded, record.concern(), detail);
                self.ledger = None;
            }
            Some(Err(error)) => self.contradiction(record, error, report),
        }
    }

    /// Asks for a call in the order of SPEC §6.6: what is not refused is held. `None` when there is no ledger any more.
    fn ask(
        &mut self,
        reserve: &Reserve,
        identity: Identity<'a>,
    ) -> Option<Result<Option<Refusal>, LedgerError>> {
        let refusal = match self.ledger.as_mut()?.reserve(reserve) {
            Ok(answer) => answer.err(),
            Err(error) => return Some(Err(error)),
        };
        let have = identity.and_then(|identity| self.identical.get(&identity)).copied().unwrap_or(0);
        let limit =
            self.story.open.limits.identical_calls.filter(|limit| identity.is_some() && have >= *limit);
        Some(match (refusal, limit) {
            (None, Some(limit)) => {
                self.take_back(reserve).map(|()| Some(Refusal::Identical(Identical { have, limit })))
            }
            (Some(Refusal::Limit(_)), Some(limit)) => Ok(Some(Refusal::Identical(Identical { have, limit }))),
            (refusal, _) => Ok(refusal),
        })
    }

    /// Takes back what is held for a call that was not let through after all.
    fn take_back(&mut self, reserve: &Reserve) -> Result<(), LedgerError> {
        let Reserve { run, seq, time, .. } = *reserve;
        let settle = Settle { run, seq, settled: Amounts::ZERO, time };
        self.ledger.as_mut().map_or(Ok(()), |ledger| ledger.settle(&settle).map(drop))
    }

    /// A refusal that the record states must be the one that the same ledger gives, where this run alone gives it.
    fn refuse(
        &mut self,
        record: &RunEntry,
        reserve: &Reserve,
        identity: Identity<'a>,
        stated: &Refusal,
        report: &mut Report,
    ) {
        let Some(ours) = self.ask(reserve, identity) else { return };
        let ours = ours.and_then(|ours| match ours {
            None => self.take_back(reserve).map(|()| None),
            refusal => Ok(refusal),
        });
        let ours = match ours {
            Ok(ours) => ours,
            Err(error) => return self.contradiction(record, error, report),
        };
        if ours.as_ref() == Some(stated) {
            self.refusals += 1;
            return;
        }
        match self.elsewhere(stated, ours.as_ref(), reserve) {
            true => self.refusals_unchecked += 1,
            false => {
                let found = ours.as_ref().map_or_else(|| "no reason to refuse".to_owned(), words);
                let detail = format!("stated {}; found {found}", words(stated));
                report.reject(Code::RefusalDiffers, record.concern(), detail);
            }
        }
    }

    /// Whether a refusal that this run's sums do not give may come from what a pack does not hold.
    fn elsewhere(&self, stated: &Refusal, ours: Option<&Refusal>, reserve: &Reserve) -> bool {
        let limits = &self.story.open.limits;
        match stated {
            Refusal::Depth(stated) => {
                let deep = stated.have == self.story.depth() && stated.have >= stated.limit;
                // What is checked earlier would have refused.
                let first = match ours {
                    None | Some(Refusal::Limit(_)) => true,
                    Some(Refusal::Depth(ours)) => stated.limit < ours.limit,
                    Some(_) => false,
                };
                self.below_other() && deep && first && reserve.amounts.get(Meter::Agents) > 0
            }
            Refusal::Limit(stated) => {
                let key = (stated.scope, stated.window, stated.meter);
                let own = limits.meters.iter().any(|limit| limit.key() == key && limit.limit == stated.limit);
                let sums = stated.need == reserve.amounts.get(stated.meter)
                    && stated.need > 0
                    && stated.have.saturating_add(stated.need) > stated.limit;
                // The run's own sums are part of the stated one, and what is checked earlier would have refused.
                let more = match ours {
                    None => true,
                    Some(Refusal::Limit(ours)) => {
                        let first = (ours.scope, ours.window, ours.meter);
                        key < first || key == first && stated.have >= ours.have
                    }
                    Some(_) => false,
                };
                let beyond = stated.scope != Scope::Run || self.nested;
                own && sums && more && beyond
            }
            Refusal::Identical(stated) => {
                let own = limits.identical_calls == Some(stated.limit) && stated.have >= stated.limit;
                own && self.args_unknown
            }
            Refusal::WallClock(stated) => self.below_other() && stated.have_ms > stated.limit_ms,
            Refusal::Unpriced(_) => {
                let unpriced =
                    reserve.amounts.get(Meter::ModelCalls) > 0 && reserve.amounts.money().get() == 0;
                self.below_other() && unpriced
            }
        }
    }

    /// Whether a run above this one, at the same kernel, has limits of its own. Those of a run above at another kernel
    /// stand in the delegation.
    const fn below_other(&self) -> bool {
        self.story.open.parent.is_some() && self.story.open.delegation.is_none()
    }

    fn outcome(&mut self, record: &RunEntry, outcome: &Outcome, report: &mut Report) {
        let seq = record.record.seq;
        let first =
            self.story.outcomes.get(&outcome.intent).is_some_and(|(first, _)| first.record.seq == seq);
        let answered = self.story.intent_before(outcome.intent, seq).filter(|_| first);
        // An outcome of nothing, or a second one, is found with the pairing of calls and outcomes.
        let Some((_, intent)) = answered.filter(|(_, intent)| intent.effect() != Effect::Deny) else {
            return;
        };
        // 1. What is settled follows from how the call ended, its usage and the prices.
        let billed = match (&intent.call, &outcome.model) {
            (Call::Model(call), Some(answer)) => Some(
                self.bundle
                    .map(|bundle| bundle.billed(call.provider.as_str(), call.model.as_str(), &answer.usage)),
            ),
            _ => None,
        };
        let stated = outcome.model.as_ref().is_some_and(|model| model.method.as_str() == METHOD_PROVIDER);
        let held = Some(intent.reserved);
        let closed = delegation::closed(intent, outcome);
        let expected = match (outcome.status, billed) {
            (Status::Cancelled, _) => Some(Amounts::ZERO),
            (Status::Ok | Status::Error | Status::Timeout, _) if closed.is_some() => {
                // One that is not a close of the run is found with the delegations.
                closed.and_then(Result::ok).map(|closed| closed.used)
            }
            (Status::Ok | Status::Error, Some(billed)) => billed,
            // After a timeout the whole hold counts, unless the provider says what it billed.
            (Status::Timeout, Some(billed)) if stated && billed.is_none_or(|b| b == outcome.settled) => {
                billed
            }
            _ => held,
        };
        if let Some(expected) = expected.filter(|expected| *expected != outcome.settled) {
            let detail = format!("settled {}, it comes to {}", list(&outcome.settled), list(&expected));
            report.reject(Code::CostDiffers, record.concern(), detail);
        }
        // 2. Not more than was held, or the run was halted for it.
        if let Some(meter) = outcome.settled.first_above(&intent.reserved) {
            let (settled, held) = (outcome.settled.get(meter), intent.reserved.get(meter));
            let detail = format!("{settled} {meter} settled where {held} were held");
            if self.halted_for(seq) {
                report.warn(Code::Overspent, record.concern(), format!("{detail}; the run was halted"));
            } else {
                report.reject(Code::Overspent, record.concern(), detail);
            }
        }
        let settle = Settle {
            run: self.story.run,
            seq: outcome.intent,
            settled: outcome.settled,
            time: record.record.time,
        };
        let settled = self.ledger.as_mut().map(|ledger| ledger.settle(&settle));
        if let Some(Err(error)) = settled {
            self.contradiction(record, error, report);
        }
    }

    /// Whether an overspend at `seq` let no further call through: the run was halted before, or for it at once.
    fn halted_for(&self, seq: Seq) -> bool {
        let Some((at, halt)) = self.story.halt else { return false };
        let mut between = self.story.intents.range(seq..at.max(seq));
        let idle = between.all(|(_, (_, intent))| intent.effect() == Effect::Deny);
        at < seq || halt.cause == HaltCause::Overspend && idle
    }

    /// The ledger cannot follow the records. No kernel with this ledger let the call through.
    fn contradiction(&mut self, record: &RunEntry, error: LedgerError, report: &mut Report) {
        self.ledger = None;
        let detail = format!("sums cannot be added again from here on: {error}");
        report.reject(Code::BudgetExceeded, record.concern(), detail);
    }

    fn identity(&mut self, call: &'a Call) -> Identity<'a> {
        let Call::Tool(call) = call else { return None };
        let Some(args) = self.payloads.content(&call.args) else {
            self.args_unknown |= self.story.open.limits.identical_calls.is_some();
            return None;
        };
        let digest = self.args.entry(call.args.digest).or_insert_with(|| object_digest(args));
        Some((call.name.as_str(), *digest))
    }

    fn gaps(&self, report: &mut Report) {
        let wider =
            self.story.open.limits.meters.iter().filter(|limit| limit.scope != Scope::Run).count() as u64;
        let mut parts = Vec::new();
        if wider > 0 {
            let limits = Many(wider, "limit");
            parts.push(format!(
                "{limits} over the agent or the kernel, of which only this run's use is known"
            ));
        }
        if self.nested {
            parts.push("what runs above or below this one used".to_owned());
        }
        if self.args_unknown {
            parts.push("how many calls were identical, as arguments are withheld".to_owned());
        }
        if self.refusals_unchecked > 0 {
            parts.push(format!("{} not made again", Many(self.refusals_unchecked, "refusal")));
        }
        if !parts.is_empty() {
            report.leave(Gap::SumUnchecked, Concern::run(self.story.run), parts.join("; "));
        }
    }
}

/// Amounts in words.
pub(super) fn list(amounts: &Amounts) -> String {
    let parts: Vec<String> = amounts.iter().map(|(meter, amount)| format!("{amount} {meter}")).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(" + ") }
}

/// Why the budget refused, in words.
pub(crate) fn words(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Depth(r) => format!("a sub-agent below depth {}, where {} is the limit", r.have, r.limit),
        Refusal::Identical(r) => format!("{} identical calls of {}", r.have, r.limit),
        Refusal::Limit(r) => {
            let (scope, window) =
                (format!("{:?}", r.scope).to_lowercase(), format!("{:?}", r.window).to_lowercase());
            format!("{} {} + {} above {} (scope {scope}, window {window})", r.have, r.meter, r.need, r.limit)
        }
        Refusal::Unpriced(r) => format!("no price for {}", r.model),
        Refusal::WallClock(r) => format!("{} ms of {} ms", r.have_ms, r.limit_ms),
    }
}
