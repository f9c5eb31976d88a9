//! Checkpoints by a trust file: the step that every verb starts with.

use sift_spec::checkpoint::Checkpoint;
use sift_spec::note::{NOTE_BYTES_MAX, Note};
use sift_spec::proof::TreeHead;
use sift_spec::trust::{TrustError, TrustPolicy, VerifiedCheckpoint};

use crate::finding::{Code, Concern};
use crate::report::{Claim, Proven, Report};

impl Proven for VerifiedCheckpoint {
    fn claim(&self) -> Claim {
        let checkpoint = self.checkpoint();
        let TreeHead { size, root } = checkpoint.head;
        let witnesses: Vec<&str> = self.witnesses().iter().map(|(name, _)| name.as_str()).collect();
        let witnessed = match witnesses.as_slice() {
            [] => "no witness was asked for".to_owned(),
            names => format!("witnessed by {}", names.join(", ")),
        };
        let detail =
            format!("{} signed a tree of {size} entries with root {root}; {witnessed}", checkpoint.origin);
        Claim { what: "checkpoint", count: 1, detail }
    }
}

/// Where packs and logs have their checkpoint.
pub(crate) const PATH: &str = "checkpoint";

/// Checks a checkpoint's note by the trust file, and says in the report what it found. `path` is what readers know it by.
pub(crate) fn verify(
    note: &[u8],
    trust: &TrustPolicy,
    path: &str,
    report: &mut Report,
) -> Option<VerifiedCheckpoint> {
    match trust.verify(note) {
        Ok(checkpoint) => {
            report.claim(&checkpoint);
            Some(checkpoint)
        }
        Err(error) => {
            report.reject(code_of(&error), Concern::path(path), error);
            None
        }
    }
}

/// The code of a checkpoint that is not believed.
pub(crate) const fn code_of(error: &TrustError) -> Code {
    match error {
        TrustError::NotWitnessed { .. } => Code::NotWitnessed,
        TrustError::Note(_) | TrustError::Checkpoint(_) | TrustError::UnknownLog(_) => {
            Code::CheckpointInvalid
        }
    }
}

/// What a checkpoint says, believed or not: where its entries claim to stand, so that later steps can look.
pub(crate) fn claimed(note: &str, believed: Option<&VerifiedCheckpoint>) -> Option<Checkpoint> {
    match believed {
        Some(verified) => Some(verified.checkpoint().clone()),
        None => Checkpoint::parse(Note::parse(note.as_bytes(), NOTE_BYTES_MAX).ok()?.text).ok(),
    }
}
