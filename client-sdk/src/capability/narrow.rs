//! Narrowing: what whoever holds a token can take away before passing it on.

use biscuit_auth::UnverifiedBiscuit;
use biscuit_auth::builder::{BlockBuilder, Check, Term};
use serde_json::Value;
use sift_spec::types::UnixMillis;

use super::{CapabilityError, PREFIX, TOKEN_BYTES_MAX, parts};

/// What is taken away from a token. Whatever is given here, the token allows no more than before.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Narrower {
    /// It counts no longer than until then.
    pub until: Option<UnixMillis>,
    /// It counts for this tool alone.
    pub tool: Option<String>,
    /// It counts only where these members of the arguments have these values: strings, integers of 64 bits, booleans.
    pub args: Vec<(String, Value)>,
}

/// Narrows a token. Needs no key: a sub-agent's parent, or any proxy, can do it.
///
/// # Errors
/// When it is no token, a value is of another type, or the token becomes too long.
pub fn attenuate(token: &str, narrower: &Narrower) -> Result<String, CapabilityError> {
    let (note, biscuit) = parts(token)?;
    let invalid = |_| CapabilityError::Invalid("it cannot be read");
    let biscuit = UnverifiedBiscuit::from_base64(biscuit).map_err(invalid)?;
    let mut block = BlockBuilder::new();
    let mut add = |source: &str, terms: Vec<(&str, Term)>| {
        let mut check: Check = source.try_into().map_err(invalid)?;
        for (name, term) in terms {
            check.set(name, term).map_err(invalid)?;
        }
        block.add_check(check).map_err(invalid)
    };
    if let Some(until) = narrower.until {
        let until = Term::Integer(i64::try_from(until.get()).unwrap_or(i64::MAX));
        add("check if now_ms($now), $now <= {until}", vec![("until", until)])?;
    }
    if let Some(tool) = &narrower.tool {
        add("check if tool({tool})", vec![("tool", Term::Str(tool.clone()))])?;
    }
    for (name, value) in &narrower.args {
        let value =
            term(value).ok_or(CapabilityError::Asked("a value is a string, an integer or a boolean"))?;
        add("check if arg({name}, {value})", vec![("name", Term::Str(name.clone())), ("value", value)])?;
    }
    let biscuit = biscuit.append(block).and_then(|biscuit| biscuit.to_base64()).map_err(invalid)?;
    let token = format!("{PREFIX}{note}.{biscuit}");
    if token.len() > TOKEN_BYTES_MAX {
        return Err(CapabilityError::Asked("the token would become too long"));
    }
    Ok(token)
}

/// A value that constraints can name.
pub(super) fn term(value: &Value) -> Option<Term> {
    match value {
        Value::String(text) => Some(Term::Str(text.clone())),
        Value::Bool(truth) => Some(Term::Bool(*truth)),
        Value::Number(number) => number.as_i64().map(Term::Integer),
        _ => None,
    }
}
