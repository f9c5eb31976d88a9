//! Authority: which key counts for what, at which index (SPEC §4).
//!
//! The operator's key is the only root. Authority is log order: a key counts from the entry after its grant
//! up to the entry of its revocation, and a policy bundle from the entry after its publication.

use std::collections::BTreeMap;

use crate::note::{KeyError, KeyId, KeyType, VerifierKey};
use crate::record::{Grant, KeyChange, KeyRole, OperatorBody, Revoke};
use crate::types::{AgentName, AgentScope, Hash, KeyName, LeafIndex, Word};

/// Why an operator's record changes nothing that it could change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// The vkey is not one.
    #[error("the vkey cannot be used: {0}")]
    Vkey(#[from] KeyError),
    /// Records and statements are signed by plain Ed25519 keys.
    #[error("a granted key is of type 0x01")]
    KeyType,
    /// The name is that of the log or the operator, or the public key is the operator's.
    #[error("the name {0}, or its public key, belongs to the log or its operator")]
    ReservedName(KeyName),
    /// This public key, or this name and key id, was granted before.
    #[error("this key was granted at index {0}; a key is granted once")]
    Known(LeafIndex),
    /// The revoked key is not in force.
    #[error("this key is not in force: it was never granted, or is revoked already")]
    NotInForce,
    /// The bundle was published before.
    #[error("this bundle was published at index {0}")]
    Published(LeafIndex),
}

/// Why a key does not count for an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// No grant of this name and id at or before the index.
    #[error("no key {name} with id {id} is granted at this index")]
    NotGranted {
        /// Name of the key.
        name: KeyName,
        /// Id of the key.
        id: KeyId,
    },
    /// Revoked before the index.
    #[error("the key {name} was revoked at index {at}")]
    Revoked {
        /// Name of the key.
        name: KeyName,
        /// Where.
        at: LeafIndex,
    },
    /// Granted for something else.
    #[error("the key {name} is granted for another role")]
    Role {
        /// Name of the key.
        name: KeyName,
    },
    /// Granted for other agents.
    #[error("the key {name} is not granted for the agent {agent}")]
    Agent {
        /// Name of the key.
        name: KeyName,
        /// The agent.
        agent: AgentName,
    },
}

/// A granted key and its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The key.
    pub key: VerifierKey,
    /// What it may sign.
    pub role: KeyRole,
    /// For which agents.
    pub agents: Vec<AgentScope>,
    /// Index of the grant.
    pub granted: LeafIndex,
    /// Index of the revocation.
    pub revoked: Option<LeafIndex>,
}

/// Where a bundle was published, and with how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Published {
    index: LeafIndex,
    size: u64,
}

/// All keys and bundles of a log, as of the operator's entries applied so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    log: KeyName,
    operator: VerifierKey,
    keys: BTreeMap<KeyName, BTreeMap<KeyId, Granted>>,
    bundles: BTreeMap<Hash, Published>,
    erased: BTreeMap<Hash, LeafIndex>,
}

impl KeyRing {
    /// The ring of a log before the operator's first entry.
    #[must_use]
    pub const fn new(log: KeyName, operator: VerifierKey) -> Self {
        Self { log, operator, keys: BTreeMap::new(), bundles: BTreeMap::new(), erased: BTreeMap::new() }
    }

    /// Origin of the log.
    #[must_use]
    pub const fn log(&self) -> &KeyName {
        &self.log
    }

    /// The operator's key.
    #[must_use]
    pub const fn operator(&self) -> &VerifierKey {
        &self.operator
    }

    /// Applies the operator's entry at `index`. Entries are applied in the order of the log.
    ///
    /// # Errors
    /// When it grants a known key, revokes one that is not in force, or publishes a bundle again; nothing changes.
    pub fn apply(&mut self, index: LeafIndex, body: &OperatorBody) -> Result<(), GrantError> {
        match body {
            OperatorBody::Key(KeyChange::Grant(grant)) => self.grant(index, grant),
            OperatorBody::Key(KeyChange::Revoke(revoke)) => self.revoke(index, revoke),
            OperatorBody::Policy(policy) => match self.bundles.get(&policy.bundle) {
                Some(known) => Err(GrantError::Published(known.index)),
                None => {
                    self.bundles.insert(policy.bundle, Published { index, size: policy.size });
                    Ok(())
                }
            },
            OperatorBody::Erase(erase) => {
                self.erased.entry(erase.digest).or_insert(index);
                Ok(())
            }
        }
    }

