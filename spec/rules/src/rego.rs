//! Policies in Rego.
//!
//! Package `sift` holds partial sets of objects; other packages are libraries:
//!
//! ```rego
//! package sift
//!
//! allow contains {"rule": "read"} if input.call.name in {"search", "get_user"}
//! deny contains {"rule": "amount", "reason": "above 500"} if input.call.args.amount > 500
//! hold contains {"rule": "refund", "reason": "a person decides", "role": "supervisor", "seconds": 900} if {
//!     input.call.name == "refund"
//! }
//! ```
//!
//! `input` is the [`crate::PolicyInput`], `data` the bundle's `data.json`. `rule` is required; `reason` is required in
//! `deny` and `hold`; `role` and `seconds` are required in `hold`, which may have `count`, the number of different
//! approvers (1 if it is not given); other members are errors. Where several rules hold, every role is needed.
//!
//! What differs by agent stands in the data under the agent's name, `data.agents[input.agent]`; what differs by run in
//! the labels that the application opens it with, `input.run.labels`. What happened in the run: [`crate::seen`],
//! [`crate::fact`] and the counters of [`crate::input::RunInput`].
//!
//! Stricter than OPA, so that no rule fails silently: a builtin or operator applied to values that it does not take, a
//! division by zero, and a comparison by order of values of different types are evaluation errors, and so denials. Some
//! constructs are compile errors: lookups by a variable and `some` in the body of `every` (move them into a
//! function), several definitions of a rule or function that are not one constant (write `else`),
//! rules and comprehensions that build objects, lookups by computed paths that may meet rules, and builtins with clock,
//! randomness, network, output, or a result out of all proportion (`numbers.range`). As in OPA, looking into a member
//! that is not there, or into a value that has no members, is undefined and no error: a `deny` that must hold whatever
//! the arguments are checks their types first.
//!
//! Reasons and names of rules are published with the record. What goes wrong is reported by kind, without values of the
//! call; a `reason` or `rule` that the policy makes of them publishes them.
//!
//! An evaluation takes at most [`INSTRUCTIONS_MAX`] instructions of the virtual machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::RegoVM;
use regorus::rvm::program::Program;
use regorus::rvm::vm::VmError;
use regorus::{Engine, Value};
use sift_spec::record::{HOLD_COUNT_MAX, Needed};
use sift_spec::types::{Text, Word};

use crate::bundle::CompileError;
use crate::explain::{RuleSet, Site};
use crate::rego_bind::guard_bindings;
use crate::rego_copy;
use crate::rego_explain::sites;
use crate::rego_slice::Slices;
use crate::rego_strict::{failed_in, harden};
use crate::rego_value::{Inputs, convert};
use crate::verdict::{AskFor, Fired, FiredHold, HOLD_SECONDS_MAX, Verdict};

/// Engine and version that decides.
pub const ENGINE: &str = "rego/regorus-0.14.1";

/// Most instructions of the virtual machine in one decision.
pub const INSTRUCTIONS_MAX: usize = 500_000;

/// Most rules that may fire in one decision.
const FIRED_MAX: usize = 1024;

/// Package of the one entry point, and so not available to policies.
const ENTRY_PACKAGE: &str = "sift_entry";
const ENTRY_POINT: &str = "data.sift_entry.verdict";

/// The partial sets of package `sift`.
const SETS: [&str; 3] = ["allow", "deny", "hold"];

/// A compiled Rego policy.
#[derive(Debug)]
pub(crate) struct RegoPolicy {
    pub(crate) data: Value,
    pub(crate) program: Arc<Program>,
    /// Where the rules of each declared set stand, in the order of the sets that are sliced.
    pub(crate) sites: Vec<(RuleSet, Vec<Site>)>,
    pub(crate) slices: Arc<Slices>,
}

/// A virtual machine with the policy in it.
#[derive(Debug)]
pub(crate) struct RegoDecider {
    data: Value,
    inputs: Inputs,
    program: Arc<Program>,
    slices: Option<Arc<Slices>>,
    vm: RegoVM,
}

