//! The chain step: entries in the order of the log, into the key ring and the heads of the runs.

use std::collections::HashMap;
use std::sync::Arc;

use sift_spec::chain::{OperatorHead, RunHead};
use sift_spec::entry::{Content, Entry};
use sift_spec::keys::KeyRing;
use sift_spec::note::{KeyId, VerifierKey};
use sift_spec::record::{Body, Effect, Kind, OperatorRecord, Record};
use sift_spec::types::{Hash, KeyName, LeafIndex, RunId};

use super::bundle::{Bundle, Signers, index_of};
use super::forks::Forks;
use crate::chain;
use crate::finding::{Code, Concern, Finding};
use crate::report::Report;

/// What is known of a log after the entries so far.
pub(super) struct Audit {
    origin: KeyName,
    ring: Option<KeyRing>,
    /// `None` once the operator's chain broke: that is reported where it did.
    operator_head: Option<OperatorHead>,
    /// `None` is a run whose chain broke: what follows in it is not judged again.
    runs: HashMap<RunId, Option<RunHead>>,
    /// Keys of the ring, shared with the workers. Of two keys with one id, the one that was met last.
    keys: HashMap<KeyId, Arc<VerifierKey>>,
    forks: Forks,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    entries: u64,
    operator_records: u64,
    kinds: [u64; Kind::ALL.len()],
    effects: [u64; 3],
}

impl Audit {
    pub(super) fn new(origin: KeyName, operator: Option<VerifierKey>) -> Self {
        let ring = operator.map(|operator| KeyRing::new(origin.clone(), operator));
        let (operator_head, forks, tally) =
            (Some(OperatorHead::default()), Forks::default(), Tally::default());
        Self { origin, ring, operator_head, runs: HashMap::new(), keys: HashMap::new(), forks, tally }
    }

    /// Takes in a bundle: what is wrong with its entries, and which key must have signed each.
    pub(super) fn bundle(&mut self, bundle: &Bundle) -> (Vec<Finding>, Signers) {
        let (mut findings, mut signers) = (Vec::new(), Signers::default());
        for (position, (entry, leaf)) in bundle.entries.iter().zip(&bundle.leaves).enumerate() {
            let index = index_of(bundle.index, position);
            self.tally.entries += 1;
            match entry {
                Ok(entry) => signers.push(self.entry(index, entry, *leaf, &mut findings)),
                Err(error) => {
                    let concern = Concern::entry(index).at(error.offset());
                    findings.push(Finding::rejects(Code::RecordMalformed, concern, error));
                    signers.push(None);
                }
            }
        }
        (findings, signers)
    }

    fn entry(
        &mut self,
        index: LeafIndex,
        entry: &Entry,
        leaf: Hash,
        findings: &mut Vec<Finding>,
    ) -> Option<&Arc<VerifierKey>> {
        match entry.content() {
            Content::Operator(record) => {
                self.operator(index, entry, record, leaf, findings);
                None
            }
            Content::Run(record) => {
                self.tally.record(record);
                self.record(index, entry, record, leaf, findings);
                self.signer(index, entry, record, findings)
            }
        }
    }

    /// An operator's entry changes who may sign what follows, so its signature is checked before it is applied.
    fn operator(
        &mut self,
        index: LeafIndex,
        entry: &Entry,
        record: &OperatorRecord,
        leaf: Hash,
        findings: &mut Vec<Finding>,
    ) {
        self.tally.operator_records += 1;
        if let Some(head) = &mut self.operator_head {
            let next = head.next_seq();
            if let Err(error) = head.extend(record, leaf, &self.origin) {
                // What stands before the next seq stands where another record stands already.
                let code = if record.seq < next {
                    Code::ChainFork
                } else {
                    chain::code_of(&error, record.seq, None)
                };
                let finding = Finding::rejects(code, Concern::entry(index), error);
                findings.extend(self.forks.sort((None, record.seq), finding));
                self.operator_head = None;
            }
        }
        let Some(ring) = &mut self.ring else { return };
        let mut reject = |code, why| findings.push(Finding::rejects(code, Concern::entry(index), why));
        if let Err(error) = entry.verify(ring.operator()) {
            return reject(Code::SignatureInvalid, error.to_string());
        }
        if let Err(error) = ring.apply(index, &record.body) {
            reject(Code::OperatorInvalid, error.to_string());
        }
    }

