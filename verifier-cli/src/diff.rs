//! Two copies of what should be the same: two packs of one run, or two mirrors of one log (SPEC §11.7).
//!
//! Each is verified on its own first. What they then disagree on is either a damaged copy, which its own findings show; or
//! it is proven on both sides, and whoever signed both told two stories. What only one of them holds is no contradiction,
//! and said to be uncompared.
//!
//! Out of scope: which of two stories is true.

mod logs;
mod packs;

use sift_spec::checkpoint::Checkpoint;

pub use logs::{Logs, compare_logs};
pub use packs::compare_packs;

use crate::error::CannotCheck;
use crate::report::Report;

/// The reports on two copies, and on what they agree on.
#[derive(Debug)]
pub struct Diff {
    /// What verifying each gave.
    pub sides: [Report; 2],
    /// What comparing them gave.
    pub report: Report,
}

/// Heads of two logs cannot be compared.
fn of_one_log(first: &Checkpoint, second: &Checkpoint) -> Result<(), CannotCheck> {
    match first.origin == second.origin {
        true => Ok(()),
        false => Err(CannotCheck::TwoLogs(first.origin.to_string(), second.origin.to_string())),
    }
}
