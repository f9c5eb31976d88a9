//! What the text of a policy tells without being run: its rules with their lines, and the tools, facts and data that
//! it names.
//!
//! A reading of tokens, not of meaning: names that a policy computes are not found, and [`Source::computed`] says where
//! that is so.

use std::collections::{BTreeMap, BTreeSet};

use sift_spec::bundle::Bundle;

/// A place in a file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file's path in the bundle.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

/// What a rule asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asks {
    /// To let the call through.
    Allow,
    /// To refuse it.
    Deny,
    /// To have somebody approve it.
    Hold,
    /// Its text does not say: the rule is built outside of `allow`, `deny` and `hold`.
    Unknown,
}

impl Asks {
    /// `allow`, `deny`, `hold` or `?`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Hold => "hold",
            Self::Unknown => "?",
        }
    }
}

/// A rule, where it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleSite {
    /// Its name, as decisions state it.
    pub name: String,
    /// What it asks for.
    pub asks: Asks,
    /// Where.
    pub place: Place,
    /// Whether a condition of it is the constant `false`.
    pub never: bool,
}

/// What the policy files of a bundle name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// The rules in the order of files and lines.
    pub rules: Vec<RuleSite>,
    /// Rules whose names are computed, so that no list can be complete.
    pub computed: Vec<Place>,
    /// Tools that conditions compare with.
    pub tools: BTreeSet<String>,
    /// Models that conditions compare with, and where first.
    pub models: BTreeMap<String, Place>,
    /// Providers that conditions compare with.
    pub providers: BTreeSet<String>,
    /// Facts that are read, and where first.
    pub facts: BTreeMap<String, Place>,
    /// Members of `data.json` that are read, and where first.
    pub data: BTreeMap<String, Place>,
}

impl Source {
    /// Reads the policy files of a bundle.
    #[must_use]
    pub fn of(bundle: &Bundle) -> Self {
        let mut source = Self::default();
        let mut packages = BTreeSet::new();
        for (path, content) in bundle.files() {
            let Ok(text) = std::str::from_utf8(content) else { continue };
            if path.ends_with(".rego") {
                source.read_rego(path, &tokens(text, Comments::Hash), &mut packages);
            } else if path.ends_with(".cedar") {
                source.read_cedar(path, &tokens(text, Comments::Slashes));
            }
        }
        // In Rego, packages lie under `data` as well.
        source.data.retain(|name, _| !packages.contains(name));
        source
    }

