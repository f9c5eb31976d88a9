//! The one encoding (SPEC §3.1): a header line, and a line of canonical JSON that is read, printed again and compared.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::ser::{CompactFormatter, Formatter};

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
    let wire = serde_json::from_str(json).map_err(|error| {
        // One line, of which the columns count from 1.
        let at = header.len() + 1 + error.column().saturating_sub(1);
        RecordError::Json { why: error.to_string(), at: Some(at) }
    })?;
    let value = build(wire)?;
    // SPEC §3.1: exactly one encoding. Order, white space, escapes and numbers are all checked by this.
    let printed = print(&value)?;
    if printed != text {
        let differs = printed.bytes().zip(text.bytes()).position(|(a, b)| a != b);
        return Err(RecordError::NotCanonical(differs.unwrap_or(printed.len().min(text.len()))));
    }
    Ok(value)
}

pub(super) fn print_text(header: &'static str, wire: &impl Serialize) -> Result<String, RecordError> {
    let mut text = Vec::with_capacity(TEXT_BYTES_USUAL);
    text.extend_from_slice(header.as_bytes());
    text.push(b'\n');
    let mut printer = serde_json::Serializer::with_formatter(&mut text, BoundedIntegers);
    wire.serialize(&mut printer).map_err(|error| match error.is_io() {
        // Nothing else fails to write: the buffer grows.
        true => RecordError::Inconsistent("an integer is above 2^53 - 1"),
        false => RecordError::Json { why: error.to_string(), at: None },
    })?;
    text.push(b'\n');
    if text.len() > ENTRY_BYTES_MAX {
        return Err(RecordError::TooLong(text.len()));
    }
    String::from_utf8(text).map_err(|error| RecordError::Json { why: error.to_string(), at: None })
}

/// Room for the text of most records, in bytes.
const TEXT_BYTES_USUAL: usize = 1024;

/// SPEC §3.1: every number of a record is an integer from 0 to 2^53 − 1. Prints as serde does, and refuses an integer
/// above that bound as it is printed. The types of records have no signed numbers and no fractions.
struct BoundedIntegers;

impl Formatter for BoundedIntegers {
    fn write_u64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: u64) -> io::Result<()> {
        if value > INTEGER_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        CompactFormatter.write_u64(writer, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_stop_at_2_pow_53() {
        let print = |value: u64| print_text("header", &[("a", value), ("b", 7)]);
        assert_eq!(print(INTEGER_MAX).unwrap(), "header\n[[\"a\",9007199254740991],[\"b\",7]]\n");
        for beyond in [INTEGER_MAX + 1, u64::MAX] {
            let refused = print(beyond).unwrap_err();
            assert_eq!(refused, RecordError::Inconsistent("an integer is above 2^53 - 1"), "{beyond}");
        }
        // Digits within a string are no number.
        assert!(print_text("header", &"18446744073709551615").is_ok());
    }
}
