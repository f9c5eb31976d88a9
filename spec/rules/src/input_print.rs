//! The one encoding of a policy input, printed without a document in between.
//!
//! INVARIANT: what is printed here is what [`crate::json::print_bytes`] prints of the same input as a JSON value. Members
//! are named in byte order; values that others made are sorted by that printer.

use serde::Serialize;
use sift_spec::json::first_special;

use crate::input::{CallCounts, CallInput, PolicyInput, RunInput, SeenInput, ToolCounts};
use crate::json::{print_array, print_object, print_scalar, print_text, print_value};

/// Bytes that most inputs fit in.
const USUAL_BYTES: usize = 2048;

pub(crate) fn print(input: &PolicyInput) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    let PolicyInput { agent, call, facts, run, time } = input;
    let mut object = Object::open(&mut bytes);
    object.plain("agent", agent);
    print_call(call, object.member("call"));
    let mut remembered = Object::open(object.member("facts"));
    facts.iter().for_each(|(name, fact)| remembered.named(name).extend_from_slice(fact.as_json().as_bytes()));
    remembered.close();
    print_run(run, object.member("run"));
    object.plain("time", time);
    object.close();
    bytes
}

fn print_call(call: &CallInput, bytes: &mut Vec<u8>) {
    let mut object = Object::open(bytes);
    match call {
        CallInput::Agent { delegate, name } => {
            if let Some(delegate) = delegate {
                // Every key is a string and every number finite, so this cannot fail.
                let delegate = serde_json::to_value(delegate).unwrap_or_default();
                print_value(&delegate, object.member("delegate"));
            }
            object.plain("kind", "agent");
            object.plain("name", name);
        }
        CallInput::Model { input_tokens, max_output, model, provider } => {
            object.plain("input_tokens", input_tokens);
            object.plain("kind", "model");
            object.plain("max_output", max_output);
            object.plain("model", model);
            object.plain("provider", provider);
        }
        CallInput::Tool { args, args_error, name } => {
            if let Some(args) = args {
                print_object(args, object.member("args"));
            }
            if let Some(error) = args_error {
                object.plain("args_error", error);
            }
            object.plain("kind", "tool");
            object.plain("name", name);
        }
    }
    object.close();
}

fn print_run(run: &RunInput, bytes: &mut Vec<u8>) {
    let RunInput { calls, depth, id, labels, last_tool, marks, seen, seq, started, tools } = run;
    let mut object = Object::open(bytes);
    let CallCounts { agent, denied, held, model, tool } = calls;
    let mut counts = Object::open(object.member("calls"));
    for (kind, count) in
        [("agent", agent), ("denied", denied), ("held", held), ("model", model), ("tool", tool)]
    {
        counts.plain(kind, count);
    }
    counts.close();
    object.plain("depth", depth);
    object.plain("id", id);
    object.plain("labels", labels);
    if let Some(tool) = last_tool {
        object.plain("last_tool", tool);
    }
    if let Some(marks) = marks {
        object.plain("marks", marks);
    }
    if let Some(seen) = seen {
        let mut sets = Object::open(object.member("seen"));
        for (name, SeenInput { complete, known, new }) in seen {
            let mut set = Object::open(sets.named(name));
            set.plain("complete", complete);
            print_array(known, set.member("known"));
            print_array(new, set.member("new"));
            set.close();
        }
        sets.close();
    }
    object.plain("seq", seq);
    object.plain("started", started);
    let mut counts = Object::open(object.member("tools"));
    for (name, ToolCounts { allowed, denied, ok }) in &**tools {
        let mut count = Object::open(counts.named(name.as_str()));
        count.plain("allowed", allowed);
        count.plain("denied", denied);
        count.plain("ok", ok);
        count.close();
    }
    counts.close();
    object.close();
}

