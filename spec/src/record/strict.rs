//! A reader of the one encoding (SPEC §3.1), which is what a program meets in nearly all of a log.
//!
//! It takes no white space, no member out of its order or given twice, no string and no integer in any but its shortest
//! spelling, nothing but objects, arrays, strings and integers, and no integer above 2^53 − 1. So what it reads would be
//! printed as it stands, but for one thing that only a type knows: members that are left out where they say nothing. Of
//! the types of records those are zeros and empty objects, and where one is met, the reader says so.
//!
//! INVARIANT: what is read by it keeps to this, which printing again does not check any more:
//! * a struct names its fields in the order in which they are printed, without `alias` and `flatten`;
//! * an optional field is read by [`present`](super::canonical::present); another one with a default is left out when it
//!   has it, and the default is zero or an empty object;
//! * a type that is read from a string takes only the string that it prints;
//! * a map prints its members in the byte order of their names.
//!
//! `spec/tests/unit/both_ways.rs` compares both ways of reading, over every vector and a million changes of them.
//!
//! It gives no reasons. What it does not take is read again by [`super::canonical`], which does.

use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, U64Deserializer};
use serde::de::{
    self, Deserialize, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::json::first_special;
use crate::types::INTEGER_MAX;

/// What a text says.
pub(super) struct Read<T> {
    pub(super) value: T,
    /// A zero or an empty object was read, which the one encoding may leave out: only printing can tell.
    pub(super) spelled_out: bool,
}

/// Reads a value from its one encoding; `None` is any other text.
pub(super) fn read<'de, T: Deserialize<'de>>(json: &'de str) -> Option<Read<T>> {
    let mut reader = Reader { json, at: 0, spelled_out: false };
    let value = T::deserialize(&mut reader).ok()?;
    (reader.at == json.len()).then_some(Read { value, spelled_out: reader.spelled_out })
}

/// Not the one encoding of such a value.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the one encoding")
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

struct Reader<'de> {
    json: &'de str,
    at: usize,
    spelled_out: bool,
}

/// A string: where it stands, unless it holds escapes.
enum Piece<'de> {
    Borrowed(&'de str),
    Owned(String),
}

impl<'de> Reader<'de> {
    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Result<(), Refused> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(Refused)
    }

    /// What stands for itself until the next byte that does not, and that byte.
    fn plain(&mut self) -> Result<(&'de str, u8), Refused> {
        let rest = self.json.get(self.at..).ok_or(Refused)?;
        let end = first_special(rest.as_bytes()).ok_or(Refused)?;
        let (plain, special) = (rest.get(..end).ok_or(Refused)?, *rest.as_bytes().get(end).ok_or(Refused)?);
        self.at += end + 1;
        Ok((plain, special))
    }

    fn string(&mut self) -> Result<Piece<'de>, Refused> {
        self.take(b'"')?;
        let (plain, special) = self.plain()?;
        if special == b'"' {
            return Ok(Piece::Borrowed(plain));
        }
        let (mut text, mut special) = (plain.to_owned(), special);
        while special == b'\\' {
            text.push(self.escaped()?);
            let plain;
            (plain, special) = self.plain()?;
            text.push_str(plain);
        }
        if special == b'"' { Ok(Piece::Owned(text)) } else { Err(Refused) }
    }

    /// The character that an escape names, in the one spelling that it has.
    fn escaped(&mut self) -> Result<char, Refused> {
        let letter = self.peek().ok_or(Refused)?;
        self.at += 1;
        match letter {
            b'"' => Ok('"'),
            b'\\' => Ok('\\'),
            b'b' => Ok('\u{8}'),
            b't' => Ok('\t'),
            b'n' => Ok('\n'),
            b'f' => Ok('\u{c}'),
            b'r' => Ok('\r'),
            b'u' => {
                let digits = self.json.as_bytes().get(self.at..self.at + 4).ok_or(Refused)?;
                self.at += 4;
                let [b'0', b'0', high @ b'0'..=b'1', low] = *digits else { return Err(Refused) };
                let low = match low {
                    b'0'..=b'9' => low - b'0',
                    b'a'..=b'f' => low - b'a' + 10,
                    _ => return Err(Refused),
                };
                let code = (high - b'0') * 16 + low;
                // Those have a letter.
                if matches!(code, 0x8..=0xa | 0xc | 0xd) { Err(Refused) } else { Ok(char::from(code)) }
            }
            _ => Err(Refused),
        }
    }

    fn integer(&mut self) -> Result<u64, Refused> {
        let start = self.at;
        let mut value = 0_u64;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            value = value * 10 + u64::from(digit - b'0');
            // Checked at each digit, so that nothing overflows.
            if value > INTEGER_MAX {
                return Err(Refused);
            }
            self.at += 1;
        }
        match self.at - start {
            0 => Err(Refused),
            1 => {
                self.spelled_out |= value == 0;
                Ok(value)
            }
            _ if self.json.as_bytes().get(start) == Some(&b'0') => Err(Refused),
            _ => Ok(value),
        }
    }

    /// Whether something comes before the bracket that closes; a comma stands between two.
    fn goes_on(&mut self, close: u8, first: &mut bool) -> Result<bool, Refused> {
        if self.peek() == Some(close) {
            return Ok(false);
        }
        if !std::mem::take(first) {
            self.take(b',')?;
        }
        Ok(true)
    }

    /// Reads what is between two brackets.
    fn within<T>(
        &mut self,
        [open, close]: [u8; 2],
        read: impl FnOnce(&mut Self) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        self.take(open)?;
        let value = read(self)?;
        self.take(close)?;
        Ok(value)
    }
}

