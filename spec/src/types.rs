//! Newtypes: no two bare integers stand side by side in a signature of this crate.
//!
//! Every constructor checks; fields are private; there are no setters. All integers that appear
//! in JSON stay within 2^53 − 1 (SPEC §3.1), so that every JSON reader agrees on them.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Visitor;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest integer that canonical JSON may carry: 2^53 − 1 (SPEC §3.1).
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Longest agent name in bytes (SPEC §3.2).
pub const AGENT_NAME_BYTES_MAX: usize = 128;

/// Longest key name in bytes (SPEC §2).
pub const KEY_NAME_BYTES_MAX: usize = 255;

/// A value that a constructor of this module refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct ValueError {
    /// The type that was being constructed.
    pub what: &'static str,
    /// What is wrong with the value.
    pub why: &'static str,
}

const fn refuse<T>(what: &'static str, why: &'static str) -> Result<T, ValueError> {
    Err(ValueError { what, why })
}

macro_rules! integer {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name(u64);

        impl $name {
            /// Zero.
            pub const ZERO: Self = Self(0);

            /// Checks the bound of SPEC §3.1.
            ///
            /// # Errors
            /// When the value is above [`INTEGER_MAX`].
            pub const fn new(value: u64) -> Result<Self, ValueError> {
                if value > INTEGER_MAX {
                    return refuse($what, "above 2^53 - 1");
                }
                Ok(Self(value))
            }

            /// The bare integer.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The next value, or `None` at the bound.
            #[must_use]
            pub const fn next(self) -> Option<Self> {
                if self.0 >= INTEGER_MAX { None } else { Some(Self(self.0 + 1)) }
            }
        }

        impl TryFrom<u64> for $name {
            type Error = ValueError;
            fn try_from(value: u64) -> Result<Self, ValueError> {
                Self::new(value)
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> u64 {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

integer!(
    /// Position of an entry in the log, from 0.
    LeafIndex,
    "leaf index"
);
integer!(
    /// Number of entries in a tree.
    TreeSize,
    "tree size"
);
integer!(
    /// Position of a record in its run, or of an operator record in the operator's chain, from 0.
    Seq,
    "seq"
);
integer!(
    /// Milliseconds since 1970-01-01T00:00:00Z, leap seconds ignored.
    UnixMillis,
    "time in milliseconds"
);
integer!(
    /// Money in millionths of a US dollar.
    MicroUsd,
    "micro-dollars"
);

impl LeafIndex {
    /// Whether a tree of `size` entries holds this index.
    #[must_use]
    pub const fn is_in(self, size: TreeSize) -> bool {
        self.0 < size.0
    }
}

impl TreeSize {
    /// Index of the last entry, or `None` for the empty tree.
    #[must_use]
    pub const fn last(self) -> Option<LeafIndex> {
        match self.0 {
            0 => None,
            n => Some(LeafIndex(n - 1)),
        }
    }

    /// Size of the smallest tree that holds `index`; at the bound of SPEC §3.1, which no log reaches, the bound.
    #[must_use]
    pub const fn holding(index: LeafIndex) -> Self {
        match index.next() {
            Some(next) => Self(next.0),
            None => Self(INTEGER_MAX),
        }
    }
}

impl MicroUsd {
    /// Dollars with six decimals, for people: `1.250000`.
    #[must_use]
    pub fn dollars(self) -> String {
        format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

impl UnixMillis {
    /// For people: `2026-11-22T13:04:05.678Z` (RFC 3339).
    #[must_use]
    pub fn utc(self) -> String {
        let (seconds, ms) = (self.get() / 1000, self.get() % 1000);
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);
        // Days to year, month and day in the proleptic Gregorian calendar, counted from 1 March of year 0.
        let days = days + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }
}

/// A SHA-256 value: a leaf, a node, a root, or the digest of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Wraps 32 bytes that are already a hash.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Base64 of the hash, which is 44 bytes long.
    fn encode<'a>(&self, buffer: &'a mut [u8; 44]) -> Option<&'a str> {
        let length = STANDARD.encode_slice(self.0, buffer).ok()?;
        std::str::from_utf8(buffer.get(..length)?).ok()
    }

    /// Lower-case hexadecimal, 64 characters: used in file names and paths.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Reads what [`Hash::hex`] prints.
    ///
    /// # Errors
    /// When the text is not exactly 64 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self, ValueError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let text = text.as_bytes();
        if text.len() != 64 {
            return refuse("hash", "not 64 hexadecimal digits");
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            match (digit(pair[0]), digit(pair[1])) {
                (Some(high), Some(low)) => *byte = high << 4 | low,
                _ => return refuse("hash", "not lower-case hexadecimal"),
            }
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = ValueError;
    fn try_from(bytes: &[u8]) -> Result<Self, ValueError> {
        match bytes.try_into() {
            Ok(bytes) => Ok(Self(bytes)),
            Err(_) => refuse("hash", "not 32 bytes"),
        }
    }
}

/// Standard padded base64 (RFC 4648 §4), 44 characters.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; 44]).ok_or(fmt::Error)?)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        // The length is checked first: nothing longer than a hash is ever decoded.
        if text.len() != 44 {
            return refuse("hash", "not 44 characters of base64");
        }
        let mut bytes = [0; 33];
        match STANDARD.decode_slice(text, &mut bytes) {
            Ok(32) => Self::try_from(&bytes[..32]),
            _ => refuse("hash", "not 32 bytes in canonical base64"),
        }
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut buffer = [0; 44];
        serializer.serialize_str(self.encode(&mut buffer).ok_or_else(|| S::Error::custom("a hash"))?)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ParsedText::new())
    }
}

