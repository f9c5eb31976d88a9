//! Who may sign what, from the operator's entries in a pack.
//!
//! A pack holds the operator's entries that a run rests on, not all of them. What it holds is checked as a chain
//! where it is contiguous; whether a revocation is missing from it can only be told when no entry can be missing.

use std::collections::BTreeSet;

use sift_spec::keys::{GrantError, KeyRing};
use sift_spec::note::VerifierKey;
use sift_spec::record::{KeyChange, OperatorBody};
use sift_spec::types::KeyName;

use super::entries::{OperatorEntry, RunEntry};
use crate::finding::{Code, Concern, Gap};
use crate::report::{Claim, Proven, Report};
use crate::text::Many;

/// Keys and bundles, as of the pack's operator entries.
pub(super) struct Authority {
    pub(super) ring: KeyRing,
    /// Whether no entry of the operator can be missing, up to the run's last record.
    pub(super) complete: bool,
}

/// Operator entries that the operator signed and that contradict nothing before them.
#[derive(Debug)]
pub(super) struct VerifiedAuthority {
    operator: KeyName,
    entries: u64,
    _assertion: (),
}

impl Proven for VerifiedAuthority {
    fn claim(&self) -> Claim {
        let detail = format!("{} signed {} on keys and bundles", self.operator, Many(self.entries, "entry"));
        Claim { what: "authority", count: self.entries, detail }
    }
}

/// Checks the operator's entries and applies them in the order of the log.
pub(super) fn verify(
    entries: Vec<OperatorEntry>,
    log: &KeyName,
    operator: &VerifierKey,
    gapless: bool,
    records: &[RunEntry],
    report: &mut Report,
) -> (Authority, Option<VerifiedAuthority>) {
    let mark = report.mark();
    let mut ring = KeyRing::new(log.clone(), operator.clone());
    let mut chain = PartialChain { complete: true, last: None };
    let mut gone = Gone::default();
    for entry in &entries {
        let concern = || Concern::entry(entry.index);
        if entry.record.log != *log {
            let detail = format!("it is for the log {}", entry.record.log);
            report.reject(Code::OperatorInvalid, concern(), detail);
            continue;
        }
        if let Err(error) = entry.entry.verify(operator) {
            report.reject(Code::SignatureInvalid, concern(), error);
            continue;
        }
        if let Some((code, detail)) = chain.follow(entry) {
            report.reject(code, concern(), detail);
        }
        match ring.apply(entry.index, &entry.record.body) {
            Ok(()) => {}
            // The grant may be among the entries that the pack leaves out; there is one grant and one revocation of a key.
            Err(GrantError::NotInForce) if !chain.complete && gone.first(&ring, &entry.record.body) => {}
            Err(error) => report.reject(Code::OperatorInvalid, concern(), error),
        }
        if gone.comes_back(&entry.record.body) {
            report.reject(Code::OperatorInvalid, concern(), "it grants a key that was revoked before");
        }
    }
    let end = records.last().map(|record| record.index);
    let covers = chain.complete && entries.last().map(|entry| entry.index) > end;
    let complete = gapless || covers;
    if !complete {
        let detail = "the operator's chain is not complete up to the run's last record";
        let run = records.first().map_or_else(Concern::whole, |first| Concern::run(first.record.run));
        report.leave(Gap::RevocationUnproven, run, detail);
    }
    let (operator, number) = (operator.name().clone(), entries.len() as u64);
    let verified = report.clean_since(mark);
    let verified = verified.then_some(VerifiedAuthority { operator, entries: number, _assertion: () });
    (Authority { ring, complete }, verified)
}

/// Keys that were revoked without a grant in the pack, by their public keys.
#[derive(Default)]
struct Gone(BTreeSet<[u8; 32]>);

impl Gone {
    /// Whether this revokes a key of which the pack has neither grant nor another revocation.
    fn first(&mut self, ring: &KeyRing, body: &OperatorBody) -> bool {
        let OperatorBody::Key(KeyChange::Revoke(revoke)) = body else { return false };
        let Ok(key) = revoke.vkey.as_str().parse::<VerifierKey>() else { return false };
        ring.iter().all(|known| known.key.public() != key.public()) && self.0.insert(key.public())
    }

    /// Whether this grants one of them.
    fn comes_back(&self, body: &OperatorBody) -> bool {
        let OperatorBody::Key(KeyChange::Grant(grant)) = body else { return false };
        grant.vkey.as_str().parse::<VerifierKey>().is_ok_and(|key| self.0.contains(&key.public()))
    }
}

/// The operator's chain as far as it is given.
struct PartialChain<'a> {
    /// Whether every record from seq 0 on was given so far.
    complete: bool,
    last: Option<&'a OperatorEntry>,
}

impl<'a> PartialChain<'a> {
    /// What is wrong with the next entry of the operator.
    fn follow(&mut self, next: &'a OperatorEntry) -> Option<(Code, String)> {
        let last = self.last.replace(next);
        let Some(last) = last else {
            self.complete = next.record.prev.is_none();
            return None;
        };
        let (seq, before) = (next.record.seq, last.record.seq);
        if seq <= before {
            return Some((
                Code::ChainFork,
                format!("seq {seq} of the operator's chain comes after {before}"),
            ));
        }
        if next.record.time < last.record.time {
            return Some((Code::TimeBackwards, format!("the operator's seq {seq} is older than {before}")));
        }
        let contiguous = before.next() == Some(seq);
        self.complete &= contiguous;
        if contiguous && next.record.prev != Some(last.leaf) {
            return Some((
                Code::PrevDiffers,
                format!("\"prev\" is not the leaf hash of the operator's seq {before}"),
            ));
        }
        None
    }
}
