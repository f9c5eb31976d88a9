//! Delegations: that another kernel let this run open, and what this run let other kernels' runs use (SPEC §3.7).

use sift_spec::entry::Entry;
use sift_spec::keys::AuthorityError;
use sift_spec::meter::{Amounts, Meter};
use sift_spec::note::{KeyId, VerifierKey};
use sift_spec::record::{Body, Call, Close, Effect, HaltCause, Intent, Outcome, SignedDelegation};
use sift_spec::types::{AgentName, KeyName, LeafIndex};

use super::authority::Authority;
use super::budget::list;
use super::entries::RunEntry;
use super::record::Story;
use crate::finding::{Code, Concern, Gap};
use crate::report::{Claim, Proven, Report};
use crate::text::Many;

/// The delegation that a run was opened with, and the closes that it settled delegated calls with.
#[derive(Debug)]
pub(super) struct VerifiedDelegations {
    by: Option<KeyName>,
    closes: u64,
    _assertion: (),
}

impl Proven for VerifiedDelegations {
    fn claim(&self) -> Claim {
        let closes = Many(self.closes, "delegated run");
        let detail = match &self.by {
            Some(by) => format!("{by} delegated the run; {closes} settled as its kernel signed"),
            None => format!("{closes} settled as its kernel signed"),
        };
        Claim { what: "delegations", count: u64::from(self.by.is_some()) + self.closes, detail }
    }
}

/// Checks the delegation of the run, and the closes of runs that it delegated.
pub(super) fn verify(
    story: &Story<'_>,
    authority: &Authority,
    report: &mut Report,
) -> Option<VerifiedDelegations> {
    let mark = report.mark();
    let mut unproven = 0;
    let by = verify_own(story, authority, &mut unproven, report);
    let mut closes = 0;
    for (record, outcome) in story.outcomes.values() {
        let Some((_, intent)) = story.intent_before(outcome.intent, record.record.seq) else { continue };
        match closed(intent, outcome) {
            None => {}
            Some(Err(why)) => report.reject(Code::DelegationInvalid, record.concern(), why),
            Some(Ok(closed)) => {
                closes += 1;
                let (name, id) = (closed.entry.signer(), closed.entry.key_id());
                let key = granted(authority, (name, id), &closed.agent, record.index);
                let signed = |key: &VerifierKey| closed.entry.verify(key).is_ok();
                judge(key, signed, name, record, &mut unproven, report);
            }
        }
    }
    if unproven > 0 {
        let detail = format!("{} whose keys no entry of the pack grants", Many(unproven, "signature"));
        report.leave(Gap::DelegatorUnproven, Concern::run(story.run), detail);
    }
    let something = by.is_some() || closes > 0;
    let proven = report.clean_since(mark) && something && unproven == 0;
    proven.then_some(VerifiedDelegations { by, closes, _assertion: () })
}

/// Checks the delegation that the run was opened with; who signed it.
fn verify_own(
    story: &Story<'_>,
    authority: &Authority,
    unproven: &mut u64,
    report: &mut Report,
) -> Option<KeyName> {
    let first = story.first;
    let Some(note) = &story.open.delegation else {
        if let Some((record, close)) = below(story) {
            let detail = format!("\"below\" is {}, and nobody delegated the run", list(&close.below));
            report.reject(Code::CloseDiffers, record.concern(), detail);
        }
        return None;
    };
    // 1. It is a delegation of this run, as its `open` record has it.
    let signed = match SignedDelegation::parse(note.as_str()) {
        Ok(signed) => signed,
        Err(error) => {
            report.reject(Code::DelegationInvalid, first.concern(), error);
            return None;
        }
    };
    let delegation = &signed.delegation;
    if let Some(what) = delegation.differs(&first.record, story.open, first.entry.signer()) {
        let detail = format!("the delegation is for another {what}");
        report.reject(Code::DelegationInvalid, first.concern(), detail);
    }
    if first.record.time > delegation.deadline {
        report.reject(Code::DelegationInvalid, first.concern(), "the run opened after its deadline");
    }
    // 2. A key that counts here for the agent that delegates signed it.
    let key = granted(authority, (&signed.signer, signed.key_id), &delegation.parent.agent, first.index);
    judge(key, |key| signed.is_signed_by(key), &signed.signer, first, unproven, report);
    // 3. The run and everything below it used no more, or the run was halted for it.
    if let Some((record, close)) = below(story) {
        let used = close.settled.checked_add(&close.below);
        let over = used.map_or(Some(Meter::MicroUsd), |used| used.first_above(&delegation.budget));
        if let Some(meter) = over {
            let detail = format!("more {meter} settled than the {} delegated", delegation.budget.get(meter));
            match story.halt.is_some_and(|(_, halt)| halt.cause == HaltCause::Overspend) {
                true => {
                    report.warn(Code::Overspent, record.concern(), format!("{detail}; the run was halted"))
                }
                false => report.reject(Code::Overspent, record.concern(), detail),
            }
        }
        if !close.below.is_zero() {
            let detail = format!("{} settled by runs below this one", list(&close.below));
            report.leave(Gap::SumUnchecked, record.concern(), detail);
        }
    }
    Some(signed.signer)
}

