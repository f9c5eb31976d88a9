//! Single values as text (SPEC §3.2): names, scopes, hashes, runs, sizes.

use std::fmt::Display;
use std::str::FromStr;

use sift_spec::checkpoint::parse_size;
use sift_spec::types::{AgentName, AgentScope, Hash, KeyName, RunId, Text, Word};

pub(crate) fn value(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let scope = check::<AgentScope>(text);
    check::<Hash>(text);
    check::<KeyName>(text);
    check::<RunId>(text);
    check::<Text<64>>(text);
    check::<Word>(text);
    if let Some(size) = parse_size(text) {
        assert_eq!(size.to_string(), text);
    }
    if let Ok(hash) = Hash::from_hex(text) {
        assert_eq!(hash.hex(), text);
    }
    let cut = Text::<64>::cut(text);
    assert!(cut.as_str().len() <= 64 && text.starts_with(cut.as_str()));
    if let Some(name) = check::<AgentName>(text) {
        assert!(scope.is_some_and(|scope| scope.covers(&name)), "a name is the scope of itself");
        let all: AgentScope = "*".parse().unwrap();
        assert!(all.covers(&name));
        // A scope covers what is below it, and nothing that merely starts alike.
        let Ok(below) = format!("{name}/*").parse::<AgentScope>() else { return };
        assert!(!below.covers(&name));
        assert!(!format!("{name}x/y").parse::<AgentName>().is_ok_and(|other| below.covers(&other)));
    }
}

/// One value has one text.
fn check<T: FromStr + Display>(text: &str) -> Option<T> {
    let value = text.parse::<T>().ok()?;
    assert_eq!(value.to_string(), text);
    Some(value)
}
