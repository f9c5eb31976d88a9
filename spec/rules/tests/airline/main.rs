//! The example bundles of the airline, in Rego and in Cedar, on 100 recorded conversations.
//!
//! Both must say the same about every call. The data is not part of the project: without it the test says so and
//! passes.
#![allow(clippy::unwrap_used)]

mod attempts;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sift_rules::input::INPUT_BYTES_MAX;
use sift_rules::{CallInput, Decider, PolicyBundle, RunState, Verdict};
use sift_spec::bundle::Bundle;
use sift_spec::record::{Effect, Status};
use sift_spec::types::{RunId, Seq, Text, UnixMillis};

/// How often each rule decided. Every denial was checked against the airline's text: see the bundles' README.
const EXPECTED: &[(&str, &str, usize)] = &[
    ("allow", "book", 15),
    ("allow", "change", 71),
    ("allow", "harmless", 89),
    ("allow", "lookup", 356),
    ("allow", "model", 1243),
    ("allow", "transfer", 22),
    ("deny", "bags-free-charged", 4),
    ("deny", "book-bag-allowance", 7),
    ("deny", "book-one-certificate", 4),
    ("deny", "book-payments-max", 3),
    ("deny", "cancel-flown", 7),
    ("deny", "cancel-not-covered", 10),
    ("deny", "change-payment-unread", 1),
    ("deny", "flights-basic-economy", 15),
    ("deny", "flights-payment-kind", 3),
    ("hold", "certificate-approval", 3),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn bundle(name: &str) -> PolicyBundle {
    let folder = root().join("client-sdk/examples/airline").join(name);
    let paths = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    // Its cases are for `sift-kernel policy test`, and decide nothing.
    let files = paths
        .filter(|path| path.is_file())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()));
    PolicyBundle::compile(&Bundle::new(files).unwrap()).unwrap()
}

/// One conversation under one engine.
struct Replay {
    decider: Decider,
    unsliced: Decider,
    state: RunState,
    seq: u64,
    time: u64,
}

impl Replay {
    fn new(bundle: &PolicyBundle, number: usize) -> Self {
        let time = 1_764_000_000_000 + number as u64 * 1_000_000;
        let started = UnixMillis::new(time).unwrap();
        let run = RunId::from_parts(started, &[7; 10]);
        let agent = "airline/gpt-4o".parse().unwrap();
        let state = RunState::new(agent, run, 0, started, BTreeMap::new(), bundle.facts());
        Self { decider: bundle.decider(), unsliced: bundle.decider_unsliced(), state, seq: 0, time }
    }

    fn propose(&mut self, call: &CallInput) -> (Vec<u8>, Verdict) {
        self.seq += 1;
        self.time += 1000;
        let (seq, time) = (Seq::new(self.seq).unwrap(), UnixMillis::new(self.time).unwrap());
        let input = self.state.input(call.clone(), seq, time).to_bytes();
        let verdict = self.decider.decide(&input);
        assert_eq!(self.decider.decide(&input), verdict, "a decision is a function of its input");
        assert_eq!(self.unsliced.decide(&input), verdict, "what is not run could not have said anything");
        self.state.on_intent(call, verdict.effect);
        (input, verdict)
    }
}

#[test]
fn rego_and_cedar_say_the_same_about_every_recorded_call() {
    let data = root().join("../shared/data/tau-airline-gpt-4o.json");
    if !data.exists() {
        println!("skipped: {} is not here", data.display());
        return;
    }
    let (table, inputs) = replay(&data);
    let table: Vec<_> =
        table.iter().map(|((effect, rule), n)| (effect.as_str(), rule.as_str(), *n)).collect();
    assert_eq!(table, EXPECTED);
    compare_with_the_interpreter(&bundle("rego"), &inputs);
}

