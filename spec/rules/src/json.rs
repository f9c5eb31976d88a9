//! JSON as policies read it: one reading and one printing.
//!
//! Reading is strict, because a tool may read the same bytes differently: a member given twice, or a number that
//! loses digits, is refused rather than guessed. Printing sorts members by name, so that equal values have equal
//! bytes, whatever features `serde_json` was built with.
//!
//! Without its feature `float_roundtrip`, `serde_json` reads many decimals of 15 to 17 digits as a neighbour of the
//! double that they name. So decimals are read here, and `serde_json` finds only where they stand.

use std::cell::RefCell;
use std::fmt;
use std::vec::IntoIter;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use sift_spec::json::first_special;

/// Deepest nesting that is read; the bound of `serde_json` is 128.
pub const DEPTH_MAX: usize = 64;

/// Reads one JSON value, and nothing after it.
///
/// # Errors
/// When the bytes are not JSON, a member occurs twice in an object, nesting is deeper than [`DEPTH_MAX`], or a
/// number has no exact reading: an integer outside of 64 bits, a decimal above 2^53 in magnitude, or one that is not
/// equal to the shortest decimal that names its double. The text says what and where, and quotes nothing.
pub fn read(bytes: &[u8]) -> Result<Value, String> {
    read_to(bytes, DEPTH_MAX)
}

/// Reads one JSON object, as [`read`] does.
///
/// # Errors
/// As for [`read`], and when the value is not an object.
pub fn read_object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match read(bytes)? {
        Value::Object(object) => Ok(object),
        _ => Err("not a JSON object".to_owned()),
    }
}

/// Deepest nesting of a policy input, in which arguments and facts may each be [`DEPTH_MAX`] deep.
pub(crate) const INPUT_DEPTH_MAX: usize = DEPTH_MAX + 2;

/// Reads a policy input.
pub(crate) fn read_input(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match read_to(bytes, INPUT_DEPTH_MAX)? {
        Value::Object(object) => Ok(object),
        _ => Err("not a JSON object".to_owned()),
    }
}

/// Prints a value without white space and with the members of every object sorted by name (byte order).
#[must_use]
pub fn print(value: &Value) -> String {
    String::from_utf8(print_bytes(value)).unwrap_or_default()
}

/// The UTF-8 bytes of [`print()`].
#[must_use]
pub fn print_bytes(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    print_value(value, &mut bytes);
    bytes
}

pub(crate) fn print_value(value: &Value, bytes: &mut Vec<u8>) {
    match value {
        Value::Array(items) => print_array(items, bytes),
        Value::Object(members) => print_object(members, bytes),
        Value::String(text) => print_text(text, bytes),
        scalar => print_scalar(scalar, bytes),
    }
}

pub(crate) fn print_array(items: &[Value], bytes: &mut Vec<u8>) {
    bytes.push(b'[');
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            bytes.push(b',');
        }
        print_value(item, bytes);
    }
    bytes.push(b']');
}

pub(crate) fn print_object(members: &Map<String, Value>, bytes: &mut Vec<u8>) {
    if members.keys().is_sorted() {
        return print_members(members.iter(), bytes);
    }
    let mut members: Vec<_> = members.iter().collect();
    members.sort_unstable_by_key(|(name, _)| *name);
    print_members(members.into_iter(), bytes);
}

/// Prints an object with these members, which are sorted by name.
fn print_members<'a>(members: impl Iterator<Item = (&'a String, &'a Value)>, bytes: &mut Vec<u8>) {
    bytes.push(b'{');
    for (position, (name, member)) in members.enumerate() {
        if position > 0 {
            bytes.push(b',');
        }
        print_text(name, bytes);
        bytes.push(b':');
        print_value(member, bytes);
    }
    bytes.push(b'}');
}