/// The close of the run, where the runs below it count or the run was delegated.
fn below<'a>(story: &Story<'a>) -> Option<(&'a RunEntry, &'a Close)> {
    let record = story.records.last()?;
    let Body::Close(close) = &record.record.body else { return None };
    (story.open.delegation.is_some() || !close.below.is_zero()).then_some((record, close))
}

/// The close of a sub-agent's run, as an outcome holds it.
pub(super) struct Closed {
    agent: AgentName,
    entry: Entry,
    /// What the sub-agent has used, itself included.
    pub(super) used: Amounts,
}

/// The close that an outcome holds, if it is one of the run that its intent delegates to the kernel that signed it.
pub(super) fn closed(intent: &Intent, outcome: &Outcome) -> Option<Result<Closed, String>> {
    let text = outcome.close.as_ref()?;
    let read = || {
        let call = match &intent.call {
            Call::Agent(call) if intent.effect() != Effect::Deny => call,
            _ => return Err("it has a close, and its call starts no sub-agent"),
        };
        let delegate = call.delegate.as_ref().ok_or("it has a close, and its call delegates nothing")?;
        let entry = Entry::parse(text.as_str().as_bytes().to_vec());
        let entry = entry.map_err(|_| "its close is not an entry")?;
        let record = entry.record().ok_or("its close is not a record of a run")?;
        let Body::Close(close) = &record.body else { return Err("its close is another record") };
        if (record.run, &record.agent) != (call.run, &call.agent) {
            return Err("its close is that of another run");
        }
        if *entry.signer() != delegate.kernel {
            return Err("its close is signed by another kernel than the call names");
        }
        let used = close.settled.checked_add(&close.below);
        let used = used.and_then(|used| used.checked_add(&Amounts::ZERO.with(Meter::Agents, 1)));
        let used = used.ok_or("its close has sums that no sum can hold")?;
        Ok((call.agent.clone(), used, entry))
    };
    let closed = read().map(|(agent, used, entry)| Closed { agent, entry, used });
    Some(closed.map_err(str::to_owned))
}

/// The key that counts for an agent's records at an index; `None` where the pack cannot tell.
fn granted<'a>(
    authority: &'a Authority,
    (name, id): (&KeyName, KeyId),
    agent: &AgentName,
    index: LeafIndex,
) -> Option<Result<&'a VerifierKey, AuthorityError>> {
    match authority.ring.kernel(name, id, agent, index) {
        // The grant may be among the entries that the pack leaves out.
        Err(AuthorityError::NotGranted { .. }) if !authority.complete => None,
        key => Some(key),
    }
}

fn judge(
    key: Option<Result<&VerifierKey, AuthorityError>>,
    signed: impl Fn(&VerifierKey) -> bool,
    name: &KeyName,
    record: &RunEntry,
    unproven: &mut u64,
    report: &mut Report,
) {
    match key {
        None => *unproven += 1,
        Some(Err(error)) => report.reject(Code::KeyNotGranted, record.concern(), error),
        Some(Ok(key)) if !signed(key) => {
            let detail = format!("the signature of {name} does not verify");
            report.reject(Code::SignatureInvalid, record.concern(), detail);
        }
        Some(Ok(_)) => {}
    }
}
