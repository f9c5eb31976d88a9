//! What the log must say, told plainly: a list of entries, and who stands where.

use std::collections::{BTreeMap, BTreeSet};

use sift_spec::entry::{Content, Entry};
use sift_spec::note::KeyId;
use sift_spec::record::{Body, KeyChange, OperatorBody, OperatorRecord, Record};
use sift_spec::types::{Hash, KeyName, RunId};

use super::actors::ORIGIN;

/// A record's place: its run, or the operator's chain, and its seq.
pub(super) type Place = (Option<RunId>, u64);

/// What an entry must be answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Index(u64),
    /// Refused, naming the entry that has the place.
    Equivocation(u64),
    /// Refused for another reason.
    Refused,
}

/// Everything that is durable.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) entries: Vec<Vec<u8>>,
    pub(super) places: BTreeMap<Place, u64>,
    pub(super) evidence: BTreeMap<Place, Vec<u8>>,
    /// Granted keys, and whether each is in force.
    keys: BTreeMap<(KeyName, KeyId), bool>,
    policies: BTreeSet<Hash>,
}

impl Model {
    /// Decides about one entry after all others.
    pub(super) fn admit(&mut self, entry: &Entry) -> Verdict {
        let place = match entry.content() {
            Content::Run(record) => (Some(record.run), record.seq.get()),
            Content::Operator(record) => (None, record.seq.get()),
        };
        if let Some(index) = self.places.get(&place) {
            return self.again(entry, place, *index);
        }
        let fits = match entry.content() {
            Content::Run(record) => self.in_force(entry) && self.follows(record, entry.signer()),
            Content::Operator(record) => self.follows_operator(record) && self.apply(record),
        };
        if !fits {
            return Verdict::Refused;
        }
        let index = self.entries.len() as u64;
        self.entries.push(entry.bytes().to_vec());
        self.places.insert(place, index);
        Verdict::Index(index)
    }

    /// An entry for a place that is taken.
    fn again(&mut self, entry: &Entry, place: Place, index: u64) -> Verdict {
        let first = self.at(index);
        if first.bytes() == entry.bytes() {
            return Verdict::Index(index);
        }
        // Evidence is what the run's own key name signed, with a key that counts.
        if place.0.is_some() && !(self.in_force(entry) && first.signer() == entry.signer()) {
            return Verdict::Refused;
        }
        self.evidence.entry(place).or_insert_with(|| entry.bytes().to_vec());
        Verdict::Equivocation(index)
    }

    fn at(&self, index: u64) -> Entry {
        Entry::parse(self.entries[index as usize].clone()).expect("an admitted entry")
    }

    /// The last entry of a chain.
    pub(super) fn last(&self, chain: Option<RunId>) -> Option<Entry> {
        self.places.range((chain, 0)..=(chain, u64::MAX)).next_back().map(|(_, index)| self.at(*index))
    }

    fn in_force(&self, entry: &Entry) -> bool {
        self.keys.get(&(entry.signer().clone(), entry.key_id())).copied().unwrap_or(false)
    }

    fn follows(&self, record: &Record, signer: &KeyName) -> bool {
        let Some(last) = self.last(Some(record.run)) else {
            let Body::Open(open) = &record.body else { return false };
            return open.log.as_str() == ORIGIN && self.policies.contains(&open.policy);
        };
        let before = last.record().expect("a run's record");
        record.seq.get() == before.seq.get() + 1
            && record.prev == Some(last.leaf())
            && record.time >= before.time
            && last.signer() == signer
            && !matches!(before.body, Body::Close(_))
            && !matches!(record.body, Body::Open(_))
    }

    fn follows_operator(&self, record: &OperatorRecord) -> bool {
        match self.last(None) {
            None => record.seq.get() == 0,
            Some(last) => {
                let Content::Operator(before) = last.content() else { panic!("the operator's chain") };
                record.seq.get() == before.seq.get() + 1
                    && record.prev == Some(last.leaf())
                    && record.time >= before.time
            }
        }
    }

    /// Does what the operator says, unless it was done before.
    fn apply(&mut self, record: &OperatorRecord) -> bool {
        let slot = |vkey: &str| {
            let key: sift_spec::note::VerifierKey = vkey.parse().expect("a vkey");
            (key.name().clone(), key.id())
        };
        match &record.body {
            OperatorBody::Key(KeyChange::Grant(grant)) => {
                let slot = slot(grant.vkey.as_str());
                !self.keys.contains_key(&slot) && self.keys.insert(slot, true).is_none()
            }
            OperatorBody::Key(KeyChange::Revoke(revoke)) => {
                self.keys.get_mut(&slot(revoke.vkey.as_str())).is_some_and(std::mem::take)
            }
            OperatorBody::Policy(policy) => self.policies.insert(policy.bundle),
            OperatorBody::Erase(_) => true,
        }
    }
}
