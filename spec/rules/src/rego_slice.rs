//! Slices of a compiled Rego program: for each tool, only the rules that can fire.
//!
//! A rule of `allow`, `deny` or `hold` is left out of a slice only where its body is **shown to fail, and to raise no
//! error before it fails**, for every input that the slice serves. This is shown on the compiled program, in the order in
//! which the machine runs it, and not on the source: [`harden`](crate::rego_strict) has turned whatever can err into calls
//! of builtins, and everything else that passed its check has no error of its own. So a body is followed, instruction by
//! instruction, with what is the same for all these inputs ([`crate::rego_follow`]).
//!
//! A name that occurs nowhere in the program's constants and in `data` differs from each of them, and the instructions
//! that are followed tell names apart by equality alone; so all such names have the same slice.
//!
//! What a rule leaves behind when it fails is nothing: conditions outside of loops end a body at once, registers are new
//! for each body, and the results of called rules depend on input and data alone. So the other rules run as they would
//! have, in their order, and give the same values and the same first error. **The number of instructions is smaller**, and
//! it is limited; [`Entry::spared`] is at least the difference. A slice runs with a limit lower by that, and whoever
//! reaches this limit decides again with all rules: so the limit, too, is reached by the same inputs as without slices.
//!
//! Where all that a slice runs was followed to its end and looked at no member of the input but `call`, the slice is of the
//! **call only**: facts and counters are not even read for it, which is most of the work for the calls of models.
//!
//! Slices are entry points of one program, which calls sets with fewer definitions; equal sets and equal slices are
//! shared. Their number and the time to find them are bounded: names beyond that are decided with all rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use regorus::Value;
use regorus::rvm::Instruction;
use regorus::rvm::program::{Program, RuleInfo};

use crate::rego_follow::{Follower, Known, STEPS_MAX, Subject};

/// Most slices of a program, beside the one with all rules.
const SLICES_MAX: usize = 200;

/// Most names of tools that are tried.
const NAMES_MAX: usize = 4096;

/// Names that stand for themselves alone are shorter: the bound of a tool's name.
const NAME_BYTES_MAX: usize = 128;

/// Which rules a call runs.
#[derive(Debug, Clone)]
pub(crate) struct Slices {
    /// The one with all rules is the first.
    entries: Vec<Entry>,
    agent: usize,
    model: usize,
    /// Slices of tools by name.
    tools: HashMap<Box<str>, usize>,
    /// That of every other tool.
    rest: usize,
}

/// A way into the program.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Index of the entry point.
    pub(crate) index: usize,
    /// At most so many instructions are spared by it.
    pub(crate) spared: usize,
    /// Whether nothing that it runs looks at the input beside its `call`.
    pub(crate) call_only: bool,
    /// Numbers of the definitions that it leaves out, in the order of the sets.
    pub(crate) left_out: Vec<BTreeSet<usize>>,
}

impl Slices {
    /// Adds the entry points of all slices to a hardened program. `sets` are the rules that are cut, in the order in
    /// which `entry` asks for them; it is a rule that asks for nothing else.
    pub(crate) fn add(program: &mut Program, data: &Value, entry: &str, sets: &[String]) -> Self {
        let mut slices = Self::none();
        let position = |name: &String| program.rule_infos.iter().position(|rule| rule.name == *name);
        let rules: Option<Vec<usize>> = sets.iter().map(position).collect();
        let (Some(rules), Some(asking)) = (rules, position(&entry.to_owned())) else { return slices };

        let mut names = BTreeSet::new();
        program.literals.iter().for_each(|value| strings(value, &mut names));
        let of_program = names.clone();
        strings(data, &mut names);
        // Where data has too many, it counts as unknown.
        let data = if names.len() <= NAMES_MAX { Known::Value(data.clone()) } else { Known::Unknown };
        if data == Known::Unknown {
            names = of_program;
        }
        if names.len() > NAMES_MAX {
            return slices;
        }
        // A name that is none of the others.
        let mut other = String::from("\u{0}");
        while names.contains(other.as_str()) {
            other.push('\u{0}');
        }
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut maker = Maker { data: &data, asking, rules, left: STEPS_MAX, known: BTreeMap::new() };
        let tool = |name: &str| Subject { kind: "tool", name: Some(name.into()) };
        let agent = Subject { kind: "agent", name: None };
        let model = Subject { kind: "model", name: Some(Value::Undefined) };
        slices.agent = maker.entry(program, &mut slices.entries, &agent).unwrap_or(0);
        slices.model = maker.entry(program, &mut slices.entries, &model).unwrap_or(0);
        slices.rest = maker.entry(program, &mut slices.entries, &tool(&other)).unwrap_or(0);
        for name in names {
            let slice = maker.entry(program, &mut slices.entries, &tool(&name)).unwrap_or(0);
            if slice != slices.rest {
                slices.tools.insert(name.into(), slice);
            }
        }
        slices
    }

