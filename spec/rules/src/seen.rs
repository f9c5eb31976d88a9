//! What a run has seen: sets of values that tools reported or were given, and marks that tools leave on the run.
//!
//! A policy so tells a recipient that the user named from one that a web page named, and a run that has read untrusted
//! content from one that has not. Both are listed in `facts.toml`:
//!
//! ```toml
//! [[seen]]
//! name = "accounts"                   # input.run.seen.accounts in the policy
//! tools = ["get_transactions"]        # when a call of one of these tools ends `ok`,
//! from = "result"                     # of its result, or of its "args",
//! path = "recipient"                  # the values there; without a path everything in it
//! kind = "value"                      # as they are, or the tokens in them: see below
//!
//! [[seen]]
//! name = "told"
//! tools = ["user_message"]
//! from = "args"
//! kind = "text"
//!
//! [[mark]]
//! name = "untrusted"                  # "untrusted" in input.run.marks
//! tools = ["read_file", "get_webpage"]
//! on = "started"                      # as soon as a call is let through; or "ok": when one has ended well
//! ```
//!
//! # Sets
//!
//! A policy does not see a set, which may be long, but how the proposed call relates to it. `input.run.seen.<name>` is an
//! object:
//!
//! | member | content |
//! | --- | --- |
//! | `known` | what the call's arguments hold that is in the set |
//! | `new` | what they hold that is not |
//! | `complete` | false when something is in neither list or in the wrong one: see Bounds |
//!
//! | `kind` | what is collected, and looked for in the call's arguments |
//! | --- | --- |
//! | `value` | strings and numbers as they are; the default |
//! | `text` | strings and numbers of the arguments that occur anywhere in the collected strings, as whole words, ASCII letters of either case |
//! | `email`, `domain`, `url`, `iban` | the tokens of that form in every string, also in names of members: e-mail addresses and domains in lower case, account numbers in upper case without spaces |
//!
//! A path is names of members joined by dots. Arrays are passed through; `*` is every member; `@names` at the end is the
//! names of an object's members. What it leads to is taken with everything below it. A result that is not JSON is one
//! string, which only a rule without a path reads. Several entries may share a name, and then share `kind`.
//!
//! ```rego
//! # A payment goes to an account that the user named, or that was paid before.
//! deny contains {"rule": "payee", "reason": "nobody has named this account"} if {
//!     input.call.name == "send_money"
//!     not input.call.args.recipient in input.run.seen.accounts.known
//!     not input.call.args.recipient in input.run.seen.told.known
//! }
//!
//! # No address that the run has not seen, in whatever argument.
//! deny contains {"rule": "address", "reason": "an address that is not in the address book"} if {
//!     input.run.seen.addresses.new != []
//! }
//!
//! # After something untrusted was read, nothing leaves without a person.
//! hold contains {"rule": "tainted", "reason": "untrusted content was read", "role": "user", "seconds": 600} if {
//!     input.call.name in {"send_money", "send_email"}
//!     "untrusted" in input.run.marks
//! }
//!
//! # One tool after another: counts of the run tell.
//! deny contains {"rule": "export-after-secrets", "reason": "secrets were read"} if {
//!     input.call.name == "post_webpage"
//!     input.run.tools.read_secrets.allowed > 0
//! }
//! ```
//!
//! In Cedar: `context.run.seen.accounts.known.contains(context.args.recipient)`, `context.run.seen.addresses.new.isEmpty()`,
//! `context.run.marks.contains("untrusted")`, `context.run.tools has "read_secrets"`.
//!
//! What the user asked for is put on record as a call of a tool of its own, here `user_message`, that the application
//! makes before the agent may propose anything; the rule that allows it demands `input.run.seq == 1`, so that the agent
//! cannot speak for the user.
//!
//! # Marks
//!
//! `input.run.marks` lists the marks of the run in order of their names. A mark stays until the run ends. One that forbids
//! something is set `on = "started"`, which is the default, because a call that failed may have told the agent something
//! too; one that permits something is set `on = "ok"`. A sub-agent's run starts without the marks of the run above it: a
//! policy that relies on a mark also decides about `input.call.kind == "agent"`.
//!
//! # Bounds
//!
//! A set takes [`VALUES_MAX`] values of [`VALUE_BYTES_MAX`], or [`TEXT_BYTES_MAX`] of text. A call lists [`LISTED_MAX`]
//! values of a set; a longer value is never known, and is listed in `new`, cut. `complete` is false from then on when a
//! value had no room, a result was longer than [`RESULT_BYTES_MAX`], no UTF-8, no JSON where there is a path, or looked
//! like JSON and has no one reading; and for this call when its arguments cannot be read or hold more than is listed. What
//! is missing from a set is `new`, so rules that demand what is known need not look at `complete`; rules that refuse what
//! is known, or that rest on `new` being empty, also refuse where it is false.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::input::SeenInput;
use crate::json;
use crate::token;

