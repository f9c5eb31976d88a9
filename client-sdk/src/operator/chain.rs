//! The operator's chain from its start to the last record that is known.

use sift_spec::chain::{ChainError, OperatorHead};
use sift_spec::entry::{Content, Entry, EntryError};
use sift_spec::keys::{GrantError, KeyRing};
use sift_spec::note::VerifierKey;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, KeyName, LeafIndex, Seq};

/// Most records that are kept. All of them are read at every start, which takes some 30 us for each.
const RECORDS_MAX: u64 = 100_000;

/// Most bytes of them: a record that grants, revokes or publishes has some 500.
const BYTES_MAX: usize = 64 << 20;

/// Why an entry does not continue the chain. The log, or whoever wrote the entry, is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChainFault {
    /// No entry, or the operator did not sign it.
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error("it is not a record of the operator")]
    NotOperator,
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("it cannot be applied: {0}")]
    Grant(#[from] GrantError),
    /// Authority is log order, so the chain must be in it.
    #[error("it stands at or before the record that it follows, at index {0}")]
    Order(LeafIndex),
    #[error(
        "the chain is longer than the {RECORDS_MAX} records or {BYTES_MAX} bytes that a kernel keeps, so that it follows no more \
         revocations; take revoked keys out of kernel.toml"
    )]
    TooLong,
}

/// A key that the operator has revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revoked {
    pub(crate) key: VerifierKey,
    /// Index of the revocation.
    pub(crate) at: LeafIndex,
}

/// What is known of the operator's chain. INVARIANT: head, ring and last index are of the same records, all of them
/// from seq 0 on.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    log: KeyName,
    /// `None` where the trust file names none: then whose records they are is the log's word.
    operator: Option<VerifierKey>,
    head: OperatorHead,
    ring: KeyRing,
    last: Option<LeafIndex>,
    bytes: usize,
}

impl Chain {
    /// The chain of the log with this origin, before its first record.
    pub(crate) fn new(log: &KeyName, trust: &TrustPolicy) -> Option<Self> {
        let operator = trust.operator().cloned();
        // The ring keeps the operator's key from being granted. Where nobody knows it, the log's stands in for it.
        let root = operator.clone().or_else(|| trust.logs().first().map(|log| log.key.clone()))?;
        let (head, ring) = (OperatorHead::default(), KeyRing::new(log.clone(), root));
        Some(Self { log: log.clone(), operator, head, ring, last: None, bytes: 0 })
    }

    /// The next record, at `index` of the log. Returns the key that it revokes. On an error nothing has changed.
    pub(crate) fn extend(
        &mut self,
        index: LeafIndex,
        entry: Vec<u8>,
    ) -> Result<(Seq, Option<Revoked>), ChainFault> {
        // 1. There is room, and it stands behind the one before.
        let bytes = self.bytes.saturating_add(entry.len());
        if bytes > BYTES_MAX || self.next_seq().get() >= RECORDS_MAX {
            return Err(ChainFault::TooLong);
        }
        if let Some(last) = self.last.filter(|last| *last >= index) {
            return Err(ChainFault::Order(last));
        }
        // 2. A record of the operator, signed by the operator.
        let entry = Entry::parse(entry)?;
        let Content::Operator(record) = entry.content() else { return Err(ChainFault::NotOperator) };
        if let Some(operator) = &self.operator {
            entry.verify(operator)?;
        }
        // 3. The next of this log's chain.
        let mut head = self.head.clone();
        head.extend(record, entry.leaf(), &self.log)?;
        // 4. What it says can be done.
        self.ring.apply(index, &record.body)?;
        (self.head, self.last, self.bytes) = (head, Some(index), bytes);
        let revoked = self.ring.iter().find(|granted| granted.revoked == Some(index));
        Ok((record.seq, revoked.map(|granted| Revoked { key: granted.key.clone(), at: index })))
    }

    /// All keys that were revoked.
    pub(crate) fn revoked(&self) -> impl Iterator<Item = Revoked> {
        let revoked = |granted: &sift_spec::keys::Granted| {
            granted.revoked.map(|at| Revoked { key: granted.key.clone(), at })
        };
        self.ring.iter().filter_map(revoked)
    }

    /// Whether the operator has granted this key, for whatever it may be.
    pub(crate) fn is_granted(&self, key: &VerifierKey) -> bool {
        self.ring.get(key.name(), key.id()).is_some_and(|granted| granted.key == *key)
    }

