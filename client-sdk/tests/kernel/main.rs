//! The kernel from outside: what it promises, with a log of a few lines and a clock that moves when told.

#![allow(clippy::unwrap_used)]

mod approvals;
mod approvals_program;
mod approvals_several;
mod approvals_typed;
mod budgets;
mod bundles;
mod capability;
mod delegation;
mod delegation_processes;
mod halts;
mod harness;
mod hook;
mod isolation;
mod log;
mod log_table;
#[cfg(feature = "otlp")]
mod otlp;
mod overspend;
mod permits;
mod policy;
mod program;
mod restart;
mod resume;
mod retention;
mod revocations;
mod serve;
mod signer_program;
mod signers;
mod simulate;
mod storms;
mod streams;
mod untrusted;