impl RegoPolicy {
    pub(crate) fn compile(
        files: &BTreeMap<&str, &str>,
        data: serde_json::Value,
    ) -> Result<Self, CompileError> {
        let in_file = |file: &str, why: String| CompileError::Policy { file: file.to_owned(), why };
        let all: Vec<&str> = files.keys().copied().collect();
        let in_all = |why: String| in_file(&all.join(", "), why);
        let data = convert(data).map_err(|why| in_file("data.json", why))?;

        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(true);
        let mut declared = BTreeSet::new();
        for (file, source) in files {
            let package = engine
                .add_policy((*file).to_owned(), (*source).to_owned())
                .map_err(|error| in_file(file, error.to_string()))?;
            if package.split('.').nth(1) == Some(ENTRY_PACKAGE) {
                return Err(in_file(file, format!("the package {ENTRY_PACKAGE} is taken")));
            }
            for set in SETS.into_iter().filter(|_| package == "data.sift") {
                let found = engine.has_declared_rule_rooted_at(file, set);
                if found.map_err(|error| in_file(file, error.to_string()))? {
                    declared.insert(set);
                }
            }
        }
        if declared.is_empty() {
            return Err(in_all("package sift has none of the rules allow, deny and hold".to_owned()));
        }
        let members: Vec<String> = declared.iter().map(|set| format!("{set:?}: data.sift.{set}")).collect();
        let entry = format!("package {ENTRY_PACKAGE}\n\nverdict := {{{}}}\n", members.join(", "));
        engine.add_policy(ENTRY_PACKAGE.to_owned(), entry).map_err(|error| in_all(error.to_string()))?;

        let compiled =
            engine.compile_with_entrypoint(&ENTRY_POINT.into()).map_err(|error| in_all(error.to_string()))?;
        // A set that the entry point does not ask for would be a denial that never happens.
        let is_asked =
            |path: &str| match path.strip_prefix("data.sift.").and_then(|rest| rest.split(['.', '[']).next())
            {
                Some(root) => !SETS.contains(&root) || declared.contains(root),
                None => true,
            };
        if let Some(path) = compiled.get_rules().keys().find(|path| !is_asked(path)) {
            return Err(in_all(format!("{path} is not a rule of package sift")));
        }
        let program = Compiler::compile_from_policy(&compiled, &[ENTRY_POINT])
            .map_err(|error| in_all(error.to_string()))?;
        let mut program = Arc::unwrap_or_clone(program);
        harden(&mut program).map_err(in_all)?;
        guard_bindings(&mut program).map_err(in_all)?;
        program.validate_limits().map_err(in_all)?;
        let sets: Vec<String> = declared.iter().map(|set| format!("data.sift.{set}")).collect();
        let mut sliced = program.clone();
        let slices = Slices::add(&mut sliced, &data, ENTRY_POINT, &sets);
        let (program, slices) = match sliced.validate_limits() {
            Ok(()) => (sliced, slices),
            Err(_) => (program, Slices::none()),
        };
        let sites = declared.iter().zip(&sets).map(|(set, path)| {
            let set = match *set {
                "allow" => RuleSet::Allow,
                "deny" => RuleSet::Deny,
                _ => RuleSet::Hold,
            };
            (set, sites(&compiled, path))
        });
        let sites = sites.collect();
        let policy = Self { data, program: Arc::new(program), sites, slices: Arc::new(slices) };
        // Rules and data that meet under one path are found here.
        machine(&policy.program, &policy.data).map_err(|error| in_file("data.json", error))?;
        Ok(policy)
    }

    /// A decider, with slices or always with all rules.
    pub(crate) fn decider(&self, sliced: bool) -> RegoDecider {
        let slices = sliced.then(|| Arc::clone(&self.slices));
        RegoDecider::of(Arc::clone(&self.program), self.data.clone(), slices)
    }

    /// A decider whose program and data are its own ([`rego_copy`]); `None` where they are too large for that.
    pub(crate) fn own_decider(&self) -> Option<RegoDecider> {
        let (program, data) = rego_copy::copy(&self.program, &self.data)?;
        Some(RegoDecider::of(Arc::new(program), data, Some(Arc::new(Slices::clone(&self.slices)))))
    }
}

pub(crate) fn machine(program: &Arc<Program>, data: &Value) -> Result<RegoVM, String> {
    let mut vm = RegoVM::new();
    vm.load_program(Arc::clone(program));
    vm.set_max_instructions(INSTRUCTIONS_MAX);
    vm.set_strict_builtin_errors(true);
    vm.set_data(data.clone()).map_err(|error| error.to_string())?;
    Ok(vm)
}

impl RegoDecider {
    fn of(program: Arc<Program>, data: Value, slices: Option<Arc<Slices>>) -> Self {
        // The data fitted when the policy was compiled; a machine without it would find its rules undefined and deny.
        let vm = machine(&program, &data).unwrap_or_default();
        Self { data, inputs: Inputs::default(), program, slices, vm }
    }

    /// The verdict, or why the evaluation failed.
    pub(crate) fn decide(&mut self, input: &[u8]) -> Result<Verdict, String> {
        let value = self.inputs.read(input, self.slices.as_ref())?;
        let slice = self.slices.as_ref().map(|slices| slices.find(&value));
        let (index, spared) = slice.map_or((0, 0), |slice| (slice.index, slice.spared));
        let mut answer = self.run(value, index, INSTRUCTIONS_MAX.saturating_sub(spared));
        if spared > 0 && matches!(answer, Err(VmError::InstructionLimitExceeded { .. })) {
            // Only with all rules is it told whether the limit is reached, and they look at all of the input.
            let value = self.inputs.read(input, None)?;
            answer = self.run(value, 0, INSTRUCTIONS_MAX);
        }
        match answer {
            Ok(answer) => {
                let (allow, deny, hold) = read(&answer)?;
                Ok(Verdict::combine(deny, hold, allow))
            }
            Err(error) => Err(why(&error)),
        }
    }

