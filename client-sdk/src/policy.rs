//! Policy bundles before they decide anything real: checked, tried on cases, explained, and simulated on history.
//!
//! * [`check`] compiles a bundle and says everything that is wrong or doubtful with it, with file and line.
//! * [`trial`] runs the cases that a bundle brings along in `tests/*.json` ([`case`] is their format).
//! * [`explain`] takes one call apart: the rules that fired, the words they gave, what the budget holds for it.
//! * [`simulate`] decides recorded calls again under another bundle and says what would change; [`history`] reads them
//!   from a kernel's store, from evidence packs, or from recorded conversations.
//!
//! All of it decides with the rules, the run state and the ledger that the kernel itself uses ([`stage`]), so what is
//! printed here is what the kernel would say.
//!
//! # Out of scope
//!
//! Dispatch, signatures and proofs: nothing here acts, writes to a store, or believes that a pack is genuine.
//! `sift-verify run` says whether it is.

pub mod case;
pub mod check;
pub mod explain;
pub mod history;
pub mod source;
pub mod trial;

pub use sift_rules::words::{refusal_name, word};
pub use sift_rules::{simulate, stage};

/// Whose approvals a held call needs, and how soon: `supervisor within 900 seconds`.
#[must_use]
pub fn hold_words(hold: &sift_rules::HoldFor) -> String {
    format!("{} within {} seconds", crate::approval::list(&hold.approvals), hold.seconds)
}
