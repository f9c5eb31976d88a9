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
pub mod simulate;
pub mod source;
pub mod stage;
pub mod trial;

use sift_spec::record::Refusal;

/// The limit behind a refusal, in the words that cases and tables use: `run tool_calls per run`, `identical_calls`,
/// `no price for gpt-4o`, `wall_clock`.
#[must_use]
pub fn refusal_name(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Depth(_) => "depth".to_owned(),
        Refusal::Identical(_) => "identical_calls".to_owned(),
        Refusal::Limit(limit) => {
            format!("{} {} per {}", word(&limit.scope), limit.meter, word(&limit.window))
        }
        Refusal::Unpriced(unpriced) => format!("no price for {}", unpriced.model),
        Refusal::WallClock(_) => "wall_clock".to_owned(),
    }
}

/// Whose approvals a held call needs, and how soon: `supervisor within 900 seconds`.
#[must_use]
pub fn hold_words(hold: &sift_rules::HoldFor) -> String {
    format!("{} within {} seconds", crate::approval::list(&hold.approvals), hold.seconds)
}

/// The word that records have for a value without members: `run`, `hour`, `allow`.
#[must_use]
pub fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
