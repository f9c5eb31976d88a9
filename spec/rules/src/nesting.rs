//! How deeply a policy may nest, checked before an engine reads it: bundles come from strangers, and both engines
//! spend time or stack on nesting without a bound of their own.
//!
//! * regorus reads what stands in brackets twice, once as a comprehension: each `[` or `{` around a byte doubles the
//!   times that it is read. So those readings are counted. It sorts the statements of a rule by comparing each with
//!   each, so those comparisons are counted too.
//! * cedar-policy descends once for each bracket and each operator on the way to a byte, 10 KiB of stack at a time. So
//!   the longest way is bounded; on a thread of 2 MiB there is room for twice as much.

use crate::bundle::CompileError;

/// Most readings of bytes that the Rego files of a bundle may need together: about two seconds.
pub const REGO_READINGS_MAX: u64 = 1 << 23;

/// Most comparisons of statements that the rules of a bundle may need together: a few seconds.
pub const REGO_COMPARISONS_MAX: u64 = 1 << 26;

/// Deepest nesting of brackets in a Cedar policy or schema.
pub const CEDAR_BRACKETS_MAX: usize = 32;

/// Most operators (`.`, `&&`, `+`, `if`, ...) on the way from a Cedar policy to any of its parts, in its bracket and
/// in those around it.
pub const CEDAR_OPERATORS_MAX: usize = 1000;