/// Most values in a set of one run.
pub const VALUES_MAX: usize = 4096;

/// Longest value in a set, in bytes.
pub const VALUE_BYTES_MAX: usize = 256;

/// Most bytes of text collected under one name of kind `text`: 64 KiB.
pub const TEXT_BYTES_MAX: usize = 64 << 10;

/// Most values of one call that are listed under one name, in both lists together.
pub const LISTED_MAX: usize = 256;

/// Longest result in bytes that is looked at: 256 KiB.
pub const RESULT_BYTES_MAX: usize = 256 << 10;

/// Most entries `[[seen]]`, and most entries `[[mark]]`, of a bundle.
pub const ENTRIES_MAX: usize = 64;

/// An entry `[[seen]]` of `facts.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenRule {
    /// Name of the set in policies.
    pub name: String,
    /// The tools whose calls add to it.
    pub tools: Vec<String>,
    /// What of a call adds to it.
    #[serde(default)]
    pub from: SeenFrom,
    /// Names of members, joined by dots, to what is collected.
    #[serde(default)]
    pub path: Option<String>,
    /// What is collected there.
    #[serde(default)]
    pub kind: SeenKind,
}

/// What of a call adds to a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeenFrom {
    /// Its arguments.
    Args,
    /// Its result.
    #[default]
    Result,
}

/// What is collected, and looked for in the arguments of later calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeenKind {
    /// Domains, as hosts of URLs, of e-mail addresses or by themselves.
    Domain,
    /// E-mail addresses.
    Email,
    /// Account numbers.
    Iban,
    /// Texts, in which values of arguments are looked for.
    Text,
    /// URLs.
    Url,
    /// Strings and numbers as they are.
    #[default]
    Value,
}

/// An entry `[[mark]]` of `facts.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkRule {
    /// The mark.
    pub name: String,
    /// The tools whose calls leave it.
    pub tools: Vec<String>,
    /// When.
    #[serde(default)]
    pub on: MarkOn,
}

/// When a call leaves its mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkOn {
    /// When it ends with the status `ok`.
    Ok,
    /// When it is let through: allowed, or held for approval.
    #[default]
    Started,
}

/// Whether the entries can be followed.
pub(crate) fn check(seen: &[SeenRule], marks: &[MarkRule]) -> Result<(), String> {
    if seen.len() > ENTRIES_MAX || marks.len() > ENTRIES_MAX {
        return Err(format!("more than {ENTRIES_MAX} entries [[seen]] or [[mark]]"));
    }
    let named = seen.iter().map(|rule| ("seen", &rule.name, &rule.tools));
    for (what, name, tools) in named.chain(marks.iter().map(|rule| ("mark", &rule.name, &rule.tools))) {
        if name.is_empty() || tools.is_empty() || tools.iter().any(String::is_empty) {
            return Err(format!("{what} {name:?}: name and tools must not be empty"));
        }
    }
    for rule in seen {
        if seen.iter().any(|other| other.name == rule.name && other.kind != rule.kind) {
            return Err(format!("seen {:?}: kind differs between entries", rule.name));
        }
        let mut names = rule.path.iter().flat_map(|path| path.split('.')).rev();
        let last = names.next();
        if last == Some("") || names.any(|name| name.is_empty() || name == NAMES) {
            return Err(format!("seen {:?}: a path is names joined by dots; {NAMES} is the last", rule.name));
        }
    }
    Ok(())
}

/// In a path, the names of an object's members.
const NAMES: &str = "@names";

/// What one run has seen.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Seen {
    sets: BTreeMap<String, Set>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Set {
    incomplete: bool,
    /// As JSON prints them.
    values: BTreeSet<String>,
    /// In lower case.
    texts: Vec<String>,
    text_bytes: usize,
}

