//! Each field of each record dropped, given twice, replaced by another record's or by a neighbour, by somebody who holds the
//! kernel's key and the log's: what follows is chained and signed anew, the close adds up, and the log signs the tree.
//!
//! Such a history is another one, and of what a kernel alone can know it may say what it likes: its clock, its program's
//! name, what a provider called its answer. Everything else stands on something the kernel does not sign alone.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sift_spec::evidence::Pack;
use sift_spec::hash::leaf_hash;
use sift_spec::types::Hash;

use crate::common::{Scenario, Sealed, kernel_key};
use crate::rich::rich;
use crate::table::{Table, all, judge};

/// Fields that may say something else, and why nobody can hold it against the kernel that they do.
const WORD: &[(&str, &str)] = &[
    ("open/build", "the kernel names its own program"),
    ("open/engine", "that another engine is named than the one which decides here is said: engine-differs"),
    (
        "intent/call/model/input/method",
        "that a bound was found by another method is said to be unchecked: bound-unchecked",
    ),
    ("intent/call/model/request/media", "what a payload is, in words; its bytes are committed to"),
    ("intent/call/model/request/name", "what a payload is, in words; its bytes are committed to"),
    ("intent/call/tool/args/media", "what a payload is, in words; its bytes are committed to"),
    ("intent/call/tool/args/name", "what a payload is, in words; its bytes are committed to"),
    ("intent/call/agent/task/media", "what a payload is, in words; its bytes are committed to"),
    ("intent/call/agent/task/name", "what a payload is, in words; its bytes are committed to"),
    (
        "intent/decision/input/media",
        "what a payload is, in words; its bytes are committed to and derived again",
    ),
    (
        "intent/decision/input/name",
        "what a payload is, in words; its bytes are committed to and derived again",
    ),
    ("outcome/result/media", "what a payload is, in words; its bytes are committed to"),
    ("outcome/result/name", "what a payload is, in words; its bytes are committed to"),
    (
        "intent/call/tool/id",
        "a call that no answer is said to have proposed has the id that the kernel gives it",
    ),
    ("intent/call/tool/proposed_by", "that nobody proposed a call is the kernel's word"),
    ("outcome/model/served", "which model answered is the provider's word, which the kernel passes on"),
    (
        "outcome/model/method",
        "who counted is told by nothing else; what the call settled follows from the usage",
    ),
    ("outcome/error", "what went wrong, in words"),
    (
        "outcome/time",
        "the kernel's clock: only its order is checked, where no decision or deadline rests on it",
    ),
    ("approval/time", "the kernel's clock, before the deadline"),
    ("beat/time", "the kernel's clock: only its order is checked"),
    ("close/time", "the kernel's clock: only its order is checked"),
];

/// A record's JSON, as the kernel meant it.
type Draft = Value;

struct History {
    scenario: Scenario,
    sealed: Sealed,
    /// Entries of the operator before the run, and after it.
    before: usize,
    drafts: Vec<Draft>,
}

impl History {
    fn new() -> Self {
        let scenario = rich();
        let sealed = scenario.seal();
        let before = scenario.operator_before.len();
        let drafts = (before..before + scenario.drafts.len()).map(|at| draft(&sealed.entries[at])).collect();
        Self { scenario, sealed, before, drafts }
    }

    /// The pack of a history with this record in the place of the one at `at`. `text` is what is signed there, whatever
    /// it is; later records follow it.
    fn pack(&self, at: usize, text: &dyn Fn(&Draft) -> String) -> Option<Vec<u8>> {
        let mut entries: Vec<Vec<u8>> = self.sealed.entries[..self.before].to_vec();
        let mut prev: Option<Hash> = None;
        let (mut census, mut settled) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
        for (place, draft) in self.drafts.iter().enumerate() {
            let mut draft = draft.clone();
            if let Some(prev) = prev {
                draft["prev"] = json!(prev);
            }
            if draft["kind"] == "close" {
                draft["close"]["census"] = json!(census);
                draft["close"]["settled"] = json!(settled);
            }
            let text = if place == at { text(&draft) } else { text_of(&draft) };
            let entry = kernel_key().sign_note(&text).into_bytes();
            let said: Value =
                text.lines().nth(1).and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
            *census.entry(said["kind"].as_str().unwrap_or("beat").to_owned()).or_default() += 1;
            for (meter, amount) in said["outcome"]["settled"].as_object().into_iter().flatten() {
                let sum = settled.entry(meter.clone()).or_default();
                *sum = sum.saturating_add(amount.as_u64().unwrap_or(0));
            }
            prev = Some(leaf_hash(&entry));
            entries.push(entry);
        }
        entries.extend_from_slice(&self.sealed.entries[self.before + self.drafts.len()..]);
        let sealed = Sealed { entries, in_pack: self.sealed.in_pack.clone() };
        let pack: Pack = sealed.pack(&self.scenario);
        pack.write().ok()
    }
}