#[test]
fn rego_and_cedar_say_the_same_about_the_conversations_of_the_example() {
    let (table, _) = replay(&root().join("client-sdk/examples/airline/conversations.json"));
    let denied = table.keys().filter(|(effect, _)| effect == "deny").map(|(_, rule)| rule.as_str());
    assert_eq!(
        denied.collect::<Vec<_>>(),
        ["cancel-not-covered", "change-flight-reported", "flights-basic-economy", "sift.default-deny"]
    );
}

/// How often each effect and rule came.
type Table = BTreeMap<(String, String), usize>;

/// Proposes every recorded call under both engines. The table, and the inputs of tool calls.
fn replay(data: &Path) -> (Table, Vec<Vec<u8>>) {
    let conversations: Vec<Value> = serde_json::from_slice(&std::fs::read(data).unwrap()).unwrap();
    let (rego, cedar) = (bundle("rego"), bundle("cedar"));
    let mut table = Table::new();
    let mut calls = 0;
    let mut inputs = Vec::new();
    let mut longest = 0;
    for (number, conversation) in conversations.iter().enumerate() {
        let mut by_rego = Replay::new(&rego, number);
        let mut by_cedar = Replay::new(&cedar, number);
        let mut prompt_bytes = 0;
        let mut pending: BTreeMap<String, CallInput> = BTreeMap::new();
        for message in conversation["traj"].as_array().unwrap() {
            let mut proposals = Vec::new();
            if message["role"] == "assistant" {
                proposals.push((
                    None,
                    CallInput::Model {
                        input_tokens: prompt_bytes,
                        max_output: 4096,
                        model: "gpt-4o".parse().unwrap(),
                        provider: "openai".parse().unwrap(),
                    },
                ));
            }
            prompt_bytes += message["content"].as_str().unwrap_or_default().len() as u64;
            for call in message["tool_calls"].as_array().into_iter().flatten() {
                let name: Text<128> = call["function"]["name"].as_str().unwrap().parse().unwrap();
                let args = call["function"]["arguments"].as_str().unwrap();
                proposals.push((call["id"].as_str(), CallInput::tool(name, args.as_bytes())));
            }
            for (id, call) in proposals {
                let (input, verdict) = by_rego.propose(&call);
                let (other_input, other) = by_cedar.propose(&call);
                let shown = String::from_utf8_lossy(&input);
                assert_eq!(input, other_input);
                longest = longest.max(input.len());
                assert_eq!(
                    (verdict.effect, &verdict.rules),
                    (other.effect, &other.rules),
                    "{other:?}\n{shown}"
                );
                assert_eq!(verdict.hold, other.hold);
                calls += 1;
                if call.as_tool().is_some() {
                    inputs.push(input.clone());
                }
                for rule in &verdict.rules {
                    *table.entry((verdict.effect.to_string(), rule.to_string())).or_default() += 1;
                }
                let is_denied = call.as_tool().is_some() && verdict.effect == Effect::Deny;
                if is_denied && std::env::var_os("SIFT_SHOW_DENIALS").is_some() {
                    println!("{number} {:?}\n  {shown}", verdict.rules);
                }
                if let (Some(id), true) = (id, verdict.effect != Effect::Deny) {
                    pending.insert(id.to_owned(), call);
                }
            }
            if message["role"] == "tool" {
                let result = message["content"].as_str().unwrap();
                let status = if result.starts_with("Error") { Status::Error } else { Status::Ok };
                if let Some(call) = pending.remove(message["tool_call_id"].as_str().unwrap()) {
                    by_rego.state.on_outcome(&call, status, result.as_bytes());
                    by_cedar.state.on_outcome(&call, status, result.as_bytes());
                }
            }
        }
        assert_eq!(by_rego.state, by_cedar.state);
    }
    println!("{calls} calls in {} conversations; the longest input has {longest} bytes", conversations.len());
    assert!(longest < INPUT_BYTES_MAX / 16);
    for ((effect, rule), count) in &table {
        println!("{effect:<6} {rule:<26} {count:>5}");
    }
    (table, inputs)
}