impl<'de> de::Deserializer<'de> for &mut Reader<'de> {
    type Error = Refused;

    /// A type that asks for anything else has no one encoding that this reader knows.
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        Err(Refused)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_u64(self.integer()?)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match self.string()? {
            Piece::Borrowed(text) => visitor.visit_borrowed_str(text),
            Piece::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.within(*b"[]", |reader| visitor.visit_seq(Elements { reader, first: true }))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.within(*b"{}", |reader| {
            reader.spelled_out |= reader.peek() == Some(b'}');
            visitor.visit_map(Members { reader, last: None, first: true })
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.within(*b"{}", |reader| {
            reader.spelled_out |= reader.peek() == Some(b'}');
            visitor.visit_map(Fields { reader, fields, next: 0, first: true })
        })
    }

    /// A string, or an object with one member.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        if self.peek() == Some(b'{') {
            return self.within(*b"{}", |reader| visitor.visit_enum(Variant(reader)));
        }
        let Piece::Borrowed(name) = self.string()? else { return Err(Refused) };
        visitor.visit_enum(BorrowedStrDeserializer::new(name))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u128 f32 f64 char bytes byte_buf option unit unit_struct newtype_struct tuple
        tuple_struct ignored_any
    }
}

/// The elements of an array.
struct Elements<'a, 'de> {
    reader: &'a mut Reader<'de>,
    first: bool,
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        if !self.reader.goes_on(b']', &mut self.first)? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }
}

/// The members of an object whose names are data, each after the last by the bytes of its name, as a map is printed.
struct Members<'a, 'de> {
    reader: &'a mut Reader<'de>,
    last: Option<&'de str>,
    first: bool,
}

impl<'de> MapAccess<'de> for Members<'_, 'de> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        if !self.reader.goes_on(b'}', &mut self.first)? {
            return Ok(None);
        }
        let Piece::Borrowed(name) = self.reader.string()? else { return Err(Refused) };
        if self.last.is_some_and(|last| last >= name) {
            return Err(Refused);
        }
        self.last = Some(name);
        self.reader.take(b':')?;
        seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        seed.deserialize(&mut *self.reader)
    }
}

/// The members of an object whose names a type declares, in the order in which it declares, and so prints, them. Each is
/// told by its position, so no name is looked for twice.
struct Fields<'a, 'de> {
    reader: &'a mut Reader<'de>,
    fields: &'static [&'static str],
    /// The first field that may come.
    next: usize,
    first: bool,
}

impl<'de> MapAccess<'de> for Fields<'_, 'de> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        if !self.reader.goes_on(b'}', &mut self.first)? {
            return Ok(None);
        }
        self.reader.take(b'"')?;
        let rest = self.reader.json.as_bytes().get(self.reader.at..).ok_or(Refused)?;
        let named = |field: &&str| {
            // Most fields that are not there are told by their first letter.
            let after =
                rest.strip_prefix(field.as_bytes().get(..1)?)?.strip_prefix(field.as_bytes().get(1..)?)?;
            after.starts_with(b"\":").then_some(())
        };
        let left = self.fields.get(self.next..).ok_or(Refused)?;
        let skipped = left.iter().position(|field| named(field).is_some()).ok_or(Refused)?;
        let position = self.next + skipped;
        self.next = position + 1;
        self.reader.at += left[skipped].len() + 2;
        seed.deserialize(U64Deserializer::new(position as u64)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        seed.deserialize(&mut *self.reader)
    }
}

/// The one member of an object that names a variant; a variant without content is a string, never this.
struct Variant<'a, 'de>(&'a mut Reader<'de>);

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Refused;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Refused> {
        let Piece::Borrowed(name) = self.0.string()? else { return Err(Refused) };
        self.0.take(b':')?;
        Ok((seed.deserialize(BorrowedStrDeserializer::new(name))?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        Err(Refused)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refused> {
        seed.deserialize(self.0)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Refused> {
        Err(Refused)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Refused> {
        Err(Refused)
    }
}
