//! What the rest of the kernel asks: whether a key was revoked; and how current that is.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use sift_spec::note::VerifierKey;
use sift_spec::types::{KeyName, LeafIndex, UnixMillis};

use super::Revoked;
use crate::config::{Approver, Peer};

/// How far the kernel follows the operator's records.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorStatus {
    /// When the log last said that there are no others, by the kernel's clock; `None` if it has not since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<UnixMillis>,
    /// How many of them are known and kept.
    pub records: u64,
    /// Approvers and kernels of `kernel.toml` whose key the operator has revoked: what they sign does not count.
    pub revoked: Vec<KeyName>,
    /// Why the log did not say more when it was last asked. What is known stays in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Approvers and kernels of `kernel.toml` whose key the operator has not granted, as far as the log shows. What they
    /// sign counts here, and an auditor refuses it.
    pub ungranted: Vec<KeyName>,
}

/// The keys that the operator is known to have revoked.
#[derive(Debug)]
pub(crate) struct Revocations {
    /// By public key: a revoked key never counts again, under any name (SPEC §4.2).
    keys: RwLock<BTreeMap<[u8; 32], LeafIndex>>,
    status: Mutex<OperatorStatus>,
}

impl Revocations {
    /// What an earlier process has learnt.
    pub(crate) fn new(revoked: impl Iterator<Item = Revoked>, records: u64) -> Self {
        let keys = revoked.map(|revoked| (revoked.key.public(), revoked.at)).collect();
        let status = OperatorStatus { records, ..OperatorStatus::default() };
        Self { keys: RwLock::new(keys), status: Mutex::new(status) }
    }

    /// Where a key was revoked, if it is known to be.
    pub(crate) fn at(&self, key: &VerifierKey) -> Option<LeafIndex> {
        // A map to which entries are added one by one is whole at any time.
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(&key.public()).copied()
    }

    /// A key does not count from here on.
    pub(crate) fn add(&self, revoked: &Revoked) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.entry(revoked.key.public()).or_insert(revoked.at);
    }

    /// Changes what is said of the log's answers.
    pub(crate) fn say(&self, change: impl FnOnce(&mut OperatorStatus)) {
        change(&mut self.lock());
    }

    pub(crate) fn status(&self, approvers: &[Approver], kernels: &[Peer]) -> OperatorStatus {
        let listed =
            approvers.iter().map(|approver| &approver.key).chain(kernels.iter().map(|peer| &peer.key));
        let mut revoked: Vec<KeyName> =
            listed.filter(|key| self.at(key).is_some()).map(|key| key.name().clone()).collect();
        revoked.sort_unstable();
        revoked.dedup();
        OperatorStatus { revoked, ..self.lock().clone() }
    }

    fn lock(&self) -> MutexGuard<'_, OperatorStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
