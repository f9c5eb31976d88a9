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
mod examined;
mod identical;
mod payload;
mod policy;
mod record;
mod workbench;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sift_spec::evidence::{PACK_BYTES_MAX, Pack, PackError};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::Seq;

use crate::checkpoint;
use crate::finding::{Code, Concern, Gap};
use crate::report::{Proven, Report, Verb};

pub(crate) use budget::words;
use entries::Entries;
pub(crate) use examined::Examined;
use payload::Payloads;
use record::Story;
pub(crate) use workbench::Workbench;

/// How a run is verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether the run may still be in progress: without `close`, and with calls that have no outcome yet.
    pub allow_open: bool,
}

/// Checks an evidence pack.
#[must_use]
pub fn verify(pack: &[u8], trust: &TrustPolicy, options: &Options) -> Report {
    examine(pack, trust, options, &mut Workbench::default()).0
}

/// Checks an evidence pack, and gives what its decisions rest on, where that makes sense.
pub(crate) fn examine(
    pack: &[u8],
    trust: &TrustPolicy,
    options: &Options,
    workbench: &mut Workbench,
) -> (Report, Option<Examined>) {
    let mut report = Report::new(Verb::Run, "evidence pack");
    // 1. The pack is one, in its one encoding.
    let examined = match Pack::read(pack) {
        Ok(pack) => {
            report.rename(format!("run {}", pack.run));
            verify_pack(pack, trust, options, workbench, &mut report)
        }
        Err(error) => {
            let at = match error {
                PackError::Archive(at) | PackError::NotCanonical(at) => Some(at),
                PackError::TooLarge => Some(PACK_BYTES_MAX),
                PackError::Member(_) | PackError::Missing(_) | PackError::Manifest => None,
            };
            report.reject(Code::PackMalformed, Concern::whole().at(at), error);
            None
        }
    };
    (report, examined)
}

fn verify_pack(
    pack: Pack,
    trust: &TrustPolicy,
    options: &Options,
    workbench: &mut Workbench,
    report: &mut Report,
) -> Option<Examined> {
    // 2. The checkpoint is believed. One that is not still says where the entries claim to stand.
    let believed = checkpoint::verify(pack.checkpoint.as_bytes(), trust, checkpoint::PATH, report);
    let Some(head) = checkpoint::claimed(&pack.checkpoint, believed.as_ref()) else {
        report.leave(
            Gap::NotReached,
            Concern::run(pack.run),
            "without a checkpoint there is nothing to check against",
        );
        return None;
    };
    // 3. Every entry stands at its index of that tree.
    let included = entries::verify_inclusion(&pack, &head, believed.as_ref(), report);
    let mut grounds = Grounds { report, included: included.is_some() };
    grounds.claim(included);
    // 4. The operator's entries, in the order of the log, say whose key counts where.
    let Entries { operator, run: records, gapless } = Entries::read(&pack, grounds.report);
    let Some(operator_key) = trust.operator() else {
        let detail = "the trust file names no operator (#sift:operator), so nobody's key counts";
        grounds.report.reject(Code::KeyNotGranted, Concern::whole(), detail);
        return None;
    };
    let (authority, verified) =
        authority::verify(operator, &head.origin, operator_key, gapless, &records, grounds.report);
    grounds.claim(verified);
    // 5. Every record of the run is signed by a key that counts at its index for its agent.
    grounds.step(|report| record::verify_signatures(&records, &authority, report));
    // 6. The records are the run, from `open` on, without gap or fork, and with an end.
    let (story, verified) = record::verify_chain(pack.run, &records, &head.origin, options, grounds.report);
    grounds.claim(verified);
    let Some(story) = story else {
        let detail =
            "payloads, decisions, approvals, budget and outcomes make sense only along a whole chain";
        grounds.report.leave(Gap::NotReached, Concern::run(pack.run), detail);
        return None;
    };
    let run = pack.run;
    let (payloads, undecided, deciding) = verify_story(&story, pack, &authority, workbench, &mut grounds);
    Some(Examined { run, records, payloads, undecided, deciding })
}

fn verify_story(
    story: &Story<'_>,
    pack: Pack,
    authority: &authority::Authority,
    workbench: &mut Workbench,
    grounds: &mut Grounds<'_>,
) -> (Payloads, BTreeSet<Seq>, Duration) {
    // 7. Every payload that is given is one that a record commits to, and says what the record says of it.
    let (payloads, verified) = payload::verify(story, pack.objects, authority, grounds.report);
    grounds.claim(verified);
    call::verify(story, &payloads, grounds.report);
    // 8. The policy bundle is the one that the run names, published before it, and its limits are the run's.
    let (bundle, verified) = policy::verify(story, &pack.bundles, authority, workbench, grounds.report);
    grounds.claim(verified);
    // 9. Every decision comes out again, about an input that comes out again.
    let start = Instant::now();
    let mut undecided = story.intents.keys().copied().collect();
    if let (Some(bundle), Some(decider)) = (&bundle, workbench.decider()) {
        grounds.step(|report| decision::verify(story, bundle, decider, &payloads, &mut undecided, report));
    }
    let deciding = start.elapsed();
    // 10. Every held call that ran was approved: by the right key, this action, in time, once.
    let (released, verified) = approval::verify(story, authority, grounds.report);
    grounds.claim(verified);
    // 11. Every sum comes out again, and none passes a limit of the run.
    grounds.step(|report| budget::verify(story, bundle.as_deref(), &payloads, report));
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
    (payloads, undecided, deciding)
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