/// Counts the readings and comparisons of Rego files.
pub(crate) fn check_rego<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), CompileError> {
    let (mut readings, mut comparisons) = (0_u64, 0_u64);
    for (file, source) in files {
        // How many brackets are open, and how many statements have ended in the outermost of them.
        let (mut depth, mut statements, mut line) = (0_u32, 0_u64, 1);
        for code in Code::of(source, Language::Rego) {
            match code.byte {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            readings = readings.saturating_add(1_u64.checked_shl(depth).unwrap_or(u64::MAX));
            if readings > REGO_READINGS_MAX {
                let why = "arrays, sets and objects nest too deeply: name inner ones in a rule";
                return Err(code.refused(file, why));
            }
            let ends = code.line > line || code.byte == b';';
            line = code.line;
            statements = if depth == 0 { 0 } else { statements + u64::from(ends) };
            comparisons += if depth > 0 && ends { 2 * statements } else { 0 };
            if comparisons > REGO_COMPARISONS_MAX {
                return Err(code.refused(file, "rules have too many statements: make several of them"));
            }
        }
    }
    Ok(())
}

/// Bounds the ways through a Cedar policy file or schema. Whoever parses one without compiling its bundle asks here
/// first.
///
/// # Errors
/// With the line where it is too deep.
pub fn check_cedar(file: &str, source: &str) -> Result<(), CompileError> {
    for (code, open, way) in ways(source, file.ends_with(".cedar")) {
        if open > CEDAR_BRACKETS_MAX {
            return Err(code.refused(file, "brackets nest more than 32 deep"));
        }
        if way > CEDAR_OPERATORS_MAX {
            return Err(code
                .refused(file, "an expression has more than 1,000 operators: make several policies of it"));
        }
    }
    Ok(())
}

/// Most operators on the way to any part of a Cedar policy.
pub(crate) fn cedar_operators(policy: &str) -> usize {
    ways(policy, true).map(|(_, _, way)| way).max().unwrap_or_default()
}

/// Each byte of code in Cedar, with the number of open brackets and of operators on the way to it.
fn ways(source: &str, is_policy: bool) -> impl Iterator<Item = (Code, usize, usize)> {
    // In a schema `Set<Set<Long>>` nests as well; in a policy `<` compares.
    let [opening, closing]: [&[u8]; 2] = if is_policy { [b"([{", b")]}"] } else { [b"([{<", b")]}>"] };
    // The operators of each bracket that is open, of the innermost, and of the whole way.
    let (mut open, mut here, mut way) = (Vec::new(), 0_usize, 0_usize);
    Code::of(source, Language::Cedar).map(move |code| {
        if opening.contains(&code.byte) {
            open.push(std::mem::take(&mut here));
        } else if closing.contains(&code.byte) {
            way -= here;
            here = open.pop().unwrap_or(0);
        } else if matches!(code.byte, b';' | b',') {
            way -= std::mem::take(&mut here);
        } else if matches!(code.byte, b'.' | b'&' | b'|' | b'+' | b'-' | b'*' | b'!' | b'=') || code.is_if {
            here += 1;
            way += 1;
        }
        (code, open.len(), way)
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Cedar,
    Rego,
}

/// A byte that is neither white space nor in a comment or a string.
struct Code {
    byte: u8,
    line: usize,
    /// Whether a word that starts with `if` starts here.
    is_if: bool,
}

impl Code {
    /// The code of a source. What ends a comment or a string is what the engine takes for its end: else code could
    /// hide in one.
    fn of(source: &str, language: Language) -> impl Iterator<Item = Self> {
        let bytes = source.as_bytes();
        let (mut at, mut line, mut in_word) = (0, 1, false);
        std::iter::from_fn(move || {
            loop {
                let byte = *bytes.get(at)?;
                let starts_with = |text: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(text));
                let (comment, raw) = match language {
                    Language::Cedar => (starts_with(b"//"), false),
                    Language::Rego => (byte == b'#', byte == b'`'),
                };
                let end = if comment {
                    position(bytes, at, |byte| matches!(byte, b'\n' | b'\r'))
                } else if raw {
                    position(bytes, at + 1, |byte| byte == b'`') + 1
                } else if byte == b'"' {
                    end_of_string(bytes, at + 1)
                } else if byte.is_ascii_whitespace() {
                    at + 1
                } else {
                    let is_if = !in_word && starts_with(b"if");
                    in_word = byte.is_ascii_alphanumeric() || byte == b'_';
                    at += 1;
                    return Some(Self { byte, line, is_if });
                };
                let passed = bytes.get(at..end.min(bytes.len())).unwrap_or_default();
                line += passed.iter().filter(|byte| **byte == b'\n').count();
                (at, in_word) = (end, false);
            }
        })
    }

    fn refused(&self, file: &str, why: &str) -> CompileError {
        CompileError::Policy { file: file.to_owned(), why: format!("line {}: {why}", self.line) }
    }
}

/// Where the first byte at or after `from` is that is looked for, or the end.
fn position(bytes: &[u8], from: usize, wanted: impl Fn(u8) -> bool) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().position(|byte| wanted(*byte)).unwrap_or(rest.len())
}

/// Where a string ends whose content starts at `from`: behind its quote.
fn end_of_string(bytes: &[u8], mut from: usize) -> usize {
    loop {
        from = position(bytes, from, |byte| matches!(byte, b'"' | b'\\'));
        match bytes.get(from) {
            Some(b'\\') => from += 2,
            Some(_) => return from + 1,
            None => return from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rego(source: &str) -> bool {
        check_rego([("a.rego", source)]).is_ok()
    }

    fn cedar(source: &str) -> bool {
        check_cedar("a.cedar", source).is_ok()
    }

    fn nested(open: &str, close: &str, times: usize) -> String {
        format!("{}1{}", open.repeat(times), close.repeat(times))
    }

    #[test]
    fn each_bracket_doubles_the_readings_of_what_it_holds() {
        assert!(rego(&nested("[", "]", 20)) && rego(&nested("(", ")", 1000)));
        assert!(
            !rego(&nested("[", "]", 23)) && !rego(&nested("{", "}", 23)) && !rego(&nested("[(", ")]", 23))
        );
        // A hundred times two to the sixteenth.
        let many = |times: usize| format!("{}\n", nested("[", "]", 16)).repeat(times);
        assert!(rego(&many(10)) && !rego(&many(100)));
        assert_eq!(
            check_rego([("a.rego", "\n\n"), ("b.rego", &format!("#\n{}", nested("[", "]", 30)))]),
            Err(CompileError::Policy {
                file: "b.rego".to_owned(),
                why: "line 2: arrays, sets and objects nest too deeply: name inner ones in a rule".to_owned()
            })
        );
    }

    #[test]
    fn each_statement_of_a_rule_is_compared_with_each() {
        let body = |statements: usize| format!("x if {{\n{}}}\n", "true\n".repeat(statements));
        assert!(
            rego(&body(8_000))
                && !rego(&body(9_000))
                && !rego(&format!("x if {{ {} }}", "true;".repeat(9_000)))
        );
        assert!(rego(&body(100).repeat(90)) && rego(&"x := 1\n".repeat(19_000)));
    }

    #[test]
    fn cedar_is_bounded_on_each_way() {
        assert!(
            cedar(&nested("(", ")", 32))
                && !cedar(&nested("(", ")", 33))
                && !cedar(&nested("[{(", ")}]", 11))
        );
        assert!(cedar(&"a.".repeat(1000)) && !cedar(&"a.".repeat(1001)));
        assert!(
            !cedar(&"if a then ".repeat(1001)) && cedar(&"a && ".repeat(500)) && !cedar(&"a && ".repeat(501))
        );
        // Operators of other policies and of other elements are on other ways.
        assert!(cedar(&"a.b.c;".repeat(1000)) && cedar(&"[a.b, c.d]".repeat(1000)));
        assert!(!cedar(&format!("({}({}", "!".repeat(600), "!".repeat(600))));
        assert!(cedar(&nested("1 < (", ")", 32)) && !cedar(&nested("1 > (", ")", 33)));
        assert!(check_cedar("schema.cedarschema", &nested("Set<", ">", 33)).is_err());
    }

    #[test]
    fn nothing_hides_in_strings_or_comments_that_the_engines_end_earlier() {
        let deep = nested("[", "]", 33);
        for hiding in
            [format!("# \n{deep}"), format!("`\n`{deep}"), format!("\"\\\"\"{deep}"), format!("\"#\"{deep}")]
        {
            assert!(!rego(&hiding), "{hiding}");
        }
        for hiding in
            [format!("// \r{deep}"), format!("\"\n\"{deep}"), format!("\"//\"{deep}"), format!("`{deep}`")]
        {
            assert!(!cedar(&hiding), "{hiding}");
        }
        for plain in [format!("# {deep}"), format!("\"{deep}\""), format!("`{deep}`")] {
            assert!(rego(&plain), "{plain}");
        }
        assert!(cedar(&format!("// {deep}")) && cedar(&format!("\"{deep}\"")));
    }
}
