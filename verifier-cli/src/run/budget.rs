//! Sums, added again: what was held, what was settled, and every refusal, in the order of the run.
//!
//! The same ledger as the kernel's is fed with the run's reservations and settlements. It knows of this run alone,
//! so it can prove a limit of the run passed, and reproduce a refusal by one; limits over an agent or a kernel, and
//! what runs above or below this one used, are beyond a pack.

use sift_rules::ledger::{Ledger, LedgerError, Open, Reserve, Settle};
use sift_rules::{CallInput, PolicyBundle, identity};
use sift_spec::meter::{Amounts, Meter};
use sift_spec::record::{
    Body, Call, Effect, HaltCause, Intent, LimitRefusal, Limits, Outcome, Refusal, Scope, Status, Window,
};
use sift_spec::types::{Hash, MicroUsd};

use super::entries::RunEntry;
use super::payload::Payloads;
use super::record::Story;
use crate::finding::{Code, Concern, Gap};
use crate::report::{Claim, Proven, Report};
use crate::text::Many;

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
    let mut sums = Sums::new(story, bundle, payloads)?;
    for record in story.records {
        match &record.record.body {
            Body::Intent(intent) => sums.intent(record, intent, report),
            Body::Outcome(outcome) => sums.outcome(record, outcome, report),
            Body::Approval(_) | Body::Beat(_) | Body::Close(_) | Body::Halt(_) | Body::Open(_) => {}
        }
    }
    sums.gaps(report);
    let Sums { reservations, refusals, settled, .. } = sums;
    report.count("settled_micro_usd", settled.money().get());
    let verified = report.clean_since(mark) && bundle.is_some();
    let settled = settled.money();
    verified.then_some(VerifiedBudget { reservations, refusals, settled, _assertion: () })
}

struct Sums<'a> {
    story: &'a Story<'a>,
    bundle: Option<&'a PolicyBundle>,
    payloads: &'a Payloads,
    /// `None` once it contradicts the records: what follows would only repeat that.
    ledger: Option<Ledger>,
    /// Whether other runs count in this one's sums, or this one in theirs.
    nested: bool,
    /// Whether arguments are withheld, so that identical calls cannot be counted.
    args_unknown: bool,
    reservations: u64,
    refusals: u64,
    refusals_unchecked: u64,
    settled: Amounts,
}

impl<'a> Sums<'a> {
    fn new(story: &'a Story<'a>, bundle: Option<&'a PolicyBundle>, payloads: &'a Payloads) -> Option<Self> {
        let mut ledger = Ledger::default();
        let limits = &story.open.limits;
        // Depth is judged apart: this ledger does not know the runs above.
        let meters = limits.meters.iter().filter(|limit| limit.scope == Scope::Run).copied().collect();
        let limits = Limits { depth: None, meters, ..limits.clone() };
        let (agent, time) = (story.first.record.agent.clone(), story.first.record.time);
        ledger.open(&Open { agent, limits, parent: None, run: story.run, time }).ok()?;
        Some(Self {
            story,
            bundle,
            payloads,
            ledger: Some(ledger),
            nested: story.open.parent.is_some(),
            args_unknown: false,
            reservations: 0,
            refusals: 0,
            refusals_unchecked: 0,
            settled: Amounts::ZERO,
        })
    }

    fn intent(&mut self, record: &RunEntry, intent: &Intent, report: &mut Report) {
        if intent.decision.effect == Effect::Deny {
            return;
        }
        // 1. The worst case, from the bundle's prices; arguments cost nothing.
        let need = self.bundle.map(|bundle| bundle.need(&CallInput::of(&intent.call, b"")));
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
        let reserve = Reserve { amounts, identity, run: self.story.run, seq, time };
        match &intent.refusal {
            None => self.reserve(record, &reserve, report),
            Some(stated) => self.refuse(record, &reserve, stated, report),
        }
        self.nested |= matches!(intent.call, Call::Agent(_)) && intent.effect() != Effect::Deny;
    }

    fn reserve(&mut self, record: &RunEntry, reserve: &Reserve, report: &mut Report) {
        self.reservations += 1;
        let depth = self
            .story
            .open
            .limits
            .depth
            .filter(|limit| reserve.amounts.get(Meter::Agents) > 0 && self.story.depth() >= *limit);
        if let Some(limit) = depth {
            let detail =
                format!("a sub-agent below depth {}, where {limit} is the limit", self.story.depth());
            report.reject(Code::BudgetExceeded, record.concern(), detail);
        }
        let Some(ledger) = &mut self.ledger else { return };
        match ledger.reserve(reserve) {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => {
                let detail = format!("let through where the budget refuses: {}", words(&refusal));
                report.reject(Code::BudgetExceeded, record.concern(), detail);
                self.ledger = None;
            }
            Err(error) => self.contradiction(record, error, report),
        }
    }

