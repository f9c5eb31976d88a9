//! Copies of compiled policies, each with values of its own.
//!
//! A machine counts references to what it takes out of its program and data. Machines that share them wait for each
//! other's counts: on two cores a decision takes half as long again. Integers beyond 64 bits stay shared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regorus::Value;
use regorus::rvm::program::Program;
use regorus::value::Object;

/// Most values that are copied: of a policy with more of them all workers have the same.
const VALUES_MAX: usize = 100_000;

/// A copy of a program and its data, if they are not too large for one each.
pub(crate) fn copy(program: &Program, data: &Value) -> Option<(Program, Value)> {
    let mut copier = Copier { left: VALUES_MAX };
    let data = copier.value(data)?;
    let mut program = program.clone();
    for value in program.literals.iter_mut().chain([&mut program.rule_tree]) {
        *value = copier.value(value)?;
    }
    for rule in &mut program.rule_infos {
        rule.definitions = Arc::new(Vec::clone(&rule.definitions));
    }
    Some((program, data))
}

struct Copier {
    left: usize,
}

impl Copier {
    fn value(&mut self, value: &Value) -> Option<Value> {
        self.left = self.left.checked_sub(1)?;
        Some(match value {
            Value::String(text) => Value::from(&**text),
            Value::Array(items) => {
                Value::from(items.iter().map(|item| self.value(item)).collect::<Option<Vec<_>>>()?)
            }
            Value::Set(items) => {
                Value::from(items.iter().map(|item| self.value(item)).collect::<Option<BTreeSet<_>>>()?)
            }
            Value::Object(members) => {
                let members =
                    members.iter().map(|(name, member)| Some((self.value(name)?, self.value(member)?)));
                Value::Object(Object::from(members.collect::<Option<BTreeMap<_, _>>>()?).into())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Undefined => value.clone(),
        })
    }
}
