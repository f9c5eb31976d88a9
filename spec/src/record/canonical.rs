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
mod tests {
    use std::io::Write as _;
    use std::path::Path;

    use super::*;
    use crate::record::{Body, Delegation, Halt, HaltCause, OperatorRecord, Record, Statement};
    use crate::types::{Hash, Seq, Text, UnixMillis};

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

    /// The vectors of a folder, accepted and refused.
    fn vectors(folder: &str) -> Vec<(String, String)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(folder);
        let mut texts = Vec::new();
        for half in ["ok", "bad"] {
            for file in std::fs::read_dir(folder.join(half)).unwrap() {
                let path = file.unwrap().path();
                // Some are refused because they are not UTF-8, before anybody reads a record.
                if let Ok(text) = std::fs::read_to_string(&path) {
                    texts.push((format!("{half}/{}", path.file_stem().unwrap().to_str().unwrap()), text));
                }
            }
        }
        texts
    }

    /// The two ways take the same texts as the same values; gives how many they took and refused.
    fn both_ways<T: Canonical + PartialEq + std::fmt::Debug>(name: &str, json: &str) -> [usize; 2] {
        let text = format!("{}\n{json}\n", T::HEADER);
        let (short, long) = (read_strictly::<T>(json), read_and_compare::<T>(&text, json).ok());
        assert_eq!(short, long, "{name}: {json}");
        if short.is_some() { [1, 0] } else { [0, 1] }
    }

    /// What differs from a text by more than a byte.
    const REPLACED: [(&str, &str); 12] = [
        ("\"status\":\"ok\"", "\"status\":{\"ok\":}"),
        ("\"status\":\"ok\"", "\"status\":{\"ok\":null}"),
        ("\"role\":\"kernel\"", "\"role\":{\"kernel\":null}"),
        ("\"role\":\"kernel\"", "\"role\":{\"kernel\":}"),
        ("\"call\":{\"tool\":", "\"call\":{\"model\":1,\"tool\":"),
        ("\"census\":", "\"below\":{},\"census\":"),
        ("\"census\":", "\"below\":{\"agents\":0},\"census\":"),
        ("\"usage\":{", "\"usage\":{\"cache_read\":0,"),
        ("\"reserved\":{", "\"reserved\":{\"agents\":0,"),
        ("\"prev\":\"", "\"open\":null,\"prev\":\""),
        ("\"labels\":{}", "\"labels\":[]"),
        ("\"reasons\":[]", "\"reasons\":{}"),
    ];

    /// Every vector; and of each that is accepted every byte taken away, doubled, and replaced by some characters that
    /// JSON is made of.
    fn changed_vectors<T: Canonical + PartialEq + std::fmt::Debug>(folder: &str) {
        let mut sums = [0; 2];
        let mut count = |name: &str, json: &str| {
            let seen = both_ways::<T>(name, json);
            sums = [sums[0] + seen[0], sums[1] + seen[1]];
        };
        let vectors = vectors(folder);
        assert!(vectors.len() > 5, "{folder}: {}", vectors.len());
        for (name, text) in &vectors {
            let json = text.strip_prefix(T::HEADER).and_then(|rest| rest.strip_prefix('\n'));
            let Some(json) = json.and_then(|rest| rest.strip_suffix('\n')) else { continue };
            count(name, json);
            if !name.starts_with("ok/") {
                continue;
            }
            for (from, to) in REPLACED {
                count(name, &json.replacen(from, to, 1));
            }
            for at in 0..json.len() {
                let (Some(before), Some(after)) = (json.get(..at), json.get(at + 1..)) else { continue };
                count(name, &format!("{before}{after}"));
                count(name, &format!("{}{}", &json[..=at], &json[at..]));
                for other in "\"\\{}[]:,0192-.eEnrutfb \u{7f}\u{1}aAzZ_/+=\u{e9}".chars() {
                    count(name, &format!("{before}{other}{after}"));
                    count(name, &format!("{before}{other}{}", &json[at..]));
                }
            }
        }
        println!("{folder}: {} texts taken and {} refused, by both ways", sums[0], sums[1]);
        assert!(sums[0] > 100 && sums[1] > 1000, "{folder}: {sums:?}");
    }

    #[test]
    fn both_ways_of_reading_take_the_same_texts() {
        changed_vectors::<Record>("record");
        changed_vectors::<OperatorRecord>("operator");
        changed_vectors::<Delegation>("delegation");
        changed_vectors::<Statement>("approval");
    }

    /// Every character that has an escape, and every escape that names one byte: one way to write each, read as it is.
    #[test]
    fn strings_have_one_spelling_each_way() {
        let halt = Record {
            agent: "airline/bot".parse().unwrap(),
            body: Body::Halt(Halt { cause: HaltCause::Operator, detail: Text::default() }),
            prev: Some(Hash::from_bytes([1; 32])),
            run: "0193a6c4-7b1e-7c3a-9d52-3f0a1b2c3d4e".parse().unwrap(),
            seq: Seq::new(3).unwrap(),
            time: UnixMillis::new(1_764_000_000_000).unwrap(),
        };
        let json_of = |detail: &str| {
            let mut record = halt.clone();
            record.body = Body::Halt(Halt { cause: HaltCause::Operator, detail: detail.parse().unwrap() });
            let mut json = Vec::new();
            record.write(&mut json).unwrap();
            (record, String::from_utf8(json).unwrap())
        };
        for code in 0..=0x2ff_u32 {
            let detail = char::from_u32(code).unwrap().to_string();
            let (record, json) = json_of(&format!("a{detail}b{detail}"));
            // Not by the long way, which would hide that it was refused.
            assert_eq!(read_strictly(&json), Some(record), "U+{code:04X}");
        }
        let (_, json) = json_of("@");
        let mut taken = 0;
        for code in 0..=0xff {
            for escape in
                [format!("\\u{code:04x}"), format!("\\u{code:04X}"), format!("\\{}", char::from(code))]
            {
                taken += both_ways::<Record>(&escape, &json.replace('@', &escape))[0];
            }
        }
        // Seven have a letter or a sign. The other 27 have digits, which are in lower case: where a hexadecimal letter is
        // among them, only one of the two that were tried is taken.
        let of_digits = (0..0x20).filter(|code| ![0x8, 0x9, 0xa, 0xc, 0xd].contains(code));
        let in_lower_case = of_digits.clone().filter(|code| code % 16 > 9).count();
        assert_eq!(taken, 7 + 2 * of_digits.count() - in_lower_case);
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
