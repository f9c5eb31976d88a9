//! The policy bundle of a run: published, given, the one that was named, and its limits the run's.

use std::collections::BTreeMap;
use std::rc::Rc;

use sift_rules::PolicyBundle;
use sift_spec::record::{Limits, SignedDelegation};
use sift_spec::types::Hash;

use super::authority::Authority;
use super::record::Story;
use super::workbench::Workbench;
use crate::finding::{Code, Concern, Gap};
use crate::report::{Claim, Proven, Report};

/// A bundle whose bytes have the digest that the run names.
#[derive(Debug)]
pub(super) struct VerifiedBundle {
    digest: Hash,
    engine: &'static str,
    _assertion: (),
}

impl Proven for VerifiedBundle {
    fn claim(&self) -> Claim {
        let detail =
            format!("{} compiles for {}, and its limits are the run's", self.digest.hex(), self.engine);
        Claim { what: "bundle", count: 1, detail }
    }
}

/// Checks publication, bytes and limits; gives the compiled bundle where it is the right one.
pub(super) fn verify(
    story: &Story<'_>,
    bundles: &BTreeMap<Hash, Vec<u8>>,
    authority: &Authority,
    workbench: &mut Workbench,
    report: &mut Report,
) -> (Option<Rc<PolicyBundle>>, Option<VerifiedBundle>) {
    let mark = report.mark();
    let policy = &story.open.policy;
    let concern = || Concern { object: Some(policy.hex()), ..story.first.concern() };
    if authority.ring.published(policy).is_none_or(|at| at >= story.first.index) {
        report.reject(Code::PolicyNotPublished, concern(), "no earlier entry of the operator publishes it");
    }
    for digest in bundles.keys().filter(|digest| *digest != policy) {
        report.reject(
            Code::PayloadUnknown,
            Concern::object(digest),
            "the run does not name this policy bundle",
        );
    }
    let delegation = story.open.delegation.as_ref().map(|note| SignedDelegation::parse(note.as_str()));
    let narrowed = |limits: &Limits| match &delegation {
        None => Some(limits.clone()),
        Some(signed) => signed.as_ref().ok()?.delegation.limits(limits, story.first.record.time),
    };
    let Some(bytes) = bundles.get(policy) else {
        report.leave(Gap::BundleMissing, concern(), "the pack does not hold the bundle that the run names");
        // Narrowing what is narrow changes nothing, whatever the bundle's limits are.
        if narrowed(&story.open.limits).as_ref() != Some(&story.open.limits) {
            let why = "\"limits\" is wider than what was delegated";
            report.reject(Code::LimitsDiffer, story.first.concern(), why);
        }
        return (None, None);
    };
    let bundle = match workbench.bundle(policy, bytes) {
        Ok(bundle) => bundle,
        Err(why) => {
            report.reject(Code::BundleDiffers, concern(), why);
            return (None, None);
        }
    };
    if story.open.engine.as_str() != bundle.engine() {
        let detail =
            format!("the run names {}, this program decides with {}", story.open.engine, bundle.engine());
        report.leave(Gap::EngineDiffers, story.first.concern(), detail);
    }
    let stated = authority.ring.published_size(policy).filter(|stated| *stated != bytes.len() as u64);
    if let Some(stated) = stated {
        let detail = format!("it has {} bytes, and was published as one of {stated}", bytes.len());
        report.reject(Code::BundleDiffers, concern(), detail);
    }
    if narrowed(bundle.budget().limits()).as_ref() != Some(&story.open.limits) {
        let why = match delegation {
            None => "\"limits\" is not the bundle's budget.toml",
            Some(_) => "\"limits\" is not the bundle's budget.toml within what was delegated",
        };
        report.reject(Code::LimitsDiffer, story.first.concern(), why);
    }
    let (digest, engine) = (*policy, bundle.engine());
    let verified = report.clean_since(mark).then_some(VerifiedBundle { digest, engine, _assertion: () });
    (Some(bundle), verified)
}