    /// All rules for every call.
    pub(crate) fn none() -> Self {
        let whole = Entry { index: 0, spared: 0, call_only: false, left_out: Vec::new() };
        Self { entries: vec![whole], agent: 0, model: 0, tools: HashMap::new(), rest: 0 }
    }

    /// The entry point for an input.
    pub(crate) fn find(&self, input: &Value) -> &Entry {
        self.find_call(&input[&*CALL])
    }

    /// The same, for the call of an input.
    pub(crate) fn find_call(&self, call: &Value) -> &Entry {
        let slice = match (&call[&*KIND], &call[&*NAME]) {
            (Value::String(kind), Value::String(name))
                if **kind == *"tool" && name.len() <= NAME_BYTES_MAX =>
            {
                self.tools.get(name.as_ref()).copied().unwrap_or(self.rest)
            }
            (Value::String(kind), Value::Undefined) if **kind == *"model" => self.model,
            (Value::String(kind), _) if **kind == *"agent" => self.agent,
            _ => 0,
        };
        self.entries.get(slice).unwrap_or_else(|| self.whole())
    }

    /// The entry point with all rules.
    pub(crate) fn whole(&self) -> &Entry {
        // INVARIANT: `entries` has a first element from the start.
        &self.entries[0]
    }
}

static CALL: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| "call".into());
static KIND: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| "kind".into());
static NAME: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| "name".into());

/// All strings in a value that can be a tool's name.
fn strings<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::String(text) if text.len() <= NAME_BYTES_MAX => {
            found.insert(text);
        }
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Set(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            strings(name, found);
            strings(member, found);
        }),
        _ => {}
    }
}

struct Maker<'a> {
    data: &'a Known,
    /// The rule that asks for the sets.
    asking: usize,
    rules: Vec<usize>,
    /// Instructions that may still be followed.
    left: usize,
    /// Slices by what they leave out.
    known: BTreeMap<Vec<BTreeSet<usize>>, usize>,
}

