//! One entry and its receipt: is it in the log? (SPEC §7.2)

use sift_spec::entry::{Content, Entry, EntryError};
use sift_spec::receipt::{Receipt, ReceiptError, VerifiedInclusion};
use sift_spec::record::{Body, ENTRY_BYTES_MAX};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::KeyName;

use crate::checkpoint::{self, code_of};
use crate::finding::{Code, Concern, Gap};
use crate::report::{Claim, Proven, Report, Verb};

impl Proven for VerifiedInclusion {
    fn claim(&self) -> Claim {
        let detail = format!("the entry with leaf hash {} stands at index {}", self.leaf(), self.index());
        Claim { what: "inclusion", count: 1, detail }
    }
}

/// An entry of Sift that its operator signed.
#[derive(Debug)]
struct VerifiedOperatorEntry {
    detail: String,
    _assertion: (),
}

impl Proven for VerifiedOperatorEntry {
    fn claim(&self) -> Claim {
        Claim { what: "signature", count: 1, detail: self.detail.clone() }
    }
}

/// Checks that `entry`, the exact bytes of a log's entry, is where `receipt` says.
#[must_use]
pub fn verify(entry: &[u8], receipt: &[u8], trust: &TrustPolicy) -> Report {
    let mut report = Report::new(Verb::Proof, "entry and receipt");
    // No log holds a larger one, whatever its receipt says.
    if entry.len() > ENTRY_BYTES_MAX {
        let detail = format!("more than {ENTRY_BYTES_MAX} bytes: no log holds such an entry");
        report.reject(Code::RecordMalformed, Concern::whole().at(Some(ENTRY_BYTES_MAX)), detail);
        return report;
    }
    // 1. The receipt is a tlog-proof in its one encoding.
    let receipt = match Receipt::parse(receipt) {
        Ok(receipt) => receipt,
        Err(error) => {
            let at = if let ReceiptError::Grammar { at, .. } = error { Some(at) } else { None };
            report.reject(Code::ReceiptMalformed, Concern::whole().at(at), error);
            return report;
        }
    };
    let concern = || Concern::entry(receipt.index);
    // 2. Its checkpoint is believed, and the entry stands at its index of that tree.
    let included = receipt.verify(sift_spec::hash::leaf_hash(entry), trust);
    match &included {
        Ok(inclusion) => {
            report.claim(inclusion.checkpoint());
            report.claim(inclusion);
        }
        Err(ReceiptError::Checkpoint(error)) => {
            report.reject(code_of(error), Concern::path(checkpoint::PATH), error)
        }
        Err(error @ ReceiptError::Inclusion(_)) => report.reject(Code::NotIncluded, concern(), error),
        Err(error @ ReceiptError::Grammar { .. }) => report.reject(Code::ReceiptMalformed, concern(), error),
    }
    let origin = included.ok().map(|inclusion| inclusion.checkpoint().checkpoint().origin.clone());
    let is_elsewhere = |log: &KeyName| origin.as_ref().is_some_and(|origin| origin != log);
    // 3. The entry is one of Sift's, in its one encoding; any other is checked for inclusion only.
    let entry = match Entry::parse(entry.to_vec()) {
        Ok(entry) => entry,
        Err(EntryError::Header | EntryError::Note(_)) if !entry.starts_with(b"sift/") => {
            report.leave(Gap::ContentUnread, concern(), "the entry is not a note of Sift");
            return report;
        }
        Err(error) => {
            report.reject(Code::RecordMalformed, concern().at(error.offset()), error);
            return report;
        }
    };
    // 4. It is for this log. Who signed: The trust file knows the operator; a kernel's key is known only from the operator's entries.
    match entry.content() {
        Content::Operator(record) if is_elsewhere(&record.log) => {
            let detail = format!("it is for the log {}", record.log);
            report.reject(Code::OperatorInvalid, concern(), detail);
        }
        Content::Operator(record) => match trust.operator() {
            None => report.leave(Gap::NoOperator, concern(), "the signature was not checked"),
            Some(operator) => match entry.verify(operator) {
                Ok(()) => {
                    let detail = format!("{} signed record {} of its chain", operator.name(), record.seq);
                    report.claim(&VerifiedOperatorEntry { detail, _assertion: () });
                }
                Err(error) => report.reject(Code::SignatureInvalid, concern(), error),
            },
        },
        Content::Run(record) => {
            let concern = Concern::record(receipt.index, record.run, record.seq);
            if let Body::Open(open) = &record.body
                && is_elsewhere(&open.log)
            {
                let detail = format!("the run is one of the log {}", open.log);
                report.reject(Code::RunMismatch, concern.clone(), detail);
            }
            let detail = format!(
                "the entry is the {} of agent {}, said to be signed by {}; signature and key were not checked",
                record.body.kind(),
                record.agent,
                entry.signer()
            );
            report.leave(Gap::GrantUnchecked, concern, detail);
        }
    }
    report
}
