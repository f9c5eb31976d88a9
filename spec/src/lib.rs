#![doc = include_str!("../SPEC.md")]
#![cfg_attr(test, allow(clippy::unwrap_used))] // a test that fails may panic

pub mod api;
pub mod bundle;
pub mod chain;
pub mod checkpoint;
pub mod entry;
pub mod evidence;
pub mod hash;
pub mod json;
pub mod keys;
pub mod meter;
#[cfg(feature = "model")]
pub mod model;
pub mod note;
#[cfg(feature = "openapi")]
mod openapi;
pub mod payload;
pub mod proof;
pub mod receipt;
pub mod record;
pub mod tile;
pub mod tree;
pub mod trust;
pub mod types;
mod zip;
