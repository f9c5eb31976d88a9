//! Payload objects against the commitments of the records.

use std::collections::BTreeMap;

use sift_spec::payload::{Commitment, Object, PayloadError};
use sift_spec::types::Hash;

use super::authority::Authority;
use super::record::Story;
use crate::finding::{Code, Concern, Gap};
use crate::report::{Claim, Proven, Report};
use crate::text::Many;

/// Objects that match every commitment to them, by digest.
#[derive(Debug, Default)]
pub(super) struct Payloads(BTreeMap<Hash, Object>);

impl Payloads {
    /// The content behind a commitment, where it is given and right.
    pub(super) fn content(&self, commitment: &Commitment) -> Option<&[u8]> {
        self.0.get(&commitment.digest).map(Object::content)
    }
}

/// Payload objects that a record of the run commits to.
#[derive(Debug)]
pub(super) struct VerifiedPayloads {
    given: u64,
    committed: u64,
    _assertion: (),
}

impl Proven for VerifiedPayloads {
    fn claim(&self) -> Claim {
        let detail =
            format!("{} of {} are given and match", self.given, Many(self.committed, "committed payload"));
        Claim { what: "payloads", count: self.given, detail }
    }
}

/// Checks the given objects and says which are withheld.
pub(super) fn verify(
    story: &Story<'_>,
    mut objects: BTreeMap<Hash, Vec<u8>>,
    authority: &Authority,
    report: &mut Report,
) -> (Payloads, Option<VerifiedPayloads>) {
    let mark = report.mark();
    let mut payloads = Payloads::default();
    let mut withheld: BTreeMap<&str, u64> = BTreeMap::new();
    let mut committed = 0;
    for record in story.records {
        for commitment in record.record.commitments() {
            committed += 1;
            let digest = &commitment.digest;
            if let Some(bytes) = objects.remove(digest) {
                // Hashed once, however many records commit to it.
                let object = Object::from_bytes(bytes).and_then(|object| {
                    if object.digest() == *digest { Ok(object) } else { Err(PayloadError::Digest) }
                });
                match object {
                    Ok(object) => {
                        payloads.0.insert(*digest, object);
                    }
                    Err(error) => report.reject(Code::PayloadDiffers, Concern::object(digest), error),
                }
            } else if !payloads.0.contains_key(digest) {
                if authority.ring.is_erased(digest) {
                    report.leave(Gap::PayloadErased, record.concern(), commitment.name.as_str());
                } else {
                    *withheld.entry(commitment.name.as_str()).or_default() += 1;
                }
            }
            let size = payloads.0.get(digest).map(|object| object.content().len() as u64);
            if size.is_some_and(|size| size != commitment.size) {
                let concern = Concern { object: Some(digest.hex()), ..record.concern() };
                let detail = format!("{}: {}", commitment.name, PayloadError::Size);
                report.reject(Code::PayloadDiffers, concern, detail);
                payloads.0.remove(digest);
            }
        }
    }
    for digest in objects.keys() {
        report.reject(Code::PayloadUnknown, Concern::object(digest), "no record of the run commits to it");
    }
    if !withheld.is_empty() {
        let kinds: Vec<String> = withheld.iter().map(|(name, number)| format!("{name} {number}")).collect();
        let detail = format!("{} of {committed}: {}", withheld.values().sum::<u64>(), kinds.join(", "));
        report.leave(Gap::PayloadWithheld, Concern::run(story.run), detail);
    }
    let given = payloads.0.len() as u64;
    let verified = report.clean_since(mark) && given > 0;
    (payloads, verified.then_some(VerifiedPayloads { given, committed, _assertion: () }))
}