    /// Where a rule is written, if its name is.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<&RuleSite> {
        self.rules.iter().find(|rule| rule.name == name)
    }

    fn read_rego(&mut self, file: &str, tokens: &[Token<'_>], packages: &mut BTreeSet<String>) {
        let at = |token: &Token<'_>| Place { file: file.to_owned(), line: token.line };
        let mut asks = Asks::Unknown;
        let (mut names, mut sets) = (BTreeSet::new(), BTreeMap::new());
        for (position, token) in tokens.iter().enumerate() {
            let rest = tokens.get(position..).unwrap_or_default();
            if token.column == 1 {
                asks = match token.kind {
                    Kind::Word("allow") => Asks::Allow,
                    Kind::Word("deny") => Asks::Deny,
                    Kind::Word("hold") => Asks::Hold,
                    Kind::Word(_) => Asks::Unknown,
                    _ => asks,
                };
                if let Kind::Word(alias) = token.kind {
                    match rest.get(1..).unwrap_or_default() {
                        after if starts(after, &[":", "=", "input", ".", "call", ".", "name"]) => {
                            names.insert(alias);
                        }
                        after if starts(after, &[":", "=", "{"]) => {
                            sets.insert(alias, strings(after.get(3..).unwrap_or_default(), "}"));
                        }
                        _ => {}
                    }
                }
            }
            if starts(rest, &["package"])
                && let Some(Kind::Word(name)) = rest.get(1).map(|token| &token.kind)
            {
                packages.insert((*name).to_owned());
            }
            if matches!(&token.kind, Kind::Text(text) if text == "rule")
                && starts(rest.get(1..).unwrap_or_default(), &[":"])
            {
                match rest.get(2).map(|token| &token.kind) {
                    Some(Kind::Text(name)) => {
                        self.rules.push(RuleSite {
                            name: name.clone(),
                            asks,
                            place: at(token),
                            never: false,
                        });
                    }
                    _ => self.computed.push(at(token)),
                }
            }
            if starts(rest, &["if", "false"])
                && asks != Asks::Unknown
                && let Some(rule) = self.rules.last_mut()
            {
                rule.never = rule.place.file == file;
            }
            self.read_members(&at(token), "input", rest);
            if let ["data", ".", name, ..] = first(rest)[..]
                && !position
                    .checked_sub(1)
                    .and_then(|before| tokens.get(before))
                    .is_some_and(|token| token.kind == Kind::Mark('.'))
            {
                note(&mut self.data, name, at(token));
            }
        }
        for position in 0..tokens.len() {
            let rest = tokens.get(position..).unwrap_or_default();
            let after = match rest.first().map(|token| &token.kind) {
                _ if starts(rest, &["input", ".", "call", ".", "name"]) => rest.get(5..),
                Some(Kind::Word(name)) if names.contains(name) => rest.get(1..),
                _ => None,
            };
            let after = after.unwrap_or_default();
            if starts(after, &["=", "="])
                && let Some(Kind::Text(tool)) = after.get(2).map(|token| &token.kind)
            {
                self.tools.insert(tool.clone());
            } else if starts(after, &["in", "{"]) {
                self.tools.extend(strings(after.get(2..).unwrap_or_default(), "}"));
            } else if starts(after, &["in"])
                && let Some(Kind::Word(set)) = after.get(1).map(|token| &token.kind)
            {
                self.tools.extend(sets.get(set).cloned().unwrap_or_default());
            }
        }
    }

    fn read_cedar(&mut self, file: &str, tokens: &[Token<'_>]) {
        let at = |token: &Token<'_>| Place { file: file.to_owned(), line: token.line };
        // The rule whose annotations, and then scope and conditions, are being read.
        let mut open: Option<RuleSite> = None;
        for (position, token) in tokens.iter().enumerate() {
            let rest = tokens.get(position..).unwrap_or_default();
            if starts(rest, &["@", "id", "("])
                && let Some(Kind::Text(name)) = rest.get(3).map(|token| &token.kind)
            {
                open = Some(RuleSite {
                    name: name.clone(),
                    asks: Asks::Unknown,
                    place: at(token),
                    never: false,
                });
            }
            match (&token.kind, open.as_mut()) {
                (Kind::Word("permit"), Some(rule)) => rule.asks = Asks::Allow,
                (Kind::Word("forbid"), Some(rule)) if rule.asks == Asks::Unknown => rule.asks = Asks::Deny,
                (Kind::Mark('@'), Some(rule)) if starts(rest, &["@", "hold"]) => rule.asks = Asks::Hold,
                (Kind::Word("when"), Some(rule)) if starts(rest, &["when", "{", "false", "}"]) => {
                    rule.never = true;
                }
                (Kind::Mark(';'), Some(_)) => self.rules.extend(open.take()),
                _ => {}
            }
            if starts(rest, &["Tool", ":", ":", "Action", ":", ":"])
                && let Some(Kind::Text(tool)) = rest.get(6).map(|token| &token.kind)
            {
                self.tools.insert(tool.clone());
            }
            self.read_members(&at(token), "context", rest);
            if let ["context", ".", "data", "." | "has", name, ..] = first(rest)[..] {
                note(&mut self.data, name, at(token));
            }
            // Paths of shapes: context.count["facts.user.reservations"].
            if let Kind::Text(path) = &token.kind
                && let Some(name) = path.strip_prefix("facts.").and_then(|path| path.split(['.', '[']).next())
            {
                note(&mut self.facts, name, at(token));
            }
        }
    }

    /// Members of the policy input that both engines reach in the same way.
    fn read_members(&mut self, at: &Place, root: &str, rest: &[Token<'_>]) {
        match first(rest)[..] {
            [start, ".", "facts", "." | "has", name, ..] if start == root => {
                note(&mut self.facts, name, at.clone());
            }
            [start, ".", "call", ".", member @ ("model" | "provider"), ..] if start == root => {
                if starts(rest.get(5..).unwrap_or_default(), &["=", "="])
                    && let Some(Kind::Text(name)) = rest.get(7).map(|token| &token.kind)
                {
                    if member == "model" {
                        note(&mut self.models, name, at.clone());
                    } else {
                        self.providers.insert(name.clone());
                    }
                }
            }
            _ => {}
        }
    }
}

fn note(known: &mut BTreeMap<String, Place>, name: &str, at: Place) {
    known.entry(name.to_owned()).or_insert(at);
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind<'a> {
    /// A name or a number.
    Word(&'a str),
    /// A string, without its quotes and escapes.
    Text(String),
    Mark(char),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token<'a> {
    kind: Kind<'a>,
    line: u32,
    /// From 1, in bytes.
    column: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comments {
    Hash,
    Slashes,
}

/// The first five words and dots of a list of tokens; fewer where it ends, or something else comes in between.
fn first<'a>(tokens: &'a [Token<'_>]) -> Vec<&'a str> {
    let text = |token: &'a Token<'_>| match &token.kind {
        Kind::Word(word) => Some(*word),
        Kind::Mark('.') => Some("."),
        _ => None,
    };
    tokens.iter().take(5).map_while(text).collect()
}

/// Whether tokens start with these words and marks.
fn starts(tokens: &[Token<'_>], wanted: &[&str]) -> bool {
    tokens.len() >= wanted.len()
        && tokens.iter().zip(wanted).all(|(token, wanted)| match &token.kind {
            Kind::Word(word) => word == wanted,
            Kind::Mark(mark) => wanted.chars().eq([*mark]),
            Kind::Text(_) => false,
        })
}

/// The strings before the mark that ends a set.
fn strings(tokens: &[Token<'_>], end: &str) -> Vec<String> {
    let inside = tokens.iter().take_while(|token| !starts(std::slice::from_ref(token), &[end]));
    inside
        .filter_map(|token| match &token.kind {
            Kind::Text(text) => Some(text.clone()),
            _ => None,
        })
        .collect()
}

fn tokens(text: &str, comments: Comments) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let (mut line, mut line_start) = (1, 0);
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let (of_line, column) = (line, at - line_start + 1);
        let mut push = |kind| found.push(Token { kind, line: of_line, column });
        match c {
            '\n' => (line, line_start) = (line + 1, at + 1),
            _ if c.is_whitespace() => {}
            '#' if comments == Comments::Hash => while rest.next_if(|(_, c)| *c != '\n').is_some() {},
            '/' if comments == Comments::Slashes && rest.peek().is_some_and(|(_, next)| *next == '/') => {
                while rest.next_if(|(_, c)| *c != '\n').is_some() {}
            }
            '"' | '`' => {
                let mut string = String::new();
                while let Some((at, next)) = rest.next() {
                    match next {
                        '\n' => {
                            (line, line_start) = (line + 1, at + 1);
                            string.push(next);
                        }
                        _ if next == c => break,
                        '\\' if c == '"' => string.extend(rest.next().map(|(_, escaped)| escaped)),
                        _ => string.push(next),
                    }
                }
                push(Kind::Text(string));
            }
            _ if c.is_alphanumeric() || c == '_' => {
                let mut end = at + c.len_utf8();
                while let Some((at, next)) = rest.next_if(|(_, next)| next.is_alphanumeric() || *next == '_')
                {
                    end = at + next.len_utf8();
                }
                push(Kind::Word(text.get(at..end).unwrap_or_default()));
            }
            _ => push(Kind::Mark(c)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source::of(&Bundle::new([(path.to_owned(), text.as_bytes().to_vec())]).unwrap())
    }

    fn rules(source: &Source) -> Vec<(&str, &str, u32)> {
        source.rules.iter().map(|rule| (rule.name.as_str(), rule.asks.name(), rule.place.line)).collect()
    }

    #[test]
    fn rego_is_read_by_its_tokens() {
        let text = r#"package sift
import data.lib

# deny contains {"rule": "commented"}
tool := input.call.name if input.call.kind == "tool"
changes := {"cancel", "update"}
allow contains {"rule": "a", "reason": "\"rule\": \"quoted\""} if tool in {"read", "look"}
deny contains {
	"reason": `{"rule": "raw"}`,
	"rule": "b",
} if {
	tool in changes
	not input.facts.user
	data.limits.max < 5
	lib.bad
}
hold contains {"rule": "c", "reason": "x", "role": "y", "seconds": 1} if tool == "pay"
deny contains {"rule": "never", "reason": "x"} if false
deny contains {"rule": sprintf("%v", [tool]), "reason": "x"} if input.call.model == "m"
helper := {"rule": "d"}
"#;
        let source = source("p.rego", text);
        let found =
            [("a", "allow", 7), ("b", "deny", 10), ("c", "hold", 17), ("never", "deny", 18), ("d", "?", 20)];
        assert_eq!(rules(&source), found);
        assert!(source.rules.iter().all(|rule| rule.never == (rule.name == "never")));
        assert_eq!(source.computed, [Place { file: "p.rego".to_owned(), line: 19 }]);
        assert_eq!(
            source.tools.iter().map(String::as_str).collect::<Vec<_>>(),
            ["cancel", "look", "pay", "read", "update"]
        );
        assert_eq!(source.facts.keys().collect::<Vec<_>>(), ["user"]);
        assert_eq!(source.data.keys().collect::<Vec<_>>(), ["lib", "limits"]);
        assert_eq!(source.models.keys().collect::<Vec<_>>(), ["m"]);
    }

    #[test]
    fn cedar_is_read_by_its_tokens() {
        let text = r#"// @id("commented") forbid
@id("a")
permit (principal, action in [Tool::Action::"read", Tool::Action::"look"], resource);
@id("b") @reason("forbid; \"permit\"")
forbid (principal, action == Tool::Action::"pay", resource)
when { context.facts has user && context.count["facts.user.cards"] > context.data.cards };
@id("c") @hold("boss")
@seconds("5")
forbid (principal, action, resource) when { false };
"#;
        let source = source("p.cedar", text);
        assert_eq!(rules(&source), [("a", "allow", 2), ("b", "deny", 4), ("c", "hold", 7)]);
        assert_eq!(source.rules.iter().filter(|rule| rule.never).count(), 1);
        assert_eq!(source.tools.iter().map(String::as_str).collect::<Vec<_>>(), ["look", "pay", "read"]);
        assert_eq!(source.facts.keys().collect::<Vec<_>>(), ["user"]);
        assert_eq!(source.data.keys().collect::<Vec<_>>(), ["cards"]);
    }
}
