//! Sift end to end: real sockets, a real store, real crashes.
#![allow(clippy::unwrap_used)]

mod airline;
mod bad_input;
mod crash;
mod disk_full;
mod equivocations;
mod evidence;
mod faults;
mod feed;
mod honest;
mod hostile;
mod http;
mod kernel;
mod kernel_crash;
mod recovery;
mod strangers;
mod tidy;
