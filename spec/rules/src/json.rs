//! JSON as policies read it: one reading and one printing.
//!
//! Reading is strict, because a tool may read the same bytes differently: a member given twice, or a number that
//! loses digits, is refused rather than guessed. Printing sorts members by name, so that equal values have equal
//! bytes, whatever features `serde_json` was built with.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Deepest nesting that is read; the bound of `serde_json` is 128.
pub const DEPTH_MAX: usize = 64;

/// Reads one JSON value, and nothing after it.
///
/// # Errors
/// When the bytes are not JSON, a member occurs twice in an object, nesting is deeper than [`DEPTH_MAX`], or a
/// number has no exact reading: an integer outside of 64 bits, or a decimal above 2^53 in magnitude.
pub fn read(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict(DEPTH_MAX).deserialize(&mut reader).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(value)
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

/// Prints a value without white space and with the members of every object sorted by name (byte order).
#[must_use]
pub fn print(value: &Value) -> String {
    let mut text = String::new();
    print_into(value, &mut text);
    text
}

/// The value with the members of every object sorted by name.
#[must_use]
pub fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Object(members) => {
            let mut members: Vec<_> = members.into_iter().collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(members.into_iter().map(|(name, member)| (name, sorted(member))).collect())
        }
        scalar => scalar,
    }
}

fn print_into(value: &Value, text: &mut String) {
    use fmt::Write as _;
    match value {
        Value::Array(items) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                print_into(item, text);
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut names: Vec<_> = members.iter().collect();
            names.sort_by(|a, b| a.0.cmp(b.0));
            text.push('{');
            for (position, (name, member)) in names.into_iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                print_into(&Value::String(name.clone()), text);
                text.push(':');
                print_into(member, text);
            }
            text.push('}');
        }
        // Scalars print as serde_json prints them; writing to a String cannot fail.
        scalar => {
            let _ = write!(text, "{scalar}");
        }
    }
}

struct Strict(usize);

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
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

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        // 2^53: above it a decimal, or an integer too long for 64 bits, has lost digits.
        let number = Number::from_f64(value).filter(|_| value.abs() <= 9_007_199_254_740_992.0);
        number.map(Value::Number).ok_or_else(|| E::custom("a number without an exact reading"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let depth = self.below()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Self(depth))? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let depth = self.below()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let member = members.next_value_seed(Self(depth))?;
            if object.contains_key(&name) {
                return Err(de::Error::custom(format!("the member {name:?} occurs twice")));
            }
            object.insert(name, member);
        }
        Ok(Value::Object(object))
    }
}

impl Strict {
    fn below<E: de::Error>(&self) -> Result<usize, E> {
        self.0.checked_sub(1).ok_or_else(|| E::custom("nested too deeply"))
    }
}

/// A value that was read strictly, for fields of serde types.
pub(crate) fn strict_object<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Map<String, Value>>, D::Error> {
    match Strict(DEPTH_MAX).deserialize(deserializer)? {
        Value::Object(object) => Ok(Some(object)),
        _ => Err(de::Error::custom("not a JSON object")),
    }
}

/// Strictly read members of an object.
pub(crate) fn strict_members<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<std::collections::BTreeMap<String, Value>, D::Error> {
    struct Member(Value);
    impl<'de> Deserialize<'de> for Member {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Strict(DEPTH_MAX).deserialize(deserializer).map(Member)
        }
    }
    let members = std::collections::BTreeMap::<String, Member>::deserialize(deserializer)?;
    Ok(members.into_iter().map(|(name, Member(value))| (name, value)).collect())
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
            "1 2",
            "[1,]",
            "",
            "NaN",
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(read(deep(DEPTH_MAX).as_bytes()).is_ok());
        assert!(read(deep(DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(read_object(b"[]").is_err());
    }

    #[test]
    fn printing_sorts() {
        let value = read(br#"{"b":[{"z":1,"a":"\n"}],"a":1.5,"c":-9223372036854775808}"#).unwrap();
        let text = print(&value);
        assert_eq!(text, r#"{"a":1.5,"b":[{"a":"\n","z":1}],"c":-9223372036854775808}"#);
        assert_eq!(print(&sorted(value)), text);
        assert_eq!(print(&read(text.as_bytes()).unwrap()), text);
    }
}