/// A string prints as `serde_json` prints it. Most have nothing to escape.
pub(crate) fn print_text(text: &str, bytes: &mut Vec<u8>) {
    if first_special(text.as_bytes()).is_some() {
        return print_scalar(text, bytes);
    }
    bytes.reserve(text.len() + 2);
    bytes.push(b'"');
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'"');
}

/// Scalars print as `serde_json` prints them; writing to a vector cannot fail.
pub(crate) fn print_scalar(scalar: &(impl serde::Serialize + ?Sized), bytes: &mut Vec<u8>) {
    let _ = serde_json::to_writer(bytes, scalar);
}

fn read_to(bytes: &[u8], depth: usize) -> Result<Value, String> {
    let found = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let strict = Strict { bytes, decimals: &found, depth };
    let value = strict.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    // A number without an exact reading is told before anything else: policies and records quote these words.
    value.map_err(|error| decimals(bytes).err().unwrap_or_else(|| error.to_string()))
}

/// The numbers of a JSON text that are no 64-bit integers, in their order. What is no JSON the reader finds.
fn decimals(bytes: &[u8]) -> Result<Vec<f64>, String> {
    let mut decimals = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            b'"' => after_string(after),
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let end = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
                let (number, after) = rest.split_at(end);
                let number = std::str::from_utf8(number).map_err(|error| error.to_string())?;
                // `serde_json` reads -0 as a decimal too.
                if number == "-0" || (number.parse::<i64>().is_err() && number.parse::<u64>().is_err()) {
                    decimals.push(exact(number).ok_or("a number without an exact reading")?);
                }
                after
            }
            _ => after,
        };
    }
    Ok(decimals)
}

/// What follows the end of a string.
fn after_string(text: &[u8]) -> &[u8] {
    let mut escaped = false;
    let end = text.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.and_then(|end| text.get(end + 1..)).unwrap_or_default()
}

/// The double that a decimal names, if it prints as an equal decimal: then it is read as it will be printed.
pub(crate) fn exact(text: &str) -> Option<f64> {
    // 2^53: above it a double does not tell integers apart.
    let value = text.parse::<f64>().ok().filter(|value| value.abs() <= 9_007_199_254_740_992.0)?;
    let is_integer = !text.contains(['.', 'e', 'E']) && text != "-0";
    let printed = Number::from_f64(value)?.to_string();
    (!is_integer && magnitude(text)? == magnitude(&printed)?).then_some(value)
}