impl Maker<'_> {
    /// The position of the slice for a subject; made where it is new. `None` where the bounds allow no more.
    fn entry(&mut self, program: &mut Program, entries: &mut Vec<Entry>, subject: &Subject) -> Option<usize> {
        let mut follower = Follower::new(program, self.data, subject, &mut self.left);
        let mut left_out = Vec::new();
        let (mut spared, mut call_only) = (0, true);
        for rule in &self.rules {
            let mut out = BTreeSet::new();
            for number in 0..program.rule_infos.get(*rule)?.definitions.len() {
                let shown = follower.definition(*rule, number)?;
                if shown.fails {
                    out.insert(number);
                    spared += shown.steps;
                } else {
                    call_only &= shown.call_only;
                }
            }
            left_out.push(out);
        }
        if follower.is_exhausted() {
            return None;
        }
        // Followed once, run perhaps never: the rules that are called; and the rule that asks.
        spared += follower.steps_of_called() + SPARED_BY_ENTRY;
        if left_out.iter().all(BTreeSet::is_empty) {
            return Some(0);
        }
        if let Some(slice) = self.known.get(&left_out) {
            // The same rules, perhaps for another reason.
            let entry = entries.get_mut(*slice)?;
            entry.spared = entry.spared.max(spared);
            entry.call_only &= call_only;
            return Some(*slice);
        }
        if entries.len() > SLICES_MAX {
            return None;
        }
        let index = self.add(program, &left_out)?;
        entries.push(Entry { index, spared, call_only, left_out: left_out.clone() });
        self.known.insert(left_out, entries.len() - 1);
        Some(entries.len() - 1)
    }

    /// Adds an entry point that asks for the sets without these definitions.
    fn add(&self, program: &mut Program, left_out: &[BTreeSet<usize>]) -> Option<usize> {
        let asking = program.rule_infos.get(self.asking)?;
        let start = *asking.definitions.first()?.first()? as usize;
        let body: Vec<Instruction> = program
            .instructions
            .iter()
            .skip(start + 1)
            .take_while(|instruction| !matches!(instruction, Instruction::RuleReturn {}))
            .copied()
            .collect();
        let registers = asking.num_registers;
        let entry = program.instructions.len();
        let mut added = Vec::with_capacity(body.len() + 1);
        for instruction in body {
            added.push(match instruction {
                Instruction::CallRule { dest, rule_index } => {
                    let set = self.rules.iter().position(|rule| *rule == usize::from(rule_index))?;
                    self.set(program, usize::from(rule_index), left_out.get(set)?, dest)?
                }
                Instruction::ObjectCreate { .. } | Instruction::Move { .. } => instruction,
                _ => return None,
            });
        }
        // The asking rule leaves its answer in the register of its result.
        added.push(Instruction::Return { value: program.rule_infos.get(self.asking)?.result_reg });
        program.instruction_spans.extend(added.iter().map(|_| None));
        program.instructions.extend(added);
        program.dispatch_window_size = program.dispatch_window_size.max(registers);
        program.entry_points.insert(format!("{entry}"), entry);
        Some(program.entry_points.len() - 1)
    }

    /// The instruction that asks for a set without these definitions.
    fn set(
        &self,
        program: &mut Program,
        rule: usize,
        out: &BTreeSet<usize>,
        dest: u8,
    ) -> Option<Instruction> {
        let whole = program.rule_infos.get(rule)?;
        let keeps = |number: usize| !out.contains(&number);
        fn kept<T: Clone>(all: &[T], keeps: impl Fn(usize) -> bool) -> Vec<T> {
            all.iter().enumerate().filter(|(number, _)| keeps(*number)).map(|(_, one)| one.clone()).collect()
        }
        let definitions = kept(&whole.definitions, keeps);
        if definitions.is_empty() {
            return Some(Instruction::SetNew { dest });
        }
        let same = |info: &RuleInfo| info.name == whole.name && *info.definitions == definitions;
        let index = match program.rule_infos.iter().position(same) {
            Some(index) => index,
            None => {
                let cut = RuleInfo {
                    definitions: Arc::new(definitions),
                    destructuring_blocks: kept(&whole.destructuring_blocks, keeps),
                    else_bodies: kept(&whole.else_bodies, keeps),
                    ..whole.clone()
                };
                program.rule_infos.push(cut);
                program.rule_infos.len() - 1
            }
        };
        Some(Instruction::CallRule { dest, rule_index: u16::try_from(index).ok()? })
    }
}

/// At most so many instructions are spared by asking for the sets directly.
const SPARED_BY_ENTRY: usize = 8;

#[cfg(test)]
mod tests {
    use crate::bundle::PolicyBundle;
    use sift_spec::bundle::Bundle;

    /// How many definitions of `deny` the slice of each tool leaves out.
    fn left_out(policy: &str, data: &str, tools: &[&str]) -> Vec<usize> {
        let files =
            [("p.rego", policy), ("data.json", data)].map(|(path, text)| (path.to_owned(), text.into()));
        let bundle = PolicyBundle::compile(&Bundle::new(files).unwrap()).unwrap();
        let slices = bundle.rego_slices().unwrap();
        let count = |tool: &&str| {
            let input = serde_json::json!({ "call": { "kind": "tool", "name": tool } });
            slices.find(&input.into()).left_out.iter().map(std::collections::BTreeSet::len).sum()
        };
        tools.iter().map(count).collect()
    }

    fn policy(bodies: &[&str]) -> String {
        let mut text =
            "package sift\ntool := input.call.name if input.call.kind == \"tool\"\nab := {\"a\", \"b\"}\n\
            fails if input.call.args.n > 1\n"
                .to_owned();
        for body in bodies {
            text += &format!(
                "deny contains {{\"rule\": \"{}\", \"reason\": \"r\"}} if {{ {body} }}\n",
                text.len()
            );
        }
        text
    }

