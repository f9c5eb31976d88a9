//! What the operator's records change here (SPEC §4.3): a revoked key does not count from the moment it is known.
//!
//! A held call that an approver has approved whose key is revoked since is cancelled. It cannot wait for others instead:
//! by the log's order the approval was good where it was recorded, so an auditor counts it, and would refuse as one
//! too many the answer that takes its place. Who wants the call proposes it again. One that was released and has not
//! started is cancelled when it is to start ([`crate::Permit::start`]).

use sift_spec::record::HaltCause;
use sift_spec::types::{KeyName, LeafIndex, RunId, Seq};
use tokio::sync::oneshot;

use super::line::Waits;
use super::{Finish, Writer};
use crate::approval::End;
use crate::call::Report;
use crate::operator::Revoked;
use crate::store::OperatorEntry;

/// Records of the operator that the log has proven.
pub(crate) struct Learnt {
    pub(crate) entries: Vec<OperatorEntry>,
    /// The keys that they revoke.
    pub(crate) revoked: Vec<Revoked>,
    pub(crate) reply: oneshot::Sender<()>,
}

/// A held call with an approval that does not count any more.
struct Stale {
    run: RunId,
    intent: Seq,
    approver: KeyName,
    at: LeafIndex,
}

impl Writer {
    /// Keeps the records, and stops what rests on a key that they revoke, in one transaction.
    pub(super) fn learnt(&mut self, learnt: Learnt) {
        let Learnt { entries, revoked, reply } = learnt;
        for revoked in &revoked {
            tracing::warn!(key = %revoked.key.name(), index = %revoked.at, "the operator has revoked a key");
            self.shared.revocations.add(revoked);
        }
        self.batch.operator.extend(entries);
        if !revoked.is_empty() {
            for stale in self.stale() {
                self.withdraw(stale);
            }
        }
        if let Some(at) = self.shared.revocations.at(self.signer.verifier()) {
            let name = self.signer.verifier().name();
            let detail = format!(
                "the operator revoked this kernel's key {name} at index {at} of the log, which takes nothing more that it \
                 signs; ask the operator why, and have a new key granted before this kernel is started again"
            );
            self.halt_all(HaltCause::LogRefused, &detail);
        }
        self.reply(reply, ());
    }

    /// Held calls that somebody approved whose key is revoked.
    fn stale(&self) -> Vec<Stale> {
        let mut stale = Vec::new();
        for (run, line) in &self.lines {
            for (intent, call) in &line.calls {
                let Waits::For(waiting) = &call.waits else { continue };
                let keys = waiting.approvals.counted().iter().map(|counted| &counted.key);
                let found = keys.filter_map(|key| Some((key, self.shared.revocations.at(key)?))).next();
                if let Some((key, at)) = found {
                    stale.push(Stale { run: *run, intent: *intent, approver: key.name().clone(), at });
                }
            }
        }
        stale
    }

    /// Cancels a held call, and tells whoever waits for it.
    fn withdraw(&mut self, stale: Stale) {
        let Stale { run, intent, approver, at } = stale;
        let call = self.lines.get_mut(&run).and_then(|line| line.calls.get_mut(&intent));
        let Some(call) = call else { return };
        let Waits::For(waiting) = std::mem::replace(&mut call.waits, Waits::No) else { return };
        let why = format!(
            "{approver} approved, and the operator revoked that key at index {at} of the log; propose the call again for \
             others to approve"
        );
        let report = Report::cancelled(&why);
        // Where the record cannot be made the kernel has halted as a whole.
        let _ = self.try_finish(Finish::new(run, intent, &report, None, None));
        self.replies.push(Box::new(move || {
            waiting.told.send_modify(|told| told.end = Some(End::Withdrawn(why)));
        }));
    }
}