/// The digits D of a decimal without zeros at either end, and the e of 0.D × 10^e: equal for equal magnitudes.
fn magnitude(text: &str) -> Option<(String, i64)> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = whole.trim_start_matches(['-', '0']);
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    let shift = i64::try_from(whole.len()).ok()? - i64::try_from(digits.len() - significant.len()).ok()?;
    match significant.trim_end_matches('0') {
        "" => Some((String::new(), 0)),
        significant => Some((significant.to_owned(), exponent.parse::<i64>().ok()?.checked_add(shift)?)),
    }
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    /// The whole text.
    bytes: &'a [u8],
    /// Its decimals that are still to come; `None` before the first, since most texts have none.
    decimals: &'a RefCell<Option<IntoIter<f64>>>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Value, E> {
        let mut found = self.decimals.borrow_mut();
        let found = match &mut *found {
            Some(found) => found,
            nothing => nothing.insert(decimals(self.bytes).map_err(E::custom)?.into_iter()),
        };
        let number = found.next().and_then(Number::from_f64);
        number.map(Value::Number).ok_or_else(|| E::custom("a number without an exact reading"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let member = members.next_value_seed(below)?;
            if object.insert(name, member).is_some() {
                return Err(de::Error::custom("a member of an object occurs twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

impl Strict<'_> {
    fn below<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("nested too deeply"))?;
        Ok(Self { depth, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        for bad in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":{"b":1,"b":1}}"#,
            "123456789012345678901234567890",
            "1e300",
            "1e-400",
            "4503599627370497.25",
            "0.100000000000000000000000000001",
            "209918450523110.13",
            "209918450523110.37",
            "18446744073709551616",
            "9007199254740993.0",
            "1 2",
            "[1,]",
            "",
            "NaN",
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
        // Word for word: they are part of policy inputs, which records commit to.
        let inexact = "a number without an exact reading";
        for (bad, why) in [
            (r#"{"a":1e300}"#, inexact),
            (r#"{"a":1e400}"#, inexact),
            (r#"{"d":2024-05-01}"#, inexact),
            ("a - b", inexact),
            (r#"{"a":1,"a":2,"b":1e300}"#, inexact),
            (r#"{"a":0.5,"a":2}"#, "a member of an object occurs twice at line 1 column 15"),
            (r#"{"a":1,"a":2}"#, "a member of an object occurs twice at line 1 column 13"),
            ("[1,]", "trailing comma at line 1 column 4"),
            ("1 2", "trailing characters at line 1 column 3"),
        ] {
            assert_eq!(read(bad.as_bytes()), Err(why.to_owned()), "{bad}");
        }
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(read(deep(DEPTH_MAX).as_bytes()).is_ok());
        assert!(read(deep(DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(read_object(b"[]").is_err());
    }

    #[test]
    fn decimals_are_exact() {
        for (text, printed) in [
            ("99.99999999999999", "99.99999999999999"),
            ("100.00000000000001", "100.00000000000001"),
            ("0.30000000000000004", "0.30000000000000004"),
            ("1.50e+3", "1500.0"),
            ("-0.0e5", "-0.0"),
            ("-0", "-0.0"),
            ("1000e-6", "0.001"),
            ("5e-324", "5e-324"),
            // Of two shortest decimals that are equally near, the even one.
            ("209918450523110.12", "209918450523110.12"),
            ("209918450523110.38", "209918450523110.38"),
            ("9007199254740992.0", "9007199254740992.0"),
            (r#"{"1.5":[2.5,"3.5\\\"4.5",7,-5.5]}"#, r#"{"1.5":[2.5,"3.5\\\"4.5",7,-5.5]}"#),
        ] {
            let value = read(text.as_bytes()).unwrap();
            assert_eq!(print(&value), printed);
            assert_eq!(read(printed.as_bytes()).unwrap(), value, "{text}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(20_000))]
        #[test]
        fn a_decimal_is_read_as_the_double_it_names_or_not(digits in 0..10_u64.pow(17), point in 0..18_usize) {
            let digits = format!("{digits:018}");
            let text = format!("{}.{}", digits[..point].trim_start_matches('0'), &digits[point..]);
            let text = if text.starts_with('.') { format!("0{text}") } else { text };
            if let Ok(value) = read(text.as_bytes()) {
                let named = text.parse::<f64>().unwrap();
                proptest::prop_assert_eq!(value.as_f64().map(f64::to_bits), Some(named.to_bits()));
                let shortest = format!("{named}{}", if named.fract() == 0.0 { ".0" } else { "" });
                // Of two shortest decimals that are equally near, another printer may choose the other one.
                proptest::prop_assert_eq!(text.trim_matches('0').len(), shortest.trim_matches('0').len());
                proptest::prop_assert_eq!(read(print(&value).as_bytes()), Ok(value));
            } else {
                let kept = text.trim_matches(['0', '.']).len() <= 15;
                proptest::prop_assert!(!kept || text.parse::<f64>().unwrap() > 9_007_199_254_740_992.0);
            }
        }
    }

    #[test]
    fn printing_sorts() {
        let value = read(br#"{"b":[{"z":1,"a":"\n"}],"a":1.5,"c":-9223372036854775808}"#).unwrap();
        let text = print(&value);
        assert_eq!(text, r#"{"a":1.5,"b":[{"a":"\n","z":1}],"c":-9223372036854775808}"#);
        assert_eq!(print(&read(text.as_bytes()).unwrap()), text);
    }
}