/// Something that a document holds.
#[derive(Clone, Copy)]
enum Leaf<'a> {
    /// A member's name on the way to values, which may hold tokens.
    Name(&'a str),
    /// A member's name that a path asks for.
    Text(&'a str),
    Value(&'a Value),
}

impl Seen {
    /// Takes in a tool call that ended well.
    pub(crate) fn learn(
        &mut self,
        rules: &[SeenRule],
        tool: &str,
        args: Option<&Map<String, Value>>,
        report: Option<&Report>,
    ) {
        for rule in rules.iter().filter(|rule| rule.tools.iter().any(|name| name == tool)) {
            let set = self.sets.entry(rule.name.clone()).or_default();
            let path: Vec<&str> = rule.path.iter().flat_map(|path| path.split('.')).collect();
            match rule.from {
                SeenFrom::Args => match args {
                    Some(args) => object_leaves(args, &path, &mut |leaf| set.add(rule.kind, leaf)),
                    None => set.incomplete = true,
                },
                SeenFrom::Result => {
                    // It was read because of this rule.
                    let Some(report) = report else { continue };
                    set.incomplete |= !report.complete || (!report.is_json && !path.is_empty());
                    leaves(&report.document, &path, &mut |leaf| set.add(rule.kind, leaf));
                }
            }
        }
    }

    /// What a call with these arguments sees: `None` where no rule collects anything.
    pub(crate) fn seen_by(
        &self,
        rules: &[SeenRule],
        args: Option<&Map<String, Value>>,
        is_tool: bool,
    ) -> Option<BTreeMap<String, SeenInput>> {
        if rules.is_empty() {
            return None;
        }
        let kinds: BTreeMap<&String, SeenKind> = rules.iter().map(|rule| (&rule.name, rule.kind)).collect();
        let none = Set::default();
        // By kind, because the arguments hold the same for every set of a kind.
        let mut held: Vec<(SeenKind, Option<Vec<Held>>)> = Vec::new();
        let mut seen = BTreeMap::new();
        for (name, kind) in kinds {
            let set = self.sets.get(name).unwrap_or(&none);
            let mut listed =
                Listed { complete: !set.incomplete && (args.is_some() || !is_tool), ..Listed::default() };
            if !held.iter().any(|(known, _)| *known == kind) {
                held.push((kind, Held::few(kind, args)));
            }
            match held.iter().find_map(|(known, held)| held.as_ref().filter(|_| *known == kind)) {
                Some(few) => few.iter().for_each(|held| listed.add(kind, held, set)),
                None => Held::each(kind, args, |held| listed.add(kind, &held, set)),
            }
            seen.insert(name.clone(), listed.into_input());
        }
        Some(seen)
    }
}

impl Set {
    fn add(&mut self, kind: SeenKind, leaf: Leaf<'_>) {
        each(kind, leaf, |value| {
            if kind == SeenKind::Text {
                let text = plain(&value).to_ascii_lowercase();
                if self.text_bytes + text.len() > TEXT_BYTES_MAX {
                    self.incomplete = true;
                } else if !self.texts.contains(&text) {
                    self.text_bytes += text.len();
                    self.texts.push(text);
                }
                return;
            }
            let fits = plain(&value).len() <= VALUE_BYTES_MAX;
            let value = json::print(&value);
            if fits && (self.values.len() < VALUES_MAX || self.values.contains(&value)) {
                self.values.insert(value);
            } else {
                self.incomplete = true;
            }
        });
    }

    fn has(&self, kind: SeenKind, held: &Held) -> bool {
        match kind {
            SeenKind::Text => {
                let part = plain(&held.value).to_ascii_lowercase();
                self.texts.iter().any(|text| token::holds_words(text, &part))
            }
            _ => self.values.contains(&held.json),
        }
    }
}

/// Something of one kind that a call's arguments hold.
struct Held {
    value: Value,
    /// As JSON prints it.
    json: String,
}

/// Most values that are held at a time to be looked up in several sets, and most bytes of them: what arguments hold may be
/// much longer than they are, since tokens overlap.
const HELD_MAX: usize = LISTED_MAX;
const HELD_BYTES_MAX: usize = 64 << 10;

impl Held {
    /// What of a kind these arguments hold, in their order; `None` if that is not little.
    fn few(kind: SeenKind, args: Option<&Map<String, Value>>) -> Option<Vec<Self>> {
        let (mut few, mut count, mut bytes) = (Vec::new(), 0_usize, 0_usize);
        Self::each(kind, args, |mut held| {
            count += 1;
            bytes = bytes.saturating_add(held.json.len());
            if count > HELD_MAX || bytes > HELD_BYTES_MAX {
                few.clear();
            } else {
                held.json.shrink_to_fit();
                few.push(held);
            }
        });
        (count <= HELD_MAX && bytes <= HELD_BYTES_MAX).then_some(few)
    }

    /// Calls `found` with what of a kind these arguments hold, in their order.
    fn each(kind: SeenKind, args: Option<&Map<String, Value>>, mut found: impl FnMut(Self)) {
        let mut found = |value| found(Self { json: json::print(&value), value });
        if let Some(args) = args {
            object_leaves(args, &[], &mut |leaf| each(kind, leaf, &mut found));
        }
    }
}

/// What a call's arguments hold, by its JSON text.
#[derive(Default)]
struct Listed {
    complete: bool,
    known: BTreeMap<String, Value>,
    new: BTreeMap<String, Value>,
}

impl Listed {
    fn add(&mut self, kind: SeenKind, held: &Held, set: &Set) {
        let Held { value, json } = held;
        if self.known.contains_key(json) || self.new.contains_key(json) {
            return;
        }
        if self.known.len() + self.new.len() >= LISTED_MAX {
            self.complete = false;
            return;
        }
        let text = plain(value);
        if text.len() > VALUE_BYTES_MAX {
            let end = (0..=VALUE_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            let cut = Value::String(text.get(..end).unwrap_or_default().to_owned());
            self.new.insert(json::print(&cut), cut);
            return;
        }
        let list = if set.has(kind, held) { &mut self.known } else { &mut self.new };
        list.insert(json.clone(), value.clone());
    }

    fn into_input(self) -> SeenInput {
        let Self { complete, known, new } = self;
        SeenInput { complete, known: known.into_values().collect(), new: new.into_values().collect() }
    }
}

/// Calls `found` with whatever of `kind` a leaf holds.
fn each(kind: SeenKind, leaf: Leaf<'_>, mut found: impl FnMut(Value)) {
    let has_tokens = !matches!(kind, SeenKind::Text | SeenKind::Value);
    let text = match leaf {
        Leaf::Name(name) if has_tokens => name,
        Leaf::Text(name) => name,
        Leaf::Value(Value::String(text)) => text,
        Leaf::Value(value @ Value::Number(_)) if !has_tokens => return found(value.clone()),
        Leaf::Name(_) | Leaf::Value(_) => return,
    };
    let mut found = |token: String| found(Value::String(token));
    match kind {
        SeenKind::Domain => token::domains(text, found),
        SeenKind::Email => token::emails(text, found),
        SeenKind::Iban => token::ibans(text, found),
        SeenKind::Url => token::urls(text, found),
        SeenKind::Text | SeenKind::Value => found(text.to_owned()),
    }
}

fn plain(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => text.into(),
        other => json::print(other).into(),
    }
}

/// Whether a rule collects values of this tool's results.
pub(crate) fn reads_results_of(rules: &[SeenRule], tool: &str) -> bool {
    let concerns =
        |rule: &SeenRule| rule.from == SeenFrom::Result && rule.tools.iter().any(|name| name == tool);
    rules.iter().any(concerns)
}

/// A result as a document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    complete: bool,
    document: Value,
    is_json: bool,
}

impl Report {
    /// The JSON object that the result is.
    pub(crate) fn object(&self) -> Option<&Map<String, Value>> {
        self.document.as_object()
    }

    pub(crate) fn read(result: &[u8]) -> Self {
        let nothing = Self { complete: false, document: Value::Null, is_json: false };
        if result.len() > RESULT_BYTES_MAX {
            return nothing;
        }
        if let Ok(document) = json::read(result) {
            return Self { complete: true, document, is_json: true };
        }
        let Ok(text) = std::str::from_utf8(result) else { return nothing };
        // What was to be JSON may hide tokens behind escapes.
        let complete = !text.trim_ascii_start().starts_with(['{', '[', '"']);
        Self { complete, document: Value::String(text.to_owned()), is_json: false }
    }
}

fn leaves<'a>(value: &'a Value, path: &[&str], found: &mut dyn FnMut(Leaf<'a>)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| leaves(item, path, found)),
        Value::Object(members) => object_leaves(members, path, found),
        scalar if path.is_empty() => found(Leaf::Value(scalar)),
        _ => {}
    }
}

fn object_leaves<'a>(members: &'a Map<String, Value>, path: &[&str], found: &mut dyn FnMut(Leaf<'a>)) {
    match path.split_first() {
        None => {
            for (name, member) in members {
                found(Leaf::Name(name));
                leaves(member, path, found);
            }
        }
        Some((&NAMES, _)) => members.keys().for_each(|name| found(Leaf::Text(name))),
        Some((&"*", rest)) => members.values().for_each(|member| leaves(member, rest, found)),
        Some((name, rest)) => members.get(*name).into_iter().for_each(|member| leaves(member, rest, found)),
    }
}
