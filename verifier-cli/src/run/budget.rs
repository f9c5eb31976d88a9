//! Sums, added again: what was held, what was settled, and every refusal, in the order of the run.
//!
//! The same ledger as the kernel's is fed with the run's reservations and settlements. It knows of this run alone,
//! so it can prove a limit of the run passed, and reproduce a refusal by one. Of limits over an agent or a kernel this
//! run's use is a lower bound; what other runs used, above or below this one or beside it, is beyond a pack.

use sift_rules::ledger::{Ledger, LedgerError, Open, Reserve, Settle};
use sift_rules::{CallInput, PolicyBundle, billed_unpriced, need_unpriced};
use sift_spec::meter::{Amounts, Meter};
use sift_spec::record::{
    Body, Call, Effect, HaltCause, Identical, Intent, Limits, Outcome, Refusal, Scope, Status,
};
use sift_spec::types::{MicroUsd, Seq};

use super::delegation;
use super::entries::RunEntry;
use super::identical::{Count, IdenticalCalls, Identity};
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

/// Adds every sum again. Without a bundle, what models cost is the record's word; everything else is computed.
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
    /// Not left to the ledger, which could not take back a call that it would have let through and the record refuses,
    /// and knows no arguments that are withheld.
    identical: IdenticalCalls<'a>,
    /// Whether a sub-agent at the same kernel draws on this run's sums.
    has_below: bool,
    /// Whether withheld arguments decide about the limit on identical calls.
    args_unknown: bool,
    reservations: u64,
    refusals: u64,
    refusals_unchecked: u64,
}

