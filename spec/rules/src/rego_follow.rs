//! What a body of a compiled Rego program comes to, without its input.
//!
//! It is followed, instruction by instruction, with what is the same for all inputs of a subject: `input.call.kind`,
//! `input.call.name`, constants and `data`.
//!
//! * A register holds a value, a part of the input, or something unknown. What an instruction makes of something unknown
//!   is unknown.
//! * A condition on something unknown is passed: where it fails, the body fails without an error, which is what is to be
//!   shown. A condition that fails on values shows it.
//! * A rule that is called is followed in all its definitions, past what ends them.
//! * A loop over something known that has no elements has no turns, and what follows it is followed.
//! * The end of a body that has added nothing to its set is as good as a failure: nothing is left of it.
//! * A builtin with an undefined argument is not called; the union of two known sets is known.
//! * Anything else ends the attempt, and the rule stays: another call of a builtin, one of a function, another loop, a
//!   comprehension, the end of the body.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;
use regorus::rvm::Instruction;
use regorus::rvm::instructions::{GuardMode, LiteralOrRegister, LoopMode};
use regorus::rvm::program::{Program, RuleInfo, RuleType};

/// Most instructions that are followed in a program, for all subjects together.
pub(crate) const STEPS_MAX: usize = 5_000_000;

/// What is the same for all inputs of a slice.
pub(crate) struct Subject {
    pub(crate) kind: &'static str,
    /// `None`: anything.
    pub(crate) name: Option<Value>,
}

/// What is known of a register.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Known {
    Input,
    Call,
    Value(Value),
    Unknown,
}

/// How a body ends, where it cannot err.
enum End {
    Fails,
    /// It may fail, too, where `surely` is false. With what is in the register of the result, and what was added to it.
    Returns {
        surely: bool,
        result: Known,
        added: Vec<Known>,
    },
}

/// A rule that was followed.
#[derive(Debug, Clone)]
struct Followed {
    /// `None`: it may err.
    result: Option<Known>,
    /// Instructions in it.
    steps: usize,
    /// Whether it looks at the input beside its `call`.
    looks: bool,
}

/// What following a definition shows.
pub(crate) struct Shown {
    /// It fails, and errs nowhere before.
    pub(crate) fails: bool,
    /// Instructions that it takes at most.
    pub(crate) steps: usize,
    /// It was followed to its end, and looks at the input's `call` alone.
    pub(crate) call_only: bool,
}

/// Follows the rules of a program for a subject.
pub(crate) struct Follower<'a> {
    program: &'a Program,
    data: &'a Known,
    subject: &'a Subject,
    results: BTreeMap<usize, Followed>,
    under_way: BTreeSet<usize>,
    left: &'a mut usize,
    /// Whether what was followed has looked at the input beside its `call`, or made anything of the input as a whole.
    looks: bool,
}

impl<'a> Follower<'a> {
    /// One that follows at most `left` instructions, and leaves there how many it may still follow.
    pub(crate) fn new(
        program: &'a Program,
        data: &'a Known,
        subject: &'a Subject,
        left: &'a mut usize,
    ) -> Self {
        let (results, under_way) = (BTreeMap::new(), BTreeSet::new());
        Self { program, data, subject, results, under_way, left, looks: false }
    }

    /// Follows all bodies of a definition, by the numbers of rule and definition; `None` where there is none.
    pub(crate) fn definition(&mut self, rule: usize, number: usize) -> Option<Shown> {
        let rule = self.program.rule_infos.get(rule)?;
        let before = *self.left;
        self.looks = false;
        // Each of them, also where it is known already that the rule stays: what it looks at counts.
        let fails: Vec<_> =
            rule.definitions.get(number)?.iter().map(|start| self.fails(rule, *start)).collect();
        let destructures = rule.destructuring_blocks.get(number).is_some_and(Option::is_some);
        Some(Shown {
            fails: fails.iter().all(|fails| *fails == Some(true)),
            steps: before - *self.left,
            call_only: !self.looks && !destructures && fails.iter().all(Option::is_some),
        })
    }

