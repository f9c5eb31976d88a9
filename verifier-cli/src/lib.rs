//! The verifier: evidence in, a report out.
//!
//! # The main path
//!
//! 1. A trust file says which log, witnesses and operator are believed: [`files::read_trust`].
//! 2. One of four verify functions follows the numbered steps of SPEC §11: [`proof::verify`] for an entry and its
//!    receipt, [`run::verify`] for an evidence pack, [`log::verify`] for a whole log, [`consistency::verify`] for
//!    two heads.
//! 3. It gives a [`Report`]: what was verified, each [`finding::Finding`], and what was left unchecked. What cannot be
//!    checked at all is [`CannotCheck`].
//! 4. [`text`] prints the report for people, [`Report::to_json`] for programs; [`exit`] maps it to an exit code.
//!
//! Beside that, [`follow`] watches a log for as long as it lives, and cosigns what it saw.
//!
//! Nothing here touches a network but [`http`], which is used only for a log that is given as a URL, and [`follow`].
//!
//! # Out of scope
//!
//! Storing evidence, and judging whether a policy is a good one.
#![cfg_attr(test, allow(clippy::unwrap_used))] // a test that fails may panic
#![warn(missing_docs)]

pub mod args;
mod chain;
mod checkpoint;
pub mod consistency;
pub mod diff;
pub mod error;
pub mod exit;
pub mod explain;
pub mod files;
pub mod finding;
pub mod follow;
pub mod http;
mod in_order;
pub mod log;
pub mod page;
pub mod progress;
pub mod proof;
pub mod replay;
pub mod report;
pub mod run;
pub mod schema;
pub mod source;
pub mod text;

pub use error::CannotCheck;
pub use finding::{Code, Concern, Finding, Gap, Severity, Unchecked};
pub use report::{Claim, Report, Verdict};