    fn grant(&mut self, index: LeafIndex, grant: &Grant) -> Result<(), GrantError> {
        let key: VerifierKey = grant.vkey.as_str().parse()?;
        if key.key_type() != KeyType::Ed25519 {
            return Err(GrantError::KeyType);
        }
        let reserved = *key.name() == self.log || key.name() == self.operator.name();
        if reserved || key.public() == self.operator.public() {
            return Err(GrantError::ReservedName(key.name().clone()));
        }
        let same = |other: &&Granted| other.key.public() == key.public();
        if let Some(known) = self.get(key.name(), key.id()).or_else(|| self.iter().find(same)) {
            return Err(GrantError::Known(known.granted));
        }
        let Grant { role, agents, .. } = grant.clone();
        let (name, id) = (key.name().clone(), key.id());
        let granted = Granted { key, role, agents, granted: index, revoked: None };
        self.keys.entry(name).or_default().insert(id, granted);
        Ok(())
    }

    fn revoke(&mut self, index: LeafIndex, revoke: &Revoke) -> Result<(), GrantError> {
        let key: VerifierKey = revoke.vkey.as_str().parse()?;
        let known = self.keys.get_mut(key.name()).and_then(|keys| keys.get_mut(&key.id()));
        let in_force = known.filter(|known| known.revoked.is_none() && known.key == key);
        in_force.ok_or(GrantError::NotInForce)?.revoked = Some(index);
        Ok(())
    }

    /// The key with this name and id, whatever its state.
    #[must_use]
    pub fn get(&self, name: &KeyName, id: KeyId) -> Option<&Granted> {
        self.keys.get(name)?.get(&id)
    }

    /// All granted keys, by name and id.
    pub fn iter(&self) -> impl Iterator<Item = &Granted> {
        self.keys.values().flat_map(BTreeMap::values)
    }

    /// The key that may sign records of `agent` at `index`.
    ///
    /// # Errors
    /// When there is none, or it does not count there.
    pub fn kernel(
        &self,
        name: &KeyName,
        id: KeyId,
        agent: &AgentName,
        index: LeafIndex,
    ) -> Result<&VerifierKey, AuthorityError> {
        self.in_force(name, id, &KeyRole::Kernel, agent, index)
    }

    /// The key that may sign approval statements in `role` about `agent` at `index`.
    ///
    /// # Errors
    /// When there is none, or it does not count there.
    pub fn approver(
        &self,
        name: &KeyName,
        id: KeyId,
        role: &Word,
        agent: &AgentName,
        index: LeafIndex,
    ) -> Result<&VerifierKey, AuthorityError> {
        self.in_force(name, id, &KeyRole::Approver(role.clone()), agent, index)
    }

    fn in_force(
        &self,
        name: &KeyName,
        id: KeyId,
        role: &KeyRole,
        agent: &AgentName,
        index: LeafIndex,
    ) -> Result<&VerifierKey, AuthorityError> {
        // 1. Granted before this index.
        let known = self.get(name, id).filter(|known| known.granted < index);
        let known = known.ok_or_else(|| AuthorityError::NotGranted { name: name.clone(), id })?;
        // 2. Not revoked before this index.
        if let Some(at) = known.revoked.filter(|at| *at < index) {
            return Err(AuthorityError::Revoked { name: name.clone(), at });
        }
        // 3. For this role.
        if known.role != *role {
            return Err(AuthorityError::Role { name: name.clone() });
        }
        // 4. For this agent.
        if !known.agents.iter().any(|scope| scope.covers(agent)) {
            return Err(AuthorityError::Agent { name: name.clone(), agent: agent.clone() });
        }
        Ok(&known.key)
    }

    /// Where a bundle was published.
    #[must_use]
    pub fn published(&self, bundle: &Hash) -> Option<LeafIndex> {
        self.bundles.get(bundle).map(|published| published.index)
    }

    /// How many bytes the operator says that a published bundle has.
    #[must_use]
    pub fn published_size(&self, bundle: &Hash) -> Option<u64> {
        self.bundles.get(bundle).map(|published| published.size)
    }

    /// Whether the operator has allowed this payload object to be deleted.
    #[must_use]
    pub fn is_erased(&self, digest: &Hash) -> bool {
        self.erased.contains_key(digest)
    }

    /// Where the operator first allowed this payload object to be deleted.
    #[must_use]
    pub fn erasure(&self, digest: &Hash) -> Option<LeafIndex> {
        self.erased.get(digest).copied()
    }
}
