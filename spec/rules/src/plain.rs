//! The JSON that kernels print, read in one pass into whatever an engine works on.
//!
//! A policy input is printed in one way: no white space, members sorted by name, strings with few escapes. What is plain
//! in this sense is read here, without a document in between; of anything else [`read`] says `None`, and
//! [`crate::json`], which rules on what is read and how, reads it or says what is wrong.
//!
//! INVARIANT: what is read here is read by [`crate::json::read_input`] as well, and as the same.

use std::borrow::Cow;
use std::collections::BTreeMap;

use sift_spec::json::first_special;

use crate::json;

/// Makes the values of an engine.
pub(crate) trait Build<'a> {
    type Name;
    type Value;

    fn null(&mut self) -> Self::Value;
    fn bool(&mut self, value: bool) -> Self::Value;
    /// An integer of at most 18 digits that is not negative.
    fn unsigned(&mut self, value: u64) -> Self::Value;
    /// An integer of at most 18 digits that is negative.
    fn negative(&mut self, value: i64) -> Self::Value;
    fn decimal(&mut self, value: f64) -> Self::Value;
    fn text(&mut self, text: Cow<'a, str>) -> Self::Value;
    fn array(&mut self, items: Vec<Self::Value>) -> Self::Value;
    fn name(&mut self, name: Cow<'a, str>) -> Self::Name;
    /// Members in byte order of their names, each name once.
    fn object(&mut self, members: Vec<(Self::Name, Self::Value)>) -> Self::Value;

    /// A member of the input, before those that come after it.
    fn told(&mut self, _name: &str, _value: &Self::Value) {}
    /// Whether a member of the input is looked at; else it is left out. Asked for `facts` and `run`.
    fn wants(&self, _name: &str) -> bool {
        true
    }
    /// A member, of the input or of `run`, that is left out and is an object, if the rest of the input starts with the text
    /// that it last had: the length of that text.
    fn find_left_out(&self, _name: &str, _rest: &str) -> Option<usize> {
        None
    }
    /// A member, of the input or of `run`, that was left out, with its text.
    fn keep_left_out(&mut self, _name: &str, _text: &str) {}
    /// Whether a member of `run` is looked at; else it is left out, if it holds no decimals.
    fn wants_of_run(&self, name: &str) -> bool;
    /// A member of `run` that is an object, if the rest of the input starts with the text that it last had; with the length of
    /// that text.
    fn find(&self, _name: &str, _rest: &str) -> Option<(usize, Self::Value)> {
        None
    }
    /// A member of `run` that is an object, with its text.
    fn keep(&mut self, _name: &str, _text: &str, _value: &Self::Value) {}
    /// The members of this part come next.
    fn part_begin(&mut self, part: Part);
    /// A member of which the rest of the input starts with the text that an earlier one had: the length of that text.
    fn known(&mut self, part: Part, name: Cow<'a, str>, rest: &str) -> Option<usize>;
    /// A member, with its text.
    fn member(&mut self, part: Part, name: Cow<'a, str>, text: &str, value: Self::Value);
    /// The object of the members that were told since [`Build::part_begin`], in byte order of their names.
    fn part_end(&mut self, part: Part) -> Self::Value;
}

/// The parts of an input of which most members are the same from one input of a run to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// `facts`
    Facts,
    /// `run.tools`
    Tools,
}

/// Members of a part by name, as they were last read.
///
/// INVARIANT: every text is that of a whole JSON object. Where a text that is read goes on with it, an object ends
/// with it: no other reading has the same beginning.
#[derive(Debug)]
pub(crate) struct Kept<V>(BTreeMap<String, (String, V)>);

/// Most members that are kept of a part.
const MEMBERS_MAX: usize = 64;

/// Longest text of a member that is kept, in bytes.
const MEMBER_BYTES_MAX: usize = 64 << 10;

impl<V> Default for Kept<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V: Clone> Kept<V> {
    /// The member with which `rest` starts, and the length of its text.
    pub(crate) fn find(&self, name: &str, rest: &str) -> Option<(usize, V)> {
        let (text, value) = self.0.get(name)?;
        rest.starts_with(text.as_str()).then(|| (text.len(), value.clone()))
    }

    pub(crate) fn keep(&mut self, name: &str, text: &str, value: &V) {
        if !text.starts_with('{') || text.len() > MEMBER_BYTES_MAX {
            return;
        }
        if let Some((known, known_value)) = self.0.get_mut(name) {
            known.clear();
            known.push_str(text);
            *known_value = value.clone();
        } else if self.0.len() < MEMBERS_MAX {
            self.0.insert(name.to_owned(), (text.to_owned(), value.clone()));
        }
    }
}

/// Reads a plain policy input.
pub(crate) fn read<'a, B: Build<'a>>(bytes: &'a [u8], build: &mut B) -> Option<B::Value> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut reader = Reader { text, at: 0 };
    let value = reader.input(json::INPUT_DEPTH_MAX, build)?;
    (reader.at == text.len()).then_some(value)
}

/// Makes nothing: says whether a value holds no decimals. Integers that are read here fit 63 bits.
struct Skip;

impl<'a> Build<'a> for Skip {
    type Name = ();
    type Value = bool;

    fn null(&mut self) -> bool {
        true
    }
    fn bool(&mut self, _: bool) -> bool {
        true
    }
    fn unsigned(&mut self, _: u64) -> bool {
        true
    }
    fn negative(&mut self, _: i64) -> bool {
        true
    }
    fn decimal(&mut self, _: f64) -> bool {
        false
    }
    fn text(&mut self, _: Cow<'a, str>) -> bool {
        true
    }
    fn array(&mut self, items: Vec<bool>) -> bool {
        items.into_iter().all(|item| item)
    }
    fn name(&mut self, _: Cow<'a, str>) {}
    fn object(&mut self, members: Vec<((), bool)>) -> bool {
        members.into_iter().all(|((), member)| member)
    }
    fn wants_of_run(&self, _: &str) -> bool {
        true
    }
    fn part_begin(&mut self, _: Part) {}
    fn known(&mut self, _: Part, _: Cow<'a, str>, _: &str) -> Option<usize> {
        None
    }
    fn member(&mut self, _: Part, _: Cow<'a, str>, _: &str, _: bool) {}
    /// No member of `run` is a part of an input.
    fn part_end(&mut self, _: Part) -> bool {
        false
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// Longest integer that is read here: it fits 64 bits with either sign.
const DIGITS_MAX: usize = 18;

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.text.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    fn value<B: Build<'a>>(&mut self, depth: usize, build: &mut B) -> Option<B::Value> {
        match self.peek()? {
            b'"' => {
                let text = self.string()?;
                Some(build.text(text))
            }
            b'{' => self.object(depth.checked_sub(1)?, build),
            b'[' => self.array(depth.checked_sub(1)?, build),
            b't' => self.word("true").map(|()| build.bool(true)),
            b'f' => self.word("false").map(|()| build.bool(false)),
            b'n' => self.word("null").map(|()| build.null()),
            _ => self.number(build),
        }
    }

    fn array<B: Build<'a>>(&mut self, depth: usize, build: &mut B) -> Option<B::Value> {
        self.take(b'[')?;
        let mut items = Vec::new();
        if self.take(b']').is_some() {
            return Some(build.array(items));
        }
        loop {
            items.push(self.value(depth, build)?);
            if self.take(b',').is_none() {
                self.take(b']')?;
                return Some(build.array(items));
            }
        }
    }

    fn object<B: Build<'a>>(&mut self, depth: usize, build: &mut B) -> Option<B::Value> {
        self.object_with(depth, build, |reader, _, depth, build| reader.value(depth, build).map(Some))
    }

    /// The object that is the whole input.
    fn input<B: Build<'a>>(&mut self, depth: usize, build: &mut B) -> Option<B::Value> {
        self.object_with(depth.checked_sub(1)?, build, |reader, name, depth, build| match name {
            "facts" | "run" if !build.wants(name) => {
                let start = reader.at;
                if let Some(length) = build.find_left_out(name, reader.text.get(start..)?) {
                    reader.at += length;
                    return Some(None);
                }
                reader.value(depth, &mut Skip)?;
                build.keep_left_out(name, reader.text.get(start..reader.at)?);
                Some(None)
            }
            "facts" => reader.part(Part::Facts, depth, build).map(Some),
            "run" if reader.peek()? == b'{' => reader.run(depth.checked_sub(1)?, build).map(Some),
            _ => {
                let value = reader.value(depth, build)?;
                build.told(name, &value);
                Some(Some(value))
            }
        })
    }

    fn run<B: Build<'a>>(&mut self, depth: usize, build: &mut B) -> Option<B::Value> {
        self.object_with(depth, build, |reader, name, depth, build| {
            if !build.wants_of_run(name) {
                let start = reader.at;
                if let Some(length) = build.find_left_out(name, reader.text.get(start..)?) {
                    reader.at += length;
                    return Some(None);
                }
                if reader.value(depth, &mut Skip)? {
                    build.keep_left_out(name, reader.text.get(start..reader.at)?);
                    return Some(None);
                }
                reader.at = start;
            }
            let value = match name {
                "tools" => reader.part(Part::Tools, depth, build),
                _ if reader.peek()? == b'{' => reader.kept(name, depth, build),
                _ => reader.value(depth, build),
            };
            value.map(Some)
        })
    }

    /// An object that is a member of `run` and may be known.
    fn kept<B: Build<'a>>(&mut self, name: &str, depth: usize, build: &mut B) -> Option<B::Value> {
        let start = self.at;
        if let Some((length, value)) = build.find(name, self.text.get(start..)?) {
            self.at += length;
            return Some(value);
        }
        let value = self.value(depth, build)?;
        build.keep(name, self.text.get(start..self.at)?, &value);
        Some(value)
    }

    /// An object whose members `each` reads, by name, or leaves out.
    fn object_with<B: Build<'a>>(
        &mut self,
        depth: usize,
        build: &mut B,
        each: impl Fn(&mut Self, &str, usize, &mut B) -> Option<Option<B::Value>>,
    ) -> Option<B::Value> {
        let mut members = Vec::new();
        self.members(|reader, name| {
            if let Some(value) = each(reader, &name, depth, build)? {
                members.push((build.name(name), value));
            }
            Some(())
        })?;
        Some(build.object(members))
    }

    /// A part whose members may be known.
    fn part<B: Build<'a>>(&mut self, part: Part, depth: usize, build: &mut B) -> Option<B::Value> {
        if self.peek()? != b'{' {
            return self.value(depth, build);
        }
        let depth = depth.checked_sub(1)?;
        build.part_begin(part);
        self.members(|reader, name| {
            let start = reader.at;
            if let Some(length) = build.known(part, name.clone(), reader.text.get(start..)?) {
                reader.at += length;
                return Some(());
            }
            let value = reader.value(depth, build)?;
            build.member(part, name, reader.text.get(start..reader.at)?, value);
            Some(())
        })?;
        Some(build.part_end(part))
    }

    /// The members of an object: `each` reads the value of one.
    fn members(&mut self, mut each: impl FnMut(&mut Self, Cow<'a, str>) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        if self.take(b'}').is_some() {
            return Some(());
        }
        let mut last: Option<Cow<'a, str>> = None;
        loop {
            let name = self.string()?;
            // In order, and so each once.
            if last.as_ref().is_some_and(|last| *last >= name) {
                return None;
            }
            self.take(b':')?;
            last = Some(name.clone());
            each(self, name)?;
            if self.take(b',').is_none() {
                return self.take(b'}');
            }
        }
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        self.take(b'"')?;
        let rest = self.text.get(self.at..)?;
        let end = first_special(rest.as_bytes())?;
        if rest.as_bytes().get(end) == Some(&b'"') {
            self.at += end + 1;
            return rest.get(..end).map(Cow::Borrowed);
        }
        self.escaped().map(Cow::Owned)
    }

    /// The rest of a string that has an escape.
    fn escaped(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            let rest = self.text.get(self.at..)?;
            let end = first_special(rest.as_bytes())?;
            text.push_str(rest.get(..end)?);
            let (stop, escape) = (rest.as_bytes().get(end)?, rest.as_bytes().get(end + 1));
            if *stop == b'"' {
                self.at += end + 1;
                return Some(text);
            }
            if *stop != b'\\' {
                return None;
            }
            text.push(match escape? {
                b'"' => '"',
                b'\\' => '\\',
                b'/' => '/',
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                _ => return None,
            });
            self.at += end + 2;
        }
    }

    fn number<B: Build<'a>>(&mut self, build: &mut B) -> Option<B::Value> {
        let rest = self.text.get(self.at..)?;
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let number = rest.get(..rest.bytes().take_while(|byte| is_part(byte)).count())?;
        self.at += number.len();
        let (whole, decimals) = match number.split_once('.') {
            None => (number, None),
            Some((whole, decimals)) => (whole, Some(decimals)),
        };
        let digits = whole.strip_prefix('-').unwrap_or(whole);
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
        let is_zero = digits.starts_with('0');
        if !is_digits(digits) || digits.len() > DIGITS_MAX || is_zero && digits.len() > 1 {
            return None;
        }
        match decimals {
            Some(decimals) if is_digits(decimals) => json::exact(number).map(|value| build.decimal(value)),
            Some(_) => None,
            // Minus zero is a decimal.
            None if digits.len() < whole.len() && is_zero => None,
            None if digits.len() < whole.len() => whole.parse().ok().map(|value| build.negative(value)),
            None => whole.parse().ok().map(|value| build.unsigned(value)),
        }
    }
}
