//! Delegations that other kernels signed: which of them open a run here, and under which limits (SPEC §3.7).

use sift_spec::note::VerifierKey;
use sift_spec::record::{DELEGATION_BYTES_MAX, Limits, Parent, SignedDelegation};
use sift_spec::types::{AgentName, RunId, Text, UnixMillis};

use crate::error::DelegationRefused;
use crate::operator::Revocations;
use crate::shared::Shared;

/// A delegation that a listed kernel signed for this one.
#[derive(Debug)]
pub(crate) struct Delegated {
    note: Text<DELEGATION_BYTES_MAX>,
    signed: Box<SignedDelegation>,
    /// The key that signed it.
    key: VerifierKey,
}

impl Delegated {
    /// Reads and checks a note. Whether it was used before, its deadline, and whether its key was revoked, are for whoever
    /// opens the run.
    pub(crate) fn read(note: &str, agent: &AgentName, shared: &Shared) -> Result<Self, DelegationRefused> {
        // 1. A delegation with one signature, by a key that is listed for the agent that delegates.
        let signed = SignedDelegation::parse(note)?;
        let delegation = &signed.delegation;
        let named = shared.kernels.iter().filter(|peer| {
            (peer.key.name(), peer.key.id()) == (&signed.signer, signed.key_id)
                && peer.may(&delegation.parent.agent)
        });
        let mut named = named.peekable();
        if named.peek().is_none() {
            let (key, agent) = (signed.signer.to_string(), delegation.parent.agent.clone());
            return Err(DelegationRefused::Unknown { key, agent });
        }
        let peer = named.find(|peer| signed.is_signed_by(&peer.key));
        let key = peer.ok_or_else(|| DelegationRefused::Forged(signed.signer.clone()))?.key.clone();
        // 2. It is for this kernel, this log and this agent.
        let same = [
            ("the kernel", delegation.kernel.as_str(), shared.signer.as_str()),
            ("the log", delegation.log.as_str(), shared.log.as_str()),
            ("the agent", delegation.agent.as_str(), agent.as_str()),
        ];
        if let Some((what, theirs, ours)) = same.into_iter().find(|(_, theirs, ours)| theirs != ours) {
            let (theirs, ours) = (theirs.to_owned(), ours.to_owned());
            return Err(DelegationRefused::About { what, theirs, ours });
        }
        // A note that was read is not longer than the member that holds it.
        Ok(Self { note: Text::cut(note), signed: Box::new(signed), key })
    }

    /// Checks that the operator is not known to have revoked the key that signed it.
    pub(crate) fn counts(&self, revocations: &Revocations) -> Result<(), DelegationRefused> {
        match revocations.at(&self.key) {
            Some(at) => Err(DelegationRefused::Revoked { key: self.key.name().clone(), at }),
            None => Ok(()),
        }
    }

    pub(crate) const fn run(&self) -> RunId {
        self.signed.delegation.run
    }

    pub(crate) const fn parent(&self) -> Parent {
        let delegation = &self.signed.delegation;
        Parent { depth: delegation.depth, run: delegation.parent.run, seq: delegation.parent.seq }
    }

    pub(crate) fn note(&self) -> Text<DELEGATION_BYTES_MAX> {
        self.note.clone()
    }

    /// The limits of the run when it opens at `time`.
    pub(crate) fn limits(&self, bundle: &Limits, time: UnixMillis) -> Result<Limits, DelegationRefused> {
        let delegation = &self.signed.delegation;
        if time > delegation.deadline {
            return Err(DelegationRefused::Expired(delegation.deadline));
        }
        delegation.limits(bundle, time).ok_or(DelegationRefused::Limits)
    }
}