/// A call that asks the ledger.
#[derive(Clone, Copy)]
struct Ask<'a> {
    reserve: Reserve,
    call: &'a Call,
    identity: Option<Identity<'a>>,
    count: Count,
}

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
            identical: IdenticalCalls::default(),
            has_below: false,
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
        let amounts = match (self.need(intent), &intent.refusal) {
            (Err(refusal), None) => {
                let detail = format!("let through where the budget refuses: {}", words(&refusal));
                return report.reject(Code::BudgetExceeded, record.concern(), detail);
            }
            (Ok(need), None) => {
                if need != intent.reserved {
                    let detail =
                        format!("held {}, its worst case is {}", list(&intent.reserved), list(&need));
                    report.reject(Code::ReservationDiffers, record.concern(), detail);
                }
                intent.reserved
            }
            (Ok(need), Some(_)) => need,
            (Err(ours), Some(stated)) => {
                self.refusals += u64::from(ours == *stated);
                if ours != *stated {
                    differs(record, stated, Some(&ours), report);
                }
                return;
            }
        };
        // 2. The ledger holds it, or refuses it as the record says.
        let identity = self.identical.identity(&intent.call, self.payloads);
        let count = identity.map(|identity| self.identical.count(identity)).unwrap_or_default();
        self.args_unknown |= count.is_undecided(&self.story.open.limits);
        let (run, seq, time) = (self.story.run, record.record.seq, record.record.time);
        let reserve = Reserve { amounts, identity: None, run, seq, time };
        let ask = Ask { reserve, call: &intent.call, identity, count };
        match &intent.refusal {
            None => self.reserve(record, &ask, report),
            Some(stated) => self.refuse(record, &ask, stated, report),
        }
        let below = matches!(&intent.call, Call::Agent(call) if call.delegate.is_none());
        self.has_below |= below && intent.effect() != Effect::Deny;
    }

    /// The worst case of a call. Without the bundle, what it may cost is taken from the record.
    fn need(&self, intent: &Intent) -> Result<Amounts, Refusal> {
        let call = CallInput::of(&intent.call, b"");
        if let Some(bundle) = self.bundle {
            return bundle.need_where(self.story.open.limits.limits_money(), &call);
        }
        let unpriced = need_unpriced(&call);
        let money = match &intent.refusal {
            _ if !matches!(intent.call, Call::Model(_)) => return Ok(unpriced),
            None => intent.reserved.money().get(),
            Some(Refusal::Limit(stated)) if stated.meter == Meter::MicroUsd => stated.need,
            Some(_) => 0,
        };
        Ok(unpriced.with(Meter::MicroUsd, money))
    }

    fn reserve(&mut self, record: &RunEntry, ask: &Ask<'a>, report: &mut Report) {
        self.reservations += 1;
        match self.ask(ask) {
            None => {}
            Some(Ok(None)) => {
                if let Some(identity) = ask.identity {
                    self.identical.add(identity);
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
    fn ask(&mut self, ask: &Ask<'_>) -> Option<Result<Option<Refusal>, LedgerError>> {
        let refusal = match self.ledger.as_mut()?.reserve(&ask.reserve) {
            Ok(answer) => answer.err(),
            Err(error) => return Some(Err(error)),
        };
        let have = ask.count.have;
        let limit = self.story.open.limits.identical_calls;
        let limit = limit.filter(|limit| ask.identity.is_some() && have >= *limit);
        Some(match (refusal, limit) {
            (None, Some(limit)) => {
                self.take_back(&ask.reserve).map(|()| Some(Refusal::Identical(Identical { have, limit })))
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
    fn refuse(&mut self, record: &RunEntry, ask: &Ask<'_>, stated: &Refusal, report: &mut Report) {
        let Some(ours) = self.ask(ask) else { return };
        let ours = ours.and_then(|ours| match ours {
            None => self.take_back(&ask.reserve).map(|()| None),
            refusal => Ok(refusal),
        });
        let ours = match ours {
            Ok(ours) => ours,
            Err(error) => return self.contradiction(record, error, report),
        };
        if ours.as_ref() == Some(stated) {
            self.refusals += 1;
        } else if self.elsewhere(stated, ours.as_ref(), ask) {
            self.refusals_unchecked += 1;
        } else {
            differs(record, stated, ours.as_ref(), report);
        }
    }

    /// Whether a refusal that this run's sums do not give may come from what the pack does not hold. What is checked
    /// before it must not refuse by this run's sums, which are part of all others.
    fn elsewhere(&self, stated: &Refusal, ours: Option<&Refusal>, ask: &Ask<'_>) -> bool {
        let limits = &self.story.open.limits;
        let need = |meter| ask.reserve.amounts.get(meter);
        match stated {
            Refusal::Unpriced(stated) => {
                let of_call = matches!(ask.call, Call::Model(call) if call.model == stated.model);
                let limited = self.has_above() || self.bundle.is_none() && limits.limits_money();
                of_call && limited && self.bundle.is_none_or(|bundle| is_unpriced(bundle, ask.call))
            }
            Refusal::WallClock(stated) => {
                let since = ask.reserve.time.get().saturating_sub(self.story.first.record.time.get());
                let first = !matches!(ours, Some(Refusal::WallClock(_)));
                self.has_above() && first && stated.have_ms.get() >= since
            }
            Refusal::Identical(stated) => {
                let Count { have, maybe } = ask.count;
                let possible = (have..=have.saturating_add(maybe)).contains(&stated.have);
                let first = !matches!(ours, Some(Refusal::WallClock(_)));
                limits.identical_calls == Some(stated.limit) && possible && first
            }
            Refusal::Depth(stated) => {
                let first = match ours {
                    None | Some(Refusal::Limit(_)) => true,
                    Some(Refusal::Depth(ours)) => stated.limit < ours.limit,
                    Some(_) => false,
                };
                self.has_above() && first && stated.have == self.story.depth() && need(Meter::Agents) > 0
            }
            Refusal::Limit(stated) => {
                let key = (stated.scope, stated.window, stated.meter);
                let is_own = limits.meters.iter().any(|own| own.key() == key && own.limit == stated.limit);
                // The run's own limits come first, in their order; then those of the runs above it.
                let own = is_own && (stated.scope != Scope::Run || self.has_below);
                let own = own
                    && match ours {
                        None => true,
                        Some(Refusal::Limit(ours)) => key <= (ours.scope, ours.window, ours.meter),
                        Some(_) => false,
                    };
                let above = self.has_above() && stated.scope == Scope::Run && ours.is_none();
                let known = self.ledger.as_ref().map_or(0, |ledger| {
                    let agent = &self.story.first.record.agent;
                    ledger.agent_total(agent, stated.window, ask.reserve.time).get(stated.meter)
                });
                (own || above) && stated.need == need(stated.meter) && stated.have >= known
            }
        }
    }

    /// Whether a run above this one, at the same kernel, has limits of its own. Those of a run above at another kernel
    /// stand in the delegation.
    const fn has_above(&self) -> bool {
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
            (Call::Model(call), Some(answer)) => Some(match self.bundle {
                Some(bundle) => bundle.billed(call.provider.as_str(), call.model.as_str(), &answer.usage),
                // What it cost is then the record's word.
                None => billed_unpriced(&answer.usage).with(Meter::MicroUsd, outcome.settled.money().get()),
            }),
            _ => None,
        };
        let stated = outcome.model.as_ref().is_some_and(|model| model.method.as_str() == METHOD_PROVIDER);
        let closed = delegation::closed(intent, outcome);
        let expected = match (outcome.status, billed) {
            (Status::Cancelled, _) => Some(Amounts::ZERO),
            (Status::Ok | Status::Error | Status::Timeout, _) if closed.is_some() => {
                // One that is not a close of the run is found with the delegations.
                closed.and_then(Result::ok).map(|closed| closed.used)
            }
            (Status::Ok | Status::Error, Some(billed)) => Some(billed),
            // After a timeout the whole hold counts, unless the provider says what it billed.
            (Status::Timeout, Some(billed)) if stated && billed == outcome.settled => Some(billed),
            _ => Some(intent.reserved),
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
        if self.has_below || self.has_above() {
            parts.push("what runs above or below this one used".to_owned());
        }
        if self.args_unknown {
            parts.push("whether too many calls were identical, as arguments are withheld".to_owned());
        }
        if self.refusals_unchecked > 0 {
            parts.push(format!("{} not made again", Many(self.refusals_unchecked, "refusal")));
        }
        if !parts.is_empty() {
            report.leave(Gap::SumUnchecked, Concern::run(self.story.run), parts.join("; "));
        }
    }
}

fn differs(record: &RunEntry, stated: &Refusal, ours: Option<&Refusal>, report: &mut Report) {
    let found = ours.map_or_else(|| "no reason to refuse".to_owned(), words);
    let detail = format!("stated {}; found {found}", words(stated));
    report.reject(Code::RefusalDiffers, record.concern(), detail);
}

/// Whether a model has no price, so that any limit on money refuses it.
fn is_unpriced(bundle: &PolicyBundle, call: &Call) -> bool {
    bundle.need_where(true, &CallInput::of(call, b"")).is_err()
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
