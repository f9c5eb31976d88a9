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
    fn find_left_out(&self, name: &str, rest: &str) -> Option<usize>;
    /// A member, of the input or of `run`, that was left out, with its text.
    fn keep_left_out(&mut self, name: &str, text: &str);
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

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// Longest integer that is read here: it fits 64 bits with either sign.
const DIGITS_MAX: usize = 18;

/// A number that is read here.
enum Number {
    Unsigned(u64),
    Negative(i64),
    Decimal(f64),
}

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
            _ => Some(match self.number()? {
                Number::Unsigned(value) => build.unsigned(value),
                Number::Negative(value) => build.negative(value),
                Number::Decimal(value) => build.decimal(value),
            }),
        }
    }

    /// Reads what [`Reader::value`] reads and makes nothing of it: whether there are no decimals in it.
    fn skip(&mut self, depth: usize) -> Option<bool> {
        match self.peek()? {
            b'"' => self.string().map(|_| true),
            b'{' => {
                let (depth, mut small) = (depth.checked_sub(1)?, true);
                self.members(|reader, _| {
                    small &= reader.skip(depth)?;
                    Some(())
                })?;
                Some(small)
            }
            b'[' => {
                let (depth, mut small) = (depth.checked_sub(1)?, true);
                self.items(|reader| {
                    small &= reader.skip(depth)?;
                    Some(())
                })?;
                Some(small)
            }
            b't' => self.word("true").map(|()| true),
            b'f' => self.word("false").map(|()| true),
            b'n' => self.word("null").map(|()| true),
            _ => self.number().map(|number| !matches!(number, Number::Decimal(_))),
        }
    }

    fn array<B: Build<'a>>(&mut self, depth: usize, build: &mut B) -> Option<B::Value> {
        let mut items = Vec::new();
        self.items(|reader| {
            items.push(reader.value(depth, build)?);
            Some(())
        })?;
        Some(build.array(items))
    }

    /// The items of an array: `each` reads one.
    fn items(&mut self, mut each: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(b'[')?;
        if self.take(b']').is_some() {
            return Some(());
        }
        loop {
            each(self)?;
            if self.take(b',').is_none() {
                return self.take(b']');
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
                reader.skip(depth)?;
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
                if reader.skip(depth)? {
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

    fn number(&mut self) -> Option<Number> {
        let rest = self.text.get(self.at..)?;
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let number = rest.get(..rest.bytes().take_while(|byte| is_part(byte)).count())?;
        self.at += number.len();
        let digits = number.strip_prefix('-').unwrap_or(number);
        let is_negative = digits.len() < number.len();
        let whole = digits.bytes().take_while(u8::is_ascii_digit).count();
        let is_zero = digits.starts_with('0');
        if whole == 0 || whole > DIGITS_MAX || is_zero && whole > 1 {
            return None;
        }
        if whole < digits.len() {
            let decimals = digits.get(whole..)?.strip_prefix('.')?;
            let is_decimal = !decimals.is_empty() && decimals.bytes().all(|digit| digit.is_ascii_digit());
            return is_decimal.then(|| json::exact(number))?.map(Number::Decimal);
        }
        let value = digits.bytes().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
        match is_negative {
            // Minus zero is a decimal.
            true if is_zero => None,
            true => i64::try_from(value).ok().map(|value| Number::Negative(-value)),
            false => Some(Number::Unsigned(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes nothing but what [`Reader::skip`] says: whether there are no decimals.
    struct Small;

    impl<'a> Build<'a> for Small {
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
        fn find_left_out(&self, _: &str, _: &str) -> Option<usize> {
            None
        }
        fn keep_left_out(&mut self, _: &str, _: &str) {}
        fn wants_of_run(&self, _: &str) -> bool {
            true
        }
        fn part_begin(&mut self, _: Part) {}
        fn known(&mut self, _: Part, _: Cow<'a, str>, _: &str) -> Option<usize> {
            None
        }
        fn member(&mut self, _: Part, _: Cow<'a, str>, _: &str, _: bool) {}
        fn part_end(&mut self, _: Part) -> bool {
            true
        }
    }

    fn both(text: &str, depth: usize) -> Option<bool> {
        let (mut reads, mut skips) = (Reader { text, at: 0 }, Reader { text, at: 0 });
        let (read, skipped) = (reads.value(depth, &mut Small), skips.skip(depth));
        assert_eq!(read, skipped, "{text}");
        // Where nothing was read, nobody goes on.
        assert!(read.is_none() || reads.at == skips.at, "{text}");
        read
    }

    #[test]
    fn what_is_passed_over_is_what_would_be_read() {
        // Every text of up to five pieces.
        let pieces =
            ["{", "}", "[", "]", ",", ":", "\"a\"", "\"b\\n\"", "0", "1", "-", ".5", "e", "null", " "];
        let mut texts = vec![String::new()];
        let (mut taken, mut refused, mut from) = (0, 0, 0);
        for _ in 0..5 {
            let to = texts.len();
            for at in from..to {
                for piece in pieces {
                    let text = format!("{}{piece}", texts[at]);
                    match both(&text, 3) {
                        Some(_) => taken += 1,
                        None => refused += 1,
                    }
                    texts.push(text);
                }
            }
            from = to;
        }
        println!("{taken} texts begin with a value, {refused} do not");
        assert!(taken > 10_000 && refused > 100_000);
        for depth in 0..4 {
            for text in ["[[[0.5]]]", "{\"a\":{\"a\":{\"a\":1}}}", "[{\"a\":[]}]"] {
                assert_eq!(both(text, depth).is_some(), depth == 3, "{text} {depth}");
            }
        }
        let digits = "9".repeat(DIGITS_MAX);
        for (text, small) in [
            (digits.as_str(), Some(true)),
            (&format!("-{digits}"), Some(true)),
            (&format!("{digits}9"), None),
            ("0.10000000000000000001", None),
            ("9007199254740993.0", None),
            ("-0", None),
            ("-0.0", Some(false)),
            ("01", None),
        ] {
            assert_eq!(both(text, 1), small, "{text}");
        }
    }
}