    /// A refusal that the record states must be the one that the same ledger gives, where this run alone gives it.
    fn refuse(&mut self, record: &RunEntry, reserve: &Reserve, stated: &Refusal, report: &mut Report) {
        // What is refused is not held: the ledger is asked on a copy.
        let Some(mut ledger) = self.ledger.clone() else { return };
        let ours = match ledger.reserve(reserve) {
            Ok(ours) => ours.err(),
            Err(error) => return self.contradiction(record, error, report),
        };
        if ours.as_ref() == Some(stated) {
            self.refusals += 1;
            return;
        }
        match self.elsewhere(stated, ours.as_ref(), reserve) {
            Elsewhere::Possible => self.refusals_unchecked += 1,
            Elsewhere::Certain => self.refusals += 1,
            Elsewhere::No => {
                let found = ours.as_ref().map_or_else(|| "no reason to refuse".to_owned(), words);
                let detail = format!("stated {}; found {found}", words(stated));
                report.reject(Code::RefusalDiffers, record.concern(), detail);
            }
        }
    }

    /// Whether a refusal that this run's sums do not give may come from what a pack does not hold.
    fn elsewhere(&self, stated: &Refusal, ours: Option<&Refusal>, reserve: &Reserve) -> Elsewhere {
        let limits = &self.story.open.limits;
        match stated {
            Refusal::Limit(stated) if is_depth(stated) => {
                let depth = u64::from(self.story.depth());
                let own = limits.depth.map(u64::from) == Some(stated.limit);
                match stated.have == depth
                    && stated.have >= stated.limit
                    && reserve.amounts.get(Meter::Agents) == 1
                {
                    true if own => Elsewhere::Certain,
                    true if self.nested => Elsewhere::Possible,
                    _ => Elsewhere::No,
                }
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
                    Some(Refusal::Limit(ours)) if stated.scope == Scope::Run => stated.have >= ours.have,
                    Some(Refusal::Limit(_)) => true,
                    Some(_) => false,
                };
                let beyond = stated.scope != Scope::Run || self.nested;
                if own && sums && more && beyond { Elsewhere::Possible } else { Elsewhere::No }
            }
            Refusal::Identical(stated) => {
                let own = limits.identical_calls == Some(stated.limit) && stated.have >= stated.limit;
                if own && self.args_unknown { Elsewhere::Possible } else { Elsewhere::No }
            }
            Refusal::WallClock(stated) => {
                let nested = self.nested && stated.have_ms > stated.limit_ms;
                if nested { Elsewhere::Possible } else { Elsewhere::No }
            }
            Refusal::Unpriced(_) => Elsewhere::No,
        }
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
        let held = Some(intent.reserved);
        let expected = match (outcome.status, billed) {
            (Status::Cancelled, _) => Some(Amounts::ZERO),
            (Status::Ok | Status::Error, Some(billed)) => billed,
            // After a timeout the whole hold counts, unless the provider says what it billed.
            (Status::Timeout, Some(billed)) if billed == Some(outcome.settled) => billed,
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
            match self.story.halt {
                Some((at, halt)) if at < seq || halt.cause == HaltCause::Overspend => {
                    report.warn(Code::Overspent, record.concern(), format!("{detail}; the run was halted"));
                }
                _ => report.reject(Code::Overspent, record.concern(), detail),
            }
        }
        self.settled = self.settled.checked_add(&outcome.settled).unwrap_or(self.settled);
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

    /// The ledger cannot follow the records. The pairing of calls and outcomes says why; here only sums end.
    fn contradiction(&mut self, record: &RunEntry, error: LedgerError, report: &mut Report) {
        self.ledger = None;
        let detail = format!("sums were not added again from here on: {error}");
        report.leave(Gap::NotReached, record.concern(), detail);
    }

    /// What identical tool calls share.
    fn identity(&mut self, call: &Call) -> Option<Hash> {
        let Call::Tool(call) = call else { return None };
        let Some(args) = self.payloads.content(&call.args) else {
            self.args_unknown |= self.story.open.limits.identical_calls.is_some();
            return None;
        };
        Some(identity(call.name.as_str(), args))
    }

    fn gaps(&self, report: &mut Report) {
        let wider =
            self.story.open.limits.meters.iter().filter(|limit| limit.scope != Scope::Run).count() as u64;
        let mut parts = Vec::new();
        if wider > 0 {
            parts.push(format!("{} over the agent or the kernel", Many(wider, "limit")));
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

/// Whether a refusal may come from records that a pack does not hold.
enum Elsewhere {
    /// It follows from the run's own place in the tree of runs.
    Certain,
    Possible,
    No,
}

/// The form in which too deep a nesting is refused.
fn is_depth(refusal: &LimitRefusal) -> bool {
    (refusal.scope, refusal.window, refusal.meter, refusal.need)
        == (Scope::Run, Window::Run, Meter::Agents, 1)
        && refusal.have >= refusal.limit
}

/// Amounts in words.
pub(super) fn list(amounts: &Amounts) -> String {
    let parts: Vec<String> = amounts.iter().map(|(meter, amount)| format!("{amount} {meter}")).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(" + ") }
}

fn words(refusal: &Refusal) -> String {
    match refusal {
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