/// The hardened program against regorus's interpreter in its strict mode, on the recorded calls and on damaged ones:
/// an error there is an error here, and otherwise the verdict is the same, unless values of different types were
/// compared by order, which only the hardened program refuses. Running every rule gives the same verdict again.
fn compare_with_the_interpreter(bundle: &PolicyBundle, inputs: &[Vec<u8>]) {
    let files = Bundle::decode(bundle.encoding()).unwrap();
    let mut interpreter = regorus::Engine::new();
    interpreter.set_strict_builtin_errors(true);
    for (path, content) in files.files() {
        let text = String::from_utf8(content.clone()).unwrap();
        match path.as_str() {
            "data.json" => interpreter.add_data_json(&text).unwrap(),
            "airline.rego" => drop(interpreter.add_policy(path.clone(), text).unwrap()),
            _ => {}
        }
    }
    let mut rules_of = |set: &str, input: &str| {
        interpreter.set_input_json(input).unwrap();
        let fired = interpreter.eval_rule(format!("data.sift.{set}")).ok()?;
        let name = |element: &regorus::Value| element["rule"].as_string().unwrap().to_string();
        Some(fired.as_set().unwrap().iter().map(name).collect::<BTreeSet<_>>())
    };
    let (mut decider, mut unsliced) = (bundle.decider(), bundle.decider_unsliced());
    let (mut errors, mut stricter, mut same) = (0, 0, 0);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for input in inputs {
        for damage in 0..6 {
            let mut document: Value = serde_json::from_slice(input).unwrap();
            for part in ["call", "facts"].into_iter().cycle().take(damage) {
                damage_one(&mut document[part], &mut seed);
            }
            let text = sift_rules::json::print(&document);
            let verdict = decider.decide(text.as_bytes());
            assert_eq!(unsliced.decide(text.as_bytes()), verdict, "{text}");
            let is_error =
                verdict.rules.iter().any(|rule| rule.as_str() == sift_rules::verdict::EVALUATION_ERROR);
            let sets = ["deny", "hold", "allow"].map(|set| rules_of(set, &text));
            if sets.iter().any(Option::is_none) {
                assert!(is_error, "the interpreter fails, the program does not: {verdict:?}\n{text}");
                errors += 1;
                continue;
            }
            if is_error {
                assert!(
                    damage > 0 && verdict.reasons[0].as_str().starts_with(['<', '>']),
                    "{verdict:?}\n{text}"
                );
                stricter += 1;
                continue;
            }
            let expected = sets.into_iter().flatten().find(|set| !set.is_empty());
            let expected =
                expected.unwrap_or_else(|| BTreeSet::from([sift_rules::verdict::DEFAULT_DENY.to_owned()]));
            let found: BTreeSet<String> = verdict.rules.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{text}");
            same += 1;
        }
    }
    println!("against the interpreter: {same} alike, {errors} errors in both, {stricter} only here");
    assert!(same > 0 && errors > 0);
}

/// Replaces or removes one member or element at a random place.
fn damage_one(value: &mut Value, seed: &mut u64) {
    let mut next = |bound: usize| {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed % bound as u64) as usize
    };
    let mut place = value;
    loop {
        let stop = next(4) == 0;
        let children = match &*place {
            Value::Object(members) => members.len(),
            Value::Array(items) => items.len(),
            _ => 0,
        };
        if stop || children == 0 {
            break;
        }
        let child = next(children);
        place = match place {
            Value::Object(members) => members.values_mut().nth(child).unwrap(),
            Value::Array(items) => &mut items[child],
            _ => unreachable!("a scalar has no children"),
        };
    }
    let kinds = [r"null", "7", "-1.5", r#""text""#, "[]", "{}", "true", r#"["a",1]"#, r#"{"a":null}"#];
    *place = serde_json::from_str(kinds[next(kinds.len())]).unwrap();
}