    fn run(&mut self, input: Value, entry: usize, instructions_max: usize) -> Result<Value, VmError> {
        self.vm.set_input(input);
        self.vm.set_max_instructions(instructions_max);
        let answer = self.vm.execute_entry_point_by_index(entry);
        self.vm.set_input(Value::Undefined);
        if answer.is_err() {
            // A machine that stopped half way is not used again.
            self.vm = machine(&self.program, &self.data).unwrap_or_default();
        }
        answer
    }
}

/// Why an evaluation failed. The words of regorus quote values of the call, and reasons are published.
pub(crate) fn why(error: &VmError) -> String {
    match (failed_in(error), error) {
        (Some(name), _) => format!("{name} was applied to values that it does not take"),
        (None, VmError::InstructionLimitExceeded { .. }) => {
            format!("the instruction limit of {INSTRUCTIONS_MAX} was reached")
        }
        (None, VmError::RegexSizeLimitExceeded { .. }) => "a regular expression is too large".to_owned(),
        (None, _) => "the virtual machine failed".to_owned(),
    }
}

/// What fired: permissions, denials, holds.
type Answer = (Vec<Fired>, Vec<Fired>, Vec<FiredHold>);

/// Reads the answer of the entry point: an object of the declared sets.
pub(crate) fn read(answer: &Value) -> Result<Answer, String> {
    let answer = answer.as_object().map_err(|_| "the policy has no answer".to_owned())?;
    let (mut allow, mut deny, mut hold) = (Vec::new(), Vec::new(), Vec::new());
    for set in SETS {
        let Some(fired) = answer.get(&Value::from(set)) else { continue };
        let fired = fired.as_set().map_err(|_| format!("{set} is not a set"))?;
        if fired.len() > FIRED_MAX {
            return Err(format!("{set} holds more than {FIRED_MAX} rules"));
        }
        for element in fired.iter() {
            let element = Element::read(element).map_err(|why| format!("an element of {set}: {why}"))?;
            match (set, element) {
                ("allow", Element { rule, reason, hold: None }) => allow.push(Fired { rule, reason }),
                ("deny", Element { rule, reason: Some(reason), hold: None }) => {
                    deny.push(Fired { rule, reason: Some(reason) });
                }
                ("hold", Element { rule, reason: Some(reason), hold: Some(held) }) => {
                    hold.push(FiredHold { fired: Fired { rule, reason: Some(reason) }, hold: held });
                }
                (_, Element { rule, .. }) => {
                    return Err(format!(
                        "the element of {set} with the rule {rule:?} lacks members or has too many"
                    ));
                }
            }
        }
    }
    Ok((allow, deny, hold))
}

/// An element of one of the sets.
struct Element {
    rule: Text<128>,
    reason: Option<Text<512>>,
    hold: Option<AskFor>,
}

impl Element {
    fn read(value: &Value) -> Result<Self, String> {
        let object = value.as_object().map_err(|_| "not an object".to_owned())?;
        let member = |name: &str| object.get(&Value::from(name));
        let text = |name: &str| match member(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_ref())),
            Some(_) => Err(format!("{name} is not a string")),
        };
        let known = ["rule", "reason", "role", "seconds", "count"];
        if object.len() != known.into_iter().filter(|name| member(name).is_some()).count() {
            return Err("an unknown member".to_owned());
        }
        let rule = text("rule")?.filter(|rule| !rule.is_empty()).ok_or("no rule")?;
        let rule = rule.parse().map_err(|_| "rule is longer than 128 bytes")?;
        // A reason is for people, and so cut rather than refused.
        let reason = text("reason")?.map(Text::cut);
        let hold = match (text("role")?, member("seconds")) {
            (None, None) if member("count").is_some() => return Err("count without role".to_owned()),
            (None, None) => None,
            (Some(role), Some(seconds)) => {
                let role: Word = role.parse().map_err(|_| "role is not a word")?;
                let seconds =
                    seconds.as_u64().ok().filter(|seconds| (1..=HOLD_SECONDS_MAX).contains(seconds));
                let seconds = seconds.ok_or("seconds is not an integer from 1 to 604800")?;
                let count = member("count")
                    .map_or(Some(1), |count| count.as_u64().ok().and_then(|count| u32::try_from(count).ok()));
                let count = count.filter(|count| (1..=HOLD_COUNT_MAX).contains(count));
                let count = count.ok_or("count is not an integer from 1 to 16")?;
                Some(AskFor { needed: Needed { count, role }, seconds })
            }
            _ => return Err("role and seconds belong together".to_owned()),
        };
        Ok(Self { rule, reason, hold })
    }
}
