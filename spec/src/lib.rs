#![doc = include_str!("../SPEC.md")]

pub mod bundle;
pub mod hash;
pub mod meter;
pub mod payload;
pub mod record;
pub mod types;
