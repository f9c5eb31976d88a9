//! Sift end to end: real sockets, a real store, real crashes.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod crash;
mod honest;
mod recovery;
mod tidy;
