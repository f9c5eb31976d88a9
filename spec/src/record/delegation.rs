//! Delegations: what one kernel signs so that a sub-agent may run at another (SPEC §3.7).

use std::io;

use serde::{Deserialize, Serialize};

use super::canonical::{Canonical, parse_text, present, print_text, write_json};
use super::{DELEGATION_HEADER, LIST_MAX, Limits, MeterLimit, Open, Record, RecordError, Scope, Window};
use crate::meter::{Amounts, Meter};
use crate::note::{KeyId, KeyType, Note, NoteError, VerifierKey, signature_line};
use crate::types::{AgentName, KeyName, RunId, Seq, UnixMillis};

/// Longest note of a delegation in bytes: what the member `delegation` of an `open` record takes.
pub const DELEGATION_BYTES_MAX: usize = 8192;

/// A sub-agent's run that another kernel may open, once, and what it may spend with everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// Name of the sub-agent.
    pub agent: AgentName,
    /// The most that the run and everything below it may use; nothing of a meter that is not listed.
    pub budget: Amounts,
    /// The run opens at or before this time, and lets no call through after it.
    pub deadline: UnixMillis,
    /// Nesting depth of the run.
    pub depth: u32,
    /// Deepest nesting that the runs above allow; absent where none has a limit.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub depth_limit: Option<u32>,
    /// Name of the key of the one kernel that may open the run.
    pub kernel: KeyName,
    /// Origin of the log, of both runs.
    pub log: KeyName,
    /// Who delegates.
    pub parent: Delegator,
    /// The run.
    pub run: RunId,
}

/// The intent that delegates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegator {
    /// The agent of the run above.
    pub agent: AgentName,
    /// The run above.
    pub run: RunId,
    /// Seq of its intent.
    pub seq: Seq,
}

/// Why text is not a signed delegation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DelegationError {
    /// Not a note.
    #[error("not a signed note: {0}")]
    Note(#[from] NoteError),
    /// Not signed by one key only.
    #[error("a delegation has exactly one signature line, of an Ed25519 key")]
    Signatures,
    /// Signed, but not a delegation.
    #[error("not a delegation: {0}")]
    Text(#[from] RecordError),
}

/// A delegation with its one signature, read but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedDelegation {
    /// What it says.
    pub delegation: Delegation,
    /// Name of the key that claims to have signed.
    pub signer: KeyName,
    /// Id of the key that claims to have signed.
    pub key_id: KeyId,
    text: String,
    signature: [u8; 64],
}

impl Canonical for Delegation {
    const HEADER: &'static str = DELEGATION_HEADER;

    type Wire = Self;

    fn build(wire: Self) -> Result<Self, RecordError> {
        Ok(wire)
    }

    fn check(&self) -> Result<(), RecordError> {
        let demand = |holds: bool, why| if holds { Ok(()) } else { Err(RecordError::Inconsistent(why)) };
        demand(self.depth > 0, "a delegated run's depth is at least 1")?;
        demand(self.parent.run != self.run, "a run is not delegated to itself")?;
        demand(
            self.depth_limit.is_none_or(|limit| self.depth <= limit),
            "a delegated run is nested deeper than the delegation allows",
        )
    }

    fn write(&self, target: &mut impl io::Write) -> Result<(), RecordError> {
        write_json(target, self)
    }
}

impl Delegation {
    /// Reads the text of a delegation's note.
    ///
    /// # Errors
    /// When the text is not the one encoding of a delegation.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        parse_text(text)
    }

    /// The text of this delegation's note.
    ///
    /// # Errors
    /// When a run would be above itself, or the text would not fit an entry.
    pub fn text(&self) -> Result<String, RecordError> {
        print_text(self)
    }

    /// Signs the delegation with a key that may live elsewhere: `sign` gives the Ed25519 signature (RFC 8032) of its
    /// argument under `key`. Gives the whole note.
    ///
    /// # Errors
    /// When the text has no encoding, or `sign` fails.
    pub fn sign_with<E: From<RecordError>>(
        &self,
        key: &VerifierKey,
        sign: impl FnOnce(&[u8]) -> Result<[u8; 64], E>,
    ) -> Result<String, E> {
        let text = self.text()?;
        let signature = sign(text.as_bytes())?;
        Ok(format!("{text}\n{}", signature_line(key, &signature)))
    }

    /// The limits of the run, opened at `opened` under a bundle with the limits `bundle`: of each the narrower, and of
    /// every meter no more than the budget. `None` where it is opened too late, or the limits would be more than 64.
    #[must_use]
    pub fn limits(&self, bundle: &Limits, opened: UnixMillis) -> Option<Limits> {
        let left = self.deadline.get().checked_sub(opened.get())?;
        let left = UnixMillis::new(left).ok()?;
        let whole = |limit: &MeterLimit| (limit.scope, limit.window) == (Scope::Run, Window::Run);
        let mut meters: Vec<MeterLimit> =
            bundle.meters.iter().filter(|limit| !whole(limit)).copied().collect();
        for meter in Meter::ALL {
            let own = bundle.meters.iter().find(|limit| whole(limit) && limit.meter == meter);
            let limit = own.map_or(u64::MAX, |limit| limit.limit).min(self.budget.get(meter));
            meters.push(MeterLimit { limit, meter, scope: Scope::Run, window: Window::Run });
        }
        meters.sort_by_key(MeterLimit::key);
        (meters.len() <= LIST_MAX).then(|| Limits {
            depth: bundle.depth.into_iter().chain(self.depth_limit).min(),
            identical_calls: bundle.identical_calls,
            meters,
            wall_clock_ms: Some(bundle.wall_clock_ms.map_or(left, |limit| limit.min(left))),
        })
    }

    /// The first thing that an `open` record, signed under the key name `signer`, says otherwise.
    #[must_use]
    pub fn differs(&self, record: &Record, open: &Open, signer: &KeyName) -> Option<&'static str> {
        let parent = open.parent;
        [
            ("log", self.log == open.log),
            ("run", self.run == record.run),
            ("agent", self.agent == record.agent),
            ("kernel", self.kernel == *signer),
            ("parent", parent.is_some_and(|p| (p.run, p.seq) == (self.parent.run, self.parent.seq))),
            ("depth", parent.is_some_and(|p| p.depth == self.depth)),
        ]
        .into_iter()
        .find_map(|(what, same)| (!same).then_some(what))
    }
}

impl SignedDelegation {
    /// Reads a signed delegation, whose signature is still to be checked.
    ///
    /// # Errors
    /// When the note is not one delegation with one signature.
    pub fn parse(note: &str) -> Result<Self, DelegationError> {
        let note = Note::parse(note.as_bytes(), DELEGATION_BYTES_MAX)?;
        let [line] = note.signatures.as_slice() else { return Err(DelegationError::Signatures) };
        let signature = line.signature.as_slice().try_into().map_err(|_| DelegationError::Signatures)?;
        let signer = line.name.parse().map_err(|_| DelegationError::Signatures)?;
        let delegation = Delegation::parse(note.text)?;
        Ok(Self { delegation, signer, key_id: line.id, text: note.text.to_owned(), signature })
    }

    /// Whether `key` signed it.
    #[must_use]
    pub fn is_signed_by(&self, key: &VerifierKey) -> bool {
        let named = *key.name() == self.signer && key.id() == self.key_id;
        named && key.key_type() == KeyType::Ed25519 && key.verify(self.text.as_bytes(), &self.signature)
    }
}
