//! What must hold of every parser for every input: the functions behind the fuzz targets, and behind the test that
//! runs their corpus (`spec/tests/fuzz.rs`).
//!
//! Each function takes any bytes and panics when a property does not hold. The properties are, as far as they
//! apply: what is read prints as the same bytes; a printed value reads as itself; what we accept, an independent
//! implementation accepts with the same meaning; a proof that verifies leads to the root by RFC 6962's recursive
//! definition; nothing is accepted that only a private key could have made.
//!
//! Out of scope: how inputs are found (libFuzzer does that, see README.md), and parsers of the server alone, which
//! are tried over its socket by the end-to-end tests.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a target that fails panics
#![allow(unreachable_pub)] // public for the binaries, and private as a module of a test

mod answer;
mod bundle;
mod checkpoint;
mod consistency;
mod cosignature;
mod entry;
mod honest;
mod inclusion;
mod input;
mod json;
mod multi_inclusion;
mod note;
mod object;
mod pack;
mod receipt;
mod record;
mod tile;
mod trust;
mod value;
mod vkey;

/// Honest objects from fixed seeds, as the tests and vectors of the specification have them.
#[path = "../../tests/common/mod.rs"]
mod common;

/// What is done with an input.
pub type Target = fn(&[u8]);

/// All targets by name: the name of the binary and of the folder in `corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("answer", answer::answer),
    ("bundle", bundle::bundle),
    ("checkpoint", checkpoint::checkpoint),
    ("consistency", consistency::consistency),
    ("cosignature", cosignature::cosignature),
    ("entry", entry::entry),
    ("entry_bundle", tile::entry_bundle),
    ("hash_tile", tile::hash_tile),
    ("inclusion", inclusion::inclusion),
    ("multi_inclusion", multi_inclusion::multi_inclusion),
    ("note", note::note),
    ("object", object::object),
    ("pack", pack::pack),
    ("receipt", receipt::receipt),
    ("record", record::record),
    ("tile_path", tile::tile_path),
    ("trust", trust::trust),
    ("value", value::value),
    ("vkey", vkey::vkey),
];

/// Runs one target by name.
///
/// # Panics
/// When a property does not hold, or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a known target");
    target(bytes);
}
