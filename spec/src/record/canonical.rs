//! The one encoding (SPEC §3.1): a header line, and a line of canonical JSON that is read, printed again and compared.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ENTRY_BYTES_MAX, RecordError};
use crate::types::INTEGER_MAX;

/// An optional field that is present has a value: `null` has no canonical place here.
pub(super) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// The one value among several optional ones.
pub(super) fn only<T, const N: usize>(candidates: [Option<T>; N]) -> Option<T> {
    let mut present = candidates.into_iter().flatten();
    let first = present.next()?;
    present.next().is_none().then_some(first)
}

pub(super) fn parse_text<Wire: DeserializeOwned, T>(
    header: &'static str,
    text: &str,
    build: impl FnOnce(Wire) -> Result<T, RecordError>,
    print: impl FnOnce(&T) -> Result<String, RecordError>,
) -> Result<T, RecordError> {
    if text.len() > ENTRY_BYTES_MAX {
        return Err(RecordError::TooLong(text.len()));
    }
    let rest = text.strip_prefix(header).and_then(|rest| rest.strip_prefix('\n'));
    let rest = rest.ok_or(RecordError::Header(header))?;
    let json = rest.strip_suffix('\n').filter(|json| !json.contains('\n')).ok_or(RecordError::Lines)?;
    let wire = serde_json::from_str(json).map_err(|error| RecordError::Json(error.to_string()))?;
    let value = build(wire)?;
    // SPEC §3.1: exactly one encoding. Order, white space, escapes and numbers are all checked by this.
    if print(&value)? != text {
        return Err(RecordError::NotCanonical);
    }
    Ok(value)
}

pub(super) fn print_text(header: &'static str, wire: &impl Serialize) -> Result<String, RecordError> {
    let json = serde_json::to_string(wire).map_err(|error| RecordError::Json(error.to_string()))?;
    if !integers_in_bounds(&json) {
        return Err(RecordError::Inconsistent("an integer is above 2^53 - 1"));
    }
    let text = format!("{header}\n{json}\n");
    if text.len() > ENTRY_BYTES_MAX {
        return Err(RecordError::TooLong(text.len()));
    }
    Ok(text)
}

/// SPEC §3.1: every number of a record is an integer from 0 to 2^53 − 1. `json` is what serde printed.
fn integers_in_bounds(json: &str) -> bool {
    let (mut in_string, mut escaped, mut value) = (false, false, 0_u64);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'0'..=b'9' if !in_string => {
                value = value.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
                if value > INTEGER_MAX {
                    return false;
                }
            }
            _ => value = 0,
        }
    }
    true
}
