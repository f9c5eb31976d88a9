//! Sift end to end: real sockets, a real store, real crashes.
#![allow(clippy::unwrap_used)]

mod access;
mod agentdojo;
mod airline;
mod backup;
mod bad_input;
mod certificates;
mod crash;
mod delegation;
mod disk_full;
mod equivocations;
mod evidence;
mod faults;
mod feed;
mod fsck;
mod honest;
mod hostile;
mod hot_swap;
mod http;
mod kernel;
mod kernel_crash;
mod kernel_faults;
mod kernel_life;
mod limits;
mod mutations;
mod once;
mod operations;
mod payloads;
mod recovery;
mod rotation;
mod schemathesis;
mod strangers;
mod tidy;
mod tls;
mod witness;
mod witness_strangers;
