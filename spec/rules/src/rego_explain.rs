//! Rego rules, one by one.

use std::collections::BTreeSet;
use std::sync::Arc;

use regorus::rvm::Instruction;
use regorus::rvm::program::{Program, RuleInfo};
use regorus::unstable::{Expr, Rule, RuleHead};
use regorus::{CompiledPolicy, Value};

use crate::explain::{Ended, RuleReport, RuleSet, Site};
use crate::rego::{INSTRUCTIONS_MAX, RegoPolicy, machine, read, why};
use crate::rego_slice::Entry;
use crate::rego_value::Inputs;

/// Where the rules of one of the sets stand, in the order of its definitions.
pub(crate) fn sites(policy: &CompiledPolicy, set: &str) -> Vec<Site> {
    let rules = policy.get_rules().get(set);
    rules.into_iter().flatten().map(|rule| site(rule.as_ref())).collect()
}

fn site(rule: &Rule) -> Site {
    let span = rule.span();
    let name = match rule {
        Rule::Spec { head: RuleHead::Set { key: Some(element), .. }, .. } => name(element.as_ref()),
        _ => None,
    };
    Site { rule: name, file: span.source.file().clone(), line: Some(span.line) }
}

/// The constant member `rule` of an object.
fn name(element: &Expr) -> Option<String> {
    let text = |expr: &Expr| match expr {
        Expr::String { value: Value::String(text), .. }
        | Expr::RawString { value: Value::String(text), .. } => Some(text.to_string()),
        _ => None,
    };
    let Expr::Object { fields, .. } = element else { return None };
    let mut named = fields.iter().filter(|(_, name, _)| text(name).is_some_and(|name| name == "rule"));
    named.next().and_then(|(_, _, value)| text(value))
}

/// What became of every rule.
pub(crate) fn explain(policy: &RegoPolicy, input: &[u8]) -> Vec<RuleReport> {
    let Ok(input) = Inputs::default().read(input, None) else { return Vec::new() };
    let slice = policy.slices.find(&input);
    let sets = policy.sites.iter().enumerate();
    let reports = sets.flat_map(|(position, (set, sites))| {
        let input = &input;
        sites.iter().enumerate().map(move |(number, site)| {
            let ended = one(policy, *set, number, input, is_left_out(slice, position, number));
            site.report(*set, ended)
        })
    });
    reports.collect()
}

fn is_left_out(slice: &Entry, set: usize, number: usize) -> bool {
    slice.left_out.get(set).is_some_and(|out: &BTreeSet<usize>| out.contains(&number))
}

/// Evaluates one definition of a set alone.
fn one(policy: &RegoPolicy, set: RuleSet, number: usize, input: &Value, left_out: bool) -> Ended {
    let failed = || Ended::Failed("the rule cannot be evaluated alone".to_owned());
    let name = match set {
        RuleSet::Allow => "allow",
        RuleSet::Deny => "deny",
        RuleSet::Hold => "hold",
    };
    let Some(program) = alone(&policy.program, &format!("data.sift.{name}"), number) else { return failed() };
    let entry = program.entry_points.len() - 1;
    let Ok(mut vm) = machine(&Arc::new(program), &policy.data) else { return failed() };
    vm.set_input(input.clone());
    vm.set_max_instructions(INSTRUCTIONS_MAX);
    let answer = vm.execute_entry_point_by_index(entry).map_err(|error| why(&error));
    let answer = answer.map(|fired| Value::from(std::collections::BTreeMap::from([(name.into(), fired)])));
    let (allow, deny, hold) = match answer.and_then(|answer| read(&answer)) {
        Ok(fired) => fired,
        Err(why) => return Ended::Failed(why),
    };
    let fired = allow.into_iter().chain(deny).map(Into::into).chain(hold.into_iter().map(Into::into));
    let fired: Vec<_> = fired.collect();
    match (fired.is_empty(), left_out) {
        (true, true) => Ended::OutOfScope,
        (true, false) => Ended::False,
        (false, _) => Ended::Fired(fired),
    }
}

/// The program with a way in to one definition of a set.
fn alone(program: &Program, set: &str, number: usize) -> Option<Program> {
    let mut program = program.clone();
    let rule = program.rule_infos.iter().find(|rule| rule.name == set)?;
    let alone = RuleInfo {
        definitions: Arc::new(vec![rule.definitions.get(number)?.clone()]),
        destructuring_blocks: vec![*rule.destructuring_blocks.get(number)?],
        else_bodies: vec![rule.else_bodies.get(number)?.clone()],
        ..rule.clone()
    };
    let rule_index = u16::try_from(program.rule_infos.len()).ok()?;
    program.rule_infos.push(alone);
    let start = program.instructions.len();
    program
        .instructions
        .extend([Instruction::CallRule { dest: 0, rule_index }, Instruction::Return { value: 0 }]);
    program.entry_points.insert("alone".to_owned(), start);
    Some(program)
}