/// A run: a UUID version 7 (RFC 9562 §5.7), lower case with hyphens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(uuid::Uuid);

impl RunId {
    /// Length of the binary form.
    pub const BYTES: usize = 16;

    /// Makes the identifier from its 16 bytes.
    ///
    /// # Errors
    /// When they are not a UUID of version 7 and the RFC 9562 variant.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Result<Self, ValueError> {
        Self::from_uuid(uuid::Uuid::from_bytes(bytes))
    }

    /// Makes an identifier from the wall clock and ten random bytes that the caller supplies.
    #[must_use]
    pub fn from_parts(time: UnixMillis, random: &[u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(time.get(), random).into_uuid())
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        self.0.as_bytes()
    }

    fn from_uuid(uuid: uuid::Uuid) -> Result<Self, ValueError> {
        if uuid.get_version_num() != 7 || uuid.get_variant() != uuid::Variant::RFC4122 {
            return refuse("run", "not a UUID of version 7");
        }
        Ok(Self(uuid))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for RunId {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let canonical = text.len() == 36 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
        match uuid::Uuid::try_parse(text) {
            Ok(uuid) if canonical => Self::from_uuid(uuid),
            _ => refuse("run", "not a lower-case hyphenated UUID"),
        }
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut buffer = uuid::Uuid::encode_buffer();
        serializer.serialize_str(self.0.hyphenated().encode_lower(&mut buffer))
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ParsedText::new())
    }
}

/// Reads a value from its text where it stands, without a copy of the text.
struct ParsedText<T>(PhantomData<T>);

impl<T> ParsedText<T> {
    const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: FromStr<Err = ValueError>> Visitor<'_> for ParsedText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether a text is one.
            #[must_use]
            pub fn is_valid(text: &str) -> bool {
                Self::check(text).is_ok()
            }

            fn check(text: &str) -> Result<(), &'static str> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ValueError;
            fn try_from(text: String) -> Result<Self, ValueError> {
                match Self::check(&text) {
                    Ok(()) => Ok(Self(text)),
                    Err(why) => refuse($what, why),
                }
            }
        }

        impl FromStr for $name {
            type Err = ValueError;
            fn from_str(text: &str) -> Result<Self, ValueError> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text!(
    /// Name of an agent, such as `airline/gpt-4o`: segments of `A–Z a–z 0–9 . _ -`, joined by `/`.
    AgentName,
    "agent name",
    |text| check_segments(text)
);

text!(
    /// Which agents a key may speak for: one name, `prefix/*` for all below a prefix, or `*`.
    AgentScope,
    "agent scope",
    |text| match text {
        "*" => Ok(()),
        _ => check_segments(text.strip_suffix("/*").unwrap_or(text)),
    }
);

text!(
    /// Name of a key or origin of a log (C2SP signed-note): not empty, no white space, no `+`.
    KeyName,
    "key name",
    |text| {
        if text.is_empty() || text.len() > KEY_NAME_BYTES_MAX {
            return Err("empty or longer than 255 bytes");
        }
        // Names are ASCII as a rule, and then their bytes are their characters.
        let fine = |byte: u8| byte.is_ascii_graphic() && byte != b'+';
        if text.bytes().all(fine) {
            return Ok(());
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+') {
            return Err("holds white space, a control character or '+'");
        }
        Ok(())
    }
);

text!(
    /// A short word, such as an approver's role or the name of a label: 1 to 64 of `a–z 0–9 . _ -`.
    Word,
    "word",
    |text| {
        let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        match text.len() {
            1..=64 if text.bytes().all(fine) => Ok(()),
            _ => Err("not 1 to 64 of a-z, 0-9, '.', '_' and '-'"),
        }
    }
);

impl AgentScope {
    /// Whether a key with this scope may sign for `agent`.
    #[must_use]
    pub fn covers(&self, agent: &AgentName) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => agent.as_str().starts_with(prefix),
            None => self.0 == agent.0,
        }
    }
}

