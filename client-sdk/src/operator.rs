//! The operator's records: which keys the operator has revoked, as far as the log has proven it (SPEC §4).
//!
//! [`Reader`] asks the log now and then, on a task of its own: no call ever waits for it. [`Chain`] takes a record only
//! when it continues the operator's chain without a gap, the operator signed it, and it can be applied; the reader adds
//! that it is in a tree which the trust file believes. The writer keeps it, in one transaction with all that follows from
//! it, and from then on [`Revocations`] says so to whoever asks whether a key counts.
//!
//! What was learnt stays learnt: it is in the store, and no answer of the log takes it back. A log that cannot be
//! reached, proves nothing, or shows fewer records than before changes nothing either way, and that is said in
//! [`OperatorStatus::trouble`]. A log that hides its newest records from this kernel is not found out here: it keeps a
//! revoked key in force until the kernel sees the revocation, and an auditor of the whole log finds it.
//!
//! Without an operator in the trust file nothing is followed: then whoever runs the log could revoke what they like.
//!
//! A key in `kernel.toml` whose grant the log does not show counts as it is listed: who may answer is the
//! configuration's to say, a kernel must be able to start before its log is reached, and a revocation is final while
//! a grant may still come. Such keys are listed in [`OperatorStatus::ungranted`], because an auditor refuses them.

mod chain;
mod reader;
mod revocations;

pub(crate) use chain::{Chain, Revoked};
pub(crate) use reader::Reader;
pub use revocations::OperatorStatus;
pub(crate) use revocations::Revocations;