    /// Whether what it may follow is used up: then nothing is shown.
    pub(crate) const fn is_exhausted(&self) -> bool {
        *self.left == 0
    }

    /// Instructions in the rules that were called.
    pub(crate) fn steps_of_called(&self) -> usize {
        self.results.values().map(|result| result.steps).sum()
    }

    /// Whether a body is shown to fail, or to add nothing where it is one of a set, without an error; `None` where an error
    /// cannot be excluded.
    fn fails(&mut self, rule: &RuleInfo, start: u32) -> Option<bool> {
        Some(match self.follow(rule, start)? {
            End::Fails => true,
            End::Returns { added, .. } => rule.rule_type == RuleType::PartialSet && added.is_empty(),
        })
    }

    /// Follows a body to its end; `None` where it may err or is not followed.
    fn follow(&mut self, rule: &RuleInfo, start: u32) -> Option<End> {
        use Instruction as I;
        let mut registers = vec![Known::Value(Value::Undefined); usize::from(rule.num_registers)];
        let is_set = rule.rule_type == RuleType::PartialSet;
        if is_set {
            // What the bodies before have added.
            *registers.get_mut(usize::from(rule.result_reg))? = Known::Unknown;
        }
        let mut surely = true;
        let mut added = Vec::new();
        let mut pc = start as usize;
        loop {
            *self.left = self.left.checked_sub(1)?;
            let instruction = *self.program.instructions.get(pc)?;
            pc += 1;
            let get = |register: u8| registers.get(usize::from(register)).cloned();
            let (dest, value) = match instruction {
                I::RuleInit { .. } => continue,
                I::RuleReturn {} => {
                    let result = self.take(&registers, rule.result_reg)?;
                    return Some(End::Returns { surely, result, added });
                }
                I::Load { dest, literal_idx } => (dest, Known::Value(self.literal(literal_idx)?)),
                I::LoadTrue { dest } => (dest, Known::Value(Value::Bool(true))),
                I::LoadFalse { dest } => (dest, Known::Value(Value::Bool(false))),
                I::LoadNull { dest } => (dest, Known::Value(Value::Null)),
                I::LoadBool { dest, value } => (dest, Known::Value(Value::Bool(value))),
                I::LoadData { dest } => (dest, self.data.clone()),
                I::LoadInput { dest } => (dest, Known::Input),
                I::Move { dest, src } => (dest, get(src)?),
                I::Eq { dest, left, right } => {
                    let (left, right) = (self.take(&registers, left)?, self.take(&registers, right)?);
                    (dest, equal(&left, &right, true))
                }
                I::Ne { dest, left, right } => {
                    let (left, right) = (self.take(&registers, left)?, self.take(&registers, right)?);
                    (dest, equal(&left, &right, false))
                }
                I::Not { dest, operand } => match self.take(&registers, operand)? {
                    Known::Value(value) => (dest, Known::Value(Value::Bool(!passes(&value)))),
                    _ => (dest, Known::Unknown),
                },
                I::Contains { dest, collection, value } => {
                    let (collection, value) =
                        (self.take(&registers, collection)?, self.take(&registers, value)?);
                    (dest, contains(&collection, &value))
                }
                I::Index { dest, container, key } => {
                    let key = self.take(&registers, key)?;
                    (dest, self.index(&get(container)?, &key))
                }
                I::IndexLiteral { dest, container, literal_idx } => {
                    (dest, self.index(&get(container)?, &Known::Value(self.literal(literal_idx)?)))
                }
                I::ChainedIndex { params_index } => {
                    let params = self.program.instruction_data.get_chained_index_params(params_index)?;
                    let mut value = get(params.root)?;
                    for component in &params.path_components {
                        let key = match component {
                            LiteralOrRegister::Literal(literal) => Known::Value(self.literal(*literal)?),
                            LiteralOrRegister::Register(register) => self.take(&registers, *register)?,
                        };
                        value = self.index(&value, &key);
                    }
                    (params.dest, value)
                }
                I::SetAdd { set, value } if is_set && set == rule.result_reg => {
                    added.push(self.take(&registers, value)?);
                    continue;
                }
                I::LoopStart { params_index } => {
                    let params = self.program.instruction_data.get_loop_params(params_index)?;
                    let Known::Value(collection) = get(params.collection)? else { return None };
                    let result = without_turns(&collection, &params.mode)?;
                    pc = usize::from(params.loop_end);
                    (params.result_reg, Known::Value(result))
                }
                I::CallRule { dest, rule_index } => (dest, self.call(usize::from(rule_index))?),
                I::BuiltinCall { params_index } => {
                    let params = self.program.instruction_data.get_builtin_call_params(params_index)?;
                    let args = params.arg_registers().iter().map(|register| self.take(&registers, *register));
                    let args: Vec<_> = args.collect::<Option<_>>()?;
                    let builtin = self.program.builtin_info_table.get(usize::from(params.builtin_index))?;
                    (params.dest, Known::Value(called(&builtin.name, &args)?))
                }
                I::AssertEq { left, right } => {
                    let (left, right) = (self.take(&registers, left)?, self.take(&registers, right)?);
                    match equal(&left, &right, true) {
                        Known::Value(Value::Bool(true)) => continue,
                        Known::Value(_) => return Some(End::Fails),
                        _ => {
                            surely = false;
                            continue;
                        }
                    }
                }
                I::Guard { register, mode } => match (self.take(&registers, register)?, mode) {
                    (Known::Value(value), mode) => {
                        let passed = match mode {
                            GuardMode::Condition => !matches!(value, Value::Bool(false) | Value::Undefined),
                            GuardMode::Not => !passes(&value),
                            GuardMode::NotUndefined => value != Value::Undefined,
                        };
                        if passed {
                            continue;
                        }
                        return Some(End::Fails);
                    }
                    _ => {
                        surely = false;
                        continue;
                    }
                },
                _ => return None,
            };
            if is_set && dest == rule.result_reg {
                // Only what is added to a set is followed.
                return None;
            }
            *registers.get_mut(usize::from(dest))? = value;
        }
    }

