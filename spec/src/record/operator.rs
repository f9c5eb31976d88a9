//! Records of the operator, in a chain of their own (SPEC §4).

use std::io;

use serde::{Deserialize, Serialize};

use super::canonical::{Canonical, only, parse_text, present, print_text, write_json};
use super::{LIST_MAX, OPERATOR_HEADER, RecordError};
use crate::types::{AgentScope, Hash, KeyName, Seq, Text, UnixMillis, Word};

/// One record of the operator's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorRecord {
    /// What the operator does.
    pub body: OperatorBody,
    /// Origin of the log this is for: no other log accepts it.
    pub log: KeyName,
    /// Leaf hash of the operator's previous entry; absent at seq 0.
    pub prev: Option<Hash>,
    /// Position in the operator's chain.
    pub seq: Seq,
    /// The operator's clock; never less than the record before.
    pub time: UnixMillis,
}

/// What an operator's record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorBody {
    /// A payload object may be deleted.
    Erase(Erase),
    /// A key is granted or revoked.
    Key(KeyChange),
    /// A policy bundle may be used.
    Policy(Policy),
}

/// A payload object may be deleted. Every proof stays valid; only the content is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erase {
    /// Digest of the object.
    pub digest: Hash,
    /// Why, in words.
    pub reason: Text<512>,
}

/// A key is granted or revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KeyChange {
    /// The key counts from this entry on.
    Grant(Grant),
    /// The key counts up to this entry, and never again.
    Revoke(Revoke),
}

/// A key counts from this entry on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Agents it speaks for; sorted, each once, at least one.
    pub agents: Vec<AgentScope>,
    /// What it may sign: records of runs, or approvals in a role.
    pub role: KeyRole,
    /// The key: name, key id, type 0x01 and 32 bytes, as a C2SP vkey.
    pub vkey: Text<384>,
}

/// What a granted key may sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KeyRole {
    /// Approval statements, in this role.
    Approver(Word),
    /// Records of runs.
    Kernel,
}

/// A key counts up to this entry, and never again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Why, in words.
    pub reason: Text<512>,
    /// The key as it was granted.
    pub vkey: Text<384>,
}

/// A policy bundle may be used from this entry on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Digest of the bundle.
    pub bundle: Hash,
    /// Name for people.
    pub name: Text<128>,
    /// Length of the bundle's encoding in bytes.
    pub size: u64,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OperatorKind {
    Erase,
    Key,
    Policy,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OperatorWire {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    erase: Option<Erase>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    key: Option<KeyChange>,
    kind: OperatorKind,
    log: KeyName,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    policy: Option<Policy>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    prev: Option<Hash>,
    seq: Seq,
    time: UnixMillis,
}

impl OperatorBody {
    const fn kind(&self) -> OperatorKind {
        match self {
            Self::Erase(_) => OperatorKind::Erase,
            Self::Key(_) => OperatorKind::Key,
            Self::Policy(_) => OperatorKind::Policy,
        }
    }

    fn check(&self) -> Result<(), RecordError> {
        if let Self::Key(KeyChange::Grant(grant)) = self {
            let sorted = grant.agents.windows(2).all(|pair| pair[0] < pair[1]);
            if grant.agents.is_empty() || grant.agents.len() > LIST_MAX || !sorted {
                return Err(RecordError::Inconsistent("agents are not 1 to 64 scopes, sorted, each once"));
            }
        }
        Ok(())
    }
}

impl OperatorRecord {
    /// Reads the text of an operator's note.
    ///
    /// # Errors
    /// When the text is not the one encoding of an operator record (SPEC §3.1, §4).
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        parse_text(text)
    }

    /// The text of this record's note.
    ///
    /// # Errors
    /// When fields contradict one another.
    pub fn text(&self) -> Result<String, RecordError> {
        print_text(self)
    }
}

impl Canonical for OperatorRecord {
    const HEADER: &'static str = OPERATOR_HEADER;

    type Wire = OperatorWire;

    fn build(wire: OperatorWire) -> Result<Self, RecordError> {
        let OperatorWire { erase, key, kind, log, policy, prev, seq, time } = wire;
        let bodies =
            [erase.map(OperatorBody::Erase), key.map(OperatorBody::Key), policy.map(OperatorBody::Policy)];
        let body = only(bodies).filter(|body| body.kind() == kind).ok_or(RecordError::Kind)?;
        Ok(Self { body, log, prev, seq, time })
    }

    fn check(&self) -> Result<(), RecordError> {
        if self.prev.is_none() != (self.seq == Seq::ZERO) {
            return Err(RecordError::Prev);
        }
        self.body.check()
    }

    fn write(&self, target: &mut impl io::Write) -> Result<(), RecordError> {
        let (mut erase, mut key, mut policy) = (None, None, None);
        match self.body.clone() {
            OperatorBody::Erase(body) => erase = Some(body),
            OperatorBody::Key(body) => key = Some(body),
            OperatorBody::Policy(body) => policy = Some(body),
        }
        let (kind, log, prev, seq, time) =
            (self.body.kind(), self.log.clone(), self.prev, self.seq, self.time);
        write_json(target, &OperatorWire { erase, key, kind, log, policy, prev, seq, time })
    }
}