    #[test]
    fn rules_about_other_tools_are_left_out() {
        for body in [
            r#"input.call.name == "a""#,
            r#"tool == "a"; input.call.args.n > 1"#,
            r#"input.agent == "x"; tool == "a""#,
            r#"tool in ab; tool != "b""#,
            r#"tool in data.mine"#,
            r#"data.by_name[tool]; some x in input.call.args.list; x > 1"#,
            r#"not lower(data.nothing) == "x"; input.call.kind == "model""#,
            r#"some x in data.lists[tool]; x > input.call.args.n"#,
            r#"some x in data.lists.none; x > input.call.args.n"#,
            r#"every x in data.nothing[tool] { x > 1 }"#,
            r#"some _ in data.lists.none"#,
        ] {
            let data = r#"{"mine":["a"],"by_name":{"a":true},"lists":{"a":[1],"none":[]}}"#;
            let cut = left_out(&policy(&[body]), data, &["a", "other"]);
            assert_eq!(cut.last(), Some(&1), "{body}");
        }
        let bodies = [r#"tool == "a""#, r#"tool == "b""#, "tool in ab", "not tool in ab"];
        assert_eq!(left_out(&policy(&bodies), "{}", &["a", "b", "c", "d"]), [2, 2, 3, 3]);
    }

    #[test]
    fn rules_that_may_err_first_stay() {
        for body in [
            r#"input.call.args.n > 1; tool == "a""#,
            r#"fails; tool == "a""#,
            r#"not fails; tool == "a""#,
            r#"lower(input.call.args.n) == "x"; tool == "a""#,
            r#"some x in input.call.args.list; x > 1; tool == "a""#,
            r#"concat("", [tool]) == "a""#,
            r#"tool == input.call.args.tool"#,
            r#"every x in data.none { x > 1 }"#,
            "true",
        ] {
            assert_eq!(left_out(&policy(&[body]), r#"{"none":[]}"#, &["a", "other"]), [0, 0], "{body}");
        }
    }

    /// Whether the calls of models look at nothing but the call, under a policy with this body beside one that no model's
    /// call gets past.
    fn models_are_call_only(body: &str) -> bool {
        let text = policy(&[body, r#"tool == "a"; input.facts.x == 1"#])
            + "whole := input\nfacts := whole.facts if input.call.n\nsees(x) if x.facts\nnone if data.nothing\n";
        let bundle = PolicyBundle::compile(&Bundle::new([("p.rego".to_owned(), text.into())]).unwrap());
        let bundle = bundle.unwrap_or_else(|error| panic!("{body}: {error}"));
        let input = serde_json::json!({ "call": { "kind": "model" } });
        bundle.rego_slices().unwrap().find(&input.into()).call_only
    }

    #[test]
    fn what_looks_at_the_call_alone() {
        for body in [
            r#"input.call.kind == "model"; input.call.model == "m""#,
            r#"input.call.args_error"#,
            r#"c := input.call; c.model != c.provider; not tool"#,
            r#"not none; input.call.model in {"a", "b"}"#,
            r#"input.call.max_output == data.most"#,
        ] {
            assert!(models_are_call_only(body), "{body}");
        }
        for body in [
            r#"input.facts.x"#,
            r#"input.time == 1"#,
            r#"not input.run.depth == 1"#,
            r#"facts.x"#,
            r#"whole.facts.x"#,
            r#"i := input; i.run.depth == 1"#,
            r#"input == {}"#,
            r#"not input"#,
            r#"input[input.call.model].x"#,
            r#"input.call.model in input"#,
            r#"[input][0].facts"#,
            r#"sees(input)"#,
            r#"object.get(input, "facts", 1) == 1"#,
            r#"input.call.max_output > 1"#,
            r#"some name, _ in input; name == "facts""#,
            r#"every name, _ in input { name != "facts" }"#,
            r#"count([name | input[name]]) == 4"#,
        ] {
            assert!(!models_are_call_only(body), "{body}");
        }
    }
}