    /// What is in a register that is used for more than looking into it.
    fn take(&mut self, registers: &[Known], register: u8) -> Option<Known> {
        let known = registers.get(usize::from(register)).cloned()?;
        self.looks |= known == Known::Input;
        Some(known)
    }

    fn literal(&self, index: u16) -> Option<Value> {
        self.program.literals.get(usize::from(index)).cloned()
    }

    fn index(&mut self, container: &Known, key: &Known) -> Known {
        let text = match key {
            Known::Value(Value::String(text)) => text.as_ref(),
            _ => "",
        };
        self.looks |= *container == Known::Input && text != "call";
        let Known::Value(key) = key else { return Known::Unknown };
        match (container, text) {
            (Known::Value(container), _) => Known::Value(container[key].clone()),
            (Known::Input, "call") => Known::Call,
            (Known::Call, "kind") => Known::Value(self.subject.kind.into()),
            (Known::Call, "name") => self.subject.name.clone().map_or(Known::Unknown, Known::Value),
            _ => Known::Unknown,
        }
    }

    /// The value of a rule, if no error can occur in any of its bodies.
    fn call(&mut self, index: usize) -> Option<Known> {
        if let Some(followed) = self.results.get(&index) {
            self.looks |= followed.looks;
            return followed.result.clone();
        }
        // No rule calls itself, which was checked; this costs nothing and needs no such check.
        if !self.under_way.insert(index) {
            return None;
        }
        let before = *self.left;
        let looked = std::mem::take(&mut self.looks);
        let result = self.value_of(index);
        self.under_way.remove(&index);
        let (steps, looks) = (before - *self.left, self.looks);
        self.looks |= looked;
        self.results.insert(index, Followed { result: result.clone(), steps, looks });
        result
    }

