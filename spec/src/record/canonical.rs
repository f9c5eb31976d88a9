//! The one encoding (SPEC §3.1): a header line, and a line of canonical JSON.
//!
//! What it is, printing defines: a text is read, printed again and compared. Nearly every text is in it already, though,
//! and [`super::strict`] reads nothing else; so a text is printed only where that reader is in doubt. Everything that it
//! does not take goes the long way, which finds the same and says what is wrong.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::ser::{CompactFormatter, Formatter};

use super::strict::{self, Read};
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

/// What has exactly one text: a header line and a line of canonical JSON.
pub(super) trait Canonical: Sized {
    /// The header line, without its line feed.
    const HEADER: &'static str;

    /// What the line of JSON is read into.
    type Wire: DeserializeOwned;

    /// Takes what was read.
    ///
    /// # Errors
    /// When `kind` does not name the one body that is present.
    fn build(wire: Self::Wire) -> Result<Self, RecordError>;

    /// Whether the fields agree with one another.
    ///
    /// # Errors
    /// When they contradict one another.
    fn check(&self) -> Result<(), RecordError>;

    /// Writes the line of JSON, by [`write_json`], without its line feed.
    ///
    /// # Errors
    /// When an integer has no encoding, or `target` takes no more.
    fn write(&self, target: &mut impl io::Write) -> Result<(), RecordError>;
}

pub(super) fn parse_text<T: Canonical>(text: &str) -> Result<T, RecordError> {
    if text.len() > ENTRY_BYTES_MAX {
        return Err(RecordError::TooLong(text.len()));
    }
    let rest = text.strip_prefix(T::HEADER).and_then(|rest| rest.strip_prefix('\n'));
    let rest = rest.ok_or(RecordError::Header(T::HEADER))?;
    let json = rest.strip_suffix('\n').ok_or(RecordError::Lines)?;
    match read_strictly(json) {
        Some(value) => Ok(value),
        None => read_and_compare(text, json),
    }
}

/// Reads the JSON where it is the one encoding; a `None` says nothing.
fn read_strictly<T: Canonical>(json: &str) -> Option<T> {
    let Read { value, spelled_out } = strict::read(json)?;
    let value = T::build(value).ok()?;
    let agrees = value.check().is_ok() && (!spelled_out || prints(&value, json));
    agrees.then_some(value)
}

/// Reads any JSON, prints it and compares.
fn read_and_compare<T: Canonical>(text: &str, json: &str) -> Result<T, RecordError> {
    if json.contains('\n') {
        return Err(RecordError::Lines);
    }
    let wire = serde_json::from_str(json).map_err(|error| {
        // One line, of which the columns count from 1.
        let at = T::HEADER.len() + 1 + error.column().saturating_sub(1);
        RecordError::Json { why: error.to_string(), at: Some(at) }
    })?;
    let value = T::build(wire)?;
    let printed = print_text(&value)?;
    // SPEC §3.1: exactly one encoding. Order, white space, escapes and numbers are all checked by this.
    if printed == text {
        return Ok(value);
    }
    let differs = printed.bytes().zip(text.bytes()).position(|(a, b)| a != b);
    Err(RecordError::NotCanonical(differs.unwrap_or(printed.len().min(text.len()))))
}

/// Whether the JSON of `value` is this.
fn prints(value: &impl Canonical, json: &str) -> bool {
    let mut expected = Expected(json.as_bytes());
    value.write(&mut expected).is_ok() && expected.0.is_empty()
}

/// Takes what is written only while it is what is expected next: so a text is compared without being printed.
struct Expected<'a>(&'a [u8]);

impl io::Write for Expected<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes).map(|_| ())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn print_text<T: Canonical>(value: &T) -> Result<String, RecordError> {
    value.check()?;
    let mut text = Vec::with_capacity(TEXT_BYTES_USUAL);
    text.extend_from_slice(T::HEADER.as_bytes());
    text.push(b'\n');
    value.write(&mut text)?;
    text.push(b'\n');
    if text.len() > ENTRY_BYTES_MAX {
        return Err(RecordError::TooLong(text.len()));
    }
    String::from_utf8(text).map_err(|error| RecordError::Json { why: error.to_string(), at: None })
}

/// Writes canonical JSON; the fields of `wire` stand in the order that it wants.
pub(super) fn write_json(target: &mut impl io::Write, wire: &impl Serialize) -> Result<(), RecordError> {
    let mut printer = serde_json::Serializer::with_formatter(target, BoundedIntegers);
    wire.serialize(&mut printer).map_err(|error| match error.is_io() {
        // Nothing else fails to be written into a buffer, which grows.
        true => RecordError::Inconsistent("an integer is above 2^53 - 1"),
        false => RecordError::Json { why: error.to_string(), at: None },
    })
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
#[path = "../../tests/unit/both_ways.rs"]
mod both_ways;

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn integers_stop_at_2_pow_53() {
        let pair = |value: u64| print(&[("a", value), ("b", 7)]);
        assert_eq!(pair(INTEGER_MAX).unwrap(), "[[\"a\",9007199254740991],[\"b\",7]]");
        for beyond in [INTEGER_MAX + 1, u64::MAX] {
            let refused = pair(beyond).unwrap_err();
            assert_eq!(refused, RecordError::Inconsistent("an integer is above 2^53 - 1"), "{beyond}");
        }
        // Digits within a string are no number.
        assert!(print(&"18446744073709551615").is_ok());
    }

    fn print(wire: &impl Serialize) -> Result<String, RecordError> {
        let mut json = Vec::new();
        write_json(&mut json, wire).map(|()| String::from_utf8(json).unwrap())
    }

    /// However the pieces fall, what is taken is a whole text and nothing else.
    #[test]
    fn an_expected_text_is_taken_in_any_pieces_and_no_other_is() {
        let text = b"{\"a\":1}";
        for at in 0..=text.len() {
            let (left, right) = text.split_at(at);
            let mut expected = Expected(text);
            assert!([left, right].iter().all(|piece| expected.write_all(piece).is_ok()));
            assert!(expected.0.is_empty());
            assert!(expected.write_all(b" ").is_err(), "what is longer");
            for flipped in 0..text.len() {
                let mut other = *text;
                other[flipped] ^= 1;
                let (left, right) = other.split_at(at);
                let mut expected = Expected(text);
                assert!(
                    [left, right].iter().any(|piece| expected.write_all(piece).is_err()),
                    "{at} {flipped}"
                );
            }
        }
    }
}