    fn record(
        &mut self,
        index: LeafIndex,
        entry: &Entry,
        record: &Record,
        leaf: Hash,
        findings: &mut Vec<Finding>,
    ) {
        let mut last = None;
        let followed = match self.runs.get_mut(&record.run) {
            // The chain broke before, and was reported where it did.
            Some(None) => return,
            Some(Some(head)) => {
                last = Some(head.seq());
                head.extend(record, entry.signer(), leaf).map(|()| None)
            }
            None => RunHead::open(record, entry.signer(), leaf, &self.origin).map(Some),
        };
        let concern = || Concern::record(index, record.run, record.seq);
        match followed {
            Ok(None) => {}
            Ok(opened @ Some(_)) => {
                self.runs.insert(record.run, opened);
            }
            Err(error) => {
                let code = chain::code_of(&error, record.seq, last);
                let finding = Finding::rejects(code, concern(), error);
                findings.extend(self.forks.sort((Some(record.run), record.seq), finding));
                self.runs.insert(record.run, None);
            }
        }
        if let (Body::Open(open), Some(ring)) = (&record.body, &self.ring)
            && ring.published(&open.policy).is_none()
        {
            let detail = format!("the bundle {} is not published before this entry", open.policy.hex());
            findings.push(Finding::rejects(Code::PolicyNotPublished, concern(), detail));
        }
    }

    /// The key that the record names, where it counts at this index for this agent.
    fn signer(
        &mut self,
        index: LeafIndex,
        entry: &Entry,
        record: &Record,
        findings: &mut Vec<Finding>,
    ) -> Option<&Arc<VerifierKey>> {
        match self.ring.as_ref()?.kernel(entry.signer(), entry.key_id(), &record.agent, index) {
            Ok(key) => {
                let shared = self.keys.entry(entry.key_id()).or_insert_with(|| Arc::new(key.clone()));
                if **shared != *key {
                    *shared = Arc::new(key.clone());
                }
                Some(shared)
            }
            Err(error) => {
                let concern = Concern::record(index, record.run, record.seq);
                findings.push(Finding::rejects(Code::KeyNotGranted, concern, error));
                None
            }
        }
    }

    /// The forks of all chains, which [`Audit::bundle`] does not tell.
    pub(super) fn take_forks(&mut self) -> Forks {
        std::mem::take(&mut self.forks)
    }

    pub(super) const fn has_operator(&self) -> bool {
        self.ring.is_some()
    }

    pub(super) const fn entries(&self) -> u64 {
        self.tally.entries
    }

    pub(super) const fn operator_records(&self) -> u64 {
        self.tally.operator_records
    }

    pub(super) fn runs(&self) -> u64 {
        self.runs.len() as u64
    }

    pub(super) fn runs_open(&self) -> u64 {
        self.runs.values().flatten().filter(|head| !head.is_closed()).count() as u64
    }

    pub(super) fn count(&self, report: &mut Report) {
        report.count("entries", self.tally.entries);
        report.count("operator_records", self.tally.operator_records);
        report.count("runs", self.runs());
        report.count("runs_open", self.runs_open());
        for (kind, number) in Kind::ALL.into_iter().zip(self.tally.kinds) {
            report.count(kind.name(), number);
        }
        for (name, number) in
            ["intents_allowed", "intents_denied", "intents_held"].into_iter().zip(self.tally.effects)
        {
            report.count(name, number);
        }
    }
}

impl Tally {
    fn record(&mut self, record: &Record) {
        let kind = record.body.kind();
        for (known, number) in Kind::ALL.into_iter().zip(&mut self.kinds) {
            *number += u64::from(known == kind);
        }
        if let Body::Intent(intent) = &record.body {
            let effect = intent.effect();
            for (known, number) in
                [Effect::Allow, Effect::Deny, Effect::Hold].into_iter().zip(&mut self.effects)
            {
                *number += u64::from(known == effect);
            }
        }
    }
}