fn draft(entry: &[u8]) -> Draft {
    let text = std::str::from_utf8(entry).unwrap();
    serde_json::from_str(text.lines().nth(1).unwrap()).unwrap()
}

fn text_of(draft: &Draft) -> String {
    format!("sift/record@v1\n{draft}\n")
}

/// Paths of all values within a value, as JSON pointers.
fn paths(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut below = |name: &str, value: &Value| {
        let path = format!("{at}/{name}");
        found.push(path.clone());
        paths(value, &path, found);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| below(name, value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, value)| below(&at.to_string(), value)),
        _ => {}
    }
}

/// What is above a path, and the path's last name.
fn parent<'a>(draft: &'a mut Draft, path: &str) -> Option<(&'a mut Value, String)> {
    let (above, name) = path.rsplit_once('/')?;
    Some((draft.pointer_mut(above)?, name.to_owned()))
}

fn drop_at(draft: &mut Draft, path: &str) -> Option<()> {
    match parent(draft, path)? {
        (Value::Object(members), name) => drop(members.remove(&name)),
        (Value::Array(items), name) => drop(items.remove(name.parse().ok()?)),
        _ => return None,
    }
    Some(())
}

/// The text with a member, or an item, given twice.
fn twice(draft: &Draft, path: &str) -> Option<String> {
    const MARK: &str = "\u{1}twice\u{1}";
    let value = draft.pointer(path)?.to_string();
    let mut marked = draft.clone();
    let name = match parent(&mut marked, path)? {
        (Value::Object(members), name) => {
            members.insert(name.clone(), json!(MARK));
            format!("{}:", json!(name))
        }
        (Value::Array(items), name) => {
            items[name.parse::<usize>().ok()?] = json!(MARK);
            String::new()
        }
        _ => return None,
    };
    let mark = json!(MARK).to_string();
    Some(text_of(&marked).replace(&format!("{name}{mark}"), &format!("{name}{value},{name}{value}")))
}

/// The values beside a value: one more and one less, another letter.
fn neighbours(value: &Value) -> Vec<Value> {
    match value {
        Value::Number(n) => {
            let n = n.as_u64().unwrap();
            [n.checked_add(1), n.checked_sub(1), Some(0)].into_iter().flatten().map(Value::from).collect()
        }
        Value::String(text) => {
            let mut other = text.clone();
            let last = other.pop();
            other.push(if last == Some('a') { 'b' } else { 'a' });
            vec![json!(other), json!(format!("{text}x")), json!("")]
        }
        Value::Object(_) => vec![Value::Object(Map::new())],
        Value::Array(_) => vec![Value::Array(Vec::new())],
        _ => Vec::new(),
    }
}

#[test]
fn the_records() {
    let history = History::new();
    let mut table = Table::new("fields, by who holds the kernel's key and the log's");
    assert_eq!(
        judge(&history.pack(usize::MAX, &text_of).unwrap()).verified(),
        table.honest,
        "the same history"
    );
    let mut tries: Vec<(&str, usize, String, String)> = Vec::new();
    for (at, draft) in history.drafts.iter().enumerate() {
        let mut found = Vec::new();
        paths(draft, "", &mut found);
        for path in found {
            let value = draft.pointer(&path).unwrap();
            let mut with = |kind: &'static str, other: Value| {
                let mut changed = draft.clone();
                *changed.pointer_mut(&path).unwrap() = other;
                tries.push((kind, at, path.clone(), text_of(&changed)));
            };
            for other in neighbours(value).into_iter().filter(|other| other != value) {
                with("a field is another value", other);
            }
            let others = history.drafts.iter().filter_map(|other| other.pointer(&path));
            let mut others: Vec<&Value> = others.filter(|other| *other != value).collect();
            others.dedup();
            for other in others.into_iter().take(if all() { 100 } else { 2 }) {
                with("a field is that of another record", other.clone());
            }
            let mut changed = draft.clone();
            drop_at(&mut changed, &path).unwrap();
            tries.push(("a field is dropped", at, path.clone(), text_of(&changed)));
            tries.push(("a field is given twice", at, path.clone(), twice(draft, &path).unwrap()));
        }
    }
    for kind in [
        "a field is another value",
        "a field is that of another record",
        "a field is dropped",
        "a field is given twice",
    ] {
        let of_kind = tries.iter().filter(|(of, ..)| *of == kind);
        let named = of_kind.map(|(_, at, path, text)| {
            let record = history.drafts[*at]["kind"].as_str().unwrap();
            Try { record, at: *at, path, text }
        });
        table.try_packs(kind, named, |Try { at, text, .. }| history.pack(at, &|_| text.to_owned()));
    }
    table.done(WORD);
}

/// A record with a change, named by its kind and the path of the change.
struct Try<'a> {
    record: &'a str,
    at: usize,
    path: &'a str,
    text: &'a str,
}

impl std::fmt::Debug for Try<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let own = format!("/{}/", self.record);
        write!(f, "{}/{}", self.record, self.path.strip_prefix(&own).unwrap_or(&self.path[1..]))
    }
}