/// An object of which the members are printed one after the other.
struct Object<'a> {
    bytes: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    fn open(bytes: &'a mut Vec<u8>) -> Self {
        bytes.push(b'{');
        Self { bytes, is_empty: true }
    }

    /// Where the value of the next member is printed. Its name is one of ours: there is nothing to escape in it.
    fn member(&mut self, name: &'static str) -> &mut Vec<u8> {
        debug_assert_eq!(first_special(name.as_bytes()), None);
        self.bytes.extend_from_slice(if std::mem::take(&mut self.is_empty) { b"\"" } else { b",\"" });
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\":");
        self.bytes
    }

    /// The same where the name is any text.
    fn named(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.is_empty) {
            self.bytes.push(b',');
        }
        print_text(name, self.bytes);
        self.bytes.push(b':');
        self.bytes
    }

    /// A member whose value has its members in byte order already.
    fn plain(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) {
        print_scalar(value, self.member(name));
    }

    fn close(self) {
        self.bytes.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Map, Value, json};
    use sift_spec::types::{RunId, Seq, Text, UnixMillis};

    use super::*;
    fn any_text() -> impl Strategy<Value = String> {
        "[a-zA-Z_.0é\"\\\\\n\u{1}\u{7f}]{1,6}"
    }

    fn any_object() -> impl Strategy<Value = Map<String, Value>> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            (-100_000..100_000_i32).prop_map(|n| Value::from(f64::from(n) / 1000.0)),
            any_text().prop_map(Value::String),
        ];
        let object = |inner| {
            // In any order, as tools send them.
            let members = proptest::collection::vec((any_text(), inner), 0..5);
            members.prop_map(|members| members.into_iter().collect::<Map<_, _>>())
        };
        let value = leaf.prop_recursive(3, 24, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                object(inner).prop_map(Value::Object),
            ]
        });
        let members = proptest::collection::vec((any_text(), value), 0..5);
        members.prop_map(|members| members.into_iter().collect())
    }

    fn any_call() -> impl Strategy<Value = CallInput> {
        let agent = |with: bool| {
            let delegate =
                json!({ "kernel": "a.example/k", "budget": { "tool_calls": 3 }, "deadline": 1_764_000 });
            let delegate = with.then(|| serde_json::from_value(delegate).unwrap());
            CallInput::Agent { delegate, name: "airline/bot".parse().unwrap() }
        };
        prop_oneof![
            any::<bool>().prop_map(agent),
            (any::<u32>(), any::<u32>(), any_text()).prop_map(|(tokens, max, name)| CallInput::Model {
                input_tokens: tokens.into(),
                max_output: max.into(),
                model: Text::cut(&name),
                provider: Text::cut(&name),
            }),
            (any_object(), any_text()).prop_map(|(args, name)| CallInput::Tool {
                args: Some(args),
                args_error: None,
                name: Text::cut(&name),
            }),
            any_text().prop_map(|why| CallInput::Tool {
                args: None,
                args_error: Some(Text::cut(&why)),
                name: Text::cut("pay"),
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn it_is_what_the_document_prints(
            call in any_call(),
            facts in any_object(),
            names in proptest::collection::btree_set(any_text(), 0..4),
            values in proptest::collection::vec(any_object().prop_map(Value::Object), 0..3),
            parts in any::<[bool; 3]>(),
            numbers in any::<[u32; 4]>(),
        ) {
            let counts = |n: u32| ToolCounts { allowed: n.into(), denied: 0, ok: 7 };
            let [calls, depth, seq, time] = numbers;
            let [last_tool, marks, seen] = parts;
            let run = RunInput {
                calls: CallCounts { held: calls.into(), ..CallCounts::default() },
                depth,
                id: RunId::from_parts(UnixMillis::new(time.into()).unwrap(), &[3; 10]),
                labels: Arc::new(BTreeMap::from([("env".parse().unwrap(), Text::cut("a\"b"))])),
                last_tool: last_tool.then(|| Text::cut("pay")),
                marks: marks.then(|| Arc::new(names.iter().cloned().collect::<BTreeSet<_>>())),
                seen: seen.then(|| {
                    let set = SeenInput { complete: last_tool, known: values.clone(), new: values.clone() };
                    names.iter().map(|name| (name.clone(), set.clone())).collect()
                }),
                seq: Seq::new(seq.into()).unwrap(),
                started: UnixMillis::new(time.into()).unwrap(),
                tools: Arc::new(names.iter().map(|name| (Text::cut(name), counts(seq))).collect()),
            };
            let facts = facts.into_iter().map(|(name, fact)| (name, Arc::new(fact.into()))).collect();
            let time = UnixMillis::new(time.into()).unwrap();
            let input = PolicyInput { agent: "airline/bot".parse().unwrap(), call, facts, run, time };
            let expected = crate::json::print_bytes(&serde_json::to_value(&input).unwrap());
            prop_assert_eq!(String::from_utf8(print(&input)), String::from_utf8(expected));
        }
    }
}
