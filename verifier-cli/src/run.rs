//! One run, from its evidence pack: everything that the pack lets a stranger check, without a network (SPEC §11.2).
//!
//! The steps are numbered as in SPEC.md. A step that finds something still lets the next one look, so that a report
//! names the cause and not only its first symptom; but nothing is claimed that does not rest on a proven inclusion.
//!
//! Out of scope: what other runs say. Limits over an agent or a kernel, and runs above or below this one, need their
//! records too, and the report says so.

mod approval;
mod authority;
mod budget;
mod call;
mod decision;
mod delegation;
mod ending;
mod entries;
mod identical;
mod payload;
mod policy;
mod record;

use sift_spec::evidence::Pack;
use sift_spec::trust::TrustPolicy;

use crate::checkpoint;
use crate::finding::{Code, Concern, Gap};
use crate::report::{Proven, Report, Verb};

pub(crate) use budget::words;
use entries::Entries;
use record::Story;

/// How a run is verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether the run may still be in progress: without `close`, and with calls that have no outcome yet.
    pub allow_open: bool,
}

/// Checks an evidence pack.
#[must_use]
pub fn verify(pack: &[u8], trust: &TrustPolicy, options: &Options) -> Report {
    let mut report = Report::new(Verb::Run, "evidence pack");
    // 1. The pack is one, in its one encoding.
    match Pack::read(pack) {
        Ok(pack) => {
            report.rename(format!("run {}", pack.run));
            verify_pack(pack, trust, options, &mut report);
        }
        Err(error) => report.reject(Code::PackMalformed, Concern::whole(), error),
    }
    report
}

fn verify_pack(pack: Pack, trust: &TrustPolicy, options: &Options, report: &mut Report) {
    // 2. The checkpoint is believed. One that is not still says where the entries claim to stand.
    let believed = checkpoint::verify(pack.checkpoint.as_bytes(), trust, report);
    let Some(head) = checkpoint::claimed(&pack.checkpoint, believed.as_ref()) else {
        report.leave(
            Gap::NotReached,
            Concern::whole(),
            "without a checkpoint there is nothing to check against",
        );
        return;
    };
    // 3. Every entry stands at its index of that tree.
    let included = entries::verify_inclusion(&pack, &head, believed.as_ref(), report);
    let mut grounds = Grounds { report, included: included.is_some() };
    grounds.claim(included);
    // 4. The operator's entries, in the order of the log, say whose key counts where.
    let Entries { operator, run: records, whole_log } = Entries::read(&pack, &head, grounds.report);
    let Some(operator_key) = trust.operator() else {
        let detail = "the trust file names no operator (#sift:operator), so nobody's key counts";
        grounds.report.reject(Code::KeyNotGranted, Concern::whole(), detail);
        return;
    };
    let (authority, verified) =
        authority::verify(operator, &head.origin, operator_key, whole_log, &records, grounds.report);
    grounds.claim(verified);
    // 5. Every record of the run is signed by a key that counts at its index for its agent.
    grounds.step(|report| record::verify_signatures(&records, &authority, report));
    // 6. The records are the run, from `open` on, without gap or fork, and with an end.
    let (story, verified) = record::verify_chain(pack.run, &records, &head.origin, options, grounds.report);
    grounds.claim(verified);
    let Some(story) = story else {
        let detail =
            "payloads, decisions, approvals, budget and outcomes make sense only along a whole chain";
        grounds.report.leave(Gap::NotReached, Concern::whole(), detail);
        return;
    };
    verify_story(&story, pack, &authority, &mut grounds);
}

fn verify_story(story: &Story<'_>, pack: Pack, authority: &authority::Authority, grounds: &mut Grounds<'_>) {
    // 7. Every payload that is given is one that a record commits to, and says what the record says of it.
    let (payloads, verified) = payload::verify(story, pack.objects, authority, grounds.report);
    grounds.claim(verified);
    call::verify(story, &payloads, grounds.report);
    // 8. The policy bundle is the one that the run names, published before it, and its limits are the run's.
    let (bundle, verified) = policy::verify(story, &pack.bundles, authority, grounds.report);
    grounds.claim(verified);
    // 9. Every decision comes out again, about an input that comes out again.
    if let Some(bundle) = &bundle {
        grounds.step(|report| decision::verify(story, bundle, &payloads, report));
    }
    // 10. Every held call that ran was approved: by the right key, this action, in time, once.
    let (released, verified) = approval::verify(story, authority, grounds.report);
    grounds.claim(verified);
    // 11. Every sum comes out again, and none passes a limit of the run.
    grounds.step(|report| budget::verify(story, bundle.as_ref(), &payloads, report));
    // 12. Every call that was let through has one outcome, nothing follows a halt, and the close adds up.
    grounds.step(|report| ending::verify(story, &released, report));
    // 13. The run was delegated by a kernel that may, and what it delegated is settled as the other kernels signed.
    grounds.step(|report| delegation::verify(story, authority, report));
    if let Some(parent) = story.open.parent {
        let by = format!("by call {} of run {}", parent.seq, parent.run);
        let detail = match story.open.delegation {
            Some(_) => format!("delegated {by}: that it held the budget is seen in that run's pack"),
            None => format!("said to be started {by}"),
        };
        grounds.report.leave(Gap::ParentUnchecked, Concern::run(story.run), detail);
    }
    story.count(grounds.report);
}

/// The report, and whether the entries are proven to be in the log: only then is anything claimed of them.
struct Grounds<'a> {
    report: &'a mut Report,
    included: bool,
}

impl Grounds<'_> {
    /// Does a step and claims what it has proven.
    fn step<P: Proven>(&mut self, verify: impl FnOnce(&mut Report) -> Option<P>) {
        let proven = verify(self.report);
        self.claim(proven);
    }

    fn claim(&mut self, proven: Option<impl Proven>) {
        if let Some(proven) = proven.filter(|_| self.included) {
            self.report.claim(&proven);
        }
    }
}
