//! Sub-agents at other kernels: their runs are delegated, and settled with what those kernels sign.

use sift_spec::entry::Entry;
use sift_spec::meter::{Amounts, Meter};
use sift_spec::record::{Body, Call, Delegation, Delegator};
use sift_spec::types::{RunId, Seq};
use tokio::sync::oneshot;

use super::line::Waits;
use super::seal::SealError;
use super::{LiveCall, Writer};
use crate::error::{DelegateError, Stop};

impl Writer {
    /// Signs the delegation of a permitted call, once.
    pub(super) fn delegate(
        &mut self,
        run: RunId,
        intent: Seq,
        reply: oneshot::Sender<Result<String, DelegateError>>,
    ) {
        let delegated = self.try_delegate(run, intent);
        self.reply(reply, delegated);
    }

    fn try_delegate(&mut self, run: RunId, intent: Seq) -> Result<String, DelegateError> {
        let line = self.lines.get_mut(&run).ok_or(Stop::Closed)?;
        self.shared.check(&line.run)?;
        let live = line.calls.get_mut(&intent).ok_or(DelegateError::NotPermitted)?;
        let Call::Agent(call) = &live.call else { return Err(DelegateError::NotPermitted) };
        let free = !live.opened && matches!(live.waits, Waits::No);
        let Some(delegate) = call.delegate.clone().filter(|_| free) else {
            return Err(DelegateError::NotPermitted);
        };
        // No later than the runs above last.
        let until = self.ledger.lasts_until(run);
        let delegation = Delegation {
            agent: call.agent.clone(),
            budget: delegate.budget,
            deadline: until.map_or(delegate.deadline, |until| until.min(delegate.deadline)),
            depth: line.run.depth.saturating_add(1),
            depth_limit: self.ledger.depth_limit(run),
            kernel: delegate.kernel,
            log: self.shared.log.clone(),
            parent: Delegator { agent: line.run.agent.clone(), run, seq: intent },
            run: call.run,
        };
        delegation.text()?;
        live.opened = true;
        let key = self.signer.verifier();
        let note = delegation.sign_with(key, |text| self.signer.sign(text).map_err(SealError::from));
        // As with a record: a key that fails halts the kernel.
        note.map_err(|error| {
            self.unsignable(&error, None);
            self.shared.stopped().unwrap_or(Stop::Gone).into()
        })
    }

    /// What a sub-agent at another kernel has used, one sub-agent included, as that kernel's signed close says: the
    /// kernel that the call names, by a listed key, of the run that was delegated. `None` where it is not that.
    pub(super) fn closed(&self, live: &LiveCall, entry: &str) -> Option<Amounts> {
        let closed = self.try_closed(live, entry);
        if let Err(why) = closed {
            tracing::warn!(why, "the close of a delegated run does not count; its whole hold is settled");
        }
        closed.ok()
    }

    fn try_closed(&self, live: &LiveCall, entry: &str) -> Result<Amounts, &'static str> {
        let Call::Agent(call) = &live.call else { return Err("the call starts no sub-agent") };
        let delegate = call.delegate.as_ref().filter(|_| live.opened).ok_or("the call was not delegated")?;
        let entry = Entry::parse(entry.as_bytes().to_vec()).map_err(|_| "it is not an entry")?;
        let record = entry.record().ok_or("it is not a record of a run")?;
        let Body::Close(close) = &record.body else { return Err("it is not a close") };
        if (record.run, &record.agent) != (call.run, &call.agent) {
            return Err("it closes another run");
        }
        if *entry.signer() != delegate.kernel {
            return Err("another kernel signed it");
        }
        let mut keys =
            self.shared.kernels.iter().filter(|peer| peer.may(&record.agent)).map(|peer| &peer.key);
        let key = keys.find(|key| entry.verify(key).is_ok());
        let key = key.ok_or("no listed key of that kernel signed it")?;
        if self.shared.revocations.at(key).is_some() {
            return Err("the operator revoked the key that signed it");
        }
        let used = close.settled.checked_add(&close.below);
        let used = used.and_then(|used| used.checked_add(&Amounts::ZERO.with(Meter::Agents, 1)));
        used.ok_or("its sums are more than can be counted")
    }
}
