//! The pure functions that must give the same answer in the kernel and at the auditor's: what a policy says
//! about a call, and what a budget says about it.
//!
//! # The main path
//!
//! 1. [`PolicyBundle::compile`] turns the files of a bundle into rules, limits, prices and facts, or refuses.
//! 2. [`RunState`] folds what happened in a run, record by record, into counters, facts, sets of values and marks.
//! 3. [`RunState::input`] with a [`CallInput`] gives the [`PolicyInput`]; its bytes are committed to.
//! 4. [`Decider::decide`] (one per worker) turns exactly those bytes into a [`Verdict`]. It never fails: every
//!    failure is a denial that says why.
//! 5. [`PolicyBundle::need`] is the worst case of the call; [`Ledger`] reserves it in every scope or refuses.
//! 6. After the call, [`PolicyBundle::billed`] is what it cost, the ledger settles it, the state takes the result.
//!
//! [`simulate`] decides a [`history`] of runs again under another bundle, with all of these, and says what would change.
//!
//! # Out of scope
//!
//! No I/O, clock, randomness or async. Signatures, records and their chain are `sift-spec`'s, dispatch and
//! approvals the kernel's. A policy is written by an operator whom the deployment trusts: decisions are bounded
//! in steps, but a policy that is written to exhaust memory can do so.
//!
//! # Verdicts
//!
//! Both engines give a verdict in the same way: any denial wins; then any hold; then any permission; and without
//! any of them the rule is [`verdict::DEFAULT_DENY`]. Whatever goes wrong in an evaluation is the rule
//! [`verdict::EVALUATION_ERROR`]. The conventions for policies are in [`rego`] and [`cedar`].
//!
//! # Slicing
//!
//! A call runs only the rules that can concern it, found when a bundle is compiled. Verdict, rules, reasons and error are
//! those of a decider that runs everything ([`PolicyBundle::decider_unsliced`]), which tests compare on generated
//! policies and on recorded calls.
//!
//! * Cedar policies are sliced by the action of their scope: one whose scope does not match is not satisfied and cannot
//!   err. Of the context only the members are made that a policy of the slice refers to.
//! * A Rego rule is left out where its body is shown to fail, before anything in it can err, for every input of that kind
//!   of call and tool. This is shown on the compiled program, instruction by instruction; `rego_slice` gives the argument.
//!   The limit of instructions counts what all rules would take.
//!   Where all that is left looks at the call alone, facts and counters are checked for their form and not made into values.
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod budget;
pub mod bundle;
pub mod cedar;
mod cedar_needs;
mod cedar_value;
pub mod decide;
mod document;
pub mod explain;
pub mod fact;
pub mod history;
pub mod input;
mod input_print;
pub mod json;
pub mod ledger;
mod need;
pub mod nesting;
mod plain;
pub mod price;
pub mod rego;
mod rego_bind;
mod rego_copy;
mod rego_explain;
mod rego_follow;
mod rego_slice;
mod rego_strict;
mod rego_value;
pub mod seen;
pub mod simulate;
pub mod stage;
pub mod state;
mod token;
pub mod verdict;
pub mod window;
pub mod words;

pub use budget::Budget;
pub use bundle::{CompileError, PolicyBundle};
pub use decide::{Decider, decide};
pub use explain::Explanation;
pub use fact::FactRules;
pub use input::{CallInput, PolicyInput};
pub use ledger::{Ledger, LedgerError};
pub use need::{billed_unpriced, identity, need_unpriced};
pub use price::Prices;
pub use state::{ResultRead, RunState};
pub use verdict::{HoldFor, Verdict};