    fn value_of(&mut self, index: usize) -> Option<Known> {
        let program = self.program;
        let rule = program.rule_infos.get(index)?;
        if rule.function_info.is_some() || rule.destructuring_blocks.iter().any(Option::is_some) {
            return None;
        }
        let mut values = Vec::new();
        // An else of a set is not followed as one.
        let has_else = rule.else_bodies.iter().flatten().any(|is_else| *is_else);
        let mut surely = rule.rule_type == RuleType::Complete || !has_else;
        for bodies in rule.definitions.iter() {
            // Every body is followed, so that no order of them can err.
            let ends: Option<Vec<End>> = bodies.iter().map(|start| self.follow(rule, *start)).collect();
            for end in ends? {
                let End::Returns { surely: returns, result, added } = end else { continue };
                surely &= returns;
                values.extend(if rule.rule_type == RuleType::PartialSet { added } else { vec![result] });
                if returns && rule.rule_type == RuleType::Complete {
                    // What follows is its else.
                    break;
                }
            }
        }
        let default = rule.default_literal_index.and_then(|literal| self.literal(literal));
        let values: Option<Vec<Value>> = values
            .into_iter()
            .map(|known| match known {
                Known::Value(value) => Some(value),
                _ => None,
            })
            .collect();
        let (Some(values), true) = (values, surely) else { return Some(Known::Unknown) };
        let mut values: BTreeSet<Value> =
            values.into_iter().filter(|value| *value != Value::Undefined).collect();
        Some(match rule.rule_type {
            RuleType::PartialSet => Known::Value(values.into()),
            RuleType::Complete if values.len() <= 1 => {
                Known::Value(values.pop_first().or(default).unwrap_or(Value::Undefined))
            }
            _ => Known::Unknown,
        })
    }
}

/// What a builtin gives for these arguments; `None` where that is not known, or may be an error.
fn called(name: &str, args: &[Known]) -> Option<Value> {
    // With an undefined argument a builtin is not called.
    if args.contains(&Known::Value(Value::Undefined)) {
        return Some(Value::Undefined);
    }
    match (name, args) {
        // Sets of constants that are put together are common: `writes := changes | {"book"}`.
        ("__builtin_sets.union", [Known::Value(Value::Set(one)), Known::Value(Value::Set(other))]) => {
            Some(one.iter().chain(other.iter()).cloned().collect::<BTreeSet<_>>().into())
        }
        _ => None,
    }
}

/// What a loop over a value has for a result where it has no turns; `None` where it has some.
fn without_turns(collection: &Value, mode: &LoopMode) -> Option<Value> {
    let empty = match collection {
        Value::Array(items) => items.is_empty(),
        Value::Set(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        // What has no elements at all.
        _ => {
            return Some(match mode {
                LoopMode::Every => Value::Undefined,
                LoopMode::Any | LoopMode::ForEach => Value::Bool(false),
            });
        }
    };
    empty.then_some(Value::Bool(matches!(mode, LoopMode::Every)))
}

/// Whether a value is neither false nor undefined, as `not` sees it: anything but a boolean passes.
fn passes(value: &Value) -> bool {
    !matches!(value, Value::Bool(false) | Value::Undefined)
}

fn equal(left: &Known, right: &Known, equal: bool) -> Known {
    const UNDEFINED: Known = Known::Value(Value::Undefined);
    match (left, right) {
        _ if *left == UNDEFINED || *right == UNDEFINED => UNDEFINED,
        (Known::Value(left), Known::Value(right)) => Known::Value(Value::Bool((left == right) == equal)),
        _ => Known::Unknown,
    }
}

fn contains(collection: &Known, value: &Known) -> Known {
    let (Known::Value(collection), Known::Value(value)) = (collection, value) else { return Known::Unknown };
    Known::Value(Value::Bool(match collection {
        Value::Set(items) => items.contains(value),
        Value::Array(items) => items.contains(value),
        Value::Object(members) => members.values().any(|member| member == value),
        _ => false,
    }))
}
