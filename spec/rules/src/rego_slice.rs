//! Slices of a compiled Rego program: for each tool, only the rules that can fire.
//!
//! A rule of `allow`, `deny` or `hold` is left out of a slice only where its body is **shown to fail, and to raise no
//! error before it fails**, for every input that the slice serves. This is shown on the compiled program, in the order in
//! which the machine runs it, and not on the source: [`harden`](crate::rego_strict) has turned whatever can err into calls
//! of builtins, and everything else that passed its check has no error of its own. So a body is followed, instruction by
//! instruction, with what is the same for all these inputs: `input.call.kind`, `input.call.name`, constants and `data`.
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
use regorus::rvm::instructions::{GuardMode, LiteralOrRegister, LoopMode};
use regorus::rvm::program::{Program, RuleInfo, RuleType};

/// Most slices of a program, beside the one with all rules.
const SLICES_MAX: usize = 200;

/// Most names of tools that are tried.
const NAMES_MAX: usize = 4096;

/// Most instructions that are followed to find the slices.
const STEPS_MAX: usize = 5_000_000;

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

/// What is the same for all inputs of a slice.
struct Subject {
    kind: &'static str,
    /// `None`: anything.
    name: Option<Value>,
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
        let mut follower = Follower {
            program,
            data: self.data,
            subject,
            results: BTreeMap::new(),
            under_way: BTreeSet::new(),
            left: &mut self.left,
            looks: false,
        };
        let mut left_out = Vec::new();
        let (mut spared, mut call_only) = (0, true);
        for rule in &self.rules {
            let rule = follower.program.rule_infos.get(*rule)?;
            let mut out = BTreeSet::new();
            for (number, bodies) in rule.definitions.iter().enumerate() {
                let before = follower.spent();
                follower.looks = false;
                // Each of them, also where it is known already that the rule stays: what it looks at counts.
                let fails: Vec<_> = bodies.iter().map(|start| follower.fails(rule, *start)).collect();
                if fails.iter().all(|fails| *fails == Some(true)) {
                    out.insert(number);
                    spared += follower.spent_since(before);
                } else {
                    let destructures = rule.destructuring_blocks.get(number).is_some_and(Option::is_some);
                    call_only &= !follower.looks && !destructures && fails.iter().all(Option::is_some);
                }
            }
            left_out.push(out);
        }
        if *follower.left == 0 {
            return None;
        }
        // Followed once, run perhaps never: the rules that are called; and the rule that asks.
        spared += follower.results.values().map(|result| result.steps).sum::<usize>() + SPARED_BY_ENTRY;
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

/// What is known of a register.
#[derive(Debug, Clone, PartialEq)]
enum Known {
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

struct Follower<'a> {
    program: &'a Program,
    data: &'a Known,
    subject: &'a Subject,
    results: BTreeMap<usize, Followed>,
    under_way: BTreeSet<usize>,
    left: &'a mut usize,
    /// Whether what was followed has looked at the input beside its `call`, or made anything of the input as a whole.
    looks: bool,
}

impl Follower<'_> {
    fn spent(&self) -> usize {
        STEPS_MAX - *self.left
    }

    fn spent_since(&self, before: usize) -> usize {
        self.spent() - before
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
        let before = self.spent();
        let looked = std::mem::take(&mut self.looks);
        let result = self.value_of(index);
        self.under_way.remove(&index);
        let (steps, looks) = (self.spent_since(before), self.looks);
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