fn check_segments(text: &str) -> Result<(), &'static str> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty() || text.len() > AGENT_NAME_BYTES_MAX {
        return Err("empty or longer than 128 bytes");
    }
    if text.split('/').any(|segment| segment.is_empty() || !segment.bytes().all(fine)) {
        return Err("not segments of A-Z, a-z, 0-9, '.', '_' and '-' joined by '/'");
    }
    Ok(())
}

/// Text of at most `MAX` bytes of UTF-8; any content, as JSON escapes what a note may not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Cuts `text` to the longest prefix that fits, for messages that must not fail.
    #[must_use]
    pub fn cut(text: &str) -> Self {
        let end = (0..=MAX.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
        Self(text[..end.unwrap_or(0)].to_owned())
    }
}

impl<const MAX: usize> TryFrom<String> for Text<MAX> {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        if text.len() > MAX {
            return refuse("text", "longer than its field allows");
        }
        Ok(Self(text))
    }
}

impl<const MAX: usize> FromStr for Text<MAX> {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.to_owned().try_into()
    }
}

impl<const MAX: usize> From<Text<MAX>> for String {
    fn from(text: Text<MAX>) -> String {
        text.0
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_stop_at_2_pow_53() {
        assert!(Seq::new(INTEGER_MAX).is_ok());
        assert!(Seq::new(INTEGER_MAX + 1).is_err());
        assert_eq!(Seq::new(INTEGER_MAX).unwrap().next(), None);
        assert!(serde_json::from_str::<Seq>("9007199254740992").is_err());
    }

    #[test]
    fn hash_has_one_text_form() {
        let hash = Hash::from_bytes([0xa5; 32]);
        assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
        assert_eq!(Hash::from_hex(&hash.hex()).unwrap(), hash);
        let text = hash.to_string();
        // The last character before the padding carries four significant bits.
        let loose = text.replace("U=", "V=");
        assert_ne!(text, loose);
        assert!(loose.parse::<Hash>().is_err(), "non-canonical trailing bits");
        assert!(text.trim_end_matches('=').parse::<Hash>().is_err(), "no padding");
        assert!(Hash::from_hex(&hash.hex().to_uppercase()).is_err());
    }

    #[test]
    fn names_and_scopes() {
        let agent: AgentName = "airline/gpt-4o".parse().unwrap();
        for (scope, covers) in [
            ("*", true),
            ("airline/*", true),
            ("airline/gpt-4o", true),
            ("air/*", false),
            ("airline", false),
            ("airline/gpt-4", false),
        ] {
            assert_eq!(scope.parse::<AgentScope>().unwrap().covers(&agent), covers, "{scope}");
        }
        for bad in ["", "/", "a//b", "a b", "a/", "a*", "air*", "*/a", "ä"] {
            assert!(bad.parse::<AgentName>().is_err(), "{bad:?}");
            assert!(bad.parse::<AgentScope>().is_err(), "{bad:?}");
        }
        assert!("a+b".parse::<KeyName>().is_err());
        assert!("a b".parse::<KeyName>().is_err());
    }

    #[test]
    fn runs_are_uuid_v7() {
        let run = RunId::from_parts(UnixMillis::new(1_764_000_000_123).unwrap(), &[7; 10]);
        assert_eq!(run.to_string().parse::<RunId>().unwrap(), run);
        assert!(run.to_string().to_uppercase().parse::<RunId>().is_err());
        assert!("9b2b0f6e-3f0d-4f4e-8c3a-000000000000".parse::<RunId>().is_err(), "version 4");
    }

    #[test]
    fn text_cuts_on_character_boundaries() {
        assert_eq!(Text::<3>::cut("aéé").as_str(), "aé");
        assert_eq!(Text::<2>::cut("€").as_str(), "");
        assert!("abcd".parse::<Text<3>>().is_err());
    }

    #[test]
    fn times_for_people() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_764_000_000_123, "2025-11-24T16:00:00.123Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(UnixMillis::new(ms).unwrap().utc(), text);
        }
    }
}