    /// Origin of the log.
    pub(crate) const fn log(&self) -> &KeyName {
        &self.log
    }

    /// Seq of the record that comes next: how many are known.
    pub(crate) fn next_seq(&self) -> Seq {
        self.head.next_seq()
    }

    /// Leaf hash of the last record.
    pub(crate) fn leaf(&self) -> Option<Hash> {
        self.head.leaf()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sift_spec::note::{KeyType, SignerKey};
    use sift_spec::record::{Grant, KeyChange, KeyRole, OperatorBody, OperatorRecord, Revoke};
    use sift_spec::types::{Text, UnixMillis};

    fn key(name: &str, seed: u8) -> SignerKey {
        SignerKey::from_seed(name.parse().unwrap(), KeyType::Ed25519, &[seed; 32]).unwrap()
    }

    fn grant(key: &SignerKey) -> OperatorBody {
        let role = KeyRole::Approver("supervisor".parse().unwrap());
        let vkey = key.verifier().to_string().parse().unwrap();
        OperatorBody::Key(KeyChange::Grant(Grant { agents: vec!["*".parse().unwrap()], role, vkey }))
    }

    fn revoke(key: &SignerKey) -> OperatorBody {
        let vkey = key.verifier().to_string().parse().unwrap();
        OperatorBody::Key(KeyChange::Revoke(Revoke { reason: Text::cut("left"), vkey }))
    }

    /// The record of a body that follows what the chain has.
    fn next(chain: &Chain, body: OperatorBody) -> OperatorRecord {
        let (prev, seq) = (chain.leaf(), chain.next_seq());
        OperatorRecord { body, log: "log.example".parse().unwrap(), prev, seq, time: UnixMillis::ZERO }
    }

    fn at(index: u64) -> LeafIndex {
        LeafIndex::new(index).unwrap()
    }

    #[test]
    fn only_the_next_record_of_the_operator_counts() {
        let (log, operator, boss) = (key("log.example", 1), key("operator.example", 2), key("boss", 3));
        let trust = TrustPolicy::of_log(log.verifier().clone(), Some(operator.verifier().clone()));
        let mut chain = Chain::new(log.verifier().name(), &trust).unwrap();
        let signed = |record: &OperatorRecord| Entry::sign_operator(record, &operator).unwrap().into_bytes();
        let first = next(&chain, grant(&boss));
        assert_eq!(chain.extend(at(4), signed(&first)), Ok((Seq::ZERO, None)));
        let good = next(&chain, revoke(&boss));

        let before = format!("{chain:?}");
        // Another signer, another log, a gap, another record before, one that changes nothing, and no record at all.
        let forged = Entry::sign_operator(&good, &boss).unwrap().into_bytes();
        assert!(matches!(chain.extend(at(5), forged), Err(ChainFault::Entry(_))));
        let elsewhere = OperatorRecord { log: "other.example".parse().unwrap(), ..good.clone() };
        assert!(matches!(chain.extend(at(5), signed(&elsewhere)), Err(ChainFault::Chain(_))));
        let gap = OperatorRecord { seq: Seq::new(2).unwrap(), ..good.clone() };
        assert!(matches!(chain.extend(at(5), signed(&gap)), Err(ChainFault::Chain(ChainError::Gap { .. }))));
        let other = OperatorRecord { prev: Some(sift_spec::hash::leaf_hash(b"other")), ..good.clone() };
        assert!(matches!(
            chain.extend(at(5), signed(&other)),
            Err(ChainFault::Chain(ChainError::Prev { .. }))
        ));
        let again = next(&chain, grant(&boss));
        assert!(matches!(chain.extend(at(5), signed(&again)), Err(ChainFault::Grant(_))));
        assert!(matches!(chain.extend(at(5), b"x".to_vec()), Err(ChainFault::Entry(_))));
        assert_eq!(chain.extend(at(4), signed(&good)), Err(ChainFault::Order(at(4))));
        assert_eq!(format!("{chain:?}"), before, "nothing of it left a trace");

        let (_, revoked) = chain.extend(at(9), signed(&good)).unwrap();
        let expected = Revoked { key: boss.verifier().clone(), at: at(9) };
        assert_eq!(revoked, Some(expected.clone()));
        assert_eq!(chain.revoked().collect::<Vec<_>>(), [expected]);
        assert_eq!(chain.next_seq().get(), 2);
    }
}
